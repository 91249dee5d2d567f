//! The matrix's trials: the whole program against the whole lab, one process each, as a user would start it. A sealed stack passes, in each
//! of its variants and under each condition, and each leak class turns at least those probes red that its file names.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use libtest_mimic::{Failed, Trial};

use super::{Matrix, Row};
use crate::lab::compose::{ComposeStack, compose_command};
use crate::lab::role::LEAK;
use crate::lab::{Condition, Leak, Variant, has_legacy_tables};
use crate::model::report::{Report, VerdictWord};

/// Sealed stacks beside those of `fixtures/variants` and `fixtures/conditions`: a name, what it is, and what `demo` is told besides.
const SEALED: &[(&str, &str, &[&str])] = &[
    ("sealed", "As Gluetun makes it", &[]),
    (
        "ipv4-only-chatter",
        "Without IPv6, among chatter that speaks it",
        &["--variant", "ipv4-only", "--condition", "chatter"],
    ),
];
/// Conditions under which leaks are looked for too, and which leaks.
const BROKEN_UNDER: [&str; 4] = ["under-load", "lossy", "slow", "chatter"];
const TRIED_UNDER: [&str; 4] = ["udp-direct", "one-in-twenty", "forced-udp", "hole"];
/// Leaks that are looked for in variants too, where the text of another firewall has to lead to them.
const BROKEN_IN: [(&str, &str); 2] = [("one-address", "nft-native"), ("one-address", "nft-postrouting")];
/// Probes that ask a container engine, of which the lab has none; and so do those of the group `stack`.
const OF_CONTAINERS: [&str; 2] = ["dependents-joined", "boot"];
const GROUP_OF_CONTAINERS: &str = "stack";
/// Long enough for the leaks that come two seconds after the tunnel's death.
const WINDOW: &str = "2500ms";
/// Long enough for what a condition makes of an outage.
const SHORT_WINDOW: &str = "1s";
/// What a reason for coming to no verdict must not say: it would be a fault of the checker's, and no circumstance of the stack's.
const FAULTS: [&str; 4] = ["internal error", "panicked", "brought no evidence back", "record of this phase is missing"];
/// What an outage says in which the samples came too late, and nothing else was amiss.
const TOO_BUSY: &str = "ms between two samples: the machine is too busy to see short holes";
/// Lines of evidence that are told of an accusation.
const EVIDENCE: usize = 6;
/// Exit statuses of an audit: all passed, a leak or breakage was found, no verdict, the stack is not as it was.
const PASSED: i32 = 0;
const FAILED: i32 = 1;
const UNSURE: i32 = 3;
const NOT_RESTORED: i32 = 4;

/// Who fills the tunnel has the machine alone, or the others would be the load; and so have containers, which count as ill when their health
/// checks wait for the processor, and sealed stacks, which have to come to a verdict everywhere.
static MACHINE: RwLock<()> = RwLock::new(());

/// With what the trials are made.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The program `leakcheck`.
    pub program: PathBuf,
    /// A lab that cannot be made fails its trials; else they are left out.
    pub lab_required: bool,
    /// Trials with containers fail where there is no Docker engine or no Compose; else they are left out.
    pub containers_required: bool,
}

