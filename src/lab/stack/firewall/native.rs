//! A kill switch as people write it for nft(8) itself: one table for both families, chains and sets of their own names, priorities other
//! than iptables', a map from links to what happens to them, and a refusal that the sender is told of.
//!
//! ```text
//! set near4   { type ipv4_addr; flags interval }                        set inside { type ifname }
//! set near6   { type ipv6_addr; flags interval }                        map ways   { type ifname : verdict }
//! set server4 { type ipv4_addr . inet_proto . inet_service }            (or server6)
//! chain leave { hook output priority 10; policy drop
//!     oifname vmap @ways                                                lo, tun0: accept; eth0: jump around
//!     reject }
//! chain around {
//!     ip daddr @near4 accept;  ip6 daddr @near6 accept;  ip daddr . meta l4proto . th dport @server4 accept }
//! chain enter { hook input priority -5; policy drop
//!     iifname @inside accept;  ct state established,related accept;  ip daddr @near4 accept;  ip6 daddr @near6 accept }
//! chain pass  { hook forward priority 10; policy drop }
//! ```
//!
//! Or what leaves is looked at after routing, as some do to have forwarded packets in it too: then `leave` hangs at the hook postrouting, where
//! nothing can be refused, so that it is dropped.

use super::change::end_comment;
use super::{Allowed, accept, neighbourhood};
use crate::lab::leak::ChainName;
use crate::net::nft::{
    Batch, Chain, ChainKind, Decision, Element, Field, HookPoint, Match, NamedSet, Nft, NftError, Policy, Rule, Table,
    TableFamily, Verdict, state,
};
use crate::net::route::Family;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// The chain of what leaves past the tunnel.
const AROUND: &str = "around";

pub(super) fn table() -> Table {
    Table::new(TableFamily::Inet, "vpn-only")
}

pub(super) fn chain(name: ChainName) -> &'static str {
    match name {
        ChainName::Input => "enter",
        ChainName::Forward => "pass",
        ChainName::Output => "leave",
    }
}

pub(super) fn last(family: Family, at: HookPoint) -> Rule {
    Rule::new(if at == HookPoint::Output { Verdict::Reject } else { Verdict::Drop }).when(Match::Version(family))
}

/// `at` is where what leaves is looked at.
pub(super) fn seal(nft: &mut Nft, allowed: &Allowed<'_>, at: HookPoint) -> Result<(), NftError> {
    let (mut batch, table) = (Batch::new(), table());
    batch.add_table(&table);
    batch.add_called_chain(&table, AROUND);
    for (name, hook, priority) in [
        (ChainName::Input, HookPoint::Input, -5),
        (ChainName::Forward, HookPoint::Forward, 10),
        (ChainName::Output, at, 10),
    ] {
        let name = chain(name).to_owned();
        batch.add_chain(&table, &Chain { name, kind: ChainKind::Filter, hook, priority, policy: Policy::Drop });
    }
    for set in sets(allowed) {
        batch.add_set(&table, &set);
    }
    let within = |field, set: String| Match::In { fields: vec![field], set };
    let near = |family| accept().when(Match::Version(family)).when(within(to(family), near(family)));
    let rule = |batch: &mut Batch, chain: &str, rule: Rule| batch.append_rule(&table, chain, &rule.counted());
    for family in FAMILIES {
        rule(&mut batch, AROUND, near(family));
    }
    let family = Family::of(allowed.endpoint.ip());
    let server = Match::In { fields: server_key(family), set: server(family) };
    rule(&mut batch, AROUND, accept().when(Match::Version(family)).when(server));
    let enter = chain(ChainName::Input);
    rule(&mut batch, enter, accept().when(within(Field::Input, "inside".to_owned())));
    rule(&mut batch, enter, accept().when(Match::State(state::ESTABLISHED | state::RELATED)));
    for family in FAMILIES {
        rule(&mut batch, enter, near(family));
    }
    let ways = Match::Decided { fields: vec![Field::Output], map: "ways".to_owned() };
    rule(&mut batch, chain(ChainName::Output), Rule::new(Verdict::Count).when(ways));
    for name in [ChainName::Input, ChainName::Forward, ChainName::Output] {
        for family in FAMILIES {
            rule(&mut batch, chain(name), last(family, at).comment(&end_comment(family)));
        }
    }
    nft.commit(batch)
}

fn near(family: Family) -> String {
    if family == Family::V4 { "near4" } else { "near6" }.to_owned()
}

fn server(family: Family) -> String {
    if family == Family::V4 { "server4" } else { "server6" }.to_owned()
}

fn to(family: Family) -> Field {
    if family == Family::V4 { Field::Destination4 } else { Field::Destination6 }
}

fn server_key(family: Family) -> Vec<Field> {
    vec![to(family), Field::Protocol, Field::DestinationPort]
}

fn sets(allowed: &Allowed<'_>) -> Vec<NamedSet> {
    let mut sets: Vec<NamedSet> = FAMILIES
        .iter()
        .map(|family| {
            let own = allowed.uplinks.iter().flat_map(|uplink| uplink.subnets(*family)).map(|(subnet, _)| subnet);
            let all = own.chain(allowed.outbound(*family)).chain(neighbourhood(*family));
            NamedSet { name: near(*family), fields: vec![to(*family)], elements: all.map(Element::network).collect() }
        })
        .collect();
    let family = Family::of(allowed.endpoint.ip());
    sets.push(NamedSet {
        name: server(family),
        fields: server_key(family),
        elements: vec![Element::server(allowed.endpoint, allowed.transport)],
    });
    sets.push(NamedSet { name: "inside".to_owned(), fields: vec![Field::Input], elements: vec![Element::link("lo")] });
    let jump = |uplink| (uplink, Decision::Jump(AROUND.to_owned()));
    let ways = [("lo", Decision::Accept), (allowed.tunnel, Decision::Accept)].into_iter();
    let ways = ways.chain(allowed.uplinks.iter().map(|uplink| jump(uplink.link.as_str())));
    sets.push(NamedSet {
        name: "ways".to_owned(),
        fields: vec![Field::Output],
        elements: ways.map(|(link, does)| Element::link(link).does(does)).collect(),
    });
    sets
}
