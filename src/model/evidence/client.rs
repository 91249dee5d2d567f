//! What a torrent client says of itself when it is asked by its own API.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Role;

/// A torrent client, as it describes itself. What it did not say is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientSays {
    /// Its name, and its version where it told one.
    pub name: String,
    /// To what it keeps, each setting by itself; none: it does not tell.
    pub bindings: Vec<Binding>,
    /// By what it makes itself known to the home's network, or asks its router.
    pub announces: Vec<Announces>,
    /// Where it listens for peers, over TCP and UDP.
    pub port: Option<u16>,
    /// It takes another port at each start.
    pub random_port: bool,
    /// Whether peers reach it, by its own word.
    pub status: Option<ClientStatus>,
    /// Under which addresses it believes that it is seen.
    pub addresses: Vec<IpAddr>,
}

/// A setting that says by which link, or from which address, a torrent client goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// What the client calls the setting.
    pub setting: String,
    /// The link or address; `None`: any.
    pub to: Option<String>,
    /// What the link is to the audit, or the one that has the address; `None`: there is none, or it is any.
    #[serde(default)]
    pub role: Option<Role>,
}

/// Something by which a torrent client makes itself known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announces {
    /// What it is: `local peer discovery` …
    pub what: String,
    /// Whether it is on.
    pub on: bool,
    /// Where its owner turns it off, in the client's own words.
    pub setting: String,
}

/// Whether peers reach a torrent client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientStatus {
    /// A peer has connected to it.
    Connected,
    /// None has yet.
    Firewalled,
    /// It listens nowhere.
    Disconnected,
}

impl fmt::Display for ClientStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClientStatus::Connected => "peers have connected to it",
            ClientStatus::Firewalled => "no peer has connected to it yet",
            ClientStatus::Disconnected => "it listens nowhere",
        })
    }
}
