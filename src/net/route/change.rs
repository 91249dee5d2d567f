//! Making and unmaking links, addresses, routes and rules.

use super::{Address, Link, Object, Route, RouteError, Rule};
use crate::net::netlink::{Client, Message, emit};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange, RuleUidRange};
use netlink_sys::protocols::NETLINK_ROUTE;
use rtnetlink::{AddressMessageBuilder, LinkBridge, LinkUnspec, LinkVeth};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const RT_TABLE_COMPAT: u8 = 252;
/// Priority of the rules that hold something back.
pub(super) const HOLD: u32 = 1;

/// An internet protocol family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn netlink(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::Inet,
            Self::V6 => AddressFamily::Inet6,
        }
    }

    /// The network that holds every address of the family.
    #[must_use]
    pub fn everything(self) -> IpNet {
        match self {
            Self::V4 => IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
            Self::V6 => IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
        }
    }
}

/// A unicast route to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSpec {
    /// Where to.
    pub destination: IpNet,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Name of the link, unless the gateway tells it.
    pub link: Option<String>,
    /// Routing table (254 is main).
    pub table: u32,
    /// Metric; lower wins, and the kernel's default is used without.
    pub metric: Option<u32>,
}

impl RouteSpec {
    /// `destination` by a gateway, in the main table.
    #[must_use]
    pub fn via(destination: IpNet, gateway: IpAddr) -> Self {
        Self { destination, gateway: Some(gateway), link: None, table: 254, metric: None }
    }

    /// `destination` directly on a link, in the main table.
    #[must_use]
    pub fn on(destination: IpNet, link: &str) -> Self {
        Self { destination, gateway: None, link: Some(link.to_owned()), table: 254, metric: None }
    }

    /// By that link.
    #[must_use]
    pub fn dev(mut self, link: &str) -> Self {
        self.link = Some(link.to_owned());
        self
    }

    /// With that metric.
    #[must_use]
    pub fn metric(mut self, metric: u32) -> Self {
        self.metric = Some(metric);
        self
    }

    /// In that table.
    #[must_use]
    pub fn table(mut self, table: u32) -> Self {
        self.table = table;
        self
    }
}

/// A policy rule to make or remove; absent conditions match all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSpec {
    /// Of which family.
    pub family: Family,
    /// Place in the order.
    pub priority: u32,
    /// Table to look in.
    pub table: u32,
    /// Source network.
    pub from: Option<IpNet>,
    /// Destination network.
    pub to: Option<IpNet>,
    /// Packets that do not carry this mark.
    pub not_mark: Option<u32>,
    /// Protocol number of the transport.
    pub protocol: Option<u8>,
    /// Destination ports, inclusive.
    pub ports: Option<(u16, u16)>,
    /// Owner of the socket.
    pub user: Option<u32>,
    /// Source ports, inclusive.
    pub from_ports: Option<(u16, u16)>,
    /// Routes whose prefix is no longer than this do not count.
    pub suppress_prefix_length: Option<u32>,
}

impl RuleSpec {
    /// A rule that matches every packet.
    #[must_use]
    pub fn new(family: Family, priority: u32, table: u32) -> Self {
        Self {
            family,
            priority,
            table,
            from: None,
            to: None,
            not_mark: None,
            protocol: None,
            ports: None,
            from_ports: None,
            user: None,
            suppress_prefix_length: None,
        }
    }

    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family.netlink();
        message.header.action = RuleAction::ToTable;
        message.header.table = u8::try_from(self.table).unwrap_or(RT_TABLE_COMPAT);
        message.attributes.push(RuleAttribute::Priority(self.priority));
        message.attributes.push(RuleAttribute::Table(self.table));
        if let Some(net) = self.from {
            message.header.src_len = net.prefix_len();
            message.attributes.push(RuleAttribute::Source(net.network()));
        }
        if let Some(net) = self.to {
            message.header.dst_len = net.prefix_len();
            message.attributes.push(RuleAttribute::Destination(net.network()));
        }
        if let Some(mark) = self.not_mark {
            message.header.flags |= RuleFlags::Invert;
            message.attributes.push(RuleAttribute::FwMark(mark));
        }
        if let Some(protocol) = self.protocol {
            message.attributes.push(RuleAttribute::IpProtocol(protocol.into()));
        }
        if let Some((start, end)) = self.ports {
            message.attributes.push(RuleAttribute::DestinationPortRange(RulePortRange { start, end }));
        }
        if let Some(id) = self.user {
            message.attributes.push(RuleAttribute::UidRange(RuleUidRange { start: id, end: id }));
        }
        if let Some((start, end)) = self.from_ports {
            message.attributes.push(RuleAttribute::SourcePortRange(RulePortRange { start, end }));
        }
        if let Some(length) = self.suppress_prefix_length {
            message.attributes.push(RuleAttribute::SuppressPrefixLen(length));
        }
        message
    }
}

