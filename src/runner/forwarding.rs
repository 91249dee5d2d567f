//! Hands packets for somebody far away to the stack, as a neighbour would who takes it for a router.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use ipnet::IpNet;
use pnet::datalink::{self, Channel, Config, DataLinkSender, MacAddr};
use serde_json::json;

use super::inbound::{TRIES, all_came, is_attached, run};
use super::session::Session;
use crate::handicap::{Handicap, lacks};
use crate::model::evidence::names::source_port;
use crate::model::evidence::{Answer, Evidence, Fate, Proto, Said, Stimulus, Via};
use crate::net::netlink::{Client, attributes};
use crate::sensor::ledger::{marker, sequence};
use crate::technique::{ARRIVALS, FORWARDING};

/// How long the agent gets to open its packet socket.
const HEAD_START: Duration = Duration::from_millis(250);
const ROUNDS: usize = 3;
const PAUSE: Duration = Duration::from_millis(150);
/// How long the agent watches: all of the above and some.
const WATCH_MS: u64 = 1000;
/// The same while the tunnel is down, which may not be for long.
const PAUSE_DOWN: Duration = Duration::from_millis(80);
const WATCH_DOWN_MS: u64 = 600;
/// How long the stack may take to tell its hardware address.
const PATIENCE: Duration = Duration::from_millis(600);
/// One hop is the stack itself; behind it the packet ends.
const TTL: u8 = 2;
const DISCARD: u16 = 9;

/// Where the stack is to be found on a network of this machine's.
struct Neighbour {
    link: String,
    mac: MacAddr,
    /// This machine's own address there.
    own: IpAddr,
}

/// What is to be handed over, and to whom.
pub(super) struct Handing {
    evidence: Evidence,
    neighbours: Vec<Neighbour>,
    senders: BTreeMap<String, Box<dyn DataLinkSender>>,
}

/// See [`prepare`].
pub(super) enum Prepared {
    /// All that it takes.
    Handing(Handing),
    /// Nothing can be handed over, and why.
    Unasked(Evidence),
}

/// Finds out what to hand over, and where. `uplinks` are the stack's addresses on its uplinks.
///
/// # Errors
/// Why there is no evidence.
pub(super) fn prepare(session: &Session, trial: &str, uplinks: &[IpNet]) -> Result<Prepared, String> {
    let mut evidence = run(session, trial, FORWARDING, json!({}))?;
    let near: Vec<IpAddr> =
        uplinks.iter().map(IpNet::addr).filter(|ip| !is_link_local(*ip) && is_attached(*ip)).collect();
    let of = |v6: bool| near.iter().filter(|ip| ip.is_ipv6() == v6).find_map(|ip| find(*ip).ok().flatten());
    let (v4, near_v6) = (of(false), near.iter().find(|ip| ip.is_ipv6()));
    // A stack that does not tell its hardware address over IPv6 is handed packets there all the same.
    let v6 = of(true).or_else(|| with_hardware_of(v4.as_ref()?, *near_v6?));
    let neighbours: Vec<Neighbour> = [v4, v6].into_iter().flatten().collect();
    // Where there is no IPv4 nobody sends it, and a neighbour has the other family alone.
    let no_v4 = !uplinks.iter().any(|net| net.addr().is_ipv4());
    if of_family(&neighbours, no_v4).is_none() {
        let why = "leakcheck is on no network with the stack, so that it cannot send as its neighbour";
        return Ok(Prepared::Unasked(Evidence::unasked(evidence.to_ms, why)));
    }
    if no_v4 {
        evidence.stimuli.retain(|stimulus| stimulus.to.is_ipv6());
        let text = "nothing was handed to the stack over IPv4: it has no IPv4 address on an uplink".to_owned();
        let said = Said::Setting { text };
        evidence.answers.push(Answer { at_ms: evidence.to_ms, witness: "IPv4".to_owned(), said });
    }
    if near_v6.is_none() && evidence.stimuli.iter().any(|stimulus| stimulus.to.is_ipv6()) {
        evidence.stimuli.retain(|stimulus| stimulus.to.is_ipv4());
        let text = "nothing was handed to the stack over IPv6: leakcheck's machine has no address on its IPv6 network";
        let said = Said::Setting { text: text.to_owned() };
        evidence.answers.push(Answer { at_ms: evidence.to_ms, witness: "IPv6".to_owned(), said });
    }
    let mut senders: BTreeMap<String, Box<dyn DataLinkSender>> = BTreeMap::new();
    for link in neighbours.iter().map(|neighbour| &neighbour.link) {
        match open(link) {
            Ok(sender) => drop(senders.insert(link.clone(), sender)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let why = "leakcheck may not send frames from outside of the stack: run it as root";
                return Ok(Prepared::Unasked(Evidence::unasked(evidence.to_ms, why)));
            }
            Err(error) => return Err(format!("frames could not be sent by {link}: {error}")),
        }
    }
    Ok(Prepared::Handing(Handing { evidence, neighbours, senders }))
}

