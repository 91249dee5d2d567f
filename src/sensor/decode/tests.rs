use super::*;
use etherparse::PacketBuilder;
use proptest::prelude::*;

fn udp4(payload: &[u8]) -> Vec<u8> {
    let mut octets = Vec::new();
    PacketBuilder::ipv4([172, 18, 0, 10], [8, 8, 8, 8], 1).udp(4000, 53).write(&mut octets, payload).unwrap();
    octets
}

fn udp6(payload: &[u8]) -> Vec<u8> {
    let mut octets = Vec::new();
    PacketBuilder::ipv6([0x20; 16], [0x26; 16], 9).udp(4000, 53).write(&mut octets, payload).unwrap();
    octets
}

fn carried(number: u8, payload: &[u8]) -> Vec<u8> {
    let mut octets = vec![0; 20];
    let length = (20 + payload.len()) as u16;
    octets[0] = 0x45;
    octets[2..4].copy_from_slice(&length.to_be_bytes());
    octets[8] = 64;
    octets[9] = number;
    octets[12..20].copy_from_slice(&[172, 18, 0, 10, 192, 88, 99, 1]);
    octets.extend(payload);
    octets
}

#[test]
fn udp_over_ipv4() {
    let octets = udp4(b"lkck");
    let packet = Packet::decode(ETHERTYPE_IPV4, &octets);
    assert_eq!((packet.proto, packet.ttl, packet.v6), (Proto::Udp, 1, false));
    assert_eq!(packet.src, "172.18.0.10:4000".parse().unwrap());
    assert_eq!(packet.dst, "8.8.8.8:53".parse().unwrap());
    assert_eq!(packet.payload, b"lkck");
}

#[test]
fn tcp_over_ipv6_with_its_sequence_number() {
    let mut octets = Vec::new();
    let builder = PacketBuilder::ipv6([0x20; 16], [0x26; 16], 1).tcp(4000, 443, 0xdead_beef, 1024);
    builder.syn().write(&mut octets, &[]).unwrap();
    let packet = Packet::decode(ETHERTYPE_IPV6, &octets);
    assert_eq!((packet.proto, packet.sequence), (Proto::Tcp, 0xdead_beef));
    assert_eq!(packet.src, "[2020:2020:2020:2020:2020:2020:2020:2020]:4000".parse().unwrap());
    assert_eq!(packet.dst, "[2626:2626:2626:2626:2626:2626:2626:2626]:443".parse().unwrap());
    assert_eq!(packet.flags & (SYN | RST), SYN);
}

#[test]
fn the_first_fragment_has_ports_and_the_others_have_none() {
    let mut octets = udp4(&[0; 64]);
    octets[4..6].copy_from_slice(&[0xbe, 0xef]);
    octets[6] |= 0x20;
    let first = Packet::decode(ETHERTYPE_IPV4, &octets);
    assert_eq!(first.fragment, Some(Fragment { id: 0xbeef, first: true }));
    assert_eq!(first.dst.port(), 53);
    octets[7] = 8;
    let later = Packet::decode(ETHERTYPE_IPV4, &octets);
    assert_eq!(later.fragment, Some(Fragment { id: 0xbeef, first: false }));
    assert_eq!((later.proto, later.dst.port()), (Proto::Udp, 0));
}

#[test]
fn extension_headers_are_gone_through() {
    let mut octets = udp6(b"x");
    // Destination options of eight octets, then a fragment header of the first of several.
    let extensions = [44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 7];
    octets[5] += extensions.len() as u8;
    octets[6] = 60;
    octets.splice(40..40, extensions);
    let packet = Packet::decode(ETHERTYPE_IPV6, &octets);
    assert_eq!((packet.proto, packet.dst.port()), (Proto::Udp, 53));
    assert_eq!(packet.fragment, Some(Fragment { id: 7, first: true }));
}

#[test]
fn every_extension_header_has_its_own_length() {
    // What a 4 in the length field says: eights beyond the first eight, of the authentication header fours beyond two.
    for (number, length) in [(0, 40), (43, 40), (60, 40), (135, 40), (139, 40), (140, 40), (51, 24), (FRAGMENT, 8)] {
        let mut octets = udp6(b"x");
        octets[5] += length;
        octets[6] = number;
        octets.splice(40..40, [&[17, 4][..], &vec![0; usize::from(length) - 2]].concat());
        let packet = Packet::decode(ETHERTYPE_IPV6, &octets);
        assert_eq!((packet.proto, packet.dst.port()), (Proto::Udp, 53), "{number}");
    }
    let mut other = udp6(b"x");
    other[6] = 50;
    assert_eq!(Packet::decode(ETHERTYPE_IPV6, &other).proto, Proto::Ip(50), "what is encrypted is no extension");
}

