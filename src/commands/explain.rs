//! `leakcheck explain ID`: all that a probe says about itself.

use super::{catalog, print};
use crate::cli::ExplainArgs;
use crate::config::OutageMethod;
use crate::model::probe::{Phase, Probe, Severity};
use crate::outage::About;
use crate::report::Look;
use crate::report::page::{Ink, Page};
use crate::technique;

/// Before the name of an outage method it makes an id.
const OUTAGE: &str = "outage-";

/// Prints one probe, or one way to take the tunnel down.
///
/// # Errors
/// When there is no such probe, `--probes` names no folder of probes, or standard output takes nothing.
pub fn explain(args: &ExplainArgs) -> anyhow::Result<()> {
    if let Some(method) = args.id.strip_prefix(OUTAGE)
        && let Ok(method) = method.parse::<OutageMethod>()
    {
        return Ok(print(&outage_page(method, Look::of_stdout()))?);
    }
    let catalog = catalog(args.probes.as_deref())?;
    let probe = catalog.get(&args.id)?;
    Ok(print(&page(probe, Look::of_stdout())?)?)
}

/// One way to take the tunnel down.
fn outage_page(method: OutageMethod, look: Look) -> String {
    let About { title, needs, does, undone, limits } = About::of(method);
    let mut page = Page::new(look);
    page.line(&format!("{OUTAGE}{method}: {title}"), Ink::Good);
    for (label, text) in [("needs", needs), ("does", does), ("put back", undone), ("cannot see", limits)] {
        page.blank();
        page.item(label, text, Ink::Plain);
    }
    page.into_text()
}

fn page(probe: &Probe, look: Look) -> anyhow::Result<String> {
    let mut page = Page::new(look);
    page.line(&format!("{}: {}", probe.id, probe.title), Ink::Good);
    page.blank();
    page.item("claim", &probe.claim, Ink::Plain);
    page.item("severity", severity(probe.severity), Ink::Plain);
    let phases: Vec<_> = probe.phases.iter().map(ToString::to_string).collect();
    page.item("asked when", &phases.join(", "), Ink::Plain);
    let quick = if probe.phases.contains(&Phase::Up) { " --quick" } else { "" };
    page.item("ask it", &format!("leakcheck run {}{quick}", probe.id), Ink::Plain);
    let params: Vec<_> = probe.params.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    let params = if params.is_empty() { String::new() } else { format!(" ({})", params.join(", ")) };
    page.item("technique", &format!("{}{params}", probe.technique), Ink::Plain);
    for (label, text) in [("matters", &probe.why), ("cannot see", &probe.limits), ("mend", &probe.fix)] {
        page.blank();
        page.item(label, text, Ink::Plain);
    }
    if probe.phases.contains(&Phase::Outage) {
        let fits = |method: &&OutageMethod| match probe.technique.as_str() {
            technique::BOOT => method.starts_anew(),
            technique::FLOWS_V6 => method.keeps_flows(),
            _ => true,
        };
        let ways: Vec<_> = OutageMethod::ALL.iter().filter(fits).map(|method| format!("{OUTAGE}{method}")).collect();
        page.blank();
        page.item("ways down", &format!("{}: leakcheck explain WAY", ways.join(", ")), Ink::Plain);
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
        Severity::Medium => "medium: the stack does not do what its owner needs of it",
        Severity::Low => "low: a weakness that is no leak by itself",
    }
}
