//! Threat: a neighbour takes the stack as its router: what it sends leaves by the stack's uplink under its address, or by the tunnel.
//! Procedure: stimuli for documentation addresses (RFC 5737, RFC 3849) are entered here; the runner, outside, hands them to the stack's hardware
//! address with TTL 2, so that they end at the next hop. Some claim to come from other neighbours: any, and those that rules name. A packet
//! socket here tells what came in; the sensor tells what was carried on.
//! Rules of the firewall that let through what cannot be sent so are told, where the kernel carries anything on.
//! Limits: by one uplink, from the machine on which the runner is.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::uplink::targets::is_public;
use super::{Context, NoParams, Technique, Work, read};
use crate::model::evidence::names::source_port;
use crate::model::evidence::{Evidence, Fate, Proto, Role, Said, Stimulus, Via};
use crate::model::firewall::{Condition, Does, FirewallText, Of, Rule};
use crate::net::route::Snapshot;
use crate::net::{firewall, sysctl};
use crate::sensor::allow::is_private;

/// Its name.
pub const FORWARDING: &str = "forwarding";
/// Nobody is there (RFC 5737, TEST-NET-1).
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
/// The same over IPv6 (RFC 3849).
const NOBODY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 9);
/// Ports that firewalls tell from others: DNS, the web, the torrent client's.
const PORTS: [(Proto, u16); 5] =
    [(Proto::Udp, 53), (Proto::Udp, 443), (Proto::Udp, 6881), (Proto::Tcp, 443), (Proto::Tcp, 6881)];
/// What other neighbours send; and one echo question.
const FEW_PORTS: [(Proto, u16); 3] = [(Proto::Udp, 53), (Proto::Udp, 6881), (Proto::Tcp, 443)];
/// Neighbours that are drawn from each network.
const DRAWN: usize = 2;
/// Neighbours that rules name, and rules of the firewall, of which more are not tried.
const MAX_NAMED: usize = 8;
const MAX_RULES: usize = 16;

/// Enters what the runner sends. See the head of this file.
pub struct Forwarding;

impl Technique for Forwarding {
    fn name(&self) -> &'static str {
        FORWARDING
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<NoParams>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, trial: Arc<str>, _params: Value) -> Work<'a> {
        Box::pin(async move {
            let mut evidence = Evidence { from_ms: cx.clock.now_ms(), ..Evidence::default() };
            let nets = cx.uplinks().flat_map(|link| link.addresses.iter().copied());
            let mut ground = Ground {
                nets: nets.filter(|net| !super::is_link_local(net.addr())).collect(),
                gateways: cx.gateways.clone(),
                endpoint: cx.endpoint.as_ref().map(|endpoint| endpoint.address.ip()),
                ..Ground::default()
            };
            match spawn_blocking(|| (Snapshot::take(), firewall::text(0.0))).await {
                Ok((Ok(snapshot), text)) => {
                    ground.sources = sources(&text, snapshot.rules.iter().filter_map(|rule| rule.from));
                    ground.rules = text.through;
                }
                Ok((Err(error), _)) => evidence.problems.push(format!("rules could not be read: {error}")),
                Err(error) => evidence.problems.push(format!("rules could not be read: {error}")),
            }
            let inner = cx.links.iter().filter(|link| link.role != Role::Uplink).map(|link| link.name.clone());
            ground.inner = inner.chain(["lo".to_owned()]).collect();
            ground.several = cx.links.iter().filter(|link| link.role == Role::Uplink).count() > 1;
            evidence.problems.extend(ground.untried(forwards(false), forwards(true)).map(|rule| {
                format!(
                    "what the firewall lets through by `{rule}` was not tried: leakcheck cannot send such packets here"
                )
            }));
            let v6 = ground.nets.iter().any(|net| net.addr().is_ipv6());
            let families = [false].into_iter().chain(v6.then_some(true));
            for packet in families.flat_map(|v6| ground.packets(v6)) {
                let entry = cx.ledger.enter(&trial);
                cx.ledger.enter_flow(entry, packet.proto, source_port(entry.id), packet.to);
                evidence.stimuli.push(Stimulus {
                    id: entry.id,
                    at_ms: cx.clock.now_ms(),
                    proto: packet.proto,
                    to: packet.to,
                    via: packet.from.map_or(Via::Default, Via::Source),
                    what: "packet for the stack to carry on".to_owned(),
                    fate: Fate::NotSent { reason: "nobody outside has sent it".to_owned() },
                    traced: false,
                });
            }
            if ground.is_cut() {
                let text = "rules name more neighbours, or let more packets through, than were tried".to_owned();
                evidence.answers.push(cx.answer("rules", Said::Setting { text }));
            }
            evidence.to_ms = cx.clock.now_ms();
            evidence
        })
    }
}

