//! The Docker engine, by its API alone: connecting, and questions to it whose errors say what was asked. Knows nothing of leaks.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{
    ContainerInspectResponse, ContainerSummary, ContainerSummaryHostConfig, ContainerSummaryStateEnum,
};
use bollard::query_parameters::{DownloadFromContainerOptionsBuilder, ListContainersOptions};
use futures_util::{StreamExt, TryStreamExt};

use super::address::{Address, Environment};
use super::error::{Candidate, TargetError};
use super::pid::small_text;
use super::transport::Transport;

/// Patience for the first answer of an engine.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// Further tries to list containers when one is in a state that cannot be read, and the time before each.
const LISTS: usize = 20;
const LIST_AGAIN: Duration = Duration::from_millis(100);

/// Longest archive that is taken for one small file, in bytes.
const LONGEST_ARCHIVE: usize = 256 * 1024;

/// A connection to an engine that answers.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(super) docker: Docker,
    /// Its address, as [`Engine::at`] takes it.
    pub address: Arc<Address>,
    /// Whether the engine is reached over a socket of this machine.
    pub local: bool,
}

impl Engine {
    /// Connects to the engine at this address; else to the one that Docker's own command line would take.
    pub async fn connect(host: Option<&str>) -> Result<Self, TargetError> {
        let environment = Environment::own();
        let address = host.map_or_else(|| environment.address(), |host| Ok(environment.given(host)))?;
        Self::at(address).await
    }

    /// Connects to the engine at this address.
    pub async fn at(address: Address) -> Result<Self, TargetError> {
        Self::at_within(address, FIRST_ANSWER).await
    }

    async fn at_within(address: Address, patience: Duration) -> Result<Self, TargetError> {
        let at = address.to_string();
        let unanswered = |source| TargetError::NoAnswer { at: at.clone(), source };
        let (docker, said) = if let Some(path) = address.host.strip_prefix("unix://") {
            knock(path, &at)?;
            (Docker::connect_with_host(&address.host).map_err(unanswered)?, None)
        } else {
            let transport = Transport::to(&address)?;
            transport.knock().await.map_err(|source| TargetError::Unreachable { at: at.clone(), source })?;
            let said = transport.said.clone();
            (transport.client().map_err(unanswered)?, Some(said))
        };
        let local = said.is_none();
        match tokio::time::timeout(patience, docker.negotiate_version()).await {
            Ok(Ok(docker)) => Ok(Self { docker, address: Arc::new(address), local }),
            Ok(Err(source)) => match said.map(|said| said.text()).filter(|said| !said.is_empty()) {
                Some(said) => Err(TargetError::Ssh { at, said }),
                None => Err(unanswered(source)),
            },
            Err(_) => Err(TargetError::Silent { at, after: patience }),
        }
    }

    /// All containers, those that do not run too.
    pub async fn containers(&self) -> Result<Vec<ContainerSummary>, TargetError> {
        self.list(HashMap::new()).await
    }

    /// All containers, with the network mode of each, which Podman tells in an inspection only.
    pub async fn containers_and_networks(&self) -> Result<Vec<ContainerSummary>, TargetError> {
        let mut all = self.containers().await?;
        for summary in &mut all {
            if let (None, Some(id)) = (&summary.host_config, summary.id.as_deref()) {
                let network_mode = self.inspect(id).await?.and_then(|found| found.host_config?.network_mode);
                summary.host_config = Some(ContainerSummaryHostConfig { network_mode, ..Default::default() });
            }
        }
        Ok(all)
    }

    /// All containers with this label (`key=value`).
    pub async fn labelled(&self, label: &str) -> Result<Vec<ContainerSummary>, TargetError> {
        self.list(HashMap::from([("label".to_owned(), vec![label.to_owned()])])).await
    }

    /// Podman has states of its own, which Docker's API does not know, for containers that are about to go: they are waited for.
    async fn list(&self, filters: HashMap<String, Vec<String>>) -> Result<Vec<ContainerSummary>, TargetError> {
        let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
        let mut tries = 0..LISTS;
        loop {
            match self.docker.list_containers(Some(options.clone())).await {
                Err(Error::JsonDataError { .. }) if tries.next().is_some() => tokio::time::sleep(LIST_AGAIN).await,
                listed => return listed.map_err(asked("list the containers")),
            }
        }
    }

    /// What the engine knows about a container, or `None` when it knows none of that name or id.
    pub async fn inspect(&self, name: &str) -> Result<Option<ContainerInspectResponse>, TargetError> {
        match self.docker.inspect_container(name, None).await {
            Ok(container) => Ok(Some(container)),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(source) => Err(TargetError::Docker { doing: format!("inspect container `{name}`"), source }),
        }
    }

