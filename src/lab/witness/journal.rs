//! What reached which witness, from where, and when. The lab's servers write it, tests and the detection matrix read it.
//! It is a memory of the lab, not evidence of a run: the checker itself never sees it.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Entries that a journal keeps; the oldest go first.
pub const CAPACITY: usize = 65_536;
/// Longest text (host, path, name) that an entry keeps, in characters.
const TEXT_LIMIT: usize = 255;

/// The transport over which a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Udp,
    Tcp,
    /// TLS over TCP (HTTPS, DNS over TLS).
    Tls,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum What {
    Http {
        /// Lower case, without port.
        host: String,
        /// With the query string.
        path: String,
    },
    Dns {
        /// Lower case, with the dot at its end.
        name: String,
        /// As in a zone file: `A`, `AAAA`, `TXT`, `TYPE65` …
        qtype: String,
    },
    Stun,
    /// A question of the DHT.
    Dht,
    /// An announcement to a tracker over UDP.
    Announce,
}

/// One question that reached a witness.
#[derive(Clone, Debug)]
pub struct Entry {
    pub at: Instant,
    /// The server's name, as its maker called it.
    pub service: Arc<str>,
    pub protocol: Protocol,
    /// Who asked; an IPv4 address seen through an IPv6 socket is given as IPv4.
    pub peer: SocketAddr,
    pub what: What,
}

struct Inner {
    entries: Mutex<Ring>,
    changed: Notify,
}

struct Ring {
    entries: VecDeque<Entry>,
    capacity: usize,
    lost: u64,
}

/// A bounded record of questions; clones share it.
#[derive(Clone)]
pub struct Journal(Arc<Inner>);

