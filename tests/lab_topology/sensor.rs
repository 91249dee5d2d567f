//! The sensor on real links: that it loses nothing without saying so, and what it tells of what it sees.

use anyhow::{Context, Result, ensure};
use leakcheck::catalog::Catalog;
use leakcheck::clock::Clock;
use leakcheck::judge::{Case, Facts, judge};
use leakcheck::lab::PrivateDir;
use leakcheck::model::evidence::{Class, Evidence, Link, PhaseWire, Role, Sighting};
use leakcheck::model::probe::Phase;
use leakcheck::model::verdict::Verdict;
use leakcheck::net::netns::Netns;
use leakcheck::net::route::Rtnetlink;
use leakcheck::sensor::allow::AllowList;
use leakcheck::sensor::capture::Sensor;
use leakcheck::sensor::filter;
use leakcheck::sensor::ledger::Ledger;
use leakcheck::sensor::ring::{BLOCKS, Ring};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

pub const TRIALS: &[(&str, crate::Body)] = &[
    ("sensor::drops_are_counted", drops_are_counted),
    ("sensor::flood_makes_inconclusive", flood_makes_inconclusive),
    ("sensor::another_tunnel_is_passed_over", another_tunnel_is_passed_over),
    ("sensor::link_that_appears_is_heard", link_that_appears_is_heard),
    ("sensor::owner_and_older_connection_are_named", owner_and_older_connection_are_named),
    ("sensor::fragments_are_their_probes", fragments_are_their_probes),
    ("sensor::giants_keep_their_length", giants_keep_their_length),
];

/// A multicast address: nothing has to be resolved before a packet to it leaves.
const GROUP: &str = "239.192.152.143:6771";

/// A link with an address in the home, whose other end is in a namespace of its own.
struct Wire {
    name: &'static str,
    _far: Netns,
}

impl Wire {
    fn lay(name: &'static str, address: &str) -> Result<Self> {
        let far = Netns::create()?;
        let mut netlink = Rtnetlink::open()?;
        netlink.add_veth(name, "far", &far)?;
        netlink.add_address(name, address.parse()?)?;
        netlink.set_link(name, true)?;
        leakcheck::net::netns::run_in(&far, "far", || Rtnetlink::open()?.set_link("far", true))??;
        Ok(Self { name, _far: far })
    }

    fn link(&self) -> Result<Link> {
        let index = nix::net::if_::if_nametoindex(self.name)?;
        Ok(Link { index, name: self.name.to_owned(), role: Role::Uplink, addresses: Vec::new(), up: true })
    }

    fn socket(&self) -> Result<UdpSocket> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        let options = socket2::SockRef::from(&socket);
        options.bind_device(Some(self.name.as_bytes()))?;
        options.set_send_buffer_size(8 << 20)?;
        socket.connect(GROUP)?;
        Ok(socket)
    }
}

fn open(blocks: u16, ledger: &Ledger, wires: &[&Wire]) -> Result<Sensor> {
    let links = wires.iter().map(|wire| wire.link()).collect::<Result<Vec<Link>>>()?;
    let clock = Clock::starting_at(0.0);
    Ok(Sensor::with_blocks(blocks, clock, ledger.clone(), AllowList::default(), &links, Vec::new())?)
}

fn to_group(phase: &PhaseWire) -> Vec<&Sighting> {
    phase.sightings.iter().filter(|sighting| sighting.dst.ip().to_string() == "239.192.152.143").collect()
}

fn drops_are_counted(_: PrivateDir) -> Result<()> {
    const SENT: u32 = 500;
    let wire = Wire::lay("a0", "198.18.0.1/24")?;
    let mut ring = Ring::open(1)?;
    ring.filter(&filter::compile(&AllowList::default(), &[], &[]))?;
    ring.listen()?;
    let socket = wire.socket()?;
    for _ in 0..SENT {
        socket.send(b"flood")?;
    }
    let drops = ring.drops()?;
    let mut read = 0;
    while ring.next(|_| ()).is_some() {
        read += 1;
    }
    ensure!(read == 110 && drops >= SENT - 110, "{read} were read and {drops} dropped");
    ensure!(ring.drops()? == 0, "drops are counted twice");
    Ok(())
}

