//! Userspace WireGuard (gotatun) over a TUN device of its own.
//!
//! The device is opened here rather than by gotatun's own wrapper, because a link that is taken down on purpose must
//! not end the tunnel: what arrives meanwhile is lost, as on a kernel WireGuard link.

use super::line::{Line, Quality};
use base64::Engine;
use gotatun::device::{Device, DeviceBuilder, Peer};
use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::{IpRecv, IpSend, MtuWatcher};
use gotatun::x25519::{PublicKey, StaticSecret};
use ipnet::IpNet;
use std::fs::OpenOptions;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;

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
            Self::Link(..) | Self::Start(_) | Self::Process(_) | Self::Key => None,
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
    /// Name of the link.
    pub link: String,
    /// Largest packet on it, in bytes.
    pub mtu: u16,
    /// Our key.
    pub private_key: PrivateKey,
    /// UDP port to listen on, 0 for any.
    pub port: u16,
    /// Mark of the encrypted packets.
    pub mark: Option<u32>,
    /// The others.
    pub peers: Vec<PeerConfig>,
    /// How good the line is on which the encrypted packets go.
    pub line: Quality,
}

/// A running tunnel. Its link is there as long as it is.
pub struct Tunnel {
    device: Device<(Line, Tun, Tun)>,
    first: Option<[u8; 32]>,
}

impl Tunnel {
    /// Starts one in the calling thread's network namespace. The link is there afterwards, but down, without addresses.
    ///
    /// # Errors
    /// When the link cannot be made or the UDP port not be bound.
    pub async fn start(config: &TunnelConfig) -> Result<Self, WireguardError> {
        let tun = Tun::create(&config.link, config.mtu)?;
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
        Ok(Self { device, first })
    }

    /// Waits until there is a session with the first peer, asking for one if there is none. Without a limit of time.
    ///
    /// # Errors
    /// When the peer has no address, or the question cannot be sent.
    pub async fn connected(&self) -> Result<(), WireguardError> {
        let Some(peer) = self.first else { return Ok(()) };
        self.device.force_handshake(&PublicKey::from(peer)).await.map_err(WireguardError::Start)
    }

    /// Stops it; the link is gone when this returns.
    pub async fn stop(self) {
        self.device.stop().await;
    }
}

nix::ioctl_write_ptr_bad!(
    /// `TUNSETIFF`, `include/uapi/linux/if_tun.h`.
    tun_set_interface,
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
    libc::ifreq
);

#[derive(Clone)]
struct Tun {
    fd: Arc<AsyncFd<OwnedFd>>,
    mtu: u16,
}

impl Tun {
    fn create(link: &str, mtu: u16) -> Result<Self, WireguardError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(|source| {
                let help = match source.kind() {
                    io::ErrorKind::NotFound => {
                        "load the module with `sudo modprobe tun`; in a container, start it with `--device /dev/net/tun`"
                    }
                    _ => "let ordinary users open it, as most distributions do: `sudo chmod 0666 /dev/net/tun`",
                };
                WireguardError::Device { help, source }
            })?;
        let failed = |e| WireguardError::Link(link.to_owned(), e);
        // SAFETY: all bytes zero is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if link.is_empty() || link.len() >= request.ifr_name.len() {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        for (to, from) in request.ifr_name.iter_mut().zip(link.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the descriptor is an open /dev/net/tun, and the request outlives the call.
        unsafe { tun_set_interface(file.as_raw_fd(), &raw const request) }.map_err(|e| failed(e.into()))?;
        // SAFETY: an owned descriptor stays open, and the same, until the `AsyncFd` is dropped.
        let fd = unsafe { AsyncFd::register(OwnedFd::from(file)) }.map_err(|e| failed(e.into()))?;
        Ok(Self { fd: Arc::new(fd), mtu })
    }
}

impl IpSend for Tun {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        let bytes = packet.into_bytes();
        let outcome = self
            .fd
            .async_io(tokio::io::Interest::WRITABLE, |fd| nix::unistd::write(fd, &bytes).map_err(io::Error::from))
            .await;
        match outcome {
            // The link is down.
            Err(e) if e.raw_os_error() == Some(libc::EIO) => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

impl IpRecv for Tun {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        loop {
            let mut packet = pool.get();
            let length = self
                .fd
                .async_io(tokio::io::Interest::READABLE, |fd| {
                    nix::unistd::read(fd, &mut packet).map_err(io::Error::from)
                })
                .await?;
            packet.truncate(length);
            // What is no IP packet has no way through the tunnel.
            if let Ok(packet) = packet.try_into_ip() {
                return Ok(std::iter::once(packet));
            }
        }
    }

    fn mtu(&self) -> MtuWatcher {
        MtuWatcher::new(self.mtu)
    }
}
