//! Method `link-down`: the tunnel's link loses its IPv4 addresses and is set down, which takes its routes and its IPv6 addresses with it,
//! and is set up again with all of them as they were. Needs CAP_NET_ADMIN in the stack's namespace.
//!
//! The IPv4 addresses go first, as they go with every link that a VPN program takes away: while one stays the kernel sends what the stack's
//! programs have open in the tunnel by whatever route is left, and a firewall that lets known connections pass, as Gluetun's does, lets that
//! out. It would be a leak of our own making. A socket whose source address is gone is refused before any firewall is asked.

use super::undo::Undo;
use crate::model::evidence::Role;
use crate::net::capability;
use crate::net::route::{Address, Rtnetlink, Snapshot};
use crate::technique::Context;

/// See the head of this file.
pub(super) struct LinkDown {
    name: String,
    addresses: Vec<Address>,
}

impl LinkDown {
    /// Whether there is a tunnel, and the right to set it down.
    pub(super) fn check(cx: &Context) -> Result<(), String> {
        let name = tunnel(cx)?;
        may_change_the_network()?;
        let before = Snapshot::take().map_err(|error| error.to_string())?;
        fits(&before, &name)
    }

    /// Takes note of links, addresses, rules and routes.
    pub(super) fn arm(cx: &Context) -> Result<(Self, Undo), String> {
        let before = Snapshot::take().map_err(|error| error.to_string())?;
        let name = tunnel(cx)?;
        fits(&before, &name)?;
        match before.link(&name) {
            Some(found) if found.is_up() => {
                let of_link = |address: &&Address| address.link == found.index && address.address.addr().is_ipv4();
                let addresses = before.addresses.iter().filter(of_link).cloned().collect();
                Ok((LinkDown { name: name.clone(), addresses }, Undo::Link { name, before }))
            }
            Some(_) => Err(format!("the link {name} is down already")),
            None => Err(format!("there is no link {name} any more")),
        }
    }

    pub(super) fn down(&mut self) -> Result<String, String> {
        let LinkDown { name, addresses } = self;
        let mut kernel = Rtnetlink::open().map_err(|error| error.to_string())?;
        for address in addresses {
            kernel.delete_listed_address(address).map_err(|error| error.to_string())?;
        }
        kernel.set_link(name, false).map_err(|error| error.to_string())?;
        let now = Snapshot::take().map_err(|error| error.to_string())?;
        match now.link(name) {
            Some(link) if !link.is_up() => Ok(format!("the kernel says that {name} is down")),
            Some(_) => Err(format!("{name} is still up")),
            None => Ok(format!("the kernel says that {name} is gone")),
        }
    }
}

/// Whether all that the link would lose could be put back.
fn fits(before: &Snapshot, name: &str) -> Result<(), String> {
    let Some(link) = before.link(name) else { return Ok(()) };
    match before.is_lost_with(link).map_err(|error| error.to_string())? {
        Some(why) => Err(why),
        None => Ok(()),
    }
}

/// Name of the tunnel's link.
pub(super) fn tunnel(cx: &Context) -> Result<String, String> {
    let link = cx.links.iter().find(|link| link.role == Role::Tunnel);
    link.map(|link| link.name.clone()).ok_or_else(|| "no tunnel was found in the namespace".to_owned())
}

/// Whether this process has CAP_NET_ADMIN in effect.
pub(super) fn may_change_the_network() -> Result<(), String> {
    let granted = capability::is_held(capability::NET_ADMIN);
    if granted { Ok(()) } else { Err("CAP_NET_ADMIN is missing in the stack's namespace".to_owned()) }
}
