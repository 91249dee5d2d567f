//! `exits-agree`: whether all ways out of the stack come out at the same address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::exit::{Exit, answer_line, disagree, escaped, exits, summary, wrong};
use super::{Case, Ruling, law};
use crate::model::report::EvidenceLine;

/// Techniques that have to answer over one family before they can agree.
const ENOUGH: usize = 2;

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    let Some(evidence) = case.evidence else {
        return Ruling::without_evidence();
    };
    let asked: Vec<_> = evidence.parts.iter().filter(|(_, part)| part.unasked.is_none()).collect();
    if !evidence.parts.is_empty() && asked.len() < ENOUGH {
        return Ruling::skip("witnesses of one kind alone are configured, so there is nothing to compare");
    }
    let seen: Vec<(&str, Exit<'_>)> = asked
        .iter()
        .flat_map(|(name, part)| exits(part, case.facts).into_iter().map(|exit| (shown(name), exit)))
        .collect();
    let all: Vec<Exit<'_>> = seen.iter().map(|(_, exit)| *exit).collect();
    let lines: Vec<EvidenceLine> = asked.iter().flat_map(|(_, part)| part.answers.iter().map(answer_line)).collect();
    if let Some(mut found) = wrong(&all, case.facts) {
        let v6 = found.exit.ip.is_ipv6();
        if let Some((how, other)) = seen.iter().find(|(_, exit)| exit.ip.is_ipv6() == v6 && exit.ip != found.exit.ip) {
            found.summary = format!("{}, over {how} it is {}", found.summary, other.ip);
        }
        return found.ruling(lines);
    }
    if let Some(ruling) = asked.iter().find_map(|(_, part)| escaped(case, part, &lines)) {
        return ruling;
    }
    let mut doubts = law::sensor_doubts(case);
    doubts.extend(evidence.problems.iter().chain(asked.iter().flat_map(|(_, part)| &part.problems)).cloned());
    let compared: Vec<bool> = [false, true].into_iter().filter(|v6| answered(&seen, *v6).len() >= ENOUGH).collect();
    if compared.is_empty() {
        let kinds: BTreeSet<&str> = seen.iter().map(|(kind, _)| *kind).collect();
        let silent: BTreeSet<&str> =
            asked.iter().map(|(name, _)| shown(name)).filter(|kind| !kinds.contains(kind)).collect();
        doubts.push(format!(
            "it takes answers of two kinds over one family to compare: {} answered, {} did not",
            list(&kinds),
            list(&silent)
        ));
    }
    let differ = disagree(&all);
    if !doubts.is_empty() {
        let what = match (differ, seen.is_empty()) {
            (true, _) => format!("exits differ: {}", told(&seen)),
            (false, true) => "no witness answered".to_owned(),
            (false, false) => summary(&all),
        };
        return Ruling::inconclusive(&what, &doubts, lines);
    }
    if differ {
        return Ruling::warn(
            format!("exits differ: {}", told(&seen)),
            "not everything comes out at the same address, though none of them is known to be wrong".to_owned(),
            lines,
        );
    }
    let agreed = compared.iter().map(|v6| {
        let address =
            all.iter().find(|exit| exit.ip.is_ipv6() == *v6).map(|exit| exit.ip.to_string()).unwrap_or_default();
        format!("{} agree on {address}", list(&answered(&seen, *v6)))
    });
    Ruling::pass(agreed.collect::<Vec<_>>().join("; "), lines)
}

/// What people call a technique.
fn shown(technique: &str) -> &str {
    match technique {
        "exit-http" => "HTTP",
        "exit-stun" => "STUN",
        "exit-dht" => "DHT",
        "exit-tracker" => "tracker",
        other => other,
    }
}

/// The kinds of witness that answered over a family.
fn answered<'a>(seen: &[(&'a str, Exit<'_>)], v6: bool) -> BTreeSet<&'a str> {
    seen.iter().filter(|(_, exit)| exit.ip.is_ipv6() == v6).map(|(kind, _)| *kind).collect()
}

fn list(kinds: &BTreeSet<&str>) -> String {
    match kinds.iter().copied().collect::<Vec<_>>().as_slice() {
        [] => "none".to_owned(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Which kind saw which address.
fn told(seen: &[(&str, Exit<'_>)]) -> String {
    let pairs: BTreeSet<(IpAddr, &str)> = seen.iter().map(|(kind, exit)| (exit.ip, *kind)).collect();
    pairs.iter().map(|(ip, kind)| format!("{ip} over {kind}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
