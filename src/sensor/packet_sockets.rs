//! Packet sockets of the namespace that are not leakcheck's own. A program may have the kernel send its frames past the queues
//! (`PACKET_QDISC_BYPASS`, packet(7)), and such frames no listener is shown; whether one does, the kernel does not tell. Facts only.

use std::fs;
use std::thread;
use std::time::Duration;

use nix::net::if_::if_indextoname;

use super::sockets::{self, holders, is_leakcheck};
use crate::handicap::{Handicap, lacks};
use crate::model::evidence::PacketSocket;

/// One of leakcheck's own that is opened or closed while it is looked is gone, or known, so much later.
const AGAIN: Duration = Duration::from_millis(20);

/// A socket as `/proc/net/packet` lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listed {
    /// The link that it is bound to; 0: all of them.
    link: u32,
    inode: u64,
}

/// Those that may send by an uplink, in the calling thread's namespace. `inside` are the loopback and the tunnel. `None` where the table does
/// not even show the sensor's own.
pub(super) fn others(inside: impl Fn(u32) -> bool) -> Option<Vec<PacketSocket>> {
    let mut found = foreign()?;
    found.retain(|socket| !inside(socket.link));
    if found.is_empty() {
        return Some(Vec::new());
    }
    thread::sleep(AGAIN);
    let still = foreign()?;
    found.retain(|socket| still.contains(socket));
    let mut held = holders(&found.iter().map(|socket| socket.inode).collect());
    let sockets = found.into_iter().filter_map(|socket| {
        let owners = held.remove(&socket.inode).unwrap_or_default();
        // Another of leakcheck's processes, such as the lab's.
        let own = !owners.is_empty() && owners.iter().all(|owner| is_leakcheck(owner.pid));
        let link = (socket.link != 0).then(|| name(socket.link));
        (!own).then_some(PacketSocket { inode: socket.inode, link, owners })
    });
    Some(sockets.collect())
}

fn name(link: u32) -> String {
    let name = if_indextoname(link).ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| format!("link {link}"))
}

/// All that this process does not hold itself; `None` where what it holds is not among them.
fn foreign() -> Option<Vec<Listed>> {
    let text = fs::read_to_string("/proc/thread-self/net/packet").ok().filter(|_| !lacks(Handicap::Sockets))?;
    let own = sockets::own()?;
    let (ours, others): (Vec<Listed>, Vec<Listed>) =
        text.lines().skip(1).filter_map(parse).partition(|socket| own.contains(&socket.inode));
    (!ours.is_empty()).then_some(others)
}

/// Address, references, type, protocol, link, whether it runs, memory, user, inode.
fn parse(line: &str) -> Option<Listed> {
    let mut words = line.split_ascii_whitespace().skip(4);
    Some(Listed { link: words.next()?.parse().ok()?, inode: words.nth(3)?.parse().ok()? })
}

/// Reads a text as the kernel's table, for [`crate::untrusted`].
#[cfg(feature = "lab")]
pub(super) fn understand(table: &str) {
    let _ = table.lines().filter_map(parse).count();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read() {
        let line = "ffff8881 3      3    0800   2     1 0      0      4711";
        assert_eq!(parse(line), Some(Listed { link: 2, inode: 4711 }));
        let title = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode";
        for other in ["", "garbage", title, "ffff8881 3      3    0800   2     1 0      0"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
