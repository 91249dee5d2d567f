//! The report, version 1: the contract of `--format json` and `report.json`, and the only thing that the report formats read.
//! Fields may be added within version 1, never renamed or dropped.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::comparison::Comparison;
use super::evidence::Captured;
use super::probe::{Phase, Severity, trial_name};
use super::verdict::{FailKind, Verdict};

/// Version of the shape below.
pub const VERSION: u32 = 1;

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// `leakcheck` and its version.
    pub tool: String,
    /// What was audited, as given to `--target`.
    pub target: String,
    /// Start of the run, UTC, RFC 3339.
    pub started: String,
    /// Wall time of the run in milliseconds.
    pub duration_ms: u64,
    /// What the run came to.
    pub verdict: RunVerdict,
    /// Exit status of `leakcheck run`.
    pub exit_status: u8,
    /// Whether a warning counts as a failure.
    #[serde(default)]
    pub strict: bool,
    /// Every asking of every probe, in the order of the catalogue within a phase.
    pub probes: Vec<ProbeResult>,
    /// What the sensor saw on the uplinks.
    pub wire: Wire,
    /// The outages that were made, in order.
    pub outages: Vec<Outage>,
    /// The access matrix, row by row and asking by asking; absent where none is configured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub access: Vec<AccessRow>,
    /// Counts of verdicts.
    pub summary: Summary,
    /// What the reader should know about the run itself: what was found by itself, what could not be done.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What became of the probes since the run that `--baseline` named; `null` without one.
    #[serde(default)]
    pub comparison: Option<Comparison>,
}

impl Report {
    /// Derives `summary`, `verdict` and `exit_status` from the probes and the outages. A run in which no probe came to an
    /// answer proves nothing, so it is inconclusive.
    pub fn settle(&mut self) {
        self.summary = Summary::of(&self.probes);
        let Summary { pass, fail, warn, inconclusive, skip: _ } = self.summary;
        self.verdict = if fail > 0 || (self.strict && warn > 0) {
            RunVerdict::Fail
        } else if inconclusive > 0 || pass + warn == 0 {
            RunVerdict::Inconclusive
        } else {
            RunVerdict::Pass
        };
        self.exit_status = match self.verdict {
            _ if !self.restored() => 4,
            RunVerdict::Pass => 0,
            RunVerdict::Fail => 1,
            RunVerdict::Inconclusive => 3,
        };
    }

    /// Whether the stack is as it was before the run.
    pub fn restored(&self) -> bool {
        self.outages.iter().all(|outage| outage.restored && outage.gave_up.is_none())
    }
}

/// The verdict over all probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum RunVerdict {
    /// Nothing failed and nothing was inconclusive.
    Pass,
    /// Something failed.
    Fail,
    /// Nothing failed but something is inconclusive.
    Inconclusive,
}

/// One asking of one probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ProbeResult {
    /// Id of the probe.
    pub id: String,
    /// Group of the probe.
    pub group: String,
    /// Title of the probe.
    pub title: String,
    /// Phase in which it was asked.
    pub phase: Phase,
    /// Outage method, in the phases `outage` and `recovered`.
    pub method: Option<String>,
    /// `pass`, `fail`, `warn`, `inconclusive` or `skip`.
    pub verdict: VerdictWord,
    /// `leak` or `broken` when it failed.
    pub kind: Option<FailKind>,
    /// What was seen, one line.
    pub summary: String,
    /// Why it is not a pass.
    pub reason: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// What the verdict rests on.
    pub evidence: Vec<EvidenceLine>,
    /// Which ways its stimuli took; `null` where it sent none that would show on a link.
    #[serde(default)]
    pub ways: Option<Ways>,
    /// The sentence that a pass proves.
    pub claim: String,
    /// How bad a failure is.
    pub severity: Severity,
    /// Why anybody should care.
    pub why: String,
    /// How to mend what it found.
    pub fix: String,
}

impl ProbeResult {
    /// The name of this asking, unique in a run: `id`, `id/phase` or `id/phase/method`.
    pub fn name(&self) -> String {
        trial_name(&self.id, self.phase, self.method.as_deref())
    }

    /// Why it is not a pass, where that says more than what was seen.
    pub fn because(&self) -> Option<&str> {
        self.reason.as_deref().filter(|reason| *reason != self.summary)
    }
}

/// [`Verdict`] as the word of the report; the kind of a failure stands beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum VerdictWord {
    /// See [`Verdict::Pass`].
    Pass,
    /// See [`Verdict::Fail`].
    Fail,
    /// See [`Verdict::Warn`].
    Warn,
    /// See [`Verdict::Inconclusive`].
    Inconclusive,
    /// See [`Verdict::Skip`].
    Skip,
}

