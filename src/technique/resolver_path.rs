//! Threat: names are resolved by somebody at home: the ISP's resolver, the bridge's gateway, Docker's own, each of which may forward anywhere.
//! Procedure: each nameserver of resolv.conf is asked by itself for the canary, for a fresh marked name, and for echo names whose answer is
//! the address that their authority saw asking; Mullvad's own service says the same of fresh names that only it knows.
//! Limits: the authority sees the last resolver of a chain.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use ipnet::IpNet;
use reqwest::Url;
use rustls::ClientConfig;
use serde::Deserialize;
use serde_json::Value;

use super::names::{NoAnswer, addresses, lookup, lookup_marked};
use super::{Context, NoParams, Technique, Work, http, nameservers, read, resolver_at};
use crate::agent::links::route_link;
use crate::model::evidence::{Answer, Evidence, Said};

const PATIENCE: Duration = Duration::from_secs(5);
/// Times that Mullvad's service is asked, each with a fresh name.
const ROUNDS: usize = 2;
/// Times that a resolver is asked for the canary, and for an echo name, if it does not answer.
const TRIES: usize = 3;
const TRIES_FOR_ECHO: usize = 2;

/// See the head of this file.
pub struct ResolverPath;

impl Technique for ResolverPath {
    fn name(&self) -> &'static str {
        "resolver-path"
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<NoParams>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, trial: Arc<str>, _params: Value) -> Work<'a> {
        Box::pin(async move {
            let mut evidence = Evidence { from_ms: cx.clock.now_ms(), ..Evidence::default() };
            let (servers, odd) = nameservers(&cx.resolv_conf());
            evidence.problems.extend(
                odd.into_iter().map(|what| format!("resolv.conf has a nameserver that could not be asked: {what}")),
            );
            let asked = servers.iter().map(|server| ask_server(cx, &trial, *server));
            let by_server = join_all(asked);
            if cx.setup.mullvad {
                match http::trust(cx.setup.extra_ca.as_deref()) {
                    Ok(tls) => {
                        let rounds = (0..ROUNDS).map(|_| dnsleak(cx, &tls, &trial, &servers));
                        let (found, seen) = tokio::join!(by_server, join_all(rounds));
                        evidence.answers = found.into_iter().chain(seen).flatten().collect();
                    }
                    Err(problem) => {
                        evidence.problems.push(problem);
                        evidence.answers = by_server.await.into_iter().flatten().collect();
                    }
                }
            } else {
                evidence.answers = by_server.await.into_iter().flatten().collect();
            }
            evidence.to_ms = cx.clock.now_ms();
            evidence
        })
    }
}

/// Asks one nameserver for the canary, a fresh name, and the echo names, all at once.
pub(super) async fn ask_server(cx: &Context, trial: &Arc<str>, server: IpAddr) -> Vec<Answer> {
    let who = server.to_string();
    let index = route_link(&cx.routes, server).await;
    let link = cx.links.iter().find(|link| Some(link.index) == index).map(|link| link.name.clone());
    let mut answers = vec![cx.answer(&who, Said::Nameserver { ip: server, link })];
    let resolver = match resolver_at(server) {
        Ok(resolver) => resolver,
        Err(error) => {
            answers.push(cx.answer(&who, Said::Nothing { error }));
            return answers;
        }
    };
    let marked = format!("{}.{}", cx.ledger.enter(trial).marker(), cx.setup.canary);
    let for_canary = async || lookup_marked(server, &cx.setup.canary).await;
    let (canary, _) = tokio::join!(unless_lost(TRIES, for_canary, is_lost), lookup_marked(server, &marked));
    // Who says nothing of three canaries would say no more of an echo name.
    let tries = if is_lost(&canary) { 1 } else { TRIES_FOR_ECHO };
    answers.push(cx.answer(&who, canary));
    let silent = |answers: &Vec<Answer>| answers.iter().all(|answer| is_lost(&answer.said));
    let echoes = cx
        .setup
        .echo_dns
        .iter()
        .map(|name| unless_lost(tries, async || asker(cx, &resolver, &who, name).await, silent));
    answers.extend(join_all(echoes).await.into_iter().flatten());
    answers
}

/// Asks so many times at most, until something comes: what a lost packet can cause must not be told of a resolver.
async fn unless_lost<T>(tries: usize, mut ask: impl AsyncFnMut() -> T, lost: impl Fn(&T) -> bool) -> T {
    let mut said = ask().await;
    for _ in 1..tries {
        if !lost(&said) {
            break;
        }
        said = ask().await;
    }
    said
}

