//! Asks the stack's open ports from outside, as a stranger would who comes by the home's line, and finds out whether they are published.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread::{scope, sleep};
use std::time::Duration;

use etherparse::PacketBuilder;
use ipnet::IpNet;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::session::Session;
use crate::agent::protocol::{Reply, Request};
use crate::handicap::{Handicap, lacks};
use crate::model::evidence::names::source_port;
use crate::model::evidence::{Evidence, Fate, Proto, Said, Stimulus};
use crate::sensor::allow::is_private;
use crate::technique::format::krpc;
use crate::technique::{ARRIVALS, INBOUND};

/// How long the agent gets to open its packet socket.
const HEAD_START: Duration = Duration::from_millis(250);
/// How often each port is asked, and how long it is waited after each time.
const ROUNDS: usize = 3;
const PAUSE: Duration = Duration::from_millis(200);
/// How often all of it is done, if not everything was seen to come: a busy machine may open the agent's packet socket too late.
pub(super) const TRIES: usize = 3;
/// How long somebody outside gets to hand a question on to the stack.
const HANDED_ON: Duration = Duration::from_millis(500);
/// How long the agent watches: all of the above and some.
const WATCH_MS: u64 = 1700;
/// The stack is one hop away; what goes astray gets no further.
const TTL: u8 = 1;
const WINDOW: u16 = 64_240;

/// Asks. `home` are the addresses of the home line, `leave` ports that are meant to be reached, `near` the uplinks' networks.
///
/// # Errors
/// Why there is no evidence.
pub(super) fn ask(
    session: &Session,
    trial: &str,
    home: &[IpAddr],
    leave: &[u16],
    near: &[IpNet],
) -> Result<Evidence, String> {
    let home = home.iter().find_map(|ip| match ip {
        IpAddr::V4(v4) if !is_private(*ip) => Some(*v4),
        _ => None,
    });
    let home_v6 = own_v6(near);
    let params = json!({ "from": home, "from_v6": home_v6, "leave": leave });
    let mut evidence = run(session, trial, INBOUND, params)?;
    if evidence.stimuli.is_empty() {
        return Ok(evidence);
    }
    // From anywhere else the questions, and those to the home's own address, would go astray on somebody else's network.
    if !evidence.stimuli.iter().all(|stimulus| is_attached(stimulus.to.ip())) {
        let why = "leakcheck is on no network with the stack, so that it cannot ask as somebody outside of it would";
        return Ok(Evidence::unasked(evidence.to_ms, why));
    }
    let homes = Homes { v4: home, v6: home_v6 };
    let raw = match Raw::open() {
        Ok(raw) => raw,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let why = "leakcheck may not send raw packets from outside of the stack: run it as root";
            return Ok(Evidence::unasked(evidence.to_ms, why));
        }
        Err(error) => return Err(format!("a raw socket could not be made: {error}")),
    };
    let ports: BTreeSet<(Proto, u16)> =
        evidence.stimuli.iter().map(|stimulus| (stimulus.proto, stimulus.to.port())).collect();
    let targets: BTreeSet<SocketAddr> = evidence.stimuli.iter().map(|stimulus| stimulus.to).collect();
    for _ in 0..TRIES {
        let stimuli = &mut evidence.stimuli;
        let (watched, tried) = scope(|scope| {
            let params = json!({ "watch_ms": WATCH_MS, "to": targets });
            let watcher = scope.spawn(move || run(session, trial, ARRIVALS, params));
            sleep(HEAD_START);
            for _ in 0..ROUNDS {
                for stimulus in stimuli.iter_mut() {
                    stimulus.fate = raw.send(&homes, stimulus);
                }
                sleep(PAUSE);
            }
            let tried = knock(&homes, &ports);
            (watcher.join(), tried)
        });
        for stimulus in evidence.stimuli.iter().filter(|stimulus| stimulus.proto == Proto::Tcp) {
            // What answered is not left waiting. That it does not come is none of the audit's business.
            let _ = packet(&homes, stimulus, true).map(|octets| raw.transmit(stimulus.to, &octets));
        }
        let watched = watched.map_err(|_| "the thread that watches broke off".to_owned())??;
        let published = |from: SocketAddr| !is_near(from.ip(), near) || tried.contains(&from.port());
        for mut answer in watched.answers {
            if let Said::Arrived { proto, from, to, published: is } = &mut answer.said {
                let ours = evidence.stimuli.iter().any(|stimulus| {
                    (stimulus.proto, stimulus.to) == (*proto, *to)
                        && homes.of(to).is_some_and(|home| *from == SocketAddr::new(home, source_port(stimulus.id)))
                });
                *is = !ours && published(*from);
            }
            evidence.answers.push(answer);
        }
        evidence.problems.extend(watched.problems);
        evidence.to_ms = evidence.to_ms.max(watched.to_ms);
        if all_came(&evidence) {
            break;
        }
    }
    Ok(evidence)
}

