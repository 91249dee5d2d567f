//! rtnetlink in the current network namespace: what links, addresses, rules and routes there are, how two moments
//! differ, making them, and putting back what a link that went down lost.
//!
//! Every value keeps the kernel's own message, so that what this code has no name for is compared and put back too.

mod change;
mod event;
mod lookup;
mod object;
mod ready;
mod restore;
mod snapshot;

pub use change::{Family, RouteSpec, Rtnetlink, RuleSpec, link_event};
pub use event::{GROUPS, Names, told};
pub use lookup::{Flow, Lookup, Way};
pub use object::{Address, Link, Object, Route, Rule};
pub use ready::wait_ready;
pub use restore::{RestoreReport, held_back, release, restore_link};
pub use snapshot::Snapshot;

use super::netlink::NetlinkError;

/// Why a routing table could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The exchange with the kernel failed.
    #[error("{0}")]
    Netlink(String, #[source] NetlinkError),
    /// The kernel sent what does not parse.
    #[error("understand the kernel's answer about {0}")]
    Parse(&'static str, #[source] netlink_packet_core::DecodeError),
    /// A link that is asked for by name is not there.
    #[error("find the link {0}")]
    NoLink(String),
    /// A link that is up did not begin to work.
    #[error("wait for the link {0} to carry packets")]
    NotReady(String),
}

impl RouteError {
    /// The errno with which the kernel refused, if it did.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Netlink(_, source) => source.errno(),
            _ => None,
        }
    }
}

/// Reads octets as if the kernel had listed or told them, for [`crate::untrusted`]: the kind of message is the first of them.
#[cfg(feature = "lab")]
pub(crate) fn understand(octets: &[u8]) {
    let Some((kind, payload)) = octets.split_first() else { return };
    let message = super::netlink::Message { kind: u16::from(*kind), flags: 0, payload: payload.to_vec() };
    let _ = (Link::parse(message.clone()), Address::parse(message.clone()), Rule::parse(message.clone()));
    let _ = (Route::parse(message.clone()), link_event(&message), lookup::read(message.kind, payload));
    let _ = told(&message, &mut Names::default());
}
