//! An ear on the container's host: listens to links that were not there when it began, which is what Docker makes for a container that it
//! starts, and takes in what comes from inside. What of it belongs to the stack, and what may be, is known afterwards only; so packets that
//! are alike are counted, and the first of each kind is kept. It sends nothing.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::protocol::Overhearing;
use crate::clock::Clock;
use crate::model::evidence::{Boot, Class, Detail, Proto, Sighting};
use crate::sensor::decode::Packet;
use crate::sensor::filter;
use crate::sensor::ledger::Ledger;
use crate::sensor::ring::{BLOCKS, Frame, Ring};

/// How long the thread sleeps at most when nothing comes.
const POLL_MS: u16 = 20;
/// Kinds of packets that are told apart; more are a problem of their own.
const MAX_KINDS: usize = 20_000;
/// Octets of a packet that are kept.
const KEPT: usize = 256;
/// Packets that are taken in before it is looked whether to end, and after that: a flood must not keep the thread from its end.
const TURN: usize = 1024;
const LAST_TURN: usize = 1 << 18;
/// Octets of a payload in which alike packets are alike: the type of WireGuard's, and no counter.
const HEAD: usize = 4;
/// What [`Kind::source`] is where sources do not matter: a stimulus, whose port changes with each.
const ANY_PORT: u16 = 0;

/// An ear that listens. Dropping it ends its thread.
pub(super) struct Ear {
    clock: Clock,
    armed_ms: f64,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    /// The last link that was there before.
    known: u32,
    kinds: HashMap<Kind, Kept>,
    overflown: bool,
    dropped: u64,
    problems: Vec<String>,
}

/// What packets have in common that count as one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    index: u32,
    ether_type: u16,
    proto: Proto,
    source: (IpAddr, u16),
    to: SocketAddr,
    dies_at_once: bool,
    icmp_type: Option<u8>,
    length: usize,
    head: Vec<u8>,
    number: u32,
}

/// The first of a kind, and how many there were.
struct Kept {
    first_ms: f64,
    last_ms: f64,
    count: u64,
    length: u32,
    octets: Vec<u8>,
}

impl Ear {
    /// Begins to listen; it hears when this returns. Needs CAP_NET_RAW in the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn open(elapsed_ms: f64) -> io::Result<Self> {
        let clock = Clock::starting_at(elapsed_ms);
        let ring = Ring::open(BLOCKS)?;
        let known = crate::net::interfaces().iter().map(|link| link.index).max().unwrap_or_default();
        ring.filter(&filter::incoming_above(known))?;
        ring.listen()?;
        let shared = Arc::new(Shared { heard: Mutex::new(Heard { known, ..Heard::default() }), ..Shared::default() });
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("ear".into()).spawn(move || theirs.listen(ring, clock))?;
        Ok(Self { clock, armed_ms: clock.now_ms(), shared, thread: Some(thread) })
    }

    /// Ends it: what the stack of `order` was heard to send.
    pub(super) fn finish(mut self, order: &Overhearing) -> Boot {
        self.end();
        let heard = std::mem::take(&mut *self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner));
        let mut boot = heard.of_stack(order);
        (boot.armed_ms, boot.closed_ms) = (self.armed_ms, self.clock.now_ms());
        boot
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn listen(&self, mut ring: Ring, clock: Clock) {
        loop {
            // What has come before the word to stop is still read.
            let last = self.stop.load(Ordering::Relaxed);
            let waited = ring.wait(if last { 0 } else { POLL_MS });
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = waited {
                heard.problems.push(format!("the listener on the host could not wait for packets: {error}"));
                return;
            }
            let most = if last { LAST_TURN } else { TURN };
            let mut take = || ring.next(|frame| heard.take(clock.at_ms(frame.time.0, frame.time.1), &frame)).is_some();
            let drained = !(0..most).all(|_| take());
            if last && !drained {
                heard
                    .problems
                    .push("more packets came to the host's ends of the links than could be looked at".to_owned());
            }
            match ring.drops() {
                Ok(drops) => heard.dropped += u64::from(drops),
                Err(error) => heard.problems.push(format!("the drops of the listener could not be counted: {error}")),
            }
            if last {
                return;
            }
        }
    }
}