/// A connection to rtnetlink in the namespace in which it was opened.
pub struct Rtnetlink(Client);

impl Rtnetlink {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn open() -> Result<Self, RouteError> {
        Client::open(NETLINK_ROUTE).map(Self).map_err(|e| RouteError::Netlink("change the network".to_owned(), e))
    }

    /// Sends a message as it is; `what` names the attempt for the error.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn send(&mut self, message: &Message, what: &str) -> Result<(), RouteError> {
        self.0.request(message).map_err(|e| RouteError::Netlink(what.to_owned(), e))
    }

    fn link_message(&mut self, kind: u16, flags: u16, message: &LinkMessage, what: &str) -> Result<(), RouteError> {
        self.send(&Message { kind, flags, payload: emit(message) }, what)
    }

    /// Makes a pair of links, `peer` appearing in the namespace `into`.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_veth(&mut self, name: &str, peer: &str, into: &impl AsFd) -> Result<(), RouteError> {
        let peer_message = LinkUnspec::new_with_name(peer).setns_by_fd(into.as_fd().as_raw_fd()).build();
        let mut message = LinkVeth::new(name, peer).build();
        for attribute in &mut message.attributes {
            if let LinkAttribute::LinkInfo(infos) = attribute {
                for info in infos {
                    if let LinkInfo::Data(data) = info {
                        *data = InfoData::Veth(InfoVeth::Peer(peer_message.clone()));
                    }
                }
            }
        }
        self.link_message(
            RTM_NEWLINK,
            NLM_F_CREATE | NLM_F_EXCL,
            &message,
            &format!("make the links {name} and {peer}"),
        )
    }

    /// Makes a bridge.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_bridge(&mut self, name: &str) -> Result<(), RouteError> {
        let message = LinkBridge::new(name).build();
        self.link_message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message, &format!("make the bridge {name}"))
    }

    /// Makes `name` a port of the bridge `bridge`.
    ///
    /// # Errors
    /// When there is no such bridge, or by the kernel's refusal.
    pub fn set_bridge(&mut self, name: &str, bridge: &str) -> Result<(), RouteError> {
        let message = LinkUnspec::new_with_name(name).controller(index_of(bridge)?).build();
        self.link_message(RTM_NEWLINK, 0, &message, &format!("put {name} on the bridge {bridge}"))
    }

    /// Brings a link up or down.
    ///
    /// # Errors
    /// When there is no such link, or by the kernel's refusal.
    pub fn set_link(&mut self, name: &str, up: bool) -> Result<(), RouteError> {
        let builder = LinkUnspec::new_with_index(index_of(name)?);
        let message = if up { builder.up() } else { builder.down() }.build();
        self.link_message(
            RTM_NEWLINK,
            0,
            &message,
            &format!("bring the link {name} {}", if up { "up" } else { "down" }),
        )
    }

    /// Sets the largest packet of a link, in bytes.
    ///
    /// # Errors
    /// When there is no such link, or by the kernel's refusal.
    pub fn set_mtu(&mut self, name: &str, mtu: u32) -> Result<(), RouteError> {
        let message = LinkUnspec::new_with_index(index_of(name)?).mtu(mtu).build();
        self.link_message(RTM_NEWLINK, 0, &message, &format!("set the MTU of {name}"))
    }

    /// Removes a link.
    ///
    /// # Errors
    /// When there is no such link, or by the kernel's refusal.
    pub fn delete_link(&mut self, name: &str) -> Result<(), RouteError> {
        let message = LinkUnspec::new_with_index(index_of(name)?).build();
        self.link_message(RTM_DELLINK, 0, &message, &format!("remove the link {name}"))
    }

    /// Gives a link an address, usable at once: nobody is asked whether somebody else has it.
    ///
    /// # Errors
    /// When there is no such link, or by the kernel's refusal.
    pub fn add_address(&mut self, name: &str, address: IpNet) -> Result<(), RouteError> {
        let index = index_of(name)?;
        let message = match address {
            IpNet::V4(net) => {
                AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(net.addr(), net.prefix_len()).build()
            }
            IpNet::V6(net) => {
                let builder = AddressMessageBuilder::<Ipv6Addr>::new().index(index);
                let mut message = builder.address(net.addr(), net.prefix_len()).build();
                message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
                message
            }
        };
        let request = Message { kind: RTM_NEWADDR, flags: NLM_F_CREATE | NLM_F_REPLACE, payload: emit(&message) };
        self.send(&request, &format!("give {name} the address {address}"))
    }

    /// Takes an address away that the kernel listed. One that is not there any more is no error: with the first address of a subnet the
    /// others of it go.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn delete_listed_address(&mut self, address: &Address) -> Result<(), RouteError> {
        let request = Message { kind: RTM_DELADDR, flags: 0, payload: address.raw().to_vec() };
        match self.send(&request, &format!("take away the address {}", address.address)) {
            Err(error) if error.errno() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            other => other,
        }
    }

    /// Has the kernel refuse what is sent from an address, before it asks any other rule but that of its own addresses, or no more.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn hold(&mut self, address: IpAddr, hold: bool) -> Result<(), RouteError> {
        let mut message =
            RuleSpec { from: Some(address.into()), ..RuleSpec::new(Family::of(address), HOLD, 0) }.message();
        message.header.action = RuleAction::Blackhole;
        message.attributes.retain(|attribute| !matches!(attribute, RuleAttribute::Table(_)));
        let (kind, flags) = if hold { (RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL) } else { (RTM_DELRULE, 0) };
        let what = format!("hold back what is sent from {address}, or do so no more");
        self.send(&Message { kind, flags, payload: emit(&message) }, &what)
    }

    /// Removes a route that the kernel listed.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn delete_listed_route(&mut self, route: &Route) -> Result<(), RouteError> {
        let request = Message { kind: RTM_DELROUTE, flags: 0, payload: route.raw().to_vec() };
        self.send(&request, &format!("remove the route {}", route.describe()))
    }

    /// Makes a route.
    ///
    /// # Errors
    /// When its link is not there, or by the kernel's refusal.
    pub fn add_route(&mut self, route: &RouteSpec) -> Result<(), RouteError> {
        let payload = emit(&route_message(route)?);
        let what = format!("make the route to {} in table {}", route.destination, route.table);
        self.send(&Message { kind: RTM_NEWROUTE, flags: NLM_F_CREATE | NLM_F_EXCL, payload }, &what)
    }

    /// Removes a route.
    ///
    /// # Errors
    /// When its link is not there, or by the kernel's refusal.
    pub fn delete_route(&mut self, route: &RouteSpec) -> Result<(), RouteError> {
        let payload = emit(&route_message(route)?);
        let what = format!("remove the route to {} from table {}", route.destination, route.table);
        self.send(&Message { kind: RTM_DELROUTE, flags: 0, payload }, &what)
    }

    /// Makes a policy rule.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_rule(&mut self, rule: &RuleSpec) -> Result<(), RouteError> {
        let request = Message { kind: RTM_NEWRULE, flags: NLM_F_CREATE | NLM_F_EXCL, payload: emit(&rule.message()) };
        self.send(&request, &format!("make the rule {} to table {}", rule.priority, rule.table))
    }

    /// Removes a policy rule that the kernel listed.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn delete_listed_rule(&mut self, rule: &Rule) -> Result<(), RouteError> {
        let request = Message { kind: RTM_DELRULE, flags: 0, payload: rule.raw().to_vec() };
        self.send(&request, &format!("remove the rule {}", rule.text))
    }

    /// Removes a policy rule.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn delete_rule(&mut self, rule: &RuleSpec) -> Result<(), RouteError> {
        let request = Message { kind: RTM_DELRULE, flags: 0, payload: emit(&rule.message()) };
        self.send(&request, &format!("remove the rule {} to table {}", rule.priority, rule.table))
    }
}

