//! What a torrent client says of itself: `client-bound`, `client-quiet`, `client-port` and `client-address`. Its word is taken where it
//! accuses itself; where it clears itself the sensor has to have listened all the same, as for every other pass.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::json;

use super::exit::{Exit, exits, of_uplink, unproven, wrong};
use super::{Case, Facts, NO_EVIDENCE, Ruling, law, line};
use crate::model::evidence::{Answer, Binding, ClientSays, ClientStatus, Evidence, Role, Said};
use crate::model::report::EvidenceLine;
use crate::model::verdict::FailKind;
use crate::sensor::allow::is_private;

/// What a client said, and what else there is to judge by.
struct Heard<'a> {
    says: Vec<&'a ClientSays>,
    /// Why a clean word of it proves nothing.
    doubts: Vec<String>,
    lines: Vec<EvidenceLine>,
    first: EvidenceLine,
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
        let told = |answer: &'a Answer| match &answer.said {
            Said::Client(says) => Some(&**says),
            _ => None,
        };
        let lines: Vec<EvidenceLine> = evidence.answers.iter().map(answer_line).collect();
        let mut doubts = law::sensor_doubts(case);
        doubts.extend(evidence.problems.clone());
        doubts.extend(evidence.answers.iter().filter_map(|answer| match &answer.said {
            Said::Client(_) | Said::Forwards { .. } => None,
            Said::Nothing { error } => Some(format!("{}: {error}", answer.witness)),
            _ => Some(format!("{}: an answer of another kind", answer.witness)),
        }));
        let first = evidence.answers.iter().find(|answer| told(answer).is_some()).map(answer_line);
        let Some(first) = first else {
            if doubts.is_empty() {
                doubts.push(NO_EVIDENCE.to_owned());
            }
            return Err(Ruling::inconclusive("the torrent client did not tell", &doubts, lines));
        };
        Ok(Heard { says: evidence.answers.iter().filter_map(told).collect(), doubts, lines, first })
    }

    fn name(&self) -> &'a str {
        self.says.first().map_or("the torrent client", |says| &says.name)
    }

    fn fail(self, kind: FailKind, summary: String, reason: String) -> Ruling {
        Ruling::fail(kind, summary, reason, self.first, self.lines)
    }

    fn warn(self, summary: String, reason: String) -> Ruling {
        Ruling::warn(summary, reason, self.lines)
    }

    /// A pass, unless something makes it inconclusive.
    fn pass(self, summary: String) -> Ruling {
        if self.doubts.is_empty() {
            return Ruling::pass(summary, self.lines);
        }
        Ruling::inconclusive(&summary, &self.doubts, self.lines)
    }
}

