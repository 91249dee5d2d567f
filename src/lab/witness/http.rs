//! The witness over HTTP and HTTPS: one server, many hosts, told apart by the Host header. What the hosts say is in
//! `sites`; here are the connection, the journal, and the ways in which a test can make a server misbehave.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_TYPE, HOST, HeaderName};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use futures_util::stream;
use hyper::body::Incoming;
use ipnet::IpNet;
use rustls::ServerConfig;
use tokio::net::TcpListener;

use super::accept;
use super::dns::Answer;
use super::doh;
use super::journal::{Journal, Protocol, What};
use super::sites;

/// Size of [`Behaviour::Huge`]'s body.
const HUGE: usize = 10 * 1024 * 1024;
/// JSON may begin with any amount of white space: only a limit of the reader's own ends it.
const BLANKS: Bytes = Bytes::from_static(&[b' '; 64 * 1024]);
/// Time between two chunks of [`Behaviour::Endless`].
const ENDLESS_PACE: Duration = Duration::from_millis(5);
const JSON: [(HeaderName, &str); 1] = [(CONTENT_TYPE, "application/json")];
const WRONG_JSON: &str =
    r#"{"ip": 42, "mullvad_exit_ip": "perhaps", "mullvad_exit_ip_hostname": ["a", {}], "city": 7}"#;

/// The VPN provider as its own check service knows it.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Networks of its exits and resolvers: an address in one of them is the provider's.
    pub networks: Vec<IpNet>,
    /// Name of the exit server.
    pub hostname: String,
}

impl Provider {
    /// A provider with these exit networks and one server, `se-sto-wg-001`.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self { networks: networks.into_iter().collect(), hostname: "se-sto-wg-001".into() }
    }

    /// Whether the address is the provider's.
    pub fn owns(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.networks.iter().any(|network| network.contains(&ip))
    }
}

/// How a server treats its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// Says the truth.
    #[default]
    Honest,
    /// Says of every client that it is this address.
    Claims(IpAddr),
    /// 200 with an HTML page where JSON is due, as a captive portal does.
    Html,
    /// 200 with JSON whose fields have the right names and the wrong types.
    WrongJson,
    /// 503.
    Unavailable,
    /// 200 with a body of 10 MiB, announced as JSON.
    Huge,
    /// 200 with a body that never ends, announced as JSON.
    Endless,
    /// Takes the request and never answers (until the connection's life is over).
    Silent,
    /// Hangs up after the request.
    HangsUp,
    /// Closes its port, so that the kernel refuses connections.
    Refuses,
}

/// The address of the client, for the sites.
#[derive(Clone, Copy)]
pub(super) struct Client(pub IpAddr);

/// Where the connection comes from, whatever the behaviour makes of it.
#[derive(Clone, Copy)]
pub(super) struct Peer(pub SocketAddr);

/// An HTTP witness: cheap to clone, serves any number of listeners.
#[derive(Clone)]
pub struct HttpWitness {
    service: Arc<str>,
    journal: Journal,
    behaviour: Behaviour,
    sites: Sites,
    doh: Option<Router>,
}

#[derive(Clone)]
enum Sites {
    /// The public echo services, by host.
    Echo(Arc<sites::Echo>),
    /// One page for every host and path.
    Page(Arc<str>),
}

impl HttpWitness {
    /// The public echo services: am.i.mullvad.net and its DNS check, ipify, icanhazip, ifconfig.co, ipinfo.io, the trace
    /// of 1.1.1.1, example.com. `authority` is the name under which the journal has the authority for DNS.
    pub fn echo(service: &str, journal: Journal, provider: Provider, authority: &str) -> Self {
        let echo = sites::Echo::new(provider, journal.clone(), authority);
        Self {
            service: service.into(),
            journal,
            behaviour: Behaviour::Honest,
            sites: Sites::Echo(Arc::new(echo)),
            doh: None,
        }
    }

