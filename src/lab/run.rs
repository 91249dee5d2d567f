//! A whole lab, from its wires to its servers, sealed or broken by a leak.

use super::advertisement;
use super::chatter;
use super::condition::{Circumstance, Condition};
use super::gluetun::{Habit, Version};
use super::internet::{self, InternetConfig, ServerError, Servers};
use super::leak::{Action, Capability, Leak, Place, Transport};
use super::line::Quality;
use super::load::Load;
use super::odd::OddWitness;
use super::plan;
use super::port_mapper;
use super::provider::{self, Provider, ProviderConfig, ProviderError};
use super::realm::{Realm, RealmError};
use super::stack::{self, Gluetun, GluetunConfig, StackError, Uplink};
use super::topology::{self, Topology, TopologyError};
use super::userns::PrivateDir;
use super::variant::{Home, Protocol, Variant};
use super::wireguard::PrivateKey;
use super::witness::dns::{Forwarder, Sockets, Upstream};
use super::witness::{CaError, HttpWitness, Journal, LabCa};
use crate::net::netns::NetnsError;
use crate::net::nft::{Batch, Chain, HookPoint, Match, Nft, NftError, Policy, Rule, Table, TableFamily, Verdict};
use crate::net::route::Family;
use ipnet::IpNet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long the first WireGuard handshake may take; one that gets lost is repeated after 5 s.
const PATIENCE: Duration = Duration::from_secs(12);
/// The same on a line that loses packets, of which each handshake needs two.
const PATIENCE_ON_BAD_LINE: Duration = Duration::from_secs(45);

