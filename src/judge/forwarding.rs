//! `nothing-forwarded`: the stack carries nothing on for its neighbours, nor does it while the tunnel is down.

use serde_json::json;

use super::{Case, Ruling, count, end, law, line, sighting_line};
use crate::model::evidence::{Class, Evidence, Said, Sighting, Via};
use crate::model::probe::Phase;
use crate::model::report::EvidenceLine;
use crate::model::verdict::FailKind;

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    let Some(evidence) = case.evidence else {
        return Ruling::without_evidence();
    };
    if let Some(why) = &evidence.unasked {
        return Ruling::skip(why);
    }
    let lines = arrivals(evidence);
    let escaped = law::escaped(case);
    if let Some((first, rest)) = escaped.split_first() {
        let summary = format!("a neighbour's {} for {} left by {}", first.proto, end(first.dst), first.link);
        let reason = "the stack carries packets of others on, past the tunnel: only its own are held".to_owned();
        let rest = rest.iter().map(|sighting| sighting_line(sighting)).chain(lines).collect();
        return Ruling::fail(FailKind::Leak, summary, reason, sighting_line(first), rest);
    }
    let tunnelled = law::own(case, Class::Tunnelled);
    if let Some(first) = tunnelled.first() {
        let packets: u64 = tunnelled.iter().map(|sighting: &&Sighting| sighting.count).sum();
        let summary = format!(
            "{} of a neighbour took the tunnel, e.g. {} for {}",
            count(packets, "packet"),
            first.proto,
            end(first.dst)
        );
        let reason =
            "the stack is a router for its neighbours; without the tunnel it may route them past it".to_owned();
        let seen = tunnelled.iter().map(|sighting| sighting_line(sighting));
        return Ruling::warn(summary, reason, seen.chain(lines).collect());
    }
    let mut doubts = law::sensor_doubts(case);
    let mut until = f64::INFINITY;
    if case.phase == Phase::Outage {
        doubts.extend(law::outage_doubts(case));
        until = case.outage.and_then(|outage| Some(outage.from_ms + outage.up_ms?)).unwrap_or(until);
    }
    doubts.extend(law::stimulus_doubts(evidence));
    for stimulus in evidence.stimuli.iter().filter(|stimulus| !law::arrived(evidence, stimulus, until)) {
        let in_time = if until.is_finite() { " while the tunnel was down" } else { "" };
        let (proto, to, via) = (stimulus.proto, end(stimulus.to), &stimulus.via);
        let doubt = match via {
            Via::Source(_) => format!("the {proto} packet to {to} {via} did not come to the stack{in_time}"),
            _ => format!("the {proto} packet to {to} did not come to the stack{in_time}"),
        };
        doubts.push(doubt);
    }
    if !doubts.is_empty() {
        return Ruling::inconclusive("nothing was seen to be carried on, which proves nothing", &doubts, lines);
    }
    Ruling::pass(
        format!("of {} for others the stack carried none on", count(evidence.stimuli.len() as u64, "packet")),
        lines,
    )
}

fn arrivals(evidence: &Evidence) -> Vec<EvidenceLine> {
    let lines = evidence.answers.iter().filter_map(|answer| match &answer.said {
        Said::Arrived { proto, from, to, .. } => {
            let what = format!("the stack was handed {proto} {} → {}", end(*from), end(*to));
            let fields = json!({ "proto": proto.to_string(), "from": end(*from), "to": end(*to) });
            Some(line(answer.at_ms, what, fields))
        }
        Said::Setting { text } => Some(line(answer.at_ms, text.clone(), json!({ "family": answer.witness }))),
        _ => None,
    });
    lines.collect()
}
