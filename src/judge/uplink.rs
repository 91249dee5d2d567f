//! `nothing-on-uplink` and `forced-dns-contained`: stimuli that must not leave by an uplink.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{Case, Ruling, count, firewall, law, line, sighting_line};
use crate::config::ForcedPolicy;
use crate::model::evidence::{Class, Evidence, Fate};
use crate::model::report::EvidenceLine;
use crate::model::verdict::FailKind;

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    rule(case, None)
}

/// As [`judge`], and under the policy `drop` the tunnel may not carry them either.
pub(super) fn judge_forced(case: &Case<'_>) -> Ruling {
    let tunnelled = law::own(case, Class::Tunnelled);
    let policy = case.facts.forced_policy.filter(|policy| *policy == ForcedPolicy::Drop);
    rule(case, policy.and_then(|_| tunnelled.first()).map(|first| sighting_line(first)))
}

fn rule(case: &Case<'_>, forbidden_in_tunnel: Option<EvidenceLine>) -> Ruling {
    let Some(evidence) = case.evidence else {
        return Ruling::without_evidence();
    };
    let escaped = law::escaped(case);
    let packets: u64 = escaped.iter().map(|sighting| sighting.count).sum();
    if let Some((first, rest)) = escaped.split_first() {
        let summary = format!(
            "{} left by {}, e.g. {} to {}",
            count(packets, "packet"),
            first.link,
            first.proto,
            super::end(first.dst)
        );
        let reason = "packets of this probe were seen on an uplink".to_owned();
        let rest = rest.iter().map(|sighting| sighting_line(sighting)).chain(fates(case, evidence)).collect();
        return Ruling::fail(FailKind::Leak, summary, reason, sighting_line(first), rest);
    }
    if let Some(first) = forbidden_in_tunnel {
        let summary = "foreign resolvers can be asked through the tunnel, which the policy `drop` forbids".to_owned();
        let reason = "queries to foreign resolvers were seen in the tunnel".to_owned();
        return Ruling::fail(FailKind::Leak, summary, reason, first, fates(case, evidence));
    }
    let mut doubts: Vec<String> = law::sensor_doubts(case).into_iter().chain(law::stimulus_doubts(evidence)).collect();
    doubts.extend(firewall::untried(case));
    if !doubts.is_empty() {
        return Ruling::inconclusive(
            "nothing was seen on the uplink, which proves nothing",
            &doubts,
            fates(case, evidence),
        );
    }
    let of =
        |class| -> BTreeSet<u32> { law::own(case, class).iter().filter_map(|sighting| sighting.stimulus).collect() };
    let (seen, at_server) = (of(Class::Tunnelled), of(Class::Server));
    let sent = evidence.stimuli.iter().filter(|stimulus| stimulus.fate == Fate::Sent);
    let (tunnelled, silent): (Vec<_>, Vec<_>) = sent.partition(|stimulus| seen.contains(&stimulus.id));
    let refused = evidence.stimuli.len() - tunnelled.len() - silent.len();
    let silent: Vec<_> = silent.into_iter().filter(|stimulus| !at_server.contains(&stimulus.id)).collect();
    // The server's own port has to be open, and a firewall of addresses and ports cannot tell whose packets go there.
    let server: Vec<EvidenceLine> = law::own(case, Class::Server)
        .into_iter()
        .map(|sighting| {
            let mut line = sighting_line(sighting);
            line.what.push_str(", to the VPN server itself, which any program may send to");
            line
        })
        .collect();
    let summary = format!(
        "of {} tried {refused} were refused, {} took the tunnel, {} went nowhere, none left",
        evidence.stimuli.len(),
        tunnelled.len(),
        silent.len()
    );
    Ruling::pass(summary, fates(case, evidence).into_iter().chain(server).collect())
}

/// What became of the stimuli, alike ones together.
fn fates(case: &Case<'_>, evidence: &Evidence) -> Vec<EvidenceLine> {
    let tunnelled: BTreeSet<u32> =
        law::own(case, Class::Tunnelled).iter().filter_map(|sighting| sighting.stimulus).collect();
    let mut kinds: BTreeMap<String, (f64, u64)> = BTreeMap::new();
    for stimulus in &evidence.stimuli {
        let fate = match &stimulus.fate {
            Fate::Sent if tunnelled.contains(&stimulus.id) => "in the tunnel".to_owned(),
            Fate::Sent => "accepted, seen nowhere".to_owned(),
            Fate::Refused { name, .. } => format!("refused ({name})"),
            Fate::NotSent { reason } => format!("not sent ({reason})"),
        };
        let family = if stimulus.to.is_ipv6() { " over IPv6" } else { "" };
        let kind = format!("{} {}{family} {}: {fate}", stimulus.proto, stimulus.what, stimulus.via);
        let entry = kinds.entry(kind).or_insert((stimulus.at_ms, 0));
        entry.1 += 1;
    }
    kinds
        .into_iter()
        .map(|(kind, (at_ms, times))| {
            line(at_ms, format!("{kind}, {}", count(times, "time")), json!({ "fate": kind, "count": times }))
        })
        .collect()
}
