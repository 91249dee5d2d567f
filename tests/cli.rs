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

#[test]
fn an_outage_that_is_named_twice_is_one() {
    let listed =
        leakcheck("run --list kill-switch --outage vpn-stop --outage link-down --outage vpn-stop").assert().code(0);
    let text = String::from_utf8_lossy(&listed.get_output().stdout).into_owned();
    assert_eq!(text.matches("kill-switch/outage/vpn-stop").count(), 1, "{text}");
    assert_eq!(text.matches("kill-switch/outage/link-down").count(), 1, "{text}");
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
fn every_command_has_a_page_and_completions() {
    let page = |args: &str| {
        let printed = leakcheck(args).assert().code(0).stderr_eq("");
        String::from_utf8_lossy(&printed.get_output().stdout).into_owned()
    };
    let program = page("man");
    assert!(program.contains(".TH leakcheck 1") && program.contains("130  interrupted"), "{program}");
    for command in ["run", "restore", "list", "explain", "doctor", "init", "completions", "man"] {
        assert!(page(&format!("man {command}")).contains(&format!(".TH leakcheck-{command} 1")), "{command}");
    }
    leakcheck("man rum").assert().code(2).stdout_eq("").stderr_eq(
        "error: failed to print the manual page of `rum`: there is no such command\nhelp: did you mean `run`?\n",
    );
    leakcheck("man agent").assert().code(2).stdout_eq("");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = page(&format!("completions {shell}"));
        // Values are completed where the shell's generator knows them.
        let values = ["elvish", "powershell"].contains(&shell) || text.contains("endpoint-block");
        assert!(text.contains("outage") && values, "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("completions");
    std::fs::write(&file, page("completions bash")).unwrap();
    let read = std::process::Command::new("bash").arg("-n").arg(&file).status().unwrap();
    assert!(read.success());
}

/// What it finds differs from machine to machine; that a stack is missing does not.
#[test]
fn doctor_says_what_is_missing_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().display();
    let looked = leakcheck(&format!("doctor --target netns:no-such-stack --state-dir {state}")).assert().code(2);
    let text = String::from_utf8_lossy(&looked.get_output().stdout).into_owned();
    for part in ["kernel: Linux", "privileges:", "journal:", "engine:", "missing     stack: ", "→ ", "Next: see to"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it left something in the journal's folder");
}

#[test]
fn init_writes_over_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("leakcheck.toml");
    std::fs::write(&file, "mine").unwrap();
    let refused = leakcheck(&format!("init --output {}", file.display())).assert().code(2).stdout_eq("");
    let told = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(told.contains("it is there already") && told.contains("--force"), "{told}");
    // Where there is no stack there is nothing to write, and nothing is lost.
    let forced = leakcheck(&format!("init --force --target netns:no-such-stack --output {}", file.display()));
    forced.assert().code(2).stdout_eq("");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
}

#[test]
fn a_wrong_baseline_is_told_before_anything_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.json");
    std::fs::write(&file, "{\"version\": 1}").unwrap();
    let refused = leakcheck(&format!("run --target pid:4194305 --baseline {}", file.display())).assert().code(2);
    let told = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(told.contains("read the baseline") && told.contains("help: --baseline takes a report.json"), "{told}");
    leakcheck("run --only-worse").assert().code(2).stdout_eq("");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = std::process::Command::new(cargo_bin!("leakcheck")).arg("list").stdout(writer).status().unwrap();
    assert_eq!(status.code(), Some(0));
}
