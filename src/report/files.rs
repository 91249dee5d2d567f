//! Writes the reports of a run into a folder: each whole or not at all, and each whatever becomes of the others. Packets that leaked go
//! beside them into a file of their own.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::{FORMATS, Look, pcapng};
use crate::model::report::Report;

/// The file of the packets that leaked; there is none when none did.
const PACKETS: &str = "leaks.pcapng";

/// Writes `report` into `dir` in every format, and tells for each file whether it is there.
pub fn write_dir(dir: &Path, report: &Report) -> Vec<(PathBuf, io::Result<()>)> {
    let made = fs::create_dir_all(dir);
    let write = |format: &super::Format| {
        made.as_ref().map_err(|e| io::Error::new(e.kind(), e.to_string()))?;
        let text = format.render(report, &Look::PLAIN).map_err(io::Error::other)?;
        replace(&dir.join(format.file), text.as_bytes())
    };
    let mut written: Vec<_> = FORMATS.iter().map(|format| (dir.join(format.file), write(format))).collect();
    let packets = dir.join(PACKETS);
    if !report.wire.captured.is_empty() {
        let cleaned = super::text::cleaned(report);
        let octets = pcapng::render(&cleaned.tool, &cleaned.wire.captured);
        written.push((packets.clone(), replace(&packets, &octets)));
    } else if made.is_ok()
        && let Err(error) = fs::remove_file(&packets)
        && error.kind() != io::ErrorKind::NotFound
    {
        // The packets of an earlier run beside the report of this one would be evidence of what did not happen.
        written.push((packets, Err(error)));
    }
    written
}

/// Writes beside `path` and renames, so that a reader sees the old file or the new one.
fn replace(path: &Path, octets: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    // What a killed run of the same process id left behind. Creating anew follows no link that somebody put there.
    let _ = fs::remove_file(&beside);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&beside)?;
        file.write_all(octets)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn one_report_that_cannot_be_written_costs_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let reports = dir.path().join("a/reports");
        fs::create_dir_all(reports.join("junit.xml")).unwrap();
        fs::write(reports.join("report.json"), "old").unwrap();
        let results = write_dir(&reports, &sample::failing());
        let failed: Vec<_> =
            results.iter().filter(|(_, result)| result.is_err()).map(|(path, _)| path.clone()).collect();
        assert_eq!(failed, [reports.join("junit.xml")]);
        assert!(fs::read_to_string(reports.join("report.json")).unwrap().contains("\"version\": 1"));
        assert!(fs::read_to_string(reports.join("table.txt")).unwrap().contains("FAIL"));
        let left: Vec<_> = fs::read_dir(&reports).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), FORMATS.len(), "{left:?}");
    }

    #[test]
    fn packets_are_there_when_there_were_leaks_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        let mut report = sample::failing();
        report.wire.captured = vec![pcapng::tests::packet()];
        assert_eq!(write_dir(dir.path(), &report).len(), FORMATS.len() + 1);
        assert!(dir.path().join(PACKETS).exists());
        write_dir(dir.path(), &sample::passing());
        assert!(!dir.path().join(PACKETS).exists());
        report.redact(&[]);
        write_dir(dir.path(), &report);
        assert!(!dir.path().join(PACKETS).exists());
        assert!(report.notes.iter().any(|note| note.contains(PACKETS)));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_for_each() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let results = write_dir(&dir.path().join("file/reports"), &sample::passing());
        assert_eq!(results.iter().filter(|(_, result)| result.is_err()).count(), FORMATS.len());
    }
}
