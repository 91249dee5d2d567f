//! Rules that accept what nobody may send past the tunnel, and policies that do where other rules drop. Each rule is tried with packets
//! that it means: what one of them may pass by is an opening. A policy is tried with packets that the rules before it do not drop.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;

use ipnet::IpNet;

use super::packets::{self, NEAR, Trial};
use super::walk::{Said, Walk};
use super::{Chain, Condition, Does, FirewallText, Of, Rule};
use crate::model::evidence::Proto;

/// Ways to rules, and calls of chains, that are looked at, at most: a chain may be called from many places.
const MAX_WAYS: usize = 8000;
const MAX_CALLS: usize = 1000;
/// Packets that are tried at most: for one way, and in all.
const MAX_TRIALS: usize = 3000;
const MAX_ALL_TRIALS: usize = 30_000;
/// Packets of an opening that are told at most.
const MAX_EXAMPLES: usize = 8;
/// Rules that divert packets and are tried at most.
const MAX_DIVERTING: usize = 64;
/// Chains called from one another are followed so deep.
const MAX_DEPTH: usize = 16;

/// A rule, and all that has to hold of a packet for it to get there and be meant.
struct Way<'a> {
    chain: &'a Chain,
    rule: &'a Rule,
    conditions: Vec<&'a Condition>,
}

/// What may let packets pass that nobody may send.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) name: String,
    /// Some that it may let pass.
    pub(super) trials: Vec<Trial>,
}

/// A rule that may send elsewhere what is for somebody far away.
#[derive(Debug)]
pub(super) struct Diversion {
    pub(super) opening: Opening,
    /// One of the packets that are told it means for sure, so that it shows what becomes of them.
    pub(super) sure: bool,
}

/// The ways to all rules by which packets may pass.
struct Ways<'a> {
    text: &'a FirewallText,
    found: Vec<Way<'a>>,
    /// The ways to rules that drop, of one chain of the kernel's.
    drops: Vec<Way<'a>>,
    calls: usize,
    /// Chains that one of the kernel's calls, and what has to hold in them.
    seen: Vec<(&'a Chain, Vec<&'a Condition>)>,
    /// There are more.
    cut: bool,
}

impl<'a> Ways<'a> {
    fn collect(&mut self, chain: &'a Chain, before: Vec<&'a Condition>, depth: usize) {
        let known =
            |(other, conditions): &(&Chain, Vec<&Condition>)| std::ptr::eq(*other, chain) && *conditions == before;
        if self.seen.iter().any(known) {
            return;
        }
        if depth > MAX_DEPTH || self.calls >= MAX_CALLS || self.found.len() + self.drops.len() >= MAX_WAYS {
            self.cut = true;
            return;
        }
        self.calls += 1;
        self.seen.push((chain, before.clone()));
        for rule in &chain.rules {
            let conditions: Vec<&Condition> = before.iter().copied().chain(&rule.conditions).collect();
            if let Does::Jump(to) | Does::Goto(to) = &rule.does
                && let Some(called) = self.text.called(chain, to)
            {
                self.collect(&self.text.chains[called], conditions.clone(), depth + 1);
            }
            if may_let_pass(rule) {
                self.found.push(Way { chain, rule, conditions });
            } else if rule.does == Does::Drop {
                self.drops.push(Way { chain, rule, conditions });
            }
        }
    }
}

/// What is asked about all packets.
struct Search<'a> {
    text: &'a FirewallText,
    asked: Vec<&'a Chain>,
    v6: bool,
    uplinks: &'a [String],
    near: Vec<IpNet>,
    servers: &'a [SocketAddr],
    /// Packets that may be tried still.
    left: usize,
}

