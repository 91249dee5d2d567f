use super::*;
use crate::sensor::decode::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use etherparse::PacketBuilder;

fn list() -> AllowList {
    AllowList {
        endpoints: vec![Endpoint {
            address: "198.51.100.2:51820".parse().unwrap(),
            proto: Proto::Udp,
            shape: Shape::Wireguard,
            flow: None,
        }],
        local: vec!["172.18.0.0/16".parse().unwrap(), "fd18::/64".parse().unwrap()],
    }
}

fn udp(to: [u8; 4], port: u16, payload: &[u8]) -> Option<Class> {
    let mut octets = Vec::new();
    PacketBuilder::ipv4([172, 18, 0, 10], to, 64).udp(4000, port).write(&mut octets, payload).unwrap();
    list().classify(&Packet::decode(ETHERTYPE_IPV4, &octets))
}

/// Transport data of so many octets.
fn data(length: usize) -> Vec<u8> {
    let mut octets = vec![4, 0, 0, 0, 9, 9, 9, 9, 7, 1, 0, 0, 0, 0, 0, 0];
    octets.resize(length, 7);
    octets
}

#[test]
fn data_as_long_as_the_mtu_is_not_padded() {
    // Gluetun's 1320, wg-quick's 1420, and three of the former in one giant.
    for length in [32, 96, 1320 + 32, 1420 + 32, 3 * (1320 + 32)] {
        assert_eq!(udp([198, 51, 100, 2], 51820, &data(length)), None, "{length}");
    }
    let text = [&[4][..], b" is how this text to the endpoint begins, and so on and on"].concat();
    assert_eq!(udp([198, 51, 100, 2], 51820, &text), Some(Class::Offence));
    assert_eq!(udp([198, 51, 100, 2], 51820, &data(31)), Some(Class::Offence));
}

#[test]
fn only_wireguard_may_go_to_the_endpoint() {
    assert_eq!(udp([198, 51, 100, 2], 51820, &data(96)), None);
    assert_eq!(udp([198, 51, 100, 2], 51820, b"plain text to the endpoint"), Some(Class::Offence));
    assert_eq!(udp([198, 51, 100, 2], 51821, &data(96)), Some(Class::Offence));
    assert_eq!(udp([198, 51, 100, 3], 51820, &data(96)), Some(Class::Offence));
}

#[test]
fn a_full_packet_is_padded_no_further_than_the_mtu() {
    let message = |length: usize, upper: u8| {
        let head = [4, 0, 0, 0, 9, 9, 9, 9, 200, 1, 0, 0, upper, 0, 0, 0];
        udp([198, 51, 100, 2], 51820, &[&head[..], &vec![7; length - head.len()]].concat())
    };
    for mtu in [1280, 1320, 1412, 1420, 1440, 1492] {
        assert_eq!(message(mtu + 32, 0), None, "an MTU of {mtu}");
    }
    assert_eq!(message(1452, 1), Some(Class::Offence));
    assert!(!looks_like_wireguard(&[4, 0, 0], 1452), "too little of it was captured to tell");
}

#[test]
fn handshakes_have_their_lengths() {
    for (kind, length) in [(1, 148), (2, 92), (3, 64)] {
        assert!(looks_like_wireguard(&[kind, 0, 0, 0], length), "type {kind}");
        for other in [length - 1, length + 1, 0] {
            assert!(!looks_like_wireguard(&[kind, 0, 0, 0], other), "type {kind} of {other} octets");
        }
    }
    assert!(!looks_like_wireguard(&[], 148) && !looks_like_wireguard(&[5, 0, 0, 0], 148));
}

#[test]
fn what_no_isp_carries_is_private() {
    for text in [
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "100.127.255.255",
        "169.254.1.1",
        "127.0.0.53",
        "0.0.0.0",
        "fd00::1",
        "fc00::1",
        "::1",
        "::",
    ] {
        assert!(is_private(text.parse().unwrap()), "{text}");
    }
    for text in ["100.63.255.255", "100.128.0.1", "101.64.0.1", "8.8.8.8", "172.32.0.1", "2001:db8::1", "fe80::1"] {
        assert!(!is_private(text.parse().unwrap()), "{text}");
    }
}

#[test]
fn a_network_is_private_as_a_whole_or_not_at_all() {
    for (text, private) in [
        ("10.0.0.0/8", true),
        ("172.16.0.0/12", true),
        ("100.64.0.0/10", true),
        ("fc00::/7", true),
        ("172.0.0.0/8", false),
        ("0.0.0.0/1", false),
        ("0.0.0.0/0", false),
        ("::/0", false),
        ("104.16.0.0/13", false),
    ] {
        assert_eq!(is_private_net(&text.parse().unwrap()), private, "{text}");
    }
}

