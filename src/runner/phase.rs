//! One phase: the sensor is armed, every trial of it runs at once under libtest-mimic, the sensor is closed, and each trial gets its verdict.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, ColorSetting, Failed, Trial as TestTrial};

use super::access;
use super::account::result;
use super::container::{Around, Operation, Reborn};
use super::dependents;
use super::forwarding::{self, Handing, Prepared};
use super::inbound;
use super::outside::Asker;
use super::put_back::Notebook;
use super::session::{Session, Tunnel};
use super::stack;
use crate::agent::protocol::{Act, OutageOrder, Reply, Request};
use crate::catalog::Trial;
use crate::config::OutageMethod;
use crate::judge::{Case, Facts, Ruling, access_rows, judge, ways};
use crate::model::evidence::{Evidence, OutageEvidence, PhaseWire};
use crate::model::probe::{Expectation, Phase, Probe};
use crate::model::report::{AccessRow, ProbeResult, VerdictWord, Ways};
use crate::model::verdict::Verdict;
use crate::report::progress::Progress;
use crate::technique;

/// What happens in a phase beside the probes' own techniques.
pub(super) enum Asked {
    /// Nothing.
    Techniques,
    /// An outage, which is the evidence of all probes of the phase.
    Outage(OutageOrder),
    /// An outage is over.
    AfterOutage(Arc<OutageEvidence>),
}

/// What phases share, and what they leave behind.
pub(super) struct Phases {
    session: Arc<Session>,
    facts: Arc<Facts>,
    around: Around,
    /// Dependents that had to be restarted before the phase.
    pub restarted: Vec<String>,
    /// The stack in its new namespace, if the last phase ended the old one.
    pub reborn: Option<Reborn>,
    notebook: Arc<Notebook>,
    progress: Arc<dyn Progress>,
    asker: Arc<Asker>,
    /// What the sensor saw in each phase so far.
    pub wires: Vec<Arc<PhaseWire>>,
    /// What was found of the access matrix in each phase so far.
    pub access: Vec<AccessRow>,
    /// The outage of the last phase, if it had one.
    pub outage: Option<Arc<OutageEvidence>>,
    /// How long the last phase took.
    pub took: Duration,
}

/// What the trials of one phase share.
struct Shared {
    session: Arc<Session>,
    facts: Arc<Facts>,
    around: Around,
    restarted: Vec<String>,
    notebook: Arc<Notebook>,
    progress: Arc<dyn Progress>,
    asker: Arc<Asker>,
    asked: Asked,
    /// What the container engine tells of the stack, asked once.
    told: OnceLock<Evidence>,
    expected: usize,
    state: Mutex<State>,
    closed: Condvar,
}

#[derive(Default)]
struct State {
    arrived: usize,
    closed: bool,
    wire: Option<Arc<PhaseWire>>,
    outage: Option<Arc<OutageEvidence>>,
    reborn: Option<Reborn>,
    problem: Option<String>,
    /// What is to be handed to the stack while the tunnel is down, by the name of the asking, and what came of it.
    handing: Vec<(String, Handing)>,
    handed: HashMap<String, Result<Evidence, String>>,
    access: Vec<AccessRow>,
    results: Vec<(usize, ProbeResult)>,
}

/// One asking of a probe, owned, for a thread of its own.
struct Asking {
    place: usize,
    probe: Arc<Probe>,
    phase: Phase,
    method: Option<String>,
    name: String,
}

impl Phases {
    pub(super) fn new(
        session: &Arc<Session>,
        facts: &Arc<Facts>,
        around: Around,
        notebook: &Arc<Notebook>,
        progress: &Arc<dyn Progress>,
        asker: &Arc<Asker>,
    ) -> Self {
        Phases {
            session: Arc::clone(session),
            facts: Arc::clone(facts),
            around,
            restarted: Vec::new(),
            reborn: None,
            notebook: Arc::clone(notebook),
            progress: Arc::clone(progress),
            asker: Arc::clone(asker),
            wires: Vec::new(),
            access: Vec::new(),
            outage: None,
            took: Duration::ZERO,
        }
    }

