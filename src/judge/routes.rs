//! `routed-into-tunnel`: the kernel's own answers about the way of public addresses, and what became of packets that were sent where the
//! answer was an uplink.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde_json::json;

use super::{Case, Ruling, law, line, sighting_line};
use crate::model::evidence::names::{
    ROUTE_CONTROL, ROUTE_CONTROL_ALONE, ROUTE_INSIDE, ROUTE_LEARNED, ROUTE_OPEN, ROUTE_OTHERS, ROUTE_PEERS,
    ROUTE_PUBLIC,
};
use crate::model::evidence::{Answer, Class, Evidence, Fate, Role, Said};
use crate::model::report::EvidenceLine;
use crate::model::verdict::FailKind;
use crate::sensor::allow::{is_private, is_private_net};

/// Whether all that is routed past the tunnel is IPv6, and the tunnel has none.
fn is_never_tunnelled(case: &Case<'_>, evidence: &Evidence) -> bool {
    evidence.stimuli.iter().all(|stimulus| stimulus.to.is_ipv6())
        && case.facts.tunnel.is_some()
        && !case.facts.tunnel_has_ipv6()
}

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    let Some(evidence) = case.evidence else {
        return Ruling::without_evidence();
    };
    let lines: Vec<EvidenceLine> = evidence.answers.iter().map(answer_line).collect();
    let by_uplink = |who: &str| evidence.answers.iter().find(|answer| answer.witness == who && is_by_uplink(answer));
    let escaped = law::own(case, Class::Offence);
    let astray = by_uplink(ROUTE_PUBLIC);
    if let Some(first) = escaped.first() {
        let summary = astray.map_or_else(|| "packets left by an uplink".to_owned(), summary);
        let reason = "packets that were sent there were seen on the uplink".to_owned();
        let rest = escaped[1..].iter().map(|sighting| sighting_line(sighting)).chain(lines).collect();
        return Ruling::fail(FailKind::Leak, summary, reason, sighting_line(first), rest);
    }
    if let Some(inside) = by_uplink(ROUTE_INSIDE) {
        let reason = "what is meant for the VPN's own resolver leaves by the uplink, in clear".to_owned();
        return Ruling::fail(FailKind::Leak, summary(inside), reason, answer_line(inside), lines);
    }
    let strays = stray_peers(case);
    if let Some(stray) = strays.iter().find(|stray| is_near(case, stray.at)) {
        let reason = "the tunnel itself hands it to somebody near, who sends it on past the VPN".to_owned();
        return Ruling::fail(FailKind::Leak, stray.text(), reason, answer_line(stray.answer), lines);
    }
    let held = !evidence.stimuli.is_empty()
        && evidence.stimuli.iter().all(|stimulus| !matches!(stimulus.fate, Fate::NotSent { .. }));
    let untunnelled = astray.filter(|_| held && is_never_tunnelled(case, evidence));
    if let Some(astray) = astray.filter(|_| untunnelled.is_none()) {
        let reason = if held {
            "packets that were sent there were not seen on the uplink: only the firewall holds them"
        } else {
            "whether the firewall holds such packets was not tried"
        };
        return Ruling::fail(FailKind::Broken, summary(astray), reason.to_owned(), answer_line(astray), lines);
    }
    let mut doubts = law::sensor_doubts(case);
    doubts.extend(evidence.problems.clone());
    let of = |who: &'static str| evidence.answers.iter().filter(move |answer| answer.witness == who);
    let (control, is_right, meant): (_, fn(&Answer) -> bool, _) = if case.facts.uplinks.is_empty() {
        (ROUTE_CONTROL_ALONE, is_by_loopback, "the namespace's own addresses that they are on its loopback link")
    } else {
        (ROUTE_CONTROL, is_by_uplink, "the uplink's own neighbours that they are on the uplink")
    };
    if of(control).next().is_none() || !of(control).all(is_right) {
        doubts.push(format!("the kernel does not say of {meant}"));
    }
    let asked: u64 = of(ROUTE_PUBLIC).map(number).sum();
    if asked == 0 {
        doubts.push("no public address was asked for".to_owned());
    }
    let strange =
        of(ROUTE_PUBLIC).find(|answer| matches!(&answer.said, Said::Routed { link: Some(_), role: None, .. }));
    if let Some(strange) = strange {
        doubts.push(format!("{}, which is neither the tunnel nor an uplink", summary(strange)));
    }
    if !doubts.is_empty() {
        return Ruling::inconclusive("no public address was found to be routed past the tunnel", &doubts, lines);
    }
    if let Some(astray) = untunnelled {
        let reason = "the tunnel has no IPv6, and packets that were sent there were not seen on the uplink: only the \
                      firewall holds them; without IPv6 in the stack's namespace there is nothing to hold"
            .to_owned();
        return Ruling::warn(summary(astray), reason, lines);
    }
    if let Some(stray) = strays.first() {
        let reason =
            "whoever keeps that peer sends it on as he likes: the exit that was seen says nothing of it".to_owned();
        return Ruling::warn(stray.text(), reason, lines);
    }
    if let Some(others) = by_uplink(ROUTE_OTHERS) {
        let rule = match &others.said {
            Said::Routed { by: Some(by), .. } => by.as_str(),
            _ => "a rule",
        };
        let reason =
            format!("{rule} leads what others send through the stack past the tunnel, unless the firewall holds it");
        return Ruling::warn(summary(others), reason, lines);
    }
    if let Some(Answer { said: Said::Setting { text }, .. }) = of(ROUTE_LEARNED).next() {
        let reason = "others on the network can make routes of the stack; the tunnel's still go before them".to_owned();
        return Ruling::warn(format!("a route was learned: {text}"), reason, lines);
    }
    if let Some(Answer { said: Said::Setting { text }, .. }) = of(ROUTE_OPEN).next() {
        // Routers advertise routes over IPv6 alone (RFC 4861).
        let v6 = |answer: &&Answer| matches!(&answer.said, Said::Routed { examples, .. } if examples.iter().any(IpAddr::is_ipv6));
        let reason = if of(ROUTE_PUBLIC).filter(v6).any(|answer| has_role(answer, Role::Tunnel)) {
            "a neighbour can make or change routes by that link; the tunnel's still go before them"
        } else {
            "a neighbour can make routes by that link, and the tunnel has none over IPv6 that go before them: then the firewall alone holds it"
        };
        return Ruling::warn(text.clone(), reason.to_owned(), lines);
    }
    let tunnelled: u64 = of(ROUTE_PUBLIC).filter(|answer| has_role(answer, Role::Tunnel)).map(number).sum();
    let summary = format!("of {asked} answers {tunnelled} were the tunnel, {} that there is no way", asked - tunnelled);
    Ruling::pass(summary, lines)
}

