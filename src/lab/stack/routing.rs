//! How packets find the tunnel: what the stack finds out about its uplink, and Gluetun's rules 98 to 101 and tables 51820, 199 and 200, or
//! what others have in their place.

use crate::net::route::{Family, RouteError, RouteSpec, Rtnetlink, RuleSpec, Snapshot};
use ipnet::IpNet;
use serde::Deserialize;
use std::net::IpAddr;

/// The mark of WireGuard's own packets, which rule 101 lets past the tunnel.
pub const MARK: u32 = 0xca6c;
/// The table that leads into the tunnel.
pub const TUNNEL_TABLE: u32 = 51820;
/// The table for outbound subnets.
pub const OUTBOUND_TABLE: u32 = 199;
/// The table for what comes from the first uplink's own address; those of more uplinks follow it.
pub const INBOUND_TABLE: u32 = 200;
/// Priority of the rule that leads into the tunnel.
pub const TUNNEL_PRIORITY: u32 = 101;
/// Priorities that the kernel gives to the two rules of wg-quick(8), of which the second is made first.
const WG_QUICK_PRIORITIES: [u32; 2] = [32764, 32765];
pub(super) const MAIN: u32 = 254;
const SCOPE_GLOBAL: u8 = 0;

/// How a stack's packets find the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Routing {
    /// By rule 101 and a table of the tunnel's own.
    #[default]
    Gluetun,
    /// By routes in the main table that are each half of everything, and so come before the default route, as OpenVPN's `redirect-gateway
    /// def1` makes them; the server has a route of its own. No rules.
    Halves,
    /// By a rule and a table of the tunnel's own, before which the main table is asked for all but its default route.
    WgQuick,
}

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

impl Routing {
    /// Makes the rules and tables that stay whether there is a tunnel or not.
    pub(super) fn lasting(
        self,
        netlink: &mut Rtnetlink,
        uplinks: &[Uplink],
        outbound: &[IpNet],
        server: IpAddr,
    ) -> Result<(), RouteError> {
        for family in [Family::V4, Family::V6] {
            if self == Self::Gluetun {
                for (uplink, table) in uplinks.iter().zip(INBOUND_TABLE..) {
                    inbound(netlink, uplink, family, table)?;
                }
            }
            let Some((uplink, gateway)) = uplinks.first().and_then(|first| Some((first, first.gateway(family)?)))
            else {
                continue;
            };
            if self == Self::Halves && Family::of(server) == family {
                netlink.add_route(&RouteSpec::via(server.into(), gateway).dev(&uplink.link))?;
            }
            for subnet in outbound.iter().filter(|net| Family::of(net.addr()) == family) {
                let route = RouteSpec::via(*subnet, gateway).dev(&uplink.link);
                match self {
                    Self::Gluetun => {
                        let rule = RuleSpec { to: Some(*subnet), ..RuleSpec::new(family, 99, OUTBOUND_TABLE) };
                        netlink.add_rule(&rule)?;
                        netlink.add_route(&route.table(OUTBOUND_TABLE))?;
                    }
                    Self::WgQuick | Self::Halves => netlink.add_route(&route)?,
                }
            }
        }
        Ok(())
    }

    /// The rules that there are while there is a tunnel; the last one leads into it.
    pub(super) fn tunnel_rules(self, family: Family) -> Vec<RuleSpec> {
        let into = |priority| RuleSpec { not_mark: Some(MARK), ..RuleSpec::new(family, priority, TUNNEL_TABLE) };
        match self {
            Self::Gluetun => vec![into(TUNNEL_PRIORITY)],
            Self::WgQuick => {
                let [main, tunnel] = WG_QUICK_PRIORITIES;
                let main = RuleSpec { suppress_prefix_length: Some(0), ..RuleSpec::new(family, main, MAIN) };
                vec![main, into(tunnel)]
            }
            Self::Halves => Vec::new(),
        }
    }

    /// The priority of the rule that leads into the tunnel, where there is one.
    pub(in crate::lab) fn tunnel_priority(self) -> Option<u32> {
        match self {
            Self::Gluetun => Some(TUNNEL_PRIORITY),
            Self::WgQuick => Some(WG_QUICK_PRIORITIES[1]),
            Self::Halves => None,
        }
    }

    /// The table whose default route leads out of the uplink: main, unless that leads into the tunnel.
    pub(super) fn way_out(self) -> u32 {
        if self == Self::Halves { INBOUND_TABLE } else { MAIN }
    }

    /// The mark of the tunnel's own packets, where rules need one.
    pub(super) fn mark(self) -> Option<u32> {
        (self != Self::Halves).then_some(MARK)
    }

    /// The routes into the tunnel, which go with its link.
    pub(super) fn tunnel_routes(self, family: Family, tunnel: &str) -> Vec<RouteSpec> {
        if self != Self::Halves {
            return vec![RouteSpec::on(family.everything(), tunnel).table(TUNNEL_TABLE)];
        }
        let halves = family.everything().subnets(1).into_iter().flatten();
        halves.map(|half| RouteSpec::on(half, tunnel)).collect()
    }
}

/// Rules 98 and 100 of an uplink, and its table.
fn inbound(netlink: &mut Rtnetlink, uplink: &Uplink, family: Family, table: u32) -> Result<(), RouteError> {
    for (subnet, source) in uplink.subnets(family) {
        netlink.add_rule(&RuleSpec { to: Some(subnet), ..RuleSpec::new(family, 98, MAIN) })?;
        netlink.add_rule(&RuleSpec { from: Some(source.into()), ..RuleSpec::new(family, 100, table) })?;
    }
    let Some(gateway) = uplink.gateway(family) else { return Ok(()) };
    netlink.add_route(&RouteSpec::via(family.everything(), gateway).dev(&uplink.link).table(table))
}
