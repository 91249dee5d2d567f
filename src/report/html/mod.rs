//! `--format html` and `report.html`: one page without scripts that needs nothing else, for a screen of any size, light or dark, and for paper.

mod timeline;
mod ways;

use std::collections::BTreeSet;

use askama::Template;

use self::timeline::Timeline;
use self::ways::Row;
use super::{Format, Look, ReportError, access, prose};
use crate::model::report::{ProbeResult, Report, RunVerdict, VerdictWord, WireLeak};
use crate::model::verdict::FailKind;

pub(super) const FORMAT: Format = Format {
    name: "html",
    file: "report.html",
    about: "one page to look at and to keep, with the outages drawn",
    render,
};

/// Lines of evidence of one finding.
const EVIDENCE: usize = 12;
/// Findings, and kinds of packets, that are there; a page of more is read by nobody.
const FINDINGS: usize = 200;
const LEAKS: usize = 1_000;
/// Those of them that are open, and checks of a group that is open; the rest is folded, as is what one probe found again.
const OPEN_FINDINGS: usize = 20;
const OPEN_LEAKS: usize = 25;
const OPEN_CHECKS: usize = 30;

#[derive(Template)]
#[template(path = "page.html", config = "src/report/html/askama.toml")]
struct Page<'a> {
    report: &'a Report,
    style: &'static str,
    word: &'static str,
    tone: &'static str,
    conclusion: String,
    took: String,
    counts: Vec<(VerdictWord, u64)>,
    findings: Vec<Finding<'a>>,
    findings_left_out: usize,
    matrices: Vec<Matrix<'a>>,
    legend: &'static str,
    ways: Vec<Row>,
    ways_height: usize,
    outages: Vec<Timeline>,
    wire: String,
    leaks: Vec<Leak<'a>>,
    more_leaks: Vec<Leak<'a>>,
    /// How many those are.
    more: String,
    leaks_left_out: usize,
    groups: Vec<Group<'a>>,
    compared: Vec<String>,
}

struct Finding<'a> {
    probe: &'a ProbeResult,
    name: String,
    word: &'static str,
    severity: &'static str,
    reason: Option<&'a str>,
    undecided: bool,
    folded: bool,
    /// Whether it says why it matters and how to mend it: once for each probe.
    advice: bool,
    evidence: Vec<String>,
    more: usize,
}

/// The access matrix of one asking.
struct Matrix<'a> {
    asking: &'a str,
    sources: Vec<&'a str>,
    rows: Vec<(&'a str, Vec<(&'static str, &'static str)>)>,
}

struct Leak<'a> {
    at: String,
    link: &'a str,
    packet: String,
    count: String,
    whose: String,
}

struct Group<'a> {
    name: &'a str,
    /// How many of its checks came to what.
    counts: String,
    open: bool,
    checks: Vec<Check<'a>>,
}

struct Check<'a> {
    verdict: &'static str,
    name: String,
    summary: &'a str,
    time: String,
}

fn render(report: &Report, _look: &Look) -> Result<String, ReportError> {
    let (word, conclusion) = prose::conclusion(report);
    let interesting = prose::findings(report);
    let mut advised = BTreeSet::new();
    let mut findings = Vec::new();
    for probe in interesting.iter().take(FINDINGS) {
        let first = advised.insert((&probe.id, probe.verdict == VerdictWord::Inconclusive));
        findings.push(finding(probe, first, !first || advised.len() > OPEN_FINDINGS));
    }
    let mut leaks: Vec<Leak<'_>> = report.wire.leaks.iter().take(LEAKS).map(leak).collect();
    let more_leaks = leaks.split_off(leaks.len().min(OPEN_LEAKS));
    let ways = ways::rows(report);
    let page = Page {
        report,
        style: include_str!("style.css"),
        word,
        tone: match report.exit_status {
            0 if report.verdict == RunVerdict::Pass => "pass",
            1 | 4 => "fail",
            _ if report.verdict == RunVerdict::Fail => "fail",
            _ => "inconclusive",
        },
        conclusion,
        took: prose::span(report.duration_ms as f64),
        counts: report.summary.counts().into_iter().filter(|(_, count)| *count > 0).collect(),
        findings_left_out: interesting.len() - findings.len(),
        findings,
        matrices: access::grids(report).into_iter().map(matrix).collect(),
        legend: access::LEGEND,
        ways_height: ways::height(&ways),
        ways,
        outages: report.outages.iter().map(timeline::of).collect(),
        wire: prose::wire(report),
        leaks,
        more: prose::count(more_leaks.len() as u64, "more kind"),
        more_leaks,
        leaks_left_out: report.wire.leaks.len().saturating_sub(LEAKS),
        groups: groups(report),
        compared: prose::comparison(report),
    };
    page.render().map_err(ReportError::Html)
}

