//! The runner's end of the wire to the agent: requests from any thread, answers matched by number, and an orderly end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use super::RunError;
use super::container::Operation;
use crate::agent::protocol::{Envelope, OutageOrder, Reply, Request, Setup, Stack, read_frame, write_frame};
use crate::outage::PUT_BACK_AT_MOST;
use crate::report::progress::Progress;
use crate::target::{AgentHandle, AgentProcess};

/// No technique takes anywhere near so long: an agent that has not answered by then is stuck.
const ANSWER_PATIENCE: Duration = Duration::from_secs(120);
/// What an outage may take beyond its window and its recovery: proving health before, and all tries at putting back.
const OUTAGE_GRACE: Duration = Duration::from_secs(120);
/// How long the agent may take to put everything back when it is told to end.
const LAST_PATIENCE: Duration = PUT_BACK_AT_MOST.saturating_add(LAST_GRACE);
/// What it may take beyond that: a request to take the tunnel down that is still under way, the tries at proving health, the keeper's end.
const LAST_GRACE: Duration = Duration::from_secs(45);

/// A session with one agent.
pub(super) struct Session {
    handle: Handle,
    next: AtomicU64,
    outbox: Mutex<Option<mpsc::UnboundedSender<Envelope<Request>>>>,
    waiting: Arc<Mutex<Waiting>>,
    process: Mutex<Option<AgentHandle>>,
    notes: Mutex<Option<std::sync::mpsc::Receiver<String>>>,
    deadline: Option<Instant>,
    /// `setns` or `container`.
    pub how: &'static str,
    /// What acts when the agent asks for it.
    operation: Arc<Mutex<Option<Arc<Operation>>>>,
    /// A signal asked for the end.
    interrupted: watch::Sender<bool>,
    /// How far the outage is that is under way.
    tunnel: Arc<watch::Sender<Tunnel>>,
    /// By which the agent's sensor knows markers.
    nonce: AtomicU32,
}

/// What an outage has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tunnel {
    /// The tunnel was not taken down yet.
    StillUp,
    /// It is down.
    Down,
    /// It is being put back, or there is no outage.
    Back,
}

#[derive(Default)]
struct Waiting {
    answers: HashMap<u64, oneshot::Sender<Reply>>,
    /// Why there will be no more answers.
    over: Option<String>,
}

