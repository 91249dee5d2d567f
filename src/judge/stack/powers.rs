//! `only-needed-power`: which containers of the stack were given more than they need, by their own settings. What their programs hold in the
//! end, `no-raw-power` looks at.

use super::{Checked, members, settle};
use crate::judge::{Case, Ruling, count};
use crate::model::evidence::{ContainerAccount, StackAccount};

/// Capabilities that lead out of a container's place: past the firewall, into other programs, or onto the host.
const STRONG: [&str; 9] =
    ["ALL", "NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_MODULE", "SYS_PTRACE", "SYS_RAWIO", "BPF", "DAC_READ_SEARCH"];
/// Those of them that a VPN container works with.
const OF_VPN: [&str; 2] = ["NET_ADMIN", "NET_RAW"];
/// A VPN container that is no Gluetun may load WireGuard's module by itself.
const OF_OTHER_VPN: &str = "SYS_MODULE";
/// Devices that a program of the stack has no use for: a way to make a tunnel of its own, and the host's memory.
const DEVICES: [&str; 3] = ["/dev/net/tun", "/dev/mem", "/dev/kmem"];
const TUN: &str = "/dev/net/tun";

pub fn judge(case: &Case<'_>) -> Ruling {
    let why = "whoever breaks into a container has what it was given, and with these is past the VPN's firewall, or on the host";
    settle(case, why, |account, _| look(account))
}

fn look(account: &StackAccount) -> Checked {
    let mut checked = Checked::default();
    for one in members(account) {
        let is_vpn = one.name == account.vpn.name;
        let needed = |capability: &str| {
            is_vpn && (OF_VPN.contains(&capability) || account.gluetun.is_none() && capability == OF_OTHER_VPN)
        };
        let strong = one.capabilities.iter().map(String::as_str).filter(|name| STRONG.contains(name) && !needed(name));
        let strong: Vec<&str> = strong.collect();
        if !strong.is_empty() {
            let names = strong.join(" and ");
            checked.find(one, format!("is given {names} (cap_add)"), format!("take {names} out of its `cap_add`"));
        }
        if one.privileged {
            let mend = if is_vpn {
                "in the place of `privileged: true` write `cap_add: [NET_ADMIN]` and `devices: [/dev/net/tun:/dev/net/tun]`"
            } else {
                "drop `privileged: true`"
            };
            checked.find(one, "is privileged: it may do everything, on the host too", mend);
        }
        for name in &one.host_namespaces {
            checked.find(one, format!("shares the host's {name} namespace"), format!("drop `{name}: host`"));
        }
        let devices = one.devices.iter().filter(|path| DEVICES.contains(&path.as_str()));
        for device in devices.filter(|path| !is_vpn || path.as_str() != TUN) {
            checked.find(one, format!("is given the device {device}"), format!("take {device} out of its `devices`"));
        }
        if one.engine_socket {
            let mend = "take the engine's socket out of its `volumes`; what needs to ask the engine asks a proxy that allows it no more than that";
            checked.find(one, "can command the container engine, by its socket", mend);
        }
        checked.see(one, powers(one));
    }
    checked.pass = format!(
        "{} of the stack, with no more power than they need",
        count(1 + account.dependents.len() as u64, "container")
    );
    checked
}

fn powers(one: &ContainerAccount) -> String {
    match one.capabilities.as_slice() {
        [] => "is given no capability beyond Docker's own set".to_owned(),
        some => format!("is given {}", some.join(" and ")),
    }
}
