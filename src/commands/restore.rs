//! `leakcheck restore`: puts back what a run that was killed left changed.

use std::io::Write as _;

use super::{print, tell};
use crate::cli::RestoreArgs;
use crate::runner::{self, Restored, RunError};

/// Works off the journals, and gives the exit status.
///
/// # Errors
/// When the target cannot be found, or there is no place for journals.
pub fn restore(args: &RestoreArgs) -> anyhow::Result<u8> {
    let outcomes = runner::restore(args.state_dir.as_deref(), args.target.as_ref(), args.enter)?;
    let mut status = runner::PASSED;
    let mut text = String::new();
    for outcome in outcomes {
        match outcome {
            Ok(Restored::PutBack(entry)) => {
                text.push_str(&format!(
                    "{}: put back, as it was before the outage by {}\n",
                    entry.target, entry.method
                ));
            }
            Ok(Restored::Gone(entry)) => {
                text.push_str(&format!("{}: gone, and what {} had changed with it\n", entry.target, entry.method));
            }
            Ok(Restored::Nothing) => {}
            Err(RunError::Journal(error)) if args.target.is_none() => {
                // Somebody else's run is under way, which is no failure of this one.
                let _ = writeln!(std::io::stderr(), "note: left alone: {error}");
            }
            Err(error) => {
                let _ = write!(std::io::stderr(), "{}", tell(&error.into()));
                status = runner::NOT_PUT_BACK;
            }
        }
    }
    if text.is_empty() && status == runner::PASSED {
        text.push_str("nothing to put back\n");
    }
    print(&text)?;
    Ok(status)
}
