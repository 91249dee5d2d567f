//! `leakcheck run`: the audit of a stack, and what `demo` shares with it.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use super::{catalog, print, tell, trials};
use crate::cli::{AuditArgs, RunArgs};
use crate::config::Config;
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
    audit(&config, args.target.clone(), None, args.enter, args.state_dir.as_deref(), &args.audit)
}

/// Audits the stack of `config`, or `target`, and prints and writes the reports, which call it `label`.
///
/// # Errors
/// When nothing could be measured.
pub(super) fn audit(
    config: &Config,
    target: Option<TargetSpec>,
    label: Option<String>,
    enter: Enter,
    state_dir: Option<&Path>,
    args: &AuditArgs,
) -> anyhow::Result<u8> {
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
        progress: Arc::from(for_stderr(args.nocapture)),
    };
    if args.list {
        return trials(&options.trials()?).map(|()| runner::PASSED);
    }
    let report = match runner::run(&options) {
        Ok(report) => report,
        Err(error @ RunError::NotPutBack { .. }) => {
            let _ = write!(std::io::stderr(), "{}", tell(&error.into()));
            return Ok(runner::NOT_PUT_BACK);
        }
        Err(error) => return Err(error.into()),
    };
    let mut trouble = Vec::new();
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
