//! Which packets a rule of a leak fixture is about.

use ipnet::IpNet;
use serde::Deserialize;

use super::{ChainName, FamilyName, Ports, Transport};

/// Which packets a firewall rule is about; what is left out matches all.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packets {
    /// Which chain.
    #[serde(default)]
    pub chain: ChainName,
    /// Leaving by that link (entering by it, for the input chain).
    pub link: Option<String>,
    /// From that network.
    pub from: Option<IpNet>,
    /// To that network.
    pub to: Option<IpNet>,
    /// Of that transport.
    pub proto: Option<Transport>,
    /// Of the protocol of that number.
    pub number: Option<u8>,
    /// From those ports; needs `proto`.
    pub from_ports: Option<Ports>,
    /// To those ports; needs `proto`.
    pub ports: Option<Ports>,
    /// Carrying that mark.
    pub mark: Option<u32>,
    /// Of sockets of that user.
    pub user: Option<u32>,
    /// Messages of that type; needs `proto = "icmp"`.
    pub icmp_type: Option<u8>,
    /// Of that class: type of service over IPv4, traffic class over IPv6.
    pub class: Option<u8>,
    /// Fragments but the first of their datagram, as iptables' `-f` takes them; IPv4 only.
    #[serde(default)]
    pub later_fragments: bool,
    /// With that option of IPv4: 7 (record route), 131 (loose source route), 137 (strict source route) or 148 (router alert).
    pub option: Option<u8>,
    /// Segments with such flags; needs `proto = "tcp"`.
    pub flags: Option<Flags>,
    /// Packets of that many octets and more, headers included.
    pub longer: Option<u32>,
    /// One of so many, at random.
    pub one_in: Option<u32>,
    /// Of which family.
    #[serde(default)]
    pub family: FamilyName,
}

/// Flags of TCP, in the order of their bits: FIN, SYN, RST, PSH, ACK, URG (RFC 9293, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flags {
    /// Which of them count.
    pub of: u8,
    /// Which of those are set.
    pub set: u8,
    /// All but such segments.
    #[serde(default)]
    pub not: bool,
}