/// All trials, and why some of them are left out here, one line each. What is seen is entered into `matrix`.
///
/// # Errors
/// When a fixture is not well formed.
pub fn trials(setup: &Setup, matrix: &Arc<Mutex<Matrix>>) -> anyhow::Result<(Vec<Trial>, Vec<String>)> {
    let mut made = Made { setup, matrix, trials: Vec::new(), left_out: Vec::new() };
    let no_lab = !setup.lab_required && made.bench().cannot_run(&mut made.left_out);
    let mut lacks = |lacking: bool, why: &str| {
        let lacking = !setup.lab_required && lacking;
        if lacking && !no_lab {
            made.left_out.push(why.to_owned());
        }
        no_lab || lacking
    };
    let no_legacy = lacks(!has_legacy_tables(), "this kernel has no tables of iptables-legacy, or they are not loaded");
    let alone = lacks(!nix::unistd::geteuid().is_root(), "an ordinary user's lab has that one user");
    let compose = compose_command();
    let no_containers = compose.is_none() && !setup.containers_required;
    if no_containers {
        made.left_out.push("there is no Docker engine, or no Compose".to_owned());
    }
    for (name, title, args) in SEALED {
        made.add(format!("sealed::{name}"), no_lab, move |bench| bench.sealed(name, title, args));
    }
    for variant in Variant::all()? {
        let left_out = if variant.needs_legacy() { no_legacy } else { no_lab };
        made.add(format!("sealed::{}", variant.id), left_out, move |bench| {
            bench.sealed(&variant.id, &variant.title, &["--variant", &variant.id])
        });
    }
    for condition in Condition::all()? {
        made.add(format!("sealed::{}", condition.id), no_lab, move |bench| bench.sealed_under(&condition));
    }
    for condition in BROKEN_UNDER {
        for id in TRIED_UNDER {
            let more = ["--condition", condition];
            made.add(format!("leak::{id}::{condition}"), no_lab, move |bench| bench.broken_besides(id, &more));
        }
    }
    for (id, variant) in BROKEN_IN {
        let more = ["--variant", variant];
        made.add(format!("leak::{id}::{variant}"), no_lab, move |bench| bench.broken_besides(id, &more));
    }
    let words = compose.unwrap_or_default();
    let of_containers = words.clone();
    made.add("sealed::containers".to_owned(), no_containers, move |bench| bench.sealed_containers(&of_containers));
    for leak in Leak::all()? {
        let name = format!("leak::{}", leak.id);
        if leak.needs_containers() {
            let words = words.clone();
            made.add(name, no_containers, move |bench| bench.broken_containers(&leak, &words));
        } else {
            let left_out = no_lab || alone && leak.needs_users() || no_legacy && leak.needs_legacy();
            made.add(name, left_out, move |bench| bench.broken(&leak));
        }
    }
    Ok((made.trials, made.left_out))
}

struct Made<'a> {
    setup: &'a Setup,
    matrix: &'a Arc<Mutex<Matrix>>,
    trials: Vec<Trial>,
    left_out: Vec<String>,
}

impl Made<'_> {
    fn bench(&self) -> Bench {
        Bench { program: self.setup.program.clone(), matrix: Arc::clone(self.matrix) }
    }

    fn add(&mut self, name: String, left_out: bool, body: impl FnOnce(&Bench) -> Result<(), Failed> + Send + 'static) {
        let bench = self.bench();
        self.trials.push(Trial::test(name, move || body(&bench)).with_ignored_flag(left_out));
    }
}

/// Where a trial takes place.
struct Bench {
    program: PathBuf,
    matrix: Arc<Mutex<Matrix>>,
}

impl Bench {
    /// Whether there is no lab here, found out by trying.
    fn cannot_run(&self, left_out: &mut Vec<String>) -> bool {
        let tried = self.demo(WINDOW, &["--quick", "exit-address"]);
        let refused = tried.as_ref().map_or(true, |output| output.status.code() == Some(2));
        if refused {
            left_out.push(tried.map_or_else(
                |error| error.message().unwrap_or_default().to_owned(),
                |output| String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            ));
        }
        refused
    }

    fn demo(&self, window: &str, args: &[&str]) -> Result<Output, Failed> {
        let (_alone, _shared);
        if !args.contains(&"--leak") || args.iter().any(|arg| arg.ends_with("under-load")) {
            _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
        } else {
            _shared = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
        }
        let output = Command::new(&self.program)
            .args(["demo", "--format", "json", "--report-dir", "none"])
            .args(args)
            .env("LEAKCHECK_OUTAGE__WINDOW", window)
            .output();
        output.map_err(|error| format!("{} could not be started: {error}", self.program.display()).into())
    }

