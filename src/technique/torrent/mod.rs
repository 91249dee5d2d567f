//! Threat: a torrent client whose own settings lead past the tunnel, or make it known at home, is held by the firewall alone; and one that
//! peers know by the home address has leaked, whatever holds now.
//! Procedure: each client is asked for its settings and for what it knows of itself, by its own API and from inside the namespace; Gluetun
//! is asked which port the VPN forwards. Once in a phase, with one login at most, and nothing is changed.
//! Limits: what a client says of itself is its word. What it does not tell is in its own file here.

mod deluge;
mod forwarded;
mod qbittorrent;
mod talk;
mod transmission;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Url;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use super::{Context, Technique, Work, exit_http, names, read};
use crate::agent::protocol::{ControlKey, TorrentAccess};
use crate::config::{TorrentClient, shown};
use crate::model::evidence::{Binding, ClientSays, Evidence, Link, Role, Said};
use crate::sensor::sockets;
use talk::Talk;

/// How long one client may take with all of its answers.
const PATIENCE: Duration = Duration::from_secs(12);
/// Those that are looked for, configured or not: a client that asks for a password in any case has nothing to say without one.
const SOUGHT: [TorrentClient; 2] = [TorrentClient::Qbittorrent, TorrentClient::Transmission];

/// The future of a conversation with a client.
type Asking<'a> = Pin<Box<dyn Future<Output = Result<ClientSays, String>> + 'a>>;

/// A kind of torrent client: its file beside this one, its word in [`TorrentClient`], its line in [`api`].
trait Api: Sync {
    /// Where its web interface usually is.
    fn url(&self) -> &'static str;
    /// Asks it. Settings and answers are read, and nothing is changed; a session that was begun is ended.
    fn ask<'a>(&'a self, talk: &'a mut Talk, key: Option<&'a ControlKey>) -> Asking<'a>;
}

fn api(client: TorrentClient) -> &'static dyn Api {
    match client {
        TorrentClient::Qbittorrent => &qbittorrent::Qbittorrent,
        TorrentClient::Transmission => &transmission::Transmission,
        TorrentClient::Deluge => &deluge::Deluge,
    }
}

/// Where the web interface of that client usually is.
pub fn client_url(client: TorrentClient) -> &'static str {
    api(client).url()
}

/// See the head of this file.
pub struct Torrent;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    /// Gluetun is asked for the port that the VPN forwards too.
    #[serde(default)]
    forwarded: bool,
    /// Witnesses are asked for the exit too.
    #[serde(default)]
    exits: bool,
}

impl Technique for Torrent {
    fn name(&self) -> &'static str {
        "torrent-client"
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<Params>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, _trial: Arc<str>, params: Value) -> Work<'a> {
        Box::pin(async move {
            let from_ms = cx.clock.now_ms();
            let params = read::<Params>(&params).unwrap_or(Params { forwarded: false, exits: false });
            let told = hear(cx).await;
            let mut evidence = Evidence { from_ms, ..Evidence::default() };
            match told {
                Told::Nobody(why) => return Evidence::unasked(from_ms, &why),
                Told::Clients(all) => {
                    evidence.answers.extend(all.into_iter().map(|(at, said)| cx.answer(at, said)));
                }
            }
            if params.forwarded {
                evidence.answers.push(cx.answer(forwarded::WITNESS, forwarded::ask(cx).await));
            }
            if params.exits {
                evidence.parts.push((exit_http::ExitHttp.name().to_owned(), exit_http::hear(cx).await));
            }
            evidence.to_ms = cx.clock.now_ms();
            evidence
        })
    }
}

/// What came of asking, remembered for the phase.
#[derive(Debug, Clone)]
pub(super) enum Told {
    /// There is nobody to ask.
    Nobody(String),
    /// Those were asked there, and said that: first the configured one, if there is one.
    Clients(Vec<(String, Said)>),
}

/// What the clients say in this phase.
pub(super) async fn hear(cx: &Context) -> Told {
    cx.heard.now().torrent.get_or_init(|| look(cx)).await.clone()
}

/// Where the configured client listens for peers, if it tells.
pub(super) async fn port(cx: &Context) -> Option<u16> {
    cx.setup.torrent.as_ref()?;
    match hear(cx).await {
        Told::Clients(all) => match all.first() {
            Some((_, Said::Client(says))) => says.port,
            _ => None,
        },
        Told::Nobody(_) => None,
    }
}

