//! What torrent clients say of themselves: `client-bound`, `client-quiet`, `client-port` and `client-address`. The word of one is taken where it
//! accuses itself; where it clears itself the sensor has to have listened all the same, as for every other pass.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::json;

use super::exit::{Exit, exits, of_uplink, unproven, wrong};
use super::{Case, Facts, NO_EVIDENCE, Ruling, law, line};
use crate::config::Provider;
use crate::model::evidence::{Answer, Binding, ClientSays, ClientStatus, Evidence, Role, Said};
use crate::model::report::EvidenceLine;
use crate::model::verdict::FailKind;
use crate::sensor::allow::is_private;

/// What the clients said, and what else there is to judge by.
struct Heard<'a> {
    told: Vec<Told<'a>>,
    /// Why a clean word of theirs proves nothing.
    doubts: Vec<String>,
    /// Where something answers that may be one more client, and tells nothing.
    locked: Vec<&'a str>,
    lines: Vec<EvidenceLine>,
}

/// The word of one client.
struct Told<'a> {
    says: &'a ClientSays,
    line: EvidenceLine,
}

impl<'a> Heard<'a> {
    /// Reads the evidence, or says why there is nothing to read.
    fn of(case: &Case<'a>) -> Result<Self, Ruling> {
        let Some(evidence) = case.evidence else {
            return Err(Ruling::without_evidence());
        };
        if let Some(why) = &evidence.unasked {
            return Err(Ruling::skip(why));
        }
        let lines: Vec<EvidenceLine> = evidence.answers.iter().map(answer_line).collect();
        let mut doubts = law::sensor_doubts(case);
        doubts.extend(evidence.problems.clone());
        let (mut told, mut locked) = (Vec::new(), Vec::new());
        for answer in &evidence.answers {
            match &answer.said {
                Said::Client(says) => told.push(Told { says, line: answer_line(answer) }),
                Said::Forwards { .. } => {}
                Said::Locked { .. } => locked.push(answer.witness.as_str()),
                _ => doubts.push(answer_line(answer).what),
            }
        }
        if told.is_empty() {
            if doubts.is_empty() {
                doubts.push(NO_EVIDENCE.to_owned());
            }
            return Err(Ruling::inconclusive("the torrent client did not tell", &doubts, lines));
        }
        Ok(Heard { told, doubts, locked, lines })
    }

