//! `sealed-from-start`: what left the stack between the start of its container and the proof that its tunnel works, as the host's end of
//! the wire shows it.

use serde_json::json;

use super::wire::is_question;
use super::{Case, Ruling, count, law, line, sighting_line};
use crate::model::evidence::{Boot, Class, Sighting};
use crate::model::report::EvidenceLine;
use crate::model::verdict::FailKind;

/// Sooner after its start than this no other container can have joined one, because the engine takes longer to start it: what a program
/// that is played sends before shows nothing that could happen. Milliseconds; docker start was seen to take 150 and more.
const SOONEST_MS: f64 = 100.0;

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    let Some(boot) = case.outage.and_then(|outage| outage.boot.as_ref()) else {
        let problems = case.outage.map(|outage| outage.problems.clone()).unwrap_or_default();
        let none = vec!["the container was not started again".to_owned()];
        return Ruling::inconclusive("not measured", if problems.is_empty() { &none } else { &problems }, Vec::new());
    };
    let own = |class: Class| -> Vec<&Sighting> {
        boot.sightings.iter().filter(|seen| seen.probe.is_none() && seen.class == class).collect()
    };
    let mut offences = own(Class::Offence);
    offences.extend(own(Class::Nearby).into_iter().filter(|seen| is_question(seen)));
    // Without a known server the tunnel's own packets cannot be told from others that look like them.
    let (perhaps_own, leaks): (Vec<&Sighting>, Vec<&Sighting>) =
        offences.into_iter().partition(|seen| seen.wireguard && !case.facts.endpoint_known);
    let lines = lines(boot);
    if let Some((first, rest)) = leaks.split_first() {
        let packets: u64 = leaks.iter().map(|seen| seen.count).sum();
        let summary = format!(
            "{} left {:.0} ms after the start and later, e.g. {} to {}",
            count(packets, "packet"),
            since(boot, first.first_ms),
            first.proto,
            super::end(first.dst)
        );
        let reason = "the stack sent past the tunnel while it came up".to_owned();
        let rest = rest.iter().map(|seen| timed(boot, seen)).chain(lines).collect();
        return Ruling::fail(FailKind::Leak, summary, reason, timed(boot, first), rest);
    }
    let played = played(boot);
    if let (Some(first), false) = (played.first(), boot.hasty.is_empty()) {
        let reason = format!(
            "a program that joins at once sends past the tunnel, and {} not wait for the VPN's health",
            match boot.hasty.as_slice() {
                [one] => format!("{one} does"),
                all => format!("{} do", all.join(" and ")),
            }
        );
        let rest = played[1..].iter().map(|seen| timed(boot, seen)).chain(lines).collect();
        return Ruling::fail(FailKind::Leak, open_for(boot, &played), reason, timed(boot, first), rest);
    }
    let mut doubts = doubts(boot);
    doubts.extend(law::sensor_doubts(case));
    doubts.extend(perhaps_own.first().map(|first| {
        format!(
            "packets to {} look like the tunnel's own, but the VPN server is not known: set vpn.endpoint",
            super::end(first.dst)
        )
    }));
    if !doubts.is_empty() {
        return Ruling::inconclusive("nothing was seen that should not be, which proves nothing", &doubts, lines);
    }
    if !played.is_empty() {
        let reason = "a program that joins at once sends past the tunnel: see that none does before the VPN is healthy";
        let seen = played.iter().map(|seen| timed(boot, seen)).chain(lines).collect();
        return Ruling::warn(open_for(boot, &played), reason.to_owned(), seen);
    }
    let nearby: Vec<&Sighting> = [own(Class::Nearby), own(Class::LocalDns)].concat();
    if let Some(first) = nearby.first() {
        let packets: u64 = nearby.iter().map(|seen| seen.count).sum();
        let summary = format!(
            "{} to private or multicast addresses, or to a local resolver, e.g. {} to {}",
            count(packets, "packet"),
            first.proto,
            super::end(first.dst)
        );
        let reason =
            "they cannot reach the internet as they are, but whoever hears them learns of the stack".to_owned();
        return Ruling::warn(summary, reason, nearby.iter().map(|seen| timed(boot, seen)).chain(lines).collect());
    }
    let server = boot.server_ms.map(|at| since(boot, at)).unwrap_or_default();
    Ruling::pass(
        format!(
            "{} from the start on, none astray, the VPN server's first after {server:.0} ms",
            count(boot.packets, "packet")
        ),
        lines,
    )
}

