//! The home: what a router, a Docker host and the machines of a LAN are to the stack.

use std::sync::Arc;

use ipnet::IpNet;

use super::{Part, place};
use crate::lab::internet::Servers;
use crate::lab::leak::{Action, Leak, Place};
use crate::lab::witness::dns::{Forwarder, Upstream};
use crate::lab::witness::{HttpWitness, Journal};
use crate::lab::{plan, topology};
use crate::net::sysctl;

/// Port of the web server in the LAN.
const LAN_WEB: u16 = 80;

pub(super) fn start(leak: Option<&Leak>, journal: &Journal) -> anyhow::Result<Part> {
    let (bridge, line) = (place::link_in(plan::net(plan::BRIDGE_NET))?, place::link_in(plan::net(plan::HOME_NET))?);
    // The gateway that Docker told the others of; Docker's own bridge has no address.
    place::take(&bridge, &plan::bridge().families(false).addresses)?;
    place::default_route(plan::home_line().families(false).gateways.first().map(|gateway| (*gateway, line.as_str())))?;
    // The LAN needs no wire: whoever asks for it asks the router.
    // As the compose fixture has it: IPv4 alone.
    let lan_host = plan::lan_host().families(false).addresses;
    let router = plan::lan_router().families(false).addresses;
    let lan: Vec<_> = router.iter().chain(&lan_host).map(IpNet::addr).collect();
    topology::own(&lan)?;
    sysctl::set("ipv4/ip_forward", "1")?;
    topology::translate(&line)?;
    let mut servers = Servers::default();
    let witness = HttpWitness::page("lan web", journal.clone(), "lan web");
    for host in &lan_host {
        servers.http(&witness, (host.addr(), LAN_WEB).into(), None)?;
    }
    for action in leak.into_iter().flat_map(Leak::actions) {
        if let Action::OutsideResolver { at: Place::Home, listen, upstream } = action {
            let upstream = Upstream { server: *upstream, from: None };
            let forwarder = Arc::new(Forwarder::new("outside resolver", journal.clone(), upstream));
            servers.dns(&[listen.ip()], None, forwarder)?;
        }
    }
    Ok(servers.into())
}
