//! What the agent and the judge are told of a stack: the configuration, beside what its container and its namespace say themselves.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use super::Options;
use super::error::{API_KEY, RunError};
use super::outside::Outside;
use super::session::Session;
use crate::agent::protocol::{ControlKey, PROTOCOL, Setup, Stack, TorrentAccess};
use crate::config::{Config, Provider, Secret};
use crate::judge::Facts;
use crate::model::evidence::{Proto, Published, Role};
use crate::sensor::allow::is_private;
use crate::target::{Gluetun, SETNS, Target};
use crate::technique::{self, client_url};

pub(super) fn setup(
    options: &Options<'_>,
    target: &Target,
    session: &Session,
    extra_ca: Option<String>,
    (control_key, torrent): (Option<ControlKey>, Option<TorrentAccess>),
    clock: Instant,
) -> Setup {
    let config = options.config;
    let gluetun = target.gluetun.as_ref();
    let interface = gluetun.and_then(|gluetun| gluetun.env.get("VPN_INTERFACE")).cloned();
    // The port may be told by the container's settings; only a configured address outranks it.
    let control = match gluetun {
        Some(gluetun) if config.outage.control_server == Config::default().outage.control_server => {
            format!("http://127.0.0.1:{}", gluetun.control_port)
        }
        _ => config.outage.control_server.to_string(),
    };
    let setting =
        |name: &str| gluetun.and_then(|gluetun| gluetun.env.get(name)).map(|value| value.to_ascii_lowercase());
    let openvpn = (setting("VPN_TYPE").as_deref() == Some("openvpn")).then(|| match setting("OPENVPN_PROTOCOL") {
        Some(proto) if proto.starts_with("tcp") => Proto::Tcp,
        _ => Proto::Udp,
    });
    Setup {
        protocol: PROTOCOL,
        elapsed_ms: clock.elapsed().as_secs_f64() * 1000.0,
        nonce: rand::random(),
        tunnel: config.vpn.interface.clone().or(interface),
        endpoint: config.vpn.endpoint.or_else(|| gluetun.and_then(|gluetun| gluetun.endpoint())),
        other_servers: config.vpn.other_servers.clone(),
        other_tunnels: config.vpn.other_tunnels.clone(),
        openvpn,
        local: config.local.subnets.clone(),
        outbound: gluetun.map(Gluetun::outbound_subnets).unwrap_or_default(),
        resolv_conf: target.resolv_conf.text.clone(),
        resolv_files: target.resolv_files(),
        resolvers: config.dns.resolvers.clone(),
        dependents: dependents(target),
        echo_http: config.echo.http.iter().map(ToString::to_string).collect(),
        echo_stun: config.echo.stun.iter().map(|at| (at.host.clone(), at.port)).collect(),
        echo_dht: config.echo.dht.iter().map(|at| (at.host.clone(), at.port)).collect(),
        echo_tracker: config.echo.tracker.clone(),
        source_ports: config.echo.source_ports.iter().map(|port| port.get()).collect(),
        echo_dns: config.echo.dns.clone(),
        extra_ca,
        mullvad: config.vpn.provider == Provider::Mullvad,
        forced: config.dns.forced.clone(),
        canary: config.dns.canary.clone(),
        must_reach: config.local.must_reach.iter().map(crate::config::Local::stated).collect(),
        must_not_reach: config.local.must_not_reach.iter().map(crate::config::Local::stated).collect(),
        users: users(target),
        container: target.container().map(|container| container.name),
        control_server: control,
        control_key,
        forwarding: gluetun.and_then(Gluetun::forwards),
        vpn_input_ports: gluetun.map(|gluetun| gluetun.ports("FIREWALL_VPN_INPUT_PORTS")).unwrap_or_default(),
        torrent,
        host_programs: session.how == SETNS,
        down: config.outage.down.clone(),
        up: config.outage.up.clone(),
        #[cfg(feature = "lab")]
        without: crate::handicap::taken(),
    }
}

/// Ports of the stack that its owner means to be reached.
pub(super) fn open_ports(options: &Options<'_>, target: &Target) -> Vec<u16> {
    let stated = target.gluetun.as_ref().map(Gluetun::input_ports).unwrap_or_default();
    options.config.local.must_serve.iter().map(|local| local.host_port().port).chain(stated).collect()
}

/// Public addresses of the host at which the engine forwards ports to the stack.
pub(super) fn published_at(target: &Target) -> Vec<IpAddr> {
    let settings = target.dependents.iter().map(|dependent| &dependent.settings).chain(&target.settings);
    public(settings.flat_map(|settings| &settings.published))
}

