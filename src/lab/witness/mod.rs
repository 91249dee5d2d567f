//! The far side: servers of the lab's internet that say, and write down, from where they were asked.
//!
//! Each server is an async function that takes sockets which are bound already, so that the caller decides in which
//! network namespace it lives, and runs until it is dropped. Servers that ask others themselves ([`dns::Forwarder`])
//! open sockets of their own: poll them on a thread that stands in the right namespace.
//! Nothing here lays out networks; that is the business of the rest of the lab.

pub(crate) mod accept;
pub mod ca;
pub mod dht;
pub mod dns;
mod doh;
pub mod http;
pub mod journal;
mod sites;
pub mod stun;
pub mod tracker;

pub use ca::{CaError, LabCa};
pub use http::{Behaviour, HttpWitness, Provider};
pub use journal::{Entry, Journal, Protocol, What};
