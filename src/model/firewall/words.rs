//! Chains and rules in words, much as nft writes them.

use std::fmt;

use ipnet::IpNet;

use super::{Backend, Chain, Condition, DESTINATION_TRANSLATED, Does, Family, Of, Rule, SOURCE_TRANSLATED, UNTRACKED};

/// Kinds of destinations, in the order of RTN_* (linux/rtnetlink.h).
const KINDS: [&str; 9] =
    ["unspec", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit"];
/// The states and their names.
const STATES: [(u32, &str); 7] = [
    (1, "invalid"),
    (2, "established"),
    (4, "related"),
    (8, "new"),
    (UNTRACKED, "untracked"),
    (SOURCE_TRANSLATED, "snat"),
    (DESTINATION_TRANSLATED, "dnat"),
];
impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Nftables => "nftables",
            Backend::Legacy => "iptables-legacy",
        })
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
            Family::Inet => "inet",
            Family::Netdev => "netdev",
        })
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.backend, self.family, self.table, self.name)?;
        match &self.hook {
            Some(hook) => write!(f, ", policy {}", if hook.drops { "drop" } else { "accept" }),
            None => Ok(()),
        }
    }
}

impl Chain {
    /// Where one of its rules stands, and what it says. A rule that asks for a set is several here.
    pub(super) fn name_of(&self, rule: &Rule) -> String {
        let place = self.rules.iter().position(|other| std::ptr::eq(other, rule)).unwrap_or_default();
        format!("rule {} of {}, `{rule}`", place + 1, self.name)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for condition in &self.conditions {
            write!(f, "{condition} ")?;
        }
        match &self.does {
            Does::Accept => f.write_str("accept"),
            Does::Drop => f.write_str("drop"),
            Does::Jump(chain) => write!(f, "jump {chain}"),
            Does::Goto(chain) => write!(f, "goto {chain}"),
            Does::Return => f.write_str("return"),
            Does::Divert { by, .. } => f.write_str(by),
            Does::Nothing => f.write_str("continue"),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.not {
            f.write_str("not ")?;
        }
        let range = |f: &mut fmt::Formatter<'_>, what: &str, low: u32, high: u32| {
            if low == high { write!(f, "{what} {low}") } else { write!(f, "{what} {low}-{high}") }
        };
        match &self.of {
            Of::Link(name) => write!(f, "oifname {name}"),
            Of::Protocol(6) => f.write_str("tcp"),
            Of::Protocol(17) => f.write_str("udp"),
            Of::Protocol(1) => f.write_str("icmp"),
            Of::Protocol(58) => f.write_str("icmpv6"),
            Of::Protocol(number) => write!(f, "protocol {number}"),
            Of::Version6(v6) => f.write_str(if *v6 { "ipv6" } else { "ipv4" }),
            Of::To(net) => write!(f, "daddr {}", short(net)),
            Of::From(net) => write!(f, "saddr {}", short(net)),
            Of::ToPorts(low, high) => range(f, "dport", (*low).into(), (*high).into()),
            Of::FromPorts(low, high) => range(f, "sport", (*low).into(), (*high).into()),
            Of::Mark { value, mask: u32::MAX } => write!(f, "mark {value:#x}"),
            Of::Mark { value, mask } => write!(f, "mark {value:#x}/{mask:#x}"),
            Of::User(low, high) => range(f, "skuid", *low, *high),
            Of::Length(low, high) => range(f, "length", *low, *high),
            Of::Class(value, 0xfc) => write!(f, "dscp {:#x}", value >> 2),
            Of::Class(value, u8::MAX) => write!(f, "class {value:#x}"),
            Of::Class(value, mask) => write!(f, "class {value:#x}/{mask:#x}"),
            Of::Flags(value, mask) => write!(f, "tcp flags {value:#04x}/{mask:#04x}"),
            Of::State(bits) => {
                let held: Vec<&str> = STATES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
                write!(f, "ct state {}", held.join(","))
            }
            Of::IcmpType(kind) => write!(f, "icmp type {kind}"),
            Of::ToKind(kinds) => {
                let name = |bit: usize| KINDS.get(bit).map_or_else(|| bit.to_string(), |name| (*name).to_owned());
                let named: Vec<String> = (0..16).filter(|bit| kinds >> bit & 1 == 1).map(name).collect();
                write!(f, "daddr type {}", named.join(","))
            }
            Of::Other(words) => f.write_str(words),
        }
    }
}

fn short(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}
