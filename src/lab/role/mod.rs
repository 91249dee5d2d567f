//! The lab's parts as programs of their own, each in the network namespace in which it is started: what the containers of
//! `fixtures/compose` run. What they do is the in-process lab's; here is only how they find their place and their settings.

mod gluetun;
mod home;
mod internet;
mod place;
mod provider;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

use super::internet::Servers;
use super::leak::Leak;
use super::plan;
use super::qbittorrent::{self, Qbittorrent, Release};
use super::tunnel_process;
use super::witness::{HttpWitness, Journal};
use crate::target::{FindOptions, Manner, make_own_image};

/// Variable that says which part a container plays.
pub const ROLE: &str = "LEAKCHECK_ROLE";
/// Variable that names a fixture of `fixtures/leaks`; without it nothing is broken.
pub const LEAK: &str = "LEAKCHECK_LEAK";
/// Name under which the compose file expects the image.
pub const IMAGE: &str = "leakcheck-lab";

/// Port on which a part says that it is ready; Gluetun's own health server has it too.
const READY: u16 = 9999;
/// Port of the neighbour's web interface.
const NEIGHBOUR: u16 = 8989;
/// Patience for the answer of a health server.
const PATIENCE: Duration = Duration::from_secs(2);

/// A part of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// The VPN container, as Gluetun is one; reads Gluetun's variables
    Gluetun,
    /// A torrent client that shares the VPN container's network
    Torrent,
    /// Another container on the bridge
    Neighbour,
    /// The home: the bridge's gateway, the LAN, and the address translation towards the ISP
    Home,
    /// The ISP, and everybody whom a probe asks
    Internet,
    /// The VPN provider
    Provider,
    /// The tunnel of a stack alone, in a process of its own
    Tunnel,
    /// Asks whether the part of this container is ready, and ends
    Health,
}

/// Plays a part until it is told to end by SIGTERM or SIGINT.
pub fn run(role: Role) -> anyhow::Result<()> {
    if role == Role::Health {
        return health();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(async {
        if role == Role::Tunnel {
            return tunnel_process::hold().await.context("hold the tunnel");
        }
        // Asked for first: as the first process of a container we get no signal without it.
        let mut term = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
        let mut int = signal(SignalKind::interrupt()).context("wait for SIGINT")?;
        let leak = leak()?;
        let journal = Journal::new();
        let part = match role {
            Role::Gluetun => gluetun::start(leak, journal).await?,
            Role::Torrent => torrent(leak.as_ref(), journal)?,
            Role::Neighbour => ready(page("neighbour", "Sonarr", NEIGHBOUR, journal)?)?,
            Role::Home => ready(home::start(leak.as_ref(), &journal)?)?,
            Role::Internet => ready(internet::start(&journal)?)?,
            Role::Provider => ready(provider::start(leak.as_ref(), &journal).await?)?,
            Role::Tunnel | Role::Health => unreachable!("both have ended above"),
        };
        eprintln!("lab: {role:?} is ready");
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        drop(part);
        Ok(())
    })
}

/// Builds the image of the parts from the running program, over the Docker API.
pub async fn build_image(tag: &str) -> anyhow::Result<()> {
    // When it is told nothing it plays the part that the variable names.
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let manner = Manner {
        labels: [("leakcheck".to_owned(), "lab-image".to_owned())].into(),
        command: words(&["lab", "role"]),
        health: Some(words(&["lab", "role", "health"])),
    };
    make_own_image(&FindOptions::default(), tag, &manner).await.with_context(|| format!("make the image {tag}"))
}

/// How the stack is to be broken.
fn leak() -> anyhow::Result<Option<Leak>> {
    match place::variable(LEAK) {
        Some(name) => Ok(Some(Leak::named(&name)?)),
        None => Ok(None),
    }
}

/// A part and the servers that go with it, held for as long as it shall run.
struct Part {
    servers: Servers,
    _held: Option<Box<dyn std::any::Any>>,
}

impl From<Servers> for Part {
    fn from(servers: Servers) -> Self {
        Self { servers, _held: None }
    }
}

impl Part {
    /// Keeps something else for as long.
    fn holding(servers: Servers, held: impl std::any::Any) -> Self {
        Self { servers, _held: Some(Box::new(held)) }
    }
}

/// A web interface of one page on all addresses.
fn page(service: &str, title: &str, port: u16, journal: Journal) -> anyhow::Result<Part> {
    let mut servers = Servers::default();
    servers.http(&HttpWitness::page(service, journal, title), (Ipv4Addr::UNSPECIFIED, port).into(), None)?;
    Ok(servers.into())
}

/// The torrent client, whose web interface is all that there is of it.
fn torrent(leak: Option<&Leak>, journal: Journal) -> anyhow::Result<Part> {
    let mut servers = Servers::default();
    let client = Qbittorrent::new(qbittorrent::Settings::of(leak), Release::default(), "torrent", journal);
    client.start(&mut servers, (Ipv4Addr::UNSPECIFIED, plan::WEB_UI).into())?;
    Ok(servers.into())
}

/// Says to the health check that this part stands.
fn ready(mut part: Part) -> anyhow::Result<Part> {
    let witness = HttpWitness::page("ready", Journal::new(), "ready");
    part.servers.http(&witness, (Ipv4Addr::LOCALHOST, READY).into(), None)?;
    Ok(part)
}

/// The torrent client has no port of its own for this: the network is Gluetun's.
fn health() -> anyhow::Result<()> {
    let port = if place::variable(ROLE).as_deref() == Some("torrent") { plan::WEB_UI } else { READY };
    let at = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE).with_context(|| format!("reach {at}"))?;
    stream.set_read_timeout(Some(PATIENCE)).context("set a time limit")?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: health\r\n\r\n").context("ask")?;
    let mut answer = [0; 64];
    let length = stream.read(&mut answer).context("get an answer")?;
    let answer = String::from_utf8_lossy(&answer[..length]);
    let status = answer.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("not healthy: {status}");
    }
    Ok(())
}
