//! Becoming root of a world of one's own: a user, network and mount namespace that end with the process.
//!
//! Nothing of it shows outside and nothing stays: no directory, no named namespace, no mount.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getgid, getuid, pipe};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why the process could not enter a world of its own.
#[derive(Debug, thiserror::Error)]
pub enum UsernsError {
    /// The kernel or its policy refuses user namespaces.
    #[error("create a user namespace")]
    Refused {
        /// What to do about it.
        help: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A second thread is running already.
    #[error("create a user namespace, because the process already has {0} threads; it has to come first in main")]
    Threads(usize),
    /// The user and group maps could not be written.
    #[error("map the user into its namespace ({0})")]
    Map(&'static str, #[source] io::Error),
    /// A private mount could not be made.
    #[error("make a private mount ({0})")]
    Mount(&'static str, #[source] io::Error),
}

impl UsernsError {
    /// What the user can do about it.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        match self {
            Self::Refused { help, .. } => Some(help),
            Self::Threads(_) | Self::Map(..) | Self::Mount(..) => None,
        }
    }
}

/// A directory in memory that only this process and those it tells can see; it ends with the process.
#[derive(Debug)]
pub struct PrivateDir(File);

impl PrivateDir {
    /// Its path, also for other processes of the same user namespace.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()))
    }

    /// Writes a file in it and returns its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: &str) -> io::Result<PathBuf> {
        let path = self.path().join(name);
        fs::write(&path, content)?;
        Ok(path)
    }
}

/// Enters a new user, network and mount namespace, as its root, with `resolv_conf` as the `/etc/resolv.conf` of this
/// process and its children. To be called first in `main`: the kernel takes no process with several threads.
///
/// # Errors
/// When the kernel refuses, with what to do about it.
pub fn enter_user_namespace(resolv_conf: &str) -> Result<PrivateDir, UsernsError> {
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(UsernsError::Threads(threads));
    }
    let (uid, gid) = (getuid(), getgid());
    // Root lends the new namespace all its users, which only a process that stays outside can do.
    let mapper = if uid.is_root() { Some(Mapper::start().map_err(|e| UsernsError::Map("fork", e))?) } else { None };
    let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    unshare(flags).map_err(|errno| UsernsError::Refused { help: advice(), source: errno.into() })?;
    if !mapper.is_some_and(Mapper::finish) {
        // Without "deny" an unprivileged process may not write its group map.
        fs::write("/proc/self/setgroups", "deny").map_err(|e| UsernsError::Map("setgroups", e))?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(|e| refused_map("uid_map", e))?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(|e| refused_map("gid_map", e))?;
    }
    private_mounts(resolv_conf)
}

/// A child that stays in the user namespace of before and maps its users one to one into the new one. Containers whose root has users of
/// its own, but not these, are told apart by trying: then one user is mapped, as without root.
struct Mapper {
    child: Pid,
    go: File,
}

/// Users and groups that are mapped, from 0 on.
const MAPPED: u32 = 65_536;

impl Mapper {
    fn start() -> io::Result<Self> {
        let (wait, go) = pipe()?;
        let parent = std::process::id();
        // SAFETY: the process has one thread, so the child may do what it likes; it ends without running anything of the parent's.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Self { child, go: File::from(go) }),
            ForkResult::Child => {
                drop(go);
                let waited = File::from(wait).read_exact(&mut [0]);
                let write = |file: &str| fs::write(format!("/proc/{parent}/{file}"), format!("0 0 {MAPPED}"));
                let mapped = waited.and_then(|()| write("uid_map")).and_then(|()| write("gid_map"));
                // SAFETY: ends the child at once, without the parent's handlers.
                unsafe { libc::_exit(i32::from(mapped.is_err())) }
            }
        }
    }

    /// Whether the maps have been written. To be called when the new namespace is there.
    fn finish(mut self) -> bool {
        let told = self.go.write_all(&[1]).is_ok();
        drop(self.go);
        told && matches!(waitpid(self.child, None), Ok(WaitStatus::Exited(_, 0)))
    }
}

/// Ubuntu's AppArmor lets a program create the namespace, and then takes every capability in it away.
fn refused_map(file: &'static str, source: io::Error) -> UsernsError {
    if restricted_by_apparmor() {
        return UsernsError::Refused { help: advice(), source };
    }
    UsernsError::Map(file, source)
}

fn private_mounts(resolv_conf: &str) -> Result<PrivateDir, UsernsError> {
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).map_err(|errno| {
        if restricted_by_apparmor() {
            return UsernsError::Refused { help: advice(), source: errno.into() };
        }
        UsernsError::Mount("all private", errno.into())
    })?;
    // The file system needs a mount point for a moment. Once detached it lives on under the open handle, and under the
    // bind mount; the directory below shows again as it was.
    let borrowed = std::env::temp_dir();
    let borrowed = if borrowed.is_dir() { borrowed } else { PathBuf::from("/") };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("leakcheck"), &borrowed, Some("tmpfs"), flags, Some("mode=0700"))
        .map_err(|errno| UsernsError::Mount("tmpfs", errno.into()))?;
    let result = fill(&borrowed, resolv_conf);
    umount2(&borrowed, MntFlags::MNT_DETACH).map_err(|errno| UsernsError::Mount("detach", errno.into()))?;
    result
}

fn fill(at: &Path, resolv_conf: &str) -> Result<PrivateDir, UsernsError> {
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(at)
        .map(PrivateDir)
        .map_err(|e| UsernsError::Mount("open tmpfs", e))?;
    let source =
        directory.write("home-resolv.conf", resolv_conf).map_err(|e| UsernsError::Mount("write resolv.conf", e))?;
    let target = Path::new("/etc/resolv.conf");
    // A container from an empty image has none, and then nothing in it reads one.
    if target.exists() {
        mount(Some(&source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|errno| UsernsError::Mount("bind resolv.conf", errno.into()))?;
    }
    Ok(directory)
}

fn setting(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn restricted_by_apparmor() -> bool {
    setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1")
}

fn advice() -> String {
    let zero = |path| setting(path).as_deref() == Some("0");
    if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        return "Ubuntu's AppArmor restricts them: `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0` until \
                the next boot, or run this command with sudo"
            .to_owned();
    }
    if zero("/proc/sys/kernel/unprivileged_userns_clone") {
        return "they are switched off: `sudo sysctl kernel.unprivileged_userns_clone=1`, or run this command with sudo"
            .to_owned();
    }
    if zero("/proc/sys/user/max_user_namespaces") || zero("/proc/sys/user/max_net_namespaces") {
        return "their number is limited to none: `sudo sysctl user.max_user_namespaces=15000 \
                user.max_net_namespaces=15000`"
            .to_owned();
    }
    "in a container, start it with `--security-opt seccomp=unconfined --security-opt apparmor=unconfined`, or run this \
     outside of it"
        .to_owned()
}
