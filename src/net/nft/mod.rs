//! nftables over netlink: a typed builder for the few matches and verdicts that leakcheck needs, atomic batches, and a
//! listing of the whole ruleset for before-and-after comparisons.
//!
//! Not a general nftables library: no parsing of rules back to types.

mod batch;
mod divert;
mod expression;
mod held;
mod list;
mod named;
mod read;
mod sets;
mod source;
mod steer;

pub use batch::{Batch, Nft};
pub(super) use divert::diverts_by;
pub use list::{ListedRule, Ruleset};
pub use named::{Decision, Element, Field, NamedSet};
pub(super) use steer::{Steering, gives_back};

use super::netlink::NetlinkError;
use super::route::Family;
use ipnet::IpNet;
use std::net::IpAddr;

/// How the names of the tables begin that leakcheck itself makes for the time of an outage.
pub const OWN_TABLE: &str = "leakcheck-";

/// Why the firewall could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The kernel refused one step, and with it the whole batch: nothing was changed.
    #[error("{step}")]
    Refused {
        /// What the step was to do.
        step: String,
        /// The kernel's reason.
        #[source]
        source: NetlinkError,
    },
    /// The exchange with the kernel failed.
    #[error("{0}")]
    Netlink(&'static str, #[source] NetlinkError),
    /// The kernel sent what does not parse.
    #[error("understand the kernel's answer about the firewall")]
    Parse(#[source] netlink_packet_core::DecodeError),
}

impl NftError {
    /// The errno with which the kernel refused, if it did.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } | Self::Netlink(_, source) => source.errno(),
            Self::Parse(_) => None,
        }
    }
}

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TableFamily {
    /// Both families.
    Inet,
    /// IPv4 only.
    Ip,
    /// IPv6 only.
    Ip6,
}

impl TableFamily {
    fn number(self) -> u8 {
        match self {
            Self::Inet => libc::NFPROTO_INET as u8,
            Self::Ip => libc::NFPROTO_IPV4 as u8,
            Self::Ip6 => libc::NFPROTO_IPV6 as u8,
        }
    }
}

/// A table, by family and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its family.
    pub family: TableFamily,
    /// Its name.
    pub name: String,
}

impl Table {
    /// The table `name` of `family`.
    #[must_use]
    pub fn new(family: TableFamily, name: &str) -> Self {
        Self { family, name: name.to_owned() }
    }
}

/// Where in the kernel a base chain is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPoint {
    /// Before routing.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
    /// After routing.
    Postrouting,
}

/// What a base chain is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Lets pass or drops.
    Filter,
    /// Translates addresses.
    Nat,
    /// Routes again after the mark changed.
    Route,
}

/// What happens to a packet that no rule of a base chain decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// It passes.
    Accept,
    /// It is dropped.
    Drop,
}

/// A base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub kind: ChainKind,
    /// Where it is called.
    pub hook: HookPoint,
    /// Its place among the chains of the same hook, lowest first.
    pub priority: i32,
    /// For what no rule decided.
    pub policy: Policy,
}

impl Chain {
    /// A filter chain at priority 0, where iptables' `filter` table is.
    #[must_use]
    pub fn filter(name: &str, hook: HookPoint, policy: Policy) -> Self {
        Self { name: name.to_owned(), kind: ChainKind::Filter, hook, priority: 0, policy }
    }

    /// A destination NAT chain, before routing or for what this namespace sends itself.
    #[must_use]
    pub fn destination_nat(name: &str, hook: HookPoint) -> Self {
        Self { name: name.to_owned(), kind: ChainKind::Nat, hook, priority: -100, policy: Policy::Accept }
    }

    /// A chain for what this namespace sends itself, after the filters; where it changes the mark, the kernel asks its routes again.
    #[must_use]
    pub fn late_route(name: &str) -> Self {
        let (kind, hook) = (ChainKind::Route, HookPoint::Output);
        Self { name: name.to_owned(), kind, hook, priority: 100, policy: Policy::Accept }
    }

    /// A source NAT chain.
    #[must_use]
    pub fn source_nat(name: &str) -> Self {
        let (kind, hook) = (ChainKind::Nat, HookPoint::Postrouting);
        Self { name: name.to_owned(), kind, hook, priority: 100, policy: Policy::Accept }
    }
}

