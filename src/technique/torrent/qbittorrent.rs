//! qBittorrent, by its Web API version 2 (qBittorrent 4.1 and later), as its source has it. Opened by an API key (5.2 and later), by a user
//! name and a password, or not at all where it lets its own machine in. Failed logins get the asker's address banned, so that one is tried
//! and no more.
//!
//! It does not tell which interface it really uses, nor whether a listening socket failed.

use std::net::IpAddr;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Url};
use serde::Deserialize;

use super::talk::{Reply, Talk};
use super::{Api, Asking, binding, object, short};
use crate::agent::protocol::ControlKey;
use crate::model::evidence::{Announces, ClientSays, ClientStatus};

const VERSION: &str = "/api/v2/app/version";
const PREFERENCES: &str = "/api/v2/app/preferences";
const TRANSFER: &str = "/api/v2/transfer/info";
/// Of the log what is neither normal nor a warning: the address is told as information.
const LOG: &str = "/api/v2/log/main?normal=false&info=true&warning=false&critical=false";
const LOGIN: &str = "/api/v2/auth/login";
const LOGOUT: &str = "/api/v2/auth/logout";
/// Its sessions' cookie is `SID`, and with 5.2 `QBT_SID_` and the port.
const SESSIONS: [&str; 2] = ["SID", "QBT_SID_"];
/// What it writes into its log when it learns its address.
const DETECTED: &str = "Detected external IP";

/// See the head of this file.
pub(super) struct Qbittorrent;

impl Api for Qbittorrent {
    fn url(&self) -> &'static str {
        "http://127.0.0.1:8080"
    }

    fn ask<'a>(&'a self, talk: &'a mut Talk, key: Option<&'a ControlKey>) -> Asking<'a> {
        Box::pin(async move {
            if let Some(ControlKey::Login { user, password }) = key {
                login(talk, user, password).await?;
            }
            let told = ask(talk, key).await;
            if talk.has_session() {
                // A session that is not ended ends by itself after a while.
                let _ = send(talk, Method::POST, LOGOUT, key, None).await;
            }
            told
        })
    }
}

async fn ask(talk: &mut Talk, key: Option<&ControlKey>) -> Result<ClientSays, String> {
    let version = get(talk, VERSION, key).await?;
    let mut says = ClientSays { name: name(&version), ..ClientSays::default() };
    preferences(&get(talk, PREFERENCES, key).await?, &mut says).map_err(|why| wrong(talk, PREFERENCES, why))?;
    let told = transfer(&get(talk, TRANSFER, key).await?, &mut says).map_err(|why| wrong(talk, TRANSFER, why))?;
    if !told {
        // Before 5.1 only the log says it. One that is too long, or that nobody may read, says nothing.
        if let Ok(log) = get(talk, LOG, key).await {
            says.addresses = detected(&log);
        }
    }
    Ok(says)
}

fn wrong(talk: &Talk, path: &str, why: &str) -> String {
    format!("{} does not answer {path} as qBittorrent does: {why}", talk.at())
}

async fn send(
    talk: &mut Talk,
    method: Method,
    path: &str,
    key: Option<&ControlKey>,
    form: Option<String>,
) -> Result<Reply, String> {
    let mut request = talk.request(method, path);
    if let Some(ControlKey::ApiKey(key)) = key {
        request = request.bearer_auth(key);
    }
    if let Some(form) = form {
        request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
    }
    let session = if talk.has_session() { "" } else { SESSIONS[0] };
    let reply = talk.send(request, session).await?;
    if !talk.has_session() {
        talk.keep(&reply.headers, SESSIONS[1]);
    }
    Ok(reply)
}

/// The one attempt to log in.
async fn login(talk: &mut Talk, user: &str, password: &str) -> Result<(), String> {
    let mut form = Url::parse("http://form/").map_err(|error| error.to_string())?;
    form.query_pairs_mut().append_pair("username", user).append_pair("password", password);
    let form = form.query().unwrap_or_default().to_owned();
    let reply = send(talk, Method::POST, LOGIN, None, Some(form)).await?;
    let at = talk.at();
    let refused = "qBittorrent refuses the user name or the password: set torrent.user and torrent.password_file to those of its web interface";
    match (reply.status, reply.body.trim_ascii()) {
        // Up to 5.1 both are answered with 200.
        (200, b"Ok.") | (204, _) => Ok(()),
        (200, b"Fails.") => Err(format!("{at}: {refused}")),
        (401, _) => Err(format!(
            "{at}: {refused}; or it takes the question for one from elsewhere (Host header validation, in its options for the web interface)"
        )),
        (403, _) => Err(format!(
            "{at}: qBittorrent has banned this address after too many failed logins: wait until that is over, or start it again"
        )),
        (404, _) => Err(not_here(&at, 404)),
        _ if reply.is_page() => Err(page(&at)),
        (status, _) => Err(format!("{at} answers a login with HTTP status {status}, which qBittorrent does not")),
    }
}

