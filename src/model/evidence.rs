//! What was sent, refused, answered and seen: the input of the judge, and what agent and runner exchange. All times are milliseconds
//! since the start of the run.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::report::{Hole, LocalReach};

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

/// Why a packet that the sensor saw is of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// On an uplink, and the allow-list does not name it.
    Offence,
    /// On an uplink, to a private, multicast or broadcast address outside the local subnets: it cannot reach the internet as it is.
    Nearby,
    /// On an uplink, a DNS question to a resolver on a local subnet: allowed, but it may be forwarded anywhere.
    LocalDns,
    /// On an uplink, a stimulus of ours to the VPN server's own port: the server knows the home anyway, and a firewall that goes by
    /// address and port cannot tell it from the tunnel's packets. The same from anybody else is an offence.
    Server,
    /// In the tunnel, where it belongs.
    Tunnelled,
}

/// Alike packets that the sensor saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sighting {
    /// Kernel timestamp of the first.
    pub first_ms: f64,
    /// Kernel timestamp of the last.
    pub last_ms: f64,
    /// Name of the link.
    pub link: String,
    /// Why it is of interest.
    pub class: Class,
    /// Protocol.
    pub proto: Proto,
    /// Source of the first; port 0 where there is none.
    pub src: SocketAddr,
    /// Destination; port 0 where there is none.
    pub dst: SocketAddr,
    /// How many.
    pub count: u64,
    /// Octets of the first, from the network header on.
    pub length: u32,
    /// Whether they all look like WireGuard's outer packets.
    pub wireguard: bool,
    /// The asking of a probe whose marker or flow it carries.
    pub probe: Option<String>,
    /// Which of its stimuli.
    pub stimulus: Option<u32>,
    /// What else the wire or the kernel told of them.
    #[serde(default)]
    pub detail: Detail,
}

/// What is not always known of a packet, taken from the first of its kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Detail {
    /// Number of its VLAN (IEEE 802.1Q).
    pub vlan: Option<u16>,
    /// Identification of the datagram of which it is a fragment.
    pub fragment: Option<u32>,
    /// The packet that it carries: IP-in-IP, 6in4, GRE.
    pub inner: Option<Inner>,
    /// Its connection was there before the run: it had no SYN in it, or its socket was connected already.
    pub older: bool,
    /// The processes that hold the socket that it was sent from, where exactly one socket fits.
    pub owners: Vec<Owner>,
}

impl Detail {
    /// What is known, for people.
    pub fn texts(&self) -> Vec<String> {
        let mut texts = Vec::new();
        if let Some(inner) = &self.inner {
            let end = |at: SocketAddr| if at.port() == 0 { at.ip().to_string() } else { at.to_string() };
            texts.push(format!("carries {} {} → {}", inner.proto, end(inner.src), end(inner.dst)));
        }
        if let Some(vlan) = self.vlan {
            texts.push(format!("in VLAN {vlan}"));
        }
        if let Some(id) = self.fragment {
            texts.push(format!("fragment of datagram {id:#06x}"));
        }
        if self.older {
            texts.push("of a connection that is older than the run".to_owned());
        }
        if !self.owners.is_empty() {
            let owners: Vec<String> = self.owners.iter().map(ToString::to_string).collect();
            texts.push(format!("sent by {}", owners.join(" or ")));
        }
        texts
    }
}

/// The innermost packet of an encapsulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inner {
    /// Protocol.
    pub proto: Proto,
    /// Source; port 0 where there is none.
    pub src: SocketAddr,
    /// Destination; port 0 where there is none.
    pub dst: SocketAddr,
}

/// A process, as the agent's /proc shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Process id.
    pub pid: u32,
    /// Name of its program.
    pub name: String,
    /// Id of its container, the first twelve digits, where its control group tells.
    pub container: Option<String>,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {}", self.name, self.pid)?;
        if let Some(container) = &self.container {
            write!(f, ", container {container}")?;
        }
        f.write_str(")")
    }
}

