//! How many packets a second the sensor takes when the filter passes all of them and none may be lost.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::Result;
use leakcheck::clock::Clock;
use leakcheck::model::evidence::{PhaseWire, Role};
use leakcheck::net::netns::{Netns, run_in};
use leakcheck::net::route::Rtnetlink;
use leakcheck::sensor::allow::AllowList;
use leakcheck::sensor::capture::Sensor;
use leakcheck::sensor::ledger::Ledger;

use crate::link;

/// How long one rate is held.
const HOLD: Duration = Duration::from_millis(500);

/// The highest rate at which nothing is lost, by doubling.
pub fn rates() -> Result<()> {
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