async fn look(cx: &Context) -> Told {
    let configured = async {
        let access = cx.setup.torrent.as_ref()?;
        let at = label(&access.url);
        let said = match ask(cx, access).await {
            Ok(says) => Said::Client(Box::new(placed(cx, access.client, says).await)),
            // Who was asked stands beside the answer.
            Err(Refusal { why, .. }) => Said::Nothing { error: bare(&at, &why) },
        };
        Some((at, said))
    };
    // One that is configured does not keep others from running beside it.
    let taken = cx.setup.torrent.as_ref().and_then(|access| port_of(&access.url));
    let free = SOUGHT.into_iter().filter(|client| taken.is_none() || port_of(client_url(*client)) != taken);
    let sought = join_all(free.map(|client| seek(cx, client)));
    let (configured, sought) = tokio::join!(configured, sought);
    let is_client = |said: &Said| matches!(said, Said::Client(_));
    if configured.is_none() && !sought.iter().any(|(_, said)| is_client(said)) {
        let refusals = sought.into_iter().filter_map(|(at, said)| match said {
            Said::Locked { error } | Said::Nothing { error } => Some(format!("{at}: {error}")),
            _ => None,
        });
        return Told::Nobody(format!(
            "no torrent client is configured, and none tells of itself without being opened ({}): set torrent.client, torrent.url and what \
             opens it",
            refusals.collect::<Vec<_>>().join("; ")
        ));
    }
    // Where nothing answers there is none.
    let there = sought.into_iter().filter(|(_, said)| !matches!(said, Said::Nothing { .. }));
    Told::Clients(configured.into_iter().chain(there).collect())
}

/// Asks a client of that kind where such usually are: [`Said::Nothing`] where nothing answers.
async fn seek(cx: &Context, client: TorrentClient) -> (String, Said) {
    let access = TorrentAccess { client, url: client_url(client).to_owned(), key: None };
    let at = label(&access.url);
    let said = match ask(cx, &access).await {
        Ok(says) => Said::Client(Box::new(placed(cx, client, says).await)),
        Err(Refusal { why, answered: true }) => Said::Locked { error: bare(&at, &why) },
        Err(Refusal { why, answered: false }) => Said::Nothing { error: bare(&at, &why) },
    };
    (at, said)
}

fn port_of(url: &str) -> Option<u16> {
    Url::parse(url).ok()?.port_or_known_default()
}

/// What is told of `at`, without that at its beginning.
fn bare(at: &str, why: &str) -> String {
    why.strip_prefix(at).map_or(why, |rest| rest.trim_start_matches([':', ' '])).to_owned()
}

/// A URL as evidence shows it.
fn label(url: &str) -> String {
    Url::parse(url).map_or_else(|_| "the torrent client".to_owned(), |url| shown(&url))
}

/// Why a client tells nothing.
struct Refusal {
    why: String,
    /// Whether anything answered at all.
    answered: bool,
}

async fn ask(cx: &Context, access: &TorrentAccess) -> Result<ClientSays, Refusal> {
    let unanswered = |why| Refusal { why, answered: false };
    let url = Url::parse(&access.url).map_err(|error| unanswered(format!("torrent.url is no URL: {error}")))?;
    let mut answered = false;
    let asked = async {
        let address = resolve(cx, &url).await?;
        let mut talk = Talk::new(&url, address, cx.setup.extra_ca.as_deref())?;
        let told = api(access.client).ask(&mut talk, access.key.as_ref()).await;
        answered = talk.is_answered();
        told
    };
    match timeout(PATIENCE, asked).await {
        Ok(told) => told.map_err(|why| Refusal { why, answered }),
        // Where nobody is, that shows sooner.
        Err(_) => Err(Refusal { why: format!("{} takes too long to answer", shown(&url)), answered: true }),
    }
}

