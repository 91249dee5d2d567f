//! What the home looks like from where the runner stands, outside of the stack: the address that must never be seen, and who resolves
//! its names. Asked only for what is not configured, and at most for a few seconds.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::join_all;
use hickory_proto::rr::RecordType;
use reqwest::Url;

use crate::config::Config;
use crate::model::evidence::Said;
use crate::technique::{NoAnswer, addresses, ask, exit_in, lookup, nameservers, resolver_at, trust};

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
