//! Threat: a neighbour takes the stack as its router: what it sends leaves by the stack's uplink under its address, or by the tunnel.
//! Procedure: stimuli for documentation addresses (RFC 5737, RFC 3849) are entered here; the runner, outside, hands them to the stack's hardware
//! address with TTL 2, so that they end at the next hop. A packet socket here tells what came in; the sensor tells what was carried on.
//! Limits: by one uplink, from the machine on which the runner is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use serde_json::Value;

use super::{Context, NoParams, Technique, Work, read};
use crate::model::evidence::names::source_port;
use crate::model::evidence::{Evidence, Fate, Proto, Stimulus, Via};

/// Its name.
pub const FORWARDING: &str = "forwarding";
/// Nobody is there (RFC 5737, TEST-NET-1).
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
/// The same over IPv6 (RFC 3849).
const NOBODY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 9);
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
            let addresses = cx.uplinks().flat_map(|link| link.addresses.iter().map(|net| net.addr()));
            let v6 = addresses.into_iter().any(|ip| ip.is_ipv6() && !super::is_link_local(ip));
            let nobody = [IpAddr::from(NOBODY)].into_iter().chain(v6.then_some(NOBODY_V6.into()));
            for (ip, (proto, port)) in nobody.flat_map(|ip| PORTS.map(|port| (ip, port))) {
                let entry = cx.ledger.enter(&trial);
                let to = SocketAddr::new(ip, port);
                cx.ledger.enter_flow(entry, proto, source_port(entry.id), to);
                evidence.stimuli.push(Stimulus {
                    id: entry.id,
                    at_ms: cx.clock.now_ms(),
                    proto,
                    to,
                    via: Via::Default,
                    what: "packet for the stack to carry on".to_owned(),
                    fate: Fate::NotSent { reason: "nobody outside has sent it".to_owned() },
                    traced: false,
                });
            }
            evidence.to_ms = cx.clock.now_ms();
            evidence
        })
    }
}
