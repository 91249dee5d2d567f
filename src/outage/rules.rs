//! The firewall's rules, watched while the tunnel is down: what they let pass then and did not before is tried at once, for a sampler's
//! packets are of a few kinds, and a rule may be about any other.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock::Clock;
use crate::model::evidence::{Fate, OpenedWhileDown, SampleCount, Stimulus, Via};
use crate::sensor::ledger::Ledger;
use crate::technique::{Context, Openings, Volley, aim_at};

/// Time between two looks. The kernel counts the changes, so that most looks cost a question of a few octets.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Rounds of packets, and the time between them.
const ROUNDS: usize = 4;
const BETWEEN: Duration = Duration::from_millis(5);
/// A firewall that is written anew over and over has been tried often enough by then.
const MAX_OPENED: usize = 64;

/// A running watch. Dropping it ends its thread.
pub(super) struct RulesWatch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Tried>>,
}

/// What came of it. Times are milliseconds since the start of the run.
#[derive(Default)]
pub(super) struct Tried {
    /// What became of the packets.
    pub(super) samples: Vec<SampleCount>,
    /// What was found open.
    pub(super) opened: Vec<OpenedWhileDown>,
}

/// What the thread needs.
struct Work {
    openings: Arc<Openings>,
    servers: Vec<SocketAddr>,
    ways: [Vec<Via>; 2],
    clock: Clock,
    ledger: Ledger,
    trial: Arc<str>,
}

impl RulesWatch {
    /// Watches the calling thread's network namespace.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(cx: &Context, trial: &Arc<str>) -> io::Result<Self> {
        let work = Work {
            openings: Arc::clone(&cx.openings),
            servers: cx.servers().collect(),
            ways: [cx.ways(false), cx.ways(true)],
            clock: cx.clock,
            ledger: cx.ledger.clone(),
            trial: Arc::clone(trial),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let thread = thread::Builder::new().name("rules".into()).spawn(move || work.watch(&ended))?;
        Ok(Self { stop, thread: Some(thread) })
    }

    pub(super) fn finish(mut self) -> Tried {
        self.end().unwrap_or_default()
    }

    fn end(&mut self) -> Option<Tried> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take()?.join().ok()
    }
}

impl Drop for RulesWatch {
    fn drop(&mut self) {
        self.end();
    }
}

impl Work {
    fn watch(&self, stop: &AtomicBool) -> Tried {
        let mut tried = Tried::default();
        self.openings.look(&self.servers, false);
        let mut known = self.openings.now();
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(LOOK_EVERY);
            // A VPN that comes back may take another server, which its firewall has to let it reach.
            if !self.openings.look(&self.servers, true) {
                continue;
            }
            let at_ms = self.clock.now_ms();
            let new: Vec<_> = self.openings.now().into_iter().filter(|opened| !known.contains(opened)).collect();
            if new.is_empty() || tried.opened.len() >= MAX_OPENED {
                continue;
            }
            let examples = self.openings.examples();
            let mut volley = Volley::new(self.clock, self.ledger.clone(), Arc::clone(&self.trial));
            for (v6, ways) in [false, true].into_iter().zip(&self.ways) {
                let of = |opening: &str| new.iter().any(|opened| opened.v6 == v6 && opened.rule == opening);
                let examples = examples.iter().filter(|example| example.dst.is_ipv6() == v6 && of(&example.opening));
                aim_at(&mut volley, examples, ways, ROUNDS);
            }
            for round in 0..ROUNDS {
                volley.fire(round);
                thread::sleep(BETWEEN);
            }
            tried.samples.extend(volley.stimuli().into_iter().map(sample));
            tried.opened.extend(new.iter().map(|opened| OpenedWhileDown { at_ms, rule: opened.rule.clone() }));
            known.extend(new);
        }
        tried
    }
}

fn sample(stimulus: Stimulus) -> SampleCount {
    let (sent, refused, refusal) = match &stimulus.fate {
        Fate::Sent => (1, 0, None),
        Fate::Refused { name, .. } => (0, 1, Some(name.clone())),
        Fate::NotSent { .. } => (0, 0, None),
    };
    SampleCount {
        stimulus: stimulus.id,
        what: format!("{} {}, as a rule lets pass", stimulus.what, stimulus.via),
        sent,
        refused,
        refusal,
        first_refusal_ms: (refused > 0).then_some(stimulus.at_ms),
    }
}
