//! The examples of `reports/examples`: the report of a real audit of the lab, in every format. `LEAKCHECK_BLESS=1 cargo test --test examples`
//! writes the others anew from `report.json`, which the README there says how to record.

use std::path::{Path, PathBuf};
use std::{env, fs};

use leakcheck::model::probe::Phase;
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

/// What a stack without any firewall comes to: 500 findings of probes of many groups, and as many kinds of packets on the wire.
fn of_many_leaks() -> Report {
    let mut report = recorded();
    let finding = report.probes.iter().find(|probe| probe.verdict == VerdictWord::Fail).unwrap().clone();
    let groups = ["exit", "dns", "ipv6", "uplink", "torrent", "access", "wire", "stack"];
    for number in 0..500 {
        let mut probe = finding.clone();
        probe.group = groups[number / 8 % groups.len()].to_owned();
        probe.id = format!("{}-leak-{}", probe.group, number / 64);
        probe.method = Some(["vpn-stop", "link-down", "endpoint-block", "process-kill"][number % 4].to_owned());
        probe.phase = if number % 8 < 4 { Phase::Outage } else { Phase::Recovered };
        report.probes.push(probe);
    }
    let leaks = report.wire.leaks.clone();
    report.wire.leaks = leaks.into_iter().cycle().take(500).collect();
    report.settle();
    report
}

/// What of a part of the page is outside of the fold that it begins with, if it begins with one.
fn after_fold(at: usize, part: &str) -> &str {
    if at == 0 { part } else { part.split_once("</details>").unwrap().1 }
}

/// Reports of many leaks stay such as their readers take, and people read. With `LEAKCHECK_MANY_LEAKS=DIR` they are written there, to be
/// looked at.
#[test]
fn many_leaks_are_no_wall() {
    let report = of_many_leaks();
    let rendered =
        |name: &str| FORMATS.iter().find(|format| format.name == name).unwrap().render(&report, &Look::PLAIN);
    if let Some(dir) = env::var_os("LEAKCHECK_MANY_LEAKS") {
        fs::create_dir_all(&dir).unwrap();
        for format in FORMATS {
            fs::write(Path::new(&dir).join(format.file), rendered(format.name).unwrap()).unwrap();
        }
    }
    let markdown = rendered("markdown").unwrap();
    assert!(markdown.len() < 1 << 20, "a step summary of GitHub takes 1 MiB: {}", markdown.len());
    assert!(markdown.matches("\n### fail ").count() < 100);
    let page = rendered("html").unwrap();
    assert!(page.len() < 700_000, "{}", page.len());
    // What is not folded: two screens of findings, one of packets, and no group of hundreds of checks.
    let open: String = page.split("<details>").enumerate().map(|(at, part)| after_fold(at, part)).collect();
    assert!(open.matches("<dl>").count() <= 20 && open.matches("<td class=\"mono packet\">").count() <= 25);
    assert!(open.matches("<tr class=\"fail\">").count() <= 30);
    let table = rendered("table").unwrap();
    assert!(table.matches("\n  happened ").count() < 50, "findings");
    let conclusion = table.lines().last().unwrap();
    assert_eq!(conclusion, "FAIL: 501 of 515 checks did not hold. Mend that, then ask again.");
    let junit = rendered("junit").unwrap();
    assert!(junit.len() < 30_000_000, "GitLab takes 30 MB: {}", junit.len());
}
