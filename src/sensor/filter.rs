//! The kernel filter: classic BPF (<https://www.kernel.org/doc/html/latest/networking/filter.html>) generated from the allow-list, so
//! that a busy tunnel costs no wake-ups. It sees packets from the network header on (packet socket of type SOCK_DGRAM) and drops
//! what is certainly allowed; all else passes to the judgement of the allow-list itself.

use std::net::IpAddr;

use ipnet::IpNet;
use libc::sock_filter;

use super::allow::{AllowList, DNS_PORTS, Endpoint, LINK_ICMPV6};
use super::decode::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::model::evidence::Proto;

const DROP: u32 = 0;
/// Octets of a packet that are handed on: enough for headers and markers, not for a user's data.
pub const SNAP: u32 = 512;

const LD_W_ABS: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const LD_H_ABS: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
const LD_B_ABS: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const LD_W_IND: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_IND) as u16;
const LD_H_IND: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_IND) as u16;
const LD_B_IND: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_IND) as u16;
const LDX_MSH: u16 = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16;
const LDX_IMM: u16 = (libc::BPF_LDX | libc::BPF_IMM) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const JEQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JGE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JSET: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const JA: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const RET: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Ancillary data (linux/filter.h): SKF_AD_OFF plus the field.
const AD_PROTOCOL: u32 = ancillary(libc::SKF_AD_PROTOCOL);
const AD_PKTTYPE: u32 = ancillary(libc::SKF_AD_PKTTYPE);
const AD_IFINDEX: u32 = ancillary(libc::SKF_AD_IFINDEX);

const fn ancillary(field: i32) -> u32 {
    (libc::SKF_AD_OFF + field) as u32
}

/// A filter that lets nothing pass: for sockets that only send, and for the time before the real one is attached.
pub fn nothing() -> Vec<sock_filter> {
    vec![op(RET, DROP)]
}

