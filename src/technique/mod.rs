//! Techniques: each sends one kind of stimulus from inside the namespace and returns evidence. None decides anything.

mod access;
mod capabilities;
mod control;
mod control_server;
mod craft;
mod dependent_resolvers;
mod exit_all;
mod exit_dht;
mod exit_http;
mod exit_stun;
mod exit_tracker;
mod firewall;
mod forced_dns;
pub mod format;
mod forwarding;
pub(crate) mod gateway;
mod heard;
mod http;
mod inbound;
mod listen;
mod local_names;
pub(crate) mod local_resolvers;
mod local_targets;
mod marks;
mod name_services;
mod names;
mod openings;
mod resolver_path;
mod routes;
mod send;
pub(crate) mod torrent;
mod udp;
mod uplink;
mod user;
mod volley;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::agent::links;
use crate::agent::programs::Program;
use crate::agent::protocol::Setup;
use crate::clock::Clock;
use crate::handicap::{Handicap, lacks};
use crate::model::evidence::{Answer, Evidence, Link, Role, Said, Via};
use crate::sensor::allow::Endpoint;
use crate::sensor::ledger::Ledger;
use crate::target::{Reach, read_small};

pub use access::{Names, Reaching, reach_place};
pub use control_server::{ask_as_stranger, status_route};
pub use dependent_resolvers::DependentFile;
pub use exit_http::{asking_exits, exit_in};
pub use firewall::Openings;
pub use forced_dns::question;
pub use forwarding::FORWARDING;
pub use heard::Heard;
pub use http::{ask, chain, trust};
pub use inbound::{ARRIVALS, INBOUND};
pub use listen::LISTEN;
pub use local_targets::{FORBIDDEN, Target, reach, reach_local, targets};
pub use names::lookup_marked;
pub use names::{NoAnswer, addresses, lookup, nameservers, resolver_at};
pub use openings::aim_at;
pub use send::{Outcome, Sender, echo_octets, fate_of, open, syn_octets};
pub use torrent::client_url;
pub use user::{User, as_user};
pub use volley::Volley;

/// What techniques work with.
pub struct Context {
    /// What the runner said.
    pub setup: Setup,
    /// The run's clock.
    pub clock: Clock,
    /// Where stimuli are entered before they are sent.
    pub ledger: Ledger,
    /// Links of the namespace.
    pub links: Vec<Link>,
    /// Gateways of the uplinks' default routes.
    pub gateways: Vec<IpAddr>,
    /// What may be talked to past the tunnel.
    pub local: Vec<IpNet>,
    /// Programs in the namespace, as far as they are to be seen from here, or why that cannot be told.
    pub programs: Result<Vec<Program>, String>,
    /// The resolv.conf of the stack and of its dependents, as far as they can be read from here.
    pub resolv_files: Vec<PathBuf>,
    /// That of the stack, or one that a program shares with it, where it can be read from here.
    pub resolv_file: Option<PathBuf>,
    /// The root directory of the stack, where it can be reached.
    pub root: Option<PathBuf>,
    /// The VPN server, if it is known.
    pub endpoint: Option<Endpoint>,
    /// What the firewall's text lets pass by an uplink, or sends elsewhere.
    pub openings: Arc<Openings>,
    /// The kernel's routes, for asking.
    pub routes: rtnetlink::Handle,
    /// What witnesses said in the phase that is open.
    pub heard: Heard,
}

/// A resolv.conf that can be read now and is not being written to.
pub fn read_resolv_conf(path: &Path) -> Option<String> {
    let text = Reach::to(path).ok()?.open().and_then(read_small).ok()?;
    (!text.trim().is_empty()).then_some(text)
}

impl Context {
    /// The VPN servers, as far as they are known.
    pub fn servers(&self) -> impl Iterator<Item = SocketAddr> {
        let found = self.endpoint.iter().map(|endpoint| endpoint.address);
        found.chain(self.setup.other_servers.iter().copied())
    }

    /// The uplinks.
    pub fn uplinks(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(|link| link.role == Role::Uplink)
    }

    /// All links but loopback, as they are now: a VPN that was started again has made its tunnel anew.
    pub async fn links_now(&self) -> Vec<Link> {
        let tunnel = self.links.iter().find(|link| link.role == Role::Tunnel);
        links::find(&self.routes, tunnel.map(|link| link.name.as_str()), &self.setup.other_tunnels).await
    }

    /// The stack's resolv.conf as it is now, where it can be read from here; else as it was at the start.
    pub fn resolv_conf(&self) -> String {
        let now = self.resolv_file.as_deref().and_then(read_resolv_conf);
        now.unwrap_or_else(|| self.setup.resolv_conf.clone())
    }