    /// All that one setting or another of a client's says, with the client.
    fn each<T>(&self, of: impl Fn(&'a ClientSays) -> &'a [T]) -> Vec<(&Told<'a>, &'a T)> {
        self.told.iter().flat_map(|told| of(told.says).iter().map(move |one| (told, one))).collect()
    }

    fn fail(self, lead: EvidenceLine, kind: FailKind, summary: String, reason: &str) -> Ruling {
        Ruling::fail(kind, summary, reason.to_owned(), lead, self.lines)
    }

    fn warn(self, summary: String, reason: String) -> Ruling {
        Ruling::warn(summary, reason, self.lines)
    }

    /// A pass, unless something makes it inconclusive.
    fn pass(self, summary: String) -> Ruling {
        let summary = match self.locked.as_slice() {
            [] => summary,
            some => format!("{summary} (of what answers at {} nothing is known)", some.join(" and ")),
        };
        if self.doubts.is_empty() {
            return Ruling::pass(summary, self.lines);
        }
        Ruling::inconclusive(&summary, &self.doubts, self.lines)
    }
}

/// Each once, in their order.
fn listed(parts: impl IntoIterator<Item = String>, between: &str) -> String {
    let mut all: Vec<String> = Vec::new();
    for part in parts {
        if !all.contains(&part) {
            all.push(part);
        }
    }
    all.join(between)
}

/// `client-bound`.
pub(super) fn judge_bound(case: &Case<'_>) -> Ruling {
    let mut heard = match Heard::of(case) {
        Ok(heard) => heard,
        Err(ruling) => return ruling,
    };
    let bindings = heard.each(|says| &says.bindings);
    let find = |wrong: &dyn Fn(&Binding) -> bool| {
        let (told, binding) = bindings.iter().find(|(_, binding)| wrong(binding))?;
        Some((told.line.clone(), &told.says.name, shown(binding)))
    };
    if let Some((lead, name, shown)) = find(&|binding| binding.role == Some(Role::Uplink)) {
        let summary = format!("{name} is bound to the uplink: {shown}");
        return heard.fail(lead, FailKind::Leak, summary, "it talks to its peers past the tunnel by its own settings");
    }
    if let Some((lead, name, shown)) = find(&|binding| binding.to.is_some() && binding.role.is_none()) {
        let summary = format!("{name} is bound to what the stack has not: {shown}");
        return heard.fail(lead, FailKind::Broken, summary, "so bound it reaches nobody");
    }
    if let Some((_, name, shown)) = find(&|binding| binding.to.is_none()) {
        let tunnel = case.facts.tunnel.as_deref().unwrap_or("the tunnel's interface");
        let summary = format!("{name} is bound to no interface: {shown}");
        let reason = format!("the firewall alone keeps it in the tunnel: bind it to {tunnel} as well");
        return heard.warn(summary, reason);
    }
    let mut summaries = Vec::new();
    for Told { says, .. } in &heard.told {
        let name = &says.name;
        match says.bindings.first() {
            Some(binding) => summaries.push(format!("{name} is bound to the tunnel: {}", shown(binding))),
            None => {
                heard.doubts.push(format!("{name} does not tell to what it is bound, and no socket of it was found"))
            }
        }
    }
    if summaries.is_empty() {
        return heard.pass("the torrent client's interface is not known".to_owned());
    }
    heard.pass(listed(summaries, "; "))
}

fn shown(binding: &Binding) -> String {
    format!("{}: {}", binding.setting, binding.to.as_deref().unwrap_or("any"))
}

/// `client-quiet`.
pub(super) fn judge_quiet(case: &Case<'_>) -> Ruling {
    let mut heard = match Heard::of(case) {
        Ok(heard) => heard,
        Err(ruling) => return ruling,
    };
    let names = |says: &ClientSays, on: bool| {
        let names: BTreeSet<&str> =
            says.announces.iter().filter(|one| one.on == on).map(|one| one.what.as_str()).collect();
        Vec::from_iter(names).join(", ")
    };
    let uses = heard.told.iter().map(|told| (&told.says.name, names(told.says, true)));
    let uses = listed(uses.filter(|(_, on)| !on.is_empty()).map(|(name, on)| format!("{name} uses {on}")), "; ");
    if !uses.is_empty() {
        let on = heard.each(|says| &says.announces).into_iter().filter(|(_, one)| one.on);
        let off: BTreeSet<&str> = on.map(|(_, one)| one.setting.as_str()).collect();
        let off = Vec::from_iter(off).join("; ");
        let reason = format!(
            "it asks the home's router for a port, or tells the home's network of itself, as soon as the firewall lets it: turn off {off}"
        );
        return heard.warn(uses, reason);
    }
    let mut summaries = Vec::new();
    for Told { says, .. } in &heard.told {
        match names(says, false) {
            none if none.is_empty() => {
                heard.doubts.push(format!("{} told none of the settings that were looked for", says.name));
            }
            off => summaries.push(format!("{} uses none of {off}", says.name)),
        }
    }
    if summaries.is_empty() {
        return heard.pass("what the torrent client announces is not known".to_owned());
    }
    heard.pass(listed(summaries, "; "))
}

/// Which ports lead to the stack, by Gluetun's word.
#[derive(Default)]
struct Forwarded {
    /// Ports that the provider gave it.
    given: BTreeSet<u16>,
    /// Ports that its own firewall lets in by the tunnel.
    let_in: BTreeSet<u16>,
    /// Whether it is set to have one given.
    wanted: bool,
}

/// `client-port`.
pub(super) fn judge_port(case: &Case<'_>) -> Ruling {
    let mut heard = match Heard::of(case) {
        Ok(heard) => heard,
        Err(ruling) => return ruling,
    };
    if let Some(Told { says, line }) =
        heard.told.iter().find(|told| told.says.status == Some(ClientStatus::Disconnected))
    {
        let (lead, summary) = (line.clone(), format!("{} listens nowhere", says.name));
        let reason = "no peer can reach it, and often it is cut off wholly: its interface or address may be gone, or its port taken";
        return heard.fail(lead, FailKind::Broken, summary, reason);
    }
    let answers = case.evidence.map(|evidence| evidence.answers.as_slice()).unwrap_or_default();
    let mut known: Option<Forwarded> = None;
    let mut unknown = None;
    for answer in answers {
        match &answer.said {
            Said::Forwards { ports: Some(ports), let_in, wanted, .. } => {
                let all = known.get_or_insert_default();
                all.given.extend(ports);
                all.let_in.extend(let_in);
                all.wanted |= *wanted;
            }
            Said::Forwards { ports: None, how, .. } => unknown = Some(how),
            _ => {}
        }
    }
    let Some(Forwarded { given, let_in, wanted }) = known else {
        if let (Some(how), true) = (unknown, heard.doubts.is_empty()) {
            return Ruling::skip(&format!("it is not known whether the VPN forwards a port: {how}"));
        }
        if heard.doubts.is_empty() {
            heard.doubts.push("nobody was asked whether the VPN forwards a port".to_owned());
        }
        return heard.pass("the torrent client's port could not be compared".to_owned());
    };
    if !given.is_empty() {
        return match compare(&mut heard, &given, "which the VPN forwards", "the VPN forwards") {
            Ok(summary) => heard.pass(summary),
            Err((lead, summary)) => {
                heard.fail(lead, FailKind::Broken, summary, "peers who come by the forwarded port find nobody")
            }
        };
    }
    if wanted {
        let reason = "VPN_PORT_FORWARDING is on, and peers can reach no port: Gluetun's log says why";
        return heard.warn("the VPN forwards no port, though it is meant to".to_owned(), reason.to_owned());
    }
    // What the provider forwards by its own web page Gluetun does not know, but what its owner lets in for that it does. Mullvad forwards none.
    if !let_in.is_empty() && case.facts.provider != Some(Provider::Mullvad) {
        let through = "which Gluetun lets in by the tunnel (FIREWALL_VPN_INPUT_PORTS)";
        return match compare(&mut heard, &let_in, through, "Gluetun lets in by the tunnel") {
            Ok(summary) => heard.pass(summary),
            Err((_, summary)) => {
                let reason = "if the provider forwards what FIREWALL_VPN_INPUT_PORTS names, peers who come by that find nobody; if nothing \
                              in the stack is to be reached by the tunnel, drop it";
                heard.warn(summary, reason.to_owned())
            }
        };
    }
    let may = heard.told.iter().map(|Told { says, .. }| {
        format!("the VPN forwards no port, so {} may listen on any{}", says.name, status(says))
    });
    let summary = listed(may, "; ");
    heard.pass(summary)
}

/// Holds where the clients listen against the ports that lead to the stack: one client on one of them is enough, for there may be no more than
/// that one.
fn compare(
    heard: &mut Heard<'_>,
    ports: &BTreeSet<u16>,
    which: &str,
    others: &str,
) -> Result<String, (EvidenceLine, String)> {
    let list = |ports: &BTreeSet<u16>| ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let others = format!("{others} {}", list(ports));
    let on = |says: &ClientSays| says.port.filter(|port| !says.random_port && ports.contains(port));
    let found = heard.told.iter().filter_map(|Told { says, .. }| Some((says, on(says)?)));
    let found = found.map(|(says, port)| format!("{} listens on {port}, {which}{}", says.name, status(says)));
    let found = listed(found, "; ");
    if !found.is_empty() {
        let rest = heard.told.iter().filter(|told| on(told.says).is_none());
        let rest = rest.map(|Told { says, .. }| format!("; {} does not", says.name));
        return Ok(format!("{found}{}", listed(rest, "")));
    }
    if let Some(Told { says, line }) = heard.told.iter().find(|told| told.says.random_port) {
        return Err((line.clone(), format!("{} takes a port by chance, and {others}", says.name)));
    }
    let listens = heard.told.iter().filter_map(|Told { says, line }| Some((says, says.port?, line)));
    let listens: Vec<_> = listens.collect();
    let silent = heard.told.iter().filter(|told| told.says.port.is_none());
    let silent: Vec<String> = silent.map(|Told { says, .. }| format!("{} did not tell its port", says.name)).collect();
    match listens.first() {
        Some((_, _, lead)) if silent.is_empty() => {
            let all = listens.iter().map(|(says, port, _)| format!("{} listens on {port}", says.name));
            Err(((*lead).clone(), format!("{}, and {others}", listed(all, ", "))))
        }
        _ => {
            heard.doubts.extend(silent);
            Ok(others)
        }
    }
}

/// Whether peers reach it, as the end of a sentence.
fn status(says: &ClientSays) -> String {
    says.status.map_or(String::new(), |status| format!(", and {status}"))
}

/// `client-address`.
pub(super) fn judge_address(case: &Case<'_>) -> Ruling {
    let mut heard = match Heard::of(case) {
        Ok(heard) => heard,
        Err(ruling) => return ruling,
    };
    let facts = case.facts;
    let parts: &[(String, Evidence)] = case.evidence.map(|evidence| evidence.parts.as_slice()).unwrap_or_default();
    let seen: Vec<Exit<'_>> = parts.iter().flat_map(|(_, part)| exits(part, facts)).collect();
    let told = heard.each(|says| &says.addresses).into_iter();
    let told: Vec<(EvidenceLine, Exit<'_>)> =
        told.map(|(told, ip)| (told.line.clone(), exit(&told.says.name, *ip, &seen))).collect();
    let told: Vec<(EvidenceLine, Exit<'_>)> =
        told.into_iter().filter(|(_, one)| !is_private(one.ip) || of_uplink(one.ip, facts)).collect();
    let at_home = |one: &Exit<'_>| facts.home.contains(&one.ip) || of_uplink(one.ip, facts);
    if let Some((lead, home)) = told.iter().find(|(_, one)| at_home(one)) {
        let what =
            if facts.home.contains(&home.ip) { "the home address" } else { "an address of the uplink's network" };
        let summary = format!("{} is known to its peers by {what}, {}", home.witness, home.ip);
        let reason = "somebody outside has told it so: a peer, a tracker or the router has seen it past the tunnel";
        return heard.fail(lead.clone(), FailKind::Leak, summary, reason);
    }
    let told: Vec<Exit<'_>> = told.into_iter().map(|(_, one)| one).collect();
    if told.is_empty() {
        // That they say nothing counts only when they were really asked.
        if heard.doubts.is_empty() {
            let names = listed(heard.told.iter().map(|told| told.says.name.clone()), " and ");
            return Ruling::skip(&format!(
                "{names} tells no address of its own: it has learned none yet, or has no word for it"
            ));
        }
        return heard.pass("the torrent client's address is not known".to_owned());
    }
    let list = |name: &str| {
        let of_it: BTreeSet<IpAddr> = told.iter().filter(|one| one.witness == name).map(|one| one.ip).collect();
        format!("{name} says {}", of_it.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "))
    };
    let list = listed(told.iter().map(|one| list(one.witness)), "; ");
    heard.lines.extend(parts.iter().flat_map(|(_, part)| part.answers.iter().map(super::exit::answer_line)));
    if let Some(stranger) = told.iter().find(|one| !is_exit(one.ip, facts, &seen)) {
        if seen.is_empty() && facts.exit.is_empty() {
            heard.doubts.push("no witness said what the exit is, so that the address could not be compared".to_owned());
            return heard.pass(list);
        }
        let summary = format!("{} says {}, which no witness sees", stranger.witness, stranger.ip);
        let reason = "it is not home's: it may have learned it by another server before, or from a peer that is wrong; start the client \
                      again and look once more";
        return heard.warn(summary, reason.to_owned());
    }
    heard.doubts.extend([false, true].into_iter().filter_map(|v6| unproven(facts, &told, v6)));
    let addresses: BTreeSet<IpAddr> = told.iter().map(|one| one.ip).collect();
    let what = if addresses.len() == 1 { "an exit" } else { "exits" };
    heard.pass(format!("{list}, {what} of the VPN"))
}

/// An address that a client told, with what witnesses say of it.
fn exit<'a>(name: &'a str, ip: IpAddr, seen: &[Exit<'_>]) -> Exit<'a> {
    let ip = ip.to_canonical();
    let of_provider = seen.iter().filter(|one| one.ip == ip).find_map(|one| one.of_provider);
    Exit { witness: name, ip, of_provider, at_ms: 0.0 }
}

/// Whether it lies where exits have to, or a witness sees it and has nothing against it.
fn is_exit(ip: IpAddr, facts: &Facts, seen: &[Exit<'_>]) -> bool {
    let same: Vec<Exit<'_>> = seen.iter().filter(|one| one.ip == ip).copied().collect();
    facts.exit.iter().any(|net| net.contains(&ip)) || !same.is_empty() && wrong(&same, facts).is_none()
}

fn answer_line(answer: &Answer) -> EvidenceLine {
    let what = match &answer.said {
        Said::Client(says) => client(says),
        Said::Forwards { ports: Some(ports), let_in, how, .. } => {
            let list = |ports: &[u16]| ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let forwarded = match ports.as_slice() {
                [] => format!("no port is forwarded, {how}"),
                some => format!("forwarded: {}, {how}", list(some)),
            };
            match let_in.as_slice() {
                [] => forwarded,
                some => format!("{forwarded}; let in by the tunnel: {}", list(some)),
            }
        }
        Said::Forwards { ports: None, how, .. } => how.clone(),
        Said::Locked { error } | Said::Nothing { error } => error.clone(),
        _ => "an answer of another kind".to_owned(),
    };
    let fields = json!({ "witness": answer.witness, "said": what });
    line(answer.at_ms, format!("{}: {what}", answer.witness), fields)
}

fn client(says: &ClientSays) -> String {
    let mut told = vec![says.name.clone()];
    told.extend(says.bindings.iter().map(shown));
    told.extend(says.announces.iter().map(|one| format!("{}: {}", one.what, if one.on { "on" } else { "off" })));
    match says.port {
        _ if says.random_port => told.push("port: by chance".to_owned()),
        Some(port) => told.push(format!("port: {port}")),
        None => {}
    }
    told.extend(says.status.map(|status| status.to_string()));
    told.extend(says.addresses.iter().map(|ip| format!("seen as {ip}")));
    told.join("; ")
}
