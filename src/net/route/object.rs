//! One link, address, rule or route: typed where leakcheck asks, and the kernel's bytes for all else.

use super::RouteError;
use crate::net::netlink::{Message, attributes, put_attribute};
use ipnet::IpNet;
use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the kinds of objects have in common.
pub trait Object: Sized {
    /// The payload of the kernel's message.
    fn raw(&self) -> &[u8];
    /// Size of the fixed header before the attributes.
    const FIXED: usize;
    /// Attributes that change by themselves, or that are only counters and clocks.
    const VOLATILE: &'static [u16];
    /// Clears bits of the fixed header that change by themselves.
    fn settle(fixed: &mut [u8]);
    /// One line for a person, in the words of iproute2.
    fn describe(&self) -> String;

    /// The bytes by which two objects are the same: no volatile attribute, and the rest in order of kind.
    fn identity(&self) -> Vec<u8> {
        let (fixed, rest) = self.raw().split_at(Self::FIXED.min(self.raw().len()));
        let mut identity = fixed.to_vec();
        Self::settle(&mut identity);
        let mut kept: Vec<_> = attributes(rest).filter(|(kind, _)| !Self::VOLATILE.contains(kind)).collect();
        kept.sort();
        for (kind, value) in kept {
            put_attribute(&mut identity, kind, value);
        }
        identity
    }
}

/// A network link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// `IFF_*` bits.
    pub flags: u32,
    /// Driver kind ("veth", "tun", "wireguard", …), where the kernel names one.
    pub kind: Option<String>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Hardware address, empty where there is none.
    pub hardware: Vec<u8>,
    #[serde(with = "hex")]
    raw: Vec<u8>,
}

impl Link {
    /// Whether it is administratively up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        LinkFlags::from_bits_retain(self.flags).contains(LinkFlags::Up)
    }

    /// Whether it is a loopback.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        LinkFlags::from_bits_retain(self.flags).contains(LinkFlags::Loopback)
    }

    pub(super) fn parse(message: Message) -> Result<Self, RouteError> {
        let parsed = LinkMessage::parse(&message.payload).map_err(|e| RouteError::Parse("links", e))?;
        let (mut name, mut kind, mut mtu, mut hardware) = (String::new(), None, 0, Vec::new());
        for attribute in parsed.attributes {
            match attribute {
                LinkAttribute::IfName(value) => name = value,
                LinkAttribute::Mtu(value) => mtu = value,
                LinkAttribute::Address(value) => hardware = value,
                LinkAttribute::LinkInfo(infos) => {
                    kind = infos.into_iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        let (index, flags) = (parsed.header.index, parsed.header.flags.bits());
        Ok(Self { index, name, flags, kind, mtu, hardware, raw: message.payload })
    }
}

impl Object for Link {
    fn raw(&self) -> &[u8] {
        &self.raw
    }
    const FIXED: usize = 16;
    // Statistics (7, 23), protocol information with its clocks (12, 26), carrier counters (35, 47, 48), link info with
    // the bridge's timers (18), XDP (43), queue discipline (6).
    const VOLATILE: &'static [u16] = &[6, 7, 12, 18, 23, 26, 35, 43, 47, 48];
    fn settle(fixed: &mut [u8]) {
        // The change mask is meaningless in a dump.
        if let Some(mask) = fixed.get_mut(12..16) {
            mask.fill(0);
        }
    }
    fn describe(&self) -> String {
        let state = if self.is_up() { "up" } else { "down" };
        format!("link {} index {} {state} mtu {} flags {:#x}", self.name, self.index, self.mtu, self.flags)
    }
}

/// An address of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Index of its link.
    pub link: u32,
    /// The address itself, with the length of its prefix.
    pub address: IpNet,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// `IFA_F_*` bits.
    pub flags: u32,
    #[serde(with = "hex")]
    raw: Vec<u8>,
}

/// `IFA_F_TENTATIVE`: duplicate address detection has not ended.
const TENTATIVE: u32 = 0x40;
const IFA_FLAGS: u16 = 8;

impl Address {
    pub(super) fn parse(message: Message) -> Result<Option<Self>, RouteError> {
        let parsed = AddressMessage::parse(&message.payload).map_err(|e| RouteError::Parse("addresses", e))?;
        let (mut local, mut address) = (None, None);
        let mut flags = u32::from(parsed.header.flags.bits());
        for attribute in parsed.attributes {
            match attribute {
                AddressAttribute::Local(value) => local = Some(value),
                AddressAttribute::Address(value) => address = Some(value),
                AddressAttribute::Flags(value) => flags = value.bits(),
                _ => {}
            }
        }
        // On a point-to-point link IFA_ADDRESS is the other end.
        let Some(Ok(address)) = local.or(address).map(|ip| IpNet::new(ip, parsed.header.prefix_len)) else {
            return Ok(None);
        };
        let (link, scope) = (parsed.header.index, u8::from(parsed.header.scope));
        Ok(Some(Self { link, address, scope, flags, raw: message.payload }))
    }
}

impl Object for Address {
    fn raw(&self) -> &[u8] {
        &self.raw
    }
    const FIXED: usize = 8;
    // The lifetimes run down, and the flags lose "tentative": `identity` adds the settled flags.
    const VOLATILE: &'static [u16] = &[6, IFA_FLAGS];
    fn settle(fixed: &mut [u8]) {
        if let Some(flags) = fixed.get_mut(2) {
            *flags = 0;
        }
    }
    fn identity(&self) -> Vec<u8> {
        let (fixed, rest) = self.raw.split_at(Self::FIXED.min(self.raw.len()));
        let mut identity = fixed.to_vec();
        Self::settle(&mut identity);
        let mut kept: Vec<_> = attributes(rest).filter(|(kind, _)| !Self::VOLATILE.contains(kind)).collect();
        let flags = (self.flags & !TENTATIVE).to_ne_bytes();
        kept.push((IFA_FLAGS, &flags));
        kept.sort_unstable();
        for (kind, value) in kept {
            put_attribute(&mut identity, kind, value);
        }
        identity
    }
    fn describe(&self) -> String {
        format!("address {} on link {} scope {} flags {:#x}", self.address, self.link, self.scope, self.flags)
    }
}

/// A policy routing rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Whether it is one of IPv6.
    pub ipv6: bool,
    /// Its place in the order, lowest first.
    pub priority: u32,
    /// The table that it looks in.
    pub table: u32,
    /// The mark that it looks for.
    pub mark: Option<u32>,
    /// The bits of the mark that it looks at.
    #[serde(default = "every_bit")]
    pub mask: u32,
    /// The type of service that it looks for; 0: any.
    #[serde(default)]
    pub class: u8,
    /// The destinations that it looks for.
    pub to: Option<IpNet>,
    /// The sources that it looks for.
    pub from: Option<IpNet>,
    /// The link by which what it looks for comes in.
    pub incoming: Option<String>,
    /// The protocol that it looks for.
    pub protocol: Option<u8>,
    /// The source ports that it looks for, first and last.
    pub from_ports: Option<(u16, u16)>,
    /// The destination ports that it looks for, first and last.
    pub to_ports: Option<(u16, u16)>,
    /// The users that it looks for, first and last.
    pub users: Option<(u32, u32)>,
    /// It is about all packets but those.
    #[serde(default)]
    pub inverted: bool,
    /// The rule in the words of iproute2.
    pub text: String,
    #[serde(with = "hex")]
    raw: Vec<u8>,
}