/// See [`FirewallText::openings`].
pub(super) fn of(
    text: &FirewallText,
    v6: bool,
    uplinks: &[String],
    local: &[IpNet],
    servers: &[SocketAddr],
) -> Vec<Opening> {
    let asked = text.asked(v6);
    let mut search = Search { text, asked, v6, uplinks, near: near(local), servers, left: MAX_ALL_TRIALS };
    let mut ways = Ways { text, found: Vec::new(), drops: Vec::new(), calls: 0, seen: Vec::new(), cut: false };
    // Of each chain that is asked, whether it drops what is sent far away.
    let mut strict = Vec::new();
    for chain in &search.asked {
        ways.seen.clear();
        ways.collect(chain, Vec::new(), 0);
        strict.push(ways.drops.drain(..).any(|way| search.is_of_far_packets(&way)));
    }
    if ways.cut {
        // Of some it is not known how to get to them: each is looked at by itself.
        let chains = text.chains.iter().filter(|chain| chain.hook.is_none() || chain.is_output());
        let rules = chains.flat_map(|chain| chain.rules.iter().map(move |rule| (chain, rule)));
        let alone = rules.filter(|(_, rule)| may_let_pass(rule)).map(|(chain, rule)| Way {
            chain,
            rule,
            conditions: rule.conditions.iter().collect(),
        });
        ways.found.extend(alone);
    }
    let mut found: Vec<Opening> = Vec::new();
    // The same rule in several places is told once.
    let (mut known, mut tried): (HashSet<String>, HashSet<String>) = (HashSet::new(), HashSet::new());
    for Way { chain, rule, conditions } in &ways.found {
        let words = rule.to_string();
        let all = conditions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        if known.contains(&words) || !tried.insert(format!("{all} {words}")) || is_of_server(conditions, servers) {
            continue;
        }
        let starts = packets::of(conditions, v6, &search.near);
        let lets = |says: &[Said<'_>]| says.iter().all(|said| said.may) && says.iter().any(|said| said.by_it);
        let trials = search.passing(starts, conditions, conditions, Some(rule), &lets);
        if !trials.is_empty() {
            found.push(Opening { name: chain.name_of(rule), trials });
            known.insert(words);
        }
    }
    // However many rules there were to try.
    search.left = search.left.max(MAX_TRIALS);
    found.extend(search.by_policy(&strict));
    found
}

/// What rules may send elsewhere of that which is for somebody far away. They are looked for as openings are, in chains of which the end,
/// and every other rule that decides, is that nothing is sent elsewhere.
pub(super) fn diverted(text: &FirewallText, v6: bool, local: &[IpNet]) -> Vec<Diversion> {
    let text = FirewallText { chains: text.diverting.iter().map(ending).collect(), ..FirewallText::default() };
    let (links, near) = (links_named(&text), near(local));
    let mut ways = Ways { text: &text, found: Vec::new(), drops: Vec::new(), calls: 0, seen: Vec::new(), cut: false };
    let mut found: Vec<Diversion> = Vec::new();
    let mut reached: Vec<&Rule> = Vec::new();
    for chain in text.asked(v6) {
        ways.seen.clear();
        ways.drops.clear();
        ways.collect(chain, Vec::new(), 0);
        let left = MAX_ALL_TRIALS;
        let mut search =
            Search { text: &text, asked: vec![chain], v6, uplinks: &links, near: near.clone(), servers: &[], left };
        // What ends there before it comes to the rule may be told from the rest by users, classes and lengths too.
        let returns = ways.found.iter().filter(|way| !diverts(way.rule));
        let ends: Vec<&Condition> = ways.drops.iter().chain(returns).flat_map(|way| &way.conditions).copied().collect();
        for Way { chain, rule, conditions } in ways.found.drain(..).filter(|way| diverts(way.rule)) {
            reached.push(rule);
            found.extend(search.diversion(chain, rule, &conditions, &ends, found.len() >= MAX_DIVERTING));
        }
    }
    // What no packet of the namespace's own comes to, as far as is known: its conditions alone count.
    for chain in text.chains.iter().filter(|chain| chain.family.sees(v6)) {
        let others =
            chain.rules.iter().filter(|rule| diverts(rule) && !reached.iter().any(|one| std::ptr::eq(*one, *rule)));
        for rule in others {
            let conditions: Vec<&Condition> = rule.conditions.iter().collect();
            let mut trials = packets::of(&conditions, v6, &near);
            trials.truncate(MAX_EXAMPLES);
            if !trials.is_empty() && found.len() < MAX_DIVERTING {
                let opening = Opening { name: chain.name_of(rule), trials };
                found.push(Diversion { opening, sure: !ways.cut });
            }
        }
    }
    found
}

/// The chain as one that nothing passes but what is sent elsewhere.
fn ending(chain: &Chain) -> Chain {
    let mut chain = chain.clone();
    for rule in chain.rules.iter_mut().filter(|rule| rule.does == Does::Accept) {
        rule.does = Does::Drop;
    }
    if let Some(hook) = &mut chain.hook {
        hook.drops = true;
    }
    chain
}

/// Names of links that rules ask for, and of one that none does. What leaves by the loopback is for nobody far away.
fn links_named(text: &FirewallText) -> Vec<String> {
    let conditions = text.chains.iter().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.conditions);
    let named = conditions.filter_map(|condition| match &condition.of {
        Of::Link(name) if name != "lo" => Some(name.trim_end_matches('+').to_owned()),
        _ => None,
    });
    let mut links: Vec<String> = named.chain([String::new()]).collect();
    links.sort();
    links.dedup();
    links
}