/// The filter for outgoing packets on all links. `loopback` and `tunnels` are interface indices; of a tunnel only packets with TTL or
/// hop limit 1 pass, which every stimulus has; every other link is an uplink.
pub fn compile(allow: &AllowList, loopback: &[u32], tunnels: &[u32]) -> Vec<sock_filter> {
    let mut asm = Assembler::default();
    asm.load(LD_W_ABS, AD_PKTTYPE);
    asm.unless(JEQ, u32::from(libc::PACKET_OUTGOING), Label::Drop);
    asm.load(LD_W_ABS, AD_IFINDEX);
    for index in loopback {
        asm.when(JEQ, *index, Label::Drop);
    }
    for index in tunnels {
        asm.when(JEQ, *index, Label::Tunnel);
    }
    asm.load(LD_H_ABS, AD_PROTOCOL);
    asm.when(JEQ, u32::from(ETHERTYPE_ARP), Label::Drop);
    asm.when(JEQ, u32::from(ETHERTYPE_IPV4), Label::V4);
    asm.when(JEQ, u32::from(ETHERTYPE_IPV6), Label::V6);
    asm.jump(Label::Accept);

    asm.place(Label::Tunnel);
    asm.load(LD_B_ABS, 0);
    asm.op(AND, 0xf0);
    asm.when(JEQ, 0x60, Label::Tunnel6);
    asm.load(LD_B_ABS, 8);
    asm.when(JEQ, 1, Label::Accept);
    asm.jump(Label::Drop);
    asm.place(Label::Tunnel6);
    asm.load(LD_B_ABS, 7);
    asm.when(JEQ, 1, Label::Accept);
    asm.jump(Label::Drop);

    asm.place(Label::V4);
    asm.load(LD_B_ABS, 8);
    asm.when(JEQ, 1, Label::Accept);
    asm.load(LD_H_ABS, 6);
    asm.when(JSET, 0x3fff, Label::Accept);
    asm.load(LDX_MSH, 0);
    for (number, endpoint) in allow.endpoints.iter().enumerate() {
        if let IpAddr::V4(address) = endpoint.address.ip() {
            asm.load(LD_W_ABS, 16);
            asm.unless(JEQ, u32::from(address), Label::After(number));
            asm.load(LD_B_ABS, 9);
            asm.endpoint(endpoint, Label::After(number));
            asm.place(Label::After(number));
        }
    }
    for net in &allow.local {
        if let IpNet::V4(net) = net {
            asm.load(LD_W_ABS, 16);
            asm.op(AND, u32::from(net.netmask()));
            asm.when(JEQ, u32::from(net.network()), Label::Local4);
        }
    }
    asm.jump(Label::Accept);
    asm.place(Label::Local4);
    asm.load(LD_B_ABS, 9);
    asm.jump(Label::Local);

    asm.place(Label::V6);
    asm.load(LD_B_ABS, 6);
    asm.unless(JEQ, libc::IPPROTO_ICMPV6 as u32, Label::V6Other);
    asm.load(LD_B_ABS, 40);
    for kind in LINK_ICMPV6 {
        asm.when(JEQ, u32::from(kind), Label::V6Link);
    }
    asm.jump(Label::V6Other);
    asm.place(Label::V6Link);
    // Neighbour discovery has hop limit 255 and goes no further than the link; all else of these types is looked at.
    asm.load(LD_B_ABS, 7);
    asm.when(JEQ, 255, Label::V6Discovery);
    asm.jump(Label::Accept);
    asm.place(Label::V6Discovery);
    asm.load(LD_B_ABS, 40);
    asm.when(JGE, 143, Label::Accept);
    asm.when(JGE, 133, Label::Drop);
    asm.jump(Label::Accept);
    asm.place(Label::V6Other);
    asm.load(LD_B_ABS, 7);
    asm.when(JEQ, 1, Label::Accept);
    asm.load(LDX_IMM, 40);
    for (number, endpoint) in allow.endpoints.iter().enumerate() {
        if let IpAddr::V6(address) = endpoint.address.ip() {
            for (word, value) in words(address.octets()) {
                asm.load(LD_W_ABS, 24 + word * 4);
                asm.unless(JEQ, value, Label::After(number));
            }
            asm.load(LD_B_ABS, 6);
            asm.endpoint(endpoint, Label::After(number));
            asm.place(Label::After(number));
        }
    }
    for (number, net) in allow.local.iter().enumerate() {
        if let IpNet::V6(net) = net {
            let masks = words(net.netmask().octets());
            for ((word, value), (_, mask)) in words(net.network().octets()).into_iter().zip(masks) {
                if mask != 0 {
                    asm.load(LD_W_ABS, 24 + word * 4);
                    asm.op(AND, mask);
                    asm.unless(JEQ, value, Label::AfterNet(number));
                }
            }
            asm.load(LD_B_ABS, 6);
            asm.jump(Label::Local);
            asm.place(Label::AfterNet(number));
        }
    }
    asm.jump(Label::Accept);

    // A holds the protocol, X the offset of the transport header: to a local address only DNS is of interest.
    asm.place(Label::Local);
    asm.when(JEQ, libc::IPPROTO_TCP as u32, Label::LocalPort);
    asm.when(JEQ, libc::IPPROTO_UDP as u32, Label::LocalPort);
    asm.when(JEQ, libc::IPPROTO_ICMP as u32, Label::Drop);
    asm.when(JEQ, libc::IPPROTO_ICMPV6 as u32, Label::Drop);
    asm.jump(Label::Accept);
    asm.place(Label::LocalPort);
    asm.load(LD_H_IND, 2);
    for port in DNS_PORTS {
        asm.when(JEQ, u32::from(port), Label::Accept);
    }
    asm.jump(Label::Drop);

    asm.place(Label::Accept);
    asm.op(RET, SNAP);
    asm.place(Label::Drop);
    asm.op(RET, DROP);
    asm.finish()
}

