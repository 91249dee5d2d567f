//! Hands packets for somebody far away to the stack, as a neighbour would who takes it for a router.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use ipnet::IpNet;
use pnet::datalink::{self, Channel, Config, DataLinkSender, MacAddr};
use serde_json::json;

use super::inbound::{is_attached, run};
use super::session::Session;
use crate::model::evidence::{Evidence, Fate, Proto, Stimulus};
use crate::technique::{ARRIVALS, FORWARDING, source_port};

/// How long the agent gets to open its packet socket.
const HEAD_START: Duration = Duration::from_millis(250);
const ROUNDS: usize = 3;
const PAUSE: Duration = Duration::from_millis(150);
/// How long the agent watches: all of the above and some.
const WATCH_MS: u64 = 1000;
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
    own: Ipv4Addr,
}

/// Asks. `uplinks` are the stack's addresses on its uplinks.
///
/// # Errors
/// Why there is no evidence.
pub(super) fn ask(session: &Session, trial: &str, uplinks: &[IpNet]) -> Result<Evidence, String> {
    let mut evidence = run(session, trial, FORWARDING, json!({}))?;
    let uplinks = uplinks.iter().filter_map(|net| match net.addr() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    let near = uplinks.filter(|ip| is_attached(IpAddr::V4(*ip)));
    let Some(neighbour) = near.clone().find_map(|ip| find(ip).ok().flatten()) else {
        let why = "leakcheck is on no network with the stack, so that it cannot send as its neighbour";
        return Ok(Evidence::unasked(evidence.to_ms, why));
    };
    let mut sender = match open(&neighbour.link) {
        Ok(sender) => sender,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let why = "leakcheck may not send frames from outside of the stack: run it as root";
            return Ok(Evidence::unasked(evidence.to_ms, why));
        }
        Err(error) => return Err(format!("frames could not be sent by {}: {error}", neighbour.link)),
    };
    let targets: Vec<SocketAddr> = evidence.stimuli.iter().map(|stimulus| stimulus.to).collect();
    let stimuli = &mut evidence.stimuli;
    let watched = scope(|scope| {
        let params = json!({ "watch_ms": WATCH_MS, "to": targets });
        let watcher = scope.spawn(move || run(session, trial, ARRIVALS, params));
        sleep(HEAD_START);
        for _ in 0..ROUNDS {
            for stimulus in stimuli.iter_mut() {
                stimulus.fate = send(&mut *sender, &neighbour, stimulus);
            }
            sleep(PAUSE);
        }
        watcher.join()
    });
    let watched = watched.map_err(|_| "the thread that watches broke off".to_owned())??;
    evidence.answers.extend(watched.answers);
    evidence.problems.extend(watched.problems);
    evidence.to_ms = evidence.to_ms.max(watched.to_ms);
    Ok(evidence)
}

/// Looks for the hardware address of `stack`. `None`: it is on no network of this machine's.
fn find(stack: Ipv4Addr) -> io::Result<Option<Neighbour>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((stack, DISCARD))?;
    let IpAddr::V4(own) = socket.local_addr()?.ip() else { return Ok(None) };
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Has the kernel ask for the hardware address; that nothing listens there may be told here.
        let _ = socket.send(b"");
        let table = fs::read_to_string("/proc/thread-self/net/arp")?;
        if let Some((link, mac)) = in_table(&table, stack) {
            return Ok(Some(Neighbour { link, mac, own }));
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        sleep(Duration::from_millis(20));
    }
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
    let found = datalink::interfaces().into_iter().find(|interface| interface.name == link);
    let interface = found.ok_or_else(|| io::Error::other("there is no such link"))?;
    match datalink::channel(&interface, Config { promiscuous: false, ..Config::default() })? {
        Channel::Ethernet(sender, _) => Ok(sender),
        _ => Err(io::Error::other("the packet socket is of an unknown kind")),
    }
}

fn send(sender: &mut dyn DataLinkSender, neighbour: &Neighbour, stimulus: &Stimulus) -> Fate {
    let sent = frame(neighbour, own_mac(&neighbour.link), stimulus).and_then(|frame| {
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

fn frame(neighbour: &Neighbour, own: MacAddr, stimulus: &Stimulus) -> io::Result<Vec<u8>> {
    const WINDOW: u16 = 64_240;
    let IpAddr::V4(to) = stimulus.to.ip() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let (from, port) = (source_port(stimulus.id), stimulus.to.port());
    let builder = PacketBuilder::ethernet2(own.into(), neighbour.mac.into());
    let builder = builder.ipv4(neighbour.own.octets(), to.octets(), TTL);
    let mut octets = Vec::new();
    let written = match stimulus.proto {
        Proto::Tcp => builder.tcp(from, port, stimulus.id, WINDOW).syn().write(&mut octets, &[]),
        _ => builder.udp(from, port).write(&mut octets, b"leakcheck"),
    };
    written.map(|()| octets).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::evidence::Via;
    use crate::sensor::decode::{ETHERTYPE_IPV4, Packet};

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
    fn a_packet_ends_behind_the_stack() {
        let mac = MacAddr::new(2, 0, 0, 0, 0, 9);
        let neighbour = Neighbour { link: "br0".to_owned(), mac, own: Ipv4Addr::new(172, 18, 0, 1) };
        for proto in [Proto::Tcp, Proto::Udp] {
            let stimulus = Stimulus {
                id: 7,
                at_ms: 0.0,
                proto,
                to: "192.0.2.99:443".parse().unwrap(),
                via: Via::Default,
                what: String::new(),
                fate: Fate::Sent,
            };
            let octets = frame(&neighbour, MacAddr::zero(), &stimulus).unwrap();
            assert_eq!(octets[..6], [2, 0, 0, 0, 0, 9]);
            let packet = Packet::decode(ETHERTYPE_IPV4, &octets[14..]);
            assert_eq!((packet.proto, packet.ttl, packet.dst), (proto, 2, stimulus.to));
            assert_eq!(packet.src, "172.18.0.1:32775".parse().unwrap());
        }
    }
}
