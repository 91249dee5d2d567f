//! `ipv6-closed-off`: whether Docker gives the stack IPv6 that no tunnel carries. That nothing gets out by it the probe `ipv6` proves; here it is
//! that nothing but a firewall keeps it in.

use super::{Checked, settle};
use crate::judge::{Case, Facts, Ruling};
use crate::model::evidence::StackAccount;

/// The kernel's switch for all links of a namespace (`Documentation/networking/ip-sysctl.rst`).
const SWITCH: &str = "net.ipv6.conf.all.disable_ipv6";

pub fn judge(case: &Case<'_>) -> Ruling {
    let why = "IPv6 that the tunnel does not carry has the home's uplink for its only way out, and nothing but ip6tables in it";
    settle(case, why, |account, _| look(account, case.facts))
}

fn look(account: &StackAccount, facts: &Facts) -> Checked {
    let mut checked = Checked::default();
    let vpn = &account.vpn;
    checked.doubts.extend(super::unlisted(account));
    let with: Vec<&str> = account.networks.iter().filter(|net| net.ipv6).map(|net| net.name.as_str()).collect();
    if with.is_empty() {
        checked.see(vpn, "is on no Docker network that has IPv6");
        checked.pass = "Docker gives the stack no IPv6".to_owned();
        return checked;
    }
    let names = with.join(" and ");
    if vpn.sysctls.get(SWITCH).is_some_and(|value| value.trim() == "1") {
        checked.see(vpn, format!("has IPv6 switched off, by {SWITCH}"));
        checked.pass = format!("IPv6 of {names} is switched off in the stack's network");
        return checked;
    }
    if facts.tunnel_has_ipv6() {
        checked.see(vpn, format!("has IPv6 by {names}, and in the tunnel"));
        checked.pass = format!("the tunnel carries the IPv6 that {names} has too");
    } else if facts.tunnel_nets.is_empty() {
        checked
            .doubts
            .push(format!("Docker gives the stack IPv6 by {names}, and whether the tunnel has any is not known"));
    } else {
        let mend = format!("`sysctls: {{{SWITCH}: \"1\"}}`, or `enable_ipv6: false` for its networks");
        checked.find(vpn, format!("has IPv6 by the Docker network {names}, and none in the tunnel"), mend);
    }
    checked
}
