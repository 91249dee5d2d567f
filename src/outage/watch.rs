//! What is asked while the tunnel is down: every nameserver for fresh names, every local target for a sign of life. A question that nobody
//! has answered when the window ends is on record as well: silence is an answer here, and none that may be forgotten.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, interval, sleep};

use crate::handicap::{Handicap, lacks};
use crate::model::evidence::{Answer, Said};
use crate::model::report::LocalReach;
use crate::technique::{Context, Target, lookup_marked, nameservers, reach, targets};

/// Time between two questions to a resolver, and to a local target.
pub(super) const ASK_EVERY: Duration = Duration::from_millis(250);
/// How long a local target may take for one answer.
const LOCAL_PATIENCE: Duration = Duration::from_millis(1500);
/// How often nameservers are asked before, where questions or answers get lost.
const TRIES_BEFORE: usize = 3;
/// A question that is younger than this when the window ends counts for nothing.
const TOO_YOUNG: Duration = Duration::from_millis(400);

/// What came of it so far.
#[derive(Default)]
pub(super) struct Watched {
    names: Mutex<Vec<Answer>>,
    /// Nameservers and when they were asked first.
    asked: Mutex<Vec<(String, f64)>>,
    local: Mutex<Vec<Local>>,
    /// Local targets that were asked and have not answered yet.
    pending: Mutex<Vec<(String, Instant)>>,
}

/// Asks `server` for a fresh name.
async fn ask_name(cx: &Context, trial: &Arc<str>, server: IpAddr) -> Said {
    let name = format!("{}.{}", cx.ledger.enter(trial).marker(), cx.setup.canary);
    if lacks(Handicap::Names) {
        return Said::Nothing { error: "no answer in time".to_owned() };
    }
    lookup_marked(server, &name).await
}

/// Asks all nameservers as long as the tunnel is up, until one has answered: without that, silence while it is down says nothing.
pub(super) async fn ask_before(cx: &Context, trial: &Arc<str>) -> Vec<Answer> {
    let (servers, _) = nameservers(&cx.setup.resolv_conf);
    let mut answers: Vec<Answer> = Vec::new();
    for _ in 0..TRIES_BEFORE {
        let mut asked: FuturesUnordered<_> =
            servers.iter().map(|server| async move { (*server, ask_name(cx, trial, *server).await) }).collect();
        while let Some((server, said)) = asked.next().await {
            let heard = !matches!(said, Said::Nothing { .. });
            answers.push(cx.answer(server.to_string(), said));
            if heard {
                return answers;
            }
        }
    }
    answers
}

/// A local target and how long it was there.
struct Local {
    reach: LocalReach,
    began: Instant,
    /// Until when it is known how it is, and whether it was there then.
    known: Instant,
    there: bool,
}

impl Watched {
    /// Asks until it is dropped.
    pub(super) async fn ask(&self, cx: &Context, trial: &Arc<str>) {
        let (servers, _) = nameservers(&cx.setup.resolv_conf);
        let names = servers.into_iter().map(|server| async move {
            let who = server.to_string();
            let mut pending = FuturesUnordered::new();
            let mut next = interval(ASK_EVERY);
            // Again and again, whether it answers or not.
            loop {
                tokio::select! {
                    _ = next.tick() => {
                        self.asked(&who, cx.clock.now_ms());
                        pending.push(ask_name(cx, trial, server));
                    }
                    Some(said) = pending.next() => self.named(cx.answer(who.clone(), said)),
                }
            }
        });
        let local = targets(cx).into_iter().map(|target: Target| async move {
            loop {
                self.begin(&target.label());
                let reached = matches!(reach(cx, &target, LOCAL_PATIENCE).await, Said::Reached { .. });
                self.reached(&target.label(), reached);
                sleep(ASK_EVERY).await;
            }
        });
        tokio::join!(futures_util::future::join_all(names), futures_util::future::join_all(local));
        // With nothing to ask there is nothing to wait for, which must not end the window.
        std::future::pending::<()>().await;
    }

