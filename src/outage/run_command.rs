//! Runs a command of somebody else's: for a limited time, and with a limited ear for what it says. A command may leave a daemon behind that
//! keeps its streams, so these are files in memory that cannot grow: nobody waits for their end, and nobody dies of writing to them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::time::timeout;

/// How many octets of what a command says are kept, of each stream.
const MOST: usize = 64 * 1024;
/// Longest line that is told of it, in characters.
const LINE: usize = 200;

/// What becomes of a command whose caller dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Orphaned {
    /// It goes on.
    GoesOn,
    /// It is killed too (PR_SET_PDEATHSIG(2const)).
    Dies,
}

/// What a command that ended well said on standard output.
///
/// # Errors
/// That it could not be run, took longer than `patience`, or how it ended, with the last line of its standard error.
pub(super) async fn run_command(argv: &[String], patience: Duration, orphaned: Orphaned) -> Result<String, String> {
    let Some((program, arguments)) = argv.split_first() else { return Err("there is no command".to_owned()) };
    let shown = || program.escape_debug().to_string();
    let failed = |error: io::Error| format!("`{}` could not be run: {error}", shown());
    let (mut out, mut err) = (memory().map_err(failed)?, memory().map_err(failed)?);
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).process_group(0);
    command.stdout(out.try_clone().map_err(failed)?).stderr(err.try_clone().map_err(failed)?);
    if orphaned == Orphaned::Dies {
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
        unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)) };
    }
    let mut child = command.spawn().map_err(failed)?;
    let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    let status = match timeout(patience, child.wait()).await {
        Ok(status) => status.map_err(failed)?,
        Err(_) => {
            drop(group);
            // Killed, it cannot but end.
            let _ = timeout(patience, child.wait()).await;
            return Err(format!("`{}` had not ended after {} s and was killed", shown(), patience.as_secs_f64()));
        }
    };
    group.has_ended();
    if status.success() {
        return Ok(text(&mut out));
    }
    let ended = match status.code() {
        Some(code) => format!("status {code}"),
        None => status.to_string(),
    };
    let last = last_line(&text(&mut err));
    let last = if last.is_empty() { String::new() } else { format!(": {last}") };
    Err(format!("`{}` ended with {ended}{last}", shown()))
}

/// The process group of a command, which goes with it when it is not waited for to the end.
struct Group(Option<Pid>);

impl Group {
    fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended at this moment.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// A file of [`MOST`] octets in memory that does not grow.
fn memory() -> io::Result<File> {
    let file = File::from(memfd_create(c"leakcheck", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    file.set_len(MOST as u64)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW))?;
    Ok(file)
}

/// What was written so far: the position is shared with those who write.
fn text(file: &mut File) -> String {
    let mut octets = Vec::new();
    let read = file.stream_position().and_then(|length| {
        file.seek(SeekFrom::Start(0))?;
        let read = Read::by_ref(file).take(length).read_to_end(&mut octets);
        // Who still writes goes on where it was.
        file.seek(SeekFrom::Start(length))?;
        read
    });
    // What cannot be read of it is not told.
    let _ = read;
    String::from_utf8_lossy(&octets).into_owned()
}

/// The last line that says something, short and without control characters.
fn last_line(text: &str) -> String {
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    last.chars().filter(|c| !c.is_control()).take(LINE).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn sh(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).into()
    }

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn what_it_says_is_heard_and_a_failure_is_told_with_its_last_line_alone() {
        assert_eq!(run_command(&sh("echo one; echo two"), SOON, Orphaned::GoesOn).await.unwrap(), "one\ntwo\n");
        let why = run_command(
            &sh("echo key=hunter2 >&2; printf 'no \\033[31mlink\\n\\n' >&2; exit 3"),
            SOON,
            Orphaned::GoesOn,
        )
        .await;
        assert_eq!(why.unwrap_err(), "`sh` ended with status 3: no [31mlink");
        let why = run_command(&["/no/such/program".to_owned()], SOON, Orphaned::GoesOn).await.unwrap_err();
        assert!(why.contains("could not be run"), "{why}");
        assert!(run_command(&[], SOON, Orphaned::GoesOn).await.is_err());
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("child");
        let script = format!("sleep 600 & echo $! > {}; wait", file.display());
        let why = run_command(&sh(&script), Duration::from_secs(3), Orphaned::GoesOn).await.unwrap_err();
        assert!(why.contains("was killed"), "{why}");
        let pid: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        let end = Instant::now() + SOON;
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        while !gone() {
            assert!(Instant::now() < end, "its child lives on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A daemon that keeps the streams neither holds up the command's end nor dies of what it writes.
    #[tokio::test]
    async fn a_daemon_that_it_leaves_behind_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("alive");
        let script = format!(
            "(sleep 0.3; head -c 200000 /dev/zero >&2; echo still here; echo alive > {}) & exit 0",
            file.display()
        );
        run_command(&sh(&script), SOON, Orphaned::GoesOn).await.unwrap();
        let end = Instant::now() + SOON;
        while !file.exists() {
            assert!(Instant::now() < end, "the daemon died");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
