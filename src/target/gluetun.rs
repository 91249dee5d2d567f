//! Telling a Gluetun container from others, and what its inspection says without secrets. It does not talk to Gluetun.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{ContainerConfig, ContainerSummary};
use ipnet::IpNet;

use super::docker::{candidate, label, name_of, runs};
use super::error::{Candidate, TargetError};
use super::sweep;
use crate::model::evidence::{GluetunAccount, OUTBOUND_SUBNETS};

/// Port of Gluetun's control server when nothing else is said.
const CONTROL_PORT: u16 = 8000;

/// Label that makes any container count as the VPN container, when its value is `gluetun`.
pub const ROLE_LABEL: &str = "leakcheck.role";

/// Variables whose values hold no secret and are worth knowing. Names in full, because a prefix lets the next secret in.
const HARMLESS: [&str; 33] = [
    "VPN_SERVICE_PROVIDER",
    "VPN_TYPE",
    "VPN_INTERFACE",
    "VPN_ENDPOINT_IP",
    "VPN_ENDPOINT_PORT",
    "OPENVPN_PROTOCOL",
    "VPN_PORT_FORWARDING",
    "PORT_FORWARDING",
    "PRIVATE_INTERNET_ACCESS_VPN_PORT_FORWARDING",
    "WIREGUARD_ENDPOINT_IP",
    "WIREGUARD_ENDPOINT_PORT",
    "WIREGUARD_IMPLEMENTATION",
    "WIREGUARD_MTU",
    "FIREWALL",
    "FIREWALL_ENABLED_DISABLING_IT_SHOOTS_YOU_IN_YOUR_FOOT",
    "FIREWALL_OUTBOUND_SUBNETS",
    "EXTRA_SUBNETS",
    "FIREWALL_INPUT_PORTS",
    "FIREWALL_VPN_INPUT_PORTS",
    "HTTP_CONTROL_SERVER_ADDRESS",
    "HTTP_CONTROL_SERVER_PORT",
    "DNS_ADDRESS",
    "DNS_SERVER",
    "DNS_UPSTREAM_RESOLVERS",
    "DNS_UPSTREAM_RESOLVER_TYPE",
    "DNS_UPSTREAM_PLAIN_ADDRESSES",
    "DNS_PLAINTEXT_ADDRESS",
    "DNS_KEEP_NAMESERVER",
    "DOT",
    "DOT_PROVIDERS",
    "OPENVPN_IPV6",
    "HTTP_CONTROL_SERVER_AUTH_CONFIG_FILEPATH",
    "HEALTH_VPN_DURATION_INITIAL",
];

/// Whether it has a port forwarded, in the order in which it reads them: an old name outranks the new one, which its image may have set.
const FORWARDING: [&str; 3] = ["PORT_FORWARDING", "PRIVATE_INTERNET_ACCESS_VPN_PORT_FORWARDING", "VPN_PORT_FORWARDING"];

/// What a Gluetun container tells about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gluetun {
    /// Image as the container was started with.
    pub image: String,
    /// Version, by the image's label or tag, such as `v3.40.0`.
    pub version: Option<String>,
    /// Port of the control server, which listens on all interfaces.
    pub control_port: u16,
    /// Environment, as far as it is known to hold no secret.
    pub env: BTreeMap<String, String>,
}

impl Gluetun {
    /// Reads an inspected container; `None` when it is not a Gluetun.
    pub fn read(config: &ContainerConfig) -> Option<Self> {
        let image = config.image.clone().unwrap_or_default();
        let labels = config.labels.clone().unwrap_or_default();
        let variables: HashMap<&str, &str> =
            config.env.iter().flatten().filter_map(|line| line.split_once('=')).collect();
        if !(by_image(&image) || by_labels(&labels) || by_variables(&variables)) {
            return None;
        }
        let tag = image.rsplit('/').next().and_then(|name| name.split_once(':')).map(|(_, tag)| tag.to_owned());
        let named = labels.get("org.opencontainers.image.version").filter(|version| !version.is_empty()).cloned();
        // The older one is read first, as it is with all of its variables.
        let control = ["HTTP_CONTROL_SERVER_PORT", "HTTP_CONTROL_SERVER_ADDRESS"];
        let control = control.iter().find_map(|name| variables.get(name).filter(|value| !value.is_empty()));
        let harmless = HARMLESS.iter().filter_map(|&name| Some((name.to_owned(), (*variables.get(name)?).to_owned())));
        Some(Self {
            version: named.or(tag).map(|version| version.split('@').next().unwrap_or_default().to_owned()),
            control_port: control.and_then(|at| at.rsplit(':').next()?.parse().ok()).unwrap_or(CONTROL_PORT),
            env: harmless.filter(|(_, value)| !value.is_empty()).collect(),
            image,
        })
    }

