//! Gluetun's firewall: the same tables, chains, policies, rules and order, in the form that iptables-nft or iptables-legacy gives them.

use super::super::{StackError, legacy};
use super::change::policy_of;
use super::{Allowed, Firewall, accept, families, neighbourhood, to_endpoint};
use crate::lab::leak::{FamilyName, PolicyName};
use crate::net::nft::{Batch, Chain, HookPoint, Match, Nft, Policy, Rule, Verdict, state};
use crate::net::route::Family;
use std::net::IpAddr;

/// Closes everything, then opens what is allowed.
pub(super) fn seal(nft: &mut Nft, allowed: &Allowed<'_>, style: Firewall) -> Result<(), StackError> {
    match style {
        Firewall::Legacy => return seal_legacy(FamilyName::Both, PolicyName::Drop, allowed),
        Firewall::LegacyBeside => {
            let open = || legacy::Chain { policy: Policy::Accept, rules: Vec::new() };
            for family in [Family::V4, Family::V6] {
                legacy::replace(family, &[open(), open(), open()]).map_err(StackError::Legacy)?;
            }
        }
        _ => {}
    }
    let mut batch = Batch::new();
    for family in [Family::V4, Family::V6] {
        let table = style.table(family);
        batch.add_table(&table);
        for (name, hook) in
            [("INPUT", HookPoint::Input), ("FORWARD", HookPoint::Forward), ("OUTPUT", HookPoint::Output)]
        {
            batch.add_chain(&table, &Chain::filter(name, hook, Policy::Drop));
        }
    }
    nft.commit(batch)?;
    let mut batch = Batch::new();
    for family in [Family::V4, Family::V6] {
        let table = style.table(family);
        for rule in input(family, allowed) {
            batch.append_rule(&table, "INPUT", &rule.counted());
        }
        for rule in output(family, allowed, style != Firewall::Strict) {
            batch.append_rule(&table, "OUTPUT", &rule.counted());
        }
    }
    Ok(nft.commit(batch)?)
}

/// Puts the same rules into the tables of iptables-legacy; each table is replaced at once.
pub(in crate::lab::stack) fn seal_legacy(
    family: FamilyName,
    policy: PolicyName,
    allowed: &Allowed<'_>,
) -> Result<(), StackError> {
    let policy = policy_of(policy);
    for family in families(family) {
        let chain = |rules| legacy::Chain { policy, rules };
        let chains = [chain(input(family, allowed)), chain(Vec::new()), chain(output(family, allowed, true))];
        legacy::replace(family, &chains).map_err(StackError::Legacy)?;
    }
    Ok(())
}

fn known() -> Match {
    Match::State(state::ESTABLISHED | state::RELATED)
}

fn input(family: Family, allowed: &Allowed<'_>) -> Vec<Rule> {
    let link = || Match::Input(allowed.uplink().link.clone());
    let mut rules = vec![accept().when(Match::Input("lo".to_owned())), accept().when(known())];
    for uplink in allowed.uplinks {
        let own = uplink.subnets(family).into_iter().map(|(subnet, _)| subnet);
        let near = own.chain(neighbourhood(family));
        rules.extend(near.map(|net| accept().when(Match::Destination(net)).when(Match::Input(uplink.link.clone()))));
    }
    for port in allowed.input_ports {
        for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
            let rule = accept().when(link()).when(Match::Protocol(protocol as u8));
            rules.push(rule.when(Match::DestinationPorts(*port, *port)));
        }
    }
    rules
}

/// What a stock Gluetun lacks, and whoever wants it sealed puts into `/iptables/post-rules.txt`: known connections leave by an uplink only
/// from its own addresses. Over IPv6 nothing else keeps those of the tunnel in when it is gone.
///
/// ```text
/// ip6tables -I OUTPUT -o eth0 -m conntrack --ctstate RELATED,ESTABLISHED -m addrtype ! --src-type LOCAL --limit-iface-out -j DROP
/// ```
fn post_rules(family: Family, allowed: &Allowed<'_>) -> Vec<Rule> {
    let links = allowed.uplinks.iter().filter(|_| family == Family::V6).map(|uplink| uplink.link.clone());
    let rule = |link| Rule::new(Verdict::Drop).when(Match::Output(link)).when(known()).when(Match::NotFromItsLink);
    links.map(rule).collect()
}

/// `stateful`: what belongs to a known connection passes before all else.
fn output(family: Family, allowed: &Allowed<'_>, stateful: bool) -> Vec<Rule> {
    let mut rules = if stateful && allowed.post_rules { post_rules(family, allowed) } else { Vec::new() };
    rules.push(accept().when(Match::Output("lo".to_owned())));
    if stateful {
        rules.push(accept().when(known()));
    }
    let to = |net| accept().when(Match::Destination(net));
    for uplink in allowed.uplinks {
        let link = || Match::Output(uplink.link.clone());
        rules.extend(neighbourhood(family).into_iter().map(|net| to(net).when(link())));
        let from = |(subnet, source): (_, IpAddr)| to(subnet).when(Match::Source(source.into())).when(link());
        rules.extend(uplink.subnets(family).into_iter().map(from));
    }
    let link = || Match::Output(allowed.uplink().link.clone());
    for subnet in allowed.outbound(family) {
        if let Some((_, source)) = allowed.uplink().subnets(family).first() {
            rules.push(to(subnet).when(Match::Source((*source).into())).when(link()));
        }
    }
    if Family::of(allowed.endpoint.ip()) == family {
        rules.push(to_endpoint(&allowed.uplink().link, allowed.endpoint, allowed.transport));
    }
    rules.push(accept().when(Match::Output(allowed.tunnel.to_owned())));
    rules
}
