//! Method `process-stop`: the processes that hold the tunnel's device are stopped with SIGSTOP, as when the VPN program hangs: the tunnel
//! stays up and swallows what it is given. SIGCONT undoes it.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::process_handle::ProcessHandle;
use super::undo::Undo;
use super::vpn_process::{find, pid_namespace};
use crate::technique::Context;

/// How long a process may take to stop.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the head of this file.
pub(super) struct ProcessStop(Vec<ProcessHandle>);

impl ProcessStop {
    /// Whether there is such a process, and the right to stop it.
    pub(super) fn check(cx: &Context) -> Result<(), String> {
        Self::arm(cx).map(drop)
    }

    pub(super) fn arm(cx: &Context) -> Result<(Self, Undo), String> {
        let (_, processes) = find(cx)?;
        for holder in &processes {
            // Signal 0 reaches nobody, and tells whether another would.
            holder.signal(0)?;
            if holder.state() == Some('T') {
                return Err(format!("{holder} is stopped already"));
            }
        }
        let undo = Undo::Frozen { processes: processes.clone(), seen_from: pid_namespace() };
        Ok((Self(processes), undo))
    }

    pub(super) async fn down(&mut self) -> Result<String, String> {
        let end = Instant::now() + PATIENCE;
        for holder in &self.0 {
            if !holder.signal(libc::SIGSTOP)? {
                return Err(format!("{holder} has ended"));
            }
            while holder.state() != Some('T') {
                if holder.state().is_none() || Instant::now() > end {
                    return Err(format!("{holder} does not stop"));
                }
                sleep(Duration::from_millis(1)).await;
            }
        }
        let names: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        Ok(format!("{} is stopped and holds the tunnel's device", names.join(" and ")))
    }
}
