//! `--format tap` and `report.tap`: the Test Anything Protocol, version 13 (<https://testanything.org>), which all readers know, a test for each asking of a probe. What
//! could not be decided is not ok; what does not apply is skipped.

use super::{Format, Look, ReportError, prose};
use crate::model::report::{ProbeResult, Report, VerdictWord};

pub(super) const FORMAT: Format =
    Format { name: "tap", file: "report.tap", about: "Test Anything Protocol, version 13", render };

/// Lines of evidence of one test.
const EVIDENCE: usize = 20;

fn render(report: &Report, _look: &Look) -> Result<String, ReportError> {
    // What no probe says; only then there is such a test.
    let trouble = prose::trouble(report).is_some();
    let mut text = format!("TAP version 13\n1..{}\n", report.probes.len() + usize::from(trouble));
    text += &format!("# {}, {}, {}\n", report.tool, report.target, report.started);
    for (number, probe) in (1..).zip(&report.probes) {
        text += &test(number, probe, report.strict);
    }
    if trouble {
        text += &format!("not ok {} - measured-and-restored\n", report.probes.len() + 1);
    }
    for outage in &report.outages {
        text += &format!("# outage by {}: {}\n", outage.method, prose::outage(outage));
    }
    text += &format!("# wire {}\n", prose::wire(report));
    prose::comparison(report).iter().for_each(|line| text += &format!("# baseline: {line}\n"));
    let (word, conclusion) = prose::conclusion(report);
    text += &format!("# {word}: {conclusion}\n");
    Ok(text)
}

fn test(number: usize, probe: &ProbeResult, strict: bool) -> String {
    let name = format!("{}: {}", description(&probe.name()), description(&probe.summary));
    let ok = match probe.verdict {
        VerdictWord::Pass => true,
        VerdictWord::Warn => !strict,
        VerdictWord::Skip => {
            let why = probe.reason.as_ref().unwrap_or(&probe.summary);
            return format!("ok {number} - {} # SKIP {}\n", description(&probe.name()), description(why));
        }
        VerdictWord::Fail | VerdictWord::Inconclusive => false,
    };
    let mut text = format!("{} {number} - {name}\n", if ok { "ok" } else { "not ok" });
    if probe.verdict != VerdictWord::Pass {
        text += "  ---\n";
        let mut say = |key: &str, value: &str| text += &format!("  {key}: {}\n", quoted(value));
        say("verdict", probe.verdict.as_str());
        probe.reason.iter().for_each(|reason| say("because", reason));
        say("claim", &probe.claim);
        if probe.verdict != VerdictWord::Inconclusive {
            say("mend", &probe.fix);
        }
        if !probe.evidence.is_empty() {
            text += "  evidence:\n";
            for line in probe.evidence.iter().take(EVIDENCE) {
                text += &format!("    - {}\n", quoted(&prose::evidence(line)));
            }
        }
        text += "  ...\n";
    }
    text
}

/// A description says no directive and no escape by accident.
fn description(text: &str) -> String {
    text.replace('\\', "\\\\").replace('#', "\\#")
}

/// A string of JSON is one of YAML's double-quoted ones (YAML 1.2.2, 1.3).
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn looks_as_it_does() {
        let text = FORMAT.render(&sample::failing(), &Look::PLAIN).unwrap();
        snapbox::assert_data_eq!(text, snapbox::file!["../../fixtures/report/failing.tap"].raw());
    }

    #[test]
    fn the_plan_is_kept_and_no_evidence_adds_a_test_or_a_directive() {
        let mut report = sample::failing();
        report.outages[0].restored = false;
        report.each_text(&mut |text, _| text.push_str("\nok 99 - mine # TODO later\n...\nBail out!"));
        let text = FORMAT.render(&report, &Look::PLAIN).unwrap();
        let is_test = |line: &&str| line.starts_with("ok ") || line.starts_with("not ok ");
        let tests = text.lines().filter(is_test).count();
        assert!(text.contains(&format!("\n1..{tests}\n")) && tests == report.probes.len() + 1, "{text}");
        assert!(!text.lines().any(|line| line.starts_with("Bail out")), "{text}");
        assert!(!text.lines().filter(is_test).any(|line| line.contains(" # TODO")), "{text}");
        assert_eq!(text.matches("  ---\n").count(), text.matches("\n  ...\n").count());
    }

    #[test]
    fn what_is_not_decided_is_not_ok() {
        let text = FORMAT.render(&sample::failing(), &Look::PLAIN).unwrap();
        assert!(text.contains("not ok 2 - dns-resolver: "), "{text}");
        assert!(text.contains("ok 4 - ipv6 # SKIP "), "{text}");
    }
}
