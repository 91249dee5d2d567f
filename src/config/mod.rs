//! `leakcheck.toml`: its keys, their defaults, and what the environment overrides. Nothing here asks the network; what is
//! not configured is found by the runner.

mod access;
mod choice;
mod error;
mod load;
mod secret;
#[cfg(test)]
mod tests;
mod text;
mod value;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use reqwest::Url;
use serde::Deserialize;

pub use access::{Access, Destination, Stand};
pub use choice::{ForcedPolicy, OutageMethod, Provider, TorrentClient};
pub use error::ConfigError;
#[cfg(feature = "lab")]
pub(crate) use load::understand;
pub use secret::Secret;
use text::{many, maybe, one};
use value::{Address, AddressPort, Canary, HttpUrl, LocalNet, Name, Net, PublicIp, Span};
pub use value::{HostPort, Local, Tracker, parse_duration, shown, without_secrets};

/// The whole configuration. Every key is optional.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What to audit.
    pub target: Target,
    /// What the VPN should look like.
    pub vpn: Vpn,
    /// What must never be seen.
    pub home: Home,
    /// What may be talked to past the tunnel.
    pub local: LocalRules,
    /// Who is asked what the internet sees.
    pub echo: Echo,
    /// Who may talk to whom.
    pub access: Vec<Access>,
    /// What names may be asked of.
    pub dns: Dns,
    /// The torrent client, to be asked about itself.
    pub torrent: Torrent,
    /// How the tunnel is taken down, and for how long.
    pub outage: OutageRules,
}

/// `[target]`: at most one of the first three.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Target {
    /// Name or id of a container.
    pub docker: Option<String>,
    /// Name of a namespace in `/run/netns`, or a path.
    pub netns: Option<String>,
    /// A process in the namespace.
    pub pid: Option<u32>,
    /// The resolver file of the stack, where it is not the one that the target's process sees.
    pub resolv_conf: Option<PathBuf>,
}

/// `[vpn]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Vpn {
    /// Whose exit it should be.
    #[serde(deserialize_with = "one::<Provider, _, _>")]
    #[cfg_attr(test, schemars(with = "String", extend("enum" = ["mullvad", "any"])))]
    pub provider: Provider,
    /// Name of the tunnel's interface; else found.
    pub interface: Option<String>,
    /// The VPN server; else found.
    #[serde(deserialize_with = "maybe::<AddressPort, _, _>")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub endpoint: Option<SocketAddr>,
    /// Further VPN servers, which the firewall lets the tunnel reach in the same way.
    #[serde(deserialize_with = "many::<AddressPort, _, _>")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub other_servers: Vec<SocketAddr>,
    /// Links of the owner's own tunnels, which run inside the VPN: what enters them is theirs, and what carries them is looked at.
    pub other_tunnels: Vec<String>,
    /// The exit must lie in one of these; empty: anywhere.
    #[serde(deserialize_with = "many::<Net, _, _>")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub exit: Vec<IpNet>,
}

/// `[home]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Home {
    /// Public addresses of the line; empty: asked from outside the namespace.
    #[serde(deserialize_with = "many::<PublicIp, _, _>")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub ip: Vec<IpAddr>,
    /// What the resolvers of the home and its ISP look like to an authority; empty: asked from outside the namespace.
    #[serde(deserialize_with = "many::<Address, _, _>")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub resolvers: Vec<IpAddr>,
}

/// `[local]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct LocalRules {
    /// Networks that may be talked to past the tunnel; empty: taken from the uplinks and from Gluetun's settings.
    #[serde(deserialize_with = "many::<LocalNet, _, _>")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub subnets: Vec<IpNet>,
    /// Must answer, tunnel up or down.
    #[serde(deserialize_with = "many::<Local, _, _>")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub must_reach: Vec<Local>,
    /// Must not answer.
    #[serde(deserialize_with = "many::<Local, _, _>")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub must_not_reach: Vec<Local>,
    /// Served by the stack, must answer from outside of it.
    #[serde(deserialize_with = "many::<Local, _, _>")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub must_serve: Vec<Local>,
}

/// `[echo]`: witnesses.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Echo {
    /// Answer over HTTP with the address that asked.
    #[serde(deserialize_with = "many::<HttpUrl, _, _>")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub http: Vec<Url>,
    /// STUN servers (RFC 8489); where `http` is set and this is not: none.
    #[serde(deserialize_with = "many::<HostPort, _, _>")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub stun: Vec<HostPort>,
    /// Nodes of the DHT (BEP 5) that tell the address that asked (BEP 42).
    #[serde(deserialize_with = "many::<HostPort, _, _>")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub dht: Vec<HostPort>,
    /// Trackers that tell the address that announced, by BEP 24 or as a peer.
    #[serde(deserialize_with = "many::<Tracker, _, _>")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub tracker: Vec<Tracker>,
    /// Ports from which witnesses are asked over UDP beside one of the kernel's choice: where the torrent client listens.
    pub source_ports: Vec<NonZeroU16>,
    /// Names whose answer is the address of the resolver that asked.
    #[serde(deserialize_with = "many::<Name, _, _>")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub dns: Vec<String>,
    /// A PEM file of certificate authorities to trust beside the public ones.
    pub extra_ca: Option<PathBuf>,
}

