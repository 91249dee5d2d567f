//! What is sent in a volley, and as whom.

use std::io;
use std::net::{IpAddr, SocketAddr};

use pnet::packet::udp::{MutableUdpPacket, ipv4_checksum, ipv6_checksum};
use socket2::Type;

use crate::model::evidence::{Proto, Via};
use crate::sensor::ledger::Entry;
use crate::technique::craft::Craft;
use crate::technique::send::{echo_octets, syn_octets};
use crate::technique::user::User;

/// As whom, and by which way, a packet is sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Guise {
    /// By which way.
    pub via: Via,
    /// SO_MARK (socket(7)).
    pub mark: Option<u32>,
    /// Owner of the socket.
    pub user: Option<User>,
    /// Type of service, or traffic class (RFC 2474).
    pub tos: Option<u8>,
}

impl From<Via> for Guise {
    fn from(via: Via) -> Self {
        Guise { via, mark: None, user: None, tos: None }
    }
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shot {
    /// A datagram to a port, by a socket of UDP.
    Datagram(u16),
    /// A datagram made by hand, from one port to another.
    DatagramFrom(u16, u16),
    /// A SYN made by hand, for which the kernel reports a firewall's drop at once (it does not for its own), to a port.
    Syn(u16),
    /// As [`Shot::Syn`], from one port to another.
    SynFrom(u16, u16),
    /// An echo request.
    Echo,
    /// A packet of another protocol, by its IANA number.
    Protocol(u8),
    /// A packet made by hand from the IP header on.
    Craft(Craft),
}

/// RFC 4302.
const AUTHENTICATION_HEADER: u8 = 51;
/// "No next header" (RFC 8200).
const NO_NEXT: u8 = 59;

impl Shot {
    pub(super) fn proto(self, v6: bool) -> Proto {
        match self {
            Shot::Datagram(_) | Shot::DatagramFrom(..) => Proto::Udp,
            Shot::Syn(_) | Shot::SynFrom(..) => Proto::Tcp,
            Shot::Echo if v6 => Proto::Icmpv6,
            Shot::Echo => Proto::Icmp,
            Shot::Protocol(number) => Proto::Ip(number),
            Shot::Craft(craft) => craft.proto(v6),
        }
    }

    /// Type and protocol of the socket.
    pub(super) fn socket(self, v6: bool) -> (Type, i32) {
        match self {
            Shot::Datagram(_) => (Type::DGRAM, libc::IPPROTO_UDP),
            Shot::DatagramFrom(..) => (Type::RAW, libc::IPPROTO_UDP),
            Shot::Syn(_) | Shot::SynFrom(..) => (Type::RAW, libc::IPPROTO_TCP),
            Shot::Echo if v6 => (Type::RAW, libc::IPPROTO_ICMPV6),
            Shot::Echo => (Type::RAW, libc::IPPROTO_ICMP),
            Shot::Protocol(number) => (Type::RAW, i32::from(number)),
            Shot::Craft(_) => (Type::RAW, libc::IPPROTO_RAW),
        }
    }

    pub(super) fn port(self) -> u16 {
        match self {
            Shot::Datagram(port) | Shot::Syn(port) | Shot::DatagramFrom(_, port) | Shot::SynFrom(_, port) => port,
            Shot::Craft(craft) => craft.port(),
            Shot::Echo | Shot::Protocol(_) => 0,
        }
    }

    pub(super) fn name(self, v6: bool) -> String {
        match self {
            Shot::Datagram(_) | Shot::DatagramFrom(..) => "datagram".to_owned(),
            Shot::Syn(_) | Shot::SynFrom(..) => "SYN".to_owned(),
            Shot::Echo => "echo request".to_owned(),
            Shot::Protocol(_) => "packet".to_owned(),
            Shot::Craft(craft) => craft.name(v6),
        }
    }

