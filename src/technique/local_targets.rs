//! Threat: a VPN set up so tightly that the owner's own services do not reach the stack's, or the other way round.
//! Procedure: each configured target is asked as it states (an HTTP answer, an accepted connection); where none is configured, the
//! uplinks' gateways are, for any sign of life. Nothing leaves the local subnets.
//! Limits: from inside the namespace to the outside only.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Context, NoParams, Technique, Work, http, names, read};
use crate::config::Local;
use crate::model::evidence::{Evidence, Said};

const PATIENCE: Duration = Duration::from_secs(3);

/// See the head of this file.
pub struct LocalTargets;

impl Technique for LocalTargets {
    fn name(&self) -> &'static str {
        "local-targets"
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<NoParams>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, _trial: Arc<str>, _params: Value) -> Work<'a> {
        Box::pin(async move {
            let mut evidence = Evidence { from_ms: cx.clock.now_ms(), ..Evidence::default() };
            let asked = targets(cx)
                .into_iter()
                .map(|target| async move { (target.label(), reach(cx, &target, PATIENCE).await) });
            for (label, said) in futures_util::future::join_all(asked).await {
                evidence.answers.push(cx.answer(label, said));
            }
            evidence.to_ms = cx.clock.now_ms();
            evidence
        })
    }
}

/// See [`Forbidden`].
pub const FORBIDDEN: &str = "forbidden-targets";

/// The targets that must not be reached, asked as the others are. The runner adds what it sees of them from outside.
pub struct Forbidden;

impl Technique for Forbidden {
    fn name(&self) -> &'static str {
        FORBIDDEN
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<NoParams>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, _trial: Arc<str>, _params: Value) -> Work<'a> {
        Box::pin(async move {
            let mut evidence = Evidence { from_ms: cx.clock.now_ms(), ..Evidence::default() };
            let stated = cx.setup.must_not_reach.iter().filter_map(|text| text.parse().ok()).map(Target::Stated);
            let asked = stated.map(|target| async move { (target.label(), reach(cx, &target, PATIENCE).await) });
            for (label, said) in futures_util::future::join_all(asked).await {
                evidence.answers.push(cx.answer(label, said));
            }
            evidence.to_ms = cx.clock.now_ms();
            evidence
        })
    }
}

/// Something local.
#[derive(Debug, Clone)]
pub enum Target {
    /// As the owner stated it.
    Stated(Local),
    /// A gateway of an uplink: an accepted or a refused connection shows it alive.
    Gateway(IpAddr),
}

impl Target {
    /// What reports call it.
    pub fn label(&self) -> String {
        match self {
            Target::Stated(local) => local.to_string(),
            Target::Gateway(ip) => format!("gateway {ip}"),
        }
    }
}

/// What is to be asked: what is configured, or else the gateways over IPv4.
pub fn targets(cx: &Context) -> Vec<Target> {
    let stated: Vec<Target> =
        cx.setup.must_reach.iter().filter_map(|text| text.parse().ok()).map(Target::Stated).collect();
    if stated.is_empty() {
        cx.gateways.iter().filter(|ip| ip.is_ipv4()).copied().map(Target::Gateway).collect()
    } else {
        stated
    }
}

/// Asks one target once.
pub async fn reach(cx: &Context, target: &Target, patience: Duration) -> Said {
    match target {
        Target::Gateway(ip) => match timeout(patience, TcpStream::connect(SocketAddr::new(*ip, 80))).await {
            Ok(Ok(_)) => Said::Reached { how: "connected".to_owned() },
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                Said::Reached { how: "it refused a connection, so it is there".to_owned() }
            }
            Ok(Err(error)) => Said::Nothing { error: error.to_string() },
            Err(_) => Said::Nothing { error: "no answer in time".to_owned() },
        },
        Target::Stated(local) => {
            reach_local(&cx.setup.resolv_conf, cx.setup.extra_ca.as_deref(), local, patience).await
        }
    }
}

/// Asks one stated target once, from where the caller is; its name is resolved as `resolv_conf` says.
pub async fn reach_local(resolv_conf: &str, extra_ca: Option<&str>, local: &Local, patience: Duration) -> Said {
    let place = local.host_port();
    let (servers, _) = names::nameservers(resolv_conf);
    let address = match timeout(patience, names::addresses(&servers, &place.host)).await {
        Ok(Ok(found)) => found.first().copied(),
        Ok(Err(error)) => return Said::Nothing { error },
        Err(_) => return Said::Nothing { error: format!("no resolver answered for {} in time", place.host) },
    };
    let Some(address) = address else {
        return Said::Nothing { error: format!("{} has no address", place.host) };
    };
    match local {
        Local::Tcp(_) => match timeout(patience, TcpStream::connect(SocketAddr::new(address, place.port))).await {
            Ok(Ok(_)) => Said::Reached { how: "connected".to_owned() },
            Ok(Err(error)) => Said::Nothing { error: error.to_string() },
            Err(_) => Said::Nothing { error: "no answer in time".to_owned() },
        },
        Local::Http(url) => match http::trust(extra_ca) {
            Ok(tls) => match http::ask(&tls, url, address, patience, "*/*").await {
                Ok((status, _)) => Said::Reached { how: format!("HTTP {status}") },
                Err(error) => Said::Nothing { error },
            },
            Err(error) => Said::Nothing { error },
        },
    }
}
