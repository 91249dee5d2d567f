//! `leakcheck run` against the stack of `fixtures/compose`, which is made from the very same program: the sealed stack passes, by both
//! ways in, and broken ones fail where they should. `LEAKCHECK_DOCKER=required` makes a missing engine or Compose a failure; without it
//! the trials are shown as ignored.

#[path = "support/docker_lock.rs"]
mod docker_lock;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::ListContainersOptions;
use leakcheck::lab::Leak;
use leakcheck::model::report::{Report, RunVerdict, VerdictWord};
use leakcheck::net::netns::{Netns, run_in};
use leakcheck::net::nft::Nft;
use leakcheck::net::route::{Link, Snapshot};
use leakcheck::target::{FindOptions, Target, TargetSpec};
use libtest_mimic::{Arguments, Failed, Trial};

const PROJECT: &str = "leakcheck-test";
const LEAKCHECK: &str = env!("CARGO_BIN_EXE_leakcheck");
/// Patience for the containers to say that they are healthy.
const HEALTHY: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The fixture has fixed networks, so only one can stand.
    arguments.test_threads = Some(1);
    let compose = compose_command();
    let required = std::env::var_os("LEAKCHECK_DOCKER").is_some_and(|value| value == "required");
    if required && compose.is_none() {
        eprintln!("LEAKCHECK_DOCKER=required, and there is no Docker engine or no Compose");
        return ExitCode::FAILURE;
    }
    let ignored = compose.is_none();
    let compose = compose.unwrap_or_default();
    let trial = |name: &str, body: fn(&Stack)| {
        let compose = compose.clone();
        let run = move || on_stack(&compose, None, body);
        Trial::test(name, run).with_ignored_flag(ignored)
    };
    let is_root = nix::unistd::Uid::effective().is_root();
    let broken = |leak: &'static str, enter: &'static str| {
        let compose = compose.clone();
        let run = move || on_stack(&compose, Some(leak), |stack| fails(stack, leak, enter));
        Trial::test(format!("compose::{leak}_fails_by_{enter}"), run).with_ignored_flag(ignored)
    };
    let trials = vec![
        trial("compose::stands_closed_off", |stack| block_on(stands_closed_off(stack))),
        trial("compose::sealed_passes_by_setns", |stack| passes(stack, "setns")).with_ignored_flag(ignored || !is_root),
        trial("compose::sealed_passes_by_container", |stack| passes(stack, "container")),
        trial("compose::a_killed_runner_leaves_it_as_it_was", survives_sigkill).with_ignored_flag(ignored || !is_root),
        broken("forced-udp", "auto"),
        broken("fallback", "container"),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Compose, old or new, if it works here together with an engine.
fn compose_command() -> Option<Vec<&'static str>> {
    let engine = block_on(async { Docker::connect_with_defaults()?.ping().await });
    let works = |words: &Vec<&'static str>| {
        Command::new(words[0]).args(&words[1..]).arg("version").output().is_ok_and(|output| output.status.success())
    };
    engine.ok().and_then(|_| [vec!["docker", "compose"], vec!["docker-compose"]].into_iter().find(works))
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/compose")
}

/// The fixture's containers; taken down when dropped.
struct Stack {
    compose: Vec<&'static str>,
    leak: Option<&'static str>,
}

