//! The engine's account of a stack: its containers, those beside it, and its networks, put into the words of the evidence. What is wrong with
//! it is decided elsewhere.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{ContainerInspectResponse, ContainerSummary, HostConfig, Network};
use bollard::query_parameters::ListNetworksOptions;
use futures_util::future::try_join_all;

use super::docker::{asked, label};
use super::error::TargetError;
use super::gluetun::Gluetun;
use super::settings;
use super::stack::{PROJECT, SERVICE, Stack, has_joined_gone};
use super::sweep;
use crate::model::evidence::{ContainerAccount, GluetunAccount, NO_NETWORKS, NetworkAccount, StackAccount};

/// Variables by which images of torrent clients are told where to take peers' connections.
const PEER_PORTS: [&str; 4] = ["TORRENTING_PORT", "PEERPORT", "TRANSMISSION_PEER_PORT", "RT_INC_PORT"];

/// Asks the engine.
pub(super) async fn take(stack: &Stack) -> Result<StackAccount, TargetError> {
    let all = stack.engine.containers_and_networks().await?;
    let gone = || TargetError::NoContainer { name: stack.name.clone(), running: Vec::new() };
    let own = stack.engine.inspect(&stack.id).await?.ok_or_else(gone)?;
    let listed = stack.engine.docker.list_networks(None::<ListNetworksOptions>).await;
    let listed = listed.map_err(asked("list the networks"))?;
    let vpn = container(&own, stack.project.as_deref());
    let networks = networks_of(&own, &listed);
    let others = all.iter().filter(|one| one.id.as_deref() != Some(&stack.id) && !sweep::is_agent(one));
    let placed: Vec<(Place, &ContainerSummary)> =
        others.filter_map(|one| Some((place(stack, &vpn, one, &all)?, one))).collect();
    let looked = placed.iter().map(|(_, one)| stack.engine.inspect(one.id.as_deref().unwrap_or_default()));
    let inspected = try_join_all(looked).await?;
    let (mut dependents, mut beside) = (Vec::new(), Vec::new());
    // One that is gone by now says nothing any more.
    for ((place, summary), inner) in placed.iter().zip(inspected) {
        let Some(inner) = inner else { continue };
        let mut account = container(&inner, stack.project.as_deref());
        account.joined_gone = has_joined_gone(summary, &all);
        match place {
            Place::Inside => dependents.push(account),
            Place::Beside => beside.push(account),
        }
    }
    dependents.sort_by(|a, b| a.name.cmp(&b.name));
    beside.sort_by(|a, b| a.name.cmp(&b.name));
    let gluetun = own.config.as_ref().and_then(Gluetun::read);
    let gluetun = gluetun.map(|told| GluetunAccount { version: told.version, settings: told.env });
    Ok(StackAccount { vpn, dependents, beside, networks, gluetun })
}

/// Where another container is to the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Inside,
    Beside,
}

/// `None`: it has nothing to do with the stack.
fn place(stack: &Stack, vpn: &ContainerAccount, other: &ContainerSummary, all: &[ContainerSummary]) -> Option<Place> {
    if stack.is_joined_by(other, all) {
        return Some(Place::Inside);
    }
    let same_project = stack.project.is_some() && label(other, PROJECT) == stack.project.as_deref();
    let on = other.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let shares = on
        .into_iter()
        .flat_map(HashMap::keys)
        .any(|net| !NO_NETWORKS.contains(&net.as_str()) && vpn.networks.contains(net));
    (same_project || shares || has_joined_gone(other, all)).then_some(Place::Beside)
}

