//! Where a technique stands among strangers: a namespace that has nothing but loopback, and what a technique is told.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use leakcheck::agent::protocol::{PROTOCOL, Setup};
use leakcheck::clock::Clock;
use leakcheck::model::evidence::{Evidence, Said};
use leakcheck::net::route::Rtnetlink;
use leakcheck::sensor::ledger::Ledger;
use leakcheck::technique::{self, Context, Heard, Openings};
use serde_json::Value;
use tokio::task::LocalSet;

use crate::answers::is_poison;
use crate::went_on;

/// Where the resolver of `resolv.conf` stands.
pub const RESOLVER: &str = "127.0.0.53";
/// Characters of one text of evidence; what a stranger's answer adds to it is cut far shorter.
const LONGEST_TEXT: usize = 2_000;
/// Octets of the evidence of one technique for each stranger asked.
const MOST_EVIDENCE: usize = 4_096;

/// Makes the namespace's loopback usable.
pub fn loopback() -> Result<(), String> {
    Rtnetlink::open().and_then(|mut netlink| netlink.set_link("lo", true)).map_err(|error| error.to_string())
}

/// Nobody to ask yet.
pub fn setup() -> Setup {
    Setup {
        protocol: PROTOCOL,
        nonce: 0x6c65_616b,
        resolv_conf: format!("nameserver {RESOLVER}\n"),
        canary: "example.com".to_owned(),
        control_server: "http://127.0.0.1:8000".to_owned(),
        ..Setup::default()
    }
}

/// Does `work` as the agent would: on one thread, with its own runtime.
pub fn as_agent<T>(work: impl AsyncFnOnce() -> T) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let done = LocalSet::new().block_on(&runtime, work());
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(done)
}

/// What the agent would give a technique. To be called inside [`as_agent`].
pub fn context(setup: Setup, gateways: Vec<IpAddr>) -> Result<Context, String> {
    let (connection, routes, _) = rtnetlink::new_connection().map_err(|error| error.to_string())?;
    tokio::task::spawn_local(connection);
    Ok(Context {
        openings: Arc::new(Openings::default()),
        resolv_file: None,
        ledger: Ledger::new(setup.nonce),
        setup,
        clock: Clock::starting_at(0.0),
        links: Vec::new(),
        gateways,
        local: Vec::new(),
        programs: Ok(Vec::new()),
        resolv_files: Vec::new(),
        root: None,
        endpoint: None,
        routes,
        heard: Heard::default(),
    })
}

/// Runs a technique as in a phase of its own, and looks at what it brings back.
pub async fn run(cx: &mut Context, name: &str, strangers: usize) -> Result<Evidence, String> {
    run_with(cx, name, Value::Object(serde_json::Map::new()), strangers).await
}

/// The same with parameters.
pub async fn run_with(cx: &mut Context, name: &str, params: Value, strangers: usize) -> Result<Evidence, String> {
    cx.heard.forget();
    // Else the ledger would be what grows.
    cx.ledger = Ledger::new(cx.setup.nonce);
    let technique = technique::find(name).ok_or("there is no such technique")?;
    let trial: Arc<str> = "hostile".into();
    let evidence = technique.run(cx, trial, params).await;
    went_on();
    look_at(&evidence, strangers)?;
    Ok(evidence)
}

/// Whether evidence is small, and says nothing that only those said who were not asked.
fn look_at(evidence: &Evidence, strangers: usize) -> Result<(), String> {
    for part in std::iter::once(evidence).chain(evidence.parts.iter().map(|(_, part)| part)) {
        part.answers.iter().try_for_each(|answer| said(&answer.said))?;
    }
    let octets = serde_json::to_vec(evidence).map_err(|error| error.to_string())?.len();
    if octets > MOST_EVIDENCE * strangers.max(1) {
        return Err(format!("the evidence has {octets} octets for {strangers} strangers"));
    }
    Ok(())
}

/// The same for one answer.
pub fn said(said: &Said) -> Result<(), String> {
    let (ip, text) = match said {
        Said::Exit { ip, .. } | Said::Asker { ip, .. } => (Some(*ip), ""),
        Said::Resolved { ip } | Said::Mapper { external: ip, .. } => (*ip, ""),
        Said::Nothing { error } => (None, error.as_str()),
        Said::Refused { rcode } => (None, rcode.as_str()),
        Said::Client(says) => (says.addresses.iter().copied().find(|ip| is_poison(*ip)), says.name.as_str()),
        _ => (None, ""),
    };
    if ip.is_some_and(is_poison) {
        return Err(format!("what somebody said who was not asked is evidence: {said:?}"));
    }
    if text.chars().count() > LONGEST_TEXT {
        return Err(format!("a text of {} octets is evidence", text.len()));
    }
    Ok(())
}
