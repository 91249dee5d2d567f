//! Processes as /proc shows them: whether one is still the same, whether it belongs to a container, and files in its root.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// Longest file that is read from a stack, in bytes: what a container holds is not to fill our memory.
const LONGEST: u64 = 64 * 1024;

/// A process, told apart from a later one that got the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number here.
    pub pid: u32,
    /// Start, in clock ticks after boot (field 22 of `/proc/PID/stat`).
    start: u64,
}

impl Process {
    /// The process with this number, if there is one.
    pub fn find(pid: u32) -> Option<Self> {
        Some(Self { pid, start: start_of(pid)? })
    }

    /// The first process of a container, if it is to be seen from here and is that container's. A daemon on another machine,
    /// or outside of a container in which we run, gives numbers that mean something else here.
    pub fn of_container(pid: u32, id: &str, sandbox: Option<&Path>) -> Option<Self> {
        let process = Self::find(pid)?;
        let by_cgroup = || fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(id));
        let by_namespace = || {
            let own = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?;
            let kept = fs::metadata(sandbox?).ok()?;
            Some((own.dev(), own.ino()) == (kept.dev(), kept.ino()))
        };
        (by_cgroup() || by_namespace() == Some(true)).then_some(process)
    }

    /// Whether the process is still there, and still the one that was found.
    pub fn alive(&self) -> bool {
        start_of(self.pid) == Some(self.start)
    }

    /// When it started, in clock ticks after boot.
    pub fn start_ticks(&self) -> u64 {
        self.start
    }

    /// The file of its network namespace.
    pub fn netns(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid))
    }

    /// Reads a small regular file by its path as the process sees it, links included. Needs CAP_SYS_PTRACE for others' processes.
    pub fn read(&self, path: &str) -> io::Result<String> {
        let text = read_small(open_in(&File::open(root_of(self.pid))?, Path::new(path))?)?;
        if self.alive() { Ok(text) } else { Err(io::Error::new(io::ErrorKind::NotFound, "the process ended")) }
    }
}

/// A file that is opened again and again: one of this machine, or one by a path through a process's root (`/proc/PID/root/…`), which is found
/// as that process sees it, links included, and also when the process has ended.
#[derive(Debug)]
pub struct Reach {
    root: Option<File>,
    path: PathBuf,
}

impl Reach {
    /// The way to the file at `path`, which need not be there.
    ///
    /// # Errors
    /// When the process is gone, or its root may not be looked into.
    pub fn to(path: &Path) -> io::Result<Self> {
        let process = path.strip_prefix("/proc").ok().and_then(|rest| rest.iter().next()?.to_str()?.parse().ok());
        match process.map(root_of).and_then(|root| Some((path.strip_prefix(&root).ok()?.to_owned(), root))) {
            Some((inside, root)) => Ok(Self { root: Some(File::open(root)?), path: inside }),
            None => Ok(Self { root: None, path: path.to_owned() }),
        }
    }

    /// The file, as it is now.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self) -> io::Result<File> {
        match &self.root {
            Some(root) => open_in(root, &self.path),
            None => File::open(&self.path),
        }
    }
}

fn root_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/root"))
}

fn open_in(root: &File, path: &Path) -> io::Result<File> {
    // An absolute link would otherwise be followed from our own root, and show the host's file.
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(File::from(openat2(root, path, how)?))
}

/// Reads a regular file up to a length that a configuration file does not have.
pub fn read_small(file: File) -> io::Result<String> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    small_text(bytes)
}

/// Text of a file, if it is of a sensible length; bytes that are no UTF-8 are replaced.
pub fn small_text(bytes: Vec<u8>) -> io::Result<String> {
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is longer than {LONGEST} bytes")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may hold spaces and parentheses itself.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_that_ended_is_not_alive() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat");
        let process = Process::find(child.id()).expect("it runs");
        assert!(process.alive());
        drop(child.stdin.take());
        child.wait().expect("cat ends");
        assert!(!process.alive());
        assert!(Process::find(child.id()).is_none());
    }

    #[test]
    fn a_number_alone_does_not_make_a_container() {
        let own = std::process::id();
        assert!(Process::of_container(own, "0123456789abcdef", None).is_none());
        assert!(Process::of_container(own, "0123456789abcdef", Some(Path::new("/proc/self/ns/uts"))).is_none());
        assert!(Process::of_container(own, "0123456789abcdef", Some(Path::new("/proc/self/ns/net"))).is_some());
    }

    #[test]
    fn only_small_regular_files_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = Process::find(std::process::id()).expect("we run");
        let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
        fs::write(path("small"), "nameserver 127.0.0.1\n").expect("written");
        symlink(path("small"), path("link")).expect("linked");
        fs::write(path("big"), vec![b'x'; LONGEST as usize + 1]).expect("written");
        assert_eq!(own.read(&path("link")).expect("read"), "nameserver 127.0.0.1\n");
        assert!(own.read(&path("big")).is_err());
        assert!(own.read("/dev/zero").is_err());
        assert!(own.read(&path("none")).is_err());
    }

    #[test]
    fn what_an_ended_process_saw_is_still_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("resolv.conf");
        fs::write(&file, "nameserver 10.2.0.1\n").expect("written");
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat");
        let path = format!("/proc/{}/root{}", child.id(), file.display());
        let reach = Reach::to(Path::new(&path)).expect("it runs");
        drop(child.stdin.take());
        child.wait().expect("cat ends");
        fs::write(&file, "nameserver 8.8.8.8\n").expect("written");
        assert_eq!(reach.open().and_then(read_small).expect("read"), "nameserver 8.8.8.8\n");
    }

    #[test]
    fn a_link_in_a_processs_root_is_followed_there() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("inside"), "nameserver 10.2.0.1\n").expect("written");
        symlink("/inside", dir.path().join("link")).expect("linked");
        let root = File::open(dir.path()).expect("the folder");
        let opened = open_in(&root, Path::new("/link")).and_then(read_small);
        assert_eq!(opened.expect("read"), "nameserver 10.2.0.1\n");
        assert!(File::open(dir.path().join("link")).is_err(), "from here there is no such file");
        let own = format!("/proc/{}/root{}", std::process::id(), dir.path().join("inside").display());
        assert!(Reach::to(Path::new(&own)).and_then(|reach| reach.open()).is_ok());
        assert!(Reach::to(&dir.path().join("inside")).and_then(|reach| reach.open()).is_ok());
    }
}
