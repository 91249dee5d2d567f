//! How long an audit without outages takes, alone and beside the checks that are made by hand, and what its agent has resident.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use leakcheck::lab::variant::Home;
use leakcheck::lab::{Lab, PrivateDir};
use leakcheck::model::report::{Report, RunVerdict};

use crate::{agent_memory, hand, median};

/// Turns of an audit and of the checks by hand.
const TURNS: usize = 5;
/// The slowest probes are told: they are what an audit takes.
const SLOWEST: usize = 5;

struct Audit {
    /// From the start of the program to its end.
    whole: Duration,
    /// By its own report.
    report: Report,
    /// KiB.
    resident: u64,
}

/// Prints how long they take.
pub fn audits(world: &PrivateDir, lab: &Lab) -> Result<()> {
    let config = world.write("leakcheck.toml", &lab.config_toml()).context("write the lab's configuration")?;
    let (mut audits, mut by_hand) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        for audited in [turn % 2 == 0, turn % 2 != 0] {
            if audited {
                let audit = audit(&config)?;
                println!(
                    "audit: {:.2} s by its report, {:.2} s in all, {} probes, agent {:.1} MiB",
                    audit.report.duration_ms as f64 / 1e3,
                    audit.whole.as_secs_f64(),
                    audit.report.probes.len(),
                    audit.resident as f64 / 1024.0
                );
                audits.push(audit);
            } else {
                let took = by_hand_once(lab, turn < 2)?;
                println!("by hand: {:.2} s", took.as_secs_f64());
                by_hand.push(took.as_secs_f64());
            }
        }
    }
    if let Some(last) = audits.last() {
        let mut slowest: Vec<_> = last.report.probes.iter().map(|probe| (probe.duration_ms, &probe.id)).collect();
        slowest.sort_by_key(|(took, _)| std::cmp::Reverse(*took));
        let told: Vec<String> = slowest.iter().take(SLOWEST).map(|(took, id)| format!("{id} {took} ms")).collect();
        println!("slowest: {}", told.join(", "));
    }
    let most = audits.iter().map(|audit| audit.resident).max().unwrap_or_default();
    let own = median(audits.iter().map(|audit| audit.report.duration_ms as f64 / 1e3).collect());
    let whole = median(audits.iter().map(|audit| audit.whole.as_secs_f64()).collect());
    println!(
        "audit, median of {TURNS}: {own:.2} s by its report, {whole:.2} s in all; agent {:.1} MiB at most",
        most as f64 / 1024.0
    );
    println!("by hand, median of {TURNS}: {:.2} s", median(by_hand));
    Ok(())
}

fn audit(config: &Path) -> Result<Audit> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leakcheck"));
    command.args(["run", "--quick", "--enter", "setns", "--format", "json", "--report-dir", "none", "--config"]);
    command.arg(config).stdout(Stdio::piped()).stderr(Stdio::piped());
    let begun = Instant::now();
    let mut child = command.spawn().context("start leakcheck")?;
    // Read beside, so that a full pipe keeps nobody waiting.
    let mut stdout = child.stdout.take().context("its output")?;
    let reader = std::thread::spawn(move || serde_json::from_reader::<_, Report>(&mut stdout));
    let resident = agent_memory::watch(&mut child)?.context("no agent was seen")?;
    let whole = begun.elapsed();
    let Ok(Ok(report)) = reader.join() else {
        bail!("no report: {}", String::from_utf8_lossy(&child.wait_with_output()?.stderr));
    };
    if report.verdict != RunVerdict::Pass {
        // A machine that is too busy; its times are worth nothing.
        println!("the audit came to {:?}", report.verdict);
    }
    Ok(Audit { whole, report, resident })
}

/// The checks by hand, and how long they took.
fn by_hand_once(lab: &Lab, tell: bool) -> Result<Duration> {
    let (took, output) = hand::check(lab, Home::default(), false)?;
    if tell {
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let lines: BTreeSet<&str> = said.lines().collect();
        println!("by hand: {}", lines.into_iter().collect::<Vec<_>>().join("; "));
    }
    Ok(took)
}
