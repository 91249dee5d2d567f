//! The law of pass: what has to be there before silence means anything.

use std::collections::BTreeSet;

use crate::model::evidence::names::source_port;
use crate::model::evidence::{CONTROL_KINDS, Class, Evidence, Fate, Owner, PhaseWire, Said, Sighting, Stimulus};
use crate::model::probe::Phase;

use super::Case;

/// Holders of packet sockets that are named.
const MAX_HOLDERS: usize = 3;

/// Why the sensor's silence in this phase proves nothing; empty when it does.
pub(super) fn sensor_doubts(case: &Case<'_>) -> Vec<String> {
    let Some(wire) = case.wire else { return vec!["the sensor's record of this phase is missing".to_owned()] };
    let mut doubts: Vec<String> = wire.problems.clone();
    if wire.dropped > 0 {
        doubts.push(format!("the sensor lost {} packets", wire.dropped));
    }
    let stood_in = wire.stand_in.is_some() && wire.gone.is_empty();
    if wire.controls.is_empty() || wire.uplinks.is_empty() && !stood_in {
        doubts.push("there is no uplink that is up to listen on, so no control could be seen".to_owned());
    }
    let (begun, ended) = span(case, wire);
    doubts.extend(unseen_controls(wire, begun, ended));
    if wire.closed_ms < wire.armed_ms {
        doubts.push("the sensor was not closed".to_owned());
    } else if wire.closed_ms < ended {
        doubts.push("the sensor was closed before the stimulus was over".to_owned());
    }
    if begun < wire.armed_ms {
        doubts.push("the sensor was not listening before the stimulus".to_owned());
    }
    doubts
}

/// Why the sensor's silence proves nothing of what other programs send; empty when it does. What leakcheck sends itself goes by other sockets.
pub(super) fn unshown(case: &Case<'_>) -> Option<String> {
    let wire = case.wire?;
    let Some(sockets) = &wire.packet_sockets else {
        return Some("the kernel's table of packet sockets did not show even the sensor's own".to_owned());
    };
    let mut holders: Vec<String> = sockets
        .iter()
        .map(|socket| format!("{} on {}", holders(&socket.owners), socket.link.as_deref().unwrap_or("all links")))
        .collect();
    holders.sort();
    holders.dedup();
    let more = holders.len().saturating_sub(MAX_HOLDERS);
    holders.truncate(MAX_HOLDERS);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!holders.is_empty()).then(|| {
        format!(
            "packet sockets are held by {}{rest}, and what is sent by one may be shown to no listener: stop the program for the audit \
             (tcpdump, a DHCP client), or take NET_RAW from its container",
            holders.join(", ")
        )
    })
}

/// Who holds a socket, for people.
pub(super) fn holders(owners: &[Owner]) -> String {
    let owners: Vec<String> = owners.iter().map(ToString::to_string).collect();
    if owners.is_empty() { "a program that cannot be seen from here".to_owned() } else { owners.join(" and ") }
}

/// From when to when something was tried in this phase; what tried nothing leaves it to the sensor.
fn span(case: &Case<'_>, wire: &PhaseWire) -> (f64, f64) {
    let whole = case.evidence.into_iter();
    let parts = case.evidence.into_iter().flat_map(|evidence| evidence.parts.iter().map(|(_, part)| part));
    let evidence = whole.chain(parts).flat_map(|evidence| {
        let stimuli = evidence.stimuli.iter().map(|stimulus| stimulus.at_ms);
        [evidence.from_ms, evidence.to_ms].into_iter().chain(stimuli)
    });
    let outage = case.outage.filter(|_| case.phase == Phase::Outage);
    let times = evidence.chain(outage.into_iter().flat_map(|outage| [outage.from_ms, outage.to_ms]));
    times
        .fold(None, |span: Option<(f64, f64)>, at| {
            Some(span.map_or((at, at), |(begun, ended)| (begun.min(at), ended.max(at))))
        })
        .unwrap_or((wire.armed_ms, wire.closed_ms))
}

