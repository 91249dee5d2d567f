//! What the public echo services say, in the shapes in which they say it. Each host is a router of its own.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::http::{Client, Provider};
use super::journal::Journal;

const MULLVAD: [&str; 3] = ["am.i.mullvad.net", "ipv4.am.i.mullvad.net", "ipv6.am.i.mullvad.net"];
const DNSLEAK: &str = ".dnsleak.am.i.mullvad.net";

/// What the sites know.
struct Knowledge {
    provider: Provider,
    journal: Journal,
    authority: String,
}

/// The echo services, one router for each.
pub(super) struct Echo {
    knowledge: Arc<Knowledge>,
    mullvad: Router,
    ipify: Router,
    icanhazip: Router,
    ifconfig: Router,
    ipinfo: Router,
    trace: Router,
    tracker: Router,
    example: Router,
    nobody: Router,
}

impl Echo {
    pub(super) fn new(provider: Provider, journal: Journal, authority: &str) -> Self {
        let knowledge = Arc::new(Knowledge { provider, journal, authority: authority.to_owned() });
        let mullvad = Router::new()
            .route("/", get(text_ip))
            .route("/ip", get(text_ip))
            .route("/json", get(mullvad_json))
            .route("/check-ip/{ip}", get(check_ip))
            .with_state(Arc::clone(&knowledge));
        Self {
            mullvad,
            ipify: Router::new().route("/", get(ipify)),
            icanhazip: Router::new().route("/", get(text_ip)),
            ifconfig: Router::new().route("/", get(text_ip)).route("/json", get(ifconfig)),
            ipinfo: Router::new()
                .route("/json", get(ipinfo))
                .route("/ip", get(text_ip))
                .with_state(Arc::clone(&knowledge)),
            trace: Router::new().route("/cdn-cgi/trace", get(trace)),
            tracker: Router::new().route("/announce", get(announce)),
            example: Router::new().route("/", get(|| async { page("Example Domain") })),
            nobody: Router::new().fallback(|| async { (StatusCode::NOT_FOUND, "no such host\n") }),
            knowledge,
        }
    }

    /// The router of a host; one that says 404 for a host that nobody serves.
    pub(super) fn router(&self, host: &str) -> Router {
        if let Some(label) = host.strip_suffix(DNSLEAK) {
            return self.dnsleak(label);
        }
        let router = match host {
            host if MULLVAD.contains(&host) => &self.mullvad,
            "api.ipify.org" | "api4.ipify.org" | "api6.ipify.org" | "api64.ipify.org" => &self.ipify,
            "icanhazip.com" | "ipv4.icanhazip.com" | "ipv6.icanhazip.com" => &self.icanhazip,
            "ifconfig.co" => &self.ifconfig,
            "ipinfo.io" => &self.ipinfo,
            "1.1.1.1" | "1.0.0.1" | "2606:4700:4700::1111" | "one.one.one.one" => &self.trace,
            "tracker.opentrackr.org" => &self.tracker,
            host if host == "example.com" || host.ends_with(".example.com") => &self.example,
            _ => &self.nobody,
        };
        router.clone()
    }

    /// The DNS check: who asked the authority for this label?
    fn dnsleak(&self, label: &str) -> Router {
        let (knowledge, name) = (Arc::clone(&self.knowledge), format!("{label}{DNSLEAK}"));
        let answer = move |headers: HeaderMap| async move {
            let accepts = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
            if !accepts.contains("application/json") {
                return page("Mullvad DNS leak check").into_response();
            }
            let askers = knowledge.journal.dns_askers(&knowledge.authority, &name);
            Json(askers.into_iter().map(|ip| resolver(&knowledge.provider, ip)).collect::<Vec<_>>()).into_response()
        };
        Router::new().route("/", get(answer))
    }
}

/// An HTML page with a title.
pub(super) fn page(title: &str) -> Html<String> {
    Html(format!(
        "<!doctype html>\n<html><head><title>{title}</title></head><body><h1>{title}</h1><p>Served by the lab.</p></body></html>\n"
    ))
}

fn judged(provider: &Provider, ip: IpAddr) -> Value {
    let exit = provider.owns(ip);
    json!({
        "ip": ip,
        "country": if exit { "Sweden" } else { "Switzerland" },
        // The service itself leaves it empty for many a home line.
        "city": exit.then_some("Stockholm"),
        "longitude": if exit { 18.0649 } else { 8.55 },
        "latitude": if exit { 59.3326 } else { 47.3667 },
        "mullvad_exit_ip": exit,
        "mullvad_exit_ip_hostname": exit.then_some(&provider.hostname),
        "mullvad_server_type": exit.then_some("WireGuard"),
        "blacklisted": {
            "blacklisted": false,
            "results": [{"name": "Spamhaus", "link": "https://www.spamhaus.org/", "blacklisted": false}],
        },
        "organization": if exit { "Lab VPN provider" } else { "Lab ISP" },
    })
}

fn resolver(provider: &Provider, ip: IpAddr) -> Value {
    let own = provider.owns(ip);
    json!({
        "hostname": Value::Null,
        "ip": ip,
        "mullvad_dns": own,
        "mullvad_dns_hostname": own.then_some(&provider.hostname),
        "country": if own { "Sweden" } else { "Switzerland" },
        "organization": if own { "Lab VPN provider" } else { "Lab ISP" },
    })
}

async fn mullvad_json(State(knowledge): State<Arc<Knowledge>>, Extension(client): Extension<Client>) -> Json<Value> {
    Json(judged(&knowledge.provider, client.0))
}

async fn check_ip(State(knowledge): State<Arc<Knowledge>>, Path(ip): Path<String>) -> Response {
    match ip.parse::<IpAddr>() {
        Ok(ip) => Json(judged(&knowledge.provider, ip)).into_response(),
        Err(_) => (StatusCode::BAD_REQUEST, Json(json!({"error": "not an address"}))).into_response(),
    }
}

async fn text_ip(Extension(client): Extension<Client>) -> String {
    format!("{}\n", client.0)
}

#[derive(Deserialize)]
struct Format {
    format: Option<String>,
}

async fn ipify(Extension(client): Extension<Client>, Query(query): Query<Format>) -> Response {
    match query.format.as_deref() {
        Some("json") => Json(json!({"ip": client.0})).into_response(),
        // Its text has no newline.
        _ => client.0.to_string().into_response(),
    }
}

async fn ifconfig(Extension(client): Extension<Client>) -> Json<Value> {
    Json(json!({"ip": client.0, "country": "Sweden", "country_iso": "SE", "asn": "AS64500", "asn_org": "Lab"}))
}

async fn ipinfo(State(knowledge): State<Arc<Knowledge>>, Extension(client): Extension<Client>) -> Json<Value> {
    let org = if knowledge.provider.owns(client.0) { "AS64501 Lab VPN provider" } else { "AS64500 Lab ISP" };
    Json(json!({"ip": client.0, "city": "Stockholm", "region": "Stockholm", "country": "SE", "org": org}))
}

async fn announce(Extension(client): Extension<Client>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain")], super::tracker::http_answer(client.0))
}

async fn trace(Extension(client): Extension<Client>) -> impl IntoResponse {
    let body = format!(
        "fl=1f1\nh=1.1.1.1\nip={}\nts=0.000\nvisit_scheme=https\nuag=\ncolo=ARN\nsliver=none\nhttp=http/1.1\nloc=SE\ntls=TLSv1.3\nsni=off\nwarp=off\ngateway=off\n",
        client.0
    );
    ([(CONTENT_TYPE, "text/plain")], body)
}
