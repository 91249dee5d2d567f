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

pub(super) struct Walk<'a> {
    text: &'a FirewallText,
    packet: &'a Packet<'a>,
    /// A rule that is not known to hold, whatever the packet is.
    doubted: Option<&'a Rule>,
    /// What became of it in the chains that were walked through; `None`: in those that are being walked through now.
    known: BTreeMap<usize, Option<Outcome>>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(text: &'a FirewallText, packet: &'a Packet<'a>, doubted: Option<&'a Rule>) -> Self {
        Self { text, packet, doubted, known: BTreeMap::new() }
    }

    pub(super) fn opinion(&mut self, chain: &Chain) -> Opinion {
        let (passes, by, perhaps) = self.says(chain);
        let name = |(chain, rule): Place| {
            let chain = &self.text.chains[chain];
            format!("rule {} of {}, `{}`", rule + 1, chain.name, chain.rules[rule])
        };
        Opinion { passes, by: by.map(name), perhaps: perhaps.into_iter().map(name).collect() }
    }

    /// Whether the chain lets it pass, or may, and whether it may by such a rule.
    pub(super) fn may_pass(&mut self, chain: &Chain, by: &Rule) -> (bool, bool) {
        let (passes, _, perhaps) = self.says(chain);
        let is = |&(chain, rule): &Place| self.text.chains[chain].rules[rule] == *by;
        (passes || !perhaps.is_empty(), perhaps.iter().any(is))
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
                Does::Nothing => continue,
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
