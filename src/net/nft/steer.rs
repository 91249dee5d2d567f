//! Rules that give the namespace's own packets another mark, or another class, in chains of type `route`: the kernel asks its routes again then,
//! and what was accepted on its way into the tunnel may leave by another link. They are tried as diversions are. Those are left out that no
//! rule of routing would treat otherwise than before. Where a rule gives packets the mark of their connection, those that mark connections are
//! tried in its stead: what that rule does to a packet says nothing of one whose connection is marked.

use super::divert::written;
use super::read::{find, number, word};
use crate::model::firewall::Does;
use crate::net::netlink::{attributes, put_attribute};
use crate::net::route::{Rule, Snapshot};

/// NFT_META_MARK.
const MARK: u32 = 3;
/// NFT_CT_MARK, and the registers that an expression `ct` loads into and stores from (NFTA_CT_DREG, NFTA_CT_SREG).
const CONNECTION_MARK: u32 = 3;
const LOADS_INTO: u16 = 1;
const STORES_FROM: u16 = 4;
/// XT_CONNMARK_SET and XT_CONNMARK_RESTORE, and where they stand in `struct xt_connmark_tginfo1`.
const SET: u8 = 0;
const RESTORE: u8 = 2;
const MODE: usize = 12;

/// What a rule writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    /// A mark, where it is known which.
    Mark(Option<u32>),
    /// The mark of the connection.
    Restored,
    /// A type of service.
    Class,
}

/// The rules of routing by which what is written counts.
pub(in crate::net) struct Steering(Option<Vec<Rule>>);

impl Steering {
    /// Those of the calling thread's namespace. Where they cannot be read everything counts.
    pub(in crate::net) fn read() -> Self {
        Self(Snapshot::take().ok().map(|snapshot| snapshot.rules))
    }

    /// Of rules that could not be read, for [`crate::untrusted`].
    #[cfg(feature = "lab")]
    pub(in crate::net) fn none() -> Self {
        Self(None)
    }

    /// What a rule of these expressions steers by, and the expressions before it: what they ask for it is about.
    pub(super) fn steered(&self, expressions: &[u8]) -> Option<(Vec<u8>, Does)> {
        let restores = restores(expressions);
        self.first(expressions, |element, last| {
            writes(element, last).map(|(by, write)| match write {
                Write::Mark(None) if restores => (by, Write::Restored),
                write => (by, write),
            })
        })
    }

    /// What a rule of these expressions marks its connections by, as [`Self::steered`].
    pub(super) fn marked(&self, expressions: &[u8]) -> Option<(Vec<u8>, Does)> {
        self.first(expressions, marks)
    }

    fn first(
        &self,
        expressions: &[u8],
        what: impl Fn(&[u8], Option<(u32, u32)>) -> Option<(String, Write)>,
    ) -> Option<(Vec<u8>, Does)> {
        let (mut before, mut last) = (Vec::new(), None);
        for (kind, element) in attributes(expressions) {
            if let Some((by, write)) = what(element, last)
                && self.counts(write)
            {
                return Some((before, Does::Divert { by, begun: true }));
            }
            last = constant(element);
            put_attribute(&mut before, kind, element);
        }
        None
    }

    /// What one of iptables' targets with this data steers by. `restored`: some rule gives packets the mark of their connection.
    pub(in crate::net) fn steered_by(&self, target: &str, info: &[u8], restored: bool) -> Option<Does> {
        let connection = || marked_by(target, info).filter(|_| restored);
        let counts = self.counts(written_by(target, info).or_else(connection)?);
        counts.then(|| Does::Divert { by: format!("target {target}"), begun: true })
    }

    /// Whether any rule of routing tells a packet of which this was written from one of which it was not.
    fn counts(&self, write: Write) -> bool {
        let Some(rules) = &self.0 else { return write != Write::Restored };
        rules.iter().any(|rule| match (write, rule.mark) {
            (Write::Restored, _) => false,
            (Write::Class, _) => rule.class != 0,
            (Write::Mark(_), None) => false,
            (Write::Mark(None), Some(_)) => true,
            (Write::Mark(Some(written)), Some(sought)) => {
                let meets = |mark: u32| (mark ^ sought) & rule.mask == 0;
                meets(written) != meets(0)
            }
        })
    }
}

/// The register and the number that an expression puts into it, where it is a constant.
fn constant(element: &[u8]) -> Option<(u32, u32)> {
    let data = find(element, 2).filter(|_| word(element, 1) == "immediate")?;
    let value = find(data, 2).and_then(|value| find(value, 1))?.first_chunk::<4>()?;
    Some((number(data, 1)?, u32::from_ne_bytes(*value)))
}

