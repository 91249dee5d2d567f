//! The lab's wires: seven network namespaces, the links between them, their addresses and routes.
//!
//! ```text
//! lanhost ─ lan0 ┐                                ┌─ internet (every public address that a probe asks)
//! stack ── br0 ──┤ home ─ wan0 ──────────── isp ──┤
//! neighbour ─────┘   (NAT44, routes IPv6)         └─ provider (WireGuard endpoint, exits)
//! ```

use super::plan::{self, End};
use super::realm::{Realm, RealmError};
use super::variant::Home;
use crate::net::netns::{Netns, NetnsError};
use crate::net::nft::{Batch, Chain, HookPoint, Match, Nft, NftError, Rule, Table, TableFamily, Verdict};
use crate::net::route::{Family, RouteError, RouteSpec, Rtnetlink, wait_ready};
use crate::net::sysctl::{self, SysctlError};
use std::net::IpAddr;
use std::time::Duration;

/// How long a link may take to carry packets; the kernel's link watcher works once a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the lab's wires could not be laid.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// A namespace or its thread.
    #[error("make the lab's namespaces")]
    Realm(#[from] RealmError),
    /// The namespace of the calling process.
    #[error("make the lab's home")]
    Home(#[from] NetnsError),
    /// Links, addresses or routes.
    #[error("lay the lab's wires")]
    Route(#[from] RouteError),
    /// The home's address translation.
    #[error("set up the home's address translation")]
    Nat(#[from] NftError),
    /// Forwarding and the like.
    #[error("configure a namespace")]
    Sysctl(#[from] SysctlError),
}

/// The lab's namespaces, wired.
pub struct Topology {
    /// The stack, whose uplink has its addresses; nothing runs in it yet.
    pub stack: Realm,
    /// Another container on the bridge.
    pub neighbour: Realm,
    /// A host of the LAN.
    pub lan_host: Realm,
    /// The home, in which the calling process stands too.
    pub home: Realm,
    /// The ISP.
    pub isp: Realm,
    /// Everybody else.
    pub internet: Realm,
    /// The VPN provider's machine.
    pub provider: Realm,
}

impl Topology {
    /// Makes the namespaces and wires them. The calling thread's namespace becomes the home.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn build(home: Home) -> Result<Self, TopologyError> {
        let topology = Self {
            stack: Realm::create("stack")?,
            neighbour: Realm::create("neighbour")?,
            lan_host: Realm::create("lanhost")?,
            home: Realm::of("home", Netns::current()?)?,
            isp: Realm::create("isp")?,
            internet: Realm::create("internet")?,
            provider: Realm::create("provider")?,
        };
        for realm in topology.realms() {
            realm.call(prepare)??;
        }
        topology.wire()?;
        topology.address(home)?;
        topology.wait()?;
        topology.route(home)?;
        Ok(topology)
    }

    /// Puts the stack on more networks of the home, as more Docker networks do.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_networks(&self, number: usize) -> Result<(), TopologyError> {
        let ends = plan::more_bridges().into_iter().zip(plan::more_stacks());
        for (metric, ((network, link), (bridge, end))) in
            (1000..).zip(plan::MORE_NETS.into_iter().zip(ends)).take(number)
        {
            let stack = self.stack.netns().duplicate()?;
            self.home.call(move || -> Result<(), TopologyError> {
                let mut netlink = Rtnetlink::open()?;
                let own = format!("veth-{link}");
                netlink.add_veth(&own, link, &stack)?;
                plug(&own, &bridge)?;
                let mut batch = Batch::new();
                masquerade(&mut batch, network, "wan0");
                Ok(Nft::open()?.commit(batch)?)
            })??;
            self.stack.call(move || -> Result<(), RouteError> {
                plug(link, &End { gateways: Vec::new(), ..end.clone() })?;
                let mut netlink = Rtnetlink::open()?;
                end.gateways.iter().try_for_each(|gateway| {
                    // Docker gives one network the default route; the others' are there only for what binds to them.
                    let route = RouteSpec::via(Family::of(*gateway).everything(), *gateway);
                    netlink.add_route(&route.dev(link).metric(metric))
                })?;
                wait_ready(&[link], PATIENCE)
            })??;
        }
        Ok(())
    }

    fn realms(&self) -> [&Realm; 7] {
        [&self.stack, &self.neighbour, &self.lan_host, &self.home, &self.isp, &self.internet, &self.provider]
    }

    fn wire(&self) -> Result<(), TopologyError> {
        let handles = [&self.stack, &self.neighbour, &self.lan_host, &self.isp].map(|realm| realm.netns().duplicate());
        let [stack, neighbour, lan_host, isp] = handles;
        let (stack, neighbour, lan_host, isp) = (stack?, neighbour?, lan_host?, isp?);
        self.home.call(move || -> Result<(), RouteError> {
            let mut netlink = Rtnetlink::open()?;
            netlink.add_bridge("br0")?;
            for (port, peer) in [("veth-stack", &stack), ("veth-neigh", &neighbour)] {
                netlink.add_veth(port, plan::UPLINK, peer)?;
                netlink.set_bridge(port, "br0")?;
                netlink.set_link(port, true)?;
            }
            netlink.add_veth("lan0", "eth0", &lan_host)?;
            netlink.add_veth("wan0", "home0", &isp)
        })??;
        let (internet, provider) = (self.internet.netns().duplicate()?, self.provider.netns().duplicate()?);
        self.isp.call(move || -> Result<(), RouteError> {
            let mut netlink = Rtnetlink::open()?;
            netlink.add_veth("inet0", "eth0", &internet)?;
            netlink.add_veth("vpn0", "eth0", &provider)
        })??;
        Ok(())
    }

    fn address(&self, home: Home) -> Result<(), TopologyError> {
        let ipv6 = home != Home::Ipv4;
        for (realm, link, end) in [
            (&self.home, "lan0", plan::lan_router().of(home)),
            (&self.home, "wan0", plan::home_line().of(home)),
            (&self.isp, "home0", plan::isp_line()),
            (&self.isp, "vpn0", plan::isp_provider()),
            (&self.isp, "inet0", plan::isp_backbone()),
            (&self.internet, "eth0", plan::internet()),
            (&self.provider, "eth0", plan::provider()),
            (&self.lan_host, "eth0", plan::lan_host().of(home)),
            (&self.neighbour, plan::UPLINK, plan::neighbour().of(home)),
            (&self.stack, plan::UPLINK, plan::stack().of(home)),
        ] {
            let end = end.families(ipv6);
            realm.call(move || plug(link, &end))??;
        }
        // A bridge that comes up when its ports work already does so at once, otherwise within a second.
        let bridge = plan::bridge().of(home);
        self.home.call(move || {
            wait_ready(&["veth-stack", "veth-neigh"], PATIENCE)?;
            plug("br0", &bridge)
        })??;
        Ok(())
    }

    /// A packet that is lost while a link is not ready costs WireGuard's first handshake, and that five seconds.
    fn wait(&self) -> Result<(), TopologyError> {
        for (realm, links) in [
            (&self.home, &["br0", "lan0", "wan0"][..]),
            (&self.isp, &["home0", "inet0", "vpn0"]),
            (&self.internet, &["eth0"]),
            (&self.provider, &["eth0"]),
            (&self.lan_host, &["eth0"]),
            (&self.neighbour, &[plan::UPLINK]),
            (&self.stack, &[plan::UPLINK]),
        ] {
            realm.call(move || wait_ready(links, PATIENCE))??;
        }
        Ok(())
    }

    fn route(&self, home: Home) -> Result<(), TopologyError> {
        let ipv6 = home != Home::Ipv4;
        self.home.call(move || -> Result<(), TopologyError> {
            router(ipv6)?;
            translate("wan0")?;
            // Without a network of its own over IPv6 the home translates there too, as Docker does.
            if home == Home::Ula {
                translate_ipv6("wan0")?;
            }
            Ok(())
        })??;
        self.isp.call(move || -> Result<(), TopologyError> {
            router(ipv6)?;
            let mut netlink = Rtnetlink::open()?;
            let mut routes = vec![(plan::net(plan::FOREIGN_NET), plan::ip("198.51.100.2"))];
            if ipv6 {
                routes.push((plan::net(plan::BRIDGE_GUA), plan::ip("2001:db8:113::10")));
                routes.push((plan::net("2001:db8:bad::/64"), plan::ip("2001:db8:51::2")));
            }
            for (network, gateway) in routes {
                netlink.add_route(&RouteSpec::via(network, gateway))?;
            }
            Ok(())
        })??;
        Ok(())
    }
}

/// What a new namespace takes over from the host, or from the kernel's defaults, and what would be in the way.
const SETTINGS: &[(&str, &str)] = &[
    // Link-local addresses are usable at once, without a second of asking for duplicates.
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    // Nobody on the network makes routes of the stack.
    ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv6/conf/default/accept_redirects", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    // A strict host would drop WireGuard's packets: by the unmarked route their sender is behind the tunnel.
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
];

/// What every namespace needs before it has links.
fn prepare() -> Result<(), TopologyError> {
    for (setting, value) in SETTINGS {
        sysctl::set(setting, value)?;
    }
    Ok(Rtnetlink::open()?.set_link("lo", true)?)
}

/// Gives a link of the calling thread's namespace its addresses, brings it up, and makes its gateways the way to
/// everything else.
///
/// # Errors
/// When the kernel refuses.
pub fn plug(link: &str, end: &End) -> Result<(), RouteError> {
    let mut netlink = Rtnetlink::open()?;
    for address in &end.addresses {
        netlink.add_address(link, *address)?;
    }
    netlink.set_link(link, true)?;
    for gateway in &end.gateways {
        netlink.add_route(&RouteSpec::via(Family::of(*gateway).everything(), *gateway).dev(link))?;
    }
    Ok(())
}

/// Makes the calling thread's namespace forward packets.
///
/// # Errors
/// When the kernel's settings cannot be changed.
pub fn router(ipv6: bool) -> Result<(), TopologyError> {
    sysctl::set("ipv4/ip_forward", "1")?;
    if ipv6 {
        sysctl::set("ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

/// Has the calling thread's namespace answer no echo requests.
///
/// # Errors
/// When the kernel's settings cannot be changed.
pub fn ignore_pings() -> Result<(), TopologyError> {
    sysctl::set("ipv4/icmp_echo_ignore_all", "1")?;
    Ok(sysctl::set("ipv6/icmp/echo_ignore_all", "1")?)
}

/// Lets bridge and LAN go out by `line` under its address, in the calling thread's namespace.
///
/// # Errors
/// When the kernel refuses.
pub fn translate(line: &str) -> Result<(), NftError> {
    let table = Table::new(TableFamily::Ip, "home");
    let mut batch = Batch::new();
    batch.add_table(&table);
    batch.add_chain(&table, &Chain::source_nat("nat"));
    for network in [plan::BRIDGE_NET, plan::LAN_NET] {
        masquerade(&mut batch, network, line);
    }
    Nft::open()?.commit(batch)
}

/// Lets the bridge's private IPv6 network go out by `line` under its address.
fn translate_ipv6(line: &str) -> Result<(), NftError> {
    let table = Table::new(TableFamily::Ip6, "home");
    let mut batch = Batch::new();
    batch.add_table(&table);
    batch.add_chain(&table, &Chain::source_nat("nat"));
    let rule = Rule::new(Verdict::Masquerade).when(Match::Source(plan::net(plan::BRIDGE_ULA)));
    batch.append_rule(&table, "nat", &rule.when(Match::Output(line.to_owned())));
    Nft::open()?.commit(batch)
}

/// Hands what comes for that port of the home's address to the stack, in the calling thread's namespace; its own packets too.
///
/// # Errors
/// When the kernel refuses.
pub fn publish(port: u16) -> Result<(), NftError> {
    let table = Table::new(TableFamily::Ip, "published");
    let mut batch = Batch::new();
    batch.add_table(&table);
    for (chain, hook) in [("from-outside", HookPoint::Prerouting), ("from-here", HookPoint::Output)] {
        batch.add_chain(&table, &Chain::destination_nat(chain, hook));
        for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
            let rule = Rule::new(Verdict::DestinationNat(plan::ip(plan::STACK)))
                .when(Match::Destination(plan::ip(plan::HOME).into()))
                .when(Match::Protocol(protocol as u8))
                .when(Match::DestinationPorts(port, port));
            batch.append_rule(&table, chain, &rule);
        }
    }
    Nft::open()?.commit(batch)
}

fn masquerade(batch: &mut Batch, network: &str, line: &str) {
    let rule = Rule::new(Verdict::Masquerade).when(Match::Source(plan::net(network)));
    let table = Table::new(TableFamily::Ip, "home");
    batch.append_rule(&table, "nat", &rule.when(Match::Output(line.to_owned())));
}

/// Puts addresses on the loopback of the calling thread's namespace, so that it answers for them.
///
/// # Errors
/// When the kernel refuses.
pub fn own(addresses: &[IpAddr]) -> Result<(), RouteError> {
    let mut netlink = Rtnetlink::open()?;
    addresses.iter().try_for_each(|address| netlink.add_address("lo", (*address).into()))
}