/// Whether each stimulus was seen to come to the stack.
pub(super) fn all_came(evidence: &Evidence) -> bool {
    evidence.stimuli.iter().all(|stimulus| {
        evidence.answers.iter().any(|answer| {
            matches!(answer.said, Said::Arrived { proto, from, to, .. }
                if (proto, to) == (stimulus.proto, stimulus.to) && from.port() == source_port(stimulus.id))
        })
    })
}

pub(super) fn run(session: &Session, trial: &str, technique: &str, params: Value) -> Result<Evidence, String> {
    let request = Request::Run { trial: trial.to_owned(), technique: technique.to_owned(), params };
    match session.request(request)? {
        Reply::Evidence(evidence) => Ok(evidence),
        Reply::Failed { what, .. } => Err(what),
        other => Err(format!("the agent gave an answer that does not fit: {other:?}")),
    }
}

/// Whether `ip` is on a network of this machine's that is up.
pub(super) fn is_attached(ip: IpAddr) -> bool {
    crate::net::interfaces().iter().any(|link| link.is_up() && link.ips.iter().any(|net| net.contains(ip)))
}

fn is_near(ip: IpAddr, near: &[IpNet]) -> bool {
    is_private(ip) || near.iter().any(|net| net.contains(&ip))
}

/// A public IPv6 address of this machine's that is on no network of the stack's: whoever answers it does so past the tunnel, and the answer
/// ends here.
pub(super) fn own_v6(near: &[IpNet]) -> Option<Ipv6Addr> {
    let links = crate::net::interfaces();
    let own = links.iter().filter(|link| link.is_up() && !link.is_loopback()).flat_map(|link| &link.ips);
    own.filter_map(|net| match net.ip() {
        IpAddr::V6(v6) => Some(v6),
        IpAddr::V4(_) => None,
    })
    .find(|ip| is_stranger(*ip, near))
}

fn is_stranger(ip: Ipv6Addr, near: &[IpNet]) -> bool {
    !ip.is_unicast_link_local() && !is_near(ip.into(), near)
}

/// From where the questions claim to come, in each family.
struct Homes {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl Homes {
    /// That of the family of `to`.
    fn of(&self, to: &SocketAddr) -> Option<IpAddr> {
        match to {
            SocketAddr::V4(_) => self.v4.map(IpAddr::V4),
            SocketAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }
}

/// Sockets for whole packets.
struct Raw {
    v4: Socket,
    /// `None`: the kernel has no IPv6.
    v6: Option<Socket>,
}

impl Raw {
    fn open() -> io::Result<Self> {
        let of = |domain| Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)));
        Ok(Self { v4: of(Domain::IPV4)?, v6: of(Domain::IPV6).ok() })
    }

    fn send(&self, homes: &Homes, stimulus: &Stimulus) -> Fate {
        match packet(homes, stimulus, false).and_then(|octets| self.transmit(stimulus.to, &octets)) {
            Ok(()) => Fate::Sent,
            // The refusal is the runner's own firewall's, not the stack's.
            Err(error) => Fate::NotSent { reason: format!("outside of the stack: {error}") },
        }
    }

    fn transmit(&self, to: SocketAddr, octets: &[u8]) -> io::Result<()> {
        if lacks(Handicap::Stimuli) {
            return Ok(());
        }
        let socket = if to.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() };
        let socket = socket.ok_or(io::ErrorKind::Unsupported)?;
        socket.send_to(octets, &SockAddr::from(SocketAddr::new(to.ip(), 0))).map(drop)
    }
}

