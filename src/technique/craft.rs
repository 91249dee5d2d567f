//! Packets made by hand from the IP header on: what ordinary sockets do not send, and what a rule of a firewall may look for all the same.
//! Each carries its marker, or the sequence number that stands for it, so that the sensor knows it again.

use std::io;
use std::net::{IpAddr, SocketAddr};

use pnet::packet::ip::IpNextHeaderProtocol;
use pnet::packet::util::{self, checksum};

use crate::model::evidence::Proto;
use crate::sensor::ledger::Entry;

/// Types of ICMP beside echo: errors, router messages, timestamp, information, mask, traceroute, extended echo (IANA).
pub const MESSAGES4: [u8; 17] = [0, 3, 4, 5, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 30, 42, 43];
/// Types of ICMPv6 beside echo: errors, echo reply, renumbering, node information, mobility, experiments. Neighbour and listener discovery
/// are left out: every firewall has to let them pass, and they go no further than the link.
pub const MESSAGES6: [u8; 13] = [1, 2, 3, 4, 100, 129, 138, 139, 140, 144, 146, 155, 160];
/// FIN, SYN, RST, PSH, ACK and URG as they stand together in segments that begin no connection, the nonsensical ones among them: ACK, PSH
/// ACK, FIN ACK, RST, RST ACK, SYN ACK, FIN, none, FIN PSH URG.
pub const SEGMENTS: [u8; 9] = [0x10, 0x18, 0x11, 0x04, 0x14, 0x12, 0x01, 0, 0x29];
/// Protocols of which later fragments are sent.
pub const FRAGMENTED: [u8; 3] = [UDP, TCP, ICMP];
/// Options of IPv4 (RFC 791, RFC 2113): no operation, and all that firewalls and routers tell apart.
pub const OPTIONS4: [u8; 6] = [NOP, ROUTER_ALERT, RECORD_ROUTE, TIMESTAMP, LOOSE_ROUTE, STRICT_ROUTE];
/// Extension headers of IPv6 (RFC 8200): hop-by-hop options, routing, destination options, and a fragment header of a whole datagram.
pub const OPTIONS6: [u8; 4] = [0, 43, 60, FRAGMENT];
/// Lengths of long packets, headers included; another is as long as the MTU allows.
pub const LENGTHS: [usize; 3] = [576, 900, 1280];

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;
const NOP: u8 = 1;
const ROUTER_ALERT: u8 = 148;
const RECORD_ROUTE: u8 = 7;
const TIMESTAMP: u8 = 68;
const LOOSE_ROUTE: u8 = 131;
const STRICT_ROUTE: u8 = 137;
/// Places of the fields of a fragment's offset (RFC 791, RFC 8200).
const MORE4: u16 = 0x2000;
const MORE6: u16 = 1;
/// Where later fragments begin, in units of eight octets: behind a first one of an MTU of 1500.
const BEHIND: u16 = 185;
/// What a port of the stack is, in packets that are about something else.
pub const FROM_PORT: u16 = 40_003;

/// What is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Craft {
    /// A datagram in a packet of that length, or as long as the way allows, to a port.
    Long(Option<usize>, u16),
    /// An echo request in a packet of that length, or as long as the way allows.
    LongEcho(Option<usize>),
    /// A TCP segment with those flags, from one port to another.
    Segment(u8, u16, u16),
    /// A message of that type of ICMP (of ICMPv6, over IPv6).
    Message(u8),
    /// The first fragment of a datagram, to a port.
    First(u16),
    /// A later fragment of that protocol.
    Later(u8),
    /// A datagram behind that option of IPv4, or behind that extension header of IPv6, to a port.
    Option(u8, u16),
    /// A datagram or SYN of which one port, the sender's or the other, goes through all the numbers in long strides.
    Sweep {
        /// Of TCP.
        tcp: bool,
        /// The sender's port.
        from: bool,
    },
}

/// Ports between two packets of a sweep.
pub const STRIDE: usize = 128;
/// Packets that a sweep takes.
pub const SWEEP: usize = 65_536 / STRIDE;

impl Craft {
    /// The protocol that the sensor will see.
    pub fn proto(self, v6: bool) -> Proto {
        match self {
            Craft::Segment(..) | Craft::Sweep { tcp: true, .. } | Craft::Later(TCP) => Proto::Tcp,
            Craft::LongEcho(_) | Craft::Message(_) | Craft::Later(ICMP) if v6 => Proto::Icmpv6,
            Craft::LongEcho(_) | Craft::Message(_) | Craft::Later(ICMP) => Proto::Icmp,
            _ => Proto::Udp,
        }
    }

