//! `--format junit` and `junit.xml`: one suite for each group, one case for each asking of a probe. A failure is a claim
//! that did not hold, an error one that could not be decided, so that no reader takes either for success. It keeps to what the strictest
//! readers take: Jenkins' xUnit plugin, which refuses what its schema (junit-10.xsd) does not name, and GitLab, which takes 30 MB.

use std::collections::BTreeMap;
use std::time::Duration;

use quick_junit::{NonSuccessKind, Property, TestCase, TestCaseStatus, TestSuite};

use super::{Format, Look, ReportError, prose};
use crate::model::report::{ProbeResult, Report, VerdictWord};
use crate::model::verdict::FailKind;

pub(super) const FORMAT: Format = Format {
    name: "junit",
    file: "junit.xml",
    about: "for CI: failures are leaks, errors what could not be decided",
    render,
};

/// Octets of evidence of one case.
const EVIDENCE: usize = 15_000;
/// Kinds of packets that are listed one by one.
const LEAKS: usize = 50;

fn render(report: &Report, _look: &Look) -> Result<String, ReportError> {
    let mut document = quick_junit::Report::new("leakcheck");
    document.set_time(Duration::from_millis(report.duration_ms));
    let started = report.started.parse().ok();
    let mut groups: Vec<&str> = Vec::new();
    let mut cases: BTreeMap<&str, Vec<&ProbeResult>> = BTreeMap::new();
    for probe in &report.probes {
        if !cases.contains_key(probe.group.as_str()) {
            groups.push(&probe.group);
        }
        cases.entry(&probe.group).or_default().push(probe);
    }
    for group in groups {
        let mut suite = TestSuite::new(group);
        suite.timestamp = started;
        suite.add_property(Property::new("tool", &report.tool));
        suite.add_property(Property::new("target", &report.target));
        let probes = cases.get(group).into_iter().flatten();
        suite.set_time(Duration::from_millis(probes.clone().map(|probe| probe.duration_ms).sum()));
        suite.add_test_cases(probes.map(|probe| case(probe, report.strict)));
        document.add_test_suite(suite);
    }
    document.add_test_suites(trouble(report));
    if let Some(last) = document.test_suites.last_mut() {
        last.set_system_out(remarks(report));
    }
    let text = document.to_string().map_err(ReportError::Junit)?;
    // The schema has this of suites alone; the first is that of the root.
    Ok(text.replacen(&format!(" skipped=\"{}\"", document.skipped), "", 1) + "\n")
}

/// One asking of a probe.
fn case(probe: &ProbeResult, strict: bool) -> TestCase {
    let status = match (probe.verdict, probe.kind) {
        (VerdictWord::Pass, _) => TestCaseStatus::success(),
        (VerdictWord::Warn, _) if !strict => TestCaseStatus::success(),
        (VerdictWord::Warn, _) => unsuccessful(NonSuccessKind::Failure, "warn", probe),
        (VerdictWord::Fail, Some(FailKind::Leak) | None) => unsuccessful(NonSuccessKind::Failure, "leak", probe),
        (VerdictWord::Fail, Some(FailKind::Broken)) => unsuccessful(NonSuccessKind::Failure, "broken", probe),
        (VerdictWord::Inconclusive, _) => unsuccessful(NonSuccessKind::Error, "inconclusive", probe),
        (VerdictWord::Skip, _) => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(probe.reason.as_ref().unwrap_or(&probe.summary));
            status
        }
    };
    let plain = matches!(status, TestCaseStatus::Success { .. });
    let mut case = TestCase::new(probe.name(), status);
    case.set_classname(format!("leakcheck.{}", probe.group));
    case.set_time(Duration::from_millis(probe.duration_ms));
    if plain {
        let word = if probe.verdict == VerdictWord::Warn { "warning: " } else { "" };
        case.set_system_out(format!("{word}{}\n{}", probe.summary, body(probe)));
    }
    case
}

fn unsuccessful(kind: NonSuccessKind, ty: &str, probe: &ProbeResult) -> TestCaseStatus {
    told(kind, ty, &probe.summary, &body(probe))
}

/// GitLab shows the text alone, Jenkins the message above it: so the text begins with the message.
fn told(kind: NonSuccessKind, ty: &str, message: &str, text: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_type(ty).set_message(message).set_description(format!("{message}\n{text}"));
    status
}

