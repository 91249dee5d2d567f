//! The stack of `fixtures/compose`, put up from this program by Docker Compose: what only containers can show is looked for here. One can
//! stand at a time, for its networks are fixed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bollard::Docker;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::RestartContainerOptions;

use super::role::LEAK;
use crate::model::report::Report;

/// The project under which it stands, before each name of its containers and networks.
pub const PROJECT: &str = "leakcheck-test";
/// What it is made of.
const FILES: [(&str, &str); 8] = [
    ("docker-compose.yml", include_str!("../../fixtures/compose/docker-compose.yml")),
    ("stale.yml", include_str!("../../fixtures/compose/stale.yml")),
    ("loose.yml", include_str!("../../fixtures/compose/loose.yml")),
    ("open.yml", include_str!("../../fixtures/compose/open.yml")),
    ("wireguard-private-key", include_str!("../../fixtures/compose/wireguard-private-key")),
    ("stale-resolv.conf", include_str!("../../fixtures/compose/stale-resolv.conf")),
    ("leakcheck.toml", include_str!("../../fixtures/compose/leakcheck.toml")),
    ("torrent-password", include_str!("../../fixtures/compose/torrent-password")),
];
const CA: (&str, &str) = ("lab-ca.pem", include_str!("../../fixtures/compose/lab-ca.pem"));
/// All of its services, each of which says when it is ready.
const SERVICES: [&str; 6] = ["internet", "provider", "home", "gluetun", "torrent", "neighbour"];
/// Patience for the containers to say that they are healthy.
const HEALTHY: Duration = Duration::from_secs(60);
/// By then a container that was restarted has been checked again, or counts as starting.
const CHECKED_AGAIN: Duration = Duration::from_millis(1500);

/// The containers; taken down when dropped.
pub struct ComposeStack {
    compose: Vec<&'static str>,
    program: PathBuf,
    /// Variables of the compose file.
    variables: Vec<(String, String)>,
    folder: PathBuf,
    _turn: File,
}

/// Compose, old or new, if it works here together with an engine.
#[must_use]
pub fn compose_command() -> Option<Vec<&'static str>> {
    let engine = runtime().ok()?.block_on(async { Docker::connect_with_defaults()?.ping().await });
    let works = |words: &Vec<&'static str>| {
        Command::new(words[0]).args(&words[1..]).arg("version").output().is_ok_and(|output| output.status.success())
    };
    engine.ok().and_then(|_| [vec!["docker", "compose"], vec!["docker-compose"]].into_iter().find(works))
}

