//! Being woken in time on a machine that is busy. What a thread asks of the scheduler here is its own alone and ends with it, so there is
//! nothing to put back.

/// Asks for the most that the kernel grants the calling thread, and says in a few words what that is.
pub fn ask_for_priority() -> &'static str {
    // To a nanosecond. Where it is refused, the pace that is reached tells.
    let _ = nix::sys::prctl::set_timerslack(1);
    // SAFETY: all-zero is a valid sched_param.
    let mut first: libc::sched_param = unsafe { std::mem::zeroed() };
    first.sched_priority = 1;
    // SAFETY: the parameters outlive the call, which is about the calling thread alone (sched_setscheduler(2), 0).
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const first) } == 0 {
        return "SCHED_FIFO";
    }
    ask_for_precedence()
}

/// Asks for the most that is granted without being let run for ever: for a thread that may have much to do.
pub fn ask_for_precedence() -> &'static str {
    // SAFETY: a plain system call about the calling thread alone (setpriority(2), who 0 being a thread on Linux).
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) } == 0 {
        return "nice -20";
    }
    if ask_for_short_slices() { "short slices" } else { "none" }
}

/// Asks for slices of a tenth of a millisecond, which anybody may (Linux 6.12): a thread that wants little at a time is woken sooner.
fn ask_for_short_slices() -> bool {
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: libc::SCHED_OTHER as u32,
        flags: 0,
        nice: 0,
        priority: 0,
        runtime: 100_000,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the kernel reads as many octets as `size` says of a struct that outlives the call (sched_setattr(2)).
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) == 0 }
}
