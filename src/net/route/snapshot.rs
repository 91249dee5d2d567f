//! All links, addresses, rules and routes of a namespace at one moment, and how two moments differ.

use super::restore::RTPROT_KERNEL;
use super::{Address, Link, Object, Route, RouteError, Rule};
use crate::net::netlink::{Client, Message, attributes};
use netlink_sys::protocols::NETLINK_ROUTE;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_GETRULE: u16 = 34;
/// Answers that are not the asked-for kind (a notification that slipped in) are left out.
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWRULE: u16 = 32;
/// linux/nexthop.h: the messages, their head (`struct nhmsg`), and the attribute that holds the link.
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_GETNEXTHOP: u16 = 106;
const NEXT_HOP_HEAD: usize = 8;
const NHA_OIF: u16 = 5;

/// The state of a network namespace, apart from its firewall. It can be stored (a journal) and compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// All links.
    pub links: Vec<Link>,
    /// All addresses, both families.
    pub addresses: Vec<Address>,
    /// All policy rules, both families.
    pub rules: Vec<Rule>,
    /// All routes of all tables, both families.
    pub routes: Vec<Route>,
}

impl Snapshot {
    /// Reads the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel does not answer, or with what does not parse.
    pub fn take() -> Result<Self, RouteError> {
        let mut client =
            Client::open(NETLINK_ROUTE).map_err(|e| RouteError::Netlink("read the network's state".to_owned(), e))?;
        let mut dump = |ask: u16, answer: u16, what: &str, header: usize| -> Result<Vec<Message>, RouteError> {
            let mut entries = Vec::new();
            for family in [libc::AF_INET, libc::AF_INET6] {
                let mut payload = vec![0; header];
                payload[0] = if ask == RTM_GETLINK { 0 } else { family as u8 };
                let found =
                    client.dump(ask, &payload).map_err(|e| RouteError::Netlink(format!("read the {what}"), e))?;
                entries.extend(found.into_iter().filter(|message| message.kind == answer));
                if ask == RTM_GETLINK {
                    break;
                }
            }
            Ok(entries)
        };
        let links =
            dump(RTM_GETLINK, RTM_NEWLINK, "links", 16)?.into_iter().map(Link::parse).collect::<Result<_, _>>()?;
        let addresses = dump(RTM_GETADDR, RTM_NEWADDR, "addresses", 8)?
            .into_iter()
            .filter_map(|message| Address::parse(message).transpose())
            .collect::<Result<_, _>>()?;
        let rules =
            dump(RTM_GETRULE, RTM_NEWRULE, "rules", 12)?.into_iter().map(Rule::parse).collect::<Result<_, _>>()?;
        let routes = dump(RTM_GETROUTE, RTM_NEWROUTE, "routes", 12)?
            .into_iter()
            .filter_map(|message| Route::parse(message).transpose())
            .collect::<Result<_, _>>()?;
        Ok(Self { links, addresses, rules, routes })
    }

    /// What `other` lacks ("- …") and has besides ("+ …"), empty if the two are the same. Order and volatile values
    /// (counters, clocks, duplicate address detection under way) do not count.
    #[must_use]
    pub fn diff(&self, other: &Self) -> Vec<String> {
        let mut lines = differences(&self.links, &other.links);
        lines.extend(differences(&self.addresses, &other.addresses));
        lines.extend(differences(&self.rules, &other.rules));
        lines.extend(differences(&self.routes, &other.routes));
        lines
    }

    /// Why a link's routes would not come back as they are, were it set down.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn is_lost_with(&self, link: &Link) -> Result<Option<String>, RouteError> {
        // Those that the kernel makes for an address are there on every link.
        let by_hand = |route: &&Route| route.link == Some(link.index) && route.protocol != RTPROT_KERNEL;
        for route in self.routes.iter().filter(by_hand) {
            if let Some(other) = self.routes.iter().find(|other| other.link != route.link && other.stands_for(route)) {
                let (one, other) = (route.describe(), other.describe());
                return Ok(Some(format!(
                    "two routes differ in their next hop alone, and their order would change: {one}, and {other}"
                )));
            }
        }
        let mut client =
            Client::open(NETLINK_ROUTE).map_err(|e| RouteError::Netlink("read the next hops".to_owned(), e))?;
        // Linux before 5.3 has none.
        let next_hops = client.dump(RTM_GETNEXTHOP, &[0; NEXT_HOP_HEAD]).unwrap_or_default();
        let by_link = |message: &Message| {
            let rest = message.payload.get(NEXT_HOP_HEAD..).unwrap_or_default();
            attributes(rest).any(|(kind, value)| kind == NHA_OIF && value == link.index.to_ne_bytes())
        };
        let one = next_hops.iter().any(|message| message.kind == RTM_NEWNEXTHOP && by_link(message));
        Ok(one.then(|| format!("a next-hop object (ip nexthop) by {} would be gone for good", link.name)))
    }

    /// Whether the addresses of both stand in the same order.
    #[must_use]
    pub fn has_addresses_in_the_order_of(&self, other: &Self) -> bool {
        self.addresses.iter().map(Object::identity).eq(other.addresses.iter().map(Object::identity))
    }

    /// The link of that name.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }
}

/// Counts, not sets: the kernel allows the same rule twice.
fn differences<T: Object>(before: &[T], after: &[T]) -> Vec<String> {
    let mut balance: BTreeMap<Vec<u8>, (i64, String)> = BTreeMap::new();
    for (objects, step) in [(before, -1), (after, 1)] {
        for object in objects {
            balance.entry(object.identity()).or_insert_with(|| (0, object.describe())).0 += step;
        }
    }
    let mut lines: Vec<String> = balance
        .into_values()
        .filter(|(count, _)| *count != 0)
        .map(|(count, text)| if count < 0 { format!("- {text}") } else { format!("+ {text}") })
        .collect();
    lines.sort();
    lines
}
