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

/// What rules may send elsewhere of that which is for somebody far away.
pub(super) fn diverted(text: &FirewallText, v6: bool, local: &[IpNet]) -> Vec<Opening> {
    let near = near(local);
    let of = |rule: &Rule| {
        let conditions: Vec<&Condition> = rule.conditions.iter().collect();
        let mut trials = packets::of(&conditions, v6, &near);
        trials.truncate(MAX_EXAMPLES);
        (!trials.is_empty()).then(|| Opening { name: rule.to_string(), trials })
    };
    text.diverting.iter().take(MAX_DIVERTING).filter_map(of).collect()
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
    matches!(rule.does, Does::Accept | Does::Return | Does::Goto(_))
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
