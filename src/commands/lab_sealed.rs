//! `leakcheck lab sealed`: sealed stacks audited again and again, to count false alarms.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;

use super::print;
use crate::cli::LabSealedArgs;
use crate::lab::{Variant, has_legacy_tables};
use crate::model::report::{Report, VerdictWord};
use crate::runner::PASSED;

/// A sealed stack was accused, or an audit broke off.
const FAILED: u8 = 1;
/// Nothing was accused, and some audits came to no verdict.
const INCONCLUSIVE: u8 = 3;
/// As many at a time if nothing else is said.
const AT_ONCE: usize = 2;
/// How long the tunnel stays down.
const WINDOW: &str = "1s";

/// What became of the audits.
#[derive(Default)]
struct Count {
    passed: usize,
    /// Audits that accused somebody, and what they said.
    alarms: Vec<String>,
    /// Audits that came to no verdict.
    unsure: usize,
    /// How often each reason for that was told.
    reasons: BTreeMap<String, usize>,
}

/// Audits the variants in turn, each in a process of its own, and gives the exit status.
///
/// # Errors
/// When a fixture is not well formed, or an audit cannot be started.
pub fn sealed(args: &LabSealedArgs) -> anyhow::Result<u8> {
    let program = std::env::current_exe().context("find this program")?;
    // The plain one, and all others that this machine can have.
    let here = |variant: &Variant| !variant.needs_legacy() || has_legacy_tables();
    let variants: Vec<Option<String>> = std::iter::once(None)
        .chain(Variant::all()?.into_iter().filter(here).map(|variant| Some(variant.id)))
        .filter(|id| args.variant.is_empty() || args.variant.iter().any(|wanted| Some(wanted) == id.as_ref()))
        .collect();
    if let Some(unknown) = args.variant.iter().find(|wanted| !variants.contains(&Some((*wanted).clone()))) {
        Variant::named(unknown)?;
        anyhow::bail!(
            "audit the variant {unknown}: this kernel has no tables of iptables-legacy, or they are not loaded"
        );
    }
    let (next, count) = (AtomicUsize::new(0), Mutex::new(Count::default()));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= args.runs {
                return;
            }
            let variant = variants[number % variants.len()].as_deref();
            let outcome = audit(&program, variant, args.quick);
            let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
            count.take(variant.unwrap_or("sealed"), outcome);
            if (number + 1) % 50 == 0 {
                eprintln!("{}", count.line());
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..args.test_threads.unwrap_or(AT_ONCE).min(args.runs.max(1)) {
            scope.spawn(work);
        }
    });
    let count = count.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut text = String::new();
    for alarm in &count.alarms {
        text.push_str(&format!("{alarm}\n"));
    }
    for (reason, times) in &count.reasons {
        text.push_str(&format!("{times} times inconclusive: {reason}\n"));
    }
    text.push_str(&format!("{}, in {} variants\n", count.line(), variants.len()));
    print(&text)?;
    Ok(match &count {
        count if !count.alarms.is_empty() => FAILED,
        count if count.unsure > 0 => INCONCLUSIVE,
        _ => PASSED,
    })
}

/// One audit's report, or why there is none.
fn audit(program: &std::path::Path, variant: Option<&str>, quick: bool) -> Result<Report, String> {
    let mut command = Command::new(program);
    command.args(["demo", "--format", "json", "--report-dir", "none"]).env("LEAKCHECK_OUTAGE__WINDOW", WINDOW);
    command.args(variant.iter().flat_map(|variant| ["--variant", variant]));
    command.args(quick.then_some("--quick"));
    let output = command.output().map_err(|error| format!("it could not be started: {error}"))?;
    serde_json::from_slice(&output.stdout).map_err(|error| {
        format!("{}: no report: {error}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())
    })
}

impl Count {
    fn take(&mut self, variant: &str, outcome: Result<Report, String>) {
        let report = match outcome {
            Ok(report) => report,
            Err(why) => return self.alarms.push(format!("{variant}: {why}")),
        };
        let of = |verdicts: &[VerdictWord]| -> Vec<String> {
            let found = report.probes.iter().filter(|probe| verdicts.contains(&probe.verdict));
            found
                .map(|probe| {
                    format!("{}: {} ({})", probe.name(), probe.summary, probe.reason.as_deref().unwrap_or_default())
                })
                .collect()
        };
        let accused = of(&[VerdictWord::Fail, VerdictWord::Warn]);
        let doubts = of(&[VerdictWord::Inconclusive]);
        if !accused.is_empty() {
            self.alarms.push(format!("{variant}: {}", accused.join("; ")));
        } else if !doubts.is_empty() || report.exit_status != PASSED {
            self.unsure += 1;
            for doubt in doubts {
                *self.reasons.entry(format!("{variant}: {doubt}")).or_default() += 1;
            }
        } else {
            self.passed += 1;
        }
    }

    fn line(&self) -> String {
        let all = self.passed + self.unsure + self.alarms.len();
        format!(
            "{all} sealed runs: {} passed, {} inconclusive, {} false alarms",
            self.passed,
            self.unsure,
            self.alarms.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn who_is_accused_is_a_false_alarm_and_who_is_not_cleared_is_none() {
        let mut count = Count::default();
        let mut passing = sample::passing();
        passing.exit_status = 0;
        passing.probes.iter_mut().for_each(|probe| probe.verdict = VerdictWord::Pass);
        let mut unsure = passing.clone();
        unsure.probes[0].verdict = VerdictWord::Inconclusive;
        count.take("sealed", Ok(passing));
        count.take("sealed", Ok(unsure.clone()));
        count.take("sealed", Ok(unsure));
        assert_eq!(count.line(), "3 sealed runs: 1 passed, 2 inconclusive, 0 false alarms");
        assert_eq!(count.reasons.values().copied().collect::<Vec<_>>(), [2]);
        count.take("strict", Ok(sample::failing()));
        count.take("strict", Err("it broke off".to_owned()));
        assert_eq!(count.line(), "5 sealed runs: 1 passed, 2 inconclusive, 2 false alarms");
        assert!(count.alarms.iter().all(|alarm| alarm.starts_with("strict: ")), "{:?}", count.alarms);
    }
}
