//! What has to be done to put an outage back, written down so that any process in the namespace can do it: the agent that made the outage,
//! the keeper that outlives it, or the agent of a later run. Doing it twice, or two at once, does no harm. No secret is in it.

use std::fs;
use std::mem::size_of;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::command::COMMAND_PATIENCE;
use super::control_server::{ControlServer, Route};
use super::process_handle::ProcessHandle;
use super::run_command::{Orphaned, run_command};
use super::vpn_process::pid_namespace;
use crate::agent::protocol::ControlKey;
use crate::net::nft::Nft;
use crate::net::route::{Snapshot, held_back, release, restore_link};
use crate::target::Container;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A control server, or an engine, may still be working on the question of a process that is dead, and a process that was just killed may
/// not be gone: only what runs for so long is running.
const STEADY: Duration = Duration::from_millis(1500);
/// A container that is to be restarted runs on for as long as its programs may take to end, ten seconds where nobody said otherwise, and
/// engines up to 24.0.6 leave it stopped when nobody waits for the answer any more.
const STEADY_CONTAINER: Duration = Duration::from_secs(12);

/// One change, seen from its end.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Undo {
    /// The control server is told to start the VPN.
    Vpn {
        /// Its address, `http://HOST:PORT`.
        server: String,
        /// By which of its routes.
        #[serde(default)]
        route: Route,
    },
    /// The link is set up, with all that it lost.
    Link {
        /// Name of the link.
        name: String,
        /// How everything was.
        before: Snapshot,
    },
    /// The kernel removes the firewall table itself when its owner ends.
    Table {
        /// Its name, in the family `inet`.
        name: String,
    },
    /// A VPN process that was killed is started again by whoever looks after it, or else by a command.
    Killed {
        /// Name of the tunnel's link.
        link: String,
        /// The command; empty: somebody looks after it.
        up: Vec<String>,
    },
    /// Processes that were stopped go on.
    Frozen {
        /// Which.
        processes: Vec<ProcessHandle>,
        /// In which PID namespace their numbers are theirs.
        seen_from: Option<(u64, u64)>,
    },
    /// A command brings the VPN back. It has to do no harm when it is there already. What is in it is in every list of processes too, so
    /// it is no secret.
    Command {
        /// Name of the tunnel's link.
        link: String,
        /// The command.
        up: Vec<String>,
    },
    /// Docker has the container run, not paused. Done on the runner's side of the wire.
    Container(Container),
}

/// A change and the network namespace in which it was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recipe {
    /// The change.
    pub undo: Undo,
    /// Which boot of the machine (`/proc/sys/kernel/random/boot_id`).
    boot: Option<String>,
    /// Cookie of the namespace, which no other of this boot ever has (SO_NETNS_COOKIE, Linux 5.14).
    namespace: Option<u64>,
}

impl Recipe {
    /// For a change of the container itself, which is in no namespace and outlives a boot.
    pub fn of_container(container: Container) -> Self {
        Self { undo: Undo::Container(container), boot: None, namespace: None }
    }

    /// The container that was changed, when it is one.
    pub fn container(&self) -> Option<&Container> {
        match &self.undo {
            Undo::Container(container) => Some(container),
            _ => None,
        }
    }

    /// For a change in the namespace of the calling thread.
    pub fn here(undo: Undo) -> Self {
        Self { undo, boot: boot_id(), namespace: cookie() }
    }

    /// Whether the change was made in this very namespace. A VPN container that was started again has a new one, in which nothing of the
    /// old state is left to be put back.
    pub fn is_of_this_namespace(&self) -> bool {
        let same_boot = self.boot.is_none() || self.boot == boot_id();
        same_boot && (self.namespace.is_none() || self.namespace == cookie())
    }

    /// Puts back, looks whether all is as it was, and goes on until it stays so.
    ///
    /// # Errors
    /// What is not as it was after `patience`.
    pub async fn work_off(&self, key: Option<&ControlKey>, patience: Duration) -> Result<(), String> {
        if !self.is_of_this_namespace() {
            return Ok(());
        }
        let end = Instant::now() + patience;
        let steady = match self.undo {
            Undo::Vpn { .. } | Undo::Killed { .. } | Undo::Command { .. } => STEADY,
            Undo::Container(_) => STEADY_CONTAINER,
            Undo::Link { .. } | Undo::Table { .. } | Undo::Frozen { .. } => Duration::ZERO,
        };
        let mut good_since: Option<Instant> = None;
        if let Undo::Command { .. } | Undo::Frozen { .. } = self.undo {
            // What the other command did may not show on the link, and a process that was told to stop may not have done so yet. That this
            // fails where all is well is as good as all being well.
            let _ = self.undo.perform(key).await;
        }
        loop {
            let mut state = self.undo.verify(key).await;
            if state.is_err() {
                good_since = None;
                if let Err(why) = self.undo.perform(key).await {
                    state = Err(why);
                } else {
                    state = self.undo.verify(key).await;
                }
            }
            match state {
                Ok(()) if good_since.get_or_insert_with(Instant::now).elapsed() >= steady => return Ok(()),
                Err(why) if Instant::now() >= end => return Err(why),
                Ok(()) | Err(_) => sleep(LOOK_EVERY).await,
            }
        }
    }
}

