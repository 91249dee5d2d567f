//! Threat: datagrams go another way than web requests, and peers, trackers and the DHT see the home address.
//! Procedure: each STUN server is resolved by the stack's own resolvers and asked over UDP by the default route, over IPv4 and IPv6 where
//! it has both, for the address that it sees: from a port of the kernel's choice, from the torrent client's listening port, and from the
//! ports on which programs of the namespace wait, where they can be bound.
//! Limits: a port that its owner does not share cannot be asked from; a rule for one user or one mark needs that user or mark.

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::Value;

use super::format::stun::{request, response};
use super::heard::{confirm, note_taken};
use super::udp::{Line, Witness, ask_witness};
use super::{Context, NoParams, Technique, Work, read};
use crate::model::evidence::Evidence;

/// See the head of this file.
pub struct ExitStun;

impl Technique for ExitStun {
    fn name(&self) -> &'static str {
        "exit-stun"
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<NoParams>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, trial: Arc<str>, _params: Value) -> Work<'a> {
        Box::pin(async move { hear(cx, &trial).await })
    }
}

/// What the STUN servers say in this phase.
pub(super) async fn hear(cx: &Context, trial: &Arc<str>) -> Evidence {
    cx.heard.now().stun.get_or_init(|| ask(cx, trial)).await.clone()
}

async fn ask(cx: &Context, trial: &Arc<str>) -> Evidence {
    let from_ms = cx.clock.now_ms();
    if cx.setup.echo_stun.is_empty() {
        return Evidence::unasked(from_ms, "no STUN server is configured (echo.stun)");
    }
    let phase = cx.heard.now();
    let ports = phase.source_ports(cx).await;
    let asked = cx.setup.echo_stun.iter().map(|(host, port)| async move {
        let witness = Witness { kind: "STUN", host, port: *port };
        ask_witness(cx, trial, &witness, &ports.usable, async |line: &mut Line| {
            let id = rand::random();
            line.ask(&[&request(&id)], |octets| response(octets, &id)).await
        })
        .await
    });
    let mut evidence = Evidence::gather(from_ms, join_all(asked).await);
    note_taken(cx, ports, &mut evidence.answers);
    confirm(cx, &mut evidence.answers).await;
    evidence.to_ms = cx.clock.now_ms();
    evidence
}