/// `client-bound`.
pub(super) fn judge_bound(case: &Case<'_>) -> Ruling {
    let mut heard = match Heard::of(case) {
        Ok(heard) => heard,
        Err(ruling) => return ruling,
    };
    let name = heard.name();
    let bindings: Vec<&Binding> = heard.says.iter().copied().flat_map(|says| &says.bindings).collect();
    let find = |wrong: &dyn Fn(&Binding) -> bool| bindings.iter().copied().find(|binding| wrong(binding));
    if let Some(binding) = find(&|binding| binding.role == Some(Role::Uplink)) {
        let summary = format!("{name} is bound to the uplink: {}", shown(binding));
        return heard.fail(
            FailKind::Leak,
            summary,
            "it talks to its peers past the tunnel by its own settings".to_owned(),
        );
    }
    if let Some(binding) = find(&|binding| binding.to.is_some() && binding.role.is_none()) {
        let summary = format!("{name} is bound to what the stack has not: {}", shown(binding));
        return heard.fail(FailKind::Broken, summary, "so bound it reaches nobody".to_owned());
    }
    if let Some(binding) = find(&|binding| binding.to.is_none()) {
        let tunnel = case.facts.tunnel.as_deref().unwrap_or("the tunnel's interface");
        let summary = format!("{name} is bound to no interface: {}", shown(binding));
        let reason = format!("the firewall alone keeps it in the tunnel: bind it to {tunnel} as well");
        return heard.warn(summary, reason);
    }
    let Some(summary) = bindings.first().map(|binding| format!("{name} is bound to the tunnel: {}", shown(binding)))
    else {
        heard.doubts.push(format!("{name} does not tell to what it is bound, and no socket of it was found"));
        return heard.pass("the torrent client's interface is not known".to_owned());
    };
    heard.pass(summary)
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
    let name = heard.name();
    let all = || heard.says.iter().copied().flat_map(|says| &says.announces);
    let on: BTreeSet<&str> = all().filter(|one| one.on).map(|one| one.what.as_str()).collect();
    if !on.is_empty() {
        let off: BTreeSet<&str> = all().filter(|one| one.on).map(|one| one.setting.as_str()).collect();
        let (on, off) = (Vec::from_iter(on).join(", "), Vec::from_iter(off).join("; "));
        let reason = format!(
            "it asks the home's router for a port, or tells the home's network of itself, as soon as the firewall lets it: turn off {off}"
        );
        return heard.warn(format!("{name} uses {on}"), reason);
    }
    let off: BTreeSet<&str> = all().map(|one| one.what.as_str()).collect();
    if off.is_empty() {
        heard.doubts.push(format!("{name} told none of the settings that were looked for"));
        return heard.pass("what the torrent client announces is not known".to_owned());
    }
    let off = Vec::from_iter(off).join(", ");
    heard.pass(format!("{name} uses none of {off}"))
}

/// `client-port`.
pub(super) fn judge_port(case: &Case<'_>) -> Ruling {
    let mut heard = match Heard::of(case) {
        Ok(heard) => heard,
        Err(ruling) => return ruling,
    };
    let name = heard.name();
    if heard.says.iter().copied().any(|says| says.status == Some(ClientStatus::Disconnected)) {
        let reason = "no peer can reach it, and often it is cut off wholly: its interface or address may be gone, or its port taken";
        return heard.fail(FailKind::Broken, format!("{name} listens nowhere"), reason.to_owned());
    }
    let answers = case.evidence.map(|evidence| evidence.answers.as_slice()).unwrap_or_default();
    let mut forwarded: Option<(BTreeSet<u16>, bool)> = None;
    let mut unknown = None;
    for answer in answers {
        match &answer.said {
            Said::Forwards { ports: Some(ports), wanted, .. } => {
                let (all, any) = forwarded.get_or_insert_default();
                all.extend(ports);
                *any |= *wanted;
            }
            Said::Forwards { ports: None, how, .. } => unknown = Some(how),
            _ => {}
        }
    }
    let ports: BTreeSet<u16> = heard.says.iter().copied().filter_map(|says| says.port).collect();
    let status = heard
        .says
        .iter()
        .copied()
        .find_map(|says| says.status)
        .map_or(String::new(), |status| format!(", and {status}"));
    match (forwarded, unknown) {
        (None, Some(how)) if heard.doubts.is_empty() => {
            Ruling::skip(&format!("it is not known whether the VPN forwards a port: {how}"))
        }
        (None, _) => {
            if heard.doubts.is_empty() {
                heard.doubts.push("nobody was asked whether the VPN forwards a port".to_owned());
            }
            heard.pass("the torrent client's port could not be compared".to_owned())
        }
        (Some((forwarded, wanted)), _) if forwarded.is_empty() => {
            if wanted {
                let reason = "VPN_PORT_FORWARDING is on, and peers can reach no port: Gluetun's log says why";
                return heard.warn("the VPN forwards no port, though it is meant to".to_owned(), reason.to_owned());
            }
            heard.pass(format!("the VPN forwards no port, so that none has to be {name}'s{status}"))
        }
        (Some((forwarded, _)), _) => {
            let list = |ports: &BTreeSet<u16>| ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            if heard.says.iter().copied().any(|says| says.random_port) {
                let summary = format!("{name} takes a port by chance, and the VPN forwards {}", list(&forwarded));
                return heard.fail(
                    FailKind::Broken,
                    summary,
                    "peers who come by the forwarded port find nobody".to_owned(),
                );
            }
            if ports.is_empty() {
                heard.doubts.push(format!("{name} did not tell its port"));
                return heard.pass(format!("the VPN forwards {}", list(&forwarded)));
            }
            if !ports.is_subset(&forwarded) {
                let summary = format!("{name} listens on {}, and the VPN forwards {}", list(&ports), list(&forwarded));
                return heard.fail(
                    FailKind::Broken,
                    summary,
                    "peers who come by the forwarded port find nobody".to_owned(),
                );
            }
            heard.pass(format!("{name} listens on {}, which the VPN forwards{status}", list(&ports)))
        }
    }
}

