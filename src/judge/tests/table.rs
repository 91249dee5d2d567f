//! Every situation of `fixtures/evidence` gets the verdict that its file states, for the reason that it states.

use std::collections::BTreeSet;

use super::{Situation, root, situations};
use crate::judge::Ruling;
use crate::model::probe::{Expectation, Severity};
use crate::model::verdict::{FailKind, Verdict};

fn words(verdict: Verdict) -> String {
    match verdict.kind() {
        Some(FailKind::Leak) => "fail leak".to_owned(),
        Some(FailKind::Broken) => "fail broken".to_owned(),
        None => verdict.word().to_owned(),
    }
}

/// All that a ruling says, one thing to a line.
fn text(ruling: &Ruling) -> String {
    let mut lines = vec![ruling.summary.clone()];
    lines.extend(ruling.reason.clone());
    lines.extend(
        ruling
            .evidence
            .iter()
            .map(|line| format!("{} {} at {:.1} ms", line.what, serde_json::json!(line.fields), line.at_ms)),
    );
    lines.join("\n")
}

/// What is not as the file says.
fn faults(situation: &Situation, ruling: &Ruling) -> Vec<String> {
    let (found, text) = (words(ruling.verdict), text(ruling));
    let mut faults = Vec::new();
    if found != situation.verdict {
        faults.push(format!("is {found} and not {}", situation.verdict));
    }
    faults.extend(
        situation.says.iter().filter(|part| !text.contains(*part)).map(|part| format!("does not say {part:?}")),
    );
    faults.extend(situation.says_not.iter().filter(|part| text.contains(*part)).map(|part| format!("says {part:?}")));
    if (ruling.verdict == Verdict::Pass) != ruling.reason.is_none() {
        faults.push("has a reason that does not fit its verdict".to_owned());
    }
    if ruling.reason.as_deref() == Some("") {
        faults.push("has an empty reason".to_owned());
    }
    if matches!(ruling.verdict, Verdict::Fail(_)) && ruling.evidence.is_empty() {
        faults.push("fails without evidence".to_owned());
    }
    faults
}

#[test]
fn every_situation_gets_its_verdict() {
    let mut wrong = Vec::new();
    for (name, situation) in situations() {
        let ruling = situation.judge();
        for fault in faults(&situation, &ruling) {
            wrong.push(format!("{name} {fault}\n    {}", text(&ruling).replace('\n', "\n    ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A folder without a pass could not tell a judge that never passes, one without the others a judge that always does.
#[test]
fn every_expectation_can_come_to_everything() {
    let all = situations();
    let folders: BTreeSet<&str> = all.iter().filter_map(|(name, _)| name.split('/').next()).collect();
    let probes = crate::catalog::Catalog::builtin().unwrap();
    for probe in probes.probes() {
        let word = serde_json::to_value(probe.expect).unwrap();
        let word = word.as_str().unwrap();
        assert!(folders.contains(word), "{} has no folder {word}", root().display());
        // A hardening finding warns at worst.
        use Expectation::{ClientQuiet, NoLocalResolver, NoRawPower};
        let hardening = matches!(probe.expect, NoLocalResolver | NoRawPower | ClientQuiet)
            || probe.group == "stack" && probe.severity == Severity::Low;
        let bad = if hardening { "warn" } else { "fail" };
        for verdict in ["pass", bad, "inconclusive"] {
            let has = all.iter().any(|(name, situation)| {
                name.starts_with(&format!("{word}/")) && situation.verdict.starts_with(verdict)
            });
            assert!(has, "{word} has no {verdict}");
        }
    }
    for (name, situation) in &all {
        let word = serde_json::to_value(situation.expect).unwrap();
        assert!(name.starts_with(&format!("{}/", word.as_str().unwrap())), "{name} is in the wrong folder");
    }
}
