//! Each detector tried by taking it away: the audit of the sealed lab, outages included, again and again, each time without one of the things
//! that verdicts rest on ([`Handicap`]). What rests on it has to become inconclusive, and nothing else may change.
//!
//! One run per handicap, a trial per probe. Where no lab can be made the trials are shown as ignored; with `LEAKCHECK_LAB=required` they fail.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use clap::ValueEnum;
use leakcheck::catalog::Catalog;
use leakcheck::handicap::Handicap;
use leakcheck::model::report::{ProbeResult, Report, VerdictWord};
use libtest_mimic::{Arguments, Failed, Trial};

/// Which trials rest on what: a probe in all of its phases, or in one, or in one outage. All others pass without it.
fn rests_on(handicap: Handicap) -> &'static [&'static str] {
    match handicap {
        Handicap::Stimuli => &[
            "dns-forced",
            "dns-local-names",
            "dns-local-resolver",
            "flows-ipv6",
            "forward-accept",
            "ipv6",
            "kill-switch",
            "port-mapping",
            "uplink",
            "uplink-marks",
            "uplink-multicast",
            "uplink-protocols",
            "uplink-shapes",
            "uplink-users",
        ],
        // No silence means anything without them, and no answer is taken on trust where the sensor is deaf.
        Handicap::Controls | Handicap::Sensor => &[""],
        Handicap::Tunnel => &[
            "dns-forced",
            "flows-ipv6",
            "ipv6",
            "kill-switch",
            "uplink",
            "uplink-marks",
            "uplink-protocols",
            "uplink-shapes",
            "uplink-users",
        ],
        // No outage is begun without a proof that the tunnel works, so that nothing can be said of one.
        Handicap::Answers => &[
            "access",
            "capabilities",
            "dns-dependents",
            "dns-local-resolver",
            "dns-resolver",
            "exit-address",
            "exit-agreement",
            "exit-dht",
            "exit-tracker",
            "exit-udp",
            "flows-ipv6",
            "forward-accept/outage",
            "kill-switch",
            "local-reachable/outage",
            "port-mapping",
            "routes",
            "torrent-address",
            "torrent-bound",
            "torrent-local-discovery",
            "torrent-port",
            "wire-quiet/outage",
        ],
        Handicap::Outside => &["access", "local-forbidden"],
        Handicap::Arrivals => &["forward-accept"],
        Handicap::Proc => &["capabilities", "dns-dependents", "uplink-users"],
        Handicap::Sockets => &["inbound-torrent", "kill-switch", "wire-quiet"],
        Handicap::Routes | Handicap::Lookups => &["routes"],
        // Elsewhere the tunnel's link goes, and what goes into it tells that it is dark.
        Handicap::Counter => &["flows-ipv6/outage/endpoint-block", "kill-switch/outage/endpoint-block"],
        Handicap::Names => &["kill-switch"],
        // It is there to explain, and to choose more to try: what it does not show is tried all the same.
        Handicap::Firewall => &[],
    }
}

/// Trials that ask whether something answers, so that silence itself is the finding: they fail, and so cannot pass either.
const SILENCE_IS_A_FINDING: [(Handicap, &str); 2] =
    [(Handicap::Answers, "local-reachable"), (Handicap::Outside, "local-served")];
/// Asked of a container engine, which the lab has not: skipped, or not asked at all. What becomes of them without their evidence is held by
/// `fixtures/evidence`, and against an engine by the trials on the compose fixture.
const OF_CONTAINERS: [&str; 2] = ["boot", "dependents-joined"];
/// What the names of those begin with that ask it how the stack is set up.
const OF_SETTINGS: &str = "stack-";
/// Long enough for a method to be proven dark.
const WINDOW: &str = "1s";
/// What an outage says in which the samples came too late, and nothing else was amiss.
const TOO_BUSY: &str = "ms between two samples: the machine is too busy to see short holes";
/// What an outage says whose tunnel could not be proven again.
const NOT_BACK: &str = "the tunnel did not come back";

