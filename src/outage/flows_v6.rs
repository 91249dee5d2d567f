//! Flows over IPv6 that are older than the outage, for the probe that asks for them and answers for all of their packets.
//!
//! They are those of `standing.rs` but for one thing. Over IPv4 the kernel stops a socket whose source address is gone; over IPv6 it does
//! not check, so when the tunnel goes such a flow takes whatever default route is left, with the tunnel's own address. Only a firewall that
//! looks at more than whether a connection is known keeps it in, and Gluetun's does not.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::RecordType;
use reqwest::Url;

use super::standing::{StandingFlows, TRIES, far, forced};
use crate::model::evidence::{FlowsV6, Link};
use crate::technique::{Context, NoAnswer, lookup, nameservers, resolver_at};

/// How often both are tried to be opened: one alone proves too little, and a busy machine or line may have been busy just then.
const ROUNDS: usize = 2;

/// See the head of this file.
pub(super) struct FlowsOverV6 {
    standing: Option<StandingFlows>,
    /// What is known before any of them was watched.
    evidence: FlowsV6,
}

impl FlowsOverV6 {
    /// Opens them by the link `tunnel`, if it and any far side have IPv6.
    pub(super) async fn open(cx: &Context, trial: &Arc<str>, tunnel: &str) -> Self {
        let mut evidence = FlowsV6::default();
        let links = cx.links_now().await;
        if !links.iter().any(|link| link.name == tunnel && has_v6(link)) {
            evidence.absent = Some(format!("{tunnel} has no IPv6 address, so nothing in the tunnel is IPv6"));
        } else if nobody_has_v6(cx).await {
            evidence.absent = Some("no witness and no foreign resolver has an IPv6 address".to_owned());
        }
        if evidence.absent.is_some() {
            return Self { standing: None, evidence };
        }
        let mut opened = StandingFlows::open(cx, trial, tunnel, true).await;
        for _ in 1..ROUNDS {
            match opened {
                Ok(standing) if !standing.notes.is_empty() => {
                    standing.finish(true);
                    opened = StandingFlows::open(cx, trial, tunnel, true).await;
                }
                _ => break,
            }
        }
        match opened {
            Ok(mut standing) => {
                evidence.problems.append(&mut standing.notes);
                Self { standing: Some(standing), evidence }
            }
            Err(error) => {
                evidence.problems.push(format!("flows over IPv6 could not be opened: {error}"));
                Self { standing: None, evidence }
            }
        }
    }

    /// See [`StandingFlows::speak`].
    pub(super) fn speak(&self, down: bool) {
        self.standing.iter().for_each(|standing| standing.speak(down));
    }

    /// See [`StandingFlows::silence`].
    pub(super) fn silence(&self) {
        self.standing.iter().for_each(StandingFlows::silence);
    }

    /// See [`StandingFlows::finish`].
    pub(super) fn finish(self, told: bool) -> FlowsV6 {
        let flows = self.standing.map(|standing| standing.finish(told)).unwrap_or_default();
        FlowsV6 { flows, ..self.evidence }
    }
}

/// Whether a link has an address by which it reaches more than its other end.
fn has_v6(link: &Link) -> bool {
    link.addresses.iter().any(|net| matches!(net.addr(), IpAddr::V6(ip) if !ip.is_unicast_link_local()))
}

/// Whether it is certain that there is no far side to try: a resolver that does not answer leaves it open.
async fn nobody_has_v6(cx: &Context) -> bool {
    if forced(cx, true).next().is_some() {
        return false;
    }
    let web = cx.setup.echo_http.iter().filter_map(|url| Url::parse(url).ok()?.host_str().map(str::to_owned));
    let stun = cx.setup.echo_stun.iter().map(|(host, _)| host.clone());
    for host in web.take(TRIES).chain(stun.take(TRIES)) {
        if v6_of(cx, &host).await.is_none_or(|found| far(cx, found, true).is_some()) {
            return false;
        }
    }
    true
}

/// The IPv6 addresses of a host; `None`: nobody said.
async fn v6_of(cx: &Context, host: &str) -> Option<Vec<IpAddr>> {
    if let Ok(ip) = host.trim_matches(['[', ']']).parse() {
        return Some(vec![ip]);
    }
    for server in nameservers(&cx.setup.resolv_conf).0 {
        let Ok(resolver) = resolver_at(server) else { continue };
        match lookup(&resolver, host, RecordType::AAAA).await {
            Ok(found) => return Some(found.addresses),
            // SERVFAIL and its like say nothing of the name.
            Err(NoAnswer::Refused(rcode)) if rcode.contains("No Error") => return Some(Vec::new()),
            Err(_) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::evidence::Role;

    #[test]
    fn an_address_of_the_link_alone_is_no_ipv6() {
        let with = |nets: &[&str]| {
            let addresses = nets.iter().map(|net| net.parse().unwrap()).collect();
            has_v6(&Link { index: 2, name: "tun0".to_owned(), role: Role::Tunnel, up: true, addresses })
        };
        assert!(with(&["10.64.0.2/32", "fc00:bbbb:bbbb:bb01::2/128"]) && with(&["2001:db8::2/64"]));
        assert!(!with(&[]) && !with(&["10.64.0.2/32"]) && !with(&["fe80::1/64"]));
    }
}
