//! Method `link-down`: the tunnel's link is set down, which takes its routes and its IPv6 addresses with it, and is set up again with
//! all of them as they were. Needs CAP_NET_ADMIN in the stack's namespace.

use super::undo::Undo;
use crate::model::evidence::Role;
use crate::net::capability;
use crate::net::route::{Rtnetlink, Snapshot};
use crate::technique::Context;

/// See the head of this file.
pub(super) struct LinkDown(String);

impl LinkDown {
    /// Whether there is a tunnel, and the right to set it down.
    pub(super) fn check(cx: &Context) -> Result<(), String> {
        tunnel(cx)?;
        may_change_the_network()
    }

    /// Takes note of links, addresses, rules and routes.
    pub(super) fn arm(cx: &Context) -> Result<(Self, Undo), String> {
        let before = Snapshot::take().map_err(|error| error.to_string())?;
        let name = tunnel(cx)?;
        match before.link(&name) {
            Some(found) if found.is_up() => Ok((LinkDown(name.clone()), Undo::Link { name, before })),
            Some(_) => Err(format!("the link {name} is down already")),
            None => Err(format!("there is no link {name} any more")),
        }
    }

    pub(super) fn down(&mut self) -> Result<String, String> {
        let LinkDown(name) = self;
        let mut kernel = Rtnetlink::open().map_err(|error| error.to_string())?;
        kernel.set_link(name, false).map_err(|error| error.to_string())?;
        let now = Snapshot::take().map_err(|error| error.to_string())?;
        match now.link(name) {
            Some(link) if !link.is_up() => Ok(format!("the kernel says that {name} is down")),
            Some(_) => Err(format!("{name} is still up")),
            None => Ok(format!("the kernel says that {name} is gone")),
        }
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
