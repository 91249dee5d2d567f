//! The kernel filter, run as the kernel runs it, against the allow-list.

use super::*;
use crate::sensor::decode::Packet;
use etherparse::PacketBuilder;
use proptest::prelude::*;

const LO: u32 = 1;
const ETH: u32 = 2;
const TUN: u32 = 3;

fn endpoint(address: &str, proto: Proto, shape: Shape, flow: Option<u16>) -> Endpoint {
    Endpoint { address: address.parse().unwrap(), proto, shape, flow }
}

fn list() -> AllowList {
    AllowList {
        endpoints: vec![
            endpoint("198.51.100.2:51820", Proto::Udp, Shape::Wireguard, None),
            endpoint("198.51.100.7:443", Proto::Tcp, Shape::Openvpn, Some(4000)),
            endpoint("198.51.100.8:1194", Proto::Udp, Shape::Openvpn, None),
            endpoint("198.51.100.9:443", Proto::Tcp, Shape::Unknown, None),
            endpoint("[2001:db8:51::2]:51820", Proto::Udp, Shape::Wireguard, None),
            endpoint("[2001:db8:51::2]:1194", Proto::Tcp, Shape::Openvpn, None),
        ],
        local: ["172.18.0.0/16", "192.168.1.0/24", "fd18::/64", "2001:db8:18::/64"]
            .map(|net| net.parse().unwrap())
            .to_vec(),
    }
}

/// What the kernel does with the filter (net/core/filter.c), for the instructions that are used here.
fn run(code: &[sock_filter], pkttype: u32, index: u32, ether_type: u16, octets: &[u8]) -> u32 {
    let (mut a, mut x, mut pc) = (0u32, 0u32, 0usize);
    let read = |at: u32, size: usize| -> Option<u32> {
        let at = at as usize;
        octets.get(at..at + size).map(|bytes| bytes.iter().fold(0u32, |value, byte| value << 8 | u32::from(*byte)))
    };
    loop {
        let step = code[pc];
        pc += 1;
        let loaded = match step.code {
            LD_W_ABS if step.k == AD_PROTOCOL => Some(u32::from(ether_type)),
            LD_H_ABS if step.k == AD_PROTOCOL => Some(u32::from(ether_type)),
            LD_W_ABS if step.k == AD_PKTTYPE => Some(pkttype),
            LD_W_ABS if step.k == AD_IFINDEX => Some(index),
            LD_LEN => Some(octets.len() as u32),
            LD_W_ABS => read(step.k, 4),
            LD_H_ABS => read(step.k, 2),
            LD_B_ABS => read(step.k, 1),
            LD_W_IND => read(x.wrapping_add(step.k), 4),
            LD_H_IND => read(x.wrapping_add(step.k), 2),
            LD_B_IND => read(x.wrapping_add(step.k), 1),
            _ => Some(a),
        };
        // A load past the end of the packet ends the filter with "drop".
        let Some(value) = loaded else { return 0 };
        a = value;
        match step.code {
            LDX_MSH => match read(step.k, 1) {
                Some(byte) => x = (byte & 0x0f) * 4,
                None => return 0,
            },
            LDX_IMM => x = step.k,
            AND => a &= step.k,
            JEQ => pc += usize::from(if a == step.k { step.jt } else { step.jf }),
            JGE => pc += usize::from(if a >= step.k { step.jt } else { step.jf }),
            JSET => pc += usize::from(if a & step.k != 0 { step.jt } else { step.jf }),
            JA => pc += step.k as usize,
            RET => return step.k,
            _ => {}
        }
    }
}

fn passes(ether_type: u16, index: u32, octets: &[u8]) -> bool {
    run(&compile(&list(), &[LO], &[TUN]), u32::from(libc::PACKET_OUTGOING), index, ether_type, octets) > 0
}

fn udp4(to: [u8; 4], ttl: u8, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut octets = Vec::new();
    PacketBuilder::ipv4([172, 18, 0, 10], to, ttl).udp(4000, port).write(&mut octets, payload).unwrap();
    octets
}