    /// Of the `number`th packet of that kind, which is sent from `from` on a way that carries `mtu` octets.
    pub(super) fn octets(
        self,
        entry: &Entry,
        from: IpAddr,
        to: SocketAddr,
        mtu: usize,
        number: usize,
    ) -> io::Result<Vec<u8>> {
        Ok(match self {
            Shot::Datagram(_) => entry.marker().into_bytes(),
            Shot::DatagramFrom(port, _) => datagram_octets(SocketAddr::new(from, port), to, entry.marker().as_bytes())?,
            Shot::Syn(_) => syn_octets(from, 32_768 + (entry.id % 28_000) as u16, to, entry.sequence())?,
            Shot::SynFrom(port, _) => syn_octets(from, port, to, entry.sequence())?,
            Shot::Echo => echo_octets(to.is_ipv6(), entry.marker().as_bytes()),
            Shot::Protocol(AUTHENTICATION_HEADER) => {
                // A header that parses, or the marker behind it would not be found again: 24 octets, in words less two.
                let mut octets = vec![0; 24];
                octets[..8].copy_from_slice(&[NO_NEXT, 4, 0, 0, 0, 0, 1, 0]);
                octets.extend_from_slice(entry.marker().as_bytes());
                octets
            }
            Shot::Protocol(_) => entry.marker().into_bytes(),
            Shot::Craft(craft) => craft.octets(entry, from, to, mtu, number)?,
        })
    }
}

/// A datagram with a right checksum.
fn datagram_octets(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> io::Result<Vec<u8>> {
    let mut octets = vec![0; 8];
    octets.extend_from_slice(payload);
    let length = octets.len() as u16;
    let mut packet = MutableUdpPacket::new(&mut octets).ok_or(io::ErrorKind::InvalidInput)?;
    packet.set_source(from.port());
    packet.set_destination(to.port());
    packet.set_length(length);
    let sum = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4_checksum(&packet.to_immutable(), &from, &to),
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6_checksum(&packet.to_immutable(), &from, &to),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    packet.set_checksum(sum);
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sensor::decode::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet};
    use crate::sensor::ledger::Ledger;

    /// What is sent is known again by the sensor, whatever the protocol.
    #[test]
    fn every_shot_is_known_again() {
        let ledger = Ledger::new(0x1234_5678);
        let trial: Arc<str> = "uplink-protocols".into();
        let handmade =
            [Shot::Datagram(53), Shot::DatagramFrom(6881, 443), Shot::Syn(443), Shot::SynFrom(53, 80), Shot::Echo];
        let shots = crate::technique::uplink::protocols(false).into_iter().map(Shot::Protocol).chain(handmade);
        for shot in shots {
            let entry = ledger.enter(&trial);
            let (from, to): (IpAddr, SocketAddr) = ("172.18.0.10".parse().unwrap(), "8.8.8.8:443".parse().unwrap());
            let mut octets = shot.octets(&entry, from, to, 1500, 0).unwrap();
            if let Shot::Datagram(_) = shot {
                octets = datagram_octets("172.18.0.10:4000".parse().unwrap(), to, &octets).unwrap();
            }
            let (_, number) = shot.socket(false);
            let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 1, number as u8, 0, 0, 172, 18, 0, 10, 8, 8, 8, 8];
            packet.extend_from_slice(&octets);
            let length = packet.len() as u16;
            packet[2..4].copy_from_slice(&length.to_be_bytes());
            let decoded = Packet::decode(ETHERTYPE_IPV4, &packet);
            assert_eq!(ledger.owner(&decoded).map(|(_, id)| id), Some(entry.id), "{shot:?}");
        }
    }

    #[test]
    fn protocols_over_ipv6_are_known_again() {
        let ledger = Ledger::new(0x1234_5678);
        let trial: Arc<str> = "uplink-protocols".into();
        let to: SocketAddr = "[2001:4860:4860::8888]:0".parse().unwrap();
        for number in crate::technique::uplink::protocols(true) {
            let entry = ledger.enter(&trial);
            let octets = Shot::Protocol(number).octets(&entry, to.ip(), to, 1500, 0).unwrap();
            let mut packet = vec![0x60, 0, 0, 0, 0, octets.len() as u8, number, 1];
            packet.extend_from_slice(&[0x20; 32]);
            packet.extend_from_slice(&octets);
            let decoded = Packet::decode(ETHERTYPE_IPV6, &packet);
            assert_eq!(ledger.owner(&decoded).map(|(_, id)| id), Some(entry.id), "{number}");
        }
    }
}
