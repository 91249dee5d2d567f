//! The VPN server, found by watching: datagrams of unusual sizes are sent into the tunnel, with TTL 1, and the flow on an uplink whose
//! packets have just those sizes plus the tunnel's overhead is the tunnel's. No configuration can say it more truly.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use pnet::datalink;

use crate::model::evidence::{Link, Proto, Role, Via};
use crate::sensor::allow::{AllowList, Endpoint, Shape, looks_like_openvpn};
use crate::sensor::decode::Packet;
use crate::sensor::filter;
use crate::sensor::ring::{BLOCKS, Ring};
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
    let mut ring = Ring::open(BLOCKS)?;
    let loopback: Vec<u32> =
        datalink::interfaces().iter().filter(|link| link.is_loopback()).map(|link| link.index).collect();
    let allow = AllowList { endpoints: Vec::new(), local: local.to_vec() };
    ring.filter(&filter::compile(&allow, &loopback, &[tunnel.index]))?;
    ring.listen()?;
    let mut flows: HashMap<(SocketAddr, SocketAddr, Proto), Vec<Outer>> = HashMap::new();
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
                    // Over TCP a record of OpenVPN begins with its length.
                    let openvpn = match packet.proto {
                        Proto::Udp => looks_like_openvpn(packet.payload, packet.payload_length),
                        _ => looks_like_openvpn(packet.payload.get(2..).unwrap_or_default(), length),
                    };
                    flows.entry((packet.src, packet.dst, packet.proto)).or_default().push(Outer { length, openvpn });
                }
            })
            .is_some()
        {}
        if let Some(endpoint) = flows.iter().find_map(|((from, to, proto), seen)| recognise(*from, *to, *proto, seen)) {
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

/// A packet of what may be the tunnel's flow.
#[derive(Debug, Clone, Copy)]
struct Outer {
    /// Octets of UDP's payload, or of the whole packet.
    length: usize,
    /// Whether it looks like OpenVPN's.
    openvpn: bool,
}

/// Whether `seen` holds all sizes that were sent, as WireGuard's (padded to 16, 32 more) or with one overhead for all.
fn recognise(from: SocketAddr, to: SocketAddr, proto: Proto, seen: &[Outer]) -> Option<Endpoint> {
    let flow = (proto == Proto::Tcp).then_some(from.port());
    let found = |shape: Shape| Some(Endpoint { address: to, proto, shape, flow });
    let has = |length: usize| seen.iter().any(|outer| outer.length == length);
    if proto == Proto::Udp && SIZES.iter().all(|size| has((size + HEADERS).next_multiple_of(16) + 32)) {
        return found(Shape::Wireguard);
    }
    let overhead = (20..160).find(|overhead| SIZES.iter().all(|size| has(size + HEADERS + overhead)))?;
    let ours = |outer: &&Outer| SIZES.iter().any(|size| outer.length == size + HEADERS + overhead);
    found(if seen.iter().filter(ours).all(|outer| outer.openvpn) { Shape::Openvpn } else { Shape::Unknown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_are_known_by_their_sizes_and_by_their_looks() {
        let of = |proto: Proto, lengths: &[usize], openvpn: bool| {
            let seen: Vec<Outer> = lengths.iter().map(|length| Outer { length: *length, openvpn }).collect();
            recognise("172.18.0.10:4000".parse().unwrap(), "198.51.100.2:51820".parse().unwrap(), proto, &seen)
                .map(|endpoint| (endpoint.shape, endpoint.flow))
        };
        let wireguard: Vec<usize> = SIZES.iter().map(|size| (size + 28).next_multiple_of(16) + 32).collect();
        assert_eq!(of(Proto::Udp, &wireguard, false), Some((Shape::Wireguard, None)));
        let constant: Vec<usize> = SIZES.iter().map(|size| size + 28 + 41).collect();
        assert_eq!(of(Proto::Udp, &constant, true), Some((Shape::Openvpn, None)));
        assert_eq!(of(Proto::Tcp, &constant, true), Some((Shape::Openvpn, Some(4000))));
        assert_eq!(of(Proto::Udp, &constant, false), Some((Shape::Unknown, None)));
        assert_eq!(of(Proto::Udp, &wireguard[1..], false), None);
        assert_eq!(of(Proto::Udp, &[1400, 1400, 92, 148], false), None);
    }
}