/// What a verdict rests on, and what to do about it unless it is a pass.
fn body(probe: &ProbeResult) -> String {
    let mut lines = vec![format!("claim: {}", probe.claim)];
    if let Some(reason) = &probe.reason {
        lines.push(format!("because: {reason}"));
    }
    let mut room = EVIDENCE;
    let fits = |line: &String| {
        room = room.saturating_sub(line.len());
        room > 0
    };
    let evidence: Vec<String> = probe.evidence.iter().map(prose::evidence).take_while(fits).collect();
    let left_out = probe.evidence.len() - evidence.len();
    lines.extend(evidence);
    lines.extend((left_out > 0).then(|| format!("and {left_out} more in the JSON report")));
    if matches!(probe.verdict, VerdictWord::Fail | VerdictWord::Warn) {
        lines.push(format!("matters: {}", probe.why));
        lines.push(format!("mend: {}", probe.fix));
    }
    lines.join("\n")
}

/// What no probe says; only then there is such a case.
fn trouble(report: &Report) -> Option<TestSuite> {
    let ty = prose::trouble(report)?;
    let status = told(NonSuccessKind::Error, ty, &prose::conclusion(report).1, &remarks(report));
    let mut case = TestCase::new("measured-and-restored", status);
    case.set_classname("leakcheck.run");
    let mut suite = TestSuite::new("run");
    suite.add_test_case(case);
    Some(suite)
}