/// `client-address`.
pub(super) fn judge_address(case: &Case<'_>) -> Ruling {
    let mut heard = match Heard::of(case) {
        Ok(heard) => heard,
        Err(ruling) => return ruling,
    };
    let (name, facts) = (heard.name(), case.facts);
    let parts: &[(String, Evidence)] = case.evidence.map(|evidence| evidence.parts.as_slice()).unwrap_or_default();
    let seen: Vec<Exit<'_>> = parts.iter().flat_map(|(_, part)| exits(part, facts)).collect();
    let told: Vec<Exit<'_>> =
        heard.says.iter().copied().flat_map(|says| &says.addresses).map(|ip| exit(name, *ip, &seen)).collect();
    let told: Vec<Exit<'_>> = told.into_iter().filter(|one| !is_private(one.ip) || of_uplink(one.ip, facts)).collect();
    if let Some(home) = told.iter().find(|one| facts.home.contains(&one.ip) || of_uplink(one.ip, facts)) {
        let what =
            if facts.home.contains(&home.ip) { "the home address" } else { "an address of the uplink's network" };
        let summary = format!("{name} is known to its peers by {what}, {}", home.ip);
        let reason =
            "somebody outside has told it so: a peer, a tracker or the router has seen it past the tunnel".to_owned();
        return heard.fail(FailKind::Leak, summary, reason);
    }
    if told.is_empty() {
        // That it says nothing counts only when it was really asked.
        if heard.doubts.is_empty() {
            return Ruling::skip(&format!(
                "{name} tells no address of its own: it has learned none yet, or has no word for it"
            ));
        }
        return heard.pass("the torrent client's address is not known".to_owned());
    }
    let addresses: BTreeSet<IpAddr> = told.iter().map(|one| one.ip).collect();
    let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    heard.lines.extend(parts.iter().flat_map(|(_, part)| part.answers.iter().map(super::exit::answer_line)));
    if let Some(stranger) = told.iter().find(|one| !is_exit(one.ip, facts, &seen)) {
        if seen.is_empty() && facts.exit.is_empty() {
            heard.doubts.push("no witness said what the exit is, so that the address could not be compared".to_owned());
            return heard.pass(format!("{name} says {list}"));
        }
        let summary = format!("{name} says {}, which no witness sees", stranger.ip);
        let reason = "it is not home's: it may have learned it by another server before, or from a peer that is wrong; start the client \
                      again and look once more";
        return heard.warn(summary, reason.to_owned());
    }
    heard.doubts.extend([false, true].into_iter().filter_map(|v6| unproven(facts, &told, v6)));
    heard.pass(format!("{name} says {list}, an exit of the VPN"))
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
        Said::Forwards { ports: Some(ports), how, .. } if ports.is_empty() => format!("no port is forwarded, {how}"),
        Said::Forwards { ports: Some(ports), how, .. } => {
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            format!("forwarded: {}, {how}", ports.join(", "))
        }
        Said::Forwards { ports: None, how, .. } => how.clone(),
        Said::Nothing { error } => error.clone(),
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
