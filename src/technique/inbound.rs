//! Threat: a torrent client that listens on all addresses answers peers who come by the home's line, past the tunnel: they see who it is.
//! Procedure: programs that wait on an uplink's address are looked up in the kernel's tables. The runner, outside, sends each a question
//! that claims to come from the home's public address, so that an answer ends at the home's own router, and tries whether the port is
//! published. A packet socket here tells what came in; the sensor tells what was answered.
//! Limits: IPv6 only where the machine outside has a public address of its own beside the stack's network. Over UDP only ports on which a program also takes connections, and the configured ones.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Context, Technique, Work, read, torrent};
use crate::clock::Clock;
use crate::handicap::{Handicap, lacks};
use crate::model::evidence::names::source_port;
use crate::model::evidence::{Answer, Evidence, Fate, Proto, Said, Stimulus, Via};
use crate::sensor::decode::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet, SYN};
use crate::sensor::sockets;

/// Its name.
pub const INBOUND: &str = "inbound";
/// The name of [`Arrivals`].
pub const ARRIVALS: &str = "inbound-arrivals";
/// Why nobody could be asked over IPv6.
const NO_STRANGER: &str =
    "leakcheck's machine has no public IPv6 address beside the stack's network, from which a stranger could come";
/// Where torrent clients listen if nobody tells them otherwise.
const TORRENT: u16 = 6881;
const DNS: u16 = 53;
/// RFC 9293, section 3.1.
const ACK: u8 = 0x10;
/// Echo questions of ICMP (RFC 792) and ICMPv6 (RFC 4443).
const ECHO: u8 = 8;
const ECHO_V6: u8 = 128;
/// More ports than this are not asked.
const MAX_PORTS: usize = 24;
/// More arrivals than this are not kept.
const MAX_ARRIVALS: usize = 512;
/// Room for what comes while the socket is not read, in octets.
const BUFFER: usize = 4 << 20;
/// How long one look at the packet socket may take.
const PATIENCE: Duration = Duration::from_millis(50);
/// The longest watch that is taken.
const LONGEST_MS: u64 = 20_000;

/// Finds out whom to ask; the runner asks. See the head of this file.
pub struct Inbound;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    /// The home's public address, from which the questions claim to come.
    from: Option<Ipv4Addr>,
    /// The same over IPv6: one of the machine on which the runner is.
    #[serde(default)]
    from_v6: Option<Ipv6Addr>,
    /// Ports that are meant to be reached.
    #[serde(default)]
    leave: Vec<u16>,
}

impl Technique for Inbound {
    fn name(&self) -> &'static str {
        INBOUND
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<Params>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, trial: Arc<str>, params: Value) -> Work<'a> {
        Box::pin(async move {
            let mut evidence = Evidence { from_ms: cx.clock.now_ms(), ..Evidence::default() };
            match read::<Params>(&params) {
                Ok(Params { from, from_v6, leave }) if from.is_some() || from_v6.is_some() && !has_v4(cx) => {
                    let client = torrent::port(cx).await;
                    list(cx, &trial, (from, from_v6), (&leave, client), &mut evidence);
                }
                Ok(_) => {
                    let why =
                        "the home's public IPv4 address is not known, from which a stranger could come: set home.ip";
                    return Evidence::unasked(cx.clock.now_ms(), why);
                }
                Err(problem) => evidence.problems.push(problem),
            }
            evidence.to_ms = cx.clock.now_ms();
            evidence
        })
    }
}

/// Whether a stranger may come over IPv4 at all.
fn has_v4(cx: &Context) -> bool {
    cx.uplinks().any(|link| link.addresses.iter().any(|net| net.addr().is_ipv4()))
}

