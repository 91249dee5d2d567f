//! Techniques that ask name servers, against one that answers as in `udp.rs`, and besides with everything that the format of names invites
//! to: pointers in circles, counts that lie, names that are names of other names for ever, answers that are only to be had over TCP and
//! broken there.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use leakcheck::agent::protocol::Setup;
use leakcheck::model::evidence::Said;
use leakcheck::technique::{addresses, lookup_marked};

use crate::answers::{self, EXIT, POISON};
use crate::mutate::Mutator;
use crate::udp::not_asked;
use crate::world::{self, RESOLVER};
use crate::{Body, went_on};

pub const TRIALS: &[(&str, Body)] = &[("technique::names", names), ("technique::resolvers", resolvers)];
const PORT: u16 = 53;
/// Questions at once.
const AT_ONCE: usize = 32;
/// Where a router's own resolver stands.
const ROUTER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 54);

/// A question for the address of `name`.
pub fn question(id: u16, name: &str) -> Result<Vec<u8>, String> {
    let name = Name::from_ascii(name).map_err(|error| error.to_string())?;
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, RecordType::A)).to_vec().map_err(|error| error.to_string())
}

/// Answers to `question` made by hand, each with one thing that readers of names have fallen for.
pub fn horrors(question: &[u8]) -> Vec<Vec<u8>> {
    let Some(id) = question.get(..2) else { return Vec::new() };
    let head = |counts: [u16; 4]| {
        let counts: Vec<u8> = counts.iter().flat_map(|count| count.to_be_bytes()).collect();
        [id, &[0x81, 0x80], &counts].concat()
    };
    let asked = question.get(12..).unwrap_or_default();
    let record = |name: &[u8], kind: u16, length: u16, data: &[u8]| {
        [name, &kind.to_be_bytes(), &[0, 1, 0, 0, 0, 60], &length.to_be_bytes(), data].concat()
    };
    let here = 12 + asked.len();
    let pointer = |to: usize| (0xc000 | (to as u16 & 0x3fff)).to_be_bytes();
    let with = |counts, parts: &[&[u8]]| [head(counts), asked.to_vec(), parts.concat()].concat();
    // Each pointer points at the one before: a chain as long as the message.
    let chain: Vec<u8> = (0..8_000).flat_map(|number| pointer(here.max(12) + 2 * number)).collect();
    let label = [&[63][..], &[b'a'; 63]].concat();
    let many: Vec<u8> = (0..4_000).flat_map(|_| record(&pointer(12), 1, 4, &EXIT.octets())).collect();
    let texts: Vec<u8> = [255].iter().chain(&[0x1b; 255]).copied().collect();
    vec![
        // A name that is itself, one that is the other's, and one that lies ahead.
        with([1, 1, 0, 0], &[&record(&pointer(here), 1, 4, &EXIT.octets())]),
        with([1, 1, 0, 0], &[&record(&[&pointer(here + 2)[..], &pointer(here)].concat(), 1, 4, &EXIT.octets())]),
        with([1, 1, 0, 0], &[&record(&pointer(here + 400), 1, 4, &EXIT.octets())]),
        with([1, 1, 0, 0], &[&pointer(12), &chain]),
        // A name of more than 255 octets, and one that never ends.
        with([1, 1, 0, 0], &[&record(&[label.repeat(5), vec![0]].concat(), 1, 4, &EXIT.octets())]),
        with([1, 1, 0, 0], &[&label.repeat(900)]),
        // Counts of records that are not there, and many that are.
        with([1, 0xffff, 0xffff, 0xffff], &[]),
        [head([0xffff, 0, 0, 0]), asked.repeat(100)].concat(),
        with([1, 4_000, 0, 0], &[&many]),
        // Lengths that reach beyond the end, or end within the data.
        with([1, 1, 0, 0], &[&record(&pointer(12), 1, 0xffff, &EXIT.octets())]),
        with([1, 1, 0, 0], &[&record(&pointer(12), 28, 1, &EXIT.octets())]),
        with([1, 1, 0, 0], &[&record(&pointer(12), 16, 25_600, &texts.repeat(100))]),
        with([1, 1, 0, 1], &[&record(&pointer(12), 5, 2, &pointer(12)), &record(&[0], 41, 0xfff0, &[0xff; 40])]),
        // A name that is another name of itself.
        with([1, 1, 0, 0], &[&record(&pointer(12), 5, 2, &pointer(12))]),
    ]
}

/// Says that the name is another name for a fresh one, for ever.
fn never_ending(question: &[u8], number: u64) -> Option<Vec<u8>> {
    let asked = Message::from_vec(question).ok()?;
    let query = asked.queries.first()?.clone();
    let mut answer = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    let target = Name::from_ascii(format!("chase{number}.example.com.")).ok()?;
    answer.add_answer(Record::from_rdata(query.name().clone(), 60, RData::CNAME(CNAME(target))));
    answer.add_query(query);
    answer.to_vec().ok()
}

