//! The whole program against the whole lab: a sealed stack passes, in each variant of `fixtures/variants` and under each
//! condition of `fixtures/conditions`, and each leak class of `fixtures/leaks` turns exactly those probes red that its file names, at least. One process per trial, as a user would start it.
//!
//! Where no lab can be made the trials are shown as ignored; with `LEAKCHECK_LAB=required` they fail.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Output};
use std::sync::{PoisonError, RwLock};

use leakcheck::lab::{Condition, Leak, Variant, has_legacy_tables};
use leakcheck::model::report::{Report, VerdictWord};
use libtest_mimic::{Arguments, Failed, Trial};

/// Sealed stacks beside those of `fixtures/variants`: a name, and what `demo` is told besides.
const SEALED: &[(&str, &[&str])] =
    &[("sealed", &[]), ("variant::ipv4-only::chatter", &["--variant", "ipv4-only", "--condition", "chatter"])];
/// Conditions under which leaks are looked for too, and which leaks.
const BROKEN_UNDER: [&str; 4] = ["under-load", "lossy", "slow", "chatter"];
const TRIED_UNDER: [&str; 4] = ["udp-direct", "one-in-twenty", "forced-udp", "hole"];
/// Probes that turn red in an outage, or after it.
const OF_OUTAGES: [&str; 2] = ["kill-switch", "local-reachable"];
/// Probes that ask a container engine.
const OF_CONTAINERS: [&str; 2] = ["dependents-joined", "boot"];
/// Long enough for the leaks that come two seconds after the tunnel's death.
const WINDOW: &str = "2500ms";
/// Long enough for what a condition makes of an outage.
const SHORT_WINDOW: &str = "1s";
/// What a reason for coming to no verdict must not say: it would be a fault of the checker's, and no circumstance of the stack's.
const FAULTS: [&str; 4] = ["internal error", "panicked", "brought no evidence back", "record of this phase is missing"];

/// What an outage says in which the samples came too late, and nothing else was amiss.
const TOO_BUSY: &str = "ms between two samples: the machine is too busy to see short holes";
/// Who fills the tunnel has the machine alone, or the others would be the load.
static MACHINE: RwLock<()> = RwLock::new(());

