//! Grants the agent's threads, from outside of the lab's user namespace, what they ask the scheduler for.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};

/// Threads that ask, and the bench's own that opens holes.
const THREADS: [&str; 3] = ["sampler", "timeline", "saboteur"];
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Starts it, and tells whether it may. To be called while the process has one thread. It ends with the process.
pub fn grant() -> Result<bool> {
    let parent = getpid();
    if !set_fifo(0) {
        return Ok(false);
    }
    // That was to try; the bench itself goes on as it was.
    // SAFETY: all-zero is a valid sched_param, and the call is about the calling thread alone.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const ZERO) };
    // SAFETY: the process has one thread, so the child may do what it likes.
    if let ForkResult::Child = unsafe { fork() }? {
        while getppid() == parent {
            look(parent);
            std::thread::sleep(LOOK_EVERY);
        }
        std::process::exit(0);
    }
    Ok(true)
}

static ZERO: libc::sched_param = libc::sched_param { sched_priority: 0 };
static FIRST: libc::sched_param = libc::sched_param { sched_priority: 1 };

fn look(parent: Pid) {
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let ours = pid == parent.as_raw() || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The name before it may hold anything but ends with the last bracket.
            let words = stat.rsplit_once(')').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
            words.split_whitespace().nth(1) == Some(parent.to_string().as_str())
        };
        if !ours {
            continue;
        }
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let comm = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            if THREADS.contains(&comm.trim())
                && let Some(id) = task.file_name().to_str().and_then(|name| name.parse().ok())
            {
                set_fifo(id);
            }
        }
    }
}

fn set_fifo(thread: i32) -> bool {
    // SAFETY: a plain system call; the parameters outlive it.
    unsafe { libc::sched_setscheduler(thread, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const FIRST) == 0 }
}
