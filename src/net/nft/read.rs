//! nftables' rules as [`crate::model::firewall`]: what is understood becomes a condition, everything else is kept by its name, so that no
//! rule looks wider than it is. Rules that iptables-nft writes hold iptables' own matches; those are shown as `xt NAME`.
//!
//! Numbers are those of include/uapi/linux/netfilter/nf_tables.h.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::NftError;
use super::list::{GET_CHAIN, GET_RULE, HEADER, dump, text};
use super::sets::{Row, Sets};
use crate::model::firewall::{Backend, Chain, Condition, Does, Family, Hook, Of, Rule, masked};
use crate::net::legacy;
use crate::net::netlink::{Client, attributes};

/// NF_INET_LOCAL_OUT.
const LOCAL_OUT: u32 = 3;
/// Rules that are read at most.
const MAX_RULES: usize = 2000;

/// The chains that filter, with their rules, and those that they may call.
pub(super) fn chains(client: &mut Client) -> Result<Vec<Chain>, NftError> {
    let mut chains = Vec::new();
    for message in dump(client, GET_CHAIN, 0, &[])? {
        let Some(family) = message.payload.first().and_then(|number| family(*number)) else { continue };
        chains.extend(chain(family, message.payload.get(HEADER..).unwrap_or_default()));
    }
    let sets = Sets::read(client)?;
    for message in dump(client, GET_RULE, 0, &[])?.into_iter().take(MAX_RULES) {
        let Some(number) = message.payload.first().copied() else { continue };
        let Some(family) = family(number) else { continue };
        let body = message.payload.get(HEADER..).unwrap_or_default();
        let (table, name) = (word(body, 1), word(body, 2));
        let chain =
            chains.iter_mut().find(|chain| (chain.family, &chain.table, &chain.name) == (family, &table, &name));
        if let Some(chain) = chain {
            let rows = |set: &str, fields: &[&Held]| sets.get(number, &table, set)?.rows(fields);
            chain.rules.extend(rules(family, find(body, 4).unwrap_or_default(), &rows));
        }
    }
    Ok(chains)
}

fn family(number: u8) -> Option<Family> {
    match i32::from(number) {
        libc::NFPROTO_INET => Some(Family::Inet),
        libc::NFPROTO_IPV4 => Some(Family::Ip),
        libc::NFPROTO_IPV6 => Some(Family::Ip6),
        _ => None,
    }
}

pub(super) fn find(body: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(body).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

pub(super) fn word(body: &[u8], kind: u16) -> String {
    find(body, kind).map(text).unwrap_or_default()
}

/// A number in network order.
pub(super) fn number(body: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(find(body, kind)?.try_into().ok()?))
}

/// `None` for chains that translate addresses: they let everything pass.
fn chain(family: Family, body: &[u8]) -> Option<Chain> {
    let hook = find(body, 4).map(|hook| Hook {
        output: number(hook, 1) == Some(LOCAL_OUT),
        priority: number(hook, 2).unwrap_or_default().cast_signed(),
        drops: number(body, 5) == Some(0),
    });
    let chain = Chain {
        backend: Backend::Nftables,
        family,
        table: word(body, 1),
        name: word(body, 3),
        hook,
        rules: Vec::new(),
    };
    (word(body, 7) != "nat").then_some(chain)
}

/// What a register holds.
#[derive(Debug, Clone)]
pub(super) enum Held {
    Link,
    /// Its number.
    LinkIndex,
    Protocol,
    EtherType,
    IcmpType,
    Version,
    Mark(u32),
    User,
    /// An address: whether it is the destination's, of which family, and the mask that was put over it.
    Address {
        to: bool,
        v6: bool,
        mask: Option<Vec<u8>>,
    },
    Ports {
        to: bool,
    },
    /// The state of connection tracking, after the mask.
    State(u32),
    Other(String),
}

