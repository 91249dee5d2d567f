//! What is put on the wire as a stimulus: entered in the ledger first, TTL 1, sent without waiting, the kernel's refusal recorded.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use etherparse::PacketBuilder;
use nix::errno::Errno;
use pnet::packet::tcp::{MutableTcpPacket, TcpFlags, ipv4_checksum, ipv6_checksum};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::clock::Clock;
use crate::handicap::{Handicap, lacks};
use crate::model::evidence::{Fate, Proto, Stimulus, Via};
use crate::sensor::decode::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, GRE, IP_IN_IP, IPV6_IN_IP};
use crate::sensor::ledger::{Entry, Ledger};

/// RFC 863.
const DISCARD: u16 = 9;

/// Sends the stimuli of one asking of a probe.
pub struct Sender<'a> {
    clock: &'a Clock,
    ledger: &'a Ledger,
    trial: Arc<str>,
}

/// A stimulus, and the socket that has to stay open as long as it matters.
pub struct Outcome {
    /// What goes into evidence.
    pub stimulus: Stimulus,
    /// Open while a connection attempt is under way.
    pub socket: Option<Socket>,
}

impl<'a> Sender<'a> {
    /// Stimuli will belong to `trial`.
    pub fn new(clock: &'a Clock, ledger: &'a Ledger, trial: Arc<str>) -> Self {
        Sender { clock, ledger, trial }
    }

    /// One datagram whose payload `payload` makes from the entry.
    pub fn udp(&self, to: SocketAddr, via: &Via, what: &str, payload: impl FnOnce(&Entry) -> Vec<u8>) -> Outcome {
        self.send(Proto::Udp, to, via, what, |entry, socket| {
            socket.connect(&SockAddr::from(to))?;
            socket.send(&payload(entry)).map(drop)
        })
    }

    /// A connection attempt as any program makes it: the kernel's own SYN.
    pub fn connect(&self, to: SocketAddr, via: &Via, what: &str) -> Outcome {
        self.send(Proto::Tcp, to, via, what, |entry, socket| {
            let from = socket.local_addr()?.as_socket().map_or(0, |address| address.port());
            self.ledger.enter_flow(*entry, Proto::Tcp, from, to);
            match socket.connect(&SockAddr::from(to)) {
                Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
                other => other,
            }
        })
    }

    /// A SYN made by hand, for which the kernel reports a firewall's drop at once (it does not for its own).
    pub fn syn(&self, to: SocketAddr, via: &Via) -> Outcome {
        self.send(Proto::Ip(libc::IPPROTO_TCP as u8), to, via, "SYN", |entry, socket| {
            socket.connect(&SockAddr::from(SocketAddr::new(to.ip(), 0)))?;
            let from = socket.local_addr()?.as_socket().map_or(unspecified(to.ip()), |address| address.ip());
            let port = 32_768 + (entry.id % 28_000) as u16;
            socket.send(&syn_octets(from, port, to, entry.sequence())?).map(drop)
        })
    }

    /// An echo request (RFC 792, RFC 4443).
    pub fn echo(&self, to: IpAddr, via: &Via) -> Outcome {
        let proto = if to.is_ipv4() { Proto::Icmp } else { Proto::Icmpv6 };
        self.send(proto, SocketAddr::new(to, 0), via, "echo request", |entry, socket| {
            socket.connect(&SockAddr::from(SocketAddr::new(to, 0)))?;
            socket.send(&echo_octets(to.is_ipv6(), entry.marker().as_bytes())).map(drop)
        })
    }

    /// A datagram to `to` inside another packet to the same address, by one of [`ENCAPSULATIONS`].
    pub fn encapsulated(&self, number: u8, to: IpAddr, via: &Via) -> Outcome {
        let what = match number {
            GRE => "datagram in GRE",
            IPV6_IN_IP => "datagram in IPv6-in-IP",
            _ => "datagram in IP-in-IP",
        };
        self.send(Proto::Ip(number), SocketAddr::new(to, 0), via, what, |entry, socket| {
            socket.connect(&SockAddr::from(SocketAddr::new(to, 0)))?;
            socket.send(&carried(number, to, entry.marker().as_bytes())?).map(drop)
        })
    }

    fn send(
        &self,
        proto: Proto,
        to: SocketAddr,
        via: &Via,
        what: &str,
        act: impl FnOnce(&Entry, &Socket) -> io::Result<()>,
    ) -> Outcome {
        let entry = self.ledger.enter(&self.trial);
        let at_ms = self.clock.now_ms();
        let opened = open(proto, to.ip(), via);
        let result = match &opened {
            Ok(_) if lacks(Handicap::Stimuli) => Ok(()),
            Ok(socket) => act(&entry, socket),
            Err(error) => Err(io::Error::from(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))),
        };
        let fate = match result {
            Ok(()) => Fate::Sent,
            Err(error) => fate_of(&error),
        };
        let shown = if proto == Proto::Ip(libc::IPPROTO_TCP as u8) { Proto::Tcp } else { proto };
        // Of its own connections the kernel does not tell what became of them, and one packet may get lost before a tunnel that is full.
        let traced = proto != Proto::Tcp && *via != Via::Default;
        let stimulus =
            Stimulus { id: entry.id, at_ms, proto: shown, to, via: via.clone(), what: what.to_owned(), fate, traced };
        Outcome { stimulus, socket: opened.ok() }
    }
}

