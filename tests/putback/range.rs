//! A lab whose stack is taken down and put back, and what that stack has to look like.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use leakcheck::config::OutageMethod;
use leakcheck::lab::{Lab, LabSpec, PrivateDir};
use leakcheck::net::nft::{Nft, Ruleset};
use leakcheck::net::route::{Object, Snapshot};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::{GOAL, LEAKCHECK, SILENCE, kills, methods};

/// Who is shot.
#[derive(Clone, Copy, PartialEq)]
pub enum Victims {
    Runner,
    Group,
    Agent,
    RunnerAndAgent,
    Everyone,
}

/// A lab, and what its stack has to look like.
pub struct Range {
    pub lab: Lab,
    config: PathBuf,
    pub state: PathBuf,
    pub before: State,
}

/// All that has to be the same.
#[derive(Debug, Clone)]
pub struct State {
    network: Snapshot,
    firewall: Ruleset,
    resolv_conf: String,
    /// Whether the VPN's process is stopped.
    stopped: bool,
}

impl Range {
    pub fn new(world: &PrivateDir) -> Result<Self> {
        let lab = Lab::start(world, LabSpec { apart: Some(LEAKCHECK.into()), ..LabSpec::sealed() })?;
        let config = world.write("leakcheck.toml", &lab.config_toml())?;
        let before = State::settled(&lab)?;
        Ok(Self { lab, config, state: world.path().join("state"), before })
    }

    pub fn leakcheck(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(LEAKCHECK);
        command.args(arguments).env("LEAKCHECK_STATE_DIR", &self.state);
        command
    }

    /// A run that makes one short outage and asks for nothing else.
    pub fn audit(&self, method: OutageMethod) -> Command {
        let mut command =
            self.leakcheck(&["run", "kill-switch", "--report-dir", "none", "--outage", method.word(), "--config"]);
        command.arg(&self.config).env("LEAKCHECK_OUTAGE__WINDOW", "700ms").process_group(0);
        // What is tried here is putting back; a handshake that is lost on a busy machine is repeated after five seconds.
        command.env("LEAKCHECK_OUTAGE__RECOVERY_TIMEOUT", "60s");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// How long such a run takes when nobody shoots.
    pub fn undisturbed(&self, method: OutageMethod) -> Result<Duration> {
        let started = Instant::now();
        let output = self.audit(method).stdout(Stdio::piped()).stderr(Stdio::piped()).output()?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "undisturbed, {method} ends with {}: {told}", output.status);
        self.wait_until_as_before(&format!("undisturbed {method}"))?;
        Ok(started.elapsed())
    }

    pub fn shoot(&self, victims: Victims) -> Result<()> {
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

    pub fn wait_until_as_before(&self, what: &str) -> Result<()> {
        self.wait_as_long_as(GOAL, what)
    }

    pub fn wait_as_long_as(&self, goal: Duration, what: &str) -> Result<()> {
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
    pub fn begin(&self, method: OutageMethod, window: &str) -> Result<Child> {
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
    pub fn leave_changed(&self, method: OutageMethod) -> Result<()> {
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
    pub fn of(lab: &Lab) -> Result<Self> {
        let (network, firewall) =
            lab.topology().stack.call(|| -> Result<_> { Ok((Snapshot::take()?, Nft::open()?.ruleset()?)) })??;
        let resolv_conf = fs::read_to_string(lab.stack_resolv_conf())?;
        let gluetun = lab.stack().clone();
        let vpn = lab.topology().stack.run(move || async move { gluetun.vpn_process().await })?;
        let stopped = vpn.and_then(|pid| stat(&pid.to_string())).is_some_and(|stat| stat.starts_with('T'));
        Ok(Self { network, firewall, resolv_conf, stopped })
    }

    /// Once nothing has changed for a while: the kernel makes the routes of an IPv6 address some time after the address.
    pub fn settled(lab: &Lab) -> Result<Self> {
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
    pub fn diff(&self, now: &State) -> Vec<String> {
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

    /// The tunnel's addresses, as the kernel lists them.
    pub fn addresses(&self) -> Vec<String> {
        let own = self.network.addresses.iter().filter(|address| Some(address.link) == self.tunnel());
        own.map(|address| address.address.to_string()).collect()
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
pub fn children_of(parent: Pid) -> Vec<Pid> {
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
