//! The sampler: a thread that sends one packet of every kind a thousand times a second, by the default route and bound to each uplink,
//! over IPv4 and IPv6, with TTL 1 and a marker each, and records what the kernel says. While the tunnel carries what goes by the default
//! route, those kinds take turns: a slow line must not be filled, nor its recovery hindered, by what is only there to be seen.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use socket2::{SockAddr, Socket};

use crate::clock::Clock;
use crate::model::evidence::{Fate, Proto, SampleCount, Via};
use crate::sensor::ledger::{Entry, Ledger};
use crate::technique::{echo_octets, fate_of, open, question, syn_octets};

/// Time between two rounds.
const PERIOD: Duration = Duration::from_millis(1);
const RAW_TCP: Proto = Proto::Ip(libc::IPPROTO_TCP as u8);

/// A running sampler. Dropping it ends its thread.
pub(super) struct Sampler {
    stop: Arc<AtomicBool>,
    full: Arc<AtomicBool>,
    shared: Arc<Mutex<Vec<Tally>>>,
    gap: Arc<Mutex<f64>>,
    thread: Option<JoinHandle<()>>,
}

/// What became of one kind of packet, times since the start of the run.
#[derive(Debug, Clone)]
struct Tally {
    id: u32,
    what: String,
    sent: u64,
    refused: u64,
    refusal: Option<String>,
    refusals_since_ms: Option<f64>,
    last_sent_ms: Option<f64>,
}

struct Kind {
    entry: Entry,
    proto: Proto,
    to: SocketAddr,
    via: Via,
    payload: Vec<u8>,
    socket: Option<Socket>,
    rounds: u32,
}

impl Sampler {
    /// Prepares the sockets and starts. `links` are the uplinks.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(
        clock: Clock,
        ledger: &Ledger,
        trial: &Arc<str>,
        uplinks: &[String],
        canary: &str,
    ) -> io::Result<Sampler> {
        let mut kinds = Vec::new();
        let ways = std::iter::once(Via::Default).chain(uplinks.iter().map(|name| Via::Device(name.clone())));
        for via in ways {
            for (proto, to) in targets() {
                let entry = ledger.enter(trial);
                let payload = match (proto, to.port()) {
                    (Proto::Udp, 53) => question(&entry, canary, to.ip()),
                    (Proto::Icmp | Proto::Icmpv6, _) => echo_octets(to.is_ipv6(), entry.marker().as_bytes()),
                    _ => entry.marker().into_bytes(),
                };
                kinds.push(Kind { entry, proto, to, via: via.clone(), payload, socket: None, rounds: 0 });
            }
        }
        let tallies = kinds.iter().map(Kind::tally).collect();
        let shared = Arc::new(Mutex::new(tallies));
        let gap = Arc::new(Mutex::new(0.0));
        let (stop, full) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (theirs, their_gap) = (Arc::clone(&shared), Arc::clone(&gap));
        let (their_stop, their_full) = (Arc::clone(&stop), Arc::clone(&full));
        let thread = thread::Builder::new()
            .name("sampler".into())
            .spawn(move || sample(clock, kinds, &theirs, &their_gap, &their_stop, &their_full))?;
        Ok(Sampler { stop, full, shared, gap, thread: Some(thread) })
    }

    /// Whether every kind goes out in every round, or those by the default route take turns, as at the start.
    pub(super) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    /// Forgets the gaps so far: called when all is set up and the outage begins.
    pub(super) fn begin(&self) {
        *self.gap.lock().unwrap_or_else(PoisonError::into_inner) = 0.0;
    }

    /// Ends sampling. Counts, and the longest gap in milliseconds; times since `from_ms`.
    pub(super) fn finish(mut self, from_ms: f64) -> (Vec<SampleCount>, f64) {
        self.end();
        let tallies = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = tallies
            .iter()
            .map(|tally| SampleCount {
                stimulus: tally.id,
                what: tally.what.clone(),
                sent: tally.sent,
                refused: tally.refused,
                refusal: tally.refusal.clone(),
                first_refusal_ms: tally.refusals_since_ms.map(|at| at - from_ms),
            })
            .collect();
        (counts, *self.gap.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.end();
    }
}

