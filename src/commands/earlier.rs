//! What a run has to do with earlier ones: `--baseline`, a report that it is held against, and `--history`, a line for each run.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;

use super::Hint;
use crate::model::report::{Report, VERSION, VerdictWord};

/// The longest report that is read: a run of three outages on a broken stack has some 300 KiB.
const LONGEST: u64 = 64 * 1024 * 1024;
/// The file of a history.
const FILE: &str = "history.jsonl";

/// Reads the report of an earlier run.
///
/// # Errors
/// When the file cannot be read, or is no report of this version.
pub(super) fn baseline(path: &Path) -> anyhow::Result<Report> {
    let doing = || format!("read the baseline {}", path.display());
    let help = "--baseline takes a report.json that leakcheck wrote into its report folder";
    let size = fs::metadata(path).with_context(doing)?.len();
    if size > LONGEST {
        let message = format!("{}: it is longer than {} MiB", doing(), LONGEST / 1024 / 1024);
        return Err(Hint { message, help: help.to_owned() }.into());
    }
    let text = fs::read_to_string(path).with_context(doing)?;
    let report: Report = serde_json::from_str(&text)
        .map_err(|error| Hint { message: format!("{}: {error}", doing()), help: help.to_owned() })?;
    if report.version != VERSION {
        let message = format!("{}: its version is {}, and not {VERSION}", doing(), report.version);
        return Err(Hint { message, help: help.to_owned() }.into());
    }
    Ok(report)
}

/// Appends a line on this run to the history in `folder`, and gives the file.
pub(super) fn remember(folder: &Path, report: &Report) -> (PathBuf, io::Result<()>) {
    let path = folder.join(FILE);
    let names = |verdict: VerdictWord| -> Vec<String> {
        report.probes.iter().filter(|probe| probe.verdict == verdict).map(|probe| probe.name()).collect()
    };
    let line = json!({
        "started": report.started, "tool": report.tool, "target": report.target, "duration_ms": report.duration_ms,
        "verdict": report.verdict, "exit_status": report.exit_status, "summary": report.summary,
        "fail": names(VerdictWord::Fail), "inconclusive": names(VerdictWord::Inconclusive), "warn": names(VerdictWord::Warn),
    });
    let written = fs::create_dir_all(folder).and_then(|()| {
        // One write for the whole line: runs that end at the same time do not mix theirs.
        OpenOptions::new().append(true).create(true).open(&path)?.write_all(format!("{line}\n").as_bytes())
    });
    (path, written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::{failing, passing};

    #[test]
    fn a_report_is_read_again_and_anything_else_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        fs::write(&path, serde_json::to_string(&failing()).unwrap()).unwrap();
        assert_eq!(baseline(&path).unwrap().probes.len(), failing().probes.len());
        for (text, told) in [("{", "EOF"), ("{\"version\": 1}", "missing field"), ("", "EOF")] {
            fs::write(&path, text).unwrap();
            let error = format!("{:#}", baseline(&path).unwrap_err());
            assert!(error.contains("report.json") && error.contains(told), "{error}");
        }
        let later = Report { version: 2, ..passing() };
        fs::write(&path, serde_json::to_string(&later).unwrap()).unwrap();
        assert!(baseline(&path).unwrap_err().to_string().contains("version is 2"));
        assert!(format!("{:#}", baseline(&folder.path().join("none.json")).unwrap_err()).contains("none.json"));
    }

    #[test]
    fn each_run_is_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let within = folder.path().join("a/b");
        for report in [passing(), failing()] {
            remember(&within, &report).1.unwrap();
        }
        let text = fs::read_to_string(within.join(FILE)).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["verdict"], "pass");
        assert_eq!(lines[1]["fail"][0], "exit-address");
    }
}
