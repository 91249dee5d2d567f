//! `dependents-joined`: whether every container that was meant to share the stack's network does.

use serde_json::json;

use super::{Case, Ruling, count, law, line};
use crate::model::evidence::{Answer, Said};
use crate::model::report::EvidenceLine;
use crate::model::verdict::FailKind;

/// State of a container that runs, in Docker's words.
const RUNNING: &str = "running";

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    let Some(evidence) = case.evidence else {
        return Ruling::inconclusive("not measured", &["nobody asked Docker".to_owned()], Vec::new());
    };
    if let Some(why) = &evidence.unasked {
        return Ruling::skip(why);
    }
    if evidence.answers.is_empty() && evidence.problems.is_empty() {
        return Ruling::skip("no container shares the stack's network");
    }
    let lines: Vec<EvidenceLine> = evidence.answers.iter().filter_map(answer_line).collect();
    let of = |wanted: fn(&Said) -> bool| -> Vec<&Answer> {
        evidence.answers.iter().filter(|answer| wanted(&answer.said)).collect()
    };
    let outside = of(|said| matches!(said, Said::Shares { joined: Some(false), state, .. } if state == RUNNING));
    if let Some(first) = outside.first().and_then(|first| answer_line(first)) {
        let summary = match outside.as_slice() {
            [one] => format!("{} is outside of the stack's network", one.witness),
            all => format!(
                "{} are outside of the stack's network, e.g. {}",
                count(all.len() as u64, "container"),
                all[0].witness
            ),
        };
        let reason = "what joined the network of a container before that was started again is left in a network of nothing, \
                      offline until it is restarted itself";
        return Ruling::fail(FailKind::Broken, summary, reason.to_owned(), first, lines);
    }
    let mut doubts = evidence.problems.clone();
    doubts.extend(law::sensor_doubts(case));
    let unknown = of(|said| matches!(said, Said::Shares { joined: None, state, .. } if state == RUNNING));
    doubts.extend(unknown.iter().map(|answer| format!("whether {} is in it is not known", answer.witness)));
    if !doubts.is_empty() {
        return Ruling::inconclusive("not every container could be looked at", &doubts, lines);
    }
    let restarted = of(|said| matches!(said, Said::Shares { restarted: true, .. }));
    if let Some(first) = restarted.first() {
        let summary = format!("{} was left outside of the stack's network, and had to be restarted", first.witness);
        let reason = "it would have stayed offline without --restart-dependents".to_owned();
        return Ruling::warn(summary, reason, lines);
    }
    let inside = of(|said| matches!(said, Said::Shares { joined: Some(true), .. }));
    if inside.is_empty() {
        return Ruling::skip("no container that shares the stack's network runs");
    }
    let names: Vec<&str> = inside.iter().map(|answer| answer.witness.as_str()).collect();
    Ruling::pass(format!("{} in the stack's network", names.join(", ")), lines)
}

fn answer_line(answer: &Answer) -> Option<EvidenceLine> {
    let Said::Shares { joined, state, restarted } = &answer.said else { return None };
    let place = match joined {
        Some(true) => "is in the stack's network",
        Some(false) => "is not in the stack's network",
        None => "may be in the stack's network",
    };
    let after = if *restarted { ", after it was restarted" } else { "" };
    let what = format!("{} is {state} and {place}{after}", answer.witness);
    let fields = json!({ "container": answer.witness, "state": state, "joined": joined, "restarted": restarted });
    Some(line(answer.at_ms, what, fields))
}