fn main() -> ExitCode {
    let ignored = cannot_run();
    let mut trials: Vec<Trial> =
        SEALED.iter().map(|(name, args)| Trial::test(*name, move || sealed(args)).with_ignored_flag(ignored)).collect();
    // Without them the trials say so, unless all is demanded.
    let no_legacy = !has_legacy_tables() && !required();
    if no_legacy {
        eprintln!("ignored: this kernel has no tables of iptables-legacy, or they are not loaded");
    }
    let variants = Variant::all().unwrap_or_else(|error| panic!("the variants are not sound: {error}"));
    trials.extend(variants.into_iter().map(|variant| {
        let ignored = ignored || no_legacy && variant.needs_legacy();
        Trial::test(format!("variant::{}", variant.id), move || sealed(&["--variant", &variant.id]))
            .with_ignored_flag(ignored)
    }));
    trials.push(Trial::test("packets-that-leaked", packets_that_leaked).with_ignored_flag(ignored));
    trials.push(Trial::test("readme-shows-the-demo", readme_shows_the_demo).with_ignored_flag(ignored));
    let leaks = Leak::all().unwrap_or_else(|error| panic!("the leak fixtures are not sound: {error}"));
    let conditions = Condition::all().unwrap_or_else(|error| panic!("the conditions are not sound: {error}"));
    trials.extend(conditions.into_iter().map(|condition| {
        Trial::test(format!("sealed::{}", condition.id), move || sealed_under(&condition)).with_ignored_flag(ignored)
    }));
    for condition in BROKEN_UNDER {
        trials.extend(TRIED_UNDER.map(|id| {
            Trial::test(format!("{id}::{condition}"), move || broken_under(id, condition)).with_ignored_flag(ignored)
        }));
    }
    // An ordinary user's lab has that one user.
    let alone = !nix::unistd::geteuid().is_root();
    trials.extend(leaks.into_iter().map(|leak| {
        let ignored = ignored || alone && leak.needs_users() || no_legacy && leak.needs_legacy();
        Trial::test(leak.id.clone(), move || broken(&leak)).with_ignored_flag(ignored)
    }));
    let mut arguments = Arguments::from_args();
    // Trials mostly wait for an outage to pass.
    arguments.test_threads.get_or_insert(4);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Whether somebody demands the lab.
fn required() -> bool {
    std::env::var("LEAKCHECK_LAB").is_ok_and(|value| value == "required")
}

/// Whether there is no lab here, found out by trying, and nobody demands one.
fn cannot_run() -> bool {
    if required() {
        return false;
    }
    let tried = demo(&["--quick", "exit-address"]);
    let refused = tried.status.code() == Some(2);
    if refused {
        eprintln!("ignored: {}", String::from_utf8_lossy(&tried.stderr));
    }
    refused
}

fn demo(args: &[&str]) -> Output {
    demo_with(WINDOW, args)
}

fn demo_with(window: &str, args: &[&str]) -> Output {
    let (_alone, _shared);
    if args.iter().any(|arg| arg.ends_with("under-load")) {
        _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    } else {
        _shared = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    }
    Command::new(env!("CARGO_BIN_EXE_leakcheck"))
        .args(["demo", "--format", "json", "--report-dir", "none"])
        .args(args)
        .env("LEAKCHECK_OUTAGE__WINDOW", window)
        .output()
        .unwrap_or_else(|error| panic!("leakcheck could not be started: {error}"))
}

fn report(output: &Output) -> Result<Report, Failed> {
    serde_json::from_slice(&output.stdout).map_err(|error| {
        format!("{}: no report: {error}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into()
    })
}

/// What of a report is not green, one line each.
fn not_green(report: &Report) -> String {
    let lines = report.probes.iter().filter(|probe| probe.verdict != VerdictWord::Pass);
    lines
        .map(|probe| {
            format!(
                "{} {}: {} ({})\n",
                probe.verdict.as_str(),
                probe.name(),
                probe.summary,
                probe.reason.as_deref().unwrap_or("")
            )
        })
        .collect()
}

fn sealed(args: &[&str]) -> Result<(), Failed> {
    let output = demo(args);
    let report = report(&output)?;
    if output.status.code() != Some(0) || report.exit_status != 0 {
        return Err(format!("exit status {:?}\n{}", output.status.code(), not_green(&report)).into());
    }
    Ok(())
}

/// Nothing may fail or warn. Only what the condition names may come to no verdict, or an outage in which the machine stood still for half a
/// second, and only for a reason that lies in the circumstances.
fn sealed_under(condition: &Condition) -> Result<(), Failed> {
    let output = demo_with(SHORT_WINDOW, &["--condition", &condition.id]);
    let report = report(&output)?;
    let bad = report.probes.iter().any(|probe| match probe.verdict {
        VerdictWord::Pass => false,
        VerdictWord::Inconclusive => {
            let reason = probe.reason.as_deref().unwrap_or_default();
            !(condition.unsure.contains(&probe.id) || reason.ends_with(TOO_BUSY))
                || reason.is_empty()
                || FAULTS.iter().any(|fault| reason.contains(fault))
        }
        // The lab has no containers, whatever the condition.
        VerdictWord::Skip => !OF_CONTAINERS.contains(&probe.id.as_str()),
        VerdictWord::Fail | VerdictWord::Warn => true,
    });
    let unsure = report.probes.iter().any(|probe| probe.verdict == VerdictWord::Inconclusive);
    let due = if unsure { 3 } else { 0 };
    if bad || output.status.code() != Some(due) || report.exit_status != due as u8 {
        return Err(format!("exit status {:?}\n{}", output.status.code(), not_green(&report)).into());
    }
    Ok(())
}

fn broken_under(id: &str, condition: &str) -> Result<(), Failed> {
    look_for(&Leak::named(id).map_err(|error| error.to_string())?, SHORT_WINDOW, &["--condition", condition])
}

fn broken(leak: &Leak) -> Result<(), Failed> {
    look_for(leak, WINDOW, &[])
}

fn look_for(leak: &Leak, window: &str, more: &[&str]) -> Result<(), Failed> {
    // What shows while the tunnel is up needs no outage, which is most of the time of a run.
    let mut args = vec!["--leak", leak.id.as_str()];
    if !leak.red.iter().chain(&leak.amber).any(|id| OF_OUTAGES.contains(&id.as_str())) {
        args.push("--quick");
    }
    args.extend(more);
    let output = demo_with(window, &args);
    let report = report(&output)?;
    let is =
        |id: &str, verdict: VerdictWord| report.probes.iter().any(|probe| probe.id == id && probe.verdict == verdict);
    let mut missed: Vec<String> =
        leak.red.iter().filter(|id| !is(id, VerdictWord::Fail)).map(|id| format!("{id} should be red")).collect();
    missed.extend(leak.amber.iter().filter(|id| !is(id, VerdictWord::Warn)).map(|id| format!("{id} should warn")));
    if leak.red.is_empty() && leak.amber.is_empty() {
        missed.push("the fixture names no probe".to_owned());
    }
    if !missed.is_empty() {
        return Err(format!("{}; what is not green:\n{}", missed.join(", "), not_green(&report)).into());
    }
    // A tunnel that does not come back leaves the stack otherwise than it was found.
    let not_back = report.probes.iter().any(|probe| probe.summary.starts_with("the tunnel did not come back"));
    let expected = match (leak.red.is_empty(), not_back) {
        (true, _) => 0,
        (false, false) => 1,
        (false, true) => 4,
    };
    if output.status.code() != Some(expected) {
        return Err(format!("exit status {:?} and not {expected}\n{}", output.status.code(), not_green(&report)).into());
    }
    for probe in report.probes.iter().filter(|probe| probe.verdict == VerdictWord::Fail) {
        if probe.evidence.is_empty() {
            return Err(format!("{} fails without evidence", probe.name()).into());
        }
    }
    Ok(())
}

/// `leaks.pcapng` is there if something leaked, and holds what did: a probe may have to ask the router, and that is no leak by itself.
fn packets_that_leaked() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let packets = |args: &[&str]| -> Result<String, Failed> {
        let dir = folder.path().display().to_string();
        let output = Command::new(env!("CARGO_BIN_EXE_leakcheck"))
            .args(["demo", "--quick", "--report-dir", &dir, "dns", "inbound", "port-mapping"])
            .args(args)
            .output()?;
        if !folder.path().join("report.json").exists() {
            return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into());
        }
        let octets = fs::read(folder.path().join("leaks.pcapng")).unwrap_or_default();
        Ok(String::from_utf8_lossy(&octets).into_owned())
    };
    // The gateway is the stack's resolver, which a probe says is a leak; the router is asked by another one, which says that it is none.
    let leaked = packets(&["--leak", "resolver-gateway"])?;
    if !leaked.contains("stimulus of dns-resolver") || leaked.contains("stimulus of dns-local-resolver") {
        return Err("leaks.pcapng does not hold the questions to the gateway, or others with them".into());
    }
    let sealed = packets(&[])?;
    if !sealed.is_empty() {
        return Err(format!("a sealed stack leaves {} octets of leaks.pcapng", sealed.len()).into());
    }
    Ok(())
}

