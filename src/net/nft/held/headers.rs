//! Which field of a packet stands where in its headers, as far as a rule has asked what they are.

use super::Held;
use crate::model::firewall::{Condition, Of};
use crate::net::nft::read::number;

/// NFT_PAYLOAD_NETWORK_HEADER and NFT_PAYLOAD_TRANSPORT_HEADER.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// Protocols whose headers begin with two ports: TCP, UDP, DCCP, SCTP, UDP-Lite.
pub(super) const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];
/// ICMP and ICMPv6, whose headers begin with type and code.
const WITH_TYPE: [u8; 2] = [1, 58];

/// What a rule has asked for so far, which tells how the headers' octets after that are to be read.
#[derive(Debug, Clone)]
pub(in crate::net::nft) struct Headers {
    pub(in crate::net::nft) v6: Option<bool>,
    /// One of these; `None`: any.
    protocols: Option<Vec<u8>>,
}

impl Headers {
    /// Of a table that sees packets of this version alone, or of both.
    pub(in crate::net::nft) fn of(v6: Option<bool>) -> Self {
        Self { v6, protocols: None }
    }

    /// One of these conjunctions of conditions holds.
    pub(in crate::net::nft) fn learn(&mut self, alternatives: &[&[Condition]]) {
        let all = |wanted: &dyn Fn(&Of) -> Option<u8>| -> Option<Vec<u8>> {
            let one = |conditions: &&[Condition]| {
                conditions.iter().filter(|condition| !condition.not).find_map(|condition| wanted(&condition.of))
            };
            alternatives.iter().map(one).collect::<Option<Vec<u8>>>().filter(|found| !found.is_empty())
        };
        if let Some(versions) = all(&|of| if let Of::Version6(v6) = of { Some((*v6).into()) } else { None }) {
            let same = versions.iter().all(|version| *version == versions[0]);
            self.v6 = if same { Some(versions[0] == 1) } else { self.v6 };
        }
        if let Some(protocols) = all(&|of| if let Of::Protocol(number) = of { Some(*number) } else { None }) {
            self.protocols = Some(protocols);
        }
    }

    fn is_one_of(&self, protocols: &[u8]) -> bool {
        self.protocols.as_ref().is_some_and(|all| all.iter().all(|one| protocols.contains(one)))
    }

    /// The field that begins there, and its length; `None`: where fields begin is not known.
    fn field(&self, base: u32, offset: u32) -> Option<(Held, usize)> {
        let other = |words: &str, length| Some((Held::Other(words.to_owned()), length));
        let address = |to, v6| {
            let width = if v6 { 16 } else { 4 };
            Some((Held::Address { to, v6, mask: vec![0xff; width] }, width))
        };
        match (base, offset) {
            (NETWORK, _) => match (self.v6?, offset) {
                (false, 1) => Some((Held::Class { v6: false, mask: 0xff }, 1)),
                (false, 2) => Some((Held::Length(2), 2)),
                (false, 6) => other("place of a fragment", 2),
                (false, 8) => other("ttl", 1),
                (false, 9) => Some((Held::Protocol, 1)),
                (false, 10) => other("checksum", 2),
                (false, 12) => address(false, false),
                (false, 16) => address(true, false),
                (true, 0) => Some((Held::Class { v6: true, mask: 0xffff }, 2)),
                (true, 4) => other("length without the header", 2),
                (true, 6) => other("next header", 1),
                (true, 7) => other("hop limit", 1),
                (true, 8) => address(false, true),
                (true, 24) => address(true, true),
                _ => None,
            },
            (TRANSPORT, 0) if self.is_one_of(&WITH_PORTS) => Some((Held::Ports { to: false }, 2)),
            (TRANSPORT, 2) if self.is_one_of(&WITH_PORTS) => Some((Held::Ports { to: true }, 2)),
            (TRANSPORT, 0 | 2) if self.protocols.is_none() => Some((Held::PortsOfSome { to: offset == 2 }, 2)),
            (TRANSPORT, 13) if self.is_one_of(&[6]) => Some((Held::Flags(u8::MAX), 1)),
            (TRANSPORT, 0) if self.is_one_of(&WITH_TYPE) => Some((Held::IcmpType, 1)),
            (TRANSPORT, 1) if self.is_one_of(&WITH_TYPE) => other("icmp code", 1),
            _ => None,
        }
    }

    /// What a load of the packet's octets brings. nft loads fields that stand side by side at once.
    pub(in crate::net::nft) fn payload(&self, data: &[u8]) -> Held {
        let [base, offset, length] = [2, 3, 4].map(|kind| number(data, kind).unwrap_or_default());
        let unknown = || Held::Other(format!("octet {offset} of header {base}"));
        let (mut parts, mut at, end) = (Vec::new(), offset, offset.saturating_add(length));
        while at < end {
            let Some((held, width)) = self.field(base, at) else { return unknown() };
            let length = width.min((end - at) as usize);
            let held = match held {
                held if length == width => held,
                // Of an address only the octets are loaded that a network of whole octets needs.
                Held::Address { to, v6, .. } => {
                    let mask = (0..width).map(|octet| if octet < length { 0xff } else { 0 }).collect();
                    Held::Address { to, v6, mask }
                }
                held => Held::Other(format!("part of {}", held.name())),
            };
            parts.push((held, length));
            at += length as u32;
        }
        match parts.len() {
            0 => unknown(),
            1 => parts.remove(0).0,
            _ => Held::Several(parts),
        }
    }
}
