//! Putting back what a link lost by going down: its addresses and every route of every table that used it.

use super::change::HOLD;
use super::{Address, Object, Route, RouteError, Rtnetlink, Rule, Snapshot};
use crate::net::netlink::{Message, attributes, put_attribute};
use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const RTA_CACHEINFO: u16 = 12;
const RTA_NH_ID: u16 = 30;
/// What a route with a next-hop object shows of it, and the kernel refuses to be told again.
const NEXT_HOP_DETAILS: &[u16] = &[4, 5, 9, 18];

/// Of a route that the kernel made, for an address (rtnetlink(7)).
pub(super) const RTPROT_KERNEL: u8 = 2;

/// How long the kernel's worker may take for the routes that come with an address.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);

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
    let mut report = RestoreReport { restored: early_routes(before, link.index, &mut netlink)?, failed: Vec::new() };
    let present = Snapshot::take()?;
    let held: HashSet<Vec<u8>> = present.addresses.iter().map(Object::identity).collect();
    let of_link = |address: &&Address| address.link == link.index;
    let lost = before.addresses.iter().filter(of_link).filter(|address| !held.contains(&address.identity()));
    let (v4, v6): (Vec<&Address>, Vec<&Address>) = lost.partition(|address| address.address.addr().is_ipv4());
    if is_waited_for(before, &present, link.index) {
        for address in &v4 {
            // Where the kernel knows no such rules there are no others either.
            let _ = netlink.hold(address.address.addr(), true);
        }
    }
    // Of those over IPv6 the kernel puts a new one before the others.
    for address in v4.iter().chain(v6.iter().rev()) {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        let message = Message { kind: RTM_NEWADDR, flags, payload: address.raw().to_vec() };
        note(&mut report, address.describe(), netlink.send(&message, "put back an address"));
    }
    let outcome = routes(before, &mut netlink, &mut report);
    release(before, name)?;
    remove_what_came_by_itself(before, &Snapshot::take()?, link.index, &mut netlink)?;
    outcome?;
    Ok(report)
}

/// The routes by the link that need no address of it, while it has none: what is sent from such an address goes by the tunnel as soon as
/// the kernel lets it go anywhere. Others are refused, and had in their turn.
fn early_routes(before: &Snapshot, link: u32, netlink: &mut Rtnetlink) -> Result<Vec<String>, RouteError> {
    let present: HashSet<Vec<u8>> = Snapshot::take()?.routes.iter().map(Object::identity).collect();
    let by_hand = |route: &&Route| route.protocol != RTPROT_KERNEL && route.link == Some(link);
    let missing = before.routes.iter().filter(by_hand).filter(|route| !present.contains(&route.identity()));
    let made = missing.filter(|route| netlink.send(&again(route), "put back a route").is_ok());
    Ok(made.map(Route::describe).collect())
}

/// Whether a route over IPv4 waits for an address. Until it is there too, what the stack's programs have open in the tunnel would take another
/// route.
fn is_waited_for(before: &Snapshot, present: &Snapshot, link: u32) -> bool {
    let there: HashSet<Vec<u8>> = present.routes.iter().map(Object::identity).collect();
    let by_hand = |route: &&Route| route.protocol != RTPROT_KERNEL && route.destination.addr().is_ipv4();
    let may_be_by_it = |route: &&Route| route.link.is_none_or(|by| by == link);
    before.routes.iter().filter(by_hand).filter(may_be_by_it).any(|route| !there.contains(&route.identity()))
}

/// Addresses of the link of that name that a rule of [`restore_link`]'s still holds back, as where it was broken off.
#[must_use]
pub fn held_back(before: &Snapshot, now: &Snapshot, name: &str) -> Vec<IpAddr> {
    let Some(link) = before.link(name) else { return Vec::new() };
    let known: HashSet<Vec<u8>> = before.rules.iter().map(Object::identity).collect();
    let own =
        before.addresses.iter().filter(|address| address.link == link.index).map(|address| address.address.addr());
    let is_held = |address: &IpAddr| {
        let of_it = |rule: &&Rule| rule.priority == HOLD && rule.from == Some((*address).into());
        now.rules.iter().filter(of_it).any(|rule| !known.contains(&rule.identity()))
    };
    own.filter(is_held).collect()
}

/// Takes those rules away.
///
/// # Errors
/// The kernel's refusal.
pub fn release(before: &Snapshot, name: &str) -> Result<(), RouteError> {
    let held = held_back(before, &Snapshot::take()?, name);
    let mut netlink = Rtnetlink::open()?;
    held.into_iter().try_for_each(|address| netlink.hold(address, false))
}

/// A link that comes up gets a link-local address from the kernel, and every address a route to its network. Somebody may have taken them away.
fn remove_what_came_by_itself(
    before: &Snapshot,
    now: &Snapshot,
    link: u32,
    netlink: &mut Rtnetlink,
) -> Result<(), RouteError> {
    const LOCAL_TABLE: u32 = 255;
    let known: HashSet<_> = before.addresses.iter().map(|address| (address.link, address.address)).collect();
    let link_local =
        |address: &&Address| matches!(address.address.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    let own = now.addresses.iter().filter(|address| address.link == link).filter(link_local);
    for address in own.filter(|address| !known.contains(&(address.link, address.address))) {
        netlink.delete_listed_address(address)?;
    }
    let known: HashSet<Vec<u8>> = before.routes.iter().map(Object::identity).collect();
    let by_kernel = |route: &&Route| route.protocol == RTPROT_KERNEL && route.table != LOCAL_TABLE;
    let own = now.routes.iter().filter(|route| route.link == Some(link)).filter(by_kernel);
    for route in own.filter(|route| !known.contains(&route.identity())) {
        // With its address it may be gone already.
        let _ = netlink.delete_listed_route(route);
    }
    Ok(())
}

/// What is refused is tried again until nothing is missing or the time is over: a gateway is accepted only once the route
/// to it is there, and some of that comes from the kernel's own worker.
fn routes(before: &Snapshot, netlink: &mut Rtnetlink, report: &mut RestoreReport) -> Result<(), RouteError> {
    let begun = Instant::now();
    loop {
        let present: HashSet<Vec<u8>> = Snapshot::take()?.routes.iter().map(Object::identity).collect();
        let missing: Vec<&Route> = before.routes.iter().filter(|r| !present.contains(&r.identity())).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut refused = Vec::new();
        for route in missing {
            if by_the_kernel(route) {
                refused.push(format!("{}: the kernel did not make it again", route.describe()));
                continue;
            }
            match netlink.send(&again(route), "put back a route") {
                Ok(()) => report.restored.push(route.describe()),
                Err(error) if error.errno() == Some(libc::EEXIST) => {}
                Err(error) => refused.push(failure(&route.describe(), &error)),
            }
        }
        if begun.elapsed() > PATIENCE {
            report.failed.extend(refused);
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
}

/// Routes that follow from an address, and that only the kernel can make: asked to, it gives them another metric.
fn by_the_kernel(route: &Route) -> bool {
    const LOCAL_TABLE: u32 = 255;
    route.table == LOCAL_TABLE && route.protocol == RTPROT_KERNEL && route.destination.addr().is_ipv6()
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
