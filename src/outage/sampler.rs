//! The sampler: a thread that sends one packet of every kind two thousand times a second, by the default route and bound to each uplink,
//! over IPv4 and IPv6, as root and as the users of the stack's programs, with TTL 1 and a marker each, and records what the kernel says.
//! While the tunnel carries what goes by the default route, those kinds take turns: a slow line must not be filled, nor its recovery
//! hindered, by what is only there to be seen.
//!
//! One system call to a packet: sendmmsg(2) ends at the first that is refused, and while the tunnel is down all of them are.

mod kind;
mod pace;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock::Clock;
use crate::model::evidence::{Fate, Pace, SampleCount, Via};
use crate::sensor::ledger::Ledger;
use crate::technique::{Context, fate_of};
use kind::{Kind, Sources};
use pace::Pacer;

/// How long it sleeps at a time when it rests.
const REST: Duration = Duration::from_millis(10);

/// A running sampler. Dropping it ends its thread.
pub(super) struct Sampler {
    orders: Arc<Orders>,
    /// Users as whom nothing could be sent, and why.
    pub(super) notes: Vec<String>,
    thread: Option<JoinHandle<Sampled>>,
}

#[derive(Default)]
struct Orders {
    stop: AtomicBool,
    full: AtomicBool,
    /// Only in one of so many rounds something goes by the default route; 0 is as 1.
    sparse: AtomicUsize,
    /// Nothing is sent for the time being.
    resting: AtomicBool,
    /// The outage has begun: counts from here on.
    begun: AtomicBool,
}

/// What came of it; times are milliseconds since the start of the run.
#[derive(Default)]
pub(super) struct Sampled {
    /// Per kind.
    pub(super) counts: Vec<SampleCount>,
    /// How regular it was.
    pub(super) pace: Pace,
    /// The longest time between two rounds.
    pub(super) longest_gap_ms: f64,
    /// The first refusal of a packet that went by the default route.
    pub(super) first_refusal_ms: Option<f64>,
}

/// What became of one kind of packet.
struct Tally {
    id: u32,
    what: String,
    by_default: bool,
    /// Whether it is bound to an uplink, and costs the tunnel nothing.
    bound: bool,
    sent: u64,
    refused: u64,
    refusal: Option<String>,
    first_refusal_ms: Option<f64>,
}

impl Sampler {
    /// Prepares the sockets and starts. `uplinks` are their names; for `lasting` see [`kind::all`].
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(cx: &Context, trial: &Arc<str>, uplinks: &[String], lasting: bool) -> io::Result<Sampler> {
        let (kinds, notes) = kind::all(cx, trial, uplinks, lasting);
        Self::of(cx.clock, kinds, notes)
    }

    /// As [`Sampler::start`], in a namespace of which nothing is known yet. Counts begin at once.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn plain(
        clock: Clock,
        ledger: &Ledger,
        trial: &Arc<str>,
        uplinks: &[String],
        canary: &str,
    ) -> io::Result<Sampler> {
        let sampler = Self::of(clock, kind::plain(ledger, trial, uplinks, canary), Vec::new())?;
        sampler.begin();
        Ok(sampler)
    }

    fn of(clock: Clock, kinds: Vec<Kind>, notes: Vec<String>) -> io::Result<Sampler> {
        let orders = Arc::new(Orders::default());
        let theirs = Arc::clone(&orders);
        let thread = thread::Builder::new().name("sampler".into()).spawn(move || sample(clock, kinds, &theirs))?;
        Ok(Sampler { orders, notes, thread: Some(thread) })
    }

    /// Whether every kind goes out in every round, or those by the default route take turns, as at the start.
    pub(super) fn set_full(&self, full: bool) {
        self.orders.full.store(full, Ordering::Relaxed);
    }

    /// Has something go by the default route in one of so many rounds, where those kinds take turns. What is bound to an uplink goes on.
    pub(super) fn set_sparse(&self, rounds: usize) {
        self.orders.sparse.store(rounds, Ordering::Relaxed);
    }

    /// Has it send nothing for a while. That time is no gap.
    pub(super) fn set_resting(&self, resting: bool) {
        self.orders.resting.store(resting, Ordering::Relaxed);
    }

    /// Counts of gaps and first refusals begin here: called when all is set up and the tunnel is about to be told to go.
    pub(super) fn begin(&self) {
        self.orders.begun.store(true, Ordering::Relaxed);
    }

    /// Ends sampling and tells what came of it; of a thread that broke off, nothing.
    pub(super) fn finish(mut self) -> Sampled {
        self.end().unwrap_or_default()
    }

    fn end(&mut self) -> Option<Sampled> {
        self.orders.stop.store(true, Ordering::Relaxed);
        self.thread.take()?.join().ok()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.end();
    }
}