fn flood_makes_inconclusive(_: PrivateDir) -> Result<()> {
    let wire = Wire::lay("a0", "198.18.0.1/24")?;
    let sensor = open(1, &Ledger::new(1), &[&wire])?;
    let catalog = Catalog::builtin()?;
    let probe = catalog.probes().iter().find(|probe| probe.id == "wire-quiet").context("there is no wire-quiet")?;
    let facts = Facts { endpoint_known: true, ..Facts::default() };
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let phase = sensor.arm();
        let from_ms = phase.armed_ms;
        let sockets = [wire.socket()?, wire.socket()?, wire.socket()?];
        let threads =
            sockets.map(|socket| std::thread::spawn(move || (0..5000).filter(|_| socket.send(b"x").is_ok()).count()));
        let mut sent = 0;
        for thread in threads {
            sent += thread.join().map_err(|_| anyhow::anyhow!("a flood panicked"))? as u64;
        }
        let phase = sensor.close(phase);
        let seen: u64 = to_group(&phase).iter().map(|sighting| sighting.count).sum();
        ensure!(seen + phase.dropped >= sent, "{sent} were sent, {seen} seen and {} dropped", phase.dropped);
        let evidence = Evidence { from_ms, to_ms: phase.closed_ms, ..Evidence::default() };
        if phase.dropped > 0 {
            let case = Case {
                probe,
                trial: "wire-quiet",
                phase: Phase::Up,
                evidence: Some(&evidence),
                wire: Some(&phase),
                outage: None,
                facts: &facts,
            };
            let ruling = judge(&case);
            let reason = ruling.reason.unwrap_or_default();
            ensure!(
                ruling.verdict == Verdict::Inconclusive && reason.contains("lost"),
                "{:?}: {reason}",
                ruling.verdict
            );
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "a ring of 64 packets never overran");
    }
}

/// What enters another tunnel by its owner's word is no offence, also when its link was made anew; what the uplink carries is.
fn another_tunnel_is_passed_over(_: PrivateDir) -> Result<()> {
    let (uplink, tunnel) = (Wire::lay("a0", "198.18.0.1/24")?, Wire::lay("o0", "198.19.0.1/24")?);
    let links = [uplink.link()?, Link { role: Role::Other, ..tunnel.link()? }];
    let (clock, ledger) = (Clock::starting_at(0.0), Ledger::new(1));
    let sensor = Sensor::with_blocks(BLOCKS, clock, ledger, AllowList::default(), &links, Vec::new())?;
    let look = |tunnel: &Wire| -> Result<()> {
        let phase = sensor.arm();
        let (outside, inside) = (uplink.socket()?, tunnel.socket()?);
        for _ in 0..60 {
            inside.send(b"BT-SEARCH")?;
            outside.send(b"BT-SEARCH")?;
            std::thread::sleep(Duration::from_millis(20));
        }
        let phase = sensor.close(phase);
        let by: Vec<&str> = to_group(&phase).iter().map(|sighting| sighting.link.as_str()).collect();
        ensure!(!by.is_empty() && by.iter().all(|link| *link == "a0"), "seen by {by:?}");
        ensure!(phase.uplinks == ["a0"], "uplinks {:?}", phase.uplinks);
        let controls: Vec<&str> = phase.controls.iter().map(|control| control.link.as_str()).collect();
        ensure!(!controls.is_empty() && controls.iter().all(|link| *link == "a0"), "controls on {controls:?}");
        Ok(())
    };
    look(&tunnel)?;
    drop(tunnel);
    let deadline = Instant::now() + Duration::from_secs(5);
    // The kernel takes its time to take a namespace down, and the link in it.
    while nix::net::if_::if_nametoindex("o0").is_ok() {
        ensure!(Instant::now() < deadline, "o0 does not go");
        std::thread::sleep(Duration::from_millis(10));
    }
    look(&Wire::lay("o0", "198.19.0.1/24")?)
}

