//! leakcheck against the stack of `fixtures/compose`, which is made from the very same program. `LEAKCHECK_DOCKER=required` makes a missing
//! engine or Compose a failure; without it the trials are shown as ignored. `LEAKCHECK_DOCKER_KILLS=20` kills so many runs at random
//! instants, and `LEAKCHECK_DOCKER_OUTAGES=200` takes a sealed stack so often through all three outages that Docker makes.

mod access;
mod audit;
mod calls;
mod examples;
#[path = "../support/left.rs"]
mod left;
mod outages;
mod settings;
mod stack;
#[path = "../support/tls_front.rs"]
mod tls_front;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use stack::{Stack, compose_command, on_stack};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The fixture has fixed networks, so only one can stand.
    arguments.test_threads = Some(1);
    let compose = compose_command();
    let required = std::env::var_os("LEAKCHECK_DOCKER").is_some_and(|value| value == "required");
    if required && compose.is_none() {
        eprintln!("LEAKCHECK_DOCKER=required, and there is no Docker engine or no Compose");
        return ExitCode::FAILURE;
    }
    let trials = Trials { compose, is_root: nix::unistd::Uid::effective().is_root() };
    let kinds = [audit::trials, access::trials, settings::trials, outages::trials, calls::trials, examples::trials];
    let all = kinds.into_iter().flat_map(|kind| kind(&trials)).collect();
    libtest_mimic::run(&arguments, all).exit_code()
}

/// What trials are made with. Each has a stack of its own.
pub struct Trials {
    compose: Option<Vec<&'static str>>,
    is_root: bool,
}

impl Trials {
    /// On the sealed stack.
    pub fn on_sealed(&self, name: &str, body: impl FnOnce(&Stack) + Send + 'static) -> Trial {
        self.on_variant(name, Vec::new(), body)
    }

    /// On the sealed stack, for who is root on the Docker host.
    pub fn as_root(&self, name: &str, body: impl FnOnce(&Stack) + Send + 'static) -> Trial {
        self.on_sealed(name, body).with_ignored_flag(self.compose.is_none() || !self.is_root)
    }

    /// On a stack of which the compose file is told these variables.
    pub fn on_variant(
        &self,
        name: &str,
        variables: Vec<(&'static str, &'static str)>,
        body: impl FnOnce(&Stack) + Send + 'static,
    ) -> Trial {
        let compose = self.compose.clone().unwrap_or_default();
        Trial::test(name, move || on_stack(&compose, &variables, body)).with_ignored_flag(self.compose.is_none())
    }
}
