//! Named sets and verdict maps: what `nft add set` and `nft add element` make.
//!
//! Numbers are those of include/uapi/linux/netfilter/nf_tables.h.

use super::{Batch, Table};
use crate::net::netlink::put_attribute;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};

const NEW_SET: u16 = 10 << 8 | 9;
const NEW_ELEMENTS: u16 = 10 << 8 | 12;
/// NFT_SET_INTERVAL and NFT_SET_MAP.
const INTERVAL: u32 = 4;
const MAP: u32 = 8;
/// NFT_DATA_VERDICT.
const VERDICTS: u32 = 0xffff_ff00;
/// NFT_SET_ELEM_INTERVAL_END.
const INTERVAL_END: u32 = 1;
/// NFT_JUMP.
const JUMP: i32 = -3;
/// IFNAMSIZ.
const NAME_SIZE: usize = 16;
const NESTED: u16 = 0x8000;

/// What the key of a set is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// Name of the link by which it came in.
    Input,
    /// Name of the link by which it leaves.
    Output,
    /// Destination address, IPv4.
    Destination4,
    /// Destination address, IPv6.
    Destination6,
    /// Transport protocol number.
    Protocol,
    /// Destination port.
    DestinationPort,
}

impl Field {
    /// Octets in a register, each of which begins on a multiple of four.
    pub(super) fn width(self) -> u32 {
        match self {
            Self::Input | Self::Output | Self::Destination6 => 16,
            Self::Destination4 | Self::Protocol | Self::DestinationPort => 4,
        }
    }
}

/// A named set, or a map from keys to verdicts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSet {
    /// Its name.
    pub name: String,
    /// What its key is made of.
    pub fields: Vec<Field>,
    /// What is in it.
    pub elements: Vec<Element>,
}

/// An element of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    key: Vec<u8>,
    /// Exclusive, where it is an interval; empty for one that goes up to the last key.
    end: Option<Vec<u8>>,
    does: Option<Decision>,
}

/// What a verdict map says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Let it pass.
    Accept,
    /// Go through that chain, and come back.
    Jump(String),
}

impl Element {
    /// A link.
    #[must_use]
    pub fn link(name: &str) -> Self {
        let mut key = name.as_bytes().to_vec();
        key.resize(NAME_SIZE, 0);
        Self { key, end: None, does: None }
    }

    /// All addresses of a network.
    #[must_use]
    pub fn network(net: IpNet) -> Self {
        let octets = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let mut end = octets(net.broadcast());
        // One more; what overflows is the end of all addresses.
        for octet in end.iter_mut().rev() {
            *octet = octet.wrapping_add(1);
            if *octet != 0 {
                break;
            }
        }
        if end.iter().all(|octet| *octet == 0) {
            end.clear();
        }
        Self { key: octets(net.network()), end: Some(end), does: None }
    }

    /// Address, transport protocol and port of a server.
    #[must_use]
    pub fn server(at: SocketAddr, protocol: u8) -> Self {
        let mut key = match at.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        key.extend([protocol, 0, 0, 0]);
        key.extend(at.port().to_be_bytes());
        key.extend([0, 0]);
        Self { key, end: None, does: None }
    }

    /// With what a map says of it.
    #[must_use]
    pub fn does(mut self, decision: Decision) -> Self {
        self.does = Some(decision);
        self
    }
}

impl Batch {
    /// Makes a set and fills it.
    pub fn add_set(&mut self, table: &Table, set: &NamedSet) {
        let (mut flags, is_map) = (0, set.elements.iter().any(|one| one.does.is_some()));
        if set.elements.iter().any(|one| one.end.is_some()) {
            flags |= INTERVAL;
        }
        let mut body = names(table, &set.name);
        if is_map {
            flags |= MAP;
            put_attribute(&mut body, 6, &VERDICTS.to_be_bytes());
        }
        put_attribute(&mut body, 3, &flags.to_be_bytes());
        let length: u32 = set.fields.iter().map(|field| field.width()).sum();
        put_attribute(&mut body, 5, &length.to_be_bytes());
        put_attribute(&mut body, 10, &1_u32.to_be_bytes());
        self.push_raw(format!("make the set {}", set.name), table, NEW_SET, &body);
        let mut list = Vec::new();
        for element in &set.elements {
            put_attribute(&mut list, 1 | NESTED, &written(&element.key, 0, element.does.as_ref()));
            if let Some(end) = element.end.as_ref().filter(|end| !end.is_empty()) {
                put_attribute(&mut list, 1 | NESTED, &written(end, INTERVAL_END, None));
            }
        }
        let mut body = names(table, &set.name);
        put_attribute(&mut body, 3 | NESTED, &list);
        self.push_raw(format!("fill the set {}", set.name), table, NEW_ELEMENTS, &body);
    }
}

/// Where a set is: its table and its name, which begin the attributes of both messages.
fn names(table: &Table, set: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, name) in [(1, table.name.as_str()), (2, set)] {
        put_attribute(&mut body, kind, &[name.as_bytes(), &[0]].concat());
    }
    body
}

fn written(key: &[u8], flags: u32, does: Option<&Decision>) -> Vec<u8> {
    let (mut value, mut element) = (Vec::new(), Vec::new());
    put_attribute(&mut value, 1, key);
    put_attribute(&mut element, 1 | NESTED, &value);
    if let Some(does) = does {
        let (mut verdict, mut data) = (Vec::new(), Vec::new());
        let (code, chain) = match does {
            Decision::Accept => (1, None),
            Decision::Jump(chain) => (JUMP, Some(chain)),
        };
        put_attribute(&mut verdict, 1, &code.to_be_bytes());
        if let Some(chain) = chain {
            put_attribute(&mut verdict, 2, &[chain.as_bytes(), &[0]].concat());
        }
        put_attribute(&mut data, 2 | NESTED, &verdict);
        put_attribute(&mut element, 2 | NESTED, &data);
    }
    if flags != 0 {
        put_attribute(&mut element, 3, &flags.to_be_bytes());
    }
    element
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_ends_where_the_next_begins() {
        let end = |text: &str| Element::network(text.parse().unwrap()).end.unwrap();
        assert_eq!(end("172.18.0.0/16"), [172, 19, 0, 0]);
        assert_eq!(end("10.0.0.1/32"), [10, 0, 0, 2]);
        assert_eq!(end("224.0.0.0/3"), [0; 0]);
    }
}
