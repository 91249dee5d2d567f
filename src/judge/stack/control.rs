//! `control-closed`: whether Gluetun's control server tells, and so may do, what anybody on the stack's networks asks of it. Only what it really
//! answered is a finding; settings are there to explain. A refusal counts once the server was heard on that port, if only from inside.

use super::{Checked, NO_GLUETUN, settle};
use crate::judge::{Case, Ruling};
use crate::model::evidence::{Answer, Evidence, INSIDE, Said, StackAccount};

/// HTTP: there is a server, and it wants to be shown something first, or does so in vain (RFC 9110, 15.5.2 and 15.5.4).
const CLOSED: [u16; 2] = [401, 403];
const ADDRESS: &str = "HTTP_CONTROL_SERVER_ADDRESS";

pub fn judge(case: &Case<'_>) -> Ruling {
    let why = "who may ask the control server without a key may tell it to stop the VPN, or to use another resolver";
    settle(case, why, look)
}

fn look(account: &StackAccount, evidence: &Evidence) -> Checked {
    let Some(gluetun) = &account.gluetun else { return Checked::skip(NO_GLUETUN) };
    let mut checked = Checked::default();
    let vpn = &account.vpn;
    let mut closed = Vec::new();
    for answer in &evidence.answers {
        let asked = &answer.witness;
        match &answer.said {
            Said::Control { http: 200, vpn: Some(state) } => {
                let what = format!("told a stranger at {asked}, who showed no key, that the VPN is {state}");
                let mend = format!(
                    "`{ADDRESS}: \"127.0.0.1:8000\"` where nothing beside the stack asks it, else a role with a key in /gluetun/auth/config.toml \
                     (v3.39.1 and later)"
                );
                checked.find(vpn, what, mend);
            }
            Said::Control { http, .. } if CLOSED.contains(http) => {
                closed.push(format!("{asked} wants a key (HTTP {http})"))
            }
            Said::Control { http, .. } => {
                checked.doubts.push(format!("{asked} answered HTTP {http}, which is no answer of a control server's"));
            }
            Said::Refused { rcode } => closed.push(format!("{asked} is closed: {rcode}")),
            Said::Nothing { error } => checked.doubts.push(format!("{asked} could not be asked: {error}")),
            _ => {}
        }
    }
    if let Some(address) = gluetun.setting(ADDRESS) {
        checked.see(vpn, format!("has its control server at {address}, by {ADDRESS}"));
    }
    let inside = evidence.parts.iter().filter(|(name, _)| name == INSIDE).flat_map(|(_, part)| &part.answers);
    let heard = |answer: &&Answer| match &answer.said {
        Said::Control { http: 200, vpn } => vpn.is_some(),
        Said::Control { http, .. } => CLOSED.contains(http),
        _ => false,
    };
    match evidence.answers.iter().chain(inside).find(heard) {
        Some(answer) => checked.see(vpn, format!("has a server on that port, which answers at {}", answer.witness)),
        None => checked.doubts.push(format!(
            "no control server answers inside of the stack either, so that it may wait on a port that {ADDRESS} does not tell"
        )),
    }
    if closed.is_empty() {
        checked.doubts.push("nobody asked the control server from outside of the stack".to_owned());
    }
    for text in &closed {
        checked.see(vpn, format!("was asked: {text}"));
    }
    checked.pass = "the control server is closed to who stands on the stack's networks and shows no key".to_owned();
    checked
}