impl Undo {
    /// Puts back what was changed, once.
    ///
    /// # Errors
    /// What could not be put back.
    pub(super) async fn perform(&self, key: Option<&ControlKey>) -> Result<(), String> {
        match self {
            Undo::Vpn { server, route } => {
                ControlServer::new(server, *route, key.cloned())?.put("running").await.map(drop)
            }
            Undo::Link { name, before } if replaced(name, before)? => {
                release(before, name).map_err(|error| told(&error))
            }
            Undo::Link { name, before } => {
                let report = restore_link(before, name).map_err(|error| told(&error))?;
                if report.failed.is_empty() { Ok(()) } else { Err(report.failed.join("; ")) }
            }
            // As long as its owner lives nobody else may, and afterwards nobody need.
            Undo::Table { .. } => Ok(()),
            Undo::Killed { link, up } if up.is_empty() || link_works(link).is_ok() => Ok(()),
            Undo::Killed { link, up } | Undo::Command { link, up } => {
                match run_command(up, COMMAND_PATIENCE, Orphaned::GoesOn).await {
                    // It may say that there is nothing to be done.
                    Err(why) => link_works(link).map_err(|link| format!("{why}; {link}")),
                    Ok(_) => Ok(()),
                }
            }
            Undo::Frozen { processes, seen_from } => {
                may_be_seen(*seen_from)?;
                processes.iter().try_for_each(|holder| holder.signal(libc::SIGCONT).map(drop))
            }
            Undo::Container(container) => container.put_back().await,
        }
    }

    /// Whether everything is as it was.
    ///
    /// # Errors
    /// What is not.
    pub(super) async fn verify(&self, key: Option<&ControlKey>) -> Result<(), String> {
        match self {
            Undo::Vpn { server, route } => {
                match ControlServer::new(server, *route, key.cloned())?.status().await?.as_str() {
                    "running" => Ok(()),
                    other => Err(format!("the control server says that the VPN is {}", other.escape_debug())),
                }
            }
            Undo::Link { name, before } => {
                let now = Snapshot::take().map_err(|error| told(&error))?;
                if replaced(name, before)? {
                    let held = held_back(before, &now, name);
                    let why = |ip: &IpAddr| Err(format!("what is sent from {ip} is still held back"));
                    return held.first().map_or(Ok(()), why);
                }
                let (before, now) = (concerned(before, name), concerned(&now, name));
                let mut differences = before.diff(&now);
                // The kernel sends from the first one that fits.
                if differences.is_empty() && !before.has_addresses_in_the_order_of(&now) {
                    differences.push(format!("the addresses of {name} are in another order"));
                }
                if differences.is_empty() { Ok(()) } else { Err(differences.join("; ")) }
            }
            Undo::Table { name } => {
                let rules = Nft::open().and_then(|mut nft| nft.ruleset()).map_err(|error| told(&error))?;
                let there = rules.lines().iter().any(|line| line.contains(name.as_str()));
                if there { Err(format!("the firewall table {name} is still there")) } else { Ok(()) }
            }
            Undo::Killed { link, .. } | Undo::Command { link, .. } => link_works(link),
            Undo::Frozen { processes, seen_from } => {
                may_be_seen(*seen_from)?;
                // One that has ended meanwhile is not stopped any more.
                match processes.iter().find(|holder| holder.state() == Some('T')) {
                    Some(holder) => Err(format!("{holder} is still stopped")),
                    None => Ok(()),
                }
            }
            Undo::Container(container) => container.running().await.map(drop),
        }
    }

    /// What a person can do when none of this helps.
    pub(super) fn advice(&self) -> String {
        match self {
            Undo::Vpn { server, route } => format!(
                "tell the control server to start the VPN (PUT {}{} with {{\"status\":\"running\"}}), or restart the VPN container and then what \
                 depends on it",
                server.trim_end_matches('/'),
                route.path()
            ),
            Undo::Link { name, .. } => {
                format!("set the link {name} up, or restart the VPN and then what depends on it")
            }
            Undo::Table { name } => format!("remove the table: nft delete table inet {name}"),
            Undo::Killed { link, .. } => format!("start the VPN program that makes {link} again"),
            Undo::Frozen { processes, .. } => {
                let orders: Vec<String> = processes.iter().map(ProcessHandle::how_to_continue).collect();
                format!("let what was stopped go on: {}", orders.join("; "))
            }
            Undo::Command { .. } => "run the command of outage.up by hand".to_owned(),
            Undo::Container(_) => "start the VPN container, and then what depends on it".to_owned(),
        }
    }
}

/// Whether the link is there, up, and has somebody who serves it (IFF_LOWER_UP: for a tunnel device, a process that holds it).
///
/// # Errors
/// That it is not.
pub(super) fn link_works(name: &str) -> Result<(), String> {
    let now = Snapshot::take().map_err(|error| told(&error))?;
    match now.link(name) {
        Some(link) if !link.is_up() => Err(format!("the link {name} is down")),
        Some(link) if link.flags & libc::IFF_LOWER_UP as u32 == 0 => Err(format!("nobody serves the link {name}")),
        Some(_) => Ok(()),
        None => Err(format!("there is no link {name}")),
    }
}

