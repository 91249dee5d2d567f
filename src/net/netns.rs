//! Network namespaces: an owned handle, and threads that live in one.
//!
//! A thread enters a namespace once and never leaves it: a thread that came back would, on any error on the way, go on
//! in a namespace that its caller does not expect.

use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

/// Why a namespace could not be had.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The file that stands for it could not be opened.
    #[error("open the network namespace {}", .0.display())]
    Open(PathBuf, #[source] io::Error),
    /// The kernel did not let the thread in.
    #[error("enter a network namespace")]
    Enter(#[source] io::Error),
    /// The kernel did not make one.
    #[error("create a network namespace")]
    Create(#[source] io::Error),
    /// A thread could not be started, or ended before it had begun.
    #[error("start a thread for a network namespace")]
    Thread(#[source] io::Error),
    /// What the kernel says about the file could not be read.
    #[error("tell one network namespace from another")]
    Stat(#[source] io::Error),
}

/// An open network namespace, which lives at least as long as this handle.
#[derive(Debug)]
pub struct Netns(OwnedFd);

impl Netns {
    /// Opens the namespace at `path` (`/run/netns/NAME`, `/proc/PID/ns/net`, `/proc/PID/fd/N`).
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NetnsError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| NetnsError::Open(path.to_owned(), e))?;
        Ok(Self(file.into()))
    }

    /// The namespace of a process.
    ///
    /// # Errors
    /// When there is no such process, or its namespace may not be seen.
    pub fn of_pid(pid: u32) -> Result<Self, NetnsError> {
        Self::open(format!("/proc/{pid}/ns/net"))
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` does not show it.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// Makes a new, empty namespace, owned by the caller's user namespace; only `lo` is in it, down.
    ///
    /// # Errors
    /// When the kernel refuses (`CAP_SYS_ADMIN` in the user namespace is needed).
    pub fn create() -> Result<Self, NetnsError> {
        // A thread that ends takes no namespace with it as long as the handle is open.
        thread::Builder::new()
            .name("netns-create".to_owned())
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).map_err(|e| NetnsError::Create(e.into()))?;
                Self::current()
            })
            .map_err(NetnsError::Thread)?
            .join()
            .map_err(|_| NetnsError::Thread(io::Error::other("the thread panicked")))?
    }

    /// Moves the calling thread into the namespace. Meant to be done once, at the start of a thread.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self) -> Result<(), NetnsError> {
        setns(&self.0, CloneFlags::CLONE_NEWNET).map_err(|e| NetnsError::Enter(e.into()))
    }

    /// A second handle to the same namespace.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn duplicate(&self) -> Result<Self, NetnsError> {
        self.0.try_clone().map(Self).map_err(NetnsError::Enter)
    }

    /// The inode by which two handles can be told to be the same namespace.
    ///
    /// # Errors
    /// When it cannot be asked for.
    pub fn inode(&self) -> Result<u64, NetnsError> {
        nix::sys::stat::fstat(&self.0).map(|s| s.st_ino).map_err(|e| NetnsError::Stat(e.into()))
    }

    /// A path by which another process can open this namespace while this handle lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()))
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Starts a thread that enters `netns` once, runs `body` there, and ends. Joining it tells whether it got inside.
///
/// # Errors
/// When the thread cannot be started or the handle cannot be duplicated.
pub fn spawn_in<T: Send + 'static>(
    netns: &Netns,
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<Result<T, NetnsError>>, NetnsError> {
    let netns = netns.duplicate()?;
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            netns.enter()?;
            // Held any longer, the handle would keep the namespace alive for as long as the body runs.
            drop(netns);
            Ok(body())
        })
        .map_err(NetnsError::Thread)
}

/// As [`spawn_in`], and waits for the result.
///
/// # Errors
/// As [`spawn_in`], and when the namespace cannot be entered.
pub fn run_in<T: Send + 'static>(
    netns: &Netns,
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NetnsError> {
    spawn_in(netns, name, body)?.join().map_err(|_| NetnsError::Thread(io::Error::other("the thread panicked")))?
}
