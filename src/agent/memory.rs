//! Keeping the agent small: it shares a machine with what it looks at, and mostly waits. Pure convenience; nothing depends on it.

/// Has the C library keep one heap for all threads, and give back at once what is free at its end or in large pieces. To be called before
/// the first thread.
pub(super) fn keep_small() {
    #[cfg(target_env = "gnu")]
    for (setting, octets) in
        [(libc::M_ARENA_MAX, 1), (libc::M_TRIM_THRESHOLD, TRIM), (libc::M_TOP_PAD, 0), (libc::M_MMAP_THRESHOLD, TRIM)]
    {
        // SAFETY: mallopt(3) takes any two numbers; there is no other thread yet.
        unsafe { libc::mallopt(setting, octets) };
    }
}

/// More than this is not kept for later, in octets.
#[cfg(target_env = "gnu")]
const TRIM: libc::c_int = 64 * 1024;
