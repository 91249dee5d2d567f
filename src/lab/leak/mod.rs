//! Leak fixtures: how a sealed stack is broken, as data. `fixtures/leaks/*.toml` are built in; adding one is adding a
//! file.
//!
//! The vocabulary is closed: what a fixture does is said here, once, and a word that is not here is an error.

mod change;
mod packets;
mod words;

pub use change::{Action, Change, Moment};
pub use packets::{Flags, Packets};
pub use words::{Capability, ChainName, FamilyName, Place, PolicyName, Ports, Transport};

use serde::Deserialize;
use std::fmt;
use std::net::SocketAddr;

/// The fixtures: file stem and text.
const LEAKS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/leaks.rs"));

/// Why a fixture cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LeakError {
    /// Nothing of that name is built in.
    #[error("find the leak class {0}; there are: {1}")]
    Unknown(String, String),
    /// It says something that the vocabulary does not have.
    #[error("read the leak fixture {0}")]
    Parse(String, #[source] Box<toml::de::Error>),
}

/// One way to break a sealed stack.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leak {
    /// Its id, the stem of its file.
    #[serde(skip)]
    pub id: String,
    /// What is broken, in a few words.
    pub title: String,
    /// Why it matters.
    pub threat: String,
    /// Ids of the probes that must fail on it.
    #[serde(default)]
    pub red: Vec<String>,
    /// Ids of the probes that must warn of it.
    #[serde(default)]
    pub amber: Vec<String>,
    /// What is done to the sealed stack, in this order.
    #[serde(rename = "change")]
    pub changes: Vec<Change>,
}

/// Probes that turn red in an outage, or after it.
const OF_OUTAGES: [&str; 3] = ["flows-ipv6", "kill-switch", "local-reachable"];

impl Leak {
    /// Reads a fixture.
    ///
    /// # Errors
    /// When it is not well formed.
    pub fn parse(id: &str, text: &str) -> Result<Self, LeakError> {
        let mut leak: Self = toml::from_str(text).map_err(|e| LeakError::Parse(id.to_owned(), Box::new(e)))?;
        id.clone_into(&mut leak.id);
        Ok(leak)
    }

    /// The built-in fixture of that name.
    ///
    /// # Errors
    /// When there is none, or it is not well formed.
    pub fn named(id: &str) -> Result<Self, LeakError> {
        let found = LEAKS.iter().find(|(stem, _)| *stem == id);
        let (stem, text) = found.ok_or_else(|| LeakError::Unknown(id.to_owned(), names().join(", ")))?;
        Self::parse(stem, text)
    }

    /// All built-in fixtures, in the order of their names.
    ///
    /// # Errors
    /// When one is not well formed.
    pub fn all() -> Result<Vec<Self>, LeakError> {
        LEAKS.iter().map(|(stem, text)| Self::parse(stem, text)).collect()
    }

    /// Whether the stack never gets a tunnel.
    #[must_use]
    pub fn without_tunnel(&self) -> bool {
        self.actions().any(|action| *action == Action::NoTunnel {})
    }

    /// Whether it tells users apart, which takes a lab with more than one: root's.
    #[must_use]
    pub fn needs_users(&self) -> bool {
        self.actions().any(|action| match action {
            Action::Allow(packets)
            | Action::Forbid(packets)
            | Action::Divert { packets, .. }
            | Action::Remark { packets, .. } => packets.user.is_some(),
            Action::Rule { user, .. } => user.is_some(),
            _ => false,
        })
    }

    /// Whether it needs the tables of iptables-legacy, which not every kernel has.
    #[must_use]
    pub fn needs_legacy(&self) -> bool {
        self.actions().any(|action| matches!(action, Action::Legacy { .. }))
    }

    /// Whether it shows only when the tunnel goes or comes, or the server falls silent.
    #[must_use]
    pub fn needs_outage(&self) -> bool {
        self.changes.iter().any(|change| change.when != Moment::Start)
    }

    /// Whether an audit without outages finds it.
    #[must_use]
    pub fn shows_while_up(&self) -> bool {
        let mut found_by = self.red.iter().chain(&self.amber);
        !self.needs_outage() && !found_by.any(|id| OF_OUTAGES.contains(&id.as_str()))
    }

    /// Whether only a stack of containers can be broken so.
    #[must_use]
    pub fn needs_containers(&self) -> bool {
        self.actions().any(|action| {
            matches!(action, Action::LateFirewall { .. } | Action::RestartVpn {} | Action::Compose { .. })
        })
    }

    /// Whether the VPN container is restarted before anybody looks.
    #[must_use]
    pub fn restarts_vpn(&self) -> bool {
        self.actions().any(|action| *action == Action::RestartVpn {})
    }

    /// The compose file that is laid over the fixture's.
    #[must_use]
    pub fn compose_file(&self) -> Option<&str> {
        self.actions().find_map(|action| if let Action::Compose { file } = action { Some(file.as_str()) } else { None })
    }

    /// Whether the stack's own resolver is dead.
    #[must_use]
    pub fn has_dead_resolver(&self) -> bool {
        self.actions().any(|action| *action == Action::DeadResolver {})
    }

    /// Whom the stack's own resolver asks for local names.
    #[must_use]
    pub fn asked_for_local_names(&self) -> Option<SocketAddr> {
        self.actions()
            .find_map(|action| if let Action::LocalNames { resolver } = action { Some(*resolver) } else { None })
    }

    /// Whom the stack's own resolver asks besides.
    #[must_use]
    pub fn also_asked(&self) -> Option<SocketAddr> {
        self.actions()
            .find_map(|action| if let Action::AlsoAsked { resolver } = action { Some(*resolver) } else { None })
    }

    /// The port that the provider forwards to the stack.
    #[must_use]
    pub fn forwarded_port(&self) -> Option<u16> {
        self.actions().find_map(|action| if let Action::ForwardedPort { port } = action { Some(*port) } else { None })
    }

    /// What is done, whenever it is done.
    pub fn actions(&self) -> impl Iterator<Item = &Action> {
        self.changes.iter().map(|change| &change.action)
    }
}

/// Names of the built-in fixtures.
#[must_use]
pub fn names() -> Vec<&'static str> {
    LEAKS.iter().map(|(stem, _)| *stem).collect()
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.title)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fixture_is_well_formed_and_turns_a_probe_red() {
        let leaks = Leak::all().unwrap();
        assert!(!leaks.is_empty());
        for leak in leaks {
            let noticed = leak.red.len() + leak.amber.len() > 0;
            assert!(noticed && !leak.changes.is_empty() && !leak.threat.is_empty(), "{leak}");
        }
    }

    #[test]
    fn unknown_words_are_refused() {
        let with = |line: &str| Leak::parse("x", &format!("title='t'\nthreat='w'\nred=['p']\n[[change]]\n{line}\n"));
        assert!(with("do = { kind = 'no-tunnel' }").is_ok());
        for line in [
            "do = { kind = 'no-tunnels' }",
            "do = { kind = 'no-tunnel', x = 1 }",
            "when = 'later'\ndo = { kind = 'no-tunnel' }",
            "do = { kind = 'allow', proto = 'udp', port = '53' }",
            "do = { kind = 'allow', proto = 'udp', ports = '60-50' }",
            "do = { kind = 'policy', chain = 'sideways', policy = 'accept' }",
        ] {
            assert!(with(line).is_err(), "{line}");
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known() {
        let error = Leak::named("no-such-leak").unwrap_err().to_string();
        assert!(error.contains("output-accept"), "{error}");
    }
}
