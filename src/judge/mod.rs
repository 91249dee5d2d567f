//! Evidence to verdict, by the law of pass. Pure: no clock, no network, no files. What is missing makes inconclusive; nothing here turns an
//! error or a silence into a pass.

mod access;
mod agreement;
mod boot;
mod capabilities;
mod client;
mod dark;
mod dependents;
mod exit;
mod firewall;
#[cfg(test)]
mod fixture;
mod flows;
mod forwarding;
mod gateway;
mod inbound;
mod law;
mod local;
mod local_resolvers;
mod resolver;
mod routes;
mod served;
mod stack;
mod stale;
#[cfg(test)]
mod tests;
mod told;
mod uplink;
pub mod ways;
mod wire;

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde_json::{Map, Value, json};

pub use access::rows as access_rows;

use crate::config::{ForcedPolicy, Provider};
pub use crate::model::evidence::end;
use crate::model::evidence::{AccessRule, Evidence, OutageEvidence, PhaseWire, Sighting};
use crate::model::firewall::FirewallText;
use crate::model::probe::{Expectation, Phase, Probe};
use crate::model::report::EvidenceLine;
use crate::model::verdict::{FailKind, Verdict};

/// What the name begins with under which an outage sends its samples when no probe that is asked watches it.
pub const UNWATCHED_OUTAGE: &str = "outage/";
/// Under which name a program is played that joins the stack as soon as it can.
pub const PLAYED: &str = "boot";
/// Why a technique that failed, or never ran, proves nothing.
const NO_EVIDENCE: &str = "the technique brought no evidence back";
/// Lines of evidence that one verdict shows at most.
const MAX_LINES: usize = 40;

/// What is known of the stack and of the home, from configuration or found.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Addresses of the home line.
    pub home: Vec<IpAddr>,
    /// What the home's resolvers look like to an authority; empty: not known.
    pub home_resolvers: Vec<IpAddr>,
    /// Whose exit it should be.
    pub provider: Option<Provider>,
    /// The exit must lie in one of these; empty: anywhere.
    pub exit: Vec<IpNet>,
    /// What resolv.conf may name; empty: not stated.
    pub resolvers: Vec<IpAddr>,
    /// What must become of forced queries.
    pub forced_policy: Option<ForcedPolicy>,
    /// Networks of the uplinks' own addresses.
    pub uplink_nets: Vec<IpNet>,
    /// Names of the uplinks.
    pub uplinks: Vec<String>,
    /// Name of the tunnel, if there is one.
    pub tunnel: Option<String>,
    /// Addresses of the tunnel's link with their prefixes.
    pub tunnel_nets: Vec<IpNet>,
    /// Whether the VPN server is known.
    pub endpoint_known: bool,
    /// The VPN server, if it is known.
    pub endpoint: Option<SocketAddr>,
    /// Further ones, by configuration.
    pub other_servers: Vec<SocketAddr>,
    /// What may be talked to past the tunnel.
    pub local: Vec<IpNet>,
    /// Who may talk to whom; empty: not stated.
    pub access: Vec<AccessRule>,
    /// The firewall's text: for explanations, and for rules that no packet was sent for.
    pub firewall: Option<FirewallText>,
}

impl Facts {
    /// The VPN servers, as far as they are known.
    pub fn servers(&self) -> impl Iterator<Item = SocketAddr> {
        self.endpoint.into_iter().chain(self.other_servers.iter().copied())
    }

    /// Whether the tunnel has an IPv6 address by which it reaches more than its other end.
    pub fn tunnel_has_ipv6(&self) -> bool {
        self.tunnel_nets.iter().any(|net| matches!(net.addr(), IpAddr::V6(ip) if !ip.is_unicast_link_local()))
    }

    /// Whether one of them has that address.
    pub fn is_server(&self, ip: IpAddr) -> bool {
        self.servers().any(|server| server.ip() == ip)
    }
}

/// What is judged.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The probe.
    pub probe: &'a Probe,
    /// The name of this asking.
    pub trial: &'a str,
    /// When it was asked.
    pub phase: Phase,
    /// What the technique brought back, if it ran.
    pub evidence: Option<&'a Evidence>,
    /// What the sensor did in that phase, if it was closed.
    pub wire: Option<&'a PhaseWire>,
    /// The outage, in the phases `outage` and `recovered`.
    pub outage: Option<&'a OutageEvidence>,
    /// What is known.
    pub facts: &'a Facts,
}

/// A verdict and what it rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct Ruling {
    /// The verdict.
    pub verdict: Verdict,
    /// What was seen, one line.
    pub summary: String,
    /// Why it is not a pass.
    pub reason: Option<String>,
    /// What it rests on.
    pub evidence: Vec<EvidenceLine>,
}

