//! Which ways the stimuli of a probe took, counted for reports. It decides nothing.

use std::collections::BTreeSet;

use super::{Case, law};
use crate::model::evidence::{Class, Fate, Sighting, Stimulus};
use crate::model::report::Ways;

/// The counts of one asking; `None` where the probe sent none that would show on a link.
pub fn of(case: &Case<'_>) -> Option<Ways> {
    // Of the others no link tells which way they took.
    let stimuli: Vec<&Stimulus> = case.evidence?.stimuli.iter().filter(|stimulus| stimulus.traced).collect();
    if stimuli.is_empty() {
        return None;
    }
    let of = |seen: Vec<&Sighting>| -> BTreeSet<u32> { seen.iter().filter_map(|one| one.stimulus).collect() };
    let (uplink, tunnel) = (of(law::escaped(case)), of(law::own(case, Class::Tunnelled)));
    let mut ways = Ways::default();
    for stimulus in stimuli {
        let way = match &stimulus.fate {
            _ if uplink.contains(&stimulus.id) => &mut ways.uplink,
            _ if tunnel.contains(&stimulus.id) => &mut ways.tunnel,
            Fate::Refused { .. } => &mut ways.refused,
            Fate::Sent => &mut ways.nowhere,
            Fate::NotSent { .. } => &mut ways.not_sent,
        };
        *way += 1;
    }
    Some(ways)
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use crate::catalog::Catalog;
    use crate::model::evidence::{Evidence, PhaseWire};
    use crate::model::probe::Phase;

    #[test]
    fn each_stimulus_goes_one_way_the_worst() {
        let sent = fixture::evidence(Vec::new()).stimuli.remove(0);
        let refused = Fate::Refused { errno: 1, name: "EPERM".to_owned() };
        let not_sent = Fate::NotSent { reason: "no socket".to_owned() };
        let fates = [Fate::Sent, Fate::Sent, Fate::Sent, Fate::Sent, refused, not_sent];
        let traced = (1..).zip(fates).map(|(id, fate)| Stimulus { id, fate, traced: true, ..sent.clone() });
        // Of the last nobody looks on a link.
        let stimuli: Vec<Stimulus> = traced.chain([sent.clone()]).collect();
        let seen = [(1, Class::Offence), (1, Class::Tunnelled), (2, Class::Nearby), (3, Class::Tunnelled)];
        let seen = seen.map(|(id, class)| Sighting {
            class,
            stimulus: Some(id),
            probe: Some("uplink".to_owned()),
            ..fixture::escape()
        });
        let wire = PhaseWire { sightings: seen.into(), ..fixture::quiet() };
        let ways = Ways { uplink: 2, tunnel: 1, nowhere: 1, refused: 1, not_sent: 1 };
        assert_eq!((counted(stimuli, &wire), ways.total()), (Some(ways), 6));
        assert_eq!(counted(vec![sent], &wire), None);
    }

    fn counted(stimuli: Vec<Stimulus>, wire: &PhaseWire) -> Option<Ways> {
        let (catalog, facts) = (Catalog::builtin().unwrap(), fixture::facts());
        let (probe, evidence) = (catalog.get("uplink").unwrap(), Evidence { stimuli, ..Evidence::default() });
        let (evidence, wire) = (Some(&evidence), Some(wire));
        of(&Case { probe, trial: "uplink", phase: Phase::Up, evidence, wire, outage: None, facts: &facts })
    }
}
