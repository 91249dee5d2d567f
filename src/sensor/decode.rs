//! Octets from the network header on, to the few fields that allow-list and attribution need. Pure, total: any octets decode to something.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{EtherType, IpNumber, LaxNetSlice, LaxSlicedPacket};

use crate::model::evidence::{Inner, Proto};

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherTypes of VLAN tags (IEEE 802.1Q, 802.1ad).
pub const ETHERTYPE_VLAN: [u16; 2] = [0x8100, 0x88a8];
/// IPv4 in IP (RFC 2003).
pub const IP_IN_IP: u8 = 4;
/// IPv6 in IP, known as 6in4 (RFC 4213).
pub const IPV6_IN_IP: u8 = 41;
/// Generic Routing Encapsulation (RFC 2784).
pub const GRE: u8 = 47;
/// Octets of the header of IPv6.
const V6_HEADER: usize = 40;
/// Extension header of a fragment (RFC 8200).
const FRAGMENT: u8 = 44;
/// More encapsulations than this, one in the other, are not looked into.
const MAX_DEPTH: u8 = 3;
/// TCP flag: begins a connection.
pub const SYN: u8 = 0x02;
/// TCP flag: ends one that the other side should not have.
pub const RST: u8 = 0x04;

/// One packet, decoded as far as it could be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Whether it is IPv6.
    pub v6: bool,
    /// Time to live or hop limit, 0 when it is not IP.
    pub ttl: u8,
    /// Protocol after all extension headers.
    pub proto: Proto,
    /// Source; unspecified when it is not IP, port 0 where there is none.
    pub src: SocketAddr,
    /// Destination, likewise.
    pub dst: SocketAddr,
    /// A fragment; any but the first carries no ports.
    pub fragment: Option<Fragment>,
    /// Sequence number of TCP, identifier and sequence number of an ICMP echo (as one big-endian number), else 0.
    pub sequence: u32,
    /// Flags of TCP, else 0.
    pub flags: u8,
    /// Type of ICMP or ICMPv6.
    pub icmp_type: Option<u8>,
    /// Number of the VLAN that a tag within the octets names.
    pub vlan: Option<u16>,
    /// The innermost packet of an encapsulation.
    pub inner: Option<Inner>,
    /// What follows the transport header, as far as it was captured.
    pub payload: &'a [u8],
    /// How long that is by the header of UDP; else what was captured.
    pub payload_length: usize,
}

/// Which part of a datagram a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Identification of the datagram.
    pub id: u32,
    /// Whether it is the first, which alone has the transport header.
    pub first: bool,
}

impl<'a> Packet<'a> {
    /// Decodes `octets`, which begin at the network header, of a frame with this EtherType (host byte order).
    pub fn decode(ether_type: u16, octets: &'a [u8]) -> Packet<'a> {
        Packet::decode_at(ether_type, octets, 0)
    }

    fn decode_at(mut ether_type: u16, mut octets: &'a [u8], depth: u8) -> Packet<'a> {
        let mut vlan = None;
        // Two tags are as deep as standards go; what is under more is no packet that anybody forwards.
        for _ in 0..2 {
            let (true, Some(tag)) = (ETHERTYPE_VLAN.contains(&ether_type), octets.get(..4)) else { break };
            vlan.get_or_insert(u16::from_be_bytes([tag[0], tag[1]]) & 0x0fff);
            ether_type = u16::from_be_bytes([tag[2], tag[3]]);
            octets = &octets[4..];
        }
        let not_ip =
            |octets| Packet { proto: Proto::Ether(ether_type), ..Packet::bare(ether_type == ETHERTYPE_IPV6, octets) };
        if ether_type == ETHERTYPE_IPV6 {
            let packet = Packet::decode_v6(octets, depth).unwrap_or_else(|| not_ip(octets));
            return Packet { vlan, ..packet };
        }
        let sliced = LaxSlicedPacket::from_ether_type(EtherType(ether_type), octets);
        let packet = match &sliced.net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                let header = ip.header();
                let payload = ip.payload();
                let fragment =
                    Fragment { id: header.identification().into(), first: header.fragments_offset().value() == 0 };
                Packet {
                    ttl: header.ttl(),
                    src: SocketAddr::new(header.source_addr().into(), 0),
                    dst: SocketAddr::new(header.destination_addr().into(), 0),
                    fragment: payload.fragmented.then_some(fragment),
                    ..Packet::bare(false, payload.payload)
                }
                .with_transport(payload.ip_number, payload.payload, depth)
            }
            Some(LaxNetSlice::Ipv6(_) | LaxNetSlice::Arp(_)) | None => not_ip(octets),
        };
        Packet { vlan, ..packet }
    }

