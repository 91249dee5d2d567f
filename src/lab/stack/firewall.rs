//! Gluetun's firewall: the same tables, chains, policies, rules and order, in the form that iptables-nft gives them.
//!
//! Rules of leaks carry a comment, by which they are found again to be removed.

use super::{GluetunConfig, StackError, Uplink, legacy};
use crate::lab::leak::{ChainName, FamilyName, Packets, PolicyName, Transport};
use crate::net::nft::{
    Batch, Chain, HookPoint, Match, Nft, NftError, Policy, Rule, Table, TableFamily, Verdict, state,
};
use crate::net::route::Family;
use ipnet::IpNet;
use std::net::SocketAddr;

/// Multicast that finds the neighbours of an IPv6 address (RFC 4291, solicited-node).
const SOLICITED_NODE: &str = "ff02::1:ff00:0/104";
/// IPv6 link-local addresses, between which neighbours are found too.
const LINK_LOCAL: &str = "fe80::/64";

/// What the firewall has to let pass.
pub(super) struct Allowed<'a> {
    pub uplink: &'a Uplink,
    pub tunnel: &'a str,
    pub endpoint: SocketAddr,
    pub outbound: &'a [IpNet],
    pub input_ports: &'a [u16],
}

impl<'a> Allowed<'a> {
    /// What a stack so set up lets pass.
    pub fn of(config: &'a GluetunConfig, uplink: &'a Uplink) -> Self {
        Self {
            uplink,
            tunnel: &config.tunnel,
            endpoint: config.endpoint,
            outbound: &config.outbound,
            input_ports: &config.input_ports,
        }
    }
}

/// Who keeps a stack's firewall in the kernel. Both are asked for each packet, and one that drops is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Backend {
    /// nftables, as iptables-nft writes to it
    #[default]
    Nftables,
    /// iptables-legacy and ip6tables-legacy, and nothing in nftables
    Legacy,
    /// nftables, and tables of iptables-legacy that let everything pass
    Beside,
}

fn table(family: Family) -> Table {
    match family {
        Family::V4 => Table::new(TableFamily::Ip, "filter"),
        Family::V6 => Table::new(TableFamily::Ip6, "filter"),
    }
}

/// Closes everything, then opens what is allowed: in that order, so that no packet finds a gap.
pub(super) fn seal(nft: &mut Nft, allowed: &Allowed<'_>, backend: Backend) -> Result<(), StackError> {
    match backend {
        Backend::Nftables => {}
        Backend::Legacy => return seal_legacy(FamilyName::Both, PolicyName::Drop, allowed),
        Backend::Beside => {
            let open = || legacy::Chain { policy: Policy::Accept, rules: Vec::new() };
            for family in [Family::V4, Family::V6] {
                legacy::replace(family, &[open(), open(), open()]).map_err(StackError::Legacy)?;
            }
        }
    }
    let mut batch = Batch::new();
    for family in [Family::V4, Family::V6] {
        let table = table(family);
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
        let table = table(family);
        for rule in input(family, allowed) {
            batch.append_rule(&table, "INPUT", &rule.counted());
        }
        for rule in output(family, allowed) {
            batch.append_rule(&table, "OUTPUT", &rule.counted());
        }
    }
    Ok(nft.commit(batch)?)
}

/// Puts the same rules into the tables of iptables-legacy; each table is replaced at once.
pub(super) fn seal_legacy(family: FamilyName, policy: PolicyName, allowed: &Allowed<'_>) -> Result<(), StackError> {
    let policy = policy_of(policy);
    for family in families(family) {
        let chain = |rules| legacy::Chain { policy, rules };
        let chains = [chain(input(family, allowed)), chain(Vec::new()), chain(output(family, allowed))];
        legacy::replace(family, &chains).map_err(StackError::Legacy)?;
    }
    Ok(())
}

fn policy_of(name: PolicyName) -> Policy {
    match name {
        PolicyName::Accept => Policy::Accept,
        PolicyName::Drop => Policy::Drop,
    }
}

fn accept() -> Rule {
    Rule::new(Verdict::Accept)
}

fn known() -> Match {
    Match::State(state::ESTABLISHED | state::RELATED)
}

