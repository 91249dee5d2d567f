//! Network namespaces as the kernel shows them: opening, comparing, and finding those with a name. Nothing here stays in one.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

use super::error::TargetError;

/// Where `ip netns` keeps its names.
const NAMED: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// A network namespace that is held open, so that it stays the same one whatever becomes of its processes.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    /// Device and inode: two files are of one namespace when these are equal.
    id: (u64, u64),
}

impl Namespace {
    /// Opens the file of a namespace. A link under /proc of somebody else's process needs CAP_SYS_PTRACE.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        Ok(Self { file, id: (metadata.dev(), metadata.ino()) })
    }

    /// The namespace of this process.
    pub fn own() -> io::Result<Self> {
        Self::open(Path::new("/proc/self/ns/net"))
    }

    /// Whether both are the same namespace.
    pub fn is(&self, other: &Self) -> bool {
        self.id == other.id
    }

    /// Whether the process is in this namespace; `None` when that is not to be seen from here.
    pub fn holds(&self, pid: u32) -> Option<bool> {
        let metadata = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?;
        Some((metadata.dev(), metadata.ino()) == self.id)
    }

    /// The inode number, by which `lsns` and `readlink /proc/PID/ns/net` name it.
    pub fn inode(&self) -> u64 {
        self.id.1
    }

    /// A path by which a child process opens this very namespace, as long as this value lives.
    pub fn path_for_child(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// Tries by doing whether we may enter: capabilities alone do not tell, because a namespace belongs to a user namespace.
    pub fn try_enter(&self) -> io::Result<()> {
        let in_a_thread_that_ends = || setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
        std::thread::scope(|scope| scope.spawn(in_a_thread_that_ends).join())
            .unwrap_or_else(|_| Err(io::Error::other("the thread that tried it panicked")))
    }
}

/// Refuses what is no network namespace, and the one in which we are ourselves.
pub fn check(namespace: &Namespace, label: &str) -> Result<(), TargetError> {
    if Namespace::own().is_ok_and(|own| own.is(namespace)) {
        return Err(TargetError::OwnNamespace { label: label.to_owned() });
    }
    // The kernel looks at the kind of file before it looks at capabilities, so this tells without any.
    match namespace.try_enter() {
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
            Err(TargetError::NotANamespace { path: label.to_owned() })
        }
        _ => Ok(()),
    }
}

/// The file of a namespace that is given by name or by path.
pub fn locate(name_or_path: &str) -> Result<PathBuf, TargetError> {
    let found = if name_or_path.contains('/') {
        Some(PathBuf::from(name_or_path)).filter(|path| path.exists())
    } else {
        NAMED.iter().map(|dir| Path::new(dir).join(name_or_path)).find(|path| path.exists())
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
        let own = Namespace::own().expect("own namespace");
        assert_eq!(own.holds(std::process::id()), Some(true));
        assert!(matches!(check(&own, "pid:1"), Err(TargetError::OwnNamespace { .. })));
    }

    #[test]
    fn another_kind_of_file_is_refused() {
        for path in ["/proc/self/ns/uts", "/etc/hostname", "/dev/null"] {
            let file = Namespace::open(Path::new(path)).expect(path);
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
