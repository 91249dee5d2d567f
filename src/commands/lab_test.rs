//! `leakcheck lab test`: every leak class and every sealed stack of the lab, audited by this program, and the matrix of what was found.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use libtest_mimic::{Arguments, Conclusion};

use super::print;
use crate::catalog::Catalog;
use crate::cli::LabTestArgs;
use crate::lab::matrix::{Matrix, Setup, count_holes, trials};
use crate::runner::PASSED;

/// A trial failed, or the matrix has a hole.
const FAILED: u8 = 1;
/// Something could not be run here.
const INCONCLUSIVE: u8 = 3;
/// As many at a time if nothing else is said: trials mostly wait for an outage to pass.
const AT_ONCE: usize = 2;

/// Runs the trials, prints the matrix, and writes it when all were run. Gives the exit status: 1 when a trial failed or the matrix has a
/// hole, 3 when something could not be run here.
///
/// # Errors
/// When a fixture is not well formed, or the matrix cannot be written.
pub fn test(args: &LabTestArgs) -> anyhow::Result<u8> {
    let program = std::env::current_exe().context("find this program")?;
    let catalog = Catalog::builtin()?;
    let matrix = Arc::new(Mutex::new(Matrix::default()));
    let setup = Setup { program, lab_required: false, containers_required: false };
    let (trials, left_out) = trials(&setup, &matrix)?;
    let arguments = Arguments {
        filter: args.filter.clone(),
        exact: args.exact,
        skip: args.skip.clone(),
        list: args.list,
        test_threads: Some(args.test_threads.unwrap_or(AT_ONCE)),
        ..Arguments::default()
    };
    let conclusion = libtest_mimic::run(&arguments, trials);
    if args.list {
        return Ok(PASSED);
    }
    let matrix = matrix.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut text = matrix.text(&catalog);
    for why in &left_out {
        text.push_str(&format!("left out: {why}\n"));
    }
    let holes = if is_whole(&conclusion) { matrix.holes(&catalog) } else { Vec::new() };
    for hole in &holes {
        text.push_str(&format!("hole: {hole}\n"));
    }
    if args.matrix.as_os_str() != "none" && is_whole(&conclusion) {
        if let Some(folder) = args.matrix.parent() {
            fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))?;
        }
        fs::write(&args.matrix, matrix.markdown(&catalog))
            .with_context(|| format!("write the matrix to {}", args.matrix.display()))?;
        text.push_str(&format!("the matrix is in {}\n", args.matrix.display()));
    }
    let (leaks, sealed) = matrix.counts();
    text.push_str(&format!(
        "leak classes: {leaks}; sealed stacks: {sealed}; trials that failed: {}; left out: {}; {}\n",
        conclusion.num_failed,
        conclusion.num_ignored,
        if is_whole(&conclusion) { count_holes(&holes) } else { "holes are looked for when all are run".to_owned() }
    ));
    print(&text)?;
    Ok(match conclusion {
        _ if conclusion.num_failed > 0 || !holes.is_empty() => FAILED,
        _ if conclusion.num_ignored > 0 => INCONCLUSIVE,
        _ => PASSED,
    })
}

/// Whether nothing was left out, by filters or for what is lacking here.
fn is_whole(conclusion: &Conclusion) -> bool {
    conclusion.num_filtered_out == 0 && conclusion.num_ignored == 0
}
