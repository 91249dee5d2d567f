//! Threat: what nobody thought of.
//! Procedure: sends nothing and gives the sensor time to hear what the stack says by itself.
//! Limits: hears what is said in that time.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{Context, Technique, Work, read};
use crate::model::evidence::Evidence;

/// Its name, by which the runner asks for the agent's time too.
pub const LISTEN: &str = "listen";

/// See the head of this file.
pub struct Listen;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    /// How long to listen; the phase may last longer.
    #[serde(default = "default_ms")]
    at_least_ms: u64,
}

fn default_ms() -> u64 {
    1000
}

impl Technique for Listen {
    fn name(&self) -> &'static str {
        LISTEN
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<Params>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, _trial: Arc<str>, params: Value) -> Work<'a> {
        Box::pin(async move {
            let mut evidence = Evidence { from_ms: cx.clock.now_ms(), ..Evidence::default() };
            match read::<Params>(&params) {
                Ok(params) => tokio::time::sleep(Duration::from_millis(params.at_least_ms)).await,
                Err(problem) => evidence.problems.push(problem),
            }
            evidence.to_ms = cx.clock.now_ms();
            evidence
        })
    }
}