    /// Ends it: what the nameservers said, each kind of answer once, and of those that said nothing, that; and how local targets did. One
    /// that was asked too late to say anything has been asked 0 times.
    pub(super) fn end(self) -> (Vec<Answer>, Vec<LocalReach>) {
        let pending = std::mem::take(&mut *lock(&self.pending));
        for (label, since) in &pending {
            self.count(label, u64::from(since.elapsed() >= TOO_YOUNG), 0);
        }
        let mut names = std::mem::take(&mut *lock(&self.names));
        for (witness, at_ms) in std::mem::take(&mut *lock(&self.asked)) {
            if !names.iter().any(|answer| answer.witness == witness) {
                let said = Said::Nothing { error: "no answer as long as the tunnel was down".to_owned() };
                names.push(Answer { at_ms, witness, said });
            }
        }
        let local = std::mem::take(&mut *lock(&self.local));
        (names, local.into_iter().map(Local::finish).collect())
    }

    fn asked(&self, server: &str, at_ms: f64) {
        let mut asked = lock(&self.asked);
        if !asked.iter().any(|(known, _)| known == server) {
            asked.push((server.to_owned(), at_ms));
        }
    }

    fn named(&self, answer: Answer) {
        let mut kept = lock(&self.names);
        if !kept.iter().any(|known| known.witness == answer.witness && known.said == answer.said) {
            kept.push(answer);
        }
    }

    fn begin(&self, label: &str) {
        self.count(label, 0, 0);
        lock(&self.pending).push((label.to_owned(), Instant::now()));
    }

    fn reached(&self, label: &str, reached: bool) {
        lock(&self.pending).retain(|(pending, _)| pending != label);
        self.count(label, 1, u64::from(reached));
    }

    fn count(&self, label: &str, asked: u64, answered: u64) {
        let mut all = lock(&self.local);
        let place = all.iter().position(|local| local.reach.target == label);
        let place = place.unwrap_or_else(|| {
            all.push(Local::new(label));
            all.len() - 1
        });
        if asked > 0 {
            all[place].asked(asked, answered);
        }
    }
}

impl Local {
    fn new(label: &str) -> Self {
        let now = Instant::now();
        let reach = LocalReach { target: label.to_owned(), ..LocalReach::default() };
        Local { reach, began: now, known: now, there: true }
    }

    fn asked(&mut self, asked: u64, answered: u64) {
        self.reach.asked += asked;
        self.reach.answered += answered;
        self.there = answered > 0;
        self.pass();
    }

    /// What has passed since the last answer, or the last that was missing, passed as the newest one says.
    fn pass(&mut self) {
        let now = Instant::now();
        if self.there {
            self.reach.reached_ms += (now - self.known).as_secs_f64() * 1000.0;
        }
        self.known = now;
    }

    fn finish(mut self) -> LocalReach {
        self.pass();
        self.reach.watched_ms = (self.known - self.began).as_secs_f64() * 1000.0;
        self.reach
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_nobody_answered_is_not_forgotten() {
        let watched = Watched::default();
        watched.begin("nas");
        watched.reached("nas", true);
        watched.begin("nas");
        watched.asked("10.64.0.1", 7.0);
        std::thread::sleep(TOO_YOUNG);
        watched.begin("young");
        let (names, local) = watched.end();
        let nas = &local[0];
        assert!(nas.watched_ms >= 400.0 && nas.reached_ms < nas.watched_ms / 2.0, "{nas:?}");
        let counts: Vec<(&str, u64, u64)> =
            local.iter().map(|reach| (reach.target.as_str(), reach.asked, reach.answered)).collect();
        assert_eq!(counts, [("nas", 2, 1), ("young", 0, 0)]);
        assert!(matches!(names.as_slice(), [Answer { said: Said::Nothing { .. }, .. }]), "{names:?}");
    }
}
