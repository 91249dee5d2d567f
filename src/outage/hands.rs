//! The runner's hands, as the agent has them: what only somebody outside of the namespace can do is asked for and waited for. When the
//! runner is gone every wait ends at once, so that the agent does.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::sync::{mpsc, oneshot};

use crate::agent::protocol::{Act, Envelope, Reply};

/// What an act ends with.
type Outcome = Result<String, String>;

/// See the head of this file. Cheap to clone.
#[derive(Clone)]
pub struct Hands(Rc<Inner>);

struct Inner {
    replies: mpsc::UnboundedSender<Envelope<Reply>>,
    waiting: RefCell<Option<oneshot::Sender<Outcome>>>,
    gone: Cell<bool>,
}

impl Hands {
    /// Asks by way of `replies`.
    pub fn new(replies: mpsc::UnboundedSender<Envelope<Reply>>) -> Self {
        Self(Rc::new(Inner { replies, waiting: RefCell::default(), gone: Cell::new(false) }))
    }

    /// Has the runner act, and waits for what came of it: one act at a time.
    ///
    /// # Errors
    /// What the runner could not do, or that it is gone.
    pub(super) async fn act(&self, act: Act) -> Outcome {
        let gone = || Err("the runner is gone".to_owned());
        if self.0.gone.get() {
            return gone();
        }
        let (sender, receiver) = oneshot::channel();
        self.0.waiting.replace(Some(sender));
        if self.0.replies.send(Envelope { id: 0, body: Reply::Act(act) }).is_err() {
            return gone();
        }
        receiver.await.unwrap_or_else(|_| gone())
    }

    /// Whether nobody is left who could act.
    pub(super) fn are_gone(&self) -> bool {
        self.0.gone.get()
    }

    /// What came of it.
    pub fn acted(&self, outcome: Outcome) {
        if let Some(sender) = self.0.waiting.take() {
            // Whoever waited may have given up.
            let _ = sender.send(outcome);
        }
    }

    /// Nobody will act any more.
    pub fn let_go(&self) {
        self.0.gone.set(true);
        drop(self.0.waiting.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_act_ends_with_its_outcome_or_with_the_runner() {
        let (sender, mut asked) = mpsc::unbounded_channel();
        let hands = Hands::new(sender);
        let (outcome, ()) = tokio::join!(hands.act(Act::Down), async {
            let Some(Envelope { id: 0, body: Reply::Act(Act::Down) }) = asked.recv().await else { panic!("not asked") };
            hands.acted(Ok("down".to_owned()));
        });
        assert_eq!(outcome.as_deref(), Ok("down"));
        let (outcome, ()) = tokio::join!(hands.act(Act::Up), async { hands.let_go() });
        assert!(outcome.is_err_and(|why| why.contains("gone")));
        assert!(hands.are_gone() && hands.act(Act::Verify).await.is_err(), "nobody is there any more");
    }
}
