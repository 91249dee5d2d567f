//! `leakcheck run` as users run it: the sealed stack passes, by both ways in, and broken ones fail where they should.

use std::process::Stdio;
use std::time::Duration;

use bollard::Docker;
use leakcheck::lab::Leak;
use leakcheck::model::report::{Report, RunVerdict, VerdictWord};
use leakcheck::net::netns::Netns;
use leakcheck::target::{FindOptions, Target, TargetSpec};
use libtest_mimic::Trial;

use super::stack::{PROJECT, Stack, agents, block_on, state_of, wait_until};
use super::tls_front::Tls;
use super::{Trials, left};

/// The leak that is a container's and not the stack's.
const STALE: &str = "resolver-stale";

pub fn trials(trials: &Trials) -> Vec<Trial> {
    let broken = |leak: &'static str, enter: &'static str| {
        let files = if leak == STALE { "docker-compose.yml:stale.yml" } else { "docker-compose.yml" };
        let variables = vec![("LEAKCHECK_LEAK", leak), ("COMPOSE_FILE", files)];
        trials.on_variant(&format!("{leak}_fails_by_{enter}"), variables, move |stack| fails(stack, leak, enter))
    };
    vec![
        trials.on_sealed("stands_closed_off", |stack| block_on(stands_closed_off(stack))),
        trials.as_root("sealed_passes_by_setns", |stack| passes(stack, "setns")),
        trials.on_sealed("sealed_passes_by_container", |stack| passes(stack, "container")),
        trials.on_sealed("sealed_passes_through_tls", passes_through_tls),
        trials.as_root("a_killed_runner_leaves_it_as_it_was", survives_sigkill),
        broken("forced-udp", "auto"),
        broken("fallback", "container"),
        broken(STALE, "auto"),
        // What the engine tells is all that is to be seen from a container.
        broken(STALE, "container"),
    ]
}

/// The stack is found as a user's is, and the Docker host has no way into or out of its networks.
async fn stands_closed_off(stack: &Stack) {
    let gluetun = stack.container("gluetun").await.name.expect("a name");
    let target = Target::find(None, &FindOptions::default()).await.expect("the one Gluetun");
    assert_eq!(target.label, format!("docker:{}", gluetun.trim_start_matches('/')));
    assert_eq!(target.resolv_conf.text.lines().next(), Some("nameserver 127.0.0.1"));
    let told = target.gluetun.as_ref().expect("a Gluetun");
    assert_eq!(told.endpoint(), Some("198.51.100.2:51820".parse().expect("an address")));
    let [torrent] = target.dependents.as_slice() else { panic!("{:?}", target.dependents) };
    assert!(torrent.name.contains("torrent") && torrent.in_namespace != Some(false), "{torrent:?}");
    assert_eq!(torrent.resolv_conf.as_ref().map(|file| &file.text), Some(&target.resolv_conf.text));
    let named = Target::find(Some(&TargetSpec::Docker("gluetun".to_owned())), &FindOptions::default()).await;
    assert_eq!(named.expect("by its service").label, target.label);

    let docker = Docker::connect_with_defaults().expect("an engine").negotiate_version().await.expect("an answer");
    let addresses: Vec<_> = nix::ifaddrs::getifaddrs().expect("the host's addresses").collect();
    for network in ["media", "line", "transit"] {
        let inspected = docker.inspect_network(&format!("{PROJECT}_{network}"), None).await.expect("a network");
        let bridge = format!("br-{}", &inspected.id.expect("an id")[..12]);
        assert!(addresses.iter().any(|address| address.interface_name == bridge), "{bridge} is there");
        let on_bridge = addresses.iter().filter(|address| address.interface_name == bridge);
        let routed = on_bridge.filter_map(|address| address.address.as_ref()?.as_sockaddr_in()).next();
        assert_eq!(routed, None, "the host would route for {network}");
    }
}

