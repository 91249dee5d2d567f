//! What leaves by the uplink while the tunnel is taken down and brought up, and what can be reached then.

use super::super::tools::{Wire, get, in_stack, put_status, set_tunnel};
use anyhow::{Result, anyhow, ensure};
use leakcheck::lab::Lab;
use leakcheck::net::nft::{Batch, Chain, HookPoint, Match, Nft, Policy, Rule, Table, TableFamily, Verdict};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

pub(super) fn local(lab: &Lab) -> usize {
    ["192.168.1.50:80", "172.18.0.20:8989"]
        .into_iter()
        .filter(|at| in_stack(lab, || get(at.parse()?, "local", "/")).is_ok_and(|answer| answer.is_ok()))
        .count()
}

/// Tries an outage by stopping the VPN and one by taking the link down; they have to agree.
pub(super) fn both_ways(sign: impl Fn(bool) -> Result<bool>) -> Result<bool> {
    let (stopped, link_down) = (sign(true)?, sign(false)?);
    ensure!(stopped == link_down, "by stop: {stopped}, by link down: {link_down}");
    Ok(stopped)
}

/// First and last packet on the wire, in milliseconds after the tunnel went, and after it came.
pub(super) struct Outage {
    pub(super) during: Option<(u64, u64)>,
    pub(super) after: Option<(u64, u64)>,
}

/// Sends a datagram every half millisecond while the tunnel is taken down and brought up.
pub(super) fn outage(lab: &Lab, to: &'static str, lasts: Duration, stop_vpn: bool) -> Result<Outage> {
    let wire = Wire::listen()?;
    let target: SocketAddr = to.parse()?;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let netns = leakcheck::net::netns::Netns::open(lab.stack_netns())?;
    let sender = leakcheck::net::netns::spawn_in(&netns, "sampler", move || -> std::io::Result<()> {
        let socket = UdpSocket::bind(if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            // EPERM is what a sealed stack says.
            let _ = socket.send_to(b"sample", target);
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    })?;
    std::thread::sleep(Duration::from_millis(20));
    let down = Instant::now();
    if stop_vpn { put_status(lab, "stopped").map(|_| ()) } else { set_tunnel(lab, false) }?;
    std::thread::sleep(lasts);
    let up = Instant::now();
    if stop_vpn { put_status(lab, "running").map(|_| ()) } else { set_tunnel(lab, true) }?;
    std::thread::sleep(Duration::from_millis(150));
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    sender.join().map_err(|_| anyhow::anyhow!("the sampler panicked"))???;
    let seen = wire.finish()?;
    let hits: Vec<Instant> =
        seen.iter().filter(|p| p.destination == target.ip() && p.port == target.port()).map(|p| p.at).collect();
    ensure!(hits.iter().all(|at| *at >= down), "something left by the uplink while the tunnel was up");
    let span = |hits: Vec<&Instant>, zero: Instant| {
        let (first, last) = (hits.first()?, hits.last()?);
        Some((first.duration_since(zero).as_millis() as u64, last.duration_since(zero).as_millis() as u64))
    };
    let during = span(hits.iter().filter(|at| **at < up).collect(), down);
    let after = span(hits.iter().filter(|at| **at >= up).collect(), up);
    eprintln!("{to}: {} packets, during {during:?}, after {after:?}", hits.len());
    Ok(Outage { during, after })
}

/// Opens a flow through the tunnel, has it answered, lets `meanwhile` happen, and goes on with it.
pub(super) fn flow<T: Send>(
    lab: &Lab,
    to: &'static str,
    question: Vec<u8>,
    meanwhile: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<()> {
    in_stack(lab, move || -> Result<()> {
        let socket = UdpSocket::bind(if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" })?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.connect(to)?;
        socket.send(&question)?;
        socket.recv(&mut [0; 1500])?;
        let _held =
            std::thread::scope(|scope| scope.spawn(meanwhile).join()).map_err(|_| anyhow!("it broke off"))??;
        for _ in 0..20 {
            // What the wire shows is looked at, not the outcome.
            let _ = socket.send(b"still here");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    })?
}

/// Blocks the VPN server until what is returned is dropped: the kernel removes the table with its owner.
pub(super) fn block_server() -> Result<Nft> {
    let table = Table::new(TableFamily::Inet, "trial");
    let mut batch = Batch::new();
    batch.add_owned_table(&table);
    batch.add_chain(&table, &Chain::filter("in", HookPoint::Input, Policy::Accept));
    batch.append_rule(&table, "in", &Rule::new(Verdict::Drop).when(Match::Source("198.51.100.2/32".parse()?)));
    let mut owner = Nft::open()?;
    owner.commit(batch)?;
    Ok(owner)
}
