//! When exits agree, when they do not, and when nothing can be said.

use super::super::fixture::{EXIT, EXIT_V6, HOME, escape, evidence, facts, lacking, quiet, rule, saw, silent};
use super::*;
use crate::model::evidence::{Answer, Evidence};
use crate::model::verdict::{FailKind, Verdict};

const LEAK: Verdict = Verdict::Fail(FailKind::Leak);
const OTHER: &str = "198.51.100.4";

/// Evidence of HTTP, STUN, the DHT and trackers, in this order; `None` is not configured.
fn all(kinds: [Option<Vec<Answer>>; 4]) -> Evidence {
    let names = ["exit-http", "exit-stun", "exit-dht", "exit-tracker"];
    let parts = names.into_iter().zip(kinds).map(|(name, answers)| {
        let part = answers.map_or_else(|| Evidence::unasked(20.0, "none is configured"), evidence);
        (name.to_owned(), part)
    });
    Evidence { from_ms: 20.0, to_ms: 60.0, parts: parts.collect(), ..Evidence::default() }
}

fn ruling(kinds: [Option<Vec<Answer>>; 4]) -> Ruling {
    rule("exit-agreement", &all(kinds), &quiet(), &facts())
}

fn one(address: &str) -> Option<Vec<Answer>> {
    Some(vec![saw("w", address)])
}

#[test]
fn two_kinds_that_see_the_same_agree() {
    let ruling = ruling([one(EXIT), one(EXIT), Some(vec![silent("d")]), None]);
    assert_eq!((ruling.verdict, ruling.summary.as_str()), (Verdict::Pass, "HTTP and STUN agree on 198.51.100.3"));
}

#[test]
fn a_difference_is_a_leak_if_one_is_home_or_a_strangers() {
    let found = ruling([one(EXIT), one(HOME), None, None]);
    assert_eq!(found.verdict, LEAK);
    assert!(found.summary.ends_with("over HTTP it is 198.51.100.3"), "{}", found.summary);
    assert_eq!(ruling([one(EXIT), one(EXIT), one("192.0.2.7"), None]).verdict, LEAK);
    // Agreement in what is wrong is none to be proud of.
    assert_eq!(ruling([one(HOME), one(HOME), None, None]).verdict, LEAK);
}

#[test]
fn another_difference_is_a_warning() {
    let own = |address: &str| {
        let mut answer = saw("w", address);
        if let crate::model::evidence::Said::Exit { of_provider, .. } = &mut answer.said {
            *of_provider = Some(true);
        }
        Some(vec![answer])
    };
    let ruling = ruling([own(EXIT), own(OTHER), None, None]);
    assert_eq!(ruling.verdict, Verdict::Warn);
    assert_eq!(ruling.summary, "exits differ: 198.51.100.3 over HTTP, 198.51.100.4 over STUN");
}

#[test]
fn one_kind_alone_agrees_with_nobody() {
    let alone = ruling([one(EXIT), Some(vec![silent("s")]), Some(vec![silent("d")]), None]);
    assert_eq!(alone.verdict, Verdict::Inconclusive);
    assert!(alone.reason.unwrap().ends_with("HTTP answered, DHT and STUN did not"));
    assert_eq!(ruling([one(EXIT), one(EXIT_V6), None, None]).verdict, Verdict::Inconclusive, "of two families");
    assert_eq!(ruling([Some(vec![silent("h")]), Some(vec![silent("s")]), None, None]).verdict, Verdict::Inconclusive);
    assert_eq!(ruling([one(EXIT), None, None, None]).verdict, Verdict::Skip);
    let nothing = Evidence { from_ms: 20.0, ..Evidence::default() };
    assert_eq!(rule("exit-agreement", &nothing, &quiet(), &facts()).verdict, Verdict::Inconclusive);
}

#[test]
fn without_the_control_nothing_passes_and_a_leak_still_fails() {
    for wire in lacking() {
        let agreed = all([one(EXIT), one(EXIT), None, None]);
        assert_eq!(rule("exit-agreement", &agreed, &wire, &facts()).verdict, Verdict::Inconclusive, "{wire:?}");
        let leaks = all([one(EXIT), one(HOME), None, None]);
        assert_eq!(rule("exit-agreement", &leaks, &wire, &facts()).verdict, LEAK);
    }
    let mut broken = all([one(EXIT), one(EXIT), None, None]);
    broken.parts[0].1.problems.push("TLS could not be set up".to_owned());
    assert_eq!(rule("exit-agreement", &broken, &quiet(), &facts()).verdict, Verdict::Inconclusive);
    let mut wire = quiet();
    wire.sightings.push(escape());
    let escaped = all([one(EXIT), one(EXIT), None, None]);
    assert_eq!(rule("exit-agreement", &escaped, &wire, &facts()).verdict, LEAK);
}