    /// Runs an audit of the lab; its exit status and its report.
    fn audit(&self, window: &str, args: &[&str]) -> Result<(Option<i32>, Report), Failed> {
        let output = self.demo(window, args)?;
        let report = serde_json::from_slice(&output.stdout).map_err(|error| {
            format!("{}: no report: {error}\n{}", output.status, String::from_utf8_lossy(&output.stderr))
        })?;
        Ok((output.status.code(), report))
    }

    fn enter(&self, row: Row) {
        self.matrix.lock().unwrap_or_else(PoisonError::into_inner).enter(row);
    }

    /// A false alarm is one. That the machine stood still, and the audit came to no verdict, is tried again once, and said.
    fn sealed(&self, id: &str, title: &str, args: &[&str]) -> Result<(), Failed> {
        let (mut status, mut report) = self.audit(WINDOW, args)?;
        if status == Some(UNSURE) {
            eprintln!("{id} came to no verdict, and is tried again:\n{}", not_green(&report));
            (status, report) = self.audit(WINDOW, args)?;
        }
        self.enter(Row::sealed(id, title, &report));
        if status == Some(PASSED) && report.exit_status == 0 {
            return Ok(());
        }
        Err(format!("exit status {status:?}\n{}", not_green(&report)).into())
    }

    /// Nothing may fail or warn. Only what the condition names may come to no verdict, or an outage in which the machine stood still for
    /// half a second, and only for a reason that lies in the circumstances.
    fn sealed_under(&self, condition: &Condition) -> Result<(), Failed> {
        let (status, report) = self.audit(SHORT_WINDOW, &["--condition", &condition.id])?;
        self.enter(Row::sealed(&condition.id, &condition.title, &report));
        let bad = report.probes.iter().any(|probe| match probe.verdict {
            VerdictWord::Pass => false,
            VerdictWord::Inconclusive => {
                let reason = probe.reason.as_deref().unwrap_or_default();
                !(condition.unsure.contains(&probe.id) || reason.ends_with(TOO_BUSY))
                    || reason.is_empty()
                    || FAULTS.iter().any(|fault| reason.contains(fault))
            }
            VerdictWord::Skip => !(OF_CONTAINERS.contains(&probe.id.as_str()) || probe.group == GROUP_OF_CONTAINERS),
            VerdictWord::Fail | VerdictWord::Warn => true,
        });
        let unsure = report.probes.iter().any(|probe| probe.verdict == VerdictWord::Inconclusive);
        let due = if unsure { UNSURE } else { PASSED };
        if bad || status != Some(due) || i32::from(report.exit_status) != due {
            return Err(format!("exit status {status:?}\n{}", not_green(&report)).into());
        }
        Ok(())
    }

    fn broken(&self, leak: &Leak) -> Result<(), Failed> {
        let (status, report) = self.look_for(leak, WINDOW, &[])?;
        self.enter(Row::broken(leak, &report));
        is_found(leak, status, &report)
    }

    fn broken_besides(&self, id: &str, more: &[&str]) -> Result<(), Failed> {
        let leak = Leak::named(id).map_err(|error| error.to_string())?;
        let (status, report) = self.look_for(&leak, SHORT_WINDOW, more)?;
        is_found(&leak, status, &report)
    }

    fn look_for(&self, leak: &Leak, window: &str, more: &[&str]) -> Result<(Option<i32>, Report), Failed> {
        // What shows while the tunnel is up needs no outage, which is most of the time of a run.
        let mut args = vec!["--leak", leak.id.as_str()];
        if leak.shows_while_up() {
            args.push("--quick");
        }
        args.extend(more);
        self.audit(window, &args)
    }

