//! Many stimuli at once: each kind of packet, aimed at many addresses, in several rounds, under one marker. What could be refused at random
//! (one packet in twenty let through) is tried often enough to be found, without a line of evidence for every packet.
//!
//! Blocking: to be run on a thread of its own. For single, exact stimuli see [`super::send`].

use std::collections::HashMap;
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use pnet::packet::udp::{MutableUdpPacket, ipv4_checksum, ipv6_checksum};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::craft::Craft;
use super::send::{echo_octets, fate_of, syn_octets, unspecified};
use super::user::{self, User};
use crate::clock::Clock;
use crate::handicap::{Handicap, lacks};
use crate::model::evidence::{Fate, Proto, Stimulus, Via};
use crate::sensor::backlog::Patience;
use crate::sensor::ledger::{Entry, Ledger};

/// How long a full send buffer is waited for at a time, how often for one packet, and how often for all of a volley: where a hook of the
/// link drops everything the kernel says the same.
const WAIT: Duration = Duration::from_micros(500);
const WAITS_OF_ONE: usize = 200;
const WAITS_OF_ALL: usize = 2000;
/// So many packets do not all get lost before a tunnel that is full.
const MANY: usize = 4;
/// The port of the socket by which a source address is found out; nothing is sent to it (RFC 863).
const DISCARD: u16 = 9;

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
    fn proto(self, v6: bool) -> Proto {
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
    fn socket(self, v6: bool) -> (Type, i32) {
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

    fn port(self) -> u16 {
        match self {
            Shot::Datagram(port) | Shot::Syn(port) | Shot::DatagramFrom(_, port) | Shot::SynFrom(_, port) => port,
            Shot::Craft(craft) => craft.port(),
            Shot::Echo | Shot::Protocol(_) => 0,
        }
    }

    fn name(self, v6: bool) -> String {
        match self {
            Shot::Datagram(_) | Shot::DatagramFrom(..) => "datagram".to_owned(),
            Shot::Syn(_) | Shot::SynFrom(..) => "SYN".to_owned(),
            Shot::Echo => "echo request".to_owned(),
            Shot::Protocol(_) => "packet".to_owned(),
            Shot::Craft(craft) => craft.name(v6),
        }
    }

    /// Of the `number`th packet of that kind, which is sent from `from` on a way that carries `mtu` octets.
    fn octets(self, entry: &Entry, from: IpAddr, to: SocketAddr, mtu: usize, number: usize) -> io::Result<Vec<u8>> {
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

/// Stimuli that are sent together, round by round.
pub struct Volley {
    clock: Clock,
    ledger: Ledger,
    trial: Arc<str>,
    aims: Vec<Aim>,
    lanes: HashMap<(i32, bool, Guise), Result<Socket, Fate>>,
    sources: HashMap<(Guise, IpAddr), Result<(IpAddr, usize), Fate>>,
    /// How often a full buffer may still be waited for.
    waits: usize,
    patience: Patience,
}

struct Aim {
    shot: Shot,
    guise: Guise,
    to: Arc<[IpAddr]>,
    rounds: usize,
    entry: Entry,
    sent: usize,
    first_ms: Option<f64>,
    fate: Option<Fate>,
}

impl Aim {
    /// See [`Stimulus::traced`]. Connection tracking keeps fragments of IPv6 until the rest of their datagram comes, and no socket can ask that
    /// they are let be (IP_NODEFRAG, ip(7)). A tunnel that is full loses a packet now and then, and not all of many.
    fn is_traced(&self) -> bool {
        let kept = self.to[0].is_ipv6() && matches!(self.shot, Shot::Craft(Craft::First(_) | Craft::Later(_)));
        !kept && (self.guise.via != Via::Default || self.sent >= MANY)
    }
}

impl Volley {
    /// An empty one, whose stimuli will belong to `trial`.
    pub fn new(clock: Clock, ledger: Ledger, trial: Arc<str>) -> Self {
        let (lanes, sources) = (HashMap::new(), HashMap::new());
        Volley {
            clock,
            ledger,
            trial,
            aims: Vec::new(),
            lanes,
            sources,
            waits: WAITS_OF_ALL,
            patience: Patience::default(),
        }
    }

    /// Adds a kind of packet to be sent to each of `to` (of one family) in each of the first `rounds` rounds.
    pub fn aim(&mut self, shot: Shot, guise: &Guise, to: &Arc<[IpAddr]>, rounds: usize) {
        if to.is_empty() {
            return;
        }
        let entry = self.ledger.enter(&self.trial);
        let (guise, to) = (guise.clone(), Arc::clone(to));
        self.aims.push(Aim { shot, guise, to, rounds, entry, sent: 0, first_ms: None, fate: None });
    }

    /// Sends everything of that round, counted from zero.
    pub fn fire(&mut self, round: usize) {
        let mut aims = std::mem::take(&mut self.aims);
        for aim in aims.iter_mut().filter(|aim| round < aim.rounds) {
            aim.first_ms.get_or_insert_with(|| self.clock.now_ms());
            for to in Arc::clone(&aim.to).iter() {
                self.patience.wait_for(&self.ledger.backlog);
                let fate = match self.send(aim, SocketAddr::new(*to, aim.shot.port())) {
                    Ok(()) => Fate::Sent,
                    Err(fate) => fate,
                };
                aim.sent += 1;
                aim.fate = Some(worse(aim.fate.take(), fate));
            }
        }
        self.aims = aims;
    }

    /// What became of each kind of packet: not sent if that happened once, else sent if that happened once.
    pub fn stimuli(self) -> Vec<Stimulus> {
        let now = self.clock.now_ms();
        let never = || Fate::NotSent { reason: "its turn never came".to_owned() };
        self.aims
            .into_iter()
            .map(|aim| Stimulus {
                id: aim.entry.id,
                at_ms: aim.first_ms.unwrap_or(now),
                proto: aim.shot.proto(aim.to[0].is_ipv6()),
                to: SocketAddr::new(aim.to[0], aim.shot.port()),
                what: describe(&aim),
                traced: aim.is_traced(),
                via: aim.guise.via,
                fate: aim.fate.unwrap_or_else(never),
            })
            .collect()
    }

    fn send(&mut self, aim: &Aim, to: SocketAddr) -> Result<(), Fate> {
        let (from, mtu) = match aim.shot {
            Shot::DatagramFrom(..) | Shot::Syn(_) | Shot::SynFrom(..) | Shot::Craft(_) => {
                self.source(&aim.guise, to.ip())?
            }
            Shot::Datagram(_) | Shot::Echo | Shot::Protocol(_) => (unspecified(to.ip()), 0),
        };
        let octets = aim.shot.octets(&aim.entry, from, to, mtu, aim.sent).map_err(|error| fate_of(&error))?;
        let v6 = to.is_ipv6();
        let (kind, protocol) = aim.shot.socket(v6);
        // A raw socket and another of the same protocol differ; UDP alone has both.
        let number = if kind == Type::DGRAM { -1 } else { protocol };
        let lane =
            self.lanes.entry((number, v6, aim.guise.clone())).or_insert_with(|| open(&aim.guise, v6, kind, protocol));
        let lane = lane.as_ref().map_err(Clone::clone)?;
        // IPv6 raw sockets take no port.
        let to = if kind == Type::DGRAM { to } else { SocketAddr::new(to.ip(), 0) };
        put(lane, &octets, to, &mut self.waits)
    }

    /// The address that the kernel would send from, and how long a packet may be on that way.
    fn source(&mut self, guise: &Guise, to: IpAddr) -> Result<(IpAddr, usize), Fate> {
        let known = self.sources.entry((guise.clone(), to)).or_insert_with(|| {
            let socket = open(guise, to.is_ipv6(), Type::DGRAM, libc::IPPROTO_UDP)?;
            let address = |socket: UdpSocket| -> io::Result<(IpAddr, usize)> {
                socket.connect((to, DISCARD))?;
                Ok((socket.local_addr()?.ip(), mtu(&socket, to.is_ipv6())?))
            };
            address(socket.into()).map_err(|error| fate_of(&error))
        });
        known.clone()
    }
}

fn describe(aim: &Aim) -> String {
    let name = aim.shot.name(aim.to[0].is_ipv6());
    let mut text = if aim.to.len() == 1 { name } else { format!("{name} to {} addresses", aim.to.len()) };
    if let Shot::DatagramFrom(from, _) | Shot::SynFrom(from, _) = aim.shot {
        text.push_str(&format!(" from port {from}"));
    }
    if let Some(mark) = aim.guise.mark {
        text.push_str(&format!(" with mark {mark:#x}"));
    }
    if let Some(tos) = aim.guise.tos {
        text.push_str(&format!(" of class {tos:#04x}"));
    }
    if let Some(user) = &aim.guise.user {
        text.push_str(&format!(" as {user}"));
    }
    text
}

/// What is missing counts most, then what went out.
fn worse(before: Option<Fate>, now: Fate) -> Fate {
    let rank = |fate: &Fate| match fate {
        Fate::NotSent { .. } => 2,
        Fate::Sent => 1,
        Fate::Refused { .. } => 0,
    };
    match before {
        Some(before) if rank(&before) >= rank(&now) => before,
        _ => now,
    }
}

/// A socket that sends in that guise, with TTL 1 whatever it sends. That it cannot be had says nothing of the stack's firewall, and so is
/// no refusal, unless the kernel knows no such family or address.
fn open(guise: &Guise, v6: bool, kind: Type, protocol: i32) -> Result<Socket, Fate> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let make = || Socket::new(domain, kind.nonblocking(), Some(Protocol::from(protocol)));
    let made = match &guise.user {
        Some(user) => user::as_user(user, make).map_err(|reason| Fate::NotSent { reason })?,
        None => make(),
    };
    let socket = made.map_err(|error| match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => fate_of(&error),
        _ => Fate::NotSent { reason: format!("no socket: {error}") },
    })?;
    let unset = |what: &str, error: &io::Error| Fate::NotSent { reason: format!("{what} could not be set: {error}") };
    if v6 {
        socket.set_unicast_hops_v6(1).and_then(|()| socket.set_multicast_hops_v6(1))
    } else {
        let multicast = |socket: &Socket| match kind {
            Type::DGRAM => socket.set_multicast_ttl_v4(1).and_then(|()| socket.set_multicast_loop_v4(false)),
            _ => Ok(()),
        };
        // Broadcast needs consent, or the refusal would be mistaken for a firewall's.
        socket.set_ttl_v4(1).and_then(|()| multicast(&socket)).and_then(|()| socket.set_broadcast(true))
    }
    .map_err(|error| unset("the TTL", &error))?;
    if let Some(mark) = guise.mark {
        socket.set_mark(mark).map_err(|error| unset("the mark (which needs CAP_NET_ADMIN)", &error))?;
    }
    if let Some(tos) = guise.tos {
        let set = if v6 { socket.set_tclass_v6(tos.into()) } else { socket.set_tos_v4(tos.into()) };
        set.map_err(|error| unset("the class", &error))?;
    }
    if protocol == libc::IPPROTO_RAW && !v6 {
        // Fragments are to meet the firewall as they are, and not what they might be put together to.
        set_number(&socket, libc::IPPROTO_IP, libc::IP_NODEFRAG, 1).map_err(|error| unset("no reassembly", &error))?;
    }
    match &guise.via {
        Via::Default => {}
        Via::Device(link) => {
            socket.bind_device(Some(link.as_bytes())).map_err(|error| unset("the link", &error))?;
        }
        Via::Source(address) => {
            socket.bind(&SockAddr::from(SocketAddr::new(*address, 0))).map_err(|error| fate_of(&error))?;
        }
    }
    Ok(socket)
}

/// How long a packet may be on the way of a connected socket.
fn mtu(socket: &UdpSocket, v6: bool) -> io::Result<usize> {
    let (level, name) = if v6 { (libc::IPPROTO_IPV6, libc::IPV6_MTU) } else { (libc::IPPROTO_IP, libc::IP_MTU) };
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: value and length are ours, and the kernel writes no more than the octets that length says.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
    if result == 0 { Ok(usize::try_from(value).unwrap_or_default()) } else { Err(io::Error::last_os_error()) }
}

fn set_number(socket: &Socket, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads as many octets as the number has.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn put(socket: &Socket, octets: &[u8], to: SocketAddr, waits: &mut usize) -> Result<(), Fate> {
    if lacks(Handicap::Stimuli) {
        return Ok(());
    }
    let least = waits.saturating_sub(WAITS_OF_ONE);
    loop {
        match socket.send_to(octets, &to.into()) {
            Ok(_) => return Ok(()),
            Err(error) if *waits > least && matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS)) => {
                *waits -= 1;
                std::thread::sleep(WAIT);
            }
            Err(error) => return Err(fate_of(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensor::decode::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet};

    fn refused() -> Fate {
        Fate::Refused { errno: libc::EPERM, name: "EPERM".to_owned() }
    }

    #[test]
    fn one_packet_that_was_sent_outweighs_refusals_and_one_that_was_not_outweighs_all() {
        let missing = Fate::NotSent { reason: "x".to_owned() };
        assert_eq!(worse(None, refused()), refused());
        assert_eq!(worse(Some(refused()), Fate::Sent), Fate::Sent);
        assert_eq!(worse(Some(Fate::Sent), refused()), Fate::Sent);
        assert_eq!(worse(Some(missing.clone()), Fate::Sent), missing);
    }

    /// What is sent is known again by the sensor, whatever the protocol.
    #[test]
    fn every_shot_is_known_again() {
        let ledger = Ledger::new(0x1234_5678);
        let trial: Arc<str> = "uplink-protocols".into();
        let handmade =
            [Shot::Datagram(53), Shot::DatagramFrom(6881, 443), Shot::Syn(443), Shot::SynFrom(53, 80), Shot::Echo];
        let shots = super::super::uplink::protocols(false).into_iter().map(Shot::Protocol).chain(handmade);
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
        for number in super::super::uplink::protocols(true) {
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