/// `last`: what the expression before it put where.
fn writes(element: &[u8], last: Option<(u32, u32)>) -> Option<(String, Write)> {
    let data = find(element, 2).unwrap_or_default();
    let name = word(element, 1);
    match name.as_str() {
        "meta" if number(data, 2) == Some(MARK) => {
            let from = number(data, 3)?;
            let mark = last.filter(|(register, _)| *register == from).map(|(_, value)| value);
            let by = mark.map_or_else(|| "mark set".to_owned(), |mark| format!("mark set {mark:#x}"));
            Some((by, Write::Mark(mark)))
        }
        // The type of service of IPv4, and the class of IPv6, stand in the first two octets.
        "payload" if written(data).is_some_and(|(from, _)| from < 2) => Some(("dscp set".to_owned(), Write::Class)),
        "target" => {
            let (target, info) = (word(data, 1), find(data, 3).unwrap_or_default());
            Some((format!("target {target}"), written_by(&target, info)?))
        }
        _ => None,
    }
}

/// What one of iptables' targets with this data writes.
fn written_by(target: &str, info: &[u8]) -> Option<Write> {
    match target {
        // A mark and a mask (`struct xt_mark_tginfo2`): of bits that are kept it is not known what they are.
        "MARK" => Some(Write::Mark(match info.split_first_chunk() {
            Some((value, [0xff, 0xff, 0xff, 0xff, ..])) => Some(u32::from_ne_bytes(*value)),
            _ => None,
        })),
        "CONNMARK" if gives_back(target, info) => Some(Write::Restored),
        "DSCP" | "TOS" => Some(Write::Class),
        _ => None,
    }
}

/// Whether one of iptables' targets gives packets the mark of their connection.
pub(in crate::net) fn gives_back(target: &str, info: &[u8]) -> bool {
    target == "CONNMARK" && info.get(MODE) == Some(&RESTORE)
}

/// What an expression marks its connection by; `last` as for [`writes`].
fn marks(element: &[u8], last: Option<(u32, u32)>) -> Option<(String, Write)> {
    let data = find(element, 2).unwrap_or_default();
    match word(element, 1).as_str() {
        "ct" if number(data, 2) == Some(CONNECTION_MARK) => {
            let from = number(data, STORES_FROM)?;
            let mark = last.filter(|(register, _)| *register == from).map(|(_, value)| value);
            Some(("ct mark set".to_owned(), Write::Mark(mark)))
        }
        "target" => {
            let target = word(data, 1);
            let write = marked_by(&target, find(data, 3).unwrap_or_default())?;
            Some((format!("target {target}"), write))
        }
        _ => None,
    }
}

/// What one of iptables' targets marks a connection by: a mark, and the bits of it that are written.
fn marked_by(target: &str, info: &[u8]) -> Option<Write> {
    if target != "CONNMARK" || info.get(MODE) != Some(&SET) {
        return None;
    }
    let (mark, rest) = info.split_first_chunk()?;
    let whole = rest.starts_with(&[0xff; 4]);
    Some(Write::Mark(whole.then_some(u32::from_ne_bytes(*mark))))
}