impl From<Verdict> for VerdictWord {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass => VerdictWord::Pass,
            Verdict::Fail(_) => VerdictWord::Fail,
            Verdict::Warn => VerdictWord::Warn,
            Verdict::Inconclusive => VerdictWord::Inconclusive,
            Verdict::Skip => VerdictWord::Skip,
        }
    }
}

impl VerdictWord {
    /// Whether there is something to say about it: it is neither a pass nor a skip.
    pub fn is_finding(self) -> bool {
        !matches!(self, VerdictWord::Pass | VerdictWord::Skip)
    }

    /// The word itself.
    pub fn as_str(self) -> &'static str {
        match self {
            VerdictWord::Pass => "pass",
            VerdictWord::Fail => "fail",
            VerdictWord::Warn => "warn",
            VerdictWord::Inconclusive => "inconclusive",
            VerdictWord::Skip => "skip",
        }
    }
}

/// How many of a probe's stimuli took which way. Each is counted once, by the worst.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Ways {
    /// Seen on an uplink, where none of them may be.
    pub uplink: u64,
    /// Seen in the tunnel.
    pub tunnel: u64,
    /// Refused by the kernel.
    pub refused: u64,
    /// Taken by the kernel and seen on no link: dropped, or on their way to somebody near.
    pub nowhere: u64,
    /// Never sent, for a reason that says nothing of the stack.
    pub not_sent: u64,
}

impl Ways {
    /// All together.
    pub fn total(&self) -> u64 {
        self.uplink + self.tunnel + self.refused + self.nowhere + self.not_sent
    }
}

/// One thing that was seen, sent, refused or answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EvidenceLine {
    /// Milliseconds since the start of the run.
    pub at_ms: f64,
    /// One line for people, free of control characters.
    pub what: String,
    /// The same for machines; the keys depend on what it is.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// What the sensor saw on the uplinks in the whole run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Wire {
    /// Names of the uplinks that were listened on.
    pub links: Vec<String>,
    /// Packets that passed the kernel filter.
    pub packets: u64,
    /// Packets that the kernel dropped because the sensor was too slow. More than none makes a clean answer inconclusive.
    pub dropped: u64,
    /// Packets that should not have been there, alike ones counted together.
    pub leaks: Vec<WireLeak>,
    /// A few of each kind of them, for `leaks.pcapng`. No part of the JSON report.
    #[serde(skip)]
    pub captured: Vec<Captured>,
}

/// Alike packets that left by an uplink and that the allow-list does not name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WireLeak {
    /// When the first of them was seen, milliseconds since the start of the run, kernel timestamp.
    pub at_ms: f64,
    /// Name of the uplink.
    pub link: String,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `arp` … or the number of the protocol.
    pub proto: String,
    /// Source, with the port where there is one.
    pub src: String,
    /// Destination, with the port where there is one.
    pub dst: String,
    /// How many.
    pub count: u64,
    /// The asking of a probe whose marker they carry, if any.
    pub probe: Option<String>,
    /// What else is known of them: what they carry, VLAN, fragments, an older connection, the processes that hold the socket.
    #[serde(default)]
    pub detail: Vec<String>,
}

/// One outage: the tunnel taken down on purpose and put back. Times are milliseconds since its beginning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outage {
    /// `vpn-stop`, `link-down` …
    pub method: String,
    /// When the tunnel was told to go, 0 by definition.
    pub down_ms: f64,
    /// When the first stimulus was refused or the last one passed the tunnel: from here on it is dark. `null`: never.
    pub blackhole_ms: Option<f64>,
    /// When the tunnel was told to come back. `null`: it never was.
    pub up_ms: Option<f64>,
    /// When an exit of the VPN was proven again. `null`: it never was.
    pub recovered_ms: Option<f64>,
    /// Spans in which packets escaped.
    pub holes: Vec<Hole>,
    /// Whether everything that leakcheck changed is as it was.
    pub restored: bool,
    /// The VPN did not come back within `recovery_timeout` although all was undone: what state it was left in.
    #[serde(default)]
    pub gave_up: Option<String>,
    /// Stimuli sent or refused.
    #[serde(default)]
    pub samples: u64,
    /// The same by their kind.
    #[serde(default)]
    pub sampled: Vec<Sampled>,
    /// What it cost beyond its window and its recovery, milliseconds: getting ready, and making sure that all is as it was. `null`: it
    /// did not recover.
    #[serde(default)]
    pub cost_ms: Option<f64>,
    /// The longest time between two samples, in milliseconds: the resolution reached.
    #[serde(default)]
    pub longest_gap_ms: f64,
    /// Gaps of 2 ms and more between two samples.
    #[serde(default)]
    pub gaps: u64,
    /// When the longest of them began.
    #[serde(default)]
    pub longest_gap_at_ms: Option<f64>,
    /// When the first packet by the default route was refused. `null`: none was.
    #[serde(default)]
    pub first_refusal_ms: Option<f64>,
    /// When the last packet of leakcheck's was seen in the tunnel before it was told to come back.
    #[serde(default)]
    pub last_in_tunnel_ms: Option<f64>,
    /// When the first one was seen there, or came out of there, again.
    #[serde(default)]
    pub tunnel_back_ms: Option<f64>,
    /// Flows that were open before: protocol and far end.
    #[serde(default)]
    pub flows: Vec<String>,
    /// Reachability of the local targets while down.
    #[serde(default)]
    pub local: Vec<LocalReach>,
    /// What happened, in order.
    #[serde(default)]
    pub events: Vec<EvidenceLine>,
}

