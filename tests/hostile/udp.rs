//! Techniques that ask strangers over UDP, against a server that answers each question with broken answers, with others' answers, and mostly
//! with an honest one at the end; and against one that floods and never answers honestly.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use leakcheck::agent::protocol::Setup;
use leakcheck::model::evidence::Said;
use leakcheck::technique::Context;

use crate::answers::{self, EXIT, Honest, POISON};
use crate::mutate::Mutator;
use crate::{Body, world};

pub const TRIALS: &[(&str, Body)] = &[
    ("world", |_| Ok(0)),
    ("technique::exit-stun", exit_stun),
    ("technique::exit-dht", exit_dht),
    ("technique::exit-tracker_udp", exit_tracker),
    ("technique::gateway", gateway),
    ("technique::floods", floods),
];
/// Witnesses that one run of a technique asks, all of them the same server.
const WITNESSES: usize = 32;
/// Broken answers to one question: as many as a socket has room for.
const ROW: usize = 40;
/// Broken answers to one question of a flood.
const FLOOD: usize = 4_000;

/// A server and how many answers it has sent.
pub struct Server {
    /// Where it stands.
    pub at: SocketAddr,
    sent: Arc<AtomicU64>,
}

impl Server {
    /// Stands at `at` until the process ends. Each question gets a `row` of broken answers and an honest one, or, if it does not relent, of
    /// noise and answers to other questions alone.
    pub fn start(at: &str, honest: Honest, row: usize, relents: bool) -> Result<Server, String> {
        let failed = |error: std::io::Error| format!("the server cannot stand at {at}: {error}");
        let socket = UdpSocket::bind(at).map_err(failed)?;
        let stranger = UdpSocket::bind("127.0.0.66:0").map_err(failed)?;
        let at = socket.local_addr().map_err(failed)?;
        let sent = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&sent);
        thread::spawn(move || {
            let mut mutator = Mutator::new(at.port().into());
            let mut buffer = [0; 2048];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                let question = &buffer[..length];
                let Some(good) = honest(question, EXIT) else { continue };
                let good = [good];
                let foreign = not_asked(&mut mutator, question, honest);
                let send = |socket: &UdpSocket, octets: &[u8]| {
                    // An asker that is gone is no reason to end, nor is an answer longer than a datagram can be.
                    let _ = socket.send_to(octets, peer);
                    count.fetch_add(1, Ordering::Relaxed);
                };
                if let Some(lie) = honest(question, POISON) {
                    send(&stranger, &lie);
                }
                for number in 0..row {
                    if number % 8 == 0
                        && let Some(foreign) = &foreign
                    {
                        send(&socket, foreign);
                        continue;
                    }
                    let answer = if relents { mutator.of(&good) } else { mutator.noise(200) };
                    send(&socket, &answer);
                }
                if relents {
                    send(&socket, &good[0]);
                }
            }
        });
        Ok(Server { at, sent })
    }

    /// Answers so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// An answer that lies, whole but for its transaction: to a question that nobody asked.
pub fn not_asked(mutator: &mut Mutator, question: &[u8], honest: Honest) -> Option<Vec<u8>> {
    // Where protocols have their number: DNS, STUN, trackers, the DHT. What has none gets none.
    let span = match question.len() {
        20 => 8..20,
        16 | 98 => 12..16,
        length if question.starts_with(b"d1:a") => length - 15..length - 11,
        0..=2 | 24 => return None,
        _ if question.starts_with(b"M-S") => return None,
        _ => 0..2,
    };
    let mut other = question.to_vec();
    let at = span.start + mutator.below(span.len());
    other[at] ^= 1 << mutator.below(8);
    honest(&other, POISON)
}

/// Has technique `name` ask until the server has sent `count` answers.
fn ask(count: u64, name: &str, server: &Server, setup: Setup, gateways: Vec<IpAddr>) -> Result<u64, String> {
    world::as_agent(async || {
        let mut cx = world::context(setup, gateways)?;
        let mut found = 0;
        while server.sent() < count {
            let evidence = world::run(&mut cx, name, WITNESSES).await?;
            found += evidence.answers.iter().filter(|answer| told(&answer.said)).count();
        }
        // All this would be seen to do no harm by a technique that asks nobody, too.
        if found == 0 && count > 0 { Err("no honest answer was ever found".to_owned()) } else { Ok(server.sent()) }
    })?
}

fn told(said: &Said) -> bool {
    match said {
        Said::Exit { ip, .. } => *ip == IpAddr::V4(EXIT),
        Said::Mapper { external, .. } => *external == Some(IpAddr::V4(EXIT)),
        _ => false,
    }
}

/// The techniques' share of all answers.
fn share(count: u64) -> u64 {
    count / 4
}

fn host(server: &Server) -> (String, u16) {
    (server.at.ip().to_string(), server.at.port())
}

fn exit_stun(count: u64) -> Result<u64, String> {
    let server = Server::start("127.0.0.1:3478", answers::stun, ROW, true)?;
    let setup = Setup { echo_stun: vec![host(&server); WITNESSES], ..world::setup() };
    ask(share(count), "exit-stun", &server, setup, Vec::new())
}

fn exit_dht(count: u64) -> Result<u64, String> {
    let server = Server::start("127.0.0.1:6881", answers::dht, ROW, true)?;
    let setup = Setup { echo_dht: vec![host(&server); WITNESSES], ..world::setup() };
    ask(share(count), "exit-dht", &server, setup, Vec::new())
}

fn exit_tracker(count: u64) -> Result<u64, String> {
    let server = Server::start("127.0.0.1:6969", answers::tracker, ROW, true)?;
    let tracker = format!("udp://{}", server.at).parse()?;
    let setup = Setup { echo_tracker: vec![tracker; WITNESSES], ..world::setup() };
    ask(share(count), "exit-tracker", &server, setup, Vec::new())
}

/// Routers have no numbers to tell answers by: the first that comes counts, broken as it may be.
fn gateway(count: u64) -> Result<u64, String> {
    let _upnp = Server::start("127.0.0.1:1900", answers::router, 4, true)?;
    let server = Server::start("127.0.0.1:5351", answers::router, 4, true)?;
    ask(count / 100, "gateway", &server, world::setup(), vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])
}

/// Nothing but floods: each technique gives up in its own time, with nothing found.
fn floods(_: u64) -> Result<u64, String> {
    let servers = [
        Server::start("127.0.0.1:3478", answers::stun, FLOOD, false)?,
        Server::start("127.0.0.1:6881", answers::dht, FLOOD, false)?,
        Server::start("127.0.0.1:6969", answers::tracker, FLOOD, false)?,
    ];
    let [stun, dht, tracker] = &servers;
    let udp = format!("udp://{}", tracker.at).parse()?;
    let setup = Setup {
        echo_stun: vec![host(stun); 4],
        echo_dht: vec![host(dht); 4],
        echo_tracker: vec![udp; 4],
        ..world::setup()
    };
    world::as_agent(async || {
        let mut cx: Context = world::context(setup, Vec::new())?;
        let evidence = world::run(&mut cx, "exit-all", 12).await?;
        match evidence.parts.iter().flat_map(|(_, part)| part.exits()).next() {
            None => Ok(servers.iter().map(Server::sent).sum()),
            Some(ip) => Err(format!("{ip} was found where nobody said so")),
        }
    })?
}
