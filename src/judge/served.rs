//! `served` and `local-forbidden`: what the neighbours may reach in the stack, and what the stack may not reach in the home.

use super::local::answer_line;
use super::{Case, Ruling, law};
use crate::model::evidence::names::FROM_OUTSIDE;
use crate::model::evidence::{Answer, Evidence, Said};
use crate::model::report::EvidenceLine;
use crate::model::verdict::FailKind;

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    let (evidence, lines) = match taken(case, "no target is configured (local.must_serve)") {
        Ok(taken) => taken,
        Err(ruling) => return ruling,
    };
    if let Some(silent) = evidence.answers.iter().find(|answer| !reached(answer)) {
        let summary = format!("{} does not answer from outside", silent.witness);
        let reason = "something that the stack has to serve cannot be reached".to_owned();
        return Ruling::fail(FailKind::Broken, summary, reason, answer_line(silent), lines);
    }
    let doubts: Vec<String> = law::sensor_doubts(case).into_iter().chain(evidence.problems.clone()).collect();
    if !doubts.is_empty() {
        return Ruling::inconclusive("what was asked answered", &doubts, lines);
    }
    let names: Vec<&str> = evidence.answers.iter().map(|answer| answer.witness.as_str()).collect();
    Ruling::pass(format!("{} served", names.join(", ")), lines)
}

pub(super) fn judge_forbidden(case: &Case<'_>) -> Ruling {
    let (evidence, lines) = match taken(case, "no target is configured (local.must_not_reach)") {
        Ok(taken) => taken,
        Err(ruling) => return ruling,
    };
    let (outside, inside): (Vec<&Answer>, Vec<&Answer>) =
        evidence.answers.iter().partition(|answer| answer.witness.starts_with(FROM_OUTSIDE));
    if let Some(answering) = inside.iter().find(|answer| reached(answer)) {
        let summary = format!("{} can be reached from the stack", answering.witness);
        let reason = "the stack reaches what it must not".to_owned();
        return Ruling::fail(FailKind::Leak, summary, reason, answer_line(answering), lines);
    }
    let mut doubts = law::sensor_doubts(case);
    doubts.extend(evidence.problems.clone());
    for answer in &inside {
        // A target that is away would be as silent as one that is kept from the stack.
        let control = format!("{FROM_OUTSIDE}{}", answer.witness);
        if !outside.iter().any(|other| other.witness == control && reached(other)) {
            doubts.push(format!("{} does not answer from outside either", answer.witness));
        }
    }
    if inside.is_empty() {
        doubts.push("nothing was asked from inside".to_owned());
    }
    if !doubts.is_empty() {
        return Ruling::inconclusive("no forbidden target answered, which proves nothing", &doubts, lines);
    }
    Ruling::pass(format!("none of {} answers, and all are there", inside.len()), lines)
}

fn taken<'a>(case: &Case<'a>, nothing: &str) -> Result<(&'a Evidence, Vec<EvidenceLine>), Ruling> {
    let Some(evidence) = case.evidence else {
        return Err(Ruling::without_evidence());
    };
    if evidence.answers.is_empty() && evidence.problems.is_empty() {
        return Err(Ruling::skip(nothing));
    }
    Ok((evidence, evidence.answers.iter().map(answer_line).collect()))
}

fn reached(answer: &Answer) -> bool {
    matches!(answer.said, Said::Reached { .. })
}
