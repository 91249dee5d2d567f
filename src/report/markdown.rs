//! `--format markdown` and `report.md`: for pull requests, wikis and GitHub's step summary, which takes 1 MiB and no more.

use std::collections::BTreeSet;

use super::access::{self, Grid};
use super::{Format, Look, ReportError, prose};
use crate::model::report::{ProbeResult, Report, VerdictWord};

pub(super) const FORMAT: Format =
    Format { name: "markdown", file: "report.md", about: "for pull requests, wikis and GitHub's step summary", render };

/// Octets of the table, and of the findings; what GitHub takes is 1 MiB.
const ROOM: usize = 400_000;
/// Octets of an access matrix.
const MATRIX: usize = 40_000;
/// Findings that are told; the rest has its row in the table.
const FINDINGS: usize = 60;
/// Lines of evidence of one finding.
const EVIDENCE: usize = 20;
/// Kinds of packets that are listed one by one.
const LEAKS: usize = 20;
/// Changes since the baseline that are listed.
const CHANGES: usize = 50;

fn render(report: &Report, _look: &Look) -> Result<String, ReportError> {
    let (word, conclusion) = prose::conclusion(report);
    let took = prose::span(report.duration_ms as f64);
    let mut text = format!(
        "## leakcheck: {word}\n\n{}\n\n{}, {}, {took}, {}\n\n| | probe | what was seen | time |\n| --- | --- | --- | ---: |\n",
        escape(&conclusion),
        escape(&report.target),
        escape(&report.started),
        escape(&report.tool),
    );
    let (mut rows, mut untold) = (String::new(), 0);
    for probe in &report.probes {
        let strong = if probe.verdict.is_finding() { "**" } else { "" };
        let word = format!("{strong}{}{strong}", probe.verdict.as_str());
        let time = prose::span(probe.duration_ms as f64).replace(' ', "&nbsp;");
        let row = format!("| {word} | {} | {} | {time} |\n", escape(&probe.name()), escape(&probe.summary));
        if rows.len() + row.len() <= ROOM { rows += &row } else { untold += 1 }
    }
    text += &rows;
    if untold > 0 {
        text += &format!("\n{} left out for want of room: see the JSON report.\n", prose::count(untold, "check"));
    }
    access::grids(report).iter().for_each(|grid| text += &matrix(grid));
    let mut advised = BTreeSet::new();
    let (mut findings, mut left_out) = (String::new(), 0);
    for (at, probe) in prose::findings(report).into_iter().enumerate() {
        let one = finding(probe, advised.insert((&probe.id, probe.verdict == VerdictWord::Inconclusive)));
        let fits = left_out == 0 && at < FINDINGS && findings.len() + one.len() <= ROOM;
        if fits { findings += &one } else { left_out += 1 }
    }
    text += &findings;
    if left_out > 0 {
        text += &format!("\n{} left out for want of room: see the JSON report.\n", prose::count(left_out, "finding"));
    }
    text += "\n### Outages and the wire\n\n";
    for outage in &report.outages {
        text += &item(&format!("outage by {}: {}", outage.method, prose::outage(outage)));
        prose::outage_details(outage).iter().for_each(|line| text += &format!("  {}", item(line)));
    }
    text += &item(&format!("wire: {}", prose::wire(report)));
    let leaks = &report.wire.leaks;
    leaks.iter().take(LEAKS).for_each(|leak| text += &format!("  {}", item(&prose::wire_leak(leak))));
    if leaks.len() > LEAKS {
        text += &format!("  - and {} more in the JSON report\n", prose::number((leaks.len() - LEAKS) as u64));
    }
    let compared = prose::comparison(report);
    compared.iter().take(CHANGES).for_each(|line| text += &item(&format!("baseline: {line}")));
    if compared.len() > CHANGES {
        text += &format!("- and {} more in the JSON report\n", compared.len() - CHANGES);
    }
    report.notes.iter().for_each(|note| text += &item(&format!("note: {note}")));
    Ok(text)
}

