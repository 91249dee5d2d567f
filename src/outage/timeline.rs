//! What the kernel does to links, addresses, routes and rules in an outage, and when: a thread that hears its notifications.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;

use crate::clock::Clock;
use crate::net::netlink::{Client, NetlinkError};
use crate::net::route::{self, Names, Snapshot};
use crate::priority::ask_for_priority;

/// How long the thread waits at most before it looks whether it should end.
const PATIENCE: Duration = Duration::from_millis(20);
/// More than this is a table that is rewritten whole, of which no reader wants every line.
const MAX_EVENTS: usize = 120;

/// A running timeline. Dropping it ends its thread.
pub(super) struct Timeline {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<(f64, String)>>>,
}

impl Timeline {
    /// Begins to listen in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn start(clock: Clock) -> io::Result<Self> {
        let open = || -> Result<Client, NetlinkError> {
            let mut kernel = Client::open(NETLINK_ROUTE)?;
            route::GROUPS.iter().try_for_each(|group| kernel.join(*group))?;
            kernel.set_timeout(Some(PATIENCE))?;
            Ok(kernel)
        };
        let kernel = open().map_err(io::Error::other)?;
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let listen = move || listen(clock, kernel, &ended);
        let thread = thread::Builder::new().name("timeline".into()).spawn(listen)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// What happened so far, in milliseconds since the start of the run and in order.
    pub(super) fn finish(mut self) -> Vec<(f64, String)> {
        self.end().unwrap_or_default()
    }

    fn end(&mut self) -> Option<Vec<(f64, String)>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take()?.join().ok()
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        self.end();
    }
}

fn listen(clock: Clock, mut kernel: Client, stop: &AtomicBool) -> Vec<(f64, String)> {
    let mut events: Vec<(f64, String)> = Vec::new();
    let mut more = 0_u64;
    ask_for_priority();
    let mut names: Names = Snapshot::take()
        .map(|now| now.links)
        .unwrap_or_default()
        .into_iter()
        .map(|link| (link.index, link.name))
        .collect();
    while !stop.load(Ordering::Relaxed) {
        let messages = match kernel.listen() {
            Ok(messages) => messages,
            Err(NetlinkError::Socket(_, error)) if is_patience(&error) => continue,
            Err(error) => {
                events.push((clock.now_ms(), format!("some changes of links and routes were missed: {error}")));
                // An overrun is over once it is told; anything else would be told for ever.
                if more > MAX_EVENTS as u64 {
                    break;
                }
                more += 1;
                continue;
            }
        };
        let now = clock.now_ms();
        for text in messages.iter().filter_map(|message| route::told(message, &mut names)) {
            // Links say again and again how they are.
            if events
                .iter()
                .rev()
                .find(|(_, said)| said.split(" is ").next() == text.split(" is ").next())
                .is_some_and(|(_, said)| *said == text)
            {
                continue;
            }
            if events.len() < MAX_EVENTS {
                events.push((now, text));
            } else {
                more += 1;
            }
        }
    }
    if more > 0 {
        events.push((clock.now_ms(), format!("{more} more changes of links, addresses, routes and rules")));
    }
    events
}

fn is_patience(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
