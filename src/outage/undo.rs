//! What has to be done to put an outage back, written down so that any process in the namespace can do it: the agent that made the outage,
//! the keeper that outlives it, or the agent of a later run. Doing it twice, or two at once, does no harm. No secret is in it.

use std::fs;
use std::mem::size_of;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::control_server::ControlServer;
use crate::agent::protocol::ApiKey;
use crate::net::nft::Nft;
use crate::net::route::{Snapshot, restore_link};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A control server may still be working on the question of a process that is dead: only a VPN that runs for so long is running.
const STEADY: Duration = Duration::from_millis(1500);

/// One change, seen from its end.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Undo {
    /// The control server is told to start the VPN.
    Vpn {
        /// Its address, `http://HOST:PORT`.
        server: String,
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
    pub async fn work_off(&self, key: Option<&ApiKey>, patience: Duration) -> Result<(), String> {
        if !self.is_of_this_namespace() {
            return Ok(());
        }
        let end = Instant::now() + patience;
        let steady = match self.undo {
            Undo::Vpn { .. } => STEADY,
            Undo::Link { .. } | Undo::Table { .. } => Duration::ZERO,
        };
        let mut good_since: Option<Instant> = None;
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
    pub(super) async fn perform(&self, key: Option<&ApiKey>) -> Result<(), String> {
        match self {
            Undo::Vpn { server } => ControlServer::new(server, key.cloned())?.put("running").await.map(drop),
            Undo::Link { name, before } if replaced(name, before)? => Ok(()),
            Undo::Link { name, before } => {
                let report = restore_link(before, name).map_err(|error| told(&error))?;
                if report.failed.is_empty() { Ok(()) } else { Err(report.failed.join("; ")) }
            }
            // As long as its owner lives nobody else may, and afterwards nobody need.
            Undo::Table { .. } => Ok(()),
        }
    }

    /// Whether everything is as it was.
    ///
    /// # Errors
    /// What is not.
    pub(super) async fn verify(&self, key: Option<&ApiKey>) -> Result<(), String> {
        match self {
            Undo::Vpn { server } => match ControlServer::new(server, key.cloned())?.status().await?.as_str() {
                "running" => Ok(()),
                other => Err(format!("the control server says that the VPN is {}", other.escape_debug())),
            },
            Undo::Link { name, before } if replaced(name, before)? => Ok(()),
            Undo::Link { name, before } => {
                let now = Snapshot::take().map_err(|error| told(&error))?;
                let differences = concerned(before, name).diff(&concerned(&now, name));
                if differences.is_empty() { Ok(()) } else { Err(differences.join("; ")) }
            }
            Undo::Table { name } => {
                let rules = Nft::open().and_then(|mut nft| nft.ruleset()).map_err(|error| told(&error))?;
                let there = rules.lines().iter().any(|line| line.contains(name.as_str()));
                if there { Err(format!("the firewall table {name} is still there")) } else { Ok(()) }
            }
        }
    }
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
        let undo = Undo::Vpn { server: "http://127.0.0.1:9".to_owned() };
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
        let recipe = Recipe::here(Undo::Vpn { server: "http://127.0.0.1:9".to_owned() });
        let why = recipe.work_off(None, Duration::from_millis(50)).await.expect_err("nobody listens there");
        assert!(why.contains("127.0.0.1:9"), "{why}");
    }
}
