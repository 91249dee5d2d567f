//! The VPN provider: a server whose clients come out at its exit addresses.

use super::line::Quality;
use super::variant::Protocol;
use super::wireguard::{PeerConfig, PrivateKey, Tunnel, TunnelConfig, WireguardError};
use crate::net::nft::{Batch, Chain, Match, Nft, NftError, Rule, Table, TableFamily, Verdict};
use crate::net::route::{Family, RouteError, RouteSpec, Rtnetlink};
use crate::net::sysctl::{self, SysctlError};
use ipnet::IpNet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tokio::net::UdpSocket;

/// Name of the provider's WireGuard link.
const LINK: &str = "wg0";

/// Why the provider does not stand.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// Links, addresses or routes.
    #[error("set up the provider's routing")]
    Routing(#[from] RouteError),
    /// The address translation.
    #[error("set up the provider's address translation")]
    Nat(#[from] NftError),
    /// The tunnel.
    #[error("start the provider's tunnel")]
    Tunnel(#[from] WireguardError),
    /// Forwarding.
    #[error("let the provider forward packets")]
    Forwarding(#[from] SysctlError),
}

/// What a provider needs to know.
#[derive(Debug, Clone)]
pub struct ProviderConfig {
    /// The server's key.
    pub private_key: PrivateKey,
    /// What its tunnel speaks.
    pub protocol: Protocol,
    /// Port on which it listens.
    pub port: u16,
    /// Name of the link to the internet.
    pub uplink: String,
    /// Largest packet in the tunnel, in bytes.
    pub mtu: u16,
    /// The server's own addresses in the tunnel.
    pub addresses: Vec<IpNet>,
    /// Its clients: public key and addresses in the tunnel.
    pub clients: Vec<([u8; 32], Vec<IpNet>)>,
    /// Where clients come out, at most one address of a family. They have to be on the uplink, or be routed here.
    pub exits: Vec<IpAddr>,
    /// How good the line to its clients is.
    pub line: Quality,
}

/// A running provider.
pub struct Provider {
    _tunnel: Tunnel,
}

/// Another server of the provider: what comes there is handed to the first one's port on the same machine, and the answers back, so that
/// to its one client it is a server of its own. To be run in the provider's namespace, without end.
///
/// # Errors
/// When a socket fails.
pub async fn relay(listen: SocketAddr, port: u16) -> io::Result<()> {
    let outside = UdpSocket::bind(listen).await?;
    let inside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    inside.connect((Ipv4Addr::LOCALHOST, port)).await?;
    let (mut there, mut back) = ([0; 65_535], [0; 65_535]);
    let mut client = None;
    loop {
        tokio::select! {
            received = outside.recv_from(&mut there) => {
                let (length, from) = received?;
                client = Some(from);
                inside.send(&there[..length]).await?;
            }
            received = inside.recv(&mut back) => {
                let length = received?;
                if let Some(client) = client {
                    outside.send_to(&back[..length], client).await?;
                }
            }
        }
    }
}

/// Sets a provider up in the calling thread's network namespace, whose uplink has its addresses and routes already. To be
/// called on a current-thread runtime.
///
/// # Errors
/// When a part of it cannot be set up.
pub async fn run(config: &ProviderConfig) -> Result<Provider, ProviderError> {
    let peers = config
        .clients
        .iter()
        .map(|(key, allowed)| PeerConfig { public_key: *key, endpoint: None, allowed: allowed.clone() })
        .collect();
    let tunnel = Tunnel::start(&TunnelConfig {
        protocol: config.protocol,
        link: LINK.to_owned(),
        mtu: config.mtu,
        private_key: config.private_key.clone(),
        port: config.port,
        mark: None,
        peers,
        line: config.line,
    })
    .await?;
    let mut netlink = Rtnetlink::open()?;
    netlink.set_mtu(LINK, config.mtu.into())?;
    for address in &config.addresses {
        netlink.add_address(LINK, *address)?;
    }
    netlink.set_link(LINK, true)?;
    for network in config.clients.iter().flat_map(|(_, networks)| networks) {
        netlink.add_route(&RouteSpec::on(*network, LINK))?;
    }
    sysctl::set("ipv4/ip_forward", "1")?;
    if config.exits.iter().any(IpAddr::is_ipv6) {
        sysctl::set("ipv6/conf/all/forwarding", "1")?;
    }
    let mut batch = Batch::new();
    for exit in &config.exits {
        let table = match Family::of(*exit) {
            Family::V4 => Table::new(TableFamily::Ip, "provider"),
            Family::V6 => Table::new(TableFamily::Ip6, "provider"),
        };
        batch.add_table(&table);
        batch.add_chain(&table, &Chain::source_nat("exit"));
        for client in config.clients.iter().flat_map(|(_, networks)| networks) {
            if client.addr().is_ipv4() == exit.is_ipv4() {
                let rule = Rule::new(Verdict::SourceNat(*exit)).when(Match::Source(*client));
                batch.append_rule(&table, "exit", &rule.when(Match::Output(config.uplink.clone())));
            }
        }
    }
    Nft::open()?.commit(batch)?;
    Ok(Provider { _tunnel: tunnel })
}
