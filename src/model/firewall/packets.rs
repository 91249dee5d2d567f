//! Packets that rules are tried with: to somebody far away, at the borders of what the rules, and what is near, are about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::{Besides, Condition, Of, Packet};
use crate::model::evidence::Proto;

/// States of connection tracking of flows that were let begin already: established, related (nf_conntrack_common.h).
const BEGUN: u32 = 2 | 4;
/// Kinds of destinations from which no router carries a packet on: local, broadcast, multicast.
const NEAR_KINDS: u16 = 1 << 2 | 1 << 3 | 1 << 5;
/// Somebody far away, to whom a rule for everybody applies.
const FAR_4: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);
const FAR_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888);
/// To where no router carries a packet on to the internet (RFC 6890).
pub(super) const NEAR: [&str; 15] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/3",
    "::/127",
    "100::/64",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "::ffff:0:0/96",
];
/// States that packets are tried in where no rule says which: new, not valid, untracked.
const STATES: [u32; 3] = [8, 1, super::UNTRACKED];
/// A port that no rule is about.
const USUAL_PORT: u16 = 40_000;
/// SYN, and what begins no connection: SYN ACK, ACK, PSH ACK, FIN ACK, RST, RST ACK, FIN, URG ACK, none.
const FLAGS: [u8; 10] = [0x02, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14, 0x01, 0x30, 0];
/// As long packets can be made as they are wanted, on any way.
const MADE_LENGTHS: std::ops::RangeInclusive<u32> = 100..=1280;
/// As long as usual packets are.
const USUAL_LENGTH: u32 = 128;

/// A packet that is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Trial {
    pub(super) proto: Proto,
    pub(super) src: SocketAddr,
    pub(super) dst: SocketAddr,
    pub(super) besides: Besides,
}

