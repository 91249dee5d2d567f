//! A stack's firewall, in one of several styles, all of which let the same pass.

mod change;
mod gluetun;
mod native;
mod wg_quick;

pub(in crate::lab) use change::protocol;
pub(super) use change::{divert, divert_no_more, families, insert, remark, remark_no_more, remove, set_policy};
pub(super) use gluetun::seal_legacy;

use super::{GluetunConfig, StackError, Uplink};
use crate::lab::leak::{Action, ChainName, Leak};
use crate::net::nft::{Batch, HookPoint, Match, Nft, NftError, Rule, Table, TableFamily, Verdict};
use crate::net::route::Family;
use ipnet::IpNet;
use serde::Deserialize;
use std::net::SocketAddr;

/// Multicast that finds the neighbours of an IPv6 address (RFC 4291, solicited-node).
const SOLICITED_NODE: &str = "ff02::1:ff00:0/104";
/// IPv6 link-local addresses, between which neighbours are found too.
const LINK_LOCAL: &str = "fe80::/64";

/// How a kill switch is written, and who keeps it in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firewall {
    /// Gluetun's, in nftables, as iptables-nft writes to it.
    #[default]
    Gluetun,
    /// Gluetun's, in iptables-legacy and ip6tables-legacy, and nothing in nftables.
    Legacy,
    /// Gluetun's, in nftables, and tables of iptables-legacy that let everything pass. Both are asked for each packet, and one that drops is
    /// enough.
    LegacyBeside,
    /// Gluetun's, without the rule of OUTPUT that lets pass what belongs to a known connection.
    Strict,
    /// See [`wg_quick`].
    WgQuick,
    /// See [`native`].
    NftNative,
    /// As that, after routing.
    NftPostrouting,
}

impl Firewall {
    /// The table in which the chains of a family are.
    fn table(self, family: Family) -> Table {
        match (self, family) {
            (Self::NftNative | Self::NftPostrouting, _) => native::table(),
            (_, Family::V4) => Table::new(TableFamily::Ip, "filter"),
            (_, Family::V6) => Table::new(TableFamily::Ip6, "filter"),
        }
    }

    /// What this style calls a chain.
    fn chain(self, name: ChainName) -> &'static str {
        match self {
            Self::NftNative | Self::NftPostrouting => native::chain(name),
            _ => name.name(),
        }
    }

    /// The rule at the end of a chain that decides on what no other did, where there is one beside the policy.
    fn last(self, chain: ChainName, family: Family, tunnel: &str) -> Option<Rule> {
        match self {
            Self::Gluetun | Self::Legacy | Self::LegacyBeside | Self::Strict => None,
            Self::WgQuick => wg_quick::last(chain, tunnel),
            Self::NftNative => Some(native::last(family, HookPoint::Output)),
            Self::NftPostrouting => Some(native::last(family, HookPoint::Postrouting)),
        }
    }
}

/// What the firewall has to let pass.
pub(super) struct Allowed<'a> {
    /// The one by which outbound subnets and the VPN server are reached comes first; there is one at least.
    pub uplinks: &'a [Uplink],
    pub tunnel: &'a str,
    pub endpoint: SocketAddr,
    /// The transport by which it is spoken to.
    pub transport: u8,
    pub outbound: &'a [IpNet],
    pub input_ports: &'a [u16],
    /// Whether its owner has added rules of his own to Gluetun's.
    pub post_rules: bool,
}

impl<'a> Allowed<'a> {
    /// What a stack so set up lets pass.
    pub fn of(config: &'a GluetunConfig, uplinks: &'a [Uplink]) -> Self {
        Self {
            uplinks,
            tunnel: &config.tunnel,
            endpoint: config.endpoint,
            transport: config.protocol.transport(),
            outbound: &config.outbound,
            input_ports: &config.input_ports,
            post_rules: !config.leak.iter().flat_map(Leak::actions).any(|action| *action == Action::NoPostRules {}),
        }
    }

    /// The first uplink.
    fn uplink(&self) -> &'a Uplink {
        &self.uplinks[0]
    }

    /// The outbound subnets of a family.
    fn outbound(&self, family: Family) -> impl Iterator<Item = IpNet> {
        self.outbound.iter().copied().filter(move |net| Family::of(net.addr()) == family)
    }
}

/// Closes everything, then opens what is allowed: in that order, so that no packet finds a gap.
pub(super) fn seal(nft: &mut Nft, allowed: &Allowed<'_>, style: Firewall) -> Result<(), StackError> {
    match style {
        Firewall::Gluetun | Firewall::Legacy | Firewall::LegacyBeside | Firewall::Strict => {
            gluetun::seal(nft, allowed, style)
        }
        Firewall::WgQuick => Ok(wg_quick::seal(nft, allowed)?),
        Firewall::NftNative => Ok(native::seal(nft, allowed, HookPoint::Output)?),
        Firewall::NftPostrouting => Ok(native::seal(nft, allowed, HookPoint::Postrouting)?),
    }
}

/// Lets the tunnel reach another server.
pub(super) fn let_to(nft: &mut Nft, config: &GluetunConfig, endpoint: SocketAddr) -> Result<(), NftError> {
    let style = config.firewall;
    let mut batch = Batch::new();
    let table = style.table(Family::of(endpoint.ip()));
    let (chain, rule) =
        (style.chain(ChainName::Output), to_endpoint(&config.uplink, endpoint, config.protocol.transport()).counted());
    if style.last(ChainName::Output, Family::V4, "").is_some() {
        batch.insert_rule(&table, chain, &rule);
    } else {
        batch.append_rule(&table, chain, &rule);
    }
    nft.commit(batch)
}

fn accept() -> Rule {
    Rule::new(Verdict::Accept)
}

fn to_endpoint(link: &str, endpoint: SocketAddr, transport: u8) -> Rule {
    let rule = accept().when(Match::Destination(endpoint.ip().into())).when(Match::Output(link.to_owned()));
    let rule = rule.when(Match::Protocol(transport));
    rule.when(Match::DestinationPorts(endpoint.port(), endpoint.port()))
}

/// The networks between which IPv6 finds neighbours.
fn neighbourhood(family: Family) -> Vec<IpNet> {
    match family {
        Family::V4 => Vec::new(),
        Family::V6 => [SOLICITED_NODE, LINK_LOCAL].map(crate::lab::plan::net).to_vec(),
    }
}
