//! The sets and maps that rules look things up in: a rule that asks whether something is in a set is read as one rule for each element.
//!
//! Numbers are those of include/uapi/linux/netfilter/nf_tables.h.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::NftError;
use super::list::{GET_ELEMENTS, GET_SET, HEADER, dump};
use super::read::{Held, address, compared, decided, find, number, word};
use crate::model::firewall::{Condition, Does, Of};
use crate::net::netlink::{Client, attributes, put_attribute};

/// More elements than this of one set are not read.
const MAX_ELEMENTS: usize = 512;
/// NFT_SET_INTERVAL.
const INTERVAL: u32 = 4;
/// NFT_SET_ELEM_INTERVAL_END.
const INTERVAL_END: u32 = 1;
/// NFT_SET_ELEM_CATCHALL.
const CATCHALL: u32 = 2;

/// All sets of the namespace, by family, table and name.
#[derive(Debug, Default)]
pub(super) struct Sets(HashMap<(u8, String, String), Set>);

/// A set, as the kernel lists it.
#[derive(Debug)]
pub(super) struct Set {
    interval: bool,
    elements: Vec<Element>,
    /// It has more elements than were read, or one for everything else.
    partial: bool,
}

#[derive(Debug, Clone)]
struct Element {
    key: Vec<u8>,
    /// Inclusive.
    key_end: Option<Vec<u8>>,
    /// It is where an interval ends, exclusive.
    is_end: bool,
    does: Option<Does>,
}

/// What an element stands for: all conditions of it have to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) conditions: Vec<Condition>,
    /// What a verdict map says.
    pub(super) does: Option<Does>,
}

impl Sets {
    pub(super) fn read(client: &mut Client) -> Result<Self, NftError> {
        let mut sets = HashMap::new();
        for message in dump(client, GET_SET, 0, &[])? {
            let Some(family) = message.payload.first().copied() else { continue };
            let body = message.payload.get(HEADER..).unwrap_or_default();
            let mut ask = Vec::new();
            for (kind, value) in attributes(body).filter(|(kind, _)| matches!(kind, 1 | 2)) {
                put_attribute(&mut ask, kind, value);
            }
            let mut set = Set {
                interval: number(body, 3).unwrap_or_default() & INTERVAL != 0,
                elements: Vec::new(),
                partial: false,
            };
            for message in dump(client, GET_ELEMENTS, family, &ask)? {
                set.take(find(message.payload.get(HEADER..).unwrap_or_default(), 3).unwrap_or_default());
            }
            sets.insert((family, word(body, 1), word(body, 2)), set);
        }
        Ok(Self(sets))
    }

    pub(super) fn get(&self, family: u8, table: &str, name: &str) -> Option<&Set> {
        self.0.get(&(family, table.to_owned(), name.to_owned()))
    }
}

impl Set {
    fn take(&mut self, list: &[u8]) {
        for (_, element) in attributes(list) {
            let flags = number(element, 3).unwrap_or_default();
            if flags & CATCHALL != 0 || self.elements.len() >= MAX_ELEMENTS {
                self.partial = true;
                continue;
            }
            let value = |kind| find(element, kind).and_then(|data| find(data, 1)).map(<[u8]>::to_vec);
            let Some(key) = value(1) else { continue };
            self.elements.push(Element {
                key,
                key_end: value(10),
                is_end: flags & INTERVAL_END != 0,
                does: find(element, 2).and_then(|data| find(data, 2)).map(decided),
            });
        }
    }

    /// What the elements stand for where registers hold `fields`, in the order of the key; `None` where that cannot be told.
    pub(super) fn rows(&self, fields: &[&Held]) -> Option<Vec<Row>> {
        if self.partial {
            return None;
        }
        let mut rows = Vec::new();
        for (low, high, does) in self.intervals(fields.len() == 1) {
            let mut alternatives: Vec<Vec<Condition>> = vec![Vec::new()];
            let mut at = 0;
            for field in fields {
                let width = field.width()?;
                let ofs = between(field, low.get(at..at + width)?, high.get(at..at + width)?)?;
                alternatives = alternatives
                    .iter()
                    .flat_map(|before| ofs.iter().map(move |of| before.iter().cloned().chain([of.clone()]).collect()))
                    .collect();
                at += width.next_multiple_of(4);
            }
            rows.extend(alternatives.into_iter().map(|conditions| Row { conditions, does: does.clone() }));
            if rows.len() > MAX_ELEMENTS {
                return None;
            }
        }
        Some(rows)
    }

