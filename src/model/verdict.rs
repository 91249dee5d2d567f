//! What a probe can come to. There is no default verdict and no boolean for one: every place that decides has to say which it means.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What went wrong when a probe fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum FailKind {
    /// Something escaped: a packet on the uplink, a query that the wrong resolver saw, the home address at a witness.
    Leak,
    /// Something that the owner needs does not work: a local subnet, the resolver, the tunnel after an outage.
    Broken,
}

/// The outcome of one probe in one phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// By the law of pass: sensor armed, stimulus sent or refused, control seen, nothing offending seen, nothing lost.
    Pass,
    /// The claim was refuted by evidence.
    Fail(FailKind),
    /// A hardening finding: not a leak in itself. Counts as a failure under `--strict`.
    Warn,
    /// Something that a pass or a fail needs is missing.
    Inconclusive,
    /// Not applicable to this stack, or not asked for.
    Skip,
}

impl Verdict {
    /// The word used in every format: `pass`, `fail`, `warn`, `inconclusive` or `skip`.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail(_) => "fail",
            Verdict::Warn => "warn",
            Verdict::Inconclusive => "inconclusive",
            Verdict::Skip => "skip",
        }
    }

    /// `leak` or `broken` for a failure, otherwise nothing.
    pub fn kind(self) -> Option<FailKind> {
        match self {
            Verdict::Fail(kind) => Some(kind),
            Verdict::Pass | Verdict::Warn | Verdict::Inconclusive | Verdict::Skip => None,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