/// Whether nothing came, or only that the resolver itself heard nothing (SERVFAIL, RFC 1035, section 4.1.1).
fn is_lost(said: &Said) -> bool {
    match said {
        Said::Nothing { .. } => true,
        Said::Refused { rcode } => *rcode == ResponseCode::ServFail.to_string(),
        _ => false,
    }
}

/// Who the authority of an echo name saw asking: the name's A record, or an address in its TXT record; and for whom, where it was told.
async fn asker(cx: &Context, resolver: &hickory_resolver::TokioResolver, who: &str, name: &str) -> Vec<Answer> {
    let witness = format!("{name} by {who}");
    let mut subnet = None;
    let said = match lookup(resolver, name, RecordType::A).await {
        Ok(found) if !found.addresses.is_empty() => Ok(found.addresses[0]),
        Ok(_) | Err(NoAnswer::Refused(_)) => match lookup(resolver, name, RecordType::TXT).await {
            Ok(found) => {
                subnet = found.texts.iter().find_map(|text| client_subnet(text));
                let word = found
                    .texts
                    .iter()
                    .flat_map(|text| text.split([' ', '"', '\t']))
                    .find_map(|word| word.parse::<IpAddr>().ok());
                word.ok_or_else(|| "the answer holds no address".to_owned())
            }
            Err(NoAnswer::Refused(why) | NoAnswer::Nothing(why)) => Err(why),
        },
        Err(NoAnswer::Nothing(why)) => Err(why),
    };
    let said = match said {
        Ok(ip) => Said::Asker { resolver: who.to_owned(), ip, of_provider: None },
        Err(error) => Said::Nothing { error },
    };
    let told = subnet.map(|net| Said::ClientSubnet { resolver: who.to_owned(), net });
    [Some(said), told].into_iter().flatten().map(|said| cx.answer(witness.clone(), said)).collect()
}

/// What Google's echo name says of EDNS Client Subnet, e.g. `edns0-client-subnet 203.0.113.0/24`.
fn client_subnet(text: &str) -> Option<IpNet> {
    text.trim_matches('"').strip_prefix("edns0-client-subnet ")?.trim().parse().ok()
}

/// One entry of what `https://<label>.dnsleak.am.i.mullvad.net/` answers.
#[derive(Deserialize)]
struct Leak {
    ip: IpAddr,
    mullvad_dns: bool,
}

async fn dnsleak(cx: &Context, tls: &ClientConfig, trial: &Arc<str>, servers: &[IpAddr]) -> Vec<Answer> {
    let host = format!("{}.dnsleak.am.i.mullvad.net", cx.ledger.enter(trial).marker());
    let witness = "dnsleak.am.i.mullvad.net";
    let nothing = |error: String| vec![cx.answer(witness, Said::Nothing { error })];
    let Ok(url) = Url::parse(&format!("https://{host}/")) else { return nothing("it is no URL".to_owned()) };
    let found = match addresses(servers, &host).await {
        Ok(found) => found,
        Err(error) => return nothing(format!("its name could not be resolved: {error}")),
    };
    let Some(address) = found.iter().find(|ip| ip.is_ipv4()).or(found.first()) else {
        return nothing("it has no address".to_owned());
    };
    match http::ask(tls, &url, *address, PATIENCE, "application/json").await {
        Ok((200, body)) => match serde_json::from_slice::<Vec<Leak>>(&body) {
            Ok(seen) if !seen.is_empty() => seen
                .into_iter()
                .take(64)
                .map(|leak| {
                    let resolver = servers.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
                    cx.answer(witness, Said::Asker { resolver, ip: leak.ip, of_provider: Some(leak.mullvad_dns) })
                })
                .collect(),
            Ok(_) => nothing("it saw nobody ask".to_owned()),
            Err(error) => nothing(format!("its answer has the wrong shape: {error}")),
        },
        Ok((status, _)) => nothing(format!("it answered with HTTP status {status}")),
        Err(error) => nothing(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_subnet_is_told_by_one_line_only() {
        assert_eq!(client_subnet("edns0-client-subnet 203.0.113.0/24"), Some("203.0.113.0/24".parse().unwrap()));
        assert_eq!(client_subnet("edns0-client-subnet 2001:db8:18::/56"), Some("2001:db8:18::/56".parse().unwrap()));
        for other in ["172.253.1.2", "edns0-client-subnet", "edns0-client-subnet x", ""] {
            assert_eq!(client_subnet(other), None, "{other}");
        }
    }
}