/// Whether a rule of these expressions gives packets the mark of their connection.
pub(super) fn restores(expressions: &[u8]) -> bool {
    let (mut loads, mut gives) = (false, false);
    for (_, element) in attributes(expressions) {
        let data = find(element, 2).unwrap_or_default();
        match word(element, 1).as_str() {
            "ct" if number(data, 2) == Some(CONNECTION_MARK) => loads |= find(data, LOADS_INTO).is_some(),
            "meta" if number(data, 2) == Some(MARK) => gives |= loads && number(data, 3).is_some(),
            "target" => gives |= gives_back(&word(data, 1), find(data, 3).unwrap_or_default()),
            _ => {}
        }
    }
    gives
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(parts: &[(u16, &[u8])]) -> Vec<u8> {
        let mut all = Vec::new();
        parts.iter().for_each(|(kind, value)| put_attribute(&mut all, *kind, value));
        all
    }

    fn expression(name: &str, data: &[(u16, &[u8])]) -> Vec<u8> {
        nested(&[(1, &nested(&[(1, &[name.as_bytes(), &[0]].concat()), (2, &nested(data))]))])
    }

    fn number(value: u32) -> [u8; 4] {
        value.to_be_bytes()
    }

    /// As `meta mark set VALUE`.
    fn marking(value: u32) -> Vec<u8> {
        let value = nested(&[(1, &value.to_ne_bytes())]);
        let constant = expression("immediate", &[(1, &number(8)), (2, &value)]);
        [constant, expression("meta", &[(2, &number(MARK)), (3, &number(8))])].concat()
    }

    /// As wg-quick has it: `not fwmark 0xca6c`, and one that looks at one bit.
    fn steering(more: serde_json::Value) -> Steering {
        let mut rule = serde_json::json!({
            "ipv6": false, "priority": 100, "table": 254, "mark": 0xca6c, "mask": u32::MAX, "to": null, "from": null, "incoming": null,
            "protocol": null, "from_ports": null, "to_ports": null, "users": null, "inverted": true, "text": "", "raw": ""
        });
        let (Some(rule_keys), Some(more)) = (rule.as_object_mut(), more.as_object()) else { unreachable!() };
        rule_keys.extend(more.clone());
        Steering(Some(vec![serde_json::from_value(rule).unwrap()]))
    }

    fn by(steering: &Steering, expressions: &[u8]) -> Option<String> {
        match steering.steered(expressions) {
            Some((_, Does::Divert { by, begun: true })) => Some(by),
            None => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_mark_counts_where_a_rule_looks_for_it() {
        let one = steering(serde_json::json!({}));
        assert_eq!(by(&one, &marking(0xca6c)).as_deref(), Some("mark set 0xca6c"));
        assert_eq!(by(&one, &marking(0x10)), None, "it marks for a queue, or for nobody");
        let bit = steering(serde_json::json!({ "mark": 1, "mask": 1 }));
        assert!(by(&bit, &marking(0x11)).is_some() && by(&bit, &marking(0x10)).is_none());
        let none = steering(serde_json::json!({ "mark": null }));
        assert_eq!(by(&none, &marking(0xca6c)), None);
        assert!(by(&Steering(None), &marking(0x10)).is_some(), "nothing is known of routes");
    }

    #[test]
    fn a_mark_that_is_not_known_may_be_any() {
        let copied = [
            expression("immediate", &[(1, &number(8)), (2, &nested(&[(1, &[0, 0, 0, 16])]))]),
            expression("ct", &[(1, &number(8)), (2, &number(3))]),
            expression("meta", &[(2, &number(MARK)), (3, &number(8))]),
        ]
        .concat();
        let one = steering(serde_json::json!({}));
        assert_eq!(by(&one, &copied), None, "those that mark the connection tell");
        assert!(restores(&copied) && !restores(&marking(0xca6c)));
        let drawn = [
            expression("numgen", &[(1, &number(8)), (2, &number(3))]),
            expression("meta", &[(2, &number(MARK)), (3, &number(8))]),
        ]
        .concat();
        assert_eq!(by(&one, &drawn).as_deref(), Some("mark set"));
        let connection = |value: u32| {
            let value = nested(&[(1, &value.to_ne_bytes())]);
            let constant = expression("immediate", &[(1, &number(8)), (2, &value)]);
            [constant, expression("ct", &[(2, &number(CONNECTION_MARK)), (4, &number(8))])].concat()
        };
        assert!(one.marked(&connection(0xca6c)).is_some() && one.marked(&connection(0x10)).is_none());
        assert!(one.marked(&copied).is_none());
        let reads = expression("meta", &[(1, &number(8)), (2, &number(MARK))]);
        assert_eq!(by(&steering(serde_json::json!({})), &reads), None, "it is looked at and not written");
    }

    #[test]
    fn a_class_counts_where_a_rule_looks_for_one() {
        let dscp = expression("payload", &[(5, &number(8)), (2, &number(1)), (3, &number(0)), (4, &number(2))]);
        assert_eq!(by(&steering(serde_json::json!({})), &dscp), None);
        assert_eq!(by(&steering(serde_json::json!({ "class": 8 })), &dscp).as_deref(), Some("dscp set"));
    }

    #[test]
    fn targets_of_iptables_mark_too() {
        let target =
            |name: &str, info: &[u8]| expression("target", &[(1, &[name.as_bytes(), &[0]].concat()), (3, info)]);
        let one = steering(serde_json::json!({}));
        let mark = |value: u32, mask: u32| target("MARK", &[value.to_ne_bytes(), mask.to_ne_bytes()].concat());
        assert_eq!(by(&one, &mark(0xca6c, u32::MAX)).as_deref(), Some("target MARK"));
        assert_eq!(by(&one, &mark(0x10, u32::MAX)), None);
        assert!(by(&one, &mark(0x10, 0x10)).is_some(), "the other bits may be there before");
        let mode = |mode: u8| target("CONNMARK", &[&0xca6c_u32.to_ne_bytes()[..], &[0xff; 8], &[mode]].concat());
        let [set, save, restore] = [SET, 1, RESTORE].map(mode);
        assert!([&set, &save, &restore].iter().all(|one_of| by(&one, one_of).is_none()));
        assert!(restores(&restore) && !restores(&set) && !restores(&save));
        assert!(one.marked(&set).is_some() && one.marked(&save).is_none() && one.marked(&restore).is_none());
    }
}
