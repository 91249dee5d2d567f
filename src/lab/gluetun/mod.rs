//! What a Gluetun container offers to its neighbours: control server, health server and resolver, with the status codes
//! and habits of the real ones. The tunnel, the firewall and resolv.conf belong to the lab's stack, which is told what
//! to do through [`VpnControl`] and [`DnsSwitch`].

mod auth;
mod control;
mod dns;
mod habit;
mod health;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

pub use auth::{Auth, Role};
pub use control::{ControlServer, SETTINGS_ROUTE};
pub use dns::{Resolver, is_local};
pub use habit::{Fault, Habit, When};
pub use health::serve as serve_health;

/// Whose habits the servers have, where releases differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// v3.40.4.
    V3_40,
    /// v3.41.3.
    #[default]
    V3_41,
    /// The main branch of 2026-08, `:latest`.
    Latest,
}

impl Version {
    /// As the version route says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V3_40 => "v3.40.4",
            Self::V3_41 => "v3.41.3",
            Self::Latest => "latest",
        }
    }
}

/// The state of a loop of Gluetun (VPN, DNS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Starting,
    Running,
    Stopping,
    Stopped,
    Crashed,
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Crashed => "crashed",
        })
    }
}

/// The VPN of a stack, as the control server moves it.
pub trait VpnControl: Send + Sync + 'static {
    /// Brings the tunnel up; done when the interface and its routes are there, which does not say that it works.
    /// Returns the state that was reached. Never called twice at the same time, nor together with `stop`.
    fn start(&self) -> BoxFuture<'_, Status>;

    /// Takes the tunnel down and leaves the firewall as it is. Returns the state that was reached.
    fn stop(&self) -> BoxFuture<'_, Status>;

    /// The state now.
    fn status(&self) -> Status;

    /// The exit as it was found when the tunnel came up last; `None` when stopped. Real Gluetun does not ask again while
    /// the tunnel is up, so it goes stale.
    fn public_ip(&self) -> Option<IpAddr>;

    /// What the health server says. v3.41 and later: good after `stop`, and for 180 s after a silent death of the tunnel;
    /// v3.40: bad about 6 s after either.
    fn healthy(&self) -> bool;
}

/// Whether Gluetun's resolver shall run. Clones share it; the resolver follows it, and so may whoever keeps
/// resolv.conf, which v3.41 rewrites to 1.1.1.1 when its resolver is stopped.
#[derive(Clone, Debug)]
pub struct DnsSwitch(Arc<watch::Sender<bool>>);

impl Default for DnsSwitch {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(true)))
    }
}

impl DnsSwitch {
    /// A switch that is on.
    pub fn new() -> Self {
        Self::default()
    }

    /// Turns the resolver on or off.
    pub fn set(&self, running: bool) {
        self.0.send_replace(running);
    }

    /// Running or stopped.
    pub fn status(&self) -> Status {
        if *self.0.borrow() { Status::Running } else { Status::Stopped }
    }

    /// Follows the changes.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }
}
