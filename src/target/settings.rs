//! How a container is set up, as far as it matters for leaks. Names of variables that hold secrets are kept, their values never.

use std::net::{IpAddr, Ipv4Addr};

use bollard::models::{
    ContainerConfig, ContainerInspectResponse, HealthStatusEnum, HostConfig, MountPoint, RestartPolicyNameEnum,
};

use crate::model::evidence::Published;

/// Settings of a container of the stack.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Image as the container was started with.
    pub image: String,
    /// Docker networks that it is on; none when it joined another container's.
    pub networks: Vec<String>,
    /// Ports that Docker forwards to it.
    pub published: Vec<Published>,
    /// Capabilities beyond Docker's own set, without `CAP_`.
    pub capabilities: Vec<String>,
    /// Capabilities of Docker's own set that were taken away; `ALL` for all.
    pub dropped: Vec<String>,
    /// It may do everything.
    pub privileged: bool,
    /// Namespaces that it shares with the host, other than the network: `pid`, `ipc`, `uts`.
    pub host_namespaces: Vec<&'static str>,
    /// It can command the engine, because the engine's socket is mounted into it.
    pub docker_socket: bool,
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
    /// When it was started, RFC 3339.
    pub started_at: Option<String>,
}

/// Reads the settings of an inspected container.
pub fn read(container: &ContainerInspectResponse) -> Settings {
    let config = container.config.clone().unwrap_or_default();
    let host = container.host_config.clone().unwrap_or_default();
    let state = container.state.clone().unwrap_or_default();
    let health = state.health.and_then(|health| health.status);
    Settings {
        image: config.image.clone().unwrap_or_default(),
        networks: networks(container),
        published: published(container),
        capabilities: names_of_capabilities(host.cap_add.as_deref()),
        dropped: names_of_capabilities(host.cap_drop.as_deref()),
        privileged: host.privileged.unwrap_or_default(),
        host_namespaces: host_namespaces(&host),
        docker_socket: container.mounts.iter().flatten().any(is_docker_socket),
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
        secret_variables: config.env.iter().flatten().filter_map(|line| secret_variable(line)).collect(),
        users: users(&config),
        started_at: state.started_at,
    }
}

fn networks(container: &ContainerInspectResponse) -> Vec<String> {
    let networks = container.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let mut names: Vec<String> = networks.into_iter().flat_map(|networks| networks.keys().cloned()).collect();
    names.sort();
    names
}

/// An address that is not given is every address; a port that cannot be read is none.
fn published(inner: &ContainerInspectResponse) -> Vec<Published> {
    let ports = inner.network_settings.as_ref().and_then(|settings| settings.ports.as_ref());
    let mut found = Vec::new();
    for (inside, bindings) in ports.into_iter().flatten() {
        let (number, proto) = inside.split_once('/').unwrap_or((inside, "tcp"));
        let Ok(inside) = number.parse() else { continue };
        for binding in bindings.iter().flatten() {
            let Some(port) = binding.host_port.as_deref().and_then(|port| port.parse().ok()) else { continue };
            let stated = binding.host_ip.as_deref().and_then(|ip| ip.parse().ok());
            let address = stated.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            found.push(Published { address, port, inside, proto: proto.to_owned() });
        }
    }
    found.sort();
    found
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
    let variable = |name: &str| {
        let lines = config.env.iter().flatten();
        lines.filter_map(|line| line.split_once('=')).find(|(key, _)| *key == name)?.1.parse().ok()
    };
    let by_variable = variable("PUID").map(|user| (user, variable("PGID").unwrap_or(user)));
    stated.into_iter().chain(by_variable).collect()
}

fn is_docker_socket(mount: &MountPoint) -> bool {
    mount.source.as_deref().is_some_and(|source| source.ends_with("/docker.sock") || source.ends_with("/podman.sock"))
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

/// The name of the variable, when its name says that the value is a secret and it has one. A path to a file with the secret is how it
/// should be done, and public keys are public.
fn secret_variable(line: &str) -> Option<String> {
    let (name, value) = line.split_once('=')?;
    let upper = name.to_uppercase();
    let says_secret =
        ["KEY", "PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "TOKEN"].iter().any(|word| upper.contains(word));
    let says_public = upper.ends_with("FILE") || upper.contains("PUBLIC_KEY") || upper == "GPG_KEY";
    let role_with_secret =
        upper == "HTTP_CONTROL_SERVER_AUTH_DEFAULT_ROLE" && (value.contains("apikey") || value.contains("password"));
    ((says_secret && !says_public && !value.is_empty()) || role_with_secret).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_matters_is_read() {
        let container = json!({
            "Config": {"Image": "linuxserver/qbittorrent", "Env": ["API_KEY=hunter2", "PATH=/bin", "PUID=1000", "PGID=100"],
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
                })
                .to_vec(),
            capabilities: vec!["NET_ADMIN".to_owned(), "NET_RAW".to_owned()],
            dropped: vec!["MKNOD".to_owned()],
            privileged: true,
            host_namespaces: vec!["pid"],
            docker_socket: true,
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
            started_at: Some("2026-01-01T00:00:00Z".to_owned()),
        };
        assert_eq!(settings, expected);
        assert_eq!(read(&ContainerInspectResponse::default()), Settings::default());
    }

    #[test]
    fn secrets_are_named_and_paths_to_them_are_not() {
        for line in [
            "WIREGUARD_PRIVATE_KEY=a",
            "OPENVPN_PASSWORD=a",
            "PUBLICIP_API_TOKEN=a",
            "webui_password=a",
            "HTTP_CONTROL_SERVER_AUTH_DEFAULT_ROLE={\"auth\":\"apikey\",\"apikey\":\"x\"}",
        ] {
            assert_eq!(secret_variable(line).as_deref(), line.split('=').next(), "{line}");
        }
        for line in [
            "WIREGUARD_PRIVATE_KEY=",
            "WIREGUARD_PRIVATE_KEY_SECRETFILE=/run/secrets/k",
            "OPENVPN_PASSWORD_FILE=/x",
            "WIREGUARD_PUBLIC_KEY=a",
            "GPG_KEY=A035",
            "PATH=/bin",
            "HTTP_CONTROL_SERVER_AUTH_DEFAULT_ROLE={\"auth\":\"none\"}",
            "KEY",
        ] {
            assert_eq!(secret_variable(line), None, "{line}");
        }
    }

    #[test]
    fn a_disabled_healthcheck_is_none() {
        let config: ContainerConfig =
            serde_json::from_value(json!({"Healthcheck": {"Test": ["NONE"]}})).expect("a config");
        assert!(!has_healthcheck(&config));
    }
}
