//! The packets that the kernel is asked about: addresses by which no routed network can hide, and the kinds of packet that rules tell apart, the
//! stack's own and those of others.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::net::route::{self as net, Flow, Rule, Snapshot};
use crate::net::sysctl;

/// The tables of local addresses hold no way to anywhere.
const LOCAL: u32 = 255;
/// Comes in by a link that has no address of its own (RFC 5737, RFC 3849).
const SOMEBODY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 77);
const SOMEBODY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 7);
/// More kinds of packet than this are not told apart: rules made by a machine.
pub(super) const MAX_FLOWS: usize = 24;

/// Whether the kernel carries on what comes in by that link. Over IPv4 its answers tell so too.
pub(super) fn carries_on(link: &str, v6: bool) -> bool {
    let family = if v6 { "ipv6" } else { "ipv4" };
    let on = |name: &str| sysctl::get(&format!("{family}/conf/{name}/forwarding")).is_ok_and(|value| value != "0");
    on(link) || v6 && on("all")
}

/// What somebody else sends in by that link that the rule is about, if there is such.
pub(super) fn other(snapshot: &Snapshot, rule: &Rule, link: &net::Link) -> Option<Flow> {
    let by = |address: &&net::Address| address.link == link.index && address.address.addr().is_ipv6() == rule.ipv6;
    let own = |ip: &IpAddr| snapshot.addresses.iter().any(|address| address.address.addr() == *ip);
    let named = rule.incoming.as_ref().is_none_or(|name| (*name == link.name) != rule.inverted);
    let near: Vec<IpNet> = snapshot.addresses.iter().filter(by).map(|address| address.address).collect();
    let from = match rule.from.filter(|_| !rule.inverted) {
        Some(from) => other_host(&from, own)?,
        None => {
            let neighbour = near.iter().find_map(|net| other_host(net, own));
            neighbour.unwrap_or(if rule.ipv6 { SOMEBODY_V6.into() } else { SOMEBODY.into() })
        }
    };
    // Who is on one link comes in by no other.
    let is_at = |address: &&net::Address| address.address.contains(&from);
    let elsewhere = snapshot.addresses.iter().any(|address| is_at(&address) && address.link != link.index);
    let here = near.iter().any(|net| net.contains(&from));
    (named && (here || !elsewhere)).then(|| Flow {
        protocol: rule.protocol,
        from_port: rule.from_ports.filter(|_| rule.protocol.is_some()).map(|(low, _)| low),
        to_port: rule.to_ports.filter(|_| rule.protocol.is_some()).map(|(low, _)| low),
        mark: rule.mark.filter(|_| !rule.inverted),
        user: None,
        others: Some((from, link.index)),
    })
}

/// A host of `net` that is not the stack itself.
fn other_host(net: &IpNet, own: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let hosts = [middle(net), net.network()].into_iter().chain(net.hosts().take(4));
    let network = |ip: &IpAddr| net.prefix_len() + 1 < net.max_prefix_len() && *ip == net.network();
    hosts.into_iter().find(|ip| !own(ip) && !network(ip))
}

/// Both ends and the middle of every network that a route or a rule names.
pub(super) fn edges(snapshot: &Snapshot, v6: bool) -> Vec<IpAddr> {
    let routes = snapshot.routes.iter().filter(|route| route.table != LOCAL).map(|route| route.destination);
    let nets = routes.chain(snapshot.rules.iter().filter_map(|rule| rule.to));
    let of_family = nets.filter(|net| net.addr().is_ipv6() == v6);
    let points: BTreeSet<IpAddr> = of_family.flat_map(|net| [net.network(), middle(&net), net.broadcast()]).collect();
    points.into_iter().collect()
}

fn middle(net: &IpNet) -> IpAddr {
    match (net.network(), net.broadcast()) {
        (IpAddr::V4(low), IpAddr::V4(high)) => {
            let (low, high) = (u32::from(low), u32::from(high));
            Ipv4Addr::from(low + (high - low) / 2).into()
        }
        (IpAddr::V6(low), IpAddr::V6(high)) => {
            let (low, high) = (u128::from(low), u128::from(high));
            Ipv6Addr::from(low + (high - low) / 2).into()
        }
        (low, _) => low,
    }
}

/// One address of each /16: 65,536 over IPv4, 8,192 of 2000::/3 over IPv6, with other low bits in each run.
pub(super) fn sweep(v6: bool, nonce: u32) -> Vec<IpAddr> {
    if v6 {
        let low = u128::from(nonce) << 64 | 1;
        (0x2000..0x4000u128).map(|high| Ipv6Addr::from(high << 112 | low).into()).collect()
    } else {
        (0..=0xffffu32).map(|high| Ipv4Addr::from(high << 16 | nonce & 0xffff).into()).collect()
    }
}