#[test]
fn icmpv6_errors_may_go_to_an_endpoint_over_ipv6() {
    let address = "[2001:db8:51::2]:51820".parse::<SocketAddr>().unwrap();
    let list = AllowList {
        endpoints: list().endpoints.into_iter().map(|endpoint| Endpoint { address, ..endpoint }).collect(),
        local: Vec::new(),
    };
    for (kind, to, expected) in [
        (1u8, "2001:db8:51::2", None),
        (4, "2001:db8:51::2", None),
        (128, "2001:db8:51::2", Some(Class::Offence)),
        (1, "2001:db8:51::3", Some(Class::Offence)),
    ] {
        let mut octets = Vec::new();
        let to = to.parse::<std::net::Ipv6Addr>().unwrap().octets();
        PacketBuilder::ipv6([0x20; 16], to, 64).icmpv6_raw(kind, 0, [0; 4]).write(&mut octets, &[0; 48]).unwrap();
        assert_eq!(list.classify(&Packet::decode(ETHERTYPE_IPV6, &octets)), expected, "type {kind}");
    }
}

#[test]
fn errors_may_go_to_the_endpoint_and_echo_requests_may_not() {
    for (kind, to, expected) in [
        (3u8, [198, 51, 100, 2], None),
        (8, [198, 51, 100, 2], Some(Class::Offence)),
        (3, [8, 8, 8, 8], Some(Class::Offence)),
    ] {
        let mut octets = Vec::new();
        PacketBuilder::ipv4([172, 18, 0, 10], to, 64).icmpv4_raw(kind, 3, [0; 4]).write(&mut octets, &[0; 28]).unwrap();
        assert_eq!(list().classify(&Packet::decode(ETHERTYPE_IPV4, &octets)), expected, "type {kind} to {to:?}");
    }
}

#[test]
fn local_is_local_but_its_resolvers_are_noted() {
    assert_eq!(udp([172, 18, 0, 20], 8989, b""), None);
    assert_eq!(udp([172, 18, 0, 1], 53, b""), Some(Class::LocalDns));
    assert_eq!(udp([10, 0, 0, 1], 53, b""), Some(Class::Nearby));
    assert_eq!(udp([8, 8, 8, 8], 53, b""), Some(Class::Offence));
}

#[test]
fn only_openvpn_may_go_to_its_endpoint() {
    let mut list = list();
    list.endpoints = [Proto::Udp, Proto::Tcp]
        .map(|proto| Endpoint {
            address: "198.51.100.2:1194".parse().unwrap(),
            proto,
            shape: Shape::Openvpn,
            flow: (proto == Proto::Tcp).then_some(4001),
        })
        .to_vec();
    let data = [&[0x48, 0, 0, 1][..], &[7; 60]].concat();
    let reset = [&[0x38][..], &[7; 13]].concat();
    for (payload, allowed) in
        [(&data[..], true), (&reset, true), (&reset[..13], false), (b"GET / HTTP/1.1 and more", false), (b"", false)]
    {
        let mut octets = Vec::new();
        let packet = PacketBuilder::ipv4([172, 18, 0, 10], [198, 51, 100, 2], 64).udp(4000, 1194);
        packet.write(&mut octets, payload).unwrap();
        let class = list.classify(&Packet::decode(ETHERTYPE_IPV4, &octets));
        assert_eq!(class.is_none(), allowed, "{payload:?}");
    }
    let record = [&[0, 14][..], &reset].concat();
    for (from, payload, allowed) in
        [(4000, &record[..], true), (4000, b"GET / HTTP/1.1", false), (4000, b"", true), (4001, b"any piece", true)]
    {
        let mut octets = Vec::new();
        let packet = PacketBuilder::ipv4([172, 18, 0, 10], [198, 51, 100, 2], 64).tcp(from, 1194, 1, 1);
        packet.write(&mut octets, payload).unwrap();
        let class = list.classify(&Packet::decode(ETHERTYPE_IPV4, &octets));
        assert_eq!(class.is_none(), allowed, "{payload:?}");
    }
}

#[test]
fn openvpn_is_known_by_its_opcode_and_the_length_that_this_needs() {
    // Control, acknowledgement and data; what servers alone send, and what no version knows.
    let needed = [(3u8, 14), (4, 14), (7, 14), (10, 14), (11, 14), (5, 22), (6, 20), (9, 20)];
    for opcode in 0..32u8 {
        for length in 0..64 {
            let known = needed.iter().any(|(of, least)| *of == opcode && length >= *least);
            assert_eq!(looks_like_openvpn(&[opcode << 3 | 1], length), known, "{opcode}, {length} octets");
        }
    }
    assert!(!looks_like_openvpn(&[], 64));
    // The longest record of a stream, and one octet more.
    assert!(looks_like_openvpn_stream(&[0x1f, 0xff, 0x48]) && !looks_like_openvpn_stream(&[0x20, 0x00, 0x48]));
}

