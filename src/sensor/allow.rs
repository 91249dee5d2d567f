//! The allow-list: what may leave by an uplink. Pure. The kernel filter is generated from the same value and may let more through to
//! this judgement, never less.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::decode::{ETHERTYPE_ARP, Packet};
use crate::model::evidence::{Class, Proto};

/// Where the tunnel's outer packets go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Address and port of the VPN server.
    pub address: SocketAddr,
    /// UDP, or TCP for OpenVPN.
    pub proto: Proto,
    /// Whether every packet has to look like WireGuard's.
    pub wireguard: bool,
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
/// IGMP (RFC 3376): link-local by nature.
pub const IGMP: u8 = 2;

impl AllowList {
    /// What a packet that leaves by an uplink is. `None`: allowed and of no interest.
    pub fn classify(&self, packet: &Packet<'_>) -> Option<Class> {
        match packet.proto {
            Proto::Ether(ETHERTYPE_ARP) | Proto::Ip(IGMP) => return None,
            Proto::Ether(_) => return Some(Class::Nearby),
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
}

impl Endpoint {
    /// Whether `packet` is one of the tunnel's own. A later fragment carries no ports and is known by address and protocol alone.
    fn allows(&self, packet: &Packet<'_>) -> bool {
        if packet.dst.ip() != self.address.ip() {
            return false;
        }
        // The server's packets that come when nobody listens any more are answered by the kernel; the server knows the home anyway.
        let error = match packet.proto {
            Proto::Icmp => packet.icmp_type.is_some_and(|kind| ICMP_ERRORS.contains(&kind)),
            Proto::Icmpv6 => packet.icmp_type.is_some_and(|kind| ICMPV6_ERRORS.contains(&kind)),
            _ => false,
        };
        if error || packet.proto != self.proto {
            return error;
        }
        if packet.fragment {
            return packet.dst.port() == 0 || packet.dst.port() == self.address.port();
        }
        packet.dst.port() == self.address.port()
            && (!self.wireguard || looks_like_wireguard(packet.payload, packet.payload_length))
    }
}

/// Whether a UDP payload of `length` octets, of which `payload` was captured, looks like a WireGuard message: initiation 148 octets,
/// response 92, cookie 64, transport data 32 and more (<https://www.wireguard.com/protocol/>). Data is padded to steps of 16, but never
/// past the tunnel's MTU, and some implementations do not pad at all: another length is known by its counter, whose upper half is 0 for
/// the life of a key. The three reserved octets are not looked at: some providers use them.
pub fn looks_like_wireguard(payload: &[u8], length: usize) -> bool {
    match (payload.first(), length) {
        (Some(1), 148) | (Some(2), 92) | (Some(3), 64) => true,
        (Some(4), length) => length >= 32 && (length % 16 == 0 || payload.get(12..16) == Some(&[0; 4])),
        _ => false,
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensor::decode::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
    use etherparse::PacketBuilder;

    fn list() -> AllowList {
        AllowList {
            endpoints: vec![Endpoint {
                address: "198.51.100.2:51820".parse().unwrap(),
                proto: Proto::Udp,
                wireguard: true,
            }],
            local: vec!["172.18.0.0/16".parse().unwrap(), "fd18::/64".parse().unwrap()],
        }
    }

    fn udp(to: [u8; 4], port: u16, payload: &[u8]) -> Option<Class> {
        let mut octets = Vec::new();
        PacketBuilder::ipv4([172, 18, 0, 10], to, 64).udp(4000, port).write(&mut octets, payload).unwrap();
        list().classify(&Packet::decode(ETHERTYPE_IPV4, &octets))
    }

    #[test]
    fn only_wireguard_may_go_to_the_endpoint() {
        assert_eq!(udp([198, 51, 100, 2], 51820, &[&[4, 0, 0, 0][..], &[7; 92]].concat()), None);
        assert_eq!(udp([198, 51, 100, 2], 51820, b"plain text to the endpoint"), Some(Class::Offence));
        assert_eq!(udp([198, 51, 100, 2], 51821, &[&[4, 0, 0, 0][..], &[7; 92]].concat()), Some(Class::Offence));
        assert_eq!(udp([198, 51, 100, 3], 51820, &[&[4, 0, 0, 0][..], &[7; 92]].concat()), Some(Class::Offence));
    }

    #[test]
    fn a_full_packet_is_padded_no_further_than_the_mtu() {
        let message = |length: usize, upper: u8| {
            let head = [4, 0, 0, 0, 9, 9, 9, 9, 200, 1, 0, 0, upper, 0, 0, 0];
            udp([198, 51, 100, 2], 51820, &[&head[..], &vec![7; length - head.len()]].concat())
        };
        for mtu in [1280, 1320, 1412, 1420, 1440, 1492] {
            assert_eq!(message(mtu + 32, 0), None, "an MTU of {mtu}");
        }
        assert_eq!(message(1452, 1), Some(Class::Offence));
        assert!(!looks_like_wireguard(&[4, 0, 0], 1452), "too little of it was captured to tell");
    }

    #[test]
    fn errors_may_go_to_the_endpoint_and_echo_requests_may_not() {
        for (kind, to, expected) in [
            (3u8, [198, 51, 100, 2], None),
            (8, [198, 51, 100, 2], Some(Class::Offence)),
            (3, [8, 8, 8, 8], Some(Class::Offence)),
        ] {
            let mut octets = Vec::new();
            PacketBuilder::ipv4([172, 18, 0, 10], to, 64)
                .icmpv4_raw(kind, 3, [0; 4])
                .write(&mut octets, &[0; 28])
                .unwrap();
            assert_eq!(list().classify(&Packet::decode(ETHERTYPE_IPV4, &octets)), expected, "type {kind} to {to:?}");
        }
    }

    #[test]
    fn local_is_local_but_its_resolvers_are_noted() {
        assert_eq!(udp([172, 18, 0, 20], 8989, b""), None);
        assert_eq!(udp([172, 18, 0, 1], 53, b""), Some(Class::LocalDns));
        assert_eq!(udp([10, 0, 0, 1], 53, b""), Some(Class::Nearby));
        assert_eq!(udp([8, 8, 8, 8], 53, b""), Some(Class::Offence));
    }

    #[test]
    fn multicast_is_no_hole() {
        assert_eq!(udp([239, 192, 152, 143], 6771, b"BT-SEARCH"), Some(Class::Nearby));
        assert_eq!(udp([255, 255, 255, 255], 67, b""), Some(Class::Nearby));
        let mut mdns = Vec::new();
        let all = "ff02::fb".parse::<std::net::Ipv6Addr>().unwrap().octets();
        PacketBuilder::ipv6([0xfe; 16], all, 255).udp(5353, 5353).write(&mut mdns, b"").unwrap();
        assert_eq!(list().classify(&Packet::decode(ETHERTYPE_IPV6, &mdns)), Some(Class::Nearby));
    }

    #[test]
    fn neighbour_discovery_is_allowed_and_an_echo_request_is_not() {
        for (kind, to, hops, expected) in [
            (135u8, "ff02::1:ff00:1", 255u8, None),
            (136, "2001:db8::1", 255, None),
            (143, "ff02::16", 1, None),
            (143, "ff0e::16", 1, Some(Class::Nearby)),
            (128, "2001:4860:4860::8888", 64, Some(Class::Offence)),
            (135, "2001:4860:4860::8888", 64, Some(Class::Offence)),
        ] {
            let mut octets = Vec::new();
            let to = to.parse::<std::net::Ipv6Addr>().unwrap().octets();
            PacketBuilder::ipv6([0x20; 16], to, hops).icmpv6_raw(kind, 0, [0; 4]).write(&mut octets, &[]).unwrap();
            assert_eq!(list().classify(&Packet::decode(ETHERTYPE_IPV6, &octets)), expected, "type {kind} to {to:?}");
        }
    }
}
