//! The processes that make the tunnel: who holds its device, whether somebody would start them again, and signals that reach nobody else.
//! Seen by /proc, so only where the agent has the machine's process numbers: beside a local daemon, not from a container of its own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::link_down::tunnel;
use super::process_handle::ProcessHandle;
use super::run_command::{Orphaned, run_command};
use crate::net::route::Snapshot;
use crate::technique::Context;

/// How long systemd may take to say what it would do.
const SYSTEMD_PATIENCE: Duration = Duration::from_secs(5);
/// First processes that start again what dies, by the beginnings of their names.
const REVIVERS: [&str; 7] = ["gluetun", "leakcheck", "supervisord", "runsv", "s6-sv", "s6-superv", "monit"];
/// Parents that wait for their child and do nothing more: reapers of containers, shells, and what is put before a command.
const WAITERS: [&str; 36] = [
    "tini",
    "docker-init",
    "dumb-init",
    "catatonit",
    "containerd-shim",
    "conmon",
    "systemd",
    "init",
    "sh",
    "bash",
    "dash",
    "ash",
    "zsh",
    "busybox",
    "sudo",
    "su",
    "login",
    "sshd",
    "tmux: server",
    "screen",
    "timeout",
    "strace",
    "doas",
    "runuser",
    "setpriv",
    "unshare",
    "nsenter",
    "chroot",
    "ip",
    "fish",
    "ksh",
    "mksh",
    "script",
    "nohup",
    "setsid",
    "env",
];

/// Somebody who starts again what dies.
#[derive(Debug)]
struct Reviver {
    who: String,
    /// It is known to do so; of any other parent that is not known to only wait it is a guess.
    is_known: bool,
}

/// Who would start it again when it dies.
///
/// # Errors
/// Why nobody would, as far as can be seen.
async fn reviver(holder: &ProcessHandle) -> Result<Reviver, String> {
    let nobody = |why: String| {
        format!("{holder} would not be started again as far as can be seen: {why}; set outage.down and outage.up")
    };
    let own = status(holder.pid).ok_or_else(|| format!("{holder} has ended"))?;
    let Some(parent) = status(own.parent).filter(|_| own.parent > 0) else {
        return Err(nobody("its parent is in another PID namespace".to_owned()));
    };
    if parent.name == "systemd" && own.parent == 1 {
        let unit = unit(&fs::read_to_string(format!("/proc/{}/cgroup", holder.pid)).unwrap_or_default())
            .ok_or_else(|| nobody("it belongs to no unit of systemd".to_owned()))?;
        let ask = ["systemctl", "show", "-p", "Restart", "-p", "MainPID", "--", &unit].map(str::to_owned);
        let said = run_command(&ask, SYSTEMD_PATIENCE, Orphaned::Dies).await.map_err(nobody)?;
        return if revives(&said, holder.pid) {
            Ok(Reviver { who: format!("systemd ({unit})"), is_known: true })
        } else {
            Err(nobody(format!("the unit {unit} has no Restart= that says so, or another main process")))
        };
    }
    if parent.is_first() && !REVIVERS.iter().any(|name| parent.name.starts_with(name)) {
        return Err(nobody(format!(
            "its parent {} is the first process of its container, and takes up what is left of others",
            parent.name.escape_debug()
        )));
    }
    if WAITERS.contains(&parent.name.as_str()) {
        return Err(nobody(format!("its parent {} only waits for it", parent.name.escape_debug())));
    }
    let who = format!("{} (process {})", parent.name.escape_debug(), own.parent);
    Ok(Reviver { who, is_known: REVIVERS.iter().any(|name| parent.name.starts_with(name)) })
}

/// The processes that hold the device of the tunnel.
///
/// # Errors
/// Why there is none that could be found.
pub(super) fn find(cx: &Context) -> Result<(String, Vec<ProcessHandle>), String> {
    let link = tunnel(cx)?;
    let now = Snapshot::take().map_err(|error| super::undo::told(&error))?;
    let kind = now.link(&link).ok_or_else(|| format!("there is no link {link} any more"))?.kind.clone();
    match kind.as_deref() {
        None | Some("tun") => {}
        Some("wireguard") => {
            return Err(format!("{link} is WireGuard in the kernel, which is no process: use link-down"));
        }
        Some(other) => {
            return Err(format!("{link} is made by the kernel ({other}) and not by a process: use link-down"));
        }
    }
    let found = holders(&link);
    if found.is_empty() {
        return Err(if cx.setup.host_programs {
            format!("no process of this namespace holds the device of {link}")
        } else {
            format!(
                "the agent is in a container of its own, from which the process that holds {link} is not to be seen: run leakcheck as \
                 root on the VPN's machine, with --enter setns"
            )
        });
    }
    Ok((link, found))
}

/// Whether they may be killed, and who starts them again; `None`: nobody, so that the command has to.
///
/// # Errors
/// Why they may not.
pub(super) async fn may_be_killed(cx: &Context, found: &[ProcessHandle]) -> Result<Option<String>, String> {
    let mut by = None;
    for holder in found {
        if status(holder.pid).is_some_and(|status| status.is_first()) {
            return Err(format!(
                "the VPN is part of {holder}, the first process of its container, which would end with it: use pause, restart or kill"
            ));
        }
        // Signal 0 reaches nobody, and tells whether another would.
        holder.signal(0)?;
        match reviver(holder).await {
            Ok(found) if found.is_known || cx.setup.up.is_empty() => by = Some(found.who),
            // A guess is not trusted where there is a command.
            Ok(_) => return Ok(None),
            Err(_) if !cx.setup.up.is_empty() => return Ok(None),
            Err(why) => return Err(why),
        }
    }
    Ok(by)
}

