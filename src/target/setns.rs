//! The agent as a child process that enters the namespace itself. What it needs of the kernel was tried before.

use std::process::Stdio;

use tokio::process::Command;

use super::error::TargetError;
use super::process::{AgentHandle, AgentProcess, Behind, Tail};
use crate::net::netns::Netns;

/// What an agent that came in this way says of it.
pub const SETNS: &str = "setns";

/// Starts this program again as the agent of the namespace; without one, of that in which we are.
pub fn launch(netns: Option<&Netns>) -> Result<AgentProcess, TargetError> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("leakcheck").arg("agent");
    if let Some(netns) = netns {
        command.arg("--netns").arg(netns.path());
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A session of its own: Ctrl-C and the closing of the terminal reach the runner alone, which then ends the agent in order.
    let own_session = || nix::unistd::setsid().map(drop).map_err(std::io::Error::from);
    // SAFETY: between fork and exec only setsid is called, which is async-signal-safe.
    unsafe { command.pre_exec(own_session) };
    let mut child = command.spawn().map_err(|source| TargetError::Spawn { source })?;
    let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        unreachable!("all three were asked for as pipes");
    };
    let tail = Tail::default();
    let pump = tokio::spawn(tail.clone().follow(stderr));
    let handle = AgentHandle::new(Behind::Child(child), tail, pump);
    Ok(AgentProcess { stdin: Box::pin(stdin), stdout: Box::pin(stdout), how: SETNS, handle })
}
