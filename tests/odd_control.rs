//! The whole program against control servers of Gluetun that are locked, old, silent or wrong: with the right key the outage is made, without
//! it the reason is told; a VPN that was stopped is told to start until it does, and where it never does the run says so with status 4.
//!
//! Where no lab can be made the trials are shown as ignored; with `LEAKCHECK_LAB=required` they fail.

use std::process::{Command, ExitCode};

use leakcheck::model::report::{ProbeResult, Report, VerdictWord};
use libtest_mimic::{Arguments, Failed, Trial};
use tempfile::TempDir;

type Body = fn() -> Result<(), Failed>;

const TRIALS: [(&str, Body); 15] = [
    ("every_version", every_version),
    ("key_needed_and_missing", key_needed_and_missing),
    ("key_needed_and_given", key_needed_and_given),
    ("login_needed_and_given", login_needed_and_given),
    ("login_that_is_wrong", login_that_is_wrong),
    ("older_route_alone", older_route_alone),
    ("check::wrong_in_each_way", check_wrong_in_each_way),
    ("check::silent", check_silent),
    ("stop::refused", stop_refused),
    ("stop::done_but_not_said", stop_done_but_not_said),
    ("start::wrong_for_a_while", start_wrong_for_a_while),
    ("start::silent_once", start_silent_once),
    ("start::never", start_never),
    ("start::done_but_not_said", start_done_but_not_said),
    ("comes_back_by_itself", comes_back_by_itself),
];

fn main() -> ExitCode {
    let ignored = cannot_run();
    let trials = TRIALS.map(|(name, body)| Trial::test(name, body).with_ignored_flag(ignored)).into();
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
    let tried = Command::new(env!("CARGO_BIN_EXE_leakcheck"))
        .args(["demo", "--quick", "--report-dir", "none", "local-reachable"])
        .output()
        .unwrap_or_else(|error| panic!("leakcheck could not be started: {error}"));
    let refused = tried.status.code() == Some(2);
    if refused {
        eprintln!("ignored: {}", String::from_utf8_lossy(&tried.stderr));
    }
    refused
}

/// A run that makes one outage by vpn-stop.
struct Ran {
    report: Report,
    status: i32,
    stderr: String,
}

fn stop(habits: &[&str], settings: &[(&str, &str)]) -> Result<Ran, Failed> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leakcheck"));
    command.args(["demo", "kill-switch", "--outage", "vpn-stop", "--format", "json", "--report-dir", "none"]);
    for habit in habits {
        command.args(["--odd-control", habit]);
    }
    command.env("LEAKCHECK_OUTAGE__WINDOW", "1500ms").envs(settings.iter().copied());
    let output = command.output()?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let status = output.status.code().unwrap_or(-1);
    let report = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("exit status {status} and no report: {error}\n{stderr}"))?;
    if stderr.contains("panicked") {
        return Err(stderr.into());
    }
    Ok(Ran { report, status, stderr })
}

impl Ran {
    /// The kill switch's result, when it came to this verdict and the run to this exit status.
    fn came_to(&self, verdict: VerdictWord, status: i32) -> Result<&ProbeResult, Failed> {
        let [probe] = self.report.probes.as_slice() else {
            return Err(format!("{} probes were asked\n{}", self.report.probes.len(), self.stderr).into());
        };
        if probe.verdict != verdict || self.status != status {
            let (reason, notes) = (probe.reason.as_deref().unwrap_or(""), self.report.notes.join("\n"));
            let events = self.report.outages.iter().flat_map(|outage| &outage.events);
            let events: String = events.map(|event| format!("{:.0} ms: {}\n", event.at_ms, event.what)).collect();
            let verdict = probe.verdict.as_str();
            return Err(
                format!("status {}, {verdict}: {} ({reason})\n{events}{notes}", self.status, probe.summary).into()
            );
        }
        Ok(probe)
    }

    fn passes(&self) -> Result<&ProbeResult, Failed> {
        self.came_to(VerdictWord::Pass, 0)
    }

    /// No outage was made, for this reason.
    fn did_not_begin(&self, why: &str) -> Result<(), Failed> {
        let probe = self.came_to(VerdictWord::Inconclusive, 3)?;
        says(probe, "the outage was not started")?;
        says(probe, why)
    }
}

fn says(probe: &ProbeResult, part: &str) -> Result<(), Failed> {
    let in_evidence = probe.evidence.iter().any(|line| line.what.contains(part));
    if in_evidence || probe.summary.contains(part) || probe.reason.as_ref().is_some_and(|reason| reason.contains(part))
    {
        return Ok(());
    }
    Err(format!("it does not say {part:?}: {probe:#?}").into())
}

/// A file that holds a secret; it goes with the folder.
fn secret(text: &str) -> Result<(TempDir, String), Failed> {
    let dir = TempDir::new()?;
    let path = dir.path().join("secret");
    std::fs::write(&path, format!("{text}\n"))?;
    let path = path.to_string_lossy().into_owned();
    Ok((dir, path))
}

fn every_version() -> Result<(), Failed> {
    for version in ["v3.40", "v3.41"] {
        stop(&[&format!("version={version}")], &[])?.passes()?;
    }
    // Nothing is open there without a role.
    stop(&["version=latest"], &[])?.did_not_begin("without a key nobody may GET /v1/vpn/status")
}

fn key_needed_and_missing() -> Result<(), Failed> {
    for lock in ["key=hunter2", "login=me:hunter2"] {
        let ran = stop(&[lock], &[])?;
        ran.did_not_begin("without a key nobody may GET /v1/vpn/status: set outage.api_key_file")?;
    }
    Ok(())
}

