//! Reports made by hand, for the tests of the formats.

use serde_json::{Map, json};

use crate::model::probe::{Phase, Severity};
use crate::model::report::*;
use crate::model::verdict::FailKind;

/// One result of a probe of this id and verdict.
pub(crate) fn probe(id: &str, phase: Phase, verdict: VerdictWord, summary: &str) -> ProbeResult {
    ProbeResult {
        id: id.to_owned(),
        group: id.split('-').next().unwrap_or(id).to_owned(),
        title: format!("The title of {id}"),
        phase,
        method: (phase != Phase::Up).then(|| "vpn-stop".to_owned()),
        verdict,
        kind: (verdict == VerdictWord::Fail).then_some(FailKind::Leak),
        summary: summary.to_owned(),
        reason: (verdict != VerdictWord::Pass).then(|| format!("the reason of {id}")),
        duration_ms: 123,
        evidence: (0..9).map(|n| evidence(f64::from(n) + 0.25, &format!("evidence {n} of {id}"))).collect(),
        ways: None,
        claim: format!("The claim of {id}."),
        severity: Severity::Critical,
        why: format!(
            "Why {id} matters, at such a length that it has to be\nwrapped at any width that a terminal could sensibly have."
        ),
        fix: format!("How to mend {id}."),
    }
}

fn evidence(at_ms: f64, what: &str) -> EvidenceLine {
    let mut fields = Map::new();
    fields.insert("dst".to_owned(), json!("8.8.8.8:53"));
    fields.insert("list".to_owned(), json!([{"ip": "198.51.100.3"}, 1, null]));
    EvidenceLine { at_ms, what: what.to_owned(), fields }
}

/// A run in which nothing is wrong.
pub(crate) fn passing() -> Report {
    let mut report = Report {
        version: VERSION,
        tool: "leakcheck 0.1.0".to_owned(),
        target: "docker:gluetun".to_owned(),
        started: "2026-11-20T06:13:52Z".to_owned(),
        duration_ms: 7_345,
        verdict: RunVerdict::Inconclusive,
        exit_status: 3,
        strict: false,
        probes: vec![
            probe("exit-address", Phase::Up, VerdictWord::Pass, "exit 198.51.100.3, seen by 2 of 2 witnesses"),
            probe("ipv6", Phase::Up, VerdictWord::Pass, "24 stimuli refused by the kernel, none on the wire"),
            probe("kill-switch", Phase::Outage, VerdictWord::Pass, "dark after 0.8 ms, nothing escaped in 5.0 s"),
        ],
        wire: Wire {
            links: vec!["eth0".to_owned()],
            packets: 1_234,
            dropped: 0,
            leaks: Vec::new(),
            captured: Vec::new(),
        },
        outages: vec![Outage {
            method: "vpn-stop".to_owned(),
            down_ms: 0.0,
            blackhole_ms: Some(0.8),
            up_ms: Some(5_000.4),
            recovered_ms: Some(6_200.0),
            holes: Vec::new(),
            restored: true,
            gave_up: None,
            samples: 4_812,
            sampled: [
                ("udp to 8.8.8.8:40000 bound to eth0", 12, 2_394),
                ("tcp to 1.1.1.1:443 by the default route", 0, 2_406),
            ]
            .map(|(what, sent, refused)| Sampled {
                what: what.to_owned(),
                sent,
                refused,
                refusal: Some("EPERM".to_owned()),
                first_refusal_ms: Some(0.9),
            })
            .into(),
            cost_ms: Some(320.5),
            longest_gap_ms: 1.1,
            gaps: 0,
            longest_gap_at_ms: None,
            first_refusal_ms: Some(0.9),
            last_in_tunnel_ms: Some(0.8),
            tunnel_back_ms: Some(5_900.0),
            flows: vec!["tcp to 193.0.2.1:443".to_owned()],
            local: vec![LocalReach {
                target: "http://192.168.1.50/".to_owned(),
                asked: 50,
                answered: 50,
                watched_ms: 4_990.0,
                reached_ms: 4_990.0,
            }],
            events: vec![evidence(0.5, "resolv.conf is unchanged")],
        }],
        access: Vec::new(),
        summary: Summary::default(),
        notes: vec!["the tunnel is tun0, found by itself".to_owned()],
        comparison: None,
    };
    report.probes[1].ways = Some(Ways { refused: 20, nowhere: 4, ..Ways::default() });
    report.settle();
    report
}

/// A run with every verdict in it, a leak on the wire and a hole in the outage.
pub(crate) fn failing() -> Report {
    let mut report = passing();
    report.probes = vec![
        probe("exit-address", Phase::Up, VerdictWord::Fail, "am.i.mullvad.net saw the home address 203.0.113.10"),
        probe("dns-resolver", Phase::Up, VerdictWord::Inconclusive, "the authority was not asked"),
        probe("dns-forced", Phase::Up, VerdictWord::Warn, "the query was answered through the tunnel"),
        probe("ipv6", Phase::Up, VerdictWord::Skip, "the uplink has no IPv6"),
        probe("uplink", Phase::Up, VerdictWord::Pass, "nothing on the wire"),
        probe("kill-switch", Phase::Outage, VerdictWord::Fail, "3 packets escaped within 1.5 ms"),
        probe(
            "exit-address",
            Phase::Recovered,
            VerdictWord::Fail,
            "am.i.mullvad.net saw the home address 203.0.113.10",
        ),
    ];
    report.probes[4].ways = Some(Ways { tunnel: 129, refused: 154, nowhere: 96, ..Ways::default() });
    report.probes[0].ways = Some(Ways { uplink: 3, tunnel: 6, not_sent: 1, ..Ways::default() });
    report.wire.leaks = vec![WireLeak {
        at_ms: 812.25,
        link: "eth0".to_owned(),
        proto: "udp".to_owned(),
        src: "172.18.0.10:40123".to_owned(),
        dst: "8.8.8.8:53".to_owned(),
        count: 3,
        probe: Some("kill-switch/outage/vpn-stop".to_owned()),
        detail: Vec::new(),
    }];
    report.outages[0].holes = vec![Hole { from_ms: 12.0, to_ms: 13.5, proto: "udp".to_owned(), packets: 3 }];
    report.outages[0].local[0].answered = 25;
    report.outages[0].local[0].reached_ms = 2_495.0;
    report.settle();
    report
}

/// A run with an access matrix in which everything is that can be found of a row.
pub(crate) fn with_access() -> Report {
    let mut report = passing();
    let row = |from: &str, to: &str, found| AccessRow {
        asking: "access".to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        allow: matches!(found, AccessFound::Reached | AccessFound::Lost),
        found,
        what: format!("what came of asking {to} from {from}"),
    };
    report.access = vec![
        row("container:sonarr", "http://gluetun:8080/", AccessFound::Reached),
        row("host", "http://gluetun:8080/", AccessFound::Lost),
        row("stack", "tcp://192.168.1.1:22", AccessFound::KeptOut),
        row("container:sonarr", "tcp://192.168.1.1:22", AccessFound::Open),
        row("host", "icmp://10.64.0.2", AccessFound::Unknown),
    ];
    report.settle();
    report
}
