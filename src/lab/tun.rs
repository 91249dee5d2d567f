//! TUN devices, by which a tunnel's packets come to a process.
//!
//! The device is opened here rather than by gotatun's own wrapper, because a link that is taken down on purpose must
//! not end the tunnel: what arrives meanwhile is lost, as on a kernel WireGuard link.

use super::wireguard::WireguardError;
use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::{IpRecv, IpSend, MtuWatcher};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;

nix::ioctl_write_ptr_bad!(
    /// `TUNSETIFF`, `include/uapi/linux/if_tun.h`.
    tun_set_interface,
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
    libc::ifreq
);

/// A TUN device of this process's.
#[derive(Clone)]
pub(super) struct Tun {
    fd: Arc<AsyncFd<OwnedFd>>,
    mtu: u16,
}

impl Tun {
    /// Makes one; the link is down, and without addresses.
    pub(super) fn create(link: &str, mtu: u16) -> Result<Self, WireguardError> {
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

    /// The next packet that somebody sends into the tunnel.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = |fd: &OwnedFd| nix::unistd::read(fd, &mut *buffer).map_err(io::Error::from);
        self.fd.async_io(tokio::io::Interest::READABLE, read).await
    }

    /// Hands the namespace a packet that came out of the tunnel.
    pub(super) async fn write(&self, packet: &[u8]) -> io::Result<()> {
        let write = |fd: &OwnedFd| nix::unistd::write(fd, packet).map_err(io::Error::from);
        match self.fd.async_io(tokio::io::Interest::WRITABLE, write).await {
            // The link is down.
            Err(e) if e.raw_os_error() == Some(libc::EIO) => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

impl IpSend for Tun {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        self.write(&packet.into_bytes()).await
    }
}

impl IpRecv for Tun {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        loop {
            let mut packet = pool.get();
            let length = self.read(&mut packet).await?;
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
