//! Putting back, whoever is killed and when: runs of the lab's stack are shot at random instants, and within five seconds links, addresses,
//! routes, rules, firewall and resolv.conf have to be what they were. Once with the runner alone, with its process group, with the agent
//! alone, and with both of them, when the keeper is the last one; and with the keeper too, when `leakcheck restore` has to do it. Then an
//! agent and a runner that are not dead but stand still. And what an outage must not do meanwhile: have the stack's own programs leak.
//!
//! `LEAKCHECK_PUTBACK_KILLS=200 cargo test --test putback` shoots 200 times per trial instead of a few. Every trial runs in a process of
//! its own, as the lab demands; without the privilege they are shown as ignored, and with `LEAKCHECK_LAB=required` they fail.

#[path = "putback/harm.rs"]
mod harm;
#[path = "putback/range.rs"]
mod range;

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use leakcheck::config::OutageMethod;
use leakcheck::lab;
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use range::{Range, State, Victims, children_of};

/// Names the trial that a child process is to run.
const TRIAL: &str = "LEAKCHECK_LAB_TRIAL";
/// How many shots each trial fires.
const KILLS: &str = "LEAKCHECK_PUTBACK_KILLS";
const FEW: usize = 6;
const LEAKCHECK: &str = env!("CARGO_BIN_EXE_leakcheck");
/// The promise of the design.
const GOAL: Duration = Duration::from_secs(5);
/// After how long an agent that says nothing counts as one that stands still.
const SILENCE: Duration = Duration::from_secs(3);

