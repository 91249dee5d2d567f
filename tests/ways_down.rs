//! The whole program against the whole lab, by the ways to take the tunnel down that are about the VPN's own process: a sealed stack passes
//! by each, and a broken one turns red by each that its leak can show in.
//!
//! Where no lab can be made the trials are shown as ignored; with `LEAKCHECK_LAB=required` they fail.

use std::process::{Command, ExitCode, Output};

use leakcheck::model::report::{Report, VerdictWord};
use libtest_mimic::{Arguments, Failed, Trial};

/// A way down, a leak class that shows in it, and the exit status. Of a VPN that is stopped the link stays, so that only who notices the
/// silence falls back.
const BROKEN: [(&str, &str, i32); 11] = [
    ("process-kill", "fallback", 1),
    ("process-kill", "hole", 1),
    ("process-kill", "silent-fallback", 1),
    ("process-kill", "no-recovery", 4),
    ("process-kill", "reconnect-hole", 1),
    ("process-stop", "silent-fallback", 1),
    ("command", "fallback", 1),
    ("command", "hole", 1),
    ("command", "silent-fallback", 1),
    ("command", "no-recovery", 4),
    ("command", "reconnect-hole", 1),
];
const WAYS: [&str; 3] = ["process-kill", "process-stop", "command"];

fn main() -> ExitCode {
    let ignored = cannot_run();
    let mut trials: Vec<Trial> = WAYS.map(|way| Trial::test(format!("sealed::{way}"), move || sealed(way))).into();
    trials.extend(
        BROKEN.map(|(way, leak, status)| Trial::test(format!("{leak}::{way}"), move || broken(way, leak, status))),
    );
    trials.push(Trial::test("command::that_fails", command_that_fails));
    trials.push(Trial::test("command::that_hangs", command_that_hangs));
    trials.push(Trial::test("command::that_brings_nothing_back", command_that_brings_nothing_back));
    trials.push(Trial::test("command::not_configured", command_not_configured));
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(ignored)).collect();
    let mut arguments = Arguments::from_args();
    // Each of them samples with might and main, before all other programs: two at once take the machine from each other's tunnels.
    arguments.test_threads.get_or_insert(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Whether there is no lab here, found out by trying, and nobody demands one.
fn cannot_run() -> bool {
    if std::env::var("LEAKCHECK_LAB").is_ok_and(|value| value == "required") {
        return false;
    }
    let refused = demo(&["--quick", "local-reachable"], &[]).is_ok_and(|output| output.status.code() == Some(2));
    if refused {
        eprintln!("ignored: no lab can be made here");
    }
    refused
}

fn demo(args: &[&str], settings: &[(&str, &str)]) -> std::io::Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_leakcheck"))
        .args(["demo", "--format", "json", "--report-dir", "none"])
        .args(args)
        .env("LEAKCHECK_OUTAGE__WINDOW", "3s")
        .envs(settings.iter().copied())
        .output()
}

/// The kill switch's report by one way down.
fn asked(way: &str, more: &[&str], settings: &[(&str, &str)], status: i32) -> Result<Report, Failed> {
    let args = [&["kill-switch", "--outage", way][..], more].concat();
    let output = demo(&args, settings)?;
    let told = String::from_utf8_lossy(&output.stderr);
    let report: Report = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{}: no report: {error}\n{told}", output.status))?;
    let unlike = output.status.code() != Some(status) || report.probes.len() != 1;
    if unlike {
        Err(format!("{} and not {status}: {}\n{told}", output.status, came_to(&report)).into())
    } else {
        Ok(report)
    }
}

/// What the probes and the outages of a report came to, without what they rest on.
fn came_to(report: &Report) -> String {
    let probes = report.probes.iter().map(|probe| {
        format!(
            "{} {}: {} ({})\n",
            probe.verdict.as_str(),
            probe.name(),
            probe.summary,
            probe.reason.as_deref().unwrap_or("")
        )
    });
    let events = report.outages.iter().flat_map(|outage| &outage.events);
    probes.chain(events.map(|event| format!("{:.0} ms: {}\n", event.at_ms, event.what))).collect()
}

fn says(report: &Report, part: &str) -> Result<(), Failed> {
    let text = serde_json::to_string(report)?;
    if text.contains(part) { Ok(()) } else { Err(format!("it does not say {part:?}: {}", came_to(report)).into()) }
}

fn sealed(way: &str) -> Result<(), Failed> {
    let report = asked(way, &[], &[], 0)?;
    let outage = report.outages.first().ok_or("there was no outage")?;
    if outage.blackhole_ms.is_none() || outage.recovered_ms.is_none() || outage.cost_ms.is_none() || !outage.restored {
        return Err(format!("{outage:#?}").into());
    }
    match way {
        "process-kill" => {
            says(&report, "was killed, and tun0 is gone with it")?;
            says(&report, "the VPN came back by itself after ")
        }
        "process-stop" => says(&report, "is stopped and holds the tunnel's device"),
        _ => says(&report, "ended with status 0, and tun0 is gone"),
    }
}

fn broken(way: &str, leak: &str, status: i32) -> Result<(), Failed> {
    let patience = [("LEAKCHECK_OUTAGE__RECOVERY_TIMEOUT", if status == 4 { "5s" } else { "30s" })];
    let report = asked(way, &["--leak", leak], &patience, status)?;
    match report.probes.first() {
        Some(probe) if probe.verdict == VerdictWord::Fail && !probe.evidence.is_empty() => Ok(()),
        other => Err(format!("it is not red: {other:#?}").into()),
    }
}

const UP: (&str, &str) = ("LEAKCHECK_OUTAGE__UP", "['/proc/self/exe', 'lab', 'vpn', 'running']");

/// The tunnel was never down, and is as it was.
fn command_that_fails() -> Result<(), Failed> {
    let down = ("LEAKCHECK_OUTAGE__DOWN", "['sh', '-c', 'echo secret >&2; echo no such VPN >&2; exit 7']");
    let report = asked("command", &[], &[down, UP], 3)?;
    says(&report, "`sh` ended with status 7: no such VPN")?;
    if serde_json::to_string(&report)?.contains("secret") {
        return Err("more is told than the last line".into());
    }
    Ok(())
}

fn command_that_hangs() -> Result<(), Failed> {
    let down = ("LEAKCHECK_OUTAGE__DOWN", "['sleep', '3600']");
    says(&asked("command", &[], &[down, UP], 3)?, "`sleep` had not ended after 25 s and was killed")
}

fn command_that_brings_nothing_back() -> Result<(), Failed> {
    let up = ("LEAKCHECK_OUTAGE__UP", "['true']");
    let report = asked("command", &[], &[up, ("LEAKCHECK_OUTAGE__RECOVERY_TIMEOUT", "2s")], 4)?;
    says(&report, "there is no link tun0")?;
    says(&report, "run the command of outage.up by hand")
}

fn command_not_configured() -> Result<(), Failed> {
    let none = [("LEAKCHECK_OUTAGE__DOWN", "[]"), ("LEAKCHECK_OUTAGE__UP", "[]")];
    says(&asked("command", &[], &none, 3)?, "set outage.down and outage.up")
}
