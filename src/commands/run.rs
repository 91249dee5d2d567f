//! `leakcheck run`: the audit of a stack, and what `demo` shares with it.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use super::earlier::{baseline, remember};
use super::{catalog, print, tell, trials};
use crate::cli::{AuditArgs, RunArgs};
use crate::config::Config;
use crate::model::comparison::Comparison;
use crate::report::progress::for_stderr;
use crate::report::{Look, write_dir};
use crate::runner::{self, Options, RunError};
use crate::target::{Enter, TargetSpec};

/// Audits a stack and gives the exit status.
///
/// # Errors
/// When nothing could be measured.
pub fn run(args: &RunArgs) -> anyhow::Result<u8> {
    let (config, _) = Config::load(args.config.as_deref(), std::env::vars())?;
    let place = Place {
        target: args.target.clone(),
        label: None,
        enter: args.enter,
        state_dir: args.state_dir.as_deref(),
        restart_dependents: args.restart_dependents,
    };
    audit(&config, place, &args.audit)
}

/// What is audited, and how it is got at.
pub(super) struct Place<'a> {
    pub target: Option<TargetSpec>,
    /// What reports call it.
    pub label: Option<String>,
    pub enter: Enter,
    pub state_dir: Option<&'a Path>,
    pub restart_dependents: bool,
}

/// Audits the stack of `config`, or that of `place`, and prints and writes the reports.
///
/// # Errors
/// When nothing could be measured.
pub(super) fn audit(config: &Config, place: Place<'_>, args: &AuditArgs) -> anyhow::Result<u8> {
    let Place { target, label, enter, state_dir, restart_dependents } = place;
    let catalog = catalog(args.probes.as_deref())?;
    let selection = args.selection();
    let options = Options {
        config,
        catalog: &catalog,
        selection: &selection,
        target,
        label,
        enter,
        quick: args.quick,
        outages: &args.outage,
        strict: args.strict,
        redact: args.redact,
        timeout: args.timeout,
        state_dir,
        restart_dependents,
        progress: Arc::from(for_stderr(args.nocapture)),
    };
    // A wrong file is told before anything is touched.
    let before = args.baseline.as_deref().map(baseline).transpose()?;
    if args.list {
        return trials(&options.trials()?).map(|()| runner::PASSED);
    }
    let mut report = match runner::run(&options) {
        Ok(report) => report,
        Err(error @ (RunError::NotPutBack { .. } | RunError::Interrupted)) => {
            let status =
                if matches!(error, RunError::Interrupted) { runner::INTERRUPTED } else { runner::NOT_PUT_BACK };
            let _ = write!(std::io::stderr(), "{}", tell(&error.into()));
            return Ok(status);
        }
        Err(error) => return Err(error.into()),
    };
    report.comparison = before.map(|before| Comparison::between(&before, &report));
    if args.only_worse
        && let Some(comparison) = &report.comparison
        && ![runner::NOT_PUT_BACK, runner::INTERRUPTED].contains(&report.exit_status)
    {
        report.exit_status = comparison.exit_status(report.strict);
    }
    let mut trouble = Vec::new();
    if let Some((path, Err(error))) = args.history.as_deref().map(|folder| remember(folder, &report)) {
        trouble.push(format!("warning: {} could not be written: {error}", path.display()));
    }
    if let Some(dir) = args.reports() {
        for (path, result) in write_dir(dir, &report) {
            if let Err(error) = result {
                trouble.push(format!("warning: {} could not be written: {error}", path.display()));
            }
        }
    }
    let text = args.format.render(&report, &Look::of_stdout())?;
    print(&text)?;
    for line in trouble {
        // A report that is missing is no verdict on the stack.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    Ok(report.exit_status)
}
