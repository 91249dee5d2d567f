//! Kernel networking that lab, sensor, outage control and keeper share: namespaces, rtnetlink and nftables.
//!
//! All of it acts on the network namespace of the calling thread, blocks, and needs no async runtime: the keeper that
//! puts a stack back has none. It speaks netlink to the kernel and runs no external program.

pub mod capability;
pub mod firewall;
mod interfaces;
pub mod legacy;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod route;
pub mod sysctl;

pub use interfaces::interfaces;