    /// The destination's port, 0 where it is none or not always the same.
    pub fn port(self) -> u16 {
        match self {
            Craft::Long(_, port) | Craft::Segment(_, _, port) | Craft::First(port) | Craft::Option(_, port) => port,
            Craft::LongEcho(_) | Craft::Message(_) | Craft::Later(_) | Craft::Sweep { .. } => 0,
        }
    }

    /// What evidence calls it.
    pub fn name(self, v6: bool) -> String {
        let long = |length: Option<usize>| length.map_or("as long as the MTU".to_owned(), |n| format!("of {n} octets"));
        match self {
            Craft::Long(length, _) => format!("datagram {}", long(length)),
            Craft::LongEcho(length) => format!("echo request {}", long(length)),
            Craft::Segment(flags, ..) => format!("segment with flags {flags:#04x}"),
            Craft::Message(kind) => format!("ICMP message of type {kind}"),
            Craft::First(_) => "first fragment".to_owned(),
            Craft::Later(_) => "later fragment".to_owned(),
            Craft::Option(number, _) if v6 => format!("datagram behind extension header {number}"),
            Craft::Option(number, _) => format!("datagram with IP option {number}"),
            Craft::Sweep { tcp, from } => {
                format!("{} {} ports all over", if tcp { "SYN" } else { "datagram" }, if from { "from" } else { "to" })
            }
        }
    }

    /// The packet, the `number`th of its kind, on a way that carries packets of `mtu` octets.
    ///
    /// # Errors
    /// When the addresses are of different families.
    pub fn octets(self, entry: &Entry, from: IpAddr, to: SocketAddr, mtu: usize, number: usize) -> io::Result<Vec<u8>> {
        let v6 = to.is_ipv6();
        let header = if v6 { 40 } else { 20 };
        let icmp = if v6 { ICMPV6 } else { ICMP };
        let marker = entry.marker().into_bytes();
        // The marker again and again: a part of it is known too.
        let filled = |length: usize| marker.iter().copied().cycle().take(length.max(marker.len())).collect::<Vec<u8>>();
        let room =
            |length: Option<usize>| filled(length.map_or(mtu, |length| length.min(mtu)).saturating_sub(header + 8));
        let ends = |port: u16| (SocketAddr::new(from, FROM_PORT), SocketAddr::new(to.ip(), port));
        let offset = |units: u16, more: bool| match v6 {
            true => units << 3 | if more { MORE6 } else { 0 },
            false => units | if more { MORE4 } else { 0 },
        };
        let whole = |protocol: u8, payload: Vec<u8>| packet(from, to.ip(), &[], protocol, 0, entry, payload);
        match self {
            Craft::Long(length, port) => whole(UDP, datagram(ends(port), &room(length))?),
            Craft::LongEcho(length) => whole(icmp, message(from, to.ip(), if v6 { 128 } else { 8 }, &room(length))?),
            Craft::Segment(flags, own, port) => {
                let (mut source, target) = ends(port);
                source.set_port(own);
                whole(TCP, segment((source, target), flags, entry.sequence())?)
            }
            Craft::Message(kind) => whole(icmp, message(from, to.ip(), kind, &filled(64))?),
            Craft::First(port) => {
                let mut octets = datagram(ends(port), &filled(504))?;
                // As long as the whole datagram is said to be.
                octets[4..6].copy_from_slice(&1400_u16.to_be_bytes());
                packet(from, to.ip(), &[], UDP, offset(0, true), entry, octets)
            }
            Craft::Later(protocol) => {
                let protocol = if protocol == ICMP { icmp } else { protocol };
                packet(from, to.ip(), &[], protocol, offset(BEHIND, false), entry, filled(128))
            }
            Craft::Option(number, port) => {
                let octets = datagram(ends(port), &marker)?;
                let option: Vec<u8> = match (v6, number) {
                    (false, ROUTER_ALERT) => vec![ROUTER_ALERT, 4, 0, 0],
                    // Room for one address, and for one time.
                    (false, RECORD_ROUTE) => vec![RECORD_ROUTE, 7, 4, 0, 0, 0, 0, 0],
                    (false, TIMESTAMP) => vec![TIMESTAMP, 8, 5, 0, 0, 0, 0, 0],
                    // By the destination itself.
                    (false, LOOSE_ROUTE | STRICT_ROUTE) => match to.ip() {
                        IpAddr::V4(by) => [&[number, 7, 4][..], &by.octets(), &[0]].concat(),
                        IpAddr::V6(_) => Vec::new(),
                    },
                    (false, _) => vec![number; 4],
                    // A fragment of which there are no others (RFC 6946), with the identification of the packet.
                    (true, FRAGMENT) => vec![0, 0, 0, 0, 0, 0, 0, entry.id as u8],
                    // A routing header of which nothing is left, type 253 (RFC 4727).
                    (true, 43) => vec![0, 0, 253, 0, 0, 0, 0, 0],
                    // Nothing but padding of four octets.
                    (true, _) => vec![0, 0, 1, 4, 0, 0, 0, 0],
                };
                let option = if v6 { [&[number][..], &option].concat() } else { option };
                packet(from, to.ip(), &option, UDP, 0, entry, octets)
            }
            Craft::Sweep { tcp, from: at_sender } => {
                // Port 0 is none; which others there are is another matter in each run.
                let swept =
                    ((number * STRIDE + entry.marker().len() + entry.sequence() as usize % STRIDE) % 65_536) as u16;
                let (mut source, mut target) = ends(443);
                if at_sender {
                    source.set_port(swept.max(1))
                } else {
                    target.set_port(swept.max(1))
                }
                match tcp {
                    true => whole(TCP, segment((source, target), 0x02, entry.sequence())?),
                    false => whole(UDP, datagram((source, target), &marker)?),
                }
            }
        }
    }
}

