//! Threat: names of the home's own machines, and every mistyped one, are sent to the home's resolver, which asks the ISP.
//! Procedure: each nameserver of resolv.conf is asked for marked names that are local by their shape: one label, `.lan`, `.local` and the
//! like, and the search suffixes of resolv.conf. The sensor tells whether the marker leaves by an uplink.
//! Limits: a resolver outside of the namespace that forwards to another shows nothing on the uplink; one that is further away than the
//! next hop is not reached.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use serde_json::Value;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::names::answers;
use super::{Context, NoParams, Technique, Work, fate_of, nameservers, read};
use crate::handicap::{Handicap, lacks};
use crate::model::evidence::names::LOCAL_NAMES;
use crate::model::evidence::{Evidence, Fate, Proto, Said, Stimulus, Via};

const DNS: u16 = 53;
/// How long an answer may take; a resolver that forwards has forwarded by then.
const PATIENCE: Duration = Duration::from_millis(800);
/// Endings of names that are no one's on the internet (RFC 6762, RFC 8375, and what routers use); the empty one is a name of one label.
const ENDINGS: [&str; 5] = ["", ".lan", ".local", ".home.arpa", ".internal"];
/// More search suffixes than this are not asked for.
const MAX_SUFFIXES: usize = 4;

/// See the head of this file.
pub struct LocalNames;

impl Technique for LocalNames {
    fn name(&self) -> &'static str {
        LOCAL_NAMES
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<NoParams>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, trial: Arc<str>, _params: Value) -> Work<'a> {
        Box::pin(async move {
            let mut evidence = Evidence { from_ms: cx.clock.now_ms(), ..Evidence::default() };
            let (servers, _) = nameservers(&cx.setup.resolv_conf);
            let endings: Vec<String> =
                ENDINGS.iter().map(|ending| (*ending).to_owned()).chain(suffixes(&cx.setup.resolv_conf)).collect();
            let asked = servers.iter().flat_map(|server| endings.iter().map(|ending| ask(cx, &trial, *server, ending)));
            for (stimulus, said) in futures_util::future::join_all(asked).await {
                evidence.answers.push(cx.answer(format!("{} of {}", stimulus.what, stimulus.to.ip()), said));
                evidence.stimuli.push(stimulus);
            }
            evidence.to_ms = cx.clock.now_ms();
            evidence
        })
    }
}

/// The suffixes of the last `search` or `domain` line (resolv.conf(5)), each with a dot in front; `.` stands for none.
fn suffixes(text: &str) -> Vec<String> {
    let lines = text.lines().rev().map(|line| line.split(['#', ';']).next().unwrap_or_default());
    let mut found = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("search" | "domain")).then(|| words.collect::<Vec<_>>())
    });
    let words = found.next().unwrap_or_default();
    words
        .into_iter()
        .map(|word| word.trim_matches('.'))
        .filter(|word| !word.is_empty())
        .take(MAX_SUFFIXES)
        .map(|word| format!(".{word}"))
        .collect()
}

async fn ask(cx: &Context, trial: &Arc<str>, server: IpAddr, ending: &str) -> (Stimulus, Said) {
    let entry = cx.ledger.enter(trial);
    let at_ms = cx.clock.now_ms();
    let to = SocketAddr::new(server, DNS);
    let result = exchange(&format!("{}{ending}.", entry.marker()), entry.id as u16, to).await;
    let fate = match &result {
        Ok(_) => Fate::Sent,
        Err(error) => fate_of(error),
    };
    let said = match result {
        Ok(Some(rcode)) => Said::Refused { rcode },
        Ok(None) => Said::Nothing { error: "no answer in time".to_owned() },
        Err(error) => Said::Nothing { error: error.to_string() },
    };
    let what = if ending.is_empty() { "a name of one label".to_owned() } else { format!("a name in {ending}") };
    (
        Stimulus {
            id: entry.id,
            at_ms,
            proto: Proto::Udp,
            to,
            via: Via::Default,
            what,
            fate,
            traced: server.is_loopback(),
        },
        said,
    )
}

/// The response code of the answer, if one came.
async fn exchange(name: &str, id: u16, to: SocketAddr) -> io::Result<Option<String>> {
    let name = Name::from_ascii(name).map_err(io::Error::other)?;
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let octets = message.add_query(Query::query(name, RecordType::A)).to_vec().map_err(io::Error::other)?;
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    // The sensor sees it by whatever link it goes, also to a resolver in the namespace itself, and nobody further away is asked.
    let sending = SockRef::from(&socket);
    if to.is_ipv4() { sending.set_ttl_v4(1) } else { sending.set_unicast_hops_v6(1) }?;
    socket.connect(to).await?;
    if !lacks(Handicap::Stimuli) {
        socket.send(&octets).await?;
    }
    let until = Instant::now() + PATIENCE;
    let mut buffer = [0; 1500];
    // A flood of what is no answer must not keep the clock from being looked at.
    while Instant::now() < until {
        match timeout_at(until, socket.recv(&mut buffer)).await {
            Ok(Ok(length)) => {
                let octets = buffer.get(..length).unwrap_or_default();
                if answers(octets, id) {
                    return Ok(Some(Message::from_vec(octets).map_or_else(
                        |_| "an answer of the wrong shape".to_owned(),
                        |answer| answer.metadata.response_code.to_string(),
                    )));
                }
            }
            // A refusal by ICMP comes after the question has been sent.
            Ok(Err(_)) | Err(_) => break,
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_search_line_counts() {
        assert_eq!(
            suffixes("search a.example\nnameserver 127.0.0.1\nsearch lan home.example. # mine\n"),
            [".lan", ".home.example"]
        );
        assert_eq!(suffixes("domain fritz.box"), [".fritz.box"]);
        assert!(suffixes("search .\nnameserver 1.1.1.1").is_empty());
    }
}
