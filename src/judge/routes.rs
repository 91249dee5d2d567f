//! `routed-into-tunnel`: the kernel's own answers about the way of public addresses, and what became of packets that were sent where the
//! answer was an uplink.

use serde_json::json;

use super::{Case, Ruling, law, line, sighting_line};
use crate::model::evidence::{Answer, Class, Fate, Role, Said};
use crate::model::report::EvidenceLine;
use crate::model::verdict::FailKind;
use crate::technique::{ROUTE_CONTROL, ROUTE_INSIDE, ROUTE_LEARNED, ROUTE_OPEN, ROUTE_OTHERS, ROUTE_PUBLIC};

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    let Some(evidence) = case.evidence else {
        return Ruling::without_evidence();
    };
    let lines: Vec<EvidenceLine> = evidence.answers.iter().map(answer_line).collect();
    let by_uplink = |who: &str| evidence.answers.iter().find(|answer| answer.witness == who && is_by_uplink(answer));
    let escaped = law::own(case, Class::Offence);
    let astray = by_uplink(ROUTE_PUBLIC);
    if let Some(first) = escaped.first() {
        let summary = astray.map_or_else(|| "packets left by an uplink".to_owned(), summary);
        let reason = "packets that were sent there were seen on the uplink".to_owned();
        let rest = escaped[1..].iter().map(|sighting| sighting_line(sighting)).chain(lines).collect();
        return Ruling::fail(FailKind::Leak, summary, reason, sighting_line(first), rest);
    }
    if let Some(inside) = by_uplink(ROUTE_INSIDE) {
        let reason = "what is meant for the VPN's own resolver leaves by the uplink, in clear".to_owned();
        return Ruling::fail(FailKind::Leak, summary(inside), reason, answer_line(inside), lines);
    }
    if let Some(astray) = astray {
        let held = !evidence.stimuli.is_empty()
            && evidence.stimuli.iter().all(|stimulus| !matches!(stimulus.fate, Fate::NotSent { .. }));
        let reason = if held {
            "packets that were sent there were not seen on the uplink: only the firewall holds them"
        } else {
            "whether the firewall holds such packets was not tried"
        };
        return Ruling::fail(FailKind::Broken, summary(astray), reason.to_owned(), answer_line(astray), lines);
    }
    let mut doubts = law::sensor_doubts(case);
    doubts.extend(evidence.problems.clone());
    let of = |who: &'static str| evidence.answers.iter().filter(move |answer| answer.witness == who);
    if of(ROUTE_CONTROL).next().is_none() || !of(ROUTE_CONTROL).all(is_by_uplink) {
        doubts.push("the kernel does not say of the uplink's own neighbours that they are on the uplink".to_owned());
    }
    let asked: u64 = of(ROUTE_PUBLIC).map(number).sum();
    if asked == 0 {
        doubts.push("no public address was asked for".to_owned());
    }
    let strange =
        of(ROUTE_PUBLIC).find(|answer| matches!(&answer.said, Said::Routed { link: Some(_), role: None, .. }));
    if let Some(strange) = strange {
        doubts.push(format!("{}, which is neither the tunnel nor an uplink", summary(strange)));
    }
    if !doubts.is_empty() {
        return Ruling::inconclusive("no public address was found to be routed past the tunnel", &doubts, lines);
    }
    if let Some(others) = by_uplink(ROUTE_OTHERS) {
        let rule = match &others.said {
            Said::Routed { by: Some(by), .. } => by.as_str(),
            _ => "a rule",
        };
        let reason =
            format!("{rule} leads what others send through the stack past the tunnel, unless the firewall holds it");
        return Ruling::warn(summary(others), reason, lines);
    }
    if let Some(Answer { said: Said::Setting { text }, .. }) = of(ROUTE_LEARNED).next() {
        let reason = "others on the network can make routes of the stack; the tunnel's still go before them".to_owned();
        return Ruling::warn(format!("a route was learned: {text}"), reason, lines);
    }
    if let Some(Answer { said: Said::Setting { text }, .. }) = of(ROUTE_OPEN).next() {
        let reason = "a neighbour can make or change routes by that link; the tunnel's still go before them".to_owned();
        return Ruling::warn(text.clone(), reason, lines);
    }
    let tunnelled: u64 = of(ROUTE_PUBLIC).filter(|answer| has_role(answer, Role::Tunnel)).map(number).sum();
    let summary = format!("of {asked} answers {tunnelled} were the tunnel, {} that there is no way", asked - tunnelled);
    Ruling::pass(summary, lines)
}

fn has_role(answer: &Answer, wanted: Role) -> bool {
    matches!(&answer.said, Said::Routed { role: Some(role), .. } if *role == wanted)
}

fn is_by_uplink(answer: &Answer) -> bool {
    has_role(answer, Role::Uplink)
}

fn number(answer: &Answer) -> u64 {
    match &answer.said {
        Said::Routed { addresses, .. } => *addresses,
        _ => 0,
    }
}

fn summary(answer: &Answer) -> String {
    let Said::Routed { link, examples, flow, .. } = &answer.said else { return answer.witness.clone() };
    let example = examples.first().map(ToString::to_string).unwrap_or_default();
    let flow = if flow == "any packet" { String::new() } else { format!(" ({flow})") };
    format!("{example}{flow} is routed by {}", link.as_deref().unwrap_or("no link"))
}

fn answer_line(answer: &Answer) -> EvidenceLine {
    let (what, fields) = match &answer.said {
        Said::Routed { link, addresses, examples, flow, by, .. } => {
            let some: Vec<String> = examples.iter().take(3).map(ToString::to_string).collect();
            let way = link.as_ref().map_or_else(|| "no way".to_owned(), |link| format!("by {link}"));
            let by = by.as_ref().map(|by| format!(" ({by})")).unwrap_or_default();
            let what = format!("{}, {flow}: {addresses} {way}{by}, e.g. {}", answer.witness, some.join(", "));
            (what, json!({ "link": link, "addresses": addresses, "examples": examples, "flow": flow }))
        }
        Said::Setting { text } => (format!("{}: {text}", answer.witness), json!({ "text": text })),
        _ => (answer.witness.clone(), json!({})),
    };
    line(answer.at_ms, what, fields)
}
