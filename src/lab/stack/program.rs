//! A program that shares the stack's network, as a torrent client does: a process of its own, with a set of capabilities of its own.

use crate::lab::leak::Capability;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

/// Capabilities of later kernels than this many are refused by the present one, which is no harm.
const LAST: u32 = 63;

/// A running program; ends when dropped, or with the thread that started it.
pub struct Program(Child);

impl Program {
    /// Starts one in the calling thread's namespaces that holds `powers` and no other capability. It only waits.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(powers: &[Capability]) -> io::Result<Self> {
        let kept: u64 = powers.iter().fold(0, |bits, power| bits | 1 << power.bit());
        let mut command = Command::new("sleep");
        command.arg("86400").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec nothing but plain system calls is made.
        unsafe {
            command.pre_exec(move || {
                // What the bounding set lacks no program gets at exec, root's neither (capabilities(7)).
                for bit in (0..=LAST).filter(|bit| kept >> bit & 1 == 0) {
                    libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(bit), 0, 0, 0);
                }
                match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            });
        }
        command.spawn().map(Self)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