/// A peer of WireGuard's that gets public addresses, and is not the VPN server.
struct Stray<'a> {
    answer: &'a Answer,
    at: SocketAddr,
    net: &'a IpNet,
}

impl Stray<'_> {
    fn text(&self) -> String {
        format!("{} goes to the WireGuard peer at {}, which is not the VPN server", self.net, self.at)
    }
}

/// Of all peers that get public addresses one is the VPN server. It may have been another at the start of the run, or be reached by a program
/// of the namespace that carries the tunnel on: then the one that gets most is it.
fn stray_peers<'a>(case: &Case<'a>) -> Vec<Stray<'a>> {
    let answers = case.evidence.into_iter().flat_map(|evidence| &evidence.answers);
    let mut carriers: Vec<Stray<'a>> = answers
        .filter(|answer| answer.witness == ROUTE_PEERS)
        .filter_map(|answer| match &answer.said {
            Said::Peer { endpoint: Some(at), allowed } => {
                let public = allowed.iter().filter(|net| is_public(net));
                Some(Stray { answer, at: *at, net: public.min_by_key(|net| net.prefix_len())? })
            }
            _ => None,
        })
        .collect();
    carriers.sort_by_key(|peer| peer.net.prefix_len());
    let is_server = |peer: &Stray<'_>| case.facts.is_server(peer.at.ip());
    let main =
        carriers.iter().find(|peer| is_server(peer)).or_else(|| carriers.iter().find(|peer| is_own(case, peer.at)));
    let main = main.or_else(|| carriers.iter().find(|peer| case.facts.endpoint.is_none() || !is_near(case, peer.at)));
    let main = main.map(|peer| peer.at.ip());
    carriers.retain(|peer| Some(peer.at.ip()) != main);
    carriers
}

