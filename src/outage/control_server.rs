//! Gluetun's control server as an outage uses it: what the VPN's status is, and changing it. Asked from inside the namespace, where it is
//! reachable whatever its settings.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use reqwest::{Client, Method as Verb, Url, redirect};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::agent::protocol::ControlKey;

const PATIENCE: Duration = Duration::from_secs(10);
/// An answer of the control server is a few dozen octets.
const MAX_BODY: usize = 4096;

/// By which route the VPN is asked about and changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// The one of all versions that are supported.
    #[default]
    Vpn,
    /// The older one, which a role may name alone. Of WireGuard it knows nothing.
    Openvpn,
}

impl Route {
    /// Its path.
    pub(super) fn path(self) -> &'static str {
        match self {
            Route::Vpn => "/v1/vpn/status",
            Route::Openvpn => "/v1/openvpn/status",
        }
    }
}

/// See the head of this file.
#[derive(Clone)]
pub(super) struct ControlServer {
    url: Url,
    route: Route,
    key: Option<ControlKey>,
    client: Client,
}

#[derive(Deserialize)]
struct Status {
    status: String,
}

#[derive(Deserialize)]
struct Outcome {
    outcome: String,
}

/// Why there is no answer.
struct Refusal {
    /// HTTP status, where there was one.
    status: Option<u16>,
    why: String,
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self { status: None, why }
    }
}

impl ControlServer {
    pub(super) fn new(base: &str, route: Route, key: Option<ControlKey>) -> Result<Self, String> {
        let text = format!("{}{}", base.trim_end_matches('/'), route.path());
        let url = Url::parse(&text).map_err(|error| format!("{text} is no URL: {error}"))?;
        let client = Client::builder()
            .tls_backend_preconfigured(crate::technique::trust(None)?)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(PATIENCE)
            .pool_max_idle_per_host(0)
            .local_address(url.host_str().filter(|host| *host == "127.0.0.1").map(|_| IpAddr::V4(Ipv4Addr::LOCALHOST)))
            .build()
            .map_err(|error| error.to_string())?;
        Ok(ControlServer { url, route, key, client })
    }

    /// The server by the first of its routes that says something of the VPN, and what it says. The older one counts only when it says that
    /// something runs: of WireGuard it always says that it is stopped.
    ///
    /// # Errors
    /// Why none does.
    pub(super) async fn find(base: &str, key: Option<ControlKey>) -> Result<(Self, String), String> {
        let server = Self::new(base, Route::Vpn, key.clone())?;
        let refusal = match server.ask_status().await {
            Ok(status) => return Ok((server, status)),
            Err(refusal) => refusal,
        };
        if matches!(refusal.status, Some(401 | 403 | 404 | 405)) {
            let older = Self::new(base, Route::Openvpn, key)?;
            match older.ask_status().await {
                Ok(status) if status == "running" => return Ok((older, status)),
                Ok(_) | Err(_) => {}
            }
        }
        Err(refusal.why)
    }

    /// By which route it is asked.
    pub(super) fn route(&self) -> Route {
        self.route
    }

    /// `running`, `stopped` …, in its own words.
    pub(super) async fn status(&self) -> Result<String, String> {
        self.ask_status().await.map_err(|refusal| refusal.why)
    }

    async fn ask_status(&self) -> Result<String, Refusal> {
        let body = self.send(Verb::GET, None).await?;
        serde_json::from_str::<Status>(&body).map(|answer| answer.status).map_err(|_| self.odd(&body).into())
    }

    /// Tells it to be `running` or `stopped`; what it says to that.
    pub(super) async fn put(&self, status: &str) -> Result<String, String> {
        let body = self
            .send(Verb::PUT, Some(json!({ "status": status }).to_string()))
            .await
            .map_err(|Refusal { why, .. }| why)?;
        serde_json::from_str::<Outcome>(&body).map(|answer| answer.outcome).map_err(|_| self.odd(&body))
    }

    fn odd(&self, body: &str) -> String {
        format!(
            "{} does not answer as Gluetun's control server does: {:?}",
            self.url,
            body.chars().take(60).collect::<String>()
        )
    }

    async fn send(&self, verb: Verb, body: Option<String>) -> Result<String, Refusal> {
        let mut request = self.client.request(verb.clone(), self.url.clone());
        request = match &self.key {
            Some(ControlKey::ApiKey(key)) => request.header("X-API-Key", key),
            Some(ControlKey::Login { user, password }) => request.basic_auth(user, Some(password)),
            None => request,
        };
        if let Some(body) = body {
            request = request.body(body);
        }
        let failed = |error: reqwest::Error| {
            if error.is_timeout() {
                return format!("{} gave no answer to {verb} within {} s", self.url, PATIENCE.as_secs());
            }
            format!("{}: {}", self.url, crate::technique::chain(&error))
        };
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status().as_u16();
        if let Some(why) = self.refused(status, &verb) {
            return Err(Refusal { status: Some(status), why });
        }
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            text.extend_from_slice(&chunk);
            if text.len() > MAX_BODY {
                return Err(format!("{} answered with more than {MAX_BODY} octets", self.url).into());
            }
        }
        String::from_utf8(text).map_err(|_| format!("{} answered with something that is not text", self.url).into())
    }

    /// What an HTTP status means that is none of success.
    fn refused(&self, status: u16, verb: &Verb) -> Option<String> {
        Some(match status {
            200 => return None,
            401 | 403 => {
                let who = match &self.key {
                    Some(ControlKey::ApiKey(_)) => "with the API key that was given nobody may",
                    Some(ControlKey::Login { .. }) => "with the user name and the password that were given nobody may",
                    None => "without a key nobody may",
                };
                format!(
                    "{who} {verb} {}: set outage.api_key_file, or outage.control_user and outage.control_password_file, to what Gluetun's \
                     role for this route asks for",
                    self.url.path()
                )
            }
            404 => format!("{} does not exist: set outage.control_server to Gluetun's control server", self.url),
            405 => format!("{} does not take {verb}: this Gluetun cannot be told to stop its VPN", self.url),
            status => format!("{} answered {verb} with HTTP status {status}", self.url),
        })
    }
}
