//! `resolver-is-vpn`: who resolves the stack's names.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::json;

use super::{Case, Ruling, law, line, sighting_line};
use crate::config::Provider;
use crate::model::evidence::{Answer, Class, Said};
use crate::model::report::EvidenceLine;
use crate::model::verdict::FailKind;

/// How much of two addresses must agree for their owners to count as neighbours: resolvers of one ISP have several addresses.
const NEIGHBOURS_V4: u8 = 24;
const NEIGHBOURS_V6: u8 = 48;

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    let Some(evidence) = case.evidence else {
        return Ruling::without_evidence();
    };
    let facts = case.facts;
    let answers = &evidence.answers;
    let lines: Vec<EvidenceLine> = answers.iter().map(answer_line).collect();
    let leak = |first: EvidenceLine, summary: String, reason: &str| {
        Ruling::fail(FailKind::Leak, summary, reason.to_owned(), first, lines.clone())
    };

    let servers: Vec<(&Answer, IpAddr)> = answers
        .iter()
        .filter_map(|answer| match &answer.said {
            Said::Nameserver { ip, .. } => Some((answer, *ip)),
            _ => None,
        })
        .collect();
    let askers: Vec<(&Answer, IpAddr, Option<bool>)> = answers
        .iter()
        .filter_map(|answer| match &answer.said {
            Said::Asker { ip, of_provider, .. } => Some((answer, ip.to_canonical(), *of_provider)),
            _ => None,
        })
        .collect();

    for class in [Class::Offence, Class::Nearby, Class::LocalDns] {
        if let Some(sighting) = law::own(case, class).first() {
            let summary = format!("questions leave by {} to {}", sighting.link, super::end(sighting.dst));
            return leak(
                sighting_line(sighting),
                summary,
                "a question for a fresh name of this probe was seen on an uplink",
            );
        }
    }
    if let Some((answer, ip, _)) = askers.iter().find(|(_, ip, _)| is_homes(*ip, facts)) {
        let summary = format!("the authority sees {ip} asking, which is the home's side");
        return leak(
            answer_line(answer),
            summary,
            "the resolver that asks in the end stands at the home's side of the tunnel",
        );
    }
    // A public resolver asks from addresses of its own, whoever asks it: home and stack may use the same one. It tells for whom it asks.
    let told = answers.iter().find_map(|answer| match &answer.said {
        Said::ClientSubnet { net, .. } if is_of_home(net, facts) => Some((answer, net)),
        _ => None,
    });
    if let Some((answer, net)) = told {
        return leak(
            answer_line(answer),
            format!("the authority is told that {net} asks, which is the home's"),
            "the resolver was asked from the home's side of the tunnel",
        );
    }
    if let Some((answer, ip)) =
        servers.iter().find(|(_, ip)| !facts.resolvers.is_empty() && !facts.resolvers.contains(ip))
    {
        return leak(
            answer_line(answer),
            format!("resolv.conf names {ip}, which is not allowed"),
            "resolv.conf names a resolver that dns.resolvers does not",
        );
    }
    let (alive, dead): (Vec<_>, Vec<_>) = servers.iter().partition(|(_, ip)| resolves(answers, *ip));
    let mut doubts = law::sensor_doubts(case);
    doubts.extend(evidence.problems.clone());
    if servers.is_empty() {
        doubts.push("resolv.conf names no resolver that could be asked".to_owned());
        return Ruling::inconclusive("no resolver", &doubts, lines);
    }
    if alive.is_empty() {
        let (answer, ip) = servers[0];
        let why = answers.iter().find(|other| {
            other.witness == answer.witness && matches!(other.said, Said::Nothing { .. } | Said::Refused { .. })
        });
        let first = why.map_or_else(|| answer_line(answer), answer_line);
        return Ruling::fail(
            FailKind::Broken,
            format!("{ip} does not resolve names"),
            "no resolver of resolv.conf resolves the canary".to_owned(),
            first,
            lines,
        );
    }
    if askers.is_empty() {
        doubts.push("no echo service said who asks in the end".to_owned());
    }
    // Who asks for one resolver says nothing of another. An answer that any of several may have caused is no one's.
    for (_, server) in alive.iter().filter(|_| !askers.is_empty()) {
        let who = server.to_string();
        if !askers.iter().any(|(answer, ..)| matches!(&answer.said, Said::Asker { resolver, .. } if *resolver == who)) {
            doubts.push(format!("no echo service said who asks in the end when {who} is asked"));
        }
    }
    let of_vpn = |ip: IpAddr, of_provider: Option<bool>| {
        of_provider == Some(true) || facts.exit.iter().any(|net| net.contains(&ip))
    };
    let proven: Vec<IpAddr> =
        askers.iter().filter(|(_, ip, provider)| of_vpn(*ip, *provider)).map(|(_, ip, _)| *ip).collect();
    let foreign: Vec<IpAddr> = askers.iter().map(|(_, ip, _)| *ip).filter(|ip| !proven.contains(ip)).collect();
    let denied = askers.iter().any(|(_, ip, provider)| *provider == Some(false) && !proven.contains(ip));
    let mullvad = facts.provider == Some(Provider::Mullvad);
    if mullvad && !foreign.is_empty() && askers.iter().all(|(.., provider)| provider.is_none()) {
        doubts.push(format!(
            "Mullvad's own check did not answer, and no other witness can tell whose {} is",
            list(&foreign)
        ));
    }
    if !foreign.is_empty() && facts.home_resolvers.is_empty() {
        doubts.push(format!(
            "{} asks in the end, which is not known to be the VPN's, and what the home's own resolvers look like is not known either: set home.resolvers",
            list(&foreign)
        ));
    }
    let shown = format!("asked in the end by {}", list(&askers.iter().map(|(_, ip, _)| *ip).collect::<Vec<_>>()));
    if !doubts.is_empty() {
        return Ruling::inconclusive(
            if askers.is_empty() { "who asks in the end is not known" } else { &shown },
            &doubts,
            lines,
        );
    }
    if denied && mullvad {
        let reason = "the provider says that this resolver is none of its own; it is not the home's either".to_owned();
        return Ruling::warn(format!("names are resolved by {}, a third party", list(&foreign)), reason, lines);
    }
    if let Some((_, ip)) = dead.first() {
        return Ruling::warn(
            format!("{ip} of resolv.conf does not answer; {shown}"),
            "not every resolver of resolv.conf resolves the canary".to_owned(),
            lines,
        );
    }
    Ruling::pass(shown, lines)
}

