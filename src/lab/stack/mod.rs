//! A VPN stack as Gluetun makes one: firewall, policy routing, WireGuard and a way to stop and start it, in the network
//! namespace of the calling thread. The in-process lab runs it in a namespace of its own, the Docker fixture in a
//! container; a leak fixture breaks it.
//!
//! It follows Gluetun v3.41 where versions differ. It does not watch its own health: a tunnel that was stopped stays so.

mod early;
mod firewall;
mod program;
mod routing;
mod sabotage;
mod services;

pub use program::Program;
pub use routing::{INBOUND_TABLE, MARK, OUTBOUND_TABLE, TUNNEL_PRIORITY, TUNNEL_TABLE, Uplink};
pub use services::{ServiceConfig, serve};

use super::leak::{Action, Leak, Transport};
use super::wireguard::{PeerConfig, PrivateKey, Tunnel, TunnelConfig, WireguardError};
use crate::net::nft::{Nft, NftError};
use crate::net::route::{Family, RouteError, Rtnetlink, wait_ready};
use ipnet::IpNet;
use sabotage::Sabotage;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;

/// How long the tunnel's link may take until its addresses work.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a stack does not stand, or does not do as it is told.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// Links, addresses, routes or rules.
    #[error("set up the stack's routing")]
    Routing(#[from] RouteError),
    /// The firewall.
    #[error("set up the stack's firewall")]
    Firewall(#[from] NftError),
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
    /// The server's address and port.
    pub endpoint: SocketAddr,
    /// The server that is taken when the VPN is started again; `None`: the same.
    pub next: Option<SocketAddr>,
    /// The client's addresses in the tunnel; a family that has none is not tunnelled.
    pub addresses: Vec<IpNet>,
    /// Name of the link to the home.
    pub uplink: String,
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
    /// How to break it.
    pub leak: Option<Leak>,
}

/// A running stack. Cheap to clone; every method may be called from any thread and acts in the stack's namespace.
#[derive(Clone)]
pub struct Gluetun(Arc<Inner>);

struct Inner {
    config: GluetunConfig,
    runtime: tokio::runtime::Handle,
    tunnel: Mutex<Option<Tunnel>>,
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
    let uplink = Uplink::discover(&config.uplink)?;
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
    let allowed = firewall::Allowed {
        uplink: &uplink,
        tunnel: &config.tunnel,
        endpoint: config.endpoint,
        outbound: &config.outbound,
        input_ports: &config.input_ports,
    };
    firewall::seal(&mut nft, &allowed)?;
    routing::lasting(&mut Rtnetlink::open()?, &uplink, &config.outbound)?;
    set_nameservers(&config.resolv_conf, &[Ipv4Addr::LOCALHOST.into()])?;
    let runtime = tokio::runtime::Handle::current();
    let stack = Gluetun(Arc::new(Inner {
        runtime,
        tunnel: Mutex::new(None),
        started: AtomicBool::new(false),
        sabotage: std::sync::Mutex::new(None),
        config,
    }));
    let config = &stack.0.config;
    if !config.leak.as_ref().is_some_and(Leak::without_tunnel) {
        stack.0.bring_up().await?;
    }
    if let Some(leak) = &config.leak {
        let mut sabotage = Sabotage::begin(leak, config, uplink)?;
        for (mut flow, every) in flows {
            sabotage.again(every, move || flow.ask())?;
        }
        *stack.0.sabotage.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(sabotage);
    }
    Ok(stack)
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
            let place = inner.tunnel.lock().await;
            let Some(tunnel) = place.as_ref() else { return Ok(false) };
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
        let mut place = self.tunnel.lock().await;
        if place.is_some() {
            return Ok(false);
        }
        let config = &self.config;
        let mut endpoint = config.endpoint;
        if let (Some(next), true) = (config.next, self.started.swap(true, Ordering::Relaxed)) {
            endpoint = next;
            firewall::let_to(&mut Nft::open()?, &config.uplink, endpoint)?;
        }
        let peer = PeerConfig {
            public_key: config.server_key,
            endpoint: Some(endpoint),
            allowed: vec![Family::V4.everything(), Family::V6.everything()],
        };
        let tunnel = Tunnel::start(&TunnelConfig {
            link: config.tunnel.clone(),
            mtu: config.mtu,
            private_key: config.private_key.clone(),
            port: 0,
            mark: Some(MARK),
            peers: vec![peer],
        })
        .await?;
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
            netlink.add_route(&routing::tunnel_route(family, &config.tunnel))?;
            if ruled {
                netlink.add_rule(&routing::tunnel_rule(family))?;
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
            match netlink.delete_rule(&routing::tunnel_rule(family)) {
                // A fixture may have removed it before.
                Err(error) if error.errno() == Some(libc::ENOENT) => {}
                other => other?,
            }
        }
        // Removing the link by name first makes its end one event at one time; stopping closes the rest.
        netlink.delete_link(&self.config.tunnel)?;
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
    let mut text: String = nameservers.iter().map(|ip| format!("nameserver {ip}\n")).collect();
    for line in before.lines().filter(|line| !line.trim_start().starts_with("nameserver")) {
        text.push_str(line);
        text.push('\n');
    }
    fs::write(path, text).map_err(failed)
}