/// A packet that leaked, for Wireshark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Captured {
    /// Kernel timestamp, CLOCK_REALTIME: seconds and nanoseconds.
    pub time: (i64, i64),
    /// Name of the link.
    pub link: String,
    /// EtherType in host byte order.
    pub ether_type: u16,
    /// Tag control information of its VLAN, where the kernel keeps it outside the octets.
    pub tag: Option<u16>,
    /// Octets from the network header on, as many as were captured, in base64.
    pub octets: String,
    /// How many there were on the wire.
    pub length: u32,
    /// Why it is here: class, probe or none, processes.
    pub comment: String,
}

/// One control packet put on an uplink past the firewall, addressed to the link itself, to prove that the sensor sees this protocol there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Control {
    /// Name of the link.
    pub link: String,
    /// Protocol.
    pub proto: Proto,
    /// Whether it is IPv6.
    pub v6: bool,
    /// When it was sent.
    pub sent_ms: f64,
    /// When the sensor saw it.
    pub seen_ms: Option<f64>,
    /// Why it could not be sent.
    pub error: Option<String>,
}

/// What the sensor did in one phase, from arming to the closing controls.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseWire {
    /// When the opening controls had been seen.
    pub armed_ms: f64,
    /// When the closing controls had been seen or given up.
    pub closed_ms: f64,
    /// Uplinks that were listened on.
    pub uplinks: Vec<String>,
    /// Opening and closing controls.
    pub controls: Vec<Control>,
    /// Packets that passed the kernel filter.
    pub packets: u64,
    /// Packets that the kernel dropped because the sensor was too slow.
    pub dropped: u64,
    /// What is of interest.
    pub sightings: Vec<Sighting>,
    /// What went wrong with the sensor itself.
    pub problems: Vec<String>,
    /// The packets themselves, a few of each kind of those that leaked.
    #[serde(default)]
    pub captured: Vec<Captured>,
}

/// What an outage brought back. Times inside [`Hole`] and the `…_ms` marks are milliseconds since `from_ms`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OutageEvidence {
    /// Name of the method.
    pub method: String,
    /// When the tunnel was told to go, milliseconds since the start of the run.
    pub from_ms: f64,
    /// When sampling ended, milliseconds since the start of the run.
    pub to_ms: f64,
    /// What proves that the tunnel was down: `link tun0 is down`, `control server says stopped` …
    pub down_proof: Option<String>,
    /// From here on nothing passed the tunnel any more.
    pub blackhole_ms: Option<f64>,
    /// The tunnel was told to come back.
    pub up_ms: Option<f64>,
    /// First packet of ours seen in the tunnel again.
    pub tunnel_back_ms: Option<f64>,
    /// An exit of the VPN was proven again.
    pub recovered_ms: Option<f64>,
    /// Spans in which packets escaped.
    pub holes: Vec<Hole>,
    /// Per kind of stimulus what became of the samples.
    pub samples: Vec<SampleCount>,
    /// The longest time between two rounds of samples, in milliseconds.
    pub longest_gap_ms: f64,
    /// What the configured resolvers answered while down.
    pub resolved_while_down: Vec<Answer>,
    /// Local targets, asked throughout.
    pub local: Vec<LocalReach>,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// Whether everything that was changed is as it was.
    pub restored: bool,
    /// The VPN was put back and did not come back in time: what state it was left in.
    pub gave_up: Option<String>,
    /// Why it is not, or what else went wrong.
    pub problems: Vec<String>,
}

/// What became of one kind of stimulus in an outage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleCount {
    /// Stimulus id of the kind.
    pub stimulus: u32,
    /// What it is.
    pub what: String,
    /// Accepted by the kernel.
    pub sent: u64,
    /// Refused by the kernel.
    pub refused: u64,
    /// Name of the first refusal's errno.
    pub refusal: Option<String>,
    /// First refusal, milliseconds since the beginning of the outage.
    pub first_refusal_ms: Option<f64>,
}

/// One line of an outage's timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since the beginning of the outage.
    pub at_ms: f64,
    /// What happened.
    pub what: String,
}
