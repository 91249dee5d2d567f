//! The detection matrix: which probes turn red on which leak class, and stay green on which sealed stack, as seen in one run of all of them
//! ([`trials`]). A class that no probe finds, and a probe that was never seen red or never green, is a hole in it.

mod trials;

use std::collections::BTreeMap;
use std::fmt::Write;

pub use trials::{Setup, trials};

use crate::catalog::Catalog;
use crate::lab::Leak;
use crate::model::probe::{Probe, Severity};
use crate::model::report::{Report, VerdictWord};

/// What a run of the matrix starts its file with.
const HEAD: &str = "# Detection matrix\n\nWhich probes (columns) turn red on which leak class of the lab (rows), and stay green on which sealed stack. Written by `leakcheck lab \
                    test`; a class that nothing finds, and a probe that was never seen red or never green, fails it.\n";
const LEGEND: &str = "`●` fails · `◐` warns · `?` inconclusive · `·` passes · empty: not asked, or skipped. Classes that need no outage to show are audited without one.";

/// One audited stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Leak class, variant or condition.
    pub id: String,
    /// What it is, in a few words.
    pub title: String,
    /// Whether nothing leaks from it.
    pub sealed: bool,
    /// Probes that are to warn of it, and no more: it is a weakness, or a leak that waits for somebody.
    pub amber: Vec<String>,
    /// What became of each probe that was asked: of several askings the worst.
    pub cells: BTreeMap<String, VerdictWord>,
    /// Probes that passed at least once.
    pub green: Vec<String>,
}

impl Row {
    /// What a report says of a sealed stack.
    #[must_use]
    pub fn sealed(id: &str, title: &str, report: &Report) -> Self {
        Self::of(id, title, true, Vec::new(), report)
    }

    /// What a report says of a stack that is broken by `leak`.
    #[must_use]
    pub fn broken(leak: &Leak, report: &Report) -> Self {
        Self::of(&leak.id, &leak.title, false, leak.amber.clone(), report)
    }

    fn of(id: &str, title: &str, sealed: bool, amber: Vec<String>, report: &Report) -> Self {
        let (cells, green) = (BTreeMap::new(), Vec::new());
        let mut row = Self { id: id.to_owned(), title: title.to_owned(), sealed, amber, cells, green };
        for probe in &report.probes {
            let cell = row.cells.entry(probe.id.clone()).or_insert(VerdictWord::Skip);
            if rank(probe.verdict) > rank(*cell) {
                *cell = probe.verdict;
            }
            if probe.verdict == VerdictWord::Pass {
                row.green.push(probe.id.clone());
            }
        }
        row
    }

    fn is_red(&self, probe: &Probe) -> bool {
        match self.cells.get(&probe.id) {
            Some(VerdictWord::Fail) => true,
            // A weakness that is no leak by itself is warned of and no more.
            Some(VerdictWord::Warn) => probe.severity == Severity::Low,
            _ => false,
        }
    }

    /// Whether `probe` noticed it: it is red, or warns as the class says that it does.
    fn is_found_by(&self, probe: &Probe) -> bool {
        self.is_red(probe) || self.amber.contains(&probe.id) && self.cells.get(&probe.id) == Some(&VerdictWord::Warn)
    }
}

fn rank(verdict: VerdictWord) -> u8 {
    match verdict {
        VerdictWord::Skip => 0,
        VerdictWord::Pass => 1,
        VerdictWord::Inconclusive => 2,
        VerdictWord::Warn => 3,
        VerdictWord::Fail => 4,
    }
}

/// What a run of the matrix has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matrix {
    rows: Vec<Row>,
}

impl Matrix {
    /// Takes a row in, in the order of sealed ones and leaks, and of their names.
    pub fn enter(&mut self, row: Row) {
        self.rows.push(row);
        self.rows.sort_by(|a, b| (!a.sealed, &a.id).cmp(&(!b.sealed, &b.id)));
    }