/// Stands at `at`, over UDP and TCP, until the process ends; counts its answers.
fn start(at: IpAddr) -> Result<Arc<AtomicU64>, String> {
    let failed = |error: std::io::Error| format!("the name server cannot stand at {at}: {error}");
    let socket = UdpSocket::bind((at, PORT)).map_err(failed)?;
    let stranger = UdpSocket::bind("127.0.0.66:0").map_err(failed)?;
    let listener = TcpListener::bind((at, PORT)).map_err(failed)?;
    let sent = Arc::new(AtomicU64::new(0));
    let (by_datagram, by_stream) = (Arc::clone(&sent), Arc::clone(&sent));
    thread::spawn(move || {
        let mut mutator = Mutator::new(1);
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            for (octets, own) in datagrams(&mut mutator, &buffer[..length], by_datagram.load(Ordering::Relaxed)) {
                let socket = if own { &socket } else { &stranger };
                // An asker that is gone is no reason to end, nor is an answer longer than a datagram can be.
                let _ = socket.send_to(&octets, peer);
                by_datagram.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    thread::spawn(move || {
        let mut mutator = Mutator::new(2);
        for stream in listener.incoming().flatten() {
            // A client that hangs up is none that can be answered.
            let _ = stream_answers(&mut mutator, stream, &by_stream);
        }
    });
    Ok(sent)
}

/// Answers to one question, and whether they come from where they should.
fn datagrams(mutator: &mut Mutator, question: &[u8], number: u64) -> Vec<(Vec<u8>, bool)> {
    let Some(honest) = answers::dns(question, EXIT) else { return Vec::new() };
    let mut all = Vec::new();
    all.extend(answers::dns(question, POISON).map(|lie| (lie, false)));
    all.extend(not_asked(mutator, question, answers::dns).map(|lie| (lie, true)));
    match mutator.below(16) {
        0 => all.extend(never_ending(question, number).map(|octets| (octets, true))),
        1 => {
            let horrors = horrors(question);
            let at = mutator.below(horrors.len());
            all.push((horrors[at].clone(), true));
        }
        2 => {
            // Truncated: to be had over TCP.
            let mut truncated = honest.clone();
            truncated[2] |= 2;
            all.push((truncated, true));
        }
        _ => {
            let good = [honest.clone()];
            all.extend((0..4).map(|_| (mutator.of(&good), true)));
        }
    }
    all.push((honest, true));
    all
}

fn stream_answers(mutator: &mut Mutator, mut stream: TcpStream, sent: &AtomicU64) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    stream.set_write_timeout(Some(Duration::from_millis(200)))?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut question)?;
    let Some(honest) = answers::dns(&question, EXIT) else { return Ok(()) };
    let horrors = horrors(&question);
    let good = [honest.clone()];
    for _ in 0..1 + mutator.below(4) {
        let octets = match mutator.below(4) {
            0 => horrors[mutator.below(horrors.len())].clone(),
            1 => not_asked(mutator, &question, answers::dns).unwrap_or_default(),
            _ => mutator.of(&good),
        };
        let claimed = if mutator.below(8) == 0 { mutator.below(0x10000) as u16 } else { octets.len() as u16 };
        stream.write_all(&claimed.to_be_bytes())?;
        stream.write_all(&octets)?;
        sent.fetch_add(1, Ordering::Relaxed);
    }
    if mutator.below(2) == 0 {
        stream.write_all(&(honest.len() as u16).to_be_bytes())?;
        stream.write_all(&honest)?;
        sent.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Looking up names: what everything that has to find a host does first.
fn names(count: u64) -> Result<u64, String> {
    let server: IpAddr = RESOLVER.parse().map_err(|_| "no address")?;
    let sent = start(server)?;
    world::as_agent(async || {
        let (mut number, mut found) = (0, 0);
        while sent.load(Ordering::Relaxed) < count / 4 {
            let asked = (0..AT_ONCE).map(|at| async move {
                let name = format!("name{number}-{at}.example.com");
                if at % 2 == 0 {
                    return lookup_marked(server, &name).await;
                }
                match addresses(&[server], &name).await {
                    Ok(found) => Said::Resolved { ip: found.first().copied() },
                    Err(error) => Said::Nothing { error },
                }
            });
            for answer in join_all(asked).await {
                world::said(&answer)?;
                found += usize::from(answer == Said::Resolved { ip: Some(EXIT.into()) });
            }
            number += 1;
            went_on();
        }
        if found == 0 && count > 0 {
            Err("no honest answer was ever found".to_owned())
        } else {
            Ok(sent.load(Ordering::Relaxed))
        }
    })?
}

/// The techniques whose subject are resolvers.
fn resolvers(count: u64) -> Result<u64, String> {
    let servers = [RESOLVER.parse().map_err(|_| "no address")?, IpAddr::V4(ROUTER)];
    let sent: Vec<Arc<AtomicU64>> = servers.into_iter().map(start).collect::<Result<_, _>>()?;
    let setup = Setup {
        echo_dns: ["whoami.akamai.net", "o-o.myaddr.l.google.com"].map(str::to_owned).into(),
        must_reach: vec!["tcp://service.lan:1".to_owned(); 4],
        ..world::setup()
    };
    world::as_agent(async || {
        let mut cx = world::context(setup, vec![IpAddr::V4(ROUTER)])?;
        let sum = || sent.iter().map(|sent| sent.load(Ordering::Relaxed)).sum();
        loop {
            for name in ["resolver-path", "local-names", "local-resolvers", "local-targets"] {
                world::run(&mut cx, name, AT_ONCE).await?;
            }
            if sum() >= count / 100 {
                return Ok(sum());
            }
        }
    })?
}
