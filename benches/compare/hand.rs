//! The checks that are made by hand, as a script inside a lab's stack.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::Result;
use leakcheck::lab::variant::Home;
use leakcheck::lab::{Lab, plan};
use leakcheck::net::netns::run_in;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/compare/hand_checks.sh");
const LEAKCHECK: &str = env!("CARGO_BIN_EXE_leakcheck");

/// Makes them, with the kill switch or without it; how long it took, and what the script said.
pub fn check(lab: &Lab, home: Home, kill_switch: bool) -> Result<(Duration, Output)> {
    let (resolv_conf, ca) = (lab.stack_resolv_conf().to_owned(), lab.ca().to_owned());
    run_in(lab.topology().stack.netns(), "by hand", move || -> Result<_> {
        own_resolv_conf(&resolv_conf)?;
        let mut command = Command::new("sh");
        let [lan, neighbour, web] = home.services();
        let neighbour = neighbour.trim_start_matches("tcp://").replace(['[', ']'], "");
        let neighbour = neighbour.rsplit_once(':').map(|(host, port)| format!("{host} {port}")).unwrap_or_default();
        command.arg(SCRIPT).env("CA", &ca).env("HOMES", home.public().join(" "));
        command.env("LAN", lan).env("WEB", web).env("NEIGHBOUR", neighbour);
        command.env("RESOLVERS", format!("127.0.0.1 {}", plan::TUNNEL_RESOLVER));
        command.env("ISP", format!("{} {}", plan::ISP_RESOLVER, plan::ISP_RESOLVER_V6));
        if kill_switch {
            let vpn = |wish: &str| format!("{LEAKCHECK} lab vpn {wish}");
            command.env("VPN_DOWN", vpn("stopped")).env("VPN_UP", vpn("running"));
        }
        let begun = Instant::now();
        let output = command.output()?;
        Ok((begun.elapsed(), output))
    })?
}

/// The stack's resolv.conf as it is now, for this thread's children alone; the lab's own file is mounted nowhere, so that it cannot be bound.
fn own_resolv_conf(file: &Path) -> Result<()> {
    let text = std::fs::read(file)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(Some("own"), "/mnt", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    std::fs::write("/mnt/resolv.conf", text)?;
    mount(Some("/mnt/resolv.conf"), "/etc/resolv.conf", None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}