/// Errors by which the kernel says "not that way": routes, rules, addresses, firewalls.
pub fn fate_of(error: &io::Error) -> Fate {
    let Some(errno) = error.raw_os_error() else { return Fate::NotSent { reason: error.to_string() } };
    let name = Errno::from_raw(errno);
    match name {
        Errno::EPERM
        | Errno::EACCES
        | Errno::ENETUNREACH
        | Errno::EHOSTUNREACH
        | Errno::ENETDOWN
        | Errno::EADDRNOTAVAIL
        | Errno::ECONNREFUSED
        | Errno::EAFNOSUPPORT
        | Errno::EINVAL => Fate::Refused { errno, name: format!("{name:?}") },
        other => Fate::NotSent { reason: format!("{other:?}: {}", other.desc()) },
    }
}

/// A non-blocking socket with TTL 1 that goes the asked way.
pub fn open(proto: Proto, to: IpAddr, via: &Via) -> io::Result<Socket> {
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let (kind, protocol) = match proto {
        Proto::Udp => (Type::DGRAM, Protocol::UDP),
        Proto::Tcp => (Type::STREAM, Protocol::TCP),
        Proto::Icmp => (Type::RAW, Protocol::ICMPV4),
        Proto::Icmpv6 => (Type::RAW, Protocol::ICMPV6),
        Proto::Ip(number) => (Type::RAW, Protocol::from(i32::from(number))),
        Proto::Ether(_) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let socket = Socket::new(domain, kind.nonblocking(), Some(protocol))?;
    if to.is_ipv4() {
        socket.set_ttl_v4(1)?;
    } else {
        socket.set_unicast_hops_v6(1)?;
    }
    match via {
        Via::Device(link) => socket.bind_device(Some(link.as_bytes()))?,
        Via::Default | Via::Source(_) => {}
    }
    // A connection's port has to be known before its SYN leaves, so that the sensor knows the flow.
    match via {
        Via::Source(address) => socket.bind(&SockAddr::from(SocketAddr::new(*address, 0)))?,
        Via::Default | Via::Device(_) if proto == Proto::Tcp => {
            socket.bind(&SockAddr::from(SocketAddr::new(unspecified(to), 0)))?
        }
        Via::Default | Via::Device(_) => {}
    }
    Ok(socket)
}

/// The address that stands for any, of the same family.
pub fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// What [`Sender::encapsulated`] can wrap a datagram in.
pub const ENCAPSULATIONS: [u8; 3] = [IP_IN_IP, IPV6_IN_IP, GRE];

/// What such a packet holds: a UDP datagram with TTL 1 from a documentation address (RFC 5737, RFC 3849) to `to`, or, where that is of
/// the other family, to a documentation address.
fn carried(number: u8, to: IpAddr, payload: &[u8]) -> io::Result<Vec<u8>> {
    let v6 = number == IPV6_IN_IP || (number == GRE && to.is_ipv6());
    let from6 = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
    let from4 = Ipv4Addr::new(192, 0, 2, 1);
    let builder = match (v6, to) {
        (true, IpAddr::V6(to)) => PacketBuilder::ipv6(from6.octets(), to.octets(), 1),
        (true, IpAddr::V4(_)) => PacketBuilder::ipv6(from6.octets(), from6.octets(), 1),
        (false, IpAddr::V4(to)) => PacketBuilder::ipv4(from4.octets(), to.octets(), 1),
        (false, IpAddr::V6(_)) => PacketBuilder::ipv4(from4.octets(), from4.octets(), 1),
    };
    let ether_type = if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
    // No checksum, no key, no sequence number (RFC 2784).
    let mut octets = if number == GRE { [[0; 2], ether_type.to_be_bytes()].concat() } else { Vec::new() };
    builder.udp(DISCARD, DISCARD).write(&mut octets, payload).map_err(io::Error::other)?;
    Ok(octets)
}

/// A SYN with a right checksum: connection tracking takes no notice of others.
///
/// # Errors
/// When the addresses are of different families.
pub fn syn_octets(from: IpAddr, port: u16, to: SocketAddr, sequence: u32) -> io::Result<Vec<u8>> {
    let mut octets = vec![0; 20];
    let mut packet = MutableTcpPacket::new(&mut octets).ok_or(io::ErrorKind::InvalidInput)?;
    packet.set_source(port);
    packet.set_destination(to.port());
    packet.set_sequence(sequence);
    packet.set_data_offset(5);
    packet.set_flags(TcpFlags::SYN);
    packet.set_window(64_240);
    let sum = match (from, to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4_checksum(&packet.to_immutable(), &from, &to),
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6_checksum(&packet.to_immutable(), &from, &to),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    packet.set_checksum(sum);
    Ok(octets)
}

/// An echo request that carries `marker`. The kernel fills in the checksum of ICMPv6.
pub fn echo_octets(v6: bool, marker: &[u8]) -> Vec<u8> {
    let mut octets = vec![if v6 { 128 } else { 8 }, 0, 0, 0, 0x6c, 0x6b, 0, 1];
    octets.extend_from_slice(marker);
    if !v6 {
        let sum = pnet::packet::util::checksum(&octets, 1);
        octets[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    octets
}
