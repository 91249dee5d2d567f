//! nftables' rules as [`crate::model::firewall`]: what is understood becomes a condition, everything else is kept by its name, so that no
//! rule looks wider than it is. Rules that iptables-nft writes hold iptables' own matches; those are shown as `xt NAME`.
//!
//! Numbers are those of include/uapi/linux/netfilter/nf_tables.h.

use super::divert::diversion;
use super::held::{
    GREATER_OR_EQUAL, Headers, Held, LESS_OR_EQUAL, NOT_EQUAL, Registers, between, bounds, compared, covered, unknown,
};
use super::list::{GET_CHAIN, GET_GENERATION, GET_RULE, GET_TABLE, HEADER, dump, text};
use super::sets::{Lookup, Row, Sets, none_of};
use super::source::{extension, meta, routed, swapped, tracked};
use super::steer::{Steering, restores};
use super::{NftError, OWN_TABLE};
use crate::model::firewall::{Backend, Chain, Condition, Does, Family, Hook, Of, Rule};
use crate::net::legacy;
use crate::net::netlink::{Client, Message, NetlinkError, attributes};

/// NF_INET_FORWARD.
const FORWARD: u32 = 2;
/// NF_INET_LOCAL_OUT.
const LOCAL_OUT: u32 = 3;
/// NF_INET_POST_ROUTING.
const POST_ROUTING: u32 = 4;
/// NF_NETDEV_EGRESS.
const EGRESS: u32 = 1;
/// Rules that are read at most.
const MAX_RULES: usize = 2000;
/// Rules at most that all these become besides, for the elements of the sets that they look things up in.
const MAX_ROWS: usize = 2000;
/// NFTA_GEN_ID.
const GENERATION: u16 = 1;
/// NFT_REG_VERDICT.
const VERDICT: u32 = 0;
/// NFT_OBJECT_COUNTER.
const NAMED_COUNTER: u32 = 1;

/// What was read.
#[derive(Default)]
pub struct Read {
    /// The chains that filter, with the rules for the namespace's own packets, and those that they may call.
    pub chains: Vec<Chain>,
    /// All chains of the tables in which rules send packets elsewhere.
    pub diverting: Vec<Chain>,
    /// The rules that may let pass what others send through the namespace, but for those of chains that only other chains call.
    pub through: Vec<Rule>,
}

/// Reads all tables.
pub(super) fn chains(client: &mut Client) -> Result<Read, NftError> {
    let Read { mut chains, mut diverting, mut through } = Read::default();
    let (mut forward, mut late, mut steering) = (Vec::new(), Vec::new(), Vec::new());
    let asleep = dormant(client)?;
    for message in dump(client, GET_CHAIN, 0, &[])? {
        let Some(number) = message.payload.first().copied() else { continue };
        let body = message.payload.get(HEADER..).unwrap_or_default();
        let table = word(body, 1);
        if asleep.contains(&(number, table.clone())) || table.starts_with(OWN_TABLE) {
            continue;
        }
        diverting.extend(any_chain(number, body));
        if word(body, 7) == "route" && hook(body) == Some(LOCAL_OUT) {
            steering.push((any_family(number), table.clone(), word(body, 3)));
        }
        let Some(family) = family(number) else { continue };
        match hook(body) {
            Some(FORWARD) => forward.push((family, table, word(body, 3))),
            Some(POST_ROUTING) => late.push((family, table, word(body, 3))),
            _ => {}
        }
        chains.extend(chain(family, body));
    }
    let sets = Sets::read(client)?;
    let (mut left, mut room, mut others) = (MAX_RULES, MAX_ROWS, MAX_ROWS);
    let listed = dump(client, GET_RULE, 0, &[])?;
    fill(&mut diverting, &listed, &sets, &steering);
    for message in listed {
        let Some(number) = message.payload.first().copied() else { continue };
        let body = message.payload.get(HEADER..).unwrap_or_default();
        let (table, name) = (word(body, 1), word(body, 2));
        let expressions = find(body, 4).unwrap_or_default();
        let Some(family) = family(number) else { continue };
        if through.len() < MAX_RULES
            && forward.iter().any(|(of, own, called)| (*of, own, called) == (family, &table, &name))
        {
            let read = rules(family, expressions, &sets.of(number, &table), &mut others);
            through.extend(read.into_iter().filter(Rule::may_accept));
        }
        let chain =
            chains.iter_mut().find(|chain| (chain.family, &chain.table, &chain.name) == (family, &table, &name));
        let Some(chain) = chain.filter(|chain| chain.hook.as_ref().is_none_or(|hook| hook.output)) else { continue };
        if left > 0 {
            left -= 1;
            chain.rules.extend(rules(family, expressions, &sets.of(number, &table), &mut room));
        } else {
            chain.cut(Does::Accept);
        }
    }
    // After routing most chains only change packets, and have no say.
    chains.retain(|chain| may_drop(chain) || !late.contains(&(chain.family, chain.table.clone(), chain.name.clone())));
    Ok(Read { chains, diverting, through })
}

