//! Questions to witnesses over UDP: from a port of the kernel's choice and from those of the torrent client, sent again when no answer
//! comes, each entered in the ledger before it is sent.
//!
//! A socket on a port that another program has is bound beside the other's (SO_REUSEADDR, socket(7)) and connected at once, so that it
//! gets the witness's packets alone and takes none of the other's.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::{Context, names};
use crate::model::evidence::{Answer, Evidence, Fate, Proto, Said, Stimulus, Via};
use crate::sensor::ledger::Entry;

/// How long is waited after each time that a question is sent (RFC 8489, 6.2.1, cut short).
const WAITS: [Duration; 3] = [Duration::from_millis(500), Duration::from_millis(1000), Duration::from_millis(2000)];
/// Longer answers are cut, and so are none.
const MAX_ANSWER: usize = 4096;
/// Ports of other programs that are asked from at most, beside those that are configured.
const MAX_FOUND: usize = 2;
/// Ports below this are no torrent client's.
const FIRST_USER_PORT: u16 = 1024;

/// The ports from which is asked beside one of the kernel's choice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourcePorts {
    /// Can be bound.
    pub usable: Vec<u16>,
    /// Configured, but taken, and why.
    pub taken: Vec<(u16, String)>,
}

impl SourcePorts {
    /// Tries the configured ports, and those on which a program of this namespace waits for datagrams.
    pub fn find(configured: &[u16]) -> Self {
        let mut ports = SourcePorts::default();
        for port in configured {
            match try_port(*port) {
                Ok(()) => ports.usable.push(*port),
                Err(error) => ports.taken.push((*port, reason(&error))),
            }
        }
        let listed = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"]
            .iter()
            .flat_map(|path| waiting(&fs::read_to_string(path).unwrap_or_default()));
        let mut found: Vec<u16> = listed.filter(|port| !configured.contains(port)).collect();
        found.sort_unstable();
        found.dedup();
        ports.usable.extend(found.into_iter().filter(|port| try_port(*port).is_ok()).take(MAX_FOUND));
        ports
    }
}

/// Ports of udp(7)'s table in /proc on which somebody waits for datagrams from anybody, loopback aside.
fn waiting(table: &str) -> Vec<u16> {
    let lines = table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, remote) = (words.next()?, words.next()?);
        let (address, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        // 127.0.0.0/8 and ::1, in the machine's order of octets.
        let loopback = (address.len() == 8 && address.ends_with("7F"))
            || address == "00000000000000000000000001000000"
            || address == "0000000000000000FFFF00000100007F";
        let free = remote.ends_with(":0000") && !loopback;
        (free && port >= FIRST_USER_PORT).then_some(port)
    });
    lines.collect()
}

fn try_port(port: u16) -> io::Result<()> {
    bind(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port).map(drop)
}

/// A socket at `port`, or at one of the kernel's choice, that is not connected yet.
fn bind(like: IpAddr, port: u16) -> io::Result<Socket> {
    let open = |share_port: bool| -> io::Result<Socket> {
        let domain = if like.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        if like.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if port == 0 {
            return Ok(socket);
        }
        socket.set_reuse_address(true)?;
        if share_port {
            socket.set_reuse_port(true)?;
        }
        let any = if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        socket.bind(&SockAddr::from(SocketAddr::new(any, port)))?;
        Ok(socket)
    };
    open(false).or_else(|error| if error.kind() == io::ErrorKind::AddrInUse { open(true) } else { Err(error) })
}

/// A socket that talks to one witness, with what is put on record of it.
pub struct Line {
    socket: UdpSocket,
    stimulus: Stimulus,
    /// The local port.
    pub port: u16,
    /// Whether the witness is talked to over IPv6.
    pub v6: bool,
}

impl Line {
    /// A socket to `to`. When there is none, the reason and what goes on record.
    fn open(
        cx: &Context,
        trial: &Arc<str>,
        to: SocketAddr,
        from: u16,
        what: &str,
    ) -> Result<Self, Box<(Stimulus, String)>> {
        let entry = cx.ledger.enter(trial);
        let at_ms = cx.clock.now_ms();
        let record = |fate| stimulus(&entry, at_ms, to, what, fate);
        let connected = || -> io::Result<(UdpSocket, u16)> {
            let socket = bind(to.ip(), from)?;
            socket.connect(&SockAddr::from(to))?;
            let socket = UdpSocket::from_std(socket.into())?;
            let port = socket.local_addr()?.port();
            Ok((socket, port))
        };
        match connected() {
            Ok((socket, port)) => {
                cx.ledger.enter_flow(entry, Proto::Udp, port, to);
                let fate = Fate::NotSent { reason: "it did not come to that".to_owned() };
                Ok(Line { socket, stimulus: record(fate), port, v6: to.is_ipv6() })
            }
            Err(error) => Err(Box::new((record(super::fate_of(&error)), reason(&error)))),
        }
    }

