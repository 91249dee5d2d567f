//! The law of pass, as properties that hold of every situation in `fixtures/evidence` and of what chance makes of them.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::{FactsText, Situation, TRIAL, situations};
use crate::model::evidence::{Answer, Class, Control, Fate, Said, Sighting};
use crate::model::probe::{Expectation, Phase};
use crate::model::verdict::Verdict;

static ALL: LazyLock<Vec<(String, Situation)>> = LazyLock::new(situations);

/// Any of them.
fn any_situation() -> impl Strategy<Value = (String, Situation)> {
    select(ALL.as_slice())
}

/// Situations that pass.
fn passing() -> impl Strategy<Value = (String, Situation)> {
    select(ALL.iter().filter(|(_, situation)| situation.judge().verdict == Verdict::Pass).cloned().collect::<Vec<_>>())
}

/// Situations that pass by what became of their own stimuli.
fn passing_by_stimuli() -> impl Strategy<Value = (String, Situation)> {
    use Expectation::{ForcedDnsContained, NoLocalResolver, NothingOnUplink};
    let by_stimuli =
        |situation: &Situation| [ForcedDnsContained, NoLocalResolver, NothingOnUplink].contains(&situation.expect);
    let passes = |situation: &Situation| situation.judge().verdict == Verdict::Pass;
    let found = ALL.iter().filter(|(_, situation)| by_stimuli(situation) && passes(situation));
    select(found.cloned().collect::<Vec<_>>())
}

fn failed(situation: &Situation) -> bool {
    matches!(situation.judge().verdict, Verdict::Fail(_))
}

/// Probes whose own stimuli may be seen on an uplink, or must not be.
fn watches_its_own(situation: &Situation) -> bool {
    matches!(
        situation.expect,
        Expectation::NothingOnUplink
            | Expectation::ForcedDnsContained
            | Expectation::GoesDark
            | Expectation::FlowsStay
            | Expectation::ResolverIsVpn
            | Expectation::NoStaleResolver
    )
}

fn sighting(class: Class, probe: Option<&str>, dst: &str, count: u64) -> Sighting {
    let probe = probe.map(str::to_owned);
    let mut seen: Sighting = serde_json::from_value(serde_json::json!({
        "first_ms": 300.0, "last_ms": 301.0, "link": "eth0", "class": "offence", "proto": "udp", "src": "172.18.0.10:4000",
        "dst": dst, "count": count, "length": 60, "wireguard": false,
    }))
    .unwrap();
    seen.class = class;
    seen.stimulus = probe.as_ref().map(|_| 1);
    seen.probe = probe;
    seen
}

/// One thing that a pass needs, taken away.
#[derive(Debug, Clone)]
enum Harm {
    /// The control at this place was never made.
    NoControl(Index),
    /// It was made and not seen.
    Unseen(Index),
    /// It could not be sent.
    Unsent(Index),
    /// No control at all.
    NoControls,
    Dropped(u64),
    NoWire,
    NeverClosed,
    /// Closed so long before the end.
    ClosedEarly(f64),
    /// Armed so long after the beginning.
    ArmedLate(f64),
    NoUplinks,
    SensorProblem,
    NoEvidence,
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        any::<Index>().prop_map(Harm::NoControl),
        any::<Index>().prop_map(Harm::Unseen),
        any::<Index>().prop_map(Harm::Unsent),
        Just(Harm::NoControls),
        (1..u64::MAX).prop_map(Harm::Dropped),
        Just(Harm::NoWire),
        Just(Harm::NeverClosed),
        (0.001..5000.0).prop_map(Harm::ClosedEarly),
        (0.001..5000.0).prop_map(Harm::ArmedLate),
        Just(Harm::NoUplinks),
        Just(Harm::SensorProblem),
        Just(Harm::NoEvidence),
    ]
}

/// When the first stimulus of a situation was due, and when the last was over.
fn span(situation: &Situation) -> (f64, f64) {
    match (&situation.evidence, &situation.outage, situation.phase) {
        (Some(evidence), ..) => (evidence.from_ms, evidence.to_ms),
        (None, Some(outage), Phase::Outage) => (outage.from_ms, outage.to_ms),
        (None, ..) => panic!("a situation that passes measured something"),
    }
}

