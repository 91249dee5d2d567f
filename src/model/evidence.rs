//! What was sent, refused, answered and seen: the input of the judge, and what agent and runner exchange. All times are milliseconds
//! since the start of the run.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

mod access;
mod account;
mod client;
pub mod names;
mod outage;
mod wire;

pub use access::{AccessRule, Came};
pub use account::*;
pub use client::*;
pub use outage::*;
pub use wire::*;

/// What a technique brings back. It decides nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// When the technique began.
    pub from_ms: f64,
    /// When it ended.
    pub to_ms: f64,
    /// What it tried to send, in order.
    pub stimuli: Vec<Stimulus>,
    /// What witnesses, resolvers and local targets said, in order.
    pub answers: Vec<Answer>,
    /// What kept it from doing its work; each makes a clean answer inconclusive.
    pub problems: Vec<String>,
    /// Why there was nobody to ask, by configuration.
    #[serde(default)]
    pub unasked: Option<String>,
    /// What other techniques brought back that this one had ask, by their names.
    #[serde(default)]
    pub parts: Vec<(String, Evidence)>,
}

impl Evidence {
    /// Evidence of a technique that has nobody to ask.
    pub fn unasked(at_ms: f64, why: &str) -> Self {
        Evidence { from_ms: at_ms, to_ms: at_ms, unasked: Some(why.to_owned()), ..Evidence::default() }
    }

    /// Stimuli, answers and problems of several witnesses in one.
    pub fn gather(from_ms: f64, all: impl IntoIterator<Item = Evidence>) -> Self {
        let mut whole = Evidence { from_ms, ..Evidence::default() };
        for one in all {
            whole.stimuli.extend(one.stimuli);
            whole.answers.extend(one.answers);
            whole.problems.extend(one.problems);
        }
        whole
    }

    /// The addresses that echo services saw.
    pub fn exits(&self) -> impl Iterator<Item = IpAddr> {
        self.answers.iter().filter_map(|answer| answer.said.exit())
    }
}

/// A transport or network protocol as the wire shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 792.
    Icmp,
    /// RFC 4443.
    Icmpv6,
    /// Another protocol over IP, by its IANA number; also an IPv6 packet whose chain of headers could not be followed.
    Ip(u8),
    /// Not IP at all, by its EtherType.
    Ether(u16),
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Proto::Tcp => f.write_str("tcp"),
            Proto::Udp => f.write_str("udp"),
            Proto::Icmp => f.write_str("icmp"),
            Proto::Icmpv6 => f.write_str("icmpv6"),
            Proto::Ip(number) => write!(f, "ip-proto-{number}"),
            Proto::Ether(number) => write!(f, "ethertype-{number:#06x}"),
        }
    }
}

/// How a stimulus was told which way to go.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// As any program's packets: the kernel's routes and rules decide.
    Default,
    /// SO_BINDTODEVICE (socket(7)).
    Device(String),
    /// Bound to a source address.
    Source(IpAddr),
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Via::Default => f.write_str("by the default route"),
            Via::Device(link) => write!(f, "bound to {link}"),
            Via::Source(address) => write!(f, "from {address}"),
        }
    }
}

/// What the kernel said when a stimulus was handed to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Accepted for sending. Where it went only the wire can tell.
    Sent,
    /// Refused, which is on record: EPERM, ENETUNREACH, EHOSTUNREACH, EADDRNOTAVAIL …
    Refused {
        /// The errno.
        errno: i32,
        /// Its name.
        name: String,
    },
    /// It never came to that, for a reason that says nothing of the stack.
    NotSent {
        /// Why.
        reason: String,
    },
}

/// One packet, query or connection that a technique tried to send.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stimulus {
    /// Unique in the run; sightings refer to it.
    pub id: u32,
    /// When it was handed to the kernel.
    pub at_ms: f64,
    /// Protocol.
    pub proto: Proto,
    /// Destination; port 0 where the protocol has none.
    pub to: SocketAddr,
    /// How it was told which way to go.
    pub via: Via,
    /// What it is, for people: `DNS query`, `SYN` …
    pub what: String,
    /// What the kernel said.
    pub fate: Fate,
    /// Sent in such a way (TTL 1, by no connection of the kernel's, often enough) that the kernel says so if it is dropped, and the sensor sees
    /// it by whatever link it leaves: one that was accepted and seen nowhere went a way that nobody watches.
    #[serde(default)]
    pub traced: bool,
}

/// What somebody answered, or that nobody did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// When it came, or was given up.
    pub at_ms: f64,
    /// Who was asked: a URL, a resolver's address, a local target.
    pub witness: String,
    /// What came of it.
    pub said: Said,
}

