//! A VPN stack as Gluetun makes one: firewall, policy routing, WireGuard and a way to stop and start it, in the network
//! namespace of the calling thread. The in-process lab runs it in a namespace of its own, the Docker fixture in a
//! container; a leak fixture breaks it.
//!
//! Routing and firewall can be those of others. It follows Gluetun v3.41 where versions differ. It does not watch its own health: a tunnel that was stopped stays so.

mod early;
mod firewall;
mod legacy;
mod program;
mod routing;
mod sabotage;
mod services;

pub use firewall::Firewall;
pub(super) use firewall::protocol;
pub use legacy::is_available as has_legacy_tables;
pub use program::{Program, resolv_conf};
pub use routing::{INBOUND_TABLE, MARK, OUTBOUND_TABLE, Routing, TUNNEL_PRIORITY, TUNNEL_TABLE, Uplink};
pub use services::{CONTROL, ServiceConfig, serve};

use super::leak::{Action, Leak, Transport};
use super::line::Quality;
use super::tunnel_process::TunnelProcess;
use super::variant::Protocol;
use super::wireguard::{PeerConfig, PrivateKey, Tunnel, TunnelConfig, WireguardError};
use crate::net::nft::{Nft, NftError};
use crate::net::route::{Family, RouteError, Rtnetlink, wait_ready};
use ipnet::IpNet;
use sabotage::Sabotage;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio::time::sleep;

/// How long the tunnel's link may take until its addresses work.
const PATIENCE: Duration = Duration::from_secs(2);
/// After how long a VPN process that died is started again. Gluetun takes 15 s, which nobody wants to wait for here.
const REVIVAL: Duration = Duration::from_secs(2);