/// Identity of the calling process's PID namespace, in which numbers of processes mean something.
pub(super) fn pid_namespace() -> Option<(u64, u64)> {
    inode(Path::new("/proc/self/ns/pid"))
}

/// All processes of the calling thread's network namespace that hold the device of that link.
fn holders(link: &str) -> Vec<ProcessHandle> {
    let Some(here) = inode(Path::new("/proc/thread-self/ns/net")) else { return Vec::new() };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others = numbers.filter(|pid| *pid != std::process::id());
    others
        .filter(|pid| inode(Path::new(&format!("/proc/{pid}/ns/net"))) == Some(here))
        .filter(|pid| holds(*pid, link))
        .filter_map(ProcessHandle::of)
        .collect()
}

fn holds(pid: u32, link: &str) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files
        .filter(|file| fs::read_link(file.path()).is_ok_and(|to| to == Path::new("/dev/net/tun")))
        .filter_map(|file| file.file_name().into_string().ok())
        .filter_map(|number| fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok())
        .any(|info| interface(&info) == Some(link))
}

/// The link of a tunnel device, by its fdinfo: `iff: NAME` (drivers/net/tun.c).
fn interface(info: &str) -> Option<&str> {
    info.lines().find_map(|line| line.strip_prefix("iff:")).map(str::trim)
}

/// Device and number, which together are unique.
fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// What is of interest of proc_pid_status(5).
#[derive(Debug, PartialEq)]
struct Status {
    name: String,
    parent: u32,
    /// Its numbers, from the PID namespace of /proc to its own.
    numbers: Vec<u32>,
}

impl Status {
    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim);
        Some(Self {
            name: value("Name")?.to_owned(),
            parent: value("PPid")?.parse().ok()?,
            numbers: value("NSpid").unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect(),
        })
    }

    fn is_first(&self) -> bool {
        self.numbers.last() == Some(&1)
    }
}

fn status(pid: u32) -> Option<Status> {
    Status::parse(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// The service of systemd that a process belongs to, by its control group.
fn unit(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| {
        line.strip_prefix("0::").or_else(|| line.split_once(":name=systemd:").map(|(_, path)| path))
    })?;
    path.rsplit('/').find(|part| part.ends_with(".service")).map(str::to_owned)
}

/// Whether what systemctl says of a unit means that this main process is started again after SIGKILL (systemd.service(5), Restart=).
fn revives(said: &str, pid: u32) -> bool {
    let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::trim);
    let restart =
        value("Restart").is_some_and(|when| ["always", "on-failure", "on-abnormal", "on-abort"].contains(&when));
    restart && value("MainPID") == Some(pid.to_string().as_str())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_the_kernel_tells_of_a_device_and_a_process() {
        assert_eq!(interface("pos:\t0\nflags:\t0104002\nmnt_id:\t25\nino:\t11\niff:\ttun0\n"), Some("tun0"));
        assert_eq!(interface("pos:\t0\nflags:\t02\n"), None);
        let first = Status::parse("Name:\tgluetun-entrypo\nPPid:\t4711\nNSpid:\t4801\t1\n").unwrap();
        assert_eq!((first.name.as_str(), first.parent, first.is_first()), ("gluetun-entrypo", 4711, true));
        let other = Status::parse("Name:\topenvpn\nPPid:\t4801\nNSpid:\t4890\t37\n").unwrap();
        assert!(!other.is_first() && other.parent == 4801);
    }

    #[test]
    fn what_systemd_says() {
        assert_eq!(
            unit("0::/system.slice/openvpn-client@home.service\n").as_deref(),
            Some("openvpn-client@home.service")
        );
        assert_eq!(unit("1:name=systemd:/system.slice/vpn.service/sub\n").as_deref(), Some("vpn.service"));
        assert_eq!(unit("0::/user.slice/session-1.scope\n"), None);
        assert!(revives("Restart=on-failure\nMainPID=42\n", 42));
        assert!(!revives("Restart=no\nMainPID=42\n", 42) && !revives("Restart=always\nMainPID=41\n", 42));
    }

    #[tokio::test]
    async fn a_shell_starts_nothing_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("child");
        let mut shell = Command::new("sh")
            .args(["-c", &format!("sleep 600 & echo $! > {}; wait", file.display())])
            .spawn()
            .expect("sh");
        let pid: u32 = loop {
            if let Some(pid) = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok()) {
                break pid;
            }
            std::thread::yield_now();
        };
        let holder = ProcessHandle::of(pid).unwrap();
        let why = reviver(&holder).await.unwrap_err();
        assert!(why.contains("sh only waits for it") && why.contains("outage.up"), "{why}");
        holder.signal(libc::SIGKILL).unwrap();
        shell.kill().unwrap();
        shell.wait().unwrap();
    }
}
