//! `no-stale-resolver`: whom the programs ask that share the stack's network, where their resolv.conf is not the stack's.

use std::net::IpAddr;

use serde_json::json;

use super::resolver::{answer_line, is_homes, is_of_home, list, resolves};
use super::{Case, Ruling, count, end, law, line, sighting_line};
use crate::model::evidence::names::STACK_RESOLV_CONF;
use crate::model::evidence::{Answer, Class, Evidence, Said};
use crate::model::report::EvidenceLine;
use crate::model::verdict::FailKind;

/// A file that programs have, and what it names that the stack's own does not.
struct File<'a> {
    answer: &'a Answer,
    nameservers: &'a [IpAddr],
    foreign: Vec<IpAddr>,
    of_host: bool,
}

pub(super) fn judge(case: &Case<'_>) -> Ruling {
    let Some(evidence) = case.evidence else {
        return Ruling::without_evidence();
    };
    if let Some(why) = &evidence.unasked {
        return Ruling::skip(why);
    }
    let files = files(evidence);
    let lines = lines(evidence);
    let whose = |server: IpAddr| {
        let of: Vec<&str> = files.iter().filter(|file| file.foreign.contains(&server)).map(File::whose).collect();
        if of.is_empty() { "a program of the stack".to_owned() } else { of.join(" and ") }
    };
    if let Some(ruling) = leak(case, evidence, &lines, whose) {
        return ruling;
    }
    let answers = &evidence.answers;
    let dead = |server: &IpAddr| !resolves(answers, *server);
    let lost = files.iter().find(|file| {
        // A shell or a helper of the host's that just stands in the namespace was never meant to resolve there.
        !file.of_host
            && !file.foreign.is_empty()
            && file.foreign.len() == file.nameservers.len()
            && file.foreign.iter().all(|server| dead(server) && is_silent(answers, *server))
    });
    if let Some(file) = lost {
        let summary = format!("{} cannot resolve names: {} does not answer", file.whose(), list(&file.foreign));
        let reason =
            "its resolv.conf is not the stack's, and names no resolver that answers in the namespace".to_owned();
        return Ruling::fail(FailKind::Broken, summary, reason, file_line(file.answer), lines);
    }
    let mut doubts = law::sensor_doubts(case);
    doubts.extend(evidence.problems.clone());
    let stack = answers.iter().any(|answer| answer.witness == STACK_RESOLV_CONF && named(answer).is_some());
    if files.is_empty() || !stack {
        doubts.push("it is not known which resolvers the stack and its programs name".to_owned());
    }
    let mut foreign: Vec<IpAddr> = files.iter().flat_map(|file| file.foreign.clone()).collect();
    foreign.sort();
    foreign.dedup();
    let (mute, alive): (Vec<IpAddr>, Vec<IpAddr>) = foreign.iter().partition(|server| dead(server));
    for server in &alive {
        let askers = askers(answers, *server);
        if askers.is_empty() {
            doubts.push(format!("no echo service said who asks in the end when {server} is asked"));
        }
        let strange = askers.into_iter().filter(|ip| !case.facts.exit.iter().any(|net| net.contains(ip)));
        let strange: Vec<IpAddr> = strange.collect();
        if !strange.is_empty() && case.facts.home_resolvers.is_empty() {
            doubts.push(format!(
                "{} asks in the end for {server}, which is not known to be the VPN's, and what the home's own resolvers look like is not known either: set home.resolvers",
                list(&strange)
            ));
        }
    }
    doubts.extend(
        mute.iter()
            .filter(|server| !is_silent(answers, **server))
            .map(|server| format!("{server}, which {} names, was not asked", whose(*server))),
    );
    if !doubts.is_empty() {
        return Ruling::inconclusive("whom the stack's programs ask is not proven", &doubts, lines);
    }
    if let Some(server) = mute.first() {
        let summary = format!("{server}, which {} names, does not answer", whose(*server));
        let reason = "programs wait for it before they ask another one".to_owned();
        return Ruling::warn(summary, reason, lines);
    }
    if let Some(server) = alive.iter().find(|server| !case.facts.resolvers.contains(server)) {
        let by = list(&askers(answers, *server));
        let summary = format!("{} asks {server} and not the stack's resolver: by {by}", whose(*server));
        let reason = "it resolves by the VPN, but goes its own way: what the stack's resolver filters or changes, it does not see".to_owned();
        return Ruling::warn(summary, reason, lines);
    }
    let those = count(files.len() as u64, "resolv.conf");
    Ruling::pass(
        if alive.is_empty() {
            format!("{those} beside the stack's, naming the same resolvers")
        } else {
            format!("{those} beside the stack's, naming allowed resolvers that ask by the VPN")
        },
        lines,
    )
}