async fn get(talk: &mut Talk, path: &str, key: Option<&ControlKey>) -> Result<Vec<u8>, String> {
    let reply = send(talk, Method::GET, path, key, None).await?;
    let at = talk.at();
    match reply.status {
        200 if reply.is_page() => Err(page(&at)),
        200 => Ok(reply.body),
        401 | 403 => Err(match key {
            Some(ControlKey::ApiKey(_)) => format!(
                "{at} refuses the API key: set torrent.api_key_file to the key of qBittorrent's options (5.2 and later), or log in by \
                 torrent.user and torrent.password_file"
            ),
            Some(ControlKey::Login { .. }) => format!("{at} does not know the session that it has just begun"),
            None => format!(
                "{at} asks for a login, as qBittorrent does: set torrent.user and torrent.password_file, or torrent.api_key_file, or let \
                 its own machine in (Bypass authentication for clients on localhost)"
            ),
        }),
        status => Err(not_here(&at, status)),
    }
}

fn page(at: &str) -> String {
    format!(
        "{at} answers with a page for people, and not as qBittorrent's API does: set torrent.url to its web interface itself"
    )
}

fn not_here(at: &str, status: u16) -> String {
    format!("{at} answers with HTTP status {status} where qBittorrent has its API: see torrent.client and torrent.url")
}

fn name(version: &[u8]) -> String {
    let version = short(&String::from_utf8_lossy(version.get(..version.len().min(64)).unwrap_or_default()));
    format!("qBittorrent {version}").trim().to_owned()
}

/// Of `app/preferences` what is of interest, and nothing that is a secret.
#[derive(Deserialize)]
struct Preferences {
    listen_port: u16,
    upnp: bool,
    lsd: bool,
    current_network_interface: String,
    #[serde(default)]
    current_interface_address: String,
    #[serde(default)]
    random_port: bool,
    #[serde(default)]
    web_ui_upnp: bool,
}

/// Adds what the preferences say. Errors do not repeat them.
fn preferences(octets: &[u8], says: &mut ClientSays) -> Result<(), &'static str> {
    let told: Preferences = object(octets).ok_or("its preferences have the wrong shape")?;
    let interface = binding("network interface", &told.current_network_interface);
    let address = binding("IP address to bind to", &told.current_interface_address);
    // An address alone binds too, and an interface with all of its addresses.
    says.bindings = match (interface.to.is_some(), address.to.is_some()) {
        (_, false) => vec![interface],
        (true, true) => vec![interface, address],
        (false, true) => vec![address],
    };
    let announces =
        |what: &str, on, setting: &str| Announces { what: what.to_owned(), on, setting: setting.to_owned() };
    says.announces = vec![
        announces("UPnP and NAT-PMP", told.upnp, "Connection: Use UPnP / NAT-PMP port forwarding from my router"),
        announces("local peer discovery", told.lsd, "BitTorrent: Enable Local Peer Discovery to find more peers"),
        announces(
            "UPnP for its web interface",
            told.web_ui_upnp,
            "Web UI: Use UPnP / NAT-PMP to forward the port from my router",
        ),
    ];
    says.random_port = told.random_port || told.listen_port == 0;
    says.port = Some(told.listen_port).filter(|port| *port != 0);
    Ok(())
}

/// `transfer/info`.
#[derive(Deserialize)]
struct Transfer {
    connection_status: String,
    last_external_address_v4: Option<String>,
    last_external_address_v6: Option<String>,
}

/// Adds what it says; whether this version tells addresses at all.
fn transfer(octets: &[u8], says: &mut ClientSays) -> Result<bool, &'static str> {
    let told: Transfer = object(octets).ok_or("its state has the wrong shape")?;
    says.status = match told.connection_status.as_str() {
        "connected" => Some(ClientStatus::Connected),
        "firewalled" => Some(ClientStatus::Firewalled),
        "disconnected" => Some(ClientStatus::Disconnected),
        _ => None,
    };
    let told = [told.last_external_address_v4, told.last_external_address_v6];
    says.addresses = told.iter().flatten().filter_map(|text| text.trim().parse().ok()).collect();
    Ok(told.iter().any(Option::is_some))
}

/// An entry of the log.
#[derive(Deserialize)]
struct Entry {
    message: String,
}

/// The last address of each family that the log tells.
fn detected(octets: &[u8]) -> Vec<IpAddr> {
    let entries: Vec<Entry> = serde_json::from_slice(octets).unwrap_or_default();
    let told = |message: &str| {
        let (_, rest) = message.split_once(DETECTED)?;
        rest.split('"').find_map(|part| part.trim().parse::<IpAddr>().ok())
    };
    let all: Vec<IpAddr> = entries.iter().filter_map(|entry| told(&entry.message)).collect();
    [false, true].into_iter().filter_map(|v6| all.iter().rev().find(|ip| ip.is_ipv6() == v6).copied()).collect()
}

/// What octets say as each of its answers, or why nothing.
#[cfg(feature = "lab")]
pub(super) fn understand(octets: &[u8]) -> Vec<String> {
    let mut says = ClientSays { name: name(octets), ..ClientSays::default() };
    let refusals = [preferences(octets, &mut says).err(), transfer(octets, &mut says).err()];
    says.addresses.extend(detected(octets));
    let bound = says.bindings.iter().filter_map(|binding| binding.to.clone());
    refusals.into_iter().flatten().map(str::to_owned).chain(bound).chain([says.name.clone()]).collect()
}
