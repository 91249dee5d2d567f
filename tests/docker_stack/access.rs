//! The access matrix among containers: rows are asked from inside of their sources by both ways in, hold on the sealed stack and do not on
//! broken ones, come to no verdict where a source or a destination is away, and nothing of it is left behind.

use std::process::Command;

use bollard::Docker;
use bollard::query_parameters::ListContainersOptions;
use leakcheck::model::report::{AccessFound, Report, VerdictWord};
use leakcheck::model::verdict::FailKind;
use libtest_mimic::Trial;

use super::Trials;
use super::stack::{LEAKCHECK, Stack, block_on};

const CONFIG: &str = include_str!("../../fixtures/compose/leakcheck.toml");
const CA: &str = include_str!("../../fixtures/compose/lab-ca.pem");
const PASSWORD: &str = include_str!("../../fixtures/compose/torrent-password");

pub fn trials(trials: &Trials) -> Vec<Trial> {
    let broken = |leak: &'static str, enter: &'static str, body: fn(&Report)| {
        let name = format!("{leak}_fails_by_{enter}");
        trials.on_variant(&name, vec![("LEAKCHECK_LEAK", leak)], move |stack| body(&audit(stack, enter, &rows(stack))))
    };
    vec![
        trials.as_root("access_holds_by_setns", |stack| holds(stack, "setns")),
        trials.on_sealed("access_holds_by_container", |stack| holds(stack, "container")),
        trials.on_sealed("access_that_cannot_be_tried_is_undecided", undecided),
        broken("access-open", "auto", is_open),
        broken("access-open", "container", is_open),
        broken("access-lost", "auto", is_lost),
        broken("access-lost", "container", is_lost),
    ]
}

