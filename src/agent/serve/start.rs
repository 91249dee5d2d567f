//! What an agent finds of its stack when it begins: links, routes, VPN server, firewall, programs, and the ways in which it can be taken down.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::task::spawn_local;

use super::{OWN_RESOLV_CONF, Ready, State, take_lock};
use crate::agent::links;
use crate::agent::place::{all_endpoints, find_endpoint, local_subnets};
use crate::agent::programs;
use crate::agent::protocol::{PROTOCOL, Reply, Setup, Stack};
use crate::clock::Clock;
use crate::model::evidence::{Link, Role};
use crate::net::firewall;
use crate::outage;
use crate::sensor::allow::AllowList;
use crate::sensor::capture::Sensor;
use crate::sensor::ledger::Ledger;
use crate::technique::{Context, Heard, Openings, read_resolv_conf};

pub(super) async fn start(state: &State, setup: Setup) -> Result<Stack, Reply> {
    let failed = |what: String, help: &str| Reply::Failed { what, help: Some(help.to_owned()) };
    if setup.protocol != PROTOCOL {
        return Err(failed(
            format!("the agent speaks version {PROTOCOL} and the runner {}", setup.protocol),
            "the image of the agent is stale: remove the images labelled leakcheck=agent and run again",
        ));
    }
    #[cfg(feature = "lab")]
    crate::handicap::take_away(&setup.without);
    // The clock is set by the moment at which the runner wrote.
    let clock = Clock::starting_at(setup.elapsed_ms);
    take_lock(state).await?;
    let (connection, routes, _) = rtnetlink::new_connection()
        .map_err(|error| failed(format!("routes could not be read: {error}"), "run as root"))?;
    spawn_local(connection);
    let found = links::find(&routes, setup.tunnel.as_deref(), &setup.other_tunnels).await;
    let uplinks: Vec<u32> = found.iter().filter(|link| link.role == Role::Uplink).map(|link| link.index).collect();
    let gateways = links::gateways(&routes, &uplinks).await;
    let mut notes = Vec::new();
    let local = local_subnets(&setup, &found, &mut notes);
    let generation = firewall::generation();
    let firewall = firewall::text(clock.now_ms());
    let endpoint =
        find_endpoint(&setup, &found, &local, state.root.clone(), &firewall, &mut notes).await.map_err(|error| {
            failed(
                format!("packets cannot be listened to: {error}"),
                "the agent needs CAP_NET_RAW: run leakcheck as root, or with --enter container",
            )
        })?;
    let tunnel = found.iter().find(|link| link.role == Role::Tunnel).map(|link| link.name.clone());
    notes.extend(links::doubts(&found, &setup.other_tunnels));
    if tunnel.is_none() {
        notes.push(match &setup.tunnel {
            Some(name) => {
                format!("there is no link {name}, the tunnel by configuration: everything goes by the uplinks")
            }
            None => "no tunnel was found: every link counts as an uplink".to_owned(),
        });
    }
    let ledger = Ledger::new(setup.nonce);
    let endpoints = all_endpoints(endpoint.as_ref().map(|(endpoint, _)| endpoint), &setup.other_servers);
    let servers: Vec<SocketAddr> = endpoints.iter().map(|endpoint| endpoint.address).collect();
    let allow = AllowList { endpoints, local: local.clone() };
    let tunnels = tunnel.iter().cloned().chain(setup.tunnel.clone()).collect();
    let sensor = Sensor::open(clock, ledger.clone(), allow, &found, tunnels).map_err(|error| {
        failed(
            format!("packets cannot be listened to: {error}"),
            "the agent needs CAP_NET_RAW: run leakcheck as root, or with --enter container",
        )
    })?;
    let server = endpoint.as_ref().map(|(endpoint, _)| endpoint.clone());
    let said = setup.resolv_conf.clone();
    let resolv_files = if state.own_container { vec![OWN_RESOLV_CONF.into()] } else { setup.resolv_files.clone() };
    let cx = Context {
        setup,
        clock,
        ledger,
        links: found.clone(),
        local: local.clone(),
        root: state.root.clone(),
        endpoint: server,
        gateways,
        routes,
        openings: Arc::new(Openings::new(generation, &firewall, names_of_uplinks(&found), local.clone(), &servers)),
        resolv_file: resolv_files.iter().find(|path| read_resolv_conf(path).as_ref() == Some(&said)).cloned(),
        resolv_files,
        heard: Heard::default(),
        programs: programs::find(),
    };
    let possible = outage::available(&cx).await;
    state.ready.replace(Some(Rc::new(Ready { cx, sensor: Arc::new(sensor) })));
    Ok(Stack {
        links: found,
        tunnel,
        endpoint: endpoint.map(|(endpoint, how)| (endpoint.address, how)),
        local,
        methods: possible.methods,
        refused_methods: possible.refused,
        notes,
        firewall,
    })
}

/// What firewalls call them.
pub(super) fn names_of_uplinks(links: &[Link]) -> Vec<String> {
    links.iter().filter(|link| link.role == Role::Uplink).map(|link| link.name.clone()).collect()
}
