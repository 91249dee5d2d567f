//! Labels by which our own containers and images are known, and removal of agents whose runner is gone. An agent ends by itself when
//! its runner dies, so this is for what a crash of the engine or of the machine leaves.

use std::collections::HashMap;
use std::fs;

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum};
use bollard::query_parameters::RemoveContainerOptionsBuilder;
use jiff::Timestamp;

use super::docker::{Engine, label, name_of};
use super::error::TargetError;
use super::pid::Process;

/// Label of everything that leakcheck makes.
pub const LABEL: &str = "leakcheck";
/// Its value on an agent's container.
pub const AGENT: &str = "agent";
/// Its value on the image of agents.
pub const IMAGE: &str = "agent-image";
/// Label that tells whose agent it is.
const RUNNER: &str = "leakcheck.runner";

/// Seconds after which an agent that was not started is left over, whoever made it.
const NOT_STARTED: i64 = 600;

/// Whether the container is an agent of ours, or of another run.
pub fn is_agent(summary: &ContainerSummary) -> bool {
    label(summary, LABEL) == Some(AGENT)
}

/// Labels for an agent of this process.
pub fn labels() -> HashMap<String, String> {
    HashMap::from([(LABEL.to_owned(), AGENT.to_owned()), (RUNNER.to_owned(), Runner::own().to_string())])
}

/// Removes agents that are left over, and returns their names. Those of runs that still go on are not touched.
pub async fn sweep(engine: &Engine) -> Result<Vec<String>, TargetError> {
    let mut removed = Vec::new();
    for summary in engine.labelled(&format!("{LABEL}={AGENT}")).await? {
        let Some(id) = summary.id.as_deref() else { continue };
        let gone = label(&summary, RUNNER).and_then(Runner::parse).is_some_and(|runner| runner.is_gone());
        if gone || is_over(&summary, Timestamp::now()) {
            let options = RemoveContainerOptionsBuilder::default().force(true).build();
            // Another run may be removing it at this moment, or the engine itself: then it is gone as well.
            if engine.docker.remove_container(id, Some(options)).await.is_ok() {
                removed.push(name_of(&summary));
            }
        }
    }
    Ok(removed)
}

/// Whether it has ended, or was made and never started: between the two a run lets no more than a moment pass, and the engine's clock may
/// be another.
fn is_over(summary: &ContainerSummary, now: Timestamp) -> bool {
    match summary.state {
        Some(ContainerSummaryStateEnum::EXITED | ContainerSummaryStateEnum::DEAD) => true,
        Some(ContainerSummaryStateEnum::CREATED) => {
            summary.created.is_some_and(|at| now.as_second() - at > NOT_STARTED)
        }
        _ => false,
    }
}

/// A run of leakcheck, told apart from all others.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Runner {
    boot: String,
    namespace: String,
    pid: u32,
    start: String,
}

impl Runner {
    fn own() -> Self {
        let pid = std::process::id();
        Self { boot: boot(), namespace: pid_namespace(), pid, start: start_of(pid).unwrap_or_default() }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/').map(str::to_owned);
        let (boot, namespace, pid, start) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        Some(Self { boot, namespace, pid: pid.parse().ok()?, start })
    }

    /// Only a runner of the same boot and the same process namespace can be looked up; of others nothing is known.
    fn is_gone(&self) -> bool {
        self.boot == boot() && self.namespace == pid_namespace() && start_of(self.pid).as_ref() != Some(&self.start)
    }
}

impl std::fmt::Display for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}/{}", self.boot, self.namespace, self.pid, self.start)
    }
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn pid_namespace() -> String {
    fs::read_link("/proc/self/ns/pid").map(|link| link.to_string_lossy().into_owned()).unwrap_or_default()
}

fn start_of(pid: u32) -> Option<String> {
    Process::find(pid).map(|process| process.start_ticks().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_is_read_as_it_was_written() {
        let own = Runner::own();
        assert_eq!(Runner::parse(&own.to_string()), Some(own));
        assert_eq!(Runner::parse("nonsense"), None);
    }

    #[test]
    fn one_that_was_never_started_is_over_after_a_while() {
        let over = |state, age: i64| {
            let summary = ContainerSummary { state: Some(state), created: Some(1_000_000 - age), ..Default::default() };
            is_over(&summary, Timestamp::from_second(1_000_000).expect("a time"))
        };
        assert!(over(ContainerSummaryStateEnum::EXITED, 0));
        assert!(!over(ContainerSummaryStateEnum::RUNNING, 100_000));
        assert!(!over(ContainerSummaryStateEnum::CREATED, 5) && over(ContainerSummaryStateEnum::CREATED, 1_000));
        assert!(!over(ContainerSummaryStateEnum::CREATED, -100_000), "the engine's clock is ahead");
    }

    #[test]
    fn only_a_runner_that_could_be_seen_is_gone() {
        let own = Runner::own();
        assert!(!own.is_gone(), "we run");
        assert!(Runner { start: "1".to_owned(), ..own.clone() }.is_gone(), "another process has the number now");
        assert!(Runner { pid: 4_194_305, ..own.clone() }.is_gone(), "no process has such a number");
        assert!(
            !Runner { boot: "another".to_owned(), pid: 4_194_305, ..own.clone() }.is_gone(),
            "it may be on another machine"
        );
        assert!(
            !Runner { namespace: "pid:[1]".to_owned(), pid: 4_194_305, ..own }.is_gone(),
            "it may be in a container"
        );
    }
}
