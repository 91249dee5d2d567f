//! What the kernel tells of links, addresses, routes and rules that change (rtnetlink(7)), in words.

use std::collections::HashMap;

use super::{Address, Link, Object, Route, Rule};
use crate::net::netlink::Message;

/// The multicast groups that tell of them: links, and addresses, routes and rules of both families (`RTNLGRP_*`).
pub const GROUPS: [u32; 7] = [1, 5, 7, 8, 9, 11, 19];

const LINK: [u16; 2] = [16, 17];
const ADDRESS: [u16; 2] = [20, 21];
const ROUTE: [u16; 2] = [24, 25];
const RULE: [u16; 2] = [32, 33];
/// Links by their index. Those that are gone have no name any more.
pub type Names = HashMap<u32, String>;

/// Table of the kernel's own routes to the host's addresses: what an address says already.
const TABLE_LOCAL: u32 = 255;

/// What a message of one of [`GROUPS`] says, on one line: `link tun0 is gone`, `IPv4 rule 101: … is gone`. `None`: nothing that matters.
/// `names` are the links that are known, and learn of others.
#[must_use]
pub fn told(message: &Message, names: &mut Names) -> Option<String> {
    let kinds = [LINK, ADDRESS, ROUTE, RULE];
    let gone =
        kinds.iter().find_map(|[new, gone]| [*new, *gone].contains(&message.kind).then_some(message.kind == *gone))?;
    let is = if gone { "is gone" } else { "is there" };
    let message = message.clone();
    match message.kind {
        kind if LINK.contains(&kind) => {
            let link = Link::parse(message).ok()?;
            names.insert(link.index, link.name.clone());
            let state = if link.is_up() { "is up" } else { "is down" };
            Some(format!("link {} {}", link.name, if gone { is } else { state }))
        }
        kind if ADDRESS.contains(&kind) => {
            let address = Address::parse(message).ok()??;
            Some(format!("address {} of {} {is}", address.address, name(names, address.link)))
        }
        kind if ROUTE.contains(&kind) => {
            let route = Route::parse(message).ok()??;
            if route.table == TABLE_LOCAL {
                return None;
            }
            let by = route.link.map(|link| format!(" by {}", name(names, link))).unwrap_or_default();
            let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
            Some(format!("route to {}{via}{by} in table {} {is}", route.destination, route.table))
        }
        _ => Some(format!("{} {is}", Rule::parse(message).ok()?.describe())),
    }
}

fn name(names: &Names, index: u32) -> String {
    names.get(&index).cloned().unwrap_or_else(|| format!("link {index}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_messages_and_broken_ones_say_nothing() {
        for kind in [0, 16, 20, 24, 28, 32, 99] {
            assert_eq!(told(&Message { kind, flags: 0, payload: Vec::new() }, &mut Names::new()), None, "{kind}");
        }
    }

    #[test]
    fn a_rule_is_told_with_its_table() {
        // struct fib_rule_hdr: IPv4, table 200, action lookup; FRA_PRIORITY 101.
        let mut payload = vec![2, 0, 0, 0, 200, 0, 0, 1, 0, 0, 0, 0];
        payload.extend([8, 0, 6, 0]);
        payload.extend(101_u32.to_ne_bytes());
        let text = told(&Message { kind: 33, flags: 0, payload }, &mut Names::new()).unwrap();
        assert!(text.starts_with("IPv4 rule 101: ") && text.ends_with(" table 200 is gone"), "{text}");
    }
}
