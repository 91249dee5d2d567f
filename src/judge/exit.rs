//! `exit-is-vpn`: what the internet sees.

use std::net::IpAddr;

use serde_json::json;

use super::{Case, Facts, Ruling, law, line, sighting_line};
use crate::config::Provider;
use crate::model::evidence::{Answer, Class, Evidence, Said, Sighting};
use crate::model::report::EvidenceLine;
use crate::model::verdict::{FailKind, Verdict};
use crate::sensor::allow::is_private;

/// An address that a witness saw.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exit<'a> {
    pub witness: &'a str,
    pub ip: IpAddr,
    pub of_provider: Option<bool>,
    pub at_ms: f64,
}

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    let Some(evidence) = case.evidence else {
        return Ruling::without_evidence();
    };
    if let Some(why) = &evidence.unasked {
        return Ruling::skip(why);
    }
    let facts = case.facts;
    let exits = exits(evidence, facts);
    let lines: Vec<EvidenceLine> = evidence.answers.iter().map(answer_line).collect();
    if let Some(wrong) = wrong(&exits, facts) {
        return wrong.ruling(lines);
    }
    if let Some(ruling) = escaped(case, evidence, &lines) {
        return ruling;
    }
    let mut doubts = law::sensor_doubts(case);
    doubts.extend(evidence.problems.clone());
    if exits.is_empty() {
        if let Some(ruling) = heard_otherwise(evidence, facts, &doubts, &lines) {
            return ruling;
        }
        let said = evidence
            .answers
            .iter()
            .map(|answer| format!("{}: {}", answer.witness, nothing(answer)))
            .collect::<Vec<_>>()
            .join("; ");
        doubts.push(format!("no witness answered ({})", if said.is_empty() { "none is configured" } else { &said }));
        return Ruling::inconclusive("no witness answered", &doubts, lines);
    }
    doubts.extend([false, true].into_iter().filter_map(|v6| unproven(facts, &exits, v6)));
    let shown = summary(&exits);
    if !doubts.is_empty() {
        return Ruling::inconclusive(&shown, &doubts, lines);
    }
    if disagree(&exits) {
        return Ruling::warn(
            format!("witnesses disagree: {shown}"),
            "witnesses of one address family saw different exits".to_owned(),
            lines,
        );
    }
    Ruling::pass(shown, lines)
}

/// What the witnesses of one technique saw. A private address is no exit, unless it is the uplink's own: the witness stands in
/// somebody's network.
pub(super) fn exits<'a>(evidence: &'a Evidence, facts: &Facts) -> Vec<Exit<'a>> {
    let seen = evidence.answers.iter().filter_map(|answer| match &answer.said {
        // A server with one socket for both families says ::ffff:203.0.113.10 (RFC 4291, 2.5.5.2).
        Said::Exit { ip, of_provider } => Some(Exit {
            witness: &answer.witness,
            ip: ip.to_canonical(),
            of_provider: *of_provider,
            at_ms: answer.at_ms,
        }),
        _ => None,
    });
    seen.filter(|exit| !is_private(exit.ip) || of_uplink(exit.ip, facts)).collect()
}

/// Why the exits of one address family are not proven to be the VPN's. What is proven of one family says nothing of the other.
pub(super) fn unproven(facts: &Facts, exits: &[Exit<'_>], v6: bool) -> Option<String> {
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

pub(super) fn of_uplink(ip: IpAddr, facts: &Facts) -> bool {
    facts.uplink_nets.iter().any(|net| net.contains(&ip))
}

/// An exit that must not be.
pub(super) struct Wrong<'a> {
    pub exit: Exit<'a>,
    pub summary: String,
    reason: &'static str,
}

impl Wrong<'_> {
    pub(super) fn ruling(&self, lines: Vec<EvidenceLine>) -> Ruling {
        let Exit { witness, ip, at_ms, .. } = self.exit;
        let first = line(at_ms, format!("{witness} saw {ip}"), json!({ "witness": witness, "ip": ip }));
        Ruling::fail(FailKind::Leak, self.summary.clone(), self.reason.to_owned(), first, lines)
    }
}