/// Whether packets may end in the chain, or in one that it calls.
fn may_drop(chain: &Chain) -> bool {
    let ends = |rule: &Rule| matches!(rule.does, Does::Drop | Does::Jump(_) | Does::Goto(_));
    chain.hook.as_ref().is_some_and(|hook| hook.drops) || chain.rules.iter().any(ends)
}

/// The number of the hook of a base chain.
fn hook(body: &[u8]) -> Option<u32> {
    find(body, 4).and_then(|hook| number(hook, 1))
}

/// Tables whose chains the kernel does not ask (NFT_TABLE_F_DORMANT): their family and name.
fn dormant(client: &mut Client) -> Result<Vec<(u8, String)>, NftError> {
    const DORMANT: u32 = 1;
    let tables = dump(client, GET_TABLE, 0, &[])?.into_iter().filter_map(|message| {
        let number = message.payload.first().copied()?;
        let body = message.payload.get(HEADER..).unwrap_or_default();
        (self::number(body, 2).unwrap_or_default() & DORMANT != 0).then(|| (number, word(body, 1)))
    });
    Ok(tables.collect())
}

/// Puts into chains of any kind the rules that decide, where a rule of their table sends packets elsewhere; other chains are left out. `steering`:
/// the chains after which routes are asked again.
fn fill(chains: &mut Vec<Chain>, listed: &[Message], sets: &Sets, steering: &[(Family, String, String)]) {
    let routing = (!steering.is_empty()).then(Steering::read);
    let restored = listed
        .iter()
        .any(|message| restores(find(message.payload.get(HEADER..).unwrap_or_default(), 4).unwrap_or_default()));
    // Only such a chain steers, and what it may call.
    let elsewhere = |family: Family, table: &str, chain: Option<&Chain>, expressions: &[u8]| {
        let is_one = |(of, own, name): &(Family, String, String)| {
            let base = chain.filter(|chain| chain.hook.is_some());
            (*of, own.as_str()) == (family, table) && base.is_none_or(|chain| chain.name == *name)
        };
        let steers = || routing.as_ref().filter(|_| steering.iter().any(is_one))?.steered(expressions);
        let marks = || routing.as_ref().filter(|_| restored)?.marked(expressions);
        diversion(expressions).or_else(steers).or_else(marks)
    };
    let place = |message: &Message| {
        let number = message.payload.first().copied()?;
        let body = message.payload.get(HEADER..).unwrap_or_default();
        Some((number, word(body, 1), word(body, 2), find(body, 4).unwrap_or_default().to_vec()))
    };
    let all: Vec<(u8, String, String, Vec<u8>)> = listed.iter().filter_map(place).collect();
    let mut tables: Vec<(Family, String)> = Vec::new();
    for (number, table, _, expressions) in &all {
        let of = (any_family(*number), table.clone());
        if !tables.contains(&of) && elsewhere(of.0, table, None, expressions).is_some() {
            tables.push(of);
        }
    }
    chains.retain(|chain| tables.contains(&(chain.family, chain.table.clone())));
    let (mut left, mut room) = (MAX_RULES, MAX_ROWS);
    for (number, table, name, expressions) in &all {
        let family = any_family(*number);
        let of = |chain: &&mut Chain| (chain.family, &chain.table, &chain.name) == (family, table, name);
        let Some(chain) = chains.iter_mut().find(of) else { continue };
        if left == 0 {
            chain.cut(Does::unread_diversion());
            break;
        }
        left -= 1;
        let sets = sets.of(*number, table);
        match elsewhere(family, table, Some(chain), expressions) {
            Some((before, does)) => {
                let about = rules(family, &before, &sets, &mut room);
                chain.rules.extend(about.into_iter().map(|rule| Rule { does: does.clone(), ..rule }));
            }
            None => chain.rules.extend(rules(family, expressions, &sets, &mut room)),
        }
    }
}

