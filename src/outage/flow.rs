//! What comes out of the tunnel: a thread that looks at the kernel's count of packets received on the tunnel's link. An outage that leaves the
//! link up is dark when this stands still although questions go in.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock::Clock;
use crate::handicap::{Handicap, lacks};

const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A running watch. Dropping it ends its thread.
pub(super) struct Flow {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// When packets came, milliseconds since the start of the run.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Seen {
    count: Option<u64>,
    /// The last of them.
    pub(super) last_ms: Option<f64>,
    /// The last before [`Flow::mark`].
    pub(super) last_before_mark_ms: Option<f64>,
    /// The first after [`Flow::mark`].
    pub(super) first_after_mark_ms: Option<f64>,
    marked: bool,
}

impl Flow {
    /// Watches the link of that name, which may go and come again.
    pub(super) fn start(clock: Clock, link: &str) -> io::Result<Self> {
        let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let (link, theirs, ended) = (link.to_owned(), Arc::clone(&seen), Arc::clone(&stop));
        let watch = move || {
            while !ended.load(Ordering::Relaxed) {
                let table = table().unwrap_or_default();
                theirs.lock().unwrap_or_else(PoisonError::into_inner).take(clock.now_ms(), received(&table, &link));
                thread::sleep(LOOK_EVERY);
            }
        };
        let thread = thread::Builder::new().name("flow".into()).spawn(watch)?;
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// From here on packets count as "after".
    pub(super) fn mark(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.last_before_mark_ms = seen.last_ms;
        seen.marked = true;
    }

    /// What was seen so far.
    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Seen {
    /// A link that was made anew counts from nought: then what it has already received came just now.
    fn take(&mut self, now: f64, count: Option<u64>) {
        let came = match (self.count, count) {
            (Some(before), Some(count)) if count >= before => count > before,
            (Some(_), Some(count)) => count > 0,
            (None, _) | (_, None) => false,
        };
        self.count = count.or(self.count);
        if came {
            self.last_ms = Some(now);
            if self.marked {
                self.first_after_mark_ms.get_or_insert(now);
            }
        }
    }
}

/// How many packets the kernel has thrown away because the program behind the link `name` did not take them; `None`: there is no such link.
pub(super) fn not_taken(name: &str) -> Option<u64> {
    dropped(&table().ok()?, name)
}

/// The counts of all links (proc_net_dev in proc(5)), of this thread's namespace, whoever the process's first thread may be.
fn table() -> io::Result<String> {
    fs::read_to_string("/proc/thread-self/net/dev")
}

/// Packets received on `link`; `None` when there is no such link.
fn received(table: &str, link: &str) -> Option<u64> {
    let count = count(table, link, 1);
    if lacks(Handicap::Counter) { count.map(|_| 0) } else { count }
}

/// Packets to be sent by `link` that were dropped.
fn dropped(table: &str, link: &str) -> Option<u64> {
    count(table, link, 8 + 3)
}

fn count(table: &str, link: &str, column: usize) -> Option<u64> {
    let (_, counts) = table.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == link)?;
    counts.split_whitespace().nth(column)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  tun0:12345678   54321    0    0    0     0          0         0   999999    1234    0    0    0     0       0          0
 tun01:       7       8    0    0    0     0          0         0        9      10    0    0    0     0       0          0
";

    #[test]
    fn the_table_is_read_by_the_whole_name() {
        assert_eq!(received(TABLE, "tun0"), Some(54321));
        assert_eq!(received(TABLE, "tun01"), Some(8));
        assert_eq!(received(TABLE, "tun"), None);
        assert_eq!(received("", "tun0"), None);
    }

    #[test]
    fn only_growth_counts() {
        let mut seen = Seen::default();
        for (now, count) in [(1.0, Some(10)), (2.0, Some(10)), (3.0, None), (4.0, Some(0)), (5.0, Some(0))] {
            seen.take(now, count);
            assert_eq!(seen.last_ms, None, "at {now}");
        }
        seen.take(6.0, Some(1));
        assert_eq!((seen.last_ms, seen.first_after_mark_ms), (Some(6.0), None));
        seen.marked = true;
        seen.take(7.0, Some(2));
        seen.take(8.0, Some(3));
        assert_eq!((seen.last_ms, seen.first_after_mark_ms), (Some(8.0), Some(7.0)));
    }

    #[test]
    fn what_nobody_takes_is_counted_by_the_kernel() {
        let table = "Inter-|   Receive |  Transmit\n face |bytes packets\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  tun0:1 2 3 4 5 6 7 8 9 10 11 77 13 14 15 16\n";
        assert_eq!((dropped(table, "tun0"), dropped(table, "lo"), dropped(table, "tun")), (Some(77), Some(12), None));
        assert!(not_taken("lo").is_some());
    }
}
