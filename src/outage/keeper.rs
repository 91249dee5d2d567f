//! The keeper: a process of its own that puts an outage back when the agent that made it dies without having done so. It knows how before
//! anything is changed, waits for the agent's word that all is well, and takes the end of the pipe for the agent's death. It is in a session
//! of its own, so that what is killed with the agent's group does not take it along. It cannot outlive its container.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::namespace_lock::NamespaceLock;
use super::undo::Recipe;
use crate::agent::protocol::{ApiKey, read_frame, write_frame};

/// How long a keeper may take to say that it has understood, and to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a keeper goes on trying.
const TRYING: Duration = Duration::from_secs(60);
/// What a keeper answers when it knows what to do.
const READY: u8 = b'k';

/// What a keeper is told.
#[derive(Serialize, Deserialize)]
enum Word {
    /// First of all: what to do when the worst comes.
    Keep(Box<Recipe>, Option<ApiKey>),
    /// All is as it was; there is nothing to keep any more.
    Done,
}

/// The agent's end of a keeper. Dropping it without [`Keeper::dismiss`] is what the keeper takes for a death.
pub(super) struct Keeper {
    child: Child,
    words: ChildStdin,
}

impl Keeper {
    /// Starts one in the calling thread's network namespace; it is ready when this returns. It holds `lock` as long as it lives.
    pub(super) async fn start(
        recipe: &Recipe,
        key: Option<&ApiKey>,
        lock: Option<&NamespaceLock>,
    ) -> Result<Self, String> {
        let failed = |error: io::Error| format!("the keeper could not be started: {error}");
        let mut command = Command::new("/proc/self/exe");
        command.arg0("leakcheck").arg("keeper");
        // Of the agent's own streams it holds none: whoever waits for their end waits for the agent.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let inherited = lock.map(|lock| lock.as_fd().as_raw_fd());
        let prepare = move || {
            nix::unistd::setsid().map_err(io::Error::from)?;
            match inherited {
                // SAFETY: fcntl on a descriptor that the parent holds open; it changes the child's copy of the flag alone.
                Some(fd) if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } < 0 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            }
        };
        // SAFETY: between fork and exec only setsid and fcntl are called, which are async-signal-safe.
        unsafe { command.pre_exec(prepare) };
        let mut child = command.spawn().map_err(failed)?;
        let (Some(mut words), Some(mut answers)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both were asked for as pipes");
        };
        let ready = async {
            write_frame(&mut words, &Word::Keep(Box::new(recipe.clone()), key.cloned())).await?;
            answers.read_u8().await
        };
        match timeout(PATIENCE, ready).await {
            Ok(Ok(READY)) => Ok(Self { child, words }),
            Ok(Ok(_)) => Err("the keeper gave an answer that does not fit".to_owned()),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Tells the keeper that all is as it was, and waits for its end.
    pub(super) async fn dismiss(mut self) {
        // One that cannot be told any more is dead, or puts back what is as it was.
        let _ = write_frame(&mut self.words, &Word::Done).await;
        let _ = timeout(PATIENCE, self.child.wait()).await;
    }
}

/// The keeper's own life: `leakcheck keeper`.
///
/// # Errors
/// When what was changed could not be put back, or nobody said what to keep.
pub fn keep() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        // It ends with the agent and never before it; who wants to end both ends the agent.
        let _ignored = (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
            signal(SignalKind::quit())?,
        );
        let mut input = tokio::io::stdin();
        let Some(Word::Keep(recipe, key)) = read_frame(&mut input).await? else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let mut output = tokio::io::stdout();
        tokio::io::AsyncWriteExt::write_all(&mut output, &[READY]).await?;
        tokio::io::AsyncWriteExt::flush(&mut output).await?;
        match read_frame(&mut input).await {
            Ok(Some(Word::Done)) => Ok(()),
            // The end of the pipe, or half a word: the agent is dead.
            Ok(_) | Err(_) => recipe.work_off(key.as_ref(), TRYING).await.map_err(io::Error::other),
        }
    });
    runtime.shutdown_background();
    result
}