/// The number of the ruleset (NFT_MSG_GETGEN).
pub(super) fn generation(client: &mut Client) -> Result<u32, NetlinkError> {
    let mut told = Ok(None);
    let ask = Message { kind: GET_GENERATION, flags: 0, payload: vec![0; HEADER] };
    client.exchange(&[ask], |_, answer| {
        told = answer.map(|(_, body)| number(body.get(HEADER..).unwrap_or_default(), GENERATION));
    })?;
    told?.ok_or(NetlinkError::Truncated)
}

fn family(number: u8) -> Option<Family> {
    match i32::from(number) {
        libc::NFPROTO_INET => Some(Family::Inet),
        libc::NFPROTO_IPV4 => Some(Family::Ip),
        libc::NFPROTO_IPV6 => Some(Family::Ip6),
        _ => None,
    }
}

/// Chains of links, of bridges too, see packets of all families.
fn any_family(number: u8) -> Family {
    family(number).unwrap_or(Family::Netdev)
}

/// A chain of any kind. Of what the namespace's own programs send the kernel asks it on their way out: from them, to a link, or by a link.
fn any_chain(number: u8, body: &[u8]) -> Option<Chain> {
    let of_link = i32::from(number) == libc::NFPROTO_NETDEV;
    if i32::from(number) == libc::NFPROTO_ARP {
        return None;
    }
    let mut chain = named_chain(any_family(number), body);
    if let (Some(hook), Some(at), true) = (&mut chain.hook, self::hook(body), of_link) {
        hook.output = at == EGRESS;
    }
    Some(chain)
}

pub(super) fn find(body: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(body).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

pub(super) fn word(body: &[u8], kind: u16) -> String {
    find(body, kind).map(text).unwrap_or_default()
}

/// A number in network order.
pub(super) fn number(body: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(find(body, kind)?.try_into().ok()?))
}

/// `None` for chains that translate addresses: they let everything pass.
fn chain(family: Family, body: &[u8]) -> Option<Chain> {
    (word(body, 7) != "nat").then(|| named_chain(family, body))
}

fn named_chain(family: Family, body: &[u8]) -> Chain {
    let hook = find(body, 4).map(|hook| Hook {
        output: matches!(number(hook, 1), Some(LOCAL_OUT | POST_ROUTING)),
        priority: number(hook, 2).unwrap_or_default().cast_signed(),
        drops: number(body, 5) == Some(0),
    });
    let (table, name) = (word(body, 1), word(body, 3));
    Chain { backend: Backend::Nftables, family, table, name, hook, rules: Vec::new() }
}