/// An IP packet with TTL 1. `extra` are options of IPv4, in words, or of IPv6 an extension header behind its own number; `offset` is the
/// field of a fragment's place, 0 where it is none. The kernel fills in what else IPv4 has.
fn packet(
    from: IpAddr,
    to: IpAddr,
    extra: &[u8],
    protocol: u8,
    offset: u16,
    entry: &Entry,
    payload: Vec<u8>,
) -> io::Result<Vec<u8>> {
    let id = entry.id.max(1);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = 20 + extra.len();
            let mut octets = vec![0x40 | (header / 4) as u8, 0];
            octets.extend(((header + payload.len()) as u16).to_be_bytes());
            octets.extend((id as u16).max(1).to_be_bytes());
            octets.extend(offset.to_be_bytes());
            octets.extend([1, protocol, 0, 0]);
            octets.extend(from.octets());
            octets.extend(to.octets());
            octets.extend(extra);
            let sum = checksum(&octets, 5);
            octets[10..12].copy_from_slice(&sum.to_be_bytes());
            octets.extend(payload);
            Ok(octets)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let fragment = match offset {
                0 => Vec::new(),
                _ => [&[FRAGMENT, protocol, 0][..], &offset.to_be_bytes(), &id.to_be_bytes()].concat(),
            };
            let (next, mut more) = match (extra.split_first(), fragment.split_first()) {
                (Some((number, header)), _) => {
                    let mut header = header.to_vec();
                    header[0] = protocol;
                    (*number, header)
                }
                (None, Some((number, header))) => (*number, header.to_vec()),
                (None, None) => (protocol, Vec::new()),
            };
            more.extend(payload);
            let mut octets = vec![0x60, 0, 0, 0];
            octets.extend((more.len() as u16).to_be_bytes());
            octets.extend([next, 1]);
            octets.extend(from.octets());
            octets.extend(to.octets());
            octets.extend(more);
            Ok(octets)
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// The checksum of `octets` with the pseudo-header, the `skip`th word left out.
fn sum(octets: &[u8], skip: usize, from: IpAddr, to: IpAddr, protocol: u8) -> io::Result<[u8; 2]> {
    let protocol = IpNextHeaderProtocol(protocol);
    Ok(match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => util::ipv4_checksum(octets, skip, &[], &from, &to, protocol),
        (IpAddr::V6(from), IpAddr::V6(to)) => util::ipv6_checksum(octets, skip, &[], &from, &to, protocol),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    .to_be_bytes())
}

/// RFC 768.
fn datagram((from, to): (SocketAddr, SocketAddr), payload: &[u8]) -> io::Result<Vec<u8>> {
    let mut octets = [from.port(), to.port(), (8 + payload.len()) as u16, 0].map(u16::to_be_bytes).concat();
    octets.extend(payload);
    let sum = sum(&octets, 3, from.ip(), to.ip(), UDP)?;
    octets[6..8].copy_from_slice(&sum);
    Ok(octets)
}

/// RFC 9293.
fn segment((from, to): (SocketAddr, SocketAddr), flags: u8, sequence: u32) -> io::Result<Vec<u8>> {
    let mut octets = [from.port(), to.port()].map(u16::to_be_bytes).concat();
    octets.extend(sequence.to_be_bytes());
    octets.extend(if flags & 0x10 == 0 { [0; 4] } else { 1_u32.to_be_bytes() });
    octets.extend([5 << 4, flags]);
    octets.extend(64_240_u16.to_be_bytes());
    octets.extend([0; 4]);
    let sum = sum(&octets, 8, from.ip(), to.ip(), TCP)?;
    octets[16..18].copy_from_slice(&sum);
    Ok(octets)
}

/// RFC 792, RFC 4443.
fn message(from: IpAddr, to: IpAddr, kind: u8, payload: &[u8]) -> io::Result<Vec<u8>> {
    let mut octets = vec![kind, 0, 0, 0, 0x6c, 0x6b, 0, 1];
    octets.extend(payload);
    let sum = match to {
        IpAddr::V4(_) => checksum(&octets, 1).to_be_bytes(),
        IpAddr::V6(_) => sum(&octets, 1, from, to, ICMPV6)?,
    };
    octets[2..4].copy_from_slice(&sum);
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sensor::decode::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet};
    use crate::sensor::filter::SNAP;
    use crate::sensor::ledger::Ledger;

    fn all(v6: bool) -> Vec<Craft> {
        let (messages, options): (&[u8], &[u8]) = if v6 { (&MESSAGES6, &OPTIONS6) } else { (&MESSAGES4, &OPTIONS4) };
        let lengths = LENGTHS.into_iter().map(Some).chain([None]);
        let mut all: Vec<Craft> =
            lengths.flat_map(|length| [Craft::Long(length, 443), Craft::LongEcho(length)]).collect();
        all.extend(SEGMENTS.map(|flags| Craft::Segment(flags, FROM_PORT, 443)));
        all.extend(messages.iter().map(|kind| Craft::Message(*kind)));
        all.extend(FRAGMENTED.map(Craft::Later));
        all.extend(options.iter().map(|number| Craft::Option(*number, 443)));
        all.push(Craft::First(443));
        for tcp in [false, true] {
            all.extend([false, true].map(|from| Craft::Sweep { tcp, from }));
        }
        all
    }

    /// The sensor sees no more of a packet than its first octets, and has to know it by them.
    #[test]
    fn every_craft_is_what_it_says_and_known_again() {
        let ledger = Ledger::new(0x1234_5678);
        let trial: Arc<str> = "uplink-shapes".into();
        for (v6, from, to) in
            [(false, "172.18.0.10", "8.8.8.8:0"), (true, "2001:db8:18::10", "[2001:4860:4860::8888]:0")]
        {
            let (from, to): (IpAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            for craft in all(v6) {
                let entry = ledger.enter(&trial);
                let octets = craft.octets(&entry, from, to, 1420, 3).unwrap();
                assert!(octets.len() <= 1420, "{craft:?}");
                if let Craft::Long(length, _) | Craft::LongEcho(length) = craft {
                    assert_eq!(octets.len(), length.unwrap_or(1420), "{craft:?}");
                }
                let seen = &octets[..octets.len().min(SNAP as usize)];
                let packet = Packet::decode(if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }, seen);
                assert_eq!((packet.ttl, packet.src.ip(), packet.dst.ip()), (1, from, to.ip()), "{craft:?}");
                assert_eq!(packet.proto, craft.proto(v6), "{craft:?}");
                match craft {
                    Craft::Segment(flags, ..) => assert_eq!(packet.flags, flags),
                    Craft::Message(kind) => assert_eq!(packet.icmp_type, Some(kind)),
                    Craft::Later(_) => assert!(packet.later_fragment()),
                    Craft::First(port) => {
                        assert!(packet.fragment.is_some_and(|fragment| fragment.first) && packet.dst.port() == port);
                    }
                    _ => assert!(packet.fragment.is_none(), "{craft:?}"),
                }
                assert_eq!(ledger.owner(&packet).map(|(_, id)| id), Some(entry.id), "{craft:?}");
            }
        }
    }

    #[test]
    fn a_sweep_leaves_no_wide_range_out() {
        let entry = Ledger::new(7).enter(&"uplink-shapes".into());
        let (from, to): (IpAddr, SocketAddr) = ("172.18.0.10".parse().unwrap(), "8.8.8.8:0".parse().unwrap());
        let mut ports: Vec<u16> = (0..SWEEP)
            .map(|number| {
                let octets = Craft::Sweep { tcp: false, from: true }.octets(&entry, from, to, 1500, number).unwrap();
                Packet::decode(ETHERTYPE_IPV4, &octets).src.port()
            })
            .collect();
        ports.sort_unstable();
        assert!(ports[0] <= 2 * STRIDE as u16 && ports[SWEEP - 1] >= u16::MAX - 2 * STRIDE as u16);
        assert!(ports.windows(2).all(|pair| usize::from(pair[1] - pair[0]) <= STRIDE), "{ports:?}");
    }
}