    fn containers(&self, compose: &[&'static str], leak: Option<&Leak>) -> Result<ComposeStack, Failed> {
        let over = leak.and_then(Leak::compose_file).map(|file| format!(":{file}")).unwrap_or_default();
        let files = format!("docker-compose.yml{over}");
        let variables = [(LEAK, leak.map_or("", |leak| leak.id.as_str())), ("COMPOSE_FILE", files.as_str())];
        ComposeStack::up(compose, &self.program, &variables).map_err(|error| format!("{error:#}").into())
    }

    fn sealed_containers(&self, compose: &[&'static str]) -> Result<(), Failed> {
        let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
        let stack = self.containers(compose, None)?;
        // A restart leaves those outside who share its network; that they are brought back is warned of, and leaks nothing.
        let (status, report) = stack
            .audit("auto", &["--outage", "restart", "--restart-dependents"])
            .map_err(|error| format!("{error:#}"))?;
        self.enter(Row::sealed("containers", "The fixture of Docker Compose, restarted", &report));
        if status == Some(PASSED) { Ok(()) } else { Err(format!("{status:?}\n{}", not_green(&report)).into()) }
    }

    fn broken_containers(&self, leak: &Leak, compose: &[&'static str]) -> Result<(), Failed> {
        let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
        let stack = self.containers(compose, Some(leak))?;
        let audit = || {
            if leak.restarts_vpn() {
                stack.restart_vpn()?;
                stack.audit("auto", &["--quick"])
            } else if leak.compose_file().is_some() {
                stack.audit("auto", &["--quick"])
            } else {
                stack.audit("auto", &["--outage", "restart", "--restart-dependents"])
            }
        };
        let (status, report) = audit().map_err(|error| format!("{error:#}"))?;
        self.enter(Row::broken(leak, &report));
        is_found(leak, status, &report)
    }
}

/// Whether a leak shows as its file says, with evidence and in the exit status.
fn is_found(leak: &Leak, status: Option<i32>, report: &Report) -> Result<(), Failed> {
    let is =
        |id: &str, verdict: VerdictWord| report.probes.iter().any(|probe| probe.id == id && probe.verdict == verdict);
    let mut missed: Vec<String> =
        leak.red.iter().filter(|id| !is(id, VerdictWord::Fail)).map(|id| format!("{id} should be red")).collect();
    missed.extend(leak.amber.iter().filter(|id| !is(id, VerdictWord::Warn)).map(|id| format!("{id} should warn")));
    if leak.red.is_empty() && leak.amber.is_empty() {
        missed.push("the fixture names no probe".to_owned());
    }
    if !missed.is_empty() {
        return Err(format!("{}; what is not green:\n{}", missed.join(", "), not_green(report)).into());
    }
    // A tunnel that does not come back leaves the stack otherwise than it was found.
    let not_back = report.probes.iter().any(|probe| probe.summary.starts_with("the tunnel did not come back"));
    let expected = match (leak.red.is_empty(), not_back) {
        (true, _) => PASSED,
        (false, false) => FAILED,
        (false, true) => NOT_RESTORED,
    };
    if status != Some(expected) {
        return Err(format!("exit status {status:?} and not {expected}\n{}", not_green(report)).into());
    }
    for probe in report.probes.iter().filter(|probe| probe.verdict == VerdictWord::Fail) {
        if probe.evidence.is_empty() {
            return Err(format!("{} fails without evidence", probe.name()).into());
        }
    }
    Ok(())
}

/// What of a report is not green, one line each, and what an accusation rests on.
fn not_green(report: &Report) -> String {
    let lines = report.probes.iter().filter(|probe| probe.verdict != VerdictWord::Pass);
    let line = |probe: &crate::model::report::ProbeResult| {
        let reason = probe.reason.as_deref().unwrap_or_default();
        let mut told = format!("{} {}: {} ({reason})\n", probe.verdict.as_str(), probe.name(), probe.summary);
        if matches!(probe.verdict, VerdictWord::Fail | VerdictWord::Warn) {
            told.extend(
                probe.evidence.iter().take(EVIDENCE).map(|line| format!("  {:.1} ms: {}\n", line.at_ms, line.what)),
            );
        }
        told
    };
    lines.map(line).collect()
}
