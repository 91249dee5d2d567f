//! The firewall's text beside a leak that was seen: which rule or policy lets such a packet pass. An explanation, never a proof: it is
//! asked for after the verdict, and changes nothing of it. And the rules that no packet was sent for, which take a pass away.

use std::net::SocketAddr;

use serde_json::json;

use super::{Case, Ruling, end, law, line, wire};
use crate::model::evidence::{Class, Sighting};
use crate::model::firewall::{Backend, Besides, FirewallText, Opinion, Packet};
use crate::model::probe::Expectation;
use crate::model::report::EvidenceLine;
use crate::model::verdict::{FailKind, Verdict};

/// Packets that are explained at most, of different kinds.
const MAX_PACKETS: usize = 3;
/// Rules that may have let a packet pass and are named at most.
const MAX_PERHAPS: usize = 2;

/// Lines that explain a leak; empty where there is none, or nothing was read.
pub(super) fn explain(case: &Case<'_>, ruling: &Ruling) -> Vec<EvidenceLine> {
    let Some(firewall) = &case.facts.firewall else { return Vec::new() };
    // What others send through the stack is not asked of the chains that were read.
    if ruling.verdict != Verdict::Fail(FailKind::Leak) || case.probe.expect == Expectation::NothingForwarded {
        return Vec::new();
    }
    let mut explained: Vec<&Sighting> = Vec::new();
    for sighting in leaked(case) {
        let alike = |other: &&Sighting| {
            (&other.link, other.proto, other.dst.is_ipv6()) == (&sighting.link, sighting.proto, sighting.dst.is_ipv6())
        };
        if explained.len() < MAX_PACKETS && !explained.iter().any(alike) {
            explained.push(sighting);
        }
    }
    let mut lines: Vec<EvidenceLine> = explained.iter().flat_map(|sighting| of(firewall, sighting)).collect();
    lines.extend(explained.iter().find_map(|sighting| other_backend(firewall, sighting)));
    if !lines.is_empty() {
        let problems = firewall.problems.iter().map(|problem| format!("the firewall's text is not whole: {problem}"));
        lines.extend(problems.map(|what| line(firewall.read_ms, what, json!({ "firewall": true }))));
    }
    lines
}

/// Rules that may let packets of the probe's family pass, or send them elsewhere, although none of those that were sent did: they are about
/// packets that were not sent, of another length or TTL or user. Asked for by the probes of a whole family alone.
pub(super) fn untried(case: &Case<'_>) -> Option<String> {
    let facts = case.facts;
    let v6 = family(case)?;
    let servers: Vec<SocketAddr> = facts.servers().collect();
    let unsettled = |text: &FirewallText| text.unsettled(v6, &facts.uplinks, &facts.local, &servers);
    let mut rules = facts.firewall.as_ref().map(unsettled).unwrap_or_default();
    let opened = case.wire.map(|wire| wire.opened.as_slice()).unwrap_or_default();
    for later in opened.iter().filter(|opened| opened.v6 == v6) {
        if !rules.contains(later) {
            rules.push(later.clone());
        }
    }
    let named = some_of(&rules.into_iter().map(|opened| opened.rule).collect::<Vec<_>>())?;
    Some(format!(
        "the firewall accepts, or sends elsewhere, by {named}: packets that it means may pass by the uplink, and what was tried does not settle it"
    ))
}

/// Which family the probe is about, where it is about the whole of one: IPv6, or IPv4.
fn family(case: &Case<'_>) -> Option<bool> {
    match case.probe.params.get("family")?.as_str()? {
        "ipv4" => Some(false),
        "ipv6" => Some(true),
        _ => None,
    }
}

/// The first of these rules, and how many more there are; `None`: there are none.
fn some_of(rules: &[String]) -> Option<String> {
    let more = rules.len().saturating_sub(MAX_PERHAPS);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let named = rules.iter().take(MAX_PERHAPS).map(String::as_str).collect::<Vec<_>>().join(" and ");
    (!rules.is_empty()).then(|| format!("{named}{more}"))
}

