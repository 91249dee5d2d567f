//! A whole lab, from its wires to its servers, sealed or broken by a leak.

use super::around::{
    start_chatter, start_home, start_internet, start_loads, start_outside, start_provider, start_stack, take_down,
};
use super::condition::{Circumstance, Condition};
use super::gluetun::Habit;
use super::internet::{ServerError, Servers};
use super::leak::{Action, Capability, Leak};
use super::line::Quality;
use super::load::Load;
use super::odd::OddWitness;
use super::plan;
use super::provider::{Provider, ProviderError};
use super::qbittorrent;
use super::realm::RealmError;
use super::stack::{self, Gluetun, GluetunConfig, StackError};
use super::topology::{self, Topology, TopologyError};
use super::userns::PrivateDir;
use super::variant::{Home, Protocol, Variant};
use super::wireguard::PrivateKey;
use super::witness::{CaError, Journal, LabCa};
use crate::net::netns::NetnsError;
use crate::net::nft::NftError;
use ipnet::IpNet;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
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

    pub(super) fn circumstances(&self) -> impl Iterator<Item = &Circumstance> {
        self.conditions.iter().flat_map(|condition| &condition.circumstances)
    }

    pub(super) fn quality(&self) -> Quality {
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
    torrent_password: PathBuf,
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
        let torrent_password = world
            .write("torrent-password", qbittorrent::PASSWORD)
            .map_err(|e| LabError::File("torrent-password", e))?;
        let resolv_conf = world.write("stack-resolv.conf", "").map_err(|e| LabError::File("stack-resolv.conf", e))?;
        let mut servers = vec![start_internet(&topology.internet, authority, &journal, &spec)?];
        take_down(&topology.internet, &spec)?;
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
        servers.extend(start_chatter(&topology, &spec)?);
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
            torrent_password,
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
        let [near, vpn] = [&self.topology.neighbour, &self.topology.provider].map(|realm| realm.netns().path());
        let forbidden = format!(
            "[[access]]\nfrom = \"netns:{}\"\nname = \"VPN\"\nto = \"http://{}:8080/\"\nallow = false\n",
            vpn.display(),
            plan::net(plan::CLIENT).addr(),
        );
        // wg-quick's kill switch closes what leaves, and nothing that comes in.
        let forbidden = if self.variant.firewall == stack::Firewall::WgQuick { "" } else { forbidden.as_str() };
        let host = if self.variant.home == Home::Ipv6 { "[fd18::10]" } else { plan::STACK };
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
[torrent]
client = "qbittorrent"
url = "http://127.0.0.1:{web_ui}"
user = {user:?}
password_file = {password:?}
[outage]
methods = ["vpn-stop", "link-down", "endpoint-block"]
window = "2500ms"
recovery_timeout = "30s"
control_server = "{control}"
down = ["/proc/self/exe", "lab", "vpn", "stopped"]
up = ["/proc/self/exe", "lab", "vpn", "running"]
[[access]]
from = "host"
to = {stack:?}
allow = true
[[access]]
from = "netns:{near}"
name = "neighbour"
to = {stack:?}
allow = true
[[access]]
from = "netns:{near}"
name = "neighbour"
to = "icmp://{host}"
allow = true
[[access]]
from = "stack"
to = {neighbour:?}
allow = true
{forbidden}"#,
            near = near.display(),
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
            web_ui = plan::WEB_UI,
            user = qbittorrent::USER,
            password = self.torrent_password,
            control = self.control_server(),
        )
    }
}

pub(super) fn of_families(texts: &[&str], ipv6: bool) -> Vec<IpNet> {
    texts.iter().map(|text| plan::net(text)).filter(|net| ipv6 || net.addr().is_ipv4()).collect()
}
