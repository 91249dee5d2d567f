//! `flows-stay`: whether flows over IPv6 that were open in the tunnel before stayed off the uplinks when it went. With the tunnel's own
//! address they show who is talked to, but not the home: a hardening finding. With any other address it is a leak like every other.

use serde_json::json;

use super::{Case, Ruling, count, end, law, line, sighting_line};
use crate::model::evidence::{Class, FlowsV6, OutageEvidence, Proto, Sighting, StandingFlow};
use crate::model::report::EvidenceLine;
use crate::model::verdict::FailKind;

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    let tried = case.outage.and_then(|outage| outage.flows_v6.as_ref());
    let flows = tried.map(|tried| tried.flows.as_slice()).unwrap_or_default();
    let lines: Vec<EvidenceLine> = case.outage.iter().flat_map(|outage| lines(outage, flows)).collect();
    let (moved, leaked): (Vec<&Sighting>, Vec<&Sighting>) =
        law::escaped(case).into_iter().partition(|seen| keeps_its_address(flows, seen));
    if let Some((first, rest)) = leaked.split_first() {
        let reason = "what was sent over IPv6 to be carried by the tunnel left by an uplink, under an address that is \
                      not the tunnel's"
            .to_owned();
        let rest = rest.iter().chain(&moved).map(|seen| sighting_line(seen)).chain(lines).collect();
        return Ruling::fail(FailKind::Leak, told(&leaked, first), reason, sighting_line(first), rest);
    }
    let mut doubts = law::outage_doubts(case);
    doubts.extend(law::sensor_doubts(case));
    let of_flows = tried.map(|tried| flow_doubts(case, tried)).unwrap_or_default();
    if let Some(first) = moved.first() {
        let seen = moved.iter().map(|seen| sighting_line(seen)).chain(lines).collect();
        let summary = format!("{}, under the tunnel's own address", told(&moved, first));
        if !doubts.is_empty() {
            return Ruling::inconclusive(&format!("{summary}, and there may be more"), &doubts, seen);
        }
        let mut reason = "flows that were open in the tunnel before went on by the uplink when it was gone: over IPv6 \
                          the kernel does not check that their source address is still there, and the firewall lets \
                          known connections pass"
            .to_owned();
        for doubt in of_flows {
            reason.push_str("; ");
            reason.push_str(&doubt);
        }
        return Ruling::warn(summary, reason, seen);
    }
    if let Some(absent) = tried.and_then(|tried| tried.absent.as_deref()) {
        return Ruling::skip(absent);
    }
    doubts.extend(of_flows);
    if doubts.is_empty() && tried.is_none() {
        doubts.push("no flow over IPv6 was opened before the outage".to_owned());
    }
    if doubts.is_empty() && case.outage.is_some_and(|outage| outage.blackhole_ms.is_none()) {
        doubts.push("nothing shows that the tunnel was dark, so that flows stayed in it proves nothing".to_owned());
    }
    if !doubts.is_empty() {
        return Ruling::inconclusive("nothing of them was seen on the uplink, which proves nothing", &doubts, lines);
    }
    let (asked, refused) =
        flows.iter().fold((0, 0), |(asked, refused), flow| (asked + flow.asked, refused + flow.refused));
    let each: Vec<String> = flows.iter().map(|flow| flow.proto.to_string().to_uppercase()).collect();
    Ruling::pass(
        format!(
            "of {} over {} while down {refused} were refused, none left",
            count(asked, "packet"),
            each.join(" and ")
        ),
        lines,
    )
}

/// Whether a packet bears the address that the flows had in the tunnel.
fn keeps_its_address(flows: &[StandingFlow], seen: &Sighting) -> bool {
    flows.iter().any(|flow| flow.from.ip() == seen.src.ip())
}

fn told(seen: &[&Sighting], first: &Sighting) -> String {
    format!("{} left by {}", count(seen.iter().map(|seen| seen.count).sum(), "packet"), first.link)
}

/// Why the flows' silence proves nothing: each of both has to be there, to be seen in the tunnel with what it was made to send, and to have
/// been made to send while the tunnel was down.
fn flow_doubts(case: &Case<'_>, tried: &FlowsV6) -> Vec<String> {
    let FlowsV6 { flows, problems, .. } = tried;
    let mut doubts = problems.clone();
    for proto in [Proto::Tcp, Proto::Udp] {
        if problems.is_empty() && !flows.iter().any(|flow| flow.proto == proto) {
            doubts.push(format!("there was no flow over {proto}"));
        }
    }
    let down_ms = case.outage.map_or(0.0, |outage| outage.from_ms);
    let tunnelled = law::own(case, Class::Tunnelled);
    for flow in flows {
        let seen = || tunnelled.iter().filter(|seen| seen.stimulus == Some(flow.stimulus));
        let proto = flow.proto;
        if !seen().any(|seen| seen.first_ms < down_ms) {
            doubts.push(format!("the flow over {proto} was not seen in the tunnel before the outage"));
        } else if !seen().any(|seen| seen.last_ms > flow.open_ms) {
            // What opens it comes by itself.
            doubts.push(format!("nothing that the flow over {proto} was made to send was seen in the tunnel"));
        } else if flow.asked == 0 {
            doubts.push(format!("the flow over {proto} sent nothing while the tunnel was down"));
        }
    }
    doubts
}

fn lines(outage: &OutageEvidence, flows: &[StandingFlow]) -> Vec<EvidenceLine> {
    let told = flows.iter().map(|flow| {
        let refusal = flow.refusal.as_deref().map_or_else(String::new, |name| format!(" ({name})"));
        let what = format!(
            "flow over {} from {} to {}, open before: {} while the tunnel was down, {} refused{refusal}",
            flow.proto,
            end(flow.from),
            end(flow.to),
            count(flow.asked, "packet"),
            flow.refused
        );
        let (from, to) = (end(flow.from), end(flow.to));
        line(outage.from_ms, what, json!({ "from": from, "to": to, "sent": flow.asked, "refused": flow.refused }))
    });
    told.collect()
}
