//! The run's clock: milliseconds since its start, on the clock of the kernel's packet timestamps.

use nix::time::{ClockId, clock_gettime};

/// Milliseconds since a start on CLOCK_REALTIME, the clock of SO_TIMESTAMPNS and of packet rings (packet(7)).
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start_ns: i128,
}

impl Clock {
    /// A clock that reads `elapsed_ms` now.
    pub fn starting_at(elapsed_ms: f64) -> Self {
        Clock { start_ns: realtime_ns() - (elapsed_ms * 1e6) as i128 }
    }

    /// Milliseconds since the start.
    pub fn now_ms(&self) -> f64 {
        (realtime_ns() - self.start_ns) as f64 / 1e6
    }

    /// A kernel timestamp as milliseconds since the start.
    pub fn at_ms(&self, seconds: i64, nanoseconds: i64) -> f64 {
        (i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds) - self.start_ns) as f64 / 1e6
    }
}

fn realtime_ns() -> i128 {
    // CLOCK_REALTIME cannot fail: the clock exists on every Linux and the buffer is our own.
    clock_gettime(ClockId::CLOCK_REALTIME)
        .map_or(0, |time| i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec()))
}
