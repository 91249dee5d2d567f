//! `access-as-stated`: the access matrix, row by row.
//!
//! What *reached* means. A connection that is made, an HTTP answer, an echo reply and a datagram in answer show that packets went there and
//! back. A reset or a port unreachable does not: the packet does not tell whether the target itself sent it, because nothing listens there,
//! in which case nobody is kept out, or a firewall in its name, in which case somebody is. So it is read beside the control: from a service
//! that answers others at that moment it can only be a refusal of who asked, and the row holds; where nobody is answered nothing listens,
//! and nothing is known. Silence is read beside the same control.
//!
//! The control of a row that forbids is an answer of the same destination at the same address to somebody else, before the row was tried
//! and again after it. Whom the runner asks for it is its own affair: whoever has the address itself, where that is known.
//!
//! Kinds: what answers although it must not is a *leak*, as with `local-forbidden`: access got out of the confinement that its owner stated.
//! What does not answer although it has to is *broken*.

use std::net::IpAddr;

use serde_json::json;

use super::{Case, Ruling, law, line};
use crate::model::evidence::{AccessRule, Answer, Came, Evidence, Said};
use crate::model::report::{AccessFound, AccessRow, EvidenceLine};
use crate::model::verdict::FailKind;

/// Places that one reason names at most as those by which nothing was answered either.
const MAX_PLACES: usize = 4;

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    if case.facts.access.is_empty() {
        return Ruling::skip(
            "no access matrix is configured: write [[access]] with from, to and allow into leakcheck.toml",
        );
    }
    let Some(evidence) = case.evidence else {
        return Ruling::without_evidence();
    };
    let rows = rows(case);
    let lines: Vec<EvidenceLine> =
        case.facts.access.iter().zip(&rows).map(|(rule, row)| row_line(evidence, rule, row)).collect();
    let first = |found: AccessFound| rows.iter().zip(&lines).find(|(row, _)| row.found == found);
    if let Some((row, line)) = first(AccessFound::Open) {
        let summary = format!("{} reaches {}, which it must not{}", row.from, row.to, more(&rows, AccessFound::Open));
        let reason = "a source reaches what the access matrix keeps from it".to_owned();
        return Ruling::fail(FailKind::Leak, summary, reason, line.clone(), without(&lines, line));
    }
    if let Some((row, line)) = first(AccessFound::Lost) {
        let summary = format!("{} does not reach {}{}", row.from, row.to, more(&rows, AccessFound::Lost));
        return Ruling::fail(FailKind::Broken, summary, row.what.clone(), line.clone(), without(&lines, line));
    }
    let mut doubts = law::sensor_doubts(case);
    doubts.extend(evidence.problems.clone());
    let unknown = rows.iter().filter(|row| row.found == AccessFound::Unknown);
    doubts.extend(unknown.map(|row| format!("{} to {}: {}", row.from, row.to, row.what)));
    if !doubts.is_empty() {
        return Ruling::inconclusive("not every row of the access matrix could be proven", &doubts, lines);
    }
    let reached = rows.iter().filter(|row| row.allow).count();
    let summary = format!("{reached} reached as they have to be, {} kept out", rows.len() - reached);
    Ruling::pass(summary, lines)
}

/// What was found of each row, in the order of the configuration; none when nothing was brought back.
pub fn rows(case: &Case<'_>) -> Vec<AccessRow> {
    let Some(evidence) = case.evidence else { return Vec::new() };
    let row = |rule: &AccessRule| {
        let (found, what) = if rule.allow { allowed(evidence, rule) } else { forbidden(evidence, rule) };
        let AccessRule { from, to, allow } = rule.clone();
        AccessRow { asking: case.trial.to_owned(), from, to, allow, found, what }
    };
    case.facts.access.iter().map(row).collect()
}

fn allowed(evidence: &Evidence, rule: &AccessRule) -> (AccessFound, String) {
    let tried = tried(evidence, rule);
    if let Some(one) = tried.iter().find(|one| matches!(one.came, Came::Answered { .. })) {
        return (AccessFound::Reached, one.text());
    }
    // Who listens for datagrams need not answer a question that is not of its protocol.
    let undecided = |one: &&Tried<'_>| match one.came {
        Came::Untried { .. } => true,
        Came::Silent { .. } => rule.to.starts_with("udp://"),
        _ => false,
    };
    if tried.is_empty() {
        return (AccessFound::Unknown, "it was not asked, or what came of it was lost".to_owned());
    }
    let undecided: Vec<String> = tried.iter().filter(undecided).map(Tried::text).collect();
    if !undecided.is_empty() {
        return (AccessFound::Unknown, undecided.join("; "));
    }
    (AccessFound::Lost, tried.iter().map(Tried::text).collect::<Vec<_>>().join("; "))
}

