//! The stack's programs, and who is asked when they ask for names.

use super::super::tools::{ask, nameservers};
use anyhow::Result;
use leakcheck::lab::{Lab, plan};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;

/// Whether a process in the stack's network holds that capability. The lab itself stands in the home's.
pub(super) fn holds(lab: &Lab, bit: u32) -> Result<bool> {
    let here = std::fs::metadata(lab.stack_netns())?.ino();
    let mut any = false;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let there = std::fs::metadata(entry.path().join("ns/net")).map(|file| file.ino());
        let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else { continue };
        let held = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
        any |= there.is_ok_and(|inode| inode == here) && u64::from_str_radix(held.trim(), 16)? >> bit & 1 == 1;
    }
    Ok(any)
}

/// Whether a fresh name below `domain` (or the bare name) comes to the authority, or to the ISP, from the ISP.
pub(super) fn isp_asks(lab: &Lab, server: Option<String>, domain: &str) -> Result<bool> {
    let unique = format!("u{}", rand::random::<u32>());
    let name = if domain.contains('.') { format!("{unique}.{domain}") } else { format!("{unique}.{domain}.lan") };
    let servers = server.map_or_else(|| nameservers(lab), |server| Ok(vec![server]))?;
    for server in &servers {
        // Whether there is an answer is not the question.
        let _ = ask(lab, server, name.clone());
    }
    let fqdn = format!("{name}.");
    let asked = !lab.journal().dns_askers("isp resolver", &fqdn).is_empty();
    let isp: [IpAddr; 2] = [plan::ISP_RESOLVER.parse()?, plan::ISP_RESOLVER_V6.parse()?];
    Ok(asked && lab.journal().dns_askers("authority", &fqdn).iter().any(|who| isp.contains(who)))
}

/// The nameservers that programs in the stack's network name and the stack's own file does not, with the port.
pub(super) fn programs_nameservers(lab: &Lab) -> Result<Vec<String>> {
    let (here, own) = (std::fs::metadata(lab.stack_netns())?.ino(), nameservers(lab)?);
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let there = std::fs::metadata(entry.path().join("ns/net")).map(|file| file.ino());
        if there.is_ok_and(|inode| inode == here) {
            let text = std::fs::read_to_string(entry.path().join("root/etc/resolv.conf"))?;
            let named = text.lines().filter_map(|line| line.strip_prefix("nameserver "));
            found.extend(named.map(|ip| format!("{}:53", ip.trim())).filter(|server| !own.contains(server)));
        }
    }
    Ok(found)
}