    /// RFC 8200. By hand, because etherparse 0.21 reads past the end of a chain of extension headers that is cut off.
    fn decode_v6(octets: &'a [u8], depth: u8) -> Option<Packet<'a>> {
        let (head, rest) = octets.split_first_chunk::<V6_HEADER>()?;
        if head[0] >> 4 != 6 {
            return None;
        }
        let address = |at: usize| -> Option<SocketAddr> {
            let octets: [u8; 16] = head.get(at..at + 16)?.try_into().ok()?;
            Some(SocketAddr::new(Ipv6Addr::from(octets).into(), 0))
        };
        // Nothing stands for a length that the field cannot hold (RFC 2675); what was cut off is not there either.
        let stated = usize::from(u16::from_be_bytes([head[4], head[5]]));
        let mut rest = if stated == 0 { rest } else { rest.get(..stated).unwrap_or(rest) };
        let mut next = head[6];
        let mut fragment = None;
        while let Some((length, from)) = extension(next, rest) {
            let Some(beyond) = rest.get(length..) else { break };
            if next == FRAGMENT {
                let field = u16::from_be_bytes([rest[2], rest[3]]);
                let id = u32::from_be_bytes([rest[4], rest[5], rest[6], rest[7]]);
                // A datagram in one fragment (RFC 6946) is whole.
                let part = (field & 0xfff9 != 0).then_some(Fragment { id, first: field >> 3 == 0 });
                fragment = fragment.or(part);
            }
            (next, rest) = (from, beyond);
            // What follows the header of a later fragment is the middle of something.
            if fragment.is_some_and(|fragment: Fragment| !fragment.first) {
                break;
            }
        }
        let packet = Packet { ttl: head[7], src: address(8)?, dst: address(24)?, fragment, ..Packet::bare(true, rest) };
        Some(packet.with_transport(IpNumber(next), rest, depth))
    }

    fn bare(v6: bool, payload: &'a [u8]) -> Packet<'a> {
        let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        Packet {
            v6,
            ttl: 0,
            proto: Proto::Ether(0),
            src: nowhere,
            dst: nowhere,
            fragment: None,
            sequence: 0,
            flags: 0,
            icmp_type: None,
            vlan: None,
            inner: None,
            payload,
            payload_length: payload.len(),
        }
    }

    /// Ports, types and payload. etherparse leaves the transport of every fragment alone, so the first one's ports are read here.
    fn with_transport(mut self, number: IpNumber, octets: &'a [u8], depth: u8) -> Self {
        let word = |at: usize| octets.get(at..at + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
        let long =
            |at: usize| octets.get(at..at + 4).map(|four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]));
        self.proto = match number {
            IpNumber::TCP => Proto::Tcp,
            IpNumber::UDP => Proto::Udp,
            IpNumber::ICMP => Proto::Icmp,
            IpNumber::IPV6_ICMP => Proto::Icmpv6,
            other => Proto::Ip(other.0),
        };
        if self.later_fragment() {
            return self;
        }
        match self.proto {
            Proto::Tcp | Proto::Udp => {
                if let (Some(from), Some(to)) = (word(0), word(2)) {
                    self.src.set_port(from);
                    self.dst.set_port(to);
                }
                let header = if self.proto == Proto::Udp {
                    8
                } else {
                    self.sequence = long(4).unwrap_or(0);
                    self.flags = octets.get(13).copied().unwrap_or(0);
                    octets.get(12).map_or(20, |offset| usize::from(offset >> 4) * 4)
                };
                self.payload = octets.get(header..).unwrap_or_default();
                self.payload_length = match (self.proto, word(4)) {
                    (Proto::Udp, Some(length)) => usize::from(length).saturating_sub(8),
                    _ => self.payload.len(),
                };
            }
            Proto::Icmp | Proto::Icmpv6 => {
                self.icmp_type = octets.first().copied();
                self.sequence = long(4).unwrap_or(0);
                self.payload = octets.get(8..).unwrap_or_default();
                self.payload_length = self.payload.len();
            }
            Proto::Ip(number) => self.inner = inner(number, octets, depth),
            Proto::Ether(_) => {}
        }
        self
    }

    /// Whether it is a fragment without a transport header.
    pub fn later_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| !fragment.first)
    }
}

/// Length of the extension header `number` at the beginning of `octets`, and what follows it. `None`: it is none, or its first octets are
/// missing.
fn extension(number: u8, octets: &[u8]) -> Option<(usize, u8)> {
    let [next, length, ..] = *octets else { return None };
    let length = usize::from(length);
    match number {
        // Hop-by-hop, routing, destination options, mobility, host identity, shim6.
        0 | 43 | 60 | 135 | 139 | 140 => Some(((length + 1) * 8, next)),
        FRAGMENT => Some((8, next)),
        // Authentication header (RFC 4302).
        51 => Some(((length + 2) * 4, next)),
        _ => None,
    }
}

/// The packet that protocol `number` carries in `octets`, if it is an encapsulation that is known.
fn inner(number: u8, octets: &[u8], depth: u8) -> Option<Inner> {
    let (ether_type, octets) = match number {
        IP_IN_IP => (ETHERTYPE_IPV4, octets),
        IPV6_IN_IP => (ETHERTYPE_IPV6, octets),
        GRE => {
            let head = octets.get(..4)?;
            let (flags, kind) = (u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]]));
            // Checksum, key and sequence number are there by their bits (RFC 2784, RFC 2890); version 1 is another format.
            let more = [0x8000, 0x2000, 0x1000].iter().filter(|bit| flags & **bit != 0).count() * 4;
            (kind, octets.get(4 + more..).filter(|_| flags & 7 == 0)?)
        }
        _ => return None,
    };
    if depth >= MAX_DEPTH {
        return None;
    }
    let packet = Packet::decode_at(ether_type, octets, depth + 1);
    match packet.proto {
        Proto::Ether(_) => None,
        proto => packet.inner.or(Some(Inner { proto, src: packet.src, dst: packet.dst })),
    }
}

#[cfg(test)]
mod tests;
