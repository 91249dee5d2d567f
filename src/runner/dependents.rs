//! The containers that share the stack's network: whether they are in it, and putting right those that are not.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::model::evidence::{Answer, Evidence, Said};
use crate::target::{Dependent, Target};

/// State of a container that runs, in Docker's words.
pub(crate) const RUNNING: &str = "running";
/// How long a restarted dependent may take to be in the namespace.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which of them are in the namespace now; `restarted` were outside before.
pub(super) async fn evidence(target: &Target, restarted: &[String], now_ms: impl Fn() -> f64) -> Evidence {
    let from_ms = now_ms();
    if target.container().is_none() {
        return Evidence::unasked(from_ms, "the target is no container that Docker knows");
    }
    let (answers, problems) = match target.dependents_now().await {
        Ok(all) => (all.iter().map(|one| answer(one, restarted, now_ms())).collect(), Vec::new()),
        Err(error) => (Vec::new(), vec![format!("failed to {error}")]),
    };
    Evidence { from_ms, to_ms: now_ms(), answers, problems, ..Evidence::default() }
}

fn answer(dependent: &Dependent, restarted: &[String], at_ms: f64) -> Answer {
    let said = Said::Shares {
        joined: dependent.in_namespace,
        state: dependent.state.clone(),
        restarted: restarted.contains(&dependent.name),
    };
    Answer { at_ms, witness: dependent.name.clone(), said }
}

/// Those that do not wait for the VPN's health before they start, as far as is known.
pub(super) fn hasty(target: &Target) -> Vec<String> {
    let waits_not = |one: &&Dependent| target.waits_for_health(one) == Some(false);
    target.dependents.iter().filter(waits_not).map(|one| one.name.clone()).collect()
}

/// Restarts those that run outside of the namespace: the names of those that are in it afterwards, and what the reader should know.
pub(super) async fn mend(target: &Target) -> (Vec<String>, Vec<String>) {
    let (mut restarted, mut notes) = (Vec::new(), Vec::new());
    let all = target.dependents_now().await.unwrap_or_default();
    for one in all.iter().filter(|one| is_orphan(one)) {
        if !one.owner_is_there {
            // Restarted, it would stop and not start again.
            notes.push(format!(
                "{} joined a container that is gone, and was left alone: it has to be created anew (docker compose up -d --force-recreate)",
                one.name
            ));
            continue;
        }
        match restart(target, one).await {
            Ok(()) => {
                notes.push(format!("{} was left outside of the stack's network, and was restarted", one.name));
                restarted.push(one.name.clone());
            }
            Err(why) => notes.push(format!("{} is outside of the stack's network: {why}", one.name)),
        }
    }
    (restarted, notes)
}

fn is_orphan(dependent: &Dependent) -> bool {
    dependent.state == RUNNING && dependent.in_namespace == Some(false)
}

async fn restart(target: &Target, dependent: &Dependent) -> Result<(), String> {
    target.restart_dependent(dependent).await.map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("failed to {error}{cause}")
    })?;
    let end = Instant::now() + PATIENCE;
    loop {
        let now = target.dependents_now().await.unwrap_or_default();
        if now.iter().any(|one| one.id == dependent.id && one.state == RUNNING && one.in_namespace == Some(true)) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err("it was restarted and is not in it".to_owned());
        }
        sleep(Duration::from_millis(200)).await;
    }
}
