//! `exit-is-vpn`: what the internet sees.

use std::net::IpAddr;

use serde_json::json;

use super::{Case, Ruling, law, line};
use crate::config::Provider;
use crate::model::evidence::{Answer, Said};
use crate::model::report::EvidenceLine;
use crate::model::verdict::FailKind;
use crate::sensor::allow::is_private;

struct Exit<'a> {
    witness: &'a str,
    ip: IpAddr,
    of_provider: Option<bool>,
    at_ms: f64,
}

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    let Some(evidence) = case.evidence else {
        return Ruling::inconclusive(
            "not measured",
            &["the technique brought no evidence back".to_owned()],
            Vec::new(),
        );
    };
    let facts = case.facts;
    let mut exits: Vec<Exit<'_>> = evidence.answers.iter().filter_map(exit).collect();
    let lines: Vec<EvidenceLine> = evidence.answers.iter().map(answer_line).collect();
    let fail = |exit: &Exit<'_>, summary: String, reason: &str| {
        let first = line(
            exit.at_ms,
            format!("{} saw {}", exit.witness, exit.ip),
            json!({ "witness": exit.witness, "ip": exit.ip }),
        );
        Ruling::fail(FailKind::Leak, summary, reason.to_owned(), first, lines.clone())
    };
    if let Some(exit) = exits.iter().find(|exit| facts.home.contains(&exit.ip)) {
        return fail(
            exit,
            format!("the exit is home: {} saw {}", exit.witness, exit.ip),
            "a witness sees the home address",
        );
    }
    if let Some(exit) = exits.iter().find(|exit| facts.uplink_nets.iter().any(|net| net.contains(&exit.ip))) {
        return fail(
            exit,
            format!("the exit {} is an address of the uplink's own network", exit.ip),
            "a witness sees the uplink's address",
        );
    }
    let mullvad = facts.provider == Some(Provider::Mullvad);
    if let Some(exit) = exits.iter().find(|exit| mullvad && exit.of_provider == Some(false)) {
        return fail(
            exit,
            format!("the exit {} is not Mullvad's", exit.ip),
            "the provider itself says that the exit is none of its own",
        );
    }
    if let Some(exit) =
        exits.iter().find(|exit| !facts.exit.is_empty() && !facts.exit.iter().any(|net| net.contains(&exit.ip)))
    {
        return fail(
            exit,
            format!("the exit {} is in none of the networks of vpn.exit", exit.ip),
            "the exit is not where it has to be",
        );
    }
    let mut doubts = law::sensor_doubts(case);
    doubts.extend(evidence.problems.clone());
    // Nobody on the internet sees such an address: whoever says so does not know.
    exits.retain(|exit| !is_private(exit.ip));
    if exits.is_empty() {
        let said = evidence
            .answers
            .iter()
            .map(|answer| format!("{}: {}", answer.witness, nothing(answer)))
            .collect::<Vec<_>>()
            .join("; ");
        doubts.push(format!("no witness answered ({})", if said.is_empty() { "none is configured" } else { &said }));
        return Ruling::inconclusive("no witness answered", &doubts, lines);
    }
    doubts.extend([false, true].into_iter().filter_map(|v6| unproven(case, &exits, v6)));
    let shown = summary(&exits);
    if !doubts.is_empty() {
        return Ruling::inconclusive(&shown, &doubts, lines);
    }
    if disagree(&exits, true) || disagree(&exits, false) {
        return Ruling::warn(
            format!("witnesses disagree: {shown}"),
            "witnesses of one address family saw different exits".to_owned(),
            lines,
        );
    }
    Ruling::pass(shown, lines)
}

fn exit(answer: &Answer) -> Option<Exit<'_>> {
    match &answer.said {
        // A server with one socket for both families says ::ffff:203.0.113.10 (RFC 4291, 2.5.5.2).
        Said::Exit { ip, of_provider } => Some(Exit {
            witness: &answer.witness,
            ip: ip.to_canonical(),
            of_provider: *of_provider,
            at_ms: answer.at_ms,
        }),
        _ => None,
    }
}

/// Why the exits of one address family are not proven to be the VPN's. What is proven of one family says nothing of the other.
fn unproven(case: &Case<'_>, exits: &[Exit<'_>], v6: bool) -> Option<String> {
    let facts = case.facts;
    let mut of_family = exits.iter().filter(|exit| exit.ip.is_ipv6() == v6).peekable();
    of_family.peek()?;
    // Where it is stated where exits lie, each of them has been held against it.
    if !facts.exit.is_empty() {
        return None;
    }
    let family = if v6 { "IPv6" } else { "IPv4" };
    if facts.provider == Some(Provider::Mullvad) {
        let confirmed = of_family.any(|exit| exit.of_provider == Some(true));
        return (!confirmed).then(|| {
            format!("Mullvad's own check did not answer over {family}, and no other witness can tell whose exit it is")
        });
    }
    let known = facts.home.iter().any(|home| home.is_ipv6() == v6);
    // Without a public IPv6 address on the uplink a home may well have none at all.
    let possible = !v6 || facts.uplink_nets.iter().any(|net| is_public_v6(net.addr()));
    (!known && possible)
        .then(|| format!("the home's {family} address is not known, so an exit cannot be told from it: set home.ip"))
}

fn is_public_v6(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if !v6.is_unicast_link_local()) && !is_private(ip)
}

fn disagree(exits: &[Exit<'_>], v6: bool) -> bool {
    let mut seen = exits.iter().map(|exit| exit.ip).filter(|ip| ip.is_ipv6() == v6);
    let first = seen.next();
    seen.any(|ip| Some(ip) != first)
}

fn summary(exits: &[Exit<'_>]) -> String {
    let mut addresses: Vec<String> = exits.iter().map(|exit| exit.ip.to_string()).collect();
    addresses.sort();
    addresses.dedup();
    let confirmed =
        if exits.iter().any(|exit| exit.of_provider == Some(true)) { ", confirmed by the provider" } else { "" };
    format!("exit {}{confirmed}", addresses.join(" and "))
}

fn nothing(answer: &Answer) -> &str {
    match &answer.said {
        Said::Nothing { error } => error,
        Said::Exit { .. } => "an address that no exit can have",
        _ => "no address",
    }
}

fn answer_line(answer: &Answer) -> EvidenceLine {
    match &answer.said {
        Said::Exit { ip, of_provider } => {
            let claim = match of_provider {
                Some(true) => ", which is the provider's",
                Some(false) => ", which is not the provider's",
                None => "",
            };
            line(
                answer.at_ms,
                format!("{} saw {ip}{claim}", answer.witness),
                json!({ "witness": answer.witness, "ip": ip, "of_provider": of_provider }),
            )
        }
        _ => line(
            answer.at_ms,
            format!("{} said nothing: {}", answer.witness, nothing(answer)),
            json!({ "witness": answer.witness, "error": nothing(answer) }),
        ),
    }
}
