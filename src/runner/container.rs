//! Outages that are made from outside of the namespace: Docker pauses, restarts or kills the VPN container at the agent's word, and a keeper
//! of the runner's own sees to it that the container runs afterwards, whoever dies. A container that is started again has another network
//! namespace: from before its start the host's links are listened to, a program that joins it at once is played, and recovery is proven, and
//! the rest of the run done, by a new agent in the new namespace.

mod reborn;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::dependents;
use super::session::Session;
use crate::agent::protocol::{Act, OutageOrder, Reply, Request, Setup, Stack, Stimulation};
use crate::config::OutageMethod;
use crate::judge;
use crate::model::evidence::{Event, OutageEvidence};
use crate::outage::{Keeper, Recipe};
use crate::target::{AgentProcess, Condition, Container, FindOptions, Target};

/// How long Docker may take until it says that a container that it has killed is dead.
const DEATH_PATIENCE: Duration = Duration::from_secs(5);
/// Time between two tries at the engine.
const AGAIN: Duration = Duration::from_millis(250);
/// The window of a restart, which takes as long as it takes: enough to ask a nameserver once.
const RESTART_WINDOW_MS: u64 = 500;
/// What there is around an outage. Cheap to clone.
#[derive(Clone)]
pub(super) struct Around {
    /// Runs what is waited for.
    pub handle: Handle,
    /// The stack as it was found last.
    pub target: Arc<Target>,
    /// What agents are told.
    pub setup: Arc<Setup>,
    /// Name of the tunnel's link, if there is one.
    pub tunnel: Option<String>,
    /// When the run began.
    pub clock: Instant,
    /// When it has to be over.
    pub deadline: Option<Instant>,
    /// How targets are found.
    pub find: Arc<FindOptions>,
    /// Whether dependents that were left outside may be restarted.
    pub restart_dependents: bool,
}

impl Around {
    fn now_ms(&self) -> f64 {
        self.clock.elapsed().as_secs_f64() * 1000.0
    }
}

/// A stack after its container was started again.
pub(super) struct Reborn {
    /// With the agent in the new namespace.
    pub session: Arc<Session>,
    /// What it found there.
    pub stack: Stack,
    /// The target as it is now.
    pub target: Arc<Target>,
    /// Dependents that had to be restarted, and were.
    pub restarted: Vec<String>,
    /// What the reader should know.
    pub notes: Vec<String>,
}

/// One such outage.
pub(super) struct Operation {
    around: Around,
    method: OutageMethod,
    order: OutageOrder,
    container: Container,
    /// How it was before.
    before: Condition,
    /// How the first agent got in.
    how: &'static str,
    ear: Result<Arc<Session>, String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Until when it is tried to have the container run.
    deadline: Option<Instant>,
    told_ms: Option<f64>,
    started_ms: Option<f64>,
    joined: Option<Joined>,
    problems: Vec<String>,
}

/// The agent in the new namespace.
struct Joined {
    session: Arc<Session>,
    nonce: u32,
}

impl Operation {
    /// Looks at the container, and begins to listen on its host. Changes nothing.
    ///
    /// # Errors
    /// Why nothing may be done to it.
    pub(super) async fn arm(around: &Around, order: &OutageOrder, how: &'static str) -> Result<Self, String> {
        let method: OutageMethod = order.method.parse()?;
        let container = around.target.container().ok_or("the target is no container that Docker knows")?;
        let before = container.look().await?;
        if !before.running || before.paused {
            return Err(format!("the container {} is {}", container.name, before.state));
        }
        if before.removed_at_end && method.starts_anew() {
            return Err(format!("Docker would remove the container {} when it ends (--rm)", container.name));
        }
        let ear = if method.starts_anew() { listen(around).await } else { Err("nothing is started".to_owned()) };
        let mut order = order.clone();
        if method == OutageMethod::Restart {
            order.window_ms = order.window_ms.min(RESTART_WINDOW_MS);
        }
        let (around, state) = (around.clone(), Mutex::default());
        Ok(Self { around, method, order, container, before, how, ear, state })
    }

    /// What has to be done should the worst come.
    pub(super) fn recipe(&self) -> Recipe {
        Recipe::of_container(self.container.clone())
    }

    /// Somebody who does it even if we die.
    ///
    /// # Errors
    /// When there is nobody.
    pub(super) async fn keeper(&self) -> Result<Keeper, String> {
        Keeper::start(&self.recipe(), None, None).await
    }

    /// What the agent is told to do meanwhile.
    pub(super) fn order(&self) -> OutageOrder {
        self.order.clone()
    }

