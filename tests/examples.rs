//! The examples of `reports/examples`: the report of a real audit of the lab, in every format. `LEAKCHECK_BLESS=1 cargo test --test examples`
//! writes the others anew from `report.json`, which the README there says how to record.

use std::path::{Path, PathBuf};
use std::{env, fs};

use leakcheck::model::report::{Report, RunVerdict, VerdictWord};
use leakcheck::report::{FORMATS, Look};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/examples").join(name)
}

fn recorded() -> Report {
    serde_json::from_str(&fs::read_to_string(example("report.json")).unwrap()).unwrap()
}

#[test]
fn each_format_says_what_it_said() {
    let report = recorded();
    for format in FORMATS {
        let text = format.render(&report, &Look::PLAIN).unwrap();
        let path = example(format.file);
        if env::var_os("LEAKCHECK_BLESS").is_some() {
            fs::write(&path, text).unwrap();
            continue;
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == text, "{} differs: LEAKCHECK_BLESS=1 cargo test --test examples, then read it", path.display());
    }
}

/// There is something to see in it.
#[test]
fn the_example_has_a_finding_and_an_outage() {
    let report = recorded();
    assert_eq!(report.verdict, RunVerdict::Fail);
    assert!(report.probes.iter().any(|probe| probe.verdict == VerdictWord::Pass));
    assert!(report.outages.iter().any(|outage| !outage.holes.is_empty()) && !report.wire.leaks.is_empty());
    assert!(report.wire.captured.is_empty(), "packets are no part of a report's text");
}
