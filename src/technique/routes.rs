//! Threat: some addresses, ports, protocols or users are routed past the tunnel, although most are not.
//! Procedure: the kernel is asked by which link it would send, for both ends and the middle of every network that a route or rule names,
//! and for one address of each /16 of the IPv4 space and of the global IPv6 space; again for each kind of packet that a rule tells from
//! others. Where the answer is an uplink, marked packets with TTL 1 are sent there, to see whether the firewall holds them. The
//! question for the uplink's own neighbours, whose answer has to be the uplink, is the control; where there is no uplink, that for 127.0.0.1.
//! Of rules by source or input link the kernel is asked by which link it would carry on what others send. Where the tunnel is WireGuard's, it is
//! asked which of its peers gets what.
//! Limits: as of now; rules by mark are left to other techniques, and whether the firewall holds what others send to `forwarding`.

mod packets;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;
use tokio::task::spawn_blocking;

use self::packets::{MAX_FLOWS, carries_on, describe, edges, flows, other, sweep};
use super::uplink::targets::is_public;
use super::user::{self, User};
use super::volley::{Guise, Shot, Volley};
use super::{Context, NoParams, Technique, Work, read};
use crate::agent::sources::tunnel_peers;
use crate::handicap::{Handicap, lacks};
use crate::model::evidence::names::{
    ROUTE_CONTROL, ROUTE_CONTROL_ALONE, ROUTE_INSIDE, ROUTE_LEARNED, ROUTE_OPEN, ROUTE_OTHERS, ROUTE_PEERS,
    ROUTE_PUBLIC,
};
use crate::model::evidence::{Evidence, Link, Role, Said, Via};
use crate::net::route::{self as net, Flow, Lookup, Object, Route, RouteError, Rule, Snapshot, Way};
use crate::net::sysctl;

/// What evidence calls how an uplink takes what others say of routes, where no neighbour can make any by it.
const SETTINGS: &str = "the uplink's settings";
/// Mullvad's resolver, and the networks of its options (see <https://mullvad.net/help/dns-over-https-and-dns-over-tls>).
const MULLVAD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 64, 0, 1));
/// `RTPROT_REDIRECT` and `RTPROT_RA` of linux/rtnetlink.h.
const BY_REDIRECT: u8 = 1;
const BY_ADVERTISEMENT: u8 = 9;
/// Addresses of one answer that are shown, and sent to.
const EXAMPLES: usize = 6;
/// Networks of a peer that are told, and peers.
const MAX_NETS: usize = 16;
const MAX_PEERS: usize = 64;
/// Time for the last packets to reach the wire.
const PAUSE: Duration = Duration::from_millis(60);

/// See the head of this file.
pub struct Routes;

impl Technique for Routes {
    fn name(&self) -> &'static str {
        "routes"
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<NoParams>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, trial: Arc<str>, _params: Value) -> Work<'a> {
        Box::pin(async move {
            let mut evidence = Evidence { from_ms: cx.clock.now_ms(), ..Evidence::default() };
            let ground = Ground {
                links: cx.links_now().await,
                gateways: cx.gateways.clone(),
                local: cx.local.clone(),
                endpoint: cx.endpoint.as_ref().map(|endpoint| endpoint.address.ip()),
                mullvad: cx.setup.mullvad,
                nonce: cx.setup.nonce,
                root: cx.root.clone(),
            };
            match spawn_blocking(move || look(&ground)).await {
                Ok(Ok(findings)) => {
                    evidence.problems.extend(findings.problems);
                    let astray = findings.astray;
                    evidence.answers = findings.said.into_iter().map(|(who, said)| cx.answer(who, said)).collect();
                    if !astray.is_empty() {
                        send(cx, trial, astray, &mut evidence).await;
                    }
                }
                Ok(Err(problem)) => evidence.problems.push(problem),
                Err(error) => evidence.problems.push(format!("routes could not be looked at: {error}")),
            }
            evidence.to_ms = cx.clock.now_ms();
            evidence
        })
    }
}

