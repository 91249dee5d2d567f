//! The stack's torrent client, as its web interface shows it: of qBittorrent's Web API what an audit may ask, with its sessions, its check
//! of where a question comes from, its ban after failed logins, and the differences between releases. Its page is a page of the lab's.
//!
//! It shares nothing. What it says of its own address it has learned as a client does: from nodes of the DHT.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, ORIGIN, REFERER, SET_COOKIE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::internet::{ServerError, Servers, tcp};
use super::leak::{Action, Leak};
use super::plan;
use super::witness::{Journal, Protocol, What, accept};
use crate::technique::format::krpc;

/// Who may log in.
pub const USER: &str = "admin";
/// The password of [`USER`].
pub const PASSWORD: &str = "password-of-the-lab";
/// The key of releases that know such keys.
pub const API_KEY: &str = "qbt_0123456789abcdefghijklmnopqr";
/// What no audit may ever repeat: a secret among the preferences.
pub const PROXY_PASSWORD: &str = "proxy-password-of-the-lab";

/// Failed logins after which an address is banned.
const MOST_FAILURES: usize = 5;
/// Largest body of a question, in octets.
const BODY_LIMIT: usize = 64 * 1024;
/// How often nodes are asked, and for how long at most: until the tunnel works.
const ASK_EVERY: Duration = Duration::from_millis(700);
const ASK_FOR: u32 = 60;
/// How long an answer waits for an address that is being asked for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Whose habits it has, where releases differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Release {
    /// v4.6: tells its address in the log alone.
    V4_6,
    /// v5.1.
    #[default]
    V5_1,
    /// v5.2: API keys, another cookie, and status codes where there were words.
    V5_2,
}

/// What of its preferences matters to an audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The link that it is bound to; empty: any.
    pub interface: String,
    /// The address that it is bound to; empty: any.
    pub address: String,
    /// Where it listens for peers.
    pub port: u16,
    /// Whether it asks routers for a port.
    pub upnp: bool,
    /// Whether it tells the local network of itself.
    pub lsd: bool,
    /// The address that it has learned; `None`: it asks.
    pub external: Option<IpAddr>,
    /// Whether it lets its own machine in without a login.
    pub bypass: bool,
    /// `connected`, `firewalled`, `disconnected`.
    pub status: &'static str,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            interface: plan::TUNNEL.to_owned(),
            address: String::new(),
            port: 6881,
            upnp: false,
            lsd: false,
            external: None,
            bypass: false,
            status: "firewalled",
        }
    }
}

impl Settings {
    /// Those of a sealed stack, but for what a leak changes.
    #[must_use]
    pub fn of(leak: Option<&Leak>) -> Self {
        let mut settings = Self::default();
        for action in leak.into_iter().flat_map(Leak::actions) {
            if let Action::Client { interface, upnp, lsd, external } = action {
                settings.interface = interface.clone().unwrap_or(settings.interface);
                settings.upnp |= upnp;
                settings.lsd |= lsd;
                settings.external = external.or(settings.external);
            }
        }
        settings
    }
}

/// See the head of this file.
pub struct Qbittorrent {
    settings: Settings,
    release: Release,
    service: Arc<str>,
    journal: Journal,
    state: Mutex<State>,
    /// The address that was learned.
    learned: watch::Sender<Option<IpAddr>>,
}

#[derive(Default)]
struct State {
    sessions: BTreeSet<String>,
    begun: u64,
    failures: usize,
    /// What was asked: methods and paths.
    asked: Vec<String>,
}

impl Qbittorrent {
    /// A client with nothing to share.
    #[must_use]
    pub fn new(settings: Settings, release: Release, service: &str, journal: Journal) -> Arc<Self> {
        let learned = watch::Sender::new(settings.external);
        let state = Mutex::default();
        Arc::new(Self { settings, release, service: service.into(), journal, state, learned })
    }

    /// Serves at `at`, and asks for its own address, as long as `servers` is held.
    ///
    /// # Errors
    /// When the port cannot be taken.
    pub fn start(self: Arc<Self>, servers: &mut Servers, at: SocketAddr) -> Result<(), ServerError> {
        let listener = tcp(at)?;
        servers.task(Arc::clone(&self).serve(listener));
        servers.task(async move { self.learn().await });
        Ok(())
    }

