//! All that watches an outage: begun before the tunnel is told to go, ended after it is back, and then told as evidence.

use std::sync::Arc;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use tokio::time::{Instant, sleep, timeout};

use super::dark::Tunnel;
use super::flow::Flow;
use super::flows_v6::FlowsOverV6;
use super::health;
use super::method::DarkBy;
use super::nameservers::{NameserverWatch, Seen};
use super::rules::RulesWatch;
use super::sampler::Sampler;
use super::standing::StandingFlows;
use super::timeline::Timeline;
use super::watch::ask_before;
use crate::agent::protocol::OutageOrder;
use crate::config::OutageMethod;
use crate::model::evidence::{Answer, Event, NameserverChange, OpenedWhileDown, OutageEvidence, Role, end};
use crate::model::report::Hole;
use crate::sensor::Trace;
use crate::sensor::capture::Sensor;
use crate::technique::Context;

/// Sampling goes on before the kill until the tunnel was seen to carry it and so much longer, but in all no longer than the second.
const LEAD: Duration = Duration::from_millis(50);
const LONGEST_LEAD: Duration = Duration::from_millis(300);
/// After how long only one of so many rounds goes by the default route while the exit is not proven.
const SPARSER: [(Duration, usize); 2] = [(Duration::from_secs(1), 4), (Duration::from_secs(3), 16)];
/// How long a healthy tunnel may take to prove it.
const HEALTH_PATIENCE: Duration = Duration::from_secs(12);
/// How long the first sample may take to be seen in the tunnel, and the first answer to come out of it.
const SIGN_PATIENCE: Duration = Duration::from_secs(2);
/// What the last samples caused needs so long to reach the sensor.
const REST: Duration = Duration::from_millis(20);

/// See the head of this file.
pub(super) struct Watches {
    pub(super) sampler: Sampler,
    /// Flows that were there before, where the method lets them take part.
    pub(super) standing: Option<StandingFlows>,
    /// Those over IPv6, where somebody asked for them.
    flows_v6: Option<FlowsOverV6>,
    flow: Option<Flow>,
    timeline: Timeline,
    nameservers: NameserverWatch,
    rules: RulesWatch,
    notes: Vec<String>,
    resolved_before: Vec<Answer>,
    in_tunnel_before: bool,
    out_of_tunnel_before: bool,
    /// Something came out of it when nobody but the sampler sent into it.
    samples_answered: bool,
}

