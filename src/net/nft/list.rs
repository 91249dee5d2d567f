//! Reading the ruleset back: for finding a rule again, and for telling whether anything changed.

use super::NftError;
use crate::net::netlink::{Client, Message, NetlinkError, attributes};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

const SUBSYSTEM: u16 = 10 << 8;
pub(super) const GET_TABLE: u16 = SUBSYSTEM | 1;
pub(super) const GET_CHAIN: u16 = SUBSYSTEM | 4;
pub(super) const GET_RULE: u16 = SUBSYSTEM | 7;
pub(super) const GET_SET: u16 = SUBSYSTEM | 10;
pub(super) const GET_ELEMENTS: u16 = SUBSYSTEM | 13;
pub(super) const GET_GENERATION: u16 = SUBSYSTEM | 16;
/// `struct nfgenmsg` before the attributes.
pub(super) const HEADER: usize = 4;
const NESTED: u16 = 0x8000;

/// A rule as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRule {
    /// Name of its table.
    pub table: String,
    /// Name of its chain.
    pub chain: String,
    /// By which it can be removed.
    pub handle: u64,
    /// Its comment, if it has one.
    pub comment: Option<String>,
}

/// The whole ruleset of a namespace as text, one line per object, with counters, handles and use counts left out.
/// Unknown expressions are shown as the bytes of their attributes, so that no difference hides in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruleset(Vec<String>);

impl Ruleset {
    /// What `other` lacks ("- …") and has besides ("+ …"), empty if the two are the same.
    #[must_use]
    pub fn diff(&self, other: &Self) -> Vec<String> {
        if self == other {
            return Vec::new();
        }
        let (before, after): (BTreeSet<_>, BTreeSet<_>) = (self.0.iter().collect(), other.0.iter().collect());
        let gone = before.difference(&after).map(|line| format!("- {line}"));
        let mut lines: Vec<String> = gone.chain(after.difference(&before).map(|line| format!("+ {line}"))).collect();
        if lines.is_empty() {
            lines.push("the same rules in another order or number".to_owned());
        }
        lines
    }

    /// The marks that rules look for, by nftables' own expressions or by iptables' match within them.
    #[must_use]
    pub fn marks(&self) -> Vec<u32> {
        self.0.iter().filter(|line| line.starts_with("rule ")).flat_map(|line| marks_of(line)).collect()
    }

