//! `nothing-on-uplink` and `forced-dns-contained`: stimuli that must not leave by an uplink.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{Case, Ruling, count, firewall, law, line, sighting_line};
use crate::config::ForcedPolicy;
use crate::model::evidence::names::LOCAL_NAMES;
use crate::model::evidence::{Class, Evidence, Fate, Proto, Sighting, Stimulus, Via};
use crate::model::probe::Expectation;
use crate::model::report::EvidenceLine;
use crate::model::verdict::FailKind;

/// So many packets do not all get lost before a tunnel that is full.
const MANY: usize = 4;

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    rule(case, None)
}

/// As [`judge`], and under the policy `drop` the tunnel may not carry them either.
pub(super) fn judge_forced(case: &Case<'_>) -> Ruling {
    let tunnelled = law::own(case, Class::Tunnelled);
    let policy = case.facts.forced_policy.filter(|policy| *policy == ForcedPolicy::Drop);
    rule(case, policy.and_then(|_| tunnelled.first()).map(|first| sighting_line(first)))
}

fn rule(case: &Case<'_>, forbidden_in_tunnel: Option<EvidenceLine>) -> Ruling {
    let Some(evidence) = case.evidence else {
        return Ruling::without_evidence();
    };
    let mut escaped = law::escaped(case);
    escaped.extend(brought_to_server(case, evidence));
    let packets: u64 = escaped.iter().map(|sighting| sighting.count).sum();
    if let Some((first, rest)) = escaped.split_first() {
        let summary = format!(
            "{} left by {}, e.g. {} to {}",
            count(packets, "packet"),
            first.link,
            first.proto,
            super::end(first.dst)
        );
        let reason = "packets of this probe were seen on an uplink".to_owned();
        let rest = rest.iter().map(|sighting| sighting_line(sighting)).chain(fates(case, evidence)).collect();
        return Ruling::fail(FailKind::Leak, summary, reason, sighting_line(first), rest);
    }
    if let Some(first) = forbidden_in_tunnel {
        let summary = "foreign resolvers can be asked through the tunnel, which the policy `drop` forbids".to_owned();
        let reason = "queries to foreign resolvers were seen in the tunnel".to_owned();
        return Ruling::fail(FailKind::Leak, summary, reason, first, fates(case, evidence));
    }
    let is_sealed_off = case.wire.is_some_and(|wire| wire.uplinks.is_empty() && wire.stand_in.is_some());
    if is_sealed_off
        && *evidence == (Evidence { from_ms: evidence.from_ms, to_ms: evidence.to_ms, ..Evidence::default() })
    {
        return Ruling::skip("the stack has no uplink by which this could be sent");
    }
    let of =
        |class| -> BTreeSet<u32> { law::own(case, class).iter().filter_map(|sighting| sighting.stimulus).collect() };
    let (seen, at_server) = (of(Class::Tunnelled), of(Class::Server));
    let sent = evidence.stimuli.iter().filter(|stimulus| stimulus.fate == Fate::Sent);
    let (tunnelled, silent): (Vec<_>, Vec<_>) = sent.partition(|stimulus| seen.contains(&stimulus.id));
    let refused = evidence.stimuli.len() - tunnelled.len() - silent.len();
    let silent: Vec<_> = silent.into_iter().filter(|stimulus| !at_server.contains(&stimulus.id)).collect();
    let mut doubts: Vec<String> = law::sensor_doubts(case).into_iter().chain(law::stimulus_doubts(evidence)).collect();
    doubts.extend(untraced(case, &silent, &tunnelled));
    doubts.extend(lost_together(case, evidence));
    doubts.extend(firewall::untried(case));
    if !doubts.is_empty() {
        return Ruling::inconclusive(
            "nothing was seen on the uplink, which proves nothing",
            &doubts,
            fates(case, evidence),
        );
    }
    // The server's own port has to be open, and a firewall of addresses and ports cannot tell whose packets go there.
    let server: Vec<EvidenceLine> = law::own(case, Class::Server)
        .into_iter()
        .map(|sighting| {
            let mut line = sighting_line(sighting);
            line.what.push_str(", to the VPN server itself, which any program may send to");
            line
        })
        .collect();
    let summary = format!(
        "of {} tried {refused} were refused, {} took the tunnel, {} went nowhere, none left",
        evidence.stimuli.len(),
        tunnelled.len(),
        silent.len()
    );
    Ruling::pass(summary, fates(case, evidence).into_iter().chain(server).collect())
}