#[test]
fn a_datagram_in_one_fragment_is_whole() {
    let mut octets = udp6(b"x");
    octets[5] += 8;
    octets[6] = FRAGMENT;
    octets.splice(40..40, [17, 0, 0, 0, 0, 0, 0, 7]);
    let packet = Packet::decode(ETHERTYPE_IPV6, &octets);
    assert_eq!((packet.fragment, packet.proto, packet.dst.port()), (None, Proto::Udp, 53));
}

#[test]
fn headers_follow_a_first_fragment_and_no_later_one() {
    let mut octets = udp6(b"x");
    octets[5] += 16;
    octets[6] = FRAGMENT;
    // The first of several, then destination options of eight octets.
    octets.splice(40..40, [60, 0, 0, 1, 0, 0, 0, 7, 17, 0, 1, 4, 0, 0, 0, 0]);
    let first = Packet::decode(ETHERTYPE_IPV6, &octets);
    assert_eq!((first.fragment.map(|part| part.first), first.proto), (Some(true), Proto::Udp));
    assert_eq!(first.dst.port(), 53);
    octets[43] = 9;
    let later = Packet::decode(ETHERTYPE_IPV6, &octets);
    assert_eq!((later.fragment.map(|part| part.first), later.proto), (Some(false), Proto::Ip(60)));
    assert_eq!(later.dst.port(), 0);
}

#[test]
fn a_length_counts_where_it_is_stated_and_not_cut_off() {
    let padded = [udp6(b"lkck"), vec![0; 6]].concat();
    assert_eq!(Packet::decode(ETHERTYPE_IPV6, &padded).payload, b"lkck");
    // A segmented giant has none (RFC 2675).
    let mut giant = padded.clone();
    giant[4..6].copy_from_slice(&[0, 0]);
    assert_eq!(Packet::decode(ETHERTYPE_IPV6, &giant).payload, b"lkck\0\0\0\0\0\0");
    for (ether_type, whole) in [(ETHERTYPE_IPV4, udp4(&[7; 64])), (ETHERTYPE_IPV6, udp6(&[7; 64]))] {
        let packet = Packet::decode(ether_type, &whole[..whole.len() - 60]);
        assert_eq!((packet.payload, packet.payload_length), (&[7; 4][..], 64));
    }
}

#[test]
fn an_echo_request_is_known_by_its_identifier_and_sequence_number() {
    let mut octets = Vec::new();
    let builder = PacketBuilder::ipv4([172, 18, 0, 10], [8, 8, 8, 8], 1).icmpv4_echo_request(0xdead, 0xbeef);
    builder.write(&mut octets, &[]).unwrap();
    let packet = Packet::decode(ETHERTYPE_IPV4, &octets);
    assert_eq!((packet.proto, packet.icmp_type, packet.sequence), (Proto::Icmp, Some(8), 0xdead_beef));
}

#[test]
fn a_vlan_tag_within_the_octets_is_taken_off() {
    let tagged = [&[0x20, 0x05, 0x08, 0x00][..], &udp4(b"x")].concat();
    let packet = Packet::decode(ETHERTYPE_VLAN[0], &tagged);
    assert_eq!((packet.vlan, packet.proto, packet.dst.port()), (Some(5), Proto::Udp, 53));
    let tagged = [&[0x20, 0x05, 0x86, 0xdd][..], &udp6(b"x")].concat();
    let packet = Packet::decode(ETHERTYPE_VLAN[1], &tagged);
    assert_eq!((packet.vlan, packet.proto, packet.dst.port()), (Some(5), Proto::Udp, 53));
}