fn list(
    cx: &Context,
    trial: &Arc<str>,
    from: (Option<Ipv4Addr>, Option<Ipv6Addr>),
    (leave, client): (&[u16], Option<u16>),
    evidence: &mut Evidence,
) {
    let waiting = match waiting() {
        Ok(waiting) => waiting,
        Err(error) => return evidence.problems.push(format!("the kernel's tables of sockets do not tell: {error}")),
    };
    let mut leave: BTreeSet<u16> = leave.iter().copied().chain([DNS]).collect();
    let control = reqwest::Url::parse(&cx.setup.control_server).ok();
    leave.extend(control.and_then(|url| url.port_or_known_default()));
    let usual: BTreeSet<u16> = cx.setup.source_ports.iter().copied().chain([TORRENT]).chain(client).collect();
    let own = cx.uplinks().flat_map(|link| link.addresses.iter().map(|net| net.addr()));
    let addresses = own.filter(|ip| !super::is_link_local(*ip));
    let mut asked = BTreeSet::new();
    for address in addresses {
        let ports = asked_ports(&waiting, address, &usual, &leave);
        if address.is_ipv6() && from.1.is_none() {
            if !ports.is_empty() {
                let text = format!("nobody was asked at {address}: {NO_STRANGER}");
                evidence.answers.push(cx.answer(address.to_string(), Said::Setting { text }));
            }
            continue;
        }
        asked.extend(ports.into_iter().map(|(proto, port)| (proto, SocketAddr::new(address, port))));
    }
    if asked.len() > MAX_PORTS {
        evidence
            .problems
            .push(format!("more than {MAX_PORTS} ports are open on the uplinks: the others were not asked"));
    }
    for (proto, to) in asked.into_iter().take(MAX_PORTS) {
        let entry = cx.ledger.enter(trial);
        let from = match to {
            SocketAddr::V4(_) => from.0.map(IpAddr::V4),
            SocketAddr::V6(_) => from.1.map(IpAddr::V6),
        };
        // Of a family without a stranger nothing was to be asked.
        let Some(from) = from else { continue };
        let answer_to = SocketAddr::new(from, source_port(entry.id));
        cx.ledger.enter_flow(entry, proto, to.port(), answer_to);
        evidence.stimuli.push(Stimulus {
            id: entry.id,
            at_ms: cx.clock.now_ms(),
            proto,
            to,
            via: Via::Source(from),
            what: if proto == Proto::Tcp { "SYN from outside" } else { "DHT question from outside" }.to_owned(),
            fate: Fate::NotSent { reason: "nobody outside has sent it".to_owned() },
            traced: false,
        });
    }
}

/// Which ports of `address` are to be asked, among the ends of sockets that wait.
fn asked_ports(
    waiting: &[(Proto, SocketAddr)],
    address: IpAddr,
    usual: &BTreeSet<u16>,
    leave: &BTreeSet<u16>,
) -> BTreeSet<(Proto, u16)> {
    // What waits on all addresses of IPv6 waits on those of IPv4 too, unless it refuses to, which the tables do not tell.
    let everywhere = |ip: IpAddr| ip.is_unspecified() && (ip.is_ipv6() || address.is_ipv4());
    let here = |at: &SocketAddr| everywhere(at.ip()) || at.ip() == address;
    let open: BTreeSet<(Proto, u16)> =
        waiting.iter().filter(|(_, at)| here(at)).map(|(proto, at)| (*proto, at.port())).collect();
    let wanted = |(proto, port): &(Proto, u16)| {
        let torrent = usual.contains(port) || open.contains(&(Proto::Tcp, *port));
        !leave.contains(port) && (*proto == Proto::Tcp || torrent)
    };
    open.iter().copied().filter(wanted).collect()
}

/// Sockets that wait, out of tables that are proven to tell of one.
fn waiting() -> io::Result<Vec<(Proto, SocketAddr)>> {
    let control = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let own = (Proto::Tcp, control.local_addr()?);
    let mut found: Vec<(Proto, SocketAddr)> = sockets::waiting(&sockets::list()).collect();
    if !found.contains(&own) {
        return Err(io::Error::other("a socket made as a control is not in them"));
    }
    found.retain(|socket| *socket != own);
    Ok(found)
}

/// What comes in while the runner asks from outside.
pub struct Arrivals;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Watch {
    /// How long.
    watch_ms: u64,
    /// For what is sent to there.
    to: Vec<SocketAddr>,
}

