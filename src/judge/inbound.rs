//! `no-stranger-answered`: no program of the stack answers by an uplink to somebody who comes by the home's line.

use std::net::SocketAddr;

use serde_json::json;

use super::{Case, Ruling, end, law, line, sighting_line};
use crate::model::evidence::{Class, Evidence, Proto, Said, Sighting};
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
    // A refusal or an error is no answer: its packets belong to no stimulus, or are of another protocol.
    let answers: Vec<(&Sighting, (Proto, SocketAddr))> = law::own(case, Class::Offence)
        .into_iter()
        .chain(law::own(case, Class::Nearby))
        .filter_map(|sighting| {
            let asked = evidence.stimuli.iter().find(|stimulus| Some(stimulus.id) == sighting.stimulus)?;
            (asked.proto == sighting.proto).then_some((sighting, (asked.proto, asked.to)))
        })
        .collect();
    if let Some((first, (proto, to))) = answers.iter().find(|(_, asked)| is_published(evidence, *asked)) {
        let summary =
            format!("whoever comes by the home's line gets an answer from {proto} {} by {}", end(*to), first.link);
        let reason = "a published port is answered past the tunnel, under the home address".to_owned();
        let rest = answers.iter().filter(|(other, _)| other != first).map(|(other, _)| sighting_line(other));
        return Ruling::fail(FailKind::Leak, summary, reason, sighting_line(first), rest.chain(lines).collect());
    }
    if !answers.is_empty() {
        let mut ports: Vec<String> = answers.iter().map(|(_, (proto, to))| format!("{proto} {}", to.port())).collect();
        ports.sort();
        ports.dedup();
        let summary = format!("{} would answer a stranger past the tunnel, were it published", ports.join(", "));
        let reason = "the program listens on the uplink too, and the firewall lets its answers out".to_owned();
        let seen = answers.iter().map(|(sighting, _)| sighting_line(sighting));
        return Ruling::warn(summary, reason, seen.chain(lines).collect());
    }
    let mut doubts = law::sensor_doubts(case);
    if evidence.stimuli.is_empty() {
        doubts.extend(evidence.problems.clone());
    } else {
        doubts.extend(law::stimulus_doubts(evidence));
    }
    for stimulus in &evidence.stimuli {
        if !law::arrived(evidence, stimulus, f64::INFINITY) {
            doubts.push(format!("the {} to {} did not come in by the uplink", stimulus.what, end(stimulus.to)));
        }
    }
    if !doubts.is_empty() {
        return Ruling::inconclusive("no answer to a stranger was seen, which proves nothing", &doubts, lines);
    }
    let summary = match evidence.stimuli.len() {
        0 => "no program listens on an uplink that is not meant to".to_owned(),
        asked => format!("of {asked} open ports none answered a stranger"),
    };
    Ruling::pass(summary, lines)
}

fn is_published(evidence: &Evidence, asked: (Proto, SocketAddr)) -> bool {
    evidence
        .answers
        .iter()
        .any(|answer| matches!(answer.said, Said::Arrived { proto, to, published: true, .. } if (proto, to) == asked))
}

fn arrivals(evidence: &Evidence) -> Vec<EvidenceLine> {
    let lines = evidence.answers.iter().filter_map(|answer| match &answer.said {
        Said::Arrived { proto, from, to, published } => {
            let how = if *published { ", by a published port" } else { "" };
            let what = format!("{proto} {} came in from {}{how}", end(*to), end(*from));
            let fields =
                json!({ "proto": proto.to_string(), "from": end(*from), "to": end(*to), "published": published });
            Some(line(answer.at_ms, what, fields))
        }
        Said::Setting { text } => Some(line(answer.at_ms, text.clone(), json!({ "address": answer.witness }))),
        _ => None,
    });
    lines.collect()
}