fn input(family: Family, allowed: &Allowed<'_>) -> Vec<Rule> {
    let link = || Match::Input(allowed.uplink.link.clone());
    let mut rules = vec![accept().when(Match::Input("lo".to_owned())), accept().when(known())];
    for (subnet, _) in allowed.uplink.subnets(family) {
        rules.push(accept().when(Match::Destination(subnet)).when(link()));
    }
    if family == Family::V6 {
        for net in [SOLICITED_NODE, LINK_LOCAL] {
            rules.push(accept().when(Match::Destination(crate::lab::plan::net(net))).when(link()));
        }
    }
    for port in allowed.input_ports {
        for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
            let rule = accept().when(link()).when(Match::Protocol(protocol as u8));
            rules.push(rule.when(Match::DestinationPorts(*port, *port)));
        }
    }
    rules
}

fn output(family: Family, allowed: &Allowed<'_>) -> Vec<Rule> {
    let link = || Match::Output(allowed.uplink.link.clone());
    let mut rules = vec![accept().when(Match::Output("lo".to_owned())), accept().when(known())];
    if family == Family::V6 {
        for net in [SOLICITED_NODE, LINK_LOCAL] {
            rules.push(accept().when(Match::Destination(crate::lab::plan::net(net))).when(link()));
        }
    }
    let own = allowed.uplink.subnets(family);
    for (subnet, source) in &own {
        rules.push(accept().when(Match::Source((*source).into())).when(Match::Destination(*subnet)).when(link()));
    }
    for subnet in allowed.outbound.iter().filter(|net| Family::of(net.addr()) == family) {
        if let Some((_, source)) = own.first() {
            rules.push(accept().when(Match::Source((*source).into())).when(Match::Destination(*subnet)).when(link()));
        }
    }
    if Family::of(allowed.endpoint.ip()) == family {
        rules.push(to_endpoint(&allowed.uplink.link, allowed.endpoint));
    }
    rules.push(accept().when(Match::Output(allowed.tunnel.to_owned())));
    rules
}

fn to_endpoint(link: &str, endpoint: SocketAddr) -> Rule {
    let rule = accept().when(Match::Destination(endpoint.ip().into())).when(Match::Output(link.to_owned()));
    let rule = rule.when(Match::Protocol(libc::IPPROTO_UDP as u8));
    rule.when(Match::DestinationPorts(endpoint.port(), endpoint.port()))
}

/// Lets the tunnel reach another server.
pub(super) fn let_to(nft: &mut Nft, link: &str, endpoint: SocketAddr) -> Result<(), NftError> {
    let mut batch = Batch::new();
    let table = table(Family::of(endpoint.ip()));
    batch.append_rule(&table, ChainName::Output.name(), &to_endpoint(link, endpoint).counted());
    nft.commit(batch)
}

/// The families that a name stands for.
pub(super) fn families(name: FamilyName) -> Vec<Family> {
    match name {
        FamilyName::V4 => vec![Family::V4],
        FamilyName::V6 => vec![Family::V6],
        FamilyName::Both => vec![Family::V4, Family::V6],
    }
}

/// Sets the policy of a chain.
pub(super) fn set_policy(
    nft: &mut Nft,
    family: FamilyName,
    chain: ChainName,
    policy: PolicyName,
) -> Result<(), NftError> {
    let policy = policy_of(policy);
    let mut batch = Batch::new();
    for family in families(family) {
        batch.set_policy(&table(family), chain.name(), policy);
    }
    nft.commit(batch)
}

/// Puts a rule for `packets` at the head of its chain, with `comment`.
pub(super) fn insert(nft: &mut Nft, packets: &Packets, verdict: Verdict, comment: &str) -> Result<(), NftError> {
    let mut batch = Batch::new();
    for family in families_of(packets) {
        let mut rule = Rule::new(verdict).counted().comment(comment);
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
        batch.insert_rule(&table(family), packets.chain.name(), &rule);
    }
    nft.commit(batch)
}

/// Removes what [`insert`] put there.
pub(super) fn remove(nft: &mut Nft, packets: &Packets, comment: &str) -> Result<(), NftError> {
    let mut batch = Batch::new();
    for family in families_of(packets) {
        let table = table(family);
        for rule in nft.rules(&table, packets.chain.name())? {
            if rule.comment.as_deref() == Some(comment) {
                batch.delete_rule(&table, packets.chain.name(), rule.handle);
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