fn public<'a>(published: impl Iterator<Item = &'a Published>) -> Vec<IpAddr> {
    // Every machine has those of its links, whoever it is.
    let of_link = |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let addresses = published.map(|one| one.address);
    let addresses = addresses.filter(|ip| !ip.is_unspecified() && !is_private(*ip) && !of_link(*ip));
    addresses.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Where the torrent client is asked, with what opens it, if one is configured.
///
/// # Errors
/// When the file that opens it cannot be read.
pub(super) fn torrent_access(config: &Config) -> Result<Option<TorrentAccess>, RunError> {
    let torrent = &config.torrent;
    let Some(client) = torrent.client else { return Ok(None) };
    let read = |what, path: &std::path::PathBuf| {
        let secret = Secret::read(path);
        secret.map_err(|source| RunError::TorrentSecret { what, path: path.clone(), source })
    };
    let key = match (&torrent.api_key_file, &torrent.password_file) {
        (Some(path), _) => Some(ControlKey::ApiKey(read(API_KEY, path)?.expose().to_owned())),
        (None, Some(path)) => Some(ControlKey::Login {
            user: torrent.user.clone().unwrap_or_default(),
            password: read("password", path)?.expose().to_owned(),
        }),
        (None, None) => None,
    };
    let url = torrent.url.as_ref().map_or_else(|| client_url(client).to_owned(), ToString::to_string);
    Ok(Some(TorrentAccess { client, url, key }))
}

/// The containers that run in the namespace, or may, with their resolv.conf.
fn dependents(target: &Target) -> Vec<technique::DependentFile> {
    let inside = target.dependents.iter().filter(|dependent| dependent.pid.is_some());
    let inside = inside.filter(|dependent| dependent.in_namespace != Some(false));
    inside
        .map(|dependent| technique::DependentFile {
            name: dependent.name.clone(),
            text: dependent.resolv_conf.as_ref().map(|file| file.text.clone()),
        })
        .collect()
}

/// As whom the containers' settings say that the stack's programs run.
fn users(target: &Target) -> Vec<technique::User> {
    let settings = target.dependents.iter().map(|dependent| &dependent.settings).chain(&target.settings);
    let users = settings.flat_map(|settings| &settings.users);
    users.map(|(uid, gid)| technique::User { uid: *uid, gid: *gid }).collect()
}

pub(super) fn facts(config: &Config, outside: &Outside, stack: &Stack) -> Facts {
    let uplinks = stack.links.iter().filter(|link| link.role == Role::Uplink);
    Facts {
        home: if config.home.ip.is_empty() { outside.home.clone() } else { config.home.ip.clone() },
        home_resolvers: if config.home.resolvers.is_empty() {
            outside.resolvers.clone()
        } else {
            config.home.resolvers.clone()
        },
        provider: Some(config.vpn.provider),
        exit: config.vpn.exit.clone(),
        resolvers: config.dns.resolvers.clone(),
        forced_policy: Some(config.dns.forced_policy),
        uplink_nets: uplinks
            .clone()
            .flat_map(|link| link.addresses.clone())
            .filter(|net| net.prefix_len() > 0)
            .collect(),
        uplinks: uplinks.map(|link| link.name.clone()).collect(),
        tunnel: stack.tunnel.clone(),
        tunnel_nets: stack
            .links
            .iter()
            .filter(|link| Some(&link.name) == stack.tunnel.as_ref())
            .flat_map(|link| link.addresses.clone())
            .collect(),
        endpoint_known: stack.endpoint.is_some(),
        endpoint: stack.endpoint.as_ref().map(|(address, _)| *address),
        other_servers: config.vpn.other_servers.clone(),
        local: stack.local.clone(),
        access: config.access.iter().map(crate::config::Access::rule).collect(),
        firewall: Some(stack.firewall.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_address_at_which_a_port_is_published_is_told() {
        let published =
            ["0.0.0.0", "::", "127.0.0.1", "::1", "192.168.1.5", "fd18::5", "fe80::5", "203.0.113.5", "2001:db8:18::5"];
        let at = |address: &str| Published {
            address: address.parse().expect("an address"),
            port: 80,
            inside: 80,
            proto: "tcp".to_owned(),
            routed: false,
        };
        let published: Vec<Published> = published.iter().chain(&["203.0.113.5"]).map(|address| at(address)).collect();
        let found: Vec<String> = public(published.iter()).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["203.0.113.5", "2001:db8:18::5"]);
    }
}
