//! The keeper: a process of its own that puts an outage back when whoever made it, agent or runner, dies without having done so, or stands still. It
//! knows how before anything is changed, waits for the agent's word that all is well, and takes the end of the pipe for the agent's death.
//! The agent's loop tells it again and again that it is alive; one that does not any more, or that takes longer than any outage may, is ended
//! first: what it owns in the kernel goes with it, and it cannot go on with an outage that nobody keeps. The keeper is in a session of its
//! own, so that what is killed with the agent's group does not take it along. It cannot outlive its container.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::namespace_lock::NamespaceLock;
use super::process_handle::ProcessHandle;
use super::undo::Recipe;
use crate::agent::protocol::{ControlKey, read_frame, write_frame};

/// How long a keeper may take to say that it has understood, and to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a keeper goes on trying.
const TRYING: Duration = Duration::from_secs(60);
/// How often an agent says that it is alive.
const ALIVE_EVERY: Duration = Duration::from_millis(200);
/// For how long a keeper listens before it counts one word as missed, and how many missed in a row mean that the agent stands still. Counted
/// and not timed: a machine that slept has missed one.
const LISTEN: Duration = Duration::from_millis(250);
const MISSED: u32 = 12;
/// What a keeper answers when it knows what to do.
const READY: u8 = b'k';

/// What a keeper is told.
#[derive(Serialize, Deserialize)]
enum Word {
    /// First of all: what to do when the worst comes, and who says so.
    Keep(Box<Recipe>, Option<ControlKey>, Option<ProcessHandle>),
    /// The agent's loop goes round.
    Alive,
    /// The outage begins and is over in so many milliseconds.
    Within(u64),
    /// All is as it was; there is nothing to keep any more.
    Done,
}

/// The agent's end of a keeper. Dropping it without [`Keeper::dismiss`] is what the keeper takes for a death.
pub struct Keeper {
    child: Child,
    words: mpsc::UnboundedSender<Word>,
}

impl Keeper {
    /// Starts one in the calling thread's network namespace; it is ready when this returns. It holds `lock` as long as it lives.
    ///
    /// # Errors
    /// Why nobody would put back what is changed.
    pub async fn start(
        recipe: &Recipe,
        key: Option<&ControlKey>,
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
            let agent = ProcessHandle::of(std::process::id());
            write_frame(&mut words, &Word::Keep(Box::new(recipe.clone()), key.cloned(), agent)).await?;
            answers.read_u8().await
        };
        match timeout(PATIENCE, ready).await {
            Ok(Ok(READY)) => {
                let (sender, said) = mpsc::unbounded_channel();
                // On the agent's own loop: one that stands still tells nobody that it is alive.
                tokio::spawn(tell(words, said));
                Ok(Self { child, words: sender })
            }
            Ok(Ok(_)) => Err("the keeper gave an answer that does not fit".to_owned()),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Tells the keeper that the outage begins, and when it has to be over.
    pub(super) fn expect_end_within(&self, most: Duration) {
        let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        // One that cannot be told any more is dead.
        let _ = self.words.send(Word::Within(most));
    }

    /// Tells the keeper that all is as it was, and waits for its end.
    pub async fn dismiss(mut self) {
        // One that cannot be told any more is dead, or puts back what is as it was.
        let _ = self.words.send(Word::Done);
        let _ = timeout(PATIENCE, self.child.wait()).await;
    }
}

/// Says what the agent says, and meanwhile that it is alive. Ends, and with it the pipe, when the agent has nobody to say anything.
async fn tell(mut words: ChildStdin, mut said: mpsc::UnboundedReceiver<Word>) {
    let mut alive = interval(ALIVE_EVERY);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let word = tokio::select! {
            word = said.recv() => word,
            _ = alive.tick() => Some(Word::Alive),
        };
        let Some(word) = word else { return };
        let last = matches!(word, Word::Done);
        if write_frame(&mut words, &word).await.is_err() || last {
            return;
        }
    }
}

/// How an agent ended.
#[derive(Debug, PartialEq)]
enum End {
    /// All is as it was.
    Done,
    /// It is dead.
    Dead,
    /// It stands still, or takes too long.
    Stuck,
}

/// Listens to the agent until there is nothing more to be expected of it; up to `patience` for each word.
async fn listen(mut words: mpsc::UnboundedReceiver<Word>, patience: Duration) -> End {
    let (mut missed, mut end) = (0, None);
    loop {
        match timeout(patience, words.recv()).await {
            Ok(Some(Word::Done)) => return End::Done,
            Ok(Some(Word::Alive)) => missed = 0,
            Ok(Some(Word::Within(most))) => end = Instant::now().checked_add(Duration::from_millis(most)),
            // The end of the pipe, or what does not belong here: half a word ends it too.
            Ok(Some(Word::Keep(..)) | None) => return End::Dead,
            Err(_) => missed += 1,
        }
        if missed >= MISSED || end.is_some_and(|end| Instant::now() >= end) {
            return End::Stuck;
        }
    }
}

/// The keeper's own life: `leakcheck keeper`.
///
/// # Errors
/// When what was changed could not be put back, or nobody said what to keep.
pub fn keep() -> io::Result<()> {
    // What it was given it keeps to itself: a VPN program that it starts would hold the lock for ever.
    // SAFETY: a plain system call that changes a flag of descriptors alone (close_range(2), Linux 5.11).
    if unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
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
        let Some(Word::Keep(recipe, key, agent)) = read_frame(&mut input).await? else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let mut output = tokio::io::stdout();
        tokio::io::AsyncWriteExt::write_all(&mut output, &[READY]).await?;
        tokio::io::AsyncWriteExt::flush(&mut output).await?;
        let (sender, words) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(word)) = read_frame(&mut input).await {
                if sender.send(word).is_err() {
                    break;
                }
            }
        });
        match listen(words, LISTEN).await {
            End::Done => return Ok(()),
            End::Dead => {}
            End::Stuck => {
                // When it cannot be ended, what anybody may put back is put back all the same.
                let _ = agent.map(|agent| agent.signal(libc::SIGKILL));
            }
        }
        recipe.work_off(key.as_ref(), TRYING).await.map_err(io::Error::other)
    });
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    async fn heard(said: Vec<Word>, patience: Duration) -> End {
        let (agent, words) = mpsc::unbounded_channel();
        for word in said {
            agent.send(word).unwrap();
        }
        let end = listen(words, patience).await;
        drop(agent);
        end
    }

    #[tokio::test]
    async fn an_agent_is_listened_to_until_it_is_done_or_dead() {
        assert_eq!(heard(vec![Word::Alive, Word::Within(60_000), Word::Alive, Word::Done], LONG).await, End::Done);
        let (agent, words) = mpsc::unbounded_channel();
        agent.send(Word::Alive).unwrap();
        drop(agent);
        assert_eq!(listen(words, LONG).await, End::Dead);
    }

    #[tokio::test]
    async fn one_that_stands_still_or_takes_too_long_is_stuck() {
        assert_eq!(heard(vec![Word::Alive], Duration::from_millis(1)).await, End::Stuck);
        assert_eq!(heard(vec![Word::Alive, Word::Within(0), Word::Alive, Word::Alive], LONG).await, End::Stuck);
    }
}
