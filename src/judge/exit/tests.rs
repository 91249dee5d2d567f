//! What witnesses say, and what it means.

use super::super::fixture::{EXIT, EXIT_V6, HOME, escape, evidence, facts, ip, lacking, quiet, rule, saw, silent};
use super::*;
use crate::model::evidence::PhaseWire;

const LEAK: Verdict = Verdict::Fail(FailKind::Leak);

fn udp(answers: Vec<Answer>) -> Ruling {
    rule("exit-udp", &evidence(answers), &quiet(), &facts())
}

#[test]
fn an_exit_of_the_vpn_passes() {
    let ruling = udp(vec![saw("a (IPv4)", EXIT), saw("a (IPv6)", EXIT_V6), silent("b")]);
    assert_eq!(ruling.verdict, Verdict::Pass, "{ruling:?}");
    assert_eq!(ruling.evidence.len(), 3, "what is down is noted");
}

#[test]
fn one_witness_that_sees_home_is_enough() {
    let ruling = udp(vec![saw("a", EXIT), saw("a from port 6881", HOME), saw("b", EXIT)]);
    assert_eq!(ruling.verdict, LEAK);
    assert!(ruling.summary.contains("a from port 6881 saw 203.0.113.10"), "{}", ruling.summary);
}

#[test]
fn what_is_not_the_providers_fails_and_what_nobody_judged_is_not_known() {
    assert_eq!(udp(vec![saw("a", EXIT), saw("b", "192.0.2.7")]).verdict, LEAK);
    let unjudged = Answer { said: Said::Exit { ip: ip(EXIT), of_provider: None }, ..saw("a", EXIT) };
    assert_eq!(udp(vec![unjudged.clone()]).verdict, Verdict::Inconclusive);
    let told = Facts { exit: vec!["198.51.100.0/24".parse().unwrap()], ..facts() };
    assert_eq!(rule("exit-udp", &evidence(vec![unjudged]), &quiet(), &told).verdict, Verdict::Pass);
    let elsewhere = Facts { exit: vec!["198.51.200.0/24".parse().unwrap()], ..facts() };
    assert_eq!(rule("exit-udp", &evidence(vec![saw("a", EXIT)]), &quiet(), &elsewhere).verdict, LEAK);
}

#[test]
fn silence_is_inconclusive_and_nobody_to_ask_is_skipped() {
    let ruling = udp(vec![silent("a"), silent("b")]);
    assert_eq!(ruling.verdict, Verdict::Inconclusive);
    assert!(ruling.reason.unwrap().contains("a: no answer in time; b: no answer in time"));
    let nobody = Evidence::unasked(20.0, "no tracker is configured (echo.tracker)");
    let ruling = rule("exit-tracker", &nobody, &quiet(), &facts());
    assert_eq!((ruling.verdict, ruling.summary.as_str()), (Verdict::Skip, "no tracker is configured (echo.tracker)"));
    // Without evidence of anything to ask it is no skip.
    let empty = Evidence { from_ms: 20.0, to_ms: 30.0, ..Evidence::default() };
    assert_eq!(rule("exit-address", &empty, &quiet(), &facts()).verdict, Verdict::Inconclusive);
}

#[test]
fn a_question_on_the_uplink_is_a_leak_whatever_came_of_it() {
    for answers in [vec![silent("a")], vec![saw("a", EXIT)]] {
        let mut wire = quiet();
        wire.sightings.push(escape());
        let ruling = rule("exit-udp", &evidence(answers.clone()), &wire, &facts());
        assert_eq!(ruling.verdict, LEAK);
        assert!(ruling.summary.contains("left by eth0"), "{}", ruling.summary);
        // Another probe's packet, and one of the local network's, are not this probe's leak.
        let others = Sighting { stimulus: Some(8), ..escape() };
        let elsewhere = Sighting { dst: "8.8.8.8:53".parse().unwrap(), ..escape() };
        wire.sightings = vec![others, elsewhere, Sighting { class: Class::Nearby, ..escape() }];
        assert_ne!(rule("exit-udp", &evidence(answers), &wire, &facts()).verdict, LEAK);
    }
}

#[test]
fn a_private_address_is_no_exit_and_the_uplinks_own_is_a_leak() {
    let ruling = udp(vec![saw("a", "10.0.0.7")]);
    assert_eq!(ruling.verdict, Verdict::Inconclusive);
    assert!(ruling.reason.unwrap().contains("private address"));
    assert_eq!(udp(vec![saw("a", EXIT), saw("b", "172.18.0.10")]).verdict, LEAK);
}

#[test]
fn a_silent_dht_is_skipped_only_if_datagrams_come_out_at_the_vpn() {
    let dht = |stun: Vec<Answer>| {
        let part = ("exit-stun".to_owned(), evidence(stun));
        Evidence { parts: vec![part], ..evidence(vec![silent("DHT node x:6881")]) }
    };
    let verdict = |stun, wire: &PhaseWire| rule("exit-dht", &dht(stun), wire, &facts()).verdict;
    assert_eq!(verdict(vec![saw("STUN", EXIT)], &quiet()), Verdict::Skip);
    assert_eq!(verdict(vec![silent("STUN")], &quiet()), Verdict::Inconclusive);
    assert_eq!(verdict(vec![saw("STUN", HOME)], &quiet()), Verdict::Inconclusive, "exit-udp says that it leaks");
    for wire in lacking() {
        assert_eq!(verdict(vec![saw("STUN", EXIT)], &wire), Verdict::Inconclusive, "{wire:?}");
    }
    let mut wire = quiet();
    wire.sightings.push(escape());
    assert_eq!(verdict(vec![saw("STUN", EXIT)], &wire), LEAK);
}

#[test]
fn without_the_control_nothing_passes_and_a_leak_still_fails() {
    for wire in lacking() {
        let answers = vec![saw("a", EXIT)];
        assert_eq!(rule("exit-udp", &evidence(answers), &wire, &facts()).verdict, Verdict::Inconclusive, "{wire:?}");
        assert_eq!(rule("exit-udp", &evidence(vec![saw("a", HOME)]), &wire, &facts()).verdict, LEAK);
    }
    let mut broken = evidence(vec![saw("a", EXIT)]);
    broken.problems.push("TLS could not be set up".to_owned());
    assert_eq!(rule("exit-udp", &broken, &quiet(), &facts()).verdict, Verdict::Inconclusive);
}
