//! Everybody whom a probe asks: public resolvers, the authority behind them, echo services over HTTP and STUN. And the
//! small servers of the home and the ISP, which are of the same kinds.

use super::odd::{self, OddWitness};
use super::plan;
use super::topology;
use super::witness::dns::{Answer, Authority, Forwarder, Sockets, Upstream, Zone, serve};
use super::witness::{CaError, HttpWitness, Journal, LabCa, Provider, dht, stun, tracker};
use crate::net::route::RouteError;
use ipnet::IpNet;
use rustls::ServerConfig;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// Name under which the journal has the authority.
pub const AUTHORITY_SERVICE: &str = "authority";
const DNS: u16 = 53;
const DNS_OVER_TLS: u16 = 853;
const HTTP: u16 = 80;
const HTTPS: u16 = 443;

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Its address cannot be taken.
    #[error("listen on {0}")]
    Bind(SocketAddr, #[source] io::Error),
    /// Its addresses cannot be put on the loopback.
    #[error("take the internet's addresses")]
    Address(#[from] RouteError),
    /// It has no certificate.
    #[error("give the web servers their certificate")]
    Tls(#[from] CaError),
}

/// Servers that run as long as this is held.
#[derive(Default)]
pub struct Servers(JoinSet<()>);

/// What the internet needs to know.
pub struct InternetConfig<'a> {
    /// Whether it answers over IPv6.
    pub ipv6: bool,
    /// Networks that are the provider's, as the provider's own check service knows them.
    pub provider: Vec<IpNet>,
    /// Signs the web servers' certificates.
    pub ca: &'a LabCa,
    /// Where is written who asked what.
    pub journal: Journal,
    /// Who misbehaves.
    pub odd: &'a [OddWitness],
}

/// Takes all of [`plan::internet_addresses`] and serves on them, in the calling thread's network namespace and runtime.
///
/// # Errors
/// When an address cannot be taken.
pub fn run(config: &InternetConfig<'_>) -> Result<Servers, ServerError> {
    let here = |ip: &IpAddr| config.ipv6 || ip.is_ipv4();
    let addresses: Vec<IpAddr> = plan::internet_addresses().into_iter().filter(here).collect();
    topology::own(&addresses)?;
    let mut servers = Servers::default();
    let tls = config.ca.server_config(certificate_names())?;
    let authorities: Vec<IpAddr> =
        [plan::AUTHORITY, plan::AUTHORITY_V6].map(plan::ip).into_iter().filter(here).collect();
    let authority = Authority::new(AUTHORITY_SERVICE, config.journal.clone(), Zone::internet());
    servers.dns(&authorities, None, odd::silenced(config.odd, Arc::new(authority)))?;
    let web_of = |provider: Vec<IpNet>| {
        HttpWitness::echo("web", config.journal.clone(), Provider::new(provider), AUTHORITY_SERVICE)
    };
    let web = web_of(config.provider.clone());
    for address in plan::RECURSORS.map(plan::ip).into_iter().filter(here) {
        let resolver = recursor(&format!("recursor {address}"), &config.journal, address);
        servers.dns(&[address], Some(&tls), Arc::clone(&resolver))?;
        let web = web.clone().with_doh(resolver);
        servers.http(&web, (address, HTTP).into(), None)?;
        servers.http(&web, (address, HTTPS).into(), Some(&tls))?;
    }
    for (host, v4, v6) in plan::WEB {
        let web = if odd::denies(config.odd, host) { web_of(Vec::new()) } else { web.clone() };
        let web = web.behaving(odd::behaviour(config.odd, host));
        for address in [v4, v6].map(plan::ip).into_iter().filter(here) {
            servers.http(&web, (address, HTTP).into(), None)?;
            servers.http(&web, (address, HTTPS).into(), Some(&tls))?;
        }
    }
    for (_, v4, v6, port) in plan::STUN {
        for address in [v4, v6].map(plan::ip).into_iter().filter(here) {
            servers.stun((address, port).into(), config.journal.clone())?;
        }
    }
    for address in plan::DHT.iter().flat_map(|(_, v4, v6)| std::iter::once(*v4).chain(*v6)).map(plan::ip).filter(here) {
        let socket = udp((address, plan::DHT_PORT).into())?;
        let journal = config.journal.clone();
        servers.task(async move { dht::serve(socket, "dht", journal).await });
    }
    for address in [plan::TRACKER.1, plan::TRACKER.2].map(plan::ip).into_iter().filter(here) {
        let at = (address, plan::TRACKER_PORT).into();
        let (socket, journal) = (udp(at)?, config.journal.clone());
        servers.task(async move { tracker::serve(socket, "tracker", journal).await });
        servers.http(&web, at, None)?;
    }
    Ok(servers)
}

fn certificate_names() -> Vec<String> {
    let mut names: Vec<String> = [
        "am.i.mullvad.net",
        "*.am.i.mullvad.net",
        "*.dnsleak.am.i.mullvad.net",
        "*.ipify.org",
        "icanhazip.com",
        "*.icanhazip.com",
        "ifconfig.co",
        "ipinfo.io",
        "example.com",
        "*.example.com",
        "dns.google",
        "one.one.one.one",
        "cloudflare-dns.com",
        "dns.quad9.net",
    ]
    .map(str::to_owned)
    .to_vec();
    names.extend(plan::RECURSORS.map(str::to_owned));
    names
}

/// A resolver that asks the authority from `from`, and so shows as that address.
#[must_use]
pub fn recursor(service: &str, journal: &Journal, from: IpAddr) -> Arc<dyn Answer> {
    let authority = if from.is_ipv4() { plan::AUTHORITY } else { plan::AUTHORITY_V6 };
    let upstream = Upstream { server: (plan::ip(authority), DNS).into(), from: Some(from) };
    Arc::new(Forwarder::new(service, journal.clone(), upstream))
}

impl Servers {
    /// A name server on port 53 of these addresses, with `tls` on port 853 too.
    ///
    /// # Errors
    /// When a port cannot be taken.
    pub fn dns(
        &mut self,
        addresses: &[IpAddr],
        tls: Option<&Arc<ServerConfig>>,
        answerer: Arc<dyn Answer>,
    ) -> Result<(), ServerError> {
        let mut sockets = Sockets::default();
        for address in addresses {
            let at = SocketAddr::new(*address, DNS);
            sockets.udp.push(udp(at)?);
            sockets.tcp.push(tcp(at)?);
            if let Some(tls) = tls {
                sockets.tls.push((tcp((*address, DNS_OVER_TLS).into())?, Arc::clone(tls)));
            }
        }
        self.0.spawn(serve(sockets, answerer));
        Ok(())
    }

    /// A name server on sockets that were made elsewhere.
    pub fn dns_on(&mut self, sockets: Sockets, answerer: Arc<dyn Answer>) {
        self.0.spawn(serve(sockets, answerer));
    }

    /// A web server.
    ///
    /// # Errors
    /// When the port cannot be taken.
    pub fn http(
        &mut self,
        witness: &HttpWitness,
        at: SocketAddr,
        tls: Option<&Arc<ServerConfig>>,
    ) -> Result<(), ServerError> {
        self.0.spawn(witness.clone().serve(tcp(at)?, tls.cloned()));
        Ok(())
    }

    /// A STUN server.
    ///
    /// # Errors
    /// When the port cannot be taken.
    pub fn stun(&mut self, at: SocketAddr, journal: Journal) -> Result<(), ServerError> {
        let socket = udp(at)?;
        self.0.spawn(async move { stun::serve(socket, "stun", journal).await });
        Ok(())
    }

    /// What of a torrent client strangers can reach: it takes connections and waits for their handshake, and answers DHT questions.
    ///
    /// # Errors
    /// When the port cannot be taken.
    pub fn torrent_client(&mut self, at: SocketAddr, journal: Journal) -> Result<(), ServerError> {
        let (datagrams, connections) = (udp(at)?, tcp(at)?);
        self.task(async move { dht::serve(datagrams, "torrent client", journal).await });
        self.task(async move {
            let mut open = std::collections::VecDeque::new();
            while let Ok((stream, _)) = connections.accept().await {
                open.push_back(stream);
                // A client says nothing before the handshake of its peer; the oldest make room.
                if open.len() > 64 {
                    open.pop_front();
                }
            }
        });
        Ok(())
    }

    /// Whatever else is to run as long.
    pub fn task(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(task);
    }
}

/// A UDP socket at `at`, for the calling thread's runtime.
///
/// # Errors
/// When the port cannot be taken.
pub fn udp(at: SocketAddr) -> Result<UdpSocket, ServerError> {
    let bound = || {
        let socket = std::net::UdpSocket::bind(at)?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    };
    bound().map_err(|e| ServerError::Bind(at, e))
}

/// A TCP listener at `at`, for the calling thread's runtime.
///
/// # Errors
/// When the port cannot be taken.
pub fn tcp(at: SocketAddr) -> Result<TcpListener, ServerError> {
    let bound = || {
        let listener = std::net::TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    bound().map_err(|e| ServerError::Bind(at, e))
}
