//! Controls: one packet of each protocol put on an uplink by a packet socket, past the firewall and addressed to the link itself, so that
//! it shows the sensor at work and goes nowhere. TTL 1, from documentation addresses (RFC 5737, RFC 3849).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, IntoRawFd};

use pnet::datalink::{self, Channel, ChannelType, Config, DataLinkSender, MacAddr, NetworkInterface};
use pnet::packet::ethernet::{EtherType, MutableEthernetPacket};
use pnet::packet::icmp::echo_request::MutableEchoRequestPacket;
use pnet::packet::icmp::{IcmpTypes, checksum as icmp_checksum};
use pnet::packet::icmpv6::echo_request::MutableEchoRequestPacket as MutableEchoRequest6Packet;
use pnet::packet::icmpv6::{Icmpv6Types, checksum as icmpv6_checksum};
use pnet::packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet::packet::ipv4::{MutableIpv4Packet, checksum as ipv4_checksum};
use pnet::packet::ipv6::MutableIpv6Packet;
use pnet::packet::tcp::{MutableTcpPacket, TcpFlags, ipv4_checksum as tcp4_checksum, ipv6_checksum as tcp6_checksum};
use pnet::packet::udp::{MutableUdpPacket, ipv4_checksum as udp4_checksum, ipv6_checksum as udp6_checksum};
use socket2::{Domain, Socket, Type};

use super::allow::is_icmp_error;
use super::decode::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet};
use super::filter;
use super::ring::attach;
use crate::handicap::{Handicap, lacks};
use crate::model::evidence::Proto;

const FROM4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const TO4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const FROM6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
const TO6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 2);
/// The discard port (RFC 863).
const PORT: u16 = 9;

/// A packet socket that only sends, on one link.
pub struct ControlSender {
    mac: Option<MacAddr>,
    sender: Box<dyn DataLinkSender>,
}

impl ControlSender {
    /// Opens it. Needs CAP_NET_RAW.
    pub fn open(link: &NetworkInterface) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        attach(socket.as_fd(), &filter::nothing())?;
        let config = Config {
            channel_type: ChannelType::Layer3(0),
            promiscuous: false,
            socket_fd: Some(socket.into_raw_fd()),
            ..Config::default()
        };
        match datalink::channel(link, config)? {
            Channel::Ethernet(sender, _) => Ok(ControlSender { mac: link.mac.filter(|mac| !mac.is_zero()), sender }),
            _ => Err(io::Error::other("the packet socket is of an unknown kind")),
        }
    }

    /// Sends one control of this protocol that carries `marker` and, where it is TCP, `sequence`.
    pub fn send(&mut self, proto: Proto, v6: bool, marker: &str, sequence: u32) -> io::Result<()> {
        let packet = ip_packet(proto, v6, marker.as_bytes(), sequence)
            .ok_or_else(|| io::Error::other("the control does not fit its buffer"))?;
        let frame = match self.mac {
            Some(mac) => {
                let ether_type = if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
                ethernet(mac, ether_type, &packet)
                    .ok_or_else(|| io::Error::other("the control does not fit its buffer"))?
            }
            None => packet,
        };
        if lacks(Handicap::Controls) {
            return Ok(());
        }
        self.sender.send_to(&frame, None).unwrap_or_else(|| Err(io::Error::other("the packet socket does not send")))
    }
}

/// Whether a packet tells somebody who sent a control that it went no further: a bridge in hairpin mode (Docker without its userland proxy,
/// Podman) sends a frame back, and a kernel that forwards answers it. Nobody has the address that it goes to.
pub fn is_answer(packet: &Packet<'_>) -> bool {
    is_icmp_error(packet) && [IpAddr::from(FROM4), IpAddr::from(FROM6)].contains(&packet.dst.ip())
}

fn ethernet(mac: MacAddr, ether_type: u16, payload: &[u8]) -> Option<Vec<u8>> {
    let mut octets = vec![0; 14 + payload.len()];
    let mut frame = MutableEthernetPacket::new(&mut octets)?;
    // To ourselves: a bridge or switch does not send a frame back through the port that it came from.
    frame.set_destination(mac);
    frame.set_source(mac);
    frame.set_ethertype(EtherType(ether_type));
    frame.set_payload(payload);
    Some(octets)
}

fn ip_packet(proto: Proto, v6: bool, marker: &[u8], sequence: u32) -> Option<Vec<u8>> {
    let (next, transport) = transport(proto, v6, marker, sequence)?;
    let header = if v6 { 40 } else { 20 };
    let mut octets = vec![0; header + transport.len()];
    if v6 {
        let mut packet = MutableIpv6Packet::new(&mut octets)?;
        packet.set_version(6);
        packet.set_payload_length(transport.len() as u16);
        packet.set_next_header(next);
        packet.set_hop_limit(1);
        packet.set_source(FROM6);
        packet.set_destination(TO6);
        packet.set_payload(&transport);
    } else {
        let mut packet = MutableIpv4Packet::new(&mut octets)?;
        packet.set_version(4);
        packet.set_header_length(5);
        packet.set_total_length((header + transport.len()) as u16);
        packet.set_ttl(1);
        packet.set_next_level_protocol(next);
        packet.set_source(FROM4);
        packet.set_destination(TO4);
        packet.set_payload(&transport);
        packet.set_checksum(ipv4_checksum(&packet.to_immutable()));
    }
    Some(octets)
}