/// Stimuli of one kind that were sent again and again in an outage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Sampled {
    /// What they are: protocol, destination, and how they were told which way to go.
    pub what: String,
    /// How many the kernel took.
    pub sent: u64,
    /// How many it refused.
    pub refused: u64,
    /// Name of the first refusal's errno.
    pub refusal: Option<String>,
    /// When the first was refused, milliseconds since the beginning of the outage.
    pub first_refusal_ms: Option<f64>,
}

/// A span of an outage in which packets escaped. Packets of one protocol that are less than 5 ms apart are one span.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Hole {
    /// First packet, milliseconds since the beginning of the outage.
    pub from_ms: f64,
    /// Last packet.
    pub to_ms: f64,
    /// Protocol: `udp`, `tcp`, `icmp`, `dns/udp` …, with `/ipv6` behind it where it was that.
    pub proto: String,
    /// Packets seen in it.
    pub packets: u64,
}

/// How long one local target answered while the tunnel was down.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LocalReach {
    /// The target as configured or found.
    pub target: String,
    /// Times it was asked.
    pub asked: u64,
    /// Times it answered.
    pub answered: u64,
    /// How long it was watched, from the first question to the last answer or the end, in milliseconds.
    #[serde(default)]
    pub watched_ms: f64,
    /// How much of that passed without a question that stayed unanswered, in milliseconds.
    #[serde(default)]
    pub reached_ms: f64,
}

/// One row of the access matrix and what was found of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AccessRow {
    /// The asking of a probe that found it.
    pub asking: String,
    /// The source.
    pub from: String,
    /// The destination.
    pub to: String,
    /// Whether the one has to reach the other, or must not.
    pub allow: bool,
    /// What was found.
    pub found: AccessFound,
    /// The same, one line for people.
    pub what: String,
}

/// What was found of a row of the access matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum AccessFound {
    /// It answered, as it has to.
    Reached,
    /// It did not answer, as it must not, although it is there.
    KeptOut,
    /// It has to answer and does not.
    Lost,
    /// It must not answer and does.
    Open,
    /// Neither could be proven.
    Unknown,
}

/// Counts of verdicts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Summary {
    /// Passed.
    pub pass: u64,
    /// Failed.
    pub fail: u64,
    /// Hardening findings.
    pub warn: u64,
    /// Not decided.
    pub inconclusive: u64,
    /// Not applicable.
    pub skip: u64,
}

impl Summary {
    /// Each verdict with its count.
    pub fn counts(&self) -> [(VerdictWord, u64); 5] {
        [
            (VerdictWord::Pass, self.pass),
            (VerdictWord::Fail, self.fail),
            (VerdictWord::Warn, self.warn),
            (VerdictWord::Inconclusive, self.inconclusive),
            (VerdictWord::Skip, self.skip),
        ]
    }

    /// Counts the verdicts of `probes`.
    pub fn of(probes: &[ProbeResult]) -> Self {
        let mut summary = Summary::default();
        for probe in probes {
            match probe.verdict {
                VerdictWord::Pass => summary.pass += 1,
                VerdictWord::Fail => summary.fail += 1,
                VerdictWord::Warn => summary.warn += 1,
                VerdictWord::Inconclusive => summary.inconclusive += 1,
                VerdictWord::Skip => summary.skip += 1,
            }
        }
        summary
    }
}
