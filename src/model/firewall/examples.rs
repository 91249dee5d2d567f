//! Packets that openings may let pass, for those who send some to see.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::openings::Opening;
use crate::model::evidence::Proto;

/// What begins a connection (RFC 9293, section 3.1).
const SYN: u8 = 0x02;
/// Examples at most.
const MAX_EXAMPLES: usize = 64;

/// A packet that an opening may let pass. What is `None` no rule asks for, or nothing is known that it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Name of the opening.
    pub opening: String,
    /// Protocol.
    pub proto: Proto,
    /// Source; unspecified address, port 0: any.
    pub src: SocketAddr,
    /// Destination; port 0: any.
    pub dst: SocketAddr,
    /// Its mark.
    pub mark: Option<u32>,
    /// The user who owns the socket.
    pub user: Option<u32>,
    /// The octet of DSCP and ECN.
    pub class: Option<u8>,
    /// Flags, where it is TCP and no SYN.
    pub flags: Option<u8>,
    /// Octets with the header of IP.
    pub length: Option<u32>,
}

/// One of each opening, then a second one of each, and so on.
pub(super) fn of(openings: Vec<Opening>) -> Vec<Example> {
    let most = openings.iter().map(|opening| opening.trials.len()).max().unwrap_or_default();
    let nth = |index: usize| {
        let one = move |opening: &Opening| {
            let trial = opening.trials.get(index)?;
            Some(Example {
                opening: opening.name.clone(),
                proto: trial.proto,
                src: trial.src,
                dst: trial.dst,
                mark: trial.besides.mark.filter(|mark| *mark != 0),
                user: trial.besides.user,
                class: trial.besides.class,
                flags: trial.besides.flags.filter(|flags| trial.proto == Proto::Tcp && *flags != SYN),
                length: trial.besides.length,
            })
        };
        openings.iter().filter_map(one).collect::<Vec<_>>()
    };
    (0..most).flat_map(nth).take(MAX_EXAMPLES).collect()
}
