//! Hand-made evidence for the tests of the judge: a sensor that was on and lost nothing, and witnesses that said something.

use std::net::IpAddr;

use super::{Case, Facts, Ruling, judge};
use crate::catalog::Catalog;
use crate::config::Provider;
use crate::model::evidence::{
    Answer, CONTROL_KINDS, Class, Control, Detail, Evidence, Fate, PhaseWire, Proto, Said, Sighting, Stimulus, Via,
};
use crate::model::probe::Phase;

pub(super) const EXIT: &str = "198.51.100.3";
pub(super) const EXIT_V6: &str = "2001:db8:51::3";
pub(super) const HOME: &str = "203.0.113.10";

/// What is known of a stack whose provider says whose exit is whose.
pub(super) fn facts() -> Facts {
    Facts {
        home: vec![ip(HOME)],
        provider: Some(Provider::Mullvad),
        uplink_nets: vec!["172.18.0.0/16".parse().unwrap()],
        uplinks: vec!["eth0".to_owned()],
        tunnel: Some("tun0".to_owned()),
        endpoint_known: true,
        ..Facts::default()
    }
}

/// A phase from 10 to 100 ms in which all controls were seen and nothing else.
pub(super) fn quiet() -> PhaseWire {
    let controls = |sent_ms| {
        CONTROL_KINDS.map(|(proto, v6)| Control {
            link: "eth0".to_owned(),
            proto,
            v6,
            sent_ms,
            seen_ms: Some(sent_ms + 0.1),
            error: None,
        })
    };
    PhaseWire {
        armed_ms: 10.0,
        closed_ms: 100.0,
        uplinks: vec!["eth0".to_owned()],
        controls: [controls(5.0), controls(95.0)].concat(),
        packet_sockets: Some(Vec::new()),
        direct: Some(Vec::new()),
        ..PhaseWire::default()
    }
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A witness that saw an exit, which the provider owns if it is one of the fixture's.
pub(super) fn saw(witness: &str, address: &str) -> Answer {
    let own = [EXIT, EXIT_V6].contains(&address);
    let said = Said::Exit { ip: ip(address), of_provider: (address != HOME).then_some(own) };
    Answer { at_ms: 50.0, witness: witness.to_owned(), said }
}

pub(super) fn silent(witness: &str) -> Answer {
    let said = Said::Nothing { error: "no answer in time".to_owned() };
    Answer { at_ms: 50.0, witness: witness.to_owned(), said }
}

/// Evidence of one technique: its answers, and one question that was sent.
pub(super) fn evidence(answers: Vec<Answer>) -> Evidence {
    let stimulus = Stimulus {
        id: 7,
        at_ms: 20.0,
        proto: Proto::Udp,
        to: "74.125.250.129:19302".parse().unwrap(),
        via: Via::Default,
        what: "question".to_owned(),
        fate: Fate::Sent,
        traced: false,
    };
    Evidence { from_ms: 20.0, to_ms: 60.0, stimuli: vec![stimulus], answers, ..Evidence::default() }
}

/// The question of [`evidence`], seen leaving by the uplink.
pub(super) fn escape() -> Sighting {
    Sighting {
        first_ms: 20.1,
        last_ms: 20.1,
        link: "eth0".to_owned(),
        class: Class::Offence,
        proto: Proto::Udp,
        src: "172.18.0.10:6881".parse().unwrap(),
        dst: "74.125.250.129:19302".parse().unwrap(),
        count: 1,
        length: 48,
        wireguard: false,
        // Whoever asked first in the phase: answers are shared.
        probe: Some("exit-agreement".to_owned()),
        stimulus: Some(7),
        detail: Detail::default(),
    }
}

/// The ruling on one asking of a built-in probe while the tunnel is up.
pub(super) fn rule(probe: &str, evidence: &Evidence, wire: &PhaseWire, facts: &Facts) -> Ruling {
    let catalog = Catalog::builtin().unwrap();
    let probe = catalog.get(probe).unwrap();
    judge(&Case {
        probe,
        trial: &probe.id,
        phase: Phase::Up,
        evidence: Some(evidence),
        wire: Some(wire),
        outage: None,
        facts,
    })
}

/// Every way in which the law of pass can lack something, and what that does to a sensor's record.
pub(super) fn lacking() -> Vec<PhaseWire> {
    let with = |change: fn(&mut PhaseWire)| {
        let mut wire = quiet();
        change(&mut wire);
        wire
    };
    vec![
        with(|wire| wire.controls[0].seen_ms = None),
        with(|wire| wire.controls.clear()),
        with(|wire| wire.dropped = 1),
        with(|wire| wire.uplinks.clear()),
        with(|wire| wire.problems.push("broken".to_owned())),
        with(|wire| wire.armed_ms = 30.0),
        with(|wire| wire.closed_ms = 0.0),
    ]
}
