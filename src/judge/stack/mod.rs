//! What the container engine tells of a stack, held against how one should be set up. Each file is one expectation; what they share is here:
//! a finding names the container, the setting, and the line of the compose file that mends it.

pub(super) mod beside;
pub(super) mod control;
pub(super) mod ipv6;
pub(super) mod kill_switch;
pub(super) mod ports;
pub(super) mod powers;
pub(super) mod resolvers;
pub(super) mod secrets;
pub(super) mod start;
pub(super) mod subnets;

use serde_json::json;

use super::{Case, Ruling, count, law, line};
use crate::model::evidence::{ContainerAccount, Evidence, GluetunAccount, NO_NETWORKS, Said, StackAccount};
use crate::model::report::EvidenceLine;
use crate::model::verdict::FailKind;

/// Something that is not as it should be.
struct Finding {
    /// Name of the container.
    container: String,
    /// What is wrong, a sentence that follows the name.
    what: String,
    /// What to write into the compose file, or to take out of it.
    mend: String,
    /// Something escapes by this setting alone.
    leaks: bool,
}

/// What a look at the account came to.
#[derive(Default)]
struct Checked {
    /// Why there is nothing to look at.
    skip: Option<&'static str>,
    findings: Vec<Finding>,
    /// Why the rest proves nothing.
    doubts: Vec<String>,
    /// What was looked at, as container and what it says.
    seen: Vec<(String, String)>,
    /// What a pass says.
    pass: String,
}

impl Checked {
    fn skip(why: &'static str) -> Self {
        Self { skip: Some(why), ..Self::default() }
    }

    fn find(&mut self, container: &ContainerAccount, what: impl Into<String>, mend: impl Into<String>) {
        let (container, what, mend) = (container.name.clone(), what.into(), mend.into());
        self.findings.push(Finding { container, what, mend, leaks: false });
    }

    /// As [`Checked::find`], for what lets something out by itself.
    fn find_leak(&mut self, container: &ContainerAccount, what: impl Into<String>, mend: impl Into<String>) {
        self.find(container, what, mend);
        self.findings.iter_mut().next_back().into_iter().for_each(|finding| finding.leaks = true);
    }

    fn see(&mut self, container: &ContainerAccount, what: impl Into<String>) {
        self.seen.push((container.name.clone(), what.into()));
    }
}

/// The device by which a program makes a tunnel.
const TUN: &str = "/dev/net/tun";

/// Why a probe of Gluetun's settings has nothing to look at.
const NO_GLUETUN: &str = "the VPN container is no Gluetun, whose settings are known here";

/// Judges by what `look` finds in the account; `why` says what is bad about any of it.
fn settle(case: &Case<'_>, why: &str, look: impl FnOnce(&StackAccount, &Evidence) -> Checked) -> Ruling {
    let Some(evidence) = case.evidence else {
        return Ruling::inconclusive("not measured", &["nobody asked Docker".to_owned()], Vec::new());
    };
    if let Some(why) = &evidence.unasked {
        return Ruling::skip(why);
    }
    let told = evidence.answers.iter().find_map(|answer| match &answer.said {
        Said::Account(account) => Some((answer.at_ms, account)),
        _ => None,
    });
    let Some((at_ms, account)) = told else {
        let mut doubts = evidence.problems.clone();
        doubts.push("the container engine told nothing of the stack".to_owned());
        return Ruling::inconclusive("not measured", &doubts, Vec::new());
    };
    let checked = look(account, evidence);
    if let Some(first) = checked.findings.iter().find(|finding| finding.leaks).or(checked.findings.first()) {
        let summary = match checked.findings.len() {
            1 => format!("{} {}", first.container, first.what),
            all => format!("{} {}, and {}", first.container, first.what, count(all as u64 - 1, "more finding")),
        };
        let reason = format!("{why}; mend: {}", first.mend);
        let lead = finding_line(at_ms, first);
        let others = checked.findings.iter().filter(|other| !std::ptr::eq(*other, first));
        let rest = others.map(|other| finding_line(at_ms, other)).chain(seen_lines(at_ms, &checked)).collect();
        if first.leaks {
            return Ruling::fail(FailKind::Leak, summary, reason, lead, rest);
        }
        return Ruling::warn(summary, reason, std::iter::once(lead).chain(rest).collect());
    }
    if let Some(why) = checked.skip {
        return Ruling::skip(why);
    }
    let mut doubts = evidence.problems.clone();
    doubts.extend(law::sensor_doubts(case));
    doubts.extend(checked.doubts.iter().cloned());
    let lines = seen_lines(at_ms, &checked).collect();
    if !doubts.is_empty() {
        return Ruling::inconclusive("nothing was found, which proves nothing", &doubts, lines);
    }
    Ruling::pass(checked.pass, lines)
}

fn finding_line(at_ms: f64, finding: &Finding) -> EvidenceLine {
    let Finding { container, what, mend, leaks: _ } = finding;
    line(at_ms, format!("{container} {what}; mend: {mend}"), json!({ "container": container, "mend": mend }))
}

fn seen_lines(at_ms: f64, checked: &Checked) -> impl Iterator<Item = EvidenceLine> {
    let told = checked.seen.iter();
    told.map(move |(container, what)| line(at_ms, format!("{container} {what}"), json!({ "container": container })))
}

/// The VPN container and those that share its network.
fn members(account: &StackAccount) -> impl Iterator<Item = &ContainerAccount> {
    std::iter::once(&account.vpn).chain(&account.dependents)
}

/// Networks of the VPN container of which the engine told nothing.
fn unlisted(account: &StackAccount) -> impl Iterator<Item = String> {
    let is_listed = |name: &str| NO_NETWORKS.contains(&name) || account.networks.iter().any(|net| net.name == name);
    let missing = account.vpn.networks.iter().filter(move |name| !is_listed(name));
    missing
        .map(|name| format!("the container engine does not list the network {name}, so that its subnets are not known"))
}

/// A variable of Gluetun's that is a list with commas.
fn list(gluetun: &GluetunAccount, name: &str) -> Vec<String> {
    let text = gluetun.setting(name).unwrap_or_default();
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(str::to_owned).collect()
}

/// What a switch says; a word that Gluetun does not know is a doubt.
fn switch(checked: &mut Checked, gluetun: &GluetunAccount, name: &str) -> Option<bool> {
    match gluetun.switch(name)? {
        Ok(on) => Some(on),
        Err(word) => {
            checked.doubts.push(format!("{name} is `{word}`, which is neither on nor off"));
            None
        }
    }
}
