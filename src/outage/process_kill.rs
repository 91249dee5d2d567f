//! Method `process-kill`: the processes that hold the tunnel's device get SIGKILL, as when the VPN program crashes: nobody cleans up after
//! it, and whoever looks after it starts it again, or the command `outage.up` does.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::process_handle::ProcessHandle;
use super::undo::{Undo, link_works, told};
use super::vpn_process::{find, may_be_killed};
use crate::net::route::Snapshot;
use crate::technique::Context;

/// How long a killed process may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether the tunnel is there again.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// See the head of this file.
pub(super) struct ProcessKill {
    link: String,
    /// Number of the link, by which it is told from one that is made anew.
    index: Option<u32>,
    doomed: Vec<ProcessHandle>,
}

impl ProcessKill {
    /// Whether there is such a process, and somebody to start it again.
    pub(super) async fn check(cx: &Context) -> Result<(), String> {
        Self::arm(cx).await.map(drop)
    }

    pub(super) async fn arm(cx: &Context) -> Result<(Self, Undo), String> {
        let (link, doomed) = find(cx)?;
        let up = match may_be_killed(cx, &doomed).await? {
            Some(_) => Vec::new(),
            None => cx.setup.up.clone(),
        };
        let undo = Undo::Killed { link: link.clone(), up };
        let now = Snapshot::take().map_err(|error| told(&error))?;
        let index = now.link(&link).map(|link| link.index);
        Ok((Self { link, index, doomed }, undo))
    }

    pub(super) async fn down(&mut self) -> Result<String, String> {
        for holder in &self.doomed {
            holder.signal(libc::SIGKILL)?;
        }
        let end = Instant::now() + PATIENCE;
        // A process is dead before the kernel has closed all that it had open.
        loop {
            let dying = self.doomed.iter().find(|holder| holder.state().is_some());
            match (dying, self.became_of_link()?) {
                (None, Some(link)) => {
                    let names: Vec<String> = self.doomed.iter().map(ToString::to_string).collect();
                    return Ok(format!("{} was killed, and {link}", names.join(" and ")));
                }
                (Some(holder), _) if Instant::now() > end => return Err(format!("{holder} does not die")),
                (None, None) if Instant::now() > end => {
                    return Err(format!("the VPN's process was killed, and somebody still serves {}", self.link));
                }
                _ => sleep(Duration::from_millis(1)).await,
            }
        }
    }

    /// What became of the link without the process; `None`: nothing.
    fn became_of_link(&self) -> Result<Option<String>, String> {
        let now = Snapshot::take().map_err(|error| told(&error))?;
        Ok(match now.link(&self.link) {
            None => Some(format!("{} is gone with it", self.link)),
            Some(link) if Some(link.index) != self.index => Some(format!("{} is another one already", self.link)),
            Some(_) => link_works(&self.link).err(),
        })
    }

    /// Waits until the tunnel's link is there again, without end if it never is.
    pub(super) async fn came_back(&self) {
        while link_works(&self.link).is_err() {
            sleep(LOOK_EVERY).await;
        }
    }
}