impl Handing {
    /// Hands over until all was seen to come to the stack, or often enough.
    ///
    /// # Errors
    /// Why there is no evidence.
    pub(super) fn ask(mut self, session: &Session, trial: &str) -> Result<Evidence, String> {
        for _ in 0..TRIES {
            self.watched(session, trial, WATCH_MS, PAUSE)?;
            if all_came(&self.evidence) {
                break;
            }
        }
        Ok(self.evidence)
    }

    /// Waits until the tunnel is down, and hands over as long as it is.
    ///
    /// # Errors
    /// Why there is no evidence.
    pub(super) fn while_down(mut self, session: &Session, trial: &str) -> Result<Evidence, String> {
        session.wait_for_outage();
        while session.is_down() {
            if all_came(&self.evidence) {
                // It came in; the sensor goes on to look whether it leaves.
                self.hand_over(session.nonce());
                sleep(PAUSE);
            } else {
                self.watched(session, trial, WATCH_DOWN_MS, PAUSE_DOWN)?;
            }
        }
        Ok(self.evidence)
    }

    /// Hands all over some times while the agent watches what comes in.
    fn watched(&mut self, session: &Session, trial: &str, watch_ms: u64, pause: Duration) -> Result<(), String> {
        let to: BTreeSet<SocketAddr> = self.evidence.stimuli.iter().map(|stimulus| stimulus.to).collect();
        let watched = scope(|scope| {
            let params = json!({ "watch_ms": watch_ms, "to": to });
            let watcher = scope.spawn(move || run(session, trial, ARRIVALS, params));
            sleep(HEAD_START);
            for _ in 0..ROUNDS {
                self.hand_over(session.nonce());
                sleep(pause);
            }
            watcher.join()
        });
        let watched = watched.map_err(|_| "the thread that watches broke off".to_owned())??;
        let evidence = &mut self.evidence;
        evidence.answers.extend(watched.answers);
        evidence.problems.extend(watched.problems);
        evidence.to_ms = evidence.to_ms.max(watched.to_ms);
        Ok(())
    }

    fn hand_over(&mut self, nonce: u32) {
        let neighbours = &self.neighbours;
        for stimulus in &mut self.evidence.stimuli {
            let to = of_family(neighbours, stimulus.to.is_ipv6());
            let by = to.and_then(|neighbour| Some((neighbour, self.senders.get_mut(&neighbour.link)?)));
            if let Some((neighbour, sender)) = by {
                stimulus.fate = send(&mut **sender, neighbour, stimulus, nonce);
            }
        }
    }
}

