//! The VPN container: the lab's stack with the variables of a real Gluetun, so that one can stand in its place.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::IpNet;

use super::{Part, place};
use crate::lab::gluetun::Version;
use crate::lab::leak::{Action, Leak, Place};
use crate::lab::plan;
use crate::lab::stack::{self, GluetunConfig, ServiceConfig, Uplink};
use crate::lab::variant::Protocol;
use crate::lab::wireguard::{PrivateKey, public_key_from_base64};
use crate::lab::witness::Journal;

const DNS: u16 = 53;
const HTTP: u16 = 80;
const HTTPS: u16 = 443;
const TORRENT: u16 = 6881;

pub(super) async fn start(leak: Option<Leak>, journal: Journal) -> anyhow::Result<Part> {
    let actions = || leak.iter().flat_map(Leak::actions);
    if actions().any(|action| matches!(action, Action::OutsideResolver { at: Place::Stack, .. })) {
        bail!(
            "this leak has a socket in one network namespace that is served from another, which only `leakcheck demo` can do"
        );
    }
    let dead = leak.as_ref().is_some_and(Leak::has_dead_resolver);
    let original = leak.as_ref().and_then(Leak::asked_for_local_names);
    let also = leak.as_ref().and_then(Leak::also_asked);
    let config = config(leak.clone())?;
    for action in actions() {
        if let Action::LateFirewall { by_ms } = action {
            come_late(*by_ms).await?;
        }
    }
    let uplink = Uplink::discover(&config.uplink)?;
    let stack = stack::run_gluetun(config).await.context("start the VPN stack")?;
    let services = ServiceConfig {
        version: Version::V3_41,
        control: control()?,
        roles: Vec::new(),
        habits: Vec::new(),
        forwarded: leak.as_ref().and_then(Leak::forwarded_port),
        upstream: (!dead).then(|| (plan::ip(plan::TUNNEL_RESOLVER), DNS).into()),
        original,
        also,
        echo: ((plan::ip(plan::WEB[1].1), HTTP).into(), plan::WEB[1].0.to_owned()),
        health: (plan::ip(plan::RECURSORS[2]), HTTPS).into(),
        journal,
    };
    let mut addresses: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into()];
    addresses.extend(uplink.addresses.iter().map(IpNet::addr));
    let servers = stack::serve(&stack, services, &addresses)?;
    Ok(Part::holding(servers, stack))
}

/// Has everything open for a while, in which a program of the container's own talks: what the time before the firewall is, made longer.
async fn come_late(milliseconds: u64) -> anyhow::Result<()> {
    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.context("open a socket")?;
    // No further than the home's bridge.
    socket.set_ttl(1).context("have packets die at once")?;
    let end = tokio::time::Instant::now() + Duration::from_millis(milliseconds);
    while tokio::time::Instant::now() < end {
        // That a stack without a firewall has no route is its own affair.
        let _ = socket.send_to(b"announce", (plan::ip(plan::RECURSORS[0]), TORRENT)).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Where the control server is to listen; `:8000` is everywhere, as with Gluetun.
fn control() -> anyhow::Result<SocketAddr> {
    let Some(text) = place::variable("HTTP_CONTROL_SERVER_ADDRESS") else { return Ok(stack::CONTROL) };
    let whole = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text };
    whole.parse().context("read the variable HTTP_CONTROL_SERVER_ADDRESS")
}

/// Gluetun's variables, under the names of v3.41 and those of before.
fn config(leak: Option<Leak>) -> anyhow::Result<GluetunConfig> {
    let endpoint: IpAddr = place::required(&["WIREGUARD_ENDPOINT_IP", "VPN_ENDPOINT_IP"])?;
    let port: u16 = place::required(&["WIREGUARD_ENDPOINT_PORT", "VPN_ENDPOINT_PORT"])?;
    let addresses: Vec<IpNet> = place::list("WIREGUARD_ADDRESSES")?;
    if addresses.is_empty() {
        bail!("the variable WIREGUARD_ADDRESSES is not set");
    }
    Ok(GluetunConfig {
        private_key: PrivateKey::from_base64(&place::secret("WIREGUARD_PRIVATE_KEY")?)?,
        server_key: public_key_from_base64(&place::required::<String>(&["WIREGUARD_PUBLIC_KEY"])?)?,
        protocol: Protocol::default(),
        endpoint: SocketAddr::new(endpoint, port),
        next: None,
        addresses,
        uplink: plan::UPLINK.to_owned(),
        more_uplinks: Vec::new(),
        tunnel: place::variable("VPN_INTERFACE").unwrap_or_else(|| plan::TUNNEL.to_owned()),
        mtu: plan::TUNNEL_MTU,
        outbound: place::list("FIREWALL_OUTBOUND_SUBNETS")?,
        input_ports: place::list("FIREWALL_INPUT_PORTS")?,
        resolv_conf: PathBuf::from("/etc/resolv.conf"),
        routing: stack::Routing::default(),
        firewall: stack::Firewall::default(),
        leak,
        apart: None,
    })
}