fn words(octets: [u8; 16]) -> Vec<(u32, u32)> {
    let big = u128::from_be_bytes(octets);
    (0..4u32).map(|word| (word, (big >> (96 - word * 32)) as u32)).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Label {
    Tunnel,
    Tunnel6,
    V4,
    Local4,
    V6,
    V6Link,
    V6Discovery,
    V6Other,
    After(usize),
    AfterNet(usize),
    Local,
    LocalPort,
    Accept,
    Drop,
}

/// Instructions with labels. Conditional jumps reach 255 instructions only, so each is a short one over a long unconditional one.
#[derive(Default)]
struct Assembler {
    code: Vec<sock_filter>,
    jumps: Vec<(usize, Label)>,
    places: Vec<(Label, usize)>,
}

fn op(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

impl Assembler {
    fn op(&mut self, code: u16, k: u32) {
        self.code.push(op(code, k));
    }

    fn load(&mut self, code: u16, k: u32) {
        self.op(code, k);
    }

    fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.op(JA, 0);
    }

    fn when(&mut self, code: u16, k: u32, to: Label) {
        self.code.push(sock_filter { code, jt: 0, jf: 1, k });
        self.jump(to);
    }

    fn unless(&mut self, code: u16, k: u32, to: Label) {
        self.code.push(sock_filter { code, jt: 1, jf: 0, k });
        self.jump(to);
    }

    fn place(&mut self, label: Label) {
        self.places.push((label, self.code.len()));
    }

    /// A holds the protocol, X the offset of the transport header. Drops the tunnel's own packets and goes to `other` with the rest.
    fn endpoint(&mut self, endpoint: &Endpoint, other: Label) {
        let proto = if endpoint.proto == Proto::Tcp { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP };
        self.unless(JEQ, proto as u32, other);
        self.load(LD_H_IND, 2);
        self.unless(JEQ, u32::from(endpoint.address.port()), other);
        if !endpoint.wireguard {
            self.jump(Label::Drop);
            return;
        }
        // Transport data alone is frequent; handshakes pass and are judged by the allow-list.
        self.load(LD_B_IND, 8);
        self.unless(JEQ, 4, other);
        self.load(LD_H_IND, 4);
        self.unless(JGE, 8 + 32, other);
        self.op(AND, 0x0f);
        self.when(JEQ, 8, Label::Drop);
        self.load(LD_W_IND, 8 + 12);
        self.unless(JEQ, 0, other);
        self.jump(Label::Drop);
    }

    fn finish(mut self) -> Vec<sock_filter> {
        for (at, label) in &self.jumps {
            let place = self.places.iter().find(|(name, _)| name == label).map_or(0, |(_, place)| *place);
            debug_assert!(place > *at, "{label:?} is not placed after its jump");
            self.code[*at].k = place.saturating_sub(at + 1) as u32;
        }
        self.code
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensor::decode::Packet;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    const LO: u32 = 1;
    const ETH: u32 = 2;
    const TUN: u32 = 3;

    fn list() -> AllowList {
        AllowList {
            endpoints: vec![
                Endpoint { address: "198.51.100.2:51820".parse().unwrap(), proto: Proto::Udp, wireguard: true },
                Endpoint { address: "198.51.100.7:443".parse().unwrap(), proto: Proto::Tcp, wireguard: false },
                Endpoint { address: "[2001:db8:51::2]:51820".parse().unwrap(), proto: Proto::Udp, wireguard: true },
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
        let data = [&[4u8, 0, 0, 0][..], &[7; 1404]].concat();
        assert!(!passes(ETHERTYPE_IPV4, ETH, &udp4([198, 51, 100, 2], 64, 51820, &data)));
        // As long as an MTU of 1420 lets them be, which is no multiple of 16: what a busy tunnel sends most.
        let full = [&[4u8, 0, 0, 0, 9, 9, 9, 9, 200, 1, 0, 0, 0, 0, 0, 0][..], &[7; 1436]].concat();
        assert!(!passes(ETHERTYPE_IPV4, ETH, &udp4([198, 51, 100, 2], 64, 51820, &full)));
        assert!(passes(ETHERTYPE_IPV4, ETH, &udp4([198, 51, 100, 2], 64, 51820, b"plain text to the endpoint")));
        assert!(!passes(ETHERTYPE_IPV4, TUN, &udp4([8, 8, 8, 8], 64, 53, b"question")));
    }

    #[test]
    fn stimuli_show_on_uplink_and_tunnel_and_nothing_on_loopback() {
        let stimulus = udp4([8, 8, 8, 8], 1, 53, b"question");
        assert!(passes(ETHERTYPE_IPV4, ETH, &stimulus));
        assert!(passes(ETHERTYPE_IPV4, TUN, &stimulus));
        assert!(!passes(ETHERTYPE_IPV4, LO, &stimulus));
    }

    #[test]
    fn local_traffic_is_dropped_but_for_dns() {
        assert!(!passes(ETHERTYPE_IPV4, ETH, &udp4([172, 18, 0, 20], 64, 8989, b"")));
        assert!(passes(ETHERTYPE_IPV4, ETH, &udp4([172, 18, 0, 1], 64, 53, b"")));
        assert!(passes(ETHERTYPE_IPV4, ETH, &udp4([172, 17, 0, 1], 64, 8989, b"")));
    }

    #[test]
    fn incoming_packets_are_not_looked_at() {
        let stimulus = udp4([8, 8, 8, 8], 1, 53, b"question");
        assert_eq!(
            run(&compile(&list(), &[LO], &[TUN]), u32::from(libc::PACKET_HOST), ETH, ETHERTYPE_IPV4, &stimulus),
            0
        );
    }

    fn address4() -> impl Strategy<Value = [u8; 4]> {
        prop_oneof![
            Just([198, 51, 100, 2]),
            Just([198, 51, 100, 7]),
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

    proptest! {
        /// The law that matters: what the kernel filter drops on an uplink, the allow-list allows.
        #[test]
        fn what_the_filter_drops_is_allowed(
            v4 in address4(), v6 in address6(), six in any::<bool>(), ttl in prop_oneof![Just(1u8), Just(64), Just(255), any::<u8>()],
            kind in 0u8..5, port in prop_oneof![Just(51820u16), Just(443), Just(53), any::<u16>()], icmp in prop_oneof![128u8..145, any::<u8>()],
            first in 0u8..6, length in prop_oneof![Just(148usize), Just(92), Just(64), Just(32), 0usize..300], bits in any::<u16>(), fragmented in any::<bool>(),
        ) {
            let payload = vec![first; length];
            let mut octets = Vec::new();
            let result = if six {
                let packet = PacketBuilder::ipv6([0xfd; 16], v6, ttl);
                match kind {
                    0 | 1 => packet.udp(4000, port).write(&mut octets, &payload),
                    2 => packet.tcp(4000, port, 1, 1).write(&mut octets, &payload),
                    _ => packet.icmpv6_raw(icmp, 0, [0; 4]).write(&mut octets, &payload),
                }
            } else {
                let packet = PacketBuilder::ipv4([172, 18, 0, 10], v4, ttl);
                match kind {
                    0 | 1 => packet.udp(4000, port).write(&mut octets, &payload),
                    2 => packet.tcp(4000, port, 1, 1).write(&mut octets, &payload),
                    _ => packet.icmpv4_raw(icmp, 0, [0; 4]).write(&mut octets, &payload),
                }
            };
            prop_assert!(result.is_ok());
            if fragmented && !six {
                octets[6..8].copy_from_slice(&bits.to_be_bytes());
            }
            let ether_type = if six { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
            if !passes(ether_type, ETH, &octets) {
                let packet = Packet::decode(ether_type, &octets);
                prop_assert_eq!(list().classify(&packet), None, "dropped {:?}", packet);
            }
        }
    }
}
