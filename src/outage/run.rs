//! One outage from beginning to end: sampling begins, the tunnel goes down, the window passes, the tunnel is put back, recovery is proven.
//! Whatever happens in between, what was changed is put back before this returns.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::flow::not_taken;
use super::health::{Proof, until_healthy};
use super::method::{Armed, DarkBy};
use super::watch::Watched;
use super::watches::Watches;
use crate::agent::protocol::OutageOrder;
use crate::model::evidence::{Event, OutageEvidence, Role};
use crate::sensor::capture::Sensor;
use crate::technique::Context;

/// How long Docker may take to remove the links of a container that it has killed.
const LINKS_PATIENCE: Duration = Duration::from_secs(3);
/// Sampling goes on for so long after recovery.
const TAIL: Duration = Duration::from_millis(120);
/// Time between two tries at putting back, and tries at making sure of it before it counts as failed.
const TRY_EVERY: Duration = Duration::from_millis(400);
const TRIES: usize = 8;
/// How long flows that were there before speak at the most. v3.40 of Gluetun brings its VPN back by itself after 10 s, and in that instant they have to be
/// silent.
const SPEAK_AT_MOST: Duration = Duration::from_secs(8);
/// How long all tries together may take when the run is ended, those at putting back and those at making sure of it. After that the keeper
/// goes on trying, and the journal tells the next run. Whoever ends an agent has to wait for longer. An outage that nobody ends early is put
/// back for as long as recovery may take.
pub const PUT_BACK_AT_MOST: Duration = Duration::from_secs(60);
/// How long the exit is asked for once more, without samples, when it could not be proven beside them.
const LAST_LOOK: Duration = Duration::from_secs(15);
/// What recovery may take at least, however long putting back took.
const LEAST_RECOVERY: Duration = Duration::from_secs(10);
/// What an outage may take beyond its window, its recovery and putting back, before its agent counts as stuck.
const GRACE: Duration = Duration::from_secs(90);