fn harmed(mut situation: Situation, harm: &Harm) -> Situation {
    let (from, to) = span(&situation);
    let outage = situation.phase == Phase::Outage;
    let control = |situation: &mut Situation, place: &Index, change: fn(&mut Control)| {
        let controls = &mut situation.wire.as_mut().unwrap().controls;
        let place = place.index(controls.len());
        change(&mut controls[place]);
    };
    let wire = situation.wire.as_mut().unwrap();
    match harm {
        Harm::NoControl(place) => drop(wire.controls.remove(place.index(wire.controls.len()))),
        Harm::Unseen(place) => control(&mut situation, place, |control| control.seen_ms = None),
        Harm::Unsent(place) => control(&mut situation, place, |control| {
            control.seen_ms = None;
            control.error = Some("EPERM".to_owned());
        }),
        Harm::NoControls => wire.controls.clear(),
        Harm::Dropped(count) => wire.dropped = *count,
        Harm::NoWire => situation.wire = None,
        Harm::NeverClosed => wire.closed_ms = 0.0,
        Harm::ClosedEarly(by) => wire.closed_ms = to - by,
        Harm::ArmedLate(by) => wire.armed_ms = from + by,
        // Nor anything that stands in for them.
        Harm::NoUplinks => (wire.uplinks, wire.stand_in) = (Vec::new(), None),
        Harm::SensorProblem => wire.problems.push("the sensor stumbled".to_owned()),
        Harm::NoEvidence if outage => situation.outage = None,
        Harm::NoEvidence => situation.evidence = None,
    }
    situation
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_passes_with_something_missing((name, situation) in passing(), harm in harm()) {
        let ruling = harmed(situation, &harm).judge();
        prop_assert!(ruling.verdict == Verdict::Inconclusive, "{name} with {harm:?}: {ruling:?}");
    }

    #[test]
    fn nothing_passes_with_a_stimulus_missing((name, situation) in passing(), which in any::<Index>(), all in any::<bool>()) {
        let mut situation = situation;
        let uplink = matches!(situation.expect, Expectation::NothingOnUplink | Expectation::ForcedDnsContained);
        match (&mut situation.evidence, &mut situation.outage) {
            (Some(evidence), _) if uplink && all => evidence.stimuli.clear(),
            (Some(evidence), _) if uplink => {
                let place = which.index(evidence.stimuli.len());
                evidence.stimuli[place].fate = Fate::NotSent { reason: "no memory".to_owned() };
            }
            (_, Some(outage)) if situation.expect == Expectation::GoesDark && all => outage.samples.clear(),
            (_, Some(outage)) if situation.expect == Expectation::GoesDark => {
                let place = which.index(outage.samples.len());
                outage.samples[place].sent = 0;
                outage.samples[place].refused = 0;
            }
            (_, Some(outage)) if situation.expect == Expectation::FlowsStay => {
                let flows = &mut outage.flows_v6.as_mut().unwrap().flows;
                let place = which.index(flows.len());
                if all { flows.clear() } else { flows[place].asked = 0 }
            }
            _ => return Ok(()),
        }
        prop_assert_eq!(situation.judge().verdict, Verdict::Inconclusive, "{}", name);
    }

    /// What asks others rests on what they say, and where silence is the finding, on a control that was heard.
    #[test]
    fn nothing_passes_when_nobody_said_anything((name, situation) in passing()) {
        use Expectation::{FlowsStay, ForcedDnsContained, NothingOnUplink, WireQuiet};
        let by_sensor = [NothingOnUplink, ForcedDnsContained, WireQuiet, FlowsStay];
        let mut situation = situation;
        if let Some(outage) = situation.outage.as_mut().filter(|_| situation.phase == Phase::Outage) {
            (outage.resolved_before, outage.resolved_while_down) = Default::default();
            outage.local.clear();
        }
        if let Some(evidence) = &mut situation.evidence {
            evidence.answers.clear();
            evidence.parts.iter_mut().for_each(|(_, part)| part.answers.clear());
        }
        // Nothing listens that could have been asked, by tables that are proven to tell: that is said before any question.
        let nobody = situation.expect == Expectation::NoStrangerAnswered
            && situation.evidence.as_ref().is_some_and(|evidence| evidence.stimuli.is_empty());
        prop_assume!(!by_sensor.contains(&situation.expect) && !nobody);
        // The start of a container is listened to on the host, and nobody is asked.
        prop_assume!(situation.expect != Expectation::SealedFromStart);
        prop_assert_ne!(situation.judge().verdict, Verdict::Pass, "{}", name);
    }

    #[test]
    fn nothing_passes_that_was_sent_and_shows_nowhere((name, situation) in passing_by_stimuli(), which in any::<Index>()) {
        let mut situation = situation;
        let stimuli = &mut situation.evidence.as_mut().unwrap().stimuli;
        let place = which.index(stimuli.len());
        (stimuli[place].fate, stimuli[place].traced) = (Fate::Sent, true);
        let id = stimuli[place].id;
        let one = stimuli[place].clone();
        // What may go to the server may wait for its hardware address.
        let servers = situation.facts.endpoint.iter().chain(&situation.facts.other_servers);
        prop_assume!(!servers.clone().any(|server| server.ip() == one.to.ip()));
        // One of which another took the tunnel is lost on its way.
        prop_assume!(!stimuli.iter().any(|other| {
            other.id != id && (other.proto, other.to, &other.via, &other.what) == (one.proto, one.to, &one.via, &one.what)
        }));
        let wire = situation.wire.as_mut().unwrap();
        wire.sightings.retain(|seen| seen.stimulus != Some(id));
        wire.inside.remove(&id);
        prop_assert_eq!(situation.judge().verdict, Verdict::Inconclusive, "{}", name);
    }

    #[test]
    fn what_is_told_twice_is_the_same((name, situation) in any_situation()) {
        let before = situation.judge().verdict;
        let mut situation = situation;
        if let Some(evidence) = &mut situation.evidence {
            evidence.answers.extend(evidence.answers.clone());
        }
        if let Some(wire) = &mut situation.wire {
            wire.controls.extend(wire.controls.clone());
            wire.sightings.extend(wire.sightings.clone());
        }
        if let Some(outage) = &mut situation.outage {
            outage.resolved_before.extend(outage.resolved_before.clone());
            outage.resolved_while_down.extend(outage.resolved_while_down.clone());
        }
        prop_assert_eq!(situation.judge().verdict, before, "{}", name);
    }

    #[test]
    fn a_leak_seen_turns_a_pass_red(
        (name, situation) in passing(),
        class in select(&[Class::Offence, Class::Nearby, Class::LocalDns][..]),
        count in 1..1000u64,
        place in any::<Index>(),
    ) {
        let mut situation = situation;
        let sightings = &mut situation.wire.as_mut().unwrap().sightings;
        let place = place.index(sightings.len() + 1);
        let seen = match situation.expect {
            Expectation::WireQuiet => sighting(Class::Offence, None, "9.9.9.9:443", count),
            _ if class == Class::Offence => sighting(class, Some(TRIAL), "9.9.9.9:443", count),
            _ => sighting(class, Some(TRIAL), "172.18.0.1:53", count),
        };
        sightings.insert(place, seen);
        if watches_its_own(&situation) || situation.expect == Expectation::WireQuiet {
            prop_assert!(failed(&situation), "{name}: {:?}", situation.judge());
        }
    }

    #[test]
    fn nothing_that_is_added_clears_a_failure(
        (name, situation) in any_situation().prop_filter("fails", |(_, situation)| failed(situation)),
        classes in prop::collection::vec(select(&[Class::Offence, Class::Nearby, Class::LocalDns, Class::Tunnelled][..]), 1..4),
        own in any::<bool>(),
        silent in any::<bool>(),
    ) {
        let mut situation = situation;
        if let Some(wire) = &mut situation.wire {
            let probe = own.then_some(TRIAL);
            wire.sightings.extend(classes.into_iter().map(|class| sighting(class, probe, "9.9.9.9:443", 1)));
            wire.dropped += 1;
        }
        if let (Some(evidence), true) = (&mut situation.evidence, silent) {
            let said = Said::Nothing { error: "no answer in time".to_owned() };
            evidence.answers.push(Answer { at_ms: 80.0, witness: "one more".to_owned(), said });
            evidence.problems.push("one more problem".to_owned());
        }
        prop_assert!(failed(&situation), "{name}: {:?}", situation.judge());
    }

    #[test]
    fn an_error_makes_nothing_pass((name, situation) in any_situation(), problem in any::<bool>()) {
        let before = situation.judge().verdict;
        let mut situation = situation;
        let Some(evidence) = &mut situation.evidence else { return Ok(()) };
        if problem || evidence.answers.is_empty() {
            evidence.problems.push("something went wrong".to_owned());
            prop_assert_ne!(situation.judge().verdict, Verdict::Pass, "{}", name);
            return Ok(());
        }
        let said = Said::Nothing { error: "no answer in time".to_owned() };
        evidence.answers.push(Answer { at_ms: 80.0, witness: "one more".to_owned(), said: said.clone() });
        if before != Verdict::Pass {
            prop_assert_ne!(situation.judge().verdict, Verdict::Pass, "{} with one more", name);
        }
        // All of them silent, whatever they said before: nothing is left to pass on where witnesses decide.
        let evidence = situation.evidence.as_mut().unwrap();
        evidence.answers.iter_mut().for_each(|answer| answer.said = said.clone());
        if matches!(situation.expect, Expectation::ExitIsVpn | Expectation::ResolverIsVpn | Expectation::NoStaleResolver | Expectation::LocalReachable) {
            prop_assert_ne!(situation.judge().verdict, Verdict::Pass, "{} with all silent", name);
        }
    }

    #[test]
    fn the_order_of_evidence_does_not_matter((name, situation) in any_situation(), seed in any::<u64>()) {
        let before = situation.judge().verdict;
        let mut situation = situation;
        let mut state = seed | 1;
        let mut turn = |length: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % length.max(1)
        };
        if let Some(evidence) = &mut situation.evidence {
            shuffle(&mut evidence.answers, &mut turn);
            shuffle(&mut evidence.stimuli, &mut turn);
        }
        if let Some(wire) = &mut situation.wire {
            shuffle(&mut wire.controls, &mut turn);
            shuffle(&mut wire.sightings, &mut turn);
            shuffle(&mut wire.uplinks, &mut turn);
        }
        if let Some(outage) = &mut situation.outage {
            shuffle(&mut outage.samples, &mut turn);
            shuffle(&mut outage.resolved_while_down, &mut turn);
            shuffle(&mut outage.local, &mut turn);
            shuffle(&mut outage.holes, &mut turn);
            if let Some(v6) = &mut outage.flows_v6 {
                shuffle(&mut v6.flows, &mut turn);
            }
        }
        prop_assert_eq!(situation.judge().verdict, before, "{}", name);
    }
}

