//! What a leak changes in a firewall, whatever its style. Its rules carry a comment, by which they are found again to be removed.

use super::Firewall;
use crate::lab::leak::{ChainName, FamilyName, Packets, PolicyName, Transport};
use crate::net::nft::{Batch, Chain, HookPoint, Match, Nft, NftError, Policy, Rule, Table, TableFamily, Verdict};
use crate::net::route::Family;
use std::net::IpAddr;

/// The families that a name stands for.
pub(in crate::lab::stack) fn families(name: FamilyName) -> Vec<Family> {
    match name {
        FamilyName::V4 => vec![Family::V4],
        FamilyName::V6 => vec![Family::V6],
        FamilyName::Both => vec![Family::V4, Family::V6],
    }
}

pub(super) fn policy_of(name: PolicyName) -> Policy {
    match name {
        PolicyName::Accept => Policy::Accept,
        PolicyName::Drop => Policy::Drop,
    }
}

/// Has a chain let pass, or not, what none of its rules decides on: by its policy, or by the rule at its end in a style that has one.
pub(in crate::lab::stack) fn set_policy(
    nft: &mut Nft,
    style: Firewall,
    tunnel: &str,
    family: FamilyName,
    chain: ChainName,
    policy: PolicyName,
) -> Result<(), NftError> {
    let (mut batch, name) = (Batch::new(), style.chain(chain));
    for family in families(family) {
        let table = style.table(family);
        let Some(last) = style.last(chain, family, tunnel) else {
            batch.set_policy(&table, name, policy_of(policy));
            continue;
        };
        let comment = end_comment(family);
        for rule in nft.rules(&table, name)?.iter().filter(|rule| rule.comment.as_deref() == Some(&comment)) {
            batch.delete_rule(&table, name, rule.handle);
        }
        let rule = match policy {
            PolicyName::Accept => Rule::new(Verdict::Accept).when(Match::Version(family)),
            PolicyName::Drop => last,
        };
        batch.append_rule(&table, name, &rule.counted().comment(&comment));
    }
    nft.commit(batch)
}

/// By which the rule is found again that ends a chain for a family.
pub(super) fn end_comment(family: Family) -> String {
    format!("the rest of {family:?}")
}

/// Puts a rule for `packets` at the head of its chain, with `comment`.
pub(in crate::lab::stack) fn insert(
    nft: &mut Nft,
    style: Firewall,
    packets: &Packets,
    verdict: Verdict,
    comment: &str,
) -> Result<(), NftError> {
    let mut batch = Batch::new();
    for family in families_of(packets) {
        let rule = about(packets, family, style.table(family).family, verdict).comment(comment);
        batch.insert_rule(&style.table(family), style.chain(packets.chain), &rule);
    }
    nft.commit(batch)
}

/// Sends `packets` to another address, in a table of that name.
pub(in crate::lab::stack) fn divert(nft: &mut Nft, packets: &Packets, to: IpAddr, name: &str) -> Result<(), NftError> {
    let (table, chain) = (table_of(to, name), Chain::destination_nat("output", HookPoint::Output));
    let mut batch = Batch::new();
    batch.add_table(&table);
    batch.add_chain(&table, &chain);
    let rule = about(packets, Family::of(to), table.family, Verdict::DestinationNat(to));
    batch.append_rule(&table, &chain.name, &rule);
    nft.commit(batch)
}

/// Removes what [`divert`] made.
pub(in crate::lab::stack) fn divert_no_more(nft: &mut Nft, to: IpAddr, name: &str) -> Result<(), NftError> {
    let mut batch = Batch::new();
    batch.delete_table(&table_of(to, name));
    nft.commit(batch)
}

/// Marks `packets` once the filters have let them pass, and lets what leaves by the uplink then have its address, in a table of that name.
pub(in crate::lab::stack) fn remark(
    nft: &mut Nft,
    packets: &Packets,
    mark: u32,
    uplink: &str,
    name: &str,
) -> Result<(), NftError> {
    let table = Table::new(TableFamily::Inet, name);
    let (marking, translating) = (Chain::late_route("output"), Chain::source_nat("postrouting"));
    let mut batch = Batch::new();
    batch.add_table(&table);
    batch.add_chain(&table, &marking);
    batch.add_chain(&table, &translating);
    for family in families_of(packets) {
        batch.append_rule(&table, &marking.name, &about(packets, family, table.family, Verdict::SetMark(mark)));
    }
    let leaving = Rule::new(Verdict::Masquerade).when(Match::Output(uplink.to_owned())).when(Match::Mark(mark));
    batch.append_rule(&table, &translating.name, &leaving);
    nft.commit(batch)
}

