//! The lab's addresses: which wire is where, and who answers under which address.
//!
//! Public addresses are those of RFC 5737 and RFC 3849 where it does not matter, and the well-known ones where a probe
//! asks for them by name or number. None of them ever leaves the lab's own namespaces.

use super::variant::Home;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An address or network written in this file; a mistake shows in every test at once.
fn parse<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().unwrap_or_else(|error| panic!("the plan's address {text} is malformed: {error:?}"))
}

/// Name of the stack's uplink, as Docker calls it.
pub const UPLINK: &str = "eth0";
/// Name of the stack's tunnel, as Gluetun calls it.
pub const TUNNEL: &str = "tun0";
/// Gluetun's WireGuard MTU (v3.40 and v3.41), in bytes.
pub const TUNNEL_MTU: u16 = 1320;

/// The home's Docker-like bridge.
pub const BRIDGE_NET: &str = "172.18.0.0/16";
/// The home's LAN, which Gluetun is told of as an outbound subnet.
pub const LAN_NET: &str = "192.168.1.0/24";
/// The same over IPv6, in a home that has nothing else.
pub const LAN_NET_V6: &str = "fd01::/64";
/// The router's address in the home's network for administration, which is no outbound subnet.
pub const MANAGEMENT: &str = "10.99.0.1";
/// The same over IPv6, in a home that has nothing else.
pub const MANAGEMENT_V6: &str = "fd99::1";
/// The bridge's private IPv6 network.
pub const BRIDGE_ULA: &str = "fd18::/64";
/// The bridge's public IPv6 network, which the ISP routes to the home.
pub const BRIDGE_GUA: &str = "2001:db8:18::/64";
/// More Docker networks of the home, which the stack is on in a leak and in variants, and its links to them.
pub const MORE_NETS: [(&str, &str); 2] = [("172.19.0.0/16", "eth1"), ("172.20.0.0/16", "eth2")];
/// The home's address in the network of its ISP over IPv6, behind which a private network is.
pub const HOME_V6: &str = "2001:db8:113::10";
/// The ISP's resolver, the one that a home's router hands out.
pub const ISP_RESOLVER: &str = "203.0.113.53";
/// The same over IPv6.
pub const ISP_RESOLVER_V6: &str = "2001:db8:113::53";
/// The ISP's line, on which the home's public address is.
pub const HOME_NET: &str = "203.0.113.0/24";
/// The home's public address.
pub const HOME: &str = "203.0.113.10";
/// The stack's address on the bridge.
pub const STACK: &str = "172.18.0.10";
/// The stack's public IPv6 address, which is as good as the home's.
pub const STACK_GUA: &str = "2001:db8:18::10";
/// The neighbour on the bridge.
pub const NEIGHBOUR: &str = "172.18.0.20";
/// The web server on the LAN.
pub const LAN_HOST: &str = "192.168.1.50";
/// The VPN server.
pub const ENDPOINT: &str = "198.51.100.2:51820";
/// The same machine over IPv6.
pub const ENDPOINT_V6: &str = "[2001:db8:51::2]:51820";
/// Its ports for OpenVPN.
pub const OPENVPN_UDP_PORT: u16 = 1194;
/// The same over TCP.
pub const OPENVPN_TCP_PORT: u16 = 443;
/// Another VPN server of the provider, for a stack that takes a new one when it is started again.
pub const OTHER_ENDPOINT: &str = "198.51.100.2:51821";
/// Where tunnelled traffic comes out.
pub const EXIT: &str = "198.51.100.3";
/// The same over IPv6.
pub const EXIT_V6: &str = "2001:db8:51::3";
/// The provider's exit networks.
pub const EXIT_NETS: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/64"];
/// Where [`FOREIGN_EXIT`] is.
pub const FOREIGN_NET: &str = "198.19.0.0/24";
/// An exit that belongs neither to the home nor to the provider, but is routed to the provider's machine.
pub const FOREIGN_EXIT: &str = "198.19.0.3";
/// The same over IPv6.
pub const FOREIGN_EXIT_V6: &str = "2001:db8:bad::3";
/// The provider's resolver inside the tunnel.
pub const TUNNEL_RESOLVER: &str = "10.64.0.1";
/// The client's address inside the tunnel.
pub const CLIENT: &str = "10.64.0.2/32";
/// The same over IPv6.
pub const CLIENT_V6: &str = "fc00:bbbb:bbbb:bb01::2/128";
/// The name server that all recursive resolvers ask, and that reports who asked.
pub const AUTHORITY: &str = "192.0.2.53";
/// The same over IPv6.
pub const AUTHORITY_V6: &str = "2001:db8:53::53";
/// Public recursive resolvers.
pub const RECURSORS: [&str; 7] =
    ["8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "2001:4860:4860::8888", "2606:4700:4700::1111"];
/// Web servers of the internet: host name, IPv4, IPv6.
pub const WEB: [(&str, &str, &str); 3] = [
    ("am.i.mullvad.net", "45.83.223.233", "2a03:1b20:1:f410::ad3"),
    ("api.ipify.org", "104.26.12.205", "2606:4700:20::681a:ccd"),
    ("example.com", "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"),
];
/// STUN servers: host name, IPv4, IPv6, port.
pub const STUN: [(&str, &str, &str, u16); 2] = [
    ("stun.l.google.com", "74.125.250.129", "2001:4860:4864:5:8000::1", 19302),
    ("stun.cloudflare.com", "162.159.207.0", "2606:4700:49::", 3478),
];

/// Nodes of the DHT: host name, IPv4, IPv6 where it has one.
pub const DHT: [(&str, &str, Option<&str>); 2] = [
    ("router.bittorrent.com", "67.215.246.10", None),
    ("dht.transmissionbt.com", "87.98.162.88", Some("2001:41d0:c:5ac:5::1")),
];
/// Port of the DHT's nodes.
pub const DHT_PORT: u16 = 6881;
/// The tracker, over HTTP and UDP: host name, IPv4, IPv6.
pub const TRACKER: (&str, &str, &str) = ("tracker.opentrackr.org", "93.158.213.92", "2a03:7220:8083:cd00::1");
/// Port of the tracker, of both protocols.
pub const TRACKER_PORT: u16 = 1337;

/// Port of the torrent client's web interface.
pub const WEB_UI: u16 = 8080;

/// A torrent client's peer.
pub const PEER: &str = "192.0.2.77";
/// The same over IPv6.
pub const PEER_V6: &str = "2001:db8:77::77";
/// Its port, over TCP and UDP.
pub const PEER_PORT: u16 = 51413;

/// One end of a wire: the addresses of its link.
#[derive(Debug, Clone)]
pub struct End {
    /// Addresses with the length of their network.
    pub addresses: Vec<IpNet>,
    /// Next hops for everything else.
    pub gateways: Vec<IpAddr>,
}

impl End {
    fn new(addresses: &[&str], gateways: &[&str]) -> Self {
        Self {
            addresses: addresses.iter().map(|a| parse(a)).collect(),
            gateways: gateways.iter().map(|g| parse(g)).collect(),
        }
    }

    /// Without IPv6 unless `ipv6`.
    #[must_use]
    pub fn families(mut self, ipv6: bool) -> Self {
        self.addresses.retain(|net| ipv6 || net.addr().is_ipv4());
        self.gateways.retain(|ip| ipv6 || ip.is_ipv4());
        self
    }

    /// As it is in such a home, with one gateway of a family at most.
    #[must_use]
    pub fn of(mut self, home: Home) -> Self {
        self.addresses.retain(|net| home.has(net.addr()));
        let mut gateways: Vec<IpAddr> = Vec::new();
        for gateway in self.gateways.into_iter().filter(|ip| home.has(*ip)) {
            if !gateways.iter().any(|known| known.is_ipv4() == gateway.is_ipv4()) {
                gateways.push(gateway);
            }
        }
        self.gateways = gateways;
        self
    }
}

/// The bridge itself, in the home.
#[must_use]
pub fn bridge() -> End {
    End::new(&["172.18.0.1/16", "fd18::1/64", "2001:db8:18::1/64"], &[])
}

/// The stack's uplink.
#[must_use]
pub fn stack() -> End {
    End::new(&["172.18.0.10/16", "2001:db8:18::10/64", "fd18::10/64"], &["172.18.0.1", "2001:db8:18::1", "fd18::1"])
}

/// The home's links to [`MORE_NETS`].
#[must_use]
pub fn more_bridges() -> [End; 2] {
    [End::new(&["172.19.0.1/16"], &[]), End::new(&["172.20.0.1/16"], &[])]
}

/// The stack's links to them.
#[must_use]
pub fn more_stacks() -> [End; 2] {
    [End::new(&["172.19.0.10/16"], &["172.19.0.1"]), End::new(&["172.20.0.10/16"], &["172.20.0.1"])]
}

/// The neighbour's link to the bridge.
#[must_use]
pub fn neighbour() -> End {
    End::new(&["172.18.0.20/16", "fd18::20/64"], &["172.18.0.1", "fd18::1"])
}

/// The home's link to its LAN.
#[must_use]
pub fn lan_router() -> End {
    End::new(&["192.168.1.1/24", "fd01::1/64"], &[])
}

/// The LAN host's link.
#[must_use]
pub fn lan_host() -> End {
    End::new(&["192.168.1.50/24", "fd01::50/64"], &["192.168.1.1", "fd01::1"])
}

/// The home's line to the ISP.
#[must_use]
pub fn home_line() -> End {
    End::new(&["203.0.113.10/24", "2001:db8:113::10/64"], &["203.0.113.1", "2001:db8:113::1"])
}

/// The ISP's end of that line, where its resolver is too.
#[must_use]
pub fn isp_line() -> End {
    End::new(&["203.0.113.1/24", "203.0.113.53/24", "2001:db8:113::1/64", "2001:db8:113::53/64"], &[])
}

/// The ISP's link to the internet.
#[must_use]
pub fn isp_backbone() -> End {
    End::new(&["198.18.0.1/30", "2001:db8:ffff::1/64"], &["198.18.0.2", "2001:db8:ffff::2"])
}

/// The internet's link to the ISP.
#[must_use]
pub fn internet() -> End {
    End::new(&["198.18.0.2/30", "2001:db8:ffff::2/64"], &["198.18.0.1", "2001:db8:ffff::1"])
}

/// The ISP's link to the provider.
#[must_use]
pub fn isp_provider() -> End {
    End::new(&["198.51.100.1/24", "2001:db8:51::1/64"], &[])
}

/// The provider's link: endpoint and exits. The kernel sends from the first of IPv4 and from the last of IPv6, which have to be the endpoint.
#[must_use]
pub fn provider() -> End {
    End::new(
        &["198.51.100.2/24", "198.51.100.3/24", "2001:db8:51::3/64", "2001:db8:51::2/64"],
        &["198.51.100.1", "2001:db8:51::1"],
    )
}

/// Every address under which the internet answers.
#[must_use]
pub fn internet_addresses() -> Vec<IpAddr> {
    let mut texts = vec![AUTHORITY, AUTHORITY_V6, PEER, PEER_V6];
    texts.extend(RECURSORS);
    texts.extend(STUN.iter().flat_map(|(_, v4, v6, _)| [*v4, *v6]));
    texts.extend([TRACKER.1, TRACKER.2]);
    texts.extend(DHT.iter().flat_map(|(_, v4, v6)| std::iter::once(*v4).chain(*v6)));
    texts.extend(WEB.iter().flat_map(|(_, v4, v6)| [*v4, *v6]));
    texts.into_iter().map(parse).collect()
}

/// The addresses of a witness of the internet, by its host name; none when there is no such witness.
#[must_use]
pub fn witness(host: &str) -> Vec<IpAddr> {
    let web = WEB.iter().map(|(name, v4, v6)| (*name, [Some(*v4), Some(*v6)]));
    let stun = STUN.iter().map(|(name, v4, v6, _)| (*name, [Some(*v4), Some(*v6)]));
    let dht = DHT.iter().map(|(name, v4, v6)| (*name, [Some(*v4), *v6]));
    let tracker = std::iter::once((TRACKER.0, [Some(TRACKER.1), Some(TRACKER.2)]));
    let found = web.chain(stun).chain(dht).chain(tracker).find(|(name, _)| *name == host);
    found.into_iter().flat_map(|(_, addresses)| addresses.into_iter().flatten()).map(parse).collect()
}

/// An address constant of this file.
#[must_use]
pub fn ip(text: &str) -> IpAddr {
    parse(text)
}

/// A network constant of this file.
#[must_use]
pub fn net(text: &str) -> IpNet {
    parse(text)
}

/// An address and port constant of this file.
#[must_use]
pub fn socket(text: &str) -> SocketAddr {
    parse(text)
}

/// The wildcard address of a family.
#[must_use]
pub fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
