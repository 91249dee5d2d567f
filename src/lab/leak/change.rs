//! What a fixture may do to a sealed stack, and when: the whole vocabulary.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use super::packets::Packets;
use super::words::{Capability, ChainName, FamilyName, Place, PolicyName, Ports, Transport};

/// One step of breaking a stack.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// When it is done.
    #[serde(default)]
    pub when: Moment,
    /// How long after that moment, in milliseconds.
    #[serde(default)]
    pub after_ms: u64,
    /// How long it lasts, in milliseconds. Without it, what is done at the start is done for good, and what is done when
    /// the tunnel goes or comes, or the server falls silent, is undone when that is over.
    pub for_ms: Option<u64>,
    /// Keeps what was done when the tunnel went or came for good.
    #[serde(default)]
    pub lasting: bool,
    /// What is done.
    #[serde(rename = "do")]
    pub action: Action,
}

impl Change {
    /// The time between the moment and the change.
    #[must_use]
    pub fn after(&self) -> Duration {
        Duration::from_millis(self.after_ms)
    }

    /// How long it lasts, if that is limited.
    #[must_use]
    pub fn lasts(&self) -> Option<Duration> {
        self.for_ms.map(Duration::from_millis)
    }
}

/// When a change is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// Before the stack is ready.
    #[default]
    Start,
    /// When the tunnel's link goes down or away, by whatever means.
    TunnelDown,
    /// When the tunnel's link comes up again.
    TunnelUp,
    /// When nothing has come out of the tunnel for a while, whether its link is up or not; it ends when something comes again.
    ServerSilent,
}

