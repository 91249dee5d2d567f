//! The VPN server, found by watching: datagrams of unusual sizes are sent into the tunnel, with TTL 1, and the flow on an uplink whose
//! packets have just those sizes plus the tunnel's overhead is the tunnel's. No configuration can say it more truly.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use pnet::datalink;

use crate::model::evidence::{Link, Proto, Role, Via};
use crate::sensor::allow::{AllowList, Endpoint};
use crate::sensor::decode::Packet;
use crate::sensor::filter;
use crate::sensor::ring::Ring;
use crate::technique::open;

/// How long the tunnel may take, a first handshake included.
const PATIENCE: Duration = Duration::from_millis(2500);
/// Time between tries.
const AGAIN: Duration = Duration::from_millis(250);
/// Payload sizes; 28 octets of IPv4 and UDP come on top. Not multiples of 16 apart, so that WireGuard's padding shows.
const SIZES: [usize; 4] = [331, 597, 863, 489];
const HEADERS: usize = 28;
/// Where they go: inside the tunnel, no further than its first router.
const TO: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9)), 9);

/// Watches the uplinks among `links` while sending into the tunnel. `None`: the tunnel carried nothing, or nothing matched.
///
/// # Errors
/// When packets cannot be listened to: CAP_NET_RAW is missing.
pub fn observe(links: &[Link], local: &[IpNet]) -> io::Result<Option<Endpoint>> {
    let Some(tunnel) = links.iter().find(|link| link.role == Role::Tunnel) else { return Ok(None) };
    let mut ring = Ring::open()?;
    let loopback: Vec<u32> =
        datalink::interfaces().iter().filter(|link| link.is_loopback()).map(|link| link.index).collect();
    let allow = AllowList { endpoints: Vec::new(), local: local.to_vec() };
    ring.filter(&filter::compile(&allow, &loopback, &[tunnel.index]))?;
    ring.listen()?;
    let mut flows: HashMap<(SocketAddr, Proto), Vec<usize>> = HashMap::new();
    let deadline = Instant::now() + PATIENCE;
    let mut next = Instant::now();
    while Instant::now() < deadline {
        if Instant::now() >= next {
            send(&tunnel.name);
            next = Instant::now() + AGAIN;
        }
        ring.wait(20)?;
        while ring
            .next(|frame| {
                let packet = Packet::decode(frame.ether_type, frame.octets);
                if frame.index != tunnel.index && packet.ttl != 1 && matches!(packet.proto, Proto::Udp | Proto::Tcp) {
                    let length = if packet.proto == Proto::Udp { packet.payload_length } else { frame.length as usize };
                    flows.entry((packet.dst, packet.proto)).or_default().push(length);
                }
            })
            .is_some()
        {}
        if let Some(endpoint) = flows.iter().find_map(|((to, proto), lengths)| recognise(*to, *proto, lengths)) {
            return Ok(Some(endpoint));
        }
    }
    Ok(None)
}

fn send(tunnel: &str) {
    // A refusal shows as silence, which is what it means here.
    if let Ok(socket) = open(Proto::Udp, TO.ip(), &Via::Device(tunnel.to_owned())) {
        for size in SIZES {
            let _ = socket.send_to(&vec![0x6c; size], &TO.into());
        }
    }
}

/// Whether `lengths` hold all sizes that were sent, as WireGuard's (padded to 16, 32 more) or with one overhead for all.
fn recognise(to: SocketAddr, proto: Proto, lengths: &[usize]) -> Option<Endpoint> {
    let wireguard = SIZES.iter().all(|size| lengths.contains(&((size + HEADERS).next_multiple_of(16) + 32)));
    if proto == Proto::Udp && wireguard {
        return Some(Endpoint { address: to, proto, wireguard: true });
    }
    let same = (20..160).any(|overhead| SIZES.iter().all(|size| lengths.contains(&(size + HEADERS + overhead))));
    same.then_some(Endpoint { address: to, proto, wireguard: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wireguard_is_known_by_its_padding_and_others_by_one_overhead() {
        let to = "198.51.100.2:51820".parse().unwrap();
        let wireguard: Vec<usize> = SIZES.iter().map(|size| (size + 28).next_multiple_of(16) + 32).collect();
        assert!(recognise(to, Proto::Udp, &wireguard).is_some_and(|endpoint| endpoint.wireguard));
        let openvpn: Vec<usize> = SIZES.iter().map(|size| size + 28 + 41).collect();
        assert!(recognise(to, Proto::Udp, &openvpn).is_some_and(|endpoint| !endpoint.wireguard));
        assert!(recognise(to, Proto::Udp, &wireguard[1..]).is_none());
        assert!(recognise(to, Proto::Udp, &[1400, 1400, 92, 148]).is_none());
    }
}