    /// Does what the agent asks for.
    ///
    /// # Errors
    /// What could not be done.
    pub(super) async fn act(&self, act: Act) -> Result<String, String> {
        match act {
            Act::Down => self.down().await,
            Act::Up => self.up().await.map(|()| String::new()),
            Act::Verify => self.container.verify().await.map(|()| String::new()),
        }
    }

    async fn down(&self) -> Result<String, String> {
        let name = &self.container.name;
        // Held until Docker is through with it, so that nobody puts back what is yet to come.
        let mut state = self.state.lock().await;
        match self.method {
            OutageMethod::Pause => {
                self.container.pause().await?;
                match self.container.look().await? {
                    now if now.paused => Ok(format!("Docker says that the container {name} is paused")),
                    now => {
                        Err(format!("Docker was told to pause the container {name} and says that it is {}", now.state))
                    }
                }
            }
            OutageMethod::Restart => {
                state.told_ms = Some(self.around.now_ms());
                self.container.restart().await?;
                self.join(&mut state).await;
                match self.container.look().await? {
                    now if self.is_another(&now) => Ok(format!("Docker has restarted the container {name}")),
                    now => Err(format!(
                        "Docker was told to restart the container {name}, which is {} as before",
                        now.state
                    )),
                }
            }
            _ => {
                self.container.kill().await?;
                let end = Instant::now() + DEATH_PATIENCE;
                loop {
                    let now = self.container.look().await?;
                    if !now.running || self.is_another(&now) {
                        return Ok(format!("Docker says that the container {name} was killed"));
                    }
                    if Instant::now() > end {
                        return Err(format!(
                            "Docker was told to kill the container {name}, which is still {}",
                            now.state
                        ));
                    }
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    async fn up(&self) -> Result<(), String> {
        let mut state = self.state.lock().await;
        let recovery = Duration::from_millis(self.order.recovery_ms);
        let deadline = *state.deadline.get_or_insert_with(|| Instant::now() + recovery);
        state.told_ms.get_or_insert_with(|| self.around.now_ms());
        loop {
            let done = match self.container.put_back().await {
                Ok(()) => self.container.verify().await,
                Err(why) => Err(why),
            };
            match done {
                Ok(()) => break,
                Err(why) if Instant::now() >= deadline => return Err(why),
                Err(_) => sleep(AGAIN).await,
            }
        }
        if self.method.starts_anew() {
            self.join(&mut state).await;
        }
        Ok(())
    }

    /// Whether the container was started again since.
    fn is_another(&self, now: &Condition) -> bool {
        now.running && now.started_at != self.before.started_at
    }

    /// Puts an agent into the new namespace, if there is one, and has it send at once.
    async fn join(&self, state: &mut State) {
        if state.joined.is_some() {
            return;
        }
        let now = match self.container.look().await {
            Ok(now) if self.is_another(&now) => now,
            Ok(_) => return,
            Err(why) => return state.problems.push(why),
        };
        let seen_ms = self.around.now_ms();
        state.started_ms.get_or_insert(began_ms(&now.started_at, seen_ms, state.told_ms));
        match self.enter(&now).await {
            Ok(joined) => state.joined = Some(joined),
            Err(why) => state.problems.push(format!("nobody could join the new namespace: {why}")),
        }
    }

    async fn enter(&self, now: &Condition) -> Result<Joined, String> {
        let launched = self.around.target.launch_anew(now, self.how).await;
        // The namespace is held until the agent is inside.
        let (process, _namespace) = launched.map_err(|error| format!("failed to {error}"))?;
        let session = open(&self.around, process);
        let nonce = rand::random();
        let order = Stimulation {
            elapsed_ms: self.around.now_ms(),
            nonce,
            trial: judge::PLAYED.to_owned(),
            canary: self.around.setup.canary.clone(),
            tunnel: self.around.tunnel.clone(),
        };
        done(session.call(Request::Stimulate(order)).await)?;
        Ok(Joined { session, nonce })
    }

    /// Looks for the stack in its new namespace, if it has one, and completes the evidence. `None`: there is nothing new to go on with.
    pub(super) async fn recover(&self, evidence: &mut OutageEvidence) -> Option<Reborn> {
        if !self.method.starts_anew() {
            return None;
        }
        let mut state = self.state.lock().await;
        if state.joined.is_none() {
            self.join(&mut state).await;
        }
        // An outage that was not begun has ended nothing.
        evidence.namespace_ended = state.started_ms.is_some() || evidence.down_proof.is_some();
        let end = Instant::now() + Duration::from_millis(self.order.recovery_ms);
        let end = self.around.deadline.map_or(end, |deadline| end.min(deadline));
        let since = |at_ms: f64| at_ms - evidence.from_ms;
        let mut events: Vec<Event> = Vec::new();
        events
            .extend(state.started_ms.map(|at| Event { at_ms: since(at), what: "the container runs again".to_owned() }));
        let found = match &state.joined {
            Some(joined) => self.find_again(&joined.session, end).await,
            None => Err("no agent is in the new namespace".to_owned()),
        };
        match &found {
            Ok(found) => {
                evidence.recovered_ms = Some(since(found.proven_ms));
                let uplinks: Vec<&str> = found.stack.links.iter().map(|link| link.name.as_str()).collect();
                let what =
                    format!("an exit of the VPN is proven again, in another namespace with {}", uplinks.join(" and "));
                events.push(Event { at_ms: since(found.proven_ms), what });
            }
            Err(_) if self.around.deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                evidence.ended_early = true
            }
            Err(why) if evidence.namespace_ended => evidence.gave_up = Some(why.clone()),
            Err(_) => {}
        }
        evidence.events.extend(events);
        evidence.events.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms));
        if evidence.namespace_ended {
            evidence.boot = Some(self.boot(&state, found.as_ref().ok()).await);
        }
        let joined = state.joined.take()?;
        let found = match found {
            Ok(found) => found,
            Err(_) => {
                let _ = tokio::task::spawn_blocking(move || joined.session.end()).await;
                return None;
            }
        };
        let (restarted, notes) = (Vec::new(), Vec::new());
        Some(Reborn { session: joined.session, stack: found.stack, target: found.target, restarted, notes })
    }

    /// Puts right the dependents that were left in the old namespace, if that was asked for. Once begun it is not to be interrupted: a
    /// container would be left between its end and its start.
    pub(super) async fn mend(&self, reborn: &mut Reborn) {
        if self.around.restart_dependents {
            (reborn.restarted, reborn.notes) = dependents::mend(&reborn.target).await;
        }
    }

    /// Ends the listener, and an agent that nobody took over. Must not be called from a task of the runtime.
    pub(super) fn end(self: Arc<Self>) {
        let left = self.around.handle.block_on(async { self.state.lock().await.joined.take() });
        for session in left.map(|joined| joined.session).iter().chain(&self.ear) {
            // It has changed nothing, so how it ended is of no interest.
            let _ = session.end();
        }
    }
}

/// When a container was started that Docker says was at `started_at`, on the run's clock, which reads `now_ms` now. An engine whose clock goes
/// otherwise is not believed: then it was just now.
fn began_ms(started_at: &str, now_ms: f64, told_ms: Option<f64>) -> f64 {
    let stated = started_at.parse::<Timestamp>().ok();
    let ago_ms = stated.map(|at| Timestamp::now().duration_since(at).as_secs_f64() * 1000.0);
    let began = ago_ms.map(|ago| now_ms - ago).filter(|at| *at <= now_ms && Some(*at) >= told_ms);
    began.unwrap_or(now_ms)
}

fn open(around: &Around, process: AgentProcess) -> Arc<Session> {
    Arc::new(Session::open(&around.handle, process, around.deadline))
}

/// Begins to listen on the container's host.
async fn listen(around: &Around) -> Result<Arc<Session>, String> {
    let failed = |why: String| format!("nobody could listen on the container's host: {why}");
    let process = around.target.launch_on_host().await.map_err(|error| failed(format!("failed to {error}")))?;
    let session = open(around, process);
    done(session.call(Request::Overhear { elapsed_ms: around.now_ms() }).await).map_err(failed)?;
    Ok(session)
}

fn done(answer: Result<Reply, String>) -> Result<(), String> {
    match answer? {
        Reply::Done => Ok(()),
        Reply::Failed { what, .. } => Err(what),
        _ => Err("the agent gave an answer that does not fit".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_where_docker_says_unless_that_cannot_be() {
        let before = |ms: i64| (Timestamp::now() - jiff::SignedDuration::from_millis(ms)).to_string();
        let began = began_ms(&before(200), 1000.0, Some(500.0));
        assert!((700.0..=800.0).contains(&began), "{began}");
        assert_eq!(began_ms(&before(900), 1000.0, Some(500.0)), 1000.0, "before it was told to");
        assert_eq!(began_ms(&before(-60_000), 1000.0, Some(500.0)), 1000.0, "in the future");
        assert_eq!(began_ms("", 1000.0, None), 1000.0);
    }
}
