//! Transmission, by its RPC (docs/rpc-spec.md): of 4.0 and before, which 4.1 knows too, and else in the form of 4.1. Opened by a user name
//! and a password, where it asks for them. The number of a session, which it hands out with a 409, keeps strange web pages out.
//!
//! It tells neither to what it is bound (bind-address-ipv4 and -ipv6), which its sockets show, nor how peers see it. It would have its port
//! tried by a service of its makers, which is not asked for.

use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderName};
use serde::Deserialize;
use serde_json::json;

use super::talk::{Reply, Talk};
use super::{Api, Asking, object, short};
use crate::agent::protocol::ControlKey;
use crate::model::evidence::{Announces, ClientSays};

const PATH: &str = "/transmission/rpc";
const SESSION: HeaderName = HeaderName::from_static("x-transmission-session-id");

/// See the head of this file.
pub(super) struct Transmission;

impl Api for Transmission {
    fn url(&self) -> &'static str {
        "http://127.0.0.1:9091"
    }

    fn ask<'a>(&'a self, talk: &'a mut Talk, key: Option<&'a ControlKey>) -> Asking<'a> {
        Box::pin(async move {
            let mut session = None;
            let old = json!({ "method": "session-get", "arguments": { "fields": [
                "version", "peer-port", "peer-port-random-on-start", "port-forwarding-enabled", "lpd-enabled",
            ] } });
            let told = call(talk, key, &mut session, &old).await?;
            if let Ok(says) = settings(&told) {
                return Ok(says);
            }
            let new = json!({ "jsonrpc": "2.0", "id": 1, "method": "session_get", "params": { "fields": [
                "version", "peer_port", "peer_port_random_on_start", "port_forwarding_enabled", "lpd_enabled",
            ] } });
            let told = call(talk, key, &mut session, &new).await?;
            settings(&told).map_err(|why| format!("{} does not answer as Transmission does: {why}", talk.at()))
        })
    }
}

/// One question; it is asked again with the session's number when that is handed out.
async fn call(
    talk: &mut Talk,
    key: Option<&ControlKey>,
    session: &mut Option<String>,
    question: &serde_json::Value,
) -> Result<Vec<u8>, String> {
    let reply = send(talk, key, session.as_deref(), question).await?;
    let reply = match (reply.status, reply.header(&SESSION)) {
        (409, Some(number)) => {
            let number = session.insert(number.to_owned());
            send(talk, key, Some(number), question).await?
        }
        _ => reply,
    };
    let at = talk.at();
    match reply.status {
        200 if reply.is_page() => Err(format!(
            "{at} answers with a page for people, and not as Transmission's RPC does: set torrent.url to its web interface itself"
        )),
        200 => Ok(reply.body),
        401 if key.is_some() => Err(format!(
            "{at}: Transmission refuses the user name or the password: set torrent.user and torrent.password_file to rpc-username and \
             rpc-password of its settings"
        )),
        401 => Err(format!("{at} asks for a user name and a password: set torrent.user and torrent.password_file")),
        403 => Err(format!(
            "{at}: Transmission does not let this address in (rpc-whitelist), or has had too many failed logins from it"
        )),
        421 => Err(format!(
            "{at}: Transmission does not go by that name (rpc-host-whitelist): write its address in torrent.url"
        )),
        status => Err(format!(
            "{at} answers with HTTP status {status} where Transmission has its RPC: see torrent.client and torrent.url"
        )),
    }
}

async fn send(
    talk: &mut Talk,
    key: Option<&ControlKey>,
    session: Option<&str>,
    question: &serde_json::Value,
) -> Result<Reply, String> {
    // Whoever wrote a path means the RPC itself, which rpc-url may have put elsewhere.
    let path = if talk.is_bare() { PATH } else { "" };
    let mut request = talk.request(Method::POST, path).header(CONTENT_TYPE, "application/json");
    if let Some(ControlKey::Login { user, password }) = key {
        request = request.basic_auth(user, Some(password));
    }
    if let Some(session) = session {
        request = request.header(SESSION, session);
    }
    talk.send(request.body(question.to_string()), "").await
}

/// An answer of either form.
#[derive(Deserialize)]
struct Answer {
    arguments: Option<Settings>,
    result: Option<Told>,
}

/// `success` or an error's text in the old form, settings in the new.
#[derive(Deserialize)]
#[serde(untagged)]
enum Told {
    Word(String),
    Settings(Settings),
}

#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    version: String,
    #[serde(alias = "peer-port")]
    peer_port: u16,
    #[serde(alias = "peer-port-random-on-start", default)]
    peer_port_random_on_start: bool,
    #[serde(alias = "port-forwarding-enabled")]
    port_forwarding_enabled: bool,
    #[serde(alias = "lpd-enabled")]
    lpd_enabled: bool,
}

/// What an answer says. Errors do not repeat it.
fn settings(octets: &[u8]) -> Result<ClientSays, &'static str> {
    let answer: Answer = object(octets).ok_or("its settings have the wrong shape")?;
    let told = match answer {
        Answer { arguments: Some(told), result: Some(Told::Word(word)) } if word == "success" => told,
        Answer { result: Some(Told::Settings(told)), .. } => told,
        _ => return Err("it has no settings to tell"),
    };
    let announces =
        |what: &str, on, setting: &str| Announces { what: what.to_owned(), on, setting: setting.to_owned() };
    Ok(ClientSays {
        name: format!("Transmission {}", short(&told.version)).trim().to_owned(),
        announces: vec![
            announces(
                "UPnP and NAT-PMP",
                told.port_forwarding_enabled,
                "Network: Use port forwarding (port-forwarding-enabled)",
            ),
            announces("local peer discovery", told.lpd_enabled, "Peers: Use LPD to find more peers (lpd-enabled)"),
        ],
        port: Some(told.peer_port).filter(|port| *port != 0),
        random_port: told.peer_port_random_on_start,
        ..ClientSays::default()
    })
}

/// What octets say as its answer, or why nothing.
#[cfg(feature = "lab")]
pub(super) fn understand(octets: &[u8]) -> Vec<String> {
    vec![settings(octets).map_or_else(str::to_owned, |says| says.name)]
}