/// The first address of a URL's host, by the stack's own resolvers.
async fn resolve(cx: &Context, url: &Url) -> Result<IpAddr, String> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    if host == "localhost" {
        return Ok(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let (servers, _) = names::nameservers(&cx.setup.resolv_conf);
    let found =
        names::addresses(&servers, host).await.map_err(|error| format!("{host} could not be resolved: {error}"))?;
    found.first().copied().ok_or_else(|| format!("{host} has no address"))
}

/// With what the links and addresses are to the audit that a client named; of one that names none its sockets tell.
async fn placed(cx: &Context, client: TorrentClient, mut says: ClientSays) -> ClientSays {
    let links = cx.links_now().await;
    if says.bindings.is_empty() && client == TorrentClient::Transmission {
        says.bindings = says.port.map(by_sockets).unwrap_or_default();
    }
    for binding in &mut says.bindings {
        binding.role = binding.to.as_deref().and_then(|to| role(&links, to));
    }
    says
}

/// What the link of that name is, or the one that has that address.
fn role(links: &[Link], to: &str) -> Option<Role> {
    let address: Option<IpAddr> = to.parse().ok();
    let has = |link: &&Link| match address {
        Some(ip) => link.addresses.iter().any(|net| net.addr() == ip),
        None => link.name == to,
    };
    links.iter().find(has).map(|link| link.role)
}

/// Where a program waits for peers on `port`, by the kernel's tables. What waits on the loopback alone is none of the network's business.
fn by_sockets(port: u16) -> Vec<Binding> {
    let listed = sockets::list();
    let mut found: Vec<IpAddr> = sockets::waiting(&listed)
        .filter(|(_, at)| at.port() == port && !at.ip().is_loopback())
        .map(|(_, at)| at.ip())
        .collect();
    found.sort();
    found.dedup();
    found
        .into_iter()
        .map(|ip| Binding {
            setting: format!("where it waits on port {port}"),
            to: (!ip.is_unspecified()).then(|| ip.to_string()),
            role: None,
        })
        .collect()
}

/// A text of a client's, for people: short, and without what a terminal would obey.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect::<String>().trim().to_owned()
}

/// A setting that names a link or an address; empty, and what stands for all addresses, is any.
fn binding(setting: &str, value: &str) -> Binding {
    let value = short(value);
    let any = value.is_empty() || value.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    Binding { setting: setting.to_owned(), to: (!any).then_some(value), role: None }
}

/// Reads a JSON object. What is wrong with it is not told: a parser's error would repeat what may be a password.
fn object<T: DeserializeOwned>(octets: &[u8]) -> Option<T> {
    // A list would be read as the fields in their order.
    octets.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(octets).ok()).flatten()
}

/// Reads octets as each client's answers, for [`crate::untrusted`].
#[cfg(feature = "lab")]
pub(crate) fn understand(octets: &[u8]) {
    let texts = [qbittorrent::understand(octets), transmission::understand(octets), deluge::understand(octets)];
    for text in texts.into_iter().flatten().chain([forwarded::understand(octets)]) {
        assert!(text.chars().count() < 300 && !text.contains(char::is_control), "{text:?}");
    }
}

#[cfg(test)]
mod conversations;

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Vec<Link> {
        let link = |name: &str, role, address: &str| Link {
            index: 1,
            name: name.to_owned(),
            role,
            addresses: vec![address.parse().unwrap()],
            up: true,
        };
        vec![link("eth0", Role::Uplink, "172.18.0.10/16"), link("tun0", Role::Tunnel, "10.64.0.2/32")]
    }

    #[test]
    fn a_link_or_an_address_is_placed() {
        let links = links();
        for (to, expected) in [
            ("tun0", Some(Role::Tunnel)),
            ("10.64.0.2", Some(Role::Tunnel)),
            ("eth0", Some(Role::Uplink)),
            ("172.18.0.10", Some(Role::Uplink)),
            ("wg0", None),
            ("172.18.0.11", None),
            ("lo", None),
        ] {
            assert_eq!(role(&links, to), expected, "{to}");
        }
    }

    #[test]
    fn what_stands_for_all_addresses_binds_to_nothing() {
        for any in ["", " ", "0.0.0.0", "::"] {
            assert_eq!(binding("interface", any).to, None, "{any:?}");
        }
        assert_eq!(binding("interface", "tun0\u{1b}[31m\n").to.as_deref(), Some("tun0[31m"));
    }

    #[test]
    fn a_socket_that_waits_on_all_addresses_is_bound_to_nothing() {
        let everywhere = std::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let found = by_sockets(everywhere.local_addr().unwrap().port());
        assert!(found.iter().all(|binding| binding.to.is_none()) && found.len() == 1, "{found:?}");
        let inside = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(by_sockets(inside.local_addr().unwrap().port()).is_empty());
    }
}
