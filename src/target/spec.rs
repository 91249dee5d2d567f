//! What the user may say to name a stack and the way in, as values. Only words: nothing here looks whether the target exists.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::error::TargetError;

/// Which network namespace to audit, as given to `--target`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetSpec {
    /// A container, by name, id or compose service.
    Docker(String),
    /// A namespace, by its name under `/run/netns` or by the path of its file.
    Netns(String),
    /// The namespace in which a process is, by its id.
    Pid(u32),
}

impl FromStr for TargetSpec {
    type Err = TargetError;

    fn from_str(given: &str) -> Result<Self, TargetError> {
        let refuse = || TargetError::Spec { given: given.to_owned() };
        let (kind, value) = given.split_once(':').ok_or_else(refuse)?;
        if value.is_empty() || value.contains(char::is_control) {
            return Err(refuse());
        }
        match kind {
            "docker" => Ok(Self::Docker(value.to_owned())),
            "netns" => Ok(Self::Netns(value.to_owned())),
            "pid" => match value.parse() {
                Ok(pid) if pid > 0 => Ok(Self::Pid(pid)),
                _ => Err(refuse()),
            },
            _ => Err(refuse()),
        }
    }
}

impl fmt::Display for TargetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Docker(name) => write!(f, "docker:{name}"),
            Self::Netns(name) => write!(f, "netns:{name}"),
            Self::Pid(pid) => write!(f, "pid:{pid}"),
        }
    }
}

/// How the agent gets into the namespace, as given to `--enter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Enter {
    /// By `setns` where the namespace can be entered from here, else by a container.
    #[default]
    Auto,
    /// A child process that calls `setns`; needs CAP_SYS_ADMIN on the machine on which the stack runs.
    Setns,
    /// A container that joins the stack's network; needs Docker, and no privilege of one's own.
    Container,
}

/// What may be set beside the target itself.
#[derive(Debug, Clone, Default)]
pub struct FindOptions {
    /// This file is the stack's resolv.conf, whatever the target says.
    pub resolv_conf: Option<PathBuf>,
    /// Address of the Docker engine (`unix://…`, `tcp://…`, `ssh://…`); else as Docker's own command line finds it: `DOCKER_HOST`, the
    /// context that is in force, the sockets that engines use.
    pub docker_host: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_shown_again() {
        for text in ["docker:gluetun", "netns:stack", "netns:/proc/17/ns/net", "pid:4242"] {
            assert_eq!(text.parse::<TargetSpec>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in ["gluetun", "docker:", "pid:0", "pid:-3", "pid:x", "podman:gluetun", "", ":", "docker:a\nb"] {
            let error = text.parse::<TargetSpec>().expect_err(text);
            assert!(error.help().is_some_and(|help| help.contains("docker:gluetun")), "{text}: no help");
        }
    }
}
