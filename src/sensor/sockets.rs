//! Whose socket is it: the kernel's socket tables of the namespace, and the processes that hold a socket open. Facts only: where two
//! sockets fit a packet, none does.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::handicap::{Handicap, lacks};
use crate::model::evidence::{Owner, Proto};

/// Tables of the namespace of the reading thread, and the protocol of their sockets.
const TABLES: [(&str, Proto); 4] =
    [("tcp", Proto::Tcp), ("tcp6", Proto::Tcp), ("udp", Proto::Udp), ("udp6", Proto::Udp)];
/// TCP_ESTABLISHED and TCP_LISTEN.
const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;
/// Digits of a container id that are shown, as `docker ps` does.
const CONTAINER_DIGITS: usize = 12;
/// Digits of a whole container id.
const CONTAINER_LENGTH: usize = 64;

/// A socket as `/proc/net/tcp` and its like list it (proc_net_tcp in the kernel's documentation).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    proto: Proto,
    local: SocketAddr,
    remote: SocketAddr,
    /// Its state as the kernel numbers them (`include/net/tcp_states.h`).
    state: u8,
    inode: u64,
}

/// All TCP and UDP sockets of the calling thread's namespace. A table that cannot be read has no sockets.
pub fn list() -> Vec<Listed> {
    let mut all = Vec::new();
    if lacks(Handicap::Sockets) {
        return all;
    }
    for (table, proto) in TABLES {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
        all.extend(text.lines().skip(1).filter_map(|line| parse(line, proto)));
    }
    all
}

/// Whether the kernel shows this namespace's TCP connections at all. Those over IPv6 have a table only where it is not switched off.
pub(super) fn are_shown() -> bool {
    fs::File::open("/proc/thread-self/net/tcp").is_ok()
}

/// Where programs wait for others, among `listed`: sockets with no other end.
pub fn waiting(listed: &[Listed]) -> impl Iterator<Item = (Proto, SocketAddr)> + '_ {
    listed.iter().filter(|socket| socket.remote.port() == 0).map(|socket| (socket.proto, socket.local))
}

/// Connections among `listed`, by protocol and both ends.
pub fn connections(listed: &[Listed]) -> HashSet<(Proto, SocketAddr, SocketAddr)> {
    let connected = listed.iter().filter(|socket| socket.remote.port() != 0);
    connected.map(|socket| (socket.proto, socket.local, socket.remote)).collect()
}

/// TCP connections among `listed` that programs of the namespace made and that stand, by inode and both ends: those that others made to a
/// port on which somebody listens are left out.
pub(super) fn made_from_here(listed: &[Listed]) -> Vec<(u64, SocketAddr, SocketAddr)> {
    let tcp = || listed.iter().filter(|socket| socket.proto == Proto::Tcp);
    let served: HashSet<u16> =
        tcp().filter(|socket| socket.state == LISTEN).map(|socket| socket.local.port()).collect();
    let made = tcp().filter(|socket| socket.state == ESTABLISHED && !served.contains(&socket.local.port()));
    made.map(|socket| (socket.inode, socket.local, socket.remote)).collect()
}

/// The inodes of the sockets that this process holds itself. `None` where /proc does not show its descriptors.
pub(super) fn own() -> Option<HashSet<u64>> {
    let held = fs::read_dir("/proc/self/fd").ok()?.flatten();
    Some(held.filter_map(|file| socket_inode(&fs::read_link(file.path()).ok()?)).collect())
}

fn parse(line: &str, proto: Proto) -> Option<Listed> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (address(words.next()?)?, address(words.next()?)?);
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    // Queues, timer, retransmits, user and timeout stand between.
    let inode = words.nth(5)?.parse().ok()?;
    Some(Listed { proto, local, remote, state, inode })
}

/// An address as the kernel prints it: words of 32 bits in the machine's order, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (place, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(place * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The inode of the one socket among `listed` that a packet from `src` to `dst` was sent from, connected ones before others.
pub fn sender(listed: &[Listed], proto: Proto, src: SocketAddr, dst: SocketAddr) -> Option<u64> {
    let fits = |socket: &&Listed| {
        socket.proto == proto
            && socket.inode != 0
            && socket.local.port() == src.port()
            && (socket.local.ip() == src.ip() || socket.local.ip().is_unspecified())
    };
    let of = |connected: bool| -> HashSet<u64> {
        let ours = |socket: &&Listed| if connected { socket.remote == dst } else { socket.remote.port() == 0 };
        listed.iter().filter(fits).filter(ours).map(|socket| socket.inode).collect()
    };
    let mut found = of(true);
    if found.is_empty() {
        found = of(false);
    }
    let mut found = found.into_iter();
    found.next().filter(|_| found.next().is_none())
}

/// The processes that hold each of `inodes` open, as far as /proc shows them.
pub fn holders(inodes: &HashSet<u64>) -> HashMap<u64, Vec<Owner>> {
    let mut found: HashMap<u64, Vec<Owner>> = HashMap::new();
    if inodes.is_empty() {
        return found;
    }
    let Ok(processes) = fs::read_dir("/proc") else { return found };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // Processes end while one looks, and some may not be looked into.
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let held: HashSet<u64> = descriptors
            .flatten()
            .filter_map(|descriptor| socket_inode(&fs::read_link(descriptor.path()).ok()?))
            .filter(|inode| inodes.contains(inode))
            .collect();
        if let Some(owner) = (!held.is_empty()).then(|| describe(&process.path(), pid)) {
            for inode in held {
                found.entry(inode).or_default().push(owner.clone());
            }
        }
    }
    found.values_mut().for_each(|owners| owners.sort_by_key(|owner| owner.pid));
    found
}

