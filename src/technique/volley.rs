//! Many stimuli at once: each kind of packet, aimed at many addresses, in several rounds, under one marker. What could be refused at random
//! (one packet in twenty let through) is tried often enough to be found, without a line of evidence for every packet.
//!
//! Blocking: to be run on a thread of its own. For single, exact stimuli see [`super::send`].

mod shot;

use std::collections::HashMap;
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

pub use shot::{Guise, Shot};

use super::craft::Craft;
use super::send::{fate_of, unspecified};
use super::user::{self};
use crate::clock::Clock;
use crate::handicap::{Handicap, lacks};
use crate::model::evidence::{Fate, Stimulus, Via};
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
}
