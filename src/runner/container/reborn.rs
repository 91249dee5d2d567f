//! A stack whose container was started again: found anew in its new namespace, and what it did before its firewall stood.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{AGAIN, Operation, State, done};
use crate::agent::protocol::{Overhearing, Reply, Request, Setup, Stack, Stimuli};
use crate::judge;
use crate::model::evidence::Boot;
use crate::runner::dependents;
use crate::runner::session::Session;
use crate::target::{Target, TargetSpec};

/// How long what the new stack has in its resolv.conf may differ from what was there before.
const RESOLV_PATIENCE: Duration = Duration::from_secs(10);

/// A stack that was found again.
pub(super) struct Found {
    pub(super) stack: Stack,
    pub(super) target: Arc<Target>,
    pub(super) proven_ms: f64,
}

impl Operation {
    /// Waits until the stack is as a stack should be, and asks for all facts anew.
    pub(super) async fn find_again(&self, session: &Session, end: Instant) -> Result<Found, String> {
        let left_ms = || end.saturating_duration_since(Instant::now()).as_millis() as u64;
        let tunnel = self.around.tunnel.clone().ok_or("no tunnel was known before")?;
        let limit_ms = left_ms();
        done(session.call_within(Request::AwaitTunnel { name: tunnel, limit_ms }, limit_ms).await)?;
        let spec = TargetSpec::Docker(self.container.id.clone());
        let mut target =
            Target::find(Some(&spec), &self.around.find).await.map_err(|error| format!("failed to {error}"))?;
        target.label.clone_from(&self.around.target.label);
        self.start(session, &target).await?;
        let limit_ms = left_ms();
        let prove = Request::Prove { home: self.order.home.clone(), limit_ms };
        let proven_ms = match session.call_within(prove, limit_ms).await? {
            Reply::Proven(at_ms) => at_ms,
            Reply::Failed { what, .. } => return Err(what),
            _ => return Err("the agent gave an answer that does not fit".to_owned()),
        };
        // Gluetun names its own resolver only when that works.
        let patience = Instant::now() + RESOLV_PATIENCE;
        while target.resolv_conf.text != self.around.target.resolv_conf.text && Instant::now() < patience {
            sleep(AGAIN).await;
            if let Ok(now) = target.reread_resolv_conf().await {
                target.resolv_conf = now;
            }
        }
        // What was found while the stack came up may be half of it.
        let stack = self.start(session, &target).await?;
        Ok(Found { stack, target: Arc::new(target), proven_ms })
    }

    async fn start(&self, session: &Session, target: &Target) -> Result<Stack, String> {
        let setup = Setup {
            elapsed_ms: self.around.now_ms(),
            nonce: rand::random(),
            resolv_conf: target.resolv_conf.text.clone(),
            resolv_files: target.resolv_files(),
            ..(*self.around.setup).clone()
        };
        match session.call(Request::Start(Box::new(setup))).await? {
            Reply::Started(stack) => Ok(stack),
            Reply::Failed { what, .. } => Err(what),
            _ => Err("the agent gave an answer that does not fit".to_owned()),
        }
    }

    /// What was heard on the host, and what was sent from within.
    pub(super) async fn boot(&self, state: &State, found: Option<&Found>) -> Boot {
        let mut problems = state.problems.clone();
        let stimuli = match &state.joined {
            Some(joined) => match joined.session.call(Request::Stimulated).await {
                Ok(Reply::Stimuli(stimuli)) => Some(*stimuli),
                Ok(Reply::Failed { what, .. }) | Err(what) => {
                    problems.push(what);
                    None
                }
                Ok(_) => None,
            },
            None => None,
        };
        let nonce = state.joined.as_ref().map(|joined| joined.nonce).unwrap_or_default();
        let mut boot = match self.overheard(stimuli.as_ref(), nonce).await {
            Ok(boot) => boot,
            Err(why) => {
                problems.push(why);
                Boot::default()
            }
        };
        if let Some(Stimuli { from_ms, samples, .. }) = stimuli {
            (boot.joined_ms, boot.samples) = (Some(from_ms), samples);
        }
        boot.told_ms = state.told_ms.unwrap_or_default();
        boot.started_ms = state.started_ms.unwrap_or_default();
        boot.hasty = found.map(|found| dependents::hasty(&found.target)).unwrap_or_default();
        boot.problems.extend(problems);
        boot
    }

    async fn overheard(&self, stimuli: Option<&Stimuli>, nonce: u32) -> Result<Boot, String> {
        let ear = self.ear.as_ref().map_err(Clone::clone)?;
        let stimuli = stimuli.ok_or("nobody was inside who could tell which links are the stack's")?;
        let allow = stimuli.allow.clone().unwrap_or_default();
        let order = Overhearing { peers: stimuli.peers.clone(), nonce, trial: judge::PLAYED.to_owned(), allow };
        let answer = ear.call(Request::Overheard(Box::new(order))).await;
        match answer? {
            Reply::Boot(boot) => Ok(*boot),
            Reply::Failed { what, .. } => Err(what),
            _ => Err("the listener gave an answer that does not fit".to_owned()),
        }
    }
}
