//! `published-narrowly`: to whom the engine forwards ports of the stack. That packets come in by one, `no-stranger-answered` proves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::{Checked, list, members, settle};
use crate::judge::{Case, Ruling};
use crate::model::evidence::{Published, StackAccount};
use crate::sensor::allow::is_private;

/// Where torrent clients listen when nobody tells them otherwise: qBittorrent, Deluge and rTorrent, and Transmission.
const PEERS: std::ops::RangeInclusive<u16> = 6881..=6889;
const PEERS_OF_TRANSMISSION: u16 = 51413;
/// Port of Gluetun's control server when nothing else is said.
const CONTROL: u16 = 8000;

pub fn judge(case: &Case<'_>) -> Ruling {
    let why = "a published port is answered over the home line, past the tunnel, and Docker's rules come before those of the host's firewall";
    settle(case, why, |account, _| look(account))
}

fn look(account: &StackAccount) -> Checked {
    let mut checked = Checked::default();
    let peers = peer_ports(account);
    let control = account.gluetun.as_ref().map(|gluetun| {
        let address = gluetun.setting("HTTP_CONTROL_SERVER_ADDRESS").unwrap_or_default();
        address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(CONTROL)
    });
    let mut any = false;
    for one in members(account) {
        // One line of the compose file publishes at both families.
        let mut lines: BTreeMap<(u16, u16, &str, bool), Vec<IpAddr>> = BTreeMap::new();
        for Published { address, port, inside, proto, routed } in &one.published {
            lines.entry((*inside, *port, proto.as_str(), *routed)).or_default().push(*address);
        }
        let odd = one.published_oddly.iter();
        checked.doubts.extend(odd.map(|port| format!("how {port} of {} is published is not understood", one.name)));
        for ((inside, port, proto, routed), addresses) in lines {
            any = true;
            let at: Vec<String> = addresses.iter().map(|ip| SocketAddr::new(*ip, port).to_string()).collect();
            let at = if routed { "its own address, by routing".to_owned() } else { at.join(" and ") };
            let open = routed || addresses.iter().any(|ip| !ip.is_loopback());
            let to_world = routed || addresses.iter().any(|ip| ip.is_unspecified() || !is_private(*ip));
            let narrow = if routed {
                format!(
                    "take {inside}/{proto} out of `ports`, or the gateway mode `routed` off its network: no address of the host narrows it there"
                )
            } else {
                format!(
                    "`ports: [\"127.0.0.1:{port}:{inside}/{proto}\"]`, or the host's address in the home's network in its place"
                )
            };
            if open && peers.contains(&inside) {
                let mend = format!(
                    "take {port}:{inside}/{proto} out of `ports`; peers come by the port that the VPN forwards, or not at all"
                );
                checked.find(
                    one,
                    format!("takes peers' connections on {inside}/{proto}, and is published for them at {at}"),
                    mend,
                );
            } else if to_world && proto == "tcp" && control == Some(inside) {
                let mend = format!("take {port}:{inside} out of `ports`");
                checked.find(one, format!("has its control server, which can stop the VPN, published at {at}"), mend);
            } else if to_world {
                checked.find(one, format!("has {inside}/{proto} published to everybody, at {at}"), narrow);
            } else {
                checked.see(one, format!("has {inside}/{proto} published at {at}"));
            }
        }
    }
    checked.pass = if any {
        "ports of the stack are published to the host and to the home's network alone".to_owned()
    } else {
        "no port of the stack is published".to_owned()
    };
    checked
}

fn peer_ports(account: &StackAccount) -> BTreeSet<u16> {
    // What Gluetun lets in by the tunnel is meant to come by the tunnel.
    let by_tunnel = account.gluetun.iter().flat_map(|gluetun| list(gluetun, "FIREWALL_VPN_INPUT_PORTS"));
    let stated = account.dependents.iter().flat_map(|one| one.peer_ports.iter().copied());
    let usual = PEERS.chain([PEERS_OF_TRANSMISSION]);
    by_tunnel.filter_map(|port| port.parse().ok()).chain(stated).chain(usual).collect()
}
