//! Whom the stack's programs are told to ask for names, watched while the tunnel is down: a thread that reads their resolv.conf every
//! 20 ms. Files that are replaced, and such as are mounted into containers, tell no watcher that they change; reading them does.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock::Clock;
use crate::model::evidence::NameserverChange;
use crate::target::{Reach, read_small};
use crate::technique::nameservers;

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often a file that cannot be read at the end is tried again: it may be being replaced.
const LAST_TRIES: usize = 10;
/// A file that is rewritten over and over has been told of often enough by then.
const MAX_CHANGES: usize = 32;

/// A running watch. Dropping it ends its thread.
pub(super) struct NameserverWatch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Seen>>,
}

/// What came of a watch.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Times are milliseconds since the start of the run.
    pub(super) changes: Vec<NameserverChange>,
    /// What was not seen.
    pub(super) problems: Vec<String>,
}

struct Watched {
    path: PathBuf,
    reach: Reach,
    first: Vec<IpAddr>,
    last: Vec<IpAddr>,
}

impl NameserverWatch {
    /// Watches `files` as far as they can be read now; one that several names lead to is watched once.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(clock: Clock, files: &[PathBuf]) -> io::Result<Self> {
        let mut known = Vec::new();
        let mut watched = Vec::new();
        for path in files {
            let Ok(reach) = Reach::to(path) else { continue };
            let Ok(metadata) = reach.open().and_then(|file| file.metadata()) else { continue };
            let place = (metadata.dev(), metadata.ino());
            if let Some(named) = read(&reach).filter(|_| !known.contains(&place)) {
                known.push(place);
                watched.push(Watched { path: path.clone(), reach, first: named.clone(), last: named });
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let watch = move || {
            let mut seen = Seen::default();
            if watched.is_empty() {
                seen.problems.push(
                    "no resolv.conf of the stack's could be read, so nobody saw whether one was rewritten".to_owned(),
                );
            }
            while !ended.load(Ordering::Relaxed) {
                look(&mut watched, clock.now_ms(), &mut seen.changes);
                thread::sleep(LOOK_EVERY);
            }
            look(&mut watched, clock.now_ms(), &mut seen.changes);
            let lost = watched.iter().filter(|file| !can_be_read(file));
            seen.problems.extend(lost.map(|file| format!("{} could not be read any more", file.path.display())));
            seen
        };
        let thread = thread::Builder::new().name("nameservers".into()).spawn(watch)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    pub(super) fn finish(mut self) -> Seen {
        let broken = || Seen { problems: vec!["the watch over resolv.conf broke off".to_owned()], ..Seen::default() };
        self.end().unwrap_or_else(broken)
    }

    fn end(&mut self) -> Option<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take()?.join().ok()
    }
}

impl Drop for NameserverWatch {
    fn drop(&mut self) {
        self.end();
    }
}

fn look(watched: &mut [Watched], at_ms: f64, changes: &mut Vec<NameserverChange>) {
    for file in watched {
        // One that cannot be read at this instant is being replaced, or is written to just now and names nobody yet.
        let Some(now) = read(&file.reach) else { continue };
        if now != file.last && changes.len() < MAX_CHANGES {
            file.last.clone_from(&now);
            let file = (file.path.display().to_string(), file.first.clone());
            changes.push(NameserverChange { at_ms, file: file.0, before: file.1, now });
        }
    }
}

fn can_be_read(file: &Watched) -> bool {
    (0..LAST_TRIES).any(|_| {
        let readable = file.reach.open().and_then(read_small).is_ok();
        if !readable {
            thread::sleep(LOOK_EVERY);
        }
        readable
    })
}

/// The nameservers that a file names; `None`: it cannot be read, or names none. What is no file, or too long for one of resolv.conf's, is not
/// read: it is untrusted.
fn read(reach: &Reach) -> Option<Vec<IpAddr>> {
    let text = reach.open().and_then(read_small).ok()?;
    if !text.lines().any(|line| line.trim_start().starts_with("nameserver")) {
        return None;
    }
    Some(nameservers(&text).0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn changes_are_told_once_and_an_empty_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, "nameserver 127.0.0.1\n").unwrap();
        let reach = Reach::to(&path).unwrap();
        let first = read(&reach).unwrap();
        let mut watched = [Watched { path: path.clone(), reach, first: first.clone(), last: first.clone() }];
        let mut changes = Vec::new();
        for (at_ms, text) in [
            (1.0, "nameserver 127.0.0.1\n# as before\n"),
            (2.0, ""),
            (3.0, "nameserver 8.8.8.8\n"),
            (4.0, "nameserver 8.8.8.8\noptions ndots:0\n"),
            (5.0, "nameserver 127.0.0.1\n"),
        ] {
            fs::write(&path, text).unwrap();
            look(&mut watched, at_ms, &mut changes);
        }
        let told: Vec<(f64, &[IpAddr])> = changes.iter().map(|change| (change.at_ms, change.now.as_slice())).collect();
        let public: IpAddr = "8.8.8.8".parse().unwrap();
        assert_eq!(told, [(3.0, &[public][..]), (5.0, &first[..])]);
        assert!(changes.iter().all(|change| change.before == first));
    }
    #[test]
    fn what_cannot_be_watched_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let clock = Clock::starting_at(0.0);
        let seen = NameserverWatch::start(clock, std::slice::from_ref(&path)).unwrap().finish();
        assert!(seen.problems.iter().any(|what| what.contains("no resolv.conf")), "{seen:?}");
        fs::write(&path, "nameserver 127.0.0.1\n").unwrap();
        let watch = NameserverWatch::start(clock, std::slice::from_ref(&path)).unwrap();
        assert!(watch.finish().problems.is_empty());
        let watch = NameserverWatch::start(clock, std::slice::from_ref(&path)).unwrap();
        fs::remove_file(&path).unwrap();
        let seen = watch.finish();
        assert!(seen.problems.iter().any(|what| what.contains("any more")), "{seen:?}");
    }
}