fn unseen_controls(wire: &PhaseWire, begun: f64, ended: f64) -> Vec<String> {
    let mut doubts: Vec<String> = Vec::new();
    for control in wire.controls.iter().filter(|control| control.seen_ms.is_none()) {
        let family = if control.v6 { " over IPv6" } else { "" };
        let why = match &control.error {
            Some(error) => format!("could not be sent: {error}"),
            None => "was not seen by the sensor".to_owned(),
        };
        let doubt = format!("the {} control{family} on {} {why}", control.proto, control.link);
        if !doubts.contains(&doubt) {
            doubts.push(doubt);
        }
    }
    // Of each kind each uplink needs a control at the beginning and one at the end. One that is down the whole time lets nothing out and
    // gets none.
    let seen = wire.sightings.iter().filter(|sighting| sighting.class != Class::Tunnelled);
    let links: BTreeSet<&str> = wire
        .controls
        .iter()
        .map(|control| control.link.as_str())
        .chain(seen.map(|sighting| sighting.link.as_str()))
        .collect();
    // What stands in for links that went away shows the end only; where there never was one it is the link itself.
    let stands_in = |link: &str| !wire.gone.is_empty() && wire.stand_in.as_deref() == Some(link);
    for link in links.into_iter().filter(|link| !stands_in(link)) {
        // A link that went away lets nothing out any more; that the sensor heard to the end another one shows in its place.
        let went = wire.gone.iter().any(|gone| gone == link);
        let last = wire.stand_in.as_deref().filter(|_| went).unwrap_or(link);
        let missing = |early: bool| {
            CONTROL_KINDS.iter().any(|(proto, v6)| {
                !wire.controls.iter().any(|control| {
                    control.link == (if early { link } else { last })
                        && (control.proto, control.v6) == (*proto, *v6)
                        && if early { control.sent_ms <= begun } else { control.sent_ms >= ended }
                })
            })
        };
        for (early, when) in [(true, "beginning"), (false, "end")] {
            if missing(early) {
                doubts.push(format!("not every protocol had its control on {link} at the {when}"));
            }
        }
    }
    doubts
}

/// Why what was sent is not enough; empty when every stimulus was sent or its refusal is on record.
pub(super) fn stimulus_doubts(evidence: &Evidence) -> Vec<String> {
    let mut doubts = evidence.problems.clone();
    if evidence.stimuli.is_empty() {
        doubts.push("nothing was sent".to_owned());
    }
    for stimulus in &evidence.stimuli {
        if let Fate::NotSent { reason } = &stimulus.fate {
            let doubt =
                format!("{} to {} {} was not sent: {reason}", stimulus.proto, super::end(stimulus.to), stimulus.via);
            if !doubts.contains(&doubt) {
                doubts.push(doubt);
            }
        }
    }
    doubts
}

/// What the sensor saw of this asking's own packets.
pub(super) fn own<'a>(case: &Case<'a>, class: Class) -> Vec<&'a Sighting> {
    let trial = case.trial;
    let sightings = case.wire.map(|wire| wire.sightings.as_slice()).unwrap_or_default();
    sightings.iter().filter(|sighting| sighting.class == class && sighting.probe.as_deref() == Some(trial)).collect()
}

/// Whether the kernel took it and no link showed it, not even the loopback.
pub(super) fn is_lost(case: &Case<'_>, stimulus: &Stimulus) -> bool {
    let shown = |wire: &PhaseWire| {
        wire.inside.contains(&stimulus.id) || wire.sightings.iter().any(|seen| seen.stimulus == Some(stimulus.id))
    };
    stimulus.fate == Fate::Sent && !case.wire.is_some_and(shown)
}

/// Packets of this asking that left by an uplink, whatever the allow-list would say of them: none of its stimuli is for anybody near. What
/// a redirection to the namespace itself has put there no host takes, and no router carries on (RFC 1122, 3.2.1.3).
pub(super) fn escaped<'a>(case: &Case<'a>) -> Vec<&'a Sighting> {
    let classes = [Class::Offence, Class::Nearby, Class::LocalDns];
    let all = classes.into_iter().flat_map(|class| own(case, class));
    all.filter(|sighting| !sighting.dst.ip().is_loopback()).collect()
}

/// Why this phase's outage was none; empty when the tunnel was proven to be down.
pub(super) fn outage_doubts(case: &Case<'_>) -> Vec<String> {
    match case.outage {
        None => vec!["there was no outage".to_owned()],
        Some(outage) if outage.down_proof.is_some() => Vec::new(),
        Some(outage) if outage.problems.is_empty() => vec!["nothing proves that the tunnel was down".to_owned()],
        Some(outage) => outage.problems.clone(),
    }
}

/// Whether somebody inside the stack saw a packet that was sent to it from outside, not later than `until`.
pub(super) fn arrived(evidence: &Evidence, stimulus: &Stimulus, until: f64) -> bool {
    evidence.answers.iter().filter(|answer| answer.at_ms <= until).any(|answer| {
        matches!(answer.said, Said::Arrived { proto, from, to, .. }
            if (proto, to) == (stimulus.proto, stimulus.to) && from.port() == source_port(stimulus.id))
    })
}
