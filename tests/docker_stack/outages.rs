//! Outages that Docker makes: the container is paused, restarted and killed, and runs afterwards as it did before, whoever dies meanwhile;
//! what leaves while it comes up is seen, and so is who was left outside.

use std::collections::HashMap;
use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::ListContainersOptions;
use leakcheck::model::report::{ProbeResult, Report, VerdictWord};
use leakcheck::model::verdict::FailKind;
use leakcheck::net::netns::Netns;
use libtest_mimic::Trial;

use super::Trials;
use super::stack::{LEAKCHECK, Stack, agents, block_on, state_of, wait_until};

/// Variable that says how many runs are killed at random instants.
const KILLS: &str = "LEAKCHECK_DOCKER_KILLS";
const FEW: usize = 3;
/// Variable that says how often a sealed stack is taken through all three outages.
const ROUNDS: &str = "LEAKCHECK_DOCKER_OUTAGES";
/// What the promise is: a runner that is killed leaves the container running within this time.
const PROMISED: Duration = Duration::from_secs(5);
/// How long the stack in it may take to be as it was.
const SETTLED: Duration = Duration::from_secs(30);

pub fn trials(trials: &Trials) -> Vec<Trial> {
    let late = vec![("LEAKCHECK_LEAK", "boot")];
    vec![
        trials.as_root("outages_of_a_sealed_one_pass_by_setns", |stack| passes(stack, "setns")),
        trials.on_sealed("outages_of_a_sealed_one_pass_by_container", |stack| passes(stack, "container")),
        trials.on_sealed("orphans_are_found_and_mended", orphans_are_found_and_mended),
        trials.on_variant("a_late_firewall_is_seen", late, late_firewall_is_seen),
        trials.as_root("a_killed_runner_leaves_it_running", survives_sigkill),
        trials.as_root("killed_at_any_instant_it_is_as_it_was", survives_sigkill_at_any_instant),
        trials.as_root("an_engine_that_goes_away_is_told", engine_goes_away),
    ]
}

fn probe<'a>(report: &'a Report, name: &str) -> &'a ProbeResult {
    let names: Vec<String> = report.probes.iter().map(ProbeResult::name).collect();
    report.probes.iter().find(|probe| probe.name() == name).unwrap_or_else(|| panic!("no {name} among {names:#?}"))
}

/// State and health of a service's container.
fn condition(stack: &Stack, service: &str) -> (String, bool) {
    let state = block_on(stack.container(service)).state.unwrap_or_default();
    (state.status.map(|status| status.to_string()).unwrap_or_default(), state.paused.unwrap_or_default())
}

fn netns(stack: &Stack, service: &str) -> Option<Netns> {
    let pid = block_on(stack.container(service)).state?.pid?;
    Netns::of_pid(u32::try_from(pid).ok().filter(|pid| *pid > 0)?).ok()
}

fn share(stack: &Stack) -> bool {
    let inode = |service| netns(stack, service).and_then(|netns| netns.inode().ok());
    inode("gluetun").is_some() && inode("gluetun") == inode("torrent")
}