/// What is sampled: name resolution, a high port, a torrent port, web, and echo requests, over both families.
fn targets() -> Vec<(Proto, SocketAddr)> {
    let google4 = IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8));
    let google6 = IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888));
    let mut found = Vec::new();
    for (ip, icmp) in [(google4, Proto::Icmp), (google6, Proto::Icmpv6)] {
        found.push((Proto::Udp, SocketAddr::new(ip, 53)));
        found.push((Proto::Udp, SocketAddr::new(ip, 40_000)));
        found.push((Proto::Udp, SocketAddr::new(ip, 6881)));
        found.push((RAW_TCP, SocketAddr::new(ip, 443)));
        found.push((icmp, SocketAddr::new(ip, 0)));
    }
    found
}

fn sample(
    clock: Clock,
    mut kinds: Vec<Kind>,
    shared: &Mutex<Vec<Tally>>,
    gap: &Mutex<f64>,
    stop: &AtomicBool,
    full: &AtomicBool,
) {
    let Ok(mut next) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return };
    let mut before: Option<f64> = None;
    let by_default = kinds.iter().filter(|kind| kind.via == Via::Default).count().max(1);
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        let now = clock.now_ms();
        if let Some(before) = before {
            let mut longest = gap.lock().unwrap_or_else(PoisonError::into_inner);
            *longest = longest.max(now - before);
        }
        before = Some(now);
        {
            let mut tallies = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let all = full.load(Ordering::Relaxed);
            // The kinds by the default route stand first.
            for (place, (kind, tally)) in kinds.iter_mut().zip(tallies.iter_mut()).enumerate() {
                if all || place >= by_default || place == round % by_default {
                    tally.count(now, kind.send());
                }
            }
            round += 1;
        }
        next = next + TimeSpec::from_duration(PERIOD);
        // A round that came too late is not made up for: the gap is on record, a burst would prove nothing.
        match clock_gettime(ClockId::CLOCK_MONOTONIC) {
            Ok(now) if now > next => next = now,
            Ok(_) | Err(_) => {
                let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &next);
            }
        }
    }
}

impl Kind {
    fn tally(&self) -> Tally {
        let proto = if self.proto == RAW_TCP { Proto::Tcp } else { self.proto };
        let what = format!("{proto} to {} {}", self.to, self.via);
        Tally {
            id: self.entry.id,
            what,
            sent: 0,
            refused: 0,
            refusal: None,
            refusals_since_ms: None,
            last_sent_ms: None,
        }
    }

    fn send(&mut self) -> io::Result<()> {
        // A socket keeps its route's source address only while it is connected, so these never are: each packet takes the way of the moment.
        if self.socket.is_none() {
            self.socket = Some(open(self.proto, self.to.ip(), &self.via)?);
        }
        let Some(socket) = &self.socket else { return Ok(()) };
        if self.proto == RAW_TCP {
            self.rounds = self.rounds.wrapping_add(1);
            let from = source(self.to, &self.via)?;
            let port = 32_768 + (self.rounds % 28_000) as u16;
            let octets = syn_octets(from, port, self.to, self.entry.sequence())?;
            return socket.send_to(&octets, &SockAddr::from(SocketAddr::new(self.to.ip(), 0))).map(drop);
        }
        socket.send_to(&self.payload, &SockAddr::from(self.to)).map(drop)
    }
}

/// The address from which the kernel would send now: connecting a datagram socket asks it, and sends nothing.
fn source(to: SocketAddr, via: &Via) -> io::Result<IpAddr> {
    let socket = open(Proto::Udp, to.ip(), via)?;
    socket.connect(&SockAddr::from(to))?;
    let address = socket.local_addr()?.as_socket();
    address.map(|address| address.ip()).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

impl Tally {
    fn count(&mut self, now: f64, result: io::Result<()>) {
        match result {
            Ok(()) => {
                self.sent += 1;
                self.last_sent_ms = Some(now);
                self.refusals_since_ms = None;
            }
            Err(error) => {
                if let Fate::Refused { name, .. } = fate_of(&error) {
                    self.refused += 1;
                    self.refusal.get_or_insert(name);
                    self.refusals_since_ms.get_or_insert(now);
                }
            }
        }
    }
}