/// Whether the kernel carries packets of others on; where it does not tell, it may.
fn forwards(v6: bool) -> bool {
    let name = if v6 { "ipv6/conf/all/forwarding" } else { "ipv4/ip_forward" };
    sysctl::get(name).map_or(true, |value| value.trim() != "0")
}

/// Sources that rules of the firewall or of routing ask for.
fn sources(text: &FirewallText, routing: impl Iterator<Item = IpNet>) -> BTreeSet<IpNet> {
    let firewall = text.through.iter().flat_map(|rule| &rule.conditions).filter_map(|condition| match condition.of {
        Of::From(net) => Some(net),
        _ => None,
    });
    firewall.chain(routing).collect()
}

/// What has to be known to choose.
#[derive(Default)]
struct Ground {
    /// The stack's addresses on its uplinks.
    nets: Vec<IpNet>,
    gateways: Vec<IpAddr>,
    endpoint: Option<IpAddr>,
    /// Sources that rules ask for.
    sources: BTreeSet<IpNet>,
    /// Rules of the firewall for what goes through.
    rules: Vec<Rule>,
    /// Names of the links by which nothing leaves that the home's line would see.
    inner: Vec<String>,
    /// Whether there are several uplinks, of which packets are handed to the stack by one.
    several: bool,
}

/// A packet for the stack to carry on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Packet {
    /// `None`: the machine on which the runner is.
    from: Option<IpAddr>,
    proto: Proto,
    to: SocketAddr,
}

impl Ground {
    fn is_cut(&self) -> bool {
        self.sources.len() > MAX_NAMED || self.rules.len() > MAX_RULES
    }

    /// Rules that let packets through which none of those that are sent stands for, by an uplink, to somebody far away.
    fn untried(&self, v4: bool, v6: bool) -> impl Iterator<Item = &Rule> {
        const NEW: u32 = 8;
        let is_sent = |condition: &Condition| match &condition.of {
            Of::Version6(_) | Of::From(_) | Of::To(_) | Of::ToPorts(..) | Of::Link(_) | Of::Flags(..) => true,
            Of::Protocol(number) => matches!(number, 1 | 6 | 17 | 58),
            Of::IcmpType(kind) => matches!(kind, 8 | 128),
            Of::Other(words) if words.starts_with("iif") => !self.several,
            _ => condition.not,
        };
        // Of flows that others have begun, what is near, what goes into the tunnel, and what the kernel does not carry on.
        let is_harmless = move |condition: &Condition| match &condition.of {
            Of::State(states) => (states & NEW == 0) != condition.not,
            Of::To(net) => !condition.not && !is_public(net.addr()),
            Of::Link(name) => !condition.not && self.inner.contains(name),
            // What comes out of the tunnel is no neighbour's.
            Of::Other(words) => {
                let name = words.strip_prefix("iifname ");
                !condition.not && name.is_some_and(|name| self.inner.iter().any(|link| link == name))
            }
            Of::Version6(of_v6) => !(if *of_v6 != condition.not { v6 } else { v4 }),
            _ => false,
        };
        let state = |condition: &Condition| matches!(condition.of, Of::State(_));
        let accepts = self.rules.iter().filter(move |rule| rule.does == Does::Accept && (v4 || v6));
        accepts.filter(move |rule| {
            !rule.conditions.iter().any(is_harmless)
                && !rule.conditions.iter().all(|condition| is_sent(condition) || state(condition))
        })
    }

    fn packets(&self, v6: bool) -> Vec<Packet> {
        let (nobody, echo) = if v6 { (NOBODY_V6.into(), Proto::Icmpv6) } else { (IpAddr::from(NOBODY), Proto::Icmp) };
        // One of each, that no list holds.
        let any = [Proto::Udp, Proto::Tcp].map(|proto| (proto, rand::random_range(1025..=u16::MAX)));
        let own = PORTS.into_iter().chain(any).chain([(echo, 0)]);
        let few = || FEW_PORTS.into_iter().chain([(echo, 0)]);
        let to = |from, (proto, port)| Packet { from, proto, to: SocketAddr::new(nobody, port) };
        let mut packets: Vec<Packet> = own.map(|what| to(None, what)).collect();
        for other in self.others(v6) {
            packets.extend(few().map(|what| to(Some(other), what)));
        }
        for rule in self.rules.iter().take(MAX_RULES) {
            let Some(example) = self.example(rule, nobody, echo) else { continue };
            if !packets.contains(&example) {
                packets.push(example);
            }
        }
        packets
    }