/// What has to be there before silence means anything.
fn doubts(boot: &Boot) -> Vec<String> {
    let mut doubts = boot.problems.clone();
    if boot.dropped > 0 {
        doubts.push(format!("the listener on the host lost {} packets", boot.dropped));
    }
    if boot.links.is_empty() {
        doubts.push(
            "nothing came by the host's ends of the stack's links: it may be on no bridge of this host".to_owned(),
        );
    }
    if boot.armed_ms > boot.told_ms {
        doubts.push("the listener on the host was not there before the container was started".to_owned());
    }
    match boot.server_ms {
        None => doubts
            .push("the listener on the host saw no packet to the VPN server, which there must have been".to_owned()),
        Some(at) if at > boot.closed_ms => doubts.push("the listener on the host was closed too early".to_owned()),
        Some(_) => {}
    }
    if boot.joined_ms.is_none() || boot.samples.iter().all(|sample| sample.sent + sample.refused == 0) {
        doubts.push("no program could be played that joins at once".to_owned());
    }
    doubts
}

/// Stimuli that got out when another container could have been there.
fn played(boot: &Boot) -> Vec<&Sighting> {
    let ours = boot.sightings.iter().filter(|seen| seen.probe.is_some());
    let loose = |seen: &&Sighting| matches!(seen.class, Class::Offence | Class::Nearby | Class::LocalDns);
    ours.filter(loose).filter(|seen| since(boot, seen.last_ms) >= SOONEST_MS).collect()
}

fn open_for(boot: &Boot, played: &[&Sighting]) -> String {
    let packets: u64 = played.iter().map(|seen| seen.count).sum();
    let last = played.iter().map(|seen| since(boot, seen.last_ms)).fold(0.0, f64::max);
    format!(
        "the stack was open until {last:.0} ms after its start: {} of a program that joined at once left",
        count(packets, "packet")
    )
}

/// Milliseconds since the container ran.
fn since(boot: &Boot, at_ms: f64) -> f64 {
    at_ms - boot.started_ms
}

fn timed(boot: &Boot, seen: &Sighting) -> EvidenceLine {
    let mut told = sighting_line(seen);
    told.what.push_str(&format!(
        ", {:.1} to {:.1} ms after the start",
        since(boot, seen.first_ms),
        since(boot, seen.last_ms)
    ));
    told
}

fn lines(boot: &Boot) -> Vec<EvidenceLine> {
    let mut lines = vec![line(
        boot.armed_ms,
        format!(
            "the host's end of {} was listened to from {:.0} ms before the start",
            join(&boot.links),
            -since(boot, boot.armed_ms)
        ),
        json!({ "links": boot.links, "packets": boot.packets, "dropped": boot.dropped }),
    )];
    lines.extend(
        boot.first_ms.map(|at| line(at, format!("first packet {:.1} ms after the start", since(boot, at)), json!({}))),
    );
    lines.extend(boot.server_ms.map(|at| {
        line(at, format!("first packet to the VPN server {:.1} ms after the start", since(boot, at)), json!({}))
    }));
    lines.extend(boot.joined_ms.map(|at| {
        line(
            at,
            format!("a program that joined at once sent from {:.1} ms after the start on", since(boot, at)),
            json!({}),
        )
    }));
    let early = boot.sightings.iter().filter(|seen| seen.probe.is_some() && since(boot, seen.last_ms) < SOONEST_MS);
    lines.extend(early.map(|seen| {
        let mut told = timed(boot, seen);
        told.what.push_str(", sooner than any container could have joined");
        told
    }));
    lines
}

fn join(links: &[String]) -> String {
    if links.is_empty() { "no link".to_owned() } else { links.join(" and ") }
}
