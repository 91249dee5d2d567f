//! The resolv.conf that counts is the stack's. A network namespace does not bring its own, so where it is depends on what the target is.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::docker::Engine;
use super::error::TargetError;
use super::pid::{Process, read_small};

/// Its path where programs look for it.
pub const PATH: &str = "/etc/resolv.conf";

/// A resolv.conf as it was read, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvConf {
    /// The file's text, as it is.
    pub text: String,
    /// Where it was read, for people.
    pub source: String,
}

/// Where a stack's resolv.conf is.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// A file of this machine.
    File(PathBuf),
    /// That of a process's root.
    Process(Process),
    /// That of a container.
    Container { engine: Engine, id: String, name: String },
}

/// That of a running process, as it sees it; `None`: there is no such file there.
///
/// # Errors
/// When it cannot be read, or the process is gone ([`io::ErrorKind::NotFound`]).
pub fn of_process(pid: u32) -> io::Result<Option<String>> {
    let process = Process::find(pid).ok_or(io::ErrorKind::NotFound)?;
    match process.read(PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && process.alive() => Ok(None),
        other => other.map(Some),
    }
}

impl Place {
    /// Where the resolv.conf is for programs that are run in a named namespace, by ip-netns(8).
    pub(super) fn of_namespace(name: Option<&str>) -> Self {
        let own = name.map(|name| Path::new("/etc/netns").join(name).join("resolv.conf"));
        Self::File(own.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from(PATH)))
    }

    /// Its path on this machine, where it has one.
    pub(super) fn path(&self) -> Option<PathBuf> {
        match self {
            Self::File(path) => Some(path.clone()),
            Self::Process(process) => Some(format!("/proc/{}/root{PATH}", process.pid).into()),
            Self::Container { .. } => None,
        }
    }

    /// Reads it as it is now.
    pub(super) async fn read(&self) -> Result<ResolvConf, TargetError> {
        let (text, source) = match self {
            Self::File(path) => (File::open(path).and_then(read_small), path.display().to_string()),
            Self::Process(process) => (process.read(PATH), format!("{PATH} of process {}", process.pid)),
            Self::Container { engine, id, name } => {
                (engine.read(id, PATH).await, format!("{PATH} of container {name}"))
            }
        };
        match text {
            Ok(text) => Ok(ResolvConf { text, source }),
            Err(error) => Err(TargetError::ResolvConf { from: source, source: error }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_given_file_is_read_anew_each_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("resolv.conf");
        let place = Place::File(path.clone());
        let error = place.read().await.expect_err("there is none yet");
        assert!(error.to_string().contains(&path.display().to_string()) && error.help().is_some(), "{error}");
        for text in ["nameserver 10.64.0.1\n", "nameserver 127.0.0.1\n", ""] {
            std::fs::write(&path, text).expect("written");
            let read = place.read().await.expect("it is there");
            assert_eq!((read.text.as_str(), read.source), (text, path.display().to_string()));
        }
    }

    #[tokio::test]
    async fn a_process_has_that_of_its_root() {
        let own = Process::find(std::process::id()).expect("we run");
        let read = Place::Process(own).read().await.expect("we have one");
        assert_eq!(read.text, std::fs::read_to_string(PATH).expect("we have one"));
        assert_eq!(of_process(std::process::id()).expect("we run"), Some(read.text));
        assert_eq!(of_process(u32::MAX).expect_err("there is none").kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_namespace_without_one_has_the_hosts() {
        assert!(matches!(Place::of_namespace(Some("no-such-name")), Place::File(path) if path == Path::new(PATH)));
        assert!(matches!(Place::of_namespace(None), Place::File(path) if path == Path::new(PATH)));
    }
}
