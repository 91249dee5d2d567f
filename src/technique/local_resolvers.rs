//! Threat: a resolver on a local subnet, such as the bridge's gateway or the router, answers the stack for public names, and asks the ISP
//! for them: whoever asks it walks past the VPN without a packet to the internet.
//! Procedure: the uplinks' gateways, the first and the last address of each local subnet, and the forwarder of a network by slirp4netns are
//! asked for a fresh public name, with TTL 1.
//! Limits: other addresses of the local subnets are not searched, and what lies behind a gateway is not reached.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use serde_json::Value;
use socket2::Socket;
use tokio::time::{Instant, sleep};

use super::control::Responder;
use super::gateway::ends_of;
use super::names::answers;
use super::{Context, NoParams, Outcome, Technique, Work, question, read};
use crate::agent::links::unanswered_neighbours;
use crate::model::evidence::names::CONTROL;
use crate::model::evidence::{Evidence, Said, Via};

const DNS: u16 = 53;
/// How long an answer may take: a resolver that has to ask others first takes longer than a round trip.
const PATIENCE: Duration = Duration::from_millis(900);
/// More addresses than this are not asked.
const MAX_TARGETS: usize = 24;
/// Where a network by slirp4netns, which rootless containers may be in, has a resolver that asks those of the machine.
const SLIRP_FORWARDER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3));
/// Datagrams that are looked at in one go.
const MAX_AT_ONCE: usize = 64;

/// See the head of this file.
pub struct LocalResolvers;

impl Technique for LocalResolvers {
    fn name(&self) -> &'static str {
        "local-resolvers"
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<NoParams>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, trial: Arc<str>, _params: Value) -> Work<'a> {
        Box::pin(async move {
            let mut evidence = Evidence { from_ms: cx.clock.now_ms(), ..Evidence::default() };
            let sender = cx.sender(&trial);
            let mut waiting = Vec::new();
            let ask = |to: SocketAddr| {
                sender.udp(to, &Via::Default, "DNS question", |entry| question(entry, &cx.setup.canary, to.ip()))
            };
            for target in targets(cx) {
                let Outcome { mut stimulus, socket } = ask(SocketAddr::new(target, DNS));
                // With TTL 1 it shows on the link of the subnet, if somebody is there to be asked.
                stimulus.traced = true;
                let id = stimulus.id as u16;
                evidence.stimuli.push(stimulus);
                waiting.extend(socket.map(|socket| (target.to_string(), id, socket)));
            }
            let responder = match Responder::start(answered).await {
                Ok(responder) => Some(responder),
                Err(error) => {
                    evidence.problems.push(format!("there is no control: {error}"));
                    None
                }
            };
            if let Some(responder) = &responder {
                let outcome = ask(responder.at);
                let id = outcome.stimulus.id as u16;
                waiting.extend(outcome.socket.map(|socket| (CONTROL.to_owned(), id, socket)));
            }
            let deadline = Instant::now() + PATIENCE;
            while !waiting.is_empty() && Instant::now() < deadline {
                waiting.retain(|(target, id, socket)| match read_answer(socket, *id) {
                    Ok(None) => true,
                    Ok(Some(octets)) => {
                        evidence.answers.push(cx.answer(target.clone(), said(&octets)));
                        false
                    }
                    Err(error) => {
                        evidence.answers.push(cx.answer(target.clone(), Said::Nothing { error: error.to_string() }));
                        false
                    }
                });
                sleep(Duration::from_millis(10)).await;
            }
            for (target, ..) in waiting {
                evidence.answers.push(cx.answer(target, Said::Nothing { error: "no answer in time".to_owned() }));
            }
            // What waits for a hardware address that nobody has does not show, and asks nobody.
            let missing = unanswered_neighbours(&cx.routes).await;
            for stimulus in evidence.stimuli.iter_mut().filter(|stimulus| missing.contains(&stimulus.to.ip())) {
                stimulus.traced = false;
                stimulus.what.push_str(", to an address that nobody on the link has");
            }
            evidence.to_ms = cx.clock.now_ms();
            evidence
        })
    }
}

/// The control's answer: the question with the bit that makes it one (QR, RFC 1035, 4.1.1).
fn answered(question: &[u8]) -> Vec<u8> {
    let mut octets = question.to_vec();
    if let Some(flags) = octets.get_mut(2) {
        *flags |= 0x80;
    }
    octets
}

/// What has come in answer to question `id`, if anything has. Whatever else comes is passed over.
fn read_answer(mut socket: &Socket, id: u16) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = [0; 1500];
    // So many at a time that a flood keeps nobody from looking at the clock.
    for _ in 0..MAX_AT_ONCE {
        match socket.read(&mut buffer) {
            Ok(length) => {
                let octets = buffer.get(..length).unwrap_or_default();
                if answers(octets, id) {
                    return Ok(Some(octets.to_vec()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The gateways, the ends of each local subnet, where routers use to be, and where slirp4netns(1) has its forwarder; not the stack's own
/// addresses, nor its nameservers, which have a probe of their own.
fn targets(cx: &Context) -> Vec<IpAddr> {
    let own: Vec<IpAddr> = cx.links.iter().flat_map(|link| link.addresses.iter().map(|net| net.addr())).collect();
    let (nameservers, _) = super::nameservers(&cx.setup.resolv_conf);
    let forwarder = Some(SLIRP_FORWARDER).filter(|ip| cx.local.iter().any(|net| net.contains(ip)));
    let mut found: Vec<IpAddr> = Vec::new();
    for target in cx.gateways.iter().copied().chain(forwarder).chain(cx.local.iter().flat_map(ends_of)) {
        let link_local = matches!(target, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if !own.contains(&target) && !nameservers.contains(&target) && !found.contains(&target) && !link_local {
            found.push(target);
        }
    }
    found.truncate(MAX_TARGETS);
    found
}

/// What an answer says: an address or a denial comes from somebody who asked the internet.
fn said(octets: &[u8]) -> Said {
    let Ok(answer) = Message::from_vec(octets) else {
        return Said::Nothing { error: "its answer has the wrong shape".to_owned() };
    };
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {
            Said::Resolved { ip: answer.answers.iter().find_map(|record| record.data.ip_addr()) }
        }
        other => Said::Refused { rcode: other.to_string() },
    }
}

/// Reads octets as a resolver's answer, for [`crate::untrusted`].
#[cfg(feature = "lab")]
pub(crate) fn understand(octets: &[u8]) {
    let id = octets.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
    let _ = (answers(octets, id), said(octets), said(&answered(octets)));
}
