//! The allow-list: what may leave by an uplink. Pure. The kernel filter is generated from the same value and may let more through to
//! this judgement, never less.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::decode::{ETHERTYPE_ARP, GRE, IP_IN_IP, IPV6_IN_IP, Packet};
use crate::model::evidence::{Class, Proto};

/// Where the tunnel's outer packets go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Address and port of the VPN server.
    pub address: SocketAddr,
    /// UDP, or TCP for OpenVPN.
    pub proto: Proto,
    /// What every packet has to look like.
    pub shape: Shape,
    /// The local port of the tunnel's connection, where it is TCP and was seen. A stream can be cut anywhere, so its packets cannot be
    /// told by their looks; others to the same server can, as a connection begins with what its protocol begins with.
    pub flow: Option<u16>,
}

/// What a tunnel's outer packets look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// See [`looks_like_wireguard`].
    Wireguard,
    /// See [`looks_like_openvpn`].
    Openvpn,
    /// Neither: address, protocol and port have to do.
    Unknown,
}

/// What may leave by an uplink.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowList {
    /// Endpoints of the tunnel; empty where none is known.
    pub endpoints: Vec<Endpoint>,
    /// Subnets that may be talked to past the tunnel.
    pub local: Vec<IpNet>,
}

/// Ports on which DNS is spoken in the clear or over TLS (RFC 1035, RFC 7858).
pub const DNS_PORTS: [u16; 2] = [53, 853];
/// ICMPv6 types of neighbour discovery and multicast listener discovery, link-local by nature (RFC 4861, RFC 2710, RFC 3810).
pub const LINK_ICMPV6: [u8; 8] = [130, 131, 132, 133, 134, 135, 136, 143];
/// Destination unreachable, time exceeded, parameter problem (RFC 792).
const ICMP_ERRORS: [u8; 3] = [3, 11, 12];
/// Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443).
const ICMPV6_ERRORS: [u8; 4] = [1, 2, 3, 4];
/// IGMP (RFC 3376).
pub const IGMP: u8 = 2;
/// Where the upper half of the counter (little endian, 64 bits) stands in WireGuard's transport data.
pub const WIREGUARD_COUNTER_TOP: usize = 12;
/// Protocols that carry other packets past whatever looks at ports and addresses: IP-in-IP, 6in4, GRE, minimal encapsulation, IPIP,
/// EtherIP, L2TP, MPLS-in-IP (IANA protocol numbers).
const ENCAPSULATIONS: [u8; 8] = [IP_IN_IP, IPV6_IN_IP, GRE, 55, 94, 97, 115, 137];
/// How an ARP packet for IPv4 over Ethernet begins (RFC 826).
pub const ARP_HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// Octets of such a packet, and with the padding of the shortest frame.
pub const ARP_LENGTH: std::ops::RangeInclusive<usize> = 28..=46;

impl AllowList {
    /// What a packet that leaves by an uplink is. `None`: allowed and of no interest.
    pub fn classify(&self, packet: &Packet<'_>) -> Option<Class> {
        match packet.proto {
            Proto::Ether(ETHERTYPE_ARP) if is_arp(packet.payload) => return None,
            Proto::Ether(_) => return Some(Class::Nearby),
            // Reports go to the group itself; no router carries them any further (RFC 3376, section 4).
            Proto::Ip(IGMP) if packet.dst.ip().is_multicast() && packet.ttl == 1 => return None,
            // Whoever takes it off again, a local host too, sends on what is in it.
            Proto::Ip(number) if ENCAPSULATIONS.contains(&number) => return Some(Class::Offence),
            Proto::Icmpv6
                if packet.icmp_type.is_some_and(|kind| LINK_ICMPV6.contains(&kind))
                    && !leaves_the_link(packet.dst.ip()) =>
            {
                return None;
            }
            Proto::Icmpv6
                if packet.icmp_type.is_some_and(|kind| LINK_ICMPV6[3..].contains(&kind)) && packet.ttl == 255 =>
            {
                return None;
            }
            Proto::Tcp | Proto::Udp | Proto::Icmp | Proto::Icmpv6 | Proto::Ip(_) => {}
        }
        if self.endpoints.iter().any(|endpoint| endpoint.allows(packet)) {
            return None;
        }
        let to = packet.dst.ip();
        if is_multicast_or_broadcast(to) {
            return Some(Class::Nearby);
        }
        let local = !leaves_the_link(to) || self.local.iter().any(|net| net.contains(&to));
        if local {
            let dns = matches!(packet.proto, Proto::Tcp | Proto::Udp) && DNS_PORTS.contains(&packet.dst.port());
            return dns.then_some(Class::LocalDns);
        }
        Some(if is_private(to) { Class::Nearby } else { Class::Offence })
    }

    /// Whether `to` is neither near nor a VPN server, so that whoever talks to it past the tunnel leaks.
    pub fn is_stranger(&self, to: IpAddr) -> bool {
        let near = !leaves_the_link(to) || is_multicast_or_broadcast(to) || is_private(to);
        let local = self.local.iter().any(|net| net.contains(&to));
        !near && !local && !self.endpoints.iter().any(|endpoint| endpoint.address.ip() == to)
    }
}