/// `[dns]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// What resolv.conf may name; empty: loopback and what lies behind the tunnel.
    #[serde(deserialize_with = "many::<Address, _, _>")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub resolvers: Vec<IpAddr>,
    /// Foreign resolvers that are asked past resolv.conf.
    #[serde(deserialize_with = "many::<Address, _, _>")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub forced: Vec<IpAddr>,
    /// What must become of those queries.
    #[serde(deserialize_with = "one::<ForcedPolicy, _, _>")]
    #[cfg_attr(test, schemars(with = "String", extend("enum" = ["no-escape", "drop"])))]
    pub forced_policy: ForcedPolicy,
    /// A public name that must resolve.
    #[serde(deserialize_with = "one::<Canary, _, _>")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub canary: String,
}

/// `[torrent]`. Without it the usual places on the stack's own loopback are looked at, and nobody logs in.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Torrent {
    /// Which client it is.
    #[serde(deserialize_with = "maybe::<TorrentClient, _, _>")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub client: Option<TorrentClient>,
    /// Its web interface as seen from inside the namespace; else where that client's usually is.
    #[serde(deserialize_with = "maybe::<HttpUrl, _, _>")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub url: Option<Url>,
    /// User name, where it asks for one.
    pub user: Option<String>,
    /// File that holds the password; read when a run begins, see [`Secret::read`].
    pub password_file: Option<PathBuf>,
    /// File that holds an API key (qBittorrent 5.2 and later).
    pub api_key_file: Option<PathBuf>,
}

/// `[outage]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct OutageRules {
    /// Ways to take the tunnel down, one outage each; empty: one that suits the stack.
    #[serde(deserialize_with = "many::<OutageMethod, _, _>")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub methods: Vec<OutageMethod>,
    /// How long the tunnel stays down.
    #[serde(deserialize_with = "one::<Span, _, _>")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub window: Duration,
    /// How long it may take to come back.
    #[serde(deserialize_with = "one::<Span, _, _>")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub recovery_timeout: Duration,
    /// Gluetun's control server as seen from inside the namespace. Its routes refuse a trailing slash.
    #[serde(deserialize_with = "one::<HttpUrl, _, _>")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub control_server: Url,
    /// File that holds the control server's API key; read when it is needed, see [`Secret::read`].
    pub api_key_file: Option<PathBuf>,
    /// User name, where the control server asks for one and a password (HTTP basic authentication).
    pub control_user: Option<String>,
    /// File that holds the password; read when it is needed.
    pub control_password_file: Option<PathBuf>,
    /// Command that takes the tunnel down, for stacks that are not Gluetun.
    pub down: Vec<String>,
    /// Command that brings it back.
    pub up: Vec<String>,
}

impl Default for Vpn {
    fn default() -> Self {
        Vpn {
            provider: Provider::Mullvad,
            interface: None,
            endpoint: None,
            other_servers: Vec::new(),
            other_tunnels: Vec::new(),
            exit: Vec::new(),
        }
    }
}

impl Default for Echo {
    fn default() -> Self {
        let url = |text: &str| Url::parse(text).expect("the default witnesses are URLs");
        Echo {
            http: vec![url("https://am.i.mullvad.net/json"), url("https://api.ipify.org/?format=json")],
            stun: vec![HostPort { host: "stun.l.google.com".to_owned(), port: 19302 }],
            dht: [("router.bittorrent.com", 6881), ("dht.transmissionbt.com", 6881), ("dht.libtorrent.org", 25_401)]
                .map(|(host, port)| HostPort { host: host.to_owned(), port })
                .into(),
            tracker: Vec::new(),
            source_ports: NonZeroU16::new(6881).into_iter().collect(),
            dns: vec!["whoami.akamai.net".to_owned()],
            extra_ca: None,
        }
    }
}

impl Default for Dns {
    fn default() -> Self {
        Dns {
            resolvers: Vec::new(),
            forced: vec![
                Ipv4Addr::new(8, 8, 8, 8).into(),
                Ipv4Addr::new(1, 1, 1, 1).into(),
                Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888).into(),
            ],
            forced_policy: ForcedPolicy::NoEscape,
            canary: "example.com".to_owned(),
        }
    }
}

impl Default for OutageRules {
    fn default() -> Self {
        OutageRules {
            methods: Vec::new(),
            window: Duration::from_secs(5),
            recovery_timeout: Duration::from_secs(90),
            control_server: Url::parse("http://127.0.0.1:8000").expect("the default control server is a URL"),
            api_key_file: None,
            control_user: None,
            control_password_file: None,
            down: Vec::new(),
            up: Vec::new(),
        }
    }
}
