//! Putting back, whoever is killed and when: runs of the lab's stack are shot at random instants, and within five seconds links, addresses,
//! routes, rules, firewall and resolv.conf have to be what they were. Once with the runner alone, with its process group, with the agent
//! alone, and with both of them, when the keeper is the last one; and with the keeper too, when `leakcheck restore` has to do it. Then an
//! agent and a runner that are not dead but stand still.
//!
//! `LEAKCHECK_PUTBACK_KILLS=200 cargo test --test putback` shoots 200 times per trial instead of a few. Every trial runs in a process of
//! its own, as the lab demands; without the privilege they are shown as ignored, and with `LEAKCHECK_LAB=required` they fail.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use leakcheck::config::OutageMethod;
use leakcheck::lab::{self, Lab, LabSpec, PrivateDir};
use leakcheck::net::nft::{Nft, Ruleset};
use leakcheck::net::route::{Object, Snapshot};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

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

const TRIALS: [Named; 11] = [
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

/// Who is shot.
#[derive(Clone, Copy, PartialEq)]
enum Victims {
    Runner,
    Group,
    Agent,
    RunnerAndAgent,
    Everyone,
}

/// A lab, and what its stack has to look like.
struct Range {
    lab: Lab,
    config: PathBuf,
    state: PathBuf,
    before: State,
}

/// All that has to be the same.
#[derive(Debug, Clone)]
struct State {
    network: Snapshot,
    firewall: Ruleset,
    resolv_conf: String,
    /// Whether the VPN's process is stopped.
    stopped: bool,
}

impl Range {
    fn new(world: &PrivateDir) -> Result<Self> {
        let lab = Lab::start(world, LabSpec { apart: Some(LEAKCHECK.into()), ..LabSpec::sealed() })?;
        let config = world.write("leakcheck.toml", &lab.config_toml())?;
        let before = State::settled(&lab)?;
        Ok(Self { lab, config, state: world.path().join("state"), before })
    }

    fn leakcheck(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(LEAKCHECK);
        command.args(arguments).env("LEAKCHECK_STATE_DIR", &self.state);
        command
    }

    /// A run that makes one short outage and asks for nothing else.
    fn audit(&self, method: OutageMethod) -> Command {
        let mut command =
            self.leakcheck(&["run", "kill-switch", "--report-dir", "none", "--outage", method.word(), "--config"]);
        command.arg(&self.config).env("LEAKCHECK_OUTAGE__WINDOW", "700ms").process_group(0);
        // What is tried here is putting back; a handshake that is lost on a busy machine is repeated after five seconds.
        command.env("LEAKCHECK_OUTAGE__RECOVERY_TIMEOUT", "60s");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// How long such a run takes when nobody shoots.
    fn undisturbed(&self, method: OutageMethod) -> Result<Duration> {
        let started = Instant::now();
        let output = self.audit(method).stdout(Stdio::piped()).stderr(Stdio::piped()).output()?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "undisturbed, {method} ends with {}: {told}", output.status);
        self.wait_until_as_before(&format!("undisturbed {method}"))?;
        Ok(started.elapsed())
    }

    fn shoot(&self, victims: Victims) -> Result<()> {
        let mut lengths = BTreeMap::new();
        let mut changed = 0;
        for shot in 0..kills() {
            let method = methods()[shot % methods().len()];
            let length = match lengths.get(method.word()) {
                Some(length) => *length,
                None => *lengths.entry(method.word()).or_insert(self.undisturbed(method)?),
            };
            let after = length.mul_f64(rand::random_range(0.0..1.0));
            let what = format!("shot {shot}, {method}, after {} of {} ms", after.as_millis(), length.as_millis());
            let mut run = self.audit(method).spawn()?;
            sleep(after);
            changed += u32::from(!self.before.diff(&State::of(&self.lab)?).is_empty());
            self.kill(&mut run, victims).with_context(|| what.clone())?;
            self.wait_until_as_before(&what)?;
            run.wait()?;
        }
        eprintln!("{} shots, {changed} of them into a changed stack", kills());
        // What was put back has to work, and nothing may be left in the way of the next run.
        self.undisturbed(OutageMethod::ALL[0]).map(drop)
    }

    fn kill(&self, run: &mut Child, victims: Victims) -> Result<()> {
        let runner = Pid::from_raw(run.id().cast_signed());
        let agent = children_of(runner).into_iter().next();
        let mut doomed = Vec::new();
        if victims == Victims::Everyone {
            doomed.extend(agent.iter().flat_map(|agent| children_of(*agent)));
        }
        if matches!(victims, Victims::Runner | Victims::RunnerAndAgent | Victims::Everyone) {
            doomed.push(runner);
        }
        if matches!(victims, Victims::Agent | Victims::RunnerAndAgent | Victims::Everyone) {
            doomed.extend(agent);
        }
        if victims == Victims::Group {
            killpg(runner, Signal::SIGKILL).context("the group")?;
        }
        if victims == Victims::Everyone {
            // All at one instant: who still runs when the first of them dies would put back what was to be left changed.
            doomed.iter().try_for_each(|pid| send(*pid, Signal::SIGSTOP))?;
            let end = Instant::now() + SILENCE / 2;
            while !doomed.iter().all(|pid| stands_still(*pid)) {
                ensure!(Instant::now() < end, "processes {doomed:?} do not stand still");
            }
        }
        doomed.iter().try_for_each(|pid| send(*pid, Signal::SIGKILL))
    }

    fn wait_until_as_before(&self, what: &str) -> Result<()> {
        self.wait_as_long_as(GOAL, what)
    }

    fn wait_as_long_as(&self, goal: Duration, what: &str) -> Result<()> {
        let end = Instant::now() + goal;
        loop {
            let differences = self.before.diff(&State::of(&self.lab)?);
            if differences.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{what}: after {} s still {differences:#?}", goal.as_secs());
            sleep(Duration::from_millis(20));
        }
    }

    /// Begins an outage, and waits until it has changed something.
    fn begin(&self, method: OutageMethod, window: &str) -> Result<Child> {
        let mut run = self.audit(method).env("LEAKCHECK_OUTAGE__WINDOW", window).spawn()?;
        let end = Instant::now() + Duration::from_secs(20);
        // On a busy machine the stack changes by itself as well: what an outage changes is noted first.
        while !self.is_noted()? || self.before.diff(&State::of(&self.lab)?).is_empty() {
            ensure!(Instant::now() < end && run.try_wait()?.is_none(), "{method} changes nothing");
            sleep(Duration::from_millis(10));
        }
        Ok(run)
    }

    /// Whether a journal holds something that has to be put back.
    fn is_noted(&self) -> Result<bool> {
        if !self.state.exists() {
            return Ok(false);
        }
        let mut journals = fs::read_dir(&self.state)?;
        Ok(journals.any(|journal| journal.and_then(|file| file.metadata()).is_ok_and(|file| file.len() > 0)))
    }

    /// Begins an outage, and kills everybody who could put it back in the middle of it.
    fn leave_changed(&self, method: OutageMethod) -> Result<()> {
        let mut run = self.begin(method, "30s")?;
        // A control server that is still at work on its answer would change the stack again.
        sleep(Duration::from_millis(300));
        self.kill(&mut run, Victims::Everyone)?;
        run.wait()?;
        sleep(Duration::from_millis(300));
        Ok(())
    }
}

impl State {
    fn of(lab: &Lab) -> Result<Self> {
        let (network, firewall) =
            lab.topology().stack.call(|| -> Result<_> { Ok((Snapshot::take()?, Nft::open()?.ruleset()?)) })??;
        let resolv_conf = fs::read_to_string(lab.stack_resolv_conf())?;
        let gluetun = lab.stack().clone();
        let vpn = lab.topology().stack.run(move || async move { gluetun.vpn_process().await })?;
        let stopped = vpn.and_then(|pid| stat(&pid.to_string())).is_some_and(|stat| stat.starts_with('T'));
        Ok(Self { network, firewall, resolv_conf, stopped })
    }

    /// Once nothing has changed for a while: the kernel makes the routes of an IPv6 address some time after the address.
    fn settled(lab: &Lab) -> Result<Self> {
        let (mut state, mut since) = (Self::of(lab)?, Instant::now());
        while since.elapsed() < Duration::from_secs(2) {
            sleep(Duration::from_millis(100));
            let now = Self::of(lab)?;
            if !state.diff(&now).is_empty() {
                (state, since) = (now, Instant::now());
            }
        }
        Ok(state)
    }

    /// What is not the same. A tunnel's link that the VPN itself has made anew has another index and another link-local address.
    fn diff(&self, now: &State) -> Vec<String> {
        let mut lines = if self.tunnel() == now.tunnel() {
            self.network.diff(&now.network)
        } else {
            let (before, after) = (self.lines(), now.lines());
            let gone = before.iter().filter(|line| !after.contains(line)).map(|line| format!("- {line}"));
            gone.chain(after.iter().filter(|line| !before.contains(line)).map(|line| format!("+ {line}"))).collect()
        };
        lines.extend(self.firewall.diff(&now.firewall));
        if self.resolv_conf != now.resolv_conf {
            lines.push(format!("resolv.conf {:?}", now.resolv_conf));
        }
        if self.stopped != now.stopped {
            lines.push(format!("the VPN's process is {}stopped", if now.stopped { "" } else { "not " }));
        }
        lines
    }

    fn tunnel(&self) -> Option<u32> {
        self.network.link("tun0").map(|link| link.index)
    }

    fn lines(&self) -> Vec<String> {
        let Snapshot { links, addresses, rules, routes } = &self.network;
        let index = self.tunnel().map_or_else(|| "none".to_owned(), |index| index.to_string());
        let of_tunnel = |line: String| {
            let words: Vec<&str> = line.split(' ').collect();
            let by_number =
                |at: usize| matches!(words[at], "link" | "index") && words.get(at + 1) == Some(&index.as_str());
            if !(0..words.len()).any(by_number) {
                return line;
            }
            let told = |at: usize| match words[at] {
                _ if at > 0 && by_number(at - 1) => "TUN",
                word if word.starts_with("fe80:") && !word.starts_with("fe80::/") => "LINK-LOCAL",
                word => word,
            };
            (0..words.len()).map(told).collect::<Vec<_>>().join(" ")
        };
        let mut lines: Vec<String> = links.iter().map(Object::describe).collect();
        lines.extend(addresses.iter().map(Object::describe));
        lines.extend(rules.iter().map(Object::describe));
        lines.extend(routes.iter().map(Object::describe));
        lines.into_iter().map(of_tunnel).collect()
    }
}

/// Sends a signal to a process that may have ended already.
fn send(pid: Pid, signal: Signal) -> Result<()> {
    match kill(pid, signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(errno) => bail!("process {pid} cannot be sent {signal}: {errno}"),
    }
}

/// What /proc tells of a process, from its state on; `None` where there is none.
fn stat(pid: &str) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.trim_start().to_owned())
}

/// Whether a process is stopped or has ended.
fn stands_still(pid: Pid) -> bool {
    stat(&pid.to_string()).is_none_or(|stat| stat.starts_with(['T', 'Z', 'X']))
}

/// The children of a process, by /proc.
fn children_of(parent: Pid) -> Vec<Pid> {
    let numbers = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |pid: &i32| {
        let stat = stat(&pid.to_string()).unwrap_or_default();
        stat.split_whitespace().nth(1) == Some(parent.to_string().as_str())
    };
    numbers.filter(is_child).map(Pid::from_raw).collect()
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