/// The names of the ledger that a sampler needs, for its parts.
struct Entries<'a> {
    ledger: &'a Ledger,
    trial: &'a Arc<str>,
}

fn sample(clock: Clock, mut kinds: Vec<Kind>, orders: &Orders) -> Sampled {
    let mut tallies: Vec<Tally> = kinds.iter().map(Tally::of).collect();
    let mut sources = Sources::default();
    let mut pacer = Pacer::new();
    // Those that may take the tunnel stand first.
    let routed = tallies.iter().filter(|tally| !tally.bound).count();
    let (mut round, mut begun) = (0, false);
    while !orders.stop.load(Ordering::Relaxed) {
        if !begun && orders.begun.load(Ordering::Relaxed) {
            begun = true;
            pacer.forget();
        }
        if orders.resting.load(Ordering::Relaxed) {
            pacer.rest();
            thread::sleep(REST);
            continue;
        }
        let now = clock.now_ms();
        pacer.began(now);
        let all = orders.full.load(Ordering::Relaxed);
        let sparse = orders.sparse.load(Ordering::Relaxed).max(1);
        let turn = (round % sparse == 0).then(|| round / sparse % routed.max(1));
        for (place, (kind, tally)) in kinds.iter_mut().zip(&mut tallies).enumerate() {
            if all || place >= routed || Some(place) == turn {
                tally.count(begun.then_some(now), kind.send(&mut sources, round));
            }
        }
        round += 1;
        pacer.wait();
    }
    pacer.ended(clock.now_ms());
    let by_default = tallies.iter().filter(|tally| tally.by_default);
    Sampled {
        first_refusal_ms: by_default.filter_map(|tally| tally.first_refusal_ms).reduce(f64::min),
        counts: tallies.into_iter().map(Tally::into_count).collect(),
        longest_gap_ms: pacer.longest_ms(),
        pace: pacer.into_pace(),
    }
}

impl Tally {
    fn of(kind: &Kind) -> Self {
        Tally {
            id: kind.id(),
            what: kind.describe(),
            by_default: *kind.via() == Via::Default,
            bound: matches!(kind.via(), Via::Device(_)),
            sent: 0,
            refused: 0,
            refusal: None,
            first_refusal_ms: None,
        }
    }

    /// `since_begun` is the time, once the outage has begun.
    fn count(&mut self, since_begun: Option<f64>, result: io::Result<()>) {
        match result {
            Ok(()) => self.sent += 1,
            Err(error) => {
                if let Fate::Refused { name, .. } = fate_of(&error) {
                    self.refused += 1;
                    if let (None, Some(now)) = (self.first_refusal_ms, since_begun) {
                        self.first_refusal_ms = Some(now);
                        self.refusal = Some(name);
                    }
                }
            }
        }
    }

    fn into_count(self) -> SampleCount {
        SampleCount {
            stimulus: self.id,
            what: self.what,
            sent: self.sent,
            refused: self.refused,
            refusal: self.refusal,
            first_refusal_ms: self.first_refusal_ms,
        }
    }
}