fn key_needed_and_given() -> Result<(), Failed> {
    let (_dir, path) = secret("hunter2")?;
    for version in ["v3.41", "latest"] {
        let ran = stop(&["key=hunter2", &format!("version={version}")], &[("LEAKCHECK_OUTAGE__API_KEY_FILE", &path)])?;
        ran.passes()?;
        not_told(&ran)?;
    }
    Ok(())
}

fn login_needed_and_given() -> Result<(), Failed> {
    let (_dir, path) = secret("hunter2")?;
    let login = [("LEAKCHECK_OUTAGE__CONTROL_USER", "me"), ("LEAKCHECK_OUTAGE__CONTROL_PASSWORD_FILE", path.as_str())];
    let ran = stop(&["login=me:hunter2"], &login)?;
    ran.passes()?;
    not_told(&ran)
}

fn login_that_is_wrong() -> Result<(), Failed> {
    let (_dir, path) = secret("hunter3")?;
    let login = [("LEAKCHECK_OUTAGE__CONTROL_USER", "me"), ("LEAKCHECK_OUTAGE__CONTROL_PASSWORD_FILE", path.as_str())];
    let ran = stop(&["login=me:hunter2"], &login)?;
    ran.did_not_begin("with the user name and the password that were given nobody may GET")?;
    not_told(&ran)?;
    let ran = stop(&["key=hunter2"], &[("LEAKCHECK_OUTAGE__API_KEY_FILE", &path)])?;
    ran.did_not_begin("with the API key that was given nobody may GET")?;
    not_told(&ran)
}

/// No secret is told anywhere.
fn not_told(ran: &Ran) -> Result<(), Failed> {
    let told = serde_json::to_string(&ran.report)? + &ran.stderr;
    if told.contains("hunter") { Err(format!("a secret is told: {told}").into()) } else { Ok(()) }
}

fn older_route_alone() -> Result<(), Failed> {
    for version in ["v3.40", "v3.41"] {
        stop(&["route=openvpn", &format!("version={version}")], &[])?.passes()?;
    }
    Ok(())
}

fn check_wrong_in_each_way() -> Result<(), Failed> {
    for (how, why) in [
        ("401", "nobody may GET"),
        ("404", "does not exist: set outage.control_server"),
        ("405", "does not take GET"),
        ("500", "with HTTP status 500"),
        ("301", "with HTTP status 301"),
        ("garbage", "does not answer as Gluetun's control server does"),
    ] {
        let ran = stop(&[&format!("check={how}")], &[])?;
        ran.did_not_begin(why)?;
        if serde_json::to_string(&ran.report)?.contains('\u{1b}') {
            return Err(format!("{how}: what the server says is not escaped").into());
        }
    }
    Ok(())
}

fn check_silent() -> Result<(), Failed> {
    stop(&["check=silent"], &[])?.did_not_begin("gave no answer to GET within 10 s")
}

/// Nothing was changed, so everything is as it was: the outage proves nothing, and no harm was done.
fn stop_refused() -> Result<(), Failed> {
    for (how, why) in [
        ("401", "nobody may PUT"),
        ("405", "does not take PUT"),
        ("500", "HTTP status 500"),
        ("garbage", "does not answer as"),
    ] {
        let ran = stop(&[&format!("stop={how}")], &[])?;
        let probe = ran.came_to(VerdictWord::Inconclusive, 3)?;
        says(probe, "the tunnel could not be taken down")?;
        says(probe, why)?;
    }
    Ok(())
}

fn stop_done_but_not_said() -> Result<(), Failed> {
    for how in ["500-but-done", "silent-but-done"] {
        says(
            stop(&[&format!("stop={how}")], &[])?.passes()?,
            "the control server says that the VPN is stopped, though",
        )?;
    }
    Ok(())
}

fn start_wrong_for_a_while() -> Result<(), Failed> {
    for how in ["401x2", "500x4", "garbagex3"] {
        says(stop(&[&format!("start={how}")], &[])?.passes()?, "it came back at try")?;
    }
    Ok(())
}

fn start_silent_once() -> Result<(), Failed> {
    says(stop(&["start=silentx1"], &[])?.passes()?, "gave no answer to PUT within 10 s")
}

fn start_done_but_not_said() -> Result<(), Failed> {
    stop(&["start=500-but-donex1"], &[])?.passes().map(drop)
}

/// The state that the stack is left in is told, and what a person can do about it.
fn start_never() -> Result<(), Failed> {
    let ran = stop(&["start=500"], &[("LEAKCHECK_OUTAGE__RECOVERY_TIMEOUT", "3s")])?;
    let probe = ran.came_to(VerdictWord::Fail, 4)?;
    says(probe, "the stack could not be put back as it was")?;
    says(probe, "the control server says that the VPN is stopped")?;
    says(probe, "tell the control server to start the VPN (PUT http://127.0.0.1:8000/v1/vpn/status with")?;
    let notes = ran.report.notes.join("\n");
    if !notes.contains("leakcheck restore tries again") {
        return Err(format!("the notes do not tell of restore: {notes}").into());
    }
    Ok(())
}

/// As v3.40 does after ten seconds: an observation, and no fault.
fn comes_back_by_itself() -> Result<(), Failed> {
    let ran = stop(&["version=v3.40"], &[("LEAKCHECK_OUTAGE__WINDOW", "40s")])?;
    says(ran.passes()?, "the VPN came back by itself after 10.")?;
    let up = ran.report.outages.first().and_then(|outage| outage.up_ms).unwrap_or(f64::MAX);
    if up < 40_000.0 { Ok(()) } else { Err(format!("the window went on for {up} ms").into()) }
}
