//! How a container is set up, as far as it matters for leaks. Names of variables that hold secrets are kept, their values never.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use bollard::models::{
    ContainerConfig, ContainerInspectResponse, HealthStatusEnum, HostConfig, MountPoint, PortBinding,
    RestartPolicyNameEnum,
};

use super::secrets;
use crate::model::evidence::{Mount, Published};

/// Variables by which images of torrent clients are told where their web interface listens.
const WEB_PORTS: [&str; 3] = ["WEBUI_PORT", "QBT_WEBUI_PORT", "TRANSMISSION_RPC_PORT"];

/// Settings of a container of the stack.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Image as the container was started with.
    pub image: String,
    /// Docker networks that it is on; none when it joined another container's.
    pub networks: Vec<String>,
    /// Ports that Docker forwards to it.
    pub published: Vec<Published>,
    /// Ports that it forwards in a way that is not understood.
    pub published_oddly: Vec<String>,
    /// Capabilities beyond Docker's own set, without `CAP_`.
    pub capabilities: Vec<String>,
    /// Capabilities of Docker's own set that were taken away; `ALL` for all.
    pub dropped: Vec<String>,
    /// It may do everything.
    pub privileged: bool,
    /// Namespaces that it shares with the host, other than the network: `pid`, `ipc`, `uts`.
    pub host_namespaces: Vec<&'static str>,
    /// What of the host's files is mounted into it.
    pub mounts: Vec<Mount>,
    /// Whether there is a health check.
    pub healthcheck: bool,
    /// What the health check says now: `healthy`, `unhealthy` or `starting`.
    pub health: Option<String>,
    /// Restart policy; empty or `no` when there is none.
    pub restart: String,
    /// What Compose was told that it depends on, as `(service, condition)`; `None` when it was not made by Compose.
    pub depends_on: Option<Vec<(String, String)>>,
    /// Whether Compose made it; an old one does not tell what it depends on.
    pub by_compose: bool,
    /// Names of environment variables that hold a secret in clear.
    pub secret_variables: Vec<String>,
    /// As whom its programs run, user and group, by its settings: `User`, and the variables PUID and PGID that many images obey.
    pub users: Vec<(u32, u32)>,
    /// Where its web interface listens, by its environment: of torrent clients' images, which have such a variable.
    pub web_port: Option<u16>,
    /// When it was started, RFC 3339.
    pub started_at: Option<String>,
}

/// Reads the settings of an inspected container.
pub fn read(container: &ContainerInspectResponse) -> Settings {
    let config = container.config.clone().unwrap_or_default();
    let host = container.host_config.clone().unwrap_or_default();
    let state = container.state.clone().unwrap_or_default();
    let health = state.health.and_then(|health| health.status);
    let (published, published_oddly) = published(container);
    Settings {
        image: config.image.clone().unwrap_or_default(),
        networks: networks(container),
        published,
        published_oddly,
        capabilities: names_of_capabilities(host.cap_add.as_deref()),
        dropped: names_of_capabilities(host.cap_drop.as_deref()),
        privileged: host.privileged.unwrap_or_default(),
        host_namespaces: host_namespaces(&host),
        mounts: container.mounts.iter().flatten().filter_map(mount).collect(),
        healthcheck: has_healthcheck(&config),
        health: health
            .filter(|status| !matches!(status, HealthStatusEnum::EMPTY | HealthStatusEnum::NONE))
            .map(|status| status.to_string()),
        restart: host
            .restart_policy
            .and_then(|policy| policy.name)
            .as_ref()
            .map(RestartPolicyNameEnum::to_string)
            .unwrap_or_default(),
        depends_on: depends_on(&config),
        by_compose: config.labels.as_ref().is_some_and(|labels| labels.contains_key("com.docker.compose.project")),
        secret_variables: secrets::variables(config.env.as_deref().unwrap_or_default()),
        users: users(&config),
        web_port: WEB_PORTS.iter().find_map(|name| variable(&config, name)),
        started_at: state.started_at,
    }
}

fn networks(container: &ContainerInspectResponse) -> Vec<String> {
    let networks = container.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let mut names: Vec<String> = networks.into_iter().flat_map(|networks| networks.keys().cloned()).collect();
    names.sort();
    names
}

