//! `leakcheck explain ID`: all that a probe says about itself.

use super::{catalog, print};
use crate::cli::ExplainArgs;
use crate::model::probe::{Probe, Severity};
use crate::report::Look;
use crate::report::page::{Ink, Page};

/// Prints one probe.
///
/// # Errors
/// When there is no such probe, `--probes` names no folder of probes, or standard output takes nothing.
pub fn explain(args: &ExplainArgs) -> anyhow::Result<()> {
    let catalog = catalog(args.probes.as_deref())?;
    let probe = catalog.get(&args.id)?;
    Ok(print(&page(probe, Look::of_stdout())?)?)
}

fn page(probe: &Probe, look: Look) -> anyhow::Result<String> {
    let mut page = Page::new(look);
    page.line(&format!("{}: {}", probe.id, probe.title), Ink::Good);
    page.blank();
    page.item("claim", &probe.claim, Ink::Plain);
    page.item("severity", severity(probe.severity), Ink::Plain);
    let phases: Vec<_> = probe.phases.iter().map(ToString::to_string).collect();
    page.item("asked when", &phases.join(", "), Ink::Plain);
    let params: Vec<_> = probe.params.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    let params = if params.is_empty() { String::new() } else { format!(" ({})", params.join(", ")) };
    page.item("technique", &format!("{}{params}", probe.technique), Ink::Plain);
    for (label, text) in [("matters", &probe.why), ("cannot see", &probe.limits), ("mend", &probe.fix)] {
        page.blank();
        page.item(label, text, Ink::Plain);
    }
    #[cfg(feature = "lab")]
    {
        let leaks = crate::lab::Leak::all()?;
        let tried: Vec<_> =
            leaks.iter().filter(|leak| leak.red.contains(&probe.id)).map(|leak| leak.id.as_str()).collect();
        if !tried.is_empty() {
            page.blank();
            page.item("tried on", &format!("{}: leakcheck demo --leak CLASS", tried.join(", ")), Ink::Plain);
        }
    }
    Ok(page.into_text())
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "critical: the home address, or what is done under it, is shown to strangers",
        Severity::High => "high: a part of the traffic, or its names, are shown to the ISP",
        Severity::Medium => "medium: something that the owner needs does not work",
        Severity::Low => "low: a weakness that is no leak by itself",
    }
}