/// The stimulus as a packet from `homes`, or what takes it back.
fn packet(homes: &Homes, stimulus: &Stimulus, back: bool) -> io::Result<Vec<u8>> {
    let (from, port) = (source_port(stimulus.id), stimulus.to.port());
    let builder = match (homes.of(&stimulus.to), stimulus.to.ip()) {
        (Some(IpAddr::V4(home)), IpAddr::V4(to)) => PacketBuilder::ipv4(home.octets(), to.octets(), TTL),
        (Some(IpAddr::V6(home)), IpAddr::V6(to)) => PacketBuilder::ipv6(home.octets(), to.octets(), TTL),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let mut octets = Vec::new();
    let written = match (stimulus.proto, back) {
        (Proto::Tcp, false) => builder.tcp(from, port, stimulus.id, WINDOW).syn().write(&mut octets, &[]),
        (Proto::Tcp, true) => {
            builder.tcp(from, port, stimulus.id.wrapping_add(1), WINDOW).rst().write(&mut octets, &[])
        }
        _ => builder.udp(from, port).write(&mut octets, &question()),
    };
    written.map(|()| octets).map_err(io::Error::other)
}

/// What any DHT node answers.
fn question() -> Vec<u8> {
    krpc::ping(&rand::random(), &rand::random())
}

/// Tries the ports at the home's address and at this machine's own, and tells from which ports it did: where they are published, the
/// question comes to the stack.
fn knock(homes: &Homes, ports: &BTreeSet<(Proto, u16)>) -> BTreeSet<u16> {
    let towards = |home: Ipv4Addr| {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
            socket.connect((home, 9))?;
            socket.local_addr()
        })
    };
    let own =
        homes.v4.and_then(|home| towards(home).ok()).into_iter().map(|own| own.ip()).filter(|ip| !ip.is_loopback());
    let places: BTreeSet<IpAddr> = own.chain(homes.v4.map(IpAddr::V4)).chain(homes.v6.map(IpAddr::V6)).collect();
    let sockets: Vec<Socket> = places
        .iter()
        .flat_map(|ip| ports.iter().map(|(proto, port)| (*proto, SocketAddr::new(*ip, *port))))
        .filter_map(|(proto, to)| begin(proto, to).ok())
        .collect();
    sleep(HANDED_ON);
    sockets.iter().filter_map(|socket| Some(socket.local_addr().ok()?.as_socket()?.port())).collect()
}

fn begin(proto: Proto, to: SocketAddr) -> io::Result<Socket> {
    let kind = if proto == Proto::Tcp { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(Domain::for_address(to), kind, None)?;
    socket.set_nonblocking(true)?;
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    socket.bind(&SockAddr::from(SocketAddr::new(any, 0)))?;
    match socket.connect(&SockAddr::from(to)) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    if proto == Proto::Udp {
        socket.send(&question())?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::evidence::Via;
    use crate::sensor::decode::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet, RST, SYN};

    #[test]
    fn a_question_claims_to_come_from_home_and_dies_one_hop_away() {
        let homes = Homes { v4: Some(Ipv4Addr::new(203, 0, 113, 10)), v6: "2001:db8:113::10".parse().ok() };
        for to in ["172.18.0.10:6881", "[fd18::10]:6881"].map(|to| to.parse::<SocketAddr>().unwrap()) {
            for (proto, back, flags) in [(Proto::Tcp, false, SYN), (Proto::Tcp, true, RST), (Proto::Udp, false, 0)] {
                let home = homes.of(&to).unwrap();
                let stimulus = Stimulus {
                    id: 7,
                    at_ms: 0.0,
                    proto,
                    to,
                    via: Via::Source(home),
                    what: String::new(),
                    fate: Fate::Sent,
                    traced: false,
                };
                let octets = packet(&homes, &stimulus, back).unwrap();
                let ether_type = if to.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
                let packet = Packet::decode(ether_type, &octets);
                assert_eq!((packet.proto, packet.ttl, packet.flags, packet.dst), (proto, TTL, flags, to));
                assert_eq!(packet.src, SocketAddr::new(home, source_port(7)));
                assert!(super::packet(&Homes { v4: homes.v4, v6: None }, &stimulus, back).is_ok() == to.is_ipv4());
            }
        }
    }

    #[test]
    fn over_ipv6_a_stranger_is_on_no_network_of_the_stacks() {
        let near: Vec<IpNet> = ["2001:db8:18::10/64", "fd18::10/64"].map(|net| net.parse().unwrap()).to_vec();
        for (ip, stranger) in [
            ("2001:db8:113::10", true),
            ("2001:db8:18::1", false),
            ("fd18::1", false),
            ("fd99::1", false),
            ("fe80::1", false),
            ("::1", false),
        ] {
            assert_eq!(is_stranger(ip.parse().unwrap(), &near), stranger, "{ip}");
        }
    }

    #[test]
    fn strangers_are_those_from_afar() {
        let near = ["203.0.113.0/24".parse().unwrap()];
        assert!(is_near("192.168.1.5".parse().unwrap(), &near) && is_near("203.0.113.9".parse().unwrap(), &near));
        assert!(!is_near("198.51.100.9".parse().unwrap(), &near));
    }
}
