//! `kill-switch-on`: whether Gluetun's firewall is switched off by its environment, in the spelling that its version reads.

use super::{Checked, NO_GLUETUN, settle};
use crate::judge::{Case, Ruling};
use crate::model::evidence::{GluetunAccount, StackAccount};

/// The switch from v3.39 on. Its image sets it.
const NEW: &str = "FIREWALL_ENABLED_DISABLING_IT_SHOOTS_YOU_IN_YOUR_FOOT";
/// The switch up to v3.38, whose image sets this one.
const OLD: &str = "FIREWALL";
/// The last version that reads the old one.
const LAST_OLD: (u32, u32) = (3, 38);

pub fn judge(case: &Case<'_>) -> Ruling {
    let why = "without its firewall nothing holds back what does not take the tunnel, and all of it goes out when the tunnel dies";
    settle(case, why, |account, _| look(account))
}

fn look(account: &StackAccount) -> Checked {
    let Some(gluetun) = &account.gluetun else { return Checked::skip(NO_GLUETUN) };
    let mut checked = Checked::default();
    let told = |name: &'static str| gluetun.switch(name).map(|switch| (name, switch));
    let read = match (reads_old(gluetun), told(OLD), told(NEW)) {
        (Some(true), old, _) => old,
        (Some(false), _, new) => new,
        // An image sets the one that it reads, so that the other alone, or both to the same, leave no question.
        (None, old, None) => old,
        (None, None, new) => new,
        (None, Some((_, Ok(old))), Some((name, Ok(new)))) if old == new => Some((name, Ok(new))),
        (None, Some(_), Some(_)) => {
            checked
                .doubts
                .push(format!("{OLD} and {NEW} do not agree, and which of them this version reads is not known"));
            None
        }
    };
    match read {
        Some((name, Ok(false))) => {
            let value = gluetun.setting(name).unwrap_or_default();
            let mend = format!("drop `{name}: \"{value}\"` from its `environment`");
            checked.find_leak(&account.vpn, format!("runs without its firewall, by {name}={value}"), mend);
        }
        Some((name, Ok(true))) => checked.see(&account.vpn, format!("has its firewall on, by {name}")),
        Some((name, Err(word))) => checked.doubts.push(format!("{name} is `{word}`, which is neither on nor off")),
        None => checked.see(&account.vpn, "is not told to leave its firewall off"),
    }
    checked.pass = "no setting turns Gluetun's firewall off".to_owned();
    checked
}

/// Whether this version reads the old switch; `None`: its version is not known.
fn reads_old(gluetun: &GluetunAccount) -> Option<bool> {
    let mut numbers = gluetun.version.as_deref()?.strip_prefix('v')?.split('.').map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else { return None };
    Some((major, minor) <= LAST_OLD)
}