    /// The lines.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

pub(super) fn dump(client: &mut Client, kind: u16, family: u8, rest: &[u8]) -> Result<Vec<Message>, NftError> {
    let mut payload = vec![family, 0, 0, 0];
    payload.extend(rest);
    match client.dump(kind, &payload) {
        // No rule has ever been made here, or a set went away between two questions.
        Err(NetlinkError::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
        other => other.map_err(|e| NftError::Netlink("list the firewall", e)),
    }
}

pub(super) fn rules(client: &mut Client, family: u8) -> Result<Vec<ListedRule>, NftError> {
    let mut rules = Vec::new();
    for message in dump(client, GET_RULE, family, &[])? {
        let mut rule = ListedRule { table: String::new(), chain: String::new(), handle: 0, comment: None };
        for (kind, value) in attributes(message.payload.get(HEADER..).unwrap_or_default()) {
            match kind {
                1 => rule.table = text(value),
                2 => rule.chain = text(value),
                3 => rule.handle = value.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
                7 => rule.comment = comment(value),
                _ => {}
            }
        }
        rules.push(rule);
    }
    Ok(rules)
}

fn comment(userdata: &[u8]) -> Option<String> {
    let (&kind, rest) = userdata.split_first()?;
    let (&length, rest) = rest.split_first()?;
    (kind == 0).then(|| rest.get(..usize::from(length))).flatten().map(text)
}

pub(super) fn ruleset(client: &mut Client) -> Result<Ruleset, NftError> {
    let mut lines = Vec::new();
    // Attributes that are left out: handles, use counts, counters, and the position that is the neighbour's handle.
    for (word, kind, ignored) in [
        ("table", GET_TABLE, &[3_u16, 4][..]),
        ("chain", GET_CHAIN, &[2, 6, 8]),
        ("rule", GET_RULE, &[3, 6]),
        ("set", GET_SET, &[10, 16]),
    ] {
        for message in dump(client, kind, 0, &[])? {
            let family = message.payload.first().copied().unwrap_or_default();
            let body = message.payload.get(HEADER..).unwrap_or_default();
            lines.push(format!("{word} family {family}{}", describe(body, ignored, word == "rule")));
            if kind == GET_SET {
                lines.extend(elements(client, family, body)?);
            }
        }
    }
    Ok(Ruleset(lines))
}

fn elements(client: &mut Client, family: u8, set: &[u8]) -> Result<Vec<String>, NftError> {
    let mut ask = Vec::new();
    let mut place = String::new();
    for (kind, value) in attributes(set).filter(|(kind, _)| matches!(kind, 1 | 2)) {
        crate::net::netlink::put_attribute(&mut ask, kind, value);
        place = format!("{place} {}", text(value));
    }
    let mut lines: Vec<String> = dump(client, GET_ELEMENTS, family, &ask)?
        .into_iter()
        .map(|message| {
            let body = message.payload.get(HEADER..).unwrap_or_default();
            format!("elements family {family}{place}{}", describe(body, &[1, 2], false))
        })
        .collect();
    // The order of a hash set is no property of it.
    lines.sort();
    Ok(lines)
}

/// Attributes as `kind=value`, text where it is text; the expressions of a rule one after another.
pub(super) fn describe(body: &[u8], ignored: &[u16], is_rule: bool) -> String {
    const EXPRESSIONS: u16 = 4;
    let mut line = String::new();
    for (kind, value) in attributes(body) {
        if ignored.contains(&kind) {
            continue;
        }
        if is_rule && kind == EXPRESSIONS {
            for (_, element) in attributes(value) {
                line.push_str(&expression(element));
            }
        } else if let Some(text) = printable(value) {
            line.push_str(&format!(" {kind}={text:?}"));
        } else {
            line.push_str(&format!(" {kind}={}", hex(value)));
        }
    }
    line
}

fn expression(element: &[u8]) -> String {
    let (mut name, mut data) = (String::new(), String::new());
    for (kind, value) in attributes(element) {
        match kind & !NESTED {
            1 => name = text(value),
            2 => data = attributes(value).map(|(kind, value)| format!(" {kind}:{}", hex(value))).collect(),
            _ => {}
        }
    }
    // What was counted is not what the rule is; the same goes for what is left of a quota.
    if matches!(name.as_str(), "counter" | "quota" | "last") {
        data.clear();
    }
    format!(" [{name}{data}]")
}

/// Marks in one line of [`Ruleset`]: a comparison after a load of the mark, or the data of iptables' `mark` match (xt_mark_mtinfo1).
fn marks_of(line: &str) -> Vec<u32> {
    const LOADS_MARK: &str = " 2:00000003";
    const XT_MARK: &str = "match 1:6d61726b00";
    let number = |hex: &str| -> Option<u32> { Some(u32::from_str_radix(hex.get(..8)?, 16).ok()?.swap_bytes()) };
    let (mut marks, mut loaded) = (Vec::new(), false);
    for expression in line.split('[').skip(1).map(|part| part.trim_end().trim_end_matches(']')) {
        let data = |name: &str| expression.split(' ').find_map(|word| word.strip_prefix(name));
        match expression.split(' ').next() {
            Some("meta") => loaded = expression.contains(LOADS_MARK),
            Some("bitwise") => {}
            // The value stands in an attribute within an attribute: four octets of header go before it.
            Some("cmp") if loaded => marks.extend(data("3:").and_then(|hex| number(hex.get(8..)?))),
            Some("match") if expression.starts_with(XT_MARK) => marks.extend(data("3:").and_then(number)),
            _ => loaded = false,
        }
    }
    marks
}

pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

fn printable(value: &[u8]) -> Option<String> {
    let (last, body) = value.split_last()?;
    (*last == 0 && !body.is_empty() && body.iter().all(u8::is_ascii_graphic)).then(|| text(value))
}

fn hex(value: &[u8]) -> String {
    value.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_both_kinds_of_rules() {
        let native = r#"rule family 2 1="filter" [meta 2:00000007 1:00000001] [cmp 1:00000001 2:00000000 3:1400010065746830000000000000000000000000] [meta 2:00000003 1:00000001] [cmp 1:00000001 2:00000000 3:080001006cca0000] [counter]"#;
        assert_eq!(marks_of(native), [0xca6c]);
        let translated = "rule family 2 [match 1:6d61726b00 2:00000001 3:01000000ff00000000000000] [counter]";
        assert_eq!(marks_of(translated), [1]);
        let setting = "rule family 2 [immediate 1:00000001] [meta 2:00000003 3:00000001]";
        assert!(marks_of(setting).is_empty());
    }
}
