//! One phase: the sensor is armed, every trial of it runs at once under libtest-mimic, the sensor is closed, and each trial gets its verdict.

mod evidence;
mod outage;

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, ColorSetting, Failed, Trial as TestTrial};

use super::account::result;
use super::container::{Around, Reborn};
use super::forwarding::Handing;
use super::outside::Asker;
use super::put_back::Notebook;
use super::session::Session;
use crate::agent::protocol::{OutageOrder, Reply, Request};
use crate::catalog::Trial;
use crate::judge::{Case, Facts, Ruling, access_rows, judge, ways};
use crate::model::evidence::{Evidence, OutageEvidence, PhaseWire};
use crate::model::probe::{Expectation, Phase, Probe};
use crate::model::report::{AccessRow, ProbeResult, VerdictWord, Ways};
use crate::model::verdict::Verdict;
use crate::report::progress::Progress;

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

/// Arrives when dropped, so that a trial that panics does not keep the others waiting.
struct Arrival<'a>(&'a Shared);

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.0.arrive();
    }
}
