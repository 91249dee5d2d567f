//! The engine under test, and containers that are removed however a trial ends.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerCreateBody, ContainerInspectResponse, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptions, RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder,
};
use leakcheck::target::{FindOptions, own_image};

use super::{block_on, docker_lock};

/// Whether an engine answers; panics when one is required and does not.
pub fn available() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let answer = block_on(async { Docker::connect_with_defaults()?.ping().await });
        let required = std::env::var_os("LEAKCHECK_DOCKER").is_some_and(|value| value == "required");
        assert!(answer.is_ok() || !required, "LEAKCHECK_DOCKER=required, and no engine answers: {answer:?}");
        answer.is_ok()
    })
}

/// The engine and what was started on it for one trial.
pub struct Bench {
    pub docker: Docker,
    prefix: String,
    image: String,
}

impl Bench {
    pub async fn new() -> Self {
        let docker = Docker::connect_with_defaults().expect("an engine").negotiate_version().await.expect("an answer");
        let image = own_image(&FindOptions::default()).await.expect("an image of this program");
        Self { docker, prefix: format!("leakcheck-test-{:08x}", rand::random::<u32>()), image }
    }

    /// The name of a container of this trial.
    pub fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// Starts a container that sleeps, after `adjust` had its say.
    pub async fn start(&self, name: &str, adjust: impl FnOnce(&mut ContainerCreateBody)) -> ContainerInspectResponse {
        self.create(name, adjust).await;
        self.docker.start_container(&self.name(name), None).await.expect("started");
        self.inspect(name).await
    }

    /// The same without starting it.
    pub async fn create(&self, name: &str, adjust: impl FnOnce(&mut ContainerCreateBody)) {
        let mut body = ContainerCreateBody {
            image: Some(self.image.clone()),
            cmd: Some(vec!["sleep".to_owned()]),
            labels: Some(HashMap::from([("leakcheck".to_owned(), "test".to_owned())])),
            host_config: Some(HostConfig { dns: Some(vec!["192.0.2.99".to_owned()]), ..Default::default() }),
            ..Default::default()
        };
        adjust(&mut body);
        let options = CreateContainerOptionsBuilder::default().name(&self.name(name)).build();
        self.docker.create_container(Some(options), body).await.expect("created");
    }

    pub async fn inspect(&self, name: &str) -> ContainerInspectResponse {
        self.docker.inspect_container(&self.name(name), None).await.expect("inspected")
    }

    /// Names of all containers with this prefix that exist.
    pub async fn with_prefix(&self, prefix: &str) -> Vec<String> {
        let options = ListContainersOptions { all: true, ..Default::default() };
        // Podman's own word for a container that is about to go is not one that can be read.
        let mut tries = 0..20;
        let all = loop {
            match self.docker.list_containers(Some(options.clone())).await {
                Err(_) if tries.next().is_some() => tokio::time::sleep(Duration::from_millis(100)).await,
                listed => break listed.expect("a list"),
            }
        };
        let names = all.into_iter().flat_map(|summary| summary.names.unwrap_or_default());
        names.map(|name| name.trim_start_matches('/').to_owned()).filter(|name| name.starts_with(prefix)).collect()
    }

    /// Takes the name of our own image away, so that whoever needs it makes it again. The trial's containers keep it.
    pub async fn forget_own_image(&self) {
        let force = RemoveImageOptionsBuilder::default().force(true).build();
        drop(self.docker.remove_image(&self.image, Some(force), None).await);
    }

    /// Removes everything that the trial started.
    async fn clear(&self) {
        for name in self.with_prefix(&self.prefix).await {
            let options = RemoveContainerOptionsBuilder::default().force(true).build();
            drop(self.docker.remove_container(&name, Some(options)).await);
        }
    }
}

/// Lets the container share the network of another one of the trial.
pub fn joined(bench: &Bench, owner: &str) -> impl FnOnce(&mut ContainerCreateBody) {
    let mode = format!("container:{}", bench.name(owner));
    move |body| body.host_config = Some(HostConfig { network_mode: Some(mode), ..Default::default() })
}

/// Adds a label.
pub fn label(key: &str, value: &str) -> impl FnOnce(&mut ContainerCreateBody) {
    let (key, value) = (key.to_owned(), value.to_owned());
    move |body| {
        body.labels.get_or_insert_default().insert(key, value);
    }
}

/// Runs a trial on a bench of its own, and clears it away even when the trial panics.
pub fn with_bench(trial: impl AsyncFnOnce(&Bench)) {
    let _turn = docker_lock::wait_for_turn();
    block_on(async {
        let bench = Bench::new().await;
        let outcome = futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(trial(&bench))).await;
        bench.clear().await;
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}
