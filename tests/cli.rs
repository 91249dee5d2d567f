//! What the command line prints, on which stream, and its exit status. Snapshots are in `tests/snapshots`;
//! `SNAPSHOTS=overwrite cargo test --test cli` writes them anew.

use snapbox::cmd::{Command, cargo_bin};
use snapbox::file;

/// leakcheck in an environment that is the same everywhere.
fn leakcheck(args: &str) -> Command {
    Command::new(cargo_bin!("leakcheck")).env_clear().env("COLUMNS", "100").args(args.split_whitespace())
}

#[test]
fn help_goes_to_standard_output() {
    leakcheck("--help").assert().code(0).stdout_eq(file!["snapshots/help.txt"]).stderr_eq("");
    leakcheck("run --help").assert().code(0).stdout_eq(file!["snapshots/help-run.txt"]).stderr_eq("");
}

#[test]
fn usage_errors_are_status_2_on_standard_error() {
    leakcheck("").assert().code(2).stdout_eq("");
    leakcheck("run --format yaml").assert().code(2).stdout_eq("").stderr_eq(file!["snapshots/unknown-format.txt"]);
    leakcheck("exlpain ipv6").assert().code(2).stdout_eq("");
}

#[test]
fn list_and_explain_tell_of_the_probes() {
    leakcheck("list").assert().code(0).stdout_eq(file!["snapshots/list.txt"]).stderr_eq("");
    let explained = leakcheck("explain kill-switch").assert().code(0).stderr_eq("");
    let text = String::from_utf8_lossy(&explained.get_output().stdout).into_owned();
    // The leaks that it is tried on change with every fixture, and a fixture is to be one file.
    let head = text.split_once("\n  tried on").map_or(text.clone(), |(head, _)| head.to_owned());
    snapbox::assert_data_eq!(head, file!["snapshots/explain.txt"]);
}

#[cfg(feature = "lab")]
#[test]
fn every_leak_and_condition_of_the_lab_is_listed() {
    let listed = leakcheck("lab list").assert().code(0).stderr_eq("");
    let text = String::from_utf8_lossy(&listed.get_output().stdout).into_owned();
    let entries = ["leaks", "conditions"]
        .into_iter()
        .flat_map(|kind| std::fs::read_dir(format!("{}/fixtures/{kind}", env!("CARGO_MANIFEST_DIR"))).unwrap());
    for entry in entries {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ext| ext == "toml") {
            let class = format!("\n {} ", path.file_stem().unwrap().display());
            assert!(text.contains(&class), "{class:?} is not in {text}");
        }
    }
}

#[test]
fn a_slip_gets_help() {
    leakcheck("explain kil-switch")
        .assert()
        .code(2)
        .stdout_eq("")
        .stderr_eq("error: failed to find the probe `kil-switch`\nhelp: did you mean `kill-switch`?\n");
}

#[test]
fn a_folder_of_probes_is_added_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let probe = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/probes/ipv6.toml")).unwrap();
    std::fs::write(dir.path().join("mine.toml"), &probe).unwrap();
    let probes = format!("--probes {}", dir.path().display());
    let listed = leakcheck(&format!("list {probes}")).assert().code(0);
    assert!(String::from_utf8_lossy(&listed.get_output().stdout).contains(" mine "));
    for (old, new, told) in [
        (
            "nothing-on-uplink",
            "all-is-well",
            "mine.toml:6: unknown variant `all-is-well`, expected one of `exit-is-vpn`",
        ),
        ("\"uplink\"", "\"downlink\"", "mine.toml: unknown technique `downlink`"),
        ("family = \"ipv6\"", "family = \"ipv5\"", "mine.toml: `params`: unknown variant `ipv5`"),
        ("technique = \"uplink\"", "technique = \"outage-sampler\"", "`phases` has to be [\"outage\"]"),
    ] {
        std::fs::write(dir.path().join("mine.toml"), probe.replace(old, new)).unwrap();
        let refused = leakcheck(&format!("explain mine {probes}")).assert().code(2).stdout_eq("");
        let stderr = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
        assert!(stderr.contains(told), "{stderr}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = std::process::Command::new(cargo_bin!("leakcheck")).arg("list").stdout(writer).status().unwrap();
    assert_eq!(status.code(), Some(0));
}