fn forbidden(evidence: &Evidence, rule: &AccessRule) -> (AccessFound, String) {
    let tried = tried(evidence, rule);
    if let Some(one) = tried.iter().find(|one| one.came.is_there()) {
        return (AccessFound::Open, one.text());
    }
    if tried.is_empty() {
        return (AccessFound::Unknown, "it was not asked, or what came of it was lost".to_owned());
    }
    let (mut kept, mut doubts) = (Vec::new(), Vec::new());
    for one in &tried {
        let (text, control) = (one.text(), one.address.and_then(|address| control(evidence, rule, address, one.at_ms)));
        match (one.came, control) {
            (Came::Silent { .. }, Some(place)) => kept.push(format!("{text}, while it answers {place}")),
            (Came::TurnedAway { .. }, Some(place)) => kept.push(format!(
                "{text}, while it answers {place}: a firewall turns this source away, or the service itself"
            )),
            (Came::Silent { .. }, None) => {
                doubts.push(format!("{text}, which proves nothing: {}", dead(evidence, rule, one)))
            }
            (Came::TurnedAway { .. }, None) => doubts.push(format!(
                "{text}: either packets get there and nothing listens, or a firewall refuses them in its name; {}",
                dead(evidence, rule, one)
            )),
            _ => doubts.push(text),
        }
    }
    if doubts.is_empty() { (AccessFound::KeptOut, kept.join("; ")) } else { (AccessFound::Unknown, doubts.join("; ")) }
}

/// One address of a destination that was asked from the source of a row.
struct Tried<'a> {
    at_ms: f64,
    address: Option<IpAddr>,
    came: &'a Came,
    to: &'a str,
}

impl Tried<'_> {
    fn text(&self) -> String {
        let text = match self.came {
            Came::Answered { how } => format!("it answers ({how})"),
            Came::Connected { error } => format!("the connection is made, and then there is no answer ({error})"),
            Came::TurnedAway { how } => format!("it is refused ({how})"),
            Came::Silent { how } => format!("there is no answer ({how})"),
            Came::Unresolved { why } => format!("its name is not resolved there ({why})"),
            Came::Untried { why } => format!("it could not be tried: {why}"),
        };
        // Of an address that the destination itself states there is no need to be told.
        match self.address.map(|address| address.to_string()).filter(|address| !self.to.contains(address.as_str())) {
            Some(address) => format!("{text} at {address}"),
            None => text,
        }
    }
}

fn tried<'a>(evidence: &'a Evidence, rule: &'a AccessRule) -> Vec<Tried<'a>> {
    let of_row = |answer: &'a Answer| match &answer.said {
        Said::Access { from, control: false, address, came } if *from == rule.from && answer.witness == rule.to => {
            Some(Tried { at_ms: answer.at_ms, address: *address, came, to: &rule.to })
        }
        _ => None,
    };
    evidence.answers.iter().filter_map(of_row).collect()
}

/// When each other place was asked whether the destination is there at this address, and what came of it.
fn controls<'a>(
    evidence: &'a Evidence,
    rule: &'a AccessRule,
    of: IpAddr,
) -> impl Iterator<Item = (f64, &'a str, &'a Came)> {
    evidence.answers.iter().filter_map(move |answer| match &answer.said {
        Said::Access { from, control: true, address, came }
            if *from != rule.from && answer.witness == rule.to && *address == Some(of) =>
        {
            Some((answer.at_ms, from.as_str(), came))
        }
        _ => None,
    })
}

/// A place that was answered before and after `at_ms`. One that was not answered once is none.
fn control<'a>(evidence: &'a Evidence, rule: &'a AccessRule, address: IpAddr, at_ms: f64) -> Option<&'a str> {
    let all = || controls(evidence, rule, address);
    let steady = |place: &str| {
        let of_place = || all().filter(move |(_, from, _)| *from == place);
        let (before, after) = (of_place().any(|(at, ..)| at <= at_ms), of_place().any(|(at, ..)| at >= at_ms));
        before && after && of_place().all(|(_, _, came)| came.is_there())
    };
    all().map(|(_, from, _)| from).find(|place| steady(place))
}

/// Why there is no control.
fn dead(evidence: &Evidence, rule: &AccessRule, one: &Tried<'_>) -> String {
    let Some(address) = one.address else { return "it has no address".to_owned() };
    let mut said: Vec<String> = Vec::new();
    for (_, place, came) in controls(evidence, rule, address).filter(|(_, _, came)| !came.is_there()) {
        let how = match came {
            Came::TurnedAway { how } | Came::Silent { how } => how,
            Came::Unresolved { why } | Came::Untried { why } => why,
            Came::Answered { .. } | Came::Connected { .. } => continue,
        };
        let text = format!("{place}: {how}");
        if !said.contains(&text) {
            said.push(text);
        }
    }
    said.sort();
    let more = said.len().saturating_sub(MAX_PLACES);
    said.truncate(MAX_PLACES);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    if said.is_empty() {
        return "nobody else was answered before and after, so it may be away".to_owned();
    }
    format!("nobody else is answered either, so it may be away ({}{rest})", said.join("; "))
}

fn row_line(evidence: &Evidence, rule: &AccessRule, row: &AccessRow) -> EvidenceLine {
    let at_ms = tried(evidence, rule).iter().map(|one| one.at_ms).fold(evidence.from_ms, f64::max);
    let due = if row.allow { "has to reach" } else { "must not reach" };
    let what = format!("{} {due} {}: {}", row.from, row.to, row.what);
    line(at_ms, what, json!({ "from": row.from, "to": row.to, "allow": row.allow, "found": row.found }))
}

/// `, and 2 more rows` that are as bad.
fn more(rows: &[AccessRow], found: AccessFound) -> String {
    match rows.iter().filter(|row| row.found == found).count() {
        0 | 1 => String::new(),
        2 => ", and another row is as bad".to_owned(),
        all => format!(", and {} more rows are as bad", all - 1),
    }
}

/// The lines without the one that stands first.
fn without(lines: &[EvidenceLine], first: &EvidenceLine) -> Vec<EvidenceLine> {
    lines.iter().filter(|line| *line != first).cloned().collect()
}
