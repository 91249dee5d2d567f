//! `started-in-order`: whether the VPN container can say that it is well, whether those that share its network wait for that, and whether all of
//! them come back by themselves.

use std::collections::BTreeMap;

use super::{Checked, members, settle};
use crate::judge::{Case, Ruling};
use crate::model::evidence::StackAccount;

/// The condition of `depends_on` that waits for a health check.
const HEALTHY: &str = "service_healthy";

pub fn judge(case: &Case<'_>) -> Ruling {
    let why = "what starts before the VPN's firewall is there sends in clear, and what does not start again is missed when it is needed";
    settle(case, why, |account, _| look(account))
}

fn look(account: &StackAccount) -> Checked {
    let mut checked = Checked::default();
    let vpn = &account.vpn;
    if vpn.healthcheck {
        checked.see(vpn, "has a health check");
    } else {
        let mend = "drop `healthcheck: {disable: true}` where Gluetun's image has one of its own, or write one that asks for something beyond the tunnel";
        checked.find(vpn, "has no health check that others could wait for", mend);
    }
    let project = account.dependents.iter().chain(&account.beside).filter(|one| one.same_project);
    let depend: BTreeMap<&str, &[(String, String)]> =
        project.filter_map(|one| Some((one.service.as_deref()?, one.depends_on.as_deref()?))).collect();
    for one in &account.dependents {
        match (&vpn.service, &one.depends_on) {
            (Some(service), Some(all)) if one.same_project => {
                if waits(service, all, &depend, depend.len()) {
                    checked.see(one, format!("is started when {service} is healthy"));
                } else {
                    let mend = format!("`depends_on: {{{service}: {{condition: {HEALTHY}, restart: true}}}}`");
                    checked.find(one, format!("does not wait until {service} is healthy"), mend);
                }
            }
            (Some(_), None) if one.same_project => {
                checked.see(
                    one,
                    "was made by a Compose that does not tell what it waits for: `depends_on` was not looked at",
                );
            }
            _ => checked
                .see(one, "is of another project than the VPN container, or of none: Compose cannot have it wait"),
        }
    }
    for one in members(account) {
        let missing = match one.restart.as_str() {
            "" | "no" => "is not started again when it ends, or the host has been",
            "on-failure" => "is started again after a failure alone, and not when the host has been",
            policy => {
                checked.see(one, format!("is restarted: {policy}"));
                continue;
            }
        };
        checked.find(one, missing, "`restart: unless-stopped`");
    }
    checked.pass = "the VPN container has a health check, nothing that tells starts before it is healthy, and all are started again".to_owned();
    checked
}

/// By itself, or by way of others that do.
fn waits(vpn: &str, all: &[(String, String)], depend: &BTreeMap<&str, &[(String, String)]>, depth: usize) -> bool {
    all.iter().any(|(service, condition)| {
        if service == vpn {
            return condition == HEALTHY;
        }
        // Compose refuses circles; no chain is longer than there are services.
        depth > 0 && depend.get(service.as_str()).is_some_and(|next| waits(vpn, next, depend, depth - 1))
    })
}
