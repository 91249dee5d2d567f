//! `goes-dark`: what happens while the tunnel is down on purpose, and whether it comes back. What is told of it is in [`super::told`].

use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;

use super::told::{lines, moved, nameserver_line};
use super::wire::unclaimed;
use super::{Case, Ruling, count, law, line, sighting_line};
use crate::model::evidence::{Answer, Class, NameserverChange, OutageEvidence, Said, Sighting};
use crate::model::verdict::FailKind;
use crate::sensor::allow::is_private;

/// Two samples further apart than this show a machine on which nothing can be said of milliseconds.
const MAX_GAP_MS: f64 = 500.0;
/// Samples come about this often; a longer gap is told as the resolution that was reached.
const FINE_MS: f64 = 2.0;
/// Docker's resolver in a container's namespace.
const DOCKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

/// What left in the outage and was sent by no probe: its cause is told by `wire-quiet`, which may not be asked; that nothing left it belies.
fn of_others(case: &Case<'_>, outage: &OutageEvidence) -> Option<String> {
    let may_be_tunnels = |sighting: &Sighting| sighting.wireguard && !case.facts.endpoint_known;
    let sightings = case.wire.map(|wire| wire.sightings.as_slice()).unwrap_or_default().iter();
    let left: Vec<&Sighting> = sightings
        .filter(|seen| seen.class == Class::Offence && seen.last_ms >= outage.from_ms)
        .filter(|seen| unclaimed(seen) && !may_be_tunnels(seen))
        .collect();
    let first = left.first()?;
    let packets = count(left.iter().map(|seen| seen.count).sum(), "packet");
    Some(format!(
        "{packets} that no probe sent left by {}, e.g. {} to {}",
        first.link,
        first.proto,
        super::end(first.dst)
    ))
}

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    let Some(outage) = case.outage else {
        return Ruling::inconclusive("not measured", &["there was no outage".to_owned()], Vec::new());
    };
    let lines = lines(outage);
    let escaped = law::escaped(case);
    if let Some((first, rest)) = escaped.split_first() {
        let packets: u64 = escaped.iter().map(|sighting| sighting.count).sum();
        let summary = match (outage.holes.first(), outage.holes.iter().map(|hole| hole.to_ms).reduce(f64::max)) {
            (Some(hole), Some(to)) => format!(
                "{} left by {} between {:.1} and {to:.1} ms",
                count(packets, "packet"),
                first.link,
                hole.from_ms
            ),
            _ => format!("{} left by {}", count(packets, "packet"), first.link),
        };
        let rest = rest.iter().map(|sighting| sighting_line(sighting)).chain(lines).collect();
        let reason =
            moved(outage, &escaped).unwrap_or_else(|| "packets left by an uplink while the tunnel was down".to_owned());
        return Ruling::fail(FailKind::Leak, summary, reason, sighting_line(first), rest);
    }
    let down = |answer: &&Answer| is_down(outage, answer.at_ms - outage.from_ms);
    if let Some(answer) = outage.resolved_while_down.iter().filter(down).find(|answer| answered(answer)) {
        let summary = format!("names still resolved by {} while the tunnel was down", answer.witness);
        let reason = "a fresh name was resolved, so the question went another way than the tunnel".to_owned();
        let first = line(
            answer.at_ms,
            format!("{} answered for a fresh name", answer.witness),
            json!({ "witness": answer.witness }),
        );
        return Ruling::fail(FailKind::Leak, summary, reason, first, lines);
    }
    // Docker writes the file anew when it starts the container, with the home's own resolvers; who reads it then is in the namespace that
    // was left behind, and whether the new one is closed by then is the business of its start.
    let rewritten = outage.nameservers.iter().filter(|_| !outage.namespace_ended);
    if let Some((change, strange)) =
        rewritten.into_iter().find_map(|change| Some((change, strange(case, outage, change)?)))
    {
        let summary = format!("programs were told to ask {strange} for names while the tunnel was down");
        let reason = format!(
            "{} was rewritten: what is looked up then is asked of a resolver past the VPN, as soon as anything lets it out",
            change.file
        );
        return Ruling::fail(FailKind::Leak, summary, reason, nameserver_line(outage, change), lines);
    }
    let mut doubts = outage.problems.clone();
    if outage.down_proof.is_none() && doubts.is_empty() {
        doubts.push("nothing proves that the tunnel was down".to_owned());
    }
    if outage.down_proof.is_some() && !outage.restored {
        let why = match outage.problems.as_slice() {
            [] => "nothing proves that what was changed is as it was".to_owned(),
            problems => problems.join("; "),
        };
        let first = line(outage.to_ms, why.clone(), json!({ "restored": false }));
        return Ruling::fail(
            FailKind::Broken,
            "the stack could not be put back as it was".to_owned(),
            why,
            first,
            lines,
        );
    }
    if outage.down_proof.is_some() && outage.recovered_ms.is_none() && outage.up_ms.is_some() && !outage.ended_early {
        let at_ms = outage.to_ms;
        let first = line(at_ms, "no witness saw an exit of the VPN again".to_owned(), json!({ "recovered": false }));
        return Ruling::fail(
            FailKind::Broken,
            "the tunnel did not come back".to_owned(),
            outage.gave_up.clone().unwrap_or_else(|| "no exit of the VPN could be proven after the outage".to_owned()),
            first,
            lines,
        );
    }
    doubts.extend(law::sensor_doubts(case));
    doubts.extend(law::unshown(case));
    doubts.extend(of_others(case, outage));
    // A resolver inside the namespace cannot ask anybody but by its links, where nothing was seen, and may deduce from what it knows of a
    // signed zone that a name does not exist (RFC 8198): names of many labels would not change that.
    for answer in outage.resolved_while_down.iter().filter(down).filter(|answer| denied(answer) && may_deduce(answer)) {
        doubts.push(format!(
            "{} said of a fresh name that it does not exist, which it may have deduced without asking anybody",
            answer.witness
        ));
    }
    if outage.down_proof.is_some() && outage.blackhole_ms.is_none() && outage.problems.is_empty() {
        doubts.push("packets went through the tunnel all the time, so it never was down".to_owned());
    }
    if outage.samples.iter().map(|sample| sample.sent + sample.refused).sum::<u64>() == 0 {
        doubts.push("nothing was sent".to_owned());
    }
    for opened in &outage.opened {
        doubts.push(format!(
            "in the outage the firewall accepted, or sent elsewhere, by {}: packets that it means may have passed by the uplink, and what was tried does not settle it",
            opened.rule
        ));
    }
    for sample in outage.samples.iter().filter(|sample| sample.sent + sample.refused == 0) {
        doubts.push(format!("{} was never sent nor refused", sample.what));
    }
    for flow in &outage.flows {
        if !in_tunnel(case, flow.stimulus) {
            doubts.push(format!(
                "the flow over {} that was open before was not seen in the tunnel, so that it did not leave it proves nothing",
                flow.proto
            ));
        } else if flow.asked == 0 {
            doubts.push(format!(
                "the flow over {} that was open before sent nothing while the tunnel was down",
                flow.proto
            ));
        }
    }
    if outage.longest_gap_ms > MAX_GAP_MS {
        doubts.push(format!(
            "there were {:.0} ms between two samples: the machine is too busy to see short holes",
            outage.longest_gap_ms
        ));
    }
    if let (Some(rested), Some(recovered)) = (outage.rested_ms, outage.recovered_ms) {
        doubts.push(format!(
            "the exit could be proven only when nothing was sampled, from {:.1} to {:.1} s: the machine or the line is too busy for both",
            rested / 1000.0,
            recovered / 1000.0
        ));
    }
    if outage.ended_early {
        doubts.push("the outage was ended early".to_owned());
    } else if outage.recovered_ms.is_none() {
        doubts.push("nothing proves that the tunnel came back".to_owned());
    }
    if outage.resolved_while_down.is_empty() {
        doubts.push("no resolver was asked while the tunnel was down".to_owned());
    } else if !outage.resolved_before.iter().any(|answer| !matches!(answer.said, Said::Nothing { .. })) {
        doubts.push(
            "no resolver answered before it either, so that none did while the tunnel was down proves nothing"
                .to_owned(),
        );
    }
    if !doubts.is_empty() {
        doubts.dedup();
        return Ruling::inconclusive("nothing was seen on the uplink, which proves nothing", &doubts, lines);
    }
    let dark = outage.blackhole_ms.unwrap_or_default();
    let back = match (outage.recovered_ms, outage.up_ms) {
        (Some(recovered), Some(up)) if recovered - up < 1000.0 => {
            format!(", back after {:.0} ms", (recovered - up).max(0.0))
        }
        (Some(recovered), Some(up)) => format!(", back after {:.1} s", (recovered - up) / 1000.0),
        _ => String::new(),
    };
    let resolution = match outage.pace.gaps {
        _ if outage.longest_gap_ms < FINE_MS => String::new(),
        0 | 1 => format!(" (a gap of {:.0} ms)", outage.longest_gap_ms),
        gaps => format!(" ({gaps} gaps of up to {:.0} ms)", outage.longest_gap_ms),
    };
    Ruling::pass(format!("dark after {dark:.1} ms, 0 packets out{resolution}{back}"), lines)
}

