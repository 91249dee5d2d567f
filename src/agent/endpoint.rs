//! The VPN server, found by watching: datagrams of unusual sizes are sent into the tunnel, with TTL 1, and the flow on an uplink whose
//! packets have just those sizes plus the tunnel's overhead is the tunnel's, also where a relay adds some more to WireGuard's. No
//! configuration can say it more truly.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::model::evidence::{Link, Proto, Role, Via};
use crate::sensor::allow::{AllowList, Endpoint, Shape, looks_like_openvpn, looks_like_wireguard};
use crate::sensor::decode::Packet;
use crate::sensor::filter;
use crate::sensor::ring::Ring;
use crate::technique::open;

/// How long the tunnel may take, a first handshake included.
const PATIENCE: Duration = Duration::from_millis(2500);
/// Time between tries.
const AGAIN: Duration = Duration::from_millis(250);
/// Payload sizes; 28 octets of IPv4 and UDP come on top. Not multiples of 16 apart, so that WireGuard's padding shows, and each longer than
/// the one before, so that no implementation makes one giant of them.
const SIZES: [usize; 4] = [331, 489, 597, 863];
const HEADERS: usize = 28;
/// What WireGuard adds: the head of a message, and its tag.
const WIREGUARD: usize = 32;
/// Where they go: inside the tunnel, no further than its first router.
const TO: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9)), 9);

/// Blocks of the ring: fewer than the sensor's own, which may be there beside it, because a burst that is lost is sent again.
const BLOCKS: u16 = 16;
/// Packets that are remembered: a busy line has more of them than a patience may keep.
const MAX_REMEMBERED: usize = 20_000;

/// Watches the uplinks among `links` while sending into the tunnel. `None`: the tunnel carried nothing, or nothing matched.
///
/// # Errors
/// When packets cannot be listened to: CAP_NET_RAW is missing.
pub fn observe(links: &[Link], local: &[IpNet]) -> io::Result<Option<Endpoint>> {
    let Some(tunnel) = links.iter().find(|link| link.role == Role::Tunnel) else { return Ok(None) };
    let mut ring = Ring::open(BLOCKS)?;
    let loopback: Vec<u32> =
        crate::net::interfaces().iter().filter(|link| link.is_loopback()).map(|link| link.index).collect();
    let allow = AllowList { endpoints: Vec::new(), local: local.to_vec() };
    ring.filter(&filter::compile(&allow, &loopback, &[tunnel.index]))?;
    ring.listen()?;
    let mut flows = Flows::new();
    let deadline = Instant::now() + PATIENCE;
    let mut next = Instant::now();
    let (mut burst, mut remembered) = (0, 0);
    while Instant::now() < deadline {
        if Instant::now() >= next {
            // Others may send by chance what one overhead explains: it counts when a whole burst had its time and WireGuard did not show.
            if let Some(endpoint) = choose(&flows, overhead) {
                return Ok(Some(endpoint));
            }
            burst += 1;
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
                    flows.entry((packet.src, packet.dst, packet.proto)).or_default().push(Outer {
                        length,
                        wireguard: looks_like_wireguard(packet.payload, packet.payload_length),
                        openvpn,
                        burst,
                    });
                    remembered += 1;
                }
            })
            .is_some()
        {
            if remembered > MAX_REMEMBERED {
                remembered = forget_older(&mut flows);
            }
        }
        if let Some(endpoint) = choose(&flows, padded) {
            return Ok(Some(endpoint));
        }
    }
    Ok(choose(&flows, overhead))
}

fn choose(flows: &Flows, known: impl Fn(&Flow, &[Outer]) -> Option<Endpoint>) -> Option<Endpoint> {
    flows.iter().find_map(|(flow, seen)| known(flow, seen))
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
    /// Whether it looks like WireGuard's.
    wireguard: bool,
    /// Whether it looks like OpenVPN's.
    openvpn: bool,
    /// How often everything had been sent by then.
    burst: usize,
}

/// Source, destination and protocol.
type Flow = (SocketAddr, SocketAddr, Proto);
type Flows = HashMap<Flow, Vec<Outer>>;

/// Forgets the older half of each flow's packets. How many are left.
fn forget_older(flows: &mut Flows) -> usize {
    flows.retain(|_, seen| {
        seen.drain(..seen.len().div_ceil(2));
        !seen.is_empty()
    });
    flows.values().map(Vec::len).sum()
}

/// The packets of one burst that have the lengths that `outer` makes of [`SIZES`], in their order.
fn in_order(seen: &[Outer], outer: impl Fn(usize) -> usize) -> Option<Vec<Outer>> {
    let mut bursts: Vec<usize> = seen.iter().map(|outer| outer.burst).collect();
    bursts.dedup();
    bursts.into_iter().find_map(|burst| {
        let mut of_it = seen.iter().filter(|outer| outer.burst == burst);
        SIZES.iter().map(|size| of_it.find(|seen| seen.length == outer(size + HEADERS)).copied()).collect()
    })
}

/// Whether it is WireGuard's: each packet padded to 16, 32 octets more. One that is obfuscated keeps the lengths alone.
fn padded(&(_, to, proto): &Flow, seen: &[Outer]) -> Option<Endpoint> {
    let ours = in_order(seen, |size| size.next_multiple_of(16) + WIREGUARD).filter(|_| proto == Proto::Udp)?;
    let shape = if ours.iter().all(|outer| outer.wireguard) { Shape::Wireguard } else { Shape::Unknown };
    Some(Endpoint { address: to, proto, shape, flow: None })
}

