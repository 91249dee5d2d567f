//! The subcommands, one file each. They print and give the exit status, but do not exit.

#[cfg(feature = "lab")]
mod demo;
mod doctor;
mod earlier;
mod explain;
mod failure;
mod init;
#[cfg(feature = "lab")]
mod lab;
#[cfg(feature = "lab")]
mod lab_sealed;
#[cfg(feature = "lab")]
mod lab_test;
mod list;
mod manual;
mod restore;
mod run;
mod suggest;

use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context;

#[cfg(feature = "lab")]
pub use demo::demo;
pub use doctor::doctor;
pub use explain::explain;
pub use failure::{Hint, tell};
pub use init::init;
#[cfg(feature = "lab")]
pub use lab::lab;
pub use list::{list, trials};
pub use manual::{completions, man};
pub use restore::restore;
pub use run::run;

use crate::catalog::{Catalog, CatalogError};
use crate::cli::AgentArgs;
use crate::model::probe::{Phase, Probe};
use crate::technique;

/// The probes that are built in and those of `dir`, checked down to the parameters of their techniques.
///
/// # Errors
/// Names the first probe that could not be asked.
pub fn catalog(dir: Option<&Path>) -> anyhow::Result<Catalog> {
    let mut catalog = Catalog::builtin()?;
    if let Some(dir) = dir {
        catalog = catalog.with_dir(dir)?;
    }
    catalog.check_techniques(&technique::names())?;
    for probe in catalog.probes() {
        let params = serde_json::to_value(&probe.params).context("read the parameters of a probe")?;
        check_use(probe, &params)
            .map_err(|message| CatalogError::Invalid { file: format!("{}.toml", probe.id), message })?;
    }
    Ok(catalog)
}

/// What a technique demands of a probe that names it.
fn check_use(probe: &Probe, params: &serde_json::Value) -> Result<(), String> {
    match technique::find(&probe.technique) {
        Some(technique) => technique.check(params).map_err(|message| format!("`params`: {message}")),
        None if probe.technique == technique::OUTAGE_SAMPLER && probe.phases != [Phase::Outage] => {
            Err(format!("`{}` watches outages, so `phases` has to be [\"outage\"]", probe.technique))
        }
        None if probe.technique == technique::FLOWS_V6 && probe.phases != [Phase::Outage] => {
            Err(format!("`{}` takes part in outages, so `phases` has to be [\"outage\"]", probe.technique))
        }
        None if probe.technique == technique::BOOT && probe.phases != [Phase::Outage] => {
            Err(format!("`{}` listens to outages, so `phases` has to be [\"outage\"]", probe.technique))
        }
        None if (probe.technique == technique::ACCESS || technique::OF_ENGINE.contains(&probe.technique.as_str()))
            && probe.phases.contains(&Phase::Outage) =>
        {
            Err(format!("`{}` is not asked in an outage, so `phases` may not hold \"outage\"", probe.technique))
        }
        None if !probe.params.is_empty() => Err(format!("`{}` takes no `params`", probe.technique)),
        None => Ok(()),
    }
}

/// The part inside the namespace: serves its runner until its input ends.
///
/// # Errors
/// When the namespace cannot be entered, or the streams are no runner's.
pub fn agent(args: &AgentArgs) -> anyhow::Result<()> {
    crate::agent::serve::serve(args.netns.as_deref()).context("serve the runner from inside the namespace")
}

/// The process that puts an outage back when the agent that made it dies.
///
/// # Errors
/// When it could not be put back.
pub fn keeper() -> anyhow::Result<()> {
    crate::outage::keep().context("keep the stack as it was")
}

/// Writes `text` to standard output. A reader that went away, as `head` does, is no failure.
///
/// # Errors
/// When standard output cannot take it for another reason.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
