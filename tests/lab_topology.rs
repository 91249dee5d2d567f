//! The lab itself: that a sealed stack is sealed, that the kernel lists and restores what it should, and that each leak
//! fixture really does what it says. The far side's journals and the home's own packet sockets are asked, never the
//! stack's rules.
//!
//! Every trial runs in a process of its own, because a user namespace is entered by a process that has no threads. Where
//! user namespaces are refused the trials are shown as ignored; with `LEAKCHECK_LAB=required` they fail.

mod lab_topology {
    pub mod conditions;
    pub mod kernel;
    pub mod leaks;
    pub mod sealed;
    pub mod sensor;
    pub mod tools;
}

use lab_topology::{conditions, kernel, leaks, sealed, sensor};
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::{Command, ExitCode};

/// Names the trial that a child process is to run.
const TRIAL: &str = "LEAKCHECK_LAB_TRIAL";

/// What a trial does in its own lab's home.
pub type Body = fn(leakcheck::lab::PrivateDir) -> anyhow::Result<()>;

const UNKNOWN_WITNESS: &str = "conditions::unknown_witness";

fn names() -> Vec<String> {
    let mut names: Vec<String> = sealed::TRIALS.iter().map(|(name, _)| (*name).to_owned()).collect();
    names.extend(kernel::TRIALS.iter().map(|(name, _)| (*name).to_owned()));
    names.extend(sensor::TRIALS.iter().map(|(name, _)| (*name).to_owned()));
    names.extend(conditions::names());
    names.push(UNKNOWN_WITNESS.to_owned());
    names.extend(leaks::names());
    names
}

fn body(name: &str, world: leakcheck::lab::PrivateDir) -> anyhow::Result<()> {
    match sealed::TRIALS.iter().chain(kernel::TRIALS).chain(sensor::TRIALS).find(|(known, _)| *known == name) {
        Some((_, body)) => body(world),
        None if name == UNKNOWN_WITNESS => conditions::unknown_witness(world),
        None if conditions::is_one(name) => conditions::run(name, world),
        None => leaks::run(name, world),
    }
}

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(TRIAL) {
        return child(&name);
    }
    let refused = refusal();
    let required = std::env::var("LEAKCHECK_LAB").is_ok_and(|value| value == "required");
    let ignored = refused.is_some() && !required;
    if let (Some(reason), true) = (&refused, ignored) {
        eprintln!("ignored: {reason}");
    }
    let legacy = leakcheck::lab::has_legacy_tables();
    if !legacy {
        eprintln!("ignored: this kernel has no tables of iptables-legacy, or they are not loaded");
    }
    let trials = names()
        .into_iter()
        .map(|name| {
            let ignored = ignored || needs_users(&name) || needs_legacy(&name) && !required && !legacy;
            Trial::test(name.clone(), move || run(&name)).with_ignored_flag(ignored)
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Whether the trial needs more users than an ordinary user's lab has.
fn needs_users(name: &str) -> bool {
    let leak = name.strip_prefix("leak::").and_then(|id| leakcheck::lab::Leak::named(id).ok());
    leak.is_some_and(|leak| leak.needs_users()) && !nix::unistd::geteuid().is_root()
}

/// Whether the trial needs the tables of iptables-legacy.
fn needs_legacy(name: &str) -> bool {
    let leak = name.strip_prefix("leak::").and_then(|id| leakcheck::lab::Leak::named(id).ok());
    leak.is_some_and(|leak| leak.needs_legacy())
}

/// Why no lab can be made here, found out by trying.
fn refusal() -> Option<String> {
    let output = spawn("sealed::starts").ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code() == Some(77)).then_some(text)
}

fn spawn(name: &str) -> std::io::Result<std::process::Output> {
    Command::new(std::env::current_exe()?).env(TRIAL, name).output()
}

fn run(name: &str) -> Result<(), Failed> {
    let output = spawn(name)?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

fn child(name: &str) -> ExitCode {
    let world = match leakcheck::lab::enter_user_namespace() {
        Ok(world) => world,
        Err(error) => {
            let help = error.help().unwrap_or_default().to_owned();
            eprintln!("failed to {:#}\nhelp: {help}", anyhow::Error::from(error));
            return ExitCode::from(77);
        }
    };
    match body(name, world) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let help = error.downcast_ref().and_then(leakcheck::lab::LabError::help);
            eprintln!("failed to {error:#}\nhelp: {help:?}");
            if help.is_some() { ExitCode::from(77) } else { ExitCode::FAILURE }
        }
    }
}
