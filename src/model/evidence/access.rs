//! What came of asking one place from another, for the access matrix, and what its owner states of the two.

use serde::{Deserialize, Serialize};

/// A row of the access matrix, in the words of reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessRule {
    /// The source: `container:sonarr`, `stack`, `host` …, or what its owner calls it.
    pub from: String,
    /// The destination, without what a query of it asks for.
    pub to: String,
    /// Whether the one has to reach the other, or must not.
    pub allow: bool,
}

/// What came of asking a place from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Came {
    /// The service answered: a connection where no more is asked, an HTTP status, an echo reply, a datagram.
    Answered {
        /// How.
        how: String,
    },
    /// The connection was made, and what was asked over it stayed unanswered.
    Connected {
        /// What was wrong.
        error: String,
    },
    /// A reset (RFC 9293, 3.5.2) or a port unreachable (RFC 792) came back: from the target, because nothing listens there, or from a
    /// firewall in its name. The packet itself does not tell which.
    TurnedAway {
        /// In the kernel's words.
        how: String,
    },
    /// Nothing came back in time, or a router or the source's own kernel says that there is no way.
    Silent {
        /// In the kernel's words.
        how: String,
    },
    /// The name has no address there.
    Unresolved {
        /// What the resolvers of the source said.
        why: String,
    },
    /// It was not tried, for a reason that says nothing of the access.
    Untried {
        /// Why, and what to do.
        why: String,
    },
}

impl Came {
    /// Whether packets went there and the service's came back.
    pub fn is_there(&self) -> bool {
        matches!(self, Came::Answered { .. } | Came::Connected { .. })
    }
}
