//! A process, told apart from a later one that got the same number, and signals that reach it and nobody else.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::target::Process;

/// See the head of this file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessHandle {
    pub(super) pid: u32,
    /// Start, in clock ticks after boot.
    start: u64,
    name: String,
}

impl std::fmt::Display for ProcessHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (process {})", self.name.escape_debug(), self.pid)
    }
}

impl ProcessHandle {
    /// The process of this number, if there is one.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let start = Process::find(pid)?.start_ticks();
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned();
        Some(Self { pid, start, name })
    }

    /// Sends it a signal; a process that has taken its number gets none. `false`: it has ended.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn signal(&self, signal: libc::c_int) -> Result<bool, String> {
        let failed = |error: io::Error| format!("{self} cannot be sent a signal: {error}");
        let Some(handle) = self.open().map_err(failed)? else { return Ok(false) };
        // SAFETY: the descriptor is an open pidfd, and no siginfo is given.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                handle.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match result {
            0 => Ok(true),
            _ => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
                error => Err(failed(error)),
            },
        }
    }

    /// The command by which a person lets it go on.
    pub(super) fn how_to_continue(&self) -> String {
        format!("kill -CONT {}", self.pid)
    }

    /// Its state as /proc/PID/stat has it: `R`, `S`, `T` for stopped …; `None`: it has ended.
    pub(super) fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        let state = stat.rsplit_once(')')?.1.split_whitespace().next()?.chars().next()?;
        // Z: it is dead, and its parent has not looked yet.
        (self.is_the_same() && state != 'Z' && state != 'X').then_some(state)
    }

    /// A handle that means this process whatever becomes of its number; `None`: it has ended (pidfd_open(2), Linux 5.3).
    fn open(&self) -> io::Result<Option<OwnedFd>> {
        // SAFETY: takes two numbers.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) };
        if raw < 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::ESRCH) { Ok(None) } else { Err(error) };
        }
        // SAFETY: the descriptor is new and nobody else's.
        let handle = unsafe { OwnedFd::from_raw_fd(raw as i32) };
        // Looked at after opening: from here on the number cannot become another's without the handle knowing.
        Ok(self.is_the_same().then_some(handle))
    }

    fn is_the_same(&self) -> bool {
        Process::find(self.pid).is_some_and(|process| process.start_ticks() == self.start)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_signal_reaches_the_process_that_was_meant_and_nobody_who_took_its_number() {
        let mut child = Command::new("sleep").arg("600").spawn().expect("sleep");
        let process = ProcessHandle::of(child.id()).expect("it runs");
        let another = ProcessHandle { start: process.start + 1, ..process.clone() };
        assert_eq!(another.signal(libc::SIGKILL), Ok(false));
        assert_eq!(process.signal(libc::SIGSTOP), Ok(true));
        while process.state() != Some('T') {
            std::thread::yield_now();
        }
        assert_eq!(another.state(), None);
        assert_eq!(process.signal(libc::SIGKILL), Ok(true));
        child.wait().expect("it ends");
        assert_eq!((process.signal(libc::SIGCONT), process.state()), (Ok(false), None));
    }
}
