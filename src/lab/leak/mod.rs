//! Leak fixtures: how a sealed stack is broken, as data. `fixtures/leaks/*.toml` are built in; adding one is adding a
//! file.
//!
//! The vocabulary is closed: what a fixture does is said here, once, and a word that is not here is an error.

mod packets;
mod words;

pub use packets::{Flags, Packets};
pub use words::{Capability, ChainName, FamilyName, Place, PolicyName, Ports, Transport};

use ipnet::IpNet;
use serde::Deserialize;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The fixtures: file stem and text.
const LEAKS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/leaks.rs"));

/// Why a fixture cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LeakError {
    /// Nothing of that name is built in.
    #[error("find the leak class {0}; there are: {1}")]
    Unknown(String, String),
    /// It says something that the vocabulary does not have.
    #[error("read the leak fixture {0}")]
    Parse(String, #[source] Box<toml::de::Error>),
}

/// One way to break a sealed stack.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leak {
    /// Its id, the stem of its file.
    #[serde(skip)]
    pub id: String,
    /// What is broken, in a few words.
    pub title: String,
    /// Why it matters.
    pub threat: String,
    /// Ids of the probes that must fail on it.
    #[serde(default)]
    pub red: Vec<String>,
    /// Ids of the probes that must warn of it.
    #[serde(default)]
    pub amber: Vec<String>,
    /// What is done to the sealed stack, in this order.
    #[serde(rename = "change")]
    pub changes: Vec<Change>,
}

/// Probes that turn red in an outage, or after it.
const OF_OUTAGES: [&str; 3] = ["flows-ipv6", "kill-switch", "local-reachable"];

impl Leak {
    /// Reads a fixture.
    ///
    /// # Errors
    /// When it is not well formed.
    pub fn parse(id: &str, text: &str) -> Result<Self, LeakError> {
        let mut leak: Self = toml::from_str(text).map_err(|e| LeakError::Parse(id.to_owned(), Box::new(e)))?;
        id.clone_into(&mut leak.id);
        Ok(leak)
    }

    /// The built-in fixture of that name.
    ///
    /// # Errors
    /// When there is none, or it is not well formed.
    pub fn named(id: &str) -> Result<Self, LeakError> {
        let found = LEAKS.iter().find(|(stem, _)| *stem == id);
        let (stem, text) = found.ok_or_else(|| LeakError::Unknown(id.to_owned(), names().join(", ")))?;
        Self::parse(stem, text)
    }

    /// All built-in fixtures, in the order of their names.
    ///
    /// # Errors
    /// When one is not well formed.
    pub fn all() -> Result<Vec<Self>, LeakError> {
        LEAKS.iter().map(|(stem, text)| Self::parse(stem, text)).collect()
    }

    /// Whether the stack never gets a tunnel.
    #[must_use]
    pub fn without_tunnel(&self) -> bool {
        self.actions().any(|action| *action == Action::NoTunnel {})
    }

    /// Whether it tells users apart, which takes a lab with more than one: root's.
    #[must_use]
    pub fn needs_users(&self) -> bool {
        self.actions().any(|action| match action {
            Action::Allow(packets)
            | Action::Forbid(packets)
            | Action::Divert { packets, .. }
            | Action::Remark { packets, .. } => packets.user.is_some(),
            Action::Rule { user, .. } => user.is_some(),
            _ => false,
        })
    }

    /// Whether it needs the tables of iptables-legacy, which not every kernel has.
    #[must_use]
    pub fn needs_legacy(&self) -> bool {
        self.actions().any(|action| matches!(action, Action::Legacy { .. }))
    }

    /// Whether it shows only when the tunnel goes or comes, or the server falls silent.
    #[must_use]
    pub fn needs_outage(&self) -> bool {
        self.changes.iter().any(|change| change.when != Moment::Start)
    }

    /// Whether an audit without outages finds it.
    #[must_use]
    pub fn shows_while_up(&self) -> bool {
        let mut found_by = self.red.iter().chain(&self.amber);
        !self.needs_outage() && !found_by.any(|id| OF_OUTAGES.contains(&id.as_str()))
    }

    /// Whether only a stack of containers can be broken so.
    #[must_use]
    pub fn needs_containers(&self) -> bool {
        self.actions().any(|action| {
            matches!(action, Action::LateFirewall { .. } | Action::RestartVpn {} | Action::Compose { .. })
        })
    }

    /// Whether the VPN container is restarted before anybody looks.
    #[must_use]
    pub fn restarts_vpn(&self) -> bool {
        self.actions().any(|action| *action == Action::RestartVpn {})
    }

    /// The compose file that is laid over the fixture's.
    #[must_use]
    pub fn compose_file(&self) -> Option<&str> {
        self.actions().find_map(|action| if let Action::Compose { file } = action { Some(file.as_str()) } else { None })
    }

    /// Whether the stack's own resolver is dead.
    #[must_use]
    pub fn has_dead_resolver(&self) -> bool {
        self.actions().any(|action| *action == Action::DeadResolver {})
    }

    /// Whom the stack's own resolver asks for local names.
    #[must_use]
    pub fn asked_for_local_names(&self) -> Option<SocketAddr> {
        self.actions()
            .find_map(|action| if let Action::LocalNames { resolver } = action { Some(*resolver) } else { None })
    }

    /// Whom the stack's own resolver asks besides.
    #[must_use]
    pub fn also_asked(&self) -> Option<SocketAddr> {
        self.actions()
            .find_map(|action| if let Action::AlsoAsked { resolver } = action { Some(*resolver) } else { None })
    }

    /// The port that the provider forwards to the stack.
    #[must_use]
    pub fn forwarded_port(&self) -> Option<u16> {
        self.actions().find_map(|action| if let Action::ForwardedPort { port } = action { Some(*port) } else { None })
    }

    /// What is done, whenever it is done.
    pub fn actions(&self) -> impl Iterator<Item = &Action> {
        self.changes.iter().map(|change| &change.action)
    }
}

/// Names of the built-in fixtures.
#[must_use]
pub fn names() -> Vec<&'static str> {
    LEAKS.iter().map(|(stem, _)| *stem).collect()
}

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

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.title)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fixture_is_well_formed_and_turns_a_probe_red() {
        let leaks = Leak::all().unwrap();
        assert!(!leaks.is_empty());
        for leak in leaks {
            let noticed = leak.red.len() + leak.amber.len() > 0;
            assert!(noticed && !leak.changes.is_empty() && !leak.threat.is_empty(), "{leak}");
        }
    }

    #[test]
    fn unknown_words_are_refused() {
        let with = |line: &str| Leak::parse("x", &format!("title='t'\nthreat='w'\nred=['p']\n[[change]]\n{line}\n"));
        assert!(with("do = { kind = 'no-tunnel' }").is_ok());
        for line in [
            "do = { kind = 'no-tunnels' }",
            "do = { kind = 'no-tunnel', x = 1 }",
            "when = 'later'\ndo = { kind = 'no-tunnel' }",
            "do = { kind = 'allow', proto = 'udp', port = '53' }",
            "do = { kind = 'allow', proto = 'udp', ports = '60-50' }",
            "do = { kind = 'policy', chain = 'sideways', policy = 'accept' }",
        ] {
            assert!(with(line).is_err(), "{line}");
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known() {
        let error = Leak::named("no-such-leak").unwrap_err().to_string();
        assert!(error.contains("output-accept"), "{error}");
    }
}
