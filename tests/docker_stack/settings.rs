//! How a stack is set up, by the engine's account of real containers: the sealed fixture passes, and each careless or dangerous setting of the
//! other compose files is found where it is, with the line that mends it.

use std::process::Command;

use leakcheck::model::report::{ProbeResult, Report, VerdictWord};
use libtest_mimic::Trial;

use super::Trials;
use super::stack::{LEAKCHECK, PROJECT, Stack, block_on};

/// Part of the names of the probes that are about settings, and of no others.
const ABOUT: &str = "stack-";

pub fn trials(trials: &Trials) -> Vec<Trial> {
    let over = |file: &'static str| vec![("COMPOSE_FILE", file)];
    vec![
        trials.on_sealed("sealed_settings_pass", sealed_settings_pass),
        trials.on_variant("loose_settings_are_warned_of", over("docker-compose.yml:loose.yml"), loose_settings),
        trials.on_variant("init_suggests_what_the_engine_tells", over("docker-compose.yml:loose.yml"), init_suggests),
        trials.on_variant("settings_that_leak_fail", over("docker-compose.yml:open.yml"), open_settings),
    ]
}

fn about(report: &Report) -> impl Iterator<Item = &ProbeResult> {
    report.probes.iter().filter(|probe| probe.id.starts_with(ABOUT))
}

fn probe<'a>(report: &'a Report, id: &str) -> &'a ProbeResult {
    about(report).find(|probe| probe.id == id).unwrap_or_else(|| panic!("{id} was not asked"))
}

/// Whether a line of the evidence has all of these in it.
fn tells(probe: &ProbeResult, parts: &[&str]) -> bool {
    probe.evidence.iter().any(|line| parts.iter().all(|part| line.what.contains(part)))
}

fn sealed_settings_pass(stack: &Stack) {
    for enter in ["auto", "container"] {
        let (status, report) = stack.audit(enter, &["--quick", ABOUT]);
        let ill: Vec<_> = about(&report).filter(|probe| probe.verdict != VerdictWord::Pass).collect();
        assert!(ill.is_empty(), "{enter}: {ill:#?}");
        assert_eq!((status, about(&report).count()), (Some(0), 10), "{enter}");
        // Nobody beside the stack is let in, which was tried and not read off.
        assert!(tells(probe(&report, "stack-control"), &["172.18.0.10:8000", "refused"]), "{enter}");
    }
}

fn init_suggests(stack: &Stack) {
    let name = |service: &str| {
        let name = block_on(stack.container(service)).name.expect("a name");
        name.trim_start_matches('/').to_owned()
    };
    let vpn = name("gluetun");
    let target = format!("docker:{vpn}");
    let output = Command::new(LEAKCHECK).args(["init", "--output", "-", "--target", &target]).output().expect("init");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The fixture's client is known by its port alone: its image is that of all.
    for line in ["# client = \"qbittorrent\"", "# url = \"http://127.0.0.1:8080\"", "# password_file = "] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    let row = format!(
        "# from = \"container:{}\" # is on the network {PROJECT}_media with the stack # to = \"tcp://{vpn}:8080\" # allow = true",
        name("neighbour")
    );
    let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(squeezed.contains(&row), "{row} is not in {text}");
}

fn loose_settings(stack: &Stack) {
    let (status, report) = stack.audit("auto", &["--quick", ABOUT]);
    // A hardening finding is none of a leak, unless it is wished to be.
    assert_eq!(status, Some(0), "{report:#?}");
    for (id, finding) in [
        ("stack-power", &["gluetun", "SYS_ADMIN", "`cap_add`"][..]),
        ("stack-power", &["torrent", "/dev/net/tun", "`devices`"]),
        ("stack-power", &["torrent", "pid namespace", "`pid: host`"]),
        ("stack-beside", &["qbittorrent", "beside the VPN", "`network_mode: \"service:gluetun\"`"]),
        ("stack-ports", &["gluetun", "6881/udp", "0.0.0.0:46881", "out of `ports`"]),
        ("stack-ports", &["gluetun", "8080/tcp", "0.0.0.0:48080", "127.0.0.1:48080:8080/tcp"]),
        ("stack-start", &["gluetun", "not started again", "`restart: unless-stopped`"]),
        ("stack-ipv6", &["gluetun", "media", "none in the tunnel", "disable_ipv6"]),
        ("stack-control", &["172.18.0.10:8000", "no key", "running", "HTTP_CONTROL_SERVER_ADDRESS"]),
        ("stack-secrets", &["gluetun", "WIREGUARD_PRIVATE_KEY", "_SECRETFILE"]),
        ("stack-resolvers", &["gluetun", "DNS_KEEP_NAMESERVER"]),
    ] {
        let probe = probe(&report, id);
        assert_eq!(probe.verdict, VerdictWord::Warn, "{probe:#?}");
        assert!(tells(probe, finding), "{finding:?} is not in {probe:#?}");
    }
    for id in ["stack-firewall", "stack-subnets"] {
        assert_eq!(probe(&report, id).verdict, VerdictWord::Pass, "{:#?}", probe(&report, id));
    }
    let all = serde_json::to_string(&report).expect("JSON");
    assert!(!all.contains("bGVha2NoZWNr"), "a key is in the report");
    let (status, _) = stack.audit("container", &["--quick", "--strict", ABOUT]);
    assert_eq!(status, Some(1));
}

fn open_settings(stack: &Stack) {
    let (status, report) = stack.audit("auto", &["--quick", ABOUT]);
    assert_eq!(status, Some(1), "{report:#?}");
    for (id, finding) in [
        ("stack-firewall", &["gluetun", "FIREWALL_ENABLED_DISABLING_IT_SHOOTS_YOU_IN_YOUR_FOOT=off", "drop"][..]),
        ("stack-subnets", &["gluetun", "10.64.0.1", "10.0.0.0/8", "192.168.1.0/24"]),
    ] {
        let probe = probe(&report, id);
        assert_eq!(probe.verdict, VerdictWord::Fail, "{probe:#?}");
        assert!(tells(probe, finding), "{finding:?} is not in {probe:#?}");
    }
    assert_eq!(probe(&report, "stack-power").verdict, VerdictWord::Pass);
}
