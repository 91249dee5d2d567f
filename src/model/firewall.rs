//! The firewall of a namespace as text: what its rules say, never what they do. It explains what was seen, and no finding rests
//! on it; but a rule that may let pass what was not tried takes a pass away.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::evidence::Proto;

/// Chains called from one another are followed so deep.
const MAX_DEPTH: usize = 16;
/// States of connection tracking (nf_conntrack_common.h).
const INVALID: u32 = 1;
const NEW: u32 = 8;
/// Somebody far away, to whom a rule for everybody applies.
const FAR_4: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);
const FAR_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888);

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
    /// Goes on in that chain.
    Jump(String),
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
    /// Accepting rules that come before, of which the wire does not tell whether they hold.
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
        let mut perhaps = Vec::new();
        let decided = self.walk(chain, packet, true, &mut perhaps, 0);
        let policy = !chain.hook.as_ref().is_some_and(|hook| hook.drops);
        let (passes, by) = decided.map_or((policy, None), |(passes, by)| (passes, Some(by)));
        Opinion { passes, by, perhaps }
    }

    fn walk(
        &self,
        chain: &Chain,
        packet: &Packet<'_>,
        certain: bool,
        perhaps: &mut Vec<String>,
        depth: usize,
    ) -> Option<(bool, String)> {
        for (index, rule) in chain.rules.iter().enumerate() {
            let holds = rule.holds(packet);
            if holds == Some(false) {
                continue;
            }
            let sure = certain && holds == Some(true);
            let name = || format!("rule {} of {}, `{rule}`", index + 1, chain.name);
            match &rule.does {
                Does::Accept if sure => return Some((true, name())),
                Does::Drop if sure => return Some((false, name())),
                Does::Return if sure => return None,
                Does::Accept => perhaps.push(name()),
                Does::Jump(to) if depth < MAX_DEPTH => {
                    let called = self.chains.iter().find(|other| {
                        other.name == *to
                            && other.table == chain.table
                            && other.family == chain.family
                            && other.backend == chain.backend
                    });
                    let decided = called.and_then(|called| self.walk(called, packet, sure, perhaps, depth + 1));
                    if decided.is_some() {
                        return decided;
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// Rules that accept what nobody may send past the tunnel: of packets by one of `uplinks` to somewhere that is neither near, nor in
    /// `local`, nor one of `servers`, as far as the text tells. Those that only let go on what is known already are left out.
    pub fn openings(&self, v6: bool, uplinks: &[String], local: &[IpNet], servers: &[SocketAddr]) -> Vec<String> {
        let asked = self.asked(v6);
        let mut found: Vec<String> = Vec::new();
        let accepting = self.chains.iter().filter(|chain| chain.hook.is_none() || chain.is_output());
        for rule in accepting.flat_map(|chain| &chain.rules).filter(|rule| rule.does == Does::Accept) {
            let text = format!("`{rule}`");
            let lets = |link: &String| {
                let Some((proto, src, dst)) = rule.example(v6, local) else { return false };
                let packet = Packet { link, proto, src, dst };
                let opinions = || asked.iter().map(|chain| self.opinion(chain, &packet));
                rule.holds(&packet) != Some(false)
                    && !servers.contains(&dst)
                    && opinions().all(|opinion| opinion.passes || !opinion.perhaps.is_empty())
                    && opinions().any(|opinion| opinion.by.iter().chain(&opinion.perhaps).any(|by| by.contains(&text)))
            };
            if !found.contains(&text) && uplinks.iter().any(lets) {
                found.push(text);
            }
        }
        found
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
            match condition.of.holds(packet).map(|holds| holds != condition.not) {
                Some(true) => {}
                Some(false) => return Some(false),
                None => all = None,
            }
        }
        all
    }

    /// A packet to somebody far away that the rule may be about, with some source; `None` when there is none.
    fn example(&self, v6: bool, local: &[IpNet]) -> Option<(Proto, SocketAddr, SocketAddr)> {
        let far: IpAddr = if v6 { FAR_6.into() } else { FAR_4.into() };
        let unspecified: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let (mut proto, mut from, mut to) = (Proto::Udp, (unspecified, 0), (far, 0));
        for condition in &self.conditions {
            match (&condition.of, condition.not) {
                // A flow that is there already was let begin by another rule.
                (Of::State(bits), false) if bits & (NEW | INVALID) == 0 => return None,
                (Of::Version6(version), not) if (*version == v6) == not => return None,
                (Of::To(net) | Of::From(net), false) if net.addr().is_ipv6() != v6 => return None,
                (Of::To(net), false) if !net.contains(&far) => to.0 = first_of(net),
                (Of::From(net), false) => from.0 = first_of(net),
                // What hosts of a link say to each other is not carried on (RFC 4861, RFC 3810).
                (Of::IcmpType(130..=137 | 143), false) if v6 => return None,
                (Of::ToPorts(low, _), false) => to.1 = *low,
                (Of::FromPorts(low, _), false) => from.1 = *low,
                (Of::Protocol(number), false) => {
                    proto = match number {
                        1 => Proto::Icmp,
                        6 => Proto::Tcp,
                        17 => Proto::Udp,
                        58 => Proto::Icmpv6,
                        other => Proto::Ip(*other),
                    }
                }
                _ => {}
            }
        }
        let near = is_near(to.0) || local.iter().any(|net| net.contains(&to.0));
        (!near).then(|| (proto, SocketAddr::from(from), SocketAddr::from(to)))
    }

    fn endpoint(&self, uplinks: &[&str]) -> Option<SocketAddr> {
        let (mut ip, mut port, mut by_uplink, mut transport) = (None, None, false, false);
        for condition in &self.conditions {
            match &condition.of {
                _ if condition.not => return None,
                Of::To(net) if net.prefix_len() == net.max_prefix_len() => ip = Some(net.addr()),
                Of::ToPorts(low, high) if low == high => port = Some(*low),
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
            Does::Return => f.write_str("return"),
            Does::Nothing => f.write_str("continue"),
        }
    }
}

impl Of {
    fn holds(&self, packet: &Packet<'_>) -> Option<bool> {
        let ports = matches!(packet.proto, Proto::Tcp | Proto::Udp);
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
            Of::ToPorts(low, high) => Some(ports && (*low..=*high).contains(&packet.dst.port())),
            Of::FromPorts(low, high) => Some(ports && (*low..=*high).contains(&packet.src.port())),
            Of::IcmpType(_) if !matches!(packet.proto, Proto::Icmp | Proto::Icmpv6) => Some(false),
            Of::IcmpType(_) | Of::Mark { .. } | Of::User(..) | Of::State(_) | Of::Other(_) => None,
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
            Of::Other(words) => f.write_str(words),
        }
    }
}

/// The address of a single host, or the first host of a network.
fn first_of(net: &IpNet) -> IpAddr {
    net.hosts().next().unwrap_or_else(|| net.addr())
}

/// Whether no router carries a packet to there to the internet (RFC 6890).
fn is_near(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            let special = v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified() || v4.is_loopback();
            v4.is_private() || v4.is_link_local() || shared || special
        }
        IpAddr::V6(v6) => {
            let special = v6.is_multicast() || v6.is_unspecified() || v6.is_loopback();
            v6.is_unique_local() || v6.is_unicast_link_local() || special
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
mod tests {
    use super::*;

    fn of(of: Of) -> Condition {
        Condition { of, not: false }
    }

    fn chain(name: &str, hook: Option<Hook>, rules: Vec<Rule>) -> Chain {
        let (family, table) = (Family::Ip, "filter".to_owned());
        Chain { backend: Backend::Nftables, family, table, name: name.to_owned(), hook, rules }
    }

    fn server(link: &str, net: &str, mut more: Vec<Condition>) -> Rule {
        let mut conditions =
            vec![of(Of::To(net.parse().unwrap())), of(Of::Link(link.to_owned())), of(Of::Protocol(17))];
        conditions.push(of(Of::ToPorts(51820, 51820)));
        conditions.append(&mut more);
        Rule { conditions, does: Does::Accept }
    }

    #[test]
    fn a_server_is_named_by_a_rule_for_one_address_and_port_alone() {
        let hook = Some(Hook { output: true, priority: 0, drops: true });
        let rules = vec![
            server("lo", "198.51.100.1/32", vec![]),
            server("eth0", "198.51.100.2/32", vec![]),
            server("eth0", "198.51.100.0/24", vec![]),
            server("eth0", "198.51.100.4/32", vec![of(Of::User(0, 0))]),
            server("eth0", "198.51.100.5/32", vec![Condition { of: Of::Protocol(6), not: true }]),
            Rule { does: Does::Drop, ..server("eth0", "198.51.100.6/32", vec![]) },
        ];
        let text = FirewallText { chains: vec![chain("OUTPUT", hook, rules)], ..FirewallText::default() };
        assert_eq!(text.endpoints(&["eth0"]), ["198.51.100.2:51820".parse().unwrap()]);
        assert!(text.endpoints(&[]).is_empty());
    }

    #[test]
    fn called_chains_are_followed_and_come_back() {
        let jump = |to: &str| Rule { conditions: Vec::new(), does: Does::Jump(to.to_owned()) };
        let hook = Some(Hook { output: true, priority: 0, drops: true });
        let back = Rule { conditions: Vec::new(), does: Does::Return };
        let text = FirewallText {
            chains: vec![
                chain("OUTPUT", hook, vec![jump("round"), jump("nowhere"), jump("early"), jump("vpn")]),
                // It calls itself, which no kernel allows, and must not end the program.
                chain("round", None, vec![jump("round")]),
                chain("early", None, vec![back, server("eth0", "0.0.0.0/0", vec![])]),
                chain("vpn", None, vec![server("eth0", "198.51.100.0/24", vec![])]),
            ],
            ..FirewallText::default()
        };
        let opinion = |dst: &str| {
            let (src, dst) = ("172.18.0.10:1".parse().unwrap(), dst.parse().unwrap());
            text.opinion(&text.chains[0], &Packet { link: "eth0", proto: Proto::Udp, src, dst })
        };
        let passes = opinion("198.51.100.9:51820");
        assert!(passes.passes && passes.by.unwrap().starts_with("rule 1 of vpn, `daddr 198.51.100.0/24 oifname eth0"));
        assert_eq!(opinion("8.8.8.8:51820"), Opinion { passes: false, by: None, perhaps: Vec::new() });
    }

    fn openings(rules: Vec<Rule>, v6: bool) -> Vec<String> {
        let hook = Some(Hook { output: true, priority: 0, drops: true });
        let chain = Chain { family: Family::Inet, ..chain("OUTPUT", hook, rules) };
        let text = FirewallText { chains: vec![chain], ..FirewallText::default() };
        let local = ["192.168.1.0/24".parse().unwrap(), "203.0.113.0/25".parse().unwrap()];
        text.openings(v6, &["eth0".to_owned()], &local, &["198.51.100.2:51820".parse().unwrap()])
    }

    fn accept(conditions: Vec<Of>) -> Rule {
        Rule { conditions: conditions.into_iter().map(of).collect(), does: Does::Accept }
    }

    /// Gluetun's own rules (facts of v3.38 to v3.41), and what other stacks have beside them.
    #[test]
    fn a_sealed_stack_has_no_opening() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let link = |name: &str| Of::Link(name.to_owned());
        let rules = vec![
            accept(vec![link("lo")]),
            accept(vec![Of::State(6)]),
            accept(vec![Of::From(net("172.18.0.10/32")), Of::To(net("172.18.0.0/16")), link("eth0")]),
            accept(vec![Of::From(net("172.18.0.10/32")), Of::To(net("203.0.113.0/26")), link("eth0")]),
            accept(vec![Of::To(net("ff02::1:ff00:0/104")), link("eth0")]),
            accept(vec![Of::To(net("fe80::/64")), link("eth0")]),
            accept(vec![Of::To(net("255.255.255.255/32")), Of::Protocol(17), Of::ToPorts(67, 67)]),
            server("eth0", "198.51.100.2/32", vec![]),
            accept(vec![link("tun0")]),
        ];
        assert!(openings(rules.clone(), false).is_empty() && openings(rules, true).is_empty());
    }

    #[test]
    fn a_rule_for_packets_of_another_kind_is_an_opening() {
        let ttl = || accept(vec![Of::Link("eth0".to_owned()), Of::Other("ttl".to_owned())]);
        let one = ["`oifname eth0 ttl accept`"];
        assert_eq!(openings(vec![ttl()], false), one);
        assert_eq!(openings(vec![ttl()], true), one);
        let drop = Rule { conditions: vec![of(Of::Link("eth0".to_owned()))], does: Does::Drop };
        assert!(openings(vec![drop.clone(), ttl()], false).is_empty(), "nothing comes so far");
        assert_eq!(openings(vec![ttl(), drop], false), one);
        // Another port of the server's, a state in which flows begin, a network far away, of one family.
        let far = accept(vec![Of::To("45.33.32.0/24".parse().unwrap()), Of::Protocol(17), Of::ToPorts(6881, 6881)]);
        assert_eq!(openings(vec![far.clone()], false), ["`daddr 45.33.32.0/24 udp dport 6881 accept`"]);
        assert!(openings(vec![far], true).is_empty());
        assert_eq!(openings(vec![accept(vec![Of::State(10)])], true), ["`ct state established,new accept`"]);
        let mut other_port = server("eth0", "198.51.100.2/32", vec![]);
        other_port.conditions.pop();
        assert_eq!(openings(vec![other_port], false).len(), 1);
    }
}