impl Watches {
    /// Proves that the tunnel works, and begins to watch.
    ///
    /// # Errors
    /// Why the outage must not be started.
    pub(super) async fn begin(
        cx: &Context,
        sensor: &Sensor,
        order: &OutageOrder,
        trial: &Arc<str>,
    ) -> Result<Self, String> {
        let tunnel = cx.links.iter().find(|link| link.role == Role::Tunnel);
        let flow = tunnel.map(|tunnel| Flow::start(cx.clock, &tunnel.name)).transpose();
        let flow = flow.map_err(|error| format!("the tunnel cannot be watched: {error}"))?;
        let health = timeout(HEALTH_PATIENCE, health::healthy(cx, &order.home)).await;
        if !matches!(health, Ok(true)) {
            return Err("no exit of the VPN could be proven before it, so the tunnel may be down already".to_owned());
        }
        let resolved_before = ask_before(cx, trial).await;
        let not = |what: &str, error: std::io::Error| format!("{what} could not be: {error}");
        let timeline = Timeline::start(cx.clock).map_err(|error| not("changes of links and routes heard", error))?;
        let nameservers =
            NameserverWatch::start(cx.clock, &cx.resolv_files).map_err(|error| not("names watched", error))?;
        let rules = RulesWatch::start(cx, trial).map_err(|error| not("the firewall's rules watched", error))?;
        let method: Option<OutageMethod> = order.method.parse().ok();
        let lasting = method.is_some_and(OutageMethod::takes_addresses);
        // One that came and went in the outage before carries nothing now.
        let uplinks: Vec<String> =
            sensor.uplinks().into_iter().filter(|name| if_nametoindex(name.as_str()).is_ok()).collect();
        let sampler = Sampler::start(cx, trial, &uplinks, lasting);
        let sampler = sampler.map_err(|error| not("the sampler started", error))?;
        let mut notes = sampler.notes.clone();
        let of_flows_v6: Option<Arc<str>> = order.flows_v6.as_deref().map(Arc::from);
        sensor.begin_trace(of_flows_v6.clone());
        let alone_from = cx.clock.now_ms();
        let carried = async {
            while sensor.trace().last_in_tunnel_ms.is_none() {
                sleep(Duration::from_millis(5)).await;
            }
            sleep(LEAD).await;
        };
        // A tunnel that carries nothing is told of in the end.
        let _ = timeout(LONGEST_LEAD, carried).await;
        // Now, when those who held them have had the time to close them.
        health::let_connections_end(cx).await;
        // A busy machine hands packets on late, and on a long way answers take their time.
        let went_in = || sensor.trace().last_in_tunnel_ms.is_some();
        let came_out = || flow.as_ref().is_some_and(|flow| flow.seen().last_ms.is_some());
        let until = Instant::now() + SIGN_PATIENCE;
        while Instant::now() < until && !(went_in() && came_out()) {
            sleep(Duration::from_millis(10)).await;
        }
        let (in_tunnel_before, out_of_tunnel_before) = (went_in(), came_out());
        let samples_answered = flow.as_ref().is_some_and(|flow| flow.seen().last_ms > Some(alone_from));
        // Last of all: a far side that hears nothing for long ends its connection.
        let keeps_flows = method.is_some_and(OutageMethod::keeps_flows);
        let (standing, flows_v6) = match tunnel.filter(|_| keeps_flows) {
            Some(tunnel) => {
                let v6 = async {
                    match &of_flows_v6 {
                        Some(trial) => Some(FlowsOverV6::open(cx, trial, &tunnel.name).await),
                        None => None,
                    }
                };
                let (standing, v6) = tokio::join!(StandingFlows::open(cx, trial, &tunnel.name, false), v6);
                (standing.map(Some), v6)
            }
            None => (Ok(None), None),
        };
        let standing = standing.map_err(|error| format!("flows could not be opened: {error}"))?;
        if let Some(standing) = &standing {
            notes.extend(standing.notes.iter().cloned());
            standing.speak(false);
            flows_v6.iter().for_each(|v6| v6.speak(false));
            sleep(LEAD).await;
            standing.silence();
            flows_v6.iter().for_each(FlowsOverV6::silence);
        }
        sampler.begin();
        Ok(Self {
            samples_answered,
            resolved_before,
            sampler,
            standing,
            flows_v6,
            flow,
            timeline,
            nameservers,
            rules,
            notes,
            in_tunnel_before,
            out_of_tunnel_before,
        })
    }

    /// From here on what passes the tunnel counts as "after".
    pub(super) fn mark(&self, sensor: &Sensor) {
        sensor.mark();
        self.flow.iter().for_each(Flow::mark);
    }

    /// Slows the sampler down as soon as the tunnel carries its packets again, and more the longer it takes until the exit is proven: a slow
    /// machine that has to carry the samples as well may never get to it. Never ends.
    pub(super) async fn ease(&self, sensor: &Sensor) {
        while sensor.trace().first_after_mark_ms.is_none() {
            sleep(Duration::from_millis(2)).await;
        }
        self.sampler.set_full(false);
        for (after, rounds) in SPARSER {
            sleep(after).await;
            self.sampler.set_sparse(rounds);
        }
        std::future::pending::<()>().await;
    }

    /// Has the flows that were there before speak or be silent.
    pub(super) fn flows_speak(&self, speak: bool, down: bool) {
        match &self.standing {
            Some(standing) if speak => standing.speak(down),
            Some(standing) => standing.silence(),
            None => {}
        }
        match &self.flows_v6 {
            Some(flows) if speak => flows.speak(down),
            Some(flows) => flows.silence(),
            None => {}
        }
    }

