//! Which ways the stimuli of a probe took, counted for reports. It decides nothing.

use std::collections::BTreeSet;

use super::{Case, law};
use crate::model::evidence::{Class, Fate, Stimulus};
use crate::model::report::Ways;

/// The counts of one asking; `None` where the probe sent none that would show on a link.
pub fn of(case: &Case<'_>) -> Option<Ways> {
    // Of the others no link tells which way they took.
    let stimuli: Vec<&Stimulus> = case.evidence?.stimuli.iter().filter(|stimulus| stimulus.traced).collect();
    if stimuli.is_empty() {
        return None;
    }
    let seen =
        |class| -> BTreeSet<u32> { law::own(case, class).iter().filter_map(|sighting| sighting.stimulus).collect() };
    let (uplink, tunnel) = (seen(Class::Offence), seen(Class::Tunnelled));
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