/// Why a lab does not stand.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The leak or the condition cannot be had in this variant.
    #[error("combine these: {0}")]
    Refused(String),
    /// Its namespaces and wires.
    #[error("build the lab")]
    Topology(#[from] TopologyError),
    /// A namespace's thread.
    #[error("reach a part of the lab")]
    Realm(#[from] RealmError),
    /// The provider.
    #[error("start the lab's VPN provider")]
    Provider(#[from] ProviderError),
    /// The stack.
    #[error("start the lab's VPN stack")]
    Stack(#[from] StackError),
    /// A server.
    #[error("start the lab's servers")]
    Server(#[from] ServerError),
    /// The certificate authority.
    #[error("make the lab's certificates")]
    Ca(#[from] CaError),
    /// A leak that the lab of namespaces cannot have.
    #[error("give the lab's stack the leak {0}, which only containers can have")]
    NeedsContainers(String),
    /// The stack did not get through to the provider.
    #[error("connect the lab's VPN stack with its provider")]
    NotConnected,
    /// The program that shares the stack's network.
    #[error("start a program in the lab's VPN stack")]
    Program(#[source] io::Error),
    /// A condition.
    #[error("bring about the lab's condition: {0}")]
    Condition(&'static str, #[source] io::Error),
    /// A witness that is to be down.
    #[error("take a witness of the lab down")]
    Down(#[from] NftError),
    /// The torrent client, or its peer.
    #[error("start the lab's torrent client")]
    Load(#[from] NetnsError),
    /// A file of the lab.
    #[error("write the lab's file {0}")]
    File(&'static str, #[source] io::Error),
}

impl LabError {
    /// What the user can do about it.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Stack(StackError::Legacy(_)) => Some(
                "this kernel has no such tables, or they are not loaded: `sudo modprobe -a iptable_filter ip6table_filter`",
            ),
            Self::NeedsContainers(_) => {
                Some("`leakcheck lab test leak::CLASS` puts the containers up by Docker Compose and audits them")
            }
            Self::Refused(_) => Some("leave one of them out, or take another: `leakcheck lab list`"),
            Self::Provider(ProviderError::Tunnel(error)) | Self::Stack(StackError::Tunnel(error)) => error.help(),
            _ => None,
        }
    }
}

/// What lab to make.
#[derive(Debug, Clone)]
pub struct LabSpec {
    /// How the stack is broken; `None` for a sealed one.
    pub leak: Option<Leak>,
    /// How the stack and its home are built.
    pub variant: Variant,
    /// Witnesses of the internet that misbehave.
    pub odd: Vec<OddWitness>,
    /// What the stack's control server does otherwise.
    pub habits: Vec<Habit>,
    /// The program `leakcheck`, which is to hold the stack's tunnel in a process of its own; `None`: the stack itself holds it.
    pub apart: Option<PathBuf>,
    /// Under what it has to be audited.
    pub conditions: Vec<Condition>,
}

impl LabSpec {
    /// A sealed lab with both families and Gluetun's stack.
    #[must_use]
    pub fn sealed() -> Self {
        Self {
            leak: None,
            variant: Variant::default(),
            odd: Vec::new(),
            habits: Vec::new(),
            apart: None,
            conditions: Vec::new(),
        }
    }

    /// A lab with both families whose stack is broken.
    #[must_use]
    pub fn broken(leak: Leak) -> Self {
        Self { leak: Some(leak), ..Self::sealed() }
    }

    /// With one condition more.
    #[must_use]
    pub fn under(mut self, condition: Condition) -> Self {
        self.conditions.push(condition);
        self
    }

    fn circumstances(&self) -> impl Iterator<Item = &Circumstance> {
        self.conditions.iter().flat_map(|condition| &condition.circumstances)
    }

    fn quality(&self) -> Quality {
        self.conditions.iter().map(Condition::quality).fold(Quality::default(), Quality::and)
    }
}

/// A running lab. Dropping it ends all of it.
pub struct Lab {
    // In the order in which they have to end: what runs in a namespace before its thread.
    _loads: Vec<Load>,
    _servers: Vec<Servers>,
    gluetun: Gluetun,
    _provider: Provider,
    _program: stack::Program,
    topology: Topology,
    journal: Journal,
    resolv_conf: PathBuf,
    ca: PathBuf,
    variant: Variant,
}

impl Lab {
    /// Makes a lab; the calling thread's network namespace, empty until now, becomes its home. One lab to a process.
    ///
    /// # Errors
    /// When a part of it cannot be made.
    pub fn start(world: &PrivateDir, spec: LabSpec) -> Result<Self, LabError> {
        if let Some(leak) = spec.leak.as_ref().filter(|leak| leak.needs_containers()) {
            return Err(LabError::NeedsContainers(leak.id.clone()));
        }
        if spec.quality() != Quality::default() && spec.variant.protocol != Protocol::Wireguard {
            return Err(LabError::Refused("the lab has a bad line for WireGuard alone".to_owned()));
        }
        if let Some(reason) = spec.leak.as_ref().and_then(|leak| spec.variant.refuses(leak)) {
            return Err(LabError::Refused(reason));
        }
        let ipv6 = spec.variant.ipv6();
        let topology = Topology::build(spec.variant.home)?;
        let second = spec.leak.iter().flat_map(Leak::actions).any(|action| *action == Action::SecondNetwork {});
        topology.add_networks(spec.variant.networks.more().max(second.into()))?;
        let journal = Journal::new();
        let authority = LabCa::new()?;
        let ca = world.write("lab-ca.pem", &authority.pem()).map_err(|e| LabError::File("lab-ca.pem", e))?;
        let resolv_conf = world.write("stack-resolv.conf", "").map_err(|e| LabError::File("stack-resolv.conf", e))?;
        let mut servers = vec![start_internet(&topology.internet, authority, &journal, &spec)?];
        servers.extend(start_home(&topology, &journal, spec.variant.home)?);
        if spec.variant.silent_pings {
            for realm in [&topology.internet, &topology.isp, &topology.provider] {
                realm.call(topology::ignore_pings)??;
            }
        }
        let (server_key, client_key) = (PrivateKey::generate(), PrivateKey::generate());
        let server_public = server_key.public();
        let (provider, resolver) =
            start_provider(&topology.provider, server_key, client_key.public(), &spec, &journal)?;
        servers.push(resolver);
        let config = GluetunConfig {
            private_key: client_key,
            server_key: server_public,
            protocol: spec.variant.protocol,
            endpoint: spec.variant.endpoint(),
            next: spec.variant.another_server.then(|| plan::socket(plan::OTHER_ENDPOINT)),
            addresses: of_families(&[plan::CLIENT, plan::CLIENT_V6], ipv6),
            uplink: plan::UPLINK.to_owned(),
            more_uplinks: spec.variant.more_uplinks(),
            tunnel: plan::TUNNEL.to_owned(),
            mtu: plan::TUNNEL_MTU,
            outbound: vec![plan::net(spec.variant.home.lan())],
            input_ports: Vec::new(),
            resolv_conf: resolv_conf.clone(),
            routing: spec.variant.routing,
            firewall: spec.variant.firewall,
            leak: spec.leak.clone(),
            apart: spec.apart.clone(),
        };
        let (gluetun, stack) = start_stack(&topology.stack, config, spec.habits.clone(), &journal)?;
        servers.push(stack);
        if !spec.leak.as_ref().is_some_and(Leak::without_tunnel) {
            let waiting = gluetun.clone();
            let bad = spec.quality() != Quality::default();
            let patience = if bad { PATIENCE_ON_BAD_LINE } else { PATIENCE };
            if !topology.stack.run(move || async move { waiting.connected(patience).await })?? {
                return Err(LabError::NotConnected);
            }
        }
        let powers: Vec<Capability> = spec.leak.iter().flat_map(Leak::actions).fold(Vec::new(), |mut all, action| {
            if let Action::Power { capabilities } = action {
                all.extend(capabilities);
            }
            all
        });
        let of_its_own = spec.leak.iter().flat_map(Leak::actions).find_map(|action| match action {
            Action::OwnResolvConf { nameservers } => Some(stack::resolv_conf(nameservers)),
            _ => None,
        });
        let shared = || std::fs::read_to_string(&resolv_conf).map_err(|e| LabError::File("stack-resolv.conf", e));
        let resolvers = of_its_own.map_or_else(shared, Ok)?;
        let program =
            topology.stack.call(move || stack::Program::start(&powers, &resolvers))?.map_err(LabError::Program)?;
        servers.extend(start_outside(&topology, spec.leak.as_ref(), &journal)?);
        servers.extend(start_conditions(&topology, &spec)?);
        let loads = start_loads(&topology, &spec)?;
        Ok(Self {
            _loads: loads,
            _servers: servers,
            gluetun,
            _provider: provider,
            _program: program,
            topology,
            journal,
            resolv_conf,
            ca,
            variant: spec.variant,
        })
    }

    /// The stack, to be stopped and started.
    #[must_use]
    pub fn stack(&self) -> &Gluetun {
        &self.gluetun
    }

    /// The lab's namespaces.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// What reached the lab's servers, and from where.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The stack's network namespace, for this and other processes of the same user namespace.
    #[must_use]
    pub fn stack_netns(&self) -> PathBuf {
        self.topology.stack.netns().path()
    }

    /// The resolv.conf of the stack's programs.
    #[must_use]
    pub fn stack_resolv_conf(&self) -> &Path {
        &self.resolv_conf
    }

    /// The certificate authority of the lab's web servers, PEM.
    #[must_use]
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    /// Gluetun's control server, as the stack's namespace reaches it.
    #[must_use]
    pub fn control_server(&self) -> &'static str {
        "http://127.0.0.1:8000"
    }

    /// A `leakcheck.toml` for this lab.
    #[must_use]
    pub fn config_toml(&self) -> String {
        let [lan, neighbour, stack] = self.variant.home.services();
        let list = |values: &[&str]| {
            let quoted: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
            format!("[{}]", quoted.join(", "))
        };
        let six = |always: &[&'static str], ipv6: &[&'static str]| {
            let mut values = always.to_vec();
            values.extend(ipv6.iter().filter(|_| self.variant.ipv6()));
            list(&values)
        };
        format!(
            r#"[target]
netns = {netns:?}
resolv_conf = {resolv_conf:?}
[vpn]
provider = "mullvad"
interface = "{tunnel}"
endpoint = "{endpoint}"
exit = {exit}
[home]
ip = {home}
[local]
subnets = {subnets}
must_reach = [{lan:?}, {neighbour:?}]
must_not_reach = ["tcp://{management}"]
must_serve = [{stack:?}]
[echo]
http = ["https://am.i.mullvad.net/json", "https://api.ipify.org?format=json"]
stun = ["stun.l.google.com:19302", "stun.cloudflare.com:3478"]
dht = ["router.bittorrent.com:6881", "dht.transmissionbt.com:6881"]
tracker = ["http://tracker.opentrackr.org:1337/announce", "udp://tracker.opentrackr.org:1337/announce"]
source_ports = [6881]
dns = ["whoami.akamai.net"]
extra_ca = {ca:?}
[dns]
resolvers = ["127.0.0.1", "10.64.0.1"]
forced = {forced}
forced_policy = "no-escape"
canary = "example.com"
[outage]
methods = ["vpn-stop", "link-down", "endpoint-block"]
window = "2500ms"
recovery_timeout = "30s"
control_server = "{control}"
down = ["/proc/self/exe", "lab", "vpn", "stopped"]
up = ["/proc/self/exe", "lab", "vpn", "running"]
"#,
            netns = self.stack_netns(),
            resolv_conf = self.stack_resolv_conf(),
            management = SocketAddr::new(plan::ip(self.variant.home.management()), 22),
            tunnel = plan::TUNNEL,
            endpoint = self.variant.endpoint(),
            forced = six(&["8.8.8.8", "1.1.1.1"], &["2001:4860:4860::8888"]),
            exit = six(&[plan::EXIT_NETS[0]], &[plan::EXIT_NETS[1]]),
            home = list(&self.variant.home.public()),
            subnets = list(&self.variant.local()),
            ca = self.ca,
            control = self.control_server(),
        )
    }
}

fn of_families(texts: &[&str], ipv6: bool) -> Vec<IpNet> {
    texts.iter().map(|text| plan::net(text)).filter(|net| ipv6 || net.addr().is_ipv4()).collect()
}

fn start_internet(realm: &Realm, ca: LabCa, journal: &Journal, spec: &LabSpec) -> Result<Servers, LabError> {
    let (journal, ipv6, mut odd) = (journal.clone(), spec.variant.ipv6(), spec.odd.clone());
    odd.extend(spec.circumstances().filter_map(|part| match part {
        Circumstance::Down { host, .. } => OddWitness::silent_name(host),
        _ => None,
    }));
    Ok(realm.call(move || {
        let provider = of_families(&plan::EXIT_NETS, ipv6);
        internet::run(&InternetConfig { ipv6, provider, ca: &ca, journal, odd: &odd })
    })??)
}

/// The ISP's resolver, the LAN's web server and the neighbour's.
fn start_home(topology: &Topology, journal: &Journal, home: Home) -> Result<Vec<Servers>, LabError> {
    let written = journal.clone();
    let isp = topology.isp.call(move || -> Result<Servers, ServerError> {
        let mut servers = Servers::default();
        for address in [plan::ISP_RESOLVER, plan::ISP_RESOLVER_V6].map(plan::ip) {
            if home.has(address) {
                servers.dns(&[address], None, internet::recursor("isp resolver", &written, address))?;
            }
        }
        Ok(servers)
    })??;
    let mut all = vec![isp];
    let page = HttpWitness::page("router administration", journal.clone(), "router");
    all.push(topology.home.call(move || -> Result<Servers, LabError> {
        let management = plan::ip(home.management());
        topology::own(&[management]).map_err(TopologyError::from)?;
        let mut servers = Servers::default();
        servers.http(&page, (management, 22).into(), None)?;
        Ok(servers)
    })??);
    for (realm, name, port) in [(&topology.lan_host, "lan web", 80), (&topology.neighbour, "neighbour web", 8989)] {
        let witness = HttpWitness::page(name, journal.clone(), name);
        all.push(realm.call(move || -> Result<Servers, ServerError> {
            let mut servers = Servers::default();
            servers.http(&witness, (Ipv6Addr::UNSPECIFIED, port).into(), None)?;
            Ok(servers)
        })??);
    }
    Ok(all)
}

fn start_provider(
    realm: &Realm,
    private_key: PrivateKey,
    client: [u8; 32],
    spec: &LabSpec,
    journal: &Journal,
) -> Result<(Provider, Servers), LabError> {
    let ipv6 = spec.variant.ipv6();
    let mut exits = vec![plan::ip(plan::EXIT), plan::ip(plan::EXIT_V6)];
    for action in spec.leak.iter().flat_map(Leak::actions) {
        if let Action::Exit { v4, v6 } = action {
            exits = vec![*v4, *v6];
        }
    }
    exits.retain(|ip| ipv6 || ip.is_ipv4());
    let config = ProviderConfig {
        private_key,
        protocol: spec.variant.protocol,
        port: spec.variant.endpoint().port(),
        uplink: "eth0".to_owned(),
        mtu: plan::TUNNEL_MTU,
        addresses: vec![IpNet::from(plan::ip(plan::TUNNEL_RESOLVER))],
        clients: vec![(client, of_families(&[plan::CLIENT, plan::CLIENT_V6], ipv6))],
        exits,
        line: spec.quality(),
    };
    let provider = realm.run(move || async move { provider::run(&config).await })??;
    let journal = journal.clone();
    let resolver = realm.call(move || -> Result<Servers, ServerError> {
        let mut servers = Servers::default();
        let answerer = internet::recursor("provider resolver", &journal, plan::ip(plan::EXIT));
        servers.dns(&[plan::ip(plan::TUNNEL_RESOLVER)], None, answerer)?;
        servers.task(async {
            let port = plan::socket(plan::ENDPOINT).port();
            if let Err(error) = provider::relay(plan::socket(plan::OTHER_ENDPOINT), port).await {
                eprintln!("lab: failed to relay to the VPN server: {error}");
            }
        });
        Ok(servers)
    })??;
    Ok((provider, resolver))
}

fn start_stack(
    realm: &Realm,
    config: GluetunConfig,
    habits: Vec<Habit>,
    journal: &Journal,
) -> Result<(Gluetun, Servers), LabError> {
    let journal = journal.clone();
    let leak = config.leak.clone();
    let dead = leak.as_ref().is_some_and(Leak::has_dead_resolver);
    let original = leak.as_ref().and_then(Leak::asked_for_local_names);
    let also = leak.as_ref().and_then(Leak::also_asked);
    realm.run(move || async move {
        let uplink = Uplink::discover(&config.uplink).map_err(StackError::from)?;
        let gluetun = stack::run_gluetun(config).await?;
        let services = stack::ServiceConfig {
            version: Version::V3_41,
            roles: Vec::new(),
            habits,
            upstream: (!dead).then(|| SocketAddr::new(plan::ip(plan::TUNNEL_RESOLVER), 53)),
            original,
            also,
            echo: (SocketAddr::new(plan::ip(plan::WEB[1].1), 80), plan::WEB[1].0.to_owned()),
            health: SocketAddr::new(plan::ip(plan::RECURSORS[2]), 443),
            journal: journal.clone(),
        };
        let mut addresses: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        addresses.extend(uplink.addresses.iter().map(IpNet::addr));
        let mut servers = stack::serve(&gluetun, services, &addresses)?;
        let peers = journal.clone();
        let page = HttpWitness::page("stack web", journal, "qBittorrent");
        servers.http(&page, (Ipv6Addr::UNSPECIFIED, 8080).into(), None)?;
        for action in leak.iter().flat_map(Leak::actions) {
            if let Action::TorrentClient { listen } = action {
                servers.torrent_client(*listen, peers.clone())?;
            }
        }
        Ok((gluetun, servers))
    })?
}

/// Those who do not answer, and those who talk too much.
fn start_conditions(topology: &Topology, spec: &LabSpec) -> Result<Vec<Servers>, LabError> {
    let mut all = Vec::new();
    let stack: Vec<IpAddr> = plan::stack().of(spec.variant.home).addresses.iter().map(IpNet::addr).collect();
    for part in spec.circumstances() {
        match part {
            Circumstance::Down { host, proto } => {
                let addresses = plan::witness(host);
                if addresses.is_empty() && OddWitness::silent_name(host).is_none() {
                    let unknown = io::Error::new(io::ErrorKind::NotFound, format!("there is no witness {host}"));
                    return Err(LabError::Condition("a witness is down", unknown));
                }
                let proto = *proto;
                topology.internet.call(move || silence(&addresses, proto))??;
            }
            Circumstance::Chatter { every_ms } => {
                let every = Duration::from_millis(*every_ms);
                let failed = |e| LabError::Condition("neighbours that chatter", e);
                let about = stack.clone();
                let said = topology.neighbour.call(move || chatter::broadcast(plan::UPLINK, &about, every))?;
                all.push(said.map_err(failed)?);
                // The LAN's host has IPv4 only, and the neighbour no public IPv6.
                let near = |ip: &IpAddr| *ip != plan::ip(plan::STACK_GUA);
                for (realm, v6) in [(&topology.neighbour, true), (&topology.lan_host, false)] {
                    let at: Vec<IpAddr> = stack.iter().copied().filter(|ip| near(ip) && (v6 || ip.is_ipv4())).collect();
                    all.push(realm.call(move || chatter::pester(&at, every))?.map_err(failed)?);
                }
            }
            Circumstance::Load { .. } | Circumstance::Line { .. } => {}
        }
    }
    Ok(all)
}

/// Lets the machines at `addresses` answer nothing, or nothing over `proto`. They are of the calling thread's namespace.
fn silence(addresses: &[IpAddr], proto: Option<Transport>) -> Result<(), NftError> {
    let table = Table::new(TableFamily::Inet, "down");
    let mut batch = Batch::new();
    batch.add_table(&table);
    batch.add_chain(&table, &Chain::filter("input", HookPoint::Input, Policy::Accept));
    for ip in addresses {
        let mut rule = Rule::new(Verdict::Drop).when(Match::Destination((*ip).into()));
        if let Some(proto) = proto {
            rule = rule.when(Match::Protocol(stack::protocol(proto, Family::of(*ip))));
        }
        batch.append_rule(&table, "input", &rule);
    }
    Nft::open()?.commit(batch)
}

fn start_loads(topology: &Topology, spec: &LabSpec) -> Result<Vec<Load>, LabError> {
    let peers: Vec<IpAddr> = [plan::PEER, plan::PEER_V6]
        .map(plan::ip)
        .into_iter()
        .filter(|ip| spec.variant.ipv6() || ip.is_ipv4())
        .collect();
    let between = (topology.internet.netns(), topology.stack.netns());
    let mut all = Vec::new();
    for part in spec.circumstances() {
        if let Circumstance::Load { tcp, udp } = part {
            all.push(Load::start(between, plan::TUNNEL, &peers, (*tcp, *udp))?);
        }
    }
    Ok(all)
}

/// Resolvers of a leak that are reached in one namespace and ask from the home's: a socket stays where it was made.
fn start_outside(topology: &Topology, leak: Option<&Leak>, journal: &Journal) -> Result<Vec<Servers>, LabError> {
    let mut all = Vec::new();
    for action in leak.into_iter().flat_map(Leak::actions) {
        if let Action::PortMapper { listen, external } = action {
            let (listen, external) = (*listen, *external);
            all.push(topology.home.call(move || port_mapper::serve(listen, external))??);
        }
        if let Action::Publish { port } = action {
            let port = *port;
            topology.home.call(move || topology::publish(port).map_err(TopologyError::from))??;
        }
        if let Action::RouterAdvertisement { every_ms } = action {
            let every = Duration::from_millis(*every_ms);
            let to = topology.stack.call(|| advertisement::link_local(plan::UPLINK))?.map_err(TopologyError::from)?;
            all.push(topology.home.call(move || advertisement::serve("br0", to, every))??);
        }
        let Action::OutsideResolver { at, listen, upstream } = action else { continue };
        let (listen, upstream) = (*listen, *upstream);
        let realm = match at {
            Place::Stack => &topology.stack,
            Place::Home => &topology.home,
        };
        let failed = move |e| ServerError::Bind(listen, e);
        let (udp, tcp) = realm.call(move || -> Result<_, ServerError> {
            let udp = std::net::UdpSocket::bind(listen).map_err(failed)?;
            let tcp = std::net::TcpListener::bind(listen).map_err(failed)?;
            udp.set_nonblocking(true).and_then(|()| tcp.set_nonblocking(true)).map_err(failed)?;
            Ok((udp, tcp))
        })??;
        let journal = journal.clone();
        all.push(topology.home.call(move || -> Result<Servers, ServerError> {
            let mut servers = Servers::default();
            let sockets = Sockets {
                udp: vec![tokio::net::UdpSocket::from_std(udp).map_err(failed)?],
                tcp: vec![tokio::net::TcpListener::from_std(tcp).map_err(failed)?],
                tls: Vec::new(),
            };
            let upstream = Upstream { server: upstream, from: None };
            servers.dns_on(sockets, Arc::new(Forwarder::new("outside resolver", journal, upstream)));
            Ok(servers)
        })??);
    }
    Ok(all)
}