impl Rule {
    pub(super) fn parse(message: Message) -> Result<Self, RouteError> {
        let parsed = RuleMessage::parse(&message.payload).map_err(|e| RouteError::Parse("rules", e))?;
        let header = &parsed.header;
        let (mut priority, mut table, mut words) = (0, u32::from(header.table), Vec::new());
        let (mut sought, mut to, mut proto, mut from_ports, mut to_ports) = (None, None, None, None, None);
        let (mut from, mut incoming, mut mask) = (None, None, None);
        for attribute in &parsed.attributes {
            match attribute {
                RuleAttribute::Priority(value) => priority = *value,
                RuleAttribute::Table(value) => table = *value,
                RuleAttribute::Source(ip) => {
                    from = IpNet::new(*ip, header.src_len).ok();
                    words.push(format!("from {ip}/{}", header.src_len));
                }
                RuleAttribute::Destination(ip) => {
                    to = IpNet::new(*ip, header.dst_len).ok();
                    words.push(format!("to {ip}/{}", header.dst_len));
                }
                RuleAttribute::FwMark(mark) => {
                    sought = Some(*mark);
                    words.push(format!("fwmark {mark:#x}"));
                }
                RuleAttribute::FwMask(bits) => mask = Some(*bits),
                RuleAttribute::Iifname(name) => {
                    incoming = Some(name.clone());
                    words.push(format!("iif {name}"));
                }
                RuleAttribute::Oifname(name) => words.push(format!("oif {name}")),
                RuleAttribute::IpProtocol(protocol) => {
                    proto = Some(i32::from(*protocol) as u8);
                    words.push(format!("ipproto {protocol:?}"));
                }
                RuleAttribute::SourcePortRange(range) => {
                    from_ports = Some((range.start, range.end));
                    words.push(format!("sport {}-{}", range.start, range.end));
                }
                RuleAttribute::DestinationPortRange(range) => {
                    to_ports = Some((range.start, range.end));
                    words.push(format!("dport {}-{}", range.start, range.end));
                }
                _ => {}
            }
        }
        let inverted = header.flags.bits() & FIB_RULE_INVERT != 0;
        let not = if inverted { "not " } else { "" };
        let text = format!("{priority}: {not}{} {:?} table {table}", words.join(" "), header.action);
        let ipv6 = header.family == AddressFamily::Inet6;
        // FRA_UID_RANGE, read here so that it does not matter what the parser calls it.
        let users = attributes(message.payload.get(12..).unwrap_or_default()).find_map(|(kind, value)| {
            let number = |at: usize| Some(u32::from_ne_bytes(*value.get(at..)?.first_chunk::<4>()?));
            (kind == 20).then(|| Some((number(0)?, number(4)?))).flatten()
        });
        let rule = Self {
            ipv6,
            priority,
            table,
            mark: sought,
            mask: mask.unwrap_or(u32::MAX),
            class: header.tos,
            to,
            from,
            incoming,
            protocol: proto,
            from_ports,
            to_ports,
            users,
            inverted,
            text,
            raw: message.payload,
        };
        Ok(rule)
    }
}