impl Held {
    /// Octets of it in a register; `None` where that is not known.
    pub(super) fn width(&self) -> Option<usize> {
        Some(match self {
            Held::Link => 16,
            Held::LinkIndex | Held::Mark(_) | Held::User | Held::State(_) => 4,
            Held::Protocol | Held::Version | Held::IcmpType => 1,
            Held::Ports { .. } | Held::EtherType => 2,
            Held::Address { v6, mask, .. } => {
                let width = if *v6 { 16 } else { 4 };
                return mask.as_ref().is_some_and(|mask| mask == &vec![0xff; width]).then_some(width);
            }
            Held::Other(_) => return None,
        })
    }
}

/// The registers of sixteen octets are four of four octets each.
fn slot(register: u32) -> u32 {
    if (1..=4).contains(&register) { 8 + (register - 1) * 4 } else { register }
}

/// Tells what the elements of the set of this name stand for, where registers hold these.
type Rows<'a> = dyn Fn(&str, &[&Held]) -> Option<Vec<Row>> + 'a;

/// What a rule comes to: one rule, or one for each element of the set that it looks something up in. `rows` tells what those are.
fn rules(family: Family, expressions: &[u8], rows: &Rows<'_>) -> Vec<Rule> {
    let mut held: HashMap<u32, Held> = HashMap::new();
    let mut rules = vec![Rule { conditions: Vec::new(), does: Does::Nothing }];
    // What a verdict map has decided nothing after it changes.
    let mut decides = false;
    for (_, element) in attributes(expressions) {
        let (name, data) = (word(element, 1), find(element, 2).unwrap_or_default());
        let source = slot(number(data, 1).unwrap_or_default());
        let mut does = None;
        let mut conditions = Vec::new();
        match name.as_str() {
            "meta" if find(data, 1).is_some() => drop(held.insert(source, meta(number(data, 2)))),
            "payload" => drop(held.insert(source, payload(family, data))),
            "ct" => drop(held.insert(source, tracked(number(data, 2)))),
            "bitwise" => {
                let before = held.remove(&source);
                let mask = find(data, 4).and_then(|nested| find(nested, 1)).unwrap_or_default();
                held.insert(slot(number(data, 2).unwrap_or_default()), covered(before, mask));
            }
            "cmp" => {
                let value = find(data, 3).and_then(|nested| find(nested, 1)).unwrap_or_default();
                conditions.push(compared(held.get(&source), number(data, 2).unwrap_or_default(), value));
            }
            "range" => {
                let side = |kind| find(data, kind).and_then(|nested| find(nested, 1)).and_then(port);
                let of = match (held.get(&source), side(3), side(4)) {
                    (Some(Held::Ports { to: true }), Some(low), Some(high)) => Of::ToPorts(low, high),
                    (Some(Held::Ports { to: false }), Some(low), Some(high)) => Of::FromPorts(low, high),
                    _ => Of::Other("a range".to_owned()),
                };
                conditions.push(Condition { of, not: number(data, 2) == Some(1) });
            }
            "lookup" => {
                let not = number(data, 5) == Some(1);
                let set = word(data, 1);
                let fields = fields(&held, slot(number(data, 2).unwrap_or_default()));
                let found = rows(&set, &fields).filter(|_| !fields.is_empty());
                decides |= number(data, 3) == Some(0);
                match found {
                    // In none of them: each of them does not hold, which is simple where they are of one condition.
                    Some(found) if not && found.iter().all(|row| row.conditions.len() == 1) => {
                        conditions.extend(
                            found.into_iter().flat_map(|row| row.conditions).map(|one| Condition { not: true, ..one }),
                        );
                    }
                    Some(found) if !not && rules.len() * found.len() <= MAX_RULES => {
                        rules = rules.iter().flat_map(|rule| found.iter().map(move |row| with(rule, row))).collect();
                    }
                    _ => conditions.push(Condition { of: Of::Other(format!("in the set {set}")), not }),
                }
            }
            "match" => {
                let info = find(data, 3).unwrap_or_default();
                conditions.extend(legacy::matched(family, &word(data, 1), number(data, 2).unwrap_or_default(), info));
            }
            "target" if word(data, 1) == "REJECT" => does = Some(Does::Drop),
            "reject" => does = Some(Does::Drop),
            "immediate" => does = find(data, 2).and_then(|nested| find(nested, 2)).map(decided),
            // They count, tell, mark and log.
            "meta" | "target" | "counter" | "log" | "last" | "notrack" | "masq" | "nat" | "byteorder" => {}
            other => conditions.push(Condition { of: Of::Other(other.to_owned()), not: false }),
        }
        for rule in &mut rules {
            rule.conditions.extend(conditions.iter().cloned());
            if let Some(does) = does.clone().filter(|_| !decides) {
                rule.does = does;
            }
        }
    }
    rules
}