    /// How many leak classes and how many sealed stacks were audited.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let sealed = self.rows.iter().filter(|row| row.sealed).count();
        (self.rows.len() - sealed, sealed)
    }

    /// Classes that no probe found, and probes of `catalog` that were never seen red on a leak or never green on a sealed stack.
    #[must_use]
    pub fn holes(&self, catalog: &Catalog) -> Vec<String> {
        let probes = catalog.probes();
        let mut holes = Vec::new();
        for row in self.rows.iter().filter(|row| !row.sealed) {
            if !probes.iter().any(|probe| row.is_found_by(probe)) {
                holes.push(format!("nothing finds the leak class {}", row.id));
            }
        }
        for probe in probes {
            if !self.rows.iter().any(|row| !row.sealed && row.is_red(probe)) {
                holes.push(format!("no leak class turns {} red", probe.id));
            }
            if !self.rows.iter().any(|row| row.sealed && row.green.contains(&probe.id)) {
                holes.push(format!("{} passes on no sealed stack", probe.id));
            }
        }
        holes
    }

    /// The matrix as Markdown, with all probes of `catalog`.
    #[must_use]
    pub fn markdown(&self, catalog: &Catalog) -> String {
        let (leaks, sealed) = self.counts();
        let mut text = HEAD.to_owned();
        let holes = self.holes(catalog);
        let _ = writeln!(
            text,
            "\nLeak classes: {leaks}; sealed stacks: {sealed}; probes: {}; {}.\n\n{LEGEND}",
            catalog.probes().len(),
            count_holes(&holes)
        );
        for hole in holes {
            let _ = writeln!(text, "- {hole}");
        }
        for (title, is_sealed) in [("Leak classes", false), ("Sealed stacks", true)] {
            let _ = write!(text, "\n## {title}\n\n| |");
            // Narrow columns: a name may break at its hyphens.
            for probe in catalog.probes() {
                let _ = write!(text, " {} |", probe.id.replace('-', "-<br>"));
            }
            text.push_str("\n| --- |");
            text.push_str(&" :-: |".repeat(catalog.probes().len()));
            text.push('\n');
            for row in self.rows.iter().filter(|row| row.sealed == is_sealed) {
                let _ = write!(text, "| **{}**<br>{} |", row.id, row.title.replace('|', "\\|"));
                for probe in catalog.probes() {
                    let _ = write!(text, " {} |", sign(row.cells.get(&probe.id)));
                }
                text.push('\n');
            }
        }
        text
    }

    /// For a terminal: which probes noticed each leak class, and how often each was red and green.
    #[must_use]
    pub fn text(&self, catalog: &Catalog) -> String {
        let width = self.rows.iter().map(|row| row.id.len()).max().unwrap_or_default();
        let mut text = String::new();
        if self.counts().0 > 0 {
            text.push_str("\nleak class, and what notices it\n");
        }
        for row in self.rows.iter().filter(|row| !row.sealed) {
            let found = catalog.probes().iter().filter(|probe| row.is_found_by(probe)).map(|probe| probe.id.as_str());
            let _ = writeln!(text, "  {:width$}  {}", row.id, found.collect::<Vec<_>>().join(", "));
        }
        text.push_str("\nprobe, on how many leak classes it is red, and on how many sealed stacks green\n");
        let width = catalog.probes().iter().map(|probe| probe.id.len()).max().unwrap_or_default();
        let asked = |probe: &&Probe| self.rows.iter().any(|row| row.cells.contains_key(&probe.id));
        for probe in catalog.probes().iter().filter(asked) {
            let red = self.rows.iter().filter(|row| !row.sealed && row.is_red(probe)).count();
            let green = self.rows.iter().filter(|row| row.sealed && row.green.contains(&probe.id)).count();
            let _ = writeln!(text, "  {:width$}  {red:3}  {green:3}", probe.id);
        }
        text
    }
}