    /// Goes on in another namespace, by another agent.
    pub(super) fn go_on(&mut self, reborn: &Reborn, facts: Facts) {
        self.session = Arc::clone(&reborn.session);
        self.facts = Arc::new(facts);
        self.around.target = Arc::clone(&reborn.target);
        self.around.tunnel.clone_from(&reborn.stack.tunnel);
        self.restarted.clone_from(&reborn.restarted);
    }

    /// Runs one phase. `label` is for the progress line.
    pub(super) fn run(&mut self, label: &str, trials: &[&Trial<'_>], asked: Asked) -> Vec<ProbeResult> {
        self.outage = None;
        self.reborn = None;
        if trials.is_empty() && !matches!(asked, Asked::Outage(_)) {
            return Vec::new();
        }
        self.progress.phase(label);
        let began = Instant::now();
        let problem = match self.session.request(Request::OpenPhase) {
            Ok(Reply::Done) => None,
            Ok(Reply::Failed { what, .. }) => Some(what),
            Ok(_) => Some("the agent gave an answer that does not fit".to_owned()),
            Err(why) => Some(why),
        };
        let shared = Arc::new(Shared {
            session: Arc::clone(&self.session),
            facts: Arc::clone(&self.facts),
            around: self.around.clone(),
            restarted: self.restarted.clone(),
            notebook: Arc::clone(&self.notebook),
            progress: Arc::clone(&self.progress),
            asker: Arc::clone(&self.asker),
            asked,
            told: OnceLock::new(),
            expected: trials.len(),
            state: Mutex::new(State { problem, ..State::default() }),
            closed: Condvar::new(),
        });
        if trials.is_empty() {
            shared.close();
        }
        let tests = trials.iter().enumerate().map(|(place, trial)| {
            let asking = Asking {
                place,
                probe: Arc::new(trial.probe.clone()),
                phase: trial.phase,
                method: trial.method.clone(),
                name: trial.name(),
            };
            let shared = Arc::clone(&shared);
            TestTrial::test(asking.name.clone(), move || shared.ask(&asking))
        });
        // All at once: each waits for the others before the sensor is closed. What libtest-mimic prints is not for people here.
        let arguments = Arguments {
            test_threads: Some(trials.len().max(2)),
            quiet: true,
            color: Some(ColorSetting::Never),
            logfile: Some("/dev/null".to_owned()),
            ..Arguments::default()
        };
        let _ = libtest_mimic::run(&arguments, tests.collect());
        self.took = began.elapsed();
        let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.wires.extend(state.wire.clone());
        self.access.append(&mut state.access);
        self.outage = state.outage.clone();
        self.reborn = state.reborn.take();
        let mut results = std::mem::take(&mut state.results);
        drop(state);
        for (place, trial) in trials.iter().enumerate() {
            if !results.iter().any(|(known, _)| *known == place) {
                results
                    .push((place, result(trial, unasked("the runner broke off while asking"), None, Duration::ZERO)));
            }
        }
        results.sort_by_key(|(place, _)| *place);
        results.into_iter().map(|(_, result)| result).collect()
    }
}

fn unasked(why: &str) -> Ruling {
    Ruling {
        verdict: Verdict::Inconclusive,
        summary: "not measured".to_owned(),
        reason: Some(why.to_owned()),
        evidence: Vec::new(),
    }
}

impl Shared {
    /// One trial from beginning to end.
    fn ask(&self, asking: &Asking) -> Result<(), Failed> {
        let began = Instant::now();
        self.progress.started(&asking.name);
        let arrival = Arrival(self);
        let evidence = self.evidence(asking);
        // What a probe took is its own time; then it waits for the others, but for an outage, which is its own.
        let alone = began.elapsed();
        drop(arrival);
        let (ruling, ways) = self.rule(asking, evidence);
        let took = if asking.phase == Phase::Outage { began.elapsed() } else { alone };
        let trial = Trial { probe: &asking.probe, phase: asking.phase, method: asking.method.clone() };
        let result = result(&trial, ruling, ways, took);
        self.progress.finished(&result);
        let verdict = result.verdict;
        let summary = result.summary.clone();
        self.state.lock().unwrap_or_else(PoisonError::into_inner).results.push((asking.place, result));
        match verdict {
            VerdictWord::Pass | VerdictWord::Skip | VerdictWord::Warn => Ok(()),
            VerdictWord::Fail | VerdictWord::Inconclusive => Err(Failed::from(summary)),
        }
    }