fn of_family(neighbours: &[Neighbour], v6: bool) -> Option<&Neighbour> {
    neighbours.iter().find(|neighbour| neighbour.own.is_ipv6() == v6)
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// The stack at its IPv6 address `stack`, if this machine reaches that by the link on which `known` is.
fn with_hardware_of(known: &Neighbour, stack: IpAddr) -> Option<Neighbour> {
    let own = towards(stack).and_then(|socket| socket.local_addr()).ok()?.ip();
    let link = crate::net::interfaces().into_iter().find(|link| link.name == known.link)?;
    link.ips.iter().any(|net| net.ip() == own).then_some(Neighbour { link: link.name, mac: known.mac, own })
}

fn towards(stack: IpAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if stack.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((stack, DISCARD))?;
    Ok(socket)
}

/// Looks for the hardware address of `stack`. `None`: it does not tell.
fn find(stack: IpAddr) -> io::Result<Option<Neighbour>> {
    let socket = towards(stack)?;
    let own = socket.local_addr()?.ip();
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Has the kernel ask for the hardware address; that nothing listens there may be told here.
        let _ = socket.send(b"");
        let found = match stack {
            IpAddr::V4(v4) => in_table(&fs::read_to_string("/proc/thread-self/net/arp")?, v4),
            IpAddr::V6(v6) => in_dump(v6)?,
        };
        if let Some((link, mac)) = found {
            return Ok(Some(Neighbour { link, mac, own }));
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        sleep(Duration::from_millis(20));
    }
}

/// The kernel's neighbours over IPv6 (rtnetlink(7)): `struct ndmsg` has the family, the link's index at 4 and the state at 8.
fn in_dump(ip: Ipv6Addr) -> io::Result<Option<(String, MacAddr)>> {
    const GET: u16 = 30;
    const HEAD: usize = 12;
    let mut request = [0; HEAD];
    request[0] = libc::AF_INET6 as u8;
    let mut client = Client::open(netlink_sys::protocols::NETLINK_ROUTE).map_err(io::Error::other)?;
    let all = client.dump(GET, &request).map_err(io::Error::other)?;
    let found =
        all.iter().find_map(|message| neighbour(message.payload.get(..HEAD)?, message.payload.get(HEAD..)?, ip));
    Ok(found.and_then(|(index, mac)| {
        let link = crate::net::interfaces().into_iter().find(|link| link.index == index)?;
        Some((link.name, mac))
    }))
}

/// Link and hardware address, where the message is about `ip` and tells one.
fn neighbour(head: &[u8], rest: &[u8], ip: Ipv6Addr) -> Option<(u32, MacAddr)> {
    const ADDRESS: u16 = 1;
    const HARDWARE: u16 = 2;
    /// NUD_INCOMPLETE and NUD_FAILED.
    const UNKNOWN: u16 = 0x01 | 0x20;
    let index = u32::from_ne_bytes(*head.get(4..)?.first_chunk()?);
    let state = u16::from_ne_bytes(*head.get(8..)?.first_chunk()?);
    let find = |kind| attributes(rest).find(|(known, _)| *known == kind).map(|(_, value)| value);
    let hardware: [u8; 6] = find(HARDWARE)?.try_into().ok()?;
    (find(ADDRESS)? == ip.octets() && state & UNKNOWN == 0).then(|| (index, MacAddr::from(hardware)))
}

/// Link and hardware address of `ip` in `/proc/net/arp`: address, type, flags, hardware address, mask, link. Bit 2 of the flags tells
/// that it is complete.
fn in_table(table: &str, ip: Ipv4Addr) -> Option<(String, MacAddr)> {
    let ip = ip.to_string();
    table.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        [address, _, flags, mac, _, link] if *address == ip => {
            let complete = u32::from_str_radix(flags.trim_start_matches("0x"), 16).is_ok_and(|flags| flags & 2 != 0);
            let mac = mac.parse().ok().filter(|_| complete)?;
            Some(((*link).to_owned(), mac))
        }
        _ => None,
    })
}

fn open(link: &str) -> io::Result<Box<dyn DataLinkSender>> {
    let found = crate::net::interfaces().into_iter().find(|interface| interface.name == link);
    let interface = found.ok_or_else(|| io::Error::other("there is no such link"))?;
    match datalink::channel(&interface, Config { promiscuous: false, ..Config::default() })? {
        Channel::Ethernet(sender, _) => Ok(sender),
        _ => Err(io::Error::other("the packet socket is of an unknown kind")),
    }
}

fn send(sender: &mut dyn DataLinkSender, neighbour: &Neighbour, stimulus: &Stimulus, nonce: u32) -> Fate {
    let sent = frame(neighbour, own_mac(&neighbour.link), stimulus, nonce).and_then(|frame| {
        if lacks(Handicap::Stimuli) {
            return Ok(());
        }
        sender.send_to(&frame, None).unwrap_or_else(|| Err(io::Error::other("the packet socket does not send")))
    });
    match sent {
        Ok(()) => Fate::Sent,
        Err(error) => Fate::NotSent { reason: format!("outside of the stack: {error}") },
    }
}

fn own_mac(link: &str) -> MacAddr {
    let text = fs::read_to_string(format!("/sys/class/net/{link}/address")).unwrap_or_default();
    // A bridge forwards by the destination; whose address is the source matters to nobody on the way there.
    text.trim().parse().unwrap_or(MacAddr::new(2, 0, 0, 0, 0, 1))
}

