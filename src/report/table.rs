//! `--format table` and `table.txt`: the report for people, at any width from 40 columns on.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, LineStyle, Table, Width,
};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{Format, Look, ReportError, prose};
use crate::model::report::{ProbeResult, Report, VerdictWord};
use crate::model::verdict::FailKind;

pub(super) const FORMAT: Format = Format { name: "table", file: "table.txt", render };

/// Below this a table has no room for words.
const LEAST_WIDTH: u16 = 40;
/// Kinds of packets that are listed one by one; the rest is in the JSON report.
const LEAKS: usize = 10;
/// The share of the width that the names may take.
const NAME_PERCENT: u16 = 36;
/// Width of the labels in front of the paragraphs of a block.
const LABEL: usize = 12;

fn render(report: &Report, look: &Look) -> Result<String, ReportError> {
    let look = Look { width: look.width.max(LEAST_WIDTH), ..*look };
    let mut page = Page { text: String::new(), look };
    let took = prose::span(report.duration_ms as f64);
    page.line(&format!("{}, {}, {}, {took}", report.tool, report.target, report.started), Ink::Plain);
    page.text.push_str(&results(report, &look));

    let mut explained = BTreeSet::new();
    for probe in &report.probes {
        if !matches!(probe.verdict, VerdictWord::Pass | VerdictWord::Skip) {
            finding(&mut page, probe, explained.insert((&probe.id, probe.verdict == VerdictWord::Inconclusive)));
        }
    }
    page.blank();
    for outage in &report.outages {
        let ink = if outage.holes.is_empty() && outage.restored { Ink::Plain } else { Ink::Bad };
        page.item("outage", &format!("{}: {}", outage.method, prose::outage(outage)), ink);
        for line in prose::outage_details(outage) {
            page.item("", &line, Ink::Plain);
        }
    }
    let quiet = report.wire.leaks.is_empty() && report.wire.dropped == 0 && !report.wire.links.is_empty();
    page.item("wire", &prose::wire(report), if quiet { Ink::Plain } else { Ink::Bad });
    page.items("", report.wire.leaks.iter().map(prose::wire_leak), LEAKS);
    page.items("note", report.notes.iter().cloned(), usize::MAX);
    page.blank();
    let (word, text) = prose::conclusion(report);
    let ink = match report.exit_status {
        0 => Ink::Good,
        1 | 4 => Ink::Bad,
        _ => Ink::Unsure,
    };
    page.line(&format!("{word}: {text}"), ink);
    Ok(page.text)
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
    let room = usize::from(look.width) * usize::from(NAME_PERCENT) / 100;
    table.set_header(["verdict", "probe", "what was seen", "time"]);
    for probe in &report.probes {
        let verdict =
            Cell::new(probe.verdict.as_str()).fg(Ink::of(probe.verdict).colour()).add_attribute(Attribute::Bold);
        let time = Cell::new(prose::span(probe.duration_ms as f64)).set_alignment(CellAlignment::Right);
        table.add_row([verdict, Cell::new(breakable(&probe.name(), room)), Cell::new(&probe.summary), time]);
    }
    table.set_constraints([
        ColumnConstraint::ContentWidth,
        ColumnConstraint::UpperBoundary(Width::Percentage(NAME_PERCENT)),
        ColumnConstraint::LowerBoundary(Width::Fixed(12)),
        ColumnConstraint::ContentWidth,
    ]);
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// Breaks a name after its slashes where it would otherwise be torn anywhere.
fn breakable(name: &str, room: usize) -> String {
    // The padding of the column, on both sides.
    if name.width() + 2 <= room { name.to_owned() } else { name.replace('/', "/\n") }
}

/// What there is to say about one result that is neither a pass nor a skip.
fn finding(page: &mut Page, probe: &ProbeResult, first: bool) {
    let kind = match probe.kind {
        Some(FailKind::Leak) => " (leak)",
        Some(FailKind::Broken) => " (broken)",
        None => "",
    };
    page.blank();
    let word = probe.verdict.as_str().to_uppercase();
    page.line(&format!("{word}{kind} {}: {}", probe.name(), probe.title), Ink::of(probe.verdict));
    page.item("happened", &probe.summary, Ink::Plain);
    if let Some(reason) = probe.reason.as_ref().filter(|reason| **reason != probe.summary) {
        page.item("because", reason, Ink::Plain);
    }
    page.items("evidence", probe.evidence.iter().map(prose::evidence), page.look.evidence);
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

/// Text that is wrapped to a width.
struct Page {
    text: String,
    look: Look,
}

impl Page {
    fn blank(&mut self) {
        if !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    /// A paragraph from the left edge on.
    fn line(&mut self, text: &str, ink: Ink) {
        self.wrapped("", "", text, ink);
    }

    /// A paragraph beside a label.
    fn item(&mut self, label: &str, text: &str, ink: Ink) {
        self.wrapped(&format!("  {label:<LABEL$}"), &" ".repeat(LABEL + 2), text, ink);
    }

    /// One paragraph for each of `lines`, the label beside the first, and how many were left out after `most`.
    fn items(&mut self, label: &str, lines: impl ExactSizeIterator<Item = String>, most: usize) {
        let left_out = lines.len().saturating_sub(most);
        for (n, line) in lines.take(most).enumerate() {
            self.item(if n == 0 { label } else { "" }, &line, Ink::Plain);
        }
        if left_out > 0 {
            self.item("", &format!("and {left_out} more in the JSON report"), Ink::Plain);
        }
    }

    fn wrapped(&mut self, first: &str, next: &str, text: &str, ink: Ink) {
        let sgr = ink.sgr().filter(|_| self.look.colour);
        let room = usize::from(self.look.width).saturating_sub(next.width()).max(1);
        for (n, line) in wrap(text, room).into_iter().enumerate() {
            self.text.push_str(if n == 0 { first } else { next });
            match sgr {
                Some(sgr) => {
                    let _ = write!(self.text, "\u{1b}[{sgr}m{line}\u{1b}[0m");
                }
                None => self.text.push_str(&line),
            }
            self.text.truncate(self.text.trim_end().len());
            self.text.push('\n');
        }
    }
}

/// Breaks `text` at spaces into lines of at most `room` columns, and a word only if it is longer than a line.
fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    let mut words: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        // A number stays with its unit.
        let unit = matches!(word.trim_end_matches([',', '.', ':', ';']), "ms" | "s" | "min");
        match words.last_mut().filter(|last| unit && last.ends_with(|c: char| c.is_ascii_digit())) {
            Some(last) => last.extend([" ", word]),
            None => words.push(word.to_owned()),
        }
    }
    for word in words {
        let width = word.width();
        if used > 0 && used + 1 + width > room {
            lines.push(String::new());
            used = 0;
        } else if used > 0 {
            push(&mut lines, ' ');
            used += 1;
        }
        for c in word.chars() {
            let width = c.width().unwrap_or(0);
            if used + width > room {
                lines.push(String::new());
                used = 0;
            }
            push(&mut lines, c);
            used += width;
        }
    }
    lines
}

fn push(lines: &mut [String], c: char) {
    if let Some(line) = lines.last_mut() {
        line.push(c);
    }
}

/// The colour of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ink {
    Plain,
    Good,
    Bad,
    Unsure,
    Faint,
}

impl Ink {
    fn of(verdict: VerdictWord) -> Self {
        match verdict {
            VerdictWord::Pass => Ink::Good,
            VerdictWord::Fail => Ink::Bad,
            VerdictWord::Warn | VerdictWord::Inconclusive => Ink::Unsure,
            VerdictWord::Skip => Ink::Faint,
        }
    }

    fn colour(self) -> Color {
        match self {
            Ink::Plain => Color::Reset,
            Ink::Good => Color::Green,
            Ink::Bad => Color::Red,
            Ink::Unsure => Color::Yellow,
            Ink::Faint => Color::DarkGrey,
        }
    }

    /// SGR parameters (ECMA-48).
    fn sgr(self) -> Option<&'static str> {
        match self {
            Ink::Plain => None,
            Ink::Good => Some("1;32"),
            Ink::Bad => Some("1;31"),
            Ink::Unsure => Some("1;33"),
            Ink::Faint => Some("2"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn widest(text: &str) -> usize {
        text.lines().map(UnicodeWidthStr::width).max().unwrap_or(0)
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
                for word in ["kill-switch/", "outage/", "inconclusive", "dns-resolver", "123 ms"] {
                    assert!(text.contains(word), "{word} is torn at {width}:\n{text}");
                }
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
