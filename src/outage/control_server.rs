//! Gluetun's control server as an outage uses it: what the VPN's status is, and changing it. Asked from inside the namespace, where it is
//! reachable whatever its settings.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use reqwest::{Client, Method as Verb, Url, redirect};
use serde::Deserialize;
use serde_json::json;

use crate::agent::protocol::ApiKey;

const PATIENCE: Duration = Duration::from_secs(10);
/// An answer of the control server is a few dozen octets.
const MAX_BODY: usize = 4096;

/// See the head of this file.
#[derive(Clone)]
pub(super) struct ControlServer {
    status: Url,
    key: Option<ApiKey>,
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

impl ControlServer {
    pub(super) fn new(base: &str, key: Option<ApiKey>) -> Result<Self, String> {
        let text = format!("{}/v1/vpn/status", base.trim_end_matches('/'));
        let status = Url::parse(&text).map_err(|error| format!("{text} is no URL: {error}"))?;
        let client = Client::builder()
            .tls_backend_preconfigured(crate::technique::trust(None)?)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(PATIENCE)
            .pool_max_idle_per_host(0)
            .local_address(
                status.host_str().filter(|host| *host == "127.0.0.1").map(|_| IpAddr::V4(Ipv4Addr::LOCALHOST)),
            )
            .build()
            .map_err(|error| error.to_string())?;
        Ok(ControlServer { status, key, client })
    }

    /// `running`, `stopped` …, in its own words.
    pub(super) async fn status(&self) -> Result<String, String> {
        let body = self.send(Verb::GET, None).await?;
        serde_json::from_str::<Status>(&body).map(|answer| answer.status).map_err(|_| self.odd(&body))
    }

    /// Tells it to be `running` or `stopped`; what it says to that.
    pub(super) async fn put(&self, status: &str) -> Result<String, String> {
        let body = self.send(Verb::PUT, Some(json!({ "status": status }).to_string())).await?;
        serde_json::from_str::<Outcome>(&body).map(|answer| answer.outcome).map_err(|_| self.odd(&body))
    }

    fn odd(&self, body: &str) -> String {
        format!(
            "{} does not answer as Gluetun's control server does: {:?}",
            self.status,
            body.chars().take(60).collect::<String>()
        )
    }

    async fn send(&self, verb: Verb, body: Option<String>) -> Result<String, String> {
        let mut request = self.client.request(verb.clone(), self.status.clone());
        if let Some(ApiKey(key)) = &self.key {
            request = request.header("X-API-Key", key);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let mut response =
            request.send().await.map_err(|error| format!("{}: {}", self.status, crate::technique::chain(&error)))?;
        match response.status().as_u16() {
            200 => {}
            401 | 403 => {
                let key = if self.key.is_some() {
                    "the API key that was given is not allowed to"
                } else {
                    "without a key nobody may"
                };
                return Err(format!(
                    "{key} {verb} {}: set outage.api_key_file, or give Gluetun a role for this route",
                    self.status.path()
                ));
            }
            status => return Err(format!("{} answered {verb} with HTTP status {status}", self.status)),
        }
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| crate::technique::chain(&error))? {
            text.extend_from_slice(&chunk);
            if text.len() > MAX_BODY {
                return Err(format!("{} answered with more than {MAX_BODY} octets", self.status));
            }
        }
        String::from_utf8(text).map_err(|_| format!("{} answered with something that is not text", self.status))
    }
}
