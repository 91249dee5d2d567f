//! `wire-quiet`: the second oracle, everything on the uplinks that no probe sent and the allow-list does not name.

use serde_json::json;

use super::{Case, NO_EVIDENCE, Ruling, UNWATCHED_OUTAGE, count, law, line, sighting_line};
use crate::model::evidence::{Class, DirectConnection, Proto, Sighting};
use crate::model::probe::Phase;
use crate::model::report::EvidenceLine;
use crate::model::verdict::FailKind;
use crate::sensor::allow::{DNS_PORTS, is_private};

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    let sightings = case.wire.map(|wire| wire.sightings.as_slice()).unwrap_or_default();
    let of = |class: Class| -> Vec<&Sighting> {
        sightings.iter().filter(|sighting| unclaimed(sighting) && sighting.class == class).collect()
    };
    let mut offences = of(Class::Offence);
    offences.extend(
        sightings.iter().filter(|sighting| sighting.class == Class::Offence && is_of_another_phase(case, sighting)),
    );
    // Private space that is not local may be the ISP's, and its resolver asks the world.
    offences.extend(of(Class::Nearby).into_iter().filter(|sighting| is_question(sighting)));
    let mut doubts = law::sensor_doubts(case);
    doubts.extend(law::unshown(case));
    let direct = case.wire.and_then(|wire| wire.direct.as_deref());
    if case.wire.is_some() && direct.is_none() {
        doubts.push("the kernel's table of connections could not be read".to_owned());
    }
    let direct = direct.unwrap_or_default();
    match case.evidence {
        Some(evidence) => doubts.extend(evidence.problems.clone()),
        None if case.phase == Phase::Outage => doubts.extend(law::outage_doubts(case)),
        None => doubts.push(NO_EVIDENCE.to_owned()),
    }
    // Without a known server the tunnel's own packets cannot be told from others that look like them.
    let (perhaps_own, leaks): (Vec<&Sighting>, Vec<&Sighting>) = offences
        .into_iter()
        .partition(|sighting| sighting.wireguard && case.facts.tunnel.is_some() && !case.facts.endpoint_known);
    if let Some((first, rest)) = leaks.split_first() {
        let packets: u64 = leaks.iter().map(|sighting| sighting.count).sum();
        let summary = format!(
            "{} left by {}, e.g. {} to {}",
            count(packets, "packet"),
            first.link,
            first.proto,
            super::end(first.dst)
        );
        let reason = if leaks.iter().all(|sighting| keeps_its_address(case, sighting)) {
            "what the stack's programs had open in the tunnel went on by the uplink, under the tunnel's address: the \
             firewall lets known connections pass whatever their address is"
        } else {
            "something in the stack talks past the tunnel"
        };
        let rest = rest.iter().map(|sighting| sighting_line(sighting)).collect();
        return Ruling::fail(FailKind::Leak, summary, reason.to_owned(), sighting_line(first), rest);
    }
    if let Some(first) = perhaps_own.first() {
        doubts.push(format!(
            "packets to {} look like the tunnel's own, but the VPN server is not known: set vpn.endpoint",
            super::end(first.dst)
        ));
    }
    if let Some(first) = direct.first()
        && case.facts.tunnel.is_some()
        && !case.facts.endpoint_known
    {
        doubts.push(format!(
            "the connection to {} may be the tunnel's own, but the VPN server is not known: set vpn.endpoint",
            super::end(first.remote)
        ));
    }
    if !doubts.is_empty() {
        return Ruling::inconclusive("nothing else was seen on the uplink, which proves nothing", &doubts, Vec::new());
    }
    if let Some(first) = direct.first() {
        let summary = format!("{} past the tunnel, e.g. to {}", standing(direct.len()), super::end(first.remote));
        let reason = "it was answered under the home's address, so it is older than the firewall or has its own way \
                      out; nothing was sent on it meanwhile, and what is may follow"
            .to_owned();
        let closed_ms = case.wire.map_or(0.0, |wire| wire.closed_ms);
        return Ruling::warn(summary, reason, direct.iter().map(|direct| direct_line(closed_ms, direct)).collect());
    }
    let nearby = of(Class::Nearby);
    if let Some(first) = nearby.first() {
        let packets: u64 = nearby.iter().map(|sighting| sighting.count).sum();
        let summary = format!(
            "{} to private or multicast addresses that local.subnets does not name, e.g. {} to {}",
            count(packets, "packet"),
            first.proto,
            super::end(first.dst)
        );
        let reason =
            "they cannot reach the internet as they are, but whoever hears them learns of the stack".to_owned();
        return Ruling::warn(summary, reason, nearby.iter().map(|sighting| sighting_line(sighting)).collect());
    }
    let asked = of(Class::LocalDns);
    if let Some(first) = asked.first() {
        let packets: u64 = asked.iter().map(|sighting| sighting.count).sum();
        let summary =
            format!("{} to a resolver on a local subnet, e.g. {}", count(packets, "packet"), super::end(first.dst));
        let reason = "a resolver past the tunnel may forward names to anybody, the ISP for one".to_owned();
        return Ruling::warn(summary, reason, asked.iter().map(|sighting| sighting_line(sighting)).collect());
    }
    Ruling::pass("only the tunnel and local subnets".to_owned(), Vec::new())
}

fn standing(connections: usize) -> String {
    format!("{} {}", count(connections as u64, "silent connection"), if connections == 1 { "stands" } else { "stand" })
}

fn direct_line(at_ms: f64, direct: &DirectConnection) -> EvidenceLine {
    let (src, dst) = (super::end(direct.local), super::end(direct.remote));
    let what = format!("tcp {src} → {dst} stands, held by {}", law::holders(&direct.owners));
    line(at_ms, what, json!({ "proto": "tcp", "src": src, "dst": dst }))
}

/// Whether it bears an address of the tunnel.
fn keeps_its_address(case: &Case<'_>, sighting: &Sighting) -> bool {
    case.facts.tunnel_nets.iter().any(|net| net.addr() == sighting.src.ip())
}

/// Whether it goes to a resolver in private space, as far as its port tells.
pub(super) fn is_question(sighting: &Sighting) -> bool {
    matches!(sighting.proto, Proto::Tcp | Proto::Udp)
        && DNS_PORTS.contains(&sighting.dst.port())
        && is_private(sighting.dst.ip())
}

/// Whether it is a stimulus that was sent in another phase, whose probes are judged by what was seen then.
fn is_of_another_phase(case: &Case<'_>, sighting: &Sighting) -> bool {
    let phase = |trial: &str| trial.split_once('/').map(|(_, phase)| phase.to_owned());
    !unclaimed(sighting) && sighting.probe.as_deref().is_some_and(|trial| phase(trial) != phase(case.trial))
}

/// Whether no probe answers for these packets. Those of an outage that no probe watches belong to nobody else.
pub(super) fn unclaimed(sighting: &Sighting) -> bool {
    sighting.probe.as_deref().is_none_or(|probe| probe.starts_with(UNWATCHED_OUTAGE))
}
