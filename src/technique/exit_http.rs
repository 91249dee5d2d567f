//! Threat: the internet sees the home address.
//! Procedure: each witness is resolved by the stack's own resolvers and asked over HTTP(S) by the default route, over IPv4 and IPv6
//! where it has both, for the address that it sees.
//! Limits: TCP only; a policy route for UDP or for one port needs other techniques.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::ready;
use futures_util::stream::{self, FuturesUnordered, Stream, StreamExt};
use reqwest::Url;
use rustls::ClientConfig;
use serde::Deserialize;
use serde_json::Value;

use super::{Context, NoParams, Technique, Work, heard, http, names, read};
use crate::config::shown;
use crate::model::evidence::{Answer, Evidence, Said};

/// How long a witness may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the head of this file.
pub struct ExitHttp;

impl Technique for ExitHttp {
    fn name(&self) -> &'static str {
        "exit-http"
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<NoParams>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, _trial: Arc<str>, _params: Value) -> Work<'a> {
        Box::pin(async move { hear(cx).await })
    }
}

/// What the witnesses say in this phase.
pub(super) async fn hear(cx: &Context) -> Evidence {
    let asked = async {
        let mut evidence = Evidence { from_ms: cx.clock.now_ms(), ..Evidence::default() };
        match ask_exits(cx).await {
            Ok(answers) => evidence.answers = answers,
            Err(problem) => evidence.problems.push(problem),
        }
        heard::confirm(cx, &mut evidence.answers).await;
        evidence.to_ms = cx.clock.now_ms();
        evidence
    };
    cx.heard.now().http.get_or_init(|| asked).await.clone()
}

/// Asks every witness, over both families, and gives each answer as it comes: of those that are down, at last.
///
/// # Errors
/// When TLS cannot be set up.
pub fn asking_exits(cx: &Context) -> Result<impl Stream<Item = Answer> + '_, String> {
    let tls = http::trust(cx.setup.extra_ca.as_deref())?;
    let asked = cx.setup.echo_http.iter().map(move |url| {
        let tls = tls.clone();
        let ask = move |found: Found| match found {
            Ok((url, addresses)) => {
                let asked = addresses.into_iter().map(|address| {
                    let (tls, url) = (tls.clone(), url.clone());
                    async move { echo(cx, &tls, &url, address).await }
                });
                asked.collect::<FuturesUnordered<_>>().left_stream()
            }
            Err(answer) => stream::once(ready(answer)).right_stream(),
        };
        stream::once(find(cx, url)).flat_map(ask).boxed_local()
    });
    Ok(stream::iter(asked).flatten_unordered(None))
}

/// Asks every witness, over both families.
async fn ask_exits(cx: &Context) -> Result<Vec<Answer>, String> {
    let tls = http::trust(cx.setup.extra_ca.as_deref())?;
    let asked = cx.setup.echo_http.iter().map(|url| witness(cx, &tls, url));
    Ok(futures_util::future::join_all(asked).await.into_iter().flatten().collect())
}

async fn witness(cx: &Context, tls: &ClientConfig, url: &str) -> Vec<Answer> {
    match find(cx, url).await {
        Ok((url, addresses)) => {
            let asked = addresses.into_iter().map(|address| echo(cx, tls, &url, address));
            futures_util::future::join_all(asked).await
        }
        Err(answer) => vec![answer],
    }
}

/// A witness and one address of each family that it has, or what goes on record instead.
type Found = Result<(Url, Vec<IpAddr>), Answer>;

async fn find(cx: &Context, url: &str) -> Found {
    let nothing = |who: String, error: String| cx.answer(who, Said::Nothing { error });
    let parsed = Url::parse(url).map_err(|_| nothing(url.to_owned(), "it is no URL".to_owned()))?;
    let (servers, _) = names::nameservers(&cx.setup.resolv_conf);
    let found = names::addresses(&servers, parsed.host_str().unwrap_or_default()).await;
    let addresses =
        found.map_err(|error| nothing(shown(&parsed), format!("its name could not be resolved: {error}")))?;
    let v4 = addresses.iter().find(|address| address.is_ipv4());
    let v6 = addresses.iter().find(|address| address.is_ipv6());
    Ok((parsed, [v4, v6].into_iter().flatten().copied().collect()))
}

async fn echo(cx: &Context, tls: &ClientConfig, url: &Url, address: IpAddr) -> Answer {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let said = match http::ask(tls, url, address, PATIENCE, "application/json, text/plain").await {
        Ok((200, body)) => exit_in(&body),
        Ok((status, _)) => Said::Nothing { error: format!("it answered with HTTP status {status}") },
        Err(error) => Said::Nothing { error },
    };
    cx.answer(format!("{} ({family})", shown(url)), said)
}

/// The shape of am.i.mullvad.net and of ipify; all other keys are of no interest.
#[derive(Deserialize)]
struct Echo {
    ip: IpAddr,
    mullvad_exit_ip: Option<bool>,
}

/// What an echo service's answer says: JSON with `ip`, a line `ip=`, or an address alone. Anything else is no answer.
pub fn exit_in(body: &[u8]) -> Said {
    let Ok(text) = std::str::from_utf8(body) else {
        return Said::Nothing { error: "its answer is not text".to_owned() };
    };
    if let Ok(echo) = serde_json::from_str::<Echo>(text) {
        return Said::Exit { ip: echo.ip, of_provider: echo.mullvad_exit_ip };
    }
    let line = text.lines().find_map(|line| line.strip_prefix("ip=")).unwrap_or(text);
    match line.trim().parse() {
        Ok(ip) => Said::Exit { ip, of_provider: None },
        Err(_) => Said::Nothing {
            error: format!("its answer holds no address: {:?}", text.chars().take(60).collect::<String>()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shapes_of_echo_services() {
        let ip = "198.51.100.3".parse().unwrap();
        let mullvad = br#"{"ip":"198.51.100.3","country":"Sweden","city":null,"mullvad_exit_ip":true,"blacklisted":{"blacklisted":false,"results":[]}}"#;
        assert_eq!(exit_in(mullvad), Said::Exit { ip, of_provider: Some(true) });
        assert_eq!(exit_in(br#"{"ip":"198.51.100.3"}"#), Said::Exit { ip, of_provider: None });
        assert_eq!(exit_in(b"198.51.100.3\n"), Said::Exit { ip, of_provider: None });
        assert_eq!(exit_in(b"fl=1\nip=198.51.100.3\nts=1\n"), Said::Exit { ip, of_provider: None });
    }

    #[test]
    fn anything_else_is_no_answer() {
        for body in [
            &b"<html>login</html>"[..],
            b"{}",
            b"{\"ip\":7}",
            b"",
            b"\xff\xfe",
            b"{\"ip\":\"198.51.100.3\",",
            b"198.51.100.3 and more",
        ] {
            assert!(matches!(exit_in(body), Said::Nothing { .. }), "{body:?}");
        }
    }
}
