//! `resolvers-of-vpn`: whom Gluetun is told to ask for names. Who is asked in the end `resolver-is-vpn` sees; here a setting that leads elsewhere is
//! named.

use std::net::{IpAddr, SocketAddr};

use super::{Checked, NO_GLUETUN, list, settle, switch};
use crate::judge::{Case, Facts, Ruling};
use crate::model::evidence::StackAccount;
use crate::sensor::allow::is_private;

/// Names of the variable that gives a resolver, the new one first.
const ADDRESS: [&str; 2] = ["DNS_ADDRESS", "DNS_PLAINTEXT_ADDRESS"];
const PLAIN: &str = "DNS_UPSTREAM_PLAIN_ADDRESSES";
const TYPE: &str = "DNS_UPSTREAM_RESOLVER_TYPE";
const KEEP: &str = "DNS_KEEP_NAMESERVER";

pub fn judge(case: &Case<'_>) -> Ruling {
    let why = "names that are asked of others than the VPN's resolver tell them what is done, and over plain DNS everybody on the way";
    settle(case, why, |account, _| look(account, case.facts))
}

fn look(account: &StackAccount, facts: &Facts) -> Checked {
    let Some(gluetun) = &account.gluetun else { return Checked::skip(NO_GLUETUN) };
    let mut checked = Checked::default();
    let vpn = &account.vpn;
    if switch(&mut checked, gluetun, KEEP) == Some(true) {
        let what = format!(
            "keeps the nameserver that Docker gave it, by {KEEP}: the home's is asked, past the tunnel where Docker asks from the host"
        );
        checked.find(vpn, what, format!("drop `{KEEP}` from its `environment`"));
    }
    let mut named = false;
    for name in ADDRESS {
        let Some(text) = gluetun.setting(name) else { continue };
        match text.parse::<IpAddr>() {
            Ok(ip) if ip.is_loopback() => {}
            Ok(ip) => {
                named = true;
                asks(&mut checked, account, facts, name, ip);
            }
            Err(_) => checked.doubts.push(format!("{name} is `{text}`, which is no address")),
        }
    }
    // One that is named makes it ask without encryption, and it adds those of the list.
    let is_plain = named || gluetun.setting(TYPE).is_some_and(|kind| kind == "plain");
    for text in list(gluetun, PLAIN).iter().filter(|_| is_plain) {
        named = true;
        match text.parse::<SocketAddr>().map(|at| at.ip()).or_else(|_| text.parse()) {
            Ok(ip) => asks(&mut checked, account, facts, PLAIN, ip),
            Err(_) => checked.doubts.push(format!("{PLAIN} has `{text}`, which is no address")),
        }
    }
    let off = ["DNS_SERVER", "DOT"].into_iter().find(|name| switch(&mut checked, gluetun, name) == Some(false));
    let by = off.map(|name| format!("{name}=off")).or_else(|| is_plain.then(|| format!("{TYPE}=plain")));
    match by {
        Some(by) if !named => {
            let what = format!("asks a public resolver in clear, by {by} and no resolver of the VPN's own");
            let mend = match off {
                Some(name) => format!(
                    "drop `{name}` from its `environment`, or name the VPN's resolver: `DNS_ADDRESS: 10.64.0.1` (Mullvad)"
                ),
                None => format!(
                    "drop `{TYPE}` from its `environment`, or name the VPN's resolver: `{PLAIN}: 10.64.0.1:53` (Mullvad)"
                ),
            };
            checked.find(vpn, what, mend);
        }
        Some(by) => checked.see(vpn, format!("asks without encryption, by {by}")),
        None => checked.see(vpn, "is not told to leave its own resolver off"),
    }
    checked.pass =
        "no setting has Gluetun ask others than the VPN's resolver, or its own over an encrypted way".to_owned();
    checked
}

fn asks(checked: &mut Checked, account: &StackAccount, facts: &Facts, name: &str, ip: IpAddr) {
    let vpn = &account.vpn;
    let nearby = facts.local.iter().chain(&facts.uplink_nets).any(|net| net.contains(&ip));
    let mend = format!(
        "name the VPN's resolver, `{name}: 10.64.0.1` (Mullvad), or drop `{name}` for Gluetun's own, which asks over TLS"
    );
    if !is_private(ip) {
        checked.find(vpn, format!("asks the public resolver {ip} in clear, by {name}"), mend);
    } else if nearby {
        checked.find(vpn, format!("asks {ip} on a local network, past the tunnel, by {name}"), mend);
    } else {
        checked.see(vpn, format!("asks {ip}, by {name}"));
    }
}
