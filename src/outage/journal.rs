//! The journal of a target: what an outage changes is written down by the runner before it is changed, and crossed out once it is put back.
//! Whoever comes next works off what is left. Its file is locked as long as the runner lives, so that no second run meddles.
//!
//! There is no secret in it: of the API key or the password it knows the file alone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::undo::Recipe;

/// Where root keeps its journals: namespaces do not outlive a boot, and neither does this.
const OF_ROOT: &str = "/run/leakcheck";
/// How the name of a journal ends.
const ENDING: &str = "json";

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// No folder to keep it in.
    #[error("find a folder for the journal of what has to be put back")]
    NoFolder,
    /// The file cannot be had.
    #[error("open the journal {}", path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Another run has it.
    #[error("begin, because another leakcheck is at work on this target (it holds {})", path.display())]
    Busy {
        /// Its path.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error("write the journal {}", path.display())]
    Write {
        /// Its path.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl JournalError {
    /// What to do about it.
    pub fn help(&self) -> String {
        match self {
            JournalError::Busy { .. } => {
                "wait until the other run has ended, or end it with Ctrl-C: it puts the stack back first".to_owned()
            }
            JournalError::NoFolder | JournalError::Open { .. } | JournalError::Write { .. } => {
                "name a folder that can be written to with --state-dir; with --quick nothing is changed and none is needed"
                    .to_owned()
            }
        }
    }
}

/// What was changed and not yet put back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// The target, as `--target` takes it.
    pub target: String,
    /// The outage's method.
    pub method: String,
    /// What to do.
    pub recipe: Recipe,
    /// Where it is written what opens the control server, if that is needed.
    pub key: Option<KeyFile>,
}

/// A file that holds a secret which opens the control server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    /// The file.
    pub path: PathBuf,
    /// Whose password it holds; `None`: it holds an API key.
    pub user: Option<String>,
}

/// An open journal, and the lock on it.
#[derive(Debug)]
pub struct Journal {
    file: Flock<File>,
    path: PathBuf,
}

impl Journal {
    /// The folder of the journals: `stated`, else `/run/leakcheck` for root, else `$XDG_STATE_HOME/leakcheck`, else
    /// `~/.local/state/leakcheck`.
    ///
    /// # Errors
    /// When there is none of them.
    pub fn folder(stated: Option<&Path>) -> Result<PathBuf, JournalError> {
        if let Some(stated) = stated {
            return Ok(stated.to_owned());
        }
        if nix::unistd::geteuid().is_root() && make(Path::new(OF_ROOT)).is_ok() {
            return Ok(PathBuf::from(OF_ROOT));
        }
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
        Ok(base.ok_or(JournalError::NoFolder)?.join("leakcheck"))
    }

    /// Opens the journal of the target `key` in `folder`, and locks it.
    ///
    /// # Errors
    /// When another run has it, or it cannot be had.
    pub fn open(folder: &Path, key: &str) -> Result<Self, JournalError> {
        let path = folder.join(format!("{key}.{ENDING}"));
        let refused = |source| JournalError::Open { path: path.clone(), source };
        make(folder).map_err(refused)?;
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let file = options.custom_flags(libc::O_NOFOLLOW).open(&path).map_err(refused)?;
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Err(JournalError::Busy { path }),
                Err((_, errno)) => return Err(refused(errno.into())),
            };
            // Another run may have removed the file between the two calls; a lock on a file without a name keeps nobody out.
            let ours = file.metadata().map_err(refused)?;
            match fs::metadata(&path) {
                Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => return Ok(Self { file, path }),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(refused(error)),
            }
        }
    }

    /// The keys of all journals of `folder`.
    pub fn keys(folder: &Path) -> Vec<String> {
        let entries =
            fs::read_dir(folder).into_iter().flatten().filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let ours = entries.filter(|path| path.extension().is_some_and(|ending| ending == ENDING));
        let mut keys: Vec<String> = ours.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
        keys.sort();
        keys
    }

    /// What is left to be put back.
    pub fn entry(&mut self) -> Option<Entry> {
        let mut text = String::new();
        self.file.rewind().and_then(|()| self.file.read_to_string(&mut text)).ok()?;
        // What does not parse was cut off while it was written, and nothing is changed before it is written to the end.
        serde_json::from_str(&text).ok()
    }

    /// Writes down what is about to be changed. When this returns it is on the disk.
    ///
    /// # Errors
    /// When it cannot be written: then nothing may be changed.
    pub fn write(&mut self, entry: &Entry) -> Result<(), JournalError> {
        let result = serde_json::to_vec(entry).map_err(io::Error::from).and_then(|octets| {
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(&octets)?;
            self.file.sync_all()
        });
        result.map_err(|source| JournalError::Write { path: self.path.clone(), source })
    }

    /// Crosses out what is put back.
    ///
    /// # Errors
    /// When it cannot be written: the next run will look again, and find that nothing is to be done.
    pub fn cross_out(&mut self) -> Result<(), JournalError> {
        self.file.set_len(0).map_err(|source| JournalError::Write { path: self.path.clone(), source })
    }

    /// Whether something is left.
    pub fn is_empty(&mut self) -> bool {
        self.entry().is_none()
    }
}

impl Drop for Journal {
    /// An empty journal is no journal.
    fn drop(&mut self) {
        if self.is_empty() {
            // It stays when it cannot be removed, and does no harm.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::undo::Undo;
    use super::*;

    fn entry() -> Entry {
        Entry {
            target: "docker:gluetun".to_owned(),
            method: "vpn-stop".to_owned(),
            recipe: Recipe::here(Undo::Table { name: "leakcheck-1".to_owned() }),
            key: Some(KeyFile { path: "/run/secrets/key".into(), user: Some("me".to_owned()) }),
        }
    }

    #[test]
    fn what_is_written_is_there_after_a_death_and_gone_after_crossing_out() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("state");
        let mut journal = Journal::open(&folder, "netns-1").unwrap();
        assert!(journal.is_empty());
        journal.write(&entry()).unwrap();
        assert_eq!(fs::metadata(&journal.path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(journal);
        assert_eq!(Journal::keys(&folder), ["netns-1"]);
        let mut journal = Journal::open(&folder, "netns-1").unwrap();
        assert_eq!(journal.entry().unwrap().target, "docker:gluetun");
        journal.cross_out().unwrap();
        drop(journal);
        assert!(Journal::keys(&folder).is_empty());
    }

    #[test]
    fn a_second_run_is_refused_while_the_first_lives() {
        let dir = tempfile::tempdir().unwrap();
        let first = Journal::open(dir.path(), "netns-1").unwrap();
        let refused = Journal::open(dir.path(), "netns-1").unwrap_err();
        assert!(matches!(refused, JournalError::Busy { .. }) && refused.help().contains("Ctrl-C"), "{refused}");
        assert!(Journal::open(dir.path(), "netns-2").is_ok());
        drop(first);
        assert!(Journal::open(dir.path(), "netns-1").is_ok());
    }

    #[test]
    fn half_an_entry_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let whole = serde_json::to_string(&entry()).unwrap();
        fs::write(dir.path().join("netns-1.json"), &whole[..whole.len() / 2]).unwrap();
        assert!(Journal::open(dir.path(), "netns-1").unwrap().is_empty());
    }

    #[test]
    fn a_link_in_the_place_of_the_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "text").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("netns-1.json")).unwrap();
        assert!(matches!(Journal::open(dir.path(), "netns-1"), Err(JournalError::Open { .. })));
        assert_eq!(fs::read_to_string(victim).unwrap(), "text");
    }
}