/// What has to be known to look.
struct Ground {
    links: Vec<Link>,
    gateways: Vec<IpAddr>,
    local: Vec<IpNet>,
    endpoint: Option<IpAddr>,
    mullvad: bool,
    nonce: u32,
    root: Option<PathBuf>,
}

#[derive(Default)]
struct Findings {
    said: Vec<(&'static str, Said)>,
    problems: Vec<String>,
    /// Addresses that an uplink is the way to, with the packets for which it is.
    astray: Vec<(Flow, Vec<IpAddr>)>,
}

fn look(ground: &Ground) -> Result<Findings, String> {
    let failed = |error: RouteError| with_causes(&error);
    let mut snapshot = Snapshot::take().map_err(failed)?;
    if lacks(Handicap::Routes) {
        (snapshot.rules, snapshot.routes) = (Vec::new(), Vec::new());
    }
    let mut lookup = Lookup::open().map_err(failed)?;
    let mut findings = Findings::default();
    for v6 in [false, true] {
        let control = ground.control(v6);
        let who = if ground.is_alone() { ROUTE_CONTROL_ALONE } else { ROUTE_CONTROL };
        // The kernel has rules and routes of its own in each family.
        let ruled = snapshot.rules.iter().any(|rule| rule.ipv6 == v6);
        if control.is_some() && !(ruled && snapshot.routes.iter().any(|route| route.destination.addr().is_ipv6() == v6))
        {
            let family = if v6 { "IPv6" } else { "IPv4" };
            findings.problems.push(format!("the kernel's tables of rules and routes of {family} came without any"));
        }
        let flows = flows(&snapshot, v6);
        if flows.len() >= MAX_FLOWS {
            findings.problems.push("rules tell more kinds of packets apart than can be looked at".to_owned());
        }
        let (edges, sweep) = (ground.public(edges(&snapshot, v6)), ground.public(sweep(v6, ground.nonce)));
        for flow in flows {
            if let Some(control) = control {
                let ways = lookup.ask(&[control], &flow).map_err(failed)?;
                findings.said.extend(ground.sort(who, &[control], &ways, &flow, &snapshot).0);
            }
            // The edges are exact; the sweep, for what no table shows, need not be as fine for every kind of packet.
            let coarse: Vec<IpAddr> = sweep.iter().step_by(16).copied().collect();
            for some in [&edges, if flow == Flow::default() { &sweep } else { &coarse }] {
                let ways = lookup.ask(some, &flow).map_err(failed)?;
                let (said, astray) = ground.sort(ROUTE_PUBLIC, some, &ways, &flow, &snapshot);
                findings.said.extend(said);
                findings.astray.extend((!astray.is_empty()).then_some((flow, astray)));
            }
        }
        let coarse: Vec<IpAddr> = edges.iter().chain(sweep.iter().step_by(16)).copied().collect();
        let others = ground.others(&snapshot, v6);
        if others.len() > MAX_FLOWS {
            findings.problems.push("rules tell more packets of others apart than can be looked at".to_owned());
        }
        for (flow, rule) in others.into_iter().take(MAX_FLOWS) {
            let ways = lookup.ask(&coarse, &flow).map_err(failed)?;
            let said = ground.sort(ROUTE_OTHERS, &coarse, &ways, &flow, &snapshot).0;
            findings.said.extend(said.into_iter().map(|(who, said)| (who, because(said, &rule.text))));
        }
        let inside = ground.inside(v6);
        let ways = lookup.ask(&inside, &Flow::default()).map_err(failed)?;
        findings.said.extend(ground.sort(ROUTE_INSIDE, &inside, &ways, &Flow::default(), &snapshot).0);
    }
    findings.said.extend(ground.learned(&snapshot).map(|text| (ROUTE_LEARNED, Said::Setting { text })));
    for mut peer in tunnel_peers(&ground.links, ground.root.as_deref()).into_iter().take(MAX_PEERS) {
        peer.allowed.sort_by_key(IpNet::prefix_len);
        peer.allowed.truncate(MAX_NETS);
        findings.said.push((ROUTE_PEERS, Said::Peer { endpoint: peer.endpoint, allowed: peer.allowed }));
    }
    for link in ground.links.iter().filter(|link| link.role == Role::Uplink) {
        let settings = settings(|name| sysctl::get(&name.replace("LINK", &link.name)).ok());
        findings.said.extend(settings.into_iter().map(|(open, text)| {
            let text = format!("{}: {text}", link.name);
            (if open { ROUTE_OPEN } else { SETTINGS }, Said::Setting { text })
        }));
    }
    Ok(findings)
}

/// What a link does with redirects and router advertisements, and whether a neighbour can make routes by it; see ip-sysctl in the
/// kernel's documentation. `read` knows the settings, in which `LINK` stands for the link.
fn settings(read: impl Fn(&str) -> Option<String>) -> Vec<(bool, String)> {
    let number = |name: &str| read(name).and_then(|value| value.trim().parse::<i32>().ok());
    let mut found = Vec::new();
    let four = ["forwarding", "accept_redirects"].map(|name| number(&format!("ipv4/conf/LINK/{name}")));
    if let ([Some(forwarding), Some(own)], Some(all)) = (four, number("ipv4/conf/all/accept_redirects")) {
        let open = if forwarding != 0 { own != 0 && all != 0 } else { own != 0 || all != 0 };
        let taken = if open { "redirects are taken" } else { "redirects are not taken" };
        found.push((open, format!("{taken} over IPv4 (accept_redirects={own}, all {all}, forwarding={forwarding})")));
    }
    let six = ["disable_ipv6", "forwarding", "accept_redirects", "accept_ra"]
        .map(|name| number(&format!("ipv6/conf/LINK/{name}")));
    match six {
        [Some(off), ..] if off != 0 => found.push((false, "IPv6 is off".to_owned())),
        [_, Some(forwarding), Some(redirects), Some(ra)] => {
            let open = redirects != 0 && forwarding == 0;
            let taken = if open { "redirects are taken" } else { "redirects are not taken" };
            found.push((open, format!("{taken} over IPv6 (accept_redirects={redirects}, forwarding={forwarding})")));
            let open = ra == 2 || (ra == 1 && forwarding == 0);
            let taken = if open { "router advertisements are taken" } else { "router advertisements are not taken" };
            found.push((open, format!("{taken} (accept_ra={ra}, forwarding={forwarding})")));
        }
        // No IPv6 in this kernel, or nothing to be read: what cannot be told is not claimed.
        _ => {}
    }
    found
}

/// An error with its causes in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

impl Ground {
    /// Public addresses that no local subnet holds and that are not the VPN server's.
    fn public(&self, mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        addresses.retain(|ip| {
            is_public(*ip) && self.endpoint != Some(*ip) && !self.local.iter().any(|net| net.contains(ip))
        });
        addresses
    }