/// Connection tracking states, to be combined with `|`.
pub mod state {
    /// Not valid.
    pub const INVALID: u32 = 1;
    /// Part of a known connection.
    pub const ESTABLISHED: u32 = 2;
    /// Belongs to a known connection (an ICMP error, say).
    pub const RELATED: u32 = 4;
    /// First of a connection.
    pub const NEW: u32 = 8;
}

/// One condition of a rule; all must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// Came in by the link of that name.
    Input(String),
    /// Leaves by the link of that name.
    Output(String),
    /// Leaves by another link than the one of that name.
    NotOutput(String),
    /// Of that family, in a table of both; put it before what only one family has.
    Version(Family),
    /// To none of this host's own addresses.
    NotToItself,
    /// From none of the addresses of the link that it leaves by; for the output hook.
    NotFromItsLink,
    /// In the named set.
    In {
        /// Of which its key is made.
        fields: Vec<Field>,
        /// Its name.
        set: String,
    },
    /// No condition: does what the verdict map says, and goes on where that says nothing.
    Decided {
        /// Of which its key is made.
        fields: Vec<Field>,
        /// Its name.
        map: String,
    },
    /// Source address within.
    Source(IpNet),
    /// Destination address within.
    Destination(IpNet),
    /// Transport protocol number.
    Protocol(u8),
    /// Source ports, inclusive; put a [`Match::Protocol`] before it.
    SourcePorts(u16, u16),
    /// Destination ports, inclusive; put a [`Match::Protocol`] before it.
    DestinationPorts(u16, u16),
    /// In one of the connection states, see [`state`].
    State(u32),
    /// Carries that mark.
    Mark(u32),
    /// Does not carry that mark.
    NotMark(u32),
    /// The sending socket's owner.
    User(u32),
    /// ICMP or ICMPv6 type; put a [`Match::Protocol`] before it.
    IcmpType(u8),
    /// Type of service (IPv4) or traffic class (IPv6), of a table of one family.
    Class(u8),
    /// A fragment but the first of its datagram; IPv4 only.
    LaterFragment,
    /// Has that option; IPv4 only, and of the kernel's choice: 7, 131, 137 and 148.
    Option(u8),
    /// Flags of TCP: which count, which of those are set, and whether it must not be so; put a [`Match::Protocol`] before it.
    TcpFlags {
        /// Which count.
        of: u8,
        /// Which of those are set.
        set: u8,
        /// Any other combination.
        not: bool,
    },
    /// Length of the packet in bytes, inclusive.
    Length(u32, u32),
    /// One packet in so many, at random.
    OneIn(u32),
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Let it pass.
    Accept,
    /// Drop it; a local sender gets EPERM.
    Drop,
    /// Drop it and send back an ICMP "port unreachable".
    Reject,
    /// Replace the source by the outgoing link's address.
    Masquerade,
    /// Replace the source by this address.
    SourceNat(IpAddr),
    /// Replace the destination by this address.
    DestinationNat(IpAddr),
    /// Give it that mark, and go on.
    SetMark(u32),
    /// Nothing: the rule only counts.
    Count,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Conditions, in the order in which they are tried.
    pub matches: Vec<Match>,
    /// Whether packets and bytes are counted.
    pub counter: bool,
    /// What is done.
    pub verdict: Verdict,
    /// Stored with the rule, and how it is found again; not looked at by the kernel.
    pub comment: Option<String>,
}

impl Rule {
    /// A rule without conditions.
    #[must_use]
    pub fn new(verdict: Verdict) -> Self {
        Self { matches: Vec::new(), counter: false, verdict, comment: None }
    }

    /// With one more condition.
    #[must_use]
    pub fn when(mut self, condition: Match) -> Self {
        self.matches.push(condition);
        self
    }

    /// With a counter, as iptables gives to every rule.
    #[must_use]
    pub fn counted(mut self) -> Self {
        self.counter = true;
        self
    }

    /// With a comment.
    #[must_use]
    pub fn comment(mut self, text: &str) -> Self {
        self.comment = Some(text.to_owned());
        self
    }
}

/// Reads octets as if the kernel had listed them, for [`crate::untrusted`].
#[cfg(feature = "lab")]
pub(crate) fn understand(octets: &[u8]) {
    read::understand(octets);
}
