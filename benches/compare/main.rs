//! leakcheck beside the checks that people make by hand (`hand_checks.sh`), on the same stacks in one run: `cargo bench --bench compare --
//! [OPTION…]`. Each leak class and each sealed stack of the lab is checked by both, one after the other; leakcheck makes outages
//! where a leak needs one, and on every sealed stack. Prints; decides nothing.
//!
//! Options: `--only TEXT` takes stacks that have this in their name, `--at-once N` compares several
//! at a time (1), `--write` writes `reports/comparison.md` and the README's summary of it.
//! The script uses the curl, wget, nslookup, ping, nc, ip, nft and iptables that are installed; what is missing is told.

mod hand;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use leakcheck::lab::{self, Condition, Lab, LabSpec, Leak, Variant, has_legacy_tables};
use leakcheck::model::report::{Report, VerdictWord};
use serde::{Deserialize, Serialize};

/// How long the tunnel stays down: as in the matrix, long enough for leaks that come two seconds after its death.
const WINDOW: &str = "2500ms";

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Said {
    Passed,
    Warned,
    Unsure,
    Failed,
}

/// What the script came to.
#[derive(Debug, Serialize, Deserialize)]
struct ByHand {
    said: Said,
    seconds: f64,
    /// Checks whose program is not installed.
    missing: Vec<String>,
}

struct Compared {
    id: String,
    title: String,
    sealed: bool,
    hand: ByHand,
    said: Said,
    seconds: f64,
}

/// A stack, as `demo` is told of it.
#[derive(Clone)]
struct Stack {
    id: String,
    title: String,
    sealed: bool,
    leak: Option<String>,
    variant: Option<String>,
    condition: Option<String>,
    /// Without outages: the class shows while the tunnel is up.
    quick: bool,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Run by `cargo test` too, where it should cost nothing.
    if arguments.iter().any(|argument| argument == "--test") {
        return Ok(());
    }
    let value =
        |name: &str| arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1));
    let stacks = stacks()?;
    if let Some(id) = value("--by-hand") {
        let stack = stacks.iter().find(|stack| stack.id == *id).context("there is no such stack")?;
        println!("{}", serde_json::to_string(&by_hand(stack)?)?);
        return Ok(());
    }
    let only = value("--only").cloned().unwrap_or_default();
    let at_once: usize = value("--at-once").map_or(Ok(1), |text| text.parse()).context("read --at-once")?;
    let left = Mutex::new(stacks.into_iter().filter(|stack| stack.id.contains(&only)).enumerate());
    let done = Mutex::new(BTreeMap::new());
    let work = || -> Result<()> {
        loop {
            let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((place, stack)) = next else { return Ok(()) };
            let one = compare(stack)?;
            println!(
                "{:28} by hand {:7} {:6.1} s   leakcheck {:7} {:6.1} s",
                one.id,
                word(one.hand.said, one.sealed),
                one.hand.seconds,
                word(one.said, one.sealed),
                one.seconds
            );
            done.lock().unwrap_or_else(PoisonError::into_inner).insert(place, one);
        }
    };
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..at_once.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a comparison broke off"))?)
    })?;
    let compared: Vec<Compared> = done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect();
    let summary = summary(&compared);
    println!("\n{summary}");
    if arguments.iter().any(|argument| argument == "--write") {
        if !only.is_empty() {
            bail!("the comparison is written when all stacks were compared, without --only");
        }
        write(&compared, &summary)?;
    }
    Ok(())
}

/// Every leak class that this machine can have, and every sealed stack.
fn stacks() -> Result<Vec<Stack>> {
    let mut all = vec![Stack {
        id: "sealed".to_owned(),
        title: "As Gluetun makes it".to_owned(),
        sealed: true,
        leak: None,
        variant: None,
        condition: None,
        quick: false,
    }];
    all.extend(Variant::all()?.into_iter().filter(|variant| has_legacy_tables() || !variant.needs_legacy()).map(
        |variant| Stack {
            id: variant.id.clone(),
            title: variant.title,
            sealed: true,
            leak: None,
            variant: Some(variant.id),
            condition: None,
            quick: false,
        },
    ));
    all.extend(Condition::all()?.into_iter().map(|condition| Stack {
        id: condition.id.clone(),
        title: condition.title,
        sealed: true,
        leak: None,
        variant: None,
        condition: Some(condition.id),
        quick: false,
    }));
    let alone = !nix::unistd::geteuid().is_root();
    let legacy = has_legacy_tables();
    let here =
        |leak: &Leak| !(leak.needs_containers() || alone && leak.needs_users() || !legacy && leak.needs_legacy());
    all.extend(Leak::all()?.into_iter().filter(here).map(|leak| Stack {
        quick: leak.shows_while_up(),
        id: leak.id.clone(),
        title: leak.title,
        sealed: false,
        leak: Some(leak.id),
        variant: None,
        condition: None,
    }));
    Ok(all)
}