    /// A small file of a container, as its processes see it when they run, bind mounts included.
    pub async fn read(&self, id: &str, path: &str) -> io::Result<String> {
        let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
        let mut parts = self.docker.download_from_container(id, Some(options)).map_err(io::Error::other);
        let mut bytes = Vec::new();
        while let Some(part) = parts.next().await {
            bytes.extend_from_slice(&part?);
            if bytes.len() > LONGEST_ARCHIVE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the archive is too long for this file"));
            }
        }
        only_file(&bytes)
    }
}

/// Turns an error of the engine into one that says what was asked of it.
pub(super) fn asked(doing: impl Into<String>) -> impl FnOnce(Error) -> TargetError {
    |source| TargetError::Docker { doing: doing.into(), source }
}

/// The name of a container in a list, without the slash; the id when it has none.
pub fn name_of(summary: &ContainerSummary) -> String {
    let name = summary.names.iter().flatten().next().map(|name| name.trim_start_matches('/').to_owned());
    name.or_else(|| summary.id.clone()).unwrap_or_default()
}

/// How an error names a container.
pub fn candidate(summary: &ContainerSummary) -> Candidate {
    Candidate { name: name_of(summary), image: summary.image.clone().unwrap_or_default() }
}

/// Whether the container runs, paused ones included.
pub fn runs(summary: &ContainerSummary) -> bool {
    matches!(summary.state, Some(ContainerSummaryStateEnum::RUNNING | ContainerSummaryStateEnum::PAUSED))
}

/// The label of a container in a list.
pub fn label<'a>(summary: &'a ContainerSummary, key: &str) -> Option<&'a str> {
    summary.labels.as_ref()?.get(key).map(String::as_str)
}

/// The one regular file that an archive of the engine holds.
fn only_file(archive: &[u8]) -> io::Result<String> {
    let mut archive = tar::Archive::new(archive);
    let mut entry = archive.entries()?.next().ok_or_else(|| io::Error::other("the engine sent an empty archive"))??;
    if !entry.header().entry_type().is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    small_text(bytes)
}

/// Connects to the socket and hangs up: the error of the kernel tells more than that of a client library.
fn knock(path: &str, at: &str) -> Result<(), TargetError> {
    let (path, at) = (path.to_owned(), at.to_owned());
    match UnixStream::connect(&path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(TargetError::NoSocket { path, at }),
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            Err(TargetError::SocketPermission { at, source })
        }
        Err(source) => Err(TargetError::SocketDead { at, source }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    async fn error_at(host: &str) -> TargetError {
        match Engine::at_within(Environment::own().given(host), Duration::from_millis(200)).await {
            Ok(_) => panic!("nobody answers at {host}"),
            Err(error) => error,
        }
    }

    #[tokio::test]
    async fn without_a_socket_the_path_is_named() {
        let error = error_at("unix:///nonexistent/docker.sock").await;
        assert!(
            matches!(&error, TargetError::NoSocket { path, .. } if path == "/nonexistent/docker.sock"),
            "{error:?}"
        );
        assert!(error.help().is_some_and(|help| help.contains("DOCKER_HOST")));
    }

    #[tokio::test]
    async fn a_socket_without_a_daemon_is_told_apart() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("docker.sock");
        drop(UnixListener::bind(&path).expect("bound"));
        let error = error_at(&format!("unix://{}", path.display())).await;
        assert!(matches!(error, TargetError::SocketDead { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_daemon_that_says_nothing_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("docker.sock");
        let _mute = UnixListener::bind(&path).expect("bound");
        let error = error_at(&format!("unix://{}", path.display())).await;
        assert!(matches!(error, TargetError::Silent { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn an_unknown_kind_of_address_gets_help() {
        let error = error_at("npipe://nas.local").await;
        assert!(matches!(error, TargetError::Address { .. }), "{error:?}");
        assert!(error.help().is_some_and(|help| help.contains("tcp://")));
    }

    #[tokio::test]
    async fn a_port_without_a_daemon_is_told() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let error = error_at(&format!("tcp://{}", closed.expect("an address"))).await;
        assert!(matches!(error, TargetError::Unreachable { .. }), "{error:?}");
    }

    #[test]
    fn an_archive_gives_its_file_and_nothing_else() {
        let archive = |kind: tar::EntryType, text: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(text.len() as u64);
            let mut builder = tar::Builder::new(Vec::new());
            builder.append_data(&mut header, "resolv.conf", text.as_bytes()).expect("in memory");
            builder.into_inner().expect("in memory")
        };
        assert_eq!(
            only_file(&archive(tar::EntryType::Regular, "nameserver ::1\n")).expect("a file"),
            "nameserver ::1\n"
        );
        assert!(only_file(&archive(tar::EntryType::Directory, "")).is_err());
        assert!(only_file(&archive(tar::EntryType::Regular, &"x".repeat(70_000))).is_err());
        assert!(only_file(&[]).is_err());
    }
}
