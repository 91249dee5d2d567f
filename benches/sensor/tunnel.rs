//! What the sensor costs the tunnel: a stream through it, in turns with the sensor and without.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use leakcheck::clock::Clock;
use leakcheck::lab::{Lab, plan};
use leakcheck::model::evidence::{PhaseWire, Proto, Role};
use leakcheck::net::netns::{run_in, spawn_in};
use leakcheck::sensor::allow::{AllowList, Endpoint, Shape};
use leakcheck::sensor::capture::Sensor;
use leakcheck::sensor::ledger::Ledger;
use nix::time::{ClockId, clock_gettime};

use crate::{link, median};

/// Turns with and without the sensor, and how long each is.
const TURNS: usize = 80;
const TURN: Duration = Duration::from_millis(150);
/// How long nothing is measured after the sensor was opened or closed.
const SETTLE: Duration = Duration::from_millis(50);
/// Octets per write into the tunnel.
const PIECE: usize = 64 * 1024;
/// Where the far end of the tunnel's traffic listens: an address of the lab's internet, and a port that nobody has.
const SINK_PORT: u16 = 5001;

pub fn throughput(lab: &Lab) -> Result<()> {
    let at = SocketAddr::new(plan::ip(plan::WEB[2].1), SINK_PORT);
    let received = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&received);
    let listener = lab.topology().internet.call(move || TcpListener::bind(at))??;
    std::thread::spawn(move || drain(&listener, &count));
    let stack = lab.topology().stack.netns().duplicate()?;
    std::thread::sleep(Duration::from_millis(200));
    spawn_in(&stack, "pump", move || pump(at))?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    // The first turn is for the tunnel to get going.
    measure(&received)?;
    for turn in 0..TURNS {
        // Which of the two goes first changes from turn to turn.
        for on in [turn % 2 == 0, turn % 2 != 0] {
            let sensor = if on { Some(run_in(&stack, "sensor", open_in_stack)??) } else { None };
            // Opening it and closing the one before makes the kernel wait for all of its processors.
            std::thread::sleep(SETTLE);
            let pace = measure(&received)?;
            match sensor {
                Some(sensor) => {
                    let phase = sensor.close(PhaseWire::default());
                    if phase.packets + phase.dropped > 0 {
                        println!("{} packets of the tunnel were looked at, {} lost", phase.packets, phase.dropped);
                    }
                    with.push(pace);
                }
                None => without.push(pace),
            }
        }
    }
    let rates = |paces: &[Pace]| median(paces.iter().map(|pace| pace.rate).collect());
    println!("with: {:.0} Mbit/s, without: {:.0} Mbit/s, medians of {TURNS}", rates(&with), rates(&without));
    let ratios = |of: fn(&Pace) -> f64| median(with.iter().zip(&without).map(|(on, off)| of(on) / of(off)).collect());
    println!("throughput with the sensor over without, median of {TURNS} pairs: {:.3}", ratios(|pace| pace.rate));
    // What the machine does beside falls on the first much more than on this one.
    println!("octets per second of processor time, likewise: {:.3}", ratios(|pace| pace.per_processor));
    Ok(())
}

fn open_in_stack() -> Result<Sensor> {
    let endpoint = plan::socket(plan::ENDPOINT);
    let allow = AllowList {
        endpoints: vec![Endpoint { address: endpoint, proto: Proto::Udp, shape: Shape::Wireguard, flow: None }],
        local: vec![plan::net(plan::BRIDGE_NET), plan::net(plan::LAN_NET)],
    };
    let links = vec![link(plan::UPLINK, Role::Uplink)?, link(plan::TUNNEL, Role::Tunnel)?];
    Sensor::open(Clock::starting_at(0.0), Ledger::new(1), allow, &links, vec![plan::TUNNEL.to_owned()])
        .context("listen in the stack")
}

/// How fast it went for one turn.
struct Pace {
    /// Mbit/s that arrived at the far end.
    rate: f64,
    /// Mbit for each second of processor time that all of the lab took: the tunnel's both ends, sender and receiver.
    per_processor: f64,
}

fn measure(received: &AtomicU64) -> Result<Pace> {
    let spent = || clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from);
    let (before, begun, worked) = (received.load(Ordering::Relaxed), Instant::now(), spent()?);
    std::thread::sleep(TURN);
    let megabits = (received.load(Ordering::Relaxed) - before) as f64 * 8.0 / 1e6;
    let (took, worked) = (begun.elapsed(), spent()?.saturating_sub(worked));
    Ok(Pace { rate: megabits / took.as_secs_f64(), per_processor: megabits / worked.as_secs_f64() })
}

fn drain(listener: &TcpListener, received: &AtomicU64) {
    let Ok((mut stream, _)) = listener.accept() else { return };
    let mut piece = vec![0; PIECE];
    while let Ok(length @ 1..) = stream.read(&mut piece) {
        received.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// Sends into the tunnel until the lab ends.
fn pump(to: SocketAddr) -> std::io::Result<()> {
    debug_assert!(matches!(to.ip(), IpAddr::V4(_)));
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    let piece = vec![0x6c; PIECE];
    loop {
        stream.write_all(&piece)?;
    }
}
