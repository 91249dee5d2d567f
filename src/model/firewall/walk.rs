//! What chains say of a packet of which the wire does not tell everything: what is done where no rule holds of which that is not known, and
//! the rules by which it may come to pass nevertheless.

use std::collections::{BTreeMap, BTreeSet};

use super::{Chain, Does, FirewallText, Opinion, Packet, Rule};

/// Chains called from one another are followed so deep.
const MAX_DEPTH: usize = 16;

/// A rule: the number of its chain, and its own.
type Place = (usize, usize);

/// What becomes of a packet in a chain.
#[derive(Debug, Clone, Default)]
struct Outcome {
    /// Whether it passes, and by which rule; `None`: it comes back.
    decided: Option<(bool, Place)>,
    /// Rules by which it may pass before that is decided.
    perhaps: BTreeSet<Place>,
    /// Rules by which it may come back although it is decided.
    back: BTreeSet<Place>,
}

pub(super) struct Walk<'a, 'p> {
    text: &'a FirewallText,
    packet: &'p Packet<'p>,
    /// A rule that is not known to hold, whatever the packet is.
    doubted: Option<&'p Rule>,
    /// What became of it in the chains that were walked through; `None`: in those that are being walked through now.
    known: BTreeMap<usize, Option<Outcome>>,
    /// Rules that drop it or go back with it, and those that call them: all of them hold.
    stopping: Vec<&'a Rule>,
}

/// What a base chain says of a packet that is tried.
#[derive(Debug)]
pub(super) struct Said<'a> {
    /// It passes where no rule holds of which that is not known.
    pub(super) passes: bool,
    /// No rule decides that, but the policy.
    pub(super) by_policy: bool,
    /// It passes, or may.
    pub(super) may: bool,
    /// It may by the rule that is doubted.
    pub(super) by_it: bool,
    /// Rules of which one must not hold for it to pass.
    pub(super) stopping: Vec<&'a Rule>,
}

impl<'a, 'p> Walk<'a, 'p> {
    pub(super) fn new(text: &'a FirewallText, packet: &'p Packet<'p>, doubted: Option<&'p Rule>) -> Self {
        Self { text, packet, doubted, known: BTreeMap::new(), stopping: Vec::new() }
    }

    pub(super) fn opinion(&mut self, chain: &Chain) -> Opinion {
        let (passes, by, perhaps) = self.says(chain);
        let name = |(chain, rule): Place| {
            let chain = &self.text.chains[chain];
            chain.name_of(&chain.rules[rule])
        };
        Opinion { passes, by: by.map(name), perhaps: perhaps.into_iter().map(name).collect() }
    }

    pub(super) fn asked(&mut self, chain: &Chain) -> Said<'a> {
        let (passes, by, perhaps) = self.says(chain);
        let is = |&(chain, rule): &Place| self.doubted == Some(&self.text.chains[chain].rules[rule]);
        Said {
            passes,
            by_policy: by.is_none(),
            may: passes || !perhaps.is_empty(),
            by_it: perhaps.iter().any(is),
            stopping: if passes { Vec::new() } else { std::mem::take(&mut self.stopping) },
        }
    }

    fn says(&mut self, chain: &Chain) -> (bool, Option<Place>, BTreeSet<Place>) {
        let number = self.text.chains.iter().position(|other| std::ptr::eq(other, chain));
        let Outcome { decided, mut perhaps, mut back } = number.map(|number| self.through(number)).unwrap_or_default();
        let policy = !chain.hook.as_ref().is_some_and(|hook| hook.drops);
        if policy {
            perhaps.append(&mut back);
        }
        let (passes, by) = decided.map_or((policy, None), |(passes, by)| (passes, Some(by)));
        (passes, by, perhaps)
    }

    fn through(&mut self, chain: usize) -> Outcome {
        if let Some(known) = self.known.get(&chain) {
            // A chain that calls itself, which no kernel allows, is not walked through twice.
            return known.clone().unwrap_or_default();
        }
        if self.known.values().filter(|outcome| outcome.is_none()).count() >= MAX_DEPTH {
            return Outcome::default();
        }
        self.known.insert(chain, None);
        let outcome = self.rules(chain);
        self.known.insert(chain, Some(outcome.clone()));
        outcome
    }

    fn rules(&mut self, number: usize) -> Outcome {
        let chain = &self.text.chains[number];
        let mut outcome = Outcome::default();
        // Whether it is still here undecided, or else by which rules it may be.
        let (mut undecided, mut here) = (true, BTreeSet::new());
        let mut comes_back = false;
        for (index, rule) in chain.rules.iter().enumerate() {
            if !undecided && here.is_empty() {
                break;
            }
            let holds = rule.holds(self.packet).filter(|holds| !(*holds && self.doubted == Some(rule)));
            if holds == Some(false) {
                continue;
            }
            let place = (number, index);
            let called = match &rule.does {
                Does::Jump(to) | Does::Goto(to) => {
                    self.text.called(chain, to).map(|called| self.through(called)).unwrap_or_default()
                }
                Does::Accept => Outcome { decided: Some((true, place)), ..Outcome::default() },
                Does::Drop => Outcome { decided: Some((false, place)), ..Outcome::default() },
                Does::Return => Outcome::default(),
                // Whether one is come to is asked of each by itself.
                Does::Divert { .. } if self.doubted == Some(rule) => {
                    Outcome { decided: Some((true, place)), ..Outcome::default() }
                }
                Does::Divert { .. } | Does::Nothing => continue,
            };
            let mut back = called.back;
            outcome.perhaps.extend(called.perhaps);
            // What is not decided there goes on here, or goes back.
            let leaves = matches!(rule.does, Does::Return | Does::Goto(_));
            let sure = holds == Some(true);
            match called.decided {
                Some((passes, by)) if sure => {
                    if passes {
                        outcome.perhaps.append(&mut here);
                    } else if undecided {
                        self.stopping.push(rule);
                    }
                    if undecided {
                        outcome.decided = Some((passes, by));
                    }
                    undecided = false;
                    here = back;
                }
                Some((passes, by)) => {
                    if passes {
                        outcome.perhaps.insert(by);
                        outcome.perhaps.extend(&here);
                    }
                    if leaves {
                        outcome.back.append(&mut back);
                    } else if !undecided {
                        here.append(&mut back);
                    }
                }
                None if leaves && !sure => {
                    outcome.back.insert(place);
                    outcome.back.extend(&here);
                }
                None => {}
            }
            if leaves && sure {
                if undecided {
                    self.stopping.push(rule);
                }
                comes_back |= undecided;
                undecided = false;
                outcome.back.append(&mut here);
            }
        }
        outcome.back.append(&mut here);
        if comes_back || undecided {
            // It comes back anyway.
            outcome.back.clear();
        }
        outcome
    }
}