const FIB_RULE_INVERT: u32 = 2;

fn every_bit() -> u32 {
    u32::MAX
}

impl Object for Rule {
    fn raw(&self) -> &[u8] {
        &self.raw
    }
    const FIXED: usize = 12;
    const VOLATILE: &'static [u16] = &[];
    fn settle(fixed: &mut [u8]) {
        // Whether an `iif` or `oif` rule is attached depends on the link being there.
        if let Some(flags) = fixed.get_mut(8..12) {
            let kept = u32::from_ne_bytes([flags[0], flags[1], flags[2], flags[3]]) & FIB_RULE_INVERT;
            flags.copy_from_slice(&kept.to_ne_bytes());
        }
    }
    fn describe(&self) -> String {
        format!("{} rule {}", if self.ipv6 { "IPv6" } else { "IPv4" }, self.text)
    }
}

/// A route of any table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Routing table.
    pub table: u32,
    /// Where to.
    pub destination: IpNet,
    /// Next hop, if it has one that is an address.
    pub gateway: Option<IpAddr>,
    /// Index of the link by which it leaves; a multipath route has several and shows none here.
    pub link: Option<u32>,
    /// Metric; lower wins.
    pub priority: Option<u32>,
    /// `RTN_*`: 1 unicast, 2 local, 7 unreachable …
    pub kind: u8,
    /// `RTPROT_*`: 2 kernel, 3 boot, 4 static …
    pub protocol: u8,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    #[serde(with = "hex")]
    raw: Vec<u8>,
}

impl Route {
    /// Whether the kernel would take either for the same packets: table, destination, type of service and metric are the same.
    #[must_use]
    pub fn stands_for(&self, other: &Self) -> bool {
        const TOS: usize = 3;
        let key = |route: &Self| (route.table, route.destination, route.priority, route.raw.get(TOS).copied());
        key(self) == key(other)
    }

    pub(super) fn parse(message: Message) -> Result<Option<Self>, RouteError> {
        let parsed = RouteMessage::parse(&message.payload).map_err(|e| RouteError::Parse("routes", e))?;
        let header = &parsed.header;
        let unspecified: IpAddr = match header.address_family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return Ok(None),
        };
        // RTM_F_CLONED: an exception that the kernel learned, such as a path MTU, not a route of the table.
        if header.flags.bits() & 0x200 != 0 {
            return Ok(None);
        }
        let (mut destination, mut gateway, mut link, mut priority) = (unspecified, None, None, None);
        let mut table = u32::from(header.table);
        for attribute in &parsed.attributes {
            match attribute {
                RouteAttribute::Destination(value) => destination = ip(value).unwrap_or(unspecified),
                RouteAttribute::Gateway(value) => gateway = ip(value),
                RouteAttribute::Oif(value) => link = Some(*value),
                RouteAttribute::Priority(value) => priority = Some(*value),
                RouteAttribute::Table(value) => table = *value,
                _ => {}
            }
        }
        let Ok(destination) = IpNet::new(destination, header.destination_prefix_length) else {
            return Ok(None);
        };
        let (kind, protocol, scope) = (header.kind.into(), header.protocol.into(), header.scope.into());
        Ok(Some(Self { table, destination, gateway, link, priority, kind, protocol, scope, raw: message.payload }))
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

impl Object for Route {
    fn raw(&self) -> &[u8] {
        &self.raw
    }
    const FIXED: usize = 12;
    // Usage clocks, and the expiry that runs down.
    const VOLATILE: &'static [u16] = &[12, 23];
    fn settle(fixed: &mut [u8]) {
        // Dead, linkdown, offloaded: what the kernel says of the moment. Only "onlink" (4) was asked for.
        if let Some(flags) = fixed.get_mut(8..12) {
            let kept = u32::from_ne_bytes([flags[0], flags[1], flags[2], flags[3]]) & 4;
            flags.copy_from_slice(&kept.to_ne_bytes());
        }
    }
    fn describe(&self) -> String {
        let mut text = format!("route {} table {}", self.destination, self.table);
        for (word, value) in [
            ("via", self.gateway.map(|g| g.to_string())),
            ("link", self.link.map(|l| l.to_string())),
            ("metric", self.priority.map(|p| p.to_string())),
        ] {
            if let Some(value) = value {
                text.push_str(&format!(" {word} {value}"));
            }
        }
        text + &format!(" type {} proto {} scope {}", self.kind, self.protocol, self.scope)
    }
}

/// Raw bytes as hexadecimal text, so that a journal stays readable JSON.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if !text.is_ascii() || text.len() % 2 != 0 {
            return Err(D::Error::custom("raw bytes must be pairs of hexadecimal digits"));
        }
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).map_err(D::Error::custom))
            .collect()
    }
}
