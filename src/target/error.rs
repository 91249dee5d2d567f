//! Why a stack could not be found or entered, and what to do about it. A message says what happened and fits after "failed to …",
//! its source says why, and [`TargetError::help`] says what to do.

use std::fmt;
use std::io;
use std::time::Duration;

use bollard::errors::Error;

use super::{tls, transport};
use crate::near::nearest;
use crate::net::netns::NetnsError;

/// A container that an error names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Name without the leading slash.
    pub name: String,
    /// Image as the container was started with.
    pub image: String,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.image)
    }
}

/// Finding or entering a target did not work.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// `--target` is not of a form that is known.
    #[error("read the target `{}`: it is none of docker:NAME, netns:NAME-OR-PATH and pid:PID", .given.escape_debug())]
    Spec { given: String },
    /// There is no Docker socket.
    #[error("reach Docker: there is no socket at {}", .at.strip_prefix("unix://").unwrap_or(.at))]
    NoSocket { path: String, at: String },
    /// The Docker socket is there and may not be used.
    #[error("use the Docker socket {}", .at.strip_prefix("unix://").unwrap_or(.at))]
    SocketPermission { at: String, source: io::Error },
    /// The Docker socket is there and nobody listens.
    #[error("reach Docker at {at}")]
    SocketDead { at: String, source: io::Error },
    /// The engine took the connection and did not answer.
    #[error("reach Docker at {at}: no answer within {} s", .after.as_secs())]
    Silent { at: String, after: Duration },
    /// The address of the engine is of a kind that is not spoken here.
    #[error("reach Docker at {host}: that is no address of an engine")]
    Address { host: String },
    /// There is no connection to be had with an engine elsewhere.
    #[error("reach Docker at {at}")]
    Unreachable { at: String, source: io::Error },
    /// What answered is no engine, or refused us.
    #[error("reach Docker at {at}")]
    NoAnswer { at: String, source: Error },
    /// `ssh` did not get through to the engine.
    #[error("reach Docker at {at}: ssh said: {said}")]
    Ssh { at: String, said: String },
    /// A file for TLS is missing or does not fit.
    #[error("use {path} for TLS with Docker: {why}")]
    TlsFile { path: String, why: String },
    /// The context that is in force is not there.
    #[error("find the Docker context `{}`, which {by} names; {}", .name.escape_debug(), list_contexts(.known))]
    NoContext { name: String, by: String, known: Vec<String> },
    /// A file of Docker's settings cannot be read.
    #[error("read {path}, which says where Docker is")]
    DockerSettings { path: String, source: io::Error },
    /// The engine's machine is of another kind than this program.
    #[error("run the agent on the engine's machine: that is {engine}, and this leakcheck is made for {own}")]
    Architecture { engine: String, own: String },
    /// The engine refused a request.
    #[error("{doing}")]
    Docker { doing: String, source: Error },
    /// No container has this name.
    #[error("find a container or compose service named `{name}`; {}", list_running(.running))]
    NoContainer { name: String, running: Vec<Candidate> },
    /// Several containers are of this compose service.
    #[error("choose among the containers of the compose service `{service}`: {}", list(.found))]
    SeveralOfService { service: String, found: Vec<Candidate> },
    /// The container is there and does not run.
    #[error("enter container `{name}`: it is {state}")]
    NotRunning { name: String, state: String },
    /// The container has no network namespace of its own.
    #[error("audit container `{name}`: it is on the host's network, so this would audit the host")]
    HostNetwork { name: String },
    /// The container joined the namespace of one that is gone.
    #[error("enter container `{name}`: it joined the network of container `{owner}`, which is gone")]
    OwnerGone { name: String, owner: String },
    /// Nothing that looks like Gluetun runs.
    #[error("find a running Gluetun container; {}", list_running(.running))]
    NoGluetun { running: Vec<Candidate>, stopped: Vec<Candidate> },
    /// More than one Gluetun runs.
    #[error("choose a stack: several Gluetun containers run: {}", list(.found))]
    SeveralGluetun { found: Vec<Candidate> },
    /// There is no such named namespace.
    #[error("find the network namespace `{name}`; {}", list_known(.known))]
    NoNetns { name: String, known: Vec<String> },
    /// The file is not the file of a network namespace.
    #[error("enter {path}: it is not the file of a network namespace")]
    NotANamespace { path: String },
    /// There is no such process.
    #[error("find process {pid}: there is none on this machine")]
    NoProcess { pid: u32 },
    /// The target is where the runner itself is.
    #[error("audit {label}: that is the network namespace in which leakcheck itself runs, not that of a VPN stack")]
    OwnNamespace { label: String },
    /// The kernel does not let us in.
    #[error("enter the network namespace of {label}")]
    NotPermitted { label: String, docker: bool, source: NetnsError },
    /// `setns` was asked for, and the container's processes are not to be seen from here.
    #[error("enter container `{name}` by setns: its processes are not to be seen from here")]
    NotLocal { name: String },
    /// A container was asked for, and the target is not one of Docker.
    #[error("enter {label} by a container: only a docker: target can be entered so")]
    NotDocker { label: String },
    /// The stack's resolv.conf could not be read.
    #[error("read the stack's resolv.conf from {from}")]
    ResolvConf { from: String, source: io::Error },
    /// Our own program or one of its shared objects could not be read.
    #[error("read {path} for the agent's image")]
    OwnProgram { path: String, source: io::Error },
    /// The engine could not build the agent's image.
    #[error("build the agent's image: {message}")]
    Image { message: String },
    /// The agent could not be started.
    #[error("start the agent")]
    Spawn { source: io::Error },
    /// The agent ended by itself in an ill way.
    #[error("end the agent cleanly: it ended with {status}{}", quote(.stderr))]
    AgentFailed { status: String, stderr: String },
    /// The agent did not end when it was told to, and was killed.
    #[error("end the agent: it was still there {} s after it was told to end, and was killed", .patience.as_secs())]
    AgentStuck { patience: Duration },
}

