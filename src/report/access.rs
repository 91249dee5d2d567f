//! The access matrix as a table of destinations and sources, for the formats that show one.

use super::page::Ink;
use crate::model::report::{AccessFound, AccessRow, Report};

/// One asking of the matrix.
pub(super) struct Grid<'a> {
    /// The name of the asking.
    pub asking: &'a str,
    /// Heads of the columns, in the order of the configuration.
    pub sources: Vec<&'a str>,
    /// A destination, and what was found of it from each source; `None`: no row states anything.
    pub rows: Vec<(&'a str, Vec<Option<AccessFound>>)>,
}

/// The first asking, and each later one that found something else.
pub(super) fn grids(report: &Report) -> Vec<Grid<'_>> {
    let mut askings: Vec<&str> = Vec::new();
    for row in &report.access {
        if !askings.contains(&row.asking.as_str()) {
            askings.push(&row.asking);
        }
    }
    let mut grids: Vec<Grid<'_>> = Vec::new();
    for asking in askings {
        let grid = grid(asking, report.access.iter().filter(|row| row.asking == asking));
        if grids.first().is_none_or(|first| (&first.sources, &first.rows) != (&grid.sources, &grid.rows)) {
            grids.push(grid);
        }
    }
    grids
}

fn grid<'a>(asking: &'a str, of_asking: impl Iterator<Item = &'a AccessRow>) -> Grid<'a> {
    let of_asking: Vec<&AccessRow> = of_asking.collect();
    let (mut sources, mut destinations): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for row in &of_asking {
        if !sources.contains(&row.from.as_str()) {
            sources.push(&row.from);
        }
        if !destinations.contains(&row.to.as_str()) {
            destinations.push(&row.to);
        }
    }
    let found =
        |from: &str, to: &str| of_asking.iter().find(|row| row.from == from && row.to == to).map(|row| row.found);
    let rows = destinations.into_iter().map(|to| (to, sources.iter().map(|from| found(from, to)).collect())).collect();
    Grid { asking, sources, rows }
}

/// What a cell says.
pub(super) fn word(found: Option<AccessFound>) -> &'static str {
    match found {
        Some(AccessFound::Reached) => "reached",
        Some(AccessFound::KeptOut) => "kept out",
        Some(AccessFound::Lost) => "LOST",
        Some(AccessFound::Open) => "OPEN",
        Some(AccessFound::Unknown) => "?",
        None => "",
    }
}

/// What the words mean.
pub(super) const LEGEND: &str = "reached and kept out as they have to be; LOST: has to be reached and is not; OPEN: must not be reached \
                                 and is; ?: not proven";

/// The colour of a cell.
pub(super) fn ink(found: Option<AccessFound>) -> Ink {
    match found {
        Some(AccessFound::Reached | AccessFound::KeptOut) => Ink::Good,
        Some(AccessFound::Lost | AccessFound::Open) => Ink::Bad,
        Some(AccessFound::Unknown) => Ink::Unsure,
        None => Ink::Plain,
    }
}

/// The class of a cell in HTML.
pub(super) fn class(found: Option<AccessFound>) -> &'static str {
    match found {
        Some(AccessFound::Reached | AccessFound::KeptOut) => "pass",
        Some(AccessFound::Lost | AccessFound::Open) => "fail",
        Some(AccessFound::Unknown) => "inconclusive",
        None => "skip",
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FORMATS, Look, sample};
    use super::*;

    fn with(format: &str, report: &Report, width: u16) -> String {
        let found = FORMATS.iter().find(|known| known.name == format).unwrap();
        found.render(report, &Look { width, ..Look::PLAIN }).unwrap()
    }

    #[test]
    fn a_later_asking_is_shown_where_it_differs() {
        let mut report = sample::with_access();
        let again = report.access.clone();
        report
            .access
            .extend(again.into_iter().map(|row| AccessRow { asking: "access/recovered/kill".to_owned(), ..row }));
        assert_eq!(grids(&report).len(), 1);
        report.access.last_mut().unwrap().found = AccessFound::Lost;
        let found = grids(&report);
        assert_eq!((found.len(), found[1].asking), (2, "access/recovered/kill"));
        assert!(grids(&sample::passing()).is_empty());
    }

    #[test]
    fn a_matrix_fits_any_width_and_is_shown_only_where_there_is_one() {
        let report = sample::with_access();
        for width in 40..=140 {
            let text = with("table", &report, width);
            assert!(
                text.lines().all(|line| unicode_width::UnicodeWidthStr::width(line) <= usize::from(width)),
                "{text}"
            );
            assert!(text.contains("OPEN") && text.contains("kept out"), "{text}");
        }
        for format in ["table", "markdown", "html"] {
            assert!(!with(format, &sample::passing(), 100).to_lowercase().contains("access"), "{format}");
        }
    }

    #[test]
    fn hostile_names_stay_names() {
        let mut report = sample::with_access();
        let plain = with("html", &report, 100).matches('<').count();
        report.access.iter_mut().for_each(|row| row.from.push_str("<script>|`**"));
        assert_eq!(with("html", &report, 100).matches('<').count(), plain);
        let text = with("markdown", &report, 100);
        assert!(!text.contains("<script") && !text.contains("**`"), "{text}");
    }

    #[test]
    fn looks_as_it_does() {
        let report = sample::with_access();
        snapbox::assert_data_eq!(with("table", &report, 100), snapbox::file!["../../fixtures/report/access.txt"].raw());
        snapbox::assert_data_eq!(
            with("markdown", &report, 100),
            snapbox::file!["../../fixtures/report/access.md"].raw()
        );
    }
}
