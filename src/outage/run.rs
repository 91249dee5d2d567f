//! One outage from beginning to end: sampling begins, the tunnel goes down, the window passes, the tunnel is put back, recovery is proven.
//! Whatever happens in between, what was changed is put back before this returns.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::method::Method;
use super::sampler::Sampler;
use super::watch::Watched;
use crate::agent::protocol::OutageOrder;
use crate::model::evidence::{Event, OutageEvidence, Said};
use crate::model::report::Hole;
use crate::sensor::capture::Sensor;
use crate::technique::{Context, ask_exits};

/// Sampling goes on for so long before the kill and after recovery.
const LEAD: Duration = Duration::from_millis(150);
/// How long a healthy tunnel may take to prove it.
const HEALTH_PATIENCE: Duration = Duration::from_secs(12);
/// Tries at putting back before it counts as failed, and time between them.
const TRIES: usize = 8;
const TRY_EVERY: Duration = Duration::from_millis(400);

/// Makes one outage. `abort` ends it early; `note` is told what happens for the progress line.
pub async fn run(
    cx: &Context,
    sensor: &Sensor,
    order: &OutageOrder,
    mut abort: watch::Receiver<bool>,
    note: &dyn Fn(String),
) -> OutageEvidence {
    let mut evidence = OutageEvidence {
        method: order.method.clone(),
        from_ms: cx.clock.now_ms(),
        restored: true,
        ..Default::default()
    };
    if !matches!(timeout(HEALTH_PATIENCE, healthy(cx, &order.home)).await, Ok(true)) {
        evidence.problems.push("the outage was not started: no exit of the VPN could be proven before it, so the tunnel may be down already".to_owned());
        evidence.to_ms = cx.clock.now_ms();
        return evidence;
    }
    let mut method = match Method::arm(&order.method, cx).await {
        Ok(method) => method,
        Err(why) => {
            evidence.problems.push(format!("the outage was not started: {why}"));
            evidence.to_ms = cx.clock.now_ms();
            return evidence;
        }
    };
    let trial: Arc<str> = order.trial.as_str().into();
    let sampler = match Sampler::start(cx.clock, &cx.ledger, &trial, &sensor.uplinks(), &cx.setup.canary) {
        Ok(sampler) => sampler,
        Err(error) => {
            evidence.problems.push(format!("the outage was not started: the sampler could not be: {error}"));
            evidence.to_ms = cx.clock.now_ms();
            return evidence;
        }
    };
    sleep(LEAD).await;
    sensor.begin_trace();
    sleep(LEAD).await;
    let in_tunnel_before = sensor.trace().last_in_tunnel_ms.is_some();
    sampler.begin();

    let start = cx.clock.now_ms();
    evidence.from_ms = start;
    let since = |at: f64| at - start;
    let mut events = vec![Event { at_ms: 0.0, what: format!("{}: the tunnel is told to go", order.method) }];
    let watched = Watched::default();
    match method.down().await {
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
    let up = cx.clock.now_ms();
    (evidence.resolved_while_down, evidence.local) = watched.end(up);
    evidence.up_ms = Some(since(up));
    events.push(Event { at_ms: since(up), what: "the tunnel is told to come back".to_owned() });
    note(format!("{}: the tunnel is being put back", order.method));
    put_back(&mut method, &mut evidence).await;
    if !*abort.borrow() {
        let limit = Duration::from_millis(order.recovery_ms);
        let recovered = tokio::select! {
            result = timeout(limit, until_healthy(cx, &order.home)) => result.is_ok(),
            _ = abort.wait_for(|abort| *abort) => false,
        };
        if recovered {
            evidence.recovered_ms = Some(since(cx.clock.now_ms()));
            events
                .push(Event { at_ms: since(cx.clock.now_ms()), what: "an exit of the VPN is proven again".to_owned() });
            sleep(LEAD).await;
        } else if !*abort.borrow() {
            events.push(Event {
                at_ms: since(cx.clock.now_ms()),
                what: format!("no exit of the VPN within {} s", limit.as_secs_f64()),
            });
        }
    }
    if let Err(why) = settle(&mut method).await {
        evidence.restored = false;
        evidence.problems.push(format!("the stack is not as it was: {why}"));
    }

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
    if in_tunnel_before {
        // Dark from the last packet in the tunnel on, if there was any silence at all before it was told to come back.
        let last = trace.last_before_mark_ms.map_or(0.0, since).max(0.0);
        evidence.blackhole_ms = (up - start - last > 20.0).then_some(last);
        evidence.tunnel_back_ms = trace.first_after_mark_ms.map(since);
    } else {
        evidence.problems.push(
            "no sample was seen in the tunnel before the outage, so its silence afterwards proves nothing".to_owned(),
        );
    }
    evidence.events = events;
    evidence.to_ms = cx.clock.now_ms();
    evidence
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

async fn put_back(method: &mut Method, evidence: &mut OutageEvidence) {
    let mut last = String::new();
    for _ in 0..TRIES {
        match method.up().await {
            Ok(()) => return,
            Err(why) => last = why,
        }
        sleep(TRY_EVERY).await;
    }
    evidence.problems.push(format!("the tunnel could not be put back: {last}"));
}

/// Verifies that all is as it was, helping where it is not yet.
async fn settle(method: &mut Method) -> Result<(), String> {
    let mut last = Ok(());
    for _ in 0..TRIES {
        last = method.verify().await;
        if last.is_ok() {
            return Ok(());
        }
        let _ = method.up().await;
        sleep(TRY_EVERY).await;
    }
    last
}
