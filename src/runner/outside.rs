//! What the home looks like from where the runner stands, outside of the stack: the address that must never be seen, and who resolves
//! its names. Asked only for what is not configured, and at most for a few seconds.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hickory_proto::rr::RecordType;
use reqwest::Url;

use crate::config::{Access, Config, Local};
use crate::handicap::{Handicap, lacks};
use crate::model::evidence::names::FROM_OUTSIDE;
use crate::model::evidence::{Answer, Said};
use crate::technique::{NoAnswer, addresses, ask, exit_in, lookup, nameservers, reach_local, resolver_at, trust};

const PATIENCE: Duration = Duration::from_secs(4);

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Outside {
    /// Addresses of the home line.
    pub home: Vec<IpAddr>,
    /// What its resolvers look like to an authority.
    pub resolvers: Vec<IpAddr>,
    /// What the reader should know.
    pub notes: Vec<String>,
}

/// Asks from outside what only the outside can tell.
pub(super) struct Asker {
    /// Start of the run.
    pub clock: Instant,
    /// Served by the stack.
    pub must_serve: Vec<Local>,
    /// Must not be reached from the stack; that they are there at all is seen from here.
    pub must_not_reach: Vec<Local>,
    /// Who may talk to whom.
    pub access: Vec<Access>,
    /// Ports of the stack that are meant to be reached.
    pub open_ports: Vec<u16>,
    /// PEM text of more certificate authorities.
    pub extra_ca: Option<String>,
}

impl Asker {
    /// What the stack serves.
    pub(super) async fn served(&self) -> Vec<Answer> {
        self.ask(&self.must_serve, "").await
    }

    /// Whether the forbidden targets are there, for the evidence of an asking from inside.
    pub(super) async fn forbidden(&self) -> Vec<Answer> {
        self.ask(&self.must_not_reach, FROM_OUTSIDE).await
    }

    async fn ask(&self, targets: &[Local], prefix: &str) -> Vec<Answer> {
        let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let asked = targets.iter().map(|local| {
            let resolv_conf = &resolv_conf;
            async move {
                let said = reach_local(resolv_conf, self.extra_ca.as_deref(), local, PATIENCE).await;
                let lost = lacks(Handicap::Outside);
                let said = if lost { Said::Nothing { error: "it was lost".to_owned() } } else { said };
                Answer { at_ms: self.now_ms(), witness: format!("{prefix}{local}"), said }
            }
        });
        join_all(asked).await
    }

    fn now_ms(&self) -> f64 {
        self.clock.elapsed().as_secs_f64() * 1000.0
    }
}

/// Looks.
pub(super) async fn look(config: Config, extra_ca: Option<String>) -> Outside {
    let mut found = Outside::default();
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let (servers, _) = nameservers(&text);
    let home = async {
        if !config.home.ip.is_empty() {
            return (Vec::new(), Vec::new());
        }
        home(&config, extra_ca.as_deref(), &servers).await
    };
    let resolvers = async {
        if !config.home.resolvers.is_empty() {
            return Vec::new();
        }
        let asked = servers.iter().flat_map(|server| config.echo.dns.iter().map(|name| asker(*server, name)));
        join_all(asked).await.into_iter().flatten().collect()
    };
    let bounded = tokio::time::timeout(PATIENCE, async { tokio::join!(home, resolvers) });
    if let Ok(((home, notes), resolvers)) = bounded.await {
        found.home = home;
        found.resolvers = resolvers;
        found.notes = notes;
    }
    if config.home.ip.is_empty() && found.home.is_empty() {
        found.notes.push("the home address could not be learned from where leakcheck stands: set home.ip".to_owned());
    }
    found.home.sort();
    found.home.dedup();
    found.resolvers.sort();
    found.resolvers.dedup();
    found
}

async fn home(config: &Config, extra_ca: Option<&str>, servers: &[IpAddr]) -> (Vec<IpAddr>, Vec<String>) {
    let Ok(tls) = trust(extra_ca) else { return (Vec::new(), Vec::new()) };
    let tls = &tls;
    let answers = join_all(config.echo.http.iter().map(|url| async move { echoes(tls, servers, url).await })).await;
    let (mut home, mut notes) = (Vec::new(), Vec::new());
    for said in answers.into_iter().flatten() {
        if let Said::Exit { ip, of_provider } = said {
            if of_provider == Some(true) {
                notes.push(format!(
                    "leakcheck itself stands behind the VPN ({ip}), so it cannot learn the home address: set home.ip"
                ));
            } else {
                home.push(ip);
            }
        }
    }
    // Behind a VPN the other witnesses see its exit too.
    if !notes.is_empty() {
        home.clear();
    }
    (home, notes)
}

async fn echoes(tls: &rustls::ClientConfig, servers: &[IpAddr], url: &Url) -> Vec<Said> {
    let found = addresses(servers, url.host_str().unwrap_or_default()).await.unwrap_or_default();
    let families = [found.iter().find(|ip| ip.is_ipv4()), found.iter().find(|ip| ip.is_ipv6())];
    let asked = families.into_iter().flatten().map(|address| async move {
        match ask(tls, url, *address, PATIENCE, "application/json, text/plain").await {
            Ok((200, body)) => Some(exit_in(&body)),
            _ => None,
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

async fn asker(server: IpAddr, name: &str) -> Vec<IpAddr> {
    let Ok(resolver) = resolver_at(server) else { return Vec::new() };
    match lookup(&resolver, name, RecordType::A).await {
        Ok(found) => found.addresses,
        Err(NoAnswer::Refused(_) | NoAnswer::Nothing(_)) => Vec::new(),
    }
}
