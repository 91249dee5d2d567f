//! Targets: which network namespace is audited, what its surroundings tell, and getting the agent into it. What the agent does
//! there, and what is thought of it, is decided elsewhere.

mod account;
mod address;
mod container;
mod docker;
mod error;
mod gluetun;
mod image;
mod lifecycle;
mod netns;
mod pid;
mod process;
mod resolv;
mod secrets;
mod setns;
mod settings;
mod source;
mod spec;
mod stack;
mod sweep;
mod tls;
mod transport;

use std::path::{Path, PathBuf};

use bollard::query_parameters::RestartContainerOptions;
use docker::Engine;
pub use error::{Candidate, TargetError};
pub use gluetun::{Gluetun, ROLE_LABEL};
pub use image::Manner;
pub use lifecycle::{Condition, Container};
pub use pid::{Process, Reach, read_small};
pub use process::{AgentHandle, AgentInput, AgentOutput, AgentProcess};
use resolv::Place;
pub use resolv::{ResolvConf, of_process as resolv_conf_of};
pub use setns::SETNS;
pub use settings::Settings;
pub use source::Source;
pub use spec::{Enter, FindOptions, TargetSpec};
pub use stack::Dependent;
use stack::Stack;

use crate::model::evidence::StackAccount;
use crate::net::netns::Netns;

/// A network namespace that was found, and what could be learned of it from outside.
#[derive(Debug)]
pub struct Target {
    /// How it is called, such as `docker:gluetun`.
    pub label: String,
    /// The stack's resolv.conf when the target was found.
    pub resolv_conf: ResolvConf,
    /// What a Gluetun tells about itself.
    pub gluetun: Option<Gluetun>,
    /// Settings of the container that owns the namespace.
    pub settings: Option<Settings>,
    /// Containers that share the namespace, or were meant to.
    pub dependents: Vec<Dependent>,
    /// What the user should know about how the target was found.
    pub notes: Vec<String>,
    /// The namespace, held open; `None` when it may not be opened from here.
    namespace: Option<Netns>,
    stack: Option<Stack>,
    place: Place,
}

impl Target {
    /// Finds the target that was named; without a name, the one Gluetun container that runs.
    pub async fn find(spec: Option<&TargetSpec>, options: &FindOptions) -> Result<Self, TargetError> {
        let mut target = match spec {
            None => Self::of_docker(None, options).await?,
            Some(TargetSpec::Docker(name)) => Self::of_docker(Some(name), options).await?,
            Some(spec @ TargetSpec::Netns(name)) => Self::of_netns(spec, name, options).await?,
            Some(spec @ TargetSpec::Pid(pid)) => Self::of_pid(spec, *pid, options).await?,
        };
        if let Some(namespace) = &target.namespace {
            netns::check(namespace, &target.label)?;
        }
        if let Some(stack) = &target.stack {
            target.dependents = stack.dependents(target.namespace.as_ref()).await?;
        }
        Ok(target)
    }

    async fn of_docker(name: Option<&str>, options: &FindOptions) -> Result<Self, TargetError> {
        let engine = Engine::connect(options.docker_host.as_deref()).await?;
        let left = sweep::sweep(&engine).await?;
        let mut stack = stack::find(engine, name).await?;
        let mut notes = std::mem::take(&mut stack.notes);
        if !left.is_empty() {
            notes.push(format!("removed agents that an earlier run left: {}", left.join(", ")));
        }
        let place = given(options).unwrap_or_else(|| stack.resolv_conf());
        let process = stack.process.as_ref();
        Ok(Self {
            label: TargetSpec::Docker(stack.name.clone()).to_string(),
            resolv_conf: place.read().await?,
            gluetun: stack.gluetun.clone(),
            settings: Some(stack.settings.clone()),
            dependents: Vec::new(),
            notes,
            namespace: process.and_then(|process| Netns::open(process.netns()).ok()),
            stack: Some(stack),
            place,
        })
    }

    async fn of_netns(spec: &TargetSpec, name: &str, options: &FindOptions) -> Result<Self, TargetError> {
        let path = netns::locate(name)?;
        let of_process = netns::process_of(&path).and_then(Process::find).map(Place::Process);
        let place = given(options).or(of_process).unwrap_or_else(|| Place::of_namespace(netns::name_of(&path)));
        Self::of_path(spec, &path, place).await
    }