impl Session {
    /// Takes over the agent's streams.
    pub(super) fn open(runtime: &Handle, process: AgentProcess, deadline: Option<Instant>) -> Self {
        let AgentProcess { mut stdin, mut stdout, how, handle } = process;
        let (outbox, mut requests) = mpsc::unbounded_channel::<Envelope<Request>>();
        let waiting: Arc<Mutex<Waiting>> = Arc::default();
        let (note, notes) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            while let Some(request) = requests.recv().await {
                if write_frame(&mut stdin, &request).await.is_err() {
                    break;
                }
            }
            // Dropping the stream is what ends the agent.
        });
        let answers = Arc::clone(&waiting);
        let operation: Arc<Mutex<Option<Arc<Operation>>>> = Arc::default();
        let tunnel = Arc::new(watch::Sender::new(Tunnel::Back));
        let told = Arc::clone(&tunnel);
        // Dropping the outbox itself has to end the agent, whoever is still at work for it.
        let (acting, acted) = (Arc::clone(&operation), outbox.downgrade());
        runtime.spawn(async move {
            let why = loop {
                match read_frame::<Envelope<Reply>>(&mut stdout).await {
                    Ok(Some(Envelope { id: 0, body: Reply::Act(act) })) => {
                        let operation = acting.lock().unwrap_or_else(PoisonError::into_inner).clone();
                        let acted = acted.clone();
                        tokio::spawn(async move {
                            let outcome = match operation {
                                Some(operation) => operation.act(act).await,
                                None => Err("no outage of this kind is under way".to_owned()),
                            };
                            if let Some(outbox) = acted.upgrade() {
                                let _ = outbox.send(Envelope { id: 0, body: Request::Acted(outcome) });
                            }
                        });
                    }
                    Ok(Some(Envelope { id: 0, body: Reply::Down(is) })) => {
                        told.send_replace(if is { Tunnel::Down } else { Tunnel::Back });
                    }
                    Ok(Some(Envelope { id: 0, body: Reply::Note(text) })) => {
                        let _ = note.send(text);
                    }
                    Ok(Some(Envelope { id, body })) => {
                        let sender = answers.lock().unwrap_or_else(PoisonError::into_inner).answers.remove(&id);
                        if let Some(sender) = sender {
                            let _ = sender.send(body);
                        }
                    }
                    Ok(None) => break "the agent ended".to_owned(),
                    Err(error) => break format!("the agent's answers broke off: {error}"),
                }
            };
            let mut waiting = answers.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.over = Some(why);
            waiting.answers.clear();
        });
        Session {
            handle: runtime.clone(),
            operation,
            next: AtomicU64::new(1),
            outbox: Mutex::new(Some(outbox)),
            waiting,
            process: Mutex::new(Some(handle)),
            notes: Mutex::new(Some(notes)),
            deadline,
            how,
            interrupted: watch::Sender::new(false),
            tunnel,
            nonce: AtomicU32::new(0),
        }
    }

    /// An outage is about to begin, or is over: what waits for the tunnel to go need not wait any more.
    pub(super) fn set_tunnel(&self, tunnel: Tunnel) {
        self.tunnel.send_replace(tunnel);
    }

    /// Waits as long as the tunnel of an outage is still up. Must not be called from a task of the runtime.
    pub(super) fn wait_for_outage(&self) {
        let mut tunnel = self.tunnel.subscribe();
        // The sender is this session's own.
        let _ = self.handle.block_on(tunnel.wait_for(|tunnel| *tunnel != Tunnel::StillUp));
    }

    /// Whether the tunnel is down in an outage.
    pub(super) fn is_down(&self) -> bool {
        *self.tunnel.borrow() == Tunnel::Down
    }

    /// By which the agent's sensor knows markers.
    pub(super) fn nonce(&self) -> u32 {
        self.nonce.load(Ordering::Relaxed)
    }

    /// The first request of all.
    ///
    /// # Errors
    /// What the agent says.
    pub(super) fn start(&self, setup: Setup) -> Result<Stack, RunError> {
        let failed = |what: String, help: Option<String>| RunError::Agent { what, help };
        match self.request(Request::Start(Box::new(setup))) {
            Ok(Reply::Started(stack)) => Ok(stack),
            Ok(Reply::Failed { what, help }) => Err(failed(what, help)),
            Ok(other) => Err(failed(format!("it gave an answer that does not fit: {other:?}"), None)),
            Err(why) => Err(failed(why, None)),
        }
    }

    /// Sends a request and waits for its answer. Must not be called from a task of the runtime.
    ///
    /// # Errors
    /// Why there is no answer: the agent is gone, or time is up.
    pub(super) fn request(&self, body: Request) -> Result<Reply, String> {
        let receiver = self.ask(body)?;
        let mut interrupted = self.interrupted.subscribe();
        self.handle.block_on(async {
            let late = async {
                match self.deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                answer = receiver => answer.map_err(|_| self.why_gone()),
                () = late => Err("the time of --timeout was up".to_owned()),
                () = tokio::time::sleep(ANSWER_PATIENCE) => Err(stuck(ANSWER_PATIENCE)),
                _ = interrupted.wait_for(|interrupted| *interrupted) => Err("the run was interrupted".to_owned()),
            }
        })
    }

    /// As [`Session::request`], for a task of the runtime.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(super) async fn call(&self, body: Request) -> Result<Reply, String> {
        self.call_within(body, 0).await
    }

    /// As [`Session::call`], for what the agent may take so many milliseconds for.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub(super) async fn call_within(&self, body: Request, limit_ms: u64) -> Result<Reply, String> {
        let receiver = self.ask(body)?;
        let patience = ANSWER_PATIENCE + Duration::from_millis(limit_ms);
        match tokio::time::timeout(patience, receiver).await {
            Ok(answer) => answer.map_err(|_| self.why_gone()),
            Err(_) => Err(stuck(patience)),
        }
    }

    /// From now on `operation` acts when the agent asks for it; `None`: nobody does.
    pub(super) fn set_operation(&self, operation: Option<Arc<Operation>>) {
        *self.operation.lock().unwrap_or_else(PoisonError::into_inner) = operation;
    }

    /// Waits for work of the runner's own as long as no signal asks for the end. Must not be called from a task of the runtime.
    pub(super) fn unless_interrupted<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut interrupted = self.interrupted.subscribe();
        self.handle.block_on(async {
            tokio::select! {
                done = work => Some(done),
                _ = interrupted.wait_for(|interrupted| *interrupted) => None,
            }
        })
    }

    /// A signal that has asked for the end of `other` has asked for that of this one.
    pub(super) fn take_after(&self, other: &Session) {
        if other.interrupted() {
            self.interrupted.send_replace(true);
        }
    }

    /// Waits for work of the runner's own. Must not be called from a task of the runtime.
    pub(super) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.handle.block_on(work)
    }

    /// As [`Session::request`], but neither time nor a signal ends the wait: the stack is being put back.
    ///
    /// # Errors
    /// When the agent is gone.
    pub(super) fn insist(&self, body: Request) -> Result<Reply, String> {
        let receiver = self.ask(body)?;
        self.handle.block_on(receiver).map_err(|_| self.why_gone())
    }

    fn ask(&self, body: Request) -> Result<oneshot::Receiver<Reply>, String> {
        if let Request::Start(setup) = &body {
            self.nonce.store(setup.nonce, Ordering::Relaxed);
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(why) = &waiting.over {
                return Err(self.gone(why));
            }
            waiting.answers.insert(id, sender);
        }
        self.post(Envelope { id, body });
        Ok(receiver)
    }

    /// Makes an outage. As [`Session::request`], but what is under way is waited for even when time is up: the stack is being put back.
    /// An agent that is stuck is not waited for, so that it is ended and others may put back what it could not.
    pub(super) fn outage(&self, order: OutageOrder, progress: &dyn Progress) -> Result<Reply, String> {
        let most =
            Duration::from_millis(order.window_ms.saturating_add(order.recovery_ms)).saturating_add(OUTAGE_GRACE);
        let began = Instant::now();
        let body = Request::Outage(order);
        let mut receiver = self.ask(body)?;
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner).take();
        let answer = loop {
            let step =
                self.handle.block_on(async { tokio::time::timeout(Duration::from_millis(50), &mut receiver).await });
            if let Some(notes) = &notes {
                notes.try_iter().for_each(|note| progress.note(&note));
            }
            match step {
                Ok(answer) => break answer.map_err(|_| self.why_gone()),
                Err(_) if began.elapsed() > most => break Err(stuck(most)),
                Err(_) if self.deadline.is_some_and(|deadline| Instant::now() > deadline) => self.abort(),
                Err(_) => {}
            }
        };
        *self.notes.lock().unwrap_or_else(PoisonError::into_inner) = notes;
        answer
    }

    fn why_gone(&self) -> String {
        let why = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).over.clone();
        self.gone(why.as_deref().unwrap_or("the agent ended"))
    }

    /// Whether a signal asked for the end.
    pub(super) fn interrupted(&self) -> bool {
        *self.interrupted.borrow()
    }

    /// Whether the rest of the run is to be left out.
    pub(super) fn ended_early(&self) -> bool {
        self.interrupted()
            || self.deadline.is_some_and(|deadline| Instant::now() > deadline)
            || self.waiting.lock().unwrap_or_else(PoisonError::into_inner).over.is_some()
    }

    /// Tells the agent to end an outage now.
    pub(super) fn abort(&self) {
        self.post(Envelope { id: self.next.fetch_add(1, Ordering::Relaxed), body: Request::Abort });
    }

    /// Ends the agent and waits for it.
    ///
    /// # Errors
    /// When it does not end in time.
    pub(super) fn end(&self) -> Result<(), String> {
        drop(self.outbox.lock().unwrap_or_else(PoisonError::into_inner).take());
        let Some(process) = self.process.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        self.handle.block_on(process.finish(LAST_PATIENCE)).map_err(|error| error.to_string())
    }

    fn post(&self, envelope: Envelope<Request>) {
        if let Some(outbox) = self.outbox.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            let _ = outbox.send(envelope);
        }
    }

    fn gone(&self, why: &str) -> String {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was killed says nothing: the kernel when memory ran out, its keeper when it stood still in an outage.
        let how = process.as_mut().and_then(AgentHandle::ill_end).map(|how| format!(" ({how})")).unwrap_or_default();
        let tail = process.as_ref().map(AgentHandle::stderr_tail).unwrap_or_default();
        if tail.trim().is_empty() { format!("{why}{how}") } else { format!("{why}{how}: {}", tail.trim()) }
    }
}

fn stuck(patience: Duration) -> String {
    format!("the agent gave no answer within {} s", patience.as_secs())
}

/// From here on SIGINT and SIGTERM end an outage, and the run after it, instead of the program.
pub(super) fn watch_signals(runtime: &Handle, session: &Arc<Session>) {
    let session = Arc::clone(session);
    runtime.spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            session.interrupted.send_replace(true);
            session.abort();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Killed earlier, an agent would leave what it is putting back to its keeper, and the run would report a stack that it never looked at.
    #[test]
    fn an_agent_is_given_the_time_that_putting_back_takes() {
        // Told to end in the middle of taking the tunnel down, it asks the control server twice, and dismisses its keeper last.
        let before_and_after = Duration::from_secs(10) * 3;
        for patience in [LAST_PATIENCE, OUTAGE_GRACE] {
            assert!(patience > PUT_BACK_AT_MOST + before_and_after, "{patience:?}");
        }
    }
}
