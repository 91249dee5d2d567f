//! `no-local-resolver`: whether somebody on a local subnet resolves public names for the stack.

use serde_json::json;

use super::{Case, Ruling, law, line};
use crate::model::evidence::names::CONTROL;
use crate::model::evidence::{Answer, Said};
use crate::model::report::EvidenceLine;

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    let Some(evidence) = case.evidence else {
        return Ruling::without_evidence();
    };
    if evidence.stimuli.is_empty() && evidence.problems.is_empty() {
        return Ruling::skip("there is no gateway and no local subnet whose resolver could be asked");
    }
    let lines: Vec<EvidenceLine> = evidence.answers.iter().map(answer_line).collect();
    let resolving: Vec<&str> = evidence
        .answers
        .iter()
        .filter(|answer| is_heard(answer) && answer.witness != CONTROL)
        .map(|answer| answer.witness.as_str())
        .collect();
    if !resolving.is_empty() {
        let summary = format!("{} resolves public names for the stack", resolving.join(" and "));
        let reason = "a program that asks it, and not resolv.conf's resolver, shows its names to the home's resolver and the ISP".to_owned();
        return Ruling::warn(summary, reason, lines);
    }
    let mut doubts: Vec<String> = law::sensor_doubts(case).into_iter().chain(law::stimulus_doubts(evidence)).collect();
    if !evidence.answers.iter().any(|answer| answer.witness == CONTROL && is_heard(answer)) {
        doubts.push("the answer of leakcheck's own resolver was not heard either".to_owned());
    }
    let lost = evidence.stimuli.iter().filter(|stimulus| stimulus.traced && law::is_lost(case, stimulus));
    doubts.extend(lost.map(|stimulus| {
        format!("the question to {} did not show on any link: nobody is there, or it was not sent", stimulus.to.ip())
    }));
    if !doubts.is_empty() {
        return Ruling::inconclusive("nobody answered, which proves nothing", &doubts, lines);
    }
    let asked: Vec<String> = evidence.stimuli.iter().map(|stimulus| stimulus.to.ip().to_string()).collect();
    Ruling::pass(format!("{} did not resolve a public name", asked.join(", ")), lines)
}

fn is_heard(answer: &Answer) -> bool {
    matches!(answer.said, Said::Resolved { .. })
}

fn answer_line(answer: &Answer) -> EvidenceLine {
    let what = match &answer.said {
        Said::Resolved { ip: Some(ip) } => format!("resolved a fresh public name: {ip}"),
        Said::Resolved { ip: None } => "answered for a fresh public name".to_owned(),
        Said::Refused { rcode } => format!("answered {rcode}"),
        Said::Nothing { error } => format!("said nothing: {error}"),
        _ => "gave an answer of another kind".to_owned(),
    };
    line(answer.at_ms, format!("{} {what}", answer.witness), json!({ "resolver": answer.witness, "answer": what }))
}
