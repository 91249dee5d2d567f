//! Rules that accept what nobody may send past the tunnel. Each rule is tried with packets that it means, at the borders of what it, and
//! what is near, are about: what one of them may pass by is an opening.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::walk::Walk;
use super::{Chain, Condition, Does, FirewallText, Of, Packet, Rule};
use crate::model::evidence::Proto;

/// States of connection tracking (nf_conntrack_common.h).
const INVALID: u32 = 1;
const NEW: u32 = 8;
/// Kinds of destinations from which no router carries a packet on: local, broadcast, multicast.
const NEAR_KINDS: u16 = 1 << 2 | 1 << 3 | 1 << 5;
/// Somebody far away, to whom a rule for everybody applies.
const FAR_4: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);
const FAR_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888);
/// To where no router carries a packet on to the internet (RFC 6890).
const NEAR: [&str; 16] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/3",
    "::/127",
    "64:ff9b:1::/48",
    "100::/64",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "::ffff:0:0/96",
];
/// Ways to rules, and calls of chains, that are looked at, at most: a chain may be called from many places.
const MAX_WAYS: usize = 8000;
const MAX_CALLS: usize = 1000;
/// Chains called from one another are followed so deep.
const MAX_DEPTH: usize = 16;

/// A rule, and all that has to hold of a packet for it to get there and be meant.
struct Way<'a> {
    rule: &'a Rule,
    conditions: Vec<&'a Condition>,
}

/// The ways to all rules by which packets may pass.
struct Ways<'a> {
    text: &'a FirewallText,
    found: Vec<Way<'a>>,
    /// Chains, and what has to hold in them.
    seen: Vec<(&'a Chain, Vec<&'a Condition>)>,
    /// There are more.
    cut: bool,
}

impl<'a> Ways<'a> {
    fn collect(&mut self, chain: &'a Chain, before: Vec<&'a Condition>, depth: usize) {
        let known =
            |(other, conditions): &(&Chain, Vec<&Condition>)| std::ptr::eq(*other, chain) && *conditions == before;
        if self.seen.iter().any(known) {
            return;
        }
        if depth > MAX_DEPTH || self.seen.len() >= MAX_CALLS || self.found.len() >= MAX_WAYS {
            self.cut = true;
            return;
        }
        self.seen.push((chain, before.clone()));
        for rule in &chain.rules {
            let conditions: Vec<&Condition> = before.iter().copied().chain(&rule.conditions).collect();
            if let Does::Jump(to) | Does::Goto(to) = &rule.does
                && let Some(called) = self.text.called(chain, to)
            {
                self.collect(&self.text.chains[called], conditions.clone(), depth + 1);
            }
            if may_let_pass(rule) {
                self.found.push(Way { rule, conditions });
            }
        }
    }
}

/// See [`FirewallText::openings`].
pub(super) fn of(
    text: &FirewallText,
    v6: bool,
    uplinks: &[String],
    local: &[IpNet],
    servers: &[SocketAddr],
) -> Vec<String> {
    let asked = text.asked(v6);
    let near: Vec<IpNet> = NEAR.iter().filter_map(|net| net.parse().ok()).chain(local.iter().copied()).collect();
    let mut ways = Ways { text, found: Vec::new(), seen: Vec::new(), cut: false };
    for chain in &asked {
        ways.collect(chain, Vec::new(), 0);
    }
    if ways.cut {
        // Of some it is not known how to get to them: each is looked at by itself.
        let rules =
            text.chains.iter().filter(|chain| chain.hook.is_none() || chain.is_output()).flat_map(|chain| &chain.rules);
        let alone = rules
            .filter(|rule| may_let_pass(rule))
            .map(|rule| Way { rule, conditions: rule.conditions.iter().collect() });
        ways.found.extend(alone);
    }
    let (mut found, mut tried): (Vec<String>, HashSet<String>) = (Vec::new(), HashSet::new());
    for Way { rule, conditions } in ways.found {
        let name = format!("`{rule}`");
        let all = conditions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        if found.contains(&name) || !tried.insert(format!("{all} {name}")) || is_of_server(&conditions, servers) {
            continue;
        }
        let examples = examples(&conditions, v6, &near);
        let lets = |link: &String| {
            examples.iter().any(|&(proto, src, dst)| {
                let packet = Packet { link, proto, src, dst };
                let says: Vec<(bool, bool)> =
                    asked.iter().map(|chain| Walk::new(text, &packet, Some(rule)).may_pass(chain, rule)).collect();
                says.iter().all(|(may, _)| *may) && says.iter().any(|(_, by_it)| *by_it)
            })
        };
        if uplinks.iter().any(lets) {
            found.push(name);
        }
    }
    found
}

fn may_let_pass(rule: &Rule) -> bool {
    matches!(rule.does, Does::Accept | Does::Return | Does::Goto(_))
}

/// Whether it is about the host, port and transport of one of these alone.
fn is_of_server(conditions: &[&Condition], servers: &[SocketAddr]) -> bool {
    let has = |wanted: &dyn Fn(&Of) -> bool| conditions.iter().any(|condition| !condition.not && wanted(&condition.of));
    has(&|of| matches!(of, Of::Protocol(6 | 17)))
        && servers.iter().any(|server| {
            has(&|of| matches!(of, Of::To(net) if *net == IpNet::from(server.ip())))
                && has(&|of| matches!(of, Of::ToPorts(low, high) if (*low, *high) == (server.port(), server.port())))
        })
}

/// Packets to somebody far away of which all these conditions may hold; none where there are no such packets.
fn examples(conditions: &[&Condition], v6: bool, near: &[IpNet]) -> Vec<(Proto, SocketAddr, SocketAddr)> {
    if conditions.iter().any(|condition| is_harmless(condition, v6)) {
        return Vec::new();
    }
    let unspecified: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let far: IpAddr = if v6 { FAR_6.into() } else { FAR_4.into() };
    let to = |of: &Of| if let Of::To(net) = of { Some(*net) } else { None };
    let from = |of: &Of| if let Of::From(net) = of { Some(*net) } else { None };
    let to_ports = |of: &Of| if let Of::ToPorts(low, high) = of { Some((*low, *high)) } else { None };
    let from_ports = |of: &Of| if let Of::FromPorts(low, high) = of { Some((*low, *high)) } else { None };
    let (to, from) = (addresses(conditions, &to, far, near), addresses(conditions, &from, unspecified, &[]));
    let (to_ports, from_ports) = (ports(conditions, &to_ports), ports(conditions, &from_ports));
    let (Some(from), Some(from_port)) = (from.first(), from_ports.first()) else { return Vec::new() };
    let mut found = Vec::new();
    for proto in protocols(conditions, v6) {
        for to in &to {
            for to_port in &to_ports {
                let (src, dst) = (SocketAddr::new(*from, *from_port), SocketAddr::new(*to, *to_port));
                // By no link: of that others decide.
                let packet = Packet { link: "", proto, src, dst };
                let holds = |condition: &&Condition| {
                    matches!(condition.of, Of::Link(_)) || condition.holds(&packet) != Some(false)
                };
                if conditions.iter().all(holds) {
                    found.push((proto, src, dst));
                }
            }
        }
    }
    found
}

/// Whether what it is about was let begin by another rule, or stays on the link.
fn is_harmless(condition: &Condition, v6: bool) -> bool {
    match (&condition.of, condition.not) {
        // A flow that is there already.
        (Of::State(bits), false) => bits & (NEW | INVALID) == 0,
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
