//! The sets and maps that rules look things up in: a rule that asks whether something is in a set is read as one rule for each element.
//!
//! Numbers are those of include/uapi/linux/netfilter/nf_tables.h.

use std::collections::HashMap;

use super::NftError;
use super::held::{Held, before, between};
use super::list::{GET_ELEMENTS, GET_SET, HEADER, dump};
use super::read::{decided, find, negated, number, word};
use crate::model::firewall::{Condition, Does, Of};
use crate::net::netlink::{Client, attributes, put_attribute};

/// More elements than this of one set are not read.
const MAX_ELEMENTS: usize = 512;
/// Rules at most for what is in none of a set's elements.
const MAX_NEGATED: usize = 64;
/// NFT_SET_INTERVAL.
const INTERVAL: u32 = 4;
/// NFT_SET_ANONYMOUS and NFT_SET_CONSTANT: it is a rule's own, or is as it was made.
const FIXED: u32 = 1 | 2;
/// NFT_SET_TIMEOUT and NFT_SET_EVAL: elements go by themselves, rules put elements into it.
const MOVING: u32 = 0x10 | 0x20;
/// NFT_SET_ELEM_INTERVAL_END.
const INTERVAL_END: u32 = 1;
/// NFT_SET_ELEM_CATCHALL.
const CATCHALL: u32 = 2;

/// All sets of the namespace, by family, table and name.
#[derive(Debug, Default)]
pub(super) struct Sets(HashMap<(u8, String, String), Set>);

/// What a rule's names of sets stand for.
pub(super) trait Lookup {
    /// What the elements of the set stand for where registers hold these; `None` where that cannot be told.
    fn rows(&self, set: &str, fields: &[&Held]) -> Option<Vec<Row>>;
    /// All that a verdict map may decide; `None` where it was not found.
    fn verdicts(&self, set: &str) -> Option<Vec<Does>>;
    /// Whether it is there to be filled: packets, or programs such as a resolver, may put elements into it that were not there when it was
    /// read.
    fn grows(&self, set: &str) -> bool;
}

/// The sets of one table.
pub(super) struct InTable<'a> {
    all: &'a Sets,
    family: u8,
    table: &'a str,
}

impl InTable<'_> {
    fn get(&self, name: &str) -> Option<&Set> {
        self.all.0.get(&(self.family, self.table.to_owned(), name.to_owned()))
    }
}

impl Lookup for InTable<'_> {
    fn rows(&self, set: &str, fields: &[&Held]) -> Option<Vec<Row>> {
        self.get(set)?.rows(fields)
    }

    fn verdicts(&self, set: &str) -> Option<Vec<Does>> {
        self.get(set).map(|set| set.verdicts.clone())
    }

    fn grows(&self, set: &str) -> bool {
        self.get(set).is_some_and(|set| set.grows)
    }
}

/// A set, as the kernel lists it.
#[derive(Debug, Default)]
struct Set {
    interval: bool,
    /// See [`Lookup::grows`].
    grows: bool,
    /// Octets of a key, in which each field begins on a multiple of four.
    key: usize,
    elements: Vec<Element>,
    /// For everything else there is an element too, of which a verdict map says this.
    rest: Option<Option<Does>>,
    /// All that a verdict map says, whether its elements were read or not.
    verdicts: Vec<Does>,
    /// It has more elements than were read.
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
    /// Why a packet may not find it although it has the key.
    unless: Option<String>,
}

/// What an element stands for: all conditions of it have to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) conditions: Vec<Condition>,
    /// What a verdict map says.
    pub(super) does: Option<Does>,
}

impl From<Condition> for Row {
    fn from(condition: Condition) -> Self {
        Row { conditions: vec![condition], does: None }
    }
}

/// What holds where none of these does: in each of them something does not. `None` where that is too much to write down.
pub(super) fn none_of(rows: &[Row]) -> Option<Vec<Row>> {
    let mut found: Vec<Vec<Condition>> = vec![Vec::new()];
    for row in rows {
        let mut longer: Vec<Vec<Condition>> = Vec::new();
        for before in &found {
            for other in negated(row.conditions.clone()) {
                let known = before.contains(&other);
                longer.push(before.iter().cloned().chain(Some(other).filter(|_| !known)).collect());
            }
        }
        // What asks for more than another one does says nothing new.
        longer.sort_by_key(Vec::len);
        found.clear();
        for one in longer {
            if !found.iter().any(|less| less.iter().all(|condition| one.contains(condition))) {
                found.push(one);
            }
        }
        if found.len() > MAX_NEGATED {
            return None;
        }
    }
    Some(found.into_iter().map(|conditions| Row { conditions, does: None }).collect())
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
            let flags = number(body, 3).unwrap_or_default();
            let mut set = Set {
                interval: flags & INTERVAL != 0,
                key: number(body, 5).unwrap_or_default() as usize,
                ..Set::default()
            };
            for message in dump(client, GET_ELEMENTS, family, &ask)? {
                set.take(find(message.payload.get(HEADER..).unwrap_or_default(), 3).unwrap_or_default());
            }
            set.grows = is_to_be_filled(flags, set.elements.is_empty() && set.rest.is_none());
            sets.insert((family, word(body, 1), word(body, 2)), set);
        }
        Ok(Self(sets))
    }

    /// One set without a name, of these elements, for [`crate::untrusted`]. `shape` says whether it is one of intervals, and how long keys are.
    #[cfg(feature = "lab")]
    pub(super) fn of_one(elements: &[u8], shape: u8) -> Self {
        let of = |family: u8| {
            let mut set = Set { interval: shape & 1 != 0, key: usize::from(shape >> 1), ..Set::default() };
            set.take(elements);
            ((family, String::new(), String::new()), set)
        };
        Self([1, 2, 10].map(of).into())
    }

    pub(super) fn of<'a>(&'a self, family: u8, table: &'a str) -> InTable<'a> {
        InTable { all: self, family, table }
    }
}

