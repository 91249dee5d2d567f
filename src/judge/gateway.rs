//! `no-port-mapper`: no gateway that the stack reaches past the tunnel maps ports for it.

use serde_json::json;

use super::{Case, Ruling, law, line};
use crate::model::evidence::names::CONTROL;
use crate::model::evidence::{Answer, Said};
use crate::model::report::EvidenceLine;
use crate::model::verdict::FailKind;

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    let Some(evidence) = case.evidence else {
        return Ruling::without_evidence();
    };
    let lines: Vec<EvidenceLine> = evidence.answers.iter().map(answer_line).collect();
    let (controls, hosts): (Vec<&Answer>, Vec<&Answer>) =
        evidence.answers.iter().partition(|answer| answer.witness == CONTROL);
    let is_mapper = |answer: &&Answer| matches!(answer.said, Said::Mapper { .. });
    let mappers = || hosts.iter().copied().filter(is_mapper);
    // The one that told an address is the better witness.
    let told = mappers().find(|answer| matches!(answer.said, Said::Mapper { external: Some(_), .. }));
    if let Some(found) = told.or_else(|| mappers().next()) {
        let summary = match &found.said {
            Said::Mapper { external: Some(ip), how } if case.facts.home.contains(ip) => {
                format!("{how}: {} tells the home address {ip}", first_word(found))
            }
            Said::Mapper { external: Some(ip), how } => format!("{how}: {} tells its address {ip}", first_word(found)),
            _ => format!("{} answers", found.witness),
        };
        let reason = "a program of the stack can have a port opened on the home address".to_owned();
        return Ruling::fail(FailKind::Leak, summary, reason, answer_line(found), lines);
    }
    let mut doubts = law::sensor_doubts(case);
    doubts.extend(evidence.problems.clone());
    if !controls.iter().any(is_mapper) {
        doubts.push("the answer of leakcheck's own responder was not heard either".to_owned());
    }
    let unsaid = hosts.iter().filter(|answer| !matches!(answer.said, Said::Refused { .. }));
    doubts.extend(unsaid.map(|answer| answer_line(answer).what));
    if hosts.is_empty() && controls.is_empty() {
        return Ruling::skip("there is no gateway on an uplink, nor a local network over IPv4");
    }
    if !doubts.is_empty() {
        return Ruling::inconclusive("no gateway offered to map ports, which proves nothing", &doubts, lines);
    }
    Ruling::pass(format!("none of {} answers offers to map ports", hosts.len()), lines)
}

fn first_word(answer: &Answer) -> &str {
    answer.witness.split(' ').next().unwrap_or_default()
}

fn answer_line(answer: &Answer) -> EvidenceLine {
    let what = match &answer.said {
        Said::Mapper { external: Some(ip), .. } => format!("it tells its external address, {ip}"),
        Said::Mapper { external: None, .. } => "it answers".to_owned(),
        Said::Refused { rcode } => rcode.clone(),
        Said::Nothing { error } => error.clone(),
        _ => "an answer of another kind".to_owned(),
    };
    line(answer.at_ms, format!("{}: {what}", answer.witness), json!({ "witness": answer.witness, "said": what }))
}