    /// First and last key of each element.
    fn intervals(&self, single: bool) -> Vec<(Vec<u8>, Vec<u8>, Option<Does>)> {
        if !self.interval || !single {
            let whole = |one: &Element| {
                (one.key.clone(), one.key_end.clone().unwrap_or_else(|| one.key.clone()), one.does.clone())
            };
            return self.elements.iter().filter(|one| !one.is_end).map(whole).collect();
        }
        let mut sorted = self.elements.clone();
        sorted.sort_by(|a, b| a.key.cmp(&b.key).then(b.is_end.cmp(&a.is_end)));
        let mut found = Vec::new();
        for (place, start) in sorted.iter().enumerate().filter(|(_, one)| !one.is_end) {
            // Without an end it goes up to the next one's beginning, or to the last key that there is.
            let next = sorted.get(place + 1).map(|next| before(&next.key));
            let last = start.key_end.clone().or(next).unwrap_or_else(|| vec![0xff; start.key.len()]);
            found.push((start.key.clone(), last, start.does.clone()));
        }
        found
    }
}

/// The key that goes before this one.
fn before(key: &[u8]) -> Vec<u8> {
    let mut key = key.to_vec();
    for octet in key.iter_mut().rev() {
        let borrow = *octet == 0;
        *octet = octet.wrapping_sub(1);
        if !borrow {
            break;
        }
    }
    key
}

/// Conditions of which one has to hold for a value between these, inclusive.
fn between(held: &Held, low: &[u8], high: &[u8]) -> Option<Vec<Condition>> {
    let is = |of| Condition { of, not: false };
    if low == high {
        let condition = compared(Some(held), 0, low);
        return (!matches!(condition.of, Of::Other(_))).then(|| vec![condition]);
    }
    let port = |octets: &[u8]| Some(u16::from_be_bytes(octets.try_into().ok()?));
    match held {
        Held::Ports { to: true } => Some(vec![is(Of::ToPorts(port(low)?, port(high)?))]),
        Held::Ports { to: false } => Some(vec![is(Of::FromPorts(port(low)?, port(high)?))]),
        Held::Protocol => Some((*low.first()?..=*high.first()?).map(|number| is(Of::Protocol(number))).collect()),
        Held::IcmpType => Some((*low.first()?..=*high.first()?).map(|kind| is(Of::IcmpType(kind))).collect()),
        Held::Address { to, v6, .. } => {
            let nets: Vec<IpNet> = match (address(*v6, low)?, address(*v6, high)?) {
                (IpAddr::V4(low), IpAddr::V4(high)) => Ipv4Subnets::new(low, high, 0).map(IpNet::from).collect(),
                (IpAddr::V6(low), IpAddr::V6(high)) => Ipv6Subnets::new(low, high, 0).map(IpNet::from).collect(),
                _ => return None,
            };
            Some(nets.into_iter().map(|net| is(if *to { Of::To(net) } else { Of::From(net) })).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(interval: bool, elements: &[(&[u8], bool)]) -> Set {
        let element = |&(key, is_end): &(&[u8], bool)| Element { key: key.to_vec(), key_end: None, is_end, does: None };
        Set { interval, elements: elements.iter().map(element).collect(), partial: false }
    }

    fn texts(rows: Option<Vec<Row>>) -> Vec<String> {
        let text = |row: &Row| row.conditions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        rows.expect("they are understood").iter().map(text).collect()
    }

    const TO: Held = Held::Address { to: true, v6: false, mask: None };

    #[test]
    fn intervals_become_networks() {
        let to = Held::Address { mask: Some(vec![0xff; 4]), to: true, v6: false };
        let lan = set(
            true,
            &[
                (&[192, 168, 0, 0], false),
                (&[192, 169, 0, 0], true),
                (&[0; 4], true),
                (&[10, 0, 0, 0], false),
                (&[11, 0, 0, 0], true),
            ],
        );
        assert_eq!(texts(lan.rows(&[&to])), ["daddr 10.0.0.0/8", "daddr 192.168.0.0/16"]);
        let open = set(true, &[(&[224, 0, 0, 0], false)]);
        assert_eq!(texts(open.rows(&[&to])), ["daddr 224.0.0.0/3"]);
        let ports = set(true, &[(&[4, 0], false), (&[8, 0], true), (&[0, 80], false), (&[0, 81], true)]);
        assert_eq!(texts(ports.rows(&[&Held::Ports { to: true }])), ["dport 80", "dport 1024-2047"]);
    }

    #[test]
    fn fields_of_a_key_stand_on_four_octets() {
        let to = Held::Address { mask: Some(vec![0xff; 4]), to: true, v6: false };
        let server = set(false, &[(&[198, 51, 100, 2, 0xca, 0x6c, 0, 0], false)]);
        assert_eq!(texts(server.rows(&[&to, &Held::Ports { to: true }])), ["daddr 198.51.100.2 dport 51820"]);
        assert!(server.rows(&[&to, &Held::Other("ttl".to_owned())]).is_none());
    }

    #[test]
    fn what_was_not_read_whole_is_not_understood() {
        let partial = Set { partial: true, ..set(false, &[]) };
        assert!(partial.rows(&[&TO]).is_none());
        assert_eq!(before(&[1, 0, 0]), [0, 255, 255]);
    }
}
