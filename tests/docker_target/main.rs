//! Targets against the real kernel and a real Docker engine: found, entered both ways, and left as they were. The containers are made
//! from this very test program, which also plays the agent. `LEAKCHECK_DOCKER=required` makes a missing engine a failure; without it
//! the trials are shown as ignored.

mod actor;
mod docker;
#[path = "../support/docker_lock.rs"]
mod docker_lock;
mod engine;
mod kernel;
#[path = "../support/left.rs"]
mod left;
mod podman;
mod remote;
mod ssh;
#[path = "../support/tls_front.rs"]
mod tls_front;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    if let Some(code) = actor::play() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    // The trials look at all containers of the engine, so they would see each other's.
    arguments.test_threads = Some(1);
    let mut trials: Vec<Trial> = docker::trials();
    trials.extend(remote::trials());
    trials.extend(podman::trials());
    trials.extend(kernel::trials());
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Runs a trial's future to its end.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}
