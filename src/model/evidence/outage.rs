//! What an outage brought back: samples, flows, the timeline, and what was asked while the tunnel was down.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Answer, Proto, Sighting};
use crate::model::report::{Hole, LocalReach};

/// What an outage brought back. Times inside [`Hole`] and the `…_ms` marks are milliseconds since `from_ms`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OutageEvidence {
    /// Name of the method.
    pub method: String,
    /// When the tunnel was told to go, milliseconds since the start of the run.
    pub from_ms: f64,
    /// When sampling ended, milliseconds since the start of the run.
    pub to_ms: f64,
    /// What proves that the tunnel was down: `link tun0 is down`, `control server says stopped` …
    pub down_proof: Option<String>,
    /// From here on nothing passed the tunnel any more.
    pub blackhole_ms: Option<f64>,
    /// The tunnel was told to come back.
    pub up_ms: Option<f64>,
    /// First packet of ours seen in the tunnel again.
    pub tunnel_back_ms: Option<f64>,
    /// An exit of the VPN was proven again.
    pub recovered_ms: Option<f64>,
    /// From then on nothing was sampled, because no exit could be proven beside the samples.
    #[serde(default)]
    pub rested_ms: Option<f64>,
    /// Spans in which packets escaped.
    pub holes: Vec<Hole>,
    /// Per kind of stimulus what became of the samples.
    pub samples: Vec<SampleCount>,
    /// The longest time between two rounds of samples, in milliseconds.
    pub longest_gap_ms: f64,
    /// Rounds of samples, and how far apart they were.
    #[serde(default)]
    pub pace: Pace,
    /// The first packet by the default route that was refused after the tunnel was told to go.
    #[serde(default)]
    pub first_refusal_ms: Option<f64>,
    /// The last packet of ours seen in the tunnel before it was told to come back.
    #[serde(default)]
    pub last_in_tunnel_ms: Option<f64>,
    /// Flows that were opened through the tunnel before it went.
    #[serde(default)]
    pub flows: Vec<StandingFlow>,
    /// The same over IPv6, where somebody asked for them.
    #[serde(default)]
    pub flows_v6: Option<FlowsV6>,
    /// Changes of the nameservers that programs of the stack are told to ask.
    #[serde(default)]
    pub nameservers: Vec<NameserverChange>,
    /// What the firewall's text let pass past the tunnel while down, and had not before.
    #[serde(default)]
    pub opened: Vec<OpenedWhileDown>,
    /// What the configured resolvers answered to the same questions just before, up to the first that did.
    #[serde(default)]
    pub resolved_before: Vec<Answer>,
    /// What the configured resolvers answered while down.
    pub resolved_while_down: Vec<Answer>,
    /// Local targets, asked throughout.
    pub local: Vec<LocalReach>,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// Whether everything that was changed is as it was.
    pub restored: bool,
    /// The VPN was put back and did not come back in time: what state it was left in.
    pub gave_up: Option<String>,
    /// Time or a signal ended it before the VPN had come back: that it did not is no finding.
    #[serde(default)]
    pub ended_early: bool,
    /// The namespace lost its links for good: the stack has another one now, in which it was looked for.
    #[serde(default)]
    pub namespace_ended: bool,
    /// What was heard while its container came up again, where it was started.
    #[serde(default)]
    pub boot: Option<Boot>,
    /// Why it is not, or what else went wrong.
    pub problems: Vec<String>,
}

/// What was heard on the host's side of the wire while the container came up. Times are milliseconds since the start of the run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Boot {
    /// When the listener heard.
    pub armed_ms: f64,
    /// When the container was told to start.
    pub told_ms: f64,
    /// When it ran.
    pub started_ms: f64,
    /// When the listener was closed.
    pub closed_ms: f64,
    /// The stack's uplinks whose other ends were listened on.
    pub links: Vec<String>,
    /// First packet of the stack's own.
    pub first_ms: Option<f64>,
    /// Control: its first packet to the VPN server.
    pub server_ms: Option<f64>,
    /// Packets that came by these links.
    pub packets: u64,
    /// Packets that the kernel dropped because the listener was too slow.
    pub dropped: u64,
    /// What is of interest.
    pub sightings: Vec<Sighting>,
    /// From when on a program was played that joined at once.
    pub joined_ms: Option<f64>,
    /// What became of its packets.
    pub samples: Vec<SampleCount>,
    /// Containers that share the network and do not wait for the VPN's health before they start, as far as is known.
    pub hasty: Vec<String>,
    /// What went wrong.
    pub problems: Vec<String>,
}

/// A rule, or a policy, that let packets pass past the tunnel for a while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenedWhileDown {
    /// When it was seen first, milliseconds since `from_ms`.
    pub at_ms: f64,
    /// Where it stands and what it says.
    pub rule: String,
}

/// What became of one kind of stimulus in an outage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleCount {
    /// Stimulus id of the kind.
    pub stimulus: u32,
    /// What it is.
    pub what: String,
    /// Accepted by the kernel.
    pub sent: u64,
    /// Refused by the kernel.
    pub refused: u64,
    /// Name of the first refusal's errno.
    pub refusal: Option<String>,
    /// First refusal after the tunnel was told to go, milliseconds since then.
    pub first_refusal_ms: Option<f64>,
}

/// How regularly samples were taken, from just before the tunnel was told to go until the end. Times inside are milliseconds since the
/// beginning of the outage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// Time between two rounds as it is meant to be, in milliseconds.
    pub period_ms: f64,
    /// Rounds that there were.
    pub rounds: u64,
    /// Gaps of 2 ms and more between two of them.
    pub gaps: u64,
    /// When the longest of these began.
    pub longest_at_ms: Option<f64>,
    /// How the kernel was asked to keep the pace: `SCHED_FIFO` …
    pub priority: String,
}

/// A connection or a flow of datagrams that was opened through the tunnel before it went, and on which the far side had answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StandingFlow {
    /// Stimulus id: its packets in the tunnel and on uplinks bear it.
    pub stimulus: u32,
    /// Protocol.
    pub proto: Proto,
    /// Its own end, in the tunnel.
    pub from: SocketAddr,
    /// Its far end.
    pub to: SocketAddr,
    /// From then on all that it sends was asked for, milliseconds since the start of the run.
    #[serde(default)]
    pub open_ms: f64,
    /// Packets that were asked for while the tunnel was down, and those that the kernel refused.
    pub asked: u64,
    /// See `asked`.
    pub refused: u64,
    /// Name of the first refusal's errno.
    pub refusal: Option<String>,
}

/// What came of flows over IPv6, of which a probe of its own answers for all packets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowsV6 {
    /// Those that were opened.
    pub flows: Vec<StandingFlow>,
    /// Why there is nothing from which one could be opened, or to which.
    pub absent: Option<String>,
    /// Why one of them is missing.
    pub problems: Vec<String>,
}

/// One change of a resolv.conf.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NameserverChange {
    /// When it was seen, milliseconds since the beginning of the outage.
    pub at_ms: f64,
    /// The file.
    pub file: String,
    /// What it named before the outage.
    pub before: Vec<IpAddr>,
    /// What it names from then on.
    pub now: Vec<IpAddr>,
}

/// One line of an outage's timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since the beginning of the outage.
    pub at_ms: f64,
    /// What happened.
    pub what: String,
}
