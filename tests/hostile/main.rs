//! Strangers that answer in bad faith: every parser of what servers and packets say, and every technique that asks a stranger over real
//! sockets, against answers that are broken, huge, deep, endless, slow, somebody else's, or a flood. Whatever comes, nothing panics, nothing
//! hangs, memory stays bounded, and what a stranger who was not asked says is never evidence.
//!
//! `LEAKCHECK_FUZZ` says how many answers each parser gets, and how many the techniques get together; it is small enough here for every
//! day, and `LEAKCHECK_FUZZ=1000000 cargo test --release --test hostile -- --nocapture` is the whole proof, which prints its figures.
//!
//! Every trial runs in a process of its own, so that its peak of memory is its own, and in a network namespace of its own, so that servers
//! can stand at the ports that are asked and nothing can leave. Where namespaces are refused the trials over sockets are shown as ignored;
//! with `LEAKCHECK_LAB=required` they fail.

mod answers;
mod dns;
mod http;
mod mutate;
mod parsers;
mod udp;
mod wire;
mod world;

use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use leakcheck::lab;
use libtest_mimic::{Arguments, Failed, Trial};

/// Names the trial that a child process is to run.
const TRIAL: &str = "LEAKCHECK_HOSTILE_TRIAL";
/// How many answers, where nobody says: some seconds of a debug build.
const ANSWERS: u64 = 10_000;
/// What the process of a trial may have resident at its peak, the hostile servers included, which live in it. MiB.
const MOST_RESIDENT: u64 = 32;
/// How long nothing may go on: the longest patience of any technique, many times over. Nothing shorter would tell a hang from a busy machine.
const HANG: Duration = Duration::from_secs(180);

/// Cases that have been worked on, which is how a hang is noticed.
static CASES: AtomicU64 = AtomicU64::new(0);

/// What a trial does, with so many answers; it says how many there were.
pub type Body = fn(u64) -> Result<u64, String>;

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(TRIAL) {
        return child(&name);
    }
    let required = std::env::var("LEAKCHECK_LAB").is_ok_and(|value| value == "required");
    let refused = !required && run("world").is_err();
    let parsers = parsers::TRIALS.iter().map(|(name, _)| Trial::test(*name, || run(name)));
    let sockets = over_sockets().map(|(name, _)| Trial::test(*name, || run(name)).with_ignored_flag(refused));
    let trials = parsers.chain(sockets).collect();
    let mut arguments = Arguments::from_args();
    // A trial has two threads that do not rest, and what a peer of it waits for is in time only if it gets its turn.
    arguments.test_threads.get_or_insert(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn over_sockets() -> impl Iterator<Item = &'static (&'static str, Body)> {
    udp::TRIALS.iter().chain(dns::TRIALS).chain(http::TRIALS).chain(wire::TRIALS)
}

/// Runs a trial in a process of its own.
fn run(name: &str) -> Result<(), Failed> {
    let output = Command::new("/proc/self/exe").env(TRIAL, name).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        eprint!("{said}");
        return Ok(());
    }
    Err(format!("{}\n{said}", output.status).into())
}

fn child(name: &str) -> ExitCode {
    let parser = parsers::TRIALS.iter().find(|(known, _)| *known == name);
    if parser.is_none()
        && let Err(error) =
            lab::enter_user_namespace().map_err(|error| error.to_string()).and_then(|_| world::loopback())
    {
        eprintln!("there is no namespace to stand in: {error}");
        return ExitCode::FAILURE;
    }
    let Some((_, body)) = parser.or_else(|| over_sockets().find(|(known, _)| *known == name)) else {
        // The question whether namespaces are to be had at all.
        return ExitCode::SUCCESS;
    };
    let answers = std::env::var("LEAKCHECK_FUZZ").ok().and_then(|text| text.parse().ok()).unwrap_or(ANSWERS);
    thread::spawn(watch_for_hangs);
    let began = Instant::now();
    let done = body(answers);
    let resident = peak_resident();
    match done {
        Err(why) => eprintln!("{name}: {why}"),
        Ok(_) if resident > MOST_RESIDENT * 1024 => {
            eprintln!("{name}: {} MiB were resident, more than {MOST_RESIDENT}", resident / 1024);
        }
        Ok(answers) => {
            let took = began.elapsed().as_secs_f64();
            eprintln!(
                "{name}: {answers} answers, {took:.1} s, {:.1} MiB resident at the peak",
                resident as f64 / 1024.0
            );
            return ExitCode::SUCCESS;
        }
    }
    ExitCode::FAILURE
}

/// One case is done.
pub fn went_on() {
    CASES.fetch_add(1, Ordering::Relaxed);
}

/// Ends the process, and with it the trial, when nothing goes on.
fn watch_for_hangs() {
    let mut last = (CASES.load(Ordering::Relaxed), Instant::now());
    loop {
        thread::sleep(Duration::from_millis(500));
        let now = CASES.load(Ordering::Relaxed);
        if now != last.0 {
            last = (now, Instant::now());
        } else if last.1.elapsed() > HANG {
            eprintln!("it hangs after {now} cases");
            std::process::exit(1);
        }
    }
}

/// The most that this process ever had resident, in KiB (proc(5), VmHWM).
fn peak_resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(u64::MAX)
}