fn shuffle<T>(list: &mut [T], turn: &mut impl FnMut(usize) -> usize) {
    for last in (1..list.len()).rev() {
        list.swap(last, turn(last + 1));
    }
}

/// The evidence of a verdict is bounded, and says how much more there is.
#[test]
fn evidence_is_bounded() {
    let (_, leaking) = ALL.iter().find(|(name, _)| name == "wire-quiet/leak").unwrap();
    for (lines, last) in [(40, None), (41, Some("and 1 more")), (1000, Some("and 960 more"))] {
        let mut situation = leaking.clone();
        let seen = (0..lines).map(|_| sighting(Class::Offence, None, "9.9.9.9:443", 1));
        situation.wire.as_mut().unwrap().sightings = seen.collect();
        let ruling = situation.judge();
        assert_eq!(ruling.evidence.len(), lines.min(40) + usize::from(last.is_some()));
        if let Some(last) = last {
            assert_eq!(ruling.evidence.last().unwrap().what, last);
        }
    }
}

/// What rules say decides nothing: with any text, or none, each situation has the verdict that it has, and what it rested on before.
#[test]
fn the_firewalls_text_makes_no_finding_and_clears_none() {
    let texts: Vec<_> = ALL.iter().filter_map(|(_, situation)| situation.facts.firewall.clone()).collect();
    assert!(texts.len() >= 4);
    for (name, situation) in ALL.iter() {
        let mut bare =
            Situation { facts: FactsText { firewall: None, ..situation.facts.clone() }, ..situation.clone() };
        bare.wire.iter_mut().for_each(|wire| wire.opened.clear());
        let before = bare.judge();
        for text in &texts {
            let mut with = bare.clone();
            with.facts.firewall = Some(text.clone());
            let mut after = with.judge();
            // Rules for packets that were not sent take a pass away, and that is all.
            if (before.verdict, after.verdict) == (Verdict::Pass, Verdict::Inconclusive) {
                assert!(after.reason.is_some_and(|why| why.contains("the firewall accepts")), "{name}");
                continue;
            }
            after.evidence.truncate(before.evidence.len());
            if before.verdict == Verdict::Inconclusive {
                // One reason more, and the others as they were.
                let (had, has) = (before.reason.clone().unwrap_or_default(), after.reason.clone().unwrap_or_default());
                assert!(has.starts_with(&had), "{name}: {had:?} became {has:?}");
                after.reason.clone_from(&before.reason);
            }
            assert_eq!(after, before, "{name}");
        }
    }
}
