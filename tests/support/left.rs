//! What there is on an engine, to be held against what there was: every container, network, volume and image.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::query_parameters::{ListContainersOptions, ListImagesOptions, ListNetworksOptions, ListVolumesOptions};

/// Patience for the engine to remove a container whose process has ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// One line for each thing.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    pub async fn of(docker: &Docker) -> Self {
        let mut lines = BTreeSet::new();
        let options = ListContainersOptions { all: true, ..Default::default() };
        for one in docker.list_containers(Some(options)).await.expect("containers") {
            lines.insert(format!("container {:?} {:?} {:?}", one.names, one.id, one.state));
        }
        for one in docker.list_networks(None::<ListNetworksOptions>).await.expect("networks") {
            lines.insert(format!("network {:?} {:?}", one.name, one.id));
        }
        for one in docker.list_volumes(None::<ListVolumesOptions>).await.expect("volumes").volumes.unwrap_or_default() {
            lines.insert(format!("volume {}", one.name));
        }
        // With those that have no name.
        let options = ListImagesOptions { all: true, ..Default::default() };
        for one in docker.list_images(Some(options)).await.expect("images") {
            lines.insert(format!("image {:?} {}", one.repo_tags, one.id));
        }
        Self(lines)
    }

    /// Waits until everything is as it was.
    pub async fn is_back(&self, docker: &Docker, after: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = Self::of(docker).await;
            if now == *self {
                return;
            }
            let differs: Vec<&String> = now.0.symmetric_difference(&self.0).collect();
            assert!(Instant::now() < deadline, "after {after} this differs: {differs:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