#[test]
fn encapsulations_show_what_they_carry() {
    let expected =
        Inner { proto: Proto::Udp, src: "172.18.0.10:4000".parse().unwrap(), dst: "8.8.8.8:53".parse().unwrap() };
    let plain = udp4(b"x");
    let gre = [&[0x20, 0, 8, 0, 0, 0, 0, 1][..], &plain].concat();
    let twice = carried(IP_IN_IP, &plain);
    for (number, payload) in [(IP_IN_IP, &plain), (GRE, &gre), (IP_IN_IP, &twice)] {
        let octets = carried(number, payload);
        let packet = Packet::decode(ETHERTYPE_IPV4, &octets);
        assert_eq!((packet.proto, packet.inner), (Proto::Ip(number), Some(expected)));
    }
    let mut six = Vec::new();
    PacketBuilder::ipv6([0x20; 16], [0x26; 16], 9).udp(1, 2).write(&mut six, b"x").unwrap();
    let octets = carried(IPV6_IN_IP, &six);
    assert_eq!(Packet::decode(ETHERTYPE_IPV4, &octets).inner.map(|inner| inner.dst.is_ipv6()), Some(true));
}

#[test]
fn encapsulations_are_looked_into_so_deep_and_no_deeper() {
    let mut octets = udp4(b"x");
    for depth in 1..=MAX_DEPTH + 2 {
        octets = carried(IP_IN_IP, &octets);
        let shown = Packet::decode(ETHERTYPE_IPV4, &octets).inner.map(|inner| inner.proto);
        let expected = if depth <= MAX_DEPTH { Proto::Udp } else { Proto::Ip(IP_IN_IP) };
        assert_eq!(shown, Some(expected), "{depth} deep");
    }
}

#[test]
fn arp_and_unknown_frames_keep_their_ethertype() {
    assert_eq!(Packet::decode(ETHERTYPE_ARP, &[0; 28]).proto, Proto::Ether(ETHERTYPE_ARP));
    assert_eq!(Packet::decode(0x88cc, &[1, 2, 3]).proto, Proto::Ether(0x88cc));
    for (ether_type, v6) in [(ETHERTYPE_ARP, false), (ETHERTYPE_IPV4, false), (ETHERTYPE_IPV6, true)] {
        let packet = Packet::decode(ether_type, &[0; 3]);
        assert_eq!((packet.proto, packet.v6), (Proto::Ether(ether_type), v6));
    }
}

/// Every truncation, and every single octet set to the values at which parsers break, of packets of each kind.
#[test]
fn damaged_packets_decode_to_something() {
    let plain = udp4(b"lk0123456789abcdef");
    let mut six = Vec::new();
    PacketBuilder::ipv6([0x20; 16], [0x26; 16], 9).tcp(1, 2, 3, 4).write(&mut six, b"payload").unwrap();
    let gre = [&[0xb0, 0, 8, 0][..], &[0; 12], &plain].concat();
    let tagged = [&[0x20, 0x05, 0x86, 0xdd][..], &six].concat();
    let seeds = [
        (ETHERTYPE_IPV4, plain.clone()),
        (ETHERTYPE_IPV6, six.clone()),
        (ETHERTYPE_IPV4, carried(GRE, &gre)),
        (ETHERTYPE_IPV4, carried(IPV6_IN_IP, &six)),
        (ETHERTYPE_VLAN[1], tagged),
        (ETHERTYPE_ARP, vec![0; 28]),
    ];
    for (ether_type, seed) in seeds {
        for length in 0..=seed.len() {
            let _ = Packet::decode(ether_type, &seed[..length]);
        }
        for at in 0..seed.len() {
            for value in [0, 1, 4, 6, 17, 41, 43, 44, 47, 51, 60, 0x40, 0x4f, 0x60, 0x7f, 0x80, 0xff] {
                let mut damaged = seed.clone();
                damaged[at] = value;
                assert!(Packet::decode(ether_type, &damaged).payload.len() <= damaged.len());
            }
        }
    }
}

proptest! {
    #[test]
    fn any_octets_decode(
        ether_type in prop_oneof![Just(0x0800u16), Just(0x86dd), Just(0x8100), Just(0x88a8), any::<u16>()],
        octets in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let packet = Packet::decode(ether_type, &octets);
        prop_assert!(packet.payload.len() <= octets.len());
    }

    #[test]
    fn any_octets_in_an_encapsulation_decode(number in prop_oneof![Just(4u8), Just(41), Just(47)], octets in proptest::collection::vec(any::<u8>(), 0..200)) {
        let carried = carried(number, &octets);
        let packet = Packet::decode(ETHERTYPE_IPV4, &carried);
        prop_assert_eq!(packet.proto, Proto::Ip(number));
    }
}
