//! Threat: a program asks a resolver of its own choice, past resolv.conf, and the question leaves by the uplink.
//! Procedure: a real, marked DNS question with TTL 1 to each foreign resolver over UDP, and the beginning of a connection to its ports for
//! DNS, DNS over TLS and DNS over HTTPS, by the default route, bound to each uplink and from each of its addresses. The sensor tells the
//! fate of each: refused, in the tunnel, on the uplink.
//! Limits: of encrypted DNS only the SYN is sent, which is what would show the home address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use serde_json::Value;

use super::{Context, NoParams, Technique, Work, read};
use crate::model::evidence::Evidence;
use crate::sensor::ledger::Entry;

const ROUNDS: usize = 3;
const PAUSE: Duration = Duration::from_millis(60);
const DNS: u16 = 53;
/// Ports to which a connection is begun, and what it would be for (RFC 7766, RFC 7858, RFC 8484).
const CONNECTIONS: [(u16, &str); 3] = [(DNS, "DNS connection"), (853, "DNS over TLS"), (443, "DNS over HTTPS")];

/// See the head of this file.
pub struct ForcedDns;

impl Technique for ForcedDns {
    fn name(&self) -> &'static str {
        "forced-dns"
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<NoParams>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, trial: Arc<str>, _params: Value) -> Work<'a> {
        Box::pin(async move {
            let mut evidence = Evidence { from_ms: cx.clock.now_ms(), ..Evidence::default() };
            let sender = cx.sender(&trial);
            let mut open = Vec::new();
            for _ in 0..ROUNDS {
                for server in &cx.setup.forced {
                    let to = SocketAddr::new(*server, DNS);
                    for via in cx.ways(server.is_ipv6()) {
                        let outcome =
                            sender.udp(to, &via, "DNS question", |entry| question(entry, &cx.setup.canary, *server));
                        evidence.stimuli.push(outcome.stimulus);
                        for (port, what) in CONNECTIONS {
                            let to = SocketAddr::new(*server, port);
                            evidence.stimuli.push(sender.syn(to, &via).stimulus);
                            let outcome = sender.connect(to, &via, what);
                            evidence.stimuli.push(outcome.stimulus);
                            open.extend(outcome.socket);
                        }
                    }
                }
                tokio::time::sleep(PAUSE).await;
                open.clear();
            }
            evidence.to_ms = cx.clock.now_ms();
            evidence
        })
    }
}

/// A question for a fresh name under `canary` (RFC 1035), the marker being its first label.
pub fn question(entry: &Entry, canary: &str, server: IpAddr) -> Vec<u8> {
    let kind = if server.is_ipv4() { RecordType::A } else { RecordType::AAAA };
    let name = Name::from_ascii(format!("{}.{}.", entry.marker(), canary.trim_end_matches('.')));
    let mut message = Message::new(entry.id as u16, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    // The canary has been checked to be a name; were it too long for one more label, the marker alone would do as a payload.
    match name {
        Ok(name) => {
            message.add_query(Query::query(name, kind)).to_vec().unwrap_or_else(|_| entry.marker().into_bytes())
        }
        Err(_) => entry.marker().into_bytes(),
    }
}
