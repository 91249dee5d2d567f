//! `no-client-beside`: torrent clients of the same project or network that do not share the VPN's, and containers that were left without one.
//! Only what is a torrent client by its own name is taken for one: other programs may well be meant to stand beside the VPN.

use super::{Checked, RUNNING, settle};
use crate::judge::{Case, Ruling, count};
use crate::model::evidence::{ContainerAccount, StackAccount};

/// Torrent clients, and others that speak to peers, as images and services are called.
const CLIENTS: [&str; 14] = [
    "qbittorrent",
    "qbittorrent-nox",
    "qbittorrent-enhanced",
    "transmission",
    "transmission-daemon",
    "deluge",
    "deluged",
    "rtorrent",
    "rutorrent",
    "rtorrent-rutorrent",
    "rqbit",
    "biglybt",
    "slskd",
    "nicotine-plus",
];
/// What packagers write before such a name.
const PREFIXES: [&str; 4] = ["docker-", "arch-", "alpine-", "rdesktop-"];

pub fn judge(case: &Case<'_>) -> Ruling {
    let why = "what is not in the VPN container's network goes by the home line, whatever the VPN does, unless it is told to use a proxy";
    settle(case, why, |account, _| look(account))
}

fn look(account: &StackAccount) -> Checked {
    let mut checked = Checked::default();
    let vpn = account.vpn.service.as_deref().unwrap_or(&account.vpn.name);
    let join = match account.vpn.service {
        Some(_) => format!("`network_mode: \"service:{vpn}\"`"),
        None => format!("`network_mode: \"container:{vpn}\"`"),
    };
    for one in account.beside.iter().filter(|one| one.state == RUNNING) {
        if one.joined_gone {
            let what = "joined the network of a container that is gone, and is left with a loopback alone";
            let mend = format!("create it anew: `docker compose up -d --force-recreate {}`", service_of(one));
            checked.find(one, what, mend);
        } else if has_own_way_out(one) && is_client(one) && !brings_own_vpn(one) {
            let what = format!("is a torrent client ({}) beside the VPN, on {}", one.image, networks(one));
            checked.find(one, what, format!("{join} in the place of its `networks` and `ports`"));
        }
    }
    for one in account.dependents.iter().filter(|one| !one.networks.is_empty()) {
        let what = format!("shares the VPN's network and is on {} besides", networks(one));
        checked.find(one, what, "drop its `networks`");
    }
    checked.pass = match account.beside.len() {
        0 => "no other container is of the stack's project, or on a network of its own".to_owned(),
        some => format!("{} beside the stack, none of which is a torrent client", count(some as u64, "container")),
    };
    checked
}

/// Its own network, and not that of another container, which may be another VPN's, nor none.
fn has_own_way_out(one: &ContainerAccount) -> bool {
    one.network_mode != "none" && !one.network_mode.starts_with("container:")
}

fn is_client(one: &ContainerAccount) -> bool {
    let image = one.image.rsplit('/').next().unwrap_or_default();
    let image = image.split([':', '@']).next().unwrap_or_default();
    [Some(image), one.service.as_deref()].into_iter().flatten().any(|name| {
        let name = name.to_lowercase();
        let bare = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(&name);
        CLIENTS.contains(&bare)
    })
}

/// Images that have a tunnel of their own in them need what it takes to make one.
fn brings_own_vpn(one: &ContainerAccount) -> bool {
    let holds = |name: &str| one.capabilities.iter().any(|own| own == name);
    one.image.to_lowercase().contains("vpn") || one.privileged || holds("NET_ADMIN") || holds("ALL")
}

fn service_of(one: &ContainerAccount) -> &str {
    one.service.as_deref().unwrap_or(&one.name)
}

fn networks(one: &ContainerAccount) -> String {
    match one.networks.as_slice() {
        [] => format!("the network `{}`", one.network_mode),
        some => format!("the network {}", some.join(" and ")),
    }
}