    /// Whether there is no uplink.
    fn is_alone(&self) -> bool {
        !self.links.iter().any(|link| link.role == Role::Uplink)
    }

    /// A neighbour on an uplink: its gateway, or else some address of its network. Where there is no uplink, the namespace itself.
    fn control(&self, v6: bool) -> Option<IpAddr> {
        if self.is_alone() {
            return (!v6).then_some(Ipv4Addr::LOCALHOST.into());
        }
        let of_family = |ip: &IpAddr| ip.is_ipv6() == v6;
        let nets =
            self.links.iter().filter(|link| link.role == Role::Uplink && link.up).flat_map(|link| &link.addresses);
        let routed = |net: &&IpNet| !matches!(net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
        let own = |ip: &IpAddr| self.links.iter().any(|link| link.addresses.iter().any(|net| net.addr() == *ip));
        let mut hosts = nets
            .filter(|net| of_family(&net.addr()))
            .filter(routed)
            .flat_map(|net| net.hosts().take(3).collect::<Vec<_>>())
            .filter(|ip| !own(ip));
        let gateway = self
            .gateways
            .iter()
            .copied()
            .find(|ip| of_family(ip) && !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()));
        gateway.or_else(|| hosts.next())
    }

    /// Addresses of the tunnel's far end: Mullvad's resolver, and the first address of the networks that the tunnel's own are in.
    fn inside(&self, v6: bool) -> Vec<IpAddr> {
        let tunnels = self.links.iter().filter(|link| link.role == Role::Tunnel);
        let first = tunnels.flat_map(|link| &link.addresses).map(|net| match net.addr() {
            IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from(u32::from(ip) & !0xff | 1)),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) & !0xffff | 1)),
        });
        let own: BTreeSet<IpAddr> = self.links.iter().flat_map(|link| link.addresses.iter().map(IpNet::addr)).collect();
        let mut inside: BTreeSet<IpAddr> = first.collect();
        if self.mullvad {
            inside.insert(MULLVAD);
        }
        let global = |ip: &IpAddr| !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        inside.into_iter().filter(|ip| ip.is_ipv6() == v6 && !own.contains(ip) && global(ip)).collect()
    }

    /// What a link is now: known by its name, since a VPN that is started again makes its link anew. One that came since is an uplink.
    fn role(&self, link: &net::Link) -> Option<Role> {
        let known = self.links.iter().find(|known| known.name == link.name).map(|known| known.role);
        known.or_else(|| (!link.is_loopback()).then_some(Role::Uplink))
    }

    /// Answers by link, and the addresses whose answer is an uplink.
    fn sort(
        &self,
        who: &'static str,
        to: &[IpAddr],
        ways: &[Way],
        flow: &Flow,
        snapshot: &Snapshot,
    ) -> (Vec<(&'static str, Said)>, Vec<IpAddr>) {
        let mut by_way: BTreeMap<(Option<u32>, Option<u32>), Vec<IpAddr>> = BTreeMap::new();
        for (to, way) in to.iter().zip(ways) {
            let key = match way {
                Way::Link { index, table } => (Some(*index), Some(*table)),
                Way::Nowhere => (None, None),
            };
            by_way.entry(key).or_default().push(*to);
        }
        let (mut said, mut astray) = (Vec::new(), Vec::new());
        for ((index, table), addresses) in by_way {
            let link = index.and_then(|index| snapshot.links.iter().find(|link| link.index == index));
            let role = link.and_then(|link| self.role(link));
            let by = addresses.first().zip(table).and_then(|(ip, table)| route_to(snapshot, *ip, table));
            let addresses_of = addresses.len() as u64;
            let examples: Vec<IpAddr> = addresses.into_iter().take(EXAMPLES).collect();
            if role == Some(Role::Uplink) {
                astray.extend(&examples);
            }
            let name = link.map(|link| link.name.clone()).or_else(|| index.map(|index| format!("link {index}")));
            let flow = describe(flow, snapshot);
            said.push((who, Said::Routed { link: name, role, addresses: addresses_of, examples, flow, by }));
        }
        (said, astray)
    }

    /// What others may send through the stack, with the rule that tells it from the rest: for each source and input link that rules name.
    fn others<'a>(&self, snapshot: &'a Snapshot, v6: bool) -> Vec<(Flow, &'a Rule)> {
        let named = |rule: &&Rule| rule.ipv6 == v6 && (rule.from.is_some() || rule.incoming.is_some());
        let carries =
            |link: &&net::Link| self.role(link) == Some(Role::Uplink) && link.is_up() && carries_on(&link.name, v6);
        let links: Vec<&net::Link> = snapshot.links.iter().filter(carries).collect();
        let of_rule = |rule: &'a Rule| links.iter().filter_map(move |link| Some((other(snapshot, rule, link)?, rule)));
        snapshot.rules.iter().filter(named).flat_map(of_rule).collect()
    }

    /// Routes by an uplink that came from a router advertisement or a redirect and lead to more than local addresses.
    fn learned<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = String> + 'a {
        let uplink = |index: u32| {
            snapshot.links.iter().find(|link| link.index == index && self.role(link) == Some(Role::Uplink))
        };
        snapshot.routes.iter().filter_map(move |route| {
            let link = uplink(route.link?)?;
            let how = match route.protocol {
                BY_ADVERTISEMENT => "a router advertisement",
                BY_REDIRECT => "a redirect",
                _ => return None,
            };
            let far = route.gateway.is_some() && !self.local.iter().any(|net| net.contains(&route.destination));
            far.then(|| format!("{} by {how} on {}", route.destination, link.name))
        })
    }
}