/// Why a stack does not stand, or does not do as it is told.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// Links, addresses, routes or rules.
    #[error("set up the stack's routing")]
    Routing(#[from] RouteError),
    /// The firewall.
    #[error("set up the stack's firewall")]
    Firewall(#[from] NftError),
    /// The firewall, in the tables of iptables-legacy.
    #[error("write the tables of iptables-legacy")]
    Legacy(#[source] io::Error),
    /// The tunnel.
    #[error("start the stack's tunnel")]
    Tunnel(#[from] WireguardError),
    /// Its resolv.conf.
    #[error("write {}", .0.display())]
    ResolvConf(PathBuf, #[source] io::Error),
    /// A thread or socket of a leak.
    #[error("break the stack as the fixture says")]
    Sabotage(#[source] io::Error),
    /// The stack's own thread is gone.
    #[error("reach the stack, which has ended")]
    Gone,
}

/// What a stack needs to know.
#[derive(Debug, Clone)]
pub struct GluetunConfig {
    /// The client's key.
    pub private_key: PrivateKey,
    /// The server's public key.
    pub server_key: [u8; 32],
    /// What the tunnel speaks.
    pub protocol: Protocol,
    /// The server's address and port.
    pub endpoint: SocketAddr,
    /// The server that is taken when the VPN is started again; `None`: the same.
    pub next: Option<SocketAddr>,
    /// The client's addresses in the tunnel; a family that has none is not tunnelled.
    pub addresses: Vec<IpNet>,
    /// Name of the link to the home.
    pub uplink: String,
    /// Names of more links to the home, of other networks.
    pub more_uplinks: Vec<String>,
    /// Name of the tunnel's link.
    pub tunnel: String,
    /// Largest packet in the tunnel, in bytes.
    pub mtu: u16,
    /// Networks that are reached past the tunnel, by the uplink's gateway (`FIREWALL_OUTBOUND_SUBNETS`).
    pub outbound: Vec<IpNet>,
    /// Ports that are open on the uplink (`FIREWALL_INPUT_PORTS`).
    pub input_ports: Vec<u16>,
    /// The resolv.conf that programs of the stack read; its nameserver lines are rewritten.
    pub resolv_conf: PathBuf,
    /// How its packets find the tunnel.
    pub routing: Routing,
    /// Its kill switch.
    pub firewall: Firewall,
    /// How to break it.
    pub leak: Option<Leak>,
    /// The program, this one, that holds the tunnel in a process of its own, as OpenVPN does; `None`: the stack holds it itself, as
    /// Gluetun does with WireGuard.
    pub apart: Option<PathBuf>,
}

/// Who holds the tunnel.
enum Held {
    Here(Tunnel),
    Apart(TunnelProcess),
}

impl Held {
    async fn start(
        config: &TunnelConfig,
        apart: Option<&Path>,
        dead: mpsc::UnboundedSender<u32>,
    ) -> Result<Self, WireguardError> {
        match apart {
            Some(program) => TunnelProcess::start(program, config, dead).await.map(Self::Apart),
            None => Tunnel::start(config).await.map(Self::Here),
        }
    }

    async fn connected(&mut self) -> Result<(), WireguardError> {
        match self {
            Self::Here(tunnel) => tunnel.connected().await,
            Self::Apart(process) => process.connected().await,
        }
    }

    async fn stop(self) {
        match self {
            Self::Here(tunnel) => tunnel.stop().await,
            Self::Apart(process) => process.stop().await,
        }
    }

    fn pid(&self) -> Option<u32> {
        match self {
            Self::Here(_) => None,
            Self::Apart(process) => Some(process.pid()),
        }
    }
}

/// A running stack. Cheap to clone; every method may be called from any thread and acts in the stack's namespace.
#[derive(Clone)]
pub struct Gluetun(Arc<Inner>);

struct Inner {
    config: GluetunConfig,
    runtime: tokio::runtime::Handle,
    tunnel: Mutex<Option<Held>>,
    /// Told of each VPN process that ends.
    dead: mpsc::UnboundedSender<u32>,
    /// Whether the VPN was started before.
    started: AtomicBool,
    /// Ends with the stack.
    sabotage: std::sync::Mutex<Option<Sabotage>>,
}

/// Sets a stack up in the calling thread's network namespace, whose uplink has its addresses and default routes already.
/// To be called on a current-thread runtime: tasks that moved to another thread would act on its namespace.
///
/// # Errors
/// When a part of it cannot be set up.
pub async fn run_gluetun(mut config: GluetunConfig) -> Result<Gluetun, StackError> {
    let uplinks = std::iter::once(&config.uplink).chain(&config.more_uplinks);
    let uplinks = uplinks.map(|link| Uplink::discover(link)).collect::<Result<Vec<_>, _>>()?;
    let mut flows = Vec::new();
    for action in config.leak.iter().flat_map(Leak::actions) {
        match action {
            Action::Outbound { subnets } => config.outbound.extend(subnets),
            Action::EarlyFlow { to, proto, every_ms } => {
                let flow = early::flow(*to, *proto == Transport::Tcp, &config.uplink).await?;
                flows.push((flow, Duration::from_millis(*every_ms)));
            }
            _ => {}
        }
    }
    let mut nft = Nft::open()?;
    firewall::seal(&mut nft, &firewall::Allowed::of(&config, &uplinks), config.firewall)?;
    config.routing.lasting(&mut Rtnetlink::open()?, &uplinks, &config.outbound, config.endpoint.ip())?;
    set_nameservers(&config.resolv_conf, &[Ipv4Addr::LOCALHOST.into()])?;
    let runtime = tokio::runtime::Handle::current();
    let (dead, deaths) = mpsc::unbounded_channel();
    let stack = Gluetun(Arc::new(Inner {
        runtime,
        tunnel: Mutex::new(None),
        dead,
        started: AtomicBool::new(false),
        sabotage: std::sync::Mutex::new(None),
        config,
    }));
    tokio::spawn(revive(Arc::downgrade(&stack.0), deaths));
    let config = &stack.0.config;
    if !config.leak.as_ref().is_some_and(Leak::without_tunnel) {
        stack.0.bring_up().await?;
    }
    if let Some(leak) = &config.leak {
        let mut sabotage = Sabotage::begin(leak, config, uplinks)?;
        for (mut flow, every) in flows {
            sabotage.again(every, move || flow.ask())?;
        }
        *stack.0.sabotage.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(sabotage);
    }
    Ok(stack)
}

/// Starts a VPN process again that died without having been told to, as Gluetun does with OpenVPN.
async fn revive(stack: Weak<Inner>, mut deaths: mpsc::UnboundedReceiver<u32>) {
    while let Some(pid) = deaths.recv().await {
        sleep(REVIVAL).await;
        let Some(stack) = stack.upgrade() else { return };
        let mut place = stack.tunnel.lock().await;
        if place.as_ref().and_then(Held::pid) != Some(pid) {
            continue;
        }
        *place = None;
        if let Err(error) = stack.bring_up_in(&mut place).await {
            eprintln!("lab: failed to start the VPN again: {:#}", anyhow::Error::from(error));
        }
    }
}

impl Gluetun {
    /// Stops the VPN as `PUT /v1/vpn/status {"status":"stopped"}` does: rule 101 and the tunnel's link go, the firewall
    /// stays. Returns whether there was anything to stop.
    ///
    /// # Errors
    /// When the kernel refuses, or the stack has ended.
    pub async fn stop(&self) -> Result<bool, StackError> {
        self.inside(|inner| async move { inner.take_down().await }).await
    }

    /// Starts the VPN again. Returns whether it was stopped.
    ///
    /// # Errors
    /// When the kernel refuses, or the stack has ended.
    pub async fn start(&self) -> Result<bool, StackError> {
        self.inside(|inner| async move { inner.bring_up().await }).await
    }

    /// Waits until the tunnel is connected to its server, and tells whether it is within `limit`.
    ///
    /// # Errors
    /// When the stack has ended, or the server cannot be asked.
    pub async fn connected(&self, limit: Duration) -> Result<bool, StackError> {
        let wait = |inner: Arc<Inner>| async move {
            let mut place = inner.tunnel.lock().await;
            let Some(tunnel) = place.as_mut() else { return Ok(false) };
            match tokio::time::timeout(limit, tunnel.connected()).await {
                Ok(outcome) => Ok(outcome.map(|()| true)?),
                Err(_) => Ok(false),
            }
        };
        self.inside(wait).await
    }

    /// Whether there is a tunnel, working or not.
    pub async fn is_running(&self) -> bool {
        self.0.tunnel.lock().await.is_some()
    }

    /// Number of the process that holds the tunnel, where it is one of its own.
    pub async fn vpn_process(&self) -> Option<u32> {
        self.0.tunnel.lock().await.as_ref().and_then(Held::pid)
    }

    /// What it was set up with.
    #[must_use]
    pub fn config(&self) -> &GluetunConfig {
        &self.0.config
    }

    /// Runs `work` on the stack's thread, from whichever thread it is asked for.
    async fn inside<T: Send + 'static, F: Future<Output = Result<T, StackError>> + Send + 'static>(
        &self,
        work: impl FnOnce(Arc<Inner>) -> F,
    ) -> Result<T, StackError> {
        self.0.runtime.spawn(work(Arc::clone(&self.0))).await.map_err(|_| StackError::Gone)?
    }
}

impl Inner {
    fn families(&self) -> impl Iterator<Item = Family> + '_ {
        [Family::V4, Family::V6]
            .into_iter()
            .filter(|family| self.config.addresses.iter().any(|net| Family::of(net.addr()) == *family))
    }

    async fn bring_up(&self) -> Result<bool, StackError> {
        self.bring_up_in(&mut *self.tunnel.lock().await).await
    }

    async fn bring_up_in(&self, place: &mut Option<Held>) -> Result<bool, StackError> {
        if place.is_some() {
            return Ok(false);
        }
        let config = &self.config;
        let mut endpoint = config.endpoint;
        if let (Some(next), true) = (config.next, self.started.swap(true, Ordering::Relaxed)) {
            endpoint = next;
            firewall::let_to(&mut Nft::open()?, config, endpoint)?;
        }
        let peer = PeerConfig {
            public_key: config.server_key,
            endpoint: Some(endpoint),
            allowed: vec![Family::V4.everything(), Family::V6.everything()],
        };
        let tunnel = TunnelConfig {
            protocol: config.protocol,
            link: config.tunnel.clone(),
            mtu: config.mtu,
            private_key: config.private_key.clone(),
            port: 0,
            mark: config.routing.mark(),
            peers: vec![peer],
            line: Quality::default(),
        };
        let tunnel = Held::start(&tunnel, config.apart.as_deref(), self.dead.clone()).await?;
        let mut netlink = Rtnetlink::open()?;
        netlink.set_mtu(&config.tunnel, config.mtu.into())?;
        for address in &config.addresses {
            netlink.add_address(&config.tunnel, *address)?;
        }
        netlink.set_link(&config.tunnel, true)?;
        wait_ready(&[&config.tunnel], PATIENCE)?;
        let unruly = |action: &Action| *action == Action::Unrule { priority: TUNNEL_PRIORITY };
        let ruled = !config.leak.as_ref().is_some_and(|leak| leak.actions().any(unruly));
        for family in self.families() {
            for route in config.routing.tunnel_routes(family, &config.tunnel) {
                netlink.add_route(&route)?;
            }
            let rules = config.routing.tunnel_rules(family);
            for rule in rules.iter().filter(|rule| ruled || Some(rule.priority) != config.routing.tunnel_priority()) {
                match netlink.add_rule(rule) {
                    // It outlived a VPN process that died.
                    Err(error) if error.errno() == Some(libc::EEXIST) => {}
                    other => other?,
                }
            }
        }
        *place = Some(tunnel);
        Ok(true)
    }

    async fn take_down(&self) -> Result<bool, StackError> {
        let mut place = self.tunnel.lock().await;
        let Some(tunnel) = place.take() else { return Ok(false) };
        let mut netlink = Rtnetlink::open()?;
        for family in self.families() {
            for rule in self.config.routing.tunnel_rules(family) {
                match netlink.delete_rule(&rule) {
                    // A fixture may have removed it before.
                    Err(error) if error.errno() == Some(libc::ENOENT) => {}
                    other => other?,
                }
            }
        }
        // Removing the link by name first makes its end one event at one time; stopping closes the rest.
        match netlink.delete_link(&self.config.tunnel) {
            // Gone with the process that held it.
            Err(error) if matches!(error, RouteError::NoLink(_)) || error.errno() == Some(libc::ENODEV) => {}
            other => other?,
        }
        tunnel.stop().await;
        Ok(true)
    }
}

/// Rewrites the nameserver lines of a resolv.conf in place, as Gluetun does: other containers have the same file.
///
/// # Errors
/// When it cannot be read or written.
pub fn set_nameservers(path: &Path, nameservers: &[IpAddr]) -> Result<(), StackError> {
    let failed = |e| StackError::ResolvConf(path.to_owned(), e);
    let before = match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        other => other.map_err(failed)?,
    };
    let mut text = resolv_conf(nameservers);
    for line in before.lines().filter(|line| !line.trim_start().starts_with("nameserver")) {
        text.push_str(line);
        text.push('\n');
    }
    fs::write(path, text).map_err(failed)
}
