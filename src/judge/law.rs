//! The law of pass: what has to be there before silence means anything.

use crate::model::evidence::{Class, Control, Evidence, Fate, PhaseWire, Sighting};
use crate::model::probe::Phase;

use super::Case;

/// Why the sensor's silence in this phase proves nothing; empty when it does.
pub(super) fn sensor_doubts(case: &Case<'_>) -> Vec<String> {
    let Some(wire) = case.wire else { return vec!["the sensor's record of this phase is missing".to_owned()] };
    let mut doubts: Vec<String> = wire.problems.clone();
    if wire.dropped > 0 {
        doubts.push(format!("the sensor lost {} packets", wire.dropped));
    }
    if wire.uplinks.is_empty() || wire.controls.is_empty() {
        doubts.push("there is no uplink that is up to listen on, so no control could be seen".to_owned());
    }
    doubts.extend(unseen_controls(wire));
    if wire.closed_ms < wire.armed_ms {
        doubts.push("the sensor was not closed".to_owned());
    }
    let outage = case.outage.filter(|_| case.phase == Phase::Outage).map(|outage| outage.from_ms);
    let mut begun = case.evidence.map(|evidence| evidence.from_ms).into_iter().chain(outage);
    if begun.any(|from| from < wire.armed_ms) {
        doubts.push("the sensor was not listening before the stimulus".to_owned());
    }
    doubts
}

fn unseen_controls(wire: &PhaseWire) -> Vec<String> {
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
    // Each uplink that can carry packets needs one control at the beginning and one at the end, of each kind.
    for link in &wire.uplinks {
        let on: Vec<_> = wire.controls.iter().filter(|control| &control.link == link).collect();
        let once =
            |one: &&Control| on.iter().filter(|other| (other.proto, other.v6) == (one.proto, one.v6)).count() == 1;
        if on.iter().any(once) {
            doubts.push(format!("{link} came or went meanwhile: it had a control at one end of the phase only"));
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
