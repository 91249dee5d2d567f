//! Octets from the network header on, to the few fields that allow-list and attribution need. Pure, total: any octets decode to something.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use etherparse::{EtherType, IpNumber, Ipv6ExtensionSlice, LaxNetSlice, LaxSlicedPacket};

use crate::model::evidence::Proto;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

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
    pub fragment: bool,
    /// Sequence number of TCP, identifier and sequence number of an ICMP echo (as one big-endian number), else 0.
    pub sequence: u32,
    /// Type of ICMP or ICMPv6.
    pub icmp_type: Option<u8>,
    /// What follows the transport header, as far as it was captured.
    pub payload: &'a [u8],
    /// How long that is by the header of UDP; else what was captured.
    pub payload_length: usize,
}

impl<'a> Packet<'a> {
    /// Decodes `octets`, which begin at the network header, of a frame with this EtherType (host byte order).
    pub fn decode(ether_type: u16, octets: &'a [u8]) -> Packet<'a> {
        let sliced = LaxSlicedPacket::from_ether_type(EtherType(ether_type), octets);
        match &sliced.net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                let header = ip.header();
                let payload = ip.payload();
                let mut packet = Packet {
                    v6: false,
                    ttl: header.ttl(),
                    proto: Proto::Ip(payload.ip_number.0),
                    src: SocketAddr::new(header.source_addr().into(), 0),
                    dst: SocketAddr::new(header.destination_addr().into(), 0),
                    fragment: payload.fragmented,
                    sequence: 0,
                    icmp_type: None,
                    payload: payload.payload,
                    payload_length: payload.payload.len(),
                };
                packet.transport(payload.ip_number, header.fragments_offset().value() == 0, payload.payload);
                packet
            }
            Some(LaxNetSlice::Ipv6(ip)) => {
                let header = ip.header();
                let payload = ip.payload();
                let offset = ip.extensions().clone().into_iter().find_map(|extension| match extension {
                    Ipv6ExtensionSlice::Fragment(fragment) => Some(fragment.fragment_offset().value()),
                    _ => None,
                });
                let mut packet = Packet {
                    v6: true,
                    ttl: header.hop_limit(),
                    proto: Proto::Ip(payload.ip_number.0),
                    src: SocketAddr::new(header.source_addr().into(), 0),
                    dst: SocketAddr::new(header.destination_addr().into(), 0),
                    fragment: payload.fragmented,
                    sequence: 0,
                    icmp_type: None,
                    payload: payload.payload,
                    payload_length: payload.payload.len(),
                };
                packet.transport(payload.ip_number, offset.unwrap_or(0) == 0, payload.payload);
                packet
            }
            Some(LaxNetSlice::Arp(_)) | None => Packet::not_ip(ether_type, octets),
        }
    }

    fn not_ip(ether_type: u16, octets: &'a [u8]) -> Packet<'a> {
        let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        Packet {
            v6: ether_type == ETHERTYPE_IPV6,
            ttl: 0,
            proto: Proto::Ether(ether_type),
            src: nowhere,
            dst: nowhere,
            fragment: false,
            sequence: 0,
            icmp_type: None,
            payload: octets,
            payload_length: octets.len(),
        }
    }

    /// Ports, types and payload. etherparse leaves the transport of every fragment alone, so the first one's ports are read here.
    fn transport(&mut self, number: IpNumber, first: bool, octets: &'a [u8]) {
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
        if !first {
            return;
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
            Proto::Ip(_) | Proto::Ether(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    #[test]
    fn udp_over_ipv4() {
        let mut octets = Vec::new();
        PacketBuilder::ipv4([172, 18, 0, 10], [8, 8, 8, 8], 1).udp(4000, 53).write(&mut octets, b"lkck").unwrap();
        let packet = Packet::decode(ETHERTYPE_IPV4, &octets);
        assert_eq!((packet.proto, packet.ttl, packet.v6), (Proto::Udp, 1, false));
        assert_eq!(packet.src, "172.18.0.10:4000".parse().unwrap());
        assert_eq!(packet.dst, "8.8.8.8:53".parse().unwrap());
        assert_eq!(packet.payload, b"lkck");
    }

    #[test]
    fn tcp_over_ipv6_with_its_sequence_number() {
        let mut octets = Vec::new();
        PacketBuilder::ipv6([0x20; 16], [0x26; 16], 1)
            .tcp(4000, 443, 0xdead_beef, 1024)
            .syn()
            .write(&mut octets, &[])
            .unwrap();
        let packet = Packet::decode(ETHERTYPE_IPV6, &octets);
        assert_eq!((packet.proto, packet.sequence, packet.dst.port()), (Proto::Tcp, 0xdead_beef, 443));
    }

    #[test]
    fn the_first_fragment_has_ports_and_the_others_have_none() {
        let mut octets = Vec::new();
        PacketBuilder::ipv4([172, 18, 0, 10], [8, 8, 8, 8], 64).udp(4000, 53).write(&mut octets, &[0; 64]).unwrap();
        octets[6] |= 0x20;
        let first = Packet::decode(ETHERTYPE_IPV4, &octets);
        assert!(first.fragment);
        assert_eq!(first.dst.port(), 53);
        octets[7] = 8;
        let later = Packet::decode(ETHERTYPE_IPV4, &octets);
        assert!(later.fragment);
        assert_eq!((later.proto, later.dst.port()), (Proto::Udp, 0));
    }

    #[test]
    fn arp_and_unknown_frames_keep_their_ethertype() {
        assert_eq!(Packet::decode(ETHERTYPE_ARP, &[0; 28]).proto, Proto::Ether(ETHERTYPE_ARP));
        assert_eq!(Packet::decode(0x88cc, &[1, 2, 3]).proto, Proto::Ether(0x88cc));
    }

    proptest! {
        #[test]
        fn any_octets_decode(ether_type in prop_oneof![Just(0x0800u16), Just(0x86dd), any::<u16>()], octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let packet = Packet::decode(ether_type, &octets);
            prop_assert!(packet.payload.len() <= octets.len());
        }
    }
}
