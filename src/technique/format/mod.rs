//! What is said to witnesses and what they answer, as octets. Pure and total: what a stranger sends can be refused, but does no harm.

pub mod announce;
pub mod bencode;
pub mod compact;
pub mod krpc;
#[cfg(test)]
mod mutate;
pub mod stun;