/// The script in a lab of this process's own, of which a process can have one.
fn by_hand(stack: &Stack) -> Result<ByHand> {
    let world = lab::enter_user_namespace()?;
    let mut spec = stack.leak.as_deref().map(Leak::named).transpose()?.map_or_else(LabSpec::sealed, LabSpec::broken);
    spec.variant = stack.variant.as_deref().map(Variant::named).transpose()?.unwrap_or_default();
    let home = spec.variant.home;
    let condition = stack.condition.as_deref().map(Condition::named).transpose()?;
    let lab = Lab::start(&world, condition.into_iter().fold(spec, LabSpec::under))?;
    let (took, output) = hand::check(&lab, home, true)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    eprintln!("{text}{}", String::from_utf8_lossy(&output.stderr));
    let missing = text.lines().filter_map(|line| line.strip_prefix("missing: ")).map(str::to_owned).collect();
    let said = if output.status.success() { Said::Passed } else { Said::Failed };
    Ok(ByHand { said, seconds: took.as_secs_f64(), missing })
}

fn compare(stack: Stack) -> Result<Compared> {
    let itself = std::env::current_exe().context("find this program")?;
    let output = Command::new(itself).args(["--by-hand", &stack.id]).output().context("start the checks by hand")?;
    let hand: ByHand = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{}: {}", stack.id, String::from_utf8_lossy(&output.stderr)))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_leakcheck"));
    command.args(["demo", "--format", "json", "--report-dir", "none"]).env("LEAKCHECK_OUTAGE__WINDOW", WINDOW);
    command.args(stack.quick.then_some("--quick"));
    command.args(stack.leak.iter().flat_map(|leak| ["--leak", leak]));
    command.args(stack.variant.iter().flat_map(|variant| ["--variant", variant]));
    command.args(stack.condition.iter().flat_map(|condition| ["--condition", condition]));
    let output = command.output().context("start leakcheck")?;
    let report: Report = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{}: {}", stack.id, String::from_utf8_lossy(&output.stderr)))?;
    // Docker's probes have nobody to ask in the lab; that is no warning.
    let warned = report.probes.iter().any(|probe| probe.verdict == VerdictWord::Warn);
    let said = match report.exit_status {
        0 if warned => Said::Warned,
        0 => Said::Passed,
        3 => Said::Unsure,
        _ => Said::Failed,
    };
    let Stack { id, title, sealed, .. } = stack;
    Ok(Compared { id, title, sealed, hand, said, seconds: report.duration_ms as f64 / 1e3 })
}

fn word(said: Said, sealed: bool) -> &'static str {
    match (said, sealed) {
        (Said::Failed, true) => "ALARM",
        (Said::Failed, false) => "found",
        (Said::Warned, _) => "warned",
        (Said::Unsure, _) => "unsure",
        (Said::Passed, true) => "passed",
        (Said::Passed, false) => "missed",
    }
}

/// The table of the README.
fn summary(compared: &[Compared]) -> String {
    let (sealed, leaks): (Vec<&Compared>, Vec<&Compared>) = compared.iter().partition(|one| one.sealed);
    let found = |said: Said| matches!(said, Said::Failed | Said::Warned);
    let row = |name: &str, said: &dyn Fn(&Compared) -> Said, seconds: &dyn Fn(&Compared) -> f64| {
        let mut times: Vec<f64> = compared.iter().map(seconds).collect();
        times.sort_by(f64::total_cmp);
        format!(
            "| {name} | {} of {} | {} of {} | {} | {:.1} s |\n",
            leaks.iter().filter(|one| found(said(one))).count(),
            leaks.len(),
            sealed.iter().filter(|one| said(one) == Said::Failed).count(),
            sealed.len(),
            compared.iter().filter(|one| said(one) == Said::Unsure).count(),
            times.get(times.len() / 2).copied().unwrap_or_default()
        )
    };
    let mut text = "| | leak classes found | false alarms on sealed stacks | inconclusive | time, median |\n| --- | --- | --- | --- | --- |\n"
        .to_owned();
    text += &row("checks by hand, as a script", &|one| one.hand.said, &|one| one.hand.seconds);
    text += &row("leakcheck", &|one| one.said, &|one| one.seconds);
    let mut missing: Vec<&String> = compared.iter().flat_map(|one| &one.hand.missing).collect();
    missing.sort();
    missing.dedup();
    if !missing.is_empty() {
        let named: Vec<&str> = missing.into_iter().map(String::as_str).collect();
        text += &format!("\nLeft out by the script, for want of a program: {}.\n", named.join(", "));
    }
    text
}

fn write(compared: &[Compared], summary: &str) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = format!(
        "# Beside the checks by hand\n\nWritten by `cargo bench --bench compare -- --write`: each stack of the lab, checked by the script \
         `benches/compare/hand_checks.sh` and by leakcheck in one run.\n\n{summary}"
    );
    for (title, is_sealed) in [("Leak classes", false), ("Sealed stacks", true)] {
        text += &format!("\n## {title}\n\n| stack | by hand | leakcheck |\n| --- | --- | --- |\n");
        for one in compared.iter().filter(|one| one.sealed == is_sealed) {
            text += &format!(
                "| **{}**: {} | {} | {} |\n",
                one.id,
                one.title,
                word(one.hand.said, one.sealed),
                word(one.said, one.sealed)
            );
        }
    }
    fs::write(root.join("reports/comparison.md"), text).context("write reports/comparison.md")?;
    let path = root.join("README.md");
    let readme = fs::read_to_string(&path).context("read the README")?;
    let (begin, end) = ("<!-- comparison:begin -->\n", "<!-- comparison:end -->");
    let (head, rest) = readme.split_once(begin).context("the README has no place for the comparison")?;
    let (_, tail) = rest.split_once(end).context("the README's place for the comparison has no end")?;
    fs::write(&path, format!("{head}{begin}{summary}{end}{tail}")).context("write the README")
}
