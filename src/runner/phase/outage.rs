//! The outage of a phase: noted before it begins, made, and crossed out once it is put back.

use std::sync::{Arc, PoisonError};
use std::thread;

use super::Shared;
use crate::agent::protocol::{Act, OutageOrder, Reply, Request};
use crate::config::OutageMethod;
use crate::model::evidence::OutageEvidence;
use crate::runner::container::Operation;
use crate::runner::session::Tunnel;

impl Shared {
    /// An outage, in which packets are handed to the stack as long as the tunnel is down.
    pub(super) fn outage_and_packets(&self, order: &OutageOrder) -> Result<Reply, String> {
        let handing = std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).handing);
        self.session.set_tunnel(Tunnel::StillUp);
        thread::scope(|scope| {
            let under_way: Vec<_> = handing
                .into_iter()
                .map(|(name, handing)| {
                    let session = &self.session;
                    (name.clone(), scope.spawn(move || handing.while_down(session, &name)))
                })
                .collect();
            let outage = self.outage(order);
            self.session.set_tunnel(Tunnel::Back);
            let ended = under_way.into_iter().map(|(name, thread)| {
                let broken = |_| Err("the thread that hands packets to the stack broke off".to_owned());
                (name, thread.join().unwrap_or_else(broken))
            });
            let ended: Vec<_> = ended.collect();
            self.state.lock().unwrap_or_else(PoisonError::into_inner).handed.extend(ended);
            outage
        })
    }

    /// One outage: what it will change is noted in the journal before the agent may begin, and crossed out once it is put back.
    fn outage(&self, order: &OutageOrder) -> Result<Reply, String> {
        if order.method.parse().is_ok_and(OutageMethod::is_of_container) {
            return Ok(Reply::Outage(Box::new(self.container_outage(order))));
        }
        let armed = match self.session.request(Request::Arm(order.method.clone())) {
            Ok(Reply::Armed(recipe)) => self.notebook.write(&order.method, *recipe),
            Ok(Reply::Failed { what, .. }) => Err(what),
            Ok(_) => Err("the agent gave an answer that does not fit".to_owned()),
            Err(why) => Err(why),
        };
        if let Err(why) = armed {
            return Ok(Reply::Outage(Box::new(not_started(order, &why))));
        }
        let answer = self.session.outage(order.clone(), &*self.progress);
        let untouched = match &answer {
            Ok(Reply::Outage(evidence)) => evidence.restored,
            Ok(Reply::Failed { .. }) => true,
            Ok(_) | Err(_) => false,
        };
        if untouched {
            self.notebook.cross_out();
        }
        answer
    }

    /// One that is made from outside of the namespace: as [`Shared::outage`], but the journal, the keeper and the hands are the runner's own.
    fn container_outage(&self, order: &OutageOrder) -> OutageEvidence {
        let armed = self.session.block_on(Operation::arm(&self.around, order, self.session.how));
        let operation = match armed {
            Ok(operation) => Arc::new(operation),
            Err(why) => return not_started(order, &why),
        };
        let begun = match self.session.request(Request::Arm(order.method.clone())) {
            Ok(Reply::Done) => self.notebook.write_container(&order.method, operation.recipe()),
            Ok(Reply::Failed { what, .. }) => Err(what),
            Ok(_) => Err("the agent gave an answer that does not fit".to_owned()),
            Err(why) => Err(why),
        };
        let keeper = begun.and_then(|()| self.session.block_on(operation.keeper()));
        let keeper = match keeper {
            Ok(keeper) => keeper,
            Err(why) => {
                self.notebook.cross_out_container();
                operation.end();
                return not_started(order, &why);
            }
        };
        self.session.set_operation(Some(Arc::clone(&operation)));
        let answer = self.session.outage(operation.order(), &*self.progress);
        self.session.set_operation(None);
        let mut evidence = match answer {
            Ok(Reply::Outage(evidence)) => *evidence,
            other => {
                let why = match other {
                    Ok(Reply::Failed { what, .. }) | Err(what) => what,
                    Ok(_) => "the agent gave an answer that does not fit".to_owned(),
                };
                // Nobody is left to ask for it.
                let put_back = self.session.block_on(operation.act(Act::Up));
                let problem = format!("the agent was lost in the middle of the outage: {why}");
                let problems = std::iter::once(problem).chain(put_back.as_ref().err().cloned()).collect();
                let restored = put_back.is_ok();
                OutageEvidence { method: order.method.clone(), restored, problems, ..OutageEvidence::default() }
            }
        };
        if evidence.restored {
            let recovered = self.session.unless_interrupted(operation.recover(&mut evidence));
            evidence.ended_early |= recovered.is_none();
            let mut reborn = recovered.flatten();
            if let Some(reborn) = &mut reborn {
                self.session.block_on(operation.mend(reborn));
            }
            self.state.lock().unwrap_or_else(PoisonError::into_inner).reborn = reborn;
        }
        operation.end();
        if evidence.restored {
            self.session.block_on(keeper.dismiss());
            self.notebook.cross_out_container();
        }
        evidence
    }
}

fn not_started(order: &OutageOrder, why: &str) -> OutageEvidence {
    let problems = vec![format!("the outage was not started: {why}")];
    OutageEvidence { method: order.method.clone(), restored: true, problems, ..OutageEvidence::default() }
}
