//! The agent's loop. One thread, entered once; requests are worked on at the same time, and the end of the input ends everything: an
//! outage under way is put back first, whoever took the runner away.

mod start;

use std::cell::{OnceCell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_blocking, spawn_local};

use start::start;

use super::ear::Ear;
use super::protocol::{Envelope, Reply, Request, read_frame, write_frame};
use super::{boot, endpoint, links, memory};
use crate::model::evidence::{Event, OutageEvidence, PhaseWire, Role};
use crate::net::netns::Netns;
use crate::outage::{self, Armed, Early, Hands, NamespaceLock};
use crate::sensor::allow::AllowList;
use crate::sensor::capture::Sensor;
use crate::technique::{self, Context};

/// Enters `netns`, if given, and serves standard input until it ends.
///
/// # Errors
/// When the namespace cannot be entered or the streams are no runner's.
pub fn serve(netns: Option<&Path>) -> io::Result<()> {
    memory::keep_small();
    if let Some(path) = netns {
        Netns::open(path).and_then(|netns| netns.enter()).map_err(io::Error::other)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The stack's own files, where its namespace was entered by way of one of its processes.
    let root = netns.and_then(|path| Some(path.to_str()?.strip_suffix("/ns/net")?.to_owned() + "/root"));
    let root = root.filter(|root| root.starts_with("/proc/")).map(PathBuf::from);
    let result = LocalSet::new().block_on(&runtime, listen(root, netns.is_none()));
    // A read of standard input that nothing ends any more must not keep the process.
    runtime.shutdown_background();
    result
}

struct State {
    /// Root directory of the stack, where it can be reached.
    root: Option<PathBuf>,
    /// Whether this agent is in a container that joined the stack. Docker gives it the stack's own resolv.conf, and the runner's paths are
    /// not to be seen from here.
    own_container: bool,
    lock: OnceCell<NamespaceLock>,
    ready: RefCell<Option<Rc<Ready>>>,
    phase: RefCell<Option<PhaseWire>>,
    armed: RefCell<Option<Armed>>,
    hands: Hands,
    early: RefCell<Option<Early>>,
    ear: RefCell<Option<Ear>>,
}

struct Ready {
    cx: Context,
    sensor: Arc<Sensor>,
}

/// Where a container has its resolv.conf.
const OWN_RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long an agent or keeper of an earlier run may take to put back what it changed, and go. No longer: a second run beside one that is at
/// work has to be refused, and not to wait for its turn.
const LOCK_PATIENCE: Duration = Duration::from_secs(15);
/// How long an earlier run's change is worked on.
const PUT_BACK_PATIENCE: Duration = Duration::from_secs(30);

type Replies = mpsc::UnboundedSender<Envelope<Reply>>;

async fn listen(root: Option<PathBuf>, own_container: bool) -> io::Result<()> {
    // Frames are read by a task of their own: a signal that comes in the middle of one must not lose the half that was read.
    let (frames, mut inbox) = mpsc::unbounded_channel();
    spawn_local(async move {
        let mut input = tokio::io::stdin();
        loop {
            let frame = read_frame::<Envelope<Request>>(&mut input).await;
            let last = !matches!(frame, Ok(Some(_)));
            if frames.send(frame).is_err() || last {
                break;
            }
        }
    });
    let (replies, mut outbox) = mpsc::unbounded_channel::<Envelope<Reply>>();
    let writer = spawn_local(async move {
        let mut output = tokio::io::stdout();
        while let Some(reply) = outbox.recv().await {
            // When the runner is gone there is nobody to tell; what matters is put back all the same.
            if write_frame(&mut output, &reply).await.is_err() {
                break;
            }
        }
    });
    let hands = Hands::new(replies.clone());
    let state = Rc::new(State {
        root,
        own_container,
        lock: OnceCell::new(),
        ready: RefCell::default(),
        phase: RefCell::default(),
        armed: RefCell::default(),
        hands: hands.clone(),
        early: RefCell::default(),
        ear: RefCell::default(),
    });
    let (abort, aborted) = watch::channel(false);
    let mut tasks = tokio::task::JoinSet::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let result = loop {
        tokio::select! {
            frame = inbox.recv() => match frame.unwrap_or(Ok(None)) {
                Ok(Some(Envelope { id, body: Request::Stop })) => {
                    let _ = abort.send(true);
                    hands.let_go();
                    while tasks.join_next().await.is_some() {}
                    let _ = replies.send(Envelope { id, body: Reply::Done });
                    break Ok(());
                }
                Ok(Some(Envelope { id, body: Request::Abort })) => {
                    let _ = abort.send(true);
                    let _ = replies.send(Envelope { id, body: Reply::Done });
                }
                Ok(Some(Envelope { body: Request::Acted(outcome), .. })) => hands.acted(outcome),
                Ok(Some(Envelope { id, body })) => {
                    let (state, replies, aborted) = (Rc::clone(&state), replies.clone(), aborted.clone());
                    tasks.spawn_local(async move {
                        let sender = replies.clone();
                        let body = answered(async move { work(&state, body, aborted, &sender).await }).await;
                        let _ = replies.send(Envelope { id, body });
                    });
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            },
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = hangup.recv() => {}
        }
    };
    let _ = abort.send(true);
    hands.let_go();
    while tasks.join_next().await.is_some() {}
    let unused = state.armed.take();
    if let Some(armed) = unused {
        armed.end(true).await;
    }
    // The writer ends when nobody can write any more.
    drop((state, hands, replies));
    let _ = writer.await;
    result
}

/// What `work` answers. A panic in it is an answer too: nobody shall wait for one that never comes.
async fn answered(work: impl Future<Output = Reply> + 'static) -> Reply {
    spawn_local(work).await.unwrap_or_else(|error| {
        let why = match error.try_into_panic() {
            Ok(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given").to_owned()
            }
            Err(error) => error.to_string(),
        };
        Reply::Failed { what: format!("the agent's work on the request broke off: {why}"), help: None }
    })
}

async fn work(state: &State, request: Request, mut aborted: watch::Receiver<bool>, replies: &Replies) -> Reply {
    match request {
        // It changes nothing that would have to be put back, and may wait long for an earlier run to go.
        Request::Start(setup) => tokio::select! {
            started = start(state, *setup) => started.map_or_else(|reply| reply, Reply::Started),
            _ = aborted.wait_for(|aborted| *aborted) => {
                Reply::Failed { what: "the run was interrupted".to_owned(), help: None }
            }
        },
        Request::PutBack { recipe, key } => match take_lock(state).await {
            Ok(()) => match recipe.work_off(key.as_ref(), PUT_BACK_PATIENCE).await {
                Ok(()) => Reply::Done,
                Err(what) => Reply::Failed { what, help: None },
            },
            Err(reply) => reply,
        },
        Request::Stimulate(order) => match boot::stimulate(&order) {
            Ok(early) => {
                state.early.replace(Some(early));
                Reply::Done
            }
            Err(what) => Reply::Failed { what, help: None },
        },
        Request::Stimulated => {
            let ready = state.ready.borrow().clone();
            let tunnel = ready.as_ref().and_then(|ready| ready.cx.links.iter().find(|link| link.role == Role::Tunnel));
            let early = state.early.take();
            match boot::finish(early, tunnel.map(|link| link.name.as_str())).await {
                Ok(mut stimuli) => {
                    stimuli.allow = ready
                        .map(|ready| AllowList { endpoints: ready.sensor.endpoints(), local: ready.sensor.local() });
                    Reply::Stimuli(Box::new(stimuli))
                }
                Err(what) => Reply::Failed { what, help: None },
            }
        }
        Request::AwaitTunnel { name, limit_ms } => {
            if boot::await_tunnel(&name, Duration::from_millis(limit_ms)).await {
                Reply::Done
            } else {
                Reply::Failed { what: format!("no link {name} came up"), help: None }
            }
        }
        Request::Overhear { elapsed_ms } => match Ear::open(elapsed_ms) {
            Ok(ear) => {
                state.ear.replace(Some(ear));
                Reply::Done
            }
            Err(error) => {
                Reply::Failed { what: format!("the host's links cannot be listened to: {error}"), help: None }
            }
        },
        Request::Overheard(order) => match state.ear.take() {
            Some(ear) => match spawn_blocking(move || ear.finish(&order)).await {
                Ok(boot) => Reply::Boot(Box::new(boot)),
                Err(error) => Reply::Failed { what: error.to_string(), help: None },
            },
            None => Reply::Failed { what: "nothing was listened to".to_owned(), help: None },
        },
        Request::Resolve { names, host, limit_ms } => {
            Reply::Resolved(names.resolve(&host, Duration::from_millis(limit_ms)).await)
        }
        Request::Reach(order) => Reply::Reached(technique::reach_place(&order).await),
        Request::AskControl { at } => Reply::Said(Box::new(technique::ask_as_stranger(at).await)),
        request => work_started(state, request, aborted, replies).await,
    }
}

async fn work_started(state: &State, request: Request, aborted: watch::Receiver<bool>, replies: &Replies) -> Reply {
    let failed = |what: String| Reply::Failed { what, help: None };
    let Some(ready) = state.ready.borrow().clone() else { return failed("the agent was not started".to_owned()) };
    match request {
        Request::OpenPhase => {
            ready.cx.heard.forget();
            // After an outage the firewall may be another one.
            let servers: Vec<SocketAddr> = ready.sensor.endpoints().iter().map(|endpoint| endpoint.address).collect();
            ready.cx.openings.look(&servers, false);
            let sensor = Arc::clone(&ready.sensor);
            match spawn_blocking(move || sensor.arm()).await {
                Ok(phase) => {
                    state.phase.replace(Some(phase));
                    Reply::Done
                }
                Err(error) => failed(format!("the sensor could not be armed: {error}")),
            }
        }
        Request::ClosePhase => {
            let Some(phase) = state.phase.take() else { return failed("no phase is open".to_owned()) };
            let sensor = Arc::clone(&ready.sensor);
            match spawn_blocking(move || sensor.close(phase)).await {
                Ok(phase) => Reply::Wire(PhaseWire { opened: ready.cx.openings.since_start(), ..phase }),
                Err(error) => failed(format!("the sensor could not be closed: {error}")),
            }
        }
        Request::Run { trial, technique, params } => match technique::find(&technique) {
            Some(found) => match found.check(&params) {
                Ok(()) => Reply::Evidence(found.run(&ready.cx, trial.into(), params).await),
                Err(why) => failed(format!("technique {technique} does not take its parameters: {why}")),
            },
            None => failed(format!("there is no technique {technique}")),
        },
        Request::Arm(method) => {
            let servers = ready.sensor.endpoints();
            match Armed::new(&method, &ready.cx, &servers, state.lock.get(), &state.hands).await {
                Ok(armed) => {
                    let recipe = armed.recipe().cloned();
                    state.armed.replace(Some(armed));
                    recipe.map_or(Reply::Done, |recipe| Reply::Armed(Box::new(recipe)))
                }
                Err(why) => failed(why),
            }
        }
        Request::Prove { home, limit_ms } => {
            match outage::prove(&ready.cx, &home, Duration::from_millis(limit_ms)).await {
                Some(at_ms) => Reply::Proven(at_ms),
                None => failed(format!("no exit of the VPN could be proven within {:.0} s", limit_ms as f64 / 1000.0)),
            }
        }
        Request::Outage(order) => {
            let Some(armed) = state.armed.take() else { return failed("no outage is armed".to_owned()) };
            let note = |text: String| {
                let _ = replies.send(Envelope { id: 0, body: Reply::Note(text) });
            };
            let down = |is: bool| {
                let _ = replies.send(Envelope { id: 0, body: Reply::Down(is) });
            };
            let mut evidence = outage::run(&ready.cx, &ready.sensor, &order, armed, aborted, &note, &down).await;
            if evidence.recovered_ms.is_some() {
                look_again(&ready, &mut evidence).await;
            }
            Reply::Outage(Box::new(evidence))
        }
        Request::Start(_)
        | Request::PutBack { .. }
        | Request::Abort
        | Request::Stop
        | Request::Acted(_)
        | Request::Stimulate(_)
        | Request::Stimulated
        | Request::AwaitTunnel { .. }
        | Request::Overhear { .. }
        | Request::Overheard(_)
        | Request::Resolve { .. }
        | Request::Reach(_)
        | Request::AskControl { .. } => failed("the request came at the wrong time".to_owned()),
    }
}

/// Makes this agent the only one of the namespace.
async fn take_lock(state: &State) -> Result<(), Reply> {
    if state.lock.get().is_some() {
        return Ok(());
    }
    let failed = |what: String, help: &str| Reply::Failed { what, help: Some(help.to_owned()) };
    match NamespaceLock::take(LOCK_PATIENCE).await {
        Ok(Some(lock)) => state.lock.set(lock).map_err(|_| failed("two requests came at once".to_owned(), "run again")),
        Ok(None) => Err(failed(
            "another leakcheck is at work in this namespace".to_owned(),
            "wait until it has ended; it may have been started by somebody else, in another container or on another machine",
        )),
        Err(error) => {
            Err(failed(format!("the namespace could not be locked: {error}"), "run as root, or with --enter container"))
        }
    }
}

/// A VPN that was started again may have another server: what it sent there is its own.
async fn look_again(ready: &Ready, evidence: &mut OutageEvidence) {
    let tunnel = ready.cx.links.iter().find(|link| link.role == Role::Tunnel).map(|link| link.name.clone());
    let found = links::find(&ready.cx.routes, tunnel.as_deref(), &ready.cx.setup.other_tunnels).await;
    let local = ready.sensor.local();
    let seen = spawn_blocking(move || endpoint::observe(&found, &local)).await;
    let Ok(Ok(Some(seen))) = seen else { return };
    let known = ready.sensor.endpoints();
    if known.contains(&seen) {
        return;
    }
    if !known.iter().any(|endpoint| endpoint.address == seen.address) {
        let at_ms = ready.cx.clock.now_ms() - evidence.from_ms;
        evidence
            .events
            .push(Event { at_ms, what: format!("the VPN server is now {}, seen on the wire", seen.address) });
    }
    ready.sensor.adopt(seen);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_answer() {
        let tasks = LocalSet::new();
        let broken = async { panic!("no such {}", "thing") };
        match tasks.run_until(answered(broken)).await {
            Reply::Failed { what, .. } => assert!(what.contains("no such thing"), "{what}"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(tasks.run_until(answered(async { Reply::Done })).await, Reply::Done));
    }
}
