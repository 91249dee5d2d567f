//! Where a part stands: its links, found by the networks that Docker put them on, and its variables.

use std::env;
use std::net::IpAddr;
use std::str::FromStr;

use anyhow::{Context, anyhow};
use ipnet::IpNet;

use crate::net::route::{Family, RouteSpec, Rtnetlink, Snapshot};

/// Number of the main routing table.
const MAIN: u32 = 254;

/// A variable that is set and not empty.
pub(super) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// A variable that has to be there, under the first of its names that is set.
pub(super) fn required<T: FromStr>(names: &[&str]) -> anyhow::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let found = names.iter().find_map(|name| Some((name, variable(name)?)));
    let (name, value) = found.ok_or_else(|| anyhow!("the variable {} is not set", names.join(" or ")))?;
    // The value may be a key: it is not shown.
    value.parse().with_context(|| format!("read the variable {name}"))
}

/// A secret that has to be there: in the variable, or in the file that its twin `…_SECRETFILE` names, as Gluetun has it.
pub(super) fn secret(name: &str) -> anyhow::Result<String> {
    if let Some(value) = variable(name) {
        return Ok(value);
    }
    let path = required::<String>(&[&format!("{name}_SECRETFILE")])?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    Ok(text.trim().to_owned())
}

/// The entries of a variable that is a list with commas.
pub(super) fn list<T: FromStr>(name: &str) -> anyhow::Result<Vec<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let value = variable(name).unwrap_or_default();
    let entries = value.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries.map(|entry| entry.parse().with_context(|| format!("read `{entry}` of the variable {name}"))).collect()
}

/// The name of the link that has an address in `network`.
pub(super) fn link_in(network: IpNet) -> anyhow::Result<String> {
    let now = Snapshot::take()?;
    let address = now.addresses.iter().find(|address| network.contains(&address.address.addr()));
    let link = address.and_then(|address| now.links.iter().find(|link| link.index == address.link));
    link.map(|link| link.name.clone()).ok_or_else(|| anyhow!("this container has no address in {network}"))
}

/// Adds addresses to a link. Docker gives out neither a gateway's address nor more than one.
pub(super) fn take(link: &str, addresses: &[IpNet]) -> anyhow::Result<()> {
    let mut netlink = Rtnetlink::open()?;
    for address in addresses {
        netlink.add_address(link, *address).with_context(|| format!("take the address {address}"))?;
    }
    Ok(())
}

/// Makes `gateway` the only way to everything that is not near; without one there is no such way.
pub(super) fn default_route(gateway: Option<(IpAddr, &str)>) -> anyhow::Result<()> {
    let now = Snapshot::take()?;
    let mut netlink = Rtnetlink::open()?;
    for route in now.routes.iter().filter(|route| route.table == MAIN && route.destination == Family::V4.everything()) {
        if let Some(old) = route.gateway {
            netlink.delete_route(&RouteSpec::via(route.destination, old))?;
        }
    }
    if let Some((gateway, link)) = gateway {
        netlink.add_route(&RouteSpec::via(Family::of(gateway).everything(), gateway).dev(link))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_variable_is_named_with_all_its_names() {
        let error = required::<IpAddr>(&["LEAKCHECK_TEST_NONE", "LEAKCHECK_TEST_NEITHER"]).expect_err("not set");
        assert_eq!(error.to_string(), "the variable LEAKCHECK_TEST_NONE or LEAKCHECK_TEST_NEITHER is not set");
        assert!(list::<IpNet>("LEAKCHECK_TEST_NONE").expect("empty").is_empty());
    }

    #[test]
    fn a_link_is_found_by_its_network() {
        assert_eq!(link_in("127.0.0.0/8".parse().expect("a network")).expect("the loopback"), "lo");
        assert!(link_in("198.51.100.0/24".parse().expect("a network")).is_err());
    }
}
