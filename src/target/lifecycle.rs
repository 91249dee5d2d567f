//! The VPN container as something that can be paused, killed and started, and that has to run afterwards as it did before. What is known
//! here fits into a journal, so that whoever comes later can put it back: each order is a connection of its own.

use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{KillContainerOptionsBuilder, RestartContainerOptions};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::address::{Address, Origin, Tls};
use super::docker::{Engine, asked};
use super::error::TargetError;

/// Further tries to pause one, and the time before each.
const FREEZES: usize = 3;
const FREEZE_AGAIN: Duration = Duration::from_millis(300);

/// A container and how it was before anything was done to it: it ran, and was not paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Address of its engine.
    engine: String,
    /// How that speaks TLS, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls: Option<Tls>,
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its restart policy, in Docker's words; empty: none.
    restart: String,
}

/// What Docker says of a container now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Condition {
    /// In Docker's words: `running`, `paused`, `exited` …
    pub state: String,
    /// Its programs are there, be they paused.
    pub running: bool,
    /// They are stopped by the freezer.
    pub paused: bool,
    /// Number of its first process as the engine sees it; 0 when there is none.
    pub pid: u32,
    /// When it was started last, RFC 3339.
    pub started_at: String,
    /// It is removed when it ends.
    pub removed_at_end: bool,
    restart: String,
}

impl Container {
    /// The container `id` of the engine at `engine`, with the restart policy that it has to keep.
    pub(super) fn new(engine: &Address, id: &str, name: &str, restart: &str) -> Self {
        let (id, name, restart) = (id.to_owned(), name.to_owned(), restart.to_owned());
        Self { engine: engine.host.clone(), tls: engine.tls.clone(), id, name, restart }
    }

    /// How it is now.
    ///
    /// # Errors
    /// When the engine does not answer, or knows it no more.
    pub async fn look(&self) -> Result<Condition, String> {
        let found = self.engine().await?.inspect(&self.id).await.map_err(|error| told(&error))?;
        let found = found.ok_or_else(|| format!("Docker knows the container {} no more", self.name))?;
        Ok(Condition::read(found))
    }

    /// Pauses it. On a busy machine the engine may give up freezing its processes (cgroup v1), and has them go on; that is tried again.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn pause(&self) -> Result<(), String> {
        let engine = self.engine().await?;
        let mut tries = 0..FREEZES;
        loop {
            let paused = engine.docker.pause_container(&self.id).await;
            let gave_up = paused.as_ref().is_err_and(|error| error.to_string().contains("unable to freeze"));
            if !gave_up || tries.next().is_none() {
                return paused.map_err(self.failed("pause"));
            }
            sleep(FREEZE_AGAIN).await;
        }
    }

    /// Kills its first process, and with it all of them.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn kill(&self) -> Result<(), String> {
        let engine = self.engine().await?;
        let options = KillContainerOptionsBuilder::default().signal("SIGKILL").build();
        engine.docker.kill_container(&self.id, Some(options)).await.map_err(self.failed("kill"))
    }

    /// Restarts it, with the patience for its end that it is set to; it runs when this returns.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn restart(&self) -> Result<(), String> {
        let engine = self.engine().await?;
        let options = None::<RestartContainerOptions>;
        engine.docker.restart_container(&self.id, options).await.map_err(self.failed("restart"))
    }

    /// Whether its engine answers and knows it no more: nothing is left of it that could be put back.
    pub async fn is_gone(&self) -> bool {
        match self.engine().await {
            Ok(engine) => engine.inspect(&self.id).await.is_ok_and(|found| found.is_none()),
            Err(_) => false,
        }
    }

    /// Has it run, not paused, whatever it does now. Once, and without looking afterwards.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn put_back(&self) -> Result<(), String> {
        let now = self.look().await?;
        let engine = self.engine().await?;
        if now.paused {
            engine.docker.unpause_container(&self.id).await.map_err(self.failed("unpause"))?;
        }
        if !now.running {
            engine.docker.start_container(&self.id, None).await.map_err(self.failed("start"))?;
        }
        Ok(())
    }

    /// Whether it runs, not paused, with the restart policy that it had.
    ///
    /// # Errors
    /// What is not so.
    pub async fn verify(&self) -> Result<(), String> {
        let now = self.running().await?;
        if now.restart != self.restart {
            return Err(format!(
                "the container {} has the restart policy `{}` and had `{}`",
                self.name, now.restart, self.restart
            ));
        }
        Ok(())
    }

    /// Whether it runs, not paused: all that can be left to put back when somebody comes later, who may find it set up otherwise on purpose.
    ///
    /// # Errors
    /// What is not so.
    pub async fn running(&self) -> Result<Condition, String> {
        let now = self.look().await?;
        if now.running && !now.paused { Ok(now) } else { Err(format!("the container {} is {}", self.name, now.state)) }
    }

    async fn engine(&self) -> Result<Engine, String> {
        let address = Address { host: self.engine.clone(), tls: self.tls.clone(), origin: Origin::Given };
        Engine::at(address).await.map_err(|error| told(&error))
    }

    fn failed(&self, verb: &str) -> impl FnOnce(bollard::errors::Error) -> String {
        let doing = format!("{verb} the container {}", self.name);
        move |source| told(&asked(doing)(source))
    }
}