    async fn of_pid(spec: &TargetSpec, pid: u32, options: &FindOptions) -> Result<Self, TargetError> {
        let process = Process::find(pid).ok_or(TargetError::NoProcess { pid })?;
        let path = process.netns();
        Self::of_path(spec, &path, given(options).unwrap_or(Place::Process(process))).await
    }

    async fn of_path(spec: &TargetSpec, path: &Path, place: Place) -> Result<Self, TargetError> {
        let label = spec.to_string();
        let refused = |source| TargetError::NotPermitted { label: label.clone(), docker: false, source };
        let namespace = Netns::open(path).map_err(refused)?;
        Ok(Self {
            resolv_conf: place.read().await?,
            gluetun: None,
            settings: None,
            dependents: Vec::new(),
            notes: Vec::new(),
            namespace: Some(namespace),
            stack: None,
            place,
            label,
        })
    }

    /// Under which name the journal of this target is kept: the namespace's inode, or the container's id where that is not to be seen.
    pub fn key(&self) -> String {
        match (self.namespace_inode(), &self.stack) {
            (Some(inode), _) => format!("netns-{inode}"),
            (None, Some(stack)) => format!("docker-{}", stack.id),
            (None, None) => format!("label-{}", self.label.replace(|c: char| !c.is_ascii_alphanumeric(), "-")),
        }
    }

    /// Starts the agent inside. `admin` says that it will change the network there, and needs CAP_NET_ADMIN.
    pub async fn launch(&self, enter: Enter, admin: bool) -> Result<AgentProcess, TargetError> {
        match (enter, &self.stack) {
            (Enter::Setns, _) | (Enter::Auto, None) => setns::launch(Some(self.enterable()?)),
            (Enter::Container, None) => Err(TargetError::NotDocker { label: self.label.clone() }),
            (Enter::Container, Some(stack)) => container::launch(&stack.engine, &stack.id, admin).await,
            (Enter::Auto, Some(stack)) => match self.enterable() {
                Ok(namespace) => setns::launch(Some(namespace)),
                Err(_) => container::launch(&stack.engine, &stack.id, admin).await,
            },
        }
    }

    /// Paths by which the resolv.conf of the stack and of its dependents are read from here, as far as they are.
    pub fn resolv_files(&self) -> Vec<PathBuf> {
        let of_dependents = self.dependents.iter().filter_map(|dependent| dependent.pid);
        let own = self.place.path().into_iter();
        own.chain(of_dependents.map(|pid| PathBuf::from(format!("/proc/{pid}/root{}", resolv::PATH)))).collect()
    }

    /// The container that owns the namespace, as something that can be stopped and started; `None` when there is none.
    pub fn container(&self) -> Option<Container> {
        let stack = self.stack.as_ref()?;
        Some(Container::new(&stack.engine.address, &stack.id, &stack.name, &stack.settings.restart))
    }

    /// The containers that share the namespace, or were meant to, as they are now.
    pub async fn dependents_now(&self) -> Result<Vec<Dependent>, TargetError> {
        match &self.stack {
            Some(stack) => stack.dependents(self.namespace.as_ref()).await,
            None => Ok(Vec::new()),
        }
    }

    /// What the engine tells of the stack's containers; `None` when the target is no container.
    pub async fn account(&self) -> Option<Result<StackAccount, TargetError>> {
        Some(account::take(self.stack.as_ref()?).await)
    }

    /// Restarts a dependent, which has it join the namespace that its owner has now.
    pub async fn restart_dependent(&self, dependent: &Dependent) -> Result<(), TargetError> {
        let Some(stack) = &self.stack else { return Ok(()) };
        let doing = docker::asked(format!("restart the container {}", dependent.name));
        stack.engine.docker.restart_container(&dependent.id, None::<RestartContainerOptions>).await.map_err(doing)
    }

    /// Whether a dependent waits for the health of this container before Compose starts it; `None` when nobody can tell.
    pub fn waits_for_health(&self, dependent: &Dependent) -> Option<bool> {
        let stack = self.stack.as_ref()?;
        match &dependent.settings.depends_on {
            Some(all) => {
                Some(all.iter().any(|(service, condition)| {
                    stack.service.as_ref() == Some(service) && condition == "service_healthy"
                }))
            }
            // An old Compose does not tell what it knows; Docker by itself waits for nothing.
            None => (!dependent.settings.by_compose).then_some(false),
        }
    }