/// What there is to say about one result that is neither a pass nor a skip.
fn finding(probe: &ProbeResult, first: bool) -> String {
    let mut text = format!("\n### {} {}: {}\n\n", probe.verdict.as_str(), escape(&probe.name()), escape(&probe.title));
    text += &format!("{}\n", escape(&probe.summary));
    if let Some(reason) = probe.because() {
        text += &format!("\nBecause: {}\n", escape(reason));
    }
    if probe.verdict == VerdictWord::Inconclusive {
        text += &format!("\nNot proven: {}\n", escape(&probe.claim));
    } else if first {
        text += &format!("\nWhy it matters: {}\n\nHow to mend it: {}\n", escape(&probe.why), escape(&probe.fix));
    } else {
        text += "\nHow to mend it: as said above\n";
    }
    if !probe.evidence.is_empty() {
        text += "\n<details><summary>Evidence</summary>\n\n";
        probe.evidence.iter().take(EVIDENCE).for_each(|line| text += &item(&prose::evidence(line)));
        if probe.evidence.len() > EVIDENCE {
            text += &format!("- and {} more in the JSON report\n", probe.evidence.len() - EVIDENCE);
        }
        text += "\n</details>\n";
    }
    text
}

/// The access matrix, as far as there is room.
fn matrix(grid: &Grid<'_>) -> String {
    let heads: Vec<String> = grid.sources.iter().map(|source| escape(source)).collect();
    let mut text = format!("\n### Access matrix: {}\n\n| | {} |\n", escape(grid.asking), heads.join(" | "));
    text += &format!("| --- |{}\n", " --- |".repeat(heads.len()));
    let mut untold = 0;
    for (to, found) in &grid.rows {
        let cells: Vec<&str> = found.iter().map(|found| access::word(*found)).collect();
        let row = format!("| {} | {} |\n", escape(to), cells.join(" | "));
        if text.len() + row.len() <= MATRIX { text += &row } else { untold += 1 }
    }
    if untold > 0 {
        text += &format!("\n{} left out for want of room: see the JSON report.\n", prose::count(untold, "destination"));
    }
    text + &format!("\n{}\n", escape(access::LEGEND))
}

fn item(text: &str) -> String {
    format!("- {}\n", escape(text))
}

/// One line that means itself: no markup (CommonMark 0.31, 2.4), no HTML, no mention, no end of a table's cell.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '\n' => out.push(' '),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '@' => out.push_str("&#64;"),
            '#' => out.push_str("&#35;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '!' | '|' | '~' | '$' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn looks_as_it_does() {
        let text = FORMAT.render(&sample::failing(), &Look::PLAIN).unwrap();
        snapbox::assert_data_eq!(text, snapbox::file!["../../fixtures/report/failing.md"].raw());
    }

    #[test]
    fn hostile_texts_are_no_markup() {
        let mut report = sample::failing();
        report.each_text(&mut |text, _| text.push_str("</details><script>`|[x](javascript:1) @octocat **b** ![i](u)"));
        let text = FORMAT.render(&report, &Look::PLAIN).unwrap();
        assert!(!text.contains("<script") && !text.contains("@octocat") && !text.contains("**b"), "{text}");
        let cells = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
        let bars = |line: &str| line.replace("\\|", "").matches('|').count();
        assert!(cells.map(bars).all(|bars| bars == 5), "{text}");
        assert_eq!(text.matches("<details>").count(), text.matches("\n</details>\n").count());
    }

    #[test]
    fn it_stays_below_the_limit_of_a_step_summary() {
        let mut report = sample::failing();
        let finding = report.probes[0].clone();
        report.probes.extend((0..2_000).map(|_| finding.clone()));
        report.each_text(&mut |text, _| text.push_str(&"x".repeat(100)));
        let text = FORMAT.render(&report, &Look::PLAIN).unwrap();
        assert!(text.len() < 1_048_576, "{}", text.len());
        assert!(text.contains("left out for want of room"));
    }
}
