//! A program that joined the namespace as soon as there was one, and sends: what a dependent is that does not wait for the VPN's health.
//! Its packets are the sampler's, with TTL 1 and a marker each, two thousand of each kind in a second.

use std::io;
use std::sync::Arc;

use super::sampler::Sampler;
use crate::agent::protocol::{Stimulation, Stimuli};
use crate::clock::Clock;
use crate::sensor::ledger::Ledger;

/// The program, as long as it sends.
pub struct Early {
    sampler: Sampler,
    from_ms: f64,
}

impl Early {
    /// Begins to send, by the default route and by each of `uplinks`.
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub fn start(order: &Stimulation, uplinks: &[String]) -> io::Result<Self> {
        let clock = Clock::starting_at(order.elapsed_ms);
        let trial: Arc<str> = order.trial.as_str().into();
        let sampler = Sampler::plain(clock, &Ledger::new(order.nonce), &trial, uplinks, &order.canary)?;
        Ok(Self { sampler, from_ms: clock.now_ms() })
    }

    /// Ends it.
    pub fn finish(self) -> Stimuli {
        Stimuli { from_ms: self.from_ms, samples: self.sampler.finish().counts, ..Stimuli::default() }
    }
}