#[test]
fn the_tunnels_own_packets_cost_nothing() {
    let data = [&[4u8, 0, 0, 0][..], &[0; 12], &[7; 1336]].concat();
    assert!(!passes(ETHERTYPE_IPV4, ETH, &udp4([198, 51, 100, 2], 64, 51820, &data)));
    // As long as an MTU of 1420 lets them be, which is no multiple of 16: what a busy tunnel sends most.
    let full = [&[4u8, 0, 0, 0, 9, 9, 9, 9, 200, 1, 0, 0, 0, 0, 0, 0][..], &[7; 1436]].concat();
    assert!(!passes(ETHERTYPE_IPV4, ETH, &udp4([198, 51, 100, 2], 64, 51820, &full)));
    assert!(passes(ETHERTYPE_IPV4, ETH, &udp4([198, 51, 100, 2], 64, 51820, b"plain text to the endpoint")));
    assert!(!passes(ETHERTYPE_IPV4, TUN, &udp4([8, 8, 8, 8], 64, 53, b"question")));
}

#[test]
fn stimuli_show_on_every_link_and_nothing_else_does_on_loopback() {
    let stimulus = udp4([8, 8, 8, 8], 1, 53, b"question");
    assert!(passes(ETHERTYPE_IPV4, ETH, &stimulus));
    assert!(passes(ETHERTYPE_IPV4, TUN, &stimulus));
    assert!(passes(ETHERTYPE_IPV4, LO, &stimulus));
    assert!(!passes(ETHERTYPE_IPV4, LO, &udp4([8, 8, 8, 8], 64, 53, b"question")));
}

#[test]
fn local_traffic_is_dropped_but_for_dns() {
    assert!(!passes(ETHERTYPE_IPV4, ETH, &udp4([172, 18, 0, 20], 64, 8989, b"")));
    assert!(passes(ETHERTYPE_IPV4, ETH, &udp4([172, 18, 0, 1], 64, 53, b"")));
    assert!(passes(ETHERTYPE_IPV4, ETH, &udp4([172, 17, 0, 1], 64, 8989, b"")));
    // Resolvers ask on other ports too; what is no query stays where it is.
    let query = b"\xab\xcd\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x07example\x03com\x00\x00\x01\x00\x01";
    assert!(passes(ETHERTYPE_IPV4, ETH, &udp4([172, 18, 0, 1], 64, 5335, query)));
    for (at, value) in [(2, 0x81), (2, 0x28), (5, 2), (7, 1), (9, 1)] {
        let mut other = query.to_vec();
        other[at] = value;
        assert!(!passes(ETHERTYPE_IPV4, ETH, &udp4([172, 18, 0, 1], 64, 5335, &other)), "octet {at}");
    }
    assert!(!passes(ETHERTYPE_IPV4, ETH, &udp4([172, 18, 0, 1], 64, 5335, &query[..8])));
}

#[test]
fn incoming_packets_are_not_looked_at() {
    let stimulus = udp4([8, 8, 8, 8], 1, 53, b"question");
    assert_eq!(run(&compile(&list(), &[LO], &[TUN]), u32::from(libc::PACKET_HOST), ETH, ETHERTYPE_IPV4, &stimulus), 0);
}

fn address4() -> impl Strategy<Value = [u8; 4]> {
    prop_oneof![
        Just([198, 51, 100, 2]),
        Just([198, 51, 100, 7]),
        Just([198, 51, 100, 8]),
        Just([198, 51, 100, 9]),
        Just([172, 18, 0, 1]),
        Just([192, 168, 1, 9]),
        Just([224, 0, 0, 251]),
        any::<[u8; 4]>()
    ]
}

fn address6() -> impl Strategy<Value = [u8; 16]> {
    let fixed = |text: &str| Just(text.parse::<std::net::Ipv6Addr>().unwrap().octets());
    prop_oneof![
        fixed("2001:db8:51::2"),
        fixed("fd18::1"),
        fixed("2001:db8:18::7"),
        fixed("fe80::1"),
        fixed("ff02::1"),
        any::<[u8; 16]>()
    ]
}

