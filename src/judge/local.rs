//! `local-reachable`: what the owner needs past the tunnel.

use serde_json::json;

use super::{Case, Ruling, law, line};
use crate::model::evidence::{Answer, OutageEvidence, Said};
use crate::model::probe::Phase;
use crate::model::report::{EvidenceLine, LocalReach};
use crate::model::verdict::FailKind;

/// What the technique calls a target that it found by itself.
const FOUND: &str = "gateway ";

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    match (case.phase, case.outage) {
        (Phase::Outage, Some(outage)) => judge_outage(case, outage),
        (Phase::Outage, None) => Ruling::inconclusive("not measured", &["there was no outage".to_owned()], Vec::new()),
        (Phase::Up | Phase::Recovered, _) => judge_once(case),
    }
}

fn judge_once(case: &Case<'_>) -> Ruling {
    let Some(evidence) = case.evidence else {
        return Ruling::without_evidence();
    };
    if evidence.answers.is_empty() {
        return Ruling::skip("no local target is configured (local.must_reach) and no gateway was found");
    }
    let lines: Vec<EvidenceLine> = evidence.answers.iter().map(answer_line).collect();
    let silent: Vec<&Answer> =
        evidence.answers.iter().filter(|answer| !matches!(answer.said, Said::Reached { .. })).collect();
    if let Some(stated) = silent.iter().find(|answer| !answer.witness.starts_with(FOUND)) {
        let summary = format!("{} does not answer", stated.witness);
        return Ruling::fail(
            FailKind::Broken,
            summary,
            "a local target cannot be reached from the stack".to_owned(),
            answer_line(stated),
            lines,
        );
    }
    let mut doubts = law::sensor_doubts(case);
    doubts.extend(evidence.problems.clone());
    doubts.extend(
        silent
            .iter()
            .map(|answer| format!("{} gave no sign of life, which it need not: set local.must_reach", answer.witness)),
    );
    if !doubts.is_empty() {
        return Ruling::inconclusive("not every local target answered", &doubts, lines);
    }
    let names: Vec<&str> = evidence.answers.iter().map(|answer| answer.witness.as_str()).collect();
    Ruling::pass(format!("{} reachable", names.join(", ")), lines)
}

/// Whether a target was away for more than a moment: one slow answer among several is no more than that, on a busy machine or line.
fn is_lost(reach: &LocalReach) -> bool {
    let missed = reach.asked.saturating_sub(reach.answered);
    let moment = missed <= 1 && reach.answered >= 3;
    !moment && reach.answered * 10 < reach.asked * 9
}

fn judge_outage(case: &Case<'_>, outage: &OutageEvidence) -> Ruling {
    if outage.namespace_ended {
        return Ruling::skip("the container was stopped, and its links to the local subnets went with it");
    }
    let lines: Vec<EvidenceLine> = outage
        .local
        .iter()
        .map(|reach| {
            let what = format!(
                "{} answered {} of {} times while the tunnel was down",
                reach.target, reach.answered, reach.asked
            );
            line(
                outage.from_ms,
                what,
                json!({ "target": reach.target, "asked": reach.asked, "answered": reach.answered }),
            )
        })
        .collect();
    if outage.down_proof.is_none() {
        let reasons = law::outage_doubts(case);
        return Ruling::inconclusive("not measured", &reasons, lines);
    }
    let lost = outage.local.iter().zip(&lines).filter(|(reach, _)| is_lost(reach));
    let (found, stated): (Vec<_>, Vec<_>) = lost.partition(|(reach, _)| reach.target.starts_with(FOUND));
    if let Some((reach, first)) = stated.first() {
        let summary =
            format!("{} answered {} of {} times while the tunnel was down", reach.target, reach.answered, reach.asked);
        return Ruling::fail(
            FailKind::Broken,
            summary,
            "a local target was lost with the tunnel".to_owned(),
            (*first).clone(),
            lines,
        );
    }
    if outage.local.is_empty() {
        return Ruling::skip("no local target is configured (local.must_reach) and no gateway was found");
    }
    let mut doubts = law::sensor_doubts(case);
    doubts.extend(
        found.iter().map(|(reach, _)| {
            format!("{} gave no sign of life, which it need not: set local.must_reach", reach.target)
        }),
    );
    let unasked = outage.local.iter().filter(|reach| reach.asked == 0);
    doubts.extend(unasked.map(|reach| format!("{} was not asked while the tunnel was down", reach.target)));
    if !doubts.is_empty() {
        return Ruling::inconclusive("it is not known of every local target that it answered", &doubts, lines);
    }
    let (asked, answered) =
        outage.local.iter().fold((0, 0), |(asked, answered), reach| (asked + reach.asked, answered + reach.answered));
    Ruling::pass(format!("answered {answered} of {asked} times while the tunnel was down"), lines)
}

pub(super) fn answer_line(answer: &Answer) -> EvidenceLine {
    let how = match &answer.said {
        Said::Reached { how } => how.clone(),
        Said::Nothing { error } => format!("no answer: {error}"),
        _ => "an answer of another kind".to_owned(),
    };
    line(answer.at_ms, format!("{}: {how}", answer.witness), json!({ "target": answer.witness, "how": how }))
}