/// Waits until no other process has the Docker engine for itself; the turn ends when the file is dropped.
///
/// # Errors
/// When there can be no lock.
pub fn wait_for_turn() -> anyhow::Result<File> {
    let path = std::env::temp_dir().join("leakcheck-docker-tests.lock");
    let file = File::create(&path).with_context(|| format!("write {}", path.display()))?;
    file.lock().with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

impl ComposeStack {
    /// Makes the image out of `program`, puts the containers up with these variables, and waits until all are healthy.
    ///
    /// # Errors
    /// What Docker or Compose say, or which service does not get healthy.
    pub fn up(compose: &[&'static str], program: &Path, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        let turn = wait_for_turn()?;
        let folder = std::env::temp_dir().join(format!("leakcheck-compose-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        for (name, text) in FILES.iter().chain([&CA]) {
            fs::write(folder.join(name), text).with_context(|| format!("write {name}"))?;
        }
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let stack = Self {
            compose: compose.to_vec(),
            program: program.to_owned(),
            variables: variables.iter().map(owned).collect(),
            folder,
            _turn: turn,
        };
        succeed(Command::new(program).args(["lab", "image"]))?;
        // What was killed before it could take its own down.
        stack.compose(&["down", "-t", "0"])?;
        stack.compose(&["up", "-d"])?;
        runtime()?.block_on(stack.wait_until_healthy())?;
        Ok(stack)
    }

    /// Runs Compose.
    ///
    /// # Errors
    /// What it says on its standard error.
    pub fn compose(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(self.compose[0]);
        command.args(&self.compose[1..]).args(["-p", PROJECT]).args(arguments).current_dir(&self.folder);
        command.env_remove(LEAK).env_remove("GLUETUN_IMAGE").envs(self.variables.iter().cloned());
        succeed(&mut command)
    }

    /// The words that Compose is called by.
    #[must_use]
    pub fn words(&self) -> &[&'static str] {
        &self.compose
    }

    /// Variables of the compose file.
    #[must_use]
    pub fn variables(&self) -> &[(String, String)] {
        &self.variables
    }

    /// The container of a service, whichever way Compose writes its name.
    ///
    /// # Errors
    /// When there is none.
    pub async fn container(&self, service: &str) -> anyhow::Result<ContainerInspectResponse> {
        let docker = Docker::connect_with_defaults()?.negotiate_version().await?;
        for name in [format!("{PROJECT}-{service}-1"), format!("{PROJECT}_{service}_1")] {
            if let Ok(container) = docker.inspect_container(&name, None).await {
                return Ok(container);
            }
        }
        bail!("no container of the service {service}");
    }

    /// Restarts the VPN container, and none of those that share its network, and waits until it is healthy again.
    ///
    /// # Errors
    /// When Docker refuses, or it does not get healthy.
    pub fn restart_vpn(&self) -> anyhow::Result<()> {
        runtime()?.block_on(async {
            let name = self.container("gluetun").await?.name.context("read the container's name")?;
            let docker = Docker::connect_with_defaults()?.negotiate_version().await?;
            let options = RestartContainerOptions { t: Some(0), ..Default::default() };
            docker.restart_container(name.trim_start_matches('/'), Some(options)).await?;
            // Docker says for a moment what the health check of before had found.
            tokio::time::sleep(CHECKED_AGAIN).await;
            self.wait_for("gluetun", Instant::now() + HEALTHY).await
        })
    }

    /// Waits until every service is healthy.
    ///
    /// # Errors
    /// Which one is not.
    pub async fn wait_until_healthy(&self) -> anyhow::Result<()> {
        let end = Instant::now() + HEALTHY;
        for service in SERVICES {
            self.wait_for(service, end).await?;
        }
        Ok(())
    }

    async fn wait_for(&self, service: &str, end: Instant) -> anyhow::Result<()> {
        loop {
            let state = self.container(service).await?.state.unwrap_or_default();
            let health = state.health.and_then(|health| health.status).map(|status| status.to_string());
            if health.as_deref() == Some("healthy") {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("{service} is not healthy, but {:?} {health:?}", state.status);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// An audit to be run.
    ///
    /// # Errors
    /// When there is no VPN container.
    pub fn command(&self, enter: &str) -> anyhow::Result<Command> {
        let name = runtime()?.block_on(self.container("gluetun"))?.name.context("read the container's name")?;
        let target = format!("docker:{}", name.trim_start_matches('/'));
        let mut command = Command::new(&self.program);
        command.args(["run", "--target", &target, "--enter", enter, "--format", "json", "--report-dir", "none"]);
        command.arg("--config").arg(self.folder.join("leakcheck.toml"));
        Ok(command)
    }

    /// Runs the audit; its exit status and its report.
    ///
    /// # Errors
    /// When it wrote no report.
    pub fn audit(&self, enter: &str, arguments: &[&str]) -> anyhow::Result<(Option<i32>, Report)> {
        let output = self.command(enter)?.args(arguments).output().context("start leakcheck")?;
        let said = || format!("read the report of leakcheck, which said {}", String::from_utf8_lossy(&output.stderr));
        Ok((output.status.code(), serde_json::from_slice(&output.stdout).with_context(said)?))
    }
}

impl Drop for ComposeStack {
    fn drop(&mut self) {
        if let Err(error) = self.compose(&["down", "-t", "0"]) {
            eprintln!("lab: the containers could not be taken down: {error:#}");
        }
        // A file that is left in a folder for such files harms nobody.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")
}

fn succeed(command: &mut Command) -> anyhow::Result<Output> {
    let output = command.output().with_context(|| format!("start {}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(output);
    }
    bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
}