/// What a rule comes to: one rule, or one for each element of the set that it looks something up in, of which `room` are left.
fn rules(family: Family, expressions: &[u8], sets: &dyn Lookup, room: &mut usize) -> Vec<Rule> {
    let mut held = Registers::default();
    let mut headers = Headers::of(match family {
        Family::Ip => Some(false),
        Family::Ip6 => Some(true),
        Family::Inet | Family::Netdev => None,
    });
    let mut rules = vec![Rule { conditions: Vec::new(), does: Does::Nothing }];
    // What a verdict map has decided nothing after it changes.
    let mut decides = false;
    let mut left = attributes(expressions).map(|(_, element)| element).peekable();
    while let Some(element) = left.next() {
        let (name, data) = (word(element, 1), find(element, 2).unwrap_or_default());
        let register = number(data, 1);
        let fits = |number: usize| number <= 1 || rules.len() * number <= *room;
        let mut does = None;
        let mut conditions = Vec::new();
        // One of these holds, for each of them a rule.
        let mut rows: Option<Vec<Row>> = None;
        match (name.as_str(), register) {
            ("meta", Some(to)) => held.put(to, meta(number(data, 2))),
            ("payload", Some(to)) => held.put(to, headers.payload(data)),
            ("ct", Some(to)) => held.put(to, tracked(number(data, 2))),
            ("fib", Some(to)) => held.put(to, routed(data)),
            ("socket" | "hash" | "tunnel", _) => held.put(number(data, 2).unwrap_or_default(), Held::Other(name)),
            ("exthdr", Some(to)) => held.put(to, extension(data)),
            ("numgen" | "rt" | "osf" | "xfrm", Some(to)) => held.put(to, Held::Other(name)),
            ("bitwise" | "byteorder", Some(from)) => {
                let before = held.get(from);
                let after = if name == "bitwise" { covered(before, data) } else { swapped(before, data) };
                held.put(number(data, 2).unwrap_or_default(), after);
            }
            ("cmp", Some(from)) => {
                let (operator, value) = comparison(data);
                let of = held.get(from);
                if operator <= NOT_EQUAL {
                    conditions = compared(of, operator == NOT_EQUAL, value);
                } else {
                    // nft writes a range as two comparisons.
                    let upper = left.peek().copied().filter(|_| operator == GREATER_OR_EQUAL);
                    let upper = upper.and_then(|next| upper_of(next, register));
                    let range = match upper {
                        Some(upper) if upper.len() == value.len() => Some((value.to_vec(), upper.to_vec())),
                        _ => bounds(of, operator, value),
                    };
                    let ranged = of.zip(range).and_then(|(of, (low, high))| between(of, &low, &high));
                    if ranged.is_some() && upper.is_some() {
                        left.next();
                    }
                    match ranged {
                        Some(found) if fits(found.len()) => rows = Some(found.into_iter().map(Row::from).collect()),
                        _ => conditions.push(unknown(of)),
                    }
                }
            }
            ("range", Some(from)) => {
                let side = |kind| find(data, kind).and_then(|nested| find(nested, 1)).unwrap_or_default();
                let of = held.get(from);
                match of.and_then(|of| between(of, side(3), side(4))) {
                    Some(found) if number(data, 2) == Some(NOT_EQUAL) => conditions = negated(found),
                    Some(found) if fits(found.len()) => rows = Some(found.into_iter().map(Row::from).collect()),
                    _ => conditions.push(unknown(of)),
                }
            }
            ("lookup", _) => {
                let set = word(data, 1);
                let fields = held.fields(number(data, 2).unwrap_or_default());
                let found = sets.rows(&set, &fields);
                // What it will hold cannot be told from what it holds.
                let grows = sets.grows(&set);
                let into = number(data, 3);
                let not = number(data, 5) == Some(1);
                let filled = if grows { " as it may be filled" } else { "" };
                let other = Condition { of: Of::Other(format!("in the set {set}{filled}")), not };
                match found {
                    // In none of them: each of them does not hold, which is simple where they are of one condition.
                    Some(found) if not && found.iter().all(|row| row.conditions.len() == 1) => {
                        conditions = negated(found.into_iter().flat_map(|row| row.conditions).collect());
                        conditions.extend(grows.then_some(other));
                    }
                    Some(found) if not => match none_of(&found).filter(|rows| fits(rows.len())) {
                        Some(mut found) => {
                            found.iter_mut().for_each(|row| row.conditions.extend(grows.then(|| other.clone())));
                            rows = Some(found);
                        }
                        None => conditions.push(other),
                    },
                    Some(mut found) if fits(found.len() + 1) => {
                        let does = (into == Some(VERDICT)).then_some(Does::Accept);
                        found.extend(grows.then(|| Row { conditions: vec![other], does }));
                        rows = Some(found);
                    }
                    _ if into == Some(VERDICT) => {
                        let verdicts = sets.verdicts(&set).filter(|all| fits(all.len()));
                        let row = |does| Row { conditions: vec![other.clone()], does: Some(does) };
                        rows = Some(verdicts.unwrap_or_else(|| vec![Does::Accept]).into_iter().map(row).collect());
                    }
                    _ => conditions.push(other),
                }
                decides |= into == Some(VERDICT);
                if let Some(to) = into.filter(|to| *to != VERDICT) {
                    held.put(to, Held::Other(format!("what {set} says")));
                }
            }
            ("match", _) => {
                let info = find(data, 3).unwrap_or_default();
                let revision = number(data, 2).unwrap_or_default();
                conditions = legacy::matched(family, &word(data, 1), revision, info);
            }
            ("target", _) => {
                let (condition, done) = legacy::target(&word(data, 1));
                conditions.extend(condition);
                does = Some(done).filter(|done| *done != Does::Nothing);
            }
            // They hand it to a program, and send it, or a copy of it, elsewhere.
            ("queue" | "fwd" | "dup", _) => {
                conditions.push(legacy::at_the_word_of(&name));
                does = Some(Does::Accept);
            }
            ("reject", _) => does = Some(Does::Drop),
            ("immediate", Some(VERDICT)) => {
                does = find(data, 2).and_then(|nested| find(nested, 2)).map(decided);
            }
            ("immediate", Some(to)) => held.put(to, Held::Other("a constant".to_owned())),
            // They count, tell, mark and log.
            ("meta" | "payload" | "ct" | "exthdr" | "counter" | "log" | "last" | "notrack", _) => {}
            ("objref", Some(NAMED_COUNTER)) => {}
            (other, _) => {
                conditions.push(Condition { of: Of::Other(other.to_owned()), not: false });
                held.clear();
            }
        }
        match &rows {
            Some(rows) => headers.learn(&rows.iter().map(|row| row.conditions.as_slice()).collect::<Vec<_>>()),
            None => headers.learn(&[&conditions]),
        }
        if let Some(rows) = rows {
            rules = rules.iter().flat_map(|rule| rows.iter().map(move |row| with(rule, row))).collect();
        }
        for rule in &mut rules {
            rule.conditions.extend(conditions.iter().cloned());
            if let Some(does) = does.clone().filter(|_| !decides) {
                rule.does = does;
            }
        }
    }
    *room = room.saturating_sub(rules.len().saturating_sub(1));
    rules
}

