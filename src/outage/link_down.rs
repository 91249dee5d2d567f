//! Method `link-down`: the tunnel's link is set down, which takes its routes and its IPv6 addresses with it, and is set up again with
//! all of them as they were. Needs CAP_NET_ADMIN in the stack's namespace.

use crate::model::evidence::Role;
use crate::net::route::{Rtnetlink, Snapshot, restore_link};
use crate::technique::Context;

/// See the head of this file.
pub(super) struct LinkDown {
    link: String,
    before: Snapshot,
    changed: bool,
}

impl LinkDown {
    /// Whether there is a tunnel, and the right to set it down.
    pub(super) fn check(cx: &Context) -> Result<(), String> {
        tunnel(cx)?;
        if has_net_admin() { Ok(()) } else { Err("CAP_NET_ADMIN is missing in the stack's namespace".to_owned()) }
    }

    /// Takes note of links, addresses, rules and routes.
    pub(super) fn arm(cx: &Context) -> Result<Self, String> {
        let before = Snapshot::take().map_err(|error| error.to_string())?;
        let link = tunnel(cx)?;
        match before.link(&link) {
            Some(found) if found.is_up() => Ok(LinkDown { link, before, changed: false }),
            Some(_) => Err(format!("the link {link} is down already")),
            None => Err(format!("there is no link {link} any more")),
        }
    }

    pub(super) fn down(&mut self) -> Result<String, String> {
        let mut kernel = Rtnetlink::open().map_err(|error| error.to_string())?;
        self.changed = true;
        kernel.set_link(&self.link, false).map_err(|error| error.to_string())?;
        let now = Snapshot::take().map_err(|error| error.to_string())?;
        match now.link(&self.link) {
            Some(link) if !link.is_up() => Ok(format!("the kernel says that {} is down", self.link)),
            Some(_) => Err(format!("{} is still up", self.link)),
            None => Ok(format!("the kernel says that {} is gone", self.link)),
        }
    }

    pub(super) fn up(&mut self) -> Result<(), String> {
        if !self.changed || self.replaced()? {
            return Ok(());
        }
        let report = restore_link(&self.before, &self.link).map_err(|error| error.to_string())?;
        if report.failed.is_empty() { Ok(()) } else { Err(report.failed.join("; ")) }
    }

    pub(super) fn verify(&self) -> Result<(), String> {
        if !self.changed || self.replaced()? {
            return Ok(());
        }
        let now = Snapshot::take().map_err(|error| error.to_string())?;
        let differences = self.concerned(&self.before).diff(&self.concerned(&now));
        if differences.is_empty() { Ok(()) } else { Err(differences.join("; ")) }
    }

    /// What setting the link down can have changed: the link, its addresses and routes, and the rules. Other links live on by themselves.
    fn concerned(&self, all: &Snapshot) -> Snapshot {
        let index = self.before.link(&self.link).map(|link| link.index);
        Snapshot {
            links: all.links.iter().filter(|link| Some(link.index) == index).cloned().collect(),
            addresses: all.addresses.iter().filter(|address| Some(address.link) == index).cloned().collect(),
            rules: all.rules.clone(),
            routes: all.routes.iter().filter(|route| route.link.is_none() || route.link == index).cloned().collect(),
        }
    }

    /// Whether the VPN itself has made its link anew meanwhile: then what was changed went with the old one.
    fn replaced(&self) -> Result<bool, String> {
        let now = Snapshot::take().map_err(|error| error.to_string())?;
        Ok(match (self.before.link(&self.link), now.link(&self.link)) {
            (Some(before), Some(now)) => before.index != now.index,
            _ => false,
        })
    }
}

fn tunnel(cx: &Context) -> Result<String, String> {
    let link = cx.links.iter().find(|link| link.role == Role::Tunnel);
    link.map(|link| link.name.clone()).ok_or_else(|| "no tunnel was found in the namespace".to_owned())
}

/// Whether this process has CAP_NET_ADMIN in effect (capabilities(7), bit 12 of CapEff in proc(5)).
fn has_net_admin() -> bool {
    const CAP_NET_ADMIN: u32 = 12;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> CAP_NET_ADMIN & 1 == 1)
}