    /// Sends `questions`, one after the other and the last again, until `read` takes a datagram for the answer.
    ///
    /// # Errors
    /// Why there is none: the kernel's refusal, what the witness says instead, or silence.
    pub async fn ask<T>(
        &mut self,
        questions: &[&[u8]],
        read: impl Fn(&[u8]) -> Option<Result<T, String>>,
    ) -> Result<T, String> {
        let mut why = "no answer in time".to_owned();
        for (number, wait) in WAITS.into_iter().enumerate() {
            let Some(question) = questions.get(number).or(questions.last()) else { break };
            match self.socket.send(question).await {
                Ok(_) => self.stimulus.fate = Fate::Sent,
                // That is an earlier packet's: the port was closed then.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => why = reason(&error),
                Err(error) => {
                    if self.stimulus.fate != Fate::Sent {
                        self.stimulus.fate = super::fate_of(&error);
                    }
                    return Err(reason(&error));
                }
            }
            let until = Instant::now() + wait;
            let mut buffer = [0; MAX_ANSWER];
            loop {
                match timeout_at(until, self.socket.recv(&mut buffer)).await {
                    Ok(Ok(length)) => {
                        if let Some(answer) = read(&buffer[..length]) {
                            return answer;
                        }
                        // A flood of what is no answer must not keep the clock from being looked at.
                        if Instant::now() >= until {
                            break;
                        }
                    }
                    // An ICMP error may be anybody's word: the rest of the time is still waited.
                    Ok(Err(error)) => {
                        why = reason(&error);
                        tokio::time::sleep_until(until).await;
                        break;
                    }
                    Err(_) => break,
                }
            }
        }
        Err(why)
    }
}

fn stimulus(entry: &Entry, at_ms: f64, to: SocketAddr, what: &str, fate: Fate) -> Stimulus {
    Stimulus {
        id: entry.id,
        at_ms,
        proto: Proto::Udp,
        to,
        via: Via::Default,
        what: what.to_owned(),
        fate,
        traced: false,
    }
}

/// A refusal in words that fit into a sentence.
fn reason(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ECONNREFUSED) => "its port is closed".to_owned(),
        Some(Errno::EADDRINUSE) => "the port is taken by a program that does not share it".to_owned(),
        Some(errno) => format!("the kernel refuses: {errno:?}"),
        None => error.to_string(),
    }
}

/// A witness, as configured.
pub struct Witness<'a> {
    /// What it is, for people: `STUN` …
    pub kind: &'a str,
    /// Name or address, IPv6 without brackets.
    pub host: &'a str,
    /// Port.
    pub port: u16,
}

impl Witness<'_> {
    fn label(&self, family: &str, from: u16) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_owned() };
        let from = if from == 0 { String::new() } else { format!(" from port {from}") };
        format!("{} {host}:{}{from}{family}", self.kind, self.port)
    }
}

/// Asks a witness over both families where it has both, from a port of the kernel's choice and from each of `ports`.
pub async fn ask_witness(
    cx: &Context,
    trial: &Arc<str>,
    witness: &Witness<'_>,
    ports: &[u16],
    question: impl AsyncFn(&mut Line) -> Result<IpAddr, String>,
) -> Evidence {
    let mut evidence = Evidence::default();
    let (servers, _) = names::nameservers(&cx.setup.resolv_conf);
    let addresses = match names::addresses(&servers, witness.host).await {
        Ok(addresses) => addresses,
        Err(error) => {
            let error = format!("its name could not be resolved: {error}");
            evidence.answers.push(cx.answer(witness.label("", 0), Said::Nothing { error }));
            return evidence;
        }
    };
    let v4 = addresses.iter().find(|address| address.is_ipv4());
    let v6 = addresses.iter().find(|address| address.is_ipv6());
    let question = &question;
    let asked = [v4, v6].into_iter().flatten().flat_map(|address| {
        std::iter::once(&0).chain(ports).map(move |from| async move {
            let family = if address.is_ipv4() { " (IPv4)" } else { " (IPv6)" };
            let to = SocketAddr::new(*address, witness.port);
            let what = format!("question to {}", witness.label("", *from));
            let (stimulus, said) = match Line::open(cx, trial, to, *from, &what) {
                Ok(mut line) => {
                    let said = question(&mut line).await;
                    (line.stimulus, said)
                }
                Err(refused) => (refused.0, Err(refused.1)),
            };
            let said = match said {
                Ok(ip) => Said::Exit { ip: ip.to_canonical(), of_provider: None },
                Err(error) => Said::Nothing { error },
            };
            (stimulus, cx.answer(witness.label(family, *from), said))
        })
    });
    let found: Vec<(Stimulus, Answer)> = futures_util::future::join_all(asked).await;
    (evidence.stimuli, evidence.answers) = found.into_iter().unzip();
    evidence
}

#[cfg(test)]
mod tests;
