//! Which links there are, which of them is the tunnel, and by which of them the kernel would send. Reads, changes nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use netlink_packet_route::route::RouteAttribute;
use pnet::datalink::NetworkInterface;
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::model::evidence::{Link, Role};

/// Public addresses whose route tells where the default traffic goes.
const PUBLIC: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1)), IpAddr::V6(Ipv6Addr::new(0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111))];

/// All links but loopback. The tunnel is `named`, or else the point-to-point link by which public addresses are routed, or else
/// the only point-to-point link that there is. Those of `others` are other tunnels, where they are point-to-point links.
pub async fn find(handle: &Handle, named: Option<&str>, others: &[String]) -> Vec<Link> {
    let interfaces: Vec<NetworkInterface> =
        crate::net::interfaces().into_iter().filter(|link| !link.is_loopback()).collect();
    let is_other = |link: &NetworkInterface| is_tunnel(link) && others.contains(&link.name);
    let tunnel = match named {
        Some(name) => Some(name.to_owned()),
        None => {
            guess_tunnel(handle, interfaces.iter().filter(|link| is_tunnel(link) && !is_other(link)).collect()).await
        }
    };
    interfaces
        .into_iter()
        .map(|interface| Link {
            index: interface.index,
            role: match &tunnel {
                Some(name) if *name == interface.name => Role::Tunnel,
                _ if is_other(&interface) => Role::Other,
                _ => Role::Uplink,
            },
            up: interface.is_up() && interface.is_lower_up(),
            addresses: interface.ips.iter().filter_map(|ip| IpNet::new(ip.ip(), ip.prefix()).ok()).collect(),
            name: interface.name,
        })
        .collect()
}

fn is_tunnel(link: &NetworkInterface) -> bool {
    link.is_point_to_point() && !link.is_broadcast()
}

async fn guess_tunnel(handle: &Handle, candidates: Vec<&NetworkInterface>) -> Option<String> {
    for address in PUBLIC {
        let index = route_link(handle, address).await;
        if let Some(link) = candidates.iter().find(|link| Some(link.index) == index) {
            return Some(link.name.clone());
        }
    }
    match candidates.as_slice() {
        [only] => Some(only.name.clone()),
        _ => None,
    }
}

/// What the owner should know of links that he may have taken for something else. `others` are the tunnels that he named.
pub fn doubts(links: &[Link], others: &[String]) -> Vec<String> {
    let interfaces = crate::net::interfaces();
    let of = |link: &&Link| interfaces.iter().find(|interface| interface.name == link.name).is_some_and(is_tunnel);
    let uplinks = || links.iter().filter(|link| link.role == Role::Uplink);
    let unnamed = uplinks().filter(of).map(|link| {
        format!(
            "{0} is a tunnel beside the VPN's, and counts as an uplink: what enters it may leave anywhere; if it is yours and runs inside the \
             VPN, name it in vpn.other_tunnels",
            link.name
        )
    });
    let wrong = uplinks()
        .filter(|link| others.contains(&link.name) && !of(link))
        .map(|link| format!("{} is named in vpn.other_tunnels and is none: it counts as an uplink", link.name));
    let absent = others.iter().filter(|name| !links.iter().any(|link| link.name == **name));
    let absent = absent.map(|name| format!("there is no link {name}, which vpn.other_tunnels names"));
    unnamed.chain(wrong).chain(absent).collect()
}

/// Index of the link by which the kernel would send to `to` now; `None` when it would refuse.
pub async fn route_link(handle: &Handle, to: IpAddr) -> Option<u32> {
    let request = match to {
        IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4, 32).build(),
        IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(v6, 128).build(),
    };
    let route = handle.route().get(request).execute().try_next().await.ok().flatten()?;
    route.attributes.into_iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(index),
        _ => None,
    })
}

/// Addresses on the links of which nobody said that they are his when the kernel asked (ARP, RFC 826; neighbour discovery, RFC 4861).
pub async fn unanswered_neighbours(handle: &Handle) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let mut known = handle.neighbours().get().execute();
    while let Ok(Some(neighbour)) = known.try_next().await {
        if !matches!(neighbour.header.state, NeighbourState::Incomplete | NeighbourState::Failed) {
            continue;
        }
        found.extend(neighbour.attributes.iter().filter_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
            _ => None,
        }));
    }
    found
}

/// The gateways of the default routes by `uplinks`, from all tables.
pub async fn gateways(handle: &Handle, uplinks: &[u32]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for request in [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()] {
        let mut routes = handle.route().get(request).execute();
        while let Ok(Some(route)) = routes.try_next().await {
            if route.header.destination_prefix_length != 0 {
                continue;
            }
            let link = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            let gateway = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Gateway(netlink_packet_route::route::RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
                RouteAttribute::Gateway(netlink_packet_route::route::RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
                _ => None,
            });
            if let (Some(link), Some(gateway)) = (link, gateway)
                && uplinks.contains(&link)
                && !found.contains(&gateway)
            {
                found.push(gateway);
            }
        }
    }
    found
}
