//! `subnets-stay-home`: what `FIREWALL_OUTBOUND_SUBNETS` lets past the tunnel. Gluetun's rule for them comes before the one that leads into the
//! tunnel, so that whatever of the VPN's own lies in them is sent out in clear; and so does a Docker network's.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Checked, NO_GLUETUN, list, settle};
use crate::config::Provider;
use crate::judge::{Case, Facts, Ruling};
use crate::model::evidence::{GluetunAccount, OUTBOUND_SUBNETS, StackAccount};
use crate::sensor::allow::is_private_net;

/// Mullvad's resolver, inside of every tunnel of its own.
const MULLVAD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 64, 0, 1));
/// A net that is no longer than this is half of the internet.
const HALF: u8 = 1;

pub fn judge(case: &Case<'_>) -> Ruling {
    let why = "what lies in an outbound subnet is sent out by the uplink and not into the tunnel";
    settle(case, why, |account, _| look(account, case.facts))
}

fn look(account: &StackAccount, facts: &Facts) -> Checked {
    let Some(gluetun) = &account.gluetun else { return Checked::skip(NO_GLUETUN) };
    let mut checked = Checked::default();
    let vpn = &account.vpn;
    checked.doubts.extend(super::unlisted(account));
    if facts.tunnel_nets.is_empty() {
        checked.doubts.push("the tunnel's own network is not known, which may lie in what is let past it".to_owned());
    }
    let Some(name) = OUTBOUND_SUBNETS.into_iter().find(|name| gluetun.setting(name).is_some()) else {
        docker_networks(&mut checked, account, gluetun, facts);
        checked.see(vpn, "lets no subnet past the tunnel but its Docker networks'");
        checked.pass = "nothing but the stack's Docker networks is let past the tunnel".to_owned();
        return checked;
    };
    for entry in list(gluetun, name) {
        let Ok(net) = entry.parse::<IpNet>() else {
            let mend = format!("write networks such as 192.168.1.0/24 into `{name}`, with commas between them");
            checked.find(vpn, format!("has `{entry}` in {name}, which is no network"), mend);
            continue;
        };
        let narrower = format!("write no more into `{name}` than the home's own network, such as 192.168.1.0/24");
        if net.prefix_len() <= HALF {
            checked.find_leak(vpn, format!("lets everything past the tunnel, by {net} in {name}"), narrower);
        } else if let Some((what, asked)) = of_vpn(&net, gluetun, facts) {
            let what = format!("sends {what} out by the uplink, by {net} in {name}");
            if asked {
                checked.find_leak(vpn, what, narrower);
            } else {
                checked.find(vpn, what, narrower);
            }
        } else if !is_private_net(&net) && !is_near_alone(&net) {
            checked.find(vpn, format!("lets public addresses past the tunnel, by {net} in {name}"), narrower);
        } else {
            checked.see(vpn, format!("lets {net} past the tunnel, by {name}"));
        }
    }
    docker_networks(&mut checked, account, gluetun, facts);
    checked.pass = format!("{name} names networks at home alone");
    checked
}

/// A Docker network that has the VPN's own addresses in it takes what is sent to them, too.
fn docker_networks(checked: &mut Checked, account: &StackAccount, gluetun: &GluetunAccount, facts: &Facts) {
    for network in &account.networks {
        for net in &network.subnets {
            let Some((what, asked)) = of_vpn(net, gluetun, facts) else { continue };
            let what = format!("sends {what} to the Docker network {} ({net})", network.name);
            let mend =
                format!("give `networks: {{{}: …}}` another subnet, by `ipam`, such as 172.30.0.0/24", network.name);
            if asked {
                checked.find_leak(&account.vpn, what, mend);
            } else {
                checked.find(&account.vpn, what, mend);
            }
        }
    }
}

/// What of the VPN's own lies in `net`, and whether it is a resolver that is asked.
fn of_vpn(net: &IpNet, gluetun: &GluetunAccount, facts: &Facts) -> Option<(String, bool)> {
    let asked = asked_resolvers(gluetun);
    let provider = gluetun.setting("VPN_SERVICE_PROVIDER").filter(|name| name != "custom");
    let is_mullvad = provider.map_or(facts.provider == Some(Provider::Mullvad), |name| name == "mullvad");
    let in_tunnel = |ip: &IpAddr| *ip == MULLVAD || facts.tunnel_nets.iter().any(|own| own.contains(ip));
    if let Some(ip) = asked.iter().find(|ip| in_tunnel(ip) && net.contains(*ip)) {
        return Some((format!("questions to the VPN's resolver {ip}"), true));
    }
    if is_mullvad && net.contains(&MULLVAD) {
        return Some((format!("questions to the VPN's resolver {MULLVAD}"), false));
    }
    let own = facts.tunnel_nets.iter().find(|own| net.contains(&own.addr()) || own.contains(&net.addr()));
    own.map(|own| (format!("what is for the tunnel's own network ({own})"), false))
}

/// Resolvers that Gluetun is told to ask.
fn asked_resolvers(gluetun: &GluetunAccount) -> Vec<IpAddr> {
    let single = ["DNS_ADDRESS", "DNS_PLAINTEXT_ADDRESS"].into_iter().filter_map(|name| gluetun.setting(name));
    let listed = list(gluetun, "DNS_UPSTREAM_PLAIN_ADDRESSES");
    let listed = listed.iter().filter_map(|text| text.parse::<std::net::SocketAddr>().ok()).map(|at| at.ip());
    single.filter_map(|text| text.parse().ok()).chain(listed).collect()
}

/// Multicast and link-local space, which no router carries on.
fn is_near_alone(net: &IpNet) -> bool {
    let link_local = |ip: IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    (net.network().is_multicast() && net.broadcast().is_multicast())
        || (link_local(net.network()) && link_local(net.broadcast()))
}
