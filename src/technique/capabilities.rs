//! Threat: a program with CAP_NET_RAW sends frames by a packet socket, past every rule of OUTPUT; one with CAP_NET_ADMIN changes the rules.
//! Procedure: reads from /proc what the programs that share the namespace hold; sends nothing itself. That such frames pass is what the
//! sensor's controls of the same phase show, which go out by a packet socket.
//! Limits: sees what the agent's /proc shows: nothing from a container of its own.

use std::sync::Arc;

use serde_json::Value;

use super::{Context, NoParams, Technique, Work, read};
use crate::agent::programs;
use crate::model::evidence::{Evidence, Said};

/// Those that open a way past the firewall, by their bits (linux/capability.h).
const POWERS: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW")];

/// See the head of this file.
pub struct Capabilities;

impl Technique for Capabilities {
    fn name(&self) -> &'static str {
        "capabilities"
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<NoParams>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, _trial: Arc<str>, _params: Value) -> Work<'a> {
        Box::pin(async move {
            let from_ms = cx.clock.now_ms();
            let programs = match programs::find() {
                Ok(programs) => programs,
                Err(problem) => {
                    let to_ms = cx.clock.now_ms();
                    return Evidence { from_ms, to_ms, problems: vec![problem], ..Evidence::default() };
                }
            };
            if programs.is_empty() {
                return Evidence::unasked(from_ms, "no program of the stack is to be seen from where leakcheck stands");
            }
            let answers = programs.into_iter().map(|program| {
                let held = POWERS.iter().filter(|(bit, _)| program.capabilities >> bit & 1 == 1);
                let capabilities = held.map(|(_, name)| (*name).to_owned()).collect();
                let witness = format!("{} (process {}, {})", program.name, program.pid, program.user);
                cx.answer(witness, Said::Holds { capabilities, vpn: program.vpn })
            });
            let answers = answers.collect();
            Evidence { from_ms, to_ms: cx.clock.now_ms(), answers, ..Evidence::default() }
        })
    }
}