/// `project` is that of the VPN container.
fn container(inner: &ContainerInspectResponse, project: Option<&str>) -> ContainerAccount {
    let settings = settings::read(inner);
    let config = inner.config.as_ref();
    let host = inner.host_config.as_ref();
    let labels = config.and_then(|config| config.labels.as_ref());
    let own_label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    let status = inner.state.as_ref().and_then(|state| state.status);
    let sysctls = host.and_then(|host| host.sysctls.as_ref()).into_iter().flatten();
    let name = inner.name.as_deref().or(inner.id.as_deref()).unwrap_or_default();
    ContainerAccount {
        name: name.trim_start_matches('/').to_owned(),
        state: status.map_or_else(|| "unknown".to_owned(), |status| status.to_string()),
        service: own_label(SERVICE).map(str::to_owned),
        same_project: project.is_some() && own_label(PROJECT) == project,
        network_mode: host.and_then(|host| host.network_mode.clone()).unwrap_or_default(),
        joined_gone: false,
        published: settings.published,
        published_oddly: settings.published_oddly,
        devices: devices(host),
        device_rules: host.and_then(|host| host.device_cgroup_rules.clone()).unwrap_or_default(),
        mounts: settings.mounts,
        sysctls: sysctls
            .filter(|(key, _)| key.starts_with("net."))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect::<BTreeMap<_, _>>(),
        peer_ports: peer_ports(config.and_then(|config| config.env.as_deref()).unwrap_or_default()),
        image: settings.image,
        networks: settings.networks,
        capabilities: settings.capabilities,
        privileged: settings.privileged,
        host_namespaces: settings.host_namespaces.iter().map(|name| (*name).to_owned()).collect(),
        healthcheck: settings.healthcheck,
        restart: settings.restart,
        depends_on: settings.depends_on,
        secret_variables: settings.secret_variables,
    }
}

fn devices(host: Option<&HostConfig>) -> Vec<String> {
    let given = host.and_then(|host| host.devices.as_ref()).into_iter().flatten();
    let paths = given.flat_map(|device| [&device.path_on_host, &device.path_in_container]).flatten();
    let mut found: Vec<String> = paths.cloned().collect();
    found.sort();
    found.dedup();
    found
}

fn peer_ports(env: &[String]) -> Vec<u16> {
    let lines = env.iter().filter_map(|line| line.split_once('='));
    lines.filter(|(name, _)| PEER_PORTS.contains(name)).filter_map(|(_, value)| value.trim().parse().ok()).collect()
}

