//! Why a configuration was refused, with the place and, where it can be guessed, what was meant.

use std::io;
use std::path::PathBuf;

use crate::near::nearest;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is read, and wrong.
    #[error("use {}:{line}:{column}: {}{message}", path.display(), key.as_ref().map(|key| format!("`{key}`: ")).unwrap_or_default())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// The key in full, such as `vpn.provider`, where it is known.
        key: Option<String>,
        /// What is wrong.
        message: String,
    },
    /// An environment variable is wrong.
    #[error("use the environment variable {variable}: {message}")]
    Env {
        /// Its name.
        variable: String,
        /// What is wrong.
        message: String,
    },
}

impl ConfigError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            ConfigError::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("make it readable for the user who runs leakcheck".to_owned())
            }
            ConfigError::Read { .. } => {
                Some("give the right path with --config, or none to use the defaults".to_owned())
            }
            ConfigError::Invalid { message, .. } => meant(message).map(|word| format!("did you mean `{word}`?")),
            ConfigError::Env { message, .. } => meant(message).map(|word| format!("did you mean `{word}`?")),
        }
    }
}

/// The nearest of the words that `message` expects. Messages of unknown keys and words have one form:
/// "unknown key `got`, expected one of `a`, `b`".
fn meant(message: &str) -> Option<&str> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let got = quoted.next().filter(|_| message.starts_with("unknown "))?;
    nearest(got, quoted)
}
