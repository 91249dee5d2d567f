//! Threat: the firewall lets a program past the tunnel that binds itself to the uplink, or for which routes and rules choose it.
//! Procedure: marked UDP, TCP and ICMP with TTL 1 to public addresses, by the default route, bound to each uplink and from each of its
//! addresses. TCP both as a connection and as a SYN made by hand, for which the kernel reports a drop. The same to the VPN server's own
//! address, on its port and another, and datagrams inside IP-in-IP, 6in4 and GRE.
//! Limits: sends as the agent's user, to a choice of ports.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::send::ENCAPSULATIONS;
use super::{Context, Outcome, Sender, Technique, Work, read};
use crate::model::evidence::{Evidence, Via};

/// Times that everything is sent, so that a rule for some of the packets is seen too.
const ROUNDS: usize = 3;
/// Time between rounds and for the last packets to reach the wire.
const PAUSE: Duration = Duration::from_millis(60);
/// Public addresses from different corners of the address space.
const TO4: [[u8; 4]; 3] = [[1, 1, 1, 1], [93, 184, 215, 14], [193, 0, 14, 129]];
const TO6: [&str; 3] = ["2606:4700:4700::1111", "2001:4860:4860::8888", "2a03:1b20:1:f410::ad3"];
/// Ports: name resolution, web, trackers and peers, high ones.
const UDP_PORTS: [u16; 5] = [53, 443, 6881, 51_413, 40_000];
const TCP_PORTS: [u16; 4] = [80, 443, 6881, 40_001];

/// A port of the VPN server that is none of the tunnel's.
const OTHER_PORT: u16 = 40_002;

/// See the head of this file.
pub struct Uplink;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    family: Family,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Family {
    Ipv4,
    Ipv6,
}

impl Technique for Uplink {
    fn name(&self) -> &'static str {
        "uplink"
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<Params>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, trial: Arc<str>, params: Value) -> Work<'a> {
        Box::pin(async move {
            let mut evidence = Evidence { from_ms: cx.clock.now_ms(), ..Evidence::default() };
            match read::<Params>(&params) {
                Ok(params) => send_all(cx, &trial, params.family == Family::Ipv6, &mut evidence).await,
                Err(problem) => evidence.problems.push(problem),
            }
            evidence.to_ms = cx.clock.now_ms();
            evidence
        })
    }
}

/// Payload in clear to the VPN server: the firewall has to let something go there, and should let nothing else.
fn to_server(cx: &Context, sender: &Sender<'_>, v6: bool, via: &Via) -> Vec<Outcome> {
    let Some(endpoint) = cx.endpoint.borrow().clone().filter(|endpoint| endpoint.address.is_ipv6() == v6) else {
        return Vec::new();
    };
    let server = endpoint.address;
    let mut sent = Vec::new();
    for port in [server.port(), OTHER_PORT] {
        let to = SocketAddr::new(server.ip(), port);
        sent.push(sender.udp(to, via, "datagram in clear to the VPN server", |entry| entry.marker().into_bytes()));
        sent.push(sender.syn(to, via));
    }
    sent.push(sender.echo(server.ip(), via));
    sent
}

async fn send_all(cx: &Context, trial: &Arc<str>, v6: bool, evidence: &mut Evidence) {
    let sender = cx.sender(trial);
    let targets: Vec<IpAddr> =
        if v6 { TO6.iter().filter_map(|to| to.parse().ok()).collect() } else { TO4.map(IpAddr::from).to_vec() };
    let mut open = Vec::new();
    for _ in 0..ROUNDS {
        for via in cx.ways(v6) {
            for to in &targets {
                for port in UDP_PORTS {
                    let outcome =
                        sender.udp(SocketAddr::new(*to, port), &via, "datagram", |entry| entry.marker().into_bytes());
                    evidence.stimuli.push(outcome.stimulus);
                }
                for port in TCP_PORTS {
                    evidence.stimuli.push(sender.syn(SocketAddr::new(*to, port), &via).stimulus);
                    let outcome = sender.connect(SocketAddr::new(*to, port), &via, "connection");
                    evidence.stimuli.push(outcome.stimulus);
                    open.extend(outcome.socket);
                }
                evidence.stimuli.push(sender.echo(*to, &via).stimulus);
            }
            for number in ENCAPSULATIONS {
                evidence.stimuli.push(sender.encapsulated(number, targets[0], &via).stimulus);
            }
            for stimulus in to_server(cx, &sender, v6, &via) {
                evidence.stimuli.push(stimulus.stimulus);
                open.extend(stimulus.socket);
            }
        }
        tokio::time::sleep(PAUSE).await;
        open.clear();
    }
}
