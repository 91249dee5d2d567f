//! Method `command`: the tunnel is taken down and brought back by commands of the configuration, for stacks that are not Gluetun. They are
//! run in the stack's network namespace with the files and programs of the machine, so `wg-quick`, `ip`, `systemctl` and `docker` all work.

use std::time::Duration;

use super::link_down::tunnel;
use super::run_command::{Orphaned, run_command};
use super::undo::{Undo, link_works};
use crate::net::route::Snapshot;
use crate::technique::Context;

/// How long a command may take. Less than all of putting back may.
pub(super) const COMMAND_PATIENCE: Duration = Duration::from_secs(25);

/// See the head of this file.
pub(super) struct Command {
    link: String,
    down: Vec<String>,
}

impl Command {
    /// Whether there are commands, a place to run them, and a tunnel that shows what they do.
    pub(super) fn check(cx: &Context) -> Result<(), String> {
        Self::arm(cx).map(drop)
    }

    pub(super) fn arm(cx: &Context) -> Result<(Self, Undo), String> {
        let (down, up) = (cx.setup.down.clone(), cx.setup.up.clone());
        if down.is_empty() || up.is_empty() {
            return Err("there are no commands for it: set outage.down and outage.up".to_owned());
        }
        if !cx.setup.host_programs {
            return Err(
                "the agent is in a container of its own, where the machine's programs are not: run leakcheck as root on the VPN's machine, \
                 with --enter setns"
                    .to_owned(),
            );
        }
        let link = tunnel(cx)?;
        link_works(&link)?;
        Ok((Self { link: link.clone(), down }, Undo::Command { link, up }))
    }

    pub(super) async fn down(&mut self) -> Result<String, String> {
        run_command(&self.down, COMMAND_PATIENCE, Orphaned::Dies).await?;
        let now = Snapshot::take().map_err(|error| error.to_string())?;
        let link = match now.link(&self.link) {
            Some(link) => format!("{} is {}", self.link, if link.is_up() { "up" } else { "down" }),
            None => format!("{} is gone", self.link),
        };
        let program = self.down.first().map(|program| program.escape_debug().to_string()).unwrap_or_default();
        Ok(format!("`{program}` ended with status 0, and {link}"))
    }
}