/// One packet of the kinds that matter here.
#[derive(Debug, Clone)]
struct Made {
    six: bool,
    v4: [u8; 4],
    v6: [u8; 16],
    ttl: u8,
    number: u8,
    ports: (u16, u16),
    icmp: u8,
    first: u8,
    length: usize,
    fragment: Option<u16>,
    extension: Option<u8>,
    options: usize,
    /// Whether the counter of what could be WireGuard is small.
    quiet: bool,
}

fn made() -> impl Strategy<Value = Made> {
    let port = prop_oneof![Just(51820u16), Just(443), Just(53), Just(853), Just(1194), any::<u16>()];
    let number = prop_oneof![
        Just(17u8),
        Just(17),
        Just(6),
        Just(6),
        Just(1),
        Just(58),
        Just(2),
        Just(4),
        Just(41),
        Just(47),
        any::<u8>()
    ];
    let head =
        (any::<bool>(), address4(), address6(), prop_oneof![Just(1u8), Just(64), Just(255), any::<u8>()], number);
    let transport = (
        prop_oneof![Just(4000u16), any::<u16>()],
        port,
        prop_oneof![128u8..145, any::<u8>()],
        prop_oneof![0u8..6, Just(0x38), Just(0x48), Just(0x30), any::<u8>()],
        prop_oneof![Just(148usize), Just(92), Just(64), Just(32), 0usize..300],
    );
    let odd = (
        proptest::option::weighted(0.2, any::<u16>()),
        proptest::option::weighted(0.2, prop_oneof![Just(0u8), Just(43), Just(44), Just(60)]),
        0usize..3,
        any::<bool>(),
    );
    (head, transport, odd).prop_map(
        |((six, v4, v6, ttl, number), (from, to, icmp, first, length), (fragment, extension, options, quiet))| Made {
            six,
            v4,
            v6,
            ttl,
            number,
            ports: (from, to),
            icmp,
            first,
            length,
            fragment,
            extension,
            options,
            quiet,
        },
    )
}

impl Made {
    fn transport(&self) -> Vec<u8> {
        let [a, b] = self.ports.0.to_be_bytes();
        let [c, d] = self.ports.1.to_be_bytes();
        let head = match self.number {
            17 => {
                let [e, f] = (8 + self.length as u16).to_be_bytes();
                vec![a, b, c, d, e, f, 0, 0]
            }
            6 => vec![a, b, c, d, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0],
            1 | 58 => vec![self.icmp, 0, 0, 0, 0, 0, 0, 0],
            _ => Vec::new(),
        };
        let mut payload = vec![self.first; self.length];
        if let (true, Some(counter)) = (self.quiet, payload.get_mut(12..16)) {
            counter.fill(0);
        }
        [head, payload].concat()
    }

    fn octets(&self) -> Vec<u8> {
        let transport = self.transport();
        if self.six {
            let extension: Vec<u8> = match self.extension {
                // A fragment header has its own shape; the others are eight octets of padding.
                Some(44) => {
                    let [offset, bits] = self.fragment.unwrap_or(0).to_be_bytes();
                    vec![self.number, 0, offset, bits, 0, 0, 0, 7]
                }
                Some(43) => vec![self.number, 0, 0, 0, 0, 0, 0, 0],
                Some(_) => vec![self.number, 0, 1, 4, 0, 0, 0, 0],
                None => Vec::new(),
            };
            let length = ((extension.len() + transport.len()) as u16).to_be_bytes();
            let next = self.extension.unwrap_or(self.number);
            let head = [&[0x60, 0, 0, 0, length[0], length[1], next, self.ttl][..], &[0xfd; 16], &self.v6].concat();
            return [head, extension, transport].concat();
        }
        let length = ((20 + self.options * 4 + transport.len()) as u16).to_be_bytes();
        let [bits, offset] = self.fragment.unwrap_or(0).to_be_bytes();
        let head =
            [0x45 + self.options as u8, 0, length[0], length[1], 0, 7, bits, offset, self.ttl, self.number, 0, 0];
        [&head[..], &[172, 18, 0, 10], &self.v4, &vec![1; self.options * 4], &transport].concat()
    }
}

