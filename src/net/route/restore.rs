//! Putting back what a link lost by going down: its addresses and every route of every table that used it.

use super::{Object, Route, RouteError, Rtnetlink, Snapshot};
use crate::net::netlink::{Message, attributes, put_attribute};
use std::collections::HashSet;

const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const RTA_CACHEINFO: u16 = 12;
const RTPROT_KERNEL: u8 = 2;
const RTA_NH_ID: u16 = 30;
/// What a route with a next-hop object shows of it, and the kernel refuses to be told again.
const NEXT_HOP_DETAILS: &[u16] = &[4, 5, 9, 18];

/// What [`restore_link`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Addresses and routes that were put back.
    pub restored: Vec<String>,
    /// Those that could not be, with the kernel's reason.
    pub failed: Vec<String>,
}

/// Brings `name` up if it was up in `before`, and puts back its addresses and all routes of `before` that are missing
/// now, of all tables, byte for byte as the kernel had told them.
///
/// # Errors
/// When the link is gone, cannot be brought up, or the present state cannot be read. A single route that is refused is
/// in the report's `failed`.
pub fn restore_link(before: &Snapshot, name: &str) -> Result<RestoreReport, RouteError> {
    let missing = || RouteError::NoLink(name.to_owned());
    let link = before.link(name).ok_or_else(missing)?;
    let mut netlink = Rtnetlink::open()?;
    let present = Snapshot::take()?;
    let now = present.link(name).ok_or_else(missing)?;
    if now.index != link.index {
        return Err(missing());
    }
    if link.is_up() && !now.is_up() {
        netlink.set_link(name, true)?;
    }
    let mut report = RestoreReport::default();
    let present = Snapshot::take()?;
    let held: HashSet<_> = present.addresses.iter().map(|a| (a.link, a.address)).collect();
    for address in before.addresses.iter().filter(|a| a.link == link.index && !held.contains(&(a.link, a.address))) {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        let message = Message { kind: RTM_NEWADDR, flags, payload: address.raw().to_vec() };
        note(&mut report, address.describe(), netlink.send(&message, "put back an address"));
    }
    routes(before, &mut netlink, &mut report)?;
    Ok(report)
}

/// A gateway is accepted only once the route to it is there, so what is refused is tried again as long as anything else
/// succeeds.
fn routes(before: &Snapshot, netlink: &mut Rtnetlink, report: &mut RestoreReport) -> Result<(), RouteError> {
    let present: HashSet<Vec<u8>> = Snapshot::take()?.routes.iter().map(Object::identity).collect();
    let gone = |route: &&Route| !present.contains(&route.identity()) && !is_kernels_own(route);
    let mut missing: Vec<&Route> = before.routes.iter().filter(gone).collect();
    loop {
        let mut refused = Vec::new();
        let count = missing.len();
        for route in missing {
            match netlink.send(&again(route), "put back a route") {
                Err(error) if error.errno() != Some(libc::EEXIST) => refused.push((route, error)),
                outcome => note(report, route.describe(), outcome),
            }
        }
        if refused.is_empty() || refused.len() == count {
            report.failed.extend(refused.into_iter().map(|(route, error)| failure(&route.describe(), &error)));
            return Ok(());
        }
        missing = refused.into_iter().map(|(route, _)| route).collect();
    }
}

/// Whether the kernel makes and removes the route by itself with the address it belongs to: local, broadcast, anycast and
/// multicast entries. A copy made by hand would stand beside its own, which comes a moment later over IPv6.
fn is_kernels_own(route: &Route) -> bool {
    route.protocol == RTPROT_KERNEL
        && matches!(route.kind, libc::RTN_LOCAL | libc::RTN_BROADCAST | libc::RTN_ANYCAST | libc::RTN_MULTICAST)
}

/// The message with which the kernel told of the route, as a request to make it.
fn again(route: &Route) -> Message {
    let (fixed, rest) = route.raw().split_at(Route::FIXED);
    let mut payload = fixed.to_vec();
    Route::settle(&mut payload);
    let by_object = attributes(rest).any(|(kind, _)| kind == RTA_NH_ID);
    for (kind, value) in attributes(rest) {
        if kind == RTA_CACHEINFO || (by_object && NEXT_HOP_DETAILS.contains(&kind)) {
            continue;
        }
        put_attribute(&mut payload, kind, value);
    }
    // IPv4 holds routes that differ only in their next hop side by side; in IPv6 appending would make them one.
    let exclusive = if route.destination.addr().is_ipv4() { NLM_F_APPEND } else { NLM_F_EXCL };
    Message { kind: RTM_NEWROUTE, flags: NLM_F_CREATE | exclusive, payload }
}

/// That it is there already is as good: the kernel makes some routes by itself when an address comes.
fn note(report: &mut RestoreReport, what: String, outcome: Result<(), RouteError>) {
    match outcome {
        Ok(()) => report.restored.push(what),
        Err(error) if error.errno() == Some(libc::EEXIST) => {}
        Err(error) => report.failed.push(failure(&what, &error)),
    }
}

fn failure(what: &str, error: &RouteError) -> String {
    let mut text = format!("{what}: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
