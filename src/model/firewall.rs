//! The firewall of a namespace as text: what its rules say, never what they do. It explains what was seen, and no finding rests
//! on it; but a rule that may let pass what was not tried takes a pass away.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::evidence::Proto;

mod openings;
mod walk;

/// Kinds of destinations, in the order of RTN_* (linux/rtnetlink.h).
const KINDS: [&str; 9] =
    ["unspec", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit"];
/// The bit of the kind "local".
const LOCAL: u16 = 1 << 2;

/// Who keeps the rules in the kernel. Both are asked for each packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Backend {
    /// nftables, also what iptables-nft puts there.
    #[serde(rename = "nftables")]
    Nftables,
    /// The tables of iptables-legacy and ip6tables-legacy.
    #[serde(rename = "iptables-legacy")]
    Legacy,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Nftables => "nftables",
            Backend::Legacy => "iptables-legacy",
        })
    }
}

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
            Family::Inet => "inet",
        })
    }
}

/// All that was read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FirewallText {
    /// When, in milliseconds since the start of the run.
    pub read_ms: f64,
    /// Chains that filter, and those that they call.
    pub chains: Vec<Chain>,
    /// What could not be read.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Who keeps it.
    pub backend: Backend,
    /// Of its table.
    pub family: Family,
    /// Name of its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Where the kernel calls it; `None`: only other chains do.
    pub hook: Option<Hook>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// Where the kernel calls a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Whether it is asked for packets of the namespace's own programs.
    pub output: bool,
    /// The lower, the earlier.
    pub priority: i32,
    /// Whether it drops what no rule decides on.
    pub drops: bool,
}

/// A rule: all conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// In the order in which they are tried.
    pub conditions: Vec<Condition>,
    /// What is done then.
    pub does: Does,
}

/// A condition, and whether it must not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// About what.
    pub of: Of,
    /// It must not hold.
    #[serde(default)]
    pub not: bool,
}

/// See [`Condition`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Of {
    /// Leaves by the link of that name; with a `+` at the end: of a name that begins so.
    Link(String),
    /// The number of the protocol over IP.
    Protocol(u8),
    /// Is IPv6, or is IPv4.
    Version6(bool),
    /// Destination within.
    To(IpNet),
    /// Source within.
    From(IpNet),
    /// Destination port, inclusive.
    ToPorts(u16, u16),
    /// Source port, inclusive.
    FromPorts(u16, u16),
    /// The mark, after the mask.
    Mark {
        /// What it must be.
        value: u32,
        /// Which bits count.
        mask: u32,
    },
    /// The user who owns the socket, inclusive.
    User(u32, u32),
    /// The type of its message, where it is ICMP or ICMPv6.
    IcmpType(u8),
    /// To such kinds of destinations, by the table of routes: one bit for each number of RTN_* (linux/rtnetlink.h).
    ToKind(u16),
    /// In one of these states of connection tracking: 1 not valid, 2 established, 4 related, 8 new.
    State(u32),
    /// Something else, in words.
    Other(String),
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Does {
    /// Lets pass.
    Accept,
    /// Drops, with or without an answer.
    Drop,
    /// Goes on in that chain, and comes back from it.
    Jump(String),
    /// Goes on in that chain, and from it to where this one was called.
    Goto(String),
    /// Goes back to the chain that called.
    Return,
    /// Nothing that decides.
    Nothing,
}

/// A packet, as far as the wire shows what rules ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Name of the link by which it left.
    pub link: &'a str,
    /// Protocol.
    pub proto: Proto,
    /// Source.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
}

/// What a base chain says of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opinion {
    /// Whether it lets it pass.
    pub passes: bool,
    /// Which rule decides, if it is not the policy.
    pub by: Option<String>,
    /// Rules by which it passes all the same if they hold, which the wire does not tell.
    pub perhaps: Vec<String>,
}

impl FirewallText {
    /// The chains that are asked for such packets of the namespace's own, in order.
    pub fn asked(&self, v6: bool) -> Vec<&Chain> {
        let of_family = |chain: &&Chain| chain.family == Family::Inet || (chain.family == Family::Ip6) == v6;
        let mut found: Vec<&Chain> = self.chains.iter().filter(|chain| chain.is_output()).filter(of_family).collect();
        found.sort_by_key(|chain| chain.hook.as_ref().map(|hook| hook.priority));
        found
    }

    /// How many rules and policies of `backend` drop what programs of the namespace send over IPv6, or IPv4.
    pub fn drops(&self, backend: Backend, v6: bool) -> usize {
        let of_family = |chain: &&Chain| chain.family == Family::Inet || (chain.family == Family::Ip6) == v6;
        let chains = self.chains.iter().filter(|chain| chain.backend == backend).filter(of_family);
        let out = chains.filter(|chain| chain.hook.as_ref().is_none_or(|hook| hook.output));
        out.map(|chain| {
            let policy = usize::from(chain.hook.as_ref().is_some_and(|hook| hook.drops));
            policy + chain.rules.iter().filter(|rule| rule.does == Does::Drop).count()
        })
        .sum()
    }

    /// What a chain says of a packet.
    pub fn opinion(&self, chain: &Chain, packet: &Packet<'_>) -> Opinion {
        walk::Walk::new(self, packet, None).opinion(chain)
    }

