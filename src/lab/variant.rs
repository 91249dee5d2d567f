//! Variants: how a sealed stack, and the home around it, can be built, as data. `fixtures/variants/*.toml` are built in; adding one is
//! adding a file.
//!
//! The vocabulary is closed, as that of the leaks is. Every variant is sealed: what turns red on one is a false alarm, unless a leak breaks
//! it. A variant says what is there, a [`super::Condition`] what happens around it.

use std::fmt;

use serde::Deserialize;

use super::leak::{Action, Leak};
use super::stack::{Firewall, Routing};

/// The fixtures: file stem and text.
const VARIANTS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/variants.rs"));

/// Why a fixture cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VariantError {
    /// Nothing of that name is built in.
    #[error("find the variant {0}; there are: {1}")]
    Unknown(String, String),
    /// It says something that the vocabulary does not have.
    #[error("read the variant {0}")]
    Parse(String, #[source] Box<toml::de::Error>),
}

/// One way to build a stack. What it does not say is as Gluetun has it, in a home with both families.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Its id, the stem of its file.
    #[serde(skip)]
    pub id: String,
    /// What it is, in a few words.
    pub title: String,
    /// Where such stacks come from, and what is different for a checker.
    pub why: String,
    /// Which addresses the home has.
    #[serde(default)]
    pub home: Home,
    /// How the stack's packets find the tunnel.
    #[serde(default)]
    pub routing: Routing,
    /// The kill switch.
    #[serde(default)]
    pub firewall: Firewall,
    /// Whether the stack takes another server when its VPN is started again, as Gluetun does that may choose among several.
    #[serde(default)]
    pub another_server: bool,
}

/// Which addresses a home has, on its line and on the stack's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Home {
    /// Both families, with public IPv6 addresses on the stack's network.
    #[default]
    Dual,
    /// No IPv6.
    Ipv4,
}

impl Variant {
    /// Reads a fixture.
    ///
    /// # Errors
    /// When it is not well formed.
    pub fn parse(id: &str, text: &str) -> Result<Self, VariantError> {
        let mut variant: Self =
            toml::from_str(text).map_err(|error| VariantError::Parse(id.to_owned(), Box::new(error)))?;
        id.clone_into(&mut variant.id);
        Ok(variant)
    }

    /// The built-in fixture of that name.
    ///
    /// # Errors
    /// When there is none, or it is not well formed.
    pub fn named(id: &str) -> Result<Self, VariantError> {
        let found = VARIANTS.iter().find(|(stem, _)| *stem == id);
        let known = || VARIANTS.iter().map(|(stem, _)| *stem).collect::<Vec<_>>().join(", ");
        let (stem, text) = found.ok_or_else(|| VariantError::Unknown(id.to_owned(), known()))?;
        Self::parse(stem, text)
    }

    /// All built-in fixtures, in the order of their names.
    ///
    /// # Errors
    /// When one is not well formed.
    pub fn all() -> Result<Vec<Self>, VariantError> {
        VARIANTS.iter().map(|(stem, text)| Self::parse(stem, text)).collect()
    }

    /// Whether home, internet and tunnel have IPv6.
    #[must_use]
    pub fn ipv6(&self) -> bool {
        self.home != Home::Ipv4
    }

    /// Why a leak cannot be had in it.
    #[must_use]
    pub fn refuses(&self, leak: &Leak) -> Option<String> {
        let of_nftables =
            |action: &Action| matches!(action, Action::Policy { .. } | Action::Allow(_) | Action::Forbid(_));
        let (id, leak_id) = (&self.id, &leak.id);
        if self.firewall == Firewall::Legacy && leak.actions().any(of_nftables) {
            return Some(format!("the leak {leak_id} changes nftables, and the firewall of {id} is not there"));
        }
        if self.firewall != Firewall::default() && leak.needs_legacy() {
            return Some(format!("the leak {leak_id} is about Gluetun's own firewall, and {id} has another"));
        }
        None
    }

    /// Whether it needs the tables of iptables-legacy, which not every kernel has.
    #[must_use]
    pub fn needs_legacy(&self) -> bool {
        matches!(self.firewall, Firewall::Legacy | Firewall::LegacyBeside)
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.title)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fixture_is_well_formed_and_differs_from_gluetun() {
        let variants = Variant::all().unwrap();
        assert!(!variants.is_empty());
        for variant in variants {
            let Variant { id, title, why, .. } = variant.clone();
            assert!(!title.is_empty() && !why.is_empty(), "{variant}");
            assert_ne!(variant, Variant { id, title, why, ..Variant::default() });
        }
    }

    #[test]
    fn unknown_words_are_refused() {
        let with = |line: &str| Variant::parse("x", &format!("title='t'\nwhy='w'\n{line}\n"));
        assert!(with("firewall = 'wg-quick'").is_ok());
        for line in ["firewall = 'open'", "firewalls = 'wg-quick'", "home = 'ipv5'", "another_server = 1"] {
            assert!(with(line).is_err(), "{line}");
        }
        assert!(Variant::parse("x", "title='t'").is_err());
    }

    #[test]
    fn an_unknown_name_lists_the_known() {
        let error = Variant::named("no-such-variant").unwrap_err().to_string();
        assert!(error.contains("wg-quick"), "{error}");
    }
}