fn finding(probe: &ProbeResult, first: bool, folded: bool) -> Finding<'_> {
    let undecided = probe.verdict == VerdictWord::Inconclusive;
    Finding {
        probe,
        name: probe.name(),
        word: match (probe.verdict, probe.kind) {
            (VerdictWord::Fail, Some(FailKind::Leak)) => "leak",
            (VerdictWord::Fail, Some(FailKind::Broken)) => "broken",
            (verdict, _) => verdict.as_str(),
        },
        severity: probe.severity.as_str(),
        reason: probe.because(),
        undecided,
        folded,
        advice: first && !undecided,
        evidence: probe.evidence.iter().take(EVIDENCE).map(prose::evidence).collect(),
        more: probe.evidence.len().saturating_sub(EVIDENCE),
    }
}

fn matrix(grid: access::Grid<'_>) -> Matrix<'_> {
    let cell = |found| (access::class(found), access::word(found));
    let rows = grid.rows.into_iter().map(|(to, found)| (to, found.into_iter().map(cell).collect())).collect();
    Matrix { asking: grid.asking, sources: grid.sources, rows }
}

fn leak(leak: &WireLeak) -> Leak<'_> {
    let sent = leak.probe.iter().map(|probe| format!("sent by {probe}"));
    Leak {
        at: prose::span(leak.at_ms),
        link: &leak.link,
        packet: format!("{} {} → {}", leak.proto, leak.src, leak.dst),
        count: prose::number(leak.count),
        whose: sent.chain(leak.detail.iter().cloned()).collect::<Vec<_>>().join(", "),
    }
}

/// In the order in which the report has them.
fn groups(report: &Report) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for probe in &report.probes {
        let check = Check {
            verdict: probe.verdict.as_str(),
            name: probe.name(),
            summary: &probe.summary,
            time: prose::span(probe.duration_ms as f64),
        };
        match groups.iter_mut().find(|group| group.name == probe.group) {
            Some(group) => group.checks.push(check),
            None => {
                groups.push(Group { name: &probe.group, counts: String::new(), open: true, checks: vec![check] });
            }
        }
    }
    for group in &mut groups {
        let of = |word: &str| group.checks.iter().filter(|check| check.verdict == word).count();
        let counts = report.summary.counts().map(|(verdict, _)| (of(verdict.as_str()), verdict.as_str()));
        let said = counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}"));
        group.counts = said.collect::<Vec<_>>().join(", ");
        group.open = group.checks.len() <= OPEN_CHECKS;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn looks_as_it_does() {
        let text = FORMAT.render(&sample::failing(), &Look::PLAIN).unwrap();
        snapbox::assert_data_eq!(text, snapbox::file!["../../../fixtures/report/failing.html"].raw());
    }

    #[test]
    fn hostile_texts_stay_texts() {
        let mut report = sample::failing();
        let plain = FORMAT.render(&report, &Look::PLAIN).unwrap();
        report.each_text(&mut |text, _| {
            text.push_str("\"'></title></style><script>alert(1)</script><img src=x onerror=y>")
        });
        let text = FORMAT.render(&report, &Look::PLAIN).unwrap();
        assert!(!text.contains("<script") && !text.contains("<img"), "{text}");
        assert_eq!(text.matches('<').count(), plain.matches('<').count(), "no text makes an element");
    }

    #[test]
    fn it_needs_nothing_from_elsewhere() {
        let text = FORMAT.render(&sample::failing(), &Look::PLAIN).unwrap();
        assert!(!["src=", "href=", "url(", "@import"].iter().any(|out| text.contains(out)), "{text}");
        assert!(text.starts_with("<!doctype html>\n"), "{text}");
    }

    #[test]
    fn five_hundred_leaks_are_one_page() {
        let mut report = sample::failing();
        let (finding, leak) = (report.probes[0].clone(), report.wire.leaks[0].clone());
        report.probes.extend((0..500).map(|_| finding.clone()));
        report.wire.leaks.extend((0..1_500).map(|_| leak.clone()));
        let text = FORMAT.render(&report, &Look::PLAIN).unwrap();
        assert!(text.len() < 2_000_000, "{}", text.len());
        assert!(text.contains("more findings in the JSON report") && text.contains("more kinds in the JSON report"));
    }
}
