//! Threat: a neighbour takes the stack as its router: what it sends leaves by the stack's uplink under its address, or by the tunnel.
//! Procedure: stimuli for a documentation address (RFC 5737) are entered here; the runner, outside, hands them to the stack's hardware
//! address with TTL 2, so that they end at the next hop. A packet socket here tells what came in; the sensor tells what was carried on.
//! Limits: IPv4, by one uplink, from the machine on which the runner is.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde_json::Value;

use super::{Context, NoParams, Technique, Work, read, source_port};
use crate::model::evidence::{Evidence, Fate, Proto, Stimulus, Via};

/// Its name.
pub const FORWARDING: &str = "forwarding";
/// Nobody is there (RFC 5737, TEST-NET-1).
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
/// Ports that firewalls tell from others: DNS, the web, the torrent client's.
const PORTS: [(Proto, u16); 5] =
    [(Proto::Udp, 53), (Proto::Udp, 443), (Proto::Udp, 6881), (Proto::Tcp, 443), (Proto::Tcp, 6881)];

/// Enters what the runner sends. See the head of this file.
pub struct Forwarding;

impl Technique for Forwarding {
    fn name(&self) -> &'static str {
        FORWARDING
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<NoParams>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, trial: Arc<str>, _params: Value) -> Work<'a> {
        Box::pin(async move {
            let mut evidence = Evidence { from_ms: cx.clock.now_ms(), ..Evidence::default() };
            for (proto, port) in PORTS {
                let entry = cx.ledger.enter(&trial);
                let to = SocketAddr::from((NOBODY, port));
                cx.ledger.enter_flow(entry, proto, source_port(entry.id), to);
                evidence.stimuli.push(Stimulus {
                    id: entry.id,
                    at_ms: cx.clock.now_ms(),
                    proto,
                    to,
                    via: Via::Default,
                    what: "packet for the stack to carry on".to_owned(),
                    fate: Fate::NotSent { reason: "nobody outside has sent it".to_owned() },
                });
            }
            evidence.to_ms = cx.clock.now_ms();
            evidence
        })
    }
}
