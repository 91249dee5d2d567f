//! Places beside the stack from which something is asked: the namespaces of other containers, of processes, and named ones. They are looked
//! up anew each time, because a container that was started again has another namespace. What is asked there is decided elsewhere.

use std::fs;
use std::net::IpAddr;

use super::docker::{Engine, name_of, runs};
use super::error::TargetError;
use super::pid::Process;
use super::process::AgentProcess;
use super::resolv::Place;
use super::setns::SETNS;
use super::spec::TargetSpec;
use super::{Target, container, netns, setns, stack, sweep};
use crate::net::netns::Netns;

/// Where programs look up names before they ask anybody (hosts(5)).
const HOSTS: &str = "/etc/hosts";

/// A place that was found. Its namespace is held open.
pub struct Source {
    label: String,
    namespace: Option<Netns>,
    /// The engine, and the network mode by which a container joins it.
    joins: Option<(Engine, String)>,
    place: Place,
}

impl Target {
    /// Finds a place to ask from.
    ///
    /// # Errors
    /// When there is none of this name, or it does not run.
    pub async fn source(&self, spec: &TargetSpec) -> Result<Source, TargetError> {
        let label = spec.to_string();
        match spec {
            TargetSpec::Docker(name) => {
                let engine = match &self.stack {
                    Some(stack) => stack.engine.clone(),
                    None => Engine::connect(None).await?,
                };
                let found = stack::place_of(&engine, name).await?;
                let namespace = found.owner.as_ref().and_then(|process| Netns::open(process.netns()).ok());
                let named = Place::Container { engine: engine.clone(), id: found.id, name: found.name };
                let readable = found.process.filter(|process| process.read(super::resolv::PATH).is_ok());
                let place = readable.map_or(named, Place::Process);
                Ok(Source { label, namespace, joins: Some((engine, found.network)), place })
            }
            TargetSpec::Netns(name) => {
                let path = netns::locate(name)?;
                let of_process = netns::process_of(&path).and_then(Process::find).map(Place::Process);
                let place = of_process.unwrap_or_else(|| Place::of_namespace(netns::name_of(&path)));
                Source::at(label, &path, place)
            }
            TargetSpec::Pid(pid) => {
                let process = Process::find(*pid).ok_or(TargetError::NoProcess { pid: *pid })?;
                Source::at(label, &process.netns(), Place::Process(process))
            }
        }
    }

    /// Which of these addresses a container has that runs, other than the stack's own; none where no engine is known.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn holders_of(&self, addresses: &[IpAddr]) -> Result<Vec<(IpAddr, String)>, TargetError> {
        let Some(stack) = &self.stack else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for summary in stack.engine.containers().await? {
            if !runs(&summary) || sweep::is_agent(&summary) || summary.id.as_deref() == Some(&stack.id) {
                continue;
            }
            let networks = summary.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
            let ends = networks.into_iter().flat_map(|networks| networks.values());
            let own = ends.flat_map(|end| [&end.ip_address, &end.global_ipv6_address]).flatten();
            let own = own.filter_map(|text| text.parse::<IpAddr>().ok()).filter(|address| addresses.contains(address));
            found.extend(own.map(|address| (address, name_of(&summary))));
        }
        Ok(found)
    }

    /// Text of the stack's hosts file; empty when it cannot be read.
    pub async fn hosts(&self) -> String {
        hosts(&self.place).await
    }
}

impl Source {
    fn at(label: String, path: &std::path::Path, place: Place) -> Result<Self, TargetError> {
        let refused = |source| TargetError::NotPermitted { label: label.clone(), docker: false, source };
        let namespace = Some(Netns::open(path).map_err(refused)?);
        Ok(Self { label, namespace, joins: None, place })
    }

    /// Text of its resolv.conf.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn resolv_conf(&self) -> Result<String, TargetError> {
        self.place.read().await.map(|read| read.text)
    }

    /// Text of its hosts file; empty when it cannot be read.
    pub async fn hosts(&self) -> String {
        hosts(&self.place).await
    }

    /// Starts an agent there that asks and changes nothing, in the way in which the stack was entered, else in the one that is left. The
    /// source has to be kept until it has answered once.
    ///
    /// # Errors
    /// When there is no way in.
    pub async fn launch(&self, how: &str) -> Result<AgentProcess, TargetError> {
        let by_container = how != SETNS;
        match (&self.joins, self.enterable()) {
            (Some((engine, network)), _) if by_container => container::launch_to_ask(engine, network).await,
            (_, Ok(namespace)) => setns::launch(Some(namespace)),
            (Some((engine, network)), Err(_)) => container::launch_to_ask(engine, network).await,
            (None, Err(error)) => Err(error),
        }
    }

    fn enterable(&self) -> Result<&Netns, TargetError> {
        let docker = self.joins.is_some();
        let namespace = self.namespace.as_ref().ok_or_else(|| TargetError::NotLocal { name: self.label.clone() })?;
        let refused = |source| TargetError::NotPermitted { label: self.label.clone(), docker, source };
        netns::try_enter(namespace).map_err(refused)?;
        Ok(namespace)
    }
}

async fn hosts(place: &Place) -> String {
    let text = match place {
        Place::File(_) => fs::read_to_string(HOSTS),
        Place::Process(process) => process.read(HOSTS),
        Place::Container { engine, id, .. } => engine.read(id, HOSTS).await,
    };
    text.unwrap_or_default()
}