impl TargetError {
    /// What the user can do about it.
    pub fn help(&self) -> Option<String> {
        let text = match self {
            Self::Spec { .. } => "name the VPN container (docker:gluetun), a namespace (netns:vpn or netns:/proc/PID/ns/net) or a process (pid:1234)".to_owned(),
            Self::NoSocket { .. } => "start Docker, or say where it listens with DOCKER_HOST; a stack without Docker is named by --target netns:NAME or --target pid:PID".to_owned(),
            Self::SocketPermission { .. } => "run with sudo, or join the group that owns the socket (sudo usermod -aG docker $USER) and log in again".to_owned(),
            Self::SocketDead { .. } => "nobody listens on it: start the daemon (systemctl start docker), or correct DOCKER_HOST".to_owned(),
            Self::Silent { .. } => "look whether `docker ps` answers; if not, restart the daemon".to_owned(),
            Self::Address { .. } => "DOCKER_HOST may be unix:///path, tcp://host:port or ssh://user@host; `docker context ls` shows the contexts".to_owned(),
            Self::Unreachable { source, .. } => tls_help(source).unwrap_or("look whether `docker ps` answers from here; correct DOCKER_HOST or the context, or start the daemon there").to_owned(),
            Self::NoAnswer { source, .. } => match (tls_help(source), source) {
                (Some(help), _) => help.to_owned(),
                (None, Error::DockerResponseServerError { message, .. }) if message.contains("HTTPS server") => "the engine wants TLS: set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to the folder with ca.pem, cert.pem and key.pem".to_owned(),
                _ => "look whether `docker ps` answers from here; what is at this address may be no engine".to_owned(),
            },
            Self::Ssh { .. } => "ssh has to log in without asking (a key in ssh-agent, a known host), and find `docker` there: try `ssh HOST docker version`".to_owned(),
            Self::TlsFile { .. } => "DOCKER_CERT_PATH, else ~/.docker or the context, has to hold ca.pem, and cert.pem with key.pem where the engine wants to know us".to_owned(),
            Self::NoContext { name, known, .. } => match nearest(name, known.iter().map(String::as_str)) {
                Some(near) => format!("name one that is there, as in DOCKER_CONTEXT={near}; `docker context use` chooses one for good"),
                None => "`docker context ls` shows the contexts; `docker context use default` goes back to the socket of this machine".to_owned(),
            },
            Self::DockerSettings { .. } => "mend or remove it; DOCKER_HOST says where Docker is without it".to_owned(),
            Self::Architecture { .. } => "take the leakcheck that is made for that machine, and run it there".to_owned(),
            Self::NoContainer { name, running } => match near(name, running) {
                Some(near) => format!("name one that runs, as in --target docker:{near}"),
                None => "start the stack first (docker compose up -d)".to_owned(),
            },
            Self::SeveralOfService { found, .. } => format!("name one of them, as in --target docker:{}", first_name(found)),
            Self::NotRunning { name, state } => match state.as_str() {
                "paused" => format!("docker unpause {name}"),
                "restarting" => format!("it does not stay up: see docker logs {name}"),
                _ => format!("docker start {name}"),
            },
            Self::HostNetwork { .. } => "name the VPN container itself, the one that the others join with network_mode".to_owned(),
            Self::OwnerGone { name, .. } => format!("this is a finding in itself: the container is cut off until it is created anew (docker compose up -d --force-recreate {name})"),
            Self::NoGluetun { running, stopped } => match (stopped.first(), running.first()) {
                (Some(stopped), _) => format!("{stopped} is a Gluetun that does not run: docker start {}", stopped.name),
                (None, Some(first)) => format!("name the VPN container, as in --target docker:{}", first.name),
                (None, None) => "start the stack first (docker compose up -d)".to_owned(),
            },
            Self::SeveralGluetun { found } => format!("name one, as in --target docker:{}", first_name(found)),
            Self::NoNetns { .. } => "`ip netns list` shows the names; a namespace without a name is given by path (netns:/proc/PID/ns/net) or as pid:PID".to_owned(),
            Self::NotANamespace { .. } => "give a file such as /run/netns/NAME or /proc/PID/ns/net; an empty file under /run/netns is left over from before a reboot".to_owned(),
            Self::NoProcess { .. } => "give the id of a process of the stack, as the host sees it (docker inspect -f '{{.State.Pid}}' NAME)".to_owned(),
            Self::OwnNamespace { .. } => "name the VPN container or its namespace, and run leakcheck outside of it".to_owned(),
            Self::NotPermitted { docker: true, .. } => "this needs CAP_SYS_ADMIN: run with sudo, or use --enter container".to_owned(),
            Self::NotPermitted { docker: false, .. } => "this needs CAP_SYS_ADMIN: run with sudo".to_owned(),
            Self::NotLocal { .. } => "use --enter container, or run leakcheck as root on the machine of the Docker daemon, outside of containers".to_owned(),
            Self::NotDocker { .. } => "leave --enter out, or use --enter setns as root".to_owned(),
            Self::ResolvConf { .. } => "say which file the stack uses with `resolv_conf` in [target] of leakcheck.toml".to_owned(),
            Self::Image { .. } => "the image is made from leakcheck itself and needs no registry; as root beside the daemon --enter setns does without".to_owned(),
            Self::Docker { .. } | Self::OwnProgram { .. } | Self::Spawn { .. } | Self::AgentFailed { .. } | Self::AgentStuck { .. } => return None,
        };
        Some(text)
    }
}