/// An address that is not given is every address; no port of the host is the container's own (gateway mode `routed`). Beside them what could
/// not be understood.
fn published(inner: &ContainerInspectResponse) -> (Vec<Published>, Vec<String>) {
    let ports = inner.network_settings.as_ref().and_then(|settings| settings.ports.as_ref());
    let (mut found, mut odd) = (Vec::new(), Vec::new());
    for (name, bindings) in ports.into_iter().flatten() {
        for binding in bindings.iter().flatten() {
            match forwarded(name, binding) {
                Some(one) => found.push(one),
                None => odd.push(name.clone()),
            }
        }
    }
    found.sort();
    odd.sort();
    (found, odd)
}

fn forwarded(name: &str, binding: &PortBinding) -> Option<Published> {
    let (number, proto) = name.split_once('/').unwrap_or((name, "tcp"));
    let inside = number.parse().ok()?;
    let (port, routed) = match binding.host_port.as_deref() {
        None | Some("") => (inside, true),
        Some(port) => (port.parse().ok()?, false),
    };
    let address = match binding.host_ip.as_deref() {
        None | Some("") => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Some(ip) => ip.parse().ok()?,
    };
    Some(Published { address, port, inside, proto: proto.to_owned(), routed })
}

fn names_of_capabilities(names: Option<&[String]>) -> Vec<String> {
    names.into_iter().flatten().map(|name| name.to_uppercase().trim_start_matches("CAP_").to_owned()).collect()
}

fn host_namespaces(host: &HostConfig) -> Vec<&'static str> {
    let modes = [("pid", &host.pid_mode), ("ipc", &host.ipc_mode), ("uts", &host.uts_mode)];
    modes.into_iter().filter(|(_, mode)| mode.as_deref() == Some("host")).map(|(name, _)| name).collect()
}

/// A user that is given by name has its number in the image only, and is not read here; a group that is not given is the user's number.
fn users(config: &ContainerConfig) -> Vec<(u32, u32)> {
    let stated = config.user.as_deref().and_then(|text| {
        let (user, group) = text.split_once(':').unwrap_or((text, text));
        let user = user.parse().ok()?;
        Some((user, group.parse().unwrap_or(user)))
    });
    let by_variable = variable(config, "PUID").map(|user| (user, variable(config, "PGID").unwrap_or(user)));
    stated.into_iter().chain(by_variable).collect()
}

/// The number in this variable of the environment.
fn variable<T: FromStr>(config: &ContainerConfig, name: &str) -> Option<T> {
    let lines = config.env.iter().flatten();
    lines.filter_map(|line| line.split_once('=')).find(|(key, _)| *key == name)?.1.trim().parse().ok()
}

/// Volumes and what is kept in memory are the engine's and none of the host's.
fn mount(point: &MountPoint) -> Option<Mount> {
    let of_host = point.typ.as_deref().is_none_or(|kind| kind == "bind");
    let source = point.source.clone().filter(|source| of_host && !source.is_empty())?;
    Some(Mount { source, target: point.destination.clone().unwrap_or_default(), writable: point.rw.unwrap_or(true) })
}

fn has_healthcheck(config: &ContainerConfig) -> bool {
    let test = config.healthcheck.as_ref().and_then(|check| check.test.as_deref()).unwrap_or_default();
    test.first().is_some_and(|kind| kind != "NONE")
}

