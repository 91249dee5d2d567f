//! Keeping the sampler's pace, and knowing how well it was kept. Its memory is touched in every round, so none of it has to be locked.

use std::time::Duration;

use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

use crate::model::evidence::Pace;
use crate::priority::ask_for_priority;

/// Time between two rounds: half of the shortest hole that has to be found, so that one falls into it whenever it opens.
pub(super) const PERIOD: Duration = Duration::from_micros(500);
/// Gaps from here on are counted.
const GAP_MS: f64 = 2.0;
/// After a round others get so many times as long as it took, even those of less priority: what carries the tunnel has to come back.
const PAUSE: u32 = 2;

/// See the head of this file.
pub(super) struct Pacer {
    next: Duration,
    /// What the thread had taken of a processor when the round began.
    spent: Duration,
    before_ms: Option<f64>,
    longest_ms: f64,
    pace: Pace,
}

impl Pacer {
    /// Begins now, and asks the scheduler for what it grants the calling thread.
    pub(super) fn new() -> Self {
        let priority = ask_for_priority().to_owned();
        let pace = Pace { period_ms: PERIOD.as_secs_f64() * 1000.0, priority, ..Pace::default() };
        let now = now();
        Pacer { next: now, spent: spent(), before_ms: None, longest_ms: 0.0, pace }
    }

    /// Forgets what was so far.
    pub(super) fn forget(&mut self) {
        self.before_ms = None;
        self.longest_ms = 0.0;
        let Pace { period_ms, priority, .. } = std::mem::take(&mut self.pace);
        self.pace = Pace { period_ms, priority, ..Pace::default() };
    }

    /// A round begins, at `now_ms` of the run.
    pub(super) fn began(&mut self, now_ms: f64) {
        self.spent = spent();
        self.pace.rounds += 1;
        self.gap(now_ms);
    }

    /// What follows begins anew: the time since the last round is no gap.
    pub(super) fn rest(&mut self) {
        self.before_ms = None;
    }

    /// There is no round after the last one: the time since it counts all the same.
    pub(super) fn ended(&mut self, now_ms: f64) {
        self.gap(now_ms);
    }

    fn gap(&mut self, now_ms: f64) {
        if let Some(before) = self.before_ms.replace(now_ms) {
            let gap = now_ms - before;
            self.pace.gaps += u64::from(gap >= GAP_MS);
            if gap > self.longest_ms {
                self.longest_ms = gap;
                self.pace.longest_at_ms = Some(before);
            }
        }
    }

    /// Sleeps until the next round. One that came too late is not made up for: the gap is on record, a burst would prove nothing.
    pub(super) fn wait(&mut self) {
        // Not the time that passed: one that was kept from running has taken nothing from anybody.
        let cost = spent().saturating_sub(self.spent);
        let earliest = now() + cost * PAUSE;
        self.next = (self.next + PERIOD).max(earliest);
        let until = TimeSpec::nanoseconds(self.next.as_nanos() as i64);
        let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &until);
    }

    /// The longest time between two rounds, in milliseconds.
    pub(super) fn longest_ms(&self) -> f64 {
        self.longest_ms
    }

    pub(super) fn into_pace(self) -> Pace {
        self.pace
    }
}

fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// What the calling thread has taken of a processor.
fn spent() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_counted_from_two_milliseconds_on_and_the_longest_is_placed() {
        let mut pacer = Pacer::new();
        for at in [0.0, 90.0] {
            pacer.began(at);
        }
        pacer.forget();
        for at in [100.0, 100.5, 102.5, 103.0, 110.0, 111.9] {
            pacer.began(at);
        }
        pacer.rest();
        pacer.began(5000.0);
        assert_eq!((pacer.pace.gaps, pacer.pace.longest_at_ms), (2, Some(103.0)));
        assert_eq!((pacer.longest_ms(), pacer.pace.rounds), (7.0, 7));
    }

    #[test]
    fn a_round_that_took_long_is_followed_by_a_pause() {
        let mut pacer = Pacer::new();
        pacer.began(0.0);
        let work = spent() + Duration::from_millis(8);
        while spent() < work {}
        let before = now();
        pacer.wait();
        assert!(now() - before >= Duration::from_millis(15), "others had no turn");
    }
}