impl Default for Journal {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl Journal {
    /// An empty journal that keeps [`CAPACITY`] entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty journal that keeps the newest `capacity` entries (at least one).
    pub fn with_capacity(capacity: usize) -> Self {
        let ring = Ring { entries: VecDeque::new(), capacity: capacity.max(1), lost: 0 };
        Self(Arc::new(Inner { entries: Mutex::new(ring), changed: Notify::new() }))
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // No code panics while it holds the lock; if it did, the entries would still be whole.
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes one question down.
    pub fn record(&self, service: &Arc<str>, protocol: Protocol, peer: SocketAddr, what: What) {
        let entry = Entry {
            at: Instant::now(),
            service: Arc::clone(service),
            protocol,
            peer: canonical(peer),
            what: match what {
                What::Http { host, path } => What::Http { host: limited(host), path: limited(path) },
                What::Dns { name, qtype } => What::Dns { name: limited(name), qtype: limited(qtype) },
                plain @ (What::Stun | What::Dht | What::Announce) => plain,
            },
        };
        {
            let mut ring = self.ring();
            if ring.entries.len() >= ring.capacity {
                ring.entries.pop_front();
                ring.lost += 1;
            }
            ring.entries.push_back(entry);
        }
        self.0.changed.notify_waiters();
    }

    /// All entries for which `wanted` holds, oldest first.
    pub fn find(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        self.ring().entries.iter().filter(|entry| wanted(entry)).cloned().collect()
    }

    /// All entries, oldest first.
    pub fn entries(&self) -> Vec<Entry> {
        self.find(|_| true)
    }

    /// Everything that came from `ip`.
    pub fn from_ip(&self, ip: IpAddr) -> Vec<Entry> {
        self.find(|entry| entry.peer.ip() == ip.to_canonical())
    }

    /// Everything that was asked at or after `start`.
    pub fn since(&self, start: Instant) -> Vec<Entry> {
        self.find(|entry| entry.at >= start)
    }

    /// Who asked `service` for the DNS name `name` (any case, with or without the last dot); each address once, in the
    /// order of their first question.
    pub fn dns_askers(&self, service: &str, name: &str) -> Vec<IpAddr> {
        let wanted = format!("{}.", name.trim_end_matches('.').to_ascii_lowercase());
        let mut askers = Vec::new();
        for entry in &self.ring().entries {
            let asked = matches!(&entry.what, What::Dns { name, .. } if *name == wanted);
            if asked && &*entry.service == service && !askers.contains(&entry.peer.ip()) {
                askers.push(entry.peer.ip());
            }
        }
        askers
    }

    /// The first entry for which `wanted` holds, waiting up to `limit` for it to come; `None` when it did not.
    pub async fn wait_for(&self, limit: Duration, wanted: impl Fn(&Entry) -> bool) -> Option<Entry> {
        let search = async {
            loop {
                let mut changed = std::pin::pin!(self.0.changed.notified());
                // Registered before the look, so that an entry between look and wait is not missed.
                changed.as_mut().enable();
                if let Some(found) = self.ring().entries.iter().find(|entry| wanted(entry)).cloned() {
                    return found;
                }
                changed.await;
            }
        };
        tokio::time::timeout(limit, search).await.ok()
    }

    /// How many entries were dropped because the journal was full.
    pub fn lost(&self) -> u64 {
        self.ring().lost
    }

    /// Forgets everything, the count of lost entries too.
    pub fn clear(&self) {
        let mut ring = self.ring();
        ring.entries.clear();
        ring.lost = 0;
    }
}

/// An IPv4 peer of a dual-stack socket as the IPv4 address that it is.
pub(crate) fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

fn limited(text: String) -> String {
    match text.char_indices().nth(TEXT_LIMIT) {
        Some((end, _)) => text[..end].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(name: &str) -> What {
        What::Dns { name: name.into(), qtype: "A".into() }
    }

    #[test]
    fn keeps_the_newest_and_counts_the_lost() {
        let journal = Journal::with_capacity(2);
        let service: Arc<str> = "s".into();
        for n in 0..5u16 {
            journal.record(&service, Protocol::Udp, SocketAddr::from(([127, 0, 0, 1], n)), What::Stun);
        }
        let ports: Vec<u16> = journal.entries().iter().map(|entry| entry.peer.port()).collect();
        assert_eq!((ports, journal.lost()), (vec![3, 4], 3));
        journal.clear();
        assert_eq!((journal.entries().len(), journal.lost()), (0, 0));
    }

    #[test]
    fn knows_who_asked_for_a_name() {
        let journal = Journal::new();
        let (authority, other): (Arc<str>, Arc<str>) = ("authority".into(), "other".into());
        let peer = |last| SocketAddr::from(([127, 0, 0, last], 53));
        journal.record(&authority, Protocol::Udp, peer(1), dns("lk-1.example.com."));
        journal.record(&authority, Protocol::Tcp, peer(1), dns("lk-1.example.com."));
        journal.record(&authority, Protocol::Udp, peer(2), dns("lk-1.example.com."));
        journal.record(&authority, Protocol::Udp, peer(3), dns("lk-2.example.com."));
        journal.record(&other, Protocol::Udp, peer(4), dns("lk-1.example.com."));
        assert_eq!(journal.dns_askers("authority", "LK-1.example.com"), [peer(1).ip(), peer(2).ip()]);
        assert_eq!(journal.from_ip(peer(1).ip()).len(), 2);
    }

    #[test]
    fn maps_and_limits_what_it_is_told() {
        let journal = Journal::new();
        let mapped: SocketAddr = "[::ffff:127.0.0.7]:9".parse().unwrap();
        journal.record(&"s".into(), Protocol::Tcp, mapped, dns(&"ä".repeat(1000)));
        let entry = journal.entries().remove(0);
        assert_eq!(entry.peer, "127.0.0.7:9".parse().unwrap());
        assert_eq!(entry.what, dns(&"ä".repeat(TEXT_LIMIT)));
    }

    #[tokio::test]
    async fn waits_for_an_entry_and_gives_up() {
        let journal = Journal::new();
        let writer = journal.clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            writer.record(&"s".into(), Protocol::Udp, SocketAddr::from(([127, 0, 0, 1], 7)), What::Stun);
        });
        let found = journal.wait_for(Duration::from_secs(5), |entry| entry.what == What::Stun).await;
        assert_eq!(found.map(|entry| entry.peer.port()), Some(7));
        task.await.unwrap();
        let nothing = journal.wait_for(Duration::from_millis(20), |entry| entry.peer.port() == 8).await;
        assert!(nothing.is_none());
    }
}
