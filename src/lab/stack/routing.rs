//! Gluetun's policy routing: what it finds out about the uplink, its rules 98 to 101 and its tables 51820, 199 and 200.

use crate::net::route::{Family, RouteError, RouteSpec, Rtnetlink, RuleSpec, Snapshot};
use ipnet::IpNet;
use std::net::IpAddr;

/// The mark of WireGuard's own packets, which rule 101 lets past the tunnel.
pub const MARK: u32 = 0xca6c;
/// The table that leads into the tunnel.
pub const TUNNEL_TABLE: u32 = 51820;
/// The table for outbound subnets.
pub const OUTBOUND_TABLE: u32 = 199;
/// The table for what comes from the uplink's own address.
pub const INBOUND_TABLE: u32 = 200;
/// Priority of the rule that leads into the tunnel.
pub const TUNNEL_PRIORITY: u32 = 101;
const MAIN: u32 = 254;
const SCOPE_GLOBAL: u8 = 0;

/// The stack's link to the home, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub link: String,
    /// Its addresses with the length of their networks, link-local ones left out.
    pub addresses: Vec<IpNet>,
    /// Its next hops, at most one of a family.
    pub gateways: Vec<IpAddr>,
}

impl Uplink {
    /// Reads the addresses of `link`, and the gateways of the main table's default routes by it.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn discover(link: &str) -> Result<Self, RouteError> {
        let snapshot = Snapshot::take()?;
        let index = snapshot.link(link).ok_or_else(|| RouteError::NoLink(link.to_owned()))?.index;
        let of_link = snapshot.addresses.iter().filter(|a| a.link == index && a.scope == SCOPE_GLOBAL);
        let addresses = of_link.map(|a| a.address).collect();
        let defaults = snapshot
            .routes
            .iter()
            .filter(|r| r.table == MAIN && r.destination.prefix_len() == 0 && r.link == Some(index));
        let mut gateways: Vec<IpAddr> = Vec::new();
        for gateway in defaults.filter_map(|route| route.gateway) {
            if !gateways.iter().any(|known| known.is_ipv4() == gateway.is_ipv4()) {
                gateways.push(gateway);
            }
        }
        Ok(Self { link: link.to_owned(), addresses, gateways })
    }

    /// The networks of the link, each with the stack's own address in it.
    #[must_use]
    pub fn subnets(&self, family: Family) -> Vec<(IpNet, IpAddr)> {
        let of_family = self.addresses.iter().filter(|net| Family::of(net.addr()) == family);
        of_family.map(|net| (net.trunc(), net.addr())).collect()
    }

    /// The next hop of a family.
    #[must_use]
    pub fn gateway(&self, family: Family) -> Option<IpAddr> {
        self.gateways.iter().copied().find(|ip| Family::of(*ip) == family)
    }
}

/// The rules and tables that stay whether there is a tunnel or not.
pub(super) fn lasting(netlink: &mut Rtnetlink, uplink: &Uplink, outbound: &[IpNet]) -> Result<(), RouteError> {
    for family in [Family::V4, Family::V6] {
        for (subnet, source) in uplink.subnets(family) {
            netlink.add_rule(&RuleSpec { to: Some(subnet), ..RuleSpec::new(family, 98, MAIN) })?;
            netlink.add_rule(&RuleSpec { from: Some(source.into()), ..RuleSpec::new(family, 100, INBOUND_TABLE) })?;
        }
        let Some(gateway) = uplink.gateway(family) else { continue };
        let route = RouteSpec::via(family.everything(), gateway).dev(&uplink.link);
        netlink.add_route(&route.table(INBOUND_TABLE))?;
        for subnet in outbound.iter().filter(|net| Family::of(net.addr()) == family) {
            netlink.add_rule(&RuleSpec { to: Some(*subnet), ..RuleSpec::new(family, 99, OUTBOUND_TABLE) })?;
            netlink.add_route(&RouteSpec::via(*subnet, gateway).dev(&uplink.link).table(OUTBOUND_TABLE))?;
        }
    }
    Ok(())
}

/// The rule that leads into the tunnel.
pub(super) fn tunnel_rule(family: Family) -> RuleSpec {
    RuleSpec { not_mark: Some(MARK), ..RuleSpec::new(family, TUNNEL_PRIORITY, TUNNEL_TABLE) }
}

/// The route into the tunnel.
pub(super) fn tunnel_route(family: Family, tunnel: &str) -> RouteSpec {
    RouteSpec::on(family.everything(), tunnel).table(TUNNEL_TABLE)
}