/// A number that another PID namespace gave means another process here, or none: "it has ended" would be a guess.
fn may_be_seen(from: Option<(u64, u64)>) -> Result<(), String> {
    if from == pid_namespace() {
        return Ok(());
    }
    Err("the processes that were stopped are not to be seen from here; run leakcheck restore as root on the VPN's machine, with --enter setns"
        .to_owned())
}

/// What setting a link down can have changed: the link, its addresses and routes, and the rules. Other links live on by themselves.
fn concerned(all: &Snapshot, name: &str) -> Snapshot {
    let index = all.link(name).map(|link| link.index);
    Snapshot {
        links: all.links.iter().filter(|link| Some(link.index) == index).cloned().collect(),
        addresses: all.addresses.iter().filter(|address| Some(address.link) == index).cloned().collect(),
        rules: all.rules.clone(),
        routes: all.routes.iter().filter(|route| route.link.is_none() || route.link == index).cloned().collect(),
    }
}

/// Whether the VPN itself has made its link anew meanwhile: then what was changed went with the old one.
fn replaced(name: &str, before: &Snapshot) -> Result<bool, String> {
    let now = Snapshot::take().map_err(|error| told(&error))?;
    Ok(match (before.link(name), now.link(name)) {
        (Some(before), Some(now)) => before.index != now.index,
        _ => false,
    })
}

pub(super) fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|text| text.trim().to_owned())
}

/// The cookie of the calling thread's network namespace; `None` where the kernel has none.
fn cookie() -> Option<u64> {
    let socket = UnixDatagram::unbound().ok()?;
    let mut value = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: value and length are ours, and the kernel writes no more than the eight octets that length says.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    (result == 0 && length as usize == size_of::<u64>()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_namespace_or_boot_has_nothing_to_put_back() {
        let undo = Undo::Vpn { server: "http://127.0.0.1:9".to_owned(), route: Route::default() };
        let here = Recipe::here(undo);
        assert!(here.is_of_this_namespace());
        assert!(!Recipe { boot: Some("another".to_owned()), ..here.clone() }.is_of_this_namespace());
        let elsewhere = Recipe { namespace: Some(u64::MAX), ..here.clone() };
        assert!(!elsewhere.is_of_this_namespace());
        let unknown = Recipe { boot: None, namespace: None, ..here };
        assert!(unknown.is_of_this_namespace());
    }

    #[tokio::test]
    async fn what_cannot_be_put_back_is_told() {
        let recipe = Recipe::here(Undo::Vpn { server: "http://127.0.0.1:9".to_owned(), route: Route::default() });
        let why = recipe.work_off(None, Duration::from_millis(50)).await.expect_err("nobody listens there");
        assert!(why.contains("127.0.0.1:9"), "{why}");
    }

    /// Where nobody looks after a process that was killed, the command does; and only while there is something to be done.
    #[tokio::test]
    async fn a_killed_process_is_started_again_by_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("up");
        let script = format!("touch {}", file.display());
        let up = |program: &[&str]| program.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
        let killed = |link: &str, up| Undo::Killed { link: link.to_owned(), up };
        killed("lo", up(&["sh", "-c", &script])).perform(None).await.unwrap();
        assert!(!file.exists(), "the link is there");
        let gone = killed("leakcheck-none", up(&["sh", "-c", &script]));
        gone.perform(None).await.unwrap();
        assert!(file.exists());
        assert_eq!(gone.verify(None).await, Err("there is no link leakcheck-none".to_owned()));
        let why = killed("leakcheck-none", up(&["false"])).perform(None).await.unwrap_err();
        assert!(why.contains("status 1") && why.contains("no link"), "{why}");
        // With nobody to tell there is nothing to do but wait.
        assert_eq!(killed("leakcheck-none", Vec::new()).perform(None).await, Ok(()));
    }

    #[tokio::test]
    async fn stopped_processes_go_on_but_only_by_whom_they_are_seen() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("sleep");
        let process = ProcessHandle::of(child.id()).expect("it runs");
        process.signal(libc::SIGSTOP).unwrap();
        while process.state() != Some('T') {
            tokio::task::yield_now().await;
        }
        let frozen = |seen_from| Undo::Frozen { processes: vec![process.clone()], seen_from };
        let elsewhere = frozen(Some((0, 0)));
        assert!(elsewhere.verify(None).await.unwrap_err().contains("not to be seen from here"));
        assert!(elsewhere.perform(None).await.is_err());
        let here = Recipe::here(frozen(pid_namespace()));
        assert!(here.undo.verify(None).await.unwrap_err().contains("is still stopped"));
        here.work_off(None, Duration::from_secs(20)).await.unwrap();
        assert!(process.state().is_some_and(|state| state != 'T'));
        child.kill().unwrap();
        child.wait().unwrap();
        here.undo.verify(None).await.unwrap();
    }
}