    /// Every way past the tunnel that a program could ask for, and the default one.
    pub fn ways(&self, v6: bool) -> Vec<Via> {
        let mut ways = vec![Via::Default];
        for link in self.uplinks() {
            ways.push(Via::Device(link.name.clone()));
            ways.extend(
                link.addresses
                    .iter()
                    .map(|net| net.addr())
                    .filter(|ip| ip.is_ipv6() == v6 && !is_link_local(*ip))
                    .map(Via::Source),
            );
        }
        ways
    }

    /// An answer, now.
    pub fn answer(&self, witness: impl Into<String>, said: Said) -> Answer {
        let said = if lacks(Handicap::Answers) { Said::Nothing { error: "it was lost".to_owned() } } else { said };
        Answer { at_ms: self.clock.now_ms(), witness: witness.into(), said }
    }

    /// Something that stimuli of `trial` are sent with.
    pub fn sender<'a>(&'a self, trial: &Arc<str>) -> Sender<'a> {
        Sender::new(&self.clock, &self.ledger, Arc::clone(trial))
    }
}

pub(crate) fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// The future of a technique; it stays on the agent's thread.
pub type Work<'a> = Pin<Box<dyn Future<Output = Evidence> + 'a>>;

/// One kind of stimulus.
pub trait Technique: Sync {
    /// Its name in probe files.
    fn name(&self) -> &'static str;
    /// Whether it takes these parameters; if not, what is wrong with them.
    ///
    /// # Errors
    /// One line for the author of the probe file.
    fn check(&self, params: &Value) -> Result<(), String>;
    /// Does the work. Parameters have been checked.
    fn run<'a>(&'a self, cx: &'a Context, trial: Arc<str>, params: Value) -> Work<'a>;
}

/// All techniques that the agent can be asked for. The outage sampler stands apart: it is asked by an outage, not by a trial.
pub const TECHNIQUES: &[&dyn Technique] = &[
    &exit_http::ExitHttp,
    &exit_stun::ExitStun,
    &exit_dht::ExitDht,
    &exit_tracker::ExitTracker,
    &exit_all::ExitAll,
    &resolver_path::ResolverPath,
    &dependent_resolvers::DependentResolvers,
    &forced_dns::ForcedDns,
    &local_names::LocalNames,
    &local_resolvers::LocalResolvers,
    &uplink::Uplink,
    &routes::Routes,
    &gateway::Gateway,
    &capabilities::Capabilities,
    &local_targets::LocalTargets,
    &local_targets::Forbidden,
    &listen::Listen,
    &forwarding::Forwarding,
    &inbound::Inbound,
    &inbound::Arrivals,
    &torrent::Torrent,
];

/// The technique of probes that are asked in an outage alone: their evidence is the outage itself.
pub const OUTAGE_SAMPLER: &str = "outage-sampler";

/// The technique of probes that the runner asks from outside of the namespace.
pub const SERVED: &str = "served";

/// The technique of probes of the access matrix, each row of which the runner asks from its own source.
pub const ACCESS: &str = "access";

/// The technique of probes that are asked of Docker: who shares the stack's network.
pub const DEPENDENTS: &str = "dependents";

/// The technique of probes that are asked of the container engine: how the stack is set up.
pub const STACK: &str = "stack";

/// The same, and the stack's control server is asked from outside.
pub const STACK_CONTROL: &str = "stack-control";

/// All that are asked of the container engine, and not in an outage.
pub const OF_ENGINE: [&str; 3] = [DEPENDENTS, STACK, STACK_CONTROL];

/// The technique of probes of a container's start, which an outage listens to that starts it.
pub const BOOT: &str = "boot";

/// The technique of probes of flows over IPv6 that are older than an outage, which it opens for them.
pub const FLOWS_V6: &str = "outage-flows-ipv6";

/// The technique of this name.
pub fn find(name: &str) -> Option<&'static dyn Technique> {
    TECHNIQUES.iter().copied().find(|technique| technique.name() == name)
}

/// The names that a probe file may give as its technique.
pub fn names() -> Vec<&'static str> {
    TECHNIQUES
        .iter()
        .map(|technique| technique.name())
        .chain([OUTAGE_SAMPLER, SERVED, ACCESS, DEPENDENTS, STACK, STACK_CONTROL, BOOT, FLOWS_V6])
        .collect()
}

/// Reads parameters, for [`Technique::check`] and [`Technique::run`].
fn read<T: DeserializeOwned>(params: &Value) -> Result<T, String> {
    serde_json::from_value(params.clone()).map_err(|error| error.to_string())
}

/// Parameters of a technique that has none.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParams {}