impl<'a> File<'a> {
    fn whose(&self) -> &'a str {
        &self.answer.witness
    }
}

fn named(answer: &Answer) -> Option<&[IpAddr]> {
    match &answer.said {
        Said::ResolvConf { nameservers, .. } => Some(nameservers.as_deref().unwrap_or_default()),
        _ => None,
    }
}

/// What programs have; what is not there names nobody.
fn files(evidence: &Evidence) -> Vec<File<'_>> {
    let stacks = |answer: &&Answer| answer.witness == STACK_RESOLV_CONF;
    let own: Vec<IpAddr> = evidence.answers.iter().filter(stacks).filter_map(named).flatten().copied().collect();
    let others = evidence.answers.iter().filter(|answer| !stacks(answer));
    let files = others.filter_map(|answer| {
        let nameservers = named(answer)?;
        let of_host = matches!(answer.said, Said::ResolvConf { of_host: true, .. });
        let foreign = nameservers.iter().copied().filter(|server| !own.contains(server)).collect();
        Some(File { answer, nameservers, foreign, of_host })
    });
    files.collect()
}

/// Something that shows a question on the home's side.
fn leak(
    case: &Case<'_>,
    evidence: &Evidence,
    lines: &[EvidenceLine],
    whose: impl Fn(IpAddr) -> String,
) -> Option<Ruling> {
    let leak = |first: EvidenceLine, summary: String, reason: &str| {
        Some(Ruling::fail(FailKind::Leak, summary, reason.to_owned(), first, lines.to_vec()))
    };
    for class in [Class::Offence, Class::Nearby, Class::LocalDns] {
        if let Some(sighting) = law::own(case, class).first() {
            let (who, to) = (whose(sighting.dst.ip()), end(sighting.dst));
            let summary = format!("questions of {who} leave by {} to {to}", sighting.link);
            let reason = "a question for a fresh name to a resolver that a program names was seen on an uplink";
            return leak(sighting_line(sighting), summary, reason);
        }
    }
    for answer in &evidence.answers {
        let who = |resolver: &str| resolver.parse().map_or_else(|_| "a program of the stack".to_owned(), &whose);
        match &answer.said {
            Said::Asker { resolver, ip, .. } if is_homes(ip.to_canonical(), case.facts) => {
                let summary =
                    format!("{} asks {resolver}, and the authority sees {ip}: the home's side", who(resolver));
                let reason = "the resolver that a program names asks from the home's side of the tunnel";
                return leak(answer_line(answer), summary, reason);
            }
            Said::ClientSubnet { resolver, net } if is_of_home(net, case.facts) => {
                let summary =
                    format!("{} asks {resolver}, and the authority is told of {net}: the home's", who(resolver));
                let reason = "the resolver that a program names was asked from the home's side of the tunnel";
                return leak(answer_line(answer), summary, reason);
            }
            _ => {}
        }
    }
    None
}

/// Whether `server` was asked for the canary, and gave no address.
fn is_silent(answers: &[Answer], server: IpAddr) -> bool {
    let who = server.to_string();
    answers.iter().any(|answer| {
        answer.witness == who
            && matches!(answer.said, Said::Nothing { .. } | Said::Refused { .. } | Said::Resolved { ip: None })
    })
}

/// Who asks in the end when `server` is asked.
fn askers(answers: &[Answer], server: IpAddr) -> Vec<IpAddr> {
    let who = server.to_string();
    let found = answers.iter().filter_map(|answer| match &answer.said {
        Said::Asker { resolver, ip, .. } if *resolver == who => Some(ip.to_canonical()),
        _ => None,
    });
    found.collect()
}

fn lines(evidence: &Evidence) -> Vec<EvidenceLine> {
    let lines = evidence.answers.iter().map(|answer| match &answer.said {
        Said::ResolvConf { .. } => file_line(answer),
        Said::Nameserver { ip, link } => {
            let by = link.as_deref().map_or_else(|| "no link".to_owned(), str::to_owned);
            line(answer.at_ms, format!("{ip} is reached by {by}"), json!({ "nameserver": ip, "link": link }))
        }
        _ => answer_line(answer),
    });
    lines.collect()
}

fn file_line(answer: &Answer) -> EvidenceLine {
    let nameservers = named(answer).unwrap_or_default();
    let what = match &answer.said {
        Said::ResolvConf { nameservers: None, .. } => "has no resolv.conf".to_owned(),
        _ if nameservers.is_empty() => "names no resolver".to_owned(),
        _ => format!("names {}", nameservers.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")),
    };
    let fields = json!({ "program": answer.witness, "nameservers": nameservers });
    line(answer.at_ms, format!("{} {what}", answer.witness), fields)
}
