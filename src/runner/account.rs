//! What of the evidence goes into the report.

use std::sync::Arc;
use std::time::Duration;

use crate::agent::protocol::Stack;
use crate::catalog::Trial;
use crate::judge;
use crate::model::evidence::{Captured, Class, OutageEvidence, PhaseWire, Role};
use crate::model::report::{self, Outage, ProbeResult, Sampled, Ways, Wire, WireLeak};
use crate::model::verdict::FailKind;
use crate::target::Target;

pub(super) fn outage_report(outage: &OutageEvidence, took: Duration) -> Outage {
    Outage {
        method: outage.method.clone(),
        down_ms: 0.0,
        blackhole_ms: outage.blackhole_ms,
        up_ms: outage.up_ms,
        recovered_ms: outage.recovered_ms,
        holes: outage.holes.clone(),
        restored: outage.restored,
        gave_up: outage.gave_up.clone(),
        samples: outage.samples.iter().map(|sample| sample.sent + sample.refused).sum(),
        sampled: outage
            .samples
            .iter()
            .map(|sample| Sampled {
                what: sample.what.clone(),
                sent: sample.sent,
                refused: sample.refused,
                refusal: sample.refusal.clone(),
                first_refusal_ms: sample.first_refusal_ms,
            })
            .collect(),
        // Recovery is counted from the beginning of the outage, so the window is in it.
        cost_ms: outage.recovered_ms.map(|recovered| took.as_secs_f64() * 1000.0 - recovered),
        longest_gap_ms: outage.longest_gap_ms,
        gaps: outage.pace.gaps,
        longest_gap_at_ms: outage.pace.longest_at_ms.filter(|_| outage.pace.gaps > 0),
        first_refusal_ms: outage.first_refusal_ms,
        last_in_tunnel_ms: outage.last_in_tunnel_ms,
        tunnel_back_ms: outage.tunnel_back_ms,
        flows: outage
            .flows
            .iter()
            .chain(outage.flows_v6.iter().flat_map(|v6| &v6.flows))
            .map(|flow| format!("{} to {}", flow.proto, judge::end(flow.to)))
            .collect(),
        local: outage.local.clone(),
        events: outage
            .events
            .iter()
            .map(|event| report::EvidenceLine {
                at_ms: outage.from_ms + event.at_ms,
                what: event.what.clone(),
                fields: serde_json::Map::new(),
            })
            .collect(),
    }
}

pub(super) fn wire(wires: &[Arc<PhaseWire>], results: &[ProbeResult]) -> Wire {
    let mut links: Vec<String> = wires.iter().flat_map(|wire| wire.uplinks.clone()).collect();
    links.sort();
    links.dedup();
    let sightings = wires.iter().flat_map(|wire| &wire.sightings);
    let leaks = sightings
        .filter(|sighting| sighting.class == Class::Offence)
        .map(|sighting| WireLeak {
            at_ms: sighting.first_ms,
            link: sighting.link.clone(),
            proto: sighting.proto.to_string(),
            src: judge::end(sighting.src),
            dst: judge::end(sighting.dst),
            count: sighting.count,
            probe: sighting.probe.clone(),
            detail: sighting.detail.texts(),
        })
        .collect();
    Wire {
        links,
        packets: wires.iter().map(|wire| wire.packets).sum(),
        dropped: wires.iter().map(|wire| wire.dropped).sum(),
        leaks,
        captured: wires
            .iter()
            .flat_map(|wire| &wire.captured)
            .filter(|packet| leaked(packet, results))
            .cloned()
            .collect(),
    }
}

/// Whether a packet that was kept leaked. What a probe sends to somebody near, such as a question to the router, may be just what it has to
/// try: then it is for the judge to say.
fn leaked(packet: &Captured, results: &[ProbeResult]) -> bool {
    match &packet.probe {
        Some(probe) if packet.class != Class::Offence => {
            results.iter().any(|result| result.kind == Some(FailKind::Leak) && result.name() == *probe)
        }
        _ => true,
    }
}

/// Makes a result out of a ruling.
pub(super) fn result(trial: &Trial<'_>, ruling: judge::Ruling, ways: Option<Ways>, duration: Duration) -> ProbeResult {
    let probe = trial.probe;
    ProbeResult {
        id: probe.id.clone(),
        group: probe.group.clone(),
        title: probe.title.clone(),
        phase: trial.phase,
        method: trial.method.clone(),
        verdict: ruling.verdict.into(),
        kind: ruling.verdict.kind(),
        summary: ruling.summary,
        reason: ruling.reason,
        duration_ms: duration.as_millis() as u64,
        evidence: ruling.evidence,
        ways,
        claim: probe.claim.clone(),
        severity: probe.severity,
        why: probe.why.clone(),
        fix: probe.fix.clone(),
    }
}

pub(super) fn describe(stack: &Stack, target: &Target, how: &str) -> String {
    let uplinks: Vec<&str> =
        stack.links.iter().filter(|link| link.role == Role::Uplink).map(|link| link.name.as_str()).collect();
    let endpoint =
        stack.endpoint.as_ref().map_or_else(|| "unknown".to_owned(), |(address, how)| format!("{address} ({how})"));
    let local: Vec<String> = stack.local.iter().map(ToString::to_string).collect();
    format!(
        "{} entered by {how}: tunnel {}, uplink {}, VPN server {endpoint}, local {}, resolv.conf from {}",
        target.label,
        stack.tunnel.as_deref().unwrap_or("none"),
        if uplinks.is_empty() { "none".to_owned() } else { uplinks.join(" and ") },
        if local.is_empty() { "none".to_owned() } else { local.join(", ") },
        target.resolv_conf.source,
    )
}