/// The container that was most likely meant, else the first one.
fn near<'a>(name: &str, running: &'a [Candidate]) -> Option<&'a str> {
    let names = || running.iter().map(|candidate| candidate.name.as_str());
    nearest(name, names()).or_else(|| names().next())
}

fn first_name(found: &[Candidate]) -> &str {
    found.first().map_or("NAME", |candidate| &candidate.name)
}

fn list(found: &[Candidate]) -> String {
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn list_running(found: &[Candidate]) -> String {
    if found.is_empty() { "no container runs".to_owned() } else { format!("running are {}", list(found)) }
}

fn list_contexts(names: &[String]) -> String {
    if names.is_empty() { "there are none".to_owned() } else { format!("there are {}", names.join(", ")) }
}

/// What to do about an error that TLS is behind.
fn tls_help(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    transport::tls_error(error).and_then(tls::advice)
}

fn list_known(names: &[String]) -> String {
    if names.is_empty() {
        "none has a name under /run/netns".to_owned()
    } else {
        format!("there are {}", names.join(", "))
    }
}

fn quote(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(", and said: {stderr}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_in_a_name_is_told_the_name() {
        let candidate = |name: &str| Candidate { name: name.to_owned(), image: "image".to_owned() };
        let running = vec![candidate("prowlarr"), candidate("gluetun")];
        let help = |name: &str, running| TargetError::NoContainer { name: name.to_owned(), running }.help();
        assert_eq!(
            help("glutun", running.clone()).as_deref(),
            Some("name one that runs, as in --target docker:gluetun")
        );
        assert_eq!(help("nothing", running).as_deref(), Some("name one that runs, as in --target docker:prowlarr"));
        assert!(help("nothing", Vec::new()).is_some_and(|help| help.contains("start the stack")));
    }
}
