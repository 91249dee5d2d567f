//! Threat: a rule for one transport, port or destination sends a part of the traffic another way, which no single technique can see.
//! Procedure: everybody who can say where traffic comes out is asked, over HTTP, STUN, the DHT and trackers; each technique's evidence is
//! brought along as a part.
//! Limits: those of each technique.

use std::sync::Arc;

use serde_json::Value;

use super::{Context, NoParams, Technique, Work, exit_dht, exit_http, exit_stun, exit_tracker, read};
use crate::model::evidence::Evidence;

/// See the head of this file.
pub struct ExitAll;

impl Technique for ExitAll {
    fn name(&self) -> &'static str {
        "exit-all"
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<NoParams>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, trial: Arc<str>, _params: Value) -> Work<'a> {
        Box::pin(async move {
            let mut evidence = Evidence { from_ms: cx.clock.now_ms(), ..Evidence::default() };
            let (http, stun, dht, tracker) = tokio::join!(
                exit_http::hear(cx),
                exit_stun::hear(cx, &trial),
                exit_dht::hear(cx, &trial),
                exit_tracker::hear(cx, &trial),
            );
            let parts = [
                (exit_http::ExitHttp.name(), http),
                (exit_stun::ExitStun.name(), stun),
                (exit_dht::ExitDht.name(), dht),
                (exit_tracker::ExitTracker.name(), tracker),
            ];
            evidence.parts = parts.map(|(name, part)| (name.to_owned(), part)).into();
            evidence.to_ms = cx.clock.now_ms();
            evidence
        })
    }
}
