//! Tunnels over a TUN device of their own: userspace WireGuard (gotatun), or what stands in for OpenVPN ([`super::openvpn`]).

use super::line::{Line, Quality};
use super::openvpn::Openvpn;
use super::tun::Tun;
use super::variant::Protocol;
use base64::Engine;
use gotatun::device::{Device, DeviceBuilder, Peer};
use gotatun::x25519::{PublicKey, StaticSecret};
use ipnet::IpNet;
use std::io;
use std::net::SocketAddr;

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum WireguardError {
    /// `/dev/net/tun` cannot be opened.
    #[error("open /dev/net/tun")]
    Device {
        /// What to do about it.
        help: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel did not make the link.
    #[error("make the tunnel link {0}")]
    Link(String, #[source] io::Error),
    /// WireGuard did not start.
    #[error("start WireGuard")]
    Start(#[source] gotatun::device::Error),
    /// The process that shall hold the tunnel did not start, or is gone.
    #[error("run WireGuard in a process of its own")]
    Process(#[source] io::Error),
    /// What stands in for OpenVPN did not start.
    #[error("start OpenVPN")]
    Openvpn(#[source] io::Error),
    /// A key is not 32 bytes in base64.
    #[error("read a WireGuard key")]
    Key,
}

impl WireguardError {
    /// What the user can do about it.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Device { help, .. } => Some(help),
            Self::Link(..) | Self::Start(_) | Self::Process(_) | Self::Openvpn(_) | Self::Key => None,
        }
    }
}

/// A private key; never shown.
#[derive(Clone)]
pub struct PrivateKey(StaticSecret);

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

impl PrivateKey {
    /// A fresh key.
    #[must_use]
    pub fn generate() -> Self {
        Self(StaticSecret::from(rand::random::<[u8; 32]>()))
    }

    /// From the base64 of a WireGuard configuration.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_base64(text: &str) -> Result<Self, WireguardError> {
        decode(text).map(|bytes| Self(StaticSecret::from(bytes)))
    }

    /// As a WireGuard configuration writes it. For the one who shall use it, and nobody else.
    #[must_use]
    pub(super) fn to_base64(&self) -> String {
        base64::engine::general_purpose::STANDARD.encode(self.0.to_bytes())
    }

    /// What both sides know who know one private key of theirs and the other's public one.
    #[must_use]
    pub(super) fn shared(&self, other: [u8; 32]) -> [u8; 32] {
        self.0.diffie_hellman(&PublicKey::from(other)).to_bytes()
    }

    /// The public key to it.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        PublicKey::from(&self.0).to_bytes()
    }
}

/// A public key from the base64 of a WireGuard configuration.
///
/// # Errors
/// When it is none.
pub fn public_key_from_base64(text: &str) -> Result<[u8; 32], WireguardError> {
    decode(text)
}

fn decode(text: &str) -> Result<[u8; 32], WireguardError> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text.trim()).map_err(|_| WireguardError::Key)?;
    bytes.try_into().map_err(|_| WireguardError::Key)
}

/// The other end of a tunnel.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// Its public key.
    pub public_key: [u8; 32],
    /// Where it is, unless it comes to us.
    pub endpoint: Option<SocketAddr>,
    /// Addresses that are behind it.
    pub allowed: Vec<IpNet>,
}

/// A tunnel to start.
#[derive(Debug, Clone)]
pub struct TunnelConfig {
    /// What it speaks.
    pub protocol: Protocol,
    /// Name of the link.
    pub link: String,
    /// Largest packet on it, in bytes.
    pub mtu: u16,
    /// Our key.
    pub private_key: PrivateKey,
    /// Port to listen on, 0 for any.
    pub port: u16,
    /// Mark of the encrypted packets.
    pub mark: Option<u32>,
    /// The others.
    pub peers: Vec<PeerConfig>,
    /// How good the line is on which the encrypted packets go.
    pub line: Quality,
}

/// A running tunnel. Its link is there as long as it is.
pub struct Tunnel(Kind);

enum Kind {
    Wireguard { device: Device<(Line, Tun, Tun)>, first: Option<[u8; 32]> },
    Openvpn(Openvpn),
}

impl Tunnel {
    /// Starts one in the calling thread's network namespace. The link is there afterwards, but down, without addresses.
    ///
    /// # Errors
    /// When the link cannot be made or the UDP port not be bound.
    pub async fn start(config: &TunnelConfig) -> Result<Self, WireguardError> {
        let tun = Tun::create(&config.link, config.mtu)?;
        if config.protocol != Protocol::Wireguard {
            let tunnel = Openvpn::start(config, tun).await.map_err(WireguardError::Openvpn)?;
            return Ok(Self(Kind::Openvpn(tunnel)));
        }
        let mut builder = DeviceBuilder::new()
            .with_udp(Line::new(config.line))
            .with_ip(tun)
            .with_private_key(config.private_key.0.clone())
            .with_listen_port(config.port);
        if let Some(mark) = config.mark {
            builder = builder.with_fwmark(mark);
        }
        for peer in &config.peers {
            let networks = peer.allowed.iter().filter_map(|net| net.to_string().parse().ok());
            let mut described = Peer::new(PublicKey::from(peer.public_key)).with_allowed_ips(networks);
            described.endpoint = peer.endpoint;
            builder = builder.with_peer(described);
        }
        let device = builder.build().await.map_err(WireguardError::Start)?;
        let first = config.peers.first().map(|peer| peer.public_key);
        Ok(Self(Kind::Wireguard { device, first }))
    }

    /// Waits until there is a session with the first peer, asking for one if there is none. Without a limit of time.
    ///
    /// # Errors
    /// When the peer has no address, or the question cannot be sent.
    pub async fn connected(&self) -> Result<(), WireguardError> {
        match &self.0 {
            Kind::Wireguard { device, first: Some(peer) } => {
                device.force_handshake(&PublicKey::from(*peer)).await.map_err(WireguardError::Start)
            }
            Kind::Wireguard { first: None, .. } => Ok(()),
            Kind::Openvpn(tunnel) => tunnel.connected().await.map_err(WireguardError::Openvpn),
        }
    }

    /// Stops it; the link is gone when this returns.
    pub async fn stop(self) {
        match self.0 {
            Kind::Wireguard { device, .. } => device.stop().await,
            Kind::Openvpn(tunnel) => tunnel.stop().await,
        }
    }
}
