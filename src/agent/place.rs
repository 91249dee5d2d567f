//! What the agent has to know of the place where it stands before anything can be judged: the local subnets, and the VPN server, which
//! several sources tell and which are held against each other. Finds; the sources themselves are read elsewhere.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use tokio::task::spawn_blocking;

use super::endpoint;
use super::protocol::Setup;
use super::sources::{Claim, RULE, claims};
use crate::config::Local;
use crate::model::evidence::{Link, Proto, Role};
use crate::model::firewall::FirewallText;
use crate::sensor::allow::{Endpoint, Shape, is_private, is_private_net};

/// Public networks of an uplink up to these lengths of prefix are wider than any home's or server's own, and not taken on trust.
const WIDE_V4: u8 = 19;
const WIDE_V6: u8 = 47;

/// What may be talked to past the tunnel: what is configured, or else the uplinks' own networks, unless they hold a part of the internet or
/// the VPN server, and Gluetun's outbound subnets, of which only private ones are taken on trust. And those in private space that have to be
/// reached.
pub(super) fn local_subnets(setup: &Setup, links: &[Link], notes: &mut Vec<String>) -> Vec<IpNet> {
    let mut found = if setup.local.is_empty() { subnets_found(setup, links, notes) } else { setup.local.clone() };
    let hosts = setup.must_reach.iter().filter_map(|stated| stated.parse::<Local>().ok());
    for ip in hosts.filter_map(|local| local.host_port().host.parse::<IpAddr>().ok()) {
        if is_private(ip) && !found.iter().any(|net| net.contains(&ip)) {
            found.push(ip.into());
        }
    }
    found
}

