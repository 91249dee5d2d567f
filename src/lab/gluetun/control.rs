//! The control server on port 8000. Bodies are JSON that says it is plain text, with a newline at the end.
//! Not here: the unversioned routes of old, the updater, changing settings.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::header::{CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::auth::{Access, Role, access};
use super::habit::{Fault, Faults, Habit, When};
use super::{DnsSwitch, Status, Version, VpnControl};
use crate::lab::witness::accept;

/// The route whose answer has the private key in clear: no report may ever show it.
pub const SETTINGS_ROUTE: &str = "/v1/vpn/settings";
const VPN: &str = "/v1/vpn/status";
const OPENVPN: &str = "/v1/openvpn/status";
const DNS: &str = "/v1/dns/status";
const PUBLIC_IP: &str = "/v1/publicip/ip";
const PORT_FORWARD: &str = "/v1/portforward";
const PORT_FORWARDED: &str = "/v1/openvpn/portforwarded";
const VERSION: &str = "/v1/version";

/// Largest request body, in octets.
const BODY_LIMIT: usize = 64 * 1024;
/// After how long v3.40 starts a VPN that was stopped.
const SELF_RESTART: Duration = Duration::from_secs(10);
/// How often v3.40 looks.
const LOOK: Duration = Duration::from_millis(250);

/// The control server of one stack.
pub struct ControlServer {
    version: Version,
    roles: Vec<Role>,
    private_key: String,
    forwarded: Option<u16>,
    self_restart: Option<Duration>,
    /// Whether the older route is the one that knows the VPN.
    older_route: bool,
    faults: Faults,
    vpn: Arc<dyn VpnControl>,
    dns: DnsSwitch,
    /// Changes of the VPN come one after the other.
    changing: Mutex<()>,
}

#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    status: String,
}

impl ControlServer {
    /// A control server without roles: what is open depends on the version.
    pub fn new(version: Version, vpn: Arc<dyn VpnControl>, dns: DnsSwitch) -> Self {
        Self {
            version,
            roles: Vec::new(),
            private_key: String::new(),
            forwarded: None,
            self_restart: (version == Version::V3_40).then_some(SELF_RESTART),
            older_route: false,
            faults: Faults::default(),
            vpn,
            dns,
            changing: Mutex::new(()),
        }
    }

    /// Adds a role; the first one closes what was open without.
    pub fn with_role(mut self, role: Role) -> Self {
        self.roles.push(role);
        self
    }

    /// The key that the settings tell those who may read them.
    pub fn with_private_key(mut self, key: &str) -> Self {
        self.private_key = key.to_owned();
        self
    }

    /// The port that the provider forwards.
    pub fn with_forwarded(mut self, port: Option<u16>) -> Self {
        self.forwarded = port;
        self
    }

    /// Starts a stopped VPN by itself after this time, as v3.40 does after 10 s.
    pub fn with_self_restart(mut self, after: Option<Duration>) -> Self {
        self.self_restart = after;
        self
    }

    /// Does otherwise than the others of its version.
    pub fn with_habit(mut self, habit: &Habit) -> Self {
        match habit {
            Habit::Version(version) => {
                self.version = *version;
                self.self_restart = (*version == Version::V3_40).then_some(SELF_RESTART);
            }
            Habit::Lock(auth) => self.roles.push(Role::everything(auth.clone())),
            Habit::OlderRoute => self.older_route = true,
            Habit::SelfRestart(after) => self.self_restart = Some(*after),
            Habit::Fault(when, fault, times) => self.faults.add(*when, *fault, *times),
        }
        self
    }