/// What the registers hold from there on, one after another, as the key of a set of several fields has them.
fn fields(held: &HashMap<u32, Held>, from: u32) -> Vec<&Held> {
    let mut found = Vec::new();
    let mut at = from;
    while let Some(field) = held.get(&at) {
        found.push(field);
        let Some(width) = field.width() else { break };
        at += width.div_ceil(4) as u32;
    }
    found
}

fn with(rule: &Rule, row: &Row) -> Rule {
    let conditions = rule.conditions.iter().chain(&row.conditions).cloned().collect();
    Rule { conditions, does: row.does.clone().unwrap_or_else(|| rule.does.clone()) }
}

fn meta(key: Option<u32>) -> Held {
    match key {
        Some(3) => Held::Mark(u32::MAX),
        Some(0) => Held::Other("length".to_owned()),
        Some(1) => Held::EtherType,
        Some(5) => Held::LinkIndex,
        Some(7) => Held::Link,
        Some(10) => Held::User,
        Some(15) => Held::Version,
        Some(16) => Held::Protocol,
        other => Held::Other(format!("meta {}", other.unwrap_or_default())),
    }
}

fn tracked(key: Option<u32>) -> Held {
    match key {
        Some(0) => Held::State(u32::MAX),
        other => Held::Other(format!("ct {}", other.unwrap_or_default())),
    }
}

fn payload(family: Family, data: &[u8]) -> Held {
    let at = (number(data, 2), number(data, 3), number(data, 4));
    let address = |to, v6: bool, length: u32| {
        let full = if v6 { 16 } else { 4 };
        // nft loads only the octets that a network of whole octets needs.
        let mask = (0..full).map(|octet| if octet < length { 0xff } else { 0 }).collect();
        Held::Address { to, v6, mask: Some(mask) }
    };
    match at {
        (Some(2), Some(0), Some(1)) => Held::IcmpType,
        (Some(2), Some(0), Some(2)) => Held::Ports { to: false },
        (Some(2), Some(2), Some(2)) => Held::Ports { to: true },
        (Some(1), Some(9), Some(1)) if family == Family::Ip => Held::Protocol,
        (Some(1), Some(12), Some(length @ 1..=4)) if family != Family::Ip6 => address(false, false, length),
        (Some(1), Some(16), Some(length @ 1..=4)) if family != Family::Ip6 => address(true, false, length),
        (Some(1), Some(8), Some(length @ 1..=16)) if family != Family::Ip => address(false, true, length),
        (Some(1), Some(24), Some(length @ 1..=16)) if family != Family::Ip => address(true, true, length),
        (Some(1), Some(8), Some(1)) if family == Family::Ip => Held::Other("ttl".to_owned()),
        (Some(1), Some(7), Some(1)) if family == Family::Ip6 => Held::Other("hop limit".to_owned()),
        (Some(1), Some(1), Some(1)) if family == Family::Ip => Held::Other("type of service".to_owned()),
        (Some(1), Some(0), Some(2)) if family == Family::Ip6 => Held::Other("traffic class".to_owned()),
        (Some(1), Some(6), Some(2)) if family == Family::Ip => Held::Other("place of a fragment".to_owned()),
        (Some(2), Some(13), Some(1)) => Held::Other("TCP flags".to_owned()),
        (base, offset, _) => {
            Held::Other(format!("octet {} of header {}", offset.unwrap_or_default(), base.unwrap_or_default()))
        }
    }
}

