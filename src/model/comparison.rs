//! What became of the probes since an earlier run. It compares verdicts, by the names of the askings, and nothing else: times, packets and
//! addresses differ from run to run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::report::{Report, VerdictWord};

/// A run held against an earlier one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Comparison {
    /// When the earlier run began, UTC, RFC 3339.
    pub started: String,
    /// What was audited then.
    pub target: String,
    /// Verdicts that are worse now, and askings that are new and no pass.
    pub worse: Vec<Change>,
    /// Verdicts that are better now.
    pub better: Vec<Change>,
    /// Askings that are new, and nothing is wrong with.
    pub new: Vec<Change>,
    /// Askings of then that were not asked now.
    pub gone: Vec<Change>,
    /// How many came to the same verdict.
    pub same: usize,
}

/// What became of one asking of a probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Change {
    /// Its name.
    pub probe: String,
    /// Then; `null` where it was not asked.
    pub before: Option<VerdictWord>,
    /// Now; `null` where it is not asked any more.
    pub now: Option<VerdictWord>,
}

impl Comparison {
    /// Holds `now` against `before`.
    pub fn between(before: &Report, now: &Report) -> Self {
        let mut was: BTreeMap<String, VerdictWord> =
            before.probes.iter().map(|probe| (probe.name(), probe.verdict)).collect();
        let mut all =
            Comparison { started: before.started.clone(), target: before.target.clone(), ..Comparison::default() };
        for probe in &now.probes {
            let change = Change { probe: probe.name(), before: was.remove(&probe.name()), now: Some(probe.verdict) };
            let list = match change.before.map(|before| badness(probe.verdict).cmp(&badness(before))) {
                Some(std::cmp::Ordering::Equal) => {
                    all.same += 1;
                    continue;
                }
                Some(std::cmp::Ordering::Greater) => &mut all.worse,
                Some(std::cmp::Ordering::Less) => &mut all.better,
                None if badness(probe.verdict) > badness(VerdictWord::Skip) => &mut all.worse,
                None => &mut all.new,
            };
            list.push(change);
        }
        all.gone = was.into_iter().map(|(probe, before)| Change { probe, before: Some(before), now: None }).collect();
        all
    }

    /// The exit status that a run has for what became worse alone: 1 where something fails now (or warns, if that counts), 3 where something
    /// else is not proven any more, else 0.
    pub fn exit_status(&self, strict: bool) -> u8 {
        let is = |word: VerdictWord| self.worse.iter().any(|change| change.now == Some(word));
        if is(VerdictWord::Fail) || (strict && is(VerdictWord::Warn)) {
            1
        } else if is(VerdictWord::Inconclusive) || is(VerdictWord::Skip) {
            3
        } else {
            0
        }
    }
}

/// What is not proven is worse than what is, and a weakness less bad than not knowing.
fn badness(verdict: VerdictWord) -> u8 {
    match verdict {
        VerdictWord::Pass => 0,
        VerdictWord::Skip => 1,
        VerdictWord::Warn => 2,
        VerdictWord::Inconclusive => 3,
        VerdictWord::Fail => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::probe::Phase;
    use crate::report::sample::{passing, probe};

    fn run(verdicts: &[(&str, VerdictWord)]) -> Report {
        let mut report = passing();
        report.probes = verdicts.iter().map(|(id, verdict)| probe(id, Phase::Up, *verdict, "x")).collect();
        report.settle();
        report
    }

    #[test]
    fn each_asking_is_in_one_list() {
        use VerdictWord::{Fail, Inconclusive, Pass, Skip, Warn};
        let before = run(&[("a", Pass), ("b", Fail), ("c", Pass), ("d", Warn), ("e", Pass)]);
        let now = run(&[("a", Fail), ("b", Inconclusive), ("c", Pass), ("e", Skip), ("f", Pass), ("g", Warn)]);
        let all = Comparison::between(&before, &now);
        let names = |list: &[Change]| list.iter().map(|change| change.probe.clone()).collect::<Vec<_>>();
        assert_eq!(names(&all.worse), ["a", "e", "g"]);
        assert_eq!(names(&all.better), ["b"]);
        assert_eq!(names(&all.new), ["f"]);
        assert_eq!(names(&all.gone), ["d"]);
        assert_eq!(all.same, 1);
    }

    #[test]
    fn what_was_bad_before_is_not_worse() {
        use VerdictWord::{Fail, Inconclusive, Pass, Warn};
        let status =
            |before, now, strict| Comparison::between(&run(&[("a", before)]), &run(&[("a", now)])).exit_status(strict);
        assert_eq!(status(Fail, Fail, true), 0);
        assert_eq!(status(Fail, Pass, true), 0);
        assert_eq!(status(Pass, Fail, false), 1);
        assert_eq!(status(Pass, Inconclusive, false), 3);
        assert_eq!(status(Pass, Warn, false), 0);
        assert_eq!(status(Pass, Warn, true), 1);
        assert_eq!(Comparison::between(&run(&[]), &run(&[("a", Fail)])).exit_status(false), 1);
    }
}