    /// A server of one page, at any host and path: a web interface in the LAN.
    pub fn page(service: &str, journal: Journal, title: &str) -> Self {
        Self {
            service: service.into(),
            journal,
            behaviour: Behaviour::Honest,
            sites: Sites::Page(title.into()),
            doh: None,
        }
    }

    /// The same server, misbehaving.
    pub fn behaving(mut self, behaviour: Behaviour) -> Self {
        self.behaviour = behaviour;
        self
    }

    /// Answers DNS over HTTPS (RFC 8484) at `/dns-query` of every host too, by what `answerer` says.
    pub fn with_doh(mut self, answerer: Arc<dyn Answer>) -> Self {
        self.doh = Some(doh::router(answerer));
        self
    }

    /// Serves until dropped; HTTPS where `tls` is given.
    pub async fn serve(self, listener: TcpListener, tls: Option<Arc<ServerConfig>>) {
        if self.behaviour == Behaviour::Refuses {
            drop(listener);
            return std::future::pending().await;
        }
        let protocol = if tls.is_some() { Protocol::Tls } else { Protocol::Tcp };
        accept::accept(listener, tls, move |stream, peer| {
            let witness = self.clone();
            async move {
                accept::http(stream, |request| {
                    let host = host(request);
                    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
                    witness.journal.record(&witness.service, protocol, peer, What::Http { host: host.clone(), path });
                    witness.router(&host, peer)
                })
                .await;
            }
        })
        .await;
    }

    /// Who answers a request for `host`; `None` hangs up.
    fn router(&self, host: &str, peer: SocketAddr) -> Option<Router> {
        let always = Router::new();
        let client = match self.behaviour {
            Behaviour::Honest => peer.ip(),
            Behaviour::Claims(other) => other,
            Behaviour::Html => return Some(always.fallback(|| async { sites::page("Please sign in") })),
            Behaviour::WrongJson => return Some(always.fallback(|| async { (JSON, WRONG_JSON) })),
            Behaviour::Unavailable => return Some(always.fallback(|| async { StatusCode::SERVICE_UNAVAILABLE })),
            Behaviour::Huge => return Some(always.fallback(huge)),
            Behaviour::Endless => return Some(always.fallback(endless)),
            Behaviour::Silent => return Some(always.fallback(std::future::pending::<Response>)),
            Behaviour::HangsUp | Behaviour::Refuses => return None,
        };
        let router = match &self.sites {
            Sites::Echo(echo) => echo.router(host),
            Sites::Page(title) => {
                let page = sites::page(title);
                Router::new().fallback(move || async move { page })
            }
        };
        let router = match &self.doh {
            Some(doh) => Router::new().nest(doh::PATH, doh.clone()).fallback_service(router),
            None => router,
        };
        Some(router.layer(Extension(Client(client))).layer(Extension(Peer(peer))))
    }
}

/// The host that a request is for: lower case, without port, brackets and last dot. Empty when it names none.
fn host(request: &Request<Incoming>) -> String {
    let header = request.headers().get(HOST).and_then(|value| value.to_str().ok());
    let named = request.uri().authority().map(|authority| authority.as_str()).or(header).unwrap_or_default();
    let named = match named.strip_prefix('[') {
        Some(literal) => literal.split(']').next().unwrap_or_default(),
        None => named.split(':').next().unwrap_or_default(),
    };
    named.trim_end_matches('.').to_ascii_lowercase()
}

async fn huge() -> impl IntoResponse {
    let chunks = std::iter::repeat_n(BLANKS, HUGE / BLANKS.len()).map(Ok::<_, Infallible>);
    (JSON, Body::from_stream(stream::iter(chunks)))
}

async fn endless() -> impl IntoResponse {
    let chunks = stream::unfold((), |()| async {
        // One client must not keep a core of the lab busy.
        tokio::time::sleep(ENDLESS_PACE).await;
        Some((Ok::<_, Infallible>(BLANKS), ()))
    });
    (JSON, Body::from_stream(chunks))
}

#[cfg(test)]
mod tests;