    /// Serves until dropped.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let port = listener.local_addr().map_or(plan::WEB_UI, |at| at.port());
        accept::accept(listener, None, move |stream, peer| {
            let client = Arc::clone(&self);
            async move {
                accept::http(stream, |request| {
                    let text = |value: &axum::http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
                    let host = request.headers().get(HOST).map(text).unwrap_or_default();
                    let path = request.uri().path().to_owned();
                    client.journal.record(&client.service, Protocol::Tcp, peer, What::Http { host, path });
                    let client = Arc::clone(&client);
                    Some(
                        Router::new().fallback(move |request: Request| async move {
                            client.answer(request, peer.ip(), port).await
                        }),
                    )
                })
                .await;
            }
        })
        .await;
    }

    /// What was asked since the start: methods and paths.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.state().asked.clone()
    }

    /// How many sessions are open.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.state().sessions.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request, peer: IpAddr, port: u16) -> Response {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        self.state().asked.push(format!("{} {path}", head.method));
        let root = matches!(path, "/" | "/index.html");
        if !root && is_cross_site(&head.headers) || !is_own_port(&head.headers, port) {
            return text(StatusCode::UNAUTHORIZED, "Unauthorized");
        }
        let Some(endpoint) = path.strip_prefix("/api/v2/") else { return page() };
        let bearer = header(&head.headers, &AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        let bearer = bearer.filter(|_| self.release == Release::V5_2);
        if bearer.is_some() && endpoint.starts_with("auth/") {
            return text(StatusCode::FORBIDDEN, "Forbidden");
        }
        let mut session = self.session(&head.headers, port);
        let mut begun = None;
        let bypassed = self.settings.bypass && peer.to_canonical().is_loopback();
        if session.is_none() && bearer.is_none() && bypassed {
            begun = Some(self.begin());
            session.clone_from(&begun);
        }
        let may = session.is_some() || bearer.is_some_and(|key| key == API_KEY);
        let mut response = match (endpoint, may) {
            ("auth/login", _) => self.login(&head.method, body, session.is_some(), port).await,
            (_, false) => return text(StatusCode::FORBIDDEN, "Forbidden"),
            ("auth/logout", true) => {
                if head.method != Method::POST {
                    return text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
                }
                self.state().sessions.retain(|known| Some(known) != session.as_ref());
                begun = None;
                let expired = format!("{}=; expires=Thu, 01 Jan 1970 00:00:00 GMT; path=/", self.cookie(port));
                ([(SET_COOKIE, expired)], text(StatusCode::OK, "")).into_response()
            }
            ("app/version", true) => text(StatusCode::OK, self.version()),
            ("app/preferences", true) => json(&self.preferences()),
            ("transfer/info", true) => json(&self.transfer().await),
            ("log/main", true) => json(&self.log().await),
            (_, true) => text(StatusCode::NOT_FOUND, "Not Found"),
        };
        if let Some(cookie) = begun.and_then(|id| self.set_cookie(&id, port).parse().ok()) {
            response.headers_mut().insert(SET_COOKIE, cookie);
        }
        response
    }

    fn version(&self) -> &'static str {
        match self.release {
            Release::V4_6 => "v4.6.7",
            Release::V5_1 => "v5.1.2",
            Release::V5_2 => "v5.2.0",
        }
    }

    fn cookie(&self, port: u16) -> String {
        if self.release == Release::V5_2 { format!("QBT_SID_{port}") } else { "SID".to_owned() }
    }

    fn set_cookie(&self, id: &str, port: u16) -> String {
        format!("{}={id}; HttpOnly; SameSite=Strict; path=/", self.cookie(port))
    }

    fn begin(&self) -> String {
        let mut state = self.state();
        state.begun += 1;
        let id = format!("lab{}-{:016x}", state.begun, rand::random::<u64>());
        state.sessions.insert(id.clone());
        id
    }

    fn session(&self, headers: &HeaderMap, port: u16) -> Option<String> {
        let wanted = self.cookie(port);
        let all = header(headers, &COOKIE)?;
        let mut pairs = all.split(';').filter_map(|pair| pair.trim().split_once('='));
        let (_, id) = pairs.find(|(name, _)| *name == wanted)?;
        self.state().sessions.contains(id).then(|| id.to_owned())
    }

    async fn login(&self, method: &Method, body: Body, inside: bool, port: u16) -> Response {
        if *method != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        }
        let (yes, no) = match self.release {
            Release::V5_2 => ((StatusCode::NO_CONTENT, ""), (StatusCode::UNAUTHORIZED, "Unauthorized")),
            Release::V4_6 | Release::V5_1 => ((StatusCode::OK, "Ok."), (StatusCode::OK, "Fails.")),
        };
        if inside {
            return text(yes.0, yes.1);
        }
        if self.state().failures >= MOST_FAILURES {
            let why = "Your IP address has been banned after too many failed authentication attempts.";
            return text(StatusCode::FORBIDDEN, why);
        }
        let body = to_bytes(body, BODY_LIMIT).await.unwrap_or_default();
        let told = format!("http://form/?{}", String::from_utf8_lossy(&body));
        let form = reqwest::Url::parse(&told).ok();
        let field = |name: &str| {
            let mut pairs = form.iter().flat_map(reqwest::Url::query_pairs);
            pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        if field("username").as_deref() != Some(USER) || field("password").as_deref() != Some(PASSWORD) {
            self.state().failures += 1;
            return text(no.0, no.1);
        }
        self.state().failures = 0;
        let cookie = self.set_cookie(&self.begin(), port);
        ([(SET_COOKIE, cookie)], text(yes.0, yes.1)).into_response()
    }

    /// The preferences, of which only some are here, under their real names.
    fn preferences(&self) -> Value {
        let Settings { interface, address, port, upnp, lsd, .. } = &self.settings;
        json!({
            "locale": "en", "save_path": "/downloads", "listen_port": port, "random_port": *port == 0, "upnp": upnp,
            "max_connec": 500, "dht": true, "pex": true, "lsd": lsd, "encryption": 0, "anonymous_mode": false,
            "proxy_type": "SOCKS5", "proxy_ip": "192.0.2.44", "proxy_port": 1080, "proxy_username": "proxy",
            "proxy_password": PROXY_PASSWORD, "mail_notification_password": PROXY_PASSWORD,
            "web_ui_address": "*", "web_ui_port": plan::WEB_UI, "web_ui_upnp": false, "web_ui_username": USER,
            "bypass_local_auth": self.settings.bypass, "web_ui_max_auth_fail_count": MOST_FAILURES,
            "web_ui_csrf_protection_enabled": true, "web_ui_host_header_validation_enabled": true,
            "current_network_interface": interface, "current_interface_name": interface,
            "current_interface_address": address, "outgoing_ports_min": 0, "outgoing_ports_max": 0,
        })
    }

    async fn transfer(&self) -> Value {
        let mut info = json!({
            "connection_status": self.settings.status, "dht_nodes": 1, "dl_info_data": 0, "dl_info_speed": 0,
            "dl_rate_limit": 0, "up_info_data": 0, "up_info_speed": 0, "up_rate_limit": 0,
        });
        if self.release != Release::V4_6 {
            let address = self.address().await;
            let of = |v6: bool| address.filter(|ip| ip.is_ipv6() == v6).map(|ip| ip.to_string()).unwrap_or_default();
            info["last_external_address_v4"] = of(false).into();
            info["last_external_address_v6"] = of(true).into();
        }
        info
    }

    async fn log(&self) -> Value {
        let mut entries = vec![json!({ "id": 0, "message": "UPnP/NAT-PMP support: OFF", "timestamp": 1, "type": 2 })];
        if let Some(ip) = self.address().await {
            let message = format!("Detected external IP. IP: \"{ip}\"");
            entries.push(json!({ "id": 1, "message": message, "timestamp": 2, "type": 2 }));
        }
        Value::Array(entries)
    }

    /// Its address, for which it waits a while.
    async fn address(&self) -> Option<IpAddr> {
        let mut learned = self.learned.subscribe();
        let known = timeout(PATIENCE, learned.wait_for(Option::is_some)).await;
        known.ok().and_then(Result::ok).and_then(|known| *known)
    }

    /// Asks the DHT's nodes over and over until one has said where the question comes from.
    async fn learn(&self) {
        const ID: krpc::NodeId = *b"a client of the lab.";
        const QUESTION: krpc::TransactionId = *b"lab1";
        let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await else { return };
        let mut answer = [0; 1500];
        let wanted = if self.settings.external.is_some() { 0 } else { ASK_FOR };
        for _ in 0..wanted {
            for (_, node, _) in plan::DHT {
                // Refused by the firewall as long as there is no tunnel.
                let _ = socket.send_to(&krpc::ping(&ID, &QUESTION), (plan::ip(node), plan::DHT_PORT)).await;
            }
            let heard = timeout(ASK_EVERY, socket.recv_from(&mut answer)).await;
            if let Ok(Ok((length, _))) = heard
                && let Some(Ok(seen)) = krpc::response(&answer[..length], &QUESTION)
            {
                self.learned.send_replace(Some(seen));
                return;
            }
            if matches!(heard, Ok(Err(_))) {
                sleep(ASK_EVERY).await;
            }
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &axum::http::HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Whether a page of another place has asked; whoever does not say where the question comes from is let in.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let host = header(headers, &HOST).unwrap_or_default();
    let place = |text: &str| reqwest::Url::parse(text).ok().map(|url| (url.host_str().map(str::to_owned), url.port()));
    let own = place(&format!("http://{host}"));
    let from = header(headers, &ORIGIN).or(header(headers, &REFERER));
    from.is_some_and(|from| place(from) != own)
}

/// Whether the Host header names the port, if any, at which the question came.
fn is_own_port(headers: &HeaderMap, port: u16) -> bool {
    let host = header(headers, &HOST).unwrap_or_default();
    let named = reqwest::Url::parse(&format!("http://{host}")).ok().and_then(|url| url.port());
    named.is_none_or(|named| named == port)
}

fn text(status: StatusCode, text: &'static str) -> Response {
    (status, [(CONTENT_TYPE, "text/plain; charset=UTF-8")], text).into_response()
}

fn json(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn page() -> Response {
    const PAGE: &str = "<!doctype html>\n<html><head><title>qBittorrent</title></head><body><h1>qBittorrent</h1><p>Served by the lab.</p></body></html>\n";
    ([(CONTENT_TYPE, "text/html; charset=utf-8")], PAGE).into_response()
}