impl Trial {
    pub(super) fn by<'a>(&self, link: &'a str) -> Packet<'a> {
        let Trial { proto, src, dst, besides } = *self;
        Packet { link, proto, src, dst, besides }
    }

    /// Whether both are told as the same example: what state they are in nobody chooses.
    pub(super) fn looks_like(&self, other: &Trial) -> bool {
        let told =
            |trial: &Trial| Trial { besides: Besides { icmp_type: None, state: None, ..trial.besides }, ..*trial };
        told(self) == told(other)
    }

    /// Whether all these conditions may hold of it. Of links others decide.
    pub(super) fn may_be(&self, conditions: &[&Condition]) -> bool {
        let packet = self.by("");
        conditions
            .iter()
            .all(|condition| matches!(condition.of, Of::Link(_)) || condition.holds(&packet) != Some(false))
    }

    /// Whether all these hold of the packet that is sent for this one, whatever the kernel and its sender choose. Of links others decide.
    pub(super) fn is_meant_by(&self, conditions: &[&Condition]) -> bool {
        let echo = if self.dst.is_ipv6() { 128 } else { 8 };
        let besides = Besides { state: Some(STATES[0]), icmp_type: Some(echo), ..self.besides };
        let sent = Trial { besides, ..*self };
        let packet = sent.by("");
        let holds = |condition: &&Condition| match &condition.of {
            Of::Link(_) => true,
            // Of a network the own address would have to be known.
            Of::From(net) if condition.not || net.prefix_len() < net.max_prefix_len() => false,
            // Any is sent, which may be another one.
            Of::ToPorts(..) if self.dst.port() == 0 => false,
            Of::FromPorts(..) if self.src.port() == 0 => false,
            _ => condition.holds(&packet) == Some(true),
        };
        let is_segment = self.proto == Proto::Tcp && self.besides.flags != Some(FLAGS[0]);
        let made = match (self.proto, self.besides.length) {
            (_, None) => true,
            (Proto::Udp, Some(length)) => self.src.port() == 0 && MADE_LENGTHS.contains(&length),
            (Proto::Icmp | Proto::Icmpv6, Some(length)) => MADE_LENGTHS.contains(&length),
            _ => false,
        };
        // What is made by hand from the header on has no class.
        let by_hand = is_segment || self.besides.length.is_some();
        made && !(by_hand && self.besides.class.is_some()) && conditions.iter().all(holds)
    }

    /// The same of which this condition, which holds, does not: with the next values that are outside of it.
    pub(super) fn without(&self, condition: &Condition, near: &[IpNet]) -> Vec<Trial> {
        let v6 = self.dst.is_ipv6();
        let is_far = |ip: &IpAddr| !near.iter().any(|net| net.contains(ip));
        let next = |net: &IpNet| {
            let outside = [step(net.network(), false), step(net.broadcast(), true)];
            let inside = [Some(net.network()), Some(net.broadcast())];
            let found = if condition.not { inside } else { outside };
            found.into_iter().flatten().filter(|ip| ip.is_ipv6() == v6).collect::<Vec<IpAddr>>()
        };
        let next_ports = |low: u16, high: u16| {
            let found = if condition.not { [Some(low), Some(high)] } else { [low.checked_sub(1), high.checked_add(1)] };
            // No program sends to port 0.
            let found = found.map(|port| port.filter(|port| *port != 0));
            found.into_iter().flatten().collect::<Vec<u16>>()
        };
        let with = |besides: Besides| Trial { besides, ..*self };
        let changed: Vec<Trial> = match &condition.of {
            Of::Protocol(number) if condition.not => vec![Trial { proto: protocol(*number), ..*self }],
            Of::Protocol(number) => {
                let others = protocols(&[&Condition { of: Of::Protocol(*number), not: true }], v6);
                others.into_iter().map(|proto| Trial { proto, ..*self }).collect()
            }
            Of::To(net) => {
                let to = |ip| Trial { dst: SocketAddr::new(ip, self.dst.port()), ..*self };
                next(net).into_iter().filter(is_far).map(to).collect()
            }
            Of::From(net) => {
                next(net).into_iter().map(|ip| Trial { src: SocketAddr::new(ip, self.src.port()), ..*self }).collect()
            }
            Of::ToPorts(low, high) => {
                let to = |port| Trial { dst: SocketAddr::new(self.dst.ip(), port), ..*self };
                next_ports(*low, *high).into_iter().map(to).collect()
            }
            Of::FromPorts(low, high) => {
                let from = |port| Trial { src: SocketAddr::new(self.src.ip(), port), ..*self };
                next_ports(*low, *high).into_iter().map(from).collect()
            }
            Of::Flags(..) => FLAGS.map(|flags| with(Besides { flags: Some(flags), ..self.besides })).to_vec(),
            Of::State(_) => STATES.map(|state| with(Besides { state: Some(state), ..self.besides })).to_vec(),
            Of::IcmpType(kind) => {
                let others = if condition.not { vec![*kind] } else { vec![kind.wrapping_sub(1), kind.wrapping_add(1)] };
                let is_carried = |kind: &u8| !is_harmless(&Condition { of: Of::IcmpType(*kind), not: false }, v6);
                let to = |kind| with(Besides { icmp_type: Some(kind), ..self.besides });
                others.into_iter().filter(is_carried).map(to).collect()
            }
            // What marks it has is asked by a probe of its own, what user it is of is not known, and the rest stays as it is.
            _ => Vec::new(),
        };
        let packet = |trial: &Trial| condition.holds(&trial.by("")) != Some(true);
        changed.into_iter().filter(packet).collect()
    }

    /// The same from and to any port, where no rule asked for one.
    pub(super) fn with_any_port(mut self) -> Trial {
        for end in [&mut self.src, &mut self.dst] {
            if end.port() == USUAL_PORT {
                end.set_port(0);
            }
        }
        self
    }

    /// The same with users, classes or lengths at the borders of what these conditions are about: one list of each.
    pub(super) fn with_more(&self, conditions: &[&Condition]) -> [Vec<Trial>; 3] {
        let (mut users, mut classes, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for condition in conditions {
            match &condition.of {
                Of::User(low, high) => {
                    users.extend([low.saturating_sub(1), *low, *high, high.saturating_add(1)]);
                }
                Of::Class(value, mask) => classes.extend([*value, value ^ (mask & mask.wrapping_neg())]),
                Of::Length(low, high) => {
                    lengths.extend([low.saturating_sub(1), *low, *high, high.saturating_add(1)]);
                }
                _ => {}
            }
        }
        if !lengths.is_empty() {
            lengths.push(USUAL_LENGTH);
        }
        lengths.sort_by_key(|length| length.abs_diff(USUAL_LENGTH));
        let with = |besides: Besides| Trial { besides, ..*self };
        [
            users.into_iter().map(|user| with(Besides { user: Some(user), ..self.besides })).collect(),
            classes.into_iter().map(|class| with(Besides { class: Some(class), ..self.besides })).collect(),
            lengths.into_iter().map(|length| with(Besides { length: Some(length), ..self.besides })).collect(),
        ]
    }
}