/// A trial and what it is called.
type Named = (&'static str, fn(&Range) -> Result<()>);

const TRIALS: [Named; 13] = [
    ("killed::runner", |range| range.shoot(Victims::Runner)),
    ("killed::process_group", |range| range.shoot(Victims::Group)),
    ("killed::agent", |range| range.shoot(Victims::Agent)),
    ("killed::runner_and_agent", |range| range.shoot(Victims::RunnerAndAgent)),
    ("killed::all_of_it_then_restore", all_of_it_then_restore),
    ("killed::all_of_it_then_run", all_of_it_then_run),
    ("frozen::agent", frozen_agent),
    ("frozen::runner", frozen_runner),
    ("interrupted::puts_back_and_says_130", interrupted),
    ("interrupted::before_it_has_begun_says_130", interrupted_before),
    ("locked::second_run_is_refused", second_run_is_refused),
    ("harmless::link_down_keeps_in_what_programs_have_open", harm::link_down_keeps_in_what_programs_have_open),
    ("harmless::link_down_keeps_in_what_a_gateway_takes", harm::link_down_keeps_in_what_a_gateway_takes),
];

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
    let mut arguments = Arguments::from_args();
    // Shots of one trial would delay those of another beyond what is promised.
    arguments.test_threads.get_or_insert(1);
    let trials = TRIALS.iter().map(|(name, _)| Trial::test(*name, || run(name)).with_ignored_flag(ignored)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Why no lab can be made here, found out by trying.
fn refusal() -> Option<String> {
    let output = Command::new(std::env::current_exe().ok()?).env(TRIAL, "stands").output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code() == Some(77)).then_some(text)
}

fn run(name: &str) -> Result<(), Failed> {
    let output = Command::new(std::env::current_exe()?).env(TRIAL, name).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

fn child(name: &str) -> ExitCode {
    let result = lab::enter_user_namespace().map_err(anyhow::Error::from).and_then(|world| {
        let range = Range::new(&world)?;
        match TRIALS.iter().find(|(known, _)| *known == name) {
            Some((_, body)) => body(&range),
            None => Ok(()),
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let refused = ["user namespace", "/dev/net/tun", "private mount"];
            let told = format!("{error:#}");
            eprintln!("{told}");
            if refused.iter().any(|word| told.contains(word)) { ExitCode::from(77) } else { ExitCode::FAILURE }
        }
    }
}

/// Those that need no Docker.
fn methods() -> Vec<OutageMethod> {
    OutageMethod::ALL.into_iter().filter(|method| !method.is_of_container()).collect()
}

fn kills() -> usize {
    std::env::var(KILLS).ok().and_then(|text| text.parse().ok()).unwrap_or(FEW)
}

fn journals(state: &Path) -> usize {
    fs::read_dir(state).map_or(0, Iterator::count)
}

/// The journal alone is left: `leakcheck restore` does it.
fn all_of_it_then_restore(range: &Range) -> Result<()> {
    for method in methods() {
        range.leave_changed(method)?;
        let changed = !range.before.diff(&State::of(&range.lab)?).is_empty();
        // What the kernel owns it has taken back already; a process that died is started again by its parent, sooner or later.
        let as_it_should = match method {
            OutageMethod::EndpointBlock => !changed,
            OutageMethod::ProcessKill => true,
            _ => changed,
        };
        ensure!(as_it_should, "{method}: changed {changed}");
        ensure!(journals(&range.state) == 1, "{method}: {} journals", journals(&range.state));
        let output = range.leakcheck(&["restore"]).output()?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && told.contains("put back"), "{method}: {}: {told}", output.status);
        range.wait_until_as_before(&format!("restore after {method}"))?;
        ensure!(journals(&range.state) == 0, "{method}: the journal is still there");
    }
    let output = range.leakcheck(&["restore"]).output()?;
    ensure!(String::from_utf8_lossy(&output.stdout).contains("nothing to put back"), "{output:?}");
    range.undisturbed(OutageMethod::ALL[0]).map(drop)
}

/// The journal alone is left: the next run works it off first.
fn all_of_it_then_run(range: &Range) -> Result<()> {
    for method in methods() {
        range.leave_changed(method)?;
        range.undisturbed(method)?;
        ensure!(journals(&range.state) == 0, "{method}: the journal is still there");
    }
    Ok(())
}

/// An agent that is stopped puts nothing back: its keeper notices, and ends it first, for what is its own goes with it alone.
fn frozen_agent(range: &Range) -> Result<()> {
    for method in methods() {
        let mut run = range.begin(method, "60s")?;
        let agent = children_of(Pid::from_raw(run.id().cast_signed())).into_iter().next().context("the agent")?;
        kill(agent, Signal::SIGSTOP)?;
        range.wait_as_long_as(SILENCE + GOAL, &format!("{method} with an agent that stands still"))?;
        let status = run.wait()?;
        ensure!(status.code().is_some_and(|code| code == 3 || code == 4), "{method}: {status}");
        range.wait_until_as_before(&format!("after {method}"))?;
        ensure!(!Path::new(&format!("/proc/{agent}/exe")).exists(), "{method}: the agent is still there");
    }
    range.undisturbed(OutageMethod::ALL[0]).map(drop)
}

/// The agent bounds the outage by itself: a runner that is stopped in the middle of it delays nothing.
fn frozen_runner(range: &Range) -> Result<()> {
    let window = Duration::from_secs(3);
    for method in methods() {
        let mut run = range.begin(method, "3s")?;
        let runner = Pid::from_raw(run.id().cast_signed());
        kill(runner, Signal::SIGSTOP)?;
        range.wait_as_long_as(window + GOAL, &format!("{method} with a runner that stands still"))?;
        kill(runner, Signal::SIGCONT)?;
        let status = run.wait()?;
        ensure!(status.success(), "{method}: the run was disturbed: {status}");
    }
    Ok(())
}

fn interrupted(range: &Range) -> Result<()> {
    for (method, signal) in
        methods().into_iter().flat_map(|method| [Signal::SIGINT, Signal::SIGTERM].map(|signal| (method, signal)))
    {
        let mut run = range.begin(method, "30s")?;
        kill(Pid::from_raw(run.id().cast_signed()), signal)?;
        let status = run.wait()?;
        let differences = range.before.diff(&State::of(&range.lab)?);
        ensure!(differences.is_empty(), "{method}, {signal}: it ended before all was as it was: {differences:#?}");
        ensure!(status.code() == Some(130), "{method}, {signal}: {status}");
    }
    Ok(())
}

/// Nothing is measured yet when the signal comes: the agent waits for that of another run to leave the namespace.
fn interrupted_before(range: &Range) -> Result<()> {
    let method = OutageMethod::ALL[0];
    let mut first = range.begin(method, "60s")?;
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let elsewhere = range.state.with_file_name("elsewhere");
        let mut second = range.audit(method).env("LEAKCHECK_STATE_DIR", elsewhere).stderr(Stdio::piped()).spawn()?;
        let pid = Pid::from_raw(second.id().cast_signed());
        let end = Instant::now() + GOAL;
        while children_of(pid).is_empty() {
            ensure!(Instant::now() < end && second.try_wait()?.is_none(), "the second run starts no agent");
            sleep(Duration::from_millis(10));
        }
        sleep(Duration::from_secs(1));
        kill(pid, signal)?;
        let output = second.wait_with_output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(130), "{signal}: {}: {told}", output.status);
        ensure!(told.contains("the run was interrupted"), "{signal}: {told}");
    }
    kill(Pid::from_raw(first.id().cast_signed()), Signal::SIGINT)?;
    let status = first.wait()?;
    ensure!(status.code() == Some(130), "the first run was disturbed: {status}");
    range.wait_until_as_before("after the first run")
}

fn second_run_is_refused(range: &Range) -> Result<()> {
    let method = OutageMethod::ALL[0];
    let mut first = range.begin(method, "60s")?;
    let refused = |run: &mut Command, why: &str| -> Result<()> {
        let output = run.stderr(Stdio::piped()).output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2) && told.contains(why), "{}: {told}", output.status);
        Ok(())
    };
    refused(&mut range.audit(method), "another leakcheck is at work on this target")?;
    // One whose journals are elsewhere, such as another user's, meets the lock of the first one's agent inside the namespace.
    let elsewhere = range.state.with_file_name("elsewhere");
    refused(
        range.audit(method).env("LEAKCHECK_STATE_DIR", elsewhere),
        "another leakcheck is at work in this namespace",
    )?;
    kill(Pid::from_raw(first.id().cast_signed()), Signal::SIGINT)?;
    let status = first.wait()?;
    ensure!(status.code() == Some(130), "the first run was disturbed: {status}");
    range.wait_until_as_before("after the first run")
}
