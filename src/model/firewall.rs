//! The firewall of a namespace as text: what its rules say, never what they do. It explains what was seen, and no finding rests
//! on it; but a rule that may let pass what was not tried takes a pass away.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::evidence::{Opened, Proto};

mod examples;
mod openings;
mod packets;
mod walk;
mod words;

pub use examples::Example;

/// A state of [`Of::State`]: connection tracking was told to leave the packet alone.
pub const UNTRACKED: u32 = 1 << 6;
/// A state of [`Of::State`]: the source is translated.
pub const SOURCE_TRANSLATED: u32 = 1 << 7;
/// A state of [`Of::State`]: the destination is translated.
pub const DESTINATION_TRANSLATED: u32 = 1 << 8;
/// The bit of the kind "unicast".
const UNICAST: u16 = 1 << 1;
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
    /// All that passes a link.
    Netdev,
}

impl Family {
    /// Whether it sees packets of IPv6, or of IPv4.
    fn sees(self, v6: bool) -> bool {
        match self {
            Family::Ip => !v6,
            Family::Ip6 => v6,
            Family::Inet | Family::Netdev => true,
        }
    }
}

/// All that was read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FirewallText {
    /// When, in milliseconds since the start of the run.
    pub read_ms: f64,
    /// Chains that filter, and those that they call.
    pub chains: Vec<Chain>,
    /// Chains of the tables in which rules send packets elsewhere than where they are for.
    #[serde(default)]
    pub diverting: Vec<Chain>,
    /// Rules that let pass what others send through the namespace. Their conditions alone count, whatever calls their chains.
    #[serde(default)]
    pub through: Vec<Rule>,
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
    /// Octets with the header of IP, inclusive.
    Length(u32, u32),
    /// The octet of DSCP and ECN: what it is after the mask, and the mask.
    Class(u8, u8),
    /// The type of its message, where it is ICMP or ICMPv6.
    IcmpType(u8),
    /// The flags of TCP, in the order of their bits (RFC 9293, section 3.1): what they must be after the mask, and the mask.
    Flags(u8, u8),
    /// To such kinds of destinations, by the table of routes: one bit for each number of RTN_* (linux/rtnetlink.h).
    ToKind(u16),
    /// In one of these states of connection tracking: 1 not valid, 2 established, 4 related, 8 new, and those named above.
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
    /// Sends it, or a copy, elsewhere than where it is for.
    Divert {
        /// What does so, by its name.
        by: String,
        /// Also what belongs to a flow that was let begin.
        begun: bool,
    },
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
    /// What else rules ask for.
    pub besides: Besides,
}

