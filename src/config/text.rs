//! Deserialises whatever is written as a string through its [`FromStr`], so that a refusal points at the value itself.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// Deserialises through [`FromStr`].
struct Text<T>(T);

impl<'de, T: FromStr<Err = String>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reads<T>(PhantomData<T>);
        impl<T: FromStr<Err = String>> Visitor<'_> for Reads<T> {
            type Value = Text<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<T>, E> {
                text.parse().map(Text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Reads(PhantomData))
    }
}

/// `deserialize_with` for one value that is checked as `C`.
pub(super) fn one<'de, C, T, D>(deserializer: D) -> Result<T, D::Error>
where
    C: FromStr<Err = String> + Into<T>,
    D: Deserializer<'de>,
{
    Text::<C>::deserialize(deserializer).map(|text| text.0.into())
}

/// The same for a value that may be absent.
pub(super) fn maybe<'de, C, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    C: FromStr<Err = String> + Into<T>,
    D: Deserializer<'de>,
{
    one::<C, T, D>(deserializer).map(Some)
}

/// The same for a list.
pub(super) fn many<'de, C, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    C: FromStr<Err = String> + Into<T>,
    D: Deserializer<'de>,
{
    Vec::<Text<C>>::deserialize(deserializer).map(|list| list.into_iter().map(|text| text.0.into()).collect())
}
