//! The agent is small: what it has resident at its peak, in the audit of a sealed lab. Most of it are the pages of the program itself, so
//! that the bound goes with how the program was built; the one that is promised is that of the binary that is handed out
//! (`cargo test --profile dist --test agent_memory`).
//!
//! Where no lab can be made the trial is shown as ignored; with `LEAKCHECK_LAB=required` it fails.

#[path = "support/agent_memory.rs"]
mod agent_memory;

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};

/// What may be resident, in MiB, by the profile's folder. A program that was built quickly is several times as long.
const MOST: [(&str, u64); 3] = [("dist", 25), ("release", 32), ("debug", 64)];
/// Below this it was not an agent that was watched: its ring of packets alone takes as much.
const LEAST: u64 = 8;

/// Nothing was measured: here, that there is no lab to be had.
const NOTHING_MEASURED: i32 = 2;

/// What came of an audit.
struct Audit {
    status: Option<i32>,
    /// KiB.
    peak: Option<u64>,
    said: String,
}

fn main() -> ExitCode {
    let required = std::env::var("LEAKCHECK_LAB").is_ok_and(|value| value == "required");
    let audited = audit();
    let ignored = !required && audited.as_ref().is_ok_and(|audit| audit.status == Some(NOTHING_MEASURED));
    let trial = Trial::test("the_agent_is_small", || small(audited?)).with_ignored_flag(ignored);
    libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit_code()
}

fn audit() -> std::io::Result<Audit> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_leakcheck"))
        .args(["demo", "--quick", "--report-dir", "none"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let stderr = child.stderr.take();
    // Read beside, so that a full pipe keeps nobody waiting.
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.map(|mut stderr| stderr.read_to_string(&mut text));
        text
    });
    let peak = agent_memory::watch(&mut child)?;
    Ok(Audit { status: child.wait()?.code(), peak, said: reader.join().unwrap_or_default() })
}

fn small(audit: Audit) -> Result<(), Failed> {
    let folder = Path::new(env!("CARGO_BIN_EXE_leakcheck")).parent().and_then(Path::file_name);
    let most = MOST.iter().find(|(profile, _)| folder.is_some_and(|folder| folder == *profile));
    let most = most.map_or(MOST[2].1, |(_, most)| *most);
    match (audit.status, audit.peak) {
        // Too busy a machine makes an audit inconclusive; it has done its work all the same.
        (Some(0 | 3), Some(peak)) if peak <= most * 1024 && peak >= LEAST * 1024 => {
            eprintln!("{:.1} MiB resident at the peak, of at most {most}", peak as f64 / 1024.0);
            Ok(())
        }
        (Some(0 | 3), Some(peak)) => {
            Err(format!("{peak} KiB were resident, where {LEAST} to {most} MiB may be").into())
        }
        (status, peak) => Err(format!("exit status {status:?}, peak {peak:?}: {}", audit.said).into()),
    }
}