/// Those of the list that the container is on, by the names that it has for them: Podman lists its own by another.
fn networks_of(own: &ContainerInspectResponse, listed: &[Network]) -> Vec<NetworkAccount> {
    let on = own.network_settings.as_ref().and_then(|settings| settings.networks.as_ref()).into_iter().flatten();
    let found = on.filter_map(|(name, end)| {
        let by_id =
            |net: &&Network| end.network_id.as_ref().is_some_and(|id| !id.is_empty() && net.id.as_ref() == Some(id));
        let net = listed.iter().find(|net| net.name.as_ref() == Some(name)).or_else(|| listed.iter().find(by_id))?;
        Some(network(name, net))
    });
    let mut found: Vec<NetworkAccount> = found.collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn network(name: &str, net: &Network) -> NetworkAccount {
    let config = net.ipam.as_ref().and_then(|ipam| ipam.config.as_ref());
    let subnets = config.into_iter().flatten().filter_map(|range| range.subnet.as_deref()?.parse().ok());
    NetworkAccount { name: name.to_owned(), ipv6: net.enable_ipv6.unwrap_or_default(), subnets: subnets.collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::evidence::Published;

    /// As `docker inspect` of 20.10 shows it, shortened.
    fn inspected() -> ContainerInspectResponse {
        serde_json::from_value(json!({
            "Id": "0123456789abcdef", "Name": "/gluetun", "State": {"Status": "running"},
            "Config": {
                "Image": "qmcgaw/gluetun:v3.40", "Labels": {PROJECT: "media", SERVICE: "gluetun", "com.docker.compose.depends_on": ""},
                "Env": ["WIREGUARD_PRIVATE_KEY=c2VjcmV0", "TORRENTING_PORT=50413", "PEERPORT=none"],
                "Healthcheck": {"Test": ["CMD-SHELL", "/gluetun-entrypoint healthcheck"]},
            },
            "HostConfig": {
                "NetworkMode": "media_default", "CapAdd": ["NET_ADMIN"], "PidMode": "", "IpcMode": "private",
                "Devices": [{"PathOnHost": "/dev/net/tun", "PathInContainer": "/dev/net/tun", "CgroupPermissions": "rwm"},
                            {"PathOnHost": "/dev/mem", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}],
                "DeviceCgroupRules": ["c 10:200 rwm"],
                "Sysctls": {"net.ipv6.conf.all.disable_ipv6": "1", "net.ipv4.conf.all.src_valid_mark": "1"},
                "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0},
            },
            "NetworkSettings": {
                "Networks": {"media_default": {"IPAddress": "172.18.0.2"}},
                "Ports": {
                    "8080/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
                    "6881/udp": [{"HostIp": "", "HostPort": "6881"}],
                    "8000/tcp": null,
                },
            },
        }))
        .expect("an inspection")
    }

    #[test]
    fn a_container_is_told_without_its_secrets() {
        let account = container(&inspected(), Some("media"));
        let shown = serde_json::to_string(&account).expect("JSON");
        assert!(!shown.contains("c2VjcmV0"), "{shown}");
        let text = |text: &str| text.to_owned();
        let published = |address: &str, port, proto: &str| Published {
            address: address.parse().expect("an address"),
            port,
            inside: port,
            proto: text(proto),
            routed: false,
        };
        let expected = ContainerAccount {
            name: text("gluetun"),
            image: text("qmcgaw/gluetun:v3.40"),
            state: text("running"),
            service: Some(text("gluetun")),
            same_project: true,
            network_mode: text("media_default"),
            networks: vec![text("media_default")],
            published: vec![
                published("0.0.0.0", 6881, "udp"),
                published("0.0.0.0", 8080, "tcp"),
                published("::", 8080, "tcp"),
            ],
            capabilities: vec![text("NET_ADMIN")],
            devices: vec![text("/dev/mem"), text("/dev/net/tun"), text("/dev/x")],
            device_rules: vec![text("c 10:200 rwm")],
            healthcheck: true,
            restart: text("unless-stopped"),
            depends_on: Some(Vec::new()),
            secret_variables: vec![text("WIREGUARD_PRIVATE_KEY")],
            sysctls: [("net.ipv6.conf.all.disable_ipv6", "1"), ("net.ipv4.conf.all.src_valid_mark", "1")]
                .map(|(key, value)| (text(key), text(value)))
                .into(),
            peer_ports: vec![50413],
            ..ContainerAccount::default()
        };
        assert_eq!(account, expected);
        assert!(!container(&inspected(), Some("other")).same_project && !container(&inspected(), None).same_project);
    }

    #[test]
    fn a_network_tells_its_subnets_of_both_families() {
        let told = json!({"Name": "media", "EnableIPv6": true, "IPAM": {"Config": [{"Subnet": "172.18.0.0/16"}, {"Subnet": "fd18::/64"}, {}]}});
        let net = network("media", &serde_json::from_value(told).expect("a network"));
        let subnets = ["172.18.0.0/16", "fd18::/64"].map(|text| text.parse().expect("a subnet"));
        assert_eq!(net, NetworkAccount { name: "media".to_owned(), ipv6: true, subnets: subnets.to_vec() });
    }

    #[test]
    fn a_network_is_found_by_its_name_or_its_number() {
        let own = json!({"NetworkSettings": {"Networks": {
            "media": {"NetworkID": "m"}, "podman": {"NetworkID": "2f259bab93aa"}, "gone": {"NetworkID": ""}, "other": {"NetworkID": "x"},
        }}});
        let listed = json!([
            {"Name": "bridge", "Id": "2f259bab93aa"}, {"Name": "media", "Id": "another"}, {"Name": "nameless", "Id": ""},
        ]);
        let read = |value| serde_json::from_value(value).expect("an inspection");
        let own: ContainerInspectResponse = serde_json::from_value(own).expect("an inspection");
        let listed: Vec<Network> = read(listed);
        let names: Vec<String> = networks_of(&own, &listed).into_iter().map(|net| net.name).collect();
        assert_eq!(names, ["media", "podman"]);
    }
}