/// The same answer, of a rule instead of a route.
fn because(said: Said, rule: &str) -> Said {
    match said {
        Said::Routed { link, role, addresses, examples, flow, .. } => {
            Said::Routed { link, role, addresses, examples, flow, by: Some(format!("rule {rule}")) }
        }
        other => other,
    }
}

/// The route of that table that decides about `ip`, in words.
fn route_to(snapshot: &Snapshot, ip: IpAddr, table: u32) -> Option<String> {
    let fits = |route: &&Route| route.table == table && route.destination.contains(&ip);
    let found = snapshot.routes.iter().filter(fits).max_by_key(|route| route.destination.prefix_len())?;
    Some(found.describe())
}

/// Marked packets of the same kind to where the kernel would send past the tunnel.
async fn send(cx: &Context, trial: Arc<str>, astray: Vec<(Flow, Vec<IpAddr>)>, evidence: &mut Evidence) {
    const PORTS: [u16; 2] = [443, 6881];
    let mut volley = Volley::new(cx.clock, cx.ledger.clone(), trial);
    for (flow, to) in astray {
        let to: Arc<[IpAddr]> = to.into();
        let owner = flow.user.map(|uid| User { uid, gid: uid }).filter(user::can_be);
        let guise = Guise { user: owner, ..Guise::from(Via::Default) };
        let of = |protocol: i32| flow.protocol.is_none_or(|wanted| i32::from(wanted) == protocol);
        let ports = flow.to_port.map_or_else(|| PORTS.to_vec(), |port| vec![port]);
        for port in ports {
            let (datagram, syn) = match flow.from_port {
                Some(from) => (Shot::DatagramFrom(from, port), Shot::SynFrom(from, port)),
                None => (Shot::Datagram(port), Shot::Syn(port)),
            };
            if of(libc::IPPROTO_UDP) {
                volley.aim(datagram, &guise, &to, 1);
            }
            if of(libc::IPPROTO_TCP) {
                volley.aim(syn, &guise, &to, 1);
            }
        }
        if flow.protocol.is_none() || of(libc::IPPROTO_ICMP) || of(libc::IPPROTO_ICMPV6) {
            volley.aim(Shot::Echo, &guise, &to, 1);
        }
    }
    let fired = spawn_blocking(move || {
        volley.fire(0);
        volley.stimuli()
    });
    match fired.await {
        Ok(stimuli) => evidence.stimuli = stimuli,
        Err(error) => evidence.problems.push(format!("packets could not be sent: {error}")),
    }
    tokio::time::sleep(PAUSE).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_and_advertisements_are_taken_as_the_kernel_has_it() {
        let open = |set: &[(&str, &str)]| {
            let found = settings(|name| {
                let known = set.iter().find(|(known, _)| name.ends_with(known));
                Some(known.map_or("0", |(_, value)| value).to_owned())
            });
            found.into_iter().filter(|(open, _)| *open).map(|(_, text)| text).collect::<Vec<_>>()
        };
        assert_eq!(open(&[]), Vec::<String>::new());
        let one = open(&[("ipv4/conf/all/accept_redirects", "1")]);
        assert!(one.len() == 1 && one[0].contains("over IPv4"), "{one:?}");
        // Docker's containers forward, and the kernel then sets the one for all to 0.
        assert!(open(&[("ipv4/conf/LINK/forwarding", "1"), ("ipv4/conf/LINK/accept_redirects", "1")]).is_empty());
        assert_eq!(open(&[("accept_ra", "1")]), ["router advertisements are taken (accept_ra=1, forwarding=0)"]);
        assert!(open(&[("accept_ra", "1"), ("ipv6/conf/LINK/forwarding", "1")]).is_empty());
        assert_eq!(open(&[("accept_ra", "2"), ("ipv6/conf/LINK/forwarding", "1")]).len(), 1);
        assert!(open(&[("accept_ra", "2"), ("disable_ipv6", "1")]).is_empty());
        assert!(settings(|_| None).is_empty());
    }
}