fn link_that_appears_is_heard(_: PrivateDir) -> Result<()> {
    let first = Wire::lay("a0", "198.18.0.1/24")?;
    let sensor = open(BLOCKS, &Ledger::new(1), &[&first])?;
    let phase = sensor.arm();
    let second = Wire::lay("b0", "198.19.0.1/24")?;
    // The kernel takes its time to notice that both ends are up, and loses what is sent until then.
    let socket = second.socket()?;
    for _ in 0..60 {
        socket.send(b"BT-SEARCH")?;
        std::thread::sleep(Duration::from_millis(20));
    }
    let phase = sensor.close(phase);
    let seen = to_group(&phase);
    ensure!(seen.iter().any(|sighting| sighting.link == "b0" && sighting.class == Class::Nearby), "{seen:?}");
    ensure!(phase.uplinks.contains(&"b0".to_owned()), "{:?}", phase.uplinks);
    let control = |control: &&leakcheck::model::evidence::Control| control.link == "b0" && control.seen_ms.is_some();
    ensure!(phase.controls.iter().find(control).is_some(), "no control was seen on the new link");
    Ok(())
}

fn owner_and_older_connection_are_named(_: PrivateDir) -> Result<()> {
    let wire = Wire::lay("a0", "198.18.0.1/24")?;
    let old = wire.socket()?;
    let sensor = open(BLOCKS, &Ledger::new(1), &[&wire])?;
    let phase = sensor.arm();
    let new = wire.socket()?;
    old.send(b"old")?;
    new.send(b"new")?;
    std::thread::sleep(Duration::from_millis(50));
    let old_port = old.local_addr()?.port();
    let phase = sensor.close(phase);
    let seen = to_group(&phase);
    let one = seen.first().context("nothing was seen")?;
    ensure!(one.count == 2 && one.src.port() == old_port && one.detail.older, "{seen:?}");
    ensure!(one.detail.owners.iter().any(|owner| owner.pid == std::process::id()), "{:?}", one.detail.owners);
    // The next phase begins with the socket that is not older than the sensor.
    let phase = sensor.arm();
    new.send(b"new")?;
    let phase = sensor.close(phase);
    ensure!(to_group(&phase).first().is_some_and(|one| !one.detail.older), "{:?}", phase.sightings);
    Ok(())
}

fn fragments_are_their_probes(_: PrivateDir) -> Result<()> {
    let wire = Wire::lay("a0", "198.18.0.1/24")?;
    let ledger = Ledger::new(1);
    let sensor = open(BLOCKS, &ledger, &[&wire])?;
    let phase = sensor.arm();
    let mut payload = ledger.enter(&"uplink".into()).marker().into_bytes();
    payload.resize(4000, 0);
    wire.socket()?.send(&payload)?;
    let phase = sensor.close(phase);
    let seen = to_group(&phase);
    let packets: u64 = seen.iter().map(|sighting| sighting.count).sum();
    ensure!(packets == 3, "{packets} of 3 fragments: {seen:?}");
    ensure!(seen.iter().all(|one| one.probe.as_deref() == Some("uplink") && one.detail.fragment.is_some()), "{seen:?}");
    Ok(())
}

fn giants_keep_their_length(_: PrivateDir) -> Result<()> {
    let segment: libc::c_int = 1200;
    let wire = Wire::lay("a0", "198.18.0.1/24")?;
    let sensor = open(BLOCKS, &Ledger::new(1), &[&wire])?;
    let socket = wire.socket()?;
    // SAFETY: the option is an integer, valid for its size, and copied by the kernel.
    let refused = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const segment).cast(),
            size_of::<libc::c_int>() as u32,
        )
    };
    ensure!(refused == 0, "the kernel does not cut UDP into segments: {}", std::io::Error::last_os_error());
    let phase = sensor.arm();
    socket.send(&[7; 12_000])?;
    let phase = sensor.close(phase);
    let seen = to_group(&phase);
    ensure!(seen.iter().any(|one| one.length == 12_028), "{seen:?}");
    ensure!(phase.captured.iter().any(|packet| packet.length == 12_028), "the length on the wire is lost");
    Ok(())
}