/// Whether `ip` is the home's own, one of its resolvers, or next to one of them.
pub(super) fn is_homes(ip: IpAddr, facts: &super::Facts) -> bool {
    let known = facts.home.iter().chain(&facts.home_resolvers);
    facts.uplink_nets.iter().any(|net| net.contains(&ip))
        || known.into_iter().any(|home| neighbours(*home, ip)) && !facts.exit.iter().any(|net| net.contains(&ip))
}

/// Whether `net` holds an address of the home's, or is as near to one as its neighbours are.
pub(super) fn is_of_home(net: &IpNet, facts: &super::Facts) -> bool {
    // A subnet of everybody says that nothing was told (RFC 7871, section 7.1.2).
    net.prefix_len() > 0
        && !facts.exit.iter().any(|exit| exit.contains(&net.network()))
        && (facts.uplink_nets.iter().any(|uplink| uplink.contains(&net.network()))
            || facts.home.iter().any(|home| net.contains(home) || neighbours(*home, net.network())))
}

fn neighbours(a: IpAddr, b: IpAddr) -> bool {
    let length = if a.is_ipv4() { NEIGHBOURS_V4 } else { NEIGHBOURS_V6 };
    ipnet::IpNet::new(a, length).is_ok_and(|net| net.contains(&b))
}

pub(super) fn resolves(answers: &[Answer], server: IpAddr) -> bool {
    let who = server.to_string();
    answers.iter().any(|answer| answer.witness == who && matches!(answer.said, Said::Resolved { ip: Some(_) }))
}

pub(super) fn list(addresses: &[IpAddr]) -> String {
    let mut texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    texts.sort();
    texts.dedup();
    texts.join(" and ")
}

pub(super) fn answer_line(answer: &Answer) -> EvidenceLine {
    let witness = &answer.witness;
    let (what, fields) = match &answer.said {
        Said::Nameserver { ip, link } => {
            let by = link.as_deref().map_or_else(String::new, |link| format!(", reached by {link}"));
            (format!("resolv.conf names {ip}{by}"), json!({ "nameserver": ip, "link": link }))
        }
        Said::Resolved { ip } => {
            let found = ip.map_or_else(|| "no address".to_owned(), |ip| ip.to_string());
            (format!("{witness} resolves the canary: {found}"), json!({ "nameserver": witness, "ip": ip }))
        }
        Said::Refused { rcode } => (
            format!("{witness} does not resolve the canary: {rcode}"),
            json!({ "nameserver": witness, "rcode": rcode }),
        ),
        Said::Asker { resolver, ip, of_provider } => {
            let claim = match of_provider {
                Some(true) => ", which is the provider's",
                Some(false) => ", which is not the provider's",
                None => "",
            };
            (
                format!("{witness}: {ip} asked{claim}"),
                json!({ "witness": witness, "resolver": resolver, "ip": ip, "of_provider": of_provider }),
            )
        }
        Said::ClientSubnet { resolver, net } => {
            (format!("{witness}: asked for {net}"), json!({ "witness": witness, "resolver": resolver, "net": net }))
        }
        Said::Nothing { error } => {
            (format!("{witness} said nothing: {error}"), json!({ "witness": witness, "error": error }))
        }
        Said::Exit { ip, .. } => (format!("{witness} saw {ip}"), json!({ "witness": witness, "ip": ip })),
        Said::Reached { how } => (format!("{witness}: {how}"), json!({ "witness": witness, "how": how })),
        Said::Routed { .. }
        | Said::Peer { .. }
        | Said::Setting { .. }
        | Said::Holds { .. }
        | Said::ResolvConf { .. }
        | Said::Mapper { .. }
        | Said::Shares { .. }
        | Said::Account(_)
        | Said::Control { .. }
        | Said::Client(_)
        | Said::Locked { .. }
        | Said::Forwards { .. }
        | Said::Arrived { .. }
        | Said::Access { .. } => (format!("{witness}: an answer of another kind"), json!({ "witness": witness })),
    };
    line(answer.at_ms, what, fields)
}