fn lawful(ether_type: u16, octets: &[u8]) -> Result<(), TestCaseError> {
    if !passes(ether_type, ETH, octets) {
        let packet = Packet::decode(ether_type, octets);
        prop_assert_eq!(list().classify(&packet), None, "dropped {:?}", packet);
    }
    Ok(())
}

#[test]
fn openvpn_data_costs_nothing_and_the_rest_is_looked_at() {
    let data = [&[0x48, 0, 0, 1][..], &[7; 1300]].concat();
    assert!(!passes(ETHERTYPE_IPV4, ETH, &udp4([198, 51, 100, 8], 64, 1194, &data)));
    assert!(passes(ETHERTYPE_IPV4, ETH, &udp4([198, 51, 100, 8], 64, 1194, b"plain text to the endpoint")));
    for (from, expected) in [(4000, false), (4001, true)] {
        let mut octets = Vec::new();
        let packet = PacketBuilder::ipv4([172, 18, 0, 10], [198, 51, 100, 7], 64).tcp(from, 443, 1, 1);
        packet.write(&mut octets, b"a piece of a stream").unwrap();
        assert_eq!(passes(ETHERTYPE_IPV4, ETH, &octets), expected);
    }
}

#[test]
fn a_segmented_giant_of_the_tunnel_costs_nothing() {
    let data = [&[4u8, 0, 0, 0][..], &[0; 12], &[7; 44 * 1352 - 16]].concat();
    assert!(!passes(ETHERTYPE_IPV4, ETH, &udp4([198, 51, 100, 2], 64, 51820, &data)));
}

#[test]
fn arp_is_dropped_and_what_only_calls_itself_so_is_not() {
    let arp = [&ARP_HEAD[..], &[0; 22]].concat();
    assert!(!passes(ETHERTYPE_ARP, ETH, &arp));
    assert!(passes(ETHERTYPE_ARP, ETH, &[0; 28]));
    assert!(passes(ETHERTYPE_ARP, ETH, &[&arp[..], &[0; 100]].concat()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// The law that matters: what the kernel filter drops on an uplink, the allow-list allows.
    #[test]
    fn what_the_filter_drops_is_allowed(made in made()) {
        lawful(if made.six { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }, &made.octets())?;
    }

    /// What goes to nobody that the list names is never allowed, whatever it looks like: neither by the list nor by the filter.
    #[test]
    fn nobody_far_away_is_ever_allowed(mut made in made(), v4 in any::<[u8; 4]>(), v6 in any::<[u8; 14]>()) {
        made.v4 = v4;
        made.v6[..2].copy_from_slice(&[0x2a, 0]);
        made.v6[2..].copy_from_slice(&v6);
        let (ether_type, octets) = (if made.six { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }, made.octets());
        let (list, packet) = (list(), Packet::decode(ether_type, &octets));
        let to = packet.dst.ip();
        let named = list.local.iter().any(|net| net.contains(&to)) || list.endpoints.iter().any(|end| end.address.ip() == to);
        let near = to.is_multicast() || matches!(to, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local());
        // Neighbours are looked for at addresses of any kind, and no router carries that on.
        let discovery = packet.proto == Proto::Icmpv6 && packet.ttl == 255;
        prop_assume!(!named && !near && !discovery);
        prop_assert!(list.classify(&packet).is_some(), "allowed {packet:?}");
        prop_assert!(passes(ether_type, ETH, &octets), "dropped {packet:?}");
    }

    #[test]
    fn so_it_is_of_frames_that_are_no_ip(
        ether_type in prop_oneof![Just(ETHERTYPE_ARP), Just(0x8100u16), Just(0x88a8), Just(0x8864), Just(0x88cc)],
        octets in proptest::collection::vec(any::<u8>(), 0..80), arp in any::<bool>(),
    ) {
        prop_assume!(![ETHERTYPE_IPV4, ETHERTYPE_IPV6].contains(&ether_type));
        let octets = if arp { [&ARP_HEAD[..], &octets].concat() } else { octets };
        lawful(ether_type, &octets)?;
    }
}
