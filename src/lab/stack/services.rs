//! What a running stack offers: Gluetun's control server, health server and resolver, and what its own tasks do in the
//! background: ask for the public address when the tunnel comes up, look after its health, keep resolv.conf.

use super::{Gluetun, StackError, set_nameservers};
use crate::lab::gluetun::{ControlServer, DnsSwitch, Habit, Resolver, Role, Status, Version, VpnControl, serve_health};
use crate::lab::internet::{ServerError, Servers, tcp};
use crate::lab::witness::Journal;
use futures_util::future::BoxFuture;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// v3.41 restarts a VPN, and says that it is not healthy, only after this time without success.
const FORGIVENESS: Duration = Duration::from_secs(180);
/// How often health is looked after.
const HEALTH_PERIOD: Duration = Duration::from_secs(60);
/// Longest wait for a connection of Gluetun's own.
const PATIENCE: Duration = Duration::from_secs(3);
/// Where the control server listens when nothing else is said.
pub const CONTROL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8000);
const HEALTH_PORT: u16 = 9999;
const DNS_PORT: u16 = 53;
/// The resolver that v3.41 writes into resolv.conf when its own is stopped.
const PLAIN_RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1));

/// What the services need to know.
#[derive(Clone)]
pub struct ServiceConfig {
    /// Whose habits they have.
    pub version: Version,
    /// Where the control server listens.
    pub control: SocketAddr,
    /// Who may use the control server; empty for the version's default.
    pub roles: Vec<Role>,
    /// What its control server does otherwise.
    pub habits: Vec<Habit>,
    /// The port that the provider forwards.
    pub forwarded: Option<u16>,
    /// The VPN's resolver; `None` for a stack whose own resolver is dead.
    pub upstream: Option<SocketAddr>,
    /// The container's original resolver, which is asked for local names.
    pub original: Option<SocketAddr>,
    /// A resolver that is asked for every name besides.
    pub also: Option<SocketAddr>,
    /// A web server that echoes the client's address in clear: address and host name.
    pub echo: (SocketAddr, String),
    /// An address that answers over TCP as long as the tunnel works.
    pub health: SocketAddr,
    /// Where the resolver writes what it was asked.
    pub journal: Journal,
}

/// Starts the services of `stack` in the calling thread's network namespace and runtime.
///
/// # Errors
/// When a port cannot be taken.
pub fn serve(stack: &Gluetun, config: ServiceConfig, addresses: &[IpAddr]) -> Result<Servers, ServerError> {
    let mut servers = Servers::default();
    let control = Arc::new_cyclic(|own| Control {
        own: own.clone(),
        stack: stack.clone(),
        runtime: tokio::runtime::Handle::current(),
        echo: config.echo.clone(),
        known: Mutex::new(Known { running: true, public_ip: None, good: Instant::now() }),
    });
    control.look_up();
    let vpn: Arc<dyn VpnControl> = Arc::clone(&control) as _;
    let switch = DnsSwitch::new();
    let listener = tcp(config.control)?;
    let mut server =
        ControlServer::new(config.version, Arc::clone(&vpn), switch.clone()).with_forwarded(config.forwarded);
    for role in config.roles {
        server = server.with_role(role);
    }
    for habit in &config.habits {
        server = server.with_habit(habit);
    }
    servers.task(async move { server.serve(listener).await });
    let listener = tcp((Ipv4Addr::LOCALHOST, HEALTH_PORT).into())?;
    servers.task(async move { serve_health(listener, vpn).await });
    servers.task(look_after(Arc::clone(&control), config.health));
    if let Some(upstream) = config.upstream {
        let at: Vec<SocketAddr> = addresses.iter().map(|ip| (*ip, DNS_PORT).into()).collect();
        let resolver = Resolver::bind(config.version, &at, upstream, config.original, config.journal)
            .map_err(|e| ServerError::Bind(at[0], e))?
            .also_asking(config.also);
        let running = switch.clone();
        servers.task(async move { resolver.serve(running).await });
    }
    servers.task(keep_resolv_conf(stack.clone(), config.version, switch));
    Ok(servers)
}