fn diverts(rule: &Rule) -> bool {
    matches!(rule.does, Does::Divert { .. })
}

/// Networks that nobody far away is in.
fn near(local: &[IpNet]) -> Vec<IpNet> {
    NEAR.iter().filter_map(|net| net.parse().ok()).chain(local.iter().copied()).collect()
}

impl<'a> Search<'a> {
    /// Whether such a rule is one against packets by an uplink to somebody far away, and not only against damaged ones.
    fn is_of_far_packets(&self, way: &Way<'_>) -> bool {
        const INVALID: u32 = 1;
        let invalid = |condition: &&Condition| !condition.not && matches!(condition.of, Of::State(INVALID));
        let trials = packets::of(&way.conditions, self.v6, &self.near);
        let by = |trial: &Trial, link: &str| {
            way.conditions.iter().all(|condition| condition.holds(&trial.by(link)) != Some(false))
        };
        !way.conditions.iter().any(invalid)
            && self.uplinks.iter().any(|link| trials.iter().any(|trial| by(trial, link)))
    }

    /// Whether, and with which packets, one comes to a rule that diverts. `unsaid`: packets of too many were told before.
    fn diversion(
        &mut self,
        chain: &Chain,
        rule: &Rule,
        conditions: &[&Condition],
        ends: &[&Condition],
        unsaid: bool,
    ) -> Option<Diversion> {
        let begun = matches!(rule.does, Does::Divert { begun: true, .. });
        let is_told = |condition: &&&Condition| !(begun && matches!(condition.of, Of::State(_)));
        let asked: Vec<&Condition> = conditions.iter().filter(is_told).copied().collect();
        let starts = packets::of(&asked, self.v6, &self.near);
        let more: Vec<&Condition> = conditions.iter().chain(ends).copied().collect();
        let comes = |says: &[Said<'_>]| says.iter().any(|said| said.by_it);
        let is_any = !starts.is_empty();
        let mut trials = self.passing(starts, &asked, &more, Some(rule), &comes);
        // Where there was no time to try, nothing is known.
        let untried = is_any && self.left == 0;
        if trials.is_empty() && !untried {
            return None;
        }
        let is_sure = |trial: &Trial| trial.is_meant_by(conditions);
        trials.sort_by_key(|trial| !is_sure(trial));
        let sure = !unsaid && trials.first().is_some_and(is_sure);
        if unsaid {
            trials.clear();
        }
        Some(Diversion { opening: Opening { name: chain.name_of(rule), trials }, sure })
    }

    /// The policy by which packets pass all chains, of those that drop some: the first one's.
    fn by_policy(&mut self, strict: &[bool]) -> Option<Opening> {
        let chain = self.asked.iter().zip(strict).find(|(_, strict)| **strict).map(|(chain, _)| *chain)?;
        let (text, asked) = (self.text, self.asked.clone());
        let own = text.chains.iter().filter(|chain| chain.hook.is_none() || asked.iter().any(|one| one == chain));
        let conditions: Vec<&Condition> =
            own.flat_map(|chain| &chain.rules).flat_map(|rule| &rule.conditions).collect();
        let lets = |says: &[Said<'_>]| says.iter().all(|said| said.passes && said.by_policy);
        let trials = self.passing(packets::usual(self.v6), &[], &conditions, None, &lets);
        let name = format!("the policy of {} {} {} {}", chain.backend, chain.family, chain.table, chain.name);
        (!trials.is_empty()).then_some(Opening { name, trials })
    }

    /// Packets that pass, or may, as `lets` asks: these, and others that are made of them to get past what drops them, of which all of
    /// `conditions` may hold. Of what they are besides, so much is told as `more` asks for.
    fn passing(
        &mut self,
        starts: Vec<Trial>,
        conditions: &[&Condition],
        more: &[&Condition],
        doubted: Option<&Rule>,
        lets: &dyn Fn(&[Said<'_>]) -> bool,
    ) -> Vec<Trial> {
        let mut found: Vec<Trial> = Vec::new();
        for link in self.uplinks {
            let mut left = VecDeque::from(starts.clone());
            let mut seen: HashSet<Trial> = starts.iter().copied().collect();
            while let Some(trial) = left.pop_front().filter(|_| self.left > 0 && found.len() < MAX_EXAMPLES) {
                self.left -= 1;
                if self.is_to_server(&trial) {
                    continue;
                }
                let says = self.says(&trial, link, doubted);
                if lets(&says) {
                    let told = self.told(trial, link, [conditions, more], doubted, lets);
                    let told = if doubted.is_none() { told.with_any_port() } else { told };
                    if !found.iter().any(|other| other.looks_like(&told)) {
                        found.push(told);
                    }
                    continue;
                }
                let stopping = says.iter().flat_map(|said| &said.stopping).flat_map(|rule| &rule.conditions);
                let others = stopping.flat_map(|condition| trial.without(condition, &self.near));
                for other in others.filter(|other| other.may_be(conditions)) {
                    if seen.len() < MAX_TRIALS && seen.insert(other) {
                        left.push_back(other);
                    }
                }
            }
        }
        found
    }

    /// The packet with a user, a class and a length where `more` asks for them, such that it passes all the same.
    fn told(
        &self,
        trial: Trial,
        link: &str,
        [conditions, more]: [&[&Condition]; 2],
        doubted: Option<&Rule>,
        lets: &dyn Fn(&[Said<'_>]) -> bool,
    ) -> Trial {
        (0..3).fold(trial, |trial, which| {
            let [users, classes, lengths] = trial.with_more(more);
            let others = [users, classes, lengths][which].clone();
            let passes = |other: &Trial| lets(&self.says(other, link, doubted));
            others.into_iter().filter(|other| other.may_be(conditions)).find(passes).unwrap_or(trial)
        })
    }

    fn says(&self, trial: &Trial, link: &str, doubted: Option<&Rule>) -> Vec<Said<'a>> {
        let (packet, text) = (trial.by(link), self.text);
        self.asked.iter().map(|chain| Walk::new(text, &packet, doubted).asked(chain)).collect()
    }

    fn is_to_server(&self, trial: &Trial) -> bool {
        matches!(trial.proto, Proto::Tcp | Proto::Udp) && self.servers.contains(&trial.dst)
    }
}

fn may_let_pass(rule: &Rule) -> bool {
    matches!(rule.does, Does::Accept | Does::Return | Does::Goto(_)) || diverts(rule)
}

/// Whether it is about the host, port and transport of one of these alone.
fn is_of_server(conditions: &[&Condition], servers: &[SocketAddr]) -> bool {
    let has = |wanted: &dyn Fn(&Of) -> bool| conditions.iter().any(|condition| !condition.not && wanted(&condition.of));
    has(&|of| matches!(of, Of::Protocol(6 | 17)))
        && servers.iter().any(|server| {
            has(&|of| matches!(of, Of::To(net) if *net == IpNet::from(server.ip())))
                && has(&|of| matches!(of, Of::ToPorts(low, high) if (*low, *high) == (server.port(), server.port())))
        })
}
