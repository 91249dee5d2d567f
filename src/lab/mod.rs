//! The lab: a home, an ISP, an internet and a VPN provider on one machine, to try the checker against. Not a test
//! double: its servers speak the real protocols over real sockets.
//!
//! It needs no root, no Docker and no program beside this one: everything lives in network namespaces of an
//! unprivileged user namespace, held by threads of the one process and by children that it has, and ends with it.

pub mod advertisement;
mod around;
mod chatter;
pub mod compose;
pub mod condition;
pub mod gluetun;
pub mod internet;
pub mod leak;
pub mod line;
mod load;
pub mod matrix;
mod odd;
mod openvpn;
pub mod plan;
mod port_mapper;
pub mod provider;
pub mod qbittorrent;
pub mod realm;
mod remote;
pub mod role;
mod run;
pub mod stack;
pub mod topology;
mod tun;
mod tunnel_process;
pub mod userns;
pub mod variant;
pub mod wireguard;
pub mod witness;

pub use condition::Condition;
pub use gluetun::Habit;
pub use leak::Leak;
pub use odd::OddWitness;
pub use remote::{Wish, tell_vpn};
pub use run::{Lab, LabError, LabSpec};
pub use stack::has_legacy_tables;
pub use userns::{PrivateDir, UsernsError};
pub use variant::Variant;

/// Enters a user, network and mount namespace of the process's own, whose network namespace becomes the lab's home and
/// whose `/etc/resolv.conf` names the ISP's resolver. To be called first in `main`, before any thread exists.
///
/// # Errors
/// When the kernel or its policy refuses, with what to do about it.
pub fn enter_user_namespace() -> Result<PrivateDir, UsernsError> {
    userns::enter_user_namespace(&format!("nameserver {}\n", plan::ISP_RESOLVER))
}