/// v3.41 turns to a plain resolver when its own is stopped; later versions leave the file as it is.
async fn keep_resolv_conf(stack: Gluetun, version: Version, switch: DnsSwitch) {
    let mut changes = switch.subscribe();
    while changes.changed().await.is_ok() {
        let running = *changes.borrow_and_update();
        if version == Version::Latest {
            continue;
        }
        let server = if running { Ipv4Addr::LOCALHOST.into() } else { PLAIN_RESOLVER };
        if let Err(error) = set_nameservers(&stack.config().resolv_conf, &[server]) {
            eprintln!("lab: {:#}", anyhow::Error::from(error));
        }
    }
}

async fn look_after(control: Arc<Control>, at: SocketAddr) {
    loop {
        if matches!(timeout(PATIENCE, TcpStream::connect(at)).await, Ok(Ok(_))) {
            control.known().good = Instant::now();
        }
        sleep(HEALTH_PERIOD).await;
    }
}

/// The VPN of a stack, as its control server moves it.
struct Control {
    /// For what goes on in the background, which must not keep a stack alive.
    own: Weak<Self>,
    stack: Gluetun,
    runtime: tokio::runtime::Handle,
    echo: (SocketAddr, String),
    known: Mutex<Known>,
}

struct Known {
    running: bool,
    public_ip: Option<IpAddr>,
    /// When a connection succeeded last.
    good: Instant,
}

impl Control {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the public address once, in the background, as Gluetun does when the tunnel has come up.
    fn look_up(&self) {
        let control = self.own.clone();
        let (at, host) = self.echo.clone();
        self.runtime.spawn(async move {
            let found = timeout(PATIENCE, public_ip(at, &host)).await;
            if let (Ok(Ok(ip)), Some(control)) = (found, control.upgrade()) {
                control.known().public_ip = Some(ip);
            }
        });
    }

    fn reached(outcome: Result<bool, StackError>, status: Status) -> Status {
        match outcome {
            Ok(_) => status,
            Err(error) => {
                eprintln!("lab: {:#}", anyhow::Error::from(error));
                Status::Crashed
            }
        }
    }
}

impl VpnControl for Control {
    fn start(&self) -> BoxFuture<'_, Status> {
        Box::pin(async move {
            let status = Self::reached(self.stack.start().await, Status::Running);
            {
                let mut known = self.known();
                known.running = status == Status::Running;
                known.good = Instant::now();
            }
            self.look_up();
            status
        })
    }

    fn stop(&self) -> BoxFuture<'_, Status> {
        Box::pin(async move {
            let status = Self::reached(self.stack.stop().await, Status::Stopped);
            let mut known = self.known();
            known.running = false;
            known.public_ip = None;
            drop(known);
            status
        })
    }

    fn status(&self) -> Status {
        if self.known().running { Status::Running } else { Status::Stopped }
    }

    fn public_ip(&self) -> Option<IpAddr> {
        self.known().public_ip
    }

    fn healthy(&self) -> bool {
        let known = self.known();
        !known.running || known.good.elapsed() < FORGIVENESS
    }
}

/// Asks an echo service in clear; its answer is the address alone, or JSON with an `ip`.
async fn public_ip(at: SocketAddr, host: &str) -> io::Result<IpAddr> {
    const LIMIT: u64 = 4096;
    let mut stream = TcpStream::connect(at).await?;
    let request = format!("GET /?format=json HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(LIMIT).read_to_string(&mut answer).await?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim();
    let ip = serde_json::from_str::<serde_json::Value>(body)
        .ok()
        .and_then(|json| Some(json.get("ip")?.as_str()?.to_owned()));
    ip.as_deref().unwrap_or(body).parse().map_err(|_| io::ErrorKind::InvalidData.into())
}