/// What was not meant for the VPN server and went there in clear: something gave it another destination, and the firewall takes it for the
/// tunnel's.
fn brought_to_server<'a>(case: &Case<'a>, evidence: &Evidence) -> Vec<&'a Sighting> {
    let strayed = |sighting: &&Sighting| {
        let of = |stimulus: &&Stimulus| Some(stimulus.id) == sighting.stimulus;
        evidence.stimuli.iter().find(of).is_some_and(|stimulus| stimulus.to.ip() != sighting.dst.ip())
    };
    law::own(case, Class::Server).into_iter().filter(strayed).collect()
}

/// What the kernel accepted and no sensor saw, although it would have: something took it away, and may carry it on. Of a packet that was
/// sent several times and took the tunnel once, the others took it too: one that is full loses a packet now and then.
fn untraced(case: &Case<'_>, silent: &[&Stimulus], tunnelled: &[&Stimulus]) -> Option<String> {
    let same = |a: &Stimulus, b: &Stimulus| (a.proto, a.to, &a.via, &a.what) == (b.proto, b.to, &b.via, &b.what);
    let tunnels = |stimulus: &Stimulus| tunnelled.iter().any(|other| same(other, stimulus));
    let inside = |stimulus: &Stimulus| case.wire.is_some_and(|wire| wire.inside.contains(&stimulus.id));
    // To the server anything may be let go, and then wait for its hardware address.
    let to_server = |stimulus: &Stimulus| case.facts.is_server(stimulus.to.ip());
    let is_lost =
        |stimulus: &&&Stimulus| stimulus.traced && !inside(stimulus) && !to_server(stimulus) && !tunnels(stimulus);
    let lost: Vec<&&Stimulus> = silent.iter().filter(is_lost).collect();
    let first = lost.first()?;
    Some(format!(
        "of what was sent, {} did not show on any link though the kernel took them, e.g. {} {} to {} {}: whatever took them off their \
         way (a redirection, a queue, a hook of netdev or tc, xfrm) may carry them past the tunnel",
        count(lost.len() as u64, "kind"),
        first.proto,
        first.what,
        super::end(first.to),
        first.via
    ))
}

/// Questions by the default route, of which a tunnel that is full may lose some, and which no link showed at all: then they were not sent, or
/// went a way that nobody watches.
fn lost_together(case: &Case<'_>, evidence: &Evidence) -> Option<String> {
    let asks = case.probe.expect == Expectation::ForcedDnsContained || case.probe.technique == LOCAL_NAMES;
    let by_default = |stimulus: &&Stimulus| stimulus.via == Via::Default && stimulus.proto == Proto::Udp;
    let sent: Vec<&Stimulus> =
        evidence.stimuli.iter().filter(by_default).filter(|stimulus| stimulus.fate == Fate::Sent).collect();
    (asks && sent.len() >= MANY && sent.iter().all(|stimulus| law::is_lost(case, stimulus))).then(|| {
        format!("none of {} questions that the kernel took by the default route did show on any link", sent.len())
    })
}

/// What became of the stimuli, alike ones together.
fn fates(case: &Case<'_>, evidence: &Evidence) -> Vec<EvidenceLine> {
    let tunnelled: BTreeSet<u32> =
        law::own(case, Class::Tunnelled).iter().filter_map(|sighting| sighting.stimulus).collect();
    let mut kinds: BTreeMap<String, (f64, u64)> = BTreeMap::new();
    for stimulus in &evidence.stimuli {
        let fate = match &stimulus.fate {
            Fate::Sent if tunnelled.contains(&stimulus.id) => "in the tunnel".to_owned(),
            Fate::Sent => "accepted, seen nowhere".to_owned(),
            Fate::Refused { name, .. } => format!("refused ({name})"),
            Fate::NotSent { reason } => format!("not sent ({reason})"),
        };
        let family = if stimulus.to.is_ipv6() { " over IPv6" } else { "" };
        let kind = format!("{} {}{family} {}: {fate}", stimulus.proto, stimulus.what, stimulus.via);
        let entry = kinds.entry(kind).or_insert((stimulus.at_ms, 0));
        entry.1 += 1;
    }
    kinds
        .into_iter()
        .map(|(kind, (at_ms, times))| {
            line(at_ms, format!("{kind}, {}", count(times, "time")), json!({ "fate": kind, "count": times }))
        })
        .collect()
}