fn covered(held: Option<Held>, with: &[u8]) -> Held {
    match held {
        Some(Held::Mark(_)) => {
            with.try_into().map_or(Held::Other("mark".to_owned()), |bits| Held::Mark(u32::from_ne_bytes(bits)))
        }
        Some(Held::State(_)) => {
            with.try_into().map_or(Held::Other("ct state".to_owned()), |bits| Held::State(u32::from_ne_bytes(bits)))
        }
        Some(Held::Address { to, v6, .. }) => {
            let mut mask = with.to_vec();
            mask.resize(if v6 { 16 } else { 4 }, 0);
            Held::Address { to, v6, mask: Some(mask) }
        }
        Some(Held::Other(what)) => Held::Other(what),
        _ => Held::Other("some bits".to_owned()),
    }
}

pub(super) fn compared(held: Option<&Held>, operator: u32, value: &[u8]) -> Condition {
    const NOT_EQUAL: u32 = 1;
    let not = operator == NOT_EQUAL;
    let equal = operator <= NOT_EQUAL;
    let own: Option<u32> = value.try_into().ok().map(u32::from_ne_bytes);
    let of = match held {
        Some(Held::Link) if equal => {
            // Without the zero at the end it is the beginning of a name.
            let whole = value.contains(&0);
            Some(Of::Link(text(value) + if whole { "" } else { "+" }))
        }
        Some(Held::LinkIndex) if equal => own.and_then(link_name).map(Of::Link),
        Some(Held::EtherType) if equal => port(value).and_then(|kind| match i32::from(kind) {
            libc::ETH_P_IP => Some(Of::Version6(false)),
            libc::ETH_P_IPV6 => Some(Of::Version6(true)),
            _ => None,
        }),
        Some(Held::IcmpType) if equal => value.first().map(|kind| Of::IcmpType(*kind)),
        Some(Held::Protocol) if equal => value.first().map(|number| Of::Protocol(*number)),
        Some(Held::Version) if equal => {
            value.first().map(|number| Of::Version6(i32::from(*number) == libc::NFPROTO_IPV6))
        }
        // Some bit of the mask is set, or the state is that one.
        Some(Held::State(mask)) if not && own == Some(0) => {
            return Condition { of: Of::State(*mask), not: false };
        }
        Some(Held::State(u32::MAX)) if equal => own.map(Of::State),
        Some(Held::Mark(mask)) if equal => own.map(|value| Of::Mark { value, mask: *mask }),
        Some(Held::User) if equal => own.map(|uid| Of::User(uid, uid)),
        Some(Held::Address { to, v6, mask: Some(mask) }) if equal => {
            let net = address(*v6, value).zip(address(*v6, mask)).and_then(|(address, mask)| masked(address, mask));
            net.map(|net| if *to { Of::To(net) } else { Of::From(net) })
        }
        Some(Held::Ports { to }) => {
            let range = port(value).map(|port| match operator {
                2 => (0, port.saturating_sub(1)),
                3 => (0, port),
                4 => (port.saturating_add(1), u16::MAX),
                5 => (port, u16::MAX),
                _ => (port, port),
            });
            range.map(|(low, high)| if *to { Of::ToPorts(low, high) } else { Of::FromPorts(low, high) })
        }
        _ => None,
    };
    match (of, held) {
        (Some(of), _) => Condition { of, not },
        (None, Some(Held::Other(what))) => Condition { of: Of::Other(what.clone()), not: false },
        (None, _) => Condition { of: Of::Other("something else".to_owned()), not: false },
    }
}

/// Name of the link of that number in this namespace, now.
fn link_name(index: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(index).ok()?;
    name.into_string().ok()
}

fn port(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.try_into().ok()?))
}

/// An address of which the last octets may be missing.
pub(super) fn address(v6: bool, octets: &[u8]) -> Option<IpAddr> {
    let mut whole = octets.to_vec();
    whole.resize(if v6 { 16 } else { 4 }, 0);
    Some(if v6 {
        Ipv6Addr::from(<[u8; 16]>::try_from(whole).ok()?).into()
    } else {
        Ipv4Addr::from(<[u8; 4]>::try_from(whole).ok()?).into()
    })
}