/// See [`Answer`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// An echo service saw the request come from `ip`.
    Exit {
        /// The address it saw.
        ip: IpAddr,
        /// Whether it says that the address belongs to the VPN, where it says anything about it.
        of_provider: Option<bool>,
    },
    /// resolv.conf names this resolver.
    Nameserver {
        /// Its address.
        ip: IpAddr,
        /// The link by which the kernel would send to it.
        link: Option<String>,
    },
    /// The resolv.conf of a program, or of several that have the same one, names these.
    ResolvConf {
        /// Its nameservers, in order; `None`: there is no such file.
        nameservers: Option<Vec<IpAddr>>,
        /// It is the file of the machine on which leakcheck runs: the program has none of its own.
        #[serde(default)]
        of_host: bool,
    },
    /// A resolver answered a fresh name.
    Resolved {
        /// The first address that it gave.
        ip: Option<IpAddr>,
    },
    /// A resolver answered, but not with an address.
    Refused {
        /// DNS response code by name, or what was wrong with the answer.
        rcode: String,
    },
    /// The authority saw the question come from `ip`.
    Asker {
        /// Which resolver had been asked.
        resolver: String,
        /// The address that the authority saw.
        ip: IpAddr,
        /// Whether the witness says that it belongs to the VPN, where it says anything about it.
        of_provider: Option<bool>,
    },
    /// The authority was told for whom the question is asked (EDNS Client Subnet, RFC 7871).
    ClientSubnet {
        /// Which resolver had been asked.
        resolver: String,
        /// The subnet that it told.
        net: IpNet,
    },
    /// By which link the kernel would send to some addresses.
    Routed {
        /// Name of the link; `None`: it would refuse.
        link: Option<String>,
        /// What the link is to the audit; `None`: neither, or there is none.
        role: Option<Role>,
        /// How many addresses were asked for.
        addresses: u64,
        /// Some of them.
        examples: Vec<IpAddr>,
        /// Which packets: `any packet`, `UDP to port 6881` …
        flow: String,
        /// The route that decides, in the words of iproute2.
        by: Option<String>,
    },
    /// A peer of the tunnel's, where it is WireGuard and tells.
    Peer {
        /// Where it is reached, if that is known.
        endpoint: Option<SocketAddr>,
        /// What is sent to it, the widest networks first.
        allowed: Vec<IpNet>,
    },
    /// Something that the namespace is set to.
    Setting {
        /// One line for people.
        text: String,
    },
    /// A gateway told, or offered, what it maps ports to.
    Mapper {
        /// The external address, where it told one.
        external: Option<IpAddr>,
        /// In which protocol.
        how: String,
    },
    /// A program that shares the namespace holds these capabilities.
    Holds {
        /// Those of them that let it past the firewall, by name; empty: none of them.
        capabilities: Vec<String>,
        /// What makes it a part of the VPN itself, where it is one.
        vpn: Option<String>,
    },
    /// A packet that begins something came in by an uplink.
    Arrived {
        /// Protocol.
        proto: Proto,
        /// Who sent it.
        from: SocketAddr,
        /// Where to.
        to: SocketAddr,
        /// Whether it came by a port that somebody outside of the stack has published for it.
        #[serde(default)]
        published: bool,
    },
    /// A container joined the stack's network, or was meant to.
    Shares {
        /// Whether it is in the namespace; `None`: that is not known.
        joined: Option<bool>,
        /// Its state, in Docker's words.
        state: String,
        /// It was found outside, and was restarted.
        #[serde(default)]
        restarted: bool,
    },
    /// A destination of the access matrix, the witness, was asked from somewhere.
    Access {
        /// The source, as [`AccessRule::from`] has it, or another place.
        from: String,
        /// It was asked to see whether it is there at all, and not for a row of the matrix.
        #[serde(default)]
        control: bool,
        /// The address that was asked; `None`: it did not come to that.
        address: Option<IpAddr>,
        /// What came of it.
        came: Came,
    },
    /// The container engine told of the stack's containers.
    Account(Box<StackAccount>),
    /// The VPN's control server answered somebody outside of the stack who has no key.
    Control {
        /// HTTP status.
        http: u16,
        /// What it told of the VPN, where it told.
        vpn: Option<String>,
    },
    /// A torrent client told about itself.
    Client(Box<ClientSays>),
    /// Something answers where a torrent client usually does, and tells nothing of itself: one that wants to be opened, or no client at all.
    Locked {
        /// How it answered.
        error: String,
    },
    /// Which ports the VPN forwards to the stack.
    Forwards {
        /// Those, as Gluetun has them from the provider; empty: none. `None`: nobody knows, and nobody is to blame for it.
        ports: Option<Vec<u16>>,
        /// Ports that Gluetun's firewall lets in by the tunnel, whether or not anything forwards them.
        #[serde(default)]
        let_in: Vec<u16>,
        /// Whether Gluetun is set to have one forwarded.
        #[serde(default)]
        wanted: bool,
        /// How that is known, or why it is not.
        how: String,
    },
    /// A local target answered.
    Reached {
        /// How, e.g. `HTTP 200` or `connected`.
        how: String,
    },
    /// Nothing usable came: time-out, refused connection, wrong shape.
    Nothing {
        /// Why.
        error: String,
    },
}

impl Said {
    /// The address that an echo service saw.
    pub fn exit(&self) -> Option<IpAddr> {
        match self {
            Said::Exit { ip, .. } => Some(*ip),
            _ => None,
        }
    }
}

/// What a link of the stack's namespace is to the audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Neither loopback nor tunnel: what leaves here is seen by the home's network and the ISP.
    Uplink,
    /// The VPN's link.
    Tunnel,
    /// Of another tunnel, which runs inside the VPN by its owner's word: what leaves here is seen by nobody before it is carried on.
    Other,
}

/// A link of the stack's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// What it is to the audit.
    pub role: Role,
    /// Addresses with their prefix.
    pub addresses: Vec<IpNet>,
    /// Administratively up and with a carrier.
    pub up: bool,
}