/// Judges one asking of a probe.
pub fn judge(case: &Case<'_>) -> Ruling {
    let mut ruling = match case.probe.expect {
        Expectation::ExitIsVpn => exit::judge(case),
        Expectation::ExitsAgree => agreement::judge(case),
        Expectation::ResolverIsVpn => resolver::judge(case),
        Expectation::NoStaleResolver => stale::judge(case),
        Expectation::ForcedDnsContained => uplink::judge_forced(case),
        Expectation::NoLocalResolver => local_resolvers::judge(case),
        Expectation::NothingOnUplink => uplink::judge(case),
        Expectation::RoutedIntoTunnel => routes::judge(case),
        Expectation::NoRawPower => capabilities::judge(case),
        Expectation::NoPortMapper => gateway::judge(case),
        Expectation::GoesDark => dark::judge(case),
        Expectation::FlowsStay => flows::judge(case),
        Expectation::SealedFromStart => boot::judge(case),
        Expectation::DependentsJoined => dependents::judge(case),
        Expectation::LocalReachable => local::judge(case),
        Expectation::Served => served::judge(case),
        Expectation::NoStrangerAnswered => inbound::judge(case),
        Expectation::NothingForwarded => forwarding::judge(case),
        Expectation::LocalForbidden => served::judge_forbidden(case),
        Expectation::AccessAsStated => access::judge(case),
        Expectation::ClientBound => client::judge_bound(case),
        Expectation::ClientQuiet => client::judge_quiet(case),
        Expectation::ClientPort => client::judge_port(case),
        Expectation::ClientAddress => client::judge_address(case),
        Expectation::WireQuiet => wire::judge(case),
        Expectation::OnlyNeededPower => stack::powers::judge(case),
        Expectation::NoClientBeside => stack::beside::judge(case),
        Expectation::PublishedNarrowly => stack::ports::judge(case),
        Expectation::StartedInOrder => stack::start::judge(case),
        Expectation::KillSwitchOn => stack::kill_switch::judge(case),
        Expectation::SubnetsStayHome => stack::subnets::judge(case),
        Expectation::Ipv6ClosedOff => stack::ipv6::judge(case),
        Expectation::ControlClosed => stack::control::judge(case),
        Expectation::NoSecretInClear => stack::secrets::judge(case),
        Expectation::ResolversOfVpn => stack::resolvers::judge(case),
    };
    let more = ruling.evidence.len().saturating_sub(MAX_LINES);
    if more > 0 {
        ruling.evidence.truncate(MAX_LINES);
        ruling.evidence.push(line(0.0, format!("and {more} more"), json!({ "more": more })));
    }
    let explanation = firewall::explain(case, &ruling);
    ruling.evidence.extend(explanation);
    ruling
}

impl Ruling {
    fn pass(summary: String, evidence: Vec<EvidenceLine>) -> Self {
        Ruling { verdict: Verdict::Pass, summary, reason: None, evidence }
    }

    fn without_evidence() -> Self {
        Self::inconclusive("not measured", &[NO_EVIDENCE.to_owned()], Vec::new())
    }

    /// A failure needs evidence: there is no other way to make one.
    fn fail(kind: FailKind, summary: String, reason: String, first: EvidenceLine, rest: Vec<EvidenceLine>) -> Self {
        let evidence = std::iter::once(first).chain(rest).collect();
        Ruling { verdict: Verdict::Fail(kind), summary, reason: Some(reason), evidence }
    }

    fn warn(summary: String, reason: String, evidence: Vec<EvidenceLine>) -> Self {
        Ruling { verdict: Verdict::Warn, summary, reason: Some(reason), evidence }
    }

    fn inconclusive(summary: &str, reasons: &[String], evidence: Vec<EvidenceLine>) -> Self {
        Ruling {
            verdict: Verdict::Inconclusive,
            summary: summary.to_owned(),
            reason: Some(reasons.join("; ")),
            evidence,
        }
    }

    fn skip(reason: &str) -> Self {
        Ruling {
            verdict: Verdict::Skip,
            summary: reason.to_owned(),
            reason: Some(reason.to_owned()),
            evidence: Vec::new(),
        }
    }
}

/// One line of evidence; `fields` is a JSON object.
fn line(at_ms: f64, what: String, fields: Value) -> EvidenceLine {
    let fields = match fields {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    EvidenceLine { at_ms, what, fields }
}

/// Packets that the sensor saw, as evidence.
fn sighting_line(sighting: &Sighting) -> EvidenceLine {
    let times = if sighting.count == 1 { String::new() } else { format!(", {} times", sighting.count) };
    let mut what =
        format!("{} on {}: {} → {}{times}", sighting.proto, sighting.link, end(sighting.src), end(sighting.dst));
    for more in sighting.detail.texts() {
        what.push_str(", ");
        what.push_str(&more);
    }
    line(
        sighting.first_ms,
        what,
        json!({
            "link": sighting.link, "proto": sighting.proto.to_string(), "src": end(sighting.src), "dst": end(sighting.dst),
            "count": sighting.count, "first_ms": sighting.first_ms, "last_ms": sighting.last_ms,
            "stimulus": sighting.stimulus, "detail": sighting.detail.texts(),
        }),
    )
}

/// `1 packet`, `2 packets`.
fn count(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}
