//! `no-client-beside`: torrent clients of the same project or network that do not share the VPN's, and containers that were left without one.
//! Only what is a torrent client by its own name is taken for one: other programs may well be meant to stand beside the VPN.

use super::{Checked, TUN, settle};
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

/// What `wg-quick` sets (wg-quick(8)), and cannot set by itself in a container.
const VALID_MARK: &str = "net.ipv4.conf.all.src_valid_mark";

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
    let all = account.dependents.iter().chain(&account.beside);
    for one in all.filter(|one| one.joined_gone && !has_ended(one)) {
        let what = "joined the network of a container that is gone, and is left with a loopback alone";
        let mend = format!("create it anew: `docker compose up -d --force-recreate {}`", service_of(one));
        checked.find(one, what, mend);
    }
    for one in account.beside.iter().filter(|one| !one.joined_gone && !has_ended(one)) {
        if has_own_way_out(one) && is_client(one) && !brings_own_vpn(one) {
            let what = format!("is a torrent client ({}) beside the VPN, on {}", one.image, networks(one));
            checked.find(one, what, format!("{join} in the place of its `networks` and `ports`"));
        }
    }
    for one in &account.dependents {
        // Podman names those of the VPN's container.
        let own: Vec<&str> = one.networks.iter().map(String::as_str).filter(|net| !is_of(&account.vpn, net)).collect();
        if !own.is_empty() {
            let what = format!("shares the VPN's network and is on the network {} besides", own.join(" and "));
            checked.find(one, what, "drop its `networks`");
        }
    }
    checked.pass = match account.beside.len() {
        0 => "no other container is of the stack's project, or on a network of its own".to_owned(),
        some => format!("{} beside the stack, none of which is a torrent client", count(some as u64, "container")),
    };
    checked
}

fn is_of(vpn: &ContainerAccount, network: &str) -> bool {
    vpn.networks.iter().any(|own| own == network)
}

/// Its own network, and not that of another container, which may be another VPN's, nor none.
fn has_own_way_out(one: &ContainerAccount) -> bool {
    one.network_mode != "none" && !one.network_mode.starts_with("container:")
}

/// One that is paused, or about to be restarted, goes on.
fn has_ended(one: &ContainerAccount) -> bool {
    matches!(one.state.as_str(), "created" | "exited" | "dead" | "removing")
}

/// The last part of the image's name, without its tag.
fn image_name(one: &ContainerAccount) -> &str {
    let last = one.image.rsplit('/').next().unwrap_or_default();
    last.split([':', '@']).next().unwrap_or_default()
}

fn is_client(one: &ContainerAccount) -> bool {
    [Some(image_name(one)), one.service.as_deref()].into_iter().flatten().any(|name| {
        let name = name.to_lowercase();
        let bare = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(&name);
        CLIENTS.contains(&bare)
    })
}

/// Images that have a tunnel of their own in them say so, or need what it takes to make one.
fn brings_own_vpn(one: &ContainerAccount) -> bool {
    let holds = |name: &str| one.capabilities.iter().any(|own| own == name);
    let may = holds("NET_ADMIN") || holds("ALL");
    // By a device of its own, or as `wg-quick` does it with the kernel's WireGuard.
    let tunnels = one.devices.iter().any(|device| device == TUN) || one.sysctls.contains_key(VALID_MARK);
    image_name(one).to_lowercase().contains("vpn") || one.privileged || (may && tunnels)
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