#[test]
fn what_is_aimed_at_the_endpoint_has_its_address_port_and_protocol() {
    let endpoint = &list().endpoints[0];
    for (to, port, is_udp, aimed) in [
        ([198, 51, 100, 2], 51820, true, true),
        ([198, 51, 100, 2], 51820, false, false),
        ([198, 51, 100, 2], 51821, true, false),
        ([198, 51, 100, 3], 51820, true, false),
    ] {
        let mut octets = Vec::new();
        let packet = PacketBuilder::ipv4([172, 18, 0, 10], to, 64);
        if is_udp {
            packet.udp(4000, port).write(&mut octets, b"anything").unwrap();
        } else {
            packet.tcp(4000, port, 1, 1).write(&mut octets, b"anything").unwrap();
        }
        assert_eq!(endpoint.is_aimed_at(&Packet::decode(ETHERTYPE_IPV4, &octets)), aimed, "{to:?}:{port}");
    }
}

#[test]
fn encapsulations_are_offences_even_to_local_hosts() {
    for (number, to, expected) in [
        (41u8, [172, 18, 0, 1], Some(Class::Offence)),
        (47, [8, 8, 8, 8], Some(Class::Offence)),
        (4, [10, 0, 0, 1], Some(Class::Offence)),
        (50, [172, 18, 0, 1], None),
        (2, [8, 8, 8, 8], Some(Class::Offence)),
        (2, [224, 0, 0, 22], None),
    ] {
        let mut octets = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 1, number, 0, 0, 172, 18, 0, 10];
        octets.extend(to);
        octets.extend([0; 20]);
        assert_eq!(list().classify(&Packet::decode(ETHERTYPE_IPV4, &octets)), expected, "{number} to {to:?}");
    }
}

#[test]
fn arp_is_arp_and_nothing_else() {
    let arp = [&ARP_HEAD[..], &[0; 22]].concat();
    assert_eq!(list().classify(&Packet::decode(ETHERTYPE_ARP, &arp)), None);
    for other in [vec![0; 28], [&arp[..], &[0; 400]].concat(), arp[..27].to_vec()] {
        assert_eq!(list().classify(&Packet::decode(ETHERTYPE_ARP, &other)), Some(Class::Nearby));
    }
}

#[test]
fn multicast_is_no_hole() {
    assert_eq!(udp([239, 192, 152, 143], 6771, b"BT-SEARCH"), Some(Class::Nearby));
    assert_eq!(udp([255, 255, 255, 255], 67, b""), Some(Class::Nearby));
    let mut mdns = Vec::new();
    let all = "ff02::fb".parse::<std::net::Ipv6Addr>().unwrap().octets();
    PacketBuilder::ipv6([0xfe; 16], all, 255).udp(5353, 5353).write(&mut mdns, b"").unwrap();
    assert_eq!(list().classify(&Packet::decode(ETHERTYPE_IPV6, &mdns)), Some(Class::Nearby));
}

#[test]
fn neighbour_discovery_is_allowed_and_an_echo_request_is_not() {
    for (kind, to, hops, expected) in [
        (135u8, "ff02::1:ff00:1", 255u8, None),
        (136, "2001:db8::1", 255, None),
        (143, "ff02::16", 1, None),
        (143, "ff0e::16", 1, Some(Class::Nearby)),
        (128, "2001:4860:4860::8888", 64, Some(Class::Offence)),
        (135, "2001:4860:4860::8888", 64, Some(Class::Offence)),
    ] {
        let mut octets = Vec::new();
        let to = to.parse::<std::net::Ipv6Addr>().unwrap().octets();
        PacketBuilder::ipv6([0x20; 16], to, hops).icmpv6_raw(kind, 0, [0; 4]).write(&mut octets, &[]).unwrap();
        assert_eq!(list().classify(&Packet::decode(ETHERTYPE_IPV6, &octets)), expected, "type {kind} to {to:?}");
    }
}

#[test]
fn strangers_are_neither_near_nor_the_vpn_server() {
    for (text, stranger) in [
        ("8.8.8.8", true),
        ("2001:db8::1", true),
        ("198.51.100.3", true),
        ("198.51.100.2", false),
        ("172.18.0.20", false),
        ("192.168.7.7", false),
        ("239.1.2.3", false),
        ("255.255.255.255", false),
        ("fe80::1", false),
        ("fd18::20", false),
    ] {
        assert_eq!(list().is_stranger(text.parse().unwrap()), stranger, "{text}");
    }
    let public = AllowList { local: vec!["203.0.113.0/24".parse().unwrap()], ..list() };
    assert!(!public.is_stranger("203.0.113.9".parse().unwrap()), "a public network may be local");
}