/// The number that a variable says.
fn how_often(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Nobody is accused, as often as it is asked. One run alone is whole, and has to come to a verdict; of many, which are about the outages
/// alone, those that do not come to one are counted.
fn passes(stack: &Stack, enter: &str) {
    let rounds = how_often(ROUNDS, 1);
    let (mut alarms, mut unsure) = (Vec::new(), 0);
    for round in 1..=rounds {
        let about: &[&str] = if rounds > 1 { &["/outage/", "dependents-joined"] } else { &[] };
        let (accused, doubts) = passes_once(stack, enter, about);
        if !(accused.is_empty() && doubts.is_empty()) {
            eprintln!("round {round} by {enter}: accused {accused:#?}, doubts {doubts:#?}");
        }
        unsure += usize::from(accused.is_empty() && !doubts.is_empty());
        alarms.extend(accused);
        if rounds > 1 {
            eprintln!("{round} rounds by {enter}: {} false alarms, {unsure} inconclusive", alarms.len());
        }
    }
    assert!(alarms.is_empty() && (rounds > 1 || unsure == 0), "{alarms:#?}");
}

/// Takes the stack through all three outages and asks `about` these alone, or about everything; who is accused, and what is doubted. Where nothing is doubted all else has to hold.
fn passes_once(stack: &Stack, enter: &str, about: &[&str]) -> (Vec<String>, Vec<String>) {
    let methods = ["pause", "restart", "kill"];
    let wanted: Vec<&str> = methods.iter().flat_map(|method| ["--outage", method]).collect();
    let (status, report) = stack.audit(enter, &[&wanted[..], &["--restart-dependents"], about].concat());
    let of = |verdict: VerdictWord| -> Vec<String> {
        let found = report.probes.iter().filter(|probe| probe.verdict == verdict);
        found
            .map(|probe| format!("{}: {} {:?} {:?}", probe.name(), probe.summary, probe.reason, probe.evidence))
            .collect()
    };
    let (accused, doubts) = (of(VerdictWord::Fail), of(VerdictWord::Inconclusive));
    if !(accused.is_empty() && doubts.is_empty()) {
        return (accused, doubts);
    }
    assert_eq!(status, Some(0), "{:?}", report.notes);
    assert_eq!(report.outages.iter().map(|outage| outage.method.as_str()).collect::<Vec<_>>(), methods);
    assert!(report.outages.iter().all(|outage| outage.restored && outage.holes.is_empty()), "{:?}", report.outages);
    assert!(report.outages.iter().all(|outage| outage.recovered_ms.is_some()), "{:?}", report.outages);
    for method in methods {
        assert_eq!(probe(&report, &format!("kill-switch/outage/{method}")).verdict, VerdictWord::Pass);
    }
    for method in ["restart", "kill"] {
        let orphan = probe(&report, &format!("dependents-joined/recovered/{method}"));
        assert!(orphan.verdict == VerdictWord::Warn && orphan.summary.contains("torrent"), "{orphan:?}");
        // On a busy machine the firewall may come a tenth of a second after the start: then a program that joined at once is warned of.
        let boot = probe(&report, &format!("boot/outage/{method}"));
        let busy = boot.verdict == VerdictWord::Warn && boot.summary.contains("of a program that joined at once");
        assert!(boot.verdict == VerdictWord::Pass && boot.summary.contains("none astray") || busy, "{boot:#?}");
    }
    assert!(!report.probes.iter().any(|probe| probe.name() == "boot/outage/pause"), "nothing was started");
    assert!(report.wire.leaks.is_empty() && report.wire.dropped == 0, "{:?}", report.wire);
    assert!(share(stack), "the torrent client is in the network that the VPN container has now");
    assert_eq!(block_on(agents()), Vec::<String>::new());
    (accused, doubts)
}

fn orphans_are_found_and_mended(stack: &Stack) {
    let (status, report) = stack.audit("auto", &["--outage", "kill", "dependents-joined", "kill-switch"]);
    let orphan = probe(&report, "dependents-joined/recovered/kill");
    assert_eq!((orphan.verdict, orphan.kind), (VerdictWord::Fail, Some(FailKind::Broken)), "{orphan:?}");
    assert!(orphan.summary.contains("torrent") && orphan.fix.contains("restart: true"), "{orphan:?}");
    assert_eq!(probe(&report, "kill-switch/outage/kill").verdict, VerdictWord::Pass);
    assert_eq!((status, share(stack)), (Some(1), false), "nobody said that it may be restarted");

    // Both ways in have to see it: by the namespaces, and by the times at which Docker started them.
    for enter in ["auto", "container"] {
        let (status, report) = stack.audit(enter, &["--quick", "dependents-joined"]);
        assert_eq!((status, probe(&report, "dependents-joined").verdict), (Some(1), VerdictWord::Fail), "{enter}");
    }
    let (status, report) = stack.audit("auto", &["--quick", "--restart-dependents", "dependents-joined"]);
    let mended = probe(&report, "dependents-joined");
    assert_eq!((status, mended.verdict), (Some(0), VerdictWord::Warn), "{mended:?}");
    assert!(share(stack), "it was restarted");
    let (status, report) = stack.audit("auto", &["--quick", "dependents-joined"]);
    assert_eq!((status, probe(&report, "dependents-joined").verdict), (Some(0), VerdictWord::Pass));
}

fn late_firewall_is_seen(stack: &Stack) {
    for (enter, method) in [("auto", "kill"), ("container", "restart")] {
        let arguments = ["--outage", method, "--restart-dependents", "boot", "kill-switch", "wire-quiet"];
        let (status, report) = stack.audit(enter, &arguments);
        let boot = probe(&report, &format!("boot/outage/{method}"));
        assert_eq!((boot.verdict, boot.kind), (VerdictWord::Fail, Some(FailKind::Leak)), "{boot:?}");
        assert!(boot.evidence.iter().any(|line| line.what.contains(":6881")), "the container's own: {boot:#?}");
        let played = boot.evidence.iter().filter(|line| line.what.contains("8.8.8.8"));
        assert!(played.count() > 0, "those of a program that joined at once: {boot:#?}");
        // While it is down it is sealed: the other probes know nothing of its start.
        assert_eq!(probe(&report, &format!("kill-switch/outage/{method}")).verdict, VerdictWord::Pass);
        assert_eq!(status, Some(1));
    }
}

/// The state of the VPN container's namespace, but for the rules by which Docker's resolver is reached, whose ports are others after each start.
fn lasting_state(stack: &Stack) -> Vec<String> {
    let mut state = netns(stack, "gluetun").map(|netns| state_of(&netns)).unwrap_or_default();
    state.retain(|line| !line.contains("2=\"DOCKER_"));
    state
}

/// Runs under way are killed once Docker says that something was done to the container.
fn survives_sigkill(stack: &Stack) {
    let before = lasting_state(stack);
    for enter in ["setns", "container"] {
        for method in ["pause", "kill", "restart"] {
            let pid_before = block_on(stack.container("gluetun")).state.and_then(|state| state.pid);
            let state = tempfile::tempdir().expect("a folder");
            let is_touched = || {
                let pid = block_on(stack.container("gluetun")).state.and_then(|state| state.pid);
                pid != pid_before || condition(stack, "gluetun") != ("running".to_owned(), false)
            };
            // One that is refused, because the VPN has only just come back, is tried again.
            let mut refused = String::new();
            let runner = (0..5).find_map(|_| {
                let mut runner = start(stack, enter, method, state.path());
                let mut ended = false;
                wait_until(Duration::from_secs(30), || {
                    ended = runner.try_wait().is_ok_and(|status| status.is_some());
                    ended || is_touched()
                });
                if !ended && is_touched() {
                    return Some(runner);
                }
                runner.kill().expect("killed");
                runner.wait().expect("reaped");
                refused = std::fs::read_to_string(state.path().join("log")).unwrap_or_default();
                None
            });
            let mut runner =
                runner.unwrap_or_else(|| panic!("{method} by {enter} never touched the container:\n{refused}"));
            runner.kill().expect("killed");
            runner.wait().expect("reaped");
            is_as_it_was(stack, &before, &format!("{method} by {enter}"));
        }
    }
}

/// Runs under way are killed whenever chance says.
fn survives_sigkill_at_any_instant(stack: &Stack) {
    let kills = how_often(KILLS, FEW);
    let before = lasting_state(stack);
    let methods = ["kill", "pause", "restart", "link-down", "vpn-stop"];
    for shot in 0..kills {
        let method = methods[shot % methods.len()];
        let state = tempfile::tempdir().expect("a folder");
        let mut runner = start(stack, "container", method, state.path());
        // From before the outage to after it.
        let after = Duration::from_millis(1500 + rand::random::<u64>() % 7000);
        thread::sleep(after);
        runner.kill().expect("killed");
        runner.wait().expect("reaped");
        is_as_it_was(stack, &before, &format!("{method}, killed after {after:?}"));
    }
}

fn start(stack: &Stack, enter: &str, method: &str, state: &Path) -> std::process::Child {
    let mut command = stack.command(enter);
    command.args(["--outage", method, "kill-switch", "--state-dir"]).arg(state);
    let log = std::fs::File::create(state.join("log")).expect("a file");
    command.stdout(Stdio::null()).stderr(log).spawn().expect("it starts")
}

/// Docker says that the container runs within the promised time, and stays so; everything in it is as it was soon after.
fn is_as_it_was(stack: &Stack, before: &[String], what: &str) {
    let runs = || condition(stack, "gluetun") == ("running".to_owned(), false);
    assert!(wait_until(PROMISED, runs), "{what}: {:?}", condition(stack, "gluetun"));
    let mut now = Vec::new();
    wait_until(SETTLED, || {
        now = lasting_state(stack);
        now == before && block_on(running_agents()).is_empty() && keepers().is_empty()
    });
    let differs = |one: &[String], other: &[String]| -> Vec<String> {
        one.iter().filter(|line| !other.contains(line)).cloned().collect()
    };
    let (lost, new) = (differs(before, &now), differs(&now, before));
    assert!(now == before, "{what}: lost {lost:#?}, new {new:#?}, {} lines and {} before", now.len(), before.len());
    assert_eq!(block_on(running_agents()), Vec::<String>::new(), "{what}");
    assert_eq!(keepers(), Vec::<String>::new(), "{what}");
    assert!(runs(), "{what}: {:?}", condition(stack, "gluetun"));
}

/// Keepers that still look after something.
fn keepers() -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("proc").flatten();
    let words = processes.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
    words.filter(|words| words.starts_with("leakcheck\0keeper")).collect()
}

