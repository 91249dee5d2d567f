//! Gluetun's own resolver on port 53 of all addresses. It knows nothing of the tunnel: its questions go where routes and
//! firewall let them, so a stopped VPN means that nothing resolves, and an open firewall that they leak.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::Name;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::sleep;

use super::{DnsSwitch, Version};
use crate::lab::witness::Journal;
use crate::lab::witness::dns::{Forwarder, Sockets, Upstream, serve};

/// Pause before a port that could not be taken again is tried once more.
const REBIND_PAUSE: Duration = Duration::from_millis(50);
/// Top-level domains that v3.41 and later never ask of their upstream: those of home networks, and those that are
/// reserved and in no root zone (RFC 2606).
const LOCAL: [&str; 11] =
    ["local", "lan", "private", "internal", "corp", "home", "intranet", "test", "invalid", "example", "localhost"];

/// Whether v3.41 and later ask the container's original resolver for this name: names of one label, and the domains
/// of home networks. The real one does so with every top-level domain that it does not know.
pub fn is_local(name: &Name) -> bool {
    let mut labels = name.iter().rev();
    let Some(top) = labels.next() else {
        return false;
    };
    labels.next().is_none() || LOCAL.iter().any(|local| top.eq_ignore_ascii_case(local.as_bytes()))
}

/// Gluetun's resolver. Make and serve it on a thread that stands in the stack's namespace.
pub struct Resolver {
    addresses: Vec<SocketAddr>,
    sockets: Sockets,
    forwarder: Forwarder,
}

impl Resolver {
    /// Takes UDP and TCP of each address (`0.0.0.0:53` and `[::]:53` in a stack) and forwards to `upstream`, the VPN's
    /// resolver. Local names go to `original`, the resolver that Docker gave the container, from v3.41 on.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub fn bind(
        version: Version,
        addresses: &[SocketAddr],
        upstream: SocketAddr,
        original: Option<SocketAddr>,
        journal: Journal,
    ) -> io::Result<Self> {
        let mut forwarder = Forwarder::new("gluetun dns", journal, Upstream { server: upstream, from: None });
        if let (Some(server), true) = (original, version >= Version::V3_41) {
            forwarder = forwarder.with_exception(is_local, Upstream { server, from: None });
        }
        let (sockets, addresses) = all(addresses)?;
        Ok(Self { addresses, sockets, forwarder })
    }

    /// Has it ask `server` as well, if there is one, for every name, whatever comes of that.
    pub fn also_asking(mut self, server: Option<SocketAddr>) -> Self {
        if let Some(server) = server {
            self.forwarder = self.forwarder.also_asking(Upstream { server, from: None });
        }
        self
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until dropped; its ports are closed while the switch is off.
    pub async fn serve(self, switch: DnsSwitch) {
        let mut wanted = switch.subscribe();
        let answerer = Arc::new(self.forwarder);
        let mut sockets = Some(self.sockets);
        loop {
            // The switch is held here, so that it cannot go away meanwhile.
            if wanted.wait_for(|&running| running).await.is_err() {
                return;
            }
            let open = match sockets.take() {
                Some(open) => open,
                None => match all(&self.addresses) {
                    Ok((open, _)) => open,
                    Err(_) => {
                        sleep(REBIND_PAUSE).await;
                        continue;
                    }
                },
            };
            tokio::select! {
                () = serve(open, answerer.clone()) => {}
                _ = wanted.wait_for(|&running| !running) => {}
            }
        }
    }
}

/// UDP and TCP of each address, and the addresses with the ports that were taken.
fn all(addresses: &[SocketAddr]) -> io::Result<(Sockets, Vec<SocketAddr>)> {
    let mut sockets = Sockets::default();
    let mut bound = Vec::new();
    for &address in addresses {
        let tcp = socket(address, Type::STREAM)?;
        tcp.listen(128)?;
        let tcp = TcpListener::from_std(tcp.into())?;
        let address = tcp.local_addr()?;
        sockets.udp.push(UdpSocket::from_std(socket(address, Type::DGRAM)?.into())?);
        sockets.tcp.push(tcp);
        bound.push(address);
    }
    Ok((sockets, bound))
}

fn socket(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), Some(protocol))?;
    if address.is_ipv6() {
        // 0.0.0.0 has a socket of its own.
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        // Connections of the time before the switch was turned off may linger.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}