/// What belongs to the run and to no probe.
fn remarks(report: &Report) -> String {
    let (word, text) = prose::conclusion(report);
    let mut lines = vec![format!("{word}: {text}")];
    for outage in &report.outages {
        lines.push(format!("outage {}: {}", outage.method, prose::outage(outage)));
        lines.extend(prose::outage_details(outage));
    }
    lines.push(format!("wire {}", prose::wire(report)));
    let leaks = &report.wire.leaks;
    lines.extend(leaks.iter().take(LEAKS).map(prose::wire_leak));
    lines.extend((leaks.len() > LEAKS).then(|| format!("and {} more in the JSON report", leaks.len() - LEAKS)));
    lines.extend(prose::comparison(report).iter().map(|line| format!("baseline: {line}")));
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::{Look, sample};
    use super::*;

    fn parsed(report: &Report) -> quick_junit::Report {
        let text = FORMAT.render(report, &Look::PLAIN).unwrap();
        quick_junit::Report::deserialize_from_str(&text).unwrap()
    }

    fn status(report: &quick_junit::Report, name: &str) -> TestCaseStatus {
        let mut cases = report.test_suites.iter().flat_map(|suite| &suite.test_cases);
        cases.find(|case| case.name.as_str() == name).unwrap().status.clone()
    }

    #[test]
    fn verdicts_become_statuses() {
        let junit = parsed(&sample::failing());
        let is = |name: &str, kind: NonSuccessKind, ty: &str| matches!(status(&junit, name), TestCaseStatus::NonSuccess { kind: k, ty: Some(t), .. } if k == kind && t.as_str() == ty);
        assert!(is("exit-address", NonSuccessKind::Failure, "leak"));
        assert!(is("kill-switch/outage/vpn-stop", NonSuccessKind::Failure, "leak"));
        assert!(is("dns-resolver", NonSuccessKind::Error, "inconclusive"));
        assert!(matches!(status(&junit, "ipv6"), TestCaseStatus::Skipped { message: Some(_), .. }));
        assert!(matches!(status(&junit, "uplink"), TestCaseStatus::Success { .. }));
        assert!(matches!(status(&junit, "dns-forced"), TestCaseStatus::Success { .. }));
        assert_eq!((junit.tests, junit.failures, junit.errors), (7, 3, 1));
    }

    #[test]
    fn looks_as_it_does() {
        let text = FORMAT.render(&sample::failing(), &Look::PLAIN).unwrap();
        snapbox::assert_data_eq!(text, snapbox::file!["../../fixtures/report/failing.xml"].raw());
    }

    /// Names and attributes of the start tags, in order.
    fn tags(text: &str) -> Vec<(&str, BTreeMap<&str, &str>)> {
        let starts = text.split('<').filter(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic()));
        let tag = |rest| {
            let (tag, _): (&str, &str) = Option::unwrap(str::split_once(rest, '>'));
            let (name, mut rest) = tag.trim_end_matches('/').split_once(' ').unwrap_or((tag, ""));
            let mut attributes = BTreeMap::new();
            while let Some((key, more)) = rest.split_once("=\"") {
                let (value, more) = more.split_once('"').unwrap();
                assert!(attributes.insert(key.trim(), value).is_none(), "{tag}");
                rest = more;
            }
            (name, attributes)
        };
        starts.map(tag).collect()
    }

    /// A run of everything that can be said, and one more of what a hostile server could say.
    fn extremes() -> Vec<Report> {
        let mut broken = sample::failing();
        broken.outages[0].restored = false;
        let mut hostile = sample::failing();
        hostile.each_text(&mut |text, _| text.push_str("\" a=\"b\" skipped=\"1\">\u{1}"));
        vec![sample::passing(), sample::failing(), sample::with_access(), broken, hostile]
    }

    /// See junit-10.xsd of Jenkins' xUnit plugin, which names every attribute and requires those of a suite.
    #[test]
    fn elements_have_the_attributes_of_the_schema_and_no_others() {
        let known = |element: &str| -> (&[&str], &[&str]) {
            match element {
                "testsuites" => (&[], &["name", "tests", "failures", "errors", "time"]),
                "testsuite" => (&["name", "tests", "failures", "errors"], &["skipped", "time", "timestamp"]),
                "testcase" => (&["name"], &["classname", "time"]),
                "failure" | "error" | "skipped" => (&[], &["message", "type"]),
                "property" => (&["name", "value"], &[]),
                "properties" | "system-out" => (&[], &[]),
                other => panic!("the schema has no {other}"),
            }
        };
        for report in extremes() {
            let text = FORMAT.render(&report, &Look::PLAIN).unwrap();
            for (element, attributes) in tags(&text) {
                let (required, optional) = known(element);
                let all_known = attributes.keys().all(|key| required.contains(key) || optional.contains(key));
                assert!(
                    all_known && required.iter().all(|key| attributes.contains_key(key)),
                    "{element} {attributes:?}"
                );
                let is_number = |time: &&str| time.chars().all(|c| c.is_ascii_digit() || c == '.');
                assert!(attributes.get("time").is_none_or(is_number), "{element} {attributes:?}");
            }
        }
    }

    /// GitLab takes cases with the name of another for that other.
    #[test]
    fn no_two_cases_have_one_name() {
        for report in extremes() {
            let text = FORMAT.render(&report, &Look::PLAIN).unwrap();
            let cases = tags(&text).into_iter().filter(|(element, _)| *element == "testcase");
            let mut names: Vec<_> = cases.map(|(_, of)| (of["classname"].to_owned(), of["name"].to_owned())).collect();
            let all = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), all, "{text}");
        }
    }

    /// GitLab shows the text of a failure and not its message, and refuses files of more than 30 MB.
    #[test]
    fn a_failure_says_it_all_within_what_gitlab_takes() {
        let mut report = sample::failing();
        let finding = report.probes[0].clone();
        report.probes = (0..500).map(|n| ProbeResult { id: format!("leak-{n}"), ..finding.clone() }).collect();
        report.wire.leaks = vec![report.wire.leaks[0].clone(); 10_000];
        for probe in &mut report.probes {
            probe.evidence = probe.evidence.iter().cycle().take(40).cloned().collect();
            probe.evidence.iter_mut().for_each(|line| line.what = "x".repeat(1_500));
        }
        let text = FORMAT.render(&report, &Look::PLAIN).unwrap();
        assert!(text.len() < 30_000_000, "{}", text.len());
        let failure = |probe: &ProbeResult| format!("type=\"leak\">{}\nclaim: ", probe.summary);
        assert_eq!(text.matches(&failure(&finding)).count(), 500);
        assert!(text.contains("and 31 more in the JSON report") && text.contains("and 9950 more in the JSON report"));
        assert_eq!(text.matches("mend: How to mend exit-address.").count(), 500, "what is left out is evidence");
    }

    #[test]
    fn a_warning_fails_under_strict() {
        let mut report = sample::failing();
        report.strict = true;
        assert!(matches!(
            status(&parsed(&report), "dns-forced"),
            TestCaseStatus::NonSuccess { kind: NonSuccessKind::Failure, .. }
        ));
    }

    #[test]
    fn a_run_without_answers_or_without_restoration_is_an_error() {
        let error = |report: &Report| {
            matches!(status(&parsed(report), "measured-and-restored"), TestCaseStatus::NonSuccess { .. })
        };
        assert_eq!((parsed(&sample::passing()).tests, parsed(&sample::passing()).errors), (3, 0));
        let mut report = sample::passing();
        report.outages[0].restored = false;
        assert!(error(&report));
        let mut report = sample::passing();
        report.probes.clear();
        report.settle();
        assert!(error(&report));
    }

    #[test]
    fn hostile_texts_stay_xml() {
        let mut report = sample::failing();
        report.each_text(&mut |text, _| text.push_str("]]></failure><x>&amp;\u{1b}[31m\0\u{fffe}\u{202e}\""));
        let text = FORMAT.render(&report, &Look::PLAIN).unwrap();
        assert!(!text.contains("<x>") && !text.contains(['\u{1b}', '\0', '\u{fffe}', '\u{202e}']));
        assert_eq!(parsed(&report).tests, 7);
    }
}