/// Whether a packet tells somebody what became of one of theirs.
pub fn is_icmp_error(packet: &Packet<'_>) -> bool {
    match packet.proto {
        Proto::Icmp => packet.icmp_type.is_some_and(|kind| ICMP_ERRORS.contains(&kind)),
        Proto::Icmpv6 => packet.icmp_type.is_some_and(|kind| ICMPV6_ERRORS.contains(&kind)),
        _ => false,
    }
}

impl Endpoint {
    /// Whether `packet` is one of the tunnel's own. A later fragment carries no ports and is known by address and protocol alone; the
    /// sensor holds it against the first one of its datagram.
    fn allows(&self, packet: &Packet<'_>) -> bool {
        if packet.dst.ip() != self.address.ip() {
            return false;
        }
        // The server's packets that come when nobody listens any more are answered by the kernel; the server knows the home anyway.
        let error = is_icmp_error(packet);
        if error || packet.proto != self.proto {
            return error;
        }
        if packet.later_fragment() {
            return true;
        }
        packet.dst.port() == self.address.port()
            && match (self.shape, self.proto) {
                (Shape::Wireguard, _) => looks_like_wireguard(packet.payload, packet.payload_length),
                (Shape::Openvpn, Proto::Udp) => looks_like_openvpn(packet.payload, packet.payload_length),
                (Shape::Openvpn, _) => {
                    self.flow == Some(packet.src.port())
                        || packet.payload.is_empty()
                        || looks_like_openvpn_stream(packet.payload)
                }
                (Shape::Unknown, _) => true,
            }
    }

    /// Whether `packet` goes to the server's own address, protocol and port, whatever it looks like.
    pub fn is_aimed_at(&self, packet: &Packet<'_>) -> bool {
        packet.dst == self.address && packet.proto == self.proto
    }
}

fn is_arp(octets: &[u8]) -> bool {
    octets.starts_with(&ARP_HEAD) && ARP_LENGTH.contains(&octets.len())
}

/// Whether a UDP payload of `length` octets, of which `payload` was captured, looks like a WireGuard message: initiation 148 octets,
/// response 92, cookie 64, transport data 32 and more (<https://www.wireguard.com/protocol/>). Data is known by its counter, whose upper
/// half is 0 for the life of a key. Its length says nothing: padding to 16 octets ends at the tunnel's MTU, some implementations do not
/// pad at all, and a segmented giant holds several messages. Nor do the three reserved octets, which some providers use.
pub fn looks_like_wireguard(payload: &[u8], length: usize) -> bool {
    match (payload.first(), length) {
        (Some(1), 148) | (Some(2), 92) | (Some(3), 64) => true,
        (Some(4), 32..) => payload.get(WIREGUARD_COUNTER_TOP..WIREGUARD_COUNTER_TOP + 4) == Some(&[0; 4]),
        _ => false,
    }
}

/// Whether a UDP payload of `length` octets, of which `payload` was captured, has an opcode that an OpenVPN client sends and the length
/// that it needs at least (<https://openvpn.net/community-resources/openvpn-protocol/>, and `ssl_pkt.h` of OpenVPN 2.6): hard reset
/// and control with session id, an array of acknowledgements and a packet id 14, acknowledgement 22, data 20.
pub fn looks_like_openvpn(payload: &[u8], length: usize) -> bool {
    match payload.first().map(|first| first >> 3) {
        Some(3 | 4 | 7 | 10 | 11) => length >= 14,
        Some(5) => length >= 22,
        Some(6 | 9) => length >= 20,
        _ => false,
    }
}

/// Whether a piece of a TCP stream begins with a record of OpenVPN: two octets of length, then as over UDP. Records are no longer than
/// a packet of the tunnel, and two printable characters would be a length above the limit.
fn looks_like_openvpn_stream(payload: &[u8]) -> bool {
    const LIMIT: usize = 0x2000;
    let Some((head, record)) = payload.split_first_chunk::<2>() else { return false };
    let length = usize::from(u16::from_be_bytes(*head));
    length < LIMIT && looks_like_openvpn(record, length)
}

/// Whether routers would carry a packet to `to` any further than the link.
fn leaves_the_link(to: IpAddr) -> bool {
    match to {
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => {
            !(v6.is_unicast_link_local() || (v6.is_multicast() && matches!(v6.octets()[1] & 0x0f, 0..=2)))
        }
    }
}

fn is_multicast_or_broadcast(to: IpAddr) -> bool {
    to.is_multicast() || to == IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// Whether `to` is private, shared or link-local space (RFC 1918, RFC 6598, RFC 3927, RFC 4193), which no ISP carries to strangers.
pub fn is_private(to: IpAddr) -> bool {
    match to {
        IpAddr::V4(v4) => {
            v4.is_private()
                || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64)
                || v4.is_link_local()
                || v4.is_loopback()
                || v4.is_unspecified()
        }
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_loopback() || v6.is_unspecified(),
    }
}

/// Whether all of `net` is such space.
pub fn is_private_net(net: &IpNet) -> bool {
    // None of it is wider than these; half the internet begins and ends in such space too (0.0.0.0/1).
    let widest = if net.addr().is_ipv4() { 8 } else { 7 };
    net.prefix_len() >= widest && is_private(net.network()) && is_private(net.broadcast())
}

#[cfg(test)]
mod tests;