    /// Serves until dropped.
    pub async fn serve(self, listener: TcpListener) {
        let server = Arc::new(self);
        let answering = Arc::clone(&server);
        let answer = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let server = Arc::clone(&answering);
            async move { server.answer_oddly(&method, uri.path(), &headers, &body).await }
        };
        let router = Router::new().fallback(answer).layer(DefaultBodyLimit::max(BODY_LIMIT));
        let serving = accept::accept(listener, None, move |stream, _| {
            let router = router.clone();
            async move { accept::http(stream, |_| Some(router.clone())).await }
        });
        tokio::join!(serving, server.restart_by_itself());
    }

    /// What it answers, unless something else is to come of the question.
    async fn answer_oddly(&self, method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> Response {
        let when = match (path, method == Method::PUT) {
            (VPN | OPENVPN, false) => Some(When::Check),
            (VPN | OPENVPN, true) => wanted(body).ok().map(|change| match change {
                Change::Start => When::Start,
                Change::Stop => When::Stop,
            }),
            _ => None,
        };
        let fault = when.and_then(|when| self.faults.next(when));
        if fault.is_none_or(Fault::is_done) {
            let answer = self.answer(method, path, headers, body).await;
            if fault.is_none() {
                return answer;
            }
        }
        match fault {
            Some(Fault::Refused(status)) => {
                error(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), "something went wrong")
            }
            Some(Fault::RefusedButDone) | None => error(StatusCode::INTERNAL_SERVER_ERROR, "something went wrong"),
            Some(Fault::Garbage) => ([PLAIN], "\u{1b}[31m<html>\u{7}nothing of use</html>\n").into_response(),
            Some(Fault::Silent | Fault::SilentButDone) => std::future::pending().await,
        }
    }

    async fn answer(&self, method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> Response {
        let methods = self.methods(path);
        if self.version >= Version::V3_41 {
            if methods.is_empty() {
                return error(StatusCode::NOT_FOUND, "404 page not found");
            }
            if !methods.contains(method) {
                return error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
            }
        } else if !methods.contains(method) {
            // v3.40 has no role for what it does not know.
            return denied(false);
        }
        let route = format!("{method} {path}");
        if let Access::Denied { ask_basic } = access(self.version, &self.roles, &route, path == SETTINGS_ROUTE, headers)
        {
            return denied(ask_basic);
        }
        match (path, method == Method::PUT) {
            (VPN | OPENVPN, true) => match wanted(body) {
                Ok(wanted) => outcome(&self.change_vpn(wanted).await),
                Err(problem) => error(StatusCode::BAD_REQUEST, &problem),
            },
            (DNS, true) => match wanted(body) {
                Ok(wanted) => outcome(&self.change_dns(wanted)),
                Err(problem) => error(StatusCode::BAD_REQUEST, &problem),
            },
            (VPN, false) => text(&json!({"status": self.vpn.status().to_string()})),
            (OPENVPN, false) if self.older_route => text(&json!({"status": self.vpn.status().to_string()})),
            // The stack speaks WireGuard.
            (OPENVPN, false) => text(&json!({"status": Status::Stopped.to_string()})),
            (DNS, false) => text(&json!({"status": self.dns.status().to_string()})),
            (PUBLIC_IP, false) => text(&self.public_ip()),
            (PORT_FORWARD, false) => {
                text(&json!({"port": self.forwarded.unwrap_or(0), "ports": Vec::from_iter(self.forwarded)}))
            }
            (PORT_FORWARDED, false) if self.version >= Version::V3_41 => {
                (StatusCode::MOVED_PERMANENTLY, [(LOCATION, PORT_FORWARD)]).into_response()
            }
            (PORT_FORWARDED, false) => text(&json!({"port": self.forwarded.unwrap_or(0)})),
            (SETTINGS_ROUTE, false) => text(&json!({
                "type": "wireguard",
                "provider": {"name": "mullvad"},
                "wireguard": {"private_key": self.private_key, "interface": "tun0", "implementation": "auto"},
            })),
            (VERSION, false) => text(&json!({
                "version": self.version.as_str(), "commit": "lab", "created": "2026-08-01T00:00:00.000Z",
            })),
            _ => error(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }

    /// The methods of a route; none when there is no such route.
    fn methods(&self, path: &str) -> &'static [Method] {
        match path {
            VPN if self.older_route => &[],
            VPN | OPENVPN | DNS => &[Method::GET, Method::PUT],
            PUBLIC_IP | PORT_FORWARDED | SETTINGS_ROUTE | VERSION => &[Method::GET],
            PORT_FORWARD if self.version >= Version::V3_41 => &[Method::GET],
            _ => &[],
        }
    }

    /// Changes the state of the VPN and waits until it is changed.
    async fn change_vpn(&self, wanted: Change) -> String {
        let _turn = self.changing.lock().await;
        let now = self.vpn.status();
        match (wanted, now) {
            (Change::Start, Status::Stopped) => self.vpn.start().await.to_string(),
            (Change::Stop, Status::Running) => self.vpn.stop().await.to_string(),
            _ => format!("already {now}"),
        }
    }

    fn change_dns(&self, wanted: Change) -> String {
        let now = self.dns.status();
        let goal = match wanted {
            Change::Start => Status::Running,
            Change::Stop => Status::Stopped,
        };
        if now == goal {
            return format!("already {now}");
        }
        self.dns.set(goal == Status::Running);
        goal.to_string()
    }

    fn public_ip(&self) -> Value {
        match self.vpn.public_ip() {
            None => json!({"public_ip": ""}),
            Some(ip) => json!({
                "public_ip": ip, "region": "Stockholm", "country": "Sweden", "city": "Stockholm", "hostname": "",
                "location": "59.3294,18.0687", "organization": "Lab VPN provider", "postal_code": "100 04",
                "timezone": "Europe/Stockholm",
            }),
        }
    }

    async fn restart_by_itself(&self) {
        let Some(after) = self.self_restart else {
            return;
        };
        let mut stopped_since = None;
        loop {
            sleep(LOOK.min(after)).await;
            if self.vpn.status() != Status::Stopped {
                stopped_since = None;
                continue;
            }
            if stopped_since.get_or_insert_with(Instant::now).elapsed() >= after {
                self.change_vpn(Change::Start).await;
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Change {
    Start,
    Stop,
}

/// What the body of a PUT asks for. As the real server does, the first JSON value counts and the rest is not read.
fn wanted(body: &[u8]) -> Result<Change, String> {
    let wanted = match serde_json::Deserializer::from_slice(body).into_iter::<Wanted>().next() {
        None => return Err("EOF".to_owned()),
        Some(Err(problem)) => return Err(problem.to_string()),
        Some(Ok(wanted)) => wanted.status,
    };
    match wanted.as_str() {
        "running" => Ok(Change::Start),
        "stopped" => Ok(Change::Stop),
        other => {
            let shown: String = other.chars().take(64).collect();
            Err(format!("invalid status: {shown}: possible values are: stopped, running"))
        }
    }
}

fn outcome(outcome: &str) -> Response {
    text(&json!({"outcome": outcome}))
}

const PLAIN: (axum::http::HeaderName, &str) = (CONTENT_TYPE, "text/plain; charset=utf-8");

fn text(value: &Value) -> Response {
    ([PLAIN], format!("{value}\n")).into_response()
}

fn error(status: StatusCode, message: &str) -> Response {
    (status, [PLAIN], format!("{message}\n")).into_response()
}

fn denied(ask_basic: bool) -> Response {
    let mut response = error(StatusCode::UNAUTHORIZED, "Unauthorized");
    if ask_basic {
        let challenge = axum::http::HeaderValue::from_static(r#"Basic realm="restricted", charset="UTF-8""#);
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}
