//! A stack of containers: finding the one that owns the network, and those that joined it. Entering it is not done here.

use std::path::Path;

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary};
use futures_util::future::{join_all, try_join_all};
use jiff::Timestamp;

use super::docker::{Engine, asked, candidate, label, name_of, runs};
use super::error::TargetError;
use super::gluetun::{self, Gluetun, Listed};
use super::netns;
use super::pid::Process;
use super::resolv::{Place, ResolvConf};
use super::settings::{self, Settings};
use super::sweep;
use crate::net::netns::Netns;

/// Label of Compose: which project a container is of.
const PROJECT: &str = "com.docker.compose.project";

/// Label of Compose: of which service of it.
const SERVICE: &str = "com.docker.compose.service";

/// A container that shares the network of the stack, or was meant to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependent {
    /// Its name.
    pub name: String,
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// Number of its first process as the engine sees it, when it runs.
    pub pid: Option<u32>,
    /// State, in Docker's words: `running`, `exited` …
    pub state: String,
    /// Whether it is in the stack's namespace now; `None` when that is not to be seen from here. `Some(false)` is an orphan: it was
    /// started before the VPN container was, and is left with nothing but a loopback.
    pub in_namespace: Option<bool>,
    /// Whether the container that it joined is this one, and not one that is gone.
    pub owner_is_there: bool,
    /// Its own resolv.conf, when it could be read.
    pub resolv_conf: Option<ResolvConf>,
    /// How it is set up.
    pub settings: Settings,
}

/// The container that owns the network of a stack.
#[derive(Debug)]
pub(super) struct Stack {
    pub engine: Engine,
    pub id: String,
    pub name: String,
    pub settings: Settings,
    pub gluetun: Option<Gluetun>,
    /// Its first process, when it is to be seen from here.
    pub process: Option<Process>,
    pub notes: Vec<String>,
    /// Its service, where Compose made it.
    pub service: Option<String>,
    project: Option<String>,
}

/// Finds the container that was named, or the one Gluetun there is, and follows it to the owner of its network.
pub(super) async fn find(engine: Engine, name: Option<&str>) -> Result<Stack, TargetError> {
    let mut notes = Vec::new();
    let named = match name {
        Some(name) => by_name(&engine, name).await?,
        None => {
            let chosen = gluetun::choose(&listed(&engine).await?)?;
            by_name(&engine, &chosen).await?
        }
    };
    let (owner, hops) = owner_of(&engine, named).await?;
    let container = Inspected::new(owner);
    if let Some(first) = hops.first() {
        notes.push(format!("{first} shares the network of {}, which is audited", container.name));
    }
    container.check_enterable()?;
    let sandbox = container.inner.network_settings.as_ref().and_then(|settings| settings.sandbox_key.as_deref());
    let process = container
        .pid()
        .filter(|_| engine.local)
        .and_then(|pid| Process::of_container(pid, &container.id, sandbox.map(Path::new)));
    let config = container.inner.config.as_ref();
    Ok(Stack {
        settings: settings::read(&container.inner),
        gluetun: config.and_then(Gluetun::read),
        service: config.and_then(|config| config.labels.as_ref()?.get(SERVICE).cloned()),
        project: config.and_then(|config| config.labels.as_ref()?.get(PROJECT).cloned()),
        id: container.id,
        name: container.name,
        process,
        notes,
        engine,
    })
}

impl Stack {
    /// Names of the links on the engine's host that are the bridges of its networks.
    pub(super) async fn bridges(&self) -> Result<Vec<String>, TargetError> {
        let mut names = Vec::new();
        for network in &self.settings.networks {
            let doing = asked(format!("inspect the network {network}"));
            let found = self.engine.docker.inspect_network(network, None).await.map_err(doing)?;
            let stated = found.options.and_then(|mut options| options.remove("com.docker.network.bridge.name"));
            let by_id = found.id.and_then(|id| Some(format!("br-{}", id.get(..12)?)));
            names.extend(stated.or(by_id));
        }
        Ok(names)
    }

