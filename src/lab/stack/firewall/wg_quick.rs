//! The kill switch that the manual page of wg-quick(8) has as an example, as iptables-nft writes it: one rule at the end of OUTPUT rejects
//! what does not take the tunnel, does not carry WireGuard's mark, and is not for this host. Before it, local subnets are let out, and
//! neighbours are found. The policies of INPUT and OUTPUT are ACCEPT, and INPUT and FORWARD have no rules.
//!
//! Two things are closed that the manual page leaves open: its rule lets every packet go anywhere that carries the mark, and it says
//! nothing of FORWARD, by which a neighbour's packets would take the tunnel.

use super::change::end_comment;
use super::{Allowed, Firewall, accept, neighbourhood, to_endpoint};
use crate::lab::leak::ChainName;
use crate::lab::stack::MARK;
use crate::net::nft::{Batch, Chain, HookPoint, Match, Nft, NftError, Policy, Rule, Verdict};
use crate::net::route::Family;

pub(super) fn seal(nft: &mut Nft, allowed: &Allowed<'_>) -> Result<(), NftError> {
    let mut batch = Batch::new();
    for family in [Family::V4, Family::V6] {
        let table = Firewall::WgQuick.table(family);
        batch.add_table(&table);
        for (name, hook, policy) in [
            ("INPUT", HookPoint::Input, Policy::Accept),
            ("FORWARD", HookPoint::Forward, Policy::Drop),
            ("OUTPUT", HookPoint::Output, Policy::Accept),
        ] {
            batch.add_chain(&table, &Chain::filter(name, hook, policy));
        }
        for rule in output(family, allowed) {
            batch.append_rule(&table, "OUTPUT", &rule.counted());
        }
        let end = past(allowed.tunnel).when(Match::NotMark(MARK));
        batch.append_rule(&table, "OUTPUT", &end.counted().comment(&end_comment(family)));
    }
    nft.commit(batch)
}

pub(super) fn last(chain: ChainName, tunnel: &str) -> Option<Rule> {
    (chain == ChainName::Output).then(|| past(tunnel).when(Match::NotMark(MARK)))
}

/// Rejects what leaves past the tunnel.
fn past(tunnel: &str) -> Rule {
    Rule::new(Verdict::Reject).when(Match::NotOutput(tunnel.to_owned())).when(Match::NotToItself)
}

fn output(family: Family, allowed: &Allowed<'_>) -> Vec<Rule> {
    let mut rules = Vec::new();
    for uplink in allowed.uplinks {
        let own = uplink.subnets(family).into_iter().map(|(subnet, _)| subnet);
        let near = own.chain(allowed.outbound(family)).chain(neighbourhood(family));
        rules.extend(near.map(|net| accept().when(Match::Destination(net)).when(Match::Output(uplink.link.clone()))));
    }
    if Family::of(allowed.endpoint.ip()) == family {
        rules.push(to_endpoint(&allowed.uplink().link, allowed.endpoint, allowed.transport).when(Match::Mark(MARK)));
    }
    rules.push(past(allowed.tunnel).when(Match::Mark(MARK)));
    rules
}
