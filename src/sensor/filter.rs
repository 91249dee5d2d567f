//! The kernel filter: classic BPF (<https://www.kernel.org/doc/html/latest/networking/filter.html>) generated from the allow-list, so
//! that a busy tunnel costs no wake-ups. It sees packets from the network header on (packet socket of type SOCK_DGRAM) and drops
//! what is certainly allowed; all else passes to the judgement of the allow-list itself.

use std::net::IpAddr;

use ipnet::IpNet;
use libc::sock_filter;

use super::allow::{ARP_HEAD, ARP_LENGTH, AllowList, DNS_PORTS, Endpoint, LINK_ICMPV6, Shape, WIREGUARD_COUNTER_TOP};
use super::decode::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::model::evidence::Proto;

const DROP: u32 = 0;
/// The flags of DNS that no standard query has: QR and the opcode.
const DNS_NO_QUERY: u32 = 0xf800;
/// Octets of a packet that are handed on: enough for headers and markers, not for a user's data.
pub const SNAP: u32 = 512;

const LD_W_ABS: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const LD_H_ABS: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
const LD_B_ABS: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const LD_LEN: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_LEN) as u16;
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

/// The filter for what comes in by links whose index is above `known`, and nothing else: on the host, what the other end sends of links
/// that are made from now on.
pub fn incoming_above(known: u32) -> Vec<sock_filter> {
    let mut asm = Assembler::default();
    asm.load(LD_W_ABS, AD_PKTTYPE);
    asm.when(JEQ, u32::from(libc::PACKET_OUTGOING), Label::Drop);
    asm.load(LD_W_ABS, AD_IFINDEX);
    asm.unless(JGE, known.saturating_add(1), Label::Drop);
    asm.jump(Label::Accept);
    asm.place(Label::Accept);
    asm.op(RET, SNAP);
    asm.place(Label::Drop);
    asm.op(RET, DROP);
    asm.finish()
}

/// The filter for outgoing packets on all links. `loopback` and `tunnels` are interface indices; of these only packets with TTL or
/// hop limit 1 pass, which every stimulus has; every other link is an uplink.
pub fn compile(allow: &AllowList, loopback: &[u32], tunnels: &[u32]) -> Vec<sock_filter> {
    let mut asm = Assembler::default();
    asm.load(LD_W_ABS, AD_PKTTYPE);
    asm.unless(JEQ, u32::from(libc::PACKET_OUTGOING), Label::Drop);
    asm.load(LD_W_ABS, AD_IFINDEX);
    for index in loopback.iter().chain(tunnels) {
        asm.when(JEQ, *index, Label::Inside);
    }
    asm.load(LD_H_ABS, AD_PROTOCOL);
    asm.when(JEQ, u32::from(ETHERTYPE_ARP), Label::Arp);
    asm.when(JEQ, u32::from(ETHERTYPE_IPV4), Label::V4);
    asm.when(JEQ, u32::from(ETHERTYPE_IPV6), Label::V6);
    asm.jump(Label::Accept);

    asm.place(Label::Arp);
    asm.load(LD_LEN, 0);
    asm.unless(JGE, *ARP_LENGTH.start() as u32, Label::Accept);
    asm.when(JGE, *ARP_LENGTH.end() as u32 + 1, Label::Accept);
    let [a, b, c, d, e, f] = ARP_HEAD;
    asm.load(LD_W_ABS, 0);
    asm.unless(JEQ, u32::from_be_bytes([a, b, c, d]), Label::Accept);
    asm.load(LD_H_ABS, 4);
    asm.unless(JEQ, u32::from(u16::from_be_bytes([e, f])), Label::Accept);
    asm.jump(Label::Drop);

    asm.place(Label::Inside);
    asm.load(LD_B_ABS, 0);
    asm.op(AND, 0xf0);
    asm.when(JEQ, 0x60, Label::Inside6);
    asm.load(LD_B_ABS, 8);
    asm.when(JEQ, 1, Label::Accept);
    asm.jump(Label::Drop);
    asm.place(Label::Inside6);
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

    // A holds the protocol, X the offset of the transport header: to a local address only DNS is of interest, on whatever port a resolver
    // of the stack may ask.
    asm.place(Label::Local);
    asm.when(JEQ, libc::IPPROTO_TCP as u32, Label::LocalPort);
    asm.when(JEQ, libc::IPPROTO_UDP as u32, Label::LocalUdp);
    asm.when(JEQ, libc::IPPROTO_ICMP as u32, Label::Drop);
    asm.when(JEQ, libc::IPPROTO_ICMPV6 as u32, Label::Drop);
    asm.jump(Label::Accept);
    asm.place(Label::LocalPort);
    asm.load(LD_H_IND, 2);
    for port in DNS_PORTS {
        asm.when(JEQ, u32::from(port), Label::Accept);
    }
    asm.jump(Label::Drop);
    asm.place(Label::LocalUdp);
    asm.load(LD_H_IND, 2);
    for port in DNS_PORTS {
        asm.when(JEQ, u32::from(port), Label::Accept);
    }
    // A standard query with one question, no answer and no authority (RFC 1035, section 4.1.1). One without a header's length ends here.
    asm.load(LD_H_IND, 8 + 2);
    asm.when(JSET, DNS_NO_QUERY, Label::Drop);
    for (offset, count) in [(8 + 4, 1), (8 + 6, 0), (8 + 8, 0)] {
        asm.load(LD_H_IND, offset);
        asm.unless(JEQ, count, Label::Drop);
    }
    asm.jump(Label::Accept);

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
    Arp,
    Inside,
    Inside6,
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
    LocalUdp,
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
        // Transport data alone is frequent; handshakes pass and are judged by the allow-list.
        match (endpoint.shape, endpoint.flow) {
            (Shape::Wireguard, _) => {
                self.load(LD_B_IND, 8);
                self.unless(JEQ, 4, other);
                self.load(LD_H_IND, 4);
                self.unless(JGE, 8 + 32, other);
                self.load(LD_W_IND, 8 + WIREGUARD_COUNTER_TOP as u32);
                self.unless(JEQ, 0, other);
            }
            (Shape::Openvpn, _) if endpoint.proto == Proto::Udp => {
                self.load(LD_H_IND, 4);
                self.unless(JGE, 8 + 20, other);
                self.load(LD_B_IND, 8);
                self.op(AND, 0xf8);
                // Opcodes 6 and 9, in the upper five bits.
                self.when(JEQ, 6 << 3, Label::Drop);
                self.unless(JEQ, 9 << 3, other);
            }
            (Shape::Openvpn, Some(flow)) => {
                self.load(LD_H_IND, 0);
                self.unless(JEQ, u32::from(flow), other);
            }
            (Shape::Openvpn, None) => {
                self.jump(other);
                return;
            }
            (Shape::Unknown, _) => {}
        }
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
mod tests;
