//! A router that advertises itself to one host (RFC 4861, section 4.2), by unicast: firewalls that hold what is sent to all nodes let it
//! pass.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::internet::{ServerError, Servers};
use crate::net::route::{RouteError, Snapshot};

/// Type 134, checksum by the kernel, hop limit 64, no flags, a router for 1800 s, nothing said of times.
const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
/// Whoever is further away has a lower one, and is not believed.
const HOPS: u32 = 255;

/// The link-local address of a link of the calling thread's namespace.
///
/// # Errors
/// When there is no such link, or it has none.
pub fn link_local(link: &str) -> Result<Ipv6Addr, RouteError> {
    let snapshot = Snapshot::take()?;
    let index = snapshot.link(link).map(|link| link.index);
    let own = snapshot.addresses.iter().filter(|address| Some(address.link) == index);
    let mut addresses = own.filter_map(|address| match address.address.addr() {
        std::net::IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(ip),
        _ => None,
    });
    addresses.next().ok_or_else(|| RouteError::NoLink(link.to_owned()))
}

/// Advertises to `to` by `link`, in the calling thread's network namespace and runtime.
///
/// # Errors
/// When there is no such link, or the socket cannot be made.
pub fn serve(link: &str, to: Ipv6Addr, every: Duration) -> Result<Servers, ServerError> {
    let at = |index| SocketAddr::V6(SocketAddrV6::new(to, 0, 0, index));
    let open = || {
        let snapshot = Snapshot::take().map_err(std::io::Error::other)?;
        let index = snapshot.link(link).map(|link| link.index).ok_or(std::io::ErrorKind::NotFound)?;
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        socket.set_unicast_hops_v6(HOPS)?;
        socket.set_nonblocking(true)?;
        Ok((socket, at(index)))
    };
    let (socket, to) = open().map_err(|error| ServerError::Bind(at(0), error))?;
    let mut servers = Servers::default();
    servers.task(async move {
        loop {
            // One that gets lost is followed by the next.
            let _ = socket.send_to(&ADVERTISEMENT, &to.into());
            tokio::time::sleep(every).await;
        }
    });
    Ok(servers)
}
