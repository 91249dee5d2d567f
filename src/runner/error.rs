//! Why nothing could be measured.

use std::io;
use std::path::PathBuf;

use crate::catalog::CatalogError;
use crate::outage::JournalError;
use crate::target::TargetError;

/// What [`RunError::TorrentSecret`] calls an API key.
pub(super) const API_KEY: &str = "API key";

/// See the head of this file.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The probes, or the choice among them.
    #[error("choose the probes")]
    Catalog(#[from] CatalogError),
    /// A probe of a container's start was chosen, and no outage that starts one.
    #[error(
        "choose the probes: what was chosen is asked when the VPN container is started again, and no outage does that"
    )]
    NoStart,
    /// Probes of flows were chosen, and no outage that leaves flows what they need.
    #[error(
        "choose the probes: what was chosen watches flows that are open before, and no outage of these leaves them be"
    )]
    NoFlows,
    /// The target.
    #[error("get into the stack")]
    Target(#[from] TargetError),
    /// The machine.
    #[error("start the runner")]
    Runtime(#[source] io::Error),
    /// The file of the certificate authority.
    #[error("read the certificate authority {}", path.display())]
    ExtraCa {
        /// As configured.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What the file holds is no certificate authority.
    #[error("use the certificate authority {}: {message}", path.display())]
    NotCa {
        /// As configured.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The file of the API key.
    #[error("read the API key of the control server from {}", path.display())]
    ApiKey {
        /// As configured.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file of the password.
    #[error("read the password of the control server from {}", path.display())]
    ControlPassword {
        /// As configured.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file that opens the torrent client.
    #[error("read the {what} of the torrent client from {}", path.display())]
    TorrentSecret {
        /// `API key` or `password`.
        what: &'static str,
        /// As configured.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The journal of what has to be put back.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A signal asked for the end before the agent had begun.
    #[error("begin the audit: the run was interrupted")]
    Interrupted,
    /// What an earlier run left changed is still changed.
    #[error("put back what an outage by {method} left changed: {why}")]
    NotPutBack {
        /// The outage's method.
        method: String,
        /// What is not as it was.
        why: String,
        /// What to do.
        help: Option<String>,
    },
    /// The agent could not do its work.
    #[error("work inside the stack's namespace: {what}")]
    Agent {
        /// What it said.
        what: String,
        /// What to do.
        help: Option<String>,
    },
}

impl RunError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            RunError::Catalog(error) => error.help(),
            RunError::Target(error) => error.help(),
            RunError::ExtraCa { .. } | RunError::NotCa { .. } => {
                Some("set echo.extra_ca to a PEM file with a certificate that can be read".to_owned())
            }
            RunError::ApiKey { .. } => {
                Some("set outage.api_key_file to a file that holds the key and can be read".to_owned())
            }
            RunError::ControlPassword { .. } => {
                Some("set outage.control_password_file to a file that holds the password and can be read".to_owned())
            }
            RunError::TorrentSecret { what, .. } => Some(format!(
                "set torrent.{} to a file that holds the {what} and can be read",
                if *what == API_KEY { "api_key_file" } else { "password_file" }
            )),
            RunError::Journal(error) => Some(error.help()),
            RunError::NoStart => Some("add --outage kill or --outage restart".to_owned()),
            RunError::NoFlows => Some("add --outage vpn-stop or --outage endpoint-block".to_owned()),
            RunError::NotPutBack { help, .. } => Some(help.clone().unwrap_or_else(|| {
                "restart the VPN container, then what depends on it; a new namespace has nothing of the old state"
                    .to_owned()
            })),
            RunError::Agent { help, .. } => help.clone(),
            RunError::Runtime(_) | RunError::Interrupted => None,
        }
    }
}