/// Removes what [`remark`] made.
pub(in crate::lab::stack) fn remark_no_more(nft: &mut Nft, name: &str) -> Result<(), NftError> {
    let mut batch = Batch::new();
    batch.delete_table(&Table::new(TableFamily::Inet, name));
    nft.commit(batch)
}

fn table_of(to: IpAddr, name: &str) -> Table {
    Table::new(if to.is_ipv6() { TableFamily::Ip6 } else { TableFamily::Ip }, name)
}

/// A rule for packets of that family, in a table of that one or of both.
fn about(packets: &Packets, family: Family, table: TableFamily, verdict: Verdict) -> Rule {
    let mut rule = Rule::new(verdict).counted();
    if table == TableFamily::Inet {
        rule = rule.when(Match::Version(family));
    }
    if let Some(link) = &packets.link {
        rule = rule.when(match packets.chain {
            ChainName::Input => Match::Input(link.clone()),
            ChainName::Forward | ChainName::Output => Match::Output(link.clone()),
        });
    }
    if let Some(net) = packets.from {
        rule = rule.when(Match::Source(net));
    }
    if let Some(net) = packets.to {
        rule = rule.when(Match::Destination(net));
    }
    if let Some(number) = packets.proto.map(|transport| protocol(transport, family)).or(packets.number) {
        rule = rule.when(Match::Protocol(number));
    }
    if let Some(ports) = packets.from_ports {
        rule = rule.when(Match::SourcePorts(ports.0, ports.1));
    }
    if let Some(ports) = packets.ports {
        rule = rule.when(Match::DestinationPorts(ports.0, ports.1));
    }
    if let Some(mark) = packets.mark {
        rule = rule.when(Match::Mark(mark));
    }
    if let Some(user) = packets.user {
        rule = rule.when(Match::User(user));
    }
    if let Some(kind) = packets.icmp_type {
        rule = rule.when(Match::IcmpType(kind));
    }
    if let Some(class) = packets.class {
        rule = rule.when(Match::Class(class));
    }
    if packets.later_fragments {
        rule = rule.when(Match::LaterFragment);
    }
    if let Some(option) = packets.option {
        rule = rule.when(Match::Option(option));
    }
    if let Some(flags) = packets.flags {
        rule = rule.when(Match::TcpFlags { of: flags.of, set: flags.set, not: flags.not });
    }
    if let Some(least) = packets.longer {
        rule = rule.when(Match::Length(least, u16::MAX.into()));
    }
    if let Some(number) = packets.one_in {
        rule = rule.when(Match::OneIn(number));
    }
    rule
}

/// Removes what [`insert`] put there.
pub(in crate::lab::stack) fn remove(
    nft: &mut Nft,
    style: Firewall,
    packets: &Packets,
    comment: &str,
) -> Result<(), NftError> {
    let mut batch = Batch::new();
    for family in families_of(packets) {
        let (table, chain) = (style.table(family), style.chain(packets.chain));
        for rule in nft.rules(&table, chain)? {
            if rule.comment.as_deref() == Some(comment) {
                batch.delete_rule(&table, chain, rule.handle);
            }
        }
    }
    nft.commit(batch)
}

fn families_of(packets: &Packets) -> Vec<Family> {
    packets.to.or(packets.from).map_or_else(|| families(packets.family), |net| vec![Family::of(net.addr())])
}

/// The number of a transport in a family.
pub(in crate::lab) fn protocol(transport: Transport, family: Family) -> u8 {
    let number = match (transport, family) {
        (Transport::Tcp, _) => libc::IPPROTO_TCP,
        (Transport::Udp, _) => libc::IPPROTO_UDP,
        (Transport::Icmp, Family::V4) => libc::IPPROTO_ICMP,
        (Transport::Icmp, Family::V6) => libc::IPPROTO_ICMPV6,
        (Transport::Ipip, _) => libc::IPPROTO_IPIP,
        (Transport::Ipv6, _) => libc::IPPROTO_IPV6,
        (Transport::Gre, _) => libc::IPPROTO_GRE,
    };
    number as u8
}
