//! Makes texts that came from elsewhere harmless: one line, no control characters, nothing that turns the reading
//! direction or hides, nothing that XML forbids, and not longer than a line of evidence has any use for.

use std::fmt::Write as _;

use serde_json::Value;

use crate::model::comparison::{Change, Comparison};
use crate::model::report::{
    AccessRow, EvidenceLine, Hole, LocalReach, Outage, ProbeResult, Report, Sampled, Wire, WireLeak,
};

/// Characters of one text in a report. Our own texts are far shorter.
const LIMIT: usize = 1_500;
/// Depth, and entries per level, to which machine-readable evidence is kept.
const VALUES: usize = 200;

/// `text` as one harmless line of at most `limit` characters; a cut ends in `…`.
pub fn clean_line(text: &str, limit: usize) -> String {
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    clean(&joined, limit)
}

/// The same, but keeps its lines: for texts of probes, which have paragraphs.
fn clean_block(text: &str) -> String {
    let lines: Vec<_> = text.trim_end().lines().map(|line| clean(line.trim_end(), LIMIT)).collect();
    cut(&lines.join("\n"), 4 * LIMIT)
}

fn clean(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(4 * limit));
    for c in text.chars().take(limit + 1) {
        if harmful(c) {
            // Shown and not dropped: that somebody tried is worth knowing. Writing to a String cannot fail.
            let _ = write!(out, "{}", c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    cut(&out, limit)
}

/// The first `limit` characters, the last of them `…` if there were more.
fn cut(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some(_) => text.chars().take(limit.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// Control, formatting and invisible characters, and those that XML 1.0 forbids.
fn harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{e000}'..='\u{f8ff}' | '\u{fdd0}'..='\u{fdef}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffc}' | '\u{fffe}' | '\u{ffff}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{10ffff}')
        || (c as u32) & 0xfffe == 0xfffe
}

/// A copy of which every text is harmless.
pub(super) fn cleaned(report: &Report) -> Report {
    let mut report = report.clone();
    report.each_text(&mut |text, kind| {
        *text = match kind {
            Kind::Line => clean_line(text, LIMIT),
            Kind::Block => clean_block(text),
        };
    });
    report
}

/// What a text may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One line.
    Line,
    /// Paragraphs.
    Block,
}

impl Report {
    /// Shows `f` every text of the report. No struct is taken apart with `..`, so a new field cannot be forgotten.
    pub(super) fn each_text(&mut self, f: &mut impl FnMut(&mut String, Kind)) {
        let Report {
            version: _,
            tool,
            target,
            started,
            duration_ms: _,
            verdict: _,
            exit_status: _,
            strict: _,
            probes,
            wire,
            outages,
            access,
            summary: _,
            notes,
            comparison,
        } = self;
        for text in [tool, target, started].into_iter().chain(notes) {
            f(text, Kind::Line);
        }
        if let Some(Comparison { started, target, worse, better, new, gone, same: _ }) = comparison {
            let changes = [worse, better, new, gone].into_iter().flatten();
            let names = changes.map(|Change { probe, before: _, now: _ }| probe);
            [started, target].into_iter().chain(names).for_each(|text| f(text, Kind::Line));
        }
        for probe in probes {
            probe.each_text(f);
        }
        let Wire { links, packets: _, dropped: _, leaks, captured } = wire;
        captured.iter_mut().for_each(|packet| f(&mut packet.comment, Kind::Line));
        links.iter_mut().for_each(|link| f(link, Kind::Line));
        for WireLeak { at_ms: _, link, proto, src, dst, count: _, probe, detail } in leaks {
            for text in [link, proto, src, dst].into_iter().chain(probe).chain(detail) {
                f(text, Kind::Line);
            }
        }
        for outage in outages {
            of_outage(outage, f);
        }
        for AccessRow { asking, from, to, allow: _, found: _, what } in access {
            for text in [asking, from, to, what] {
                f(text, Kind::Line);
            }
        }
    }
}

impl ProbeResult {
    /// Shows `f` every text of the result.
    pub(super) fn each_text(&mut self, f: &mut impl FnMut(&mut String, Kind)) {
        let ProbeResult {
            id,
            group,
            title,
            phase: _,
            method,
            verdict: _,
            kind: _,
            summary,
            reason,
            duration_ms: _,
            evidence,
            ways: _,
            claim,
            severity: _,
            why,
            fix,
        } = self;
        for text in [id, group, title, summary].into_iter().chain(method).chain(reason) {
            f(text, Kind::Line);
        }
        for text in [claim, why, fix] {
            f(text, Kind::Block);
        }
        evidence.iter_mut().for_each(|line| of_evidence(line, f));
    }
}

fn of_outage(outage: &mut Outage, f: &mut impl FnMut(&mut String, Kind)) {
    let Outage {
        method,
        down_ms: _,
        blackhole_ms: _,
        up_ms: _,
        recovered_ms: _,
        holes,
        restored: _,
        gave_up,
        samples: _,
        sampled,
        cost_ms: _,
        longest_gap_ms: _,
        gaps: _,
        longest_gap_at_ms: _,
        first_refusal_ms: _,
        last_in_tunnel_ms: _,
        tunnel_back_ms: _,
        flows,
        local,
        events,
    } = outage;
    f(method, Kind::Line);
    gave_up.iter_mut().for_each(|state| f(state, Kind::Line));
    for Hole { from_ms: _, to_ms: _, proto, packets: _ } in holes {
        f(proto, Kind::Line);
    }
    for Sampled { what, sent: _, refused: _, refusal, first_refusal_ms: _ } in sampled {
        f(what, Kind::Line);
        refusal.iter_mut().for_each(|name| f(name, Kind::Line));
    }
    flows.iter_mut().for_each(|flow| f(flow, Kind::Line));
    for LocalReach { target, asked: _, answered: _, watched_ms: _, reached_ms: _ } in local {
        f(target, Kind::Line);
    }
    events.iter_mut().for_each(|line| of_evidence(line, f));
}

fn of_evidence(line: &mut EvidenceLine, f: &mut impl FnMut(&mut String, Kind)) {
    let EvidenceLine { at_ms: _, what, fields } = line;
    f(what, Kind::Line);
    let kept = std::mem::take(fields).into_iter().take(VALUES);
    *fields = kept.map(|(key, value)| of_entry(key, value, f, 0)).collect();
    // Beside the fields of the struct these would make the JSON name one key twice.
    fields.remove("at_ms");
    fields.remove("what");
}

fn of_entry(mut key: String, mut value: Value, f: &mut impl FnMut(&mut String, Kind), depth: usize) -> (String, Value) {
    f(&mut key, Kind::Line);
    of_value(&mut value, f, depth + 1);
    (key, value)
}

fn of_value(value: &mut Value, f: &mut impl FnMut(&mut String, Kind), depth: usize) {
    match value {
        Value::Array(_) | Value::Object(_) if depth > VALUES / 10 => *value = Value::String("…".to_owned()),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::String(text) => f(text, Kind::Line),
        Value::Array(list) => {
            list.truncate(VALUES);
            list.iter_mut().for_each(|value| of_value(value, f, depth + 1));
        }
        Value::Object(map) => {
            let kept = std::mem::take(map).into_iter().take(VALUES);
            *map = kept.map(|(key, value)| of_entry(key, value, f, depth)).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_characters_are_shown_and_do_nothing() {
        let hostile = "a\u{1b}[2J\u{7}\u{9b}31m\u{202e}evil\u{200b}\u{fffe}\u{1fffe}\u{e0041}\u{2028}b\r\nc\0";
        let clean = clean_line(hostile, 500);
        assert!(clean.chars().all(|c| c.is_ascii_graphic() || c == ' '), "{clean:?}");
        assert!(clean.starts_with("a\\u{1b}[2J") && clean.contains("\\u{202e}evil"), "{clean:?}");
        assert_eq!(clean_line("grüße, 世界 ✓", 99), "grüße, 世界 ✓");
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        assert_eq!(clean_line("äöü", 3), "äöü");
        assert_eq!(clean_line("äöüß", 3), "äö…");
        assert_eq!(clean_line(&"\u{1b}".repeat(1_000_000), 100).chars().count(), 100);
        assert!(clean_block(&"x\n".repeat(1_000_000)).chars().count() <= 4 * LIMIT);
    }

    #[test]
    fn every_text_of_a_report_is_cleaned() {
        let mut report = super::super::sample::failing();
        let mut texts = 0;
        report.each_text(&mut |text, _| {
            text.push('\u{1b}');
            texts += 1;
        });
        assert!(texts > 40, "{texts}");
        let raw = serde_json::to_string(&report).unwrap();
        assert_eq!(raw.matches("\\u001b").count(), texts);
        let clean = serde_json::to_string(&cleaned(&report)).unwrap();
        assert_eq!((clean.matches("\\u001b").count(), clean.matches("\\\\u{1b}").count()), (0, texts));
    }

    #[test]
    fn deep_and_wide_evidence_is_bounded() {
        let mut deep = Value::Null;
        for _ in 0..5_000 {
            deep = Value::Array(vec![deep]);
        }
        // A value this deep cannot be dropped by recursion on a small stack, so it is taken apart by the cut itself.
        of_value(&mut deep, &mut |_, _| {}, 0);
        assert!(serde_json::to_string(&deep).unwrap().len() < 200);
        let mut wide = Value::Array(vec![Value::Null; 100_000]);
        of_value(&mut wide, &mut |_, _| {}, 0);
        assert_eq!(wide.as_array().map(Vec::len), Some(VALUES));
    }
}
