//! What `src/technique/torrent` reads, from the clients themselves as Debian and Ubuntu ship them: each in the sealed lab's stack, bound to
//! the tunnel or careless, with the right password and with a wrong one.
//!
//! A client that is not installed shows as ignored; with `LEAKCHECK_CLIENTS=required` it fails. `.ci/run` installs them.

#[path = "real_clients/clients.rs"]
mod clients;
#[path = "real_clients/web.rs"]
mod web;

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clients::{CLIENTS, Client, Habits};
use leakcheck::lab::{Lab, LabSpec, PrivateDir, enter_user_namespace};
use leakcheck::model::report::{ProbeResult, Report, VerdictWord};
use libtest_mimic::{Arguments, Failed, Trial};

/// Names the client whose trial a child process runs: a user namespace is entered by a process that has no threads.
const CLIENT: &str = "LEAKCHECK_CLIENT_TRIAL";
/// Sent by a client that is bound to the tunnel, tells nobody of itself, and is asked with the right password.
const CLEAN: [&str; 3] = ["torrent-bound", "torrent-local-discovery", "torrent-port"];

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(CLIENT) {
        return child(&name);
    }
    let required = std::env::var("LEAKCHECK_CLIENTS").is_ok_and(|value| value == "required");
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let trial = |client: &'static Client| {
        let there = client.programs.iter().all(|program| is_installed(program));
        Trial::test(client.name, || run(client.name)).with_ignored_flag(!required && !there)
    };
    libtest_mimic::run(&arguments, CLIENTS.iter().map(trial).collect()).exit_code()
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn run(name: &str) -> Result<(), Failed> {
    let output = Command::new(std::env::current_exe()?).env(CLIENT, name).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

fn child(name: &str) -> ExitCode {
    let trial = || -> Result<()> {
        let client = CLIENTS.iter().find(|client| client.name == name).context("no such client")?;
        trial(client, &enter_user_namespace()?)
    };
    match trial() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed to {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn trial(client: &Client, world: &PrivateDir) -> Result<()> {
    let lab = Lab::start(world, LabSpec::sealed())?;
    // The lab's own folder for what is passing, which goes with its namespace.
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("leakcheck.toml");
    let mut settings: toml::Table = lab.config_toml().parse()?;
    // What is said of the lab's own client, without a user name that this one may not want.
    settings.remove("torrent");
    fs::write(&config, settings.to_string())?;
    let lab_client = dir.path().join("lab-client.toml");
    fs::write(&lab_client, lab.config_toml())?;
    let ask = |password: &str| ask(client, &config, dir.path(), password);

    let running =
        client.start(&lab, &dir.path().join("bound"), &Habits { link: Some("tun0"), announces: false, open: false })?;
    let report = ask(client.password)?;
    for id in CLEAN {
        came_to(&report, id, VerdictWord::Pass, client.said_name)?;
        // The lab's own client is there as well, and locked.
        came_to(&report, id, VerdictWord::Pass, "of what answers at http://127.0.0.1:8080/ nothing is known")?;
    }
    // Transmission tells no address; the others do as soon as a node of the DHT has told them.
    let begun = Instant::now();
    let mut address = probe(&report, "torrent-address")?.clone();
    while client.tells_address && address.verdict == VerdictWord::Skip && begun.elapsed() < Duration::from_secs(60) {
        address = probe(&ask(client.password)?, "torrent-address")?.clone();
    }
    let exits = ["198.51.100.3", "2001:db8:51::3"];
    let known = address.verdict == VerdictWord::Pass && exits.iter().any(|exit| address.summary.contains(exit));
    ensure!(known == client.tells_address, "torrent-address: {}", address.summary);

    let wrong = ask("no password of it")?;
    let refused = came_to(&wrong, "torrent-bound", VerdictWord::Inconclusive, "did not tell")?;
    let reason = refused.reason.as_deref().unwrap_or_default();
    ensure!(reason.contains("refuses the") && !reason.contains("no password of it"), "{reason}");
    drop(running);

    let running =
        client.start(&lab, &dir.path().join("loose"), &Habits { link: None, announces: true, open: false })?;
    let report = ask(client.password)?;
    came_to(&report, "torrent-bound", VerdictWord::Warn, "is bound to no interface")?;
    came_to(&report, "torrent-local-discovery", VerdictWord::Warn, "local peer discovery")?;
    drop(running);

    if client.is_sought {
        let habits = Habits { link: None, announces: true, open: true };
        let running = client.start(&lab, &dir.path().join("open"), &habits)?;
        let report = run_with(&lab_client, &[], client.password)?;
        came_to(&report, "torrent-bound", VerdictWord::Warn, client.said_name)?;
        came_to(&report, "torrent-local-discovery", VerdictWord::Warn, client.said_name)?;
        drop(running);
    }
    if client.binds_to_links {
        let habits = Habits { link: Some("eth0"), announces: false, open: false };
        let running = client.start(&lab, &dir.path().join("uplink"), &habits)?;
        came_to(&ask(client.password)?, "torrent-bound", VerdictWord::Fail, "is bound to the uplink")?;
        drop(running);
    }
    Ok(())
}

/// Audits the stack with that client in it.
fn ask(client: &Client, config: &Path, dir: &Path, password: &str) -> Result<Report> {
    let secret = dir.join("password");
    fs::write(&secret, password)?;
    let secret = secret.display().to_string();
    let mut variables = vec![
        ("LEAKCHECK_TORRENT__CLIENT", client.name),
        ("LEAKCHECK_TORRENT__URL", client.url),
        ("LEAKCHECK_TORRENT__PASSWORD_FILE", &secret),
    ];
    variables.extend(client.user.map(|user| ("LEAKCHECK_TORRENT__USER", user)));
    run_with(config, &variables, password)
}

/// Nothing of the password may be told.
fn run_with(config: &Path, variables: &[(&str, &str)], password: &str) -> Result<Report> {
    let output = Command::new(env!("CARGO_BIN_EXE_leakcheck"))
        .args(["run", "--quick", "--enter", "setns", "--format", "json", "--report-dir", "none", "--config"])
        .arg(config)
        .arg("torrent")
        .envs(variables.iter().copied())
        .output()?;
    let Output { stdout, stderr, .. } = &output;
    let (stdout, stderr) = (String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
    ensure!(!stdout.contains(password) && !stderr.contains(password), "the password is told:\n{stdout}\n{stderr}");
    serde_json::from_str(&stdout).with_context(|| format!("read the report: {}\n{stdout}\n{stderr}", output.status))
}

fn probe<'a>(report: &'a Report, id: &str) -> Result<&'a ProbeResult> {
    report.probes.iter().find(|probe| probe.id == id).with_context(|| format!("find {id} in the report"))
}

fn came_to<'a>(report: &'a Report, id: &str, verdict: VerdictWord, says: &str) -> Result<&'a ProbeResult> {
    let probe = probe(report, id)?;
    if probe.verdict != verdict || !probe.summary.contains(says) {
        bail!("{id} is not {} with {says:?}: {probe:#?}", verdict.as_str());
    }
    Ok(probe)
}
