//! One outage from beginning to end: sampling begins, the tunnel goes down, the window passes, the tunnel is put back, recovery is proven.
//! Whatever happens in between, what was changed is put back before this returns.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::flow::Flow;
use super::method::{Armed, DarkBy};
use super::sampler::Sampler;
use super::watch::{ASK_EVERY, Watched};
use crate::agent::protocol::OutageOrder;
use crate::model::evidence::{Event, OutageEvidence, Role, Said};
use crate::model::report::Hole;
use crate::sensor::capture::Sensor;
use crate::technique::{Context, ask_exits};

/// Sampling goes on for so long before the kill and after recovery.
const LEAD: Duration = Duration::from_millis(150);
/// Silence of the samples, which come every millisecond, that counts as dark.
const MIN_DARK_MS: f64 = 20.0;
/// How long a healthy tunnel may take to prove it.
const HEALTH_PATIENCE: Duration = Duration::from_secs(12);
/// Tries at putting back before it counts as failed, and time between them.
const TRIES: usize = 8;
const TRY_EVERY: Duration = Duration::from_millis(400);
/// How long all tries together may take, those at putting back and those at making sure of it. After that the keeper goes on trying, and the
/// journal tells the next run. Whoever ends an agent has to wait for longer.
pub const PUT_BACK_AT_MOST: Duration = Duration::from_secs(60);

/// Makes one outage. `abort` ends it early; `note` is told what happens for the progress line.
pub async fn run(
    cx: &Context,
    sensor: &Sensor,
    order: &OutageOrder,
    mut armed: Armed,
    mut abort: watch::Receiver<bool>,
    note: &dyn Fn(String),
) -> OutageEvidence {
    let mut evidence = OutageEvidence {
        method: order.method.clone(),
        from_ms: cx.clock.now_ms(),
        restored: true,
        ..Default::default()
    };
    let tunnel = cx.links.iter().find(|link| link.role == Role::Tunnel);
    let flow = match tunnel.map(|tunnel| Flow::start(cx.clock, &tunnel.name)).transpose() {
        Ok(flow) => flow,
        Err(error) => {
            evidence.problems.push(format!("the outage was not started: the tunnel cannot be watched: {error}"));
            evidence.to_ms = cx.clock.now_ms();
            armed.end(true).await;
            return evidence;
        }
    };
    if !matches!(timeout(HEALTH_PATIENCE, healthy(cx, &order.home)).await, Ok(true)) {
        evidence.problems.push("the outage was not started: no exit of the VPN could be proven before it, so the tunnel may be down already".to_owned());
        evidence.to_ms = cx.clock.now_ms();
        armed.end(true).await;
        return evidence;
    }
    let_connections_end().await;
    let trial: Arc<str> = order.trial.as_str().into();
    let sampler = match Sampler::start(cx.clock, &cx.ledger, &trial, &sensor.uplinks(), &cx.setup.canary) {
        Ok(sampler) => sampler,
        Err(error) => {
            evidence.problems.push(format!("the outage was not started: the sampler could not be: {error}"));
            evidence.to_ms = cx.clock.now_ms();
            armed.end(true).await;
            return evidence;
        }
    };
    sleep(LEAD).await;
    sensor.begin_trace();
    sleep(LEAD).await;
    let in_tunnel_before = sensor.trace().last_in_tunnel_ms.is_some();
    let out_of_tunnel_before = flow.as_ref().is_some_and(|flow| flow.seen().last_ms.is_some());
    sampler.begin();
    if *abort.borrow() {
        evidence.problems.push("the outage was not started: the run was ended before it".to_owned());
        evidence.to_ms = cx.clock.now_ms();
        armed.end(true).await;
        return evidence;
    }

    let start = cx.clock.now_ms();
    evidence.from_ms = start;
    let since = |at: f64| at - start;
    let dark_by = armed.dark_by();
    let mut events = vec![Event { at_ms: 0.0, what: format!("{}: the tunnel is told to go", order.method) }];
    let watched = Watched::default();
    sampler.set_full(true);
    match armed.down().await {
        Ok(proof) => {
            events.push(Event { at_ms: since(cx.clock.now_ms()), what: proof.clone() });
            evidence.down_proof = Some(proof);
            note(format!("{}: the tunnel is down", order.method));
            // What was on its way when the tunnel went is not held against anybody.
            let window = Duration::from_millis(order.window_ms);
            let end = Instant::now() + window;
            tokio::select! {
                () = sleep_until(end) => {}
                () = watched.ask(cx, &trial) => {}
                _ = abort.wait_for(|abort| *abort) => events.push(Event { at_ms: since(cx.clock.now_ms()), what: "the outage was ended early".to_owned() }),
            }
        }
        Err(why) => evidence.problems.push(format!("the tunnel could not be taken down: {why}")),
    }

    sensor.mark();
    flow.iter().for_each(Flow::mark);
    let up = cx.clock.now_ms();
    (evidence.resolved_while_down, evidence.local) = watched.end();
    evidence.up_ms = Some(since(up));
    events.push(Event { at_ms: since(up), what: "the tunnel is told to come back".to_owned() });
    note(format!("{}: the tunnel is being put back", order.method));
    if timeout(PUT_BACK_AT_MOST / 2, put_back(&mut armed, &mut evidence)).await.is_err() {
        evidence.problems.push("the tunnel could not be put back in time".to_owned());
    }
    if !*abort.borrow() {
        let limit = Duration::from_millis(order.recovery_ms);
        let recovered = tokio::select! {
            result = timeout(limit, until_healthy(cx, &order.home)) => result.is_ok(),
            () = ease(sensor, &sampler) => false,
            _ = abort.wait_for(|abort| *abort) => false,
        };
        if recovered {
            evidence.recovered_ms = Some(since(cx.clock.now_ms()));
            events
                .push(Event { at_ms: since(cx.clock.now_ms()), what: "an exit of the VPN is proven again".to_owned() });
            sleep(LEAD).await;
        } else if !*abort.borrow() {
            let state = armed.describe(cx).await;
            let what = format!("no exit of the VPN could be proven within {} s: {state}", limit.as_secs_f64());
            events.push(Event { at_ms: since(cx.clock.now_ms()), what: what.clone() });
            evidence.gave_up = Some(what);
        }
    }
    let settled = timeout(PUT_BACK_AT_MOST / 2, settle(&mut armed)).await;
    if let Err(why) = settled.unwrap_or_else(|_| Err("it could not be looked at in time".to_owned())) {
        evidence.restored = false;
        evidence.problems.push(format!("the stack is not as it was: {why}"));
    }

    armed.end(evidence.restored).await;

    // Let what the last samples caused reach the sensor before its trace is read.
    sleep(Duration::from_millis(30)).await;
    let (samples, gap) = sampler.finish(start);
    let trace = sensor.trace();
    evidence.samples = samples;
    evidence.longest_gap_ms = gap;
    evidence.holes = trace
        .holes
        .into_iter()
        .map(|hole| Hole { from_ms: since(hole.from_ms), to_ms: since(hole.to_ms), ..hole })
        .collect();
    let came = flow.as_ref().map(Flow::seen).unwrap_or_default();
    match dark_by {
        DarkBy::Entering if in_tunnel_before => {
            // Dark from the last packet in the tunnel on, if there was any silence at all before it was told to come back.
            let last = trace.last_before_mark_ms.map_or(0.0, since).max(0.0);
            evidence.blackhole_ms = (up - start - last > MIN_DARK_MS).then_some(last);
            evidence.tunnel_back_ms = trace.first_after_mark_ms.map(since);
        }
        DarkBy::Entering => evidence.problems.push(
            "no sample was seen in the tunnel before the outage, so its silence afterwards proves nothing".to_owned(),
        ),
        DarkBy::Leaving if out_of_tunnel_before => {
            // Answers come when they come: only a silence in which several questions went in means anything.
            let last = came.last_before_mark_ms.map_or(0.0, since).max(0.0);
            let silent = up - start - last;
            evidence.blackhole_ms =
                (silent > (up - start) / 2.0 && silent > 2.0 * ASK_EVERY.as_secs_f64() * 1000.0).then_some(last);
            evidence.tunnel_back_ms = came.first_after_mark_ms.map(since);
        }
        DarkBy::Leaving => evidence.problems.push(
            "nothing came out of the tunnel before the outage, so its silence afterwards proves nothing".to_owned(),
        ),
    }
    evidence.events = events;
    evidence.to_ms = cx.clock.now_ms();
    evidence
}

