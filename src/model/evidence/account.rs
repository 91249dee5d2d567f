//! What a container engine tells of a stack's containers and networks, as far as it matters for leaks. Names of variables that hold secrets
//! are in it, their values never.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A stack, as the engine tells of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StackAccount {
    /// The container that owns the network.
    pub vpn: ContainerAccount,
    /// Containers that joined its network, or were meant to, running or not.
    pub dependents: Vec<ContainerAccount>,
    /// Other containers: those of the same Compose project, those on one of its networks, and those that joined a container which is gone.
    pub beside: Vec<ContainerAccount>,
    /// Networks that the VPN container is on.
    pub networks: Vec<NetworkAccount>,
    /// What a Gluetun is told by its environment; `None`: it is none.
    pub gluetun: Option<GluetunAccount>,
}

/// A container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerAccount {
    /// Its name.
    pub name: String,
    /// Image as it was started with.
    pub image: String,
    /// State, in the engine's words: `running`, `exited` …
    pub state: String,
    /// Its service, where Compose made it.
    pub service: Option<String>,
    /// Whether it is of the same Compose project as the VPN container.
    pub same_project: bool,
    /// Its network mode, in the engine's words: `bridge`, `none`, `host`, `container:ID`, or the name of a network.
    pub network_mode: String,
    /// Whether it joined the network of a container that is gone.
    pub joined_gone: bool,
    /// Networks that it is on.
    pub networks: Vec<String>,
    /// Ports that the engine forwards to it.
    pub published: Vec<Published>,
    /// Ports that it forwards in a way that is not understood.
    pub published_oddly: Vec<String>,
    /// Capabilities beyond the engine's own set, without `CAP_`.
    pub capabilities: Vec<String>,
    /// It may do everything.
    pub privileged: bool,
    /// Namespaces that it shares with the host: `pid`, `ipc`, `uts`.
    pub host_namespaces: Vec<String>,
    /// Devices of the host that it was given, by their paths there and, where that is another, in the container.
    pub devices: Vec<String>,
    /// Rules by which it may use devices, as the kernel's cgroups have them: `c 10:200 rwm`.
    pub device_rules: Vec<String>,
    /// What of the host's files is mounted into it.
    pub mounts: Vec<Mount>,
    /// Whether there is a health check.
    pub healthcheck: bool,
    /// Restart policy; empty or `no` when there is none.
    pub restart: String,
    /// What Compose was told that it depends on, as service and condition; `None`: it was not told, or is an old one that does not tell.
    pub depends_on: Option<Vec<(String, String)>>,
    /// Names of environment variables that hold a secret in clear.
    pub secret_variables: Vec<String>,
    /// Kernel settings of its network namespace (`net.`).
    pub sysctls: BTreeMap<String, String>,
    /// Ports on which it takes peers' connections, by its environment.
    pub peer_ports: Vec<u16>,
}

/// A file or folder of the host that is mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Its path on the host.
    pub source: String,
    /// Its path in the container.
    pub target: String,
    /// Whether the container may write to it.
    #[serde(default)]
    pub writable: bool,
}

/// A port that the engine forwards to a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Address of the host at which it is reached; unspecified: at all of them.
    pub address: IpAddr,
    /// Port of the host; the container's own where none is used.
    pub port: u16,
    /// Port of the container.
    pub inside: u16,
    /// `tcp` or `udp`.
    pub proto: String,
    /// It is reached at the container's own address, by routing, and at none of the host's (gateway mode `routed`).
    #[serde(default)]
    pub routed: bool,
}

/// A network of the engine's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkAccount {
    /// Its name.
    pub name: String,
    /// Whether the engine gives out IPv6 addresses on it.
    pub ipv6: bool,
    /// Its subnets.
    pub subnets: Vec<IpNet>,
}

/// What containers may be on and is no network with subnets, by which others reach them.
pub const NO_NETWORKS: [&str; 2] = ["host", "none"];

/// Name of the part of the evidence in which the control server is asked from inside of the stack.
pub const INSIDE: &str = "inside of the stack";

/// Gluetun's variables that name what it lets past the tunnel, in the order in which it reads them.
pub const OUTBOUND_SUBNETS: [&str; 2] = ["EXTRA_SUBNETS", "FIREWALL_OUTBOUND_SUBNETS"];

/// What a Gluetun is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GluetunAccount {
    /// Version, by the image's label or tag, such as `v3.40.0`.
    pub version: Option<String>,
    /// Variables that are known to hold no secret, as far as they are set and not empty.
    pub settings: BTreeMap<String, String>,
}

impl GluetunAccount {
    /// A variable as Gluetun reads it (`qdm12/gosettings`): without quotes and space around it, in lower case.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<String> {
        let value = self.settings.get(name)?.trim().trim_matches(['"', '\'']).trim().to_lowercase();
        (!value.is_empty()).then_some(value)
    }

    /// A variable that is a switch: `None` when it is not set, `Some(Err)` with its text when it says neither on nor off.
    #[must_use]
    pub fn switch(&self, name: &str) -> Option<Result<bool, String>> {
        Some(match self.setting(name)?.as_str() {
            "on" | "yes" | "true" | "enabled" => Ok(true),
            "off" | "no" | "false" | "disabled" => Ok(false),
            other => Err(other.to_owned()),
        })
    }
}