    /// Where its resolv.conf is: the process's root is quicker to read and needs privilege; the engine always can.
    pub(super) fn resolv_conf(&self) -> Place {
        match &self.process {
            Some(process) if process.read(super::resolv::PATH).is_ok() => Place::Process(process.clone()),
            _ => Place::Container { engine: self.engine.clone(), id: self.id.clone(), name: self.name.clone() },
        }
    }

    /// The containers that joined it, and those of the same project that joined one which is gone.
    pub(super) async fn dependents(&self, namespace: Option<&Netns>) -> Result<Vec<Dependent>, TargetError> {
        let all = self.engine.containers_and_networks().await?;
        let joined =
            all.iter().filter(|summary| !sweep::is_agent(summary)).filter(|summary| self.is_joined_by(summary, &all));
        let inspected =
            try_join_all(joined.filter_map(|summary| summary.id.as_deref()).map(|id| self.engine.inspect(id))).await?;
        let dependents = inspected.into_iter().flatten().map(|inner| self.dependent(Inspected::new(inner), namespace));
        let mut dependents = join_all(dependents).await;
        dependents.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(dependents)
    }

    fn is_joined_by(&self, summary: &ContainerSummary, all: &[ContainerSummary]) -> bool {
        let mode = summary.host_config.as_ref().and_then(|config| config.network_mode.as_deref());
        let Some(owner) = mode.and_then(|mode| mode.strip_prefix("container:")) else { return false };
        if is_named(owner, &self.id, &self.name) {
            return true;
        }
        let owner_is_there =
            all.iter().any(|other| is_named(owner, other.id.as_deref().unwrap_or_default(), &name_of(other)));
        !owner_is_there && self.project.is_some() && label(summary, PROJECT) == self.project.as_deref()
    }

    async fn dependent(&self, container: Inspected, namespace: Option<&Netns>) -> Dependent {
        let pid = container.pid();
        let process = pid.filter(|_| self.engine.local).and_then(|pid| Process::of_container(pid, &container.id, None));
        let joined_this = container.joined().is_some_and(|owner| is_named(owner, &self.id, &self.name));
        let owner_started_at = self.settings.started_at.as_deref().and_then(|at| at.parse::<Timestamp>().ok());
        let in_namespace = match (namespace, &process) {
            (Some(namespace), Some(process)) => netns::holds(namespace, process.pid),
            // One that joined a container which is gone cannot be in this namespace, and one that does not run is in none.
            _ if !joined_this || pid.is_none() => Some(false),
            // It joins when it is started, the namespace that its owner has then.
            _ => match (&owner_started_at, container.started_at()) {
                (Some(owner), Some(own)) => Some(own > *owner),
                _ => None,
            },
        };
        let place =
            Place::Container { engine: self.engine.clone(), id: container.id.clone(), name: container.name.clone() };
        let resolv_conf = place.read().await.ok();
        let settings = settings::read(&container.inner);
        Dependent {
            state: container.state(),
            pid,
            owner_is_there: joined_this,
            in_namespace,
            resolv_conf,
            settings,
            name: container.name,
            id: container.id,
        }
    }
}

/// Whether Docker would take `given` for this container: its name, its id, or the beginning of its id.
fn is_named(given: &str, id: &str, name: &str) -> bool {
    given == name || (given.len() >= 12 && id.starts_with(given))
}

/// Every container, with what only its inspection tells.
async fn listed(engine: &Engine) -> Result<Vec<Listed>, TargetError> {
    let look = |summary: ContainerSummary| async {
        let config = match summary.id.as_deref() {
            Some(id) => engine.inspect(id).await?.and_then(|container| container.config),
            None => None,
        };
        Ok(Listed { by_environment: config.as_ref().and_then(Gluetun::read).is_some(), summary })
    };
    try_join_all(engine.containers().await?.into_iter().map(look)).await
}

async fn by_name(engine: &Engine, name: &str) -> Result<ContainerInspectResponse, TargetError> {
    if let Some(container) = engine.inspect(name).await? {
        return Ok(container);
    }
    let all = engine.containers().await?;
    let of_service = gluetun::of_service(&all, name)?;
    let gone = || TargetError::NoContainer {
        name: name.to_owned(),
        running: all.iter().filter(|one| runs(one)).map(candidate).collect(),
    };
    engine.inspect(&of_service).await?.ok_or_else(gone)
}