/// A row: source, destination, and whether it may.
type Row = (String, &'static str, bool);

fn container(stack: &Stack, service: &str) -> String {
    let name = block_on(stack.container(service)).name.expect("a name");
    format!("container:{}", name.trim_start_matches('/'))
}

fn rows(stack: &Stack) -> Vec<Row> {
    let from = |service: &str| container(stack, service);
    vec![
        // By the name that Docker's own resolver gives it, which is asked in the neighbour's network.
        (from("neighbour"), "http://gluetun:8080/", true),
        (from("neighbour"), "icmp://gluetun", true),
        (from("neighbour"), "udp://gluetun:53", true),
        (from("torrent"), "tcp://172.18.0.20:8989", true),
        ("stack".to_owned(), "tcp://172.18.0.20:8989", true),
        // Inside of the VPN, from where no port is open.
        (from("provider"), "tcp://10.64.0.2:8080", false),
        // The Docker host has no way there either, so that the container itself has to show what listens.
        (from("internet"), "tcp://172.18.0.20:8989", false),
    ]
}

/// Runs the one probe, and sees that no container more or less is there than before.
fn audit(stack: &Stack, enter: &str, rows: &[Row]) -> Report {
    let dir = tempfile::tempdir().expect("a folder");
    let row = |(from, to, allow): &Row| format!("[[access]]\nfrom = {from:?}\nto = {to:?}\nallow = {allow}\n");
    let config = format!("{CONFIG}{}", rows.iter().map(row).collect::<String>());
    std::fs::write(dir.path().join("leakcheck.toml"), config).expect("written");
    std::fs::write(dir.path().join("lab-ca.pem"), CA).expect("written");
    std::fs::write(dir.path().join("torrent-password"), PASSWORD).expect("written");
    let target = container(stack, "gluetun").replace("container:", "docker:");
    let before = containers();
    let output = Command::new(LEAKCHECK)
        .args(["run", "--target", &target, "--enter", enter, "--quick", "--exact", "access"])
        .args(["--format", "json", "--report-dir", "none", "--config"])
        .arg(dir.path().join("leakcheck.toml"))
        .output()
        .expect("it starts");
    assert_eq!(containers(), before, "by {enter}");
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Every container of the engine, as `docker ps -a` shows them.
fn containers() -> Vec<String> {
    block_on(async {
        let docker = Docker::connect_with_defaults().expect("an engine").negotiate_version().await.expect("an answer");
        let options = ListContainersOptions { all: true, ..Default::default() };
        let all = docker.list_containers(Some(options)).await.expect("a list");
        let mut ids: Vec<String> = all.into_iter().filter_map(|summary| summary.id).collect();
        ids.sort();
        ids
    })
}

fn found(report: &Report) -> Vec<AccessFound> {
    report.access.iter().map(|row| row.found).collect()
}

fn holds(stack: &Stack, enter: &str) {
    use AccessFound::{KeptOut, Reached};
    let report = &audit(stack, enter, &rows(stack));
    let [probe] = report.probes.as_slice() else { panic!("{report:#?}") };
    assert_eq!(probe.verdict, VerdictWord::Pass, "{probe:#?}");
    assert_eq!(found(report), [Reached, Reached, Reached, Reached, Reached, KeptOut, KeptOut], "{:#?}", report.access);
    let what: Vec<&str> = report.access.iter().map(|row| row.what.as_str()).collect();
    assert!(what[0].contains("HTTP 200") && what[0].contains("at 172.18.0.10"), "{what:#?}");
    assert!(what[5].contains("while it answers stack") && what[6].contains("while it answers container:"), "{what:#?}");
    // No other source is there that could show it: the container with that address is found by the engine.
    let alone = audit(stack, enter, &rows(stack)[6..]);
    assert_eq!(found(&alone), [KeptOut], "{:#?}", alone.access);
}

fn is_open(report: &Report) {
    let [probe] = report.probes.as_slice() else { panic!("{report:#?}") };
    assert_eq!((probe.verdict, probe.kind), (VerdictWord::Fail, Some(FailKind::Leak)), "{probe:#?}");
    assert_eq!(found(report)[5], AccessFound::Open, "{:#?}", report.access);
    assert!(found(report)[..5].iter().all(|found| *found == AccessFound::Reached), "{:#?}", report.access);
}

fn is_lost(report: &Report) {
    let [probe] = report.probes.as_slice() else { panic!("{report:#?}") };
    assert_eq!((probe.verdict, probe.kind), (VerdictWord::Fail, Some(FailKind::Broken)), "{probe:#?}");
    assert_eq!((found(report)[0], found(report)[1]), (AccessFound::Lost, AccessFound::Reached), "{:#?}", report.access);
    assert_eq!(found(report)[5], AccessFound::KeptOut, "{:#?}", report.access);
}

fn undecided(stack: &Stack) {
    let neighbour = container(stack, "neighbour");
    let tried = |enter: &str, from: &str, to: &'static str, allow: bool| {
        let report = audit(stack, enter, &[(from.to_owned(), to, allow)]);
        let reason = report.probes[0].reason.clone().unwrap_or_default();
        assert_eq!(report.probes[0].verdict, VerdictWord::Inconclusive, "{from} to {to} by {enter}: {reason}");
        assert_eq!(found(&report), [AccessFound::Unknown]);
        reason
    };
    let reason = tried("auto", "container:no-such-thing", "tcp://gluetun:8080", true);
    assert!(reason.contains("find a container or compose service named `no-such-thing`"), "{reason}");
    let reason = tried("auto", &neighbour, "tcp://no-such-name:80", false);
    assert!(reason.contains("its name is not resolved there"), "{reason}");
    // Nothing listens there, so the refusal that comes back tells of no rule.
    let reason = tried("auto", &neighbour, "tcp://gluetun:8081", false);
    assert!(reason.contains("either packets get there and nothing listens"), "{reason}");
    stack.compose(&["stop", "-t", "0", "neighbour"]).expect("stopped");
    for enter in ["auto", "container"] {
        let reason = tried(enter, &neighbour, "tcp://gluetun:8080", true);
        assert!(reason.contains("it is exited (docker start "), "{reason}");
        let reason = tried(enter, "stack", "tcp://172.18.0.20:8989", false);
        assert!(reason.contains("proves nothing"), "{reason}");
    }
}
