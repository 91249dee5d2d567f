//! The agent as its runner holds it: two streams and an end, the same whether a child process or a container is behind them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::container::Joined;
use super::error::TargetError;

/// How much of what the agent says on standard error is kept, in bytes, from the end.
const TAIL: usize = 4096;

/// Patience for the rest of the output once the agent has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Patience for the end of a process whose streams are closed.
const LAST_BREATH: Duration = Duration::from_millis(200);

/// Stream to the agent. Dropping it tells the agent to end.
pub type AgentInput = Pin<Box<dyn AsyncWrite + Send>>;
/// Stream from the agent.
pub type AgentOutput = Pin<Box<dyn AsyncRead + Send>>;

/// An agent that was started inside a namespace.
pub struct AgentProcess {
    /// Standard input. The agent restores what it changed and ends when this is closed.
    pub stdin: AgentInput,
    /// Standard output.
    pub stdout: AgentOutput,
    /// `setns` or `container`.
    pub how: &'static str,
    /// Its end.
    pub handle: AgentHandle,
}

/// The part of an agent that stays when its streams have gone to tasks of their own. Dropping it leaves the agent to end by
/// itself, which it does when its input is closed.
pub struct AgentHandle {
    behind: Behind,
    stderr: Tail,
    pump: JoinHandle<()>,
}

/// What the agent is.
pub(super) enum Behind {
    Child(Child),
    Container(Joined),
}

impl AgentProcess {
    /// Ends the agent: closes its input, discards what it still writes, and waits for it, `patience` at most.
    pub async fn finish(self, patience: Duration) -> Result<(), TargetError> {
        let Self { stdin, mut stdout, handle, .. } = self;
        drop(stdin);
        let discard = tokio::spawn(async move { tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await });
        let result = handle.finish(patience).await;
        discard.abort();
        result
    }

    /// The last of what the agent said on standard error, without control characters.
    pub fn stderr_tail(&self) -> String {
        self.handle.stderr_tail()
    }
}

impl AgentHandle {
    pub(super) fn new(behind: Behind, stderr: Tail, pump: JoinHandle<()>) -> Self {
        Self { behind, stderr, pump }
    }

    /// Waits for the agent to end after its input has been closed, and leaves nothing of it behind. One that is still there after
    /// `patience` is killed, and what it changed may stay changed: give it more than it takes to restore.
    pub async fn finish(self, patience: Duration) -> Result<(), TargetError> {
        let Self { behind, stderr, pump } = self;
        let ended = match behind {
            Behind::Child(child) => end_child(child, patience).await,
            Behind::Container(joined) => joined.end(patience).await,
        };
        drop(timeout(LAST_WORDS, pump).await);
        match ended? {
            None => Ok(()),
            Some(status) => Err(TargetError::AgentFailed { status, stderr: stderr.text() }),
        }
    }

    /// The last of what the agent said on standard error, without control characters.
    pub fn stderr_tail(&self) -> String {
        self.stderr.text()
    }

    /// How an agent that hung up by itself ended, when it is a child of ours and did not end well. Its process is gone a moment after its streams.
    pub fn ill_end(&mut self) -> Option<String> {
        let Behind::Child(child) = &mut self.behind else { return None };
        let until = Instant::now() + LAST_BREATH;
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return (!status.success()).then(|| describe(status)),
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                _ => return None,
            }
        }
    }

    /// Id of the agent's container, when it is one.
    pub fn container_id(&self) -> Option<&str> {
        match &self.behind {
            Behind::Container(joined) => Some(joined.id()),
            Behind::Child(_) => None,
        }
    }

    /// Number of the agent's process, when it is a child of ours that still runs.
    pub fn pid(&self) -> Option<u32> {
        match &self.behind {
            Behind::Child(child) => child.id(),
            Behind::Container(_) => None,
        }
    }
}

/// How it ended, when not well.
async fn end_child(mut child: Child, patience: Duration) -> Result<Option<String>, TargetError> {
    match timeout(patience, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(None),
        Ok(Ok(status)) => Ok(Some(describe(status))),
        Ok(Err(source)) => Err(TargetError::Spawn { source }),
        Err(_) => {
            // It may have ended at this moment; then there is nothing to kill.
            drop(child.kill().await);
            Err(TargetError::AgentStuck { patience })
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("status {code}"),
        None => status.to_string(),
    }
}

/// The end of a text that grows.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    pub(super) fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(&bytes[bytes.len().saturating_sub(TAIL)..]);
        let over = kept.len().saturating_sub(TAIL);
        kept.drain(..over);
    }

    /// Reads a stream to its end.
    pub(super) async fn follow(self, mut stream: impl AsyncRead + Unpin) {
        let mut buffer = [0; 1024];
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            self.push(&buffer[..length]);
        }
    }

    pub(super) fn text(&self) -> String {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(kept.make_contiguous()).into_owned();
        text.trim().chars().filter(|c| *c == '\n' || !c.is_control()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_tail_is_short_and_harmless() {
        let tail = Tail::default();
        tail.clone().follow("x".repeat(3 * TAIL).as_bytes()).await;
        tail.clone().follow(&b"\x1b[31mred\x07\nlast \xff\n"[..]).await;
        let text = tail.text();
        assert!(text.len() <= TAIL + 8, "{}", text.len());
        assert!(text.ends_with("[31mred\nlast \u{fffd}"), "{text:?}");
    }
}