    /// Ports that it opens to the uplink.
    pub fn input_ports(&self) -> Vec<u16> {
        self.ports("FIREWALL_INPUT_PORTS")
    }

    /// Networks that it lets past the tunnel; what is none is left out.
    pub fn outbound_subnets(&self) -> Vec<IpNet> {
        let stated = OUTBOUND_SUBNETS.iter().find_map(|&name| self.env.get(name));
        stated.into_iter().flat_map(|text| text.split(',')).filter_map(|net| net.trim().parse().ok()).collect()
    }

    /// The ports that a variable lists; what is none is left out.
    pub fn ports(&self, variable: &str) -> Vec<u16> {
        let listed = self.env.get(variable).into_iter().flat_map(|text| text.split(','));
        listed.filter_map(|port| port.trim().parse().ok()).collect()
    }

    /// Whether it is set to have a port forwarded; `None`: what it is set to says neither.
    pub fn forwards(&self) -> Option<bool> {
        let account = GluetunAccount { version: None, settings: self.env.clone() };
        FORWARDING.iter().find_map(|name| account.switch(name)).map_or(Some(false), Result::ok)
    }

    /// The address family, host and port of the VPN's endpoint, when the environment fixes it.
    pub fn endpoint(&self) -> Option<std::net::SocketAddr> {
        let value = |names: [&str; 2]| names.iter().find_map(|&name| self.env.get(name));
        let address = value(["VPN_ENDPOINT_IP", "WIREGUARD_ENDPOINT_IP"])?.parse().ok()?;
        let port = value(["VPN_ENDPOINT_PORT", "WIREGUARD_ENDPOINT_PORT"])?.parse().ok()?;
        Some(std::net::SocketAddr::new(address, port))
    }
}

/// A container of a list, and whether its environment is that of Gluetun (which a list does not tell).
#[derive(Debug)]
pub struct Listed {
    /// The container.
    pub summary: ContainerSummary,
    /// Its environment says that it is Gluetun.
    pub by_environment: bool,
}

/// The name of the one Gluetun that runs.
pub fn choose(containers: &[Listed]) -> Result<String, TargetError> {
    let all: Vec<&Listed> = containers.iter().filter(|listed| !sweep::is_agent(&listed.summary)).collect();
    let (running, stopped): (Vec<&Listed>, Vec<&Listed>) = all.into_iter().partition(|listed| runs(&listed.summary));
    let gluetuns = |among: &[&Listed]| -> Vec<Candidate> {
        among.iter().filter(|listed| is_gluetun(listed)).map(|listed| candidate(&listed.summary)).collect()
    };
    let mut found = gluetuns(&running);
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one.name),
        (Some(last), false) => {
            found.push(last);
            found.sort_by(|a, b| a.name.cmp(&b.name));
            Err(TargetError::SeveralGluetun { found })
        }
        (None, _) => Err(TargetError::NoGluetun {
            running: running.iter().map(|listed| candidate(&listed.summary)).collect(),
            stopped: gluetuns(&stopped),
        }),
    }
}

/// The container that this name means as a compose service, when no container has the name.
pub fn of_service(containers: &[ContainerSummary], service: &str) -> Result<String, TargetError> {
    let real = |summary: &&ContainerSummary| runs(summary) && !sweep::is_agent(summary);
    let of_it = |summary: &&ContainerSummary| label(summary, "com.docker.compose.service") == Some(service);
    let found: Vec<&ContainerSummary> = containers.iter().filter(real).filter(of_it).collect();
    match found.as_slice() {
        [one] => Ok(name_of(one)),
        [] => Err(TargetError::NoContainer {
            name: service.to_owned(),
            running: containers.iter().filter(real).map(candidate).collect(),
        }),
        several => Err(TargetError::SeveralOfService {
            service: service.to_owned(),
            found: several.iter().map(|summary| candidate(summary)).collect(),
        }),
    }
}

fn is_gluetun(listed: &Listed) -> bool {
    let summary = &listed.summary;
    let joined = summary.host_config.as_ref().and_then(|config| config.network_mode.as_deref());
    // One that joined another's network may have copied its variables; the VPN is in the one that was joined.
    if joined.is_some_and(|mode| mode.starts_with("container:")) {
        return false;
    }
    by_image(summary.image.as_deref().unwrap_or_default())
        || summary.labels.as_ref().is_some_and(by_labels)
        || listed.by_environment
}