    /// Starts an agent in the namespace that the container, which was started again since it was found, has now. What comes beside it has
    /// to be kept until the agent has answered once.
    pub async fn launch_anew(
        &self,
        condition: &Condition,
        how: &str,
    ) -> Result<(AgentProcess, Option<Netns>), TargetError> {
        let Some(stack) = &self.stack else { return Err(TargetError::NotDocker { label: self.label.clone() }) };
        if how == container::HOW {
            return Ok((container::launch(&stack.engine, &stack.id, true).await?, None));
        }
        let not_local = || TargetError::NotLocal { name: stack.name.clone() };
        let process = Process::of_container(condition.pid, &stack.id, None).ok_or_else(not_local)?;
        let docker = true;
        let refused = |source| TargetError::NotPermitted { label: self.label.clone(), docker, source };
        let namespace = Netns::open(process.netns()).map_err(refused)?;
        Ok((setns::launch(Some(&namespace))?, Some(namespace)))
    }

    /// Starts an agent on the host of the container, in the network namespace of the engine's bridges: a child where they are to be seen
    /// from here and may be listened to, else a container.
    pub async fn launch_on_host(&self) -> Result<AgentProcess, TargetError> {
        let Some(stack) = &self.stack else { return Err(TargetError::NotDocker { label: self.label.clone() }) };
        let here = crate::net::interfaces();
        let bridges = stack.bridges().await?;
        let near = stack.engine.local && here.iter().any(|link| bridges.contains(&link.name));
        if near && crate::sensor::ring::Ring::open(1).is_ok() {
            return setns::launch(None);
        }
        container::launch_on_host(&stack.engine).await
    }

    /// Starts an agent beside the stack, in a container on the Docker network of this name.
    pub async fn launch_beside(&self, network: &str) -> Result<AgentProcess, TargetError> {
        let Some(stack) = &self.stack else { return Err(TargetError::NotDocker { label: self.label.clone() }) };
        container::launch_beside(&stack.engine, network).await
    }

    /// Reads the stack's resolv.conf as it is now.
    pub async fn reread_resolv_conf(&self) -> Result<ResolvConf, TargetError> {
        self.place.read().await
    }

    /// Inode of the namespace, as `lsns` shows it; `None` when it is not to be seen from here.
    pub fn namespace_inode(&self) -> Option<u64> {
        self.namespace.as_ref()?.inode().ok()
    }

    /// The namespace, when the kernel lets us enter it.
    fn enterable(&self) -> Result<&Netns, TargetError> {
        let docker = self.stack.is_some();
        let refused = |source| TargetError::NotPermitted { label: self.label.clone(), docker, source };
        let Some(namespace) = &self.namespace else {
            let process = self.stack.as_ref().and_then(|stack| stack.process.as_ref());
            let error = process.and_then(|process| Netns::open(process.netns()).err());
            return Err(error.map_or_else(|| TargetError::NotLocal { name: self.label.clone() }, refused));
        };
        netns::try_enter(namespace).map_err(refused)?;
        Ok(namespace)
    }
}

/// The engine that a run would talk to, in one line: what it is, its version, and where.
pub async fn engine_of(options: &FindOptions) -> Result<String, TargetError> {
    let engine = Engine::connect(options.docker_host.as_deref()).await?;
    let told = engine.docker.version().await.map_err(docker::asked("ask for the engine's version"))?;
    let platform = told.platform.map(|platform| platform.name).filter(|name| !name.is_empty());
    let name = platform.unwrap_or_else(|| "version".to_owned());
    let (version, api) = (told.version.unwrap_or_default(), told.api_version.unwrap_or_default());
    let containers = engine.containers().await?.len();
    let text = format!("{name} {version} (API {api}) at {}, with {containers} containers", engine.address);
    Ok(crate::report::clean_line(&text, 200))
}

/// The image of this very program, made if it is not there; its name and tag. Any subcommand can be a container so, without a registry.
pub async fn own_image(options: &FindOptions) -> Result<String, TargetError> {
    image::ensure(&Engine::connect(options.docker_host.as_deref()).await?).await
}

/// Makes an image of this very program named `tag`.
pub async fn make_own_image(options: &FindOptions, tag: &str, manner: &Manner) -> Result<(), TargetError> {
    image::make_as(&Engine::connect(options.docker_host.as_deref()).await?, tag, manner).await
}

/// The file that the user said is the stack's resolv.conf.
fn given(options: &FindOptions) -> Option<Place> {
    options.resolv_conf.clone().map(Place::File)
}
