//! A probe as its TOML file in `probes/` states it. What it does lives in the technique that it names, what it means in the judge.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The stage of a run in which a probe is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The tunnel is up.
    Up,
    /// The tunnel is down on purpose.
    Outage,
    /// The tunnel has been put back.
    Recovered,
}

impl Phase {
    /// The word itself.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Up => "up",
            Phase::Outage => "outage",
            Phase::Recovered => "recovered",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How bad it is when the claim does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The home address, or what is done under it, is shown to strangers.
    Critical,
    /// A part of the traffic, or its names, are shown to the ISP.
    High,
    /// Something that the owner needs does not work.
    Medium,
    /// A weakness that is no leak by itself.
    Low,
}

impl Severity {
    /// The word itself.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::High => "high",
            Severity::Medium => "medium",
            Severity::Low => "low",
        }
    }
}

/// What the judge holds the evidence against: a closed vocabulary, new words are new code in `judge`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Expectation {
    /// Every witness that answers sees an exit of the VPN, none sees home.
    ExitIsVpn,
    /// All ways out of the stack come out at one address of each family, and none at home or at a stranger's.
    ExitsAgree,
    /// resolv.conf names allowed resolvers only, names resolve, and the authority never sees the home's side asking.
    ResolverIsVpn,
    /// Every program that shares the namespace names the stack's own resolvers, or others that resolve by the VPN.
    NoStaleResolver,
    /// A query forced to a foreign resolver never leaves by an uplink; `forced_policy` says whether the tunnel may carry it.
    ForcedDnsContained,
    /// Nobody on a local subnet resolves public names for the stack; a hardening finding.
    NoLocalResolver,
    /// Nothing that carries the probe's marker leaves by an uplink.
    NothingOnUplink,
    /// The kernel routes no public address by an uplink, nor any of the VPN's own.
    RoutedIntoTunnel,
    /// No program beside the VPN may walk past the firewall; a hardening finding.
    NoRawPower,
    /// No gateway outside of the tunnel offers to map ports.
    NoPortMapper,
    /// Nothing leaves by an uplink and nothing resolves while the tunnel is down, and the tunnel comes back.
    GoesDark,
    /// No flow over IPv6 that was open in the tunnel moves to an uplink when it goes; with the tunnel's own address it is a hardening finding.
    FlowsStay,
    /// Nothing leaves past the tunnel from before the container's start until recovery is proven.
    SealedFromStart,
    /// Every container that was meant to share the stack's network is in its namespace.
    DependentsJoined,
    /// Every local target answers.
    LocalReachable,
    /// Every target of `local.must_serve` answers from outside of the stack.
    Served,
    /// No program that listens answers a public address by an uplink: one that is published leaks, any other is a hardening finding.
    NoStrangerAnswered,
    /// The stack is no router: what a neighbour has it carry on leaves by no uplink; that it takes the tunnel is a hardening finding.
    NothingForwarded,
    /// No target of `local.must_not_reach` answers, though they are there.
    LocalForbidden,
    /// Each row of the access matrix holds: what may be reached answers, what may not does not, though it is there.
    AccessAsStated,
    /// The torrent client keeps to the tunnel: to the uplink it leaks, to nothing it is a hardening finding.
    ClientBound,
    /// The torrent client neither asks routers for ports nor makes itself known on the home's network; a hardening finding.
    ClientQuiet,
    /// The torrent client listens, and on the port that the VPN forwards, where it forwards one.
    ClientPort,
    /// The torrent client believes that it is seen under an exit of the VPN, and never under the home's address.
    ClientAddress,
    /// Nothing that the allow-list does not name leaves by an uplink, whoever sent it.
    WireQuiet,
    /// No container of the stack was given more power than it needs; a hardening finding.
    OnlyNeededPower,
    /// No torrent client of the stack's project or networks stands beside the VPN; a hardening finding.
    NoClientBeside,
    /// No port of the stack is published to everybody, and none for peers; a hardening finding.
    PublishedNarrowly,
    /// What shares the VPN's network starts when it is healthy, and all of it is started again; a hardening finding.
    StartedInOrder,
    /// No setting turns Gluetun's firewall off.
    KillSwitchOn,
    /// Outbound subnets and Docker networks hold nothing of the VPN's own and nothing public.
    SubnetsStayHome,
    /// Docker gives the stack no IPv6 that no tunnel carries; a hardening finding.
    Ipv6ClosedOff,
    /// Gluetun's control server does not answer strangers on the stack's networks; a hardening finding.
    ControlClosed,
    /// No secret stands in a variable; a hardening finding.
    NoSecretInClear,
    /// No setting has Gluetun ask others than the VPN's resolver; a hardening finding.
    ResolversOfVpn,
}

/// One probe. The file stem is its id, which is also its filter, its name in JUnit and its anchor in the documentation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// The file's stem, kebab-case. Not a key of the file.
    #[serde(skip_deserializing)]
    pub id: String,
    /// What table and reports call it, one short line.
    pub title: String,
    /// Probes of a group stand together in reports: `exit`, `dns`, `ipv6`, `uplink`, `torrent`, `outage`, `local`, `wire`, `stack`.
    pub group: String,
    /// The sentence that a pass proves.
    pub claim: String,
    /// Name of an entry of `TECHNIQUES`.
    pub technique: String,
    /// Parameters of the technique; it refuses those that it does not know.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "serde_json::Map<String, serde_json::Value>"))]
    pub params: toml::Table,
    /// When it is asked, at least one.
    pub phases: Vec<Phase>,
    /// What must hold.
    pub expect: Expectation,
    /// How bad a failure is.
    pub severity: Severity,
    /// Why anybody should care.
    pub why: String,
    /// What it cannot see.
    pub limits: String,
    /// How to mend what it finds.
    pub fix: String,
}

impl Probe {
    /// The name of one asking of this probe: the id alone while the tunnel is up, else `id/phase` or `id/outage/method`.
    pub fn name(&self, phase: Phase, method: Option<&str>) -> String {
        trial_name(&self.id, phase, method)
    }
}

/// See [`Probe::name`].
pub fn trial_name(id: &str, phase: Phase, method: Option<&str>) -> String {
    match (phase, method) {
        (Phase::Up, _) => id.to_owned(),
        (phase, None) => format!("{id}/{phase}"),
        (phase, Some(method)) => format!("{id}/{phase}/{method}"),
    }
}