fn main() -> ExitCode {
    let ignored = cannot_run();
    let catalog = Catalog::builtin().unwrap_or_else(|error| panic!("the probes are not sound: {error}"));
    let probes: Vec<&str> = catalog.probes().iter().map(|probe| probe.id.as_str()).collect();
    let names = probes.iter().map(|probe| (*probe).to_owned()).collect::<Vec<_>>();
    let mut trials = vec![Trial::test("every-probe-rests-on-something", move || every_probe_rests(&names))];
    for handicap in Handicap::value_variants() {
        for probe in &probes {
            let (handicap, probe) = (*handicap, (*probe).to_owned());
            let name = format!("{}::{probe}", word(handicap));
            trials.push(Trial::test(name, move || without(handicap, &probe)).with_ignored_flag(ignored));
        }
    }
    let mut arguments = Arguments::from_args();
    // One run at a time: it wants the machine, and its trials wait for it.
    arguments.test_threads.get_or_insert(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Whether there is no lab here, found out by trying, and nobody demands one.
fn cannot_run() -> bool {
    if std::env::var("LEAKCHECK_LAB").is_ok_and(|value| value == "required") {
        return false;
    }
    let tried = Command::new(env!("CARGO_BIN_EXE_leakcheck"))
        .args(["demo", "--report-dir", "none", "--quick", "--exact", "wire-quiet"])
        .output();
    tried.map_or(true, |output| output.status.code() == Some(2))
}

fn word(handicap: Handicap) -> String {
    handicap.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Whether `pattern` means the trial `name`: it, or all that begin so.
fn means(pattern: &str, name: &str) -> bool {
    name.strip_prefix(pattern).is_some_and(|rest| pattern.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

fn of_containers(probe: &str) -> bool {
    OF_CONTAINERS.contains(&probe) || probe.starts_with(OF_SETTINGS)
}

/// A probe that no list names would never be tried without what it alone rests on, nor would one that is named wrongly.
fn every_probe_rests(probes: &[String]) -> Result<(), Failed> {
    let listed = Handicap::value_variants().iter().flat_map(|handicap| rests_on(*handicap)).copied();
    let listed = listed.chain(SILENCE_IS_A_FINDING.map(|(_, pattern)| pattern));
    let mut named: Vec<&str> = listed.filter_map(|pattern| pattern.split('/').next()).collect();
    named.retain(|id| !id.is_empty());
    let in_lab = probes.iter().map(String::as_str).filter(|probe| !of_containers(probe));
    let unnamed: Vec<&str> = in_lab.filter(|probe| !named.contains(probe)).collect();
    let unknown: Vec<&str> = named.into_iter().filter(|id| !probes.iter().any(|probe| probe == id)).collect();
    match (unnamed.as_slice(), unknown.as_slice()) {
        ([], []) => Ok(()),
        ([], unknown) => Err(format!("there are no such probes: {unknown:?}").into()),
        (unnamed, _) => Err(format!("nothing says what these rest on beside the sensor: {unnamed:?}").into()),
    }
}

/// All trials of a probe in the run without `handicap`.
fn without(handicap: Handicap, probe: &str) -> Result<(), Failed> {
    let report = run(handicap)?;
    let asked: Vec<&ProbeResult> = report.probes.iter().filter(|result| result.id == probe).collect();
    let wrong: Vec<String> = asked.iter().filter_map(|result| wrong(handicap, result)).collect();
    match asked.is_empty() {
        true if of_containers(probe) => Ok(()),
        true => Err("it was not asked".into()),
        false if wrong.is_empty() => Ok(()),
        false => Err(wrong.join("\n").into()),
    }
}

fn wrong(handicap: Handicap, result: &ProbeResult) -> Option<String> {
    let name = result.name();
    let reason = result.reason.as_deref().unwrap_or_default();
    let due = if of_containers(&result.id) {
        VerdictWord::Skip
    } else if rests_on(handicap).iter().any(|pattern| means(pattern, &name)) {
        VerdictWord::Inconclusive
    } else if SILENCE_IS_A_FINDING.iter().any(|(known, pattern)| *known == handicap && means(pattern, &name)) {
        VerdictWord::Fail
    } else if result.verdict == VerdictWord::Inconclusive && reason.ends_with(TOO_BUSY) {
        return None;
    } else {
        VerdictWord::Pass
    };
    // Samples go on at their full pace as long as nobody sees the tunnel carry them, which it may not stand on a busy machine.
    let drowned = handicap == Handicap::Tunnel && result.verdict == VerdictWord::Fail && result.summary == NOT_BACK;
    (result.verdict != due && !drowned).then(|| {
        format!("{name} is {} and not {}: {} ({reason})", result.verdict.as_str(), due.as_str(), result.summary)
    })
}

type Ran = Arc<OnceLock<Result<Report, String>>>;

/// The run without `handicap`, made by the first trial that wants it.
fn run(handicap: Handicap) -> Result<Report, String> {
    static RUNS: Mutex<BTreeMap<Handicap, Ran>> = Mutex::new(BTreeMap::new());
    let run = Arc::clone(RUNS.lock().unwrap_or_else(PoisonError::into_inner).entry(handicap).or_default());
    run.get_or_init(|| {
        let output = Command::new(env!("CARGO_BIN_EXE_leakcheck"))
            .args(["demo", "--format", "json", "--report-dir", "none", "--without", &word(handicap)])
            .env("LEAKCHECK_OUTAGE__WINDOW", WINDOW)
            .output()
            .map_err(|error| format!("leakcheck could not be started: {error}"))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        if stderr.contains("panicked") {
            return Err(stderr.into_owned());
        }
        serde_json::from_slice(&output.stdout).map_err(|error| format!("{}: {error}\n{stderr}", output.status))
    })
    .clone()
}