/// The worst of the exits that must not be.
pub(super) fn wrong<'a>(exits: &[Exit<'a>], facts: &Facts) -> Option<Wrong<'a>> {
    let find = |bad: &dyn Fn(&Exit<'_>) -> bool| exits.iter().find(|exit| bad(exit)).copied();
    if let Some(exit) = find(&|exit| facts.home.contains(&exit.ip)) {
        let summary = format!("the exit is home: {} saw {}", exit.witness, exit.ip);
        return Some(Wrong { exit, summary, reason: "a witness sees the home address" });
    }
    if let Some(exit) = find(&|exit| of_uplink(exit.ip, facts)) {
        let summary = format!("the exit {} is an address of the uplink's own network", exit.ip);
        return Some(Wrong { exit, summary, reason: "a witness sees the uplink's address" });
    }
    let mullvad = facts.provider == Some(Provider::Mullvad);
    if let Some(exit) = find(&|exit| mullvad && exit.of_provider == Some(false)) {
        let summary = format!("the exit {} is not Mullvad's", exit.ip);
        return Some(Wrong { exit, summary, reason: "the provider itself says that the exit is none of its own" });
    }
    let outside = |exit: &Exit<'_>| !facts.exit.is_empty() && !facts.exit.iter().any(|net| net.contains(&exit.ip));
    let exit = find(&outside)?;
    let summary = format!("the exit {} is in none of the networks of vpn.exit", exit.ip);
    Some(Wrong { exit, summary, reason: "the exit is not where it has to be" })
}

/// A failure, if a question of this evidence was seen leaving by an uplink, whatever came of it.
pub(super) fn escaped(case: &Case<'_>, evidence: &Evidence, lines: &[EvidenceLine]) -> Option<Ruling> {
    let sightings = case.wire.map(|wire| wire.sightings.as_slice()).unwrap_or_default();
    let own = |sighting: &&Sighting| {
        sighting.class == Class::Offence
            && evidence.stimuli.iter().any(|stimulus| {
                Some(stimulus.id) == sighting.stimulus
                    && stimulus.proto == sighting.proto
                    && stimulus.to == sighting.dst
            })
    };
    let sighting = sightings.iter().find(own)?;
    Some(Ruling::fail(
        FailKind::Leak,
        format!("a question to {} left by {}", super::end(sighting.dst), sighting.link),
        "a question to a witness was seen on an uplink".to_owned(),
        sighting_line(sighting),
        lines.to_vec(),
    ))
}

/// Nobody answered, but another technique of the same transport was answered, by the right exit, in the same phase: then it is the
/// witnesses that are missing and not the stack, and there is nothing that its owner could do about it.
fn heard_otherwise(evidence: &Evidence, facts: &Facts, doubts: &[String], lines: &[EvidenceLine]) -> Option<Ruling> {
    let (_, part) = evidence.parts.first()?;
    let others = exits(part, facts);
    if others.is_empty() || wrong(&others, facts).is_some() || !doubts.is_empty() {
        return None;
    }
    let reason = format!(
        "none of these witnesses answered, which is no fault of the stack: others were answered in the same phase, {}",
        summary(&others)
    );
    let lines = lines.iter().cloned().chain(part.answers.iter().map(answer_line)).collect();
    Some(Ruling {
        verdict: Verdict::Skip,
        summary: "nobody answered".to_owned(),
        reason: Some(reason),
        evidence: lines,
    })
}

/// Whether two exits of one address family differ.
pub(super) fn disagree(exits: &[Exit<'_>]) -> bool {
    let differ = |one: IpAddr, other: IpAddr| one.is_ipv6() == other.is_ipv6() && one != other;
    exits.iter().any(|one| exits.iter().any(|other| differ(one.ip, other.ip)))
}

pub(super) fn summary(exits: &[Exit<'_>]) -> String {
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
        Said::Exit { .. } => "it saw a private address",
        _ => "no address",
    }
}

pub(super) fn answer_line(answer: &Answer) -> EvidenceLine {
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

#[cfg(test)]
mod tests;
