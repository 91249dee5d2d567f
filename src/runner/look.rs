//! A look at a stack: it is found and entered as for a run, what it is made of is told, and nothing is asked of it. `doctor` shows so that
//! a run could begin, and `init` takes from it what it writes.

use std::time::{Duration, Instant};

use super::account::describe;
use super::session::Session;
use super::setup::setup;
use super::{Options, RunError, find, runtime};
use crate::agent::protocol::Stack;
use crate::model::evidence::StackAccount;
use crate::target::Target;

/// A stack that was found, and entered.
pub struct Found {
    /// What it was found by, and what its container tells.
    pub target: Target,
    /// What its namespace tells.
    pub stack: Stack,
    /// What the engine tells of its containers and of those beside them, where it does.
    pub account: Option<StackAccount>,
    /// The same in one sentence, as the note of a report.
    pub described: String,
    /// How long that took.
    pub took: Duration,
}

/// Finds the target and looks inside.
///
/// # Errors
/// As a run: when there is no target, or it cannot be entered.
pub fn look(options: &Options<'_>) -> Result<Found, RunError> {
    let clock = Instant::now();
    let runtime = runtime()?;
    let target = runtime.block_on(find(options))?;
    // Without it there is less to say, and nothing else is missing.
    let account = runtime.block_on(target.account()).and_then(Result::ok);
    let process = runtime.block_on(target.launch(options.enter, false))?;
    let session = Session::open(runtime.handle(), process, None);
    let started = session.start(setup(options, &target, &session, None, (None, None), clock));
    // What keeps it from ending well keeps nobody from having looked.
    let _ = session.end();
    let stack = started?;
    let described = describe(&stack, &target, session.how);
    Ok(Found { target, stack, account, described, took: clock.elapsed() })
}