    /// Neighbours: some that are drawn, and one of each source that rules name.
    fn others(&self, v6: bool) -> BTreeSet<IpAddr> {
        let of_family = |net: &&IpNet| net.addr().is_ipv6() == v6;
        let drawn = self.nets.iter().filter(of_family).flat_map(|net| [net; DRAWN]);
        let named = self.sources.iter().filter(of_family).take(MAX_NAMED);
        drawn.chain(named).filter_map(|net| self.host(net)).collect()
    }

    /// One of `net` that a neighbour may be, but is neither the stack nor its router. What answers it gets no further than the home.
    fn host(&self, net: &IpNet) -> Option<IpAddr> {
        const DRAWS: usize = 8;
        let taken = |ip: &IpAddr| self.gateways.contains(ip) || self.nets.iter().any(|net| net.addr() == *ip);
        let near = |ip: &IpAddr| {
            self.nets.iter().any(|net| net.contains(ip)) || is_private(*ip) && !ip.is_loopback() && !ip.is_unspecified()
        };
        (0..DRAWS).map(|_| drawn(net)).find(|ip| near(ip) && !taken(ip) && !super::is_link_local(*ip))
    }

    /// A packet that the rule is about, where that is another one than those that are sent anyway.
    fn example(&self, rule: &Rule, nobody: IpAddr, echo: Proto) -> Option<Packet> {
        let (mut from, mut proto, mut host, mut port) = (None, None, nobody, None);
        for condition in rule.conditions.iter().filter(|condition| !condition.not) {
            match &condition.of {
                Of::Version6(v6) if *v6 != nobody.is_ipv6() => return None,
                Of::From(net) | Of::To(net) if net.addr().is_ipv6() != nobody.is_ipv6() => return None,
                Of::From(net) => from = Some(self.host(net)?),
                // What is for somebody near may be meant to go there.
                Of::To(net) => {
                    host = drawn(net);
                    if !is_public(host) || self.endpoint == Some(host) {
                        return None;
                    }
                }
                Of::Protocol(6) => proto = Some(Proto::Tcp),
                Of::Protocol(17) => proto = Some(Proto::Udp),
                Of::Protocol(1 | 58) => proto = Some(echo),
                Of::Protocol(_) | Of::FromPorts(..) => return None,
                Of::ToPorts(low, _) => port = Some(*low),
                _ => {}
            }
        }
        let proto = proto.unwrap_or(Proto::Udp);
        let port = if proto == echo { 0 } else { port.unwrap_or(443) };
        Some(Packet { from, proto, to: SocketAddr::new(host, port) })
    }
}