/// What a change does. Links are named as the stack sees them: `eth0`, `tun0`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// Sets the policy of a chain of the stack's firewall.
    Policy {
        /// Which chain.
        chain: ChainName,
        /// Which policy.
        policy: PolicyName,
        /// Of which family.
        #[serde(default)]
        family: FamilyName,
    },
    /// Puts an ACCEPT at the head of a chain of the stack's firewall.
    Allow(Packets),
    /// Puts a DROP at the head of a chain of the stack's firewall.
    Forbid(Packets),
    /// Sends elsewhere what programs of the stack send: in a table of its own, translated as it leaves.
    Divert {
        /// Which packets.
        packets: Packets,
        /// Where to, on the same port.
        to: IpAddr,
    },
    /// Gives another mark to what programs of the stack send, when the filters have let it pass, so that routes are asked again.
    Remark {
        /// Which packets.
        packets: Packets,
        /// Which mark.
        mark: u32,
    },
    /// Puts the sealed stack's rules and policies into the filter tables of iptables-legacy too.
    Legacy {
        /// Of which family.
        #[serde(default)]
        family: FamilyName,
        /// The policy of its chains.
        policy: PolicyName,
    },
    /// Adds a route.
    Route {
        /// Where to.
        to: IpNet,
        /// By which link; the uplink's own gateway is used where it has one.
        link: String,
        /// In which table (254 is main).
        #[serde(default = "main_table")]
        table: u32,
    },
    /// Adds a policy rule.
    Rule {
        /// Its place in the order.
        priority: u32,
        /// The table that it looks in.
        table: u32,
        /// Only from that source.
        from: Option<IpNet>,
        /// Only for that destination.
        to: Option<IpNet>,
        /// Only for that transport.
        proto: Option<Transport>,
        /// Only to those ports.
        ports: Option<Ports>,
        /// Only for sockets of that user.
        user: Option<u32>,
        /// Only from those ports.
        from_ports: Option<Ports>,
        /// Of which family.
        #[serde(default)]
        family: FamilyName,
    },
    /// A gateway in the home that maps ports, and tells the home's address (NAT-PMP, RFC 6886).
    PortMapper {
        /// Where it is reached.
        listen: SocketAddr,
        /// The address that it tells.
        external: std::net::Ipv4Addr,
    },
    /// A torrent client in the stack: takes connections, and answers its peers' DHT questions.
    TorrentClient {
        /// Where it listens, over TCP and UDP.
        listen: SocketAddr,
    },
    /// The torrent client is set otherwise than in a sealed stack, or has learned another address of its own. What is not said is as it was.
    Client {
        /// The link to which it is bound; empty: any.
        interface: Option<String>,
        /// Whether it asks routers for a port (UPnP, NAT-PMP).
        #[serde(default)]
        upnp: bool,
        /// Whether it tells the local network of itself (BEP 14).
        #[serde(default)]
        lsd: bool,
        /// The address under which it believes that it is seen.
        external: Option<IpAddr>,
    },
    /// Gluetun says that the provider forwards this port to the stack.
    ForwardedPort {
        /// The port.
        port: u16,
    },
    /// The home lets peers in by a port of its public address, as Docker's `ports` and a router's port forwarding do.
    Publish {
        /// The port, over TCP and UDP, at home and in the stack.
        port: u16,
    },
    /// Sets a kernel setting of the stack's namespace.
    Setting {
        /// Below `/proc/sys/net`, with slashes.
        name: String,
        /// What it is set to.
        value: String,
    },
    /// A router of the home says to the stack over and over that it is the way to everywhere (RFC 4861, section 4.2).
    RouterAdvertisement {
        /// How often, in milliseconds.
        every_ms: u64,
    },
    /// Removes the policy rules of that priority.
    Unrule {
        /// Their place in the order.
        priority: u32,
    },
    /// Gluetun's firewall has no rules but its own: nobody has written a `/iptables/post-rules.txt`.
    NoPostRules {},
    /// No tunnel is ever started, and so no rule leads to one.
    NoTunnel {},
    /// The stack's resolv.conf names these.
    ResolvConf {
        /// Its nameservers.
        nameservers: Vec<IpAddr>,
    },
    /// The stack's other program has a resolv.conf of its own, which names these.
    OwnResolvConf {
        /// Its nameservers.
        nameservers: Vec<IpAddr>,
    },
    /// A resolver that is reached inside the stack but asks from the home's namespace, past every rule of the stack, as
    /// Docker's 127.0.0.11 does when the host's resolver is a loopback address.
    OutsideResolver {
        /// In which namespace it is reached.
        #[serde(default)]
        at: Place,
        /// Where it is reached.
        listen: SocketAddr,
        /// Whom it asks, from the home.
        upstream: SocketAddr,
    },
    /// Local names (`.lan`, names of one label) are asked of this resolver, as v3.41 asks the container's original one.
    LocalNames {
        /// Whom.
        resolver: SocketAddr,
    },
    /// The stack's own resolver asks this one for every name too, and does not wait for its answer.
    AlsoAsked {
        /// Whom.
        resolver: SocketAddr,
    },
    /// The stack's own resolver does not answer.
    DeadResolver {},
    /// Tunnelled traffic comes out at these addresses instead of the provider's.
    Exit {
        /// For IPv4.
        v4: IpAddr,
        /// For IPv6.
        v6: IpAddr,
    },
    /// More outbound subnets are configured (`FIREWALL_OUTBOUND_SUBNETS`).
    Outbound {
        /// Which.
        subnets: Vec<IpNet>,
    },
    /// The stack is on a second network of the home too, by `eth1`, which has a default route of its own.
    SecondNetwork {},
    /// A flow past the tunnel that is older than the firewall, and that goes on: DNS questions to that resolver, bound
    /// to the uplink.
    EarlyFlow {
        /// By which transport: UDP or TCP.
        #[serde(default = "udp")]
        proto: Transport,
        /// Whom it asks.
        to: SocketAddr,
        /// How often, in milliseconds.
        every_ms: u64,
    },
    /// What the stack's other program may do besides; in a sealed stack it may do nothing special.
    Power {
        /// Which capabilities it has.
        capabilities: Vec<Capability>,
    },
    /// The VPN container starts so much later with its firewall, and a program of its own talks meanwhile. Only a container is started.
    LateFirewall {
        /// How much later, in milliseconds.
        by_ms: u64,
    },
    /// The VPN container is restarted, and nobody restarts those that share its network.
    RestartVpn {},
    /// Another compose file is laid over that of `fixtures/compose`: what only a container's settings can do wrong.
    Compose {
        /// Its name in that folder.
        file: String,
    },
    /// A program in the stack that sends a datagram to the same place over and over, bound to a link.
    Speak {
        /// Where to.
        to: SocketAddr,
        /// By which link.
        link: String,
        /// How often, in milliseconds.
        every_ms: u64,
    },
}

fn udp() -> Transport {
    Transport::Udp
}

fn main_table() -> u32 {
    254
}
