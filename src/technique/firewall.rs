//! What the firewall's text lets pass by an uplink, as it was last read: at the start, and again when the kernel says that it was changed.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use crate::model::evidence::Opened;
use crate::model::firewall::{Backend, Example, FirewallText};
use crate::net::firewall;
use crate::sensor::allow::is_private_net;

/// See the head of this file.
#[derive(Default)]
pub struct Openings {
    uplinks: Vec<String>,
    local: Vec<IpNet>,
    at_start: Vec<Opened>,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    /// The kernel's count before it was read.
    generation: Option<u32>,
    /// The kernel counts no changes of these tables.
    legacy: bool,
    opened: Vec<Opened>,
    examples: Vec<Example>,
    /// Private networks that are not local, to which rules let something go.
    private: Vec<IpNet>,
}

impl Now {
    fn of(
        generation: Option<u32>,
        text: &FirewallText,
        uplinks: &[String],
        local: &[IpNet],
        servers: &[SocketAddr],
    ) -> Self {
        let families = || [false, true].into_iter();
        Now {
            generation,
            legacy: text.chains.iter().any(|chain| chain.backend == Backend::Legacy),
            opened: families().flat_map(|v6| text.unsettled(v6, uplinks, local, servers)).collect(),
            examples: families().flat_map(|v6| text.examples(v6, uplinks, local, servers)).collect(),
            private: text.accepted().filter(|net| is_private_net(net) && !covered(net, local)).collect(),
        }
    }
}

fn covered(net: &IpNet, local: &[IpNet]) -> bool {
    local.iter().any(|all| all.contains(net))
}

impl Openings {
    /// Those of a text. `generation` was asked for before it was read.
    pub fn new(
        generation: Option<u32>,
        text: &FirewallText,
        uplinks: Vec<String>,
        local: Vec<IpNet>,
        servers: &[SocketAddr],
    ) -> Self {
        let now = Now::of(generation, text, &uplinks, &local, servers);
        Openings { uplinks, local, at_start: now.opened.clone(), now: Mutex::new(now) }
    }

    /// Reads the text anew if it was changed, or may have been. Whether it did. `other_servers`: one host and port that a rule names is
    /// another server of the VPN's.
    pub fn look(&self, servers: &[SocketAddr], other_servers: bool) -> bool {
        let generation = firewall::generation();
        {
            let now = self.lock();
            if generation == now.generation && !now.legacy {
                return false;
            }
        }
        let text = firewall::text(0.0);
        let mut servers = servers.to_vec();
        if other_servers {
            let uplinks: Vec<&str> = self.uplinks.iter().map(String::as_str).collect();
            servers.extend(text.endpoints(&uplinks));
        }
        *self.lock() = Now::of(generation, &text, &self.uplinks, &self.local, &servers);
        true
    }

    /// What lets pass now, and what sends elsewhere packets that cannot be tried.
    pub fn now(&self) -> Vec<Opened> {
        self.lock().opened.clone()
    }

    /// What of that was not so at the start.
    pub fn since_start(&self) -> Vec<Opened> {
        self.now().into_iter().filter(|opened| !self.at_start.contains(opened)).collect()
    }

    /// Packets that what is open now may let pass, and some that rules send elsewhere.
    pub fn examples(&self) -> Vec<Example> {
        self.lock().examples.clone()
    }

    /// Private networks to which rules let something go, and which are not local.
    pub fn private(&self) -> Vec<IpNet> {
        self.lock().private.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
