//! The programs that share the namespace: as whom they run, and what they may do. Read from /proc, so it sees what the agent's own PID
//! namespace shows: all of them beside a local daemon, none from a container of its own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

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
}

/// All processes in the calling thread's network namespace but this one.
pub fn find() -> Vec<Program> {
    let Some(here) = inode(Path::new("/proc/thread-self/ns/net")) else { return Vec::new() };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others = numbers.filter(|pid| *pid != std::process::id());
    others
        .filter(|pid| inode(Path::new(&format!("/proc/{pid}/ns/net"))) == Some(here))
        .filter_map(|pid| parse(pid, &fs::read_to_string(format!("/proc/{pid}/status")).ok()?))
        .collect()
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
    })
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