impl Heard {
    fn take(&mut self, at_ms: f64, frame: &Frame<'_>) {
        let packet = Packet::decode(frame.ether_type, frame.octets);
        let kind = Kind::of(frame.index, frame.ether_type, &packet);
        if let Some(kept) = self.kinds.get_mut(&kind) {
            kept.last_ms = at_ms;
            kept.count += 1;
        } else if self.kinds.len() >= MAX_KINDS {
            self.overflown = true;
        } else {
            let octets = frame.octets[..frame.octets.len().min(KEPT)].to_vec();
            self.kinds.insert(kind, Kept { first_ms: at_ms, last_ms: at_ms, count: 1, length: frame.length, octets });
        }
    }

    fn of_stack(self, order: &Overhearing) -> Boot {
        let mut boot = Boot { dropped: self.dropped, problems: self.problems, ..Boot::default() };
        if self.overflown {
            boot.problems.push(format!("more than {MAX_KINDS} kinds of packets came, so not all were looked at"));
        }
        let played = Played::new(order.nonce);
        for (kind, kept) in self.kinds {
            let Some((link, _)) = order.peers.iter().find(|(_, index)| *index == kind.index) else { continue };
            if !boot.links.contains(link) {
                boot.links.push(link.clone());
            }
            boot.packets += kept.count;
            let packet = Packet::decode(kind.ether_type, &kept.octets);
            let ours = played.sent(&packet);
            if !ours {
                boot.first_ms = earliest(boot.first_ms, kept.first_ms);
            }
            let class = order.allow.classify(&packet);
            let to_server = order.allow.endpoints.iter().any(|endpoint| endpoint.is_aimed_at(&packet));
            if class.is_none() && to_server && !ours {
                boot.server_ms = earliest(boot.server_ms, kept.first_ms);
            }
            let class = match class {
                Some(Class::Offence) if ours && to_server => Class::Server,
                Some(class) => class,
                None => continue,
            };
            boot.sightings.push(Sighting {
                first_ms: kept.first_ms,
                last_ms: kept.last_ms,
                link: link.clone(),
                class,
                proto: packet.proto,
                src: packet.src,
                dst: packet.dst,
                count: kept.count,
                length: kept.length,
                wireguard: crate::sensor::allow::looks_like_wireguard(packet.payload, packet.payload_length),
                probe: ours.then(|| order.trial.clone()),
                stimulus: None,
                detail: Detail::default(),
            });
        }
        let deaf = order.peers.iter().filter(|(_, index)| *index <= self.known);
        boot.problems.extend(deaf.map(|(link, _)| {
            format!(
                "{link} has no end of its own on this host: what left by it while the container came up was not heard"
            )
        }));
        boot.links.sort();
        boot.sightings.sort_by(|a, b| a.first_ms.total_cmp(&b.first_ms));
        boot
    }
}

impl Kind {
    fn of(index: u32, ether_type: u16, packet: &Packet<'_>) -> Self {
        let dies_at_once = packet.ttl == 1;
        let port = if dies_at_once { ANY_PORT } else { packet.src.port() };
        // Stimuli of one kind are told from the next kind's by their payload's length and place; of a SYN the number tells whose it is.
        let number = if dies_at_once && packet.proto == Proto::Tcp { packet.sequence } else { 0 };
        Self {
            index,
            ether_type,
            proto: packet.proto,
            source: (packet.src.ip(), port),
            to: packet.dst,
            dies_at_once,
            icmp_type: packet.icmp_type,
            length: packet.payload_length,
            head: packet.payload[..packet.payload.len().min(HEAD)].to_vec(),
            number,
        }
    }
}

/// Knows the packets of the program that was played, whose ledger another process keeps.
struct Played {
    marker: Vec<u8>,
    sequence: u32,
}

impl Played {
    fn new(nonce: u32) -> Self {
        // Every marker of a run begins so; see `ledger::Entry`.
        let entry = Ledger::new(nonce).enter(&"".into());
        Self { marker: entry.marker().as_bytes()[..10].to_vec(), sequence: entry.sequence() >> 16 }
    }

    fn sent(&self, packet: &Packet<'_>) -> bool {
        let marked = packet.payload.windows(self.marker.len()).any(|window| window.eq_ignore_ascii_case(&self.marker));
        marked || packet.proto == Proto::Tcp && packet.ttl == 1 && packet.sequence >> 16 == self.sequence
    }
}

