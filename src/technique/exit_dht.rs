//! Threat: the torrent client's DHT leaves by another way than web requests: a rule for its port, or for datagrams, shows the home address
//! to every node that it talks to.
//! Procedure: each bootstrap node is asked (ping, then find_node) as a torrent client asks, from a port of the kernel's choice and from the
//! client's own where it can be bound; the `ip` of the answer is the address that the node saw (BEP 42).
//! Limits: nodes that help others to begin are few, busy, and silent for some networks. Where none answers, what STUN says is brought
//! along, so that "the DHT is silent" and "datagrams do not get through" can be told apart.

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::Value;

use super::format::krpc::{find_node, ping, response};
use super::heard::{confirm, note_taken};
use super::udp::{Line, Witness, ask_witness};
use super::{Context, NoParams, Technique, Work, exit_stun, read};
use crate::model::evidence::Evidence;

/// See the head of this file.
pub struct ExitDht;

impl Technique for ExitDht {
    fn name(&self) -> &'static str {
        "exit-dht"
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<NoParams>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, trial: Arc<str>, _params: Value) -> Work<'a> {
        Box::pin(async move {
            let mut evidence = hear(cx, &trial).await;
            if evidence.unasked.is_none() && evidence.exits().next().is_none() {
                evidence.parts.push((exit_stun::ExitStun.name().to_owned(), exit_stun::hear(cx, &trial).await));
                evidence.to_ms = cx.clock.now_ms();
            }
            evidence
        })
    }
}

/// What the DHT's nodes say in this phase.
pub(super) async fn hear(cx: &Context, trial: &Arc<str>) -> Evidence {
    cx.heard.now().dht.get_or_init(|| ask(cx, trial)).await.clone()
}

async fn ask(cx: &Context, trial: &Arc<str>) -> Evidence {
    let from_ms = cx.clock.now_ms();
    if cx.setup.echo_dht.is_empty() {
        return Evidence::unasked(from_ms, "no DHT node is configured (echo.dht)");
    }
    let phase = cx.heard.now();
    let ports = phase.source_ports(cx).await;
    let asked = cx.setup.echo_dht.iter().map(|(host, port)| async move {
        let witness = Witness { kind: "DHT node", host, port: *port };
        ask_witness(cx, trial, &witness, &ports.usable, question).await
    });
    let mut evidence = Evidence::gather(from_ms, join_all(asked).await);
    note_taken(cx, ports, &mut evidence.answers);
    confirm(cx, &mut evidence.answers).await;
    evidence.to_ms = cx.clock.now_ms();
    evidence
}

/// A ping; a node that is silent then is asked for nodes, which is all that some answer.
async fn question(line: &mut Line) -> Result<IpAddr, String> {
    let (id, target, transaction) = (rand::random(), rand::random(), rand::random());
    let questions = [ping(&id, &transaction), find_node(&id, &target, &transaction)];
    line.ask(&[&questions[0], &questions[1]], |octets| response(octets, &transaction)).await
}
