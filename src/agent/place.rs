//! What the agent has to know of the place where it stands before anything can be judged: the local subnets, and the VPN server, which
//! several sources tell and which are held against each other. Finds; the sources themselves are read elsewhere.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use tokio::task::spawn_blocking;

use super::endpoint;
use super::protocol::Setup;
use super::sources::{Claim, RULE, claims};
use crate::model::evidence::{Link, Proto, Role};
use crate::model::firewall::FirewallText;
use crate::sensor::allow::{Endpoint, Shape, is_private};

/// What may be talked to past the tunnel: what is configured, or else the uplinks' own networks and Gluetun's outbound subnets, of which
/// only private ones are taken on trust.
pub(super) fn local_subnets(setup: &Setup, links: &[Link], notes: &mut Vec<String>) -> Vec<IpNet> {
    if !setup.local.is_empty() {
        return setup.local.clone();
    }
    let uplinks = links.iter().filter(|link| link.role == Role::Uplink);
    let mut found: Vec<IpNet> = uplinks
        .flat_map(|link| link.addresses.iter().map(IpNet::trunc))
        .filter(|net| net.prefix_len() != net.max_prefix_len())
        .collect();
    for net in &setup.outbound {
        if is_private(net.network()) && is_private(net.broadcast()) {
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
/// contradiction is told.
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
    // A rule may be there for somebody else: what it names is never taken for the server on its word alone.
    let stated = claims
        .iter()
        .filter(|claim| claim.how != RULE)
        .find_map(|claim| Some((SocketAddr::new(claim.ip, claim.port?), claim.how)));
    let found = match (seen?, stated) {
        (Some(seen), _) => (seen, "seen on the wire"),
        (None, Some((address, how))) => {
            let (proto, shape) = match setup.openvpn {
                // Of a stream that was never seen nothing but address and port is known.
                Some(Proto::Tcp) => (Proto::Tcp, Shape::Unknown),
                Some(_) => (Proto::Udp, Shape::Openvpn),
                None => (Proto::Udp, Shape::Wireguard),
            };
            (Endpoint { address, proto, shape, flow: None }, how)
        }
        (None, None) => {
            if links.iter().any(|link| link.role == Role::Tunnel) {
                notes
                    .push("the VPN server could not be found: the tunnel carried nothing; set vpn.endpoint".to_owned());
            }
            return Ok(None);
        }
    };
    notes.extend(contradictions(found.0.address, found.1, &claims));
    let how = if found.1 == "configuration" { "configured" } else { found.1 };
    Ok(Some((found.0, how.to_owned())))
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

    #[test]
    fn contradictions_are_told_and_agreement_is_not() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let claims = [
            Claim::of("WireGuard in the kernel", at("198.51.100.9:1")),
            Claim::of("WireGuard in the kernel", at("198.51.100.2:51820")),
            Claim { how: "a host route", ip: at("192.0.2.1:0").ip(), port: None },
            Claim::of("configuration", at("198.51.100.2:51821")),
        ];
        let told = contradictions(at("198.51.100.2:51820"), "seen on the wire", &claims);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].contains("192.0.2.1 by a host route") && told[1].contains("198.51.100.2:51821 by configuration")
        );
    }
}
