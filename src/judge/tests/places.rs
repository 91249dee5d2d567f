//! Routes, gateways and local services judged from evidence made by hand: what has to be red is, and without its control nothing is green.

use std::net::IpAddr;

use crate::judge::{Case, Facts, Ruling, judge};
use crate::model::evidence::names::{CONTROL, FROM_OUTSIDE, ROUTE_CONTROL, ROUTE_INSIDE, ROUTE_LEARNED, ROUTE_PUBLIC};
use crate::model::evidence::{
    Answer, Class, Control, Evidence, Fate, PhaseWire, Proto, Role, Said, Sighting, Stimulus, Via,
};
use crate::model::probe::{Expectation, Phase, Probe, Severity};
use crate::model::verdict::{FailKind, Verdict};

const TRIAL: &str = "probe";

fn probe(expect: Expectation) -> Probe {
    let text = String::new;
    Probe {
        id: TRIAL.to_owned(),
        title: text(),
        group: text(),
        claim: text(),
        technique: text(),
        params: toml::Table::new(),
        phases: vec![Phase::Up],
        expect,
        severity: Severity::High,
        why: text(),
        limits: text(),
        fix: text(),
    }
}

/// The record of a sensor that did its work and saw nothing.
fn quiet() -> PhaseWire {
    let kinds = [Proto::Udp, Proto::Tcp, Proto::Icmp].map(|proto| (proto, false));
    let kinds6 = [Proto::Udp, Proto::Tcp, Proto::Icmpv6].map(|proto| (proto, true));
    let control = |sent_ms: f64| {
        let kinds = kinds.into_iter().chain(kinds6);
        kinds.map(move |(proto, v6)| Control {
            link: "eth0".to_owned(),
            proto,
            v6,
            sent_ms,
            seen_ms: Some(sent_ms),
            error: None,
        })
    };
    PhaseWire {
        armed_ms: 1.0,
        closed_ms: 90.0,
        uplinks: vec!["eth0".to_owned()],
        controls: control(0.5).chain(control(89.0)).collect(),
        packet_sockets: Some(Vec::new()),
        direct: Some(Vec::new()),
        ..PhaseWire::default()
    }
}

fn rule(expect: Expectation, evidence: &Evidence, wire: &PhaseWire) -> Ruling {
    let (home, uplinks) = (vec!["203.0.113.10".parse().unwrap()], vec!["eth0".to_owned()]);
    let facts = Facts { home, uplinks, ..Facts::default() };
    let probe = probe(expect);
    let (evidence, wire) = (Some(evidence), Some(wire));
    judge(&Case { probe: &probe, trial: TRIAL, phase: Phase::Up, evidence, wire, outage: None, facts: &facts })
}

fn evidence(answers: Vec<(&str, Said)>) -> Evidence {
    let answers = answers.into_iter().map(|(who, said)| Answer { at_ms: 5.0, witness: who.to_owned(), said });
    Evidence { from_ms: 4.0, to_ms: 6.0, answers: answers.collect(), ..Evidence::default() }
}

fn routed(role: Role) -> Said {
    let link = if role == Role::Uplink { "eth0" } else { "tun0" };
    let examples: Vec<IpAddr> = vec!["93.184.215.14".parse().unwrap()];
    let flow = "any packet".to_owned();
    Said::Routed { link: Some(link.to_owned()), role: Some(role), addresses: 3, examples, flow, by: None }
}

#[test]
fn routes() {
    let judged = |answers| rule(Expectation::RoutedIntoTunnel, &evidence(answers), &quiet()).verdict;
    let control = || (ROUTE_CONTROL, routed(Role::Uplink));
    let good = || (ROUTE_PUBLIC, routed(Role::Tunnel));
    assert_eq!(judged(vec![control(), good()]), Verdict::Pass);
    assert_eq!(judged(vec![good()]), Verdict::Inconclusive, "no control");
    assert_eq!(judged(vec![(ROUTE_CONTROL, routed(Role::Tunnel)), good()]), Verdict::Inconclusive, "a failed control");
    assert_eq!(judged(vec![control()]), Verdict::Inconclusive, "nothing asked");
    assert_eq!(judged(vec![control(), good(), (ROUTE_PUBLIC, routed(Role::Uplink))]), Verdict::Fail(FailKind::Broken));
    assert_eq!(judged(vec![control(), good(), (ROUTE_INSIDE, routed(Role::Uplink))]), Verdict::Fail(FailKind::Leak));
    let learned = Said::Setting { text: "::/0 by a router advertisement on eth0".to_owned() };
    assert_eq!(judged(vec![control(), good(), (ROUTE_LEARNED, learned)]), Verdict::Warn);
}