/// Follows `network_mode: container:…` to the container that has the network, and names those on the way.
async fn owner_of(
    engine: &Engine,
    container: ContainerInspectResponse,
) -> Result<(ContainerInspectResponse, Vec<String>), TargetError> {
    let mut hops = Vec::new();
    let mut container = Inspected::new(container);
    while let Some(owner) = container.joined().map(str::to_owned) {
        let next = engine.inspect(&owner).await?;
        let gone = || TargetError::OwnerGone { name: container.name.clone(), owner: owner.chars().take(12).collect() };
        let next = next.filter(|_| hops.len() < 8).ok_or_else(gone)?;
        hops.push(container.name);
        container = Inspected::new(next);
    }
    Ok((container.inner, hops))
}

/// An inspected container with what every one has.
struct Inspected {
    id: String,
    name: String,
    inner: ContainerInspectResponse,
}

impl Inspected {
    fn new(inner: ContainerInspectResponse) -> Self {
        let id = inner.id.clone().unwrap_or_default();
        let name = inner.name.as_deref().unwrap_or(&id).trim_start_matches('/').to_owned();
        Self { id, name, inner }
    }

    fn network_mode(&self) -> &str {
        self.inner.host_config.as_ref().and_then(|config| config.network_mode.as_deref()).unwrap_or_default()
    }

    /// The container whose network it joined.
    fn joined(&self) -> Option<&str> {
        self.network_mode().strip_prefix("container:")
    }

    fn started_at(&self) -> Option<Timestamp> {
        self.inner.state.as_ref()?.started_at.as_deref()?.parse().ok()
    }

    fn state(&self) -> String {
        let status = self.inner.state.as_ref().and_then(|state| state.status);
        status.map_or_else(|| "unknown".to_owned(), |status| status.to_string())
    }

    fn pid(&self) -> Option<u32> {
        let pid = self.inner.state.as_ref()?.pid?;
        u32::try_from(pid).ok().filter(|pid| *pid > 0)
    }

    /// Refuses a container that is not up, and one whose network is the host's.
    fn check_enterable(&self) -> Result<(), TargetError> {
        let status = self.inner.state.as_ref().and_then(|state| state.status);
        if status != Some(ContainerStateStatusEnum::RUNNING) {
            return Err(TargetError::NotRunning { name: self.name.clone(), state: self.state() });
        }
        if self.network_mode() == "host" {
            return Err(TargetError::HostNetwork { name: self.name.clone() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn inspected(state: &str, mode: &str) -> Inspected {
        let inner = json!({"Id": "0123456789abcdef", "Name": "/vpn", "State": {"Status": state, "Pid": 0}, "HostConfig": {"NetworkMode": mode}});
        Inspected::new(serde_json::from_value(inner).expect("an inspection"))
    }

    #[test]
    fn only_one_that_runs_can_be_entered() {
        assert!(inspected("running", "bridge").check_enterable().is_ok());
        for (state, help) in [
            ("exited", "docker start vpn"),
            ("created", "docker start vpn"),
            ("paused", "docker unpause vpn"),
            ("restarting", "docker logs vpn"),
        ] {
            let error = inspected(state, "bridge").check_enterable().expect_err(state);
            assert_eq!(error.to_string(), format!("enter container `vpn`: it is {state}"));
            assert!(error.help().is_some_and(|text| text.contains(help)), "{state}");
        }
    }

    #[test]
    fn the_hosts_network_is_refused() {
        let error = inspected("running", "host").check_enterable().expect_err("it would audit the host");
        assert!(matches!(error, TargetError::HostNetwork { .. }));
    }

    #[test]
    fn a_container_is_named_by_name_or_id() {
        let id = "0123456789abcdef0123456789abcdef";
        assert!(is_named("vpn", id, "vpn") && is_named(id, id, "vpn") && is_named("0123456789ab", id, "vpn"));
        assert!(!is_named("0123", id, "vpn") && !is_named("vpn2", id, "vpn") && !is_named("", id, "vpn"));
    }
}