/// Whether a set of such flags is there to be filled. Nobody looks up what is in an empty one.
fn is_to_be_filled(flags: u32, empty: bool) -> bool {
    flags & MOVING != 0 || flags & FIXED == 0 && empty
}

impl Set {
    fn take(&mut self, list: &[u8]) {
        for (_, element) in attributes(list) {
            let flags = number(element, 3).unwrap_or_default();
            let does = find(element, 2).and_then(|data| find(data, 2)).map(decided);
            self.verdicts.extend(does.clone().filter(|does| !self.verdicts.contains(does)));
            if flags & CATCHALL != 0 {
                self.rest = Some(does);
                continue;
            }
            if self.elements.len() >= MAX_ELEMENTS {
                self.partial = true;
                continue;
            }
            let value = |kind| find(element, kind).and_then(|data| find(data, 1)).map(<[u8]>::to_vec);
            let Some(key) = value(1) else { continue };
            let (key_end, is_end) = (value(10), flags & INTERVAL_END != 0);
            self.elements.push(Element { key, key_end, is_end, does, unless: unless(element) });
        }
    }

    /// What the elements stand for where registers hold `fields`, in the order of the key; `None` where that cannot be told.
    fn rows(&self, fields: &[&Held]) -> Option<Vec<Row>> {
        if self.partial {
            return None;
        }
        let fields = self.key_of(fields)?;
        let mut rows = Vec::new();
        for (low, high, Element { does, unless, .. }) in self.intervals(fields.len() == 1) {
            let unless = unless.map(|why| Condition { of: Of::Other(why), not: false });
            let mut alternatives: Vec<Vec<Condition>> = vec![unless.into_iter().collect()];
            let protocol = protocol_of(&fields, &low, &high);
            let mut at = 0;
            for field in &fields {
                let width = field.width()?;
                let ofs = between(&field.in_protocol(protocol)?, low.get(at..at + width)?, high.get(at..at + width)?)?;
                if alternatives.len() * ofs.len() > MAX_ELEMENTS {
                    return None;
                }
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
        if let Some(does) = &self.rest {
            // Everything else is in none of the others, which is simple where they are of one condition.
            if rows.iter().any(|row| row.conditions.len() != 1) {
                return None;
            }
            let others = rows.iter().flat_map(|row| row.conditions.iter().cloned()).collect();
            rows.push(Row { conditions: negated(others), does: does.clone() });
        }
        Some(rows)
    }

    /// Those of the fields that are its key: what registers after them hold was left there before.
    fn key_of<'a>(&self, fields: &[&'a Held]) -> Option<Vec<&'a Held>> {
        let (mut key, mut length) = (Vec::new(), 0_usize);
        for field in fields {
            length = length.next_multiple_of(4) + field.width()?;
            key.push(*field);
            if length.next_multiple_of(4) >= self.key.next_multiple_of(4) {
                return (length.next_multiple_of(4) == self.key.next_multiple_of(4)).then_some(key);
            }
        }
        None
    }

    /// Each element with the first and the last key that it stands for.
    fn intervals(&self, single: bool) -> Vec<(Vec<u8>, Vec<u8>, Element)> {
        if !self.interval || !single {
            let whole =
                |one: &Element| (one.key.clone(), one.key_end.clone().unwrap_or_else(|| one.key.clone()), one.clone());
            return self.elements.iter().filter(|one| !one.is_end).map(whole).collect();
        }
        let mut sorted = self.elements.clone();
        sorted.sort_by(|a, b| a.key.cmp(&b.key).then(b.is_end.cmp(&a.is_end)));
        let mut found = Vec::new();
        for (place, start) in sorted.iter().enumerate().filter(|(_, one)| !one.is_end) {
            // Without an end it goes up to the next one's beginning, or to the last key that there is.
            let next = sorted.get(place + 1).map(|next| before(&next.key));
            let last = start.key_end.clone().or(next).unwrap_or_else(|| vec![0xff; start.key.len()]);
            found.push((start.key.clone(), last, start.clone()));
        }
        found
    }
}

/// Why a packet with its key may not find an element: it goes by itself, or asks for more than the key.
fn unless(element: &[u8]) -> Option<String> {
    const TIMEOUT: u16 = 4;
    const EXPIRATION: u16 = 5;
    const EXPRESSION: u16 = 7;
    const EXPRESSIONS: u16 = 11;
    let one = find(element, EXPRESSION).into_iter();
    let several = find(element, EXPRESSIONS).into_iter().flat_map(|list| attributes(list).map(|(_, one)| one));
    let asks = one.chain(several).map(|one| word(one, 1)).find(|name| !matches!(name.as_str(), "counter" | "last"));
    let goes = find(element, TIMEOUT).or_else(|| find(element, EXPIRATION));
    asks.map(|name| format!("by the {name} of an element"))
        .or_else(|| goes.map(|_| "while an element lasts".to_owned()))
}

/// The protocol that an element asks for, where it is a field of the key: nft looks up ports together with it.
fn protocol_of(fields: &[&Held], low: &[u8], high: &[u8]) -> Option<u8> {
    let mut at = 0;
    for field in fields {
        if matches!(field, Held::Protocol) {
            return low.get(at).filter(|number| high.get(at) == Some(number)).copied();
        }
        at += field.width()?.next_multiple_of(4);
    }
    None
}

#[cfg(test)]
mod tests;