/// Whether the control of a flow was seen: packets of its own in the tunnel.
fn in_tunnel(case: &Case<'_>, stimulus: u32) -> bool {
    law::own(case, Class::Tunnelled).iter().any(|sighting| sighting.stimulus == Some(stimulus))
}

/// The resolver past the VPN that a file named from some time of the outage on, and had not named before. One in private space that no
/// uplink leads to may be the VPN's own.
fn strange(case: &Case<'_>, outage: &OutageEvidence, change: &NameserverChange) -> Option<IpAddr> {
    let near = |ip: &IpAddr| case.facts.uplink_nets.iter().any(|net| net.contains(ip));
    let past = |ip: &&IpAddr| {
        !(ip.is_loopback() || change.before.contains(ip) || case.facts.resolvers.contains(ip))
            && (!is_private(**ip) || near(ip))
    };
    if change.at_ms >= 0.0 && is_down(outage, change.at_ms) { change.now.iter().find(past).copied() } else { None }
}

/// Whether the tunnel was down at that time, milliseconds since the beginning of the outage. One that came back by itself, before it was told,
/// may have done so up to a sample earlier than the first one was seen in it.
fn is_down(outage: &OutageEvidence, at_ms: f64) -> bool {
    let told = outage.up_ms.unwrap_or(f64::INFINITY);
    let by_itself = outage.tunnel_back_ms.filter(|back| *back < told);
    at_ms < by_itself.map_or(told, |back| back - outage.longest_gap_ms)
}

/// Whether somebody who knows the name's authority must have been asked. SERVFAIL and refusals are what a resolver says that cannot ask.
fn answered(answer: &Answer) -> bool {
    match &answer.said {
        Said::Resolved { .. } => true,
        Said::Refused { rcode } => rcode.contains("No Error") || denied(answer) && !may_deduce(answer),
        _ => false,
    }
}

fn denied(answer: &Answer) -> bool {
    matches!(&answer.said, Said::Refused { rcode } if rcode.contains("Non-Existent"))
}

/// Whether it is a resolver inside the namespace. Docker's is reached there, but asks from outside of it, where nobody watches.
fn may_deduce(answer: &Answer) -> bool {
    answer.witness.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() && ip != DOCKER)
}
