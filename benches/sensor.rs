//! What the sensor costs and how much it bears, in the lab: `cargo bench --bench sensor`. Prints; decides nothing.
//!
//! The rate is what a sender can put on a link while the filter passes everything and nothing is lost. The throughput of the tunnel
//! is measured in turns, with the sensor and without, in one run, so that whatever else the machine does falls on both alike.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use leakcheck::clock::Clock;
use leakcheck::lab::{self, Lab, LabSpec, plan};
use leakcheck::model::evidence::{Link, PhaseWire, Proto, Role};
use leakcheck::net::netns::{Netns, run_in, spawn_in};
use leakcheck::net::route::Rtnetlink;
use leakcheck::sensor::allow::{AllowList, Endpoint, Shape};
use leakcheck::sensor::capture::Sensor;
use leakcheck::sensor::ledger::Ledger;

/// How long one rate is held.
const HOLD: Duration = Duration::from_millis(500);
/// Turns with and without the sensor, and how long each is.
const TURNS: usize = 30;
const TURN: Duration = Duration::from_millis(250);
/// Octets per write into the tunnel.
const PIECE: usize = 64 * 1024;
/// Where the far end of the tunnel's traffic listens: an address of the lab's internet, and a port that nobody has.
const SINK_PORT: u16 = 5001;

fn main() -> Result<()> {
    // Run by `cargo test` too, where it should cost nothing.
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    let world = lab::enter_user_namespace()?;
    let lab = Lab::start(&world, LabSpec::sealed())?;
    rates()?;
    throughput(&lab)
}

/// The highest rate at which nothing is lost, by doubling.
fn rates() -> Result<()> {
    let far = Netns::create()?;
    let mut netlink = Rtnetlink::open()?;
    netlink.add_veth("bench0", "far", &far)?;
    netlink.add_address("bench0", "198.18.0.1/24".parse()?)?;
    netlink.set_link("bench0", true)?;
    run_in(&far, "far", || Rtnetlink::open()?.set_link("far", true))??;
    std::thread::sleep(Duration::from_secs(1));
    let links = vec![link("bench0", Role::Uplink)?];
    let sensor = Sensor::open(Clock::starting_at(0.0), Ledger::new(1), AllowList::default(), &links, Vec::new())?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket2::SockRef::from(&socket).bind_device(Some(b"bench0"))?;
    // Multicast: there is nobody whose address would have to be resolved first.
    socket.connect("239.192.152.143:6771")?;
    let (mut rate, mut best) = (10_000_u64, 0.0_f64);
    loop {
        let phase = sensor.arm();
        let (sent, took) = flood(&socket, rate)?;
        let phase = sensor.close(phase);
        let reached = sent as f64 / took.as_secs_f64();
        println!("asked for {rate}/s: {reached:.0} packets/s, {} seen, {} lost", seen(&phase), phase.dropped);
        if phase.dropped == 0 {
            best = best.max(reached);
        }
        // The sender is the limit, or the sensor is.
        if phase.dropped > 0 || reached < rate as f64 * 0.8 {
            break;
        }
        rate *= 2;
    }
    println!("without loss: {best:.0} packets/s");
    Ok(())
}

fn flood(socket: &UdpSocket, rate: u64) -> Result<(u64, Duration)> {
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < HOLD {
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
        while sent < due && begun.elapsed() < HOLD {
            socket.send(&[7; 64])?;
            sent += 1;
        }
        std::thread::yield_now();
    }
    Ok((sent, begun.elapsed()))
}

fn seen(phase: &PhaseWire) -> u64 {
    phase.sightings.iter().map(|sighting| sighting.count).sum()
}

fn link(name: &str, role: Role) -> Result<Link> {
    let index = nix::net::if_::if_nametoindex(name)?;
    Ok(Link { index, name: name.to_owned(), role, addresses: Vec::new(), up: true })
}

fn throughput(lab: &Lab) -> Result<()> {
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
    measure(&received);
    for turn in 0..TURNS {
        // Which of the two goes first changes from turn to turn.
        for on in [turn % 2 == 0, turn % 2 != 0] {
            let sensor = if on { Some(run_in(&stack, "sensor", open_in_stack)??) } else { None };
            let rate = measure(&received);
            match sensor {
                Some(sensor) => {
                    let phase = sensor.close(PhaseWire::default());
                    println!("with:    {rate:7.1} Mbit/s, {} packets looked at, {} lost", phase.packets, phase.dropped);
                    with.push(rate);
                }
                None => {
                    println!("without: {rate:7.1} Mbit/s");
                    without.push(rate);
                }
            }
        }
    }
    let mut ratios: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with / without).collect();
    ratios.sort_by(f64::total_cmp);
    println!("throughput with the sensor over without, median of {TURNS} pairs: {:.3}", ratios[ratios.len() / 2]);
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

/// Mbit/s that arrive at the far end.
fn measure(received: &AtomicU64) -> f64 {
    let (before, begun) = (received.load(Ordering::Relaxed), Instant::now());
    std::thread::sleep(TURN);
    let octets = received.load(Ordering::Relaxed) - before;
    octets as f64 * 8.0 / 1e6 / begun.elapsed().as_secs_f64()
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
