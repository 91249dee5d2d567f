//! Text for people, wrapped to a width, with colours where there is a terminal.

use std::fmt::Write as _;

use comfy_table::Color;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::Look;
use crate::model::report::VerdictWord;

/// Width of the labels in front of paragraphs.
const LABEL: usize = 12;

/// Text that is wrapped to a width.
pub(crate) struct Page {
    text: String,
    look: Look,
}

impl Page {
    /// An empty page.
    pub(crate) fn new(look: Look) -> Self {
        Page { text: String::new(), look }
    }

    /// What is written on it.
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    /// Text that is wrapped already.
    pub(crate) fn raw(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// An empty line, unless there is one.
    pub(crate) fn blank(&mut self) {
        if !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    /// A paragraph from the left edge on.
    pub(crate) fn line(&mut self, text: &str, ink: Ink) {
        self.wrapped("", "", text, ink);
    }

    /// A paragraph beside a label.
    pub(crate) fn item(&mut self, label: &str, text: &str, ink: Ink) {
        self.wrapped(&format!("  {label:<LABEL$}"), &" ".repeat(LABEL + 2), text, ink);
    }

    /// One paragraph for each of `lines`, the label beside the first, and how many were left out after `most`.
    pub(crate) fn items(&mut self, label: &str, lines: impl ExactSizeIterator<Item = String>, most: usize) {
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
pub(crate) enum Ink {
    Plain,
    Good,
    Bad,
    Unsure,
    Faint,
}

impl Ink {
    /// The colour of a verdict.
    pub(crate) fn of(verdict: VerdictWord) -> Self {
        match verdict {
            VerdictWord::Pass => Ink::Good,
            VerdictWord::Fail => Ink::Bad,
            VerdictWord::Warn | VerdictWord::Inconclusive => Ink::Unsure,
            VerdictWord::Skip => Ink::Faint,
        }
    }

    /// The colour in a table.
    pub(crate) fn colour(self) -> Color {
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