    /// What the probe's technique brings back; in an outage the outage itself is the evidence.
    fn evidence(&self, asking: &Asking) -> Result<Option<Evidence>, String> {
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

    fn rule(&self, asking: &Asking, evidence: Result<Option<Evidence>, String>) -> (Ruling, Option<Ways>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.closed {
            state = self.closed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let (wire, outage, problem) = (state.wire.clone(), state.outage.clone(), state.problem.clone());
        let handed = state.handed.remove(&asking.name);
        drop(state);
        let evidence = handed.map_or(evidence, |handed| handed.map(Some));
        let evidence = match evidence {
            Ok(evidence) => evidence,
            Err(why) => return (unasked(&why), None),
        };
        let outage = match &self.asked {
            Asked::Techniques => None,
            Asked::Outage(_) => outage,
            Asked::AfterOutage(before) => Some(Arc::clone(before)),
        };
        let case = Case {
            probe: &asking.probe,
            trial: &asking.name,
            phase: asking.phase,
            evidence: evidence.as_ref(),
            wire: wire.as_deref(),
            outage: outage.as_deref(),
            facts: &self.facts,
        };
        let ruling = judge(&case);
        if asking.probe.expect == Expectation::AccessAsStated {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).access.extend(access_rows(&case));
        }
        let ruling = match problem {
            // A problem of the phase is the reason behind whatever is missing.
            Some(why) if ruling.verdict == Verdict::Inconclusive => Ruling { reason: Some(why), ..ruling },
            Some(why) if ruling.verdict == Verdict::Pass => unasked(&why),
            _ => ruling,
        };
        (ruling, ways::of(&case))
    }

    /// The last one to arrive makes the outage, if there is one, and closes the phase for all.
    fn arrive(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.arrived += 1;
        let last = state.arrived == self.expected;
        drop(state);
        if last {
            self.close();
        }
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

    /// An outage, in which packets are handed to the stack as long as the tunnel is down.
    fn outage_and_packets(&self, order: &OutageOrder) -> Result<Reply, String> {
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

    fn close(&self) {
        let outage = match &self.asked {
            Asked::Outage(order) if self.state.lock().unwrap_or_else(PoisonError::into_inner).problem.is_none() => {
                Some(self.outage_and_packets(order))
            }
            _ => None,
        };
        let wire = self.session.request(Request::ClosePhase);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match outage {
            Some(Ok(Reply::Outage(evidence))) => state.outage = Some(Arc::new(*evidence)),
            Some(Ok(Reply::Failed { what, .. })) => state.problem = Some(what),
            Some(Ok(_)) => state.problem = Some("the agent gave an answer that does not fit".to_owned()),
            Some(Err(why)) => {
                // Nobody can say any more whether the tunnel was put back.
                let order = match &self.asked {
                    Asked::Outage(order) => order.method.clone(),
                    _ => String::new(),
                };
                let problem = format!("the agent was lost in the middle of the outage: {why}");
                state.outage = Some(Arc::new(OutageEvidence {
                    method: order,
                    restored: false,
                    problems: vec![problem.clone()],
                    ..OutageEvidence::default()
                }));
                state.problem = Some(problem);
            }
            None => {}
        }
        let missing = match wire {
            Ok(Reply::Wire(wire)) => {
                state.wire = Some(Arc::new(wire));
                None
            }
            Ok(Reply::Failed { what, .. }) => Some(what),
            Ok(_) => Some("the agent gave an answer that does not fit".to_owned()),
            Err(why) => Some(why),
        };
        state.problem = state.problem.take().or(missing);
        state.closed = true;
        drop(state);
        self.closed.notify_all();
    }
}

fn not_started(order: &OutageOrder, why: &str) -> OutageEvidence {
    let problems = vec![format!("the outage was not started: {why}")];
    OutageEvidence { method: order.method.clone(), restored: true, problems, ..OutageEvidence::default() }
}

/// Arrives when dropped, so that a trial that panics does not keep the others waiting.
struct Arrival<'a>(&'a Shared);

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.0.arrive();
    }
}