    /// Ends all of it and puts what came of it into `evidence`, of which `from_ms` and `up_ms` are known. `events` are those that were noted
    /// so far.
    pub(super) async fn finish(
        self,
        sensor: &Sensor,
        dark_by: DarkBy,
        mut events: Vec<Event>,
        evidence: &mut OutageEvidence,
    ) {
        let start = evidence.from_ms;
        evidence.resolved_before = self.resolved_before;
        let since = |at: f64| at - start;
        sleep(REST).await;
        let is_back = evidence.recovered_ms.is_some() && !evidence.ended_early;
        evidence.flows_v6 = self.flows_v6.map(|flows| flows.finish(is_back && !sensor.trace().apart_left));
        if let Some(standing) = self.standing {
            evidence.flows = standing.finish(is_back && sensor.trace().holes.is_empty());
            if evidence.flows.is_empty() {
                let why = standing_notes(&self.notes);
                evidence.problems.push(format!("no flow that was open before was watched: {why}"));
            }
        }
        let tried = self.rules.finish();
        let sampled = self.sampler.finish();
        let trace = sensor.trace();
        evidence.samples = sampled.counts;
        evidence.samples.extend(tried.samples);
        evidence.opened =
            tried.opened.into_iter().map(|opened| OpenedWhileDown { at_ms: since(opened.at_ms), ..opened }).collect();
        for sample in &mut evidence.samples {
            sample.first_refusal_ms = sample.first_refusal_ms.map(since);
        }
        evidence.longest_gap_ms = sampled.longest_gap_ms;
        evidence.first_refusal_ms = sampled.first_refusal_ms.map(since);
        evidence.pace = sampled.pace;
        evidence.pace.longest_at_ms = evidence.pace.longest_at_ms.map(since);
        evidence.holes = trace
            .holes
            .iter()
            .map(|hole| Hole { from_ms: since(hole.from_ms), to_ms: since(hole.to_ms), ..hole.clone() })
            .collect();
        evidence.last_in_tunnel_ms = trace.last_before_mark_ms.map(since);
        let Seen { changes, problems } = self.nameservers.finish();
        // A file of a namespace that has ended is nobody's any more.
        if !evidence.namespace_ended {
            evidence.problems.extend(problems);
        }
        let changes = changes.into_iter();
        evidence.nameservers =
            changes.map(|change| NameserverChange { at_ms: since(change.at_ms), ..change }).collect();
        let came = self.flow.as_ref().map(Flow::seen).unwrap_or_default();
        let tunnel = Tunnel {
            start_ms: start,
            up_ms: start + evidence.up_ms.unwrap_or_default(),
            trace: &trace,
            in_before: self.in_tunnel_before,
            came: &came,
            out_before: self.out_of_tunnel_before,
            samples_answered: self.samples_answered,
            longest_gap_ms: evidence.longest_gap_ms,
        };
        match tunnel.dark(dark_by) {
            Ok(dark) => (evidence.blackhole_ms, evidence.tunnel_back_ms) = (dark.from_ms, dark.back_ms),
            Err(why) => evidence.problems.push(why),
        }
        let paused = matches!(dark_by, DarkBy::Paused { .. }) && evidence.down_proof.is_some();
        if paused && evidence.problems.is_empty() && evidence.blackhole_ms.is_none() {
            evidence.problems.push(
                "the tunnel carried packets all the time: a WireGuard in the kernel goes on while its container is paused".to_owned(),
            );
        }
        events.extend(self.notes.into_iter().map(|what| Event { at_ms: 0.0, what }));
        events.extend(milestones(evidence, &trace, since));
        // What happened before belongs to the setting up.
        let kernel = self.timeline.finish().into_iter().filter(|(at, _)| *at >= start);
        events.extend(kernel.map(|(at, what)| Event { at_ms: since(at), what }));
        events.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms));
        evidence.events = events;
    }
}

fn standing_notes(notes: &[String]) -> String {
    let why: Vec<&str> = notes.iter().filter(|note| note.starts_with("no flow")).map(String::as_str).collect();
    why.join("; ")
}

/// What the timeline needs of samples, sensor and files.
fn milestones(evidence: &OutageEvidence, trace: &Trace, since: impl Fn(f64) -> f64) -> Vec<Event> {
    let mut events = Vec::new();
    let mut event = |at_ms: Option<f64>, what: String| events.extend(at_ms.map(|at_ms| Event { at_ms, what }));
    event(evidence.first_refusal_ms, "the kernel refuses a packet by the default route for the first time".to_owned());
    event(evidence.last_in_tunnel_ms, "the last packet in the tunnel before it is told to come back".to_owned());
    event(trace.first_after_mark_ms.map(since), "the first packet in the tunnel again".to_owned());
    for opened in &evidence.opened {
        event(
            Some(opened.at_ms),
            format!("the firewall lets packets pass, or sends them elsewhere, by {}", opened.rule),
        );
    }
    for change in &evidence.nameservers {
        let named: Vec<String> = change.now.iter().map(ToString::to_string).collect();
        event(Some(change.at_ms), format!("{} names {}", change.file, named.join(", ")));
    }
    for flow in evidence.flows.iter().chain(evidence.flows_v6.iter().flat_map(|v6| &v6.flows)) {
        let (from, to) = (end(flow.from), end(flow.to));
        event(Some(0.0), format!("a flow over {} is open from {from} to {to}", flow.proto));
    }
    events
}