/// Packets to anybody, of which all is known that a program without rights does not choose, but the user.
pub(super) fn usual(v6: bool) -> Vec<Trial> {
    let (far, unspecified): (IpAddr, IpAddr) = ends(v6);
    let icmp_type = Some(if v6 { 128 } else { 8 });
    let (mark, flags, state) = (Some(0), Some(FLAGS[0]), Some(STATES[0]));
    let besides = Besides { mark, state, flags, icmp_type, far: true, ..Besides::default() };
    let (src, dst) = (SocketAddr::new(unspecified, USUAL_PORT), SocketAddr::new(far, USUAL_PORT));
    protocols(&[], v6).into_iter().map(|proto| Trial { proto, src, dst, besides }).collect()
}

/// Somebody far away, and nobody.
fn ends(v6: bool) -> (IpAddr, IpAddr) {
    if v6 { (FAR_6.into(), Ipv6Addr::UNSPECIFIED.into()) } else { (FAR_4.into(), Ipv4Addr::UNSPECIFIED.into()) }
}

fn protocol(number: u8) -> Proto {
    match number {
        1 => Proto::Icmp,
        6 => Proto::Tcp,
        17 => Proto::Udp,
        58 => Proto::Icmpv6,
        number => Proto::Ip(number),
    }
}

/// Packets to somebody far away of which all these conditions may hold; none where there are no such packets.
pub(super) fn of(conditions: &[&Condition], v6: bool, near: &[IpNet]) -> Vec<Trial> {
    if conditions.iter().any(|condition| is_harmless(condition, v6)) {
        return Vec::new();
    }
    let (far, unspecified) = ends(v6);
    let to = |of: &Of| if let Of::To(net) = of { Some(*net) } else { None };
    let from = |of: &Of| if let Of::From(net) = of { Some(*net) } else { None };
    let to_ports = |of: &Of| if let Of::ToPorts(low, high) = of { Some((*low, *high)) } else { None };
    let from_ports = |of: &Of| if let Of::FromPorts(low, high) = of { Some((*low, *high)) } else { None };
    let (to, from) = (addresses(conditions, &to, far, near), addresses(conditions, &from, unspecified, &[]));
    let (to_ports, from_ports) = (ports(conditions, &to_ports), ports(conditions, &from_ports));
    let (Some(from), Some(from_port)) = (from.first(), from_ports.first()) else { return Vec::new() };
    let besides = Besides { mark: mark(conditions), flags: flags(conditions), far: true, ..Besides::default() };
    let mut found = Vec::new();
    for proto in protocols(conditions, v6) {
        for to in &to {
            for to_port in &to_ports {
                let (src, dst) = (SocketAddr::new(*from, *from_port), SocketAddr::new(*to, *to_port));
                found.push(Trial { proto, src, dst, besides });
            }
        }
    }
    found.retain(|trial| trial.may_be(conditions));
    found
}

/// No mark, where that fits, and else one that does; `None` where none was found.
fn mark(conditions: &[&Condition]) -> Option<u32> {
    let asked: Vec<(u32, u32, bool)> = conditions
        .iter()
        .filter_map(|condition| match condition.of {
            Of::Mark { value, mask } => Some((value, mask, condition.not)),
            _ => None,
        })
        .collect();
    let all = asked.iter().filter(|(.., not)| !not).fold(0, |all, (value, ..)| all | value);
    let other = |(value, mask, _): &(u32, u32, bool)| all ^ (value & mask) ^ (mask & mask.wrapping_neg());
    let fits = |mark: &u32| asked.iter().all(|(value, mask, not)| (mark & mask == *value) != *not);
    [0, all].into_iter().chain(asked.iter().map(other)).find(fits)
}

/// Those of a SYN, where that fits, and else of the first segment that does; `None` where none was found.
fn flags(conditions: &[&Condition]) -> Option<u8> {
    let asked: Vec<(u8, u8, bool)> = conditions
        .iter()
        .filter_map(|condition| match condition.of {
            Of::Flags(value, mask) => Some((value, mask, condition.not)),
            _ => None,
        })
        .collect();
    // None of the usual ones may be what is asked for.
    FLAGS
        .into_iter()
        .chain(0..=u8::MAX)
        .find(|flags| asked.iter().all(|(value, mask, not)| (flags & mask == *value) != *not))
}