fn earliest(known: Option<f64>, at_ms: f64) -> Option<f64> {
    Some(known.map_or(at_ms, |known| known.min(at_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensor::allow::{AllowList, Endpoint, Shape};
    use etherparse::PacketBuilder;

    const IPV4: u16 = 0x0800;

    fn udp(to: [u8; 4], port: u16, ttl: u8, payload: &[u8]) -> Vec<u8> {
        let mut octets = Vec::new();
        PacketBuilder::ipv4([172, 18, 0, 10], to, ttl).udp(4000, port).write(&mut octets, payload).unwrap();
        octets
    }

    fn handshake() -> Vec<u8> {
        let mut payload = vec![1, 0, 0, 0];
        payload.resize(148, 7);
        udp([198, 51, 100, 2], 51820, 64, &payload)
    }

    fn hear(heard: &mut Heard, at_ms: f64, index: u32, octets: &[u8]) {
        let length = octets.len() as u32;
        heard.take(at_ms, &Frame { index, ether_type: IPV4, octets, length, time: (0, 0), tag: None });
    }

    fn order() -> Overhearing {
        let endpoint = Endpoint {
            address: "198.51.100.2:51820".parse().unwrap(),
            proto: Proto::Udp,
            shape: Shape::Wireguard,
            flow: None,
        };
        Overhearing {
            peers: vec![("eth0".to_owned(), 7)],
            nonce: 0x1234_abcd,
            trial: "boot".to_owned(),
            allow: AllowList { endpoints: vec![endpoint], local: vec!["172.18.0.0/16".parse().unwrap()] },
        }
    }

    #[test]
    fn what_the_stack_sends_is_told_from_what_others_do() {
        let mut heard = Heard::default();
        let marker = Ledger::new(0x1234_abcd).enter(&"boot".into()).marker();
        hear(&mut heard, 1.0, 7, &udp([172, 18, 0, 20], 8989, 64, b"local"));
        for at in [2.0, 3.0, 4.0] {
            hear(&mut heard, at, 7, &udp([8, 8, 8, 8], 40_000, 1, marker.as_bytes()));
        }
        hear(&mut heard, 5.0, 7, &udp([8, 8, 4, 4], 6881, 64, b"announce"));
        hear(&mut heard, 6.0, 7, &handshake());
        hear(&mut heard, 7.0, 8, &udp([9, 9, 9, 9], 53, 64, b"of another container"));
        let boot = heard.of_stack(&order());
        assert_eq!((boot.first_ms, boot.server_ms, boot.packets), (Some(1.0), Some(6.0), 6));
        let seen: Vec<_> = boot
            .sightings
            .iter()
            .map(|seen| (seen.dst.port(), seen.count, seen.probe.as_deref(), seen.last_ms))
            .collect();
        assert_eq!(seen, [(40_000, 3, Some("boot"), 4.0), (6881, 1, None, 5.0)]);
    }

    #[test]
    fn a_stimulus_is_no_control() {
        let mut heard = Heard::default();
        let marker = Ledger::new(0x1234_abcd).enter(&"boot".into()).marker();
        hear(&mut heard, 1.0, 7, &udp([198, 51, 100, 2], 51820, 1, marker.as_bytes()));
        let boot = heard.of_stack(&order());
        assert_eq!((boot.server_ms, boot.first_ms), (None, None));
        assert_eq!(boot.sightings.first().map(|seen| seen.class), Some(Class::Server));
    }

    #[test]
    fn too_many_kinds_are_a_problem() {
        let mut heard = Heard::default();
        for number in 0..=MAX_KINDS as u32 {
            hear(&mut heard, 1.0, 7, &udp(number.to_be_bytes(), 1, 64, b""));
        }
        assert!(heard.of_stack(&order()).problems.iter().any(|problem| problem.contains("kinds")));
    }
    #[test]
    fn a_link_that_has_no_end_of_its_own_here_is_told_of() {
        let heard = Heard { known: 5, ..Heard::default() };
        let mut order = order();
        order.peers.extend([("eth1".to_owned(), 2), ("eth2".to_owned(), 0)]);
        let told = heard.of_stack(&order).problems.join("; ");
        assert!(
            told.contains("eth1 has no end") && told.contains("eth2 has no end") && !told.contains("eth0"),
            "{told}"
        );
    }
}
