//! Variants: how a sealed stack, and the home around it, can be built, as data. `fixtures/variants/*.toml` are built in; adding one is
//! adding a file.
//!
//! The vocabulary is closed, as that of the leaks is. Every variant is sealed: what turns red on one is a false alarm, unless a leak breaks
//! it. A variant says what is there, a [`super::Condition`] what happens around it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::leak::{Action, Leak};
use super::plan;
use super::stack::{Firewall, Routing, TUNNEL_PRIORITY};

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
    /// On how many networks of the home the stack is.
    #[serde(default)]
    pub networks: Networks,
    /// What the tunnel speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// How the stack's packets find the tunnel.
    #[serde(default)]
    pub routing: Routing,
    /// The kill switch.
    #[serde(default)]
    pub firewall: Firewall,
    /// Whether nobody on the internet, nor the provider, answers pings.
    #[serde(default)]
    pub silent_pings: bool,
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
    /// IPv6 alone; what is in the tunnel has both families all the same.
    Ipv6,
    /// Both families, and only private IPv6 addresses on the stack's network, which the home translates.
    Ula,
}

impl Home {
    /// The LAN's network, which is reached past the tunnel.
    #[must_use]
    pub fn lan(self) -> &'static str {
        if self == Self::Ipv6 { plan::LAN_NET_V6 } else { plan::LAN_NET }
    }

    /// The router's address for administration.
    #[must_use]
    pub fn management(self) -> &'static str {
        if self == Self::Ipv6 { plan::MANAGEMENT_V6 } else { plan::MANAGEMENT }
    }

    /// What has to be reached past the tunnel, and what of the stack from outside: web server of the LAN, the neighbour's port, the stack's
    /// own page.
    #[must_use]
    pub fn services(self) -> [&'static str; 3] {
        if self == Self::Ipv6 {
            ["http://[fd01::50]/", "tcp://[fd18::20]:8989", "http://[fd18::10]:8080/"]
        } else {
            ["http://192.168.1.50/", "tcp://172.18.0.20:8989", "http://172.18.0.10:8080/"]
        }
    }

    /// The addresses by which strangers know the stack past the tunnel.
    #[must_use]
    pub fn public(self) -> Vec<&'static str> {
        match self {
            Self::Dual => vec![plan::HOME, plan::STACK_GUA],
            Self::Ipv6 => vec![plan::STACK_GUA],
            Self::Ipv4 => vec![plan::HOME],
            Self::Ula => vec![plan::HOME, plan::HOME_V6],
        }
    }

    /// Whether a link of such a home has an address that others have.
    #[must_use]
    pub fn has(self, ip: IpAddr) -> bool {
        let of = |network| plan::net(network).contains(&ip);
        match self {
            Self::Dual => !of(plan::LAN_NET_V6),
            Self::Ipv4 => ip.is_ipv4(),
            Self::Ipv6 => ip.is_ipv6(),
            Self::Ula => !of(plan::LAN_NET_V6) && !of(plan::BRIDGE_GUA),
        }
    }
}

/// What a tunnel speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// WireGuard.
    #[default]
    Wireguard,
    /// OpenVPN over UDP, or what stands in for it.
    OpenvpnUdp,
    /// The same over TCP.
    OpenvpnTcp,
}

impl Protocol {
    /// The IANA number of the transport.
    #[must_use]
    pub fn transport(self) -> u8 {
        let number = if self == Self::OpenvpnTcp { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP };
        number as u8
    }
}

/// How many networks a stack is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Networks {
    /// Docker's usual one.
    #[default]
    One,
    /// One more, with a default route of its own.
    Two,
    /// Two more.
    Three,
}

impl Networks {
    /// Links to the home beside the first.
    #[must_use]
    pub fn more(self) -> usize {
        self as usize
    }
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

    /// The stack's links to the home beside the first.
    #[must_use]
    pub fn more_uplinks(&self) -> Vec<String> {
        plan::MORE_NETS.iter().take(self.networks.more()).map(|(_, link)| (*link).to_owned()).collect()
    }

    /// Where the VPN server is.
    #[must_use]
    pub fn endpoint(&self) -> SocketAddr {
        let ipv6 = self.home == Home::Ipv6;
        let mut server = plan::socket(if ipv6 { plan::ENDPOINT_V6 } else { plan::ENDPOINT });
        match self.protocol {
            Protocol::Wireguard => {}
            Protocol::OpenvpnUdp => server.set_port(plan::OPENVPN_UDP_PORT),
            Protocol::OpenvpnTcp => server.set_port(plan::OPENVPN_TCP_PORT),
        }
        server
    }

    /// The subnets that may be talked to past the tunnel.
    #[must_use]
    pub fn local(&self) -> Vec<&'static str> {
        let more = plan::MORE_NETS.iter().take(self.networks.more()).map(|(network, _)| *network);
        let all = [plan::BRIDGE_NET, self.home.lan(), plan::BRIDGE_ULA, plan::BRIDGE_GUA];
        all.into_iter().filter(|network| self.home.has(plan::net(network).addr())).chain(more).collect()
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
        let no_rule = self.routing.tunnel_priority().is_none();
        if no_rule && leak.actions().any(|action| *action == Action::Unrule { priority: TUNNEL_PRIORITY }) {
            return Some(format!("the leak {leak_id} removes the rule into the tunnel, and {id} has none"));
        }
        if self.networks != Networks::One && leak.actions().any(|action| *action == Action::SecondNetwork {}) {
            return Some(format!(
                "the leak {leak_id} puts the stack on a second network, and in {id} it is on several already"
            ));
        }
        let has_no_post_rules = matches!(
            self.firewall,
            Firewall::Strict | Firewall::WgQuick | Firewall::NftNative | Firewall::NftPostrouting
        );
        let stock = has_no_post_rules && leak.actions().any(|action| *action == Action::NoPostRules {});
        if stock || self.firewall != Firewall::default() && leak.needs_legacy() {
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
        for line in
            ["firewall = 'open'", "firewalls = 'wg-quick'", "home = 'ipv5'", "networks = 2", "another_server = 1"]
        {
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