/// Whether what it is about was let begin by another rule, or stays on the link.
fn is_harmless(condition: &Condition, v6: bool) -> bool {
    match (&condition.of, condition.not) {
        // A flow that is there already.
        (Of::State(bits), false) => bits & !BEGUN == 0,
        (Of::ToKind(kinds), false) => kinds & !NEAR_KINDS == 0,
        // What hosts of a link say to each other is not carried on (RFC 4861, RFC 3810).
        (Of::IcmpType(130..=137 | 143), false) => v6,
        _ => false,
    }
}

/// The usual one, and the first and the last of all that lie within what these conditions say of it and outside `avoided`: those that
/// begin or end a network of either are enough to find one, if there is any.
fn addresses(
    conditions: &[&Condition],
    net_of: &dyn Fn(&Of) -> Option<IpNet>,
    usual: IpAddr,
    avoided: &[IpNet],
) -> Vec<IpAddr> {
    let asked: Vec<(IpNet, bool)> =
        conditions.iter().filter_map(|condition| Some((net_of(&condition.of)?, condition.not))).collect();
    let fits = |ip: &IpAddr| {
        ip.is_ipv6() == usual.is_ipv6()
            && asked.iter().all(|(net, not)| net.contains(ip) != *not)
            && !avoided.iter().any(|net| net.contains(ip))
    };
    if asked.is_empty() && fits(&usual) {
        return vec![usual];
    }
    let borders = |net: &IpNet| {
        [step(net.network(), false), Some(net.network()), Some(net.broadcast()), step(net.broadcast(), true)]
    };
    let nets = asked.iter().map(|(net, _)| net).chain(avoided);
    let mut found: Vec<IpAddr> = nets.flat_map(borders).flatten().filter(fits).collect();
    found.sort();
    let (first, last) = (found.first().copied(), found.last().copied());
    let mut chosen: Vec<IpAddr> = [Some(usual).filter(fits), first, last].into_iter().flatten().collect();
    chosen.dedup();
    chosen
}

/// The address after this one, or before it.
fn step(ip: IpAddr, up: bool) -> Option<IpAddr> {
    Some(match ip {
        IpAddr::V4(v4) => {
            let number = v4.to_bits();
            Ipv4Addr::from_bits(if up { number.checked_add(1)? } else { number.checked_sub(1)? }).into()
        }
        IpAddr::V6(v6) => {
            let number = v6.to_bits();
            Ipv6Addr::from_bits(if up { number.checked_add(1)? } else { number.checked_sub(1)? }).into()
        }
    })
}

/// The first and the last that these conditions allow, of those that begin or end what one of them is about.
fn ports(conditions: &[&Condition], range_of: &dyn Fn(&Of) -> Option<(u16, u16)>) -> Vec<u16> {
    let asked: Vec<((u16, u16), bool)> =
        conditions.iter().filter_map(|condition| Some((range_of(&condition.of)?, condition.not))).collect();
    let fits = |port: &u16| asked.iter().all(|((low, high), not)| (low..=high).contains(&port) != *not);
    let borders = asked.iter().flat_map(|&((low, high), _)| [low.saturating_sub(1), low, high, high.saturating_add(1)]);
    let found: Vec<u16> = std::iter::once(0).chain(borders).filter(fits).collect();
    let mut chosen: Vec<u16> = [found.iter().min(), found.iter().max()].into_iter().flatten().copied().collect();
    chosen.dedup();
    chosen
}

/// The usual ones and, of those that these conditions allow, the first that is none of them.
fn protocols(conditions: &[&Condition], v6: bool) -> Vec<Proto> {
    let icmp = if v6 { Proto::Icmpv6 } else { Proto::Icmp };
    let usual = [Proto::Udp, Proto::Tcp, icmp];
    let allowed = |number: &u8| {
        let asks = |condition: &&&Condition| matches!(condition.of, Of::Protocol(_));
        conditions.iter().filter(asks).all(|condition| (condition.of == Of::Protocol(*number)) != condition.not)
    };
    let other = (2..=u8::MAX).filter(|number| ![6, 17, 58].contains(number)).find(allowed).map(Proto::Ip);
    usual.into_iter().chain(other).collect()
}
