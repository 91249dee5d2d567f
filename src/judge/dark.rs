//! `goes-dark`: what happens while the tunnel is down on purpose, and whether it comes back.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;

use super::{Case, Ruling, count, law, line, sighting_line};
use crate::model::evidence::{Answer, OutageEvidence, Said};
use crate::model::report::EvidenceLine;
use crate::model::verdict::FailKind;

/// Two samples further apart than this show a machine on which nothing can be said of milliseconds.
const MAX_GAP_MS: f64 = 500.0;
/// Samples come about this often; a longer gap is told as the resolution that was reached.
const FINE_MS: f64 = 2.0;
/// Docker's resolver in a container's namespace.
const DOCKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    let Some(outage) = case.outage else {
        return Ruling::inconclusive("not measured", &["there was no outage".to_owned()], Vec::new());
    };
    let lines = lines(outage);
    let escaped = law::escaped(case);
    if let Some((first, rest)) = escaped.split_first() {
        let packets: u64 = escaped.iter().map(|sighting| sighting.count).sum();
        let summary = match (outage.holes.first(), outage.holes.iter().map(|hole| hole.to_ms).reduce(f64::max)) {
            (Some(hole), Some(to)) => format!(
                "{} left by {} between {:.1} and {to:.1} ms",
                count(packets, "packet"),
                first.link,
                hole.from_ms
            ),
            _ => format!("{} left by {}", count(packets, "packet"), first.link),
        };
        let rest = rest.iter().map(|sighting| sighting_line(sighting)).chain(lines).collect();
        return Ruling::fail(
            FailKind::Leak,
            summary,
            "packets left by an uplink while the tunnel was down".to_owned(),
            sighting_line(first),
            rest,
        );
    }
    if let Some(answer) = outage.resolved_while_down.iter().find(|answer| answered(answer)) {
        let summary = format!("names still resolved by {} while the tunnel was down", answer.witness);
        let reason = "a fresh name was resolved, so the question went another way than the tunnel".to_owned();
        let first = line(
            answer.at_ms,
            format!("{} answered for a fresh name", answer.witness),
            json!({ "witness": answer.witness }),
        );
        return Ruling::fail(FailKind::Leak, summary, reason, first, lines);
    }
    let mut doubts = outage.problems.clone();
    if outage.down_proof.is_none() && doubts.is_empty() {
        doubts.push("nothing proves that the tunnel was down".to_owned());
    }
    if outage.down_proof.is_some() && !outage.restored {
        let why = match outage.problems.as_slice() {
            [] => "nothing proves that what was changed is as it was".to_owned(),
            problems => problems.join("; "),
        };
        let first = line(outage.to_ms, why.clone(), json!({ "restored": false }));
        return Ruling::fail(
            FailKind::Broken,
            "the stack could not be put back as it was".to_owned(),
            why,
            first,
            lines,
        );
    }
    if outage.down_proof.is_some() && outage.recovered_ms.is_none() && outage.up_ms.is_some() && !ended_early(outage) {
        let at_ms = outage.to_ms;
        let first = line(at_ms, "no witness saw an exit of the VPN again".to_owned(), json!({ "recovered": false }));
        return Ruling::fail(
            FailKind::Broken,
            "the tunnel did not come back".to_owned(),
            outage.gave_up.clone().unwrap_or_else(|| "no exit of the VPN could be proven after the outage".to_owned()),
            first,
            lines,
        );
    }
    doubts.extend(law::sensor_doubts(case));
    // A resolver inside the namespace cannot ask anybody but by its links, where nothing was seen, and may deduce from what it knows of a
    // signed zone that a name does not exist (RFC 8198): names of many labels would not change that.
    for answer in outage.resolved_while_down.iter().filter(|answer| denied(answer) && may_deduce(answer)) {
        doubts.push(format!(
            "{} said of a fresh name that it does not exist, which it may have deduced without asking anybody",
            answer.witness
        ));
    }
    if outage.down_proof.is_some() && outage.blackhole_ms.is_none() && outage.problems.is_empty() {
        doubts.push("packets went through the tunnel all the time, so it never was down".to_owned());
    }
    if outage.samples.iter().map(|sample| sample.sent + sample.refused).sum::<u64>() == 0 {
        doubts.push("nothing was sent".to_owned());
    }
    for sample in outage.samples.iter().filter(|sample| sample.sent + sample.refused == 0) {
        doubts.push(format!("{} was never sent nor refused", sample.what));
    }
    if outage.longest_gap_ms > MAX_GAP_MS {
        doubts.push(format!(
            "there were {:.0} ms between two samples: the machine is too busy to see short holes",
            outage.longest_gap_ms
        ));
    }
    if ended_early(outage) {
        doubts.push("the outage was ended early".to_owned());
    } else if outage.recovered_ms.is_none() {
        doubts.push("nothing proves that the tunnel came back".to_owned());
    }
    if outage.resolved_while_down.is_empty() {
        doubts.push("no resolver was asked while the tunnel was down".to_owned());
    }
    if !doubts.is_empty() {
        doubts.dedup();
        return Ruling::inconclusive("nothing was seen on the uplink, which proves nothing", &doubts, lines);
    }
    let dark = outage.blackhole_ms.unwrap_or_default();
    let back = match (outage.recovered_ms, outage.up_ms) {
        (Some(recovered), Some(up)) if recovered - up < 1000.0 => {
            format!(", back after {:.0} ms", (recovered - up).max(0.0))
        }
        (Some(recovered), Some(up)) => format!(", back after {:.1} s", (recovered - up) / 1000.0),
        _ => String::new(),
    };
    let resolution = if outage.longest_gap_ms < FINE_MS {
        String::new()
    } else {
        format!(" (gaps of up to {:.0} ms)", outage.longest_gap_ms)
    };
    Ruling::pass(format!("dark after {dark:.1} ms, 0 packets out{resolution}{back}"), lines)
}

