//! Conditions: under what a sealed stack has to be found sealed, and a broken one broken, as data. `fixtures/conditions/*.toml` are built
//! in; adding one is adding a file.
//!
//! The vocabulary is closed, as that of the leaks is. A condition never touches the stack's firewall, routes or resolvers: what turns red
//! under it is a false alarm.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::leak::Transport;
use super::line::Quality;

/// The fixtures: file stem and text.
const CONDITIONS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/conditions.rs"));

/// Why a fixture cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConditionError {
    /// Nothing of that name is built in.
    #[error("find the condition {0}; there are: {1}")]
    Unknown(String, String),
    /// It says something that the vocabulary does not have.
    #[error("read the condition {0}")]
    Parse(String, #[source] Box<toml::de::Error>),
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Its id, the stem of its file.
    #[serde(skip)]
    pub id: String,
    /// What it is, in a few words.
    pub title: String,
    /// Why a checker has to stand it.
    pub why: String,
    /// Ids of the probes that may come to no verdict under it, for a reason that says so. All others have to pass.
    #[serde(default)]
    pub unsure: Vec<String>,
    /// What it is made of.
    #[serde(rename = "with")]
    pub circumstances: Vec<Circumstance>,
}

/// A part of a condition.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Circumstance {
    /// A torrent client at work in the stack, bound to the tunnel: flows to and from peers, as fast as the tunnel carries them.
    Load {
        /// Connections, half of which send and half of which fetch.
        tcp: u8,
        /// Streams of datagrams, so many of which are on their way at once as uTP would have.
        udp: u8,
    },
    /// A bad line between the stack and the VPN server, in both directions.
    Line {
        /// Of a hundred packets so many are lost.
        #[serde(default)]
        loss_percent: u8,
        /// How long each packet is on its way, in milliseconds.
        #[serde(default)]
        delay_ms: u64,
    },
    /// Neighbours on the stack's bridge and in the LAN that talk all the time: ARP, neighbour and multicast discovery, broadcasts, pings,
    /// connections and datagrams to ports of the stack that are closed and to some that are open.
    Chatter {
        /// How often all of it is said, in milliseconds.
        every_ms: u64,
    },
    /// Somebody on the internet who does not answer.
    Down {
        /// Host of a witness, or an echo name of DNS.
        host: String,
        /// Only over that transport.
        proto: Option<Transport>,
    },
}

impl Condition {
    /// Reads a fixture.
    ///
    /// # Errors
    /// When it is not well formed.
    pub fn parse(id: &str, text: &str) -> Result<Self, ConditionError> {
        let mut condition: Self =
            toml::from_str(text).map_err(|error| ConditionError::Parse(id.to_owned(), Box::new(error)))?;
        id.clone_into(&mut condition.id);
        Ok(condition)
    }

    /// The built-in fixture of that name.
    ///
    /// # Errors
    /// When there is none, or it is not well formed.
    pub fn named(id: &str) -> Result<Self, ConditionError> {
        let found = CONDITIONS.iter().find(|(stem, _)| *stem == id);
        let known = || CONDITIONS.iter().map(|(stem, _)| *stem).collect::<Vec<_>>().join(", ");
        let (stem, text) = found.ok_or_else(|| ConditionError::Unknown(id.to_owned(), known()))?;
        Self::parse(stem, text)
    }

    /// All built-in fixtures, in the order of their names.
    ///
    /// # Errors
    /// When one is not well formed.
    pub fn all() -> Result<Vec<Self>, ConditionError> {
        CONDITIONS.iter().map(|(stem, text)| Self::parse(stem, text)).collect()
    }

    /// How good the line to the VPN server is.
    #[must_use]
    pub fn quality(&self) -> Quality {
        self.circumstances.iter().fold(Quality::default(), |quality, part| match part {
            Circumstance::Line { loss_percent, delay_ms } => {
                quality.and(Quality { loss_percent: *loss_percent, delay: Duration::from_millis(*delay_ms) })
            }
            _ => quality,
        })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.title)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fixture_is_well_formed_and_does_something() {
        let conditions = Condition::all().unwrap();
        assert!(!conditions.is_empty());
        for condition in conditions {
            assert!(!condition.circumstances.is_empty() && !condition.why.is_empty(), "{condition}");
        }
    }

    #[test]
    fn unknown_words_are_refused() {
        let with = |line: &str| Condition::parse("x", &format!("title='t'\nwhy='w'\nwith = [{line}]\n"));
        assert!(with("{ kind = 'line', delay_ms = 3 }").is_ok());
        for line in ["{ kind = 'lines' }", "{ kind = 'line', loss = 3 }", "{ kind = 'load', tcp = 1, udp = 300 }"] {
            assert!(with(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_worst_of_all_lines_counts() {
        let text = "title='t'\nwhy='w'\n[[with]]\nkind='line'\nloss_percent=7\n[[with]]\nkind='line'\ndelay_ms=9\n";
        let quality = Condition::parse("x", text).unwrap().quality();
        assert_eq!(quality, Quality { loss_percent: 7, delay: Duration::from_millis(9) });
    }

    #[test]
    fn an_unknown_name_lists_the_known() {
        let error = Condition::named("no-such-condition").unwrap_err().to_string();
        assert!(error.contains("lossy"), "{error}");
    }
}
