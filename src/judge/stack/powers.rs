//! `only-needed-power`: which containers of the stack were given more than they need, by their own settings. What their programs hold in the
//! end, `no-raw-power` looks at.

use std::path::Path;

use super::{Checked, TUN, members, settle};
use crate::judge::{Case, Ruling, count};
use crate::model::evidence::{ContainerAccount, Mount, StackAccount};

/// Capabilities that lead out of a container's place: past the firewall, into other programs, or onto the host.
const STRONG: [&str; 9] =
    ["ALL", "NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_MODULE", "SYS_PTRACE", "SYS_RAWIO", "BPF", "DAC_READ_SEARCH"];
/// Those of them that a VPN container works with.
const OF_VPN: [&str; 2] = ["NET_ADMIN", "NET_RAW"];
/// A VPN container that is no Gluetun may load WireGuard's module by itself.
const OF_OTHER_VPN: &str = "SYS_MODULE";
/// Devices that a program of the stack has no use for: the host's memory and ports.
const DEVICES: [&str; 3] = ["/dev/mem", "/dev/kmem", "/dev/port"];
/// What the names of the host's disks begin with.
const DISKS: [&str; 11] = ["sd", "vd", "xvd", "nvme", "mmcblk", "md", "dm-", "mapper/", "disk/", "loop", "zd"];
/// Kinds of devices by their numbers, as the kernel's `devices.txt` has them: the tunnel's, and the host's memory and ports.
const TUN_NUMBER: (u32, u32) = (10, 200);
const MEMORY_NUMBERS: [(u32, u32); 3] = [(1, 1), (1, 2), (1, 4)];
/// Optical drives are disks by kind, and hold nothing of the host's.
const OPTICAL: u32 = 11;

/// Sockets by which engines and their parts are commanded; where they are mounted read-only too.
const SOCKETS: [&str; 5] = ["docker.sock", "podman.sock", "containerd.sock", "crio.sock", "buildkitd.sock"];
/// Folders that such sockets are in.
const RUN: [&str; 4] = ["/run/podman", "/run/containerd", "/run/crio", "/run/buildkit"];
/// What makes the host what it is: who may write there is on it. Folders of one's own below some of them lead nowhere.
const HOST: [&str; 8] =
    ["/etc", "/dev", "/boot", "/root", "/usr", "/var/lib/docker", "/var/lib/containers", "/var/lib/containerd"];
/// The kernel's own, all of which is it.
const KERNEL: [&str; 2] = ["/proc", "/sys"];

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
        for device in one.devices.iter().filter(|path| leads_out(path, is_vpn)) {
            checked.find(one, format!("is given the device {device}"), format!("take {device} out of its `devices`"));
        }
        for rule in one.device_rules.iter().filter(|rule| lets_out(rule, is_vpn)) {
            let mend = format!("take `{rule}` out of its `device_cgroup_rules`");
            checked.find(one, format!("may use the devices `{rule}`"), mend);
        }
        for mount in &one.mounts {
            mounted(&mut checked, one, mount, is_vpn);
        }
        checked.see(one, powers(one));
    }
    checked.pass = format!(
        "{} of the stack, with no more power than they need",
        count(1 + account.dependents.len() as u64, "container")
    );
    checked
}

/// Whether a device is one that leads past the firewall or onto the host, or a folder with such a one in it.
fn leads_out(path: &str, is_vpn: bool) -> bool {
    let path = Path::new(path);
    let tun = Path::new(TUN);
    let is_disk = |name: &str| DISKS.iter().any(|disk| name.starts_with(disk));
    let named = path.strip_prefix("/dev").ok().and_then(Path::to_str);
    DEVICES.iter().any(|device| Path::new(device).starts_with(path))
        || named.is_some_and(is_disk)
        || tun.starts_with(path) && !is_vpn
}

/// The same for a rule such as `c 10:200 rwm`. What cannot be read as one the engine has refused.
fn lets_out(rule: &str, is_vpn: bool) -> bool {
    let mut words = rule.split_whitespace();
    let (kind, numbers) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (major, minor) = numbers.split_once(':').unwrap_or((numbers, "*"));
    let number = |text: &str| text.parse::<u32>().ok();
    let is = |(one, two): (u32, u32)| {
        number(major).is_none_or(|major| major == one) && number(minor).is_none_or(|minor| minor == two)
    };
    match kind {
        "a" => true,
        "b" => number(major) != Some(OPTICAL),
        // A rule for all of the kind is no rule for the tunnel's device.
        "c" if is_vpn && (number(major), number(minor)) == (Some(TUN_NUMBER.0), Some(TUN_NUMBER.1)) => false,
        "c" => MEMORY_NUMBERS.into_iter().chain([TUN_NUMBER]).any(is),
        _ => false,
    }
}

/// What a mount of the host's files comes to.
fn mounted(checked: &mut Checked, one: &ContainerAccount, mount: &Mount, is_vpn: bool) {
    let Mount { source, target, writable } = mount;
    // The one is a link to the other.
    let real = source.strip_prefix("/var/run").filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let real = real.map_or_else(|| source.clone(), |rest| format!("/run{rest}"));
    let path = Path::new(&real);
    let is_socket = |path: &Path| path.file_name().is_some_and(|name| SOCKETS.iter().any(|socket| name == *socket));
    let mend = format!("take {source} out of its `volumes`");
    if is_socket(path) || is_socket(Path::new(target)) {
        let mend = format!("{mend}; what needs to ask the engine asks a proxy that allows it no more than that");
        checked.find(one, format!("can command the container engine, by its socket {source}"), mend);
    } else if RUN.iter().any(|dir| Path::new(dir).starts_with(path)) {
        checked.find(one, format!("is given {source} of the host, where the container engine's socket is"), mend);
    } else if *writable && is_of_host(path) {
        checked.find(one, format!("may write to {source} of the host"), format!("{mend}, or put `:ro` behind it"));
    } else if leads_out(&real, is_vpn) {
        checked.find(one, format!("is given {source} of the host"), mend);
    }
}

/// Whether it is a part of the host itself, or has one in it.
fn is_of_host(path: &Path) -> bool {
    HOST.iter().chain(&KERNEL).any(|dir| Path::new(dir).starts_with(path))
        || KERNEL.iter().any(|dir| path.starts_with(dir))
}

fn powers(one: &ContainerAccount) -> String {
    match one.capabilities.as_slice() {
        [] => "is given no capability beyond Docker's own set".to_owned(),
        some => format!("is given {}", some.join(" and ")),
    }
}
