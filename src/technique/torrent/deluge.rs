//! Deluge, by the JSON-RPC of its web interface (deluge-web, `/json`), which hands calls of `core.` on to the daemon that it is connected to.
//! Opened by the web interface's password, which it always asks for.
//!
//! It does not tell whether peers reach it: it would have its port tried by a service of its makers, which is not asked for.

use std::net::IpAddr;

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::{Value, json};

use super::talk::Talk;
use super::{Api, Asking, binding, object, short};
use crate::agent::protocol::ControlKey;
use crate::model::evidence::{Announces, ClientSays};

const PATH: &str = "/json";
/// The cookie of its sessions.
const SESSION: &str = "_session_id";
const KEYS: [&str; 7] =
    ["listen_interface", "outgoing_interface", "listen_ports", "random_port", "upnp", "natpmp", "lsd"];
/// The code of the error that says so (`json_api.py`).
const NOT_AUTHENTICATED: i64 = 1;

/// See the head of this file.
pub(super) struct Deluge;

impl Api for Deluge {
    fn url(&self) -> &'static str {
        "http://127.0.0.1:8112"
    }

    fn ask<'a>(&'a self, talk: &'a mut Talk, key: Option<&'a ControlKey>) -> Asking<'a> {
        Box::pin(async move {
            let Some(ControlKey::Login { password, .. }) = key else {
                return Err(format!("{} is opened by a password: set torrent.password_file", talk.at()));
            };
            match call(talk, "auth.login", json!([password])).await?.as_bool() {
                Some(true) => {}
                Some(false) => {
                    return Err(format!(
                        "{}: Deluge refuses the password: set torrent.password_file to that of its web interface",
                        talk.at()
                    ));
                }
                None => return Err(odd(talk)),
            }
            let told = ask(talk).await;
            // A session that is not ended ends by itself after a while.
            let _ = call(talk, "auth.delete_session", json!([])).await;
            told
        })
    }
}

async fn ask(talk: &mut Talk) -> Result<ClientSays, String> {
    if call(talk, "web.connected", json!([])).await?.as_bool() != Some(true) {
        return Err(format!(
            "{}: Deluge's web interface is connected to no daemon: connect it by its connection manager",
            talk.at()
        ));
    }
    let told = call(talk, "core.get_config_values", json!([KEYS])).await?;
    let mut says = settings(told).map_err(|why| format!("{} does not answer as Deluge does: {why}", talk.at()))?;
    // Earlier versions do not know all of these, and nothing else rests on them.
    if let Ok(version) = call(talk, "daemon.get_version", json!([])).await {
        says.name = format!("Deluge {}", short(version.as_str().unwrap_or_default())).trim().to_owned();
    }
    if let Ok(port) = call(talk, "core.get_listen_port", json!([])).await {
        says.port = port.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0).or(says.port);
    }
    if let Ok(address) = call(talk, "core.get_external_ip", json!([])).await {
        says.addresses = address.as_str().and_then(|text| text.trim().parse::<IpAddr>().ok()).into_iter().collect();
    }
    Ok(says)
}

/// An answer of its JSON-RPC.
#[derive(Deserialize)]
struct Answer {
    result: Value,
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    code: i64,
}

async fn call(talk: &mut Talk, method: &str, params: Value) -> Result<Value, String> {
    let question = json!({ "method": method, "params": params, "id": 1 }).to_string();
    let request = talk.request(Method::POST, PATH).header(CONTENT_TYPE, "application/json").body(question);
    let reply = talk.send(request, SESSION).await?;
    match reply.status {
        200 if reply.is_page() => Err(odd(talk)),
        200 => answer(&reply.body).map_err(|why| format!("{}: {method}: {why}", talk.at())),
        status => Err(format!(
            "{} answers with HTTP status {status} where Deluge has its JSON-RPC: see torrent.client and torrent.url",
            talk.at()
        )),
    }
}

fn odd(talk: &Talk) -> String {
    format!("{} does not answer as Deluge's web interface does: set torrent.url to it, port 8112 by default", talk.at())
}

/// The result, or why there is none. Errors do not repeat what they are about.
fn answer(octets: &[u8]) -> Result<Value, &'static str> {
    let answer: Answer = object(octets).ok_or("the answer has the wrong shape")?;
    match answer.error {
        None => Ok(answer.result),
        Some(Failure { code: NOT_AUTHENTICATED }) => Err("Deluge does not know the session that it has just begun"),
        Some(_) => Err("Deluge answers with an error"),
    }
}

#[derive(Deserialize)]
struct Settings {
    /// An interface's name or an address; empty or nothing: any.
    listen_interface: Option<String>,
    outgoing_interface: Option<String>,
    /// The first and the last.
    listen_ports: [u16; 2],
    random_port: bool,
    upnp: bool,
    natpmp: bool,
    lsd: bool,
}

fn settings(told: Value) -> Result<ClientSays, &'static str> {
    let told = Some(told).filter(Value::is_object).and_then(|told| serde_json::from_value::<Settings>(told).ok());
    let told = told.ok_or("its settings have the wrong shape")?;
    let announces =
        |what: &str, on, setting: &str| Announces { what: what.to_owned(), on, setting: setting.to_owned() };
    let bound = |setting: &str, value: Option<String>| binding(setting, &value.unwrap_or_default());
    Ok(ClientSays {
        name: "Deluge".to_owned(),
        bindings: vec![
            bound("incoming address", told.listen_interface),
            bound("outgoing interface", told.outgoing_interface),
        ],
        announces: vec![
            announces("UPnP", told.upnp, "Network: UPnP"),
            announces("NAT-PMP", told.natpmp, "Network: NAT-PMP"),
            announces("local peer discovery", told.lsd, "Network: LSD"),
        ],
        port: Some(told.listen_ports[0]).filter(|port| *port != 0 && !told.random_port),
        random_port: told.random_port,
        ..ClientSays::default()
    })
}

/// What octets say as its answer, or why nothing.
#[cfg(feature = "lab")]
pub(super) fn understand(octets: &[u8]) -> Vec<String> {
    let says = answer(octets).and_then(settings);
    match says {
        Ok(says) => says.bindings.into_iter().filter_map(|binding| binding.to).chain([says.name]).collect(),
        Err(why) => vec![why.to_owned()],
    }
}