fn passes(stack: &Stack, enter: &str) {
    let docker = block_on(async { Docker::connect_with_defaults()?.negotiate_version().await }).expect("an engine");
    // The image of agents stays, for the next run: here it is there before.
    let mut first = stack.command("container");
    assert!(first.args(["--quick", "dependents"]).stdout(Stdio::null()).status().expect("it starts").success());
    let before = block_on(left::Snapshot::of(&docker));
    let (status, report) = stack.audit(enter, &[]);
    let ill: Vec<_> = report
        .probes
        .iter()
        .filter(|probe| matches!(probe.verdict, VerdictWord::Fail | VerdictWord::Inconclusive))
        .map(|probe| (probe.name(), &probe.summary, &probe.reason))
        .collect();
    assert!(ill.is_empty(), "{ill:#?}");
    assert_eq!((status, report.verdict), (Some(0), RunVerdict::Pass));
    assert!(report.probes.iter().any(|probe| probe.verdict == VerdictWord::Pass), "it asked something");
    // Both ways in show the torrent client's file, one by /proc and one by the engine.
    let dependents = report.probes.iter().find(|probe| probe.id == "dns-dependents").expect("it is asked");
    assert_eq!(dependents.verdict, VerdictWord::Pass, "{dependents:?}");
    assert_eq!(report.outages.len(), 3, "all outages were made");
    assert!(report.outages.iter().all(|outage| outage.restored && outage.holes.is_empty()), "{:?}", report.outages);
    assert!(report.wire.leaks.is_empty() && report.wire.dropped == 0, "{:?}", report.wire);
    block_on(before.is_back(&docker, enter));
}

/// An engine elsewhere, as far as leakcheck can tell: the agent comes by a container, also by one for the outage.
fn passes_through_tls(stack: &Stack) {
    let docker = block_on(async { Docker::connect_with_defaults()?.negotiate_version().await }).expect("an engine");
    let front = Tls::new();
    let mut command = stack.command("auto");
    command.args(["--outage", "link-down"]);
    command
        .env("DOCKER_HOST", front.host())
        .env("DOCKER_TLS_VERIFY", "1")
        .env("DOCKER_CERT_PATH", front.folder("good"));
    // Leaves the image of agents, which stays for the next run.
    let first = command.output().expect("it starts");
    let before = block_on(left::Snapshot::of(&docker));
    let second = command.output().expect("it starts");
    for output in [first, second] {
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let report: Report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"));
        assert_eq!((output.status.code(), report.verdict), (Some(0), RunVerdict::Pass), "{told}");
        assert!(told.contains("entered by container"), "{told}");
        assert!(report.outages.len() == 1 && report.outages[0].restored, "{:?}", report.outages);
    }
    block_on(before.is_back(&docker, "container"));
}

fn fails(stack: &Stack, leak: &str, enter: &str) {
    let (status, report) = stack.audit(enter, &[]);
    assert_eq!((status, report.verdict), (Some(1), RunVerdict::Fail));
    for red in Leak::named(leak).expect("a fixture").red {
        let failed = report.probes.iter().any(|probe| {
            let with_method = probe.method.as_ref().map(|method| format!("{}-{method}", probe.id));
            (probe.id == red || with_method.as_ref() == Some(&red)) && probe.verdict == VerdictWord::Fail
        });
        let seen: Vec<_> = report.probes.iter().map(|probe| (probe.name(), probe.verdict)).collect();
        assert!(failed, "{red} is not red: {seen:#?}");
    }
    assert!(report.outages.iter().all(|outage| outage.restored), "{:?}", report.outages);
}

/// Kills the runner while it has the tunnel down: the agent notices, puts the stack back, and goes.
fn survives_sigkill(stack: &Stack) {
    let pid = block_on(stack.container("gluetun")).state.and_then(|state| state.pid).expect("it runs");
    let netns = Netns::of_pid(pid.try_into().expect("a pid")).expect("its namespace");
    let before = state_of(&netns);
    assert!(before.iter().any(|line| line == "link tun0 up"), "{before:#?}");
    for (enter, method) in
        [("container", "link-down"), ("container", "vpn-stop"), ("setns", "link-down"), ("setns", "vpn-stop")]
    {
        let mut command = stack.command(enter);
        command.args(["--outage", method, "kill-switch"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut runner = command.spawn().expect("it starts");
        let down = wait_until(Duration::from_secs(30), || !state_of(&netns).iter().any(|line| line == "link tun0 up"));
        runner.kill().expect("killed");
        runner.wait().expect("reaped");
        assert!(down, "{method} by {enter} never took the tunnel down");
        let mut now = Vec::new();
        wait_until(Duration::from_secs(5), || {
            now = state_of(&netns);
            now == before && block_on(agents()).is_empty()
        });
        assert_eq!(now, before, "{method} by {enter}");
        assert_eq!(block_on(agents()), Vec::<String>::new(), "{method} by {enter}");
    }
}