    /// The number of the chain that a rule of `chain` calls by this name.
    fn called(&self, chain: &Chain, name: &str) -> Option<usize> {
        self.chains.iter().position(|other| {
            other.name == name
                && other.table == chain.table
                && other.family == chain.family
                && other.backend == chain.backend
        })
    }

    /// Rules that let pass what nobody may send past the tunnel: packets by one of `uplinks` to somewhere that is neither near, nor in
    /// `local`, nor one of `servers`, as far as the text tells. They accept, or go back to where it is accepted. Those that only let go on
    /// what is known already are left out.
    pub fn openings(&self, v6: bool, uplinks: &[String], local: &[IpNet], servers: &[SocketAddr]) -> Vec<String> {
        openings::of(self, v6, uplinks, local, servers)
    }

    /// The single public addresses and ports that a rule lets programs of the namespace reach by one of `uplinks`: as a firewall that has
    /// to let the VPN out names its server. Others may be named so too.
    pub fn endpoints(&self, uplinks: &[&str]) -> Vec<SocketAddr> {
        let chains = self.chains.iter().filter(|chain| chain.is_output());
        let mut found: Vec<SocketAddr> =
            chains.flat_map(|chain| &chain.rules).filter_map(|rule| rule.endpoint(uplinks)).collect();
        found.dedup();
        found
    }
}

impl Chain {
    /// Says at its end that it has further rules, which were not read: they may do anything.
    pub fn cut(&mut self) {
        let of = Of::Other("as a rule says that was not read".to_owned());
        let unread = Rule { conditions: vec![Condition { of, not: false }], does: Does::Accept };
        if self.rules.last() != Some(&unread) {
            self.rules.push(unread);
        }
    }

    fn is_output(&self) -> bool {
        self.hook.as_ref().is_some_and(|hook| hook.output)
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

impl Rule {
    /// Whether it is about such a packet; `None`: the wire does not tell.
    fn holds(&self, packet: &Packet<'_>) -> Option<bool> {
        let mut all = Some(true);
        for condition in &self.conditions {
            match condition.holds(packet) {
                Some(true) => {}
                Some(false) => return Some(false),
                None => all = None,
            }
        }
        all
    }

    fn endpoint(&self, uplinks: &[&str]) -> Option<SocketAddr> {
        let (mut ip, mut port, mut by_uplink, mut transport) = (None, None, false, false);
        for condition in &self.conditions {
            match &condition.of {
                _ if condition.not => return None,
                Of::To(net) if net.prefix_len() == net.max_prefix_len() => ip = Some(net.addr()),
                Of::ToPorts(low, high) if low == high => port = Some(*low),
                Of::FromPorts(..) => {}
                Of::Link(name) => by_uplink = uplinks.contains(&name.as_str()),
                Of::Protocol(6 | 17) => transport = true,
                Of::Version6(_) => {}
                _ => return None,
            }
        }
        let found = SocketAddr::new(ip?, port?);
        (self.does == Does::Accept && by_uplink && transport).then_some(found)
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
            Does::Nothing => f.write_str("continue"),
        }
    }
}

impl Condition {
    fn holds(&self, packet: &Packet<'_>) -> Option<bool> {
        self.of.holds(packet).map(|holds| holds != self.not)
    }
}

impl Of {
    fn holds(&self, packet: &Packet<'_>) -> Option<bool> {
        let within = |low: u16, high: u16, port: u16| match packet.proto {
            Proto::Tcp | Proto::Udp => Some((low..=high).contains(&port)),
            // Some have ports too, which are not told.
            Proto::Ip(_) => None,
            Proto::Icmp | Proto::Icmpv6 | Proto::Ether(_) => Some(false),
        };
        match self {
            Of::Link(name) => Some(match name.strip_suffix('+') {
                Some(beginning) => packet.link.starts_with(beginning),
                None => packet.link == name,
            }),
            Of::Protocol(number) => {
                let own = match packet.proto {
                    Proto::Icmp => 1,
                    Proto::Tcp => 6,
                    Proto::Udp => 17,
                    Proto::Icmpv6 => 58,
                    Proto::Ip(number) => number,
                    Proto::Ether(_) => return Some(false),
                };
                Some(own == *number)
            }
            Of::Version6(v6) => Some(packet.dst.is_ipv6() == *v6),
            Of::To(net) => Some(net.contains(&packet.dst.ip())),
            Of::From(net) => Some(net.contains(&packet.src.ip())),
            Of::ToPorts(low, high) => within(*low, *high, packet.dst.port()),
            Of::FromPorts(low, high) => within(*low, *high, packet.src.port()),
            // To one of the namespace's own addresses it leaves by no link but the loopback.
            Of::ToKind(LOCAL) if packet.link != "lo" => Some(false),
            Of::IcmpType(_) if !matches!(packet.proto, Proto::Icmp | Proto::Icmpv6) => Some(false),
            Of::IcmpType(_) | Of::Mark { .. } | Of::User(..) | Of::State(_) | Of::ToKind(_) | Of::Other(_) => None,
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
            Of::State(bits) => {
                let names = [(1, "invalid"), (2, "established"), (4, "related"), (8, "new")];
                let held: Vec<&str> = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
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

/// A network from an address and a mask; `None` if the mask has holes.
pub fn masked(address: IpAddr, mask: IpAddr) -> Option<IpNet> {
    IpNet::with_netmask(address, mask).ok().map(|net| net.trunc())
}

#[cfg(test)]
mod tests;