/// Compose v2 writes `gluetun:service_healthy:false,db:service_started:false` into a label; older ones write only the project.
fn depends_on(config: &ContainerConfig) -> Option<Vec<(String, String)>> {
    let text = config.labels.as_ref()?.get("com.docker.compose.depends_on")?;
    let parts = text.split(',').filter(|part| !part.is_empty());
    Some(
        parts
            .map(|part| {
                let mut words = part.split(':').map(str::to_owned);
                (words.next().unwrap_or_default(), words.next().unwrap_or_default())
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_matters_is_read() {
        let container = json!({
            "Config": {"Image": "linuxserver/qbittorrent", "Env": ["API_KEY=hunter2", "PATH=/bin", "PUID=1000", "PGID=100", "WEBUI_PORT=8090"],
                       "Healthcheck": {"Test": ["CMD", "true"]},
                       "Labels": {"com.docker.compose.depends_on": "gluetun:service_healthy:false,db:service_started:true"}},
            "HostConfig": {"CapAdd": ["CAP_NET_ADMIN", "net_raw"], "CapDrop": ["MKNOD"], "Privileged": true, "PidMode": "host", "IpcMode": "private",
                           "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0}},
            "State": {"Health": {"Status": "healthy"}, "StartedAt": "2026-01-01T00:00:00Z"},
            "Mounts": [{"Type": "bind", "Source": "/var/run/docker.sock", "Destination": "/var/run/docker.sock"}],
            "NetworkSettings": {"Networks": {"media": {}, "backup": {}},
                                "Ports": {"6881/tcp": [{"HostIp": "0.0.0.0", "HostPort": "6881"}, {"HostIp": "::", "HostPort": "6881"}], "80/tcp": null}},
        });
        let settings = read(&serde_json::from_value(container).expect("an inspection"));
        let expected = Settings {
            image: "linuxserver/qbittorrent".to_owned(),
            networks: vec!["backup".to_owned(), "media".to_owned()],
            published: ["0.0.0.0", "::"]
                .map(|address| Published {
                    address: address.parse().expect("an address"),
                    port: 6881,
                    inside: 6881,
                    proto: "tcp".to_owned(),
                    routed: false,
                })
                .to_vec(),
            capabilities: vec!["NET_ADMIN".to_owned(), "NET_RAW".to_owned()],
            dropped: vec!["MKNOD".to_owned()],
            privileged: true,
            host_namespaces: vec!["pid"],
            published_oddly: Vec::new(),
            mounts: vec![Mount {
                source: "/var/run/docker.sock".to_owned(),
                target: "/var/run/docker.sock".to_owned(),
                writable: true,
            }],
            healthcheck: true,
            health: Some("healthy".to_owned()),
            restart: "unless-stopped".to_owned(),
            depends_on: Some(vec![
                ("gluetun".to_owned(), "service_healthy".to_owned()),
                ("db".to_owned(), "service_started".to_owned()),
            ]),
            by_compose: false,
            secret_variables: vec!["API_KEY".to_owned()],
            users: vec![(1000, 100)],
            web_port: Some(8090),
            started_at: Some("2026-01-01T00:00:00Z".to_owned()),
        };
        assert_eq!(settings, expected);
        assert_eq!(read(&ContainerInspectResponse::default()), Settings::default());
    }

    #[test]
    fn a_port_without_one_of_the_host_is_routed_and_an_odd_one_is_told() {
        let ports = json!({"NetworkSettings": {"Ports": {
            "80/tcp": [{"HostIp": "", "HostPort": ""}],
            "81/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8081-8090"}],
            "82/udp": [{"HostIp": "everywhere", "HostPort": "82"}],
        }}});
        let settings = read(&serde_json::from_value(ports).expect("an inspection"));
        let routed = Published {
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 80,
            inside: 80,
            proto: "tcp".to_owned(),
            routed: true,
        };
        assert_eq!(settings.published, [routed]);
        assert_eq!(settings.published_oddly, ["81/tcp", "82/udp"]);
    }

    #[test]
    fn mounts_of_the_host_are_told_and_volumes_are_not() {
        let mounts = json!({"Mounts": [
            {"Type": "volume", "Source": "/var/lib/docker/volumes/config/_data", "Destination": "/config", "RW": true},
            {"Type": "tmpfs", "Source": "", "Destination": "/tmp", "RW": true},
            {"Type": "bind", "Source": "/srv/media", "Destination": "/media", "RW": false},
        ]});
        let settings = read(&serde_json::from_value(mounts).expect("an inspection"));
        let media = Mount { source: "/srv/media".to_owned(), target: "/media".to_owned(), writable: false };
        assert_eq!(settings.mounts, [media]);
    }

    #[test]
    fn a_disabled_healthcheck_is_none() {
        let config: ContainerConfig =
            serde_json::from_value(json!({"Healthcheck": {"Test": ["NONE"]}})).expect("a config");
        assert!(!has_healthcheck(&config));
    }
}
