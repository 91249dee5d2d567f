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
pub(super) const PROJECT: &str = "com.docker.compose.project";

/// Label of Compose: of which service of it.
pub(super) const SERVICE: &str = "com.docker.compose.service";

/// By way of so many containers one may have joined another.
const MAX_HOPS: usize = 8;

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
    /// Whether what it joined leads to this container, and not to one that is gone.
    pub owner_is_there: bool,
    /// How many containers it joined by way of: none when it joined this one itself.
    pub by_way_of: usize,
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
    pub project: Option<String>,
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

/// A container from which something is asked.
pub(super) struct Found {
    pub id: String,
    pub name: String,
    /// Its first process, and that of the container that has its network, when they are to be seen from here.
    pub process: Option<Process>,
    pub owner: Option<Process>,
    /// The network mode by which another container joins its network.
    pub network: String,
}

/// The container of this name, id or compose service, which has to run, as has the one whose network it joined.
pub(super) async fn place_of(engine: &Engine, name: &str) -> Result<Found, TargetError> {
    let named = by_name(engine, name).await?;
    let container = Inspected::new(named.clone());
    container.check_running()?;
    let owner = Inspected::new(owner_of(engine, named).await?.0);
    owner.check_running()?;
    let process = |one: &Inspected| {
        let sandbox = one.inner.network_settings.as_ref().and_then(|settings| settings.sandbox_key.as_deref());
        one.pid().filter(|_| engine.local).and_then(|pid| Process::of_container(pid, &one.id, sandbox.map(Path::new)))
    };
    let network = if owner.network_mode() == "host" { "host".to_owned() } else { format!("container:{}", owner.id) };
    Ok(Found { process: process(&container), owner: process(&owner), network, id: container.id, name: container.name })
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
        let inspected: Vec<Inspected> = inspected.into_iter().flatten().map(Inspected::new).collect();
        let dependents = inspected.iter().map(|one| self.dependent(one, &inspected, namespace));
        let mut dependents = join_all(dependents).await;
        dependents.sort_by(|a, b| (a.by_way_of, &a.name).cmp(&(b.by_way_of, &b.name)));
        Ok(dependents)
    }

    /// By itself, or by way of others that did. One whose owner is gone counts when it is of the same project.
    pub(super) fn is_joined_by(&self, summary: &ContainerSummary, all: &[ContainerSummary]) -> bool {
        let mut joined = joined(summary);
        for _ in 0..MAX_HOPS {
            let Some(owner) = joined else { return false };
            if is_named(owner, &self.id, &self.name) {
                return true;
            }
            let Some(next) = find_named(owner, all) else {
                return self.project.is_some() && label(summary, PROJECT) == self.project.as_deref();
            };
            joined = self::joined(next);
        }
        false
    }

    async fn dependent(&self, container: &Inspected, all: &[Inspected], namespace: Option<&Netns>) -> Dependent {
        let pid = container.pid();
        let process = pid.filter(|_| self.engine.local).and_then(|pid| Process::of_container(pid, &container.id, None));
        let way = way_to(container, all, &self.id, &self.name);
        let started_at = self.settings.started_at.as_deref().and_then(|at| at.parse().ok());
        let in_namespace = match (namespace, &process) {
            (Some(namespace), Some(process)) => netns::holds(namespace, process.pid),
            // One that joined a container which is gone cannot be in this namespace, and one that does not run is in none.
            _ if way.is_none() || pid.is_none() => Some(false),
            _ => joined_in_time(container, way.as_deref().unwrap_or_default(), started_at),
        };
        let place =
            Place::Container { engine: self.engine.clone(), id: container.id.clone(), name: container.name.clone() };
        let resolv_conf = place.read().await.ok();
        Dependent {
            state: container.state(),
            pid,
            owner_is_there: way.is_some(),
            by_way_of: way.map_or(0, |way| way.len()),
            in_namespace,
            resolv_conf,
            settings: settings::read(&container.inner),
            name: container.name.clone(),
            id: container.id.clone(),
        }
    }
}

/// Those by way of whom it joined the container of that id and name, the nearest first; `None` when what it joined is gone.
fn way_to<'a>(container: &Inspected, all: &'a [Inspected], id: &str, name: &str) -> Option<Vec<&'a Inspected>> {
    let mut way: Vec<&Inspected> = Vec::new();
    let mut owner = container.joined()?;
    while !is_named(owner, id, name) {
        let next = all.iter().find(|one| is_named(owner, &one.id, &one.name)).filter(|_| way.len() < MAX_HOPS)?;
        way.push(next);
        owner = next.joined()?;
    }
    Some(way)
}

/// Whether each of them was started after the one that it joined: it has the namespace that its owner had then. `None`: not known.
fn joined_in_time(container: &Inspected, way: &[&Inspected], owner_started_at: Option<Timestamp>) -> Option<bool> {
    let starts = std::iter::once(container).chain(way.iter().copied()).map(Inspected::started_at);
    let starts: Option<Vec<Timestamp>> = starts.chain([owner_started_at]).collect();
    Some(starts?.windows(2).all(|pair| pair[0] > pair[1]))
}

/// The container whose network that of a list joined.
fn joined(summary: &ContainerSummary) -> Option<&str> {
    summary.host_config.as_ref()?.network_mode.as_deref()?.strip_prefix("container:")
}

/// The container that Docker would take `given` for.
fn find_named<'a>(given: &str, all: &'a [ContainerSummary]) -> Option<&'a ContainerSummary> {
    all.iter().find(|one| is_named(given, one.id.as_deref().unwrap_or_default(), &name_of(one)))
}

/// Whether a container of a list joined one that is gone.
pub(super) fn has_joined_gone(summary: &ContainerSummary, all: &[ContainerSummary]) -> bool {
    joined(summary).is_some_and(|owner| find_named(owner, all).is_none())
}

/// Whether Docker would take `given` for this container: its name, its id, or the beginning of its id.
pub(super) fn is_named(given: &str, id: &str, name: &str) -> bool {
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
        let next = next.filter(|_| hops.len() < MAX_HOPS).ok_or_else(gone)?;
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

    /// Refuses a container that is not up.
    fn check_running(&self) -> Result<(), TargetError> {
        let status = self.inner.state.as_ref().and_then(|state| state.status);
        if status != Some(ContainerStateStatusEnum::RUNNING) {
            return Err(TargetError::NotRunning { name: self.name.clone(), state: self.state() });
        }
        Ok(())
    }

    /// Refuses a container that is not up, and one whose network is the host's.
    fn check_enterable(&self) -> Result<(), TargetError> {
        self.check_running()?;
        if self.network_mode() == "host" {
            return Err(TargetError::HostNetwork { name: self.name.clone() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
