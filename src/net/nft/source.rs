//! What expressions load into registers beside the octets of headers: what the kernel knows of a packet. What is not understood keeps the
//! name that nft has for it.
//!
//! Numbers are those of include/uapi/linux/netfilter/nf_tables.h.

use super::held::Held;
use super::read::{find, number};

/// Names of NFT_META_*, by number; empty: see [`meta`].
const META: [&str; 35] = [
    "",
    "",
    "meta priority",
    "",
    "iif",
    "",
    "iifname",
    "",
    "iiftype",
    "oiftype",
    "",
    "skgid",
    "nftrace",
    "rtclassid",
    "secmark",
    "",
    "",
    "ibrname",
    "obrname",
    "pkttype",
    "cpu",
    "iifgroup",
    "oifgroup",
    "cgroup",
    "random",
    "ipsec",
    "iifkind",
    "oifkind",
    "ibrpvid",
    "ibrvproto",
    "time",
    "day",
    "hour",
    "sdif",
    "sdifname",
];
/// Names of NFT_CT_*, by number.
const TRACKED: [&str; 24] = [
    "state",
    "direction",
    "status",
    "mark",
    "secmark",
    "expiration",
    "helper",
    "l3proto",
    "saddr",
    "daddr",
    "protocol",
    "proto-src",
    "proto-dst",
    "label",
    "packets",
    "bytes",
    "avgpkt",
    "zone",
    "event",
    "saddr",
    "daddr",
    "saddr",
    "daddr",
    "id",
];
/// Names of NFT_EXTHDR_OP_*, by number.
const EXTENSIONS: [&str; 5] = ["extension header", "tcp option", "ip option", "sctp chunk", "dccp option"];

pub(super) fn meta(key: Option<u32>) -> Held {
    match key {
        Some(0) => Held::Length(4),
        Some(1) => Held::EtherType,
        Some(3) => Held::Mark(u32::MAX),
        Some(5) => Held::LinkIndex,
        Some(7) => Held::Link,
        Some(10) => Held::User,
        Some(15) => Held::Version,
        Some(16) => Held::Protocol,
        other => Held::Other(named(&META, "meta", other)),
    }
}

pub(super) fn tracked(key: Option<u32>) -> Held {
    match key {
        Some(0) => Held::State(u32::MAX),
        other => Held::Other(format!("ct {}", named(&TRACKED, "", other).trim_start())),
    }
}

/// An option, or a header that follows another.
pub(super) fn extension(data: &[u8]) -> Held {
    let kind = find(data, 2).and_then(|octets| octets.first()).copied().unwrap_or_default();
    let operation = Some(number(data, 6).unwrap_or_default());
    Held::Other(format!("{} {kind}", named(&EXTENSIONS, "exthdr", operation)))
}

/// A question to the table of routes.
pub(super) fn routed(data: &[u8]) -> Held {
    const TYPE: u32 = 3;
    const OF_DESTINATION: u32 = 2;
    match (number(data, 2), number(data, 3)) {
        (Some(TYPE), Some(OF_DESTINATION)) => Held::ToKind,
        _ => Held::Other("fib".to_owned()),
    }
}

/// In the other order of its octets, where that is of use.
pub(super) fn swapped(held: Option<&Held>, data: &[u8]) -> Held {
    const SIZE: u16 = 5;
    match held {
        Some(held @ (Held::User | Held::Length(4))) if number(data, SIZE) == Some(4) => {
            Held::Swapped(Box::new(held.clone()))
        }
        held => Held::Other(held.map_or_else(|| "byteorder".to_owned(), Held::name)),
    }
}

fn named(names: &[&str], group: &str, number: Option<u32>) -> String {
    let number = number.unwrap_or_default();
    let name = names.get(number as usize).filter(|name| !name.is_empty());
    name.map_or_else(|| format!("{group} {number}"), |name| (*name).to_owned())
}
