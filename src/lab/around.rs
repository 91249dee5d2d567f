//! What a lab consists of beside its stack, each part started in the namespace that it belongs to: the internet and its witnesses, the home,
//! the provider, the stack's own services, and the conditions under which all of that is.

use super::advertisement;
use super::chatter;
use super::condition::Circumstance;
use super::gluetun::{Habit, Version};
use super::internet::{self, InternetConfig, ServerError, Servers};
use super::leak::{Action, Leak, Place, Transport};
use super::load::Load;
use super::odd::OddWitness;
use super::plan;
use super::port_mapper;
use super::provider::{self, Provider, ProviderConfig};
use super::qbittorrent::{self, Qbittorrent, Release};
use super::realm::Realm;
use super::run::{LabError, LabSpec, of_families};
use super::stack::{self, Gluetun, GluetunConfig, StackError, Uplink};
use super::topology::{self, Topology, TopologyError};
use super::variant::Home;
use super::wireguard::PrivateKey;
use super::witness::dns::{Forwarder, Sockets, Upstream};
use super::witness::{HttpWitness, Journal, LabCa};
use crate::net::nft::{Batch, Chain, HookPoint, Match, Nft, NftError, Policy, Rule, Table, TableFamily, Verdict};
use crate::net::route::Family;
use ipnet::IpNet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub(super) fn start_internet(realm: &Realm, ca: LabCa, journal: &Journal, spec: &LabSpec) -> Result<Servers, LabError> {
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
pub(super) fn start_home(topology: &Topology, journal: &Journal, home: Home) -> Result<Vec<Servers>, LabError> {
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

pub(super) fn start_provider(
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

pub(super) fn start_stack(
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
            control: stack::CONTROL,
            roles: Vec::new(),
            habits,
            forwarded: leak.as_ref().and_then(Leak::forwarded_port),
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
        let settings = qbittorrent::Settings::of(leak.as_ref());
        let client = Qbittorrent::new(settings, Release::default(), "stack web", journal);
        client.start(&mut servers, (Ipv6Addr::UNSPECIFIED, plan::WEB_UI).into())?;
        for action in leak.iter().flat_map(Leak::actions) {
            if let Action::TorrentClient { listen } = action {
                servers.torrent_client(*listen, peers.clone())?;
            }
        }
        Ok((gluetun, servers))
    })?
}

/// Has those who are down answer nobody, from before anybody asks them.
pub(super) fn take_down(internet: &Realm, spec: &LabSpec) -> Result<(), LabError> {
    for part in spec.circumstances() {
        if let Circumstance::Down { host, proto } = part {
            let addresses = plan::witness(host);
            if addresses.is_empty() && OddWitness::silent_name(host).is_none() {
                let unknown = io::Error::new(io::ErrorKind::NotFound, format!("there is no witness {host}"));
                return Err(LabError::Condition("a witness is down", unknown));
            }
            let proto = *proto;
            internet.call(move || silence(&addresses, proto))??;
        }
    }
    Ok(())
}

/// Those who talk too much.
pub(super) fn start_chatter(topology: &Topology, spec: &LabSpec) -> Result<Vec<Servers>, LabError> {
    let mut all = Vec::new();
    let stack: Vec<IpAddr> = plan::stack().of(spec.variant.home).addresses.iter().map(IpNet::addr).collect();
    for part in spec.circumstances() {
        let Circumstance::Chatter { every_ms } = part else { continue };
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

pub(super) fn start_loads(topology: &Topology, spec: &LabSpec) -> Result<Vec<Load>, LabError> {
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
pub(super) fn start_outside(
    topology: &Topology,
    leak: Option<&Leak>,
    journal: &Journal,
) -> Result<Vec<Servers>, LabError> {
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
