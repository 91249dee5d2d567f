//! Not sending more than the sensor gets to read. Stimuli that take the tunnel all reach its ring, and a thread that waits for the processor
//! reads none of them meanwhile: what the ring cannot hold is lost, and with it the verdict of every probe.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A reader that has not been through for so long is behind. It wakes every 20 ms where there is nothing to read.
const BEHIND: Duration = Duration::from_millis(40);
/// How long one who sends waits for it in all: what is lost then is counted by the ring.
const PATIENCE: Duration = Duration::from_secs(3);
const STEP: Duration = Duration::from_millis(1);

/// When all that had come was read for the last time. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Backlog {
    begun: Instant,
    /// Microseconds since then; 0 where nobody reads yet.
    through: Arc<AtomicU64>,
}

impl Default for Backlog {
    fn default() -> Self {
        Backlog { begun: Instant::now(), through: Arc::default() }
    }
}

impl Backlog {
    /// Nothing is left to read just now.
    pub fn is_read(&self) {
        let now = self.begun.elapsed().as_micros().max(1);
        self.through.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether there is a reader, and it is behind.
    fn is_long(&self) -> bool {
        let through = self.through.load(Ordering::Relaxed);
        through != 0 && self.begun.elapsed() > Duration::from_micros(through) + BEHIND
    }
}

/// What a sender still waits for a reader.
#[derive(Debug)]
pub struct Patience(Duration);

impl Default for Patience {
    fn default() -> Self {
        Patience(PATIENCE)
    }
}

impl Patience {
    /// Waits until the reader is through, or patience is over.
    pub fn wait_for(&mut self, backlog: &Backlog) {
        let begun = Instant::now();
        while backlog.is_long() && begun.elapsed() < self.0 {
            thread::sleep(STEP);
        }
        self.0 = self.0.saturating_sub(begun.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_a_reader_that_is_behind_and_not_for_ever() {
        let (backlog, mut patience) = (Backlog::default(), Patience::default());
        thread::sleep(BEHIND * 2);
        assert!(!backlog.is_long(), "nobody reads");
        backlog.is_read();
        assert!(!backlog.is_long());
        thread::sleep(BEHIND * 2);
        assert!(backlog.is_long());
        let reader = backlog.clone();
        let late = thread::spawn(move || {
            thread::sleep(BEHIND);
            reader.is_read();
        });
        patience.wait_for(&backlog);
        late.join().unwrap();
        assert!(patience.0 < PATIENCE && !patience.0.is_zero());
        thread::sleep(BEHIND * 2);
        patience.0 = BEHIND;
        patience.wait_for(&backlog);
        assert!(patience.0.is_zero() && backlog.is_long());
    }
}