/// Slows the sampler down as soon as the tunnel carries its packets again. Never ends.
async fn ease(sensor: &Sensor, sampler: &Sampler) {
    while sensor.trace().first_after_mark_ms.is_none() {
        sleep(Duration::from_millis(2)).await;
    }
    sampler.set_full(false);
    std::future::pending::<()>().await;
}

/// Waits until the connections that were just closed are gone, a little while at most: their last packets, sent again after the tunnel
/// went, would be a leak of our own making where the firewall lets established connections pass.
async fn let_connections_end() {
    for _ in 0..40 {
        if !connections_are_ending() {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Whether a connection of the namespace that no process owns any more still waits for an acknowledgement (proc_net_tcp).
fn connections_are_ending() -> bool {
    const FIN_WAIT1: &str = "04";
    const LAST_ACK: &str = "09";
    const CLOSING: &str = "0B";
    ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"].iter().any(|file| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().skip(1).any(|line| {
            line.split_whitespace().nth(3).is_some_and(|state| [FIN_WAIT1, LAST_ACK, CLOSING].contains(&state))
        })
    })
}

/// Whether a witness sees an exit that is not home, right now.
async fn healthy(cx: &Context, home: &[IpAddr]) -> bool {
    let answers = ask_exits(cx).await.unwrap_or_default();
    answers.iter().any(|answer| match &answer.said {
        Said::Exit { ip, of_provider } => *of_provider != Some(false) && !home.contains(ip),
        _ => false,
    })
}

async fn until_healthy(cx: &Context, home: &[IpAddr]) {
    while !healthy(cx, home).await {
        sleep(Duration::from_millis(100)).await;
    }
}

async fn put_back(armed: &mut Armed, evidence: &mut OutageEvidence) {
    let mut last = String::new();
    for _ in 0..TRIES {
        match armed.up().await {
            Ok(()) => return,
            Err(why) => last = why,
        }
        sleep(TRY_EVERY).await;
    }
    evidence.problems.push(format!("the tunnel could not be put back: {last}"));
}

/// Verifies that all is as it was, helping where it is not yet.
async fn settle(armed: &mut Armed) -> Result<(), String> {
    let mut last = Ok(());
    for _ in 0..TRIES {
        last = armed.verify().await;
        if last.is_ok() {
            return Ok(());
        }
        let _ = armed.up().await;
        sleep(TRY_EVERY).await;
    }
    last
}