fn transport(proto: Proto, v6: bool, marker: &[u8], sequence: u32) -> Option<(IpNextHeaderProtocol, Vec<u8>)> {
    match proto {
        Proto::Udp => {
            let mut octets = vec![0; 8 + marker.len()];
            let mut packet = MutableUdpPacket::new(&mut octets)?;
            packet.set_source(PORT);
            packet.set_destination(PORT);
            packet.set_length((8 + marker.len()) as u16);
            packet.set_payload(marker);
            let sum = if v6 {
                udp6_checksum(&packet.to_immutable(), &FROM6, &TO6)
            } else {
                udp4_checksum(&packet.to_immutable(), &FROM4, &TO4)
            };
            packet.set_checksum(sum);
            Some((IpNextHeaderProtocols::Udp, octets))
        }
        Proto::Tcp => {
            let mut octets = vec![0; 20];
            let mut packet = MutableTcpPacket::new(&mut octets)?;
            packet.set_source(PORT);
            packet.set_destination(PORT);
            packet.set_sequence(sequence);
            packet.set_data_offset(5);
            packet.set_flags(TcpFlags::SYN);
            packet.set_window(1024);
            let sum = if v6 {
                tcp6_checksum(&packet.to_immutable(), &FROM6, &TO6)
            } else {
                tcp4_checksum(&packet.to_immutable(), &FROM4, &TO4)
            };
            packet.set_checksum(sum);
            Some((IpNextHeaderProtocols::Tcp, octets))
        }
        Proto::Icmp => {
            let mut octets = vec![0; 8 + marker.len()];
            let mut packet = MutableEchoRequestPacket::new(&mut octets)?;
            packet.set_icmp_type(IcmpTypes::EchoRequest);
            packet.set_payload(marker);
            let sum = icmp_checksum(&pnet::packet::icmp::IcmpPacket::new(pnet::packet::Packet::packet(&packet))?);
            packet.set_checksum(sum);
            Some((IpNextHeaderProtocols::Icmp, octets))
        }
        Proto::Icmpv6 => {
            let mut octets = vec![0; 8 + marker.len()];
            let mut packet = MutableEchoRequest6Packet::new(&mut octets)?;
            packet.set_icmpv6_type(Icmpv6Types::EchoRequest);
            packet.set_payload(marker);
            let sum = icmpv6_checksum(
                &pnet::packet::icmpv6::Icmpv6Packet::new(pnet::packet::Packet::packet(&packet))?,
                &FROM6,
                &TO6,
            );
            packet.set_checksum(sum);
            Some((IpNextHeaderProtocols::Icmpv6, octets))
        }
        Proto::Ip(_) | Proto::Ether(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::evidence::CONTROL_KINDS;
    use crate::sensor::ledger::Ledger;

    #[test]
    fn every_kind_decodes_to_itself_and_is_known_again() {
        let ledger = Ledger::new(0xabcd_0123);
        let entry = ledger.enter(&"control".into());
        for (proto, v6) in CONTROL_KINDS {
            let octets = ip_packet(proto, v6, entry.marker().as_bytes(), entry.sequence()).unwrap();
            let packet = Packet::decode(if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }, &octets);
            assert_eq!((packet.proto, packet.v6, packet.ttl), (proto, v6, 1));
            assert_eq!(ledger.owner(&packet).map(|(_, id)| id), Some(entry.id), "{proto}");
        }
    }
    #[test]
    fn an_error_that_answers_a_control_is_known() {
        let answer = |kind: u8, to: Ipv4Addr| {
            let mut octets = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0, 10, 89, 0, 2];
            octets.extend(to.octets());
            octets.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
            is_answer(&Packet::decode(ETHERTYPE_IPV4, &octets))
        };
        assert!(answer(11, FROM4) && answer(3, FROM4), "time exceeded, unreachable");
        assert!(!answer(8, FROM4), "an echo request is somebody's own");
        assert!(!answer(11, Ipv4Addr::new(192, 0, 2, 3)) && !answer(11, Ipv4Addr::new(8, 8, 8, 8)));
        let answer6 = |kind: u8| {
            let mut octets = vec![0x60, 0, 0, 0, 0, 8, 58, 64];
            octets.extend(Ipv6Addr::new(0xfd18, 0, 0, 0, 0, 0, 0, 10).octets());
            octets.extend(FROM6.octets());
            octets.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
            is_answer(&Packet::decode(ETHERTYPE_IPV6, &octets))
        };
        assert!(answer6(3) && !answer6(128));
    }
}