/// Whether the last part of the repository's name is `gluetun`, whatever the registry, tag or digest.
fn by_image(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or_default();
    name.split([':', '@']).next() == Some("gluetun")
}

fn by_labels(labels: &HashMap<String, String>) -> bool {
    let source = labels
        .get("org.opencontainers.image.source")
        .is_some_and(|url| url.trim_end_matches('/').ends_with("/gluetun"));
    source || labels.get(ROLE_LABEL).is_some_and(|role| role == "gluetun")
}

fn by_variables(variables: &HashMap<&str, &str>) -> bool {
    // The image itself sets both, so that a renamed or rebuilt Gluetun has them too.
    variables.contains_key("VPN_SERVICE_PROVIDER") && variables.contains_key("VPN_TYPE")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn listed(name: &str, image: &str, state: &str, mode: &str) -> Listed {
        let summary = json!({"Id": format!("{name}-id"), "Names": [format!("/{name}")], "Image": image, "State": state,
                             "Labels": {}, "HostConfig": {"NetworkMode": mode}});
        Listed { summary: serde_json::from_value(summary).expect("a summary"), by_environment: false }
    }

    fn config(image: &str, env: &[&str], labels: serde_json::Value) -> ContainerConfig {
        serde_json::from_value(json!({"Image": image, "Env": env, "Labels": labels})).expect("a config")
    }

    #[test]
    fn images_of_gluetun_are_known_by_name() {
        for image in [
            "qmcgaw/gluetun",
            "qmcgaw/gluetun:v3.40",
            "ghcr.io/qdm12/gluetun:latest",
            "passteque/gluetun",
            "registry.lan:5000/mirror/gluetun:v3",
            "gluetun",
            "qmcgaw/gluetun@sha256:abc",
        ] {
            assert!(by_image(image), "{image}");
        }
        for image in ["linuxserver/qbittorrent", "me/not-gluetun", "gluetun/exporter:1", "qmcgaw/gluetun-webui", ""] {
            assert!(!by_image(image), "{image}");
        }
    }

    #[test]
    fn the_only_one_is_chosen() {
        let stack = [
            listed("vpn", "qmcgaw/gluetun:v3.40", "running", "media_default"),
            listed("qbittorrent", "linuxserver/qbittorrent", "running", "container:vpn-id"),
            listed("old", "qmcgaw/gluetun:v3.38", "exited", "media_default"),
        ];
        assert_eq!(choose(&stack).expect("one runs"), "vpn");
    }

    #[test]
    fn one_that_joined_another_is_not_it() {
        let mut copied = listed("prowlarr", "linuxserver/prowlarr", "running", "container:vpn-id");
        copied.by_environment = true;
        let mut renamed = listed("vpn", "sha256:0123", "running", "bridge");
        renamed.by_environment = true;
        assert_eq!(choose(&[copied, renamed]).expect("one has its own network"), "vpn");
    }

    #[test]
    fn several_are_listed() {
        let error = choose(&[
            listed("b", "qmcgaw/gluetun", "running", "bridge"),
            listed("a", "qmcgaw/gluetun", "paused", "bridge"),
        ])
        .expect_err("two run");
        assert_eq!(
            error.to_string(),
            "choose a stack: several Gluetun containers run: a (qmcgaw/gluetun), b (qmcgaw/gluetun)"
        );
        assert_eq!(error.help().as_deref(), Some("name one, as in --target docker:a"));
    }

    #[test]
    fn none_lists_what_runs_and_a_stopped_one() {
        let error = choose(&[
            listed("web", "nginx:1", "running", "bridge"),
            listed("vpn", "qmcgaw/gluetun", "exited", "bridge"),
        ])
        .expect_err("none runs");
        assert!(error.to_string().contains("running are web (nginx:1)"), "{error}");
        assert!(error.help().is_some_and(|help| help.contains("docker start vpn")));
        let error = choose(&[]).expect_err("none at all");
        assert!(error.to_string().contains("no container runs"), "{error}");
    }

    #[test]
    fn our_own_agent_is_never_the_stack() {
        let mut agent = listed("leakcheck-agent-1", "gluetun", "running", "bridge");
        agent.summary.labels = Some(HashMap::from([(sweep::LABEL.to_owned(), sweep::AGENT.to_owned())]));
        assert!(matches!(choose(&[agent]), Err(TargetError::NoGluetun { running, .. }) if running.is_empty()));
    }

    #[test]
    fn a_compose_service_stands_for_its_container() {
        let of = |name: &str, service: &str, state: &str| {
            let mut summary = listed(name, "image", state, "bridge").summary;
            summary.labels = Some(HashMap::from([("com.docker.compose.service".to_owned(), service.to_owned())]));
            summary
        };
        let all = [
            of("media-gluetun-1", "gluetun", "running"),
            of("old-gluetun-1", "gluetun", "exited"),
            of("x", "y", "running"),
            of("z", "y", "running"),
        ];
        assert_eq!(of_service(&all, "gluetun").expect("one runs"), "media-gluetun-1");
        assert!(matches!(of_service(&all, "y"), Err(TargetError::SeveralOfService { found, .. }) if found.len() == 2));
        assert!(
            matches!(of_service(&all, "none"), Err(TargetError::NoContainer { running, .. }) if running.len() == 3)
        );
    }

    #[test]
    fn no_secret_is_read() {
        let env = [
            "VPN_SERVICE_PROVIDER=mullvad",
            "VPN_TYPE=wireguard",
            "WIREGUARD_PRIVATE_KEY=c2VjcmV0",
            "OPENVPN_PASSWORD=hunter2",
            "HTTP_CONTROL_SERVER_AUTH_DEFAULT_ROLE={\"auth\":\"apikey\",\"apikey\":\"hunter2\"}",
            "WIREGUARD_PRESHARED_KEY=c2VjcmV0",
            "HTTP_CONTROL_SERVER_ADDRESS=:9001",
            "VPN_ENDPOINT_IP=198.51.100.2",
            "VPN_ENDPOINT_PORT=51820",
            "DNS_ADDRESS=",
        ];
        let gluetun = Gluetun::read(&config("renamed", &env, json!({}))).expect("known by its variables");
        let shown = format!("{gluetun:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("c2VjcmV0"), "{shown}");
        assert_eq!(gluetun.control_port, 9001);
        assert_eq!(gluetun.endpoint(), Some("198.51.100.2:51820".parse().expect("an address")));
        assert_eq!(gluetun.env.get("VPN_SERVICE_PROVIDER").map(String::as_str), Some("mullvad"));
        assert!(!gluetun.env.contains_key("DNS_ADDRESS"));
    }

    #[test]
    fn an_old_name_of_a_switch_outranks_the_new_one() {
        let forwards = |env: &[&str]| Gluetun::read(&config("gluetun", env, json!({}))).expect("a Gluetun").forwards();
        assert_eq!(forwards(&[]), Some(false), "it is off unless it is said");
        assert_eq!(forwards(&["VPN_PORT_FORWARDING=on"]), Some(true));
        assert_eq!(forwards(&["VPN_PORT_FORWARDING=off", "PORT_FORWARDING=on"]), Some(true));
        assert_eq!(
            forwards(&["VPN_PORT_FORWARDING=off", "PRIVATE_INTERNET_ACCESS_VPN_PORT_FORWARDING=\"YES\""]),
            Some(true)
        );
        assert_eq!(forwards(&["VPN_PORT_FORWARDING=on", "PORT_FORWARDING=off"]), Some(false));
        assert_eq!(forwards(&["VPN_PORT_FORWARDING=on", "PORT_FORWARDING="]), Some(true), "an empty one is none");
        assert_eq!(forwards(&["VPN_PORT_FORWARDING=perhaps"]), None);
    }

    #[test]
    fn the_version_is_that_of_the_label_else_of_the_tag() {
        let version = |image: &str, labels| Gluetun::read(&config(image, &[], labels)).expect("a Gluetun").version;
        assert_eq!(
            version("qmcgaw/gluetun:latest", json!({"org.opencontainers.image.version": "v3.40.0"})).as_deref(),
            Some("v3.40.0")
        );
        assert_eq!(version("registry:5000/qmcgaw/gluetun:v3.39.1", json!({})).as_deref(), Some("v3.39.1"));
        assert_eq!(version("qmcgaw/gluetun:v3@sha256:abc", json!({})).as_deref(), Some("v3"));
        assert_eq!(version("qmcgaw/gluetun", json!({})), None);
        assert!(Gluetun::read(&config("nginx", &["PATH=/bin"], json!({}))).is_none());
        assert!(Gluetun::read(&config("nginx", &[], json!({ROLE_LABEL: "gluetun"}))).is_some());
    }
}