/// The block of the README between its `demo` comments; `LEAKCHECK_BLESS=1` writes it anew.
fn readme_shows_the_demo() -> Result<(), Failed> {
    let output = Command::new(env!("CARGO_BIN_EXE_leakcheck")).args(["demo", "--report-dir", "none"]).output()?;
    let table = String::from_utf8_lossy(&output.stdout);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = fs::read_to_string(&path)?;
    let (begin, end) = ("<!-- demo:begin -->\n", "<!-- demo:end -->");
    let (head, rest) = text.split_once(begin).ok_or("the README has no place for the demo")?;
    let (shown, tail) = rest.split_once(end).ok_or("the README's place for the demo has no end")?;
    if std::env::var_os("LEAKCHECK_BLESS").is_some() {
        fs::write(&path, format!("{head}{begin}```text\n{table}```\n{end}{tail}"))?;
    } else if rows(shown) != rows(&table) || rows(shown).is_empty() {
        return Err(format!("LEAKCHECK_BLESS=1 cargo test --test lab_matrix readme\n{table}").into());
    }
    Ok(())
}

/// Verdict and name of each row of a table; times and counts differ from run to run.
fn rows(table: &str) -> Vec<(String, String)> {
    const VERDICTS: [&str; 5] = ["pass", "fail", "warn", "inconclusive", "skip"];
    let rows = table.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    });
    rows.filter(|(verdict, _)| VERDICTS.contains(&verdict.as_str())).collect()
}