fn ended_early(outage: &OutageEvidence) -> bool {
    outage.events.iter().any(|event| event.what.contains("ended early"))
}

/// Whether somebody who knows the name's authority must have been asked. SERVFAIL and refusals are what a resolver says that cannot ask.
fn answered(answer: &Answer) -> bool {
    match &answer.said {
        Said::Resolved { .. } => true,
        Said::Refused { rcode } => rcode.contains("No Error") || denied(answer) && !may_deduce(answer),
        _ => false,
    }
}

fn denied(answer: &Answer) -> bool {
    matches!(&answer.said, Said::Refused { rcode } if rcode.contains("Non-Existent"))
}

/// Whether it is a resolver inside the namespace. Docker's is reached there, but asks from outside of it, where nobody watches.
fn may_deduce(answer: &Answer) -> bool {
    answer.witness.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() && ip != DOCKER)
}

fn lines(outage: &OutageEvidence) -> Vec<EvidenceLine> {
    let at = |ms: f64| outage.from_ms + ms;
    let mut lines: Vec<EvidenceLine> = outage
        .events
        .iter()
        .map(|event| {
            line(at(event.at_ms), format!("{:.1} ms: {}", event.at_ms, event.what), json!({ "outage_ms": event.at_ms }))
        })
        .collect();
    for hole in &outage.holes {
        let what = format!(
            "hole from {:.1} to {:.1} ms: {} of {}",
            hole.from_ms,
            hole.to_ms,
            count(hole.packets, "packet"),
            hole.proto
        );
        lines.push(line(
            at(hole.from_ms),
            what,
            json!({ "from_ms": hole.from_ms, "to_ms": hole.to_ms, "proto": hole.proto, "packets": hole.packets }),
        ));
    }
    for answer in &outage.resolved_while_down {
        let said = match &answer.said {
            Said::Resolved { .. } => "resolved a fresh name".to_owned(),
            Said::Refused { rcode } => format!("answered {rcode}"),
            Said::Nothing { error } => format!("said nothing: {error}"),
            _ => continue,
        };
        lines.push(line(answer.at_ms, format!("{} {said}", answer.witness), json!({ "nameserver": answer.witness })));
    }
    for sample in &outage.samples {
        let refusal = sample.refusal.as_deref().map_or_else(String::new, |name| format!(" ({name})"));
        let what = format!("{}: {} sent, {} refused{refusal}", sample.what, sample.sent, sample.refused);
        lines.push(line(outage.from_ms, what, json!({ "sent": sample.sent, "refused": sample.refused })));
    }
    let gap = format!("longest time between two samples: {:.1} ms", outage.longest_gap_ms);
    lines.push(line(outage.from_ms, gap, json!({ "longest_gap_ms": outage.longest_gap_ms })));
    lines
}
