//! The values of a configuration of which there is a closed number, and their words.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Whose exit the stack should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// Mullvad says itself whether an address is an exit of its own.
    Mullvad,
    /// The exit must only not be home.
    Any,
}

/// What must become of a query that is forced to a foreign resolver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForcedPolicy {
    /// It may be answered through the tunnel, but not leave by an uplink.
    NoEscape,
    /// It may not be answered at all, not even through the tunnel.
    Drop,
}

/// A torrent client that can be asked about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TorrentClient {
    /// By its Web API, version 2.
    Qbittorrent,
    /// By its RPC.
    Transmission,
    /// By the JSON-RPC of its web interface.
    Deluge,
}

/// A way to take the tunnel down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutageMethod {
    /// Gluetun's control server is told to stop the VPN.
    VpnStop,
    /// The tunnel's interface is set down.
    LinkDown,
    /// Packets to and from the VPN server are dropped, and the tunnel is not told.
    EndpointBlock,
    /// The VPN's process is killed.
    ProcessKill,
    /// The VPN's process is stopped, and holds the tunnel.
    ProcessStop,
    /// A command of the configuration takes the tunnel down.
    Command,
    /// Docker pauses the VPN container.
    Pause,
    /// Docker restarts the VPN container.
    Restart,
    /// Docker kills the VPN container, and starts it again.
    Kill,
}

impl OutageMethod {
    /// All of them, in the order in which they are tried.
    pub const ALL: [OutageMethod; 9] = [
        OutageMethod::VpnStop,
        OutageMethod::LinkDown,
        OutageMethod::EndpointBlock,
        OutageMethod::ProcessKill,
        OutageMethod::ProcessStop,
        OutageMethod::Command,
        OutageMethod::Pause,
        OutageMethod::Restart,
        OutageMethod::Kill,
    ];

    /// Whether it is done to the container itself, by Docker, from outside of the namespace.
    pub fn is_of_container(self) -> bool {
        self == OutageMethod::Pause || self.starts_anew()
    }

    /// Whether the container is started again, and has another network namespace after it.
    pub fn starts_anew(self) -> bool {
        matches!(self, OutageMethod::Restart | OutageMethod::Kill)
    }

    /// Whether leakcheck itself takes the tunnel's addresses off its link, for the sake of what the stack's programs have open. Others may set
    /// a link down and leave them, so what a firewall makes of packets from such an address is asked all the same.
    pub fn takes_addresses(self) -> bool {
        self == OutageMethod::LinkDown
    }

    /// Whether a flow that was open before can stay where it belongs on a stack that is sealed: where the process or the container is taken
    /// away, the flow's socket may go with it.
    pub fn keeps_flows(self) -> bool {
        match self {
            OutageMethod::VpnStop | OutageMethod::LinkDown | OutageMethod::EndpointBlock | OutageMethod::Command => {
                true
            }
            OutageMethod::ProcessKill
            | OutageMethod::ProcessStop
            | OutageMethod::Pause
            | OutageMethod::Restart
            | OutageMethod::Kill => false,
        }
    }
}

/// Names an enum by its kebab-case words, both ways.
macro_rules! words {
    ($type:ident, $what:literal, $($variant:ident => $word:literal),+) => {
        impl $type {
            /// The word of the configuration and the command line.
            pub fn word(self) -> &'static str {
                match self { $($type::$variant => $word),+ }
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
        impl FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($type::$variant),)+
                    other => Err(format!(concat!("unknown ", $what, " `{}`, expected one of ", "{}"), other, [$(concat!("`", $word, "`")),+].join(", "))),
                }
            }
        }
    };
}
words!(Provider, "provider", Mullvad => "mullvad", Any => "any");
words!(ForcedPolicy, "policy", NoEscape => "no-escape", Drop => "drop");
words!(TorrentClient, "torrent client", Qbittorrent => "qbittorrent", Transmission => "transmission", Deluge => "deluge");
words!(OutageMethod, "outage method", VpnStop => "vpn-stop", LinkDown => "link-down", EndpointBlock => "endpoint-block", ProcessKill => "process-kill", ProcessStop => "process-stop", Command => "command", Pause => "pause", Restart => "restart", Kill => "kill");
