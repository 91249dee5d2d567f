//! What the registers of a rule hold, and what comparing them says: the packet's fields, as far as they are known. What is not known
//! keeps a name, so that no rule looks wider, or narrower, than it is.
//!
//! Numbers are those of include/uapi/linux/netfilter/nf_tables.h.

mod headers;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

pub(super) use headers::Headers;
use headers::WITH_PORTS;

use super::list::text;
use super::read::{find, number};
use crate::model::firewall::{Condition, Of, masked};

/// NFT_CMP_*.
pub(super) const NOT_EQUAL: u32 = 1;
const LESS: u32 = 2;
pub(super) const LESS_OR_EQUAL: u32 = 3;
const GREATER: u32 = 4;
pub(super) const GREATER_OR_EQUAL: u32 = 5;
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
    /// Octets with the header of IP: four in the host's order, or two in the network's.
    Length(usize),
    /// The octet of DSCP and ECN, as IPv6 has it among others or IPv4 by itself, and the mask that was put over it.
    Class {
        v6: bool,
        mask: u16,
    },
    /// The flags of TCP, after the mask.
    Flags(u8),
    /// Four octets, in the other order.
    Swapped(Box<Held>),
    /// An address: whether it is the destination's, of which family, and the mask that was put over it.
    Address {
        to: bool,
        v6: bool,
        mask: Vec<u8>,
    },
    Ports {
        to: bool,
    },
    /// What is a port in protocols that have ports, of a packet whose protocol is not known yet.
    PortsOfSome {
        to: bool,
    },
    /// The state of connection tracking, after the mask.
    State(u32),
    /// What the table of routes says of the destination's address (RTN_*).
    ToKind,
    /// Fields that stand one after another in a header, each with its length.
    Several(Vec<(Held, usize)>),
    Other(String),
}

impl Held {
    /// Octets of it in a register; `None` where that is not known.
    pub(super) fn width(&self) -> Option<usize> {
        Some(match self {
            Held::Link => 16,
            Held::LinkIndex | Held::Mark(_) | Held::User | Held::State(_) | Held::ToKind => 4,
            Held::Length(width) => *width,
            Held::Swapped(_) => 4,
            Held::Class { v6, .. } => 1 + usize::from(*v6),
            Held::Protocol | Held::Version | Held::IcmpType | Held::Flags(_) => 1,
            Held::Ports { .. } | Held::PortsOfSome { .. } | Held::EtherType => 2,
            Held::Address { mask, .. } => return mask.iter().all(|octet| *octet == 0xff).then_some(mask.len()),
            Held::Several(parts) => parts.iter().map(|(_, length)| length).sum(),
            Held::Other(_) => return None,
        })
    }

    /// What it is in a packet of that protocol; `None` where that is not known.
    pub(super) fn in_protocol(&self, protocol: Option<u8>) -> Option<Held> {
        match self {
            Held::PortsOfSome { to } => {
                protocol.filter(|number| WITH_PORTS.contains(number)).map(|_| Held::Ports { to: *to })
            }
            other => Some(other.clone()),
        }
    }

    /// What it is, in words.
    pub(super) fn name(&self) -> String {
        match self {
            Held::Link | Held::LinkIndex => "oif",
            Held::Protocol => "protocol",
            Held::EtherType | Held::Version => "version",
            Held::IcmpType => "icmp type",
            Held::Mark(_) => "mark",
            Held::User => "skuid",
            Held::Length(_) => "length",
            Held::Class { .. } => "dscp",
            Held::Flags(_) => "tcp flags",
            Held::Swapped(held) => return held.name(),
            Held::Address { to: true, .. } => "daddr",
            Held::Address { to: false, .. } => "saddr",
            Held::Ports { to: true } => "dport",
            Held::Ports { to: false } => "sport",
            Held::PortsOfSome { to: true } => "th dport",
            Held::PortsOfSome { to: false } => "th sport",
            Held::State(_) => "ct state",
            Held::ToKind => "fib daddr type",
            Held::Several(parts) => {
                return parts.iter().map(|(part, _)| part.name()).collect::<Vec<_>>().join(" and ");
            }
            Held::Other(words) => words,
        }
        .to_owned()
    }
}

/// The registers, by the number of their first four octets.
#[derive(Debug, Default)]
pub(super) struct Registers(HashMap<u32, Held>);

impl Registers {
    pub(super) fn get(&self, register: u32) -> Option<&Held> {
        self.0.get(&slot(register))
    }