/// Makes one outage. `abort` ends it early; `note` is told what happens for the progress line, `down` that the tunnel is down, and that it
/// is about to be put back.
pub async fn run(
    cx: &Context,
    sensor: &Sensor,
    order: &OutageOrder,
    mut armed: Armed,
    mut abort: watch::Receiver<bool>,
    note: &dyn Fn(String),
    down: &dyn Fn(bool),
) -> OutageEvidence {
    let mut evidence = OutageEvidence {
        method: order.method.clone(),
        from_ms: cx.clock.now_ms(),
        restored: true,
        ..Default::default()
    };
    let trial: Arc<str> = order.trial.as_str().into();
    let begun = match Watches::begin(cx, sensor, order, &trial).await {
        Ok(_) if *abort.borrow() => Err("the run was ended before it".to_owned()),
        begun => begun,
    };
    let watches = match begun {
        Ok(watches) => watches,
        Err(why) => {
            evidence.problems.push(format!("the outage was not started: {why}"));
            evidence.to_ms = cx.clock.now_ms();
            armed.end(true).await;
            return evidence;
        }
    };

    let start = cx.clock.now_ms();
    evidence.from_ms = start;
    let since = |at: f64| at - start;
    let mut dark_by = armed.dark_by();
    let mut events = vec![Event { at_ms: 0.0, what: format!("{}: the tunnel is told to go", order.method) }];
    let watched = Watched::default();
    watches.sampler.set_full(true);
    sensor.watch_silence();
    let (window, limit) = (Duration::from_millis(order.window_ms), Duration::from_millis(order.recovery_ms));
    armed.begin(window + limit.max(PUT_BACK_AT_MOST) + GRACE);
    let tunnel = cx.links.iter().find(|link| link.role == Role::Tunnel).map(|link| link.name.clone());
    let not_taken_before = tunnel.as_deref().and_then(not_taken);
    evidence.namespace_ended = armed.ends_namespace();
    match armed.down().await {
        Ok(proof) => {
            if let DarkBy::Gone { since_ms } = &mut dark_by {
                if timeout(LINKS_PATIENCE, until_gone(&sensor.uplinks())).await.is_ok() {
                    let at_ms = since(cx.clock.now_ms());
                    *since_ms = Some(at_ms);
                    events.push(Event { at_ms, what: "the namespace has no uplink any more".to_owned() });
                } else {
                    evidence.problems.push("the namespace still has its uplinks".to_owned());
                }
            }
            events.push(Event { at_ms: since(cx.clock.now_ms()), what: proof.clone() });
            evidence.down_proof = Some(proof);
            note(format!("{}: the tunnel is down", order.method));
            down(true);
            let end = Instant::now() + window;
            let speak = async {
                watches.flows_speak(true, true);
                sleep(SPEAK_AT_MOST).await;
                watches.flows_speak(false, true);
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = sleep_until(end) => {}
                () = watched.ask(cx, &trial) => {}
                () = speak => {}
                // What follows is no time without a tunnel any more.
                () = armed.came_back() => {
                    let at_ms = since(cx.clock.now_ms());
                    events.push(Event { at_ms, what: format!("the VPN came back by itself after {:.1} s", at_ms / 1000.0) });
                }
                _ = abort.wait_for(|abort| *abort) => {}
            }
        }
        Err(why) => evidence.problems.push(format!("the tunnel could not be taken down: {why}")),
    }

    if let DarkBy::Paused { clogged } = &mut dark_by {
        *clogged = tunnel.as_deref().and_then(not_taken) > not_taken_before;
    }
    down(false);
    watches.flows_speak(false, true);
    watches.mark(sensor);
    let up = cx.clock.now_ms();
    (evidence.resolved_while_down, evidence.local) = watched.end();
    evidence.up_ms = Some(since(up));
    events.push(Event { at_ms: since(up), what: "the tunnel is told to come back".to_owned() });
    note(format!("{}: the tunnel is being put back", order.method));
    let put_back_at_most = armed.put_back_at_most(limit).unwrap_or(limit.max(PUT_BACK_AT_MOST / 2));
    let putting_since = Instant::now();
    let mut tries = Tries::default();
    let in_time = tokio::select! {
        () = put_back(&mut armed, &mut tries) => true,
        () = sleep(put_back_at_most) => false,
        () = ended_early(abort.clone()) => false,
    };
    if let Some(last) = tries.last {
        let what = if in_time { format!("it came back at try {}: {last}", tries.failed + 1) } else { last.clone() };
        events.push(Event { at_ms: since(cx.clock.now_ms()), what });
        if !in_time {
            evidence.problems.push(format!("the tunnel could not be put back in {} tries: {last}", tries.failed));
        }
    } else if !in_time {
        evidence.problems.push("the tunnel could not be put back in time".to_owned());
    }
    let mut tail = Instant::now();
    // Of a namespace that has ended nothing can come back: who made it end looks for the exit in the new one.
    if !*abort.borrow() && !evidence.namespace_ended {
        let limit = limit.saturating_sub(putting_since.elapsed()).max(LEAST_RECOVERY.min(limit));
        let proof = Proof::default();
        tokio::select! {
            // That time is up is seen by what is missing.
            _ = timeout(limit, until_healthy(cx, &order.home, &proof)) => {}
            () = watches.ease(sensor) => {}
            _ = abort.wait_for(|abort| *abort) => {}
        }
        if proof.proven_ms.get().is_none() && !*abort.borrow() {
            // A machine or a line that the samples keep busy is no tunnel that does not come back: once more, without them.
            let what = "no exit of the VPN could be proven: the samples rest, and it is asked once more".to_owned();
            let at_ms = since(cx.clock.now_ms());
            events.push(Event { at_ms, what });
            evidence.rested_ms = Some(at_ms);
            watches.sampler.set_resting(true);
            tokio::select! {
                _ = timeout(LAST_LOOK.min(limit), until_healthy(cx, &order.home, &proof)) => {}
                _ = abort.wait_for(|abort| *abort) => {}
            }
            watches.sampler.set_resting(false);
        }
        evidence.recovered_ms = proof.proven_ms.get().map(since);
        if let Some(at_ms) = evidence.recovered_ms {
            events.push(Event { at_ms, what: "an exit of the VPN is proven again".to_owned() });
            watches.flows_speak(true, false);
            tail = Instant::now() + TAIL;
        } else if !*abort.borrow() {
            let state = armed.describe(cx).await;
            let what = format!("no exit of the VPN could be proven within {} s: {state}", limit.as_secs_f64());
            events.push(Event { at_ms: since(cx.clock.now_ms()), what: what.clone() });
            evidence.gave_up = Some(what);
        }
    }
    evidence.ended_early = *abort.borrow() && evidence.recovered_ms.is_none();
    if evidence.ended_early {
        events.push(Event { at_ms: since(cx.clock.now_ms()), what: "the outage was ended early".to_owned() });
    }
    let settled = timeout(PUT_BACK_AT_MOST / 2, settle(&mut armed)).await;
    if let Err(why) = settled.unwrap_or_else(|_| Err("it could not be looked at in time".to_owned())) {
        evidence.restored = false;
        evidence.problems.push(format!("the stack is not as it was: {why}; to mend it, {}", armed.advice()));
    }

    armed.end(evidence.restored).await;
    // Looking whether all is as it was has taken a part of that time.
    sleep_until(tail).await;
    watches.flows_speak(false, false);
    watches.finish(sensor, dark_by, events, &mut evidence).await;
    evidence.to_ms = cx.clock.now_ms();
    evidence
}

/// Waits until none of these links is there any more.
async fn until_gone(links: &[String]) {
    while crate::net::interfaces().iter().any(|link| links.contains(&link.name)) {
        sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a witness sees an exit that is not home. When it did, milliseconds since the start of the run; `None`: not within `limit`.
pub async fn prove(cx: &Context, home: &[IpAddr], limit: Duration) -> Option<f64> {
    let proof = Proof::default();
    // That time is up is seen by what is missing.
    let _ = timeout(limit, until_healthy(cx, home, &proof)).await;
    proof.proven_ms.get()
}

/// What came of the tries at putting back that failed.
#[derive(Default)]
struct Tries {
    failed: usize,
    last: Option<String>,
}

/// Tries until it works.
async fn put_back(armed: &mut Armed, tries: &mut Tries) {
    loop {
        match armed.up().await {
            Ok(()) => return,
            Err(why) => tries.last = Some(why),
        }
        tries.failed += 1;
        // What never changed needs nobody who could put it back.
        if armed.is_helpless() || armed.verify().await.is_ok() {
            return;
        }
        sleep(TRY_EVERY).await;
    }
}

/// The run was ended, and what that leaves for putting back is over.
async fn ended_early(mut abort: watch::Receiver<bool>) {
    if abort.wait_for(|abort| *abort).await.is_err() {
        std::future::pending::<()>().await;
    }
    sleep(PUT_BACK_AT_MOST / 2).await;
}

/// Verifies that all is as it was, helping where it is not yet.
async fn settle(armed: &mut Armed) -> Result<(), String> {
    let mut last = Ok(());
    // The caller limits the time as well.
    let tries = if armed.waits_for_others() { usize::MAX } else { TRIES };
    for _ in 0..tries {
        last = armed.verify().await;
        if last.is_ok() || armed.is_helpless() {
            return last;
        }
        let _ = armed.up().await;
        sleep(TRY_EVERY).await;
    }
    last
}
