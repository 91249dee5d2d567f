//! `no-raw-power`: which programs of the stack could walk past its firewall. That a frame of a packet socket passes where OUTPUT drops is
//! shown by the sensor's controls, without which there is no pass.

use serde_json::json;

use super::{Case, Ruling, count, law, line};
use crate::model::evidence::{Answer, Said};
use crate::model::report::EvidenceLine;

/// Programs that a summary names.
const MAX_NAMED: usize = 3;

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    let Some(evidence) = case.evidence else {
        return Ruling::without_evidence();
    };
    let beside = |answer: &&Answer| matches!(answer.said, Said::Holds { vpn: None, .. });
    let others: Vec<&Answer> = evidence.answers.iter().filter(beside).collect();
    let powerful: Vec<&Answer> = others.iter().copied().filter(|answer| !held(answer).is_empty()).collect();
    if !powerful.is_empty() {
        let mut names: Vec<&str> = powerful.iter().map(|answer| name(answer)).collect();
        names.sort_unstable();
        names.dedup();
        let more = names.len().saturating_sub(MAX_NAMED);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        names.truncate(MAX_NAMED);
        let mut held: Vec<&str> = powerful.iter().flat_map(|answer| held(answer)).map(String::as_str).collect();
        held.sort_unstable();
        held.dedup();
        let summary = format!("{}{rest} can get past the firewall by {}", names.join(", "), held.join(" and "));
        let reason = "a frame by a packet socket passes where OUTPUT drops, as the sensor's own control frames do, and whoever administers \
                      the network can change its rules"
            .to_owned();
        return Ruling::warn(summary, reason, lines(evidence.answers.iter()));
    }
    if let Some(why) = &evidence.unasked {
        return Ruling::skip(why);
    }
    let mut doubts = law::sensor_doubts(case);
    doubts.extend(evidence.problems.clone());
    let strange = evidence.answers.iter().filter(|answer| !matches!(answer.said, Said::Holds { .. }));
    doubts.extend(strange.map(|answer| format!("{}: an answer of another kind", answer.witness)));
    if !doubts.is_empty() {
        let summary = "no program was found that can get past the firewall, which proves nothing";
        return Ruling::inconclusive(summary, &doubts, lines(evidence.answers.iter()));
    }
    if others.is_empty() {
        return Ruling::skip("no program but the VPN's own is to be seen in the namespace");
    }
    let summary =
        format!("{} beside the VPN, without CAP_NET_RAW and CAP_NET_ADMIN", count(others.len() as u64, "program"));
    Ruling::pass(summary, lines(evidence.answers.iter()))
}

fn held(answer: &Answer) -> &[String] {
    match &answer.said {
        Said::Holds { capabilities, .. } => capabilities,
        _ => &[],
    }
}

fn name(answer: &Answer) -> &str {
    answer.witness.split(" (").next().unwrap_or_default()
}

/// Those that hold something first.
fn lines<'a>(answers: impl Iterator<Item = &'a Answer>) -> Vec<EvidenceLine> {
    let mut answers: Vec<&Answer> = answers.collect();
    answers.sort_by_key(|answer| held(answer).is_empty());
    let told = answers.into_iter().map(|answer| {
        let held = held(answer);
        let what = if held.is_empty() { "neither".to_owned() } else { held.join(" and ") };
        let vpn = match &answer.said {
            Said::Holds { vpn: Some(why), .. } => format!(", a part of the VPN: {why}"),
            _ => String::new(),
        };
        let fields = json!({ "program": answer.witness, "capabilities": held });
        line(answer.at_ms, format!("{} holds {what}{vpn}", answer.witness), fields)
    });
    told.collect()
}
