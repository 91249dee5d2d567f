//! The matrix of `leakcheck lab test` as a test: every leak class of `fixtures/leaks` is found by the probes that its file names, every
//! sealed stack passes, and no probe is red or green nowhere. Beside it what else the demo promises.
//!
//! Where no lab can be made the trials are shown as ignored; with `LEAKCHECK_LAB=required` and `LEAKCHECK_DOCKER=required` they fail.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};

use leakcheck::catalog::Catalog;
use leakcheck::lab::matrix::{Matrix, Setup, trials};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let required = |variable| std::env::var(variable).is_ok_and(|value| value == "required");
    let setup = Setup {
        program: env!("CARGO_BIN_EXE_leakcheck").into(),
        lab_required: required("LEAKCHECK_LAB"),
        containers_required: required("LEAKCHECK_DOCKER"),
    };
    let matrix = Arc::new(Mutex::new(Matrix::default()));
    let (mut trials, left_out) =
        trials(&setup, &matrix).unwrap_or_else(|error| panic!("the lab's fixtures are not sound: {error:#}"));
    left_out.iter().for_each(|why| eprintln!("ignored: {why}"));
    let ignored = trials.iter().any(|trial| trial.has_ignored_flag() && trial.name() == "sealed::sealed");
    trials.push(Trial::test("packets-that-leaked", packets_that_leaked).with_ignored_flag(ignored));
    trials.push(Trial::test("readme-shows-the-demo", readme_shows_the_demo).with_ignored_flag(ignored));
    trials.push(Trial::test("nobody-at-the-first-address", nobody_is_there).with_ignored_flag(ignored));
    trials.push(Trial::test("few-descriptors", few_descriptors).with_ignored_flag(ignored));
    let mut arguments = Arguments::from_args();
    // Trials mostly wait for an outage to pass; more than these keep two processors from carrying the tunnels.
    arguments.test_threads.get_or_insert(2);
    let conclusion = libtest_mimic::run(&arguments, trials);
    if arguments.list || conclusion.has_failed() || conclusion.num_filtered_out + conclusion.num_ignored > 0 {
        return conclusion.exit_code();
    }
    match whole(&matrix.lock().expect("the matrix")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the matrix that was just seen has no hole, and the one in the repository has its rows and columns. `LEAKCHECK_BLESS=1` writes that
/// anew.
fn whole(matrix: &Matrix) -> Result<(), String> {
    let catalog = Catalog::builtin().map_err(|error| error.to_string())?;
    let holes = matrix.holes(&catalog);
    if !holes.is_empty() {
        return Err(format!("the matrix has holes:\n{}", holes.join("\n")));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/matrix.md");
    let now = matrix.markdown(&catalog);
    if std::env::var_os("LEAKCHECK_BLESS").is_some() {
        return fs::write(&path, now).map_err(|error| format!("{}: {error}", path.display()));
    }
    let kept = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    if outline(&kept) == outline(&now) {
        return Ok(());
    }
    Err("reports/matrix.md has other rows or columns: LEAKCHECK_BLESS=1 cargo test --test lab_matrix".to_owned())
}

/// Headings, columns and the names of rows; what beside the named probes turns red may differ from run to run.
fn outline(matrix: &str) -> Vec<&str> {
    let lines = matrix.lines().filter(|line| line.starts_with(['#', '|']));
    lines.map(|line| if line.starts_with("| **") { line.split(" | ").next().unwrap_or(line) } else { line }).collect()
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

/// An address that nobody has cannot resolve: that a question to it does not show is no doubt.
fn nobody_is_there() -> Result<(), Failed> {
    let output = Command::new(env!("CARGO_BIN_EXE_leakcheck"))
        .args(["demo", "--quick", "--format", "json", "--report-dir", "none", "dns-local-resolver"])
        .env("LEAKCHECK_LOCAL__SUBNETS", "172.18.0.0/16,172.18.7.0/24,192.168.1.0/24")
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(0) && said.contains("172.18.7.1") {
        return Ok(());
    }
    Err(format!("{}\n{said}{}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

/// With few descriptors to begin with, as containers have them, and more to be had.
fn few_descriptors() -> Result<(), Failed> {
    let mut command = Command::new("prlimit");
    command.args(["--nofile=256:16384", env!("CARGO_BIN_EXE_leakcheck")]);
    let output = command.args(["demo", "--quick", "--report-dir", "none", "uplink"]).output()?;
    if output.status.code() == Some(0) {
        return Ok(());
    }
    Err(format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stdout)).into())
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