impl Technique for Arrivals {
    fn name(&self) -> &'static str {
        ARRIVALS
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<Watch>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, _trial: Arc<str>, params: Value) -> Work<'a> {
        Box::pin(async move {
            let mut evidence = Evidence { from_ms: cx.clock.now_ms(), ..Evidence::default() };
            let clock = cx.clock;
            match read::<Watch>(&params) {
                Ok(params) => {
                    let watched = tokio::task::spawn_blocking(move || watch(&clock, &params)).await;
                    match watched.map_err(io::Error::other).and_then(|watched| watched) {
                        Ok(answers) => evidence.answers = answers,
                        Err(error) => evidence.problems.push(format!("what comes in could not be seen: {error}")),
                    }
                }
                Err(problem) => evidence.problems.push(problem),
            }
            evidence.to_ms = cx.clock.now_ms();
            evidence
        })
    }
}

fn watch(clock: &Clock, params: &Watch) -> io::Result<Vec<Answer>> {
    let of = |ether_type, v6: bool| (ether_type, params.to.iter().any(|to| to.is_ipv6() == v6));
    let wanted = [of(ETHERTYPE_IPV4, false), of(ETHERTYPE_IPV6, true)].into_iter().filter(|(_, any)| *any);
    // A thread is in the namespace of the one that made it.
    std::thread::scope(|scope| {
        let watchers: Vec<_> =
            wanted.map(|(ether_type, _)| scope.spawn(move || watch_one(clock, params, ether_type))).collect();
        let mut answers = Vec::new();
        for watcher in watchers {
            answers.extend(watcher.join().map_err(|_| io::Error::other("a thread that watches broke off"))??);
        }
        Ok(answers)
    })
}

fn watch_one(clock: &Clock, params: &Watch, ether_type: u16) -> io::Result<Vec<Answer>> {
    // A packet socket of one EtherType is given incoming packets alone.
    let protocol = Protocol::from(i32::from(ether_type.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
    let _ = socket.set_recv_buffer_size(BUFFER);
    socket.set_read_timeout(Some(PATIENCE))?;
    let until = Instant::now() + Duration::from_millis(params.watch_ms.min(LONGEST_MS));
    let mut seen = BTreeSet::new();
    let mut answers = Vec::new();
    let mut buffer = [0; 2048];
    while Instant::now() < until && answers.len() < MAX_ARRIVALS {
        let length = match io::Read::read(&mut &socket, &mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let packet = Packet::decode(ether_type, buffer.get(..length).unwrap_or_default());
        let (proto, mut from, to) = (packet.proto, packet.src, packet.dst);
        let begins = match proto {
            Proto::Tcp => packet.flags & (SYN | ACK) == SYN,
            Proto::Udp => true,
            // An echo question is told from others by its identifier.
            Proto::Icmp | Proto::Icmpv6 => {
                from.set_port((packet.sequence >> 16) as u16);
                matches!(packet.icmp_type, Some(ECHO | ECHO_V6))
            }
            _ => false,
        };
        if begins && !lacks(Handicap::Arrivals) && params.to.contains(&to) && seen.insert((proto, from, to)) {
            let said = Said::Arrived { proto, from, to, published: false };
            answers.push(Answer { at_ms: clock.now_ms(), witness: format!("{proto} {to}"), said });
        }
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_what_waits_on_the_uplink_and_is_not_meant_to_is_asked() {
        let waiting = [
            (Proto::Tcp, at("0.0.0.0:6881")),
            (Proto::Udp, at("[::]:6881")),
            (Proto::Tcp, at("10.64.0.2:7000")),
            (Proto::Tcp, at("127.0.0.1:9999")),
            (Proto::Tcp, at("[::]:8080")),
            (Proto::Udp, at("0.0.0.0:51000")),
            (Proto::Tcp, at("172.18.0.10:53")),
        ];
        let asked = asked_ports(&waiting, "172.18.0.10".parse().unwrap(), &[6881].into(), &[8080, 53].into());
        assert_eq!(asked, [(Proto::Tcp, 6881), (Proto::Udp, 6881)].into());
        // Over IPv6 only what waits on IPv6 too.
        let asked = asked_ports(&waiting, "2001:db8:18::10".parse().unwrap(), &[6881].into(), &[53].into());
        assert_eq!(asked, [(Proto::Udp, 6881), (Proto::Tcp, 8080)].into());
    }

    #[test]
    fn a_socket_that_waits_is_found() {
        let open = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let found = waiting().unwrap();
        assert!(found.contains(&(Proto::Tcp, open.local_addr().unwrap())));
    }
}
