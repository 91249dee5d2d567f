//! `leakcheck list`: the probes, for people or as the table of the README.

use std::fmt::Write as _;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

use super::{catalog, print};
use crate::catalog::{Catalog, Trial};
use crate::cli::ListArgs;
use crate::model::probe::Probe;
use crate::report::Look;

/// Prints the probes.
///
/// # Errors
/// When `--probes` names no folder of probes, or standard output takes nothing.
pub fn list(args: &ListArgs) -> anyhow::Result<()> {
    let catalog = catalog(args.probes.as_deref())?;
    let text = if args.markdown { markdown(&catalog) } else { table(&catalog, &Look::of_stdout()) };
    Ok(print(&text)?)
}

/// Prints the names of `trials`, one a line: what `run --list` shows.
///
/// # Errors
/// When standard output takes nothing.
pub fn trials(trials: &[Trial<'_>]) -> anyhow::Result<()> {
    let lines: String = trials.iter().map(|trial| trial.name() + "\n").collect();
    Ok(print(&lines)?)
}

fn phases(probe: &Probe) -> String {
    probe.phases.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn table(catalog: &Catalog, look: &Look) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(look.width).force_no_tty();
    table.set_header(["id", "asked when", "title"]);
    for probe in catalog.probes() {
        table.add_row([&probe.id, &phases(probe), &probe.title]);
    }
    table.trim_fmt() + "\n"
}

fn markdown(catalog: &Catalog) -> String {
    let mut text = String::from("| probe | asked when | what a pass proves |\n| --- | --- | --- |\n");
    for probe in catalog.probes() {
        let claim = probe.claim.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `{}` | {} | {claim} |", probe.id, phases(probe));
    }
    text
}