/// The operator of a comparison, and with what.
fn comparison(data: &[u8]) -> (u32, &[u8]) {
    let value = find(data, 3).and_then(|nested| find(nested, 1)).unwrap_or_default();
    (number(data, 2).unwrap_or_default(), value)
}

/// The most that this register may hold, where the expression says that.
fn upper_of(element: &[u8], register: Option<u32>) -> Option<&[u8]> {
    let data = find(element, 2)?;
    let (operator, value) = comparison(data);
    (word(element, 1) == "cmp" && number(data, 1) == register && operator == LESS_OR_EQUAL).then_some(value)
}

/// Where none of these holds.
pub(super) fn negated(conditions: Vec<Condition>) -> Vec<Condition> {
    conditions.into_iter().map(|one| Condition { not: !one.not, ..one }).collect()
}

fn with(rule: &Rule, row: &Row) -> Rule {
    let conditions = rule.conditions.iter().chain(&row.conditions).cloned().collect();
    Rule { conditions, does: row.does.clone().unwrap_or_else(|| rule.does.clone()) }
}

pub(super) fn decided(verdict: &[u8]) -> Does {
    const NUMBER: i32 = 0xff;
    // Verdicts of the kernel, with more about them in the higher bits, and those of nftables' own below zero. A program that is asked (3)
    // may accept.
    match number(verdict, 1).map(u32::cast_signed) {
        Some(code) if code >= 0 && code & NUMBER == 0 => Does::Drop,
        Some(code) if code >= 0 && matches!(code & NUMBER, 1 | 3) => Does::Accept,
        Some(-3) => Does::Jump(word(verdict, 2)),
        Some(-4) => Does::Goto(word(verdict, 2)),
        Some(-5) => Does::Return,
        _ => Does::Nothing,
    }
}

/// Reads octets as chains and rules, for [`crate::untrusted`]: a set's elements first, then what looks them up.
#[cfg(feature = "lab")]
pub(super) fn understand(octets: &[u8]) {
    let (head, rest) = octets.split_at(octets.len().min(2));
    let (elements, body) = rest.split_at(rest.len().min(head.first().copied().unwrap_or_default().into()));
    let sets = Sets::of_one(elements, head.get(1).copied().unwrap_or_default());
    for (number, family) in [(1, Family::Inet), (2, Family::Ip), (10, Family::Ip6)] {
        let _ = (chain(family, body), any_chain(number, body), diversion(body), super::list::describe(body, &[], true));
        let _ = Steering::none().steered(body);
        let mut room = MAX_ROWS;
        let _ = rules(family, body, &sets.of(number, ""), &mut room);
    }
}

#[cfg(test)]
mod tests;