/// What rules ask for that a capture of a packet does not tell; `None`: not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Besides {
    /// Its mark.
    pub mark: Option<u32>,
    /// The user who owns its socket.
    pub user: Option<u32>,
    /// Its class: the octet of DSCP and ECN.
    pub class: Option<u8>,
    /// Its octets, with the header of IP.
    pub length: Option<u32>,
    /// The type of its message, where it is ICMP or ICMPv6.
    pub icmp_type: Option<u8>,
    /// Its flags, where it is TCP.
    pub flags: Option<u8>,
    /// The one state of connection tracking that it is in, see [`Of::State`].
    pub state: Option<u32>,
    /// Its destination is one that routers carry it to.
    pub far: bool,
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
        let asked = |chain: &&Chain| chain.is_output() && chain.family.sees(v6);
        let mut found: Vec<&Chain> = self.chains.iter().filter(asked).collect();
        found.sort_by_key(|chain| chain.hook.as_ref().map(|hook| hook.priority));
        found
    }

    /// How many rules and policies of `backend` drop what programs of the namespace send over IPv6, or IPv4.
    pub fn drops(&self, backend: Backend, v6: bool) -> usize {
        let chains = self.chains.iter().filter(|chain| chain.backend == backend && chain.family.sees(v6));
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
    /// `local`, nor one of `servers`, as far as the text tells. They accept, or go back to where it is accepted; or the policy does, where
    /// other rules drop. Those that only let go on what is known already are left out.
    pub fn openings(&self, v6: bool, uplinks: &[String], local: &[IpNet], servers: &[SocketAddr]) -> Vec<String> {
        openings::of(self, v6, uplinks, local, servers).into_iter().map(|opening| opening.name).collect()
    }

    /// Packets that these openings may let pass, some of each (see [`FirewallText::openings`]), and some that rules send elsewhere.
    pub fn examples(&self, v6: bool, uplinks: &[String], local: &[IpNet], servers: &[SocketAddr]) -> Vec<Example> {
        let mut openings = openings::of(self, v6, uplinks, local, servers);
        openings.extend(openings::diverted(self, v6, local).into_iter().map(|diversion| diversion.opening));
        examples::of(openings)
    }

    /// Rules that the examples do not settle: openings, and those that may send elsewhere what none of the examples is for sure.
    pub fn unsettled(&self, v6: bool, uplinks: &[String], local: &[IpNet], servers: &[SocketAddr]) -> Vec<Opened> {
        let diverted = openings::diverted(self, v6, local).into_iter().filter(|diversion| !diversion.sure);
        let all = openings::of(self, v6, uplinks, local, servers).into_iter().chain(diverted.map(|one| one.opening));
        let mut found: Vec<Opened> = Vec::new();
        for opening in all {
            let opened = Opened { v6, rule: opening.name };
            if !found.contains(&opened) {
                found.push(opened);
            }
        }
        found
    }

    /// The networks to which rules let something go, of those that are asked for the namespace's own packets.
    pub fn accepted(&self) -> impl Iterator<Item = IpNet> + '_ {
        let rules = self.chains.iter().flat_map(|chain| &chain.rules).filter(|rule| rule.may_accept());
        rules.flat_map(|rule| &rule.conditions).filter_map(|condition| match condition.of {
            Of::To(net) if !condition.not => Some(net),
            _ => None,
        })
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
    /// Says at its end that it has further rules, which were not read: they may do anything, this too.
    pub fn cut(&mut self, does: Does) {
        let of = Of::Other("as a rule says that was not read".to_owned());
        let unread = Rule { conditions: vec![Condition { of, not: false }], does };
        if self.rules.last() != Some(&unread) {
            self.rules.push(unread);
        }
    }

    fn is_output(&self) -> bool {
        self.hook.as_ref().is_some_and(|hook| hook.output)
    }
}

impl Does {
    /// What a rule may do that was not read, of a chain that is read for what it sends elsewhere.
    pub fn unread_diversion() -> Self {
        Does::Divert { by: "elsewhere".to_owned(), begun: true }
    }
}

impl Rule {
    /// Whether a packet that it is about may pass.
    pub fn may_accept(&self) -> bool {
        matches!(self.does, Does::Accept | Does::Jump(_) | Does::Goto(_))
    }

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
            Of::ToKind(kinds) if packet.besides.far => Some(kinds & UNICAST != 0),
            // To one of the namespace's own addresses it leaves by no link but the loopback.
            Of::ToKind(LOCAL) if packet.link != "lo" => Some(false),
            Of::IcmpType(_) if !matches!(packet.proto, Proto::Icmp | Proto::Icmpv6) => Some(false),
            Of::IcmpType(kind) => packet.besides.icmp_type.map(|own| own == *kind),
            Of::Flags(..) if packet.proto != Proto::Tcp => Some(false),
            Of::Flags(value, mask) => packet.besides.flags.map(|own| own & mask == *value),
            Of::Mark { value, mask } => packet.besides.mark.map(|own| own & mask == *value),
            Of::User(low, high) => packet.besides.user.map(|own| (low..=high).contains(&&own)),
            Of::Length(low, high) => packet.besides.length.map(|own| (low..=high).contains(&&own)),
            Of::Class(value, mask) => packet.besides.class.map(|own| own & mask == *value),
            Of::State(bits) => packet.besides.state.map(|own| bits & own != 0),
            Of::ToKind(_) | Of::Other(_) => None,
        }
    }
}

/// A network from an address and a mask; `None` if the mask has holes.
pub fn masked(address: IpAddr, mask: IpAddr) -> Option<IpNet> {
    IpNet::with_netmask(address, mask).ok().map(|net| net.trunc())
}

#[cfg(test)]
mod tests;
