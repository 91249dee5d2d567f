//! Connections that lead past the tunnel and are silent: their packets would give them away, but none may come while one listens. TCP alone,
//! because a connection that stands was answered from there; that a datagram's socket is connected proves nothing. Facts only.

use std::collections::HashSet;
use std::net::IpAddr;

use super::allow::AllowList;
use super::sockets::{self, holders};
use crate::handicap::{Handicap, lacks};
use crate::model::evidence::DirectConnection;

/// Those that stand now, whose own end is one of `uplinks`' addresses and whose other end is a stranger, in the calling thread's
/// namespace; without their holders. `None` where the kernel's table cannot be read.
pub(super) fn now(uplinks: &[IpAddr], allow: &AllowList) -> Option<Vec<DirectConnection>> {
    let own = sockets::own().filter(|_| !lacks(Handicap::Sockets) && sockets::are_shown())?;
    let made = sockets::made_from_here(&sockets::list()).into_iter();
    let direct = made.filter(|(inode, local, remote)| {
        !own.contains(inode) && uplinks.contains(&local.ip()) && allow.is_stranger(remote.ip())
    });
    Some(direct.map(|(inode, local, remote)| DirectConnection { inode, local, remote, owners: Vec::new() }).collect())
}

/// Those that stood at the beginning and still do, with their holders.
pub(super) fn lasting(before: Vec<DirectConnection>, now: Vec<DirectConnection>) -> Vec<DirectConnection> {
    let known: HashSet<u64> = before.iter().map(|connection| connection.inode).collect();
    let mut lasting: Vec<DirectConnection> = now.into_iter().filter(|other| known.contains(&other.inode)).collect();
    let mut held = holders(&lasting.iter().map(|connection| connection.inode).collect());
    for connection in &mut lasting {
        connection.owners = held.remove(&connection.inode).unwrap_or_default();
    }
    lasting
}