impl Stack {
    fn up(compose: &[&'static str], leak: Option<&'static str>) -> Result<Self, Failed> {
        let stack = Self { compose: compose.to_vec(), leak };
        succeed(Command::new(LEAKCHECK).args(["lab", "image"]))?;
        // What a run that was killed has left.
        stack.compose(&["down", "-t", "0"])?;
        stack.compose(&["up", "-d"])?;
        block_on(stack.wait_until_healthy())?;
        Ok(stack)
    }

    fn compose(&self, arguments: &[&str]) -> Result<Output, Failed> {
        let mut command = Command::new(self.compose[0]);
        command.args(&self.compose[1..]).args(["-p", PROJECT]).args(arguments).current_dir(folder());
        command.env("LEAKCHECK_LEAK", self.leak.unwrap_or_default()).env_remove("GLUETUN_IMAGE");
        succeed(&mut command)
    }

    /// The container of a service, whichever way Compose writes its name.
    async fn container(&self, service: &str) -> ContainerInspectResponse {
        let docker = Docker::connect_with_defaults().expect("an engine").negotiate_version().await.expect("an answer");
        for name in [format!("{PROJECT}-{service}-1"), format!("{PROJECT}_{service}_1")] {
            if let Ok(container) = docker.inspect_container(&name, None).await {
                return container;
            }
        }
        panic!("no container of the service {service}");
    }

    async fn wait_until_healthy(&self) -> Result<(), Failed> {
        let end = Instant::now() + HEALTHY;
        for service in ["internet", "provider", "home", "gluetun", "torrent", "neighbour"] {
            loop {
                let state = self.container(service).await.state.unwrap_or_default();
                let health = state.health.and_then(|health| health.status).map(|status| status.to_string());
                if health.as_deref() == Some("healthy") {
                    break;
                }
                if Instant::now() > end {
                    return Err(format!("{service} is not healthy, but {:?} {health:?}", state.status).into());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    /// An audit to be run.
    fn command(&self, enter: &str) -> Command {
        let name = block_on(self.container("gluetun")).name.expect("a name");
        let target = format!("docker:{}", name.trim_start_matches('/'));
        let mut command = Command::new(LEAKCHECK);
        command.args(["run", "--target", &target, "--enter", enter, "--format", "json", "--report-dir", "none"]);
        command.arg("--config").arg(folder().join("leakcheck.toml"));
        command
    }

    /// Runs the audit; its exit status and its report.
    fn audit(&self, enter: &str) -> (Option<i32>, Report) {
        let output = self.command(enter).output().expect("it starts");
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{error}: {}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
        });
        (output.status.code(), report)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Err(error) = self.compose(&["down", "-t", "0"]) {
            eprintln!("the fixture could not be taken down: {error:?}");
        }
    }
}

fn succeed(command: &mut Command) -> Result<Output, Failed> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

fn on_stack(compose: &[&'static str], leak: Option<&'static str>, body: impl FnOnce(&Stack)) -> Result<(), Failed> {
    let _turn = docker_lock::wait_for_turn();
    let stack = Stack::up(compose, leak)?;
    body(&stack);
    Ok(())
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
    let (status, report) = stack.audit(enter);
    let ill: Vec<_> = report
        .probes
        .iter()
        .filter(|probe| matches!(probe.verdict, VerdictWord::Fail | VerdictWord::Inconclusive))
        .map(|probe| (probe.name(), &probe.summary, &probe.reason))
        .collect();
    assert!(ill.is_empty(), "{ill:#?}");
    assert_eq!((status, report.verdict), (Some(0), RunVerdict::Pass));
    assert!(report.probes.iter().any(|probe| probe.verdict == VerdictWord::Pass), "it asked something");
    assert_eq!(report.outages.len(), 3, "all outages were made");
    assert!(report.outages.iter().all(|outage| outage.restored && outage.holes.is_empty()), "{:?}", report.outages);
    assert!(report.wire.leaks.is_empty() && report.wire.dropped == 0, "{:?}", report.wire);
}

fn fails(stack: &Stack, leak: &str, enter: &str) {
    let (status, report) = stack.audit(enter);
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

fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Containers of agents that are there.
async fn agents() -> Vec<String> {
    let docker = Docker::connect_with_defaults().expect("an engine").negotiate_version().await.expect("an answer");
    let filters = HashMap::from([("label".to_owned(), vec!["leakcheck=agent".to_owned()])]);
    let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
    let all = docker.list_containers(Some(options)).await.expect("a list");
    all.into_iter().filter_map(|summary| summary.id).collect()
}

/// Everything that an outage could change, with links by name: a tunnel that was made anew has another number.
fn state_of(netns: &Netns) -> Vec<String> {
    run_in(netns, "look", || {
        let now = Snapshot::take().expect("a snapshot");
        let name = |index| now.links.iter().find(|link| link.index == index).map_or("none", |link| link.name.as_str());
        let up = |link: &Link| if link.is_up() { "up" } else { "down" };
        let mut lines: Vec<String> = now.links.iter().map(|link| format!("link {} {}", link.name, up(link))).collect();
        lines.extend(now.addresses.iter().map(|address| format!("address {} {}", address.address, name(address.link))));
        lines.extend(now.rules.iter().map(|rule| format!("rule {} {} {}", rule.priority, rule.text, rule.table)));
        lines.extend(now.routes.iter().map(|route| {
            let link = route.link.map_or("none", name);
            format!("route {} {} {:?} {link} {}", route.table, route.destination, route.gateway, route.kind)
        }));
        lines.extend(Nft::open().and_then(|mut nft| nft.ruleset()).expect("a ruleset").lines().iter().cloned());
        lines.sort();
        lines
    })
    .expect("the namespace can be entered")
}