fn leaked<'a>(case: &Case<'a>) -> Vec<&'a Sighting> {
    if case.probe.expect != Expectation::WireQuiet {
        return law::escaped(case);
    }
    let sightings = case.wire.map(|wire| wire.sightings.as_slice()).unwrap_or_default();
    let own = |sighting: &&Sighting| sighting.class == Class::Offence && wire::unclaimed(sighting);
    sightings.iter().filter(own).collect()
}

fn packet(sighting: &Sighting) -> Packet<'_> {
    let besides = Besides::default();
    Packet { link: &sighting.link, proto: sighting.proto, src: sighting.src, dst: sighting.dst, besides }
}

/// What each chain that is asked for such a packet says of it, as its rules were when they were read.
fn of(firewall: &FirewallText, sighting: &Sighting) -> Vec<EvidenceLine> {
    let about = format!("{} to {} by {}", sighting.proto, end(sighting.dst), sighting.link);
    let say = |what: String, chain: Option<String>| {
        line(firewall.read_ms, what, json!({ "firewall": true, "chain": chain, "packet": about }))
    };
    let chains = firewall.asked(sighting.dst.is_ipv6());
    if chains.is_empty() {
        return vec![say(format!("no chain of the firewall's text is asked for {about}"), None)];
    }
    let lines = chains.iter().map(|chain| {
        let Opinion { passes, by, perhaps } = firewall.opinion(chain, &packet(sighting));
        let by = by.unwrap_or_else(|| "its policy".to_owned());
        let what = if passes {
            format!("lets {about} pass: {by}")
        } else if perhaps.is_empty() {
            format!("says that {about} is dropped ({by}): the rules were others then, or it went past them")
        } else {
            let rules: Vec<&str> = perhaps.iter().take(MAX_PERHAPS).map(String::as_str).collect();
            format!("may let {about} pass: {}; else it is dropped ({by})", rules.join(" or "))
        };
        say(format!("by the text of {chain} it {what}"), Some(chain.to_string()))
    });
    lines.collect()
}

/// Where one backend lets the packet pass without a rule that drops anything of its family, and the other holds such rules, for this
/// family or the other one alone, those were probably meant.
fn other_backend(firewall: &FirewallText, sighting: &Sighting) -> Option<EvidenceLine> {
    let both = [(Backend::Nftables, Backend::Legacy), (Backend::Legacy, Backend::Nftables)];
    let v6 = sighting.dst.is_ipv6();
    let (own_name, other_name) = if v6 { ("IPv6", "IPv4") } else { ("IPv4", "IPv6") };
    both.into_iter().find_map(|(open, strict)| {
        let chains = firewall.asked(v6);
        let own = || chains.iter().filter(|chain| chain.backend == open);
        let asked = own().next().is_some() || chains.is_empty();
        let passes = asked && own().all(|chain| firewall.opinion(chain, &packet(sighting)).passes);
        if !passes || firewall.drops(open, v6) > 0 {
            return None;
        }
        let (drops, elsewhere) = (firewall.drops(strict, v6), firewall.drops(strict, !v6));
        let things = |number| if number == 1 { "1 rule or policy".to_owned() } else { format!("{number} rules and policies") };
        let what = match (drops, elsewhere) {
            (0, 0) => return None,
            // One backend that holds both families' rules is no sign of a mistake between backends.
            (0, _) if firewall.drops(open, !v6) > 0 => return None,
            (0, other) => format!(
                "{open} drops no {own_name}, and {strict} holds {} that drop for {other_name} alone: were the rules of both families written to one backend?",
                things(other)
            ),
            (drops, _) => format!(
                "{open} drops nothing, while {strict} holds {} that drop: are the rules written to both?",
                things(drops)
            ),
        };
        let fields = json!({ "firewall": true, "drops": drops.max(elsewhere), "backend": strict.to_string() });
        Some(line(firewall.read_ms, what, fields))
    })
}