pub(super) fn decided(verdict: &[u8]) -> Does {
    // Verdicts of the kernel, and those of nftables' own below zero.
    match number(verdict, 1).map(u32::cast_signed) {
        Some(0) => Does::Drop,
        Some(1) => Does::Accept,
        Some(-3 | -4) => Does::Jump(word(verdict, 2)),
        Some(-5) => Does::Return,
        _ => Does::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::netlink::put_attribute;
    use proptest::prelude::*;

    fn nest(parts: &[(u16, &[u8])]) -> Vec<u8> {
        let mut all = Vec::new();
        for (kind, value) in parts {
            put_attribute(&mut all, *kind, value);
        }
        all
    }

    fn expression(name: &str, data: &[(u16, &[u8])]) -> Vec<u8> {
        let name = [name.as_bytes(), &[0]].concat();
        nest(&[(1, &name), (2, &nest(data))])
    }

    fn read(expressions: &[Vec<u8>]) -> String {
        let parts: Vec<(u16, &[u8])> = expressions.iter().map(|one| (1, one.as_slice())).collect();
        let found: Vec<String> =
            rules(Family::Ip, &nest(&parts), &|_, _| None).iter().map(ToString::to_string).collect();
        found.join(" | ")
    }

    const ONE: [u8; 4] = 1_u32.to_be_bytes();

    fn compare(operator: u32, value: &[u8]) -> Vec<u8> {
        expression("cmp", &[(1, &ONE), (2, &operator.to_be_bytes()), (3, &nest(&[(1, value)]))])
    }

    #[test]
    fn rules_are_read_as_they_are_meant() {
        let load = |key: u32| expression("meta", &[(1, &ONE), (2, &key.to_be_bytes())]);
        let payload = |base: u32, offset: u32, length: u32| {
            let [base, offset, length] = [base, offset, length].map(u32::to_be_bytes);
            expression("payload", &[(1, &ONE), (2, &base), (3, &offset), (4, &length)])
        };
        let accept = expression("immediate", &[(1, &[0; 4]), (2, &nest(&[(2, &nest(&[(1, &ONE)]))]))]);
        let mask = nest(&[(1, &[255, 240, 0, 0])]);
        let bitwise = expression("bitwise", &[(1, &ONE), (2, &ONE), (4, &mask)]);
        let rule = [
            load(7),
            compare(0, b"eth0\0\0\0\0\0\0\0\0\0\0\0\0"),
            payload(1, 16, 4),
            bitwise,
            compare(1, &[172, 16, 0, 0]),
            load(16),
            compare(0, &[17]),
            payload(2, 2, 2),
            compare(5, &1024_u16.to_be_bytes()),
            load(10),
            compare(0, &1000_u32.to_ne_bytes()),
            expression("counter", &[]),
            accept,
        ];
        assert_eq!(read(&rule), "oifname eth0 not daddr 172.16.0.0/12 udp dport 1024-65535 skuid 1000 accept");
        let state = expression("ct", &[(1, &ONE), (2, &[0; 4])]);
        let known = nest(&[(1, &6_u32.to_ne_bytes())]);
        let known = expression("bitwise", &[(1, &ONE), (2, &ONE), (4, &known)]);
        assert_eq!(read(&[state.clone(), known, compare(1, &[0; 4])]), "ct state established,related continue");
        assert_eq!(read(&[state, compare(0, &8_u32.to_ne_bytes())]), "ct state new continue");
        assert_eq!(read(&[payload(1, 8, 1), compare(4, &[1])]), "ttl continue");
        // What is not known keeps a rule from being taken for one that fits.
        assert_eq!(read(&[expression("fib", &[])]), "fib continue");
        let owner = [1000_u32.to_ne_bytes(), 1000_u32.to_ne_bytes(), [0; 4], [0; 4]].concat();
        let owner = expression("match", &[(1, b"owner\0"), (2, &ONE), (3, &[owner, vec![1, 0, 0, 0]].concat())]);
        assert_eq!(read(&[owner]), "skuid 1000 continue");
    }

    proptest! {
        #[test]
        fn any_answer_is_read(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (rules(Family::Inet, &octets, &|_, _| None), chain(Family::Ip6, &octets));
        }
    }
}