/// Any host of a network.
fn drawn(net: &IpNet) -> IpAddr {
    match net {
        IpNet::V4(net) if net.prefix_len() >= 31 => net.network().into(),
        IpNet::V4(net) => {
            let (first, last) = (u32::from(net.network()) + 1, u32::from(net.broadcast()) - 1);
            Ipv4Addr::from(rand::random_range(first..=last)).into()
        }
        IpNet::V6(net) => {
            let host = rand::random::<u128>() & !u128::from(net.netmask());
            Ipv6Addr::from(u128::from(net.network()) | host).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn ground() -> Ground {
        Ground {
            nets: vec!["172.18.0.10/16".parse().unwrap(), "fd18::10/64".parse().unwrap()],
            gateways: vec!["172.18.0.1".parse().unwrap()],
            endpoint: Some("198.51.100.2".parse().unwrap()),
            ..Ground::default()
        }
    }

    fn accept(conditions: &[Of]) -> Rule {
        let conditions = conditions.iter().map(|of| Condition { of: of.clone(), not: false }).collect();
        Rule { conditions, does: Does::Accept }
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn drawn_neighbours_are_of_the_network_and_neither_the_stack_nor_its_router() {
        for _ in 0..200 {
            for (v6, near) in [(false, net("172.18.0.0/16")), (true, net("fd18::/64"))] {
                let others = ground().others(v6);
                assert!(!others.is_empty() && others.iter().all(|ip| near.contains(ip)), "{others:?}");
            }
        }
        // Of a network of four addresses none is left.
        let small = Ground {
            nets: vec![net("172.18.0.2/30")],
            gateways: vec!["172.18.0.1".parse().unwrap()],
            ..Ground::default()
        };
        assert!(small.others(false).is_empty());
    }

    #[test]
    fn neighbours_that_rules_name_are_played() {
        let rules = vec![accept(&[Of::From(net("172.18.0.77/32"))])];
        let text = FirewallText { through: rules.clone(), ..FirewallText::default() };
        let routing = ["172.18.0.78/32", "172.18.0.10/32", "8.8.8.8/32", "10.42.0.0/24"].map(net);
        let ground = Ground { sources: sources(&text, routing.into_iter()), rules, ..ground() };
        let others = ground.others(false);
        for named in ["172.18.0.77", "172.18.0.78"] {
            assert!(others.contains(&named.parse().unwrap()), "{named}: {others:?}");
        }
        assert!(others.iter().any(|ip| net("10.42.0.0/24").contains(ip)), "{others:?}");
        // Neither the stack itself nor somebody who would be answered on the internet.
        for not in ["172.18.0.10", "8.8.8.8"] {
            assert!(!others.contains(&not.parse().unwrap()), "{not}");
        }
        let from_77: Vec<Packet> = ground
            .packets(false)
            .into_iter()
            .filter(|packet| packet.from == Some(IpAddr::from([172, 18, 0, 77])))
            .collect();
        assert!(
            [Proto::Tcp, Proto::Udp, Proto::Icmp].iter().all(|of| from_77.iter().any(|packet| packet.proto == *of))
        );
    }

    #[test]
    fn rules_that_nothing_stands_for_are_told() {
        let other = |words: &str| Of::Other(words.to_owned());
        let told = |conditions: &[Of], several: bool, v4: bool| {
            let rules = vec![accept(conditions)];
            let inner = vec!["tun0".to_owned(), "lo".to_owned()];
            Ground { rules, inner, several, ..ground() }.untried(v4, false).count() == 1
        };
        let gre = Of::Protocol(47);
        for conditions in [vec![gre.clone()], vec![Of::FromPorts(27015, 27015)], vec![other("ether saddr")]] {
            assert!(told(&conditions, false, true), "{conditions:?}");
            assert!(!told(&conditions, false, false), "nothing is carried on: {conditions:?}");
        }
        assert!(told(&[other("iifname eth1")], true, true));
        assert!(!told(&[other("iifname eth0")], false, true), "it is the only one");
        // What is sent anyway, what others began, what is near, and what goes into the tunnel.
        let known = [Of::State(2 | 4), other("iifname eth0")];
        let sent = [Of::Protocol(6), Of::ToPorts(443, 443), Of::State(2 | 4 | 8)];
        let near = [gre.clone(), Of::To(net("192.168.1.0/24"))];
        let tunnelled = [gre, Of::Link("tun0".to_owned())];
        let out_of_it = [other("iifname tun0"), Of::Protocol(6), Of::FromPorts(80, 80)];
        for conditions in [&known[..], &sent, &near, &tunnelled, &out_of_it, &[]] {
            assert!(!told(conditions, true, true), "{conditions:?}");
        }
    }

    #[test]
    fn rules_of_the_firewall_are_tried() {
        let example = |conditions: &[Of]| ground().example(&accept(conditions), NOBODY.into(), Proto::Icmp);
        let packet = |proto, to: &str| Some(Packet { from: None, proto, to: to.parse().unwrap() });
        let port = example(&[Of::Protocol(6), Of::ToPorts(51_413, 51_420)]);
        assert_eq!(port, packet(Proto::Tcp, "192.0.2.99:51413"));
        assert_eq!(example(&[Of::To(net("8.8.8.8/32"))]), packet(Proto::Udp, "8.8.8.8:443"));
        assert_eq!(example(&[Of::Protocol(1)]), packet(Proto::Icmp, "192.0.2.99:0"));
        // To the home's network, to the VPN server, of the other family, from a port.
        for not in
            [Of::To(net("192.168.1.0/24")), Of::To(net("198.51.100.2/32")), Of::Version6(true), Of::FromPorts(1, 2)]
        {
            assert_eq!(example(std::slice::from_ref(&not)), None, "{not:?}");
        }
    }
}