/// Packets that rules tell apart: any at all, the torrent client's, and one for each end of each range that a rule names.
pub(super) fn flows(snapshot: &Snapshot, v6: bool) -> Vec<Flow> {
    const TORRENT: u16 = 6881;
    let mut flows = BTreeSet::from([Flow::default()]);
    for rule in snapshot.rules.iter().filter(|rule| rule.ipv6 == v6) {
        let transports = match rule.protocol {
            Some(protocol) => vec![protocol],
            None => vec![libc::IPPROTO_UDP as u8, libc::IPPROTO_TCP as u8],
        };
        for protocol in transports {
            let flow = Flow { protocol: Some(protocol), ..Flow::default() };
            let ports = protocol == libc::IPPROTO_UDP as u8 || protocol == libc::IPPROTO_TCP as u8;
            if rule.protocol.is_some() {
                flows.insert(Flow { to_port: ports.then_some(TORRENT), ..flow });
            }
            for port in rule.to_ports.iter().flat_map(|(low, high)| [*low, *high]) {
                flows.insert(Flow { to_port: Some(port), ..flow });
            }
            for port in rule.from_ports.iter().flat_map(|(low, high)| [*low, *high]) {
                flows.insert(Flow { from_port: Some(port), ..flow });
            }
        }
        for user in rule.users.iter().flat_map(|(low, high)| [*low, *high]) {
            flows.insert(Flow { user: Some(user), ..Flow::default() });
        }
    }
    flows.into_iter().take(MAX_FLOWS).collect()
}

pub(super) fn describe(flow: &Flow, snapshot: &Snapshot) -> String {
    let mut words = Vec::new();
    if let Some((from, link)) = flow.others {
        let name = snapshot.links.iter().find(|known| known.index == link).map(|link| link.name.as_str());
        words.push(format!("what {from} sends in by {}", name.unwrap_or("a link")));
    }
    if let Some(protocol) = flow.protocol {
        words.push(match i32::from(protocol) {
            libc::IPPROTO_TCP => "TCP".to_owned(),
            libc::IPPROTO_UDP => "UDP".to_owned(),
            other => format!("protocol {other}"),
        });
    }
    words.extend(flow.from_port.map(|port| format!("from port {port}")));
    words.extend(flow.to_port.map(|port| format!("to port {port}")));
    words.extend(flow.user.map(|user| format!("of user {user}")));
    if words.is_empty() { "any packet".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sweep_leaves_no_room_for_a_routed_16() {
        let four = sweep(false, 77);
        assert_eq!(four.len(), 65_536);
        let hit = |net: &str, all: &[IpAddr]| {
            let net: IpNet = net.parse().unwrap();
            all.iter().any(|ip| net.contains(ip))
        };
        assert!(hit("93.184.0.0/16", &four) && hit("223.255.0.0/16", &four) && hit("1.0.0.0/16", &four));
        let six = sweep(true, 77);
        assert!(hit("2a03::/16", &six) && hit("3fff::/16", &six) && !hit("4000::/16", &six));
    }

    #[test]
    fn the_middle_of_a_network_lies_in_it() {
        for net in ["0.0.0.0/0", "::/0", "93.184.215.0/24", "8.8.8.8/32", "2001:4860::/32"] {
            let net: IpNet = net.parse().unwrap();
            assert!(net.contains(&middle(&net)), "{net}");
        }
    }

    #[test]
    fn flows_are_told_in_words() {
        let nothing = Snapshot { links: vec![], addresses: vec![], rules: vec![], routes: vec![] };
        assert_eq!(describe(&Flow::default(), &nothing), "any packet");
        let flow = Flow { protocol: Some(17), to_port: Some(6881), ..Flow::default() };
        assert_eq!(describe(&flow, &nothing), "UDP to port 6881");
        let others = Some(("172.18.0.77".parse().unwrap(), 1));
        assert_eq!(
            describe(&Flow { others, ..flow }, &nothing),
            "what 172.18.0.77 sends in by a link UDP to port 6881"
        );
    }

    #[test]
    fn others_are_not_the_stack() {
        let own = |ip: &IpAddr| *ip == IpAddr::from([172, 18, 0, 10]);
        let other = |net: &str| other_host(&net.parse().unwrap(), own).map(|ip| ip.to_string());
        assert_eq!(other("172.18.0.77/32").as_deref(), Some("172.18.0.77"));
        // Gluetun's rule for its own answers.
        assert_eq!(other("172.18.0.10/32"), None);
        assert_eq!(other("172.18.0.8/30").as_deref(), Some("172.18.0.9"));
        assert_eq!(other("172.18.0.0/16").as_deref(), Some("172.18.127.255"));
        assert_eq!(other("fd18::/64").as_deref(), Some("fd18::7fff:ffff:ffff:ffff"));
    }
}
