//! Bencoding (BEP 3), reading only: what DHT nodes and trackers answer. Pure and total: any octets give a value or nothing, in time and
//! memory that their length bounds.

/// Lists and dictionaries inside each other; honest answers have two or three.
const MAX_DEPTH: usize = 8;
/// Longest text that [`text`] gives, in characters.
const MAX_TEXT: usize = 80;

/// A bencoded value that borrows from the octets it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// `i42e`.
    Integer(i64),
    /// `4:spam`; not necessarily text.
    Octets(&'a [u8]),
    /// `l…e`.
    List(Vec<Value<'a>>),
    /// `d…e`, in the order in which it was written.
    Dictionary(Vec<(&'a [u8], Value<'a>)>),
}

impl<'a> Value<'a> {
    /// Reads one value that takes all of `octets`.
    pub fn read(octets: &'a [u8]) -> Option<Self> {
        let (value, rest) = value(octets, 0)?;
        rest.is_empty().then_some(value)
    }

    /// What a dictionary has under `key`; of two equal keys the first counts.
    pub fn get(&self, key: &[u8]) -> Option<&Value<'a>> {
        match self {
            Value::Dictionary(entries) => entries.iter().find(|(known, _)| *known == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The octets of a string.
    pub fn octets(&self) -> Option<&'a [u8]> {
        match self {
            Value::Octets(octets) => Some(octets),
            _ => None,
        }
    }

    /// A number.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Value::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// The values of a list.
    pub fn list(&self) -> Option<&[Value<'a>]> {
        match self {
            Value::List(values) => Some(values),
            _ => None,
        }
    }
}

/// A string of a stranger for a message: cut, and without control characters.
pub fn text(octets: &[u8]) -> String {
    let readable = String::from_utf8_lossy(octets);
    readable.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn value(octets: &[u8], depth: usize) -> Option<(Value<'_>, &[u8])> {
    match octets.first()? {
        b'i' => {
            let (number, rest) = until(&octets[1..], b'e')?;
            Some((Value::Integer(decimal(number)?), rest))
        }
        b'l' if depth < MAX_DEPTH => {
            let (mut values, mut rest) = (Vec::new(), &octets[1..]);
            while *rest.first()? != b'e' {
                let (next, after) = value(rest, depth + 1)?;
                values.push(next);
                rest = after;
            }
            Some((Value::List(values), &rest[1..]))
        }
        b'd' if depth < MAX_DEPTH => {
            let (mut entries, mut rest) = (Vec::new(), &octets[1..]);
            while *rest.first()? != b'e' {
                let (key, after) = string(rest)?;
                let (next, after) = value(after, depth + 1)?;
                entries.push((key, next));
                rest = after;
            }
            Some((Value::Dictionary(entries), &rest[1..]))
        }
        _ => string(octets).map(|(octets, rest)| (Value::Octets(octets), rest)),
    }
}

fn string(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = until(octets, b':')?;
    if !length.iter().all(u8::is_ascii_digit) {
        return None;
    }
    rest.split_at_checked(usize::try_from(decimal(length)?).ok()?)
}

/// What stands before `end`, which is looked for where a number can be only, and what stands after it.
fn until(octets: &[u8], end: u8) -> Option<(&[u8], &[u8])> {
    const LONGEST: usize = "-9223372036854775808".len();
    let at = octets.iter().take(LONGEST + 1).position(|octet| *octet == end)?;
    Some((&octets[..at], &octets[at + 1..]))
}

fn decimal(digits: &[u8]) -> Option<i64> {
    // Rust would take a plus sign too.
    if digits.first() == Some(&b'+') {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_bep_3() {
        assert_eq!(Value::read(b"4:spam"), Some(Value::Octets(b"spam")));
        assert_eq!(Value::read(b"i3e"), Some(Value::Integer(3)));
        assert_eq!(Value::read(b"i-3e"), Some(Value::Integer(-3)));
        let list = Value::List(vec![Value::Octets(b"spam"), Value::Octets(b"eggs")]);
        assert_eq!(Value::read(b"l4:spam4:eggse"), Some(list.clone()));
        let dictionary = Value::read(b"d3:cow3:moo4:spaml4:spam4:eggsee").unwrap();
        assert_eq!(dictionary.get(b"cow").and_then(Value::octets), Some(&b"moo"[..]));
        assert_eq!(dictionary.get(b"spam"), Some(&list));
        assert_eq!(dictionary.get(b"pig"), None);
    }

    #[test]
    fn anything_else_is_nothing() {
        let deep = [vec![b'l'; 100_000], vec![b'e'; 100_000]].concat();
        for octets in [
            &b""[..],
            b"i3",
            b"ie",
            b"i+3e",
            b"i99999999999999999999e",
            b"4:spa",
            b"-1:a",
            b"99999999999999999999:a",
            b"4",
            b":",
            b"l",
            b"d",
            b"d3:cowe",
            b"di3e3:mooe",
            b"4:spam4:spam",
            b"<html>",
            &deep,
        ] {
            assert_eq!(Value::read(octets), None, "{:?}", &octets[..octets.len().min(20)]);
        }
    }

    fn write(value: &Value<'_>, out: &mut Vec<u8>) {
        let string = |octets: &[u8], out: &mut Vec<u8>| {
            out.extend(format!("{}:", octets.len()).bytes());
            out.extend(octets);
        };
        match value {
            Value::Integer(number) => out.extend(format!("i{number}e").bytes()),
            Value::Octets(octets) => string(octets, out),
            Value::List(values) => {
                out.push(b'l');
                values.iter().for_each(|value| write(value, out));
                out.push(b'e');
            }
            Value::Dictionary(entries) => {
                out.push(b'd');
                for (key, value) in entries {
                    string(key, out);
                    write(value, out);
                }
                out.push(b'e');
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(number: i64, key in proptest::collection::vec(any::<u8>(), 0..9), octets in proptest::collection::vec(any::<u8>(), 0..40)) {
            let inner = Value::List(vec![Value::Integer(number), Value::Octets(&octets)]);
            let whole = Value::Dictionary(vec![(&key, inner.clone()), (b"end of it", Value::Octets(&key))]);
            let mut written = Vec::new();
            write(&whole, &mut written);
            prop_assert_eq!(Value::read(&written), Some(whole.clone()));
            written.push(b'e');
            prop_assert_eq!(Value::read(&written), None);
        }

        #[test]
        fn any_octets_do_no_harm(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(value) = Value::read(&octets) {
                let mut written = Vec::new();
                write(&value, &mut written);
                prop_assert!(written.len() <= octets.len());
            }
        }
    }
}
