//! `--format table` and `table.txt`: the report for people, at any width from 40 columns on.

use std::collections::BTreeSet;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table, Width};
use unicode_width::UnicodeWidthStr;

use super::access::Grid;
use super::page::{Ink, Page};
use super::{Format, Look, ReportError, access, prose};
use crate::model::report::{ProbeResult, Report, RunVerdict, VerdictWord};
use crate::model::verdict::FailKind;

pub(super) const FORMAT: Format = Format { name: "table", file: "table.txt", about: "for people", render };

/// Below this a table has no room for words.
const LEAST_WIDTH: u16 = 40;
/// Findings that are told; the rest has its row in the table.
const FINDINGS: usize = 40;
/// Kinds of packets that are listed one by one; the rest is in the JSON report.
const LEAKS: usize = 10;
/// Holes of an outage that are listed.
const HOLES: usize = 10;
/// Changes since the baseline that are listed.
const CHANGES: usize = 20;
/// Below this the time is left out: what was seen needs the room.
const TIMED_FROM: u16 = 72;
/// The share of the width that the names may take.
const NAME_PERCENT: u16 = 40;

fn render(report: &Report, look: &Look) -> Result<String, ReportError> {
    let look = Look { width: look.width.max(LEAST_WIDTH), ..*look };
    let mut page = Page::new(look);
    let took = prose::span(report.duration_ms as f64);
    page.line(&format!("{}, {}, {}, {took}", report.tool, report.target, report.started), Ink::Plain);
    page.raw(&results(report, &look));
    for grid in access::grids(report) {
        matrix(&mut page, &grid, &look);
    }

    let mut explained = BTreeSet::new();
    let findings = prose::findings(report);
    for probe in findings.iter().take(FINDINGS) {
        let first = explained.insert((&probe.id, probe.verdict == VerdictWord::Inconclusive));
        finding(&mut page, probe, look.evidence, first);
    }
    if findings.len() > FINDINGS {
        page.blank();
        let more = prose::count((findings.len() - FINDINGS) as u64, "more finding");
        page.line(&format!("and {more}: see the HTML or the JSON report"), Ink::Plain);
    }
    page.blank();
    for outage in &report.outages {
        let ink = if outage.holes.is_empty() && outage.restored { Ink::Plain } else { Ink::Bad };
        page.item("outage", &format!("{}: {}", outage.method, prose::outage(outage)), ink);
        page.items("", prose::holes(outage).into_iter(), HOLES);
        page.items("", prose::resolution(outage).into_iter(), HOLES);
    }
    let quiet = report.wire.leaks.is_empty() && report.wire.dropped == 0 && !report.wire.links.is_empty();
    page.item("wire", &prose::wire(report), if quiet { Ink::Plain } else { Ink::Bad });
    page.items("", report.wire.leaks.iter().map(prose::wire_leak), LEAKS);
    page.items("baseline", prose::comparison(report).into_iter(), CHANGES);
    page.items("note", report.notes.iter().cloned(), usize::MAX);
    page.blank();
    let (word, text) = prose::conclusion(report);
    let ink = match report.exit_status {
        // With --only-worse a run that failed as before ends well.
        0 if report.verdict == RunVerdict::Pass => Ink::Good,
        1 | 4 => Ink::Bad,
        _ => Ink::Unsure,
    };
    page.line(&format!("{word}: {text}"), ink);
    Ok(page.into_text())
}

