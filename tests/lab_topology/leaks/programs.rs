//! The stack's programs, and who is asked when they ask for names.

use super::super::tools::{WAIT, ask, in_stack, nameservers};
use anyhow::{Context, Result};
use leakcheck::lab::{Lab, plan, qbittorrent};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
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

/// What the torrent client's API says there to whoever logs in, or nothing.
pub(super) fn client_says(lab: &Lab, path: &'static str) -> Result<String> {
    in_stack(lab, move || -> Result<String> {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, plan::WEB_UI));
        let body = format!("username={}&password={}", qbittorrent::USER, qbittorrent::PASSWORD);
        let head = format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}", body.len());
        let answer = exchange(at, &format!("POST /api/v2/auth/login HTTP/1.1\r\n{head}"), &body)?;
        let cookie = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).context("nobody gets in")?;
        let cookie = cookie.split(';').next().unwrap_or_default();
        exchange(at, &format!("GET {path} HTTP/1.1\r\nCookie: {cookie}"), "")
    })?
}

/// What Gluetun's control server says there.
pub(super) fn control_says(lab: &Lab, path: &'static str) -> Result<String> {
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 8000));
    in_stack(lab, move || exchange(at, &format!("GET {path} HTTP/1.1"), ""))?
}

/// The whole answer to a question.
fn exchange(at: SocketAddr, head: &str, body: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, WAIT)?;
    // The client may wait a while for an address of its own.
    stream.set_read_timeout(Some(2 * WAIT))?;
    write!(stream, "{head}\r\nHost: {at}\r\nConnection: close\r\n\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