fn subnets_found(setup: &Setup, links: &[Link], notes: &mut Vec<String>) -> Vec<IpNet> {
    let uplinks = links.iter().filter(|link| link.role == Role::Uplink);
    let own = uplinks.flat_map(|link| link.addresses.iter().map(move |net| (&link.name, net.trunc())));
    let mut found = Vec::new();
    for (link, net) in own.filter(|(_, net)| net.prefix_len() != net.max_prefix_len()) {
        let wide = net.prefix_len() <= if net.addr().is_ipv4() { WIDE_V4 } else { WIDE_V6 };
        let link_local = matches!(net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
        if is_private_net(&net) || link_local {
            found.push(net);
        } else if wide || setup.endpoint.is_some_and(|server| net.contains(&server.ip())) {
            notes.push(format!(
                "{link}'s own network {net} is public space{}: what goes there counts as a leak unless local.subnets names it",
                if wide { ", and wide" } else { " with the VPN server in it" }
            ));
        } else {
            found.push(net);
            if net.addr().is_ipv4() {
                notes.push(format!(
                    "{link}'s own network {net} is public space, and counts as local unless local.subnets says otherwise"
                ));
            }
        }
    }
    for net in &setup.outbound {
        if is_private_net(net) {
            found.push(net.trunc());
        } else {
            notes.push(format!(
                "FIREWALL_OUTBOUND_SUBNETS holds {net}, which is public space: what goes there counts as a leak"
            ));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The endpoint and how it is known: what is seen on the wire goes before what WireGuard tells, that before what is configured, and a
/// contradiction is told. A peer of WireGuard's that is in the namespace itself is a program that carries the tunnel on, and no server.
pub(super) async fn find_endpoint(
    setup: &Setup,
    links: &[Link],
    local: &[IpNet],
    root: Option<PathBuf>,
    firewall: &FirewallText,
    notes: &mut Vec<String>,
) -> io::Result<Option<(Endpoint, String)>> {
    let (watched, nearby) = (links.to_vec(), local.to_vec());
    let (seen, mut claims) = spawn_blocking(move || {
        let seen = endpoint::observe(&watched, &nearby);
        (seen, claims(&watched, root.as_deref()))
    })
    .await
    .map_err(io::Error::other)?;
    let uplinks: Vec<&str> =
        links.iter().filter(|link| link.role == Role::Uplink).map(|link| link.name.as_str()).collect();
    claims.extend(
        firewall.endpoints(&uplinks).into_iter().filter(|at| !is_private(at.ip())).map(|at| Claim::of(RULE, at)),
    );
    claims.extend(setup.endpoint.map(|stated| Claim::of("configuration", stated)));
    let relays = take_relays(&mut claims, links);
    let found = match (seen?, stated(&claims)) {
        (Some(seen), _) => (seen, "seen on the wire"),
        (None, Some(claim)) => (as_stated(claim, setup.openvpn), claim.how),
        (None, None) => {
            if let Some(relay) = relays.first() {
                notes.push(format!(
                    "WireGuard's peer is {relay}, in the namespace itself: a program carries the tunnel on, and where to could not be \
                     seen; set vpn.endpoint"
                ));
            } else if links.iter().any(|link| link.role == Role::Tunnel) {
                notes
                    .push("the VPN server could not be found: the tunnel carried nothing; set vpn.endpoint".to_owned());
            }
            return Ok(None);
        }
    };
    if found.0.shape == Shape::Unknown {
        notes.push(format!(
            "what the tunnel sends to {} has no looks to know it by: whatever the stack's programs send there counts as the tunnel's",
            found.0.address
        ));
    }
    notes.extend(contradictions(found.0.address, found.1, &claims));
    let how = if found.1 == "configuration" { "configured" } else { found.1 };
    Ok(Some((found.0, how.to_owned())))
}

/// All endpoints of the tunnel: the one that was found, and `others`, which are spoken to in the same way.
pub(super) fn all_endpoints(found: Option<&Endpoint>, others: &[SocketAddr]) -> Vec<Endpoint> {
    let usual =
        Endpoint { address: SocketAddr::from(([0; 4], 0)), proto: Proto::Udp, shape: Shape::Wireguard, flow: None };
    let like = found.unwrap_or(&usual);
    let others = others.iter().filter(|address| **address != like.address);
    let others = others.map(|address| Endpoint { address: *address, flow: None, ..like.clone() });
    found.cloned().into_iter().chain(others).collect()
}

/// Takes from `claims` what WireGuard says of addresses of the namespace itself.
fn take_relays(claims: &mut Vec<Claim>, links: &[Link]) -> Vec<SocketAddr> {
    let own = |ip: IpAddr| {
        ip.is_loopback() || links.iter().any(|link| link.addresses.iter().any(|address| address.addr() == ip))
    };
    let relays = claims.extract_if(.., |claim| claim.is_wireguards() && own(claim.ip));
    relays.map(|claim| SocketAddr::new(claim.ip, claim.port.unwrap_or_default())).collect()
}

/// The first that says where the server is. A rule may be there for somebody else: what it names is never taken on its word alone.
fn stated(claims: &[Claim]) -> Option<&Claim> {
    claims.iter().find(|claim| claim.how != RULE && claim.port.is_some())
}

/// A server that was not seen. Only what WireGuard says of itself is WireGuard for certain: a relay may carry it on in a guise.
fn as_stated(claim: &Claim, openvpn: Option<Proto>) -> Endpoint {
    let (proto, shape) = match openvpn {
        // Of a stream that was never seen nothing but address and port is known.
        Some(Proto::Tcp) => (Proto::Tcp, Shape::Unknown),
        Some(_) => (Proto::Udp, Shape::Openvpn),
        None if claim.is_wireguards() => (Proto::Udp, Shape::Wireguard),
        None => (Proto::Udp, Shape::Unknown),
    };
    let address = SocketAddr::new(claim.ip, claim.port.unwrap_or_default());
    Endpoint { address, proto, shape, flow: None }
}

/// What does not fit what counts. A host route or a rule may be there for other reasons, so it is told only when none of them fits.
fn contradictions(address: SocketAddr, how: &str, claims: &[Claim]) -> Vec<String> {
    let mut sources: Vec<&str> = claims.iter().map(|claim| claim.how).collect();
    sources.dedup();
    let mut told = Vec::new();
    for source in sources {
        let of_it: Vec<&Claim> = claims.iter().filter(|claim| claim.how == source).collect();
        if source == how || of_it.iter().any(|claim| claim.fits(address)) {
            continue;
        }
        let said: Vec<String> = of_it
            .iter()
            .map(|claim| {
                claim.port.map_or_else(|| claim.ip.to_string(), |port| SocketAddr::new(claim.ip, port).to_string())
            })
            .collect();
        told.push(format!("the VPN server is {address} ({how}), which counts, and {} by {source}", said.join(" or ")));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::sources::KERNEL;

    #[test]
    fn other_servers_are_spoken_to_as_the_one_that_was_found() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (one, two) = (at("198.51.100.2:1194"), at("198.51.100.3:1194"));
        let found = Endpoint { address: one, proto: Proto::Tcp, shape: Shape::Openvpn, flow: Some(4000) };
        // Of another server's connection nothing was seen yet.
        let other = Endpoint { address: two, flow: None, ..found.clone() };
        assert_eq!(all_endpoints(Some(&found), &[one, two]), [found.clone(), other]);
        assert_eq!(all_endpoints(Some(&found), &[]), [found]);
        let stated = Endpoint { address: two, proto: Proto::Udp, shape: Shape::Wireguard, flow: None };
        assert_eq!(all_endpoints(None, &[two]), [stated]);
    }

    #[test]
    fn contradictions_are_told_and_agreement_is_not() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let claims = [
            Claim::of(KERNEL, at("198.51.100.9:1")),
            Claim::of(KERNEL, at("198.51.100.2:51820")),
            Claim { how: "a host route", ip: at("192.0.2.1:0").ip(), port: None },
            Claim::of("configuration", at("198.51.100.2:51821")),
        ];
        let told = contradictions(at("198.51.100.2:51820"), "seen on the wire", &claims);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].contains("192.0.2.1 by a host route") && told[1].contains("198.51.100.2:51821 by configuration")
        );
    }

    fn uplink(addresses: &[&str]) -> Link {
        let addresses = addresses.iter().map(|net| net.parse().unwrap()).collect();
        Link { index: 2, name: "eth0".to_owned(), role: Role::Uplink, addresses, up: true }
    }

    #[test]
    fn a_relay_in_the_namespace_is_no_server() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let links = [uplink(&["172.18.0.10/16"])];
        let configured = Claim::of("configuration", at("198.51.100.2:443"));
        for relay in ["127.0.0.1:51000", "172.18.0.10:51000"] {
            let mut claims = vec![Claim::of(KERNEL, at(relay)), configured.clone()];
            assert_eq!(take_relays(&mut claims, &links), [at(relay)]);
            assert_eq!(claims, std::slice::from_ref(&configured), "it contradicts nothing");
            let server = as_stated(stated(&claims).unwrap(), None);
            assert_eq!((server.address, server.shape), (configured_at(&configured), Shape::Unknown));
        }
        let mut claims = vec![Claim::of(KERNEL, at("172.18.0.50:51820")), configured];
        assert!(take_relays(&mut claims, &links).is_empty(), "another host is a server");
        assert_eq!(as_stated(stated(&claims).unwrap(), None).shape, Shape::Wireguard);
        assert_eq!(as_stated(stated(&claims).unwrap(), Some(Proto::Udp)).shape, Shape::Openvpn);
        assert!(stated(&[Claim::of(RULE, at("198.51.100.2:443"))]).is_none());
    }

    fn configured_at(claim: &Claim) -> SocketAddr {
        SocketAddr::new(claim.ip, claim.port.unwrap())
    }

    #[test]
    fn an_uplink_in_public_space_is_local_only_where_it_is_small() {
        for (address, endpoint, local, noted) in [
            ("172.18.0.10/16", None, true, false),
            ("10.0.0.10/8", None, true, false),
            ("104.0.0.10/8", None, false, true),
            ("104.16.0.10/19", None, false, true),
            ("104.16.0.10/20", None, true, true),
            ("203.0.113.10/24", None, true, true),
            ("203.0.113.10/24", Some("203.0.113.200:51820"), false, true),
            ("203.0.113.10/32", None, false, false),
            ("2001:db8::10/47", None, false, true),
            ("2001:db8::10/48", None, true, false),
            ("fe80::10/10", None, true, false),
            ("fd18::10/8", None, true, false),
        ] {
            let setup = Setup { endpoint: endpoint.map(|at: &str| at.parse().unwrap()), ..Setup::default() };
            let mut notes = Vec::new();
            let found = local_subnets(&setup, &[uplink(&[address])], &mut notes);
            assert_eq!((!found.is_empty(), !notes.is_empty()), (local, noted), "{address}: {notes:?}");
        }
        let setup = Setup {
            local: vec!["104.0.0.0/8".parse().unwrap()],
            outbound: vec!["0.0.0.0/1".parse().unwrap()],
            ..Setup::default()
        };
        let links = [uplink(&["104.0.0.10/8"])];
        assert_eq!(local_subnets(&setup, &links, &mut Vec::new()), setup.local, "what is stated counts");
        assert!(local_subnets(&Setup { local: Vec::new(), ..setup }, &links, &mut Vec::new()).is_empty());
    }
}