    /// What is written over is forgotten, whole; of what is not known, so much as it may be.
    pub(super) fn put(&mut self, register: u32, held: Held) {
        let end = |at: u32, width: usize| at.saturating_add(width.div_ceil(4) as u32);
        let from = slot(register);
        let to = end(from, held.width().unwrap_or(16));
        self.0.retain(|at, other| end(*at, other.width().unwrap_or(1)) <= from || to <= *at);
        self.0.insert(from, held);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What they hold from there on, one after another, as the key of a set of several fields has them.
    pub(super) fn fields(&self, from: u32) -> Vec<&Held> {
        let mut found = Vec::new();
        let mut at = slot(from);
        while let Some(field) = self.0.get(&at) {
            found.push(field);
            let next = field.width().and_then(|width| at.checked_add(width.div_ceil(4) as u32));
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        found
    }
}

/// The registers of sixteen octets are four of four octets each.
fn slot(register: u32) -> u32 {
    if (1..=4).contains(&register) { 8 + (register - 1) * 4 } else { register }
}

/// What is left of it after a mask; anything else that is done with its bits leaves nothing known.
pub(super) fn covered(held: Option<&Held>, data: &[u8]) -> Held {
    const AND_XOR: u32 = 0;
    let octets = |kind| find(data, kind).and_then(|nested| find(nested, 1)).unwrap_or_default();
    let with = octets(4);
    let masks = number(data, 6).unwrap_or_default() == AND_XOR && octets(5).iter().all(|octet| *octet == 0);
    let bits: Option<u32> = with.try_into().ok().map(u32::from_ne_bytes);
    match (held, bits) {
        (Some(Held::Mark(before)), Some(bits)) if masks => Held::Mark(before & bits),
        (Some(Held::State(before)), Some(bits)) if masks => Held::State(before & bits),
        (Some(Held::Flags(before)), _) if masks => Held::Flags(before & with.first().copied().unwrap_or_default()),
        (Some(Held::Class { v6, mask }), _) if masks => {
            let with = with.iter().fold(0, |all, octet| all << 8 | u16::from(*octet));
            Held::Class { v6: *v6, mask: mask & with }
        }
        (Some(Held::Address { to, v6, mask }), _) if masks => {
            let with = with.iter().copied().chain(std::iter::repeat(0));
            Held::Address { to: *to, v6: *v6, mask: mask.iter().zip(with).map(|(a, b)| a & b).collect() }
        }
        (held, _) => Held::Other(held.map_or_else(|| "some bits".to_owned(), Held::name)),
    }
}

/// Conditions that have to hold all for it to be equal to this value, or not.
pub(super) fn compared(held: Option<&Held>, not: bool, value: &[u8]) -> Vec<Condition> {
    if let Some(Held::Several(parts)) = held.filter(|_| !not) {
        let mut at = 0;
        let part = |(part, length): &(Held, usize)| {
            let octets = value.get(at..at + length).unwrap_or_default();
            at += length;
            compared(Some(part), false, octets)
        };
        return parts.iter().flat_map(part).collect();
    }
    let own: Option<u32> = value.try_into().ok().map(u32::from_ne_bytes);
    let of = match held {
        Some(Held::Link) => Some(Of::Link(name_of_link(value))),
        Some(Held::Other(words)) if words == "iifname" => Some(Of::Other(format!("iifname {}", name_of_link(value)))),
        Some(Held::LinkIndex) => own.and_then(link_name).map(Of::Link),
        Some(Held::EtherType) => port(value).and_then(|kind| match i32::from(kind) {
            libc::ETH_P_IP => Some(Of::Version6(false)),
            libc::ETH_P_IPV6 => Some(Of::Version6(true)),
            _ => None,
        }),
        Some(Held::Flags(mask)) => value.first().map(|flags| Of::Flags(*flags, *mask)),
        Some(Held::IcmpType) => value.first().map(|kind| Of::IcmpType(*kind)),
        Some(Held::Protocol) => value.first().map(|number| Of::Protocol(*number)),
        Some(Held::Version) => value.first().map(|number| Of::Version6(i32::from(*number) == libc::NFPROTO_IPV6)),
        // Some bit of the mask is set, or none, or the state is that one.
        Some(Held::State(mask)) if own == Some(0) => {
            return vec![Condition { of: Of::State(*mask), not: !not }];
        }
        Some(Held::State(u32::MAX)) => own.map(Of::State),
        Some(Held::Mark(mask)) => own.map(|value| Of::Mark { value, mask: *mask }),
        Some(Held::User) => own.map(|uid| Of::User(uid, uid)),
        Some(Held::Length(4)) => own.map(|length| Of::Length(length, length)),
        Some(Held::Length(_)) => port(value).map(|length| Of::Length(length.into(), length.into())),
        Some(Held::Class { v6: false, mask }) => value.first().map(|class| Of::Class(*class, *mask as u8)),
        // Beside it are the version and the flow's label.
        Some(Held::Class { mask, .. }) if mask & !0xff0 == 0 => {
            port(value).map(|octets| Of::Class((octets >> 4) as u8, (mask >> 4) as u8))
        }
        Some(Held::Swapped(held)) => {
            let value: Vec<u8> = value.iter().rev().copied().collect();
            return compared(Some(held), not, &value);
        }
        Some(Held::ToKind) => own.and_then(|kind| 1_u16.checked_shl(kind)).map(Of::ToKind),
        Some(Held::Address { to, v6, mask }) => {
            let net = address(*v6, value).zip(address(*v6, mask)).and_then(|(address, mask)| masked(address, mask));
            net.map(|net| if *to { Of::To(net) } else { Of::From(net) })
        }
        Some(Held::Ports { to }) => {
            port(value).map(|port| if *to { Of::ToPorts(port, port) } else { Of::FromPorts(port, port) })
        }
        Some(Held::State(_) | Held::Class { .. } | Held::PortsOfSome { .. } | Held::Several(_) | Held::Other(_))
        | None => None,
    };
    match of {
        Some(of) => vec![Condition { of, not }],
        None => vec![unknown(held)],
    }
}

/// Without the zero at the end it is the beginning of a name.
fn name_of_link(value: &[u8]) -> String {
    text(value) + if value.contains(&0) { "" } else { "+" }
}

/// That it is as is asked for, whatever that is.
pub(super) fn unknown(held: Option<&Held>) -> Condition {
    Condition { of: Of::Other(held.map_or_else(|| "something else".to_owned(), Held::name)), not: false }
}

/// First and last of what such a comparison allows; `None` where it allows nothing, or the order of its values is not known.
pub(super) fn bounds(held: Option<&Held>, operator: u32, value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    // Others stand in the host's order, or have none.
    let ordered = |held: &&Held| {
        matches!(
            held,
            Held::Ports { .. }
                | Held::Address { .. }
                | Held::Protocol
                | Held::IcmpType
                | Held::Length(2)
                | Held::Swapped(_)
        )
    };
    let width = held.filter(ordered)?.width().filter(|width| *width == value.len())?;
    let (least, most) = (vec![0; width], vec![0xff; width]);
    Some(match operator {
        LESS if value != least => (least, before(value)),
        LESS_OR_EQUAL => (least, value.to_vec()),
        GREATER if value != most => (after(value), most),
        GREATER_OR_EQUAL => (value.to_vec(), most),
        _ => return None,
    })
}

/// Conditions of which one has to hold for a value between these, inclusive.
pub(super) fn between(held: &Held, low: &[u8], high: &[u8]) -> Option<Vec<Condition>> {
    let is = |of| Condition { of, not: false };
    if low == high {
        let conditions = compared(Some(held), false, low);
        return (conditions.len() == 1 && !matches!(conditions[0].of, Of::Other(_))).then_some(conditions);
    }
    match held {
        Held::Ports { to: true } => Some(vec![is(Of::ToPorts(port(low)?, port(high)?))]),
        Held::Ports { to: false } => Some(vec![is(Of::FromPorts(port(low)?, port(high)?))]),
        Held::Length(2) => Some(vec![is(Of::Length(port(low)?.into(), port(high)?.into()))]),
        Held::Swapped(held) => {
            let word = |octets: &[u8]| Some(u32::from_be_bytes(octets.try_into().ok()?));
            match **held {
                Held::User => Some(vec![is(Of::User(word(low)?, word(high)?))]),
                Held::Length(_) => Some(vec![is(Of::Length(word(low)?, word(high)?))]),
                _ => None,
            }
        }
        Held::Protocol => Some((*low.first()?..=*high.first()?).map(|number| is(Of::Protocol(number))).collect()),
        Held::IcmpType => Some((*low.first()?..=*high.first()?).map(|kind| is(Of::IcmpType(kind))).collect()),
        Held::Address { to, v6, .. } => {
            held.width()?;
            let nets: Vec<IpNet> = match (address(*v6, low)?, address(*v6, high)?) {
                (IpAddr::V4(low), IpAddr::V4(high)) => Ipv4Subnets::new(low, high, 0).map(IpNet::from).collect(),
                (IpAddr::V6(low), IpAddr::V6(high)) => Ipv6Subnets::new(low, high, 0).map(IpNet::from).collect(),
                _ => return None,
            };
            Some(nets.into_iter().map(|net| is(if *to { Of::To(net) } else { Of::From(net) })).collect())
        }
        _ => None,
    }
}

/// The value that goes before this one.
pub(super) fn before(value: &[u8]) -> Vec<u8> {
    let mut value = value.to_vec();
    for octet in value.iter_mut().rev() {
        let borrow = *octet == 0;
        *octet = octet.wrapping_sub(1);
        if !borrow {
            break;
        }
    }
    value
}

fn after(value: &[u8]) -> Vec<u8> {
    let mut value = value.to_vec();
    for octet in value.iter_mut().rev() {
        *octet = octet.wrapping_add(1);
        if *octet != 0 {
            break;
        }
    }
    value
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
fn address(v6: bool, octets: &[u8]) -> Option<IpAddr> {
    let mut whole = octets.to_vec();
    whole.resize(if v6 { 16 } else { 4 }, 0);
    Some(if v6 {
        Ipv6Addr::from(<[u8; 16]>::try_from(whole).ok()?).into()
    } else {
        Ipv4Addr::from(<[u8; 4]>::try_from(whole).ok()?).into()
    })
}
