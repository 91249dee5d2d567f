//! What a phase's probes bring back: each technique's evidence, from whoever can tell it.

use std::sync::PoisonError;
use std::time::Instant;

use super::{Asked, Asking, Shared};
use crate::agent::protocol::{Reply, Request};
use crate::config::OutageMethod;
use crate::model::evidence::Evidence;
use crate::model::probe::Phase;
use crate::runner::forwarding::{self, Prepared};
use crate::runner::{access, dependents, inbound, stack};
use crate::technique;

impl Shared {
    /// What the probe's technique brings back; in an outage the outage itself is the evidence.
    pub(super) fn evidence(&self, asking: &Asking) -> Result<Option<Evidence>, String> {
        if let Some(problem) = &self.state.lock().unwrap_or_else(PoisonError::into_inner).problem {
            return Err(problem.clone());
        }
        if asking.probe.technique == technique::FORWARDING {
            return self.forwarding(asking);
        }
        if asking.phase == Phase::Outage || asking.probe.technique == technique::OUTAGE_SAMPLER {
            return Ok(None);
        }
        if asking.probe.technique == technique::SERVED {
            // The agent's clock is the one by which the sensor says when it listened.
            let from_ms = self.now_ms(&asking.name)?;
            let answers = self.session.block_on(self.asker.served());
            let to_ms = self.now_ms(&asking.name)?;
            return Ok(Some(Evidence { from_ms, to_ms, answers, ..Evidence::default() }));
        }
        if asking.probe.technique == technique::ACCESS {
            let from_ms = self.now_ms(&asking.name)?;
            let (rows, extra_ca) = (&self.asker.access, self.asker.extra_ca.as_deref());
            let evidence = match rows.as_slice() {
                [] => Evidence::default(),
                rows => access::ask(&self.session, &self.around, rows, extra_ca, from_ms),
            };
            return Ok(Some(Evidence { from_ms, to_ms: self.now_ms(&asking.name)?, ..evidence }));
        }
        if asking.probe.technique == technique::DEPENDENTS {
            let from_ms = self.now_ms(&asking.name)?;
            let began = Instant::now();
            let now_ms = || from_ms + began.elapsed().as_secs_f64() * 1000.0;
            let looked = dependents::evidence(&self.around.target, &self.restarted, now_ms);
            return Ok(Some(self.session.block_on(looked)));
        }
        if [technique::STACK, technique::STACK_CONTROL].contains(&asking.probe.technique.as_str()) {
            return self.stack(asking).map(Some);
        }
        if asking.probe.technique == technique::INBOUND {
            let (home, near) = (&self.facts.home, &self.facts.uplink_nets);
            return inbound::ask(&self.session, &asking.name, home, &self.asker.open_ports, near).map(Some);
        }
        let params = serde_json::to_value(&asking.probe.params).map_err(|error| error.to_string())?;
        let request = Request::Run { trial: asking.name.clone(), technique: asking.probe.technique.clone(), params };
        match self.session.request(request)? {
            Reply::Evidence(mut evidence) => {
                if asking.probe.technique == technique::FORBIDDEN {
                    evidence.answers.extend(self.session.block_on(self.asker.forbidden()));
                }
                Ok(Some(evidence))
            }
            Reply::Failed { what, .. } => Err(what),
            other => Err(format!("the agent gave an answer that does not fit: {other:?}")),
        }
    }

    /// What the container engine tells, and the control server where the probe is about it.
    fn stack(&self, asking: &Asking) -> Result<Evidence, String> {
        let from_ms = self.now_ms(&asking.name)?;
        let began = Instant::now();
        let now_ms = || from_ms + began.elapsed().as_secs_f64() * 1000.0;
        let told = self.told.get_or_init(|| self.session.block_on(stack::account(&self.around.target, now_ms)));
        let mut evidence = told.clone();
        if asking.probe.technique == technique::STACK_CONTROL {
            stack::ask_control(&self.session, &self.around, &self.facts.uplink_nets, &mut evidence, now_ms);
        }
        Ok(evidence)
    }

    /// What came of handing packets to the stack; in an outage that comes later, and is only prepared.
    fn forwarding(&self, asking: &Asking) -> Result<Option<Evidence>, String> {
        if let Asked::Outage(order) = &self.asked
            && order.method.parse().is_ok_and(OutageMethod::starts_anew)
        {
            let why = "the stack's network ends with its container: nothing is left in it that could carry packets on";
            return Ok(Some(Evidence::unasked(self.now_ms(&asking.name)?, why)));
        }
        match forwarding::prepare(&self.session, &asking.name, &self.facts.uplink_nets)? {
            Prepared::Unasked(evidence) => Ok(Some(evidence)),
            Prepared::Handing(handing) if asking.phase == Phase::Outage => {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.handing.push((asking.name.clone(), handing));
                Ok(None)
            }
            Prepared::Handing(handing) => handing.ask(&self.session, &asking.name).map(Some),
        }
    }

    /// The agent's time.
    fn now_ms(&self, trial: &str) -> Result<f64, String> {
        let params = serde_json::json!({ "at_least_ms": 0 });
        let request = Request::Run { trial: trial.to_owned(), technique: technique::LISTEN.to_owned(), params };
        match self.session.request(request)? {
            Reply::Evidence(evidence) => Ok(evidence.to_ms),
            Reply::Failed { what, .. } => Err(what),
            other => Err(format!("the agent gave an answer that does not fit: {other:?}")),
        }
    }
}
