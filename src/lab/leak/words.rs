//! The small words of leak fixtures: chains, policies, families, places, capabilities, transports and ports.

use serde::Deserialize;

/// A chain of the stack's firewall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChainName {
    /// To the stack.
    Input,
    /// Through it.
    Forward,
    /// From it.
    #[default]
    Output,
}

impl ChainName {
    /// As iptables writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
        }
    }
}

/// A policy of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyName {
    /// Lets pass.
    Accept,
    /// Drops.
    Drop,
}

/// One family or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FamilyName {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Both.
    #[default]
    Both,
}

/// A namespace of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The stack's.
    #[default]
    Stack,
    /// The home's.
    Home,
}

/// A capability (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// CAP_NET_ADMIN.
    NetAdmin,
    /// CAP_NET_RAW.
    NetRaw,
}

impl Capability {
    /// Its bit (linux/capability.h).
    #[must_use]
    pub fn bit(self) -> u32 {
        match self {
            Self::NetAdmin => 12,
            Self::NetRaw => 13,
        }
    }
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6, by the family.
    Icmp,
    /// IPv4 in IP.
    Ipip,
    /// IPv6 in IP.
    Ipv6,
    /// Generic Routing Encapsulation.
    Gre,
}

/// Ports, inclusive: `"53"` or `"1024-65535"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Ports(pub u16, pub u16);

impl TryFrom<String> for Ports {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let (low, high) = text.split_once('-').unwrap_or((&text, &text));
        match (low.trim().parse(), high.trim().parse()) {
            (Ok(low), Ok(high)) if low <= high => Ok(Self(low, high)),
            _ => Err(format!("`{text}` is neither a port nor a range of ports such as `1024-65535`")),
        }
    }
}