/// The table itself.
fn results(report: &Report, look: &Look) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    // A line between every two rows would make the table twice as long.
    table.style_mut().row_separator = LineStyle::none();
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(look.width).force_no_tty();
    if look.colour {
        table.enforce_styling();
    }
    let room = (u32::from(look.width) * u32::from(NAME_PERCENT) / 100) as usize;
    let heads = ["verdict", "probe", "what was seen", "time"];
    let columns = if look.width < TIMED_FROM { heads.len() - 1 } else { heads.len() };
    table.set_header(heads.iter().take(columns));
    for alike in report.probes.chunk_by(are_skipped_alike) {
        let probe = &alike[0];
        let verdict =
            Cell::new(probe.verdict.as_str()).fg(Ink::of(probe.verdict).colour()).add_attribute(Attribute::Bold);
        let name = match alike.len() {
            1 => breakable(&probe.name(), room),
            more => format!("{}: {more} probes", probe.group),
        };
        let time = Cell::new(prose::span(probe.duration_ms as f64)).set_alignment(CellAlignment::Right);
        table.add_row([verdict, Cell::new(name), Cell::new(&probe.summary), time].into_iter().take(columns));
    }
    let constraints = [
        ColumnConstraint::ContentWidth,
        ColumnConstraint::UpperBoundary(Width::Fixed(room as u16)),
        ColumnConstraint::LowerBoundary(Width::Fixed(12)),
        ColumnConstraint::ContentWidth,
    ];
    table.set_constraints(constraints.into_iter().take(columns));
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// The access matrix: destinations below each other and sources beside each other, or a line for each pair where that is too wide.
fn matrix(page: &mut Page, grid: &Grid<'_>, look: &Look) {
    page.blank();
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.style_mut().row_separator = LineStyle::none();
    table.set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
    if look.colour {
        table.enforce_styling();
    }
    table.set_header(std::iter::once(grid.asking).chain(grid.sources.iter().copied()));
    for (to, found) in &grid.rows {
        let cells = found.iter().map(|found| Cell::new(access::word(*found)).fg(access::ink(*found).colour()));
        table.add_row(std::iter::once(Cell::new(to)).chain(cells));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    // The longest line is a rule, which has no colour.
    if text.lines().all(|line| !line.starts_with('─') || line.width() <= usize::from(look.width)) {
        page.raw(&text);
    } else {
        page.line(grid.asking, Ink::Plain);
        for (to, found) in &grid.rows {
            for (from, found) in grid.sources.iter().zip(found).filter(|(_, found)| found.is_some()) {
                page.item(access::word(*found), &format!("{from} → {to}"), access::ink(*found));
            }
        }
    }
    page.line(access::LEGEND, Ink::Plain);
}

/// What a whole group skips for one reason is one row: ten of them say no more.
fn are_skipped_alike(one: &ProbeResult, next: &ProbeResult) -> bool {
    let skips = [one, next].iter().all(|probe| probe.verdict == VerdictWord::Skip);
    skips
        && (&one.group, one.phase, &one.method, &one.summary) == (&next.group, next.phase, &next.method, &next.summary)
}

/// Breaks a name after its slashes where it would otherwise be torn anywhere.
fn breakable(name: &str, room: usize) -> String {
    // The padding of the column, on both sides.
    if name.width() + 2 <= room { name.to_owned() } else { name.replace('/', "/\n") }
}

/// What there is to say about one result that is neither a pass nor a skip.
fn finding(page: &mut Page, probe: &ProbeResult, evidence: usize, first: bool) {
    let kind = match probe.kind {
        Some(FailKind::Leak) => " (leak)",
        Some(FailKind::Broken) => " (broken)",
        None => "",
    };
    page.blank();
    let word = probe.verdict.as_str().to_uppercase();
    page.line(&format!("{word}{kind} {}: {}", probe.name(), probe.title), Ink::of(probe.verdict));
    page.item("happened", &probe.summary, Ink::Plain);
    if let Some(reason) = probe.because() {
        page.item("because", reason, Ink::Plain);
    }
    page.items("evidence", probe.evidence.iter().map(prose::evidence), evidence);
    if probe.verdict == VerdictWord::Inconclusive {
        // Nothing is known to be wrong with the stack, so there is nothing to mend in it.
        page.item("not proven", &probe.claim, Ink::Plain);
    } else if first {
        page.item("matters", &probe.why, Ink::Plain);
        page.item("mend", &probe.fix, Ink::Plain);
    } else {
        page.item("mend", "as said above", Ink::Plain);
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use crate::model::probe::Phase;

    fn widest(text: &str) -> usize {
        text.lines().map(UnicodeWidthStr::width).max().unwrap_or(0)
    }

    #[test]
    fn what_a_group_skips_for_one_reason_is_one_row() {
        let mut report = sample::failing();
        let skip = |id: &str, why: &str| sample::probe(id, Phase::Up, VerdictWord::Skip, why);
        report.probes.extend([
            skip("stack-a", "no container"),
            skip("stack-b", "no container"),
            skip("stack-c", "else"),
        ]);
        let text = render(&report, &Look::PLAIN).unwrap();
        assert!(text.contains(" stack: 2 probes ") && text.contains(" stack-c "), "{text}");
        assert!(!text.contains(" stack-a ") && text.contains(" ipv6 "), "{text}");
    }

    #[test]
    fn never_wider_than_asked_and_never_tears_a_name() {
        let mut report = sample::failing();
        report.probes[0].summary = "x".repeat(300);
        report.probes[1].reason = Some("世界 ".repeat(50));
        for width in 40..=200 {
            let text = FORMAT.render(&report, &Look { width, ..Look::PLAIN }).unwrap();
            assert!(widest(&text) <= usize::from(width), "{} of {width}:\n{text}", widest(&text));
            if width >= 60 {
                for word in ["kill-switch/", "outage/", "inconclusive", "dns-resolver"] {
                    assert!(text.contains(word), "{word} is torn at {width}:\n{text}");
                }
                assert_eq!(text.contains("123 ms"), width >= TIMED_FROM, "at {width}:\n{text}");
            }
        }
    }

    #[test]
    fn hostile_evidence_reaches_no_terminal() {
        let mut report = sample::failing();
        report.each_text(&mut |text, _| text.push_str("\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}"));
        let text = FORMAT.render(&report, &Look::PLAIN).unwrap();
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(!text.contains('\u{202e}'));
    }

    #[test]
    fn colours_only_where_wanted() {
        let report = sample::failing();
        assert!(!FORMAT.render(&report, &Look::PLAIN).unwrap().contains('\u{1b}'));
        let coloured = FORMAT.render(&report, &Look { colour: true, ..Look::PLAIN }).unwrap();
        assert!(coloured.contains("\u{1b}[1;31mFAIL (leak) exit-address"), "{coloured}");
    }

    #[test]
    fn evidence_is_limited_and_advice_given_once() {
        let text = FORMAT.render(&sample::failing(), &Look { evidence: 2, ..Look::PLAIN }).unwrap();
        assert!(text.contains("evidence 1 of exit-address") && !text.contains("evidence 2 of"), "{text}");
        assert!(text.contains("and 7 more in the JSON report"));
        assert_eq!(text.matches("How to mend exit-address.").count(), 1, "{text}");
        assert!(!text.contains("How to mend dns-resolver."), "an inconclusive probe found nothing to mend");
    }

    #[test]
    fn looks_as_it_does() {
        let plain = FORMAT.render(&sample::passing(), &Look::PLAIN).unwrap();
        snapbox::assert_data_eq!(plain, snapbox::file!["../../fixtures/report/passing.txt"].raw());
        let narrow = FORMAT.render(&sample::failing(), &Look { width: 60, ..Look::PLAIN }).unwrap();
        snapbox::assert_data_eq!(narrow, snapbox::file!["../../fixtures/report/failing-60.txt"].raw());
    }
}
