//! What is asked while the tunnel is down: every nameserver for fresh names, every local target for a sign of life. A question that nobody
//! has answered when the window ends is on record as well: silence is an answer here, and none that may be forgotten.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::model::evidence::{Answer, Said};
use crate::model::report::LocalReach;
use crate::technique::{Context, Target, lookup_marked, nameservers, reach, targets};

/// Time between two questions to a resolver, and to a local target.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How long a local target may take for one answer.
const LOCAL_PATIENCE: Duration = Duration::from_millis(1500);
/// A question that is younger than this when the window ends counts for nothing.
const TOO_YOUNG: Duration = Duration::from_millis(400);

/// What came of it so far.
#[derive(Default)]
pub(super) struct Watched {
    names: Mutex<Vec<Answer>>,
    local: Mutex<Vec<LocalReach>>,
    /// What was asked of whom, and is not answered yet.
    pending: Mutex<Vec<(Asked, Instant)>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    Name(String),
    Local(String),
}

impl Watched {
    /// Asks until it is dropped.
    pub(super) async fn ask(&self, cx: &Context, trial: &Arc<str>) {
        let (servers, _) = nameservers(&cx.setup.resolv_conf);
        let names = servers.into_iter().map(|server| async move {
            let who = server.to_string();
            loop {
                let name = format!("{}.{}", cx.ledger.enter(trial).marker(), cx.setup.canary);
                self.begin(Asked::Name(who.clone()));
                let said = lookup_marked(server, &name).await;
                self.named(cx.answer(who.clone(), said));
                sleep(ASK_EVERY).await;
            }
        });
        let local = targets(cx).into_iter().map(|target: Target| async move {
            loop {
                self.begin(Asked::Local(target.label()));
                let reached = matches!(reach(cx, &target, LOCAL_PATIENCE).await, Said::Reached { .. });
                self.reached(&target.label(), reached);
                sleep(ASK_EVERY).await;
            }
        });
        tokio::join!(futures_util::future::join_all(names), futures_util::future::join_all(local));
        // With nothing to ask there is nothing to wait for, which must not end the window.
        std::future::pending::<()>().await;
    }

    /// Ends it: names that somebody answered for or not, each kind of answer once, and how local targets did. A target that was asked too
    /// late to say anything has been asked 0 times.
    pub(super) fn end(self, now_ms: f64) -> (Vec<Answer>, Vec<LocalReach>) {
        let pending = std::mem::take(&mut *lock(&self.pending));
        for (asked, since) in pending {
            let old = since.elapsed() >= TOO_YOUNG;
            match asked {
                Asked::Name(witness) if old => {
                    let error = format!("no answer within {} ms, when the window ended", since.elapsed().as_millis());
                    self.named(Answer { at_ms: now_ms, witness, said: Said::Nothing { error } });
                }
                Asked::Local(label) if old => self.reached(&label, false),
                Asked::Local(label) => self.count(&label, 0, 0),
                Asked::Name(_) => {}
            }
        }
        let names = std::mem::take(&mut *lock(&self.names));
        let local = std::mem::take(&mut *lock(&self.local));
        (names, local)
    }

    fn begin(&self, asked: Asked) {
        lock(&self.pending).push((asked, Instant::now()));
    }

    fn named(&self, answer: Answer) {
        self.settled(&Asked::Name(answer.witness.clone()));
        let mut kept = lock(&self.names);
        if !kept.iter().any(|known| known.witness == answer.witness && known.said == answer.said) {
            kept.push(answer);
        }
    }

    fn reached(&self, label: &str, reached: bool) {
        self.settled(&Asked::Local(label.to_owned()));
        self.count(label, 1, u64::from(reached));
    }

    fn settled(&self, asked: &Asked) {
        lock(&self.pending).retain(|(pending, _)| pending != asked);
    }

    fn count(&self, label: &str, asked: u64, answered: u64) {
        let mut counts = lock(&self.local);
        match counts.iter_mut().find(|count| count.target == label) {
            Some(count) => {
                count.asked += asked;
                count.answered += answered;
            }
            None => counts.push(LocalReach { target: label.to_owned(), asked, answered }),
        }
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
        watched.begin(Asked::Local("nas".to_owned()));
        watched.reached("nas", true);
        watched.begin(Asked::Local("nas".to_owned()));
        watched.begin(Asked::Name("10.64.0.1".to_owned()));
        std::thread::sleep(TOO_YOUNG);
        watched.begin(Asked::Local("young".to_owned()));
        let (names, local) = watched.end(7.0);
        let counts: Vec<(&str, u64, u64)> =
            local.iter().map(|reach| (reach.target.as_str(), reach.asked, reach.answered)).collect();
        assert_eq!(counts, [("nas", 2, 1), ("young", 0, 0)]);
        assert!(matches!(names.as_slice(), [Answer { said: Said::Nothing { .. }, .. }]), "{names:?}");
    }
}
