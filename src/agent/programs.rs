//! The programs that share the namespace: as whom they run, and what they may do. Read from /proc, so it sees what the agent's own PID
//! namespace shows: all of them beside a local daemon, none from a container of its own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::handicap::{Handicap, lacks};
use crate::sensor::sockets::is_leakcheck;
use crate::technique::User;

/// A process in the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its number.
    pub pid: u32,
    /// Its name, at most 15 octets.
    pub name: String,
    /// As whom it runs.
    pub user: User,
    /// Its effective capabilities, one bit each (capabilities(7)).
    pub capabilities: u64,
    /// What makes it a part of the VPN itself, where it is one.
    pub vpn: Option<String>,
}

/// Programs that make tunnels, by the beginnings of their names.
const MAKERS: [&str; 12] = [
    "gluetun",
    "openvpn",
    "wireguard-go",
    "wg-quick",
    "boringtun",
    "amneziawg-go",
    "tailscaled",
    "charon",
    "openconnect",
    "vpnc",
    "pppd",
    "nordvpnd",
];

/// All processes in the calling thread's network namespace but leakcheck's own.
///
/// # Errors
/// Why /proc does not tell: it has to show at least this one.
pub fn find() -> Result<Vec<Program>, String> {
    let unseen = |why: String| format!("the programs of the stack could not be looked for: {why}");
    let here = inode(Path::new("/proc/thread-self/ns/net"));
    let here = here.ok_or_else(|| unseen("this namespace cannot be told from others".to_owned()))?;
    let entries = fs::read_dir("/proc").map_err(|error| unseen(error.to_string()))?;
    let entries = entries.flatten().filter(|_| !lacks(Handicap::Proc));
    let numbers: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    if !numbers.contains(&std::process::id()) {
        return Err(unseen("/proc does not even show leakcheck itself".to_owned()));
    }
    let others = numbers.into_iter().filter(|pid| *pid != std::process::id());
    let mut found: Vec<Program> = others
        .filter(|pid| inode(Path::new(&format!("/proc/{pid}/ns/net"))) == Some(here))
        // Another run's agent, or the keeper of an outage.
        .filter(|pid| !is_leakcheck(*pid))
        .filter_map(|pid| parse(pid, &fs::read_to_string(format!("/proc/{pid}/status")).ok()?))
        .collect();
    let mounts = |pid: u32| inode(Path::new(&format!("/proc/{pid}/ns/mnt")));
    for program in &mut found {
        program.vpn = maker(program);
    }
    // What shares the container of the program that makes the tunnel is the VPN's; on the host itself everything would share it.
    let hosts = [mounts(1), mounts(std::process::id())];
    let containers: Vec<_> =
        found.iter().filter(|program| program.vpn.is_some()).map(|program| mounts(program.pid)).collect();
    for program in found.iter_mut().filter(|program| program.vpn.is_none()) {
        let own = mounts(program.pid);
        if own.is_some() && !hosts.contains(&own) && containers.contains(&own) {
            program.vpn = Some("it shares the VPN's container".to_owned());
        }
    }
    Ok(found)
}

/// What makes it the program that makes the tunnel: an open tunnel device, or else its name.
fn maker(program: &Program) -> Option<String> {
    let files = fs::read_dir(format!("/proc/{}/fd", program.pid)).into_iter().flatten().flatten();
    let device = files.filter_map(|file| fs::read_link(file.path()).ok()).any(|to| to == Path::new("/dev/net/tun"));
    if device {
        return Some("it holds a tunnel device".to_owned());
    }
    let named = MAKERS.iter().any(|maker| program.name.starts_with(&maker[..maker.len().min(15)]));
    named.then(|| "it is known by its name".to_owned())
}

/// Device and number, which together are unique.
fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// proc_pid_status(5): the file system user is the fourth of its line.
fn parse(pid: u32, status: &str) -> Option<Program> {
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim);
    let fourth = |key: &str| value(key)?.split_whitespace().nth(3)?.parse().ok();
    Some(Program {
        pid,
        name: value("Name")?.to_owned(),
        user: User { uid: fourth("Uid")?, gid: fourth("Gid")? },
        capabilities: u64::from_str_radix(value("CapEff")?, 16).ok()?,
        vpn: None,
    })
}

/// Reads a text as a process's status, for [`crate::untrusted`].
#[cfg(feature = "lab")]
pub(crate) fn understand(status: &str) {
    let _ = parse(1, status);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_status_file_says() {
        let status = "Name:\tqbittorrent-nox\nUmask:\t0022\nPid:\t7\nUid:\t1000\t1000\t1000\t1000\nGid:\t100\t100\t100\t100\nCapEff:\t00000000a80425fb\n";
        let program = parse(7, status).unwrap();
        assert_eq!((program.name.as_str(), program.user), ("qbittorrent-nox", User { uid: 1000, gid: 100 }));
        assert_eq!(program.capabilities >> 13 & 1, 1, "CAP_NET_RAW, as Docker gives it");
        assert!(parse(7, "Name:\tx\n").is_none());
    }
}
