//! DNS in the lab: the authority that knows every name and writes down who asked, and resolvers that ask it on behalf
//! of others from an address of their own. Messages are read and written by hickory.

mod authority;
mod forwarder;
mod server;
mod zone;

pub use authority::Authority;
pub use forwarder::{Forwarder, Upstream};
pub(super) use server::reply;
pub use server::{Answer, Asked, Sockets, serve};
pub use zone::Zone;

#[cfg(test)]
mod tests;