/// Whether one overhead explains all packets: of what was sent, or of what WireGuard made of it, where a relay carries that on in a guise.
fn overhead(&(from, to, proto): &Flow, seen: &[Outer]) -> Option<Endpoint> {
    let plain = || (20..160).find_map(|more| in_order(seen, |size| size + more));
    let disguised =
        || (1..160).find_map(|more| in_order(seen, |size| size.next_multiple_of(16) + WIREGUARD + more)).is_some();
    let shape = match plain() {
        Some(ours) if ours.iter().all(|outer| outer.openvpn) => Shape::Openvpn,
        Some(_) => Shape::Unknown,
        None if disguised() => Shape::Unknown,
        None => return None,
    };
    Some(Endpoint { address: to, proto, shape, flow: (proto == Proto::Tcp).then_some(from.port()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(proto: Proto) -> Flow {
        ("172.18.0.10:4000".parse().unwrap(), "198.51.100.2:51820".parse().unwrap(), proto)
    }

    fn seen(lengths: &[usize], openvpn: bool, burst: usize) -> Vec<Outer> {
        lengths.iter().map(|length| Outer { length: *length, wireguard: !openvpn, openvpn, burst }).collect()
    }

    fn wireguard() -> Vec<usize> {
        SIZES.iter().map(|size| (size + 28).next_multiple_of(16) + 32).collect()
    }

    fn constant() -> Vec<usize> {
        SIZES.iter().map(|size| size + 28 + 41).collect()
    }

    #[test]
    fn what_came_last_is_remembered() {
        let old = seen(&[1400; 500], false, 1);
        let mut flows = Flows::from([(flow(Proto::Udp), [old, seen(&wireguard(), false, 2)].concat())]);
        flows.insert(flow(Proto::Tcp), seen(&[40], false, 2));
        assert_eq!(forget_older(&mut flows), 252);
        assert_eq!(flows.len(), 1, "a flow of which nothing is left is none");
        assert!(choose(&flows, padded).is_some());
        // However many flows there are, half of them at least is forgotten.
        assert!(forget_older(&mut flows) <= 126);
    }

    #[test]
    fn tunnels_are_known_by_their_sizes_and_by_their_looks() {
        let of = |proto: Proto, lengths: &[usize], openvpn: bool| {
            let (flow, seen) = (flow(proto), seen(lengths, openvpn, 1));
            let found = padded(&flow, &seen).or_else(|| overhead(&flow, &seen));
            found.map(|endpoint| (endpoint.shape, endpoint.flow))
        };
        assert_eq!(of(Proto::Udp, &wireguard(), false), Some((Shape::Wireguard, None)));
        assert_eq!(of(Proto::Udp, &wireguard(), true), Some((Shape::Unknown, None)), "obfuscated");
        assert_eq!(of(Proto::Udp, &constant(), true), Some((Shape::Openvpn, None)));
        assert_eq!(of(Proto::Tcp, &constant(), true), Some((Shape::Openvpn, Some(4000))));
        assert_eq!(of(Proto::Udp, &constant(), false), Some((Shape::Unknown, None)));
        for more in [1, 8, 60] {
            let disguised: Vec<usize> = wireguard().iter().map(|length| length + more).collect();
            assert_eq!(of(Proto::Udp, &disguised, true), Some((Shape::Unknown, None)), "{more} octets more");
            assert_eq!(of(Proto::Udp, &disguised[1..], false), None);
        }
        assert_eq!(of(Proto::Udp, &wireguard()[1..], false), None);
        assert_eq!(of(Proto::Udp, &[1400, 1400, 92, 148], false), None);
        assert_eq!(of(Proto::Tcp, &wireguard(), false), None);
    }

    /// Among other packets, but in their order, and not gathered from here and there.
    #[test]
    fn sizes_count_only_in_order_and_within_a_burst() {
        let mut among: Vec<usize> = wireguard().into_iter().flat_map(|length| [1452, length, 96]).collect();
        assert!(padded(&flow(Proto::Udp), &seen(&among, false, 1)).is_some());
        among.reverse();
        assert!(padded(&flow(Proto::Udp), &seen(&among, false, 1)).is_none());
        for lengths in [wireguard(), constant()] {
            let torn: Vec<Outer> =
                [seen(&lengths[..2], false, 1), seen(&lengths[2..], false, 2)].into_iter().flatten().collect();
            assert!(padded(&flow(Proto::Udp), &torn).is_none() && overhead(&flow(Proto::Udp), &torn).is_none());
            let again = [torn, seen(&lengths, false, 3)].concat();
            assert!(padded(&flow(Proto::Udp), &again).or_else(|| overhead(&flow(Proto::Udp), &again)).is_some());
        }
    }

    #[test]
    fn wireguards_padding_goes_before_an_overhead_elsewhere() {
        let other = ("172.18.0.10:5000".parse().unwrap(), "8.8.8.8:443".parse().unwrap(), Proto::Udp);
        let flows =
            Flows::from([(other, seen(&constant(), false, 1)), (flow(Proto::Udp), seen(&wireguard(), false, 1))]);
        let found = choose(&flows, padded).or_else(|| choose(&flows, overhead)).unwrap();
        assert_eq!((found.address, found.shape), (flow(Proto::Udp).1, Shape::Wireguard));
    }
}