impl Condition {
    fn read(found: ContainerInspectResponse) -> Self {
        let state = found.state.unwrap_or_default();
        let host = found.host_config.unwrap_or_default();
        let restart = host.restart_policy.and_then(|policy| policy.name).map(|name| name.to_string());
        Self {
            state: state.status.map_or_else(|| "unknown".to_owned(), |status| status.to_string()),
            running: state.running.unwrap_or_default(),
            paused: state.paused.unwrap_or_default(),
            pid: state.pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default(),
            started_at: state.started_at.unwrap_or_default(),
            removed_at_end: host.auto_remove.unwrap_or_default(),
            restart: restart.unwrap_or_default(),
        }
    }
}

/// An error with its causes and what to do about it, in one line.
fn told(error: &TargetError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let text = causes.fold(format!("failed to {error}"), |text, cause| format!("{text}: {cause}"));
    error.help().map_or_else(|| text.clone(), |help| format!("{text} ({help})"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_condition_is_read_as_docker_states_it() {
        let of = |state: serde_json::Value| {
            let inner =
                json!({"State": state, "HostConfig": {"AutoRemove": true, "RestartPolicy": {"Name": "always"}}});
            Condition::read(serde_json::from_value(inner).expect("an inspection"))
        };
        let paused = of(
            json!({"Status": "paused", "Running": true, "Paused": true, "Pid": 7, "StartedAt": "2026-01-01T00:00:00Z"}),
        );
        assert!(paused.running && paused.paused && paused.removed_at_end);
        assert_eq!((paused.pid, paused.restart.as_str(), paused.state.as_str()), (7, "always", "paused"));
        let dead = of(json!({"Status": "exited", "Running": false, "Pid": 0}));
        assert!(!dead.running && !dead.paused && dead.pid == 0);
    }

    #[test]
    fn a_journal_keeps_how_to_reach_the_engine() {
        let tls = Some(Tls { dir: "/certs".into(), verify: true });
        let address = Address { host: "tcp://nas:2376".to_owned(), tls, origin: Origin::Variable };
        let container = Container::new(&address, "0123", "vpn", "always");
        let written = serde_json::to_string(&container).expect("written");
        assert_eq!(serde_json::from_str::<Container>(&written).expect("read"), container);
        let before = r#"{"engine": "unix:///run/docker.sock", "id": "0123", "name": "vpn", "restart": ""}"#;
        assert_eq!(serde_json::from_str::<Container>(before).expect("one without TLS").tls, None);
    }

    #[tokio::test]
    async fn an_engine_that_is_gone_is_told_with_what_to_do() {
        let host = "unix:///no/such/socket".to_owned();
        let address = Address { host, tls: None, origin: Origin::Given };
        let container = Container::new(&address, "0123", "vpn", "");
        let why = container.put_back().await.expect_err("nobody is there");
        assert!(why.contains("/no/such/socket") && why.contains("start Docker"), "{why}");
        assert!(container.verify().await.is_err());
    }
}