/// Agents that run. One that was created and never started, because the runner died in between, does nothing, and the next run sweeps it.
async fn running_agents() -> Vec<String> {
    let docker = Docker::connect_with_defaults().expect("an engine").negotiate_version().await.expect("an answer");
    let filters = HashMap::from([("label".to_owned(), vec!["leakcheck=agent".to_owned()])]);
    let options = ListContainersOptions { all: false, filters: Some(filters), ..Default::default() };
    let all = docker.list_containers(Some(options)).await.expect("a list");
    all.into_iter().filter_map(|summary| summary.id).collect()
}

/// Between leakcheck and the engine, until it is cut.
struct Proxy {
    path: PathBuf,
    streams: Arc<Mutex<Option<Vec<UnixStream>>>>,
}

impl Proxy {
    fn open(path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("a socket");
        let streams = Arc::new(Mutex::new(Some(Vec::new())));
        let shared = Arc::clone(&streams);
        thread::spawn(move || {
            for near in listener.incoming() {
                let (Ok(near), Ok(far)) = (near, UnixStream::connect("/var/run/docker.sock")) else { return };
                let mut open = shared.lock().expect("not poisoned");
                // Cut: what still comes in is dropped, and the last one out ends the thread.
                let Some(all) = open.as_mut() else { return };
                let clone = |stream: &UnixStream| stream.try_clone().expect("a descriptor");
                all.extend([clone(&near), clone(&far)]);
                for (mut from, mut to) in [(clone(&near), clone(&far)), (far, near)] {
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Write);
                    });
                }
            }
        });
        Self { path: path.to_owned(), streams }
    }

    /// As when the daemon is stopped: no socket, and every connection ends.
    fn cut(&self) {
        fs::remove_file(&self.path).expect("it was there");
        let streams = self.streams.lock().expect("not poisoned").take();
        for stream in streams.into_iter().flatten() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn engine_goes_away(stack: &Stack) {
    for method in ["pause", "kill"] {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("docker.sock");
        let host = format!("unix://{}", socket.display());
        let proxy = Proxy::open(&socket);
        let mut command = stack.command("setns");
        command.args(["--outage", method, "kill-switch", "--state-dir"]).arg(folder.path().join("state"));
        command.env("DOCKER_HOST", &host).env("LEAKCHECK_OUTAGE__RECOVERY_TIMEOUT", "3s");
        let runner = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let touched =
            wait_until(Duration::from_secs(30), || condition(stack, "gluetun") != ("running".to_owned(), false));
        assert!(touched, "{method} never touched the container");
        proxy.cut();
        let output = runner.wait_with_output().expect("it ends");
        let report: Report = serde_json::from_slice(&output.stdout).expect("a report");
        let kill_switch = probe(&report, &format!("kill-switch/outage/{method}"));
        assert_eq!(output.status.code(), Some(4), "{method}: {report:#?}");
        // Whether the engine still said that it was done is a matter of chance.
        let verdict = kill_switch.verdict;
        assert!(matches!(verdict, VerdictWord::Fail | VerdictWord::Inconclusive), "{kill_switch:?}");
        let told = report.notes.join("\n") + kill_switch.reason.as_deref().unwrap_or_default();
        assert!(told.contains("docker.sock") && told.contains("leakcheck restore"), "{method}: {told}");
        assert_ne!(condition(stack, "gluetun"), ("running".to_owned(), false), "{method}: nobody could put it back");

        let _proxy = Proxy::open(&socket);
        let restored = Command::new(LEAKCHECK)
            .args(["restore", "--state-dir"])
            .arg(folder.path().join("state"))
            .env("DOCKER_HOST", &host)
            .output()
            .expect("it starts");
        let told = String::from_utf8_lossy(&restored.stdout).into_owned() + &String::from_utf8_lossy(&restored.stderr);
        assert!(restored.status.success() && told.contains(method), "{method}: {told}");
        assert_eq!(condition(stack, "gluetun"), ("running".to_owned(), false), "{method}");
        block_on(stack.wait_until_healthy()).expect("healthy again");
    }
}