#[test]
fn a_packet_on_the_uplink_makes_a_route_a_leak() {
    let mut astray = evidence(vec![(ROUTE_CONTROL, routed(Role::Uplink)), (ROUTE_PUBLIC, routed(Role::Uplink))]);
    astray.stimuli.push(Stimulus {
        id: 1,
        at_ms: 5.0,
        proto: Proto::Udp,
        to: "93.184.215.14:443".parse().unwrap(),
        via: Via::Default,
        what: "datagram".to_owned(),
        fate: Fate::Sent,
        traced: false,
    });
    let mut wire = quiet();
    wire.sightings.push(Sighting {
        first_ms: 5.0,
        last_ms: 5.0,
        link: "eth0".to_owned(),
        class: Class::Offence,
        proto: Proto::Udp,
        src: "172.18.0.10:4000".parse().unwrap(),
        dst: "93.184.215.14:443".parse().unwrap(),
        count: 1,
        length: 46,
        wireguard: false,
        probe: Some(TRIAL.to_owned()),
        stimulus: Some(1),
        detail: Default::default(),
    });
    let ruling = rule(Expectation::RoutedIntoTunnel, &astray, &wire);
    assert_eq!(ruling.verdict, Verdict::Fail(FailKind::Leak));
    assert!(ruling.summary.contains("93.184.215.14 is routed by eth0"), "{}", ruling.summary);
}

#[test]
fn gateways() {
    let judged = |answers| rule(Expectation::NoPortMapper, &evidence(answers), &quiet());
    let refused = || ("172.18.0.1 over PCP", Said::Refused { rcode: "Connection refused".to_owned() });
    let control = || (CONTROL, Said::Mapper { external: None, how: "NAT-PMP".to_owned() });
    assert_eq!(judged(vec![refused(), control()]).verdict, Verdict::Pass);
    assert_eq!(judged(vec![refused()]).verdict, Verdict::Inconclusive, "no control");
    assert_eq!(judged(Vec::new()).verdict, Verdict::Skip);
    let silent = ("172.18.0.1 over PCP", Said::Nothing { error: "no sign of life".to_owned() });
    assert_eq!(judged(vec![refused(), silent, control()]).verdict, Verdict::Inconclusive);
    let home = Some("203.0.113.10".parse().unwrap());
    let mapper = ("172.18.0.1 over NAT-PMP", Said::Mapper { external: home, how: "NAT-PMP".to_owned() });
    let ruling = judged(vec![refused(), mapper]);
    assert_eq!(ruling.verdict, Verdict::Fail(FailKind::Leak));
    assert!(ruling.summary.contains("tells the home address 203.0.113.10"), "{}", ruling.summary);
}

#[test]
fn services_and_forbidden_targets() {
    let yes = || Said::Reached { how: "connected".to_owned() };
    let no = || Said::Nothing { error: "no answer in time".to_owned() };
    let target = "tcp://192.168.1.1:22";
    let control = format!("{FROM_OUTSIDE}{target}");
    let served = |answers| rule(Expectation::Served, &evidence(answers), &quiet()).verdict;
    assert_eq!(served(vec![(target, yes())]), Verdict::Pass);
    assert_eq!(served(vec![(target, no())]), Verdict::Fail(FailKind::Broken));
    assert_eq!(served(Vec::new()), Verdict::Skip);
    let forbidden = |answers| rule(Expectation::LocalForbidden, &evidence(answers), &quiet()).verdict;
    assert_eq!(forbidden(vec![(target, no()), (&control, yes())]), Verdict::Pass);
    assert_eq!(forbidden(vec![(target, yes()), (&control, yes())]), Verdict::Fail(FailKind::Leak));
    assert_eq!(forbidden(vec![(target, no()), (&control, no())]), Verdict::Inconclusive, "it may be away");
    assert_eq!(forbidden(vec![(target, no())]), Verdict::Inconclusive, "nobody looked from outside");
    assert_eq!(forbidden(Vec::new()), Verdict::Skip);
}