/// The inode of a socket, from what a descriptor of it links to.
pub(super) fn socket_inode(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Whether that process is leakcheck too, by its program: another part of this run, or another run.
pub fn is_leakcheck(pid: u32) -> bool {
    let program = |of: &str| fs::metadata(format!("/proc/{of}/exe")).ok().map(|file| (file.dev(), file.ino()));
    program("self").is_some_and(|own| program(&pid.to_string()) == Some(own))
}

fn describe(process: &Path, pid: u32) -> Owner {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    let groups = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    Owner { pid, name: name.trim().to_owned(), container: container(&groups) }
}

/// The container that the control groups of a process name, whichever runtime and cgroup version made them.
fn container(groups: &str) -> Option<String> {
    let mut ids = groups.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == CONTAINER_LENGTH);
    ids.next_back().map(|id| id[..CONTAINER_DIGITS].to_owned())
}

/// Reads a text as one of the kernel's tables of sockets, for [`crate::untrusted`].
#[cfg(feature = "lab")]
pub(crate) fn understand(table: &str) {
    let listed: Vec<Listed> = table.lines().filter_map(|line| parse(line, Proto::Tcp)).collect();
    let _ = (waiting(&listed).count(), connections(&listed));
    super::packet_sockets::understand(table);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE4: &str =
        "  7: 0A0012AC:9C40 08080808:0035 01 00000000:00000000 00:00000000 00000000   101        0 4711 2 0";
    const LINE6: &str = " 12: 00000000000000000000000000000000:1AE1 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 815 2 0";

    #[cfg(target_endian = "little")]
    #[test]
    fn tables_are_read() {
        let four = parse(LINE4, Proto::Udp).unwrap();
        assert_eq!(four.local, "172.18.0.10:40000".parse().unwrap());
        assert_eq!((four.remote, four.state, four.inode), ("8.8.8.8:53".parse().unwrap(), ESTABLISHED, 4711));
        let six = parse(LINE6, Proto::Udp).unwrap();
        assert_eq!((six.local, six.inode), ("[::]:6881".parse().unwrap(), 815));
        for line in ["", "garbage", "0: x:y z", " 1: 0A0012AC:9C40 08080808:0035 01"] {
            assert_eq!(parse(line, Proto::Udp), None, "{line}");
        }
    }

    fn socket(local: &str, remote: &str, inode: u64) -> Listed {
        Listed { proto: Proto::Udp, local: local.parse().unwrap(), remote: remote.parse().unwrap(), state: 7, inode }
    }

    #[test]
    fn one_socket_is_named_and_of_two_none() {
        let (src, dst) = ("172.18.0.10:6881".parse().unwrap(), "8.8.8.8:9".parse().unwrap());
        let of = |listed: &[Listed]| sender(listed, Proto::Udp, src, dst);
        let bound = socket("[::]:6881", "[::]:0", 1);
        let connected = socket("172.18.0.10:6881", "8.8.8.8:9", 2);
        assert_eq!(of(&[bound]), Some(1));
        assert_eq!(of(&[bound, connected]), Some(2));
        assert_eq!(of(&[bound, socket("172.18.0.10:6881", "0.0.0.0:0", 3)]), None);
        assert_eq!(of(&[socket("172.18.0.10:6881", "1.1.1.1:9", 4)]), None);
        assert_eq!(of(&[socket("172.18.0.11:6881", "0.0.0.0:0", 5)]), None);
        assert_eq!(sender(&[bound], Proto::Tcp, src, dst), None);
    }

    #[test]
    fn connections_that_others_made_are_not_made_from_here() {
        let tcp = |local: &str, remote: &str, state, inode| Listed {
            proto: Proto::Tcp,
            state,
            ..socket(local, remote, inode)
        };
        let made = tcp("172.18.0.10:40000", "8.8.8.8:443", ESTABLISHED, 1);
        let listed = [
            made,
            tcp("[::]:8080", "[::]:0", LISTEN, 2),
            tcp("172.18.0.10:8080", "203.0.113.7:50000", ESTABLISHED, 3),
            tcp("172.18.0.10:40001", "8.8.8.8:443", 2, 4),
            Listed { proto: Proto::Udp, inode: 5, ..made },
        ];
        assert_eq!(made_from_here(&listed), [(1, made.local, made.remote)]);
    }

    #[test]
    fn containers_are_known_by_their_control_group() {
        let id = "0123456789abcdef".repeat(4);
        for groups in [
            format!("0::/system.slice/docker-{id}.scope\n"),
            format!("12:pids:/docker/{id}\n0::/\n"),
            format!("0::/user.slice/libpod-{id}.scope/container\n"),
        ] {
            assert_eq!(container(&groups).as_deref(), Some("0123456789ab"), "{groups}");
        }
        assert_eq!(container("0::/user.slice/user-0.slice/session-1.scope\n"), None);
    }

    #[test]
    fn the_sockets_of_this_process_are_found() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect("127.0.0.1:9").unwrap();
        let (src, dst) = (socket.local_addr().unwrap(), socket.peer_addr().unwrap());
        let listed = list();
        assert!(connections(&listed).contains(&(Proto::Udp, src, dst)));
        let inode = sender(&listed, Proto::Udp, src, dst).unwrap();
        let holders = holders(&HashSet::from([inode]));
        assert!(holders[&inode].iter().any(|owner| owner.pid == std::process::id()));
        assert!(is_leakcheck(std::process::id()) && !is_leakcheck(0));
    }
}