fn is_public(net: &IpNet) -> bool {
    let link_local = matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local());
    !(is_private_net(net) || net.network().is_multicast() || link_local)
}

/// Whether it is an address of the namespace itself.
fn is_own(case: &Case<'_>, at: SocketAddr) -> bool {
    at.ip().is_loopback() || case.facts.uplink_nets.iter().any(|net| net.addr() == at.ip())
}

/// Whether it is another host on this side of the home's line.
fn is_near(case: &Case<'_>, at: SocketAddr) -> bool {
    let nets = case.facts.local.iter().chain(&case.facts.uplink_nets);
    let link_local = matches!(at, SocketAddr::V6(at) if at.ip().is_unicast_link_local());
    !is_own(case, at) && (is_private(at.ip()) || link_local || nets.into_iter().any(|net| net.contains(&at.ip())))
}

fn has_role(answer: &Answer, wanted: Role) -> bool {
    matches!(&answer.said, Said::Routed { role: Some(role), .. } if *role == wanted)
}

fn is_by_uplink(answer: &Answer) -> bool {
    has_role(answer, Role::Uplink)
}

fn is_by_loopback(answer: &Answer) -> bool {
    matches!(&answer.said, Said::Routed { link: Some(link), role: None, .. } if link == "lo")
}

fn number(answer: &Answer) -> u64 {
    match &answer.said {
        Said::Routed { addresses, .. } => *addresses,
        _ => 0,
    }
}

fn summary(answer: &Answer) -> String {
    let Said::Routed { link, examples, flow, .. } = &answer.said else { return answer.witness.clone() };
    let example = examples.first().map(ToString::to_string).unwrap_or_default();
    let flow = if flow == "any packet" { String::new() } else { format!(" ({flow})") };
    format!("{example}{flow} is routed by {}", link.as_deref().unwrap_or("no link"))
}

fn answer_line(answer: &Answer) -> EvidenceLine {
    let (what, fields) = match &answer.said {
        Said::Routed { link, addresses, examples, flow, by, .. } => {
            let some: Vec<String> = examples.iter().take(3).map(ToString::to_string).collect();
            let way = link.as_ref().map_or_else(|| "no way".to_owned(), |link| format!("by {link}"));
            let by = by.as_ref().map(|by| format!(" ({by})")).unwrap_or_default();
            let what = format!("{}, {flow}: {addresses} {way}{by}, e.g. {}", answer.witness, some.join(", "));
            (what, json!({ "link": link, "addresses": addresses, "examples": examples, "flow": flow }))
        }
        Said::Setting { text } => (format!("{}: {text}", answer.witness), json!({ "text": text })),
        Said::Peer { endpoint, allowed } => {
            let at = endpoint.map_or_else(|| "an address that is not known".to_owned(), |at| at.to_string());
            let nets: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            let what = format!("{}: {at} gets {}", answer.witness, nets.join(", "));
            (what, json!({ "endpoint": endpoint, "allowed": allowed }))
        }
        _ => (answer.witness.clone(), json!({})),
    };
    line(answer.at_ms, what, fields)
}
