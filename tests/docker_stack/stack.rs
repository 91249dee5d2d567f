//! The stack of `fixtures/compose`, for tests: put up under a project of its own, looked at, and taken down however a trial ends.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::ListContainersOptions;
use leakcheck::model::report::Report;
use leakcheck::net::netns::{Netns, run_in};
use leakcheck::net::nft::Nft;
use leakcheck::net::route::{Link, Snapshot};
use libtest_mimic::Failed;

use super::docker_lock;

pub const PROJECT: &str = "leakcheck-test";
pub const LEAKCHECK: &str = env!("CARGO_BIN_EXE_leakcheck");
/// Patience for the containers to say that they are healthy.
const HEALTHY: Duration = Duration::from_secs(60);

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Compose, old or new, if it works here together with an engine.
pub fn compose_command() -> Option<Vec<&'static str>> {
    let engine = block_on(async { Docker::connect_with_defaults()?.ping().await });
    let works = |words: &Vec<&'static str>| {
        Command::new(words[0]).args(&words[1..]).arg("version").output().is_ok_and(|output| output.status.success())
    };
    engine.ok().and_then(|_| [vec!["docker", "compose"], vec!["docker-compose"]].into_iter().find(works))
}

pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/compose")
}

/// The fixture's containers; taken down when dropped.
pub struct Stack {
    compose: Vec<&'static str>,
    /// Variables of the compose file.
    variables: Vec<(&'static str, &'static str)>,
}

impl Stack {
    pub fn up(compose: &[&'static str], variables: &[(&'static str, &'static str)]) -> Result<Self, Failed> {
        let stack = Self { compose: compose.to_vec(), variables: variables.to_vec() };
        succeed(Command::new(LEAKCHECK).args(["lab", "image"]))?;
        // What a run that was killed has left.
        stack.compose(&["down", "-t", "0"])?;
        stack.compose(&["up", "-d"])?;
        block_on(stack.wait_until_healthy())?;
        Ok(stack)
    }

    pub fn compose(&self, arguments: &[&str]) -> Result<Output, Failed> {
        let mut command = Command::new(self.compose[0]);
        command.args(&self.compose[1..]).args(["-p", PROJECT]).args(arguments).current_dir(folder());
        command.env_remove("LEAKCHECK_LEAK").env_remove("GLUETUN_IMAGE").envs(self.variables.iter().copied());
        succeed(&mut command)
    }

    /// The container of a service, whichever way Compose writes its name.
    pub async fn container(&self, service: &str) -> ContainerInspectResponse {
        let docker = Docker::connect_with_defaults().expect("an engine").negotiate_version().await.expect("an answer");
        for name in [format!("{PROJECT}-{service}-1"), format!("{PROJECT}_{service}_1")] {
            if let Ok(container) = docker.inspect_container(&name, None).await {
                return container;
            }
        }
        panic!("no container of the service {service}");
    }

    pub async fn wait_until_healthy(&self) -> Result<(), Failed> {
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
    pub fn command(&self, enter: &str) -> Command {
        let name = block_on(self.container("gluetun")).name.expect("a name");
        let target = format!("docker:{}", name.trim_start_matches('/'));
        let mut command = Command::new(LEAKCHECK);
        command.args(["run", "--target", &target, "--enter", enter, "--format", "json", "--report-dir", "none"]);
        command.arg("--config").arg(folder().join("leakcheck.toml"));
        command
    }

    /// Runs the audit; its exit status and its report.
    pub fn audit(&self, enter: &str, arguments: &[&str]) -> (Option<i32>, Report) {
        let output = self.command(enter).args(arguments).output().expect("it starts");
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

pub fn succeed(command: &mut Command) -> Result<Output, Failed> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

pub fn on_stack(
    compose: &[&'static str],
    variables: &[(&'static str, &'static str)],
    body: impl FnOnce(&Stack),
) -> Result<(), Failed> {
    let _turn = docker_lock::wait_for_turn();
    let stack = Stack::up(compose, variables)?;
    body(&stack);
    Ok(())
}

pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
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
pub async fn agents() -> Vec<String> {
    let docker = Docker::connect_with_defaults().expect("an engine").negotiate_version().await.expect("an answer");
    let filters = HashMap::from([("label".to_owned(), vec!["leakcheck=agent".to_owned()])]);
    let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
    let all = docker.list_containers(Some(options)).await.expect("a list");
    all.into_iter().filter_map(|summary| summary.id).collect()
}

/// Everything that an outage could change, with links by name: a tunnel that was made anew has another number.
pub fn state_of(netns: &Netns) -> Vec<String> {
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
