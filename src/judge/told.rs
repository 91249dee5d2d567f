//! What an outage is told as, line by line: holes and what explains them first, then how regular the samples were, what happened in which
//! order, and what became of each kind of sample.

use serde_json::json;

use super::{count, end, line};
use crate::model::evidence::{NameserverChange, OutageEvidence, Said, Sighting};
use crate::model::report::EvidenceLine;

/// All of it.
pub(super) fn lines(outage: &OutageEvidence) -> Vec<EvidenceLine> {
    let at = |ms: f64| outage.from_ms + ms;
    let mut lines = Vec::new();
    for hole in &outage.holes {
        let what = format!(
            "hole from {:.1} to {:.1} ms: {} of {}",
            hole.from_ms,
            hole.to_ms,
            count(hole.packets, "packet"),
            hole.proto
        );
        lines.push(line(
            at(hole.from_ms),
            what,
            json!({ "from_ms": hole.from_ms, "to_ms": hole.to_ms, "proto": hole.proto, "packets": hole.packets }),
        ));
    }
    for answer in &outage.resolved_while_down {
        let said = match &answer.said {
            Said::Resolved { .. } => "resolved a fresh name".to_owned(),
            Said::Refused { rcode } => format!("answered {rcode}"),
            Said::Nothing { error } => format!("said nothing: {error}"),
            _ => continue,
        };
        lines.push(line(answer.at_ms, format!("{} {said}", answer.witness), json!({ "nameserver": answer.witness })));
    }
    lines.extend(outage.nameservers.iter().map(|change| nameserver_line(outage, change)));
    lines.extend(pace(outage));
    for flow in &outage.flows {
        let refusal = flow.refusal.as_deref().map_or_else(String::new, |name| format!(" ({name})"));
        let what = format!(
            "flow over {} to {}, open before: {} while the tunnel was down, {} refused{refusal}",
            flow.proto,
            end(flow.to),
            count(flow.asked, "packet"),
            flow.refused
        );
        let fields = json!({ "from": flow.from.to_string(), "to": flow.to.to_string(), "sent": flow.asked, "refused": flow.refused });
        lines.push(line(outage.from_ms, what, fields));
    }
    lines.extend(outage.events.iter().map(|event| {
        line(at(event.at_ms), format!("{:.1} ms: {}", event.at_ms, event.what), json!({ "outage_ms": event.at_ms }))
    }));
    for sample in &outage.samples {
        let refusal = match (&sample.refusal, sample.first_refusal_ms) {
            (Some(name), Some(at)) => format!(" ({name} from {at:.1} ms on)"),
            (Some(name), None) => format!(" ({name})"),
            (None, _) => String::new(),
        };
        let what = format!("{}: {} sent, {} refused{refusal}", sample.what, sample.sent, sample.refused);
        let fields =
            json!({ "sent": sample.sent, "refused": sample.refused, "first_refusal_ms": sample.first_refusal_ms });
        lines.push(line(outage.from_ms, what, fields));
    }
    lines
}

fn pace(outage: &OutageEvidence) -> Option<EvidenceLine> {
    let mut what = format!("longest time between two samples: {:.1} ms", outage.longest_gap_ms);
    let pace = &outage.pace;
    if let (Some(at), 1..) = (pace.longest_at_ms, pace.gaps) {
        what.push_str(&format!(
            ", at {at:.1} ms; {} of 2 ms and more in {} rounds",
            count(pace.gaps, "gap"),
            pace.rounds
        ));
    }
    let fields = json!({
        "longest_gap_ms": outage.longest_gap_ms, "gaps": pace.gaps, "rounds": pace.rounds, "period_ms": pace.period_ms,
        "priority": pace.priority,
    });
    Some(line(outage.from_ms, what, fields))
}

/// One change of a resolv.conf.
pub(super) fn nameserver_line(outage: &OutageEvidence, change: &NameserverChange) -> EvidenceLine {
    let list = |all: &[std::net::IpAddr]| all.iter().map(ToString::to_string).collect::<Vec<String>>();
    let (before, now) = (list(&change.before), list(&change.now));
    let what = format!("{} names {} and no more {}", change.file, now.join(", "), before.join(", "));
    line(
        outage.from_ms + change.at_ms,
        what,
        json!({ "file": change.file, "before": before, "now": now, "outage_ms": change.at_ms }),
    )
}

/// Why packets escaped, when all that did are of flows that were there before.
pub(super) fn moved(outage: &OutageEvidence, escaped: &[&Sighting]) -> Option<String> {
    let of_flow = |sighting: &&Sighting| outage.flows.iter().any(|flow| Some(flow.stimulus) == sighting.stimulus);
    escaped.iter().all(of_flow).then(|| {
        "a flow that was open in the tunnel before moved to an uplink: the firewall lets known connections pass there, \
         whatever their source address"
            .to_owned()
    })
}
