//! Network namespaces as targets: finding those with a name, telling them apart, and trying whether one may be entered.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::error::TargetError;
use crate::net::netns::{Netns, NetnsError, run_in};

/// Where `ip netns` keeps its names.
const NAMED: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// Whether both are the same namespace.
fn same(one: &Netns, other: &Netns) -> bool {
    matches!((one.inode(), other.inode()), (Ok(one), Ok(other)) if one == other)
}

/// Whether the process is in this namespace; `None` when that is not to be seen from here.
pub fn holds(netns: &Netns, pid: u32) -> Option<bool> {
    let inode = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino();
    Some(netns.inode().ok()? == inode)
}

/// Tries by doing whether we may enter: capabilities alone do not tell, because a namespace belongs to a user namespace.
pub fn try_enter(netns: &Netns) -> Result<(), NetnsError> {
    run_in(netns, "try-netns", || ())
}

/// Refuses what is no network namespace, and the one in which we are ourselves.
pub fn check(netns: &Netns, label: &str) -> Result<(), TargetError> {
    if Netns::current().is_ok_and(|own| same(&own, netns)) {
        return Err(TargetError::OwnNamespace { label: label.to_owned() });
    }
    // The kernel looks at the kind of file before it looks at capabilities, so this tells without any.
    match try_enter(netns) {
        Err(NetnsError::Enter(error)) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
            Err(TargetError::NotANamespace { path: label.to_owned() })
        }
        _ => Ok(()),
    }
}

/// The file of a namespace that is given by name or by path.
pub fn locate(name_or_path: &str) -> Result<PathBuf, TargetError> {
    // One that may not be looked at is there: opening it says why not.
    let there = |path: &PathBuf| path.try_exists().unwrap_or(true);
    let found = if name_or_path.contains('/') {
        Some(PathBuf::from(name_or_path)).filter(there)
    } else {
        NAMED.iter().map(|dir| Path::new(dir).join(name_or_path)).find(there)
    };
    found.ok_or_else(|| TargetError::NoNetns { name: name_or_path.to_owned(), known: names() })
}

/// The name of a namespace whose file is where `ip netns` puts it.
pub fn name_of(path: &Path) -> Option<&str> {
    let parent = path.parent()?.to_str()?;
    if NAMED.contains(&parent) { path.file_name()?.to_str() } else { None }
}

/// The process, when the path is that of a process's namespace (`/proc/PID/ns/net`).
pub fn process_of(path: &Path) -> Option<u32> {
    path.to_str()?.strip_prefix("/proc/")?.strip_suffix("/ns/net")?.parse().ok()
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(NAMED[0])
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_namespace_is_refused() {
        let own = Netns::current().expect("own namespace");
        assert_eq!(holds(&own, std::process::id()), Some(true));
        assert!(matches!(check(&own, "pid:1"), Err(TargetError::OwnNamespace { .. })));
    }

    #[test]
    fn another_kind_of_file_is_refused() {
        for path in ["/proc/self/ns/uts", "/etc/hostname", "/dev/null"] {
            let file = Netns::open(path).expect(path);
            assert!(matches!(check(&file, path), Err(TargetError::NotANamespace { .. })), "{path}");
        }
    }

    #[test]
    fn an_unknown_name_lists_what_there_is() {
        let error = locate("no-such-namespace-here").expect_err("there is none");
        assert!(error.to_string().contains("no-such-namespace-here"), "{error}");
        assert!(error.help().is_some());
    }

    #[test]
    fn paths_tell_name_and_process() {
        assert_eq!(name_of(Path::new("/run/netns/vpn")), Some("vpn"));
        assert_eq!(name_of(Path::new("/var/run/netns/vpn")), Some("vpn"));
        assert_eq!(name_of(Path::new("/tmp/vpn")), None);
        assert_eq!(process_of(Path::new("/proc/17/ns/net")), Some(17));
        assert_eq!(process_of(Path::new("/proc/self/ns/net")), None);
    }
}