fn route_message(route: &RouteSpec) -> Result<RouteMessage, RouteError> {
    let mut message = RouteMessage::default();
    message.header.address_family = Family::of(route.destination.addr()).netlink();
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.table = u8::try_from(route.table).unwrap_or(RT_TABLE_COMPAT);
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    message.header.scope = match (route.gateway, route.destination.addr()) {
        (None, IpAddr::V4(_)) => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    let address = |ip| match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    };
    message.attributes.push(RouteAttribute::Table(route.table));
    if route.destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(address(route.destination.network())));
    }
    if let Some(gateway) = route.gateway {
        message.attributes.push(RouteAttribute::Gateway(address(gateway)));
    }
    if let Some(metric) = route.metric {
        message.attributes.push(RouteAttribute::Priority(metric));
    }
    if let Some(link) = &route.link {
        message.attributes.push(RouteAttribute::Oif(index_of(link)?));
    }
    Ok(message)
}

fn index_of(name: &str) -> Result<u32, RouteError> {
    nix::net::if_::if_nametoindex(name).map_err(|_| RouteError::NoLink(name.to_owned()))
}

/// What a message of the link group says: the name of a link, and whether it is there and up. `None` for other messages.
#[must_use]
pub fn link_event(message: &Message) -> Option<(String, bool)> {
    if !matches!(message.kind, RTM_NEWLINK | RTM_DELLINK) {
        return None;
    }
    let link = Link::parse(message.clone()).ok()?;
    let up = message.kind == RTM_NEWLINK && link.is_up();
    Some((link.name, up))
}