/// `no hole`, `1 hole`, `2 holes`.
#[must_use]
pub fn count_holes(holes: &[String]) -> String {
    match holes.len() {
        0 => "no hole".to_owned(),
        1 => "1 hole".to_owned(),
        more => format!("{more} holes"),
    }
}

fn sign(verdict: Option<&VerdictWord>) -> &'static str {
    match verdict {
        Some(VerdictWord::Fail) => "●",
        Some(VerdictWord::Warn) => "◐",
        Some(VerdictWord::Inconclusive) => "?",
        Some(VerdictWord::Pass) => "·",
        Some(VerdictWord::Skip) | None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, sealed: bool, cells: &[(&str, VerdictWord)]) -> Row {
        let green = cells.iter().filter(|(_, verdict)| *verdict == VerdictWord::Pass).map(|(id, _)| (*id).to_owned());
        Row {
            id: id.to_owned(),
            title: "a | b".to_owned(),
            sealed,
            amber: Vec::new(),
            green: green.collect(),
            cells: cells.iter().map(|(id, verdict)| ((*id).to_owned(), *verdict)).collect(),
        }
    }

    /// A sealed stack on which all is green, and a leak on which all is red.
    fn whole(catalog: &Catalog) -> [Row; 2] {
        let all = |verdict| catalog.probes().iter().map(|probe| (probe.id.as_str(), verdict)).collect::<Vec<_>>();
        [row("sealed", true, &all(VerdictWord::Pass)), row("leak", false, &all(VerdictWord::Fail))]
    }

    fn matrix(rows: impl IntoIterator<Item = Row>) -> Matrix {
        let mut matrix = Matrix::default();
        rows.into_iter().for_each(|row| matrix.enter(row));
        matrix
    }

    #[test]
    fn a_whole_matrix_has_no_hole() {
        let catalog = Catalog::builtin().unwrap();
        let matrix = matrix(whole(&catalog));
        assert_eq!(matrix.holes(&catalog), Vec::<String>::new());
        let text = matrix.markdown(&catalog);
        assert!(text.contains("Leak classes: 1; sealed stacks: 1;") && text.contains("no hole"), "{text}");
        assert!(text.contains("| **leak**<br>a \\| b | ● |"), "{text}");
    }

    #[test]
    fn what_nobody_saw_is_a_hole() {
        let catalog = Catalog::builtin().unwrap();
        let [mut sealed, mut leak] = whole(&catalog);
        sealed.green.retain(|id| id != "routes");
        leak.cells.insert("uplink".to_owned(), VerdictWord::Inconclusive);
        // A probe of leaks that only warns of one has not found it; one of weaknesses has.
        leak.cells.insert("wire-quiet".to_owned(), VerdictWord::Warn);
        leak.cells.insert("capabilities".to_owned(), VerdictWord::Warn);
        let missed = row("missed", false, &[("uplink", VerdictWord::Pass)]);
        // A class may be one that a probe of leaks only warns of; then its file says so.
        let mut warned_of = row("warned-of", false, &[("routes", VerdictWord::Warn)]);
        warned_of.amber.push("routes".to_owned());
        let not_named = row("not-named", false, &[("routes", VerdictWord::Warn)]);
        assert_eq!(
            matrix([sealed, leak, missed, warned_of, not_named]).holes(&catalog),
            [
                "nothing finds the leak class missed",
                "nothing finds the leak class not-named",
                "routes passes on no sealed stack",
                "no leak class turns uplink red",
                "no leak class turns wire-quiet red",
            ]
        );
    }

    #[test]
    fn of_several_askings_the_worst_counts_and_any_pass_is_green() {
        let mut report = crate::report::sample::failing();
        let mut again = report.probes[0].clone();
        report.probes[0].verdict = VerdictWord::Pass;
        again.verdict = VerdictWord::Fail;
        report.probes.push(again);
        let row = Row::sealed("x", "t", &report);
        let id = &report.probes[0].id;
        assert_eq!(row.cells[id], VerdictWord::Fail);
        assert!(row.green.contains(id));
    }
}