fn frame(neighbour: &Neighbour, own: MacAddr, stimulus: &Stimulus, nonce: u32) -> io::Result<Vec<u8>> {
    const WINDOW: u16 = 64_240;
    let (from, port) = (source_port(stimulus.id), stimulus.to.port());
    // A router on the way may change the port.
    let marker = marker(nonce, stimulus.id);
    let source = match stimulus.via {
        Via::Source(other) => other,
        _ => neighbour.own,
    };
    let builder = PacketBuilder::ethernet2(own.into(), neighbour.mac.into());
    let builder = match (source, stimulus.to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(to)) => builder.ipv4(source.octets(), to.octets(), TTL),
        (IpAddr::V6(source), IpAddr::V6(to)) => builder.ipv6(source.octets(), to.octets(), TTL),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let mut octets = Vec::new();
    let written = match stimulus.proto {
        Proto::Tcp => builder.tcp(from, port, sequence(nonce, stimulus.id), WINDOW).syn().write(&mut octets, &[]),
        Proto::Icmp => builder.icmpv4_echo_request(from, 1).write(&mut octets, marker.as_bytes()),
        Proto::Icmpv6 => builder.icmpv6_echo_request(from, 1).write(&mut octets, marker.as_bytes()),
        _ => builder.udp(from, port).write(&mut octets, marker.as_bytes()),
    };
    written.map(|()| octets).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::evidence::Via;
    use crate::sensor::decode::Packet;

    const TABLE: &str = "IP address       HW type     Flags       HW address            Mask     Device\n\
         172.18.0.10      0x1         0x2         02:42:ac:12:00:0a     *        br0\n\
         172.18.0.11      0x1         0x0         00:00:00:00:00:00     *        br0\n";

    #[test]
    fn a_neighbour_is_known_once_it_has_told_its_address() {
        let (link, mac) = in_table(TABLE, Ipv4Addr::new(172, 18, 0, 10)).unwrap();
        assert_eq!((link.as_str(), mac), ("br0", MacAddr::new(2, 0x42, 0xac, 0x12, 0, 0x0a)));
        assert!(in_table(TABLE, Ipv4Addr::new(172, 18, 0, 11)).is_none());
        assert!(in_table(TABLE, Ipv4Addr::new(172, 18, 0, 1)).is_none());
    }

    #[test]
    fn a_neighbour_over_ipv6_is_known_once_it_has_told_its_address() {
        let ip: Ipv6Addr = "fd18::10".parse().unwrap();
        let message = |state: u16, hardware: &[u8]| {
            let mut head = vec![libc::AF_INET6 as u8, 0, 0, 0];
            head.extend(7_u32.to_ne_bytes());
            head.extend(state.to_ne_bytes());
            head.extend([0, 1]);
            let mut rest = Vec::new();
            crate::net::netlink::put_attribute(&mut rest, 1, &ip.octets());
            crate::net::netlink::put_attribute(&mut rest, 2, hardware);
            (head, rest)
        };
        let of = |(head, rest): (Vec<u8>, Vec<u8>), ip| neighbour(&head, &rest, ip);
        let mac = [2, 0x42, 0xac, 0x12, 0, 0x0a];
        // Reachable, and stale, which still tells it.
        for state in [0x02, 0x04] {
            assert_eq!(of(message(state, &mac), ip), Some((7, MacAddr::from(mac))));
        }
        assert_eq!(of(message(0x02, &mac), "fd18::11".parse().unwrap()), None);
        assert_eq!(of(message(0x20, &mac), ip), None);
        assert_eq!(of(message(0x02, &[]), ip), None);
        assert_eq!(neighbour(&[], &[], ip), None);
    }

    fn stimulus(proto: Proto, to: &str, via: Via) -> Stimulus {
        Stimulus {
            id: 7,
            at_ms: 0.0,
            proto,
            to: to.parse().unwrap(),
            via,
            what: String::new(),
            fate: Fate::Sent,
            traced: false,
        }
    }

    #[test]
    fn a_packet_ends_behind_the_stack() {
        let mac = MacAddr::new(2, 0, 0, 0, 0, 9);
        for (own, other, host, icmp) in [
            ("172.18.0.1", "172.18.0.77", "192.0.2.99", Proto::Icmp),
            ("fd18::1", "fd18::77", "[2001:db8:99::9]", Proto::Icmpv6),
        ] {
            let neighbour = Neighbour { link: "br0".to_owned(), mac, own: own.parse().unwrap() };
            let other: IpAddr = other.parse().unwrap();
            for (via, source) in [(Via::Default, neighbour.own), (Via::Source(other), other)] {
                for proto in [Proto::Tcp, Proto::Udp, icmp] {
                    let port = if proto == icmp { 0 } else { 443 };
                    let stimulus = stimulus(proto, &format!("{host}:{port}"), via.clone());
                    let octets = frame(&neighbour, MacAddr::zero(), &stimulus, 3).unwrap();
                    assert_eq!(octets[..6], [2, 0, 0, 0, 0, 9]);
                    let ether_type = u16::from_be_bytes([octets[12], octets[13]]);
                    let packet = Packet::decode(ether_type, &octets[14..]);
                    assert_eq!((packet.proto, packet.ttl, packet.dst), (proto, 2, stimulus.to));
                    let from = if proto == icmp { 0 } else { 32775 };
                    assert_eq!(packet.src, SocketAddr::new(source, from));
                    assert!(proto == Proto::Tcp || packet.payload == b"lk0000000300000007");
                    assert!(proto != icmp || packet.sequence >> 16 == 32775);
                }
            }
            let wrong = if own.contains(':') { "192.0.2.99:443" } else { "[2001:db8:99::9]:443" };
            assert!(frame(&neighbour, MacAddr::zero(), &stimulus(Proto::Udp, wrong, Via::Default), 3).is_err());
        }
    }
}
