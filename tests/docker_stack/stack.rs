//! The stack of `fixtures/compose`, for tests: put up under a project of its own, looked at, and taken down however a trial ends.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::ListContainersOptions;
use leakcheck::lab::compose::ComposeStack;
pub use leakcheck::lab::compose::{PROJECT, compose_command};
use leakcheck::model::report::Report;
use leakcheck::net::netns::{Netns, run_in};
use leakcheck::net::nft::Nft;
use leakcheck::net::route::{Link, Snapshot};
use libtest_mimic::Failed;

pub const LEAKCHECK: &str = env!("CARGO_BIN_EXE_leakcheck");

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// The fixture's containers, of which trials expect that they are there.
pub struct Stack(ComposeStack);

impl Stack {
    pub fn compose(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.0.compose(arguments)
    }

    /// The words that Compose is called by.
    pub fn compose_words(&self) -> &[&'static str] {
        self.0.words()
    }

    /// What the compose file is told.
    pub fn variables(&self) -> &[(String, String)] {
        self.0.variables()
    }

    pub async fn container(&self, service: &str) -> ContainerInspectResponse {
        self.0.container(service).await.expect("a container")
    }

    pub async fn wait_until_healthy(&self) -> anyhow::Result<()> {
        self.0.wait_until_healthy().await
    }

    pub fn command(&self, enter: &str) -> Command {
        self.0.command(enter).expect("a target")
    }

    pub fn audit(&self, enter: &str, arguments: &[&str]) -> (Option<i32>, Report) {
        self.0.audit(enter, arguments).unwrap_or_else(|error| panic!("{error:#}"))
    }
}

pub fn on_stack(
    compose: &[&'static str],
    variables: &[(&'static str, &'static str)],
    body: impl FnOnce(&Stack),
) -> Result<(), Failed> {
    let stack = ComposeStack::up(compose, Path::new(LEAKCHECK), variables).map_err(|error| format!("{error:#}"))?;
    body(&Stack(stack));
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
