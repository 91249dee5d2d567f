//! What the sensor saw: packets of interest, controls, and the whole of a phase.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Proto;

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

/// A packet that leaked, or did if the judge says so of the asking that sent it, for Wireshark.
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
    /// Why it was kept.
    pub class: Class,
    /// The asking of a probe that sent it.
    pub probe: Option<String>,
    /// Why it is here: class, probe or none, processes.
    pub comment: String,
}

/// The protocols of which one control each goes out, and whether over IPv6.
pub const CONTROL_KINDS: [(Proto, bool); 6] = [
    (Proto::Udp, false),
    (Proto::Tcp, false),
    (Proto::Icmp, false),
    (Proto::Udp, true),
    (Proto::Tcp, true),
    (Proto::Icmpv6, true),
];

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
    /// Uplinks that went away for good.
    #[serde(default)]
    pub gone: Vec<String>,
    /// A link of our own that carried the closing controls in place of those.
    #[serde(default)]
    pub stand_in: Option<String>,
    /// Stimuli that came back by the loopback: redirected to a program of the namespace's own.
    #[serde(default)]
    pub inside: BTreeSet<u32>,
    /// What the firewall's text lets pass now and did not at the start of the run.
    #[serde(default)]
    pub opened: Vec<Opened>,
    /// Packet sockets that were there at the beginning or at the end and are not leakcheck's own; `None`: that could not be told.
    #[serde(default)]
    pub packet_sockets: Option<Vec<PacketSocket>>,
    /// Connections past the tunnel that stood from the beginning to the end; `None`: that could not be told.
    #[serde(default)]
    pub direct: Option<Vec<DirectConnection>>,
}

/// A TCP connection that a program has made by an uplink, to somebody who is neither near nor a VPN server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectConnection {
    /// The number of its socket.
    pub inode: u64,
    /// Its own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The processes that hold it, as far as /proc shows them.
    pub owners: Vec<Owner>,
}

/// A packet socket (packet(7)), by which a program may send what no listener is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketSocket {
    /// Its number.
    pub inode: u64,
    /// Name of the link that it is bound to; `None`: it is bound to none, and may use all.
    pub link: Option<String>,
    /// The processes that hold it, as far as /proc shows them.
    pub owners: Vec<Owner>,
}

/// A rule, or a policy, by which packets may pass past the tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Opened {
    /// Of IPv6, or of IPv4.
    pub v6: bool,
    /// Where it stands and what it says.
    pub rule: String,
}

/// An address, with its port where it has one.
pub fn end(address: SocketAddr) -> String {
    if address.port() == 0 { address.ip().to_string() } else { address.to_string() }
}
