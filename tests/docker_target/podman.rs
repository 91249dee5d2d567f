//! The trials with containers once more, on Podman's service of Docker's API. It is started here with storage and a network namespace of its
//! own, so that its bridges and firewall rules are nowhere else, and ended.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;

/// Those in which engines may differ.
const TRIALS: [&str; 9] = [
    "docker::setns_enters_the_namespace",
    "docker::a_container_enters_with_few_rights",
    "docker::dependents_are_told",
    "docker::an_orphan_is_told",
    "docker::a_dependent_leads_to_its_owner",
    "docker::an_agent_that_fails_says_why",
    "docker::no_agent_outlives_its_runner",
    "docker::images_of_earlier_builds_are_pruned",
    "docker::leftovers_are_swept",
];

pub fn trials() -> Vec<Trial> {
    let is_there = Command::new("podman").arg("--version").stdout(Stdio::null()).status().is_ok();
    let is_root = nix::unistd::Uid::effective().is_root();
    let trial = Trial::test("podman::is_an_engine_too", || {
        let service = Service::start();
        for name in TRIALS {
            let mut again = Command::new("/proc/self/exe");
            again.args([name, "--exact"]).env("DOCKER_HOST", &service.host).env("LEAKCHECK_DOCKER", "required");
            let output = again.output()?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.contains("1 passed"), "{said}");
        }
        Ok(())
    });
    vec![trial.with_ignored_flag(!is_there || !is_root)]
}

struct Service {
    host: String,
    child: Child,
    dir: TempDir,
}

impl Service {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let host = format!("unix://{}", at("podman.sock").display());
        // Podman asks for more than a container may have in which this runs, and for systemd.
        let config = "[containers]\ndefault_ulimits = [\"nofile=16384:16384\", \"nproc=1024:1024\"]\n\
                      [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";
        fs::write(at("containers.conf"), config).expect("written");
        let child = podman(&["unshare", "--net"], dir.path())
            .args(["system", "service", "--time", "0", &host])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("podman");
        let deadline = Instant::now() + Duration::from_secs(20);
        while !at("podman.sock").exists() {
            assert!(Instant::now() < deadline, "podman does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { host, child, dir }
    }
}

/// Podman with the storage in `dir`, started by these words.
fn podman(by: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(by[0]);
    command.args(&by[1..]).arg("podman").arg("--root").arg(dir.join("root")).arg("--runroot").arg(dir.join("run"));
    command.env("CONTAINERS_CONF", dir.join("containers.conf"));
    command
}

impl Drop for Service {
    fn drop(&mut self) {
        let namespace = format!("--net=/proc/{}/ns/net", self.child.id());
        // What a trial that panicked left. Not `system reset`: that looks beyond the storage it is told.
        for what in ["rm", "rmi"] {
            drop(podman(&["nsenter", &namespace], self.dir.path()).args([what, "--all", "--force"]).output());
        }
        drop(self.child.kill());
        drop(self.child.wait());
        // The storage's own mount, without which the folder can go.
        let _ = umount2(&self.dir.path().join("root/overlay"), MntFlags::MNT_DETACH);
    }
}
