//! The sensor, against a program that floods the wire without an end: it can be armed and closed all the same, and what it could not look at
//! is counted as lost.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use leakcheck::clock::Clock;
use leakcheck::model::evidence::{Link, Role};
use leakcheck::net::netns::{Netns, run_in};
use leakcheck::net::route::Rtnetlink;
use leakcheck::sensor::allow::AllowList;
use leakcheck::sensor::capture::Sensor;
use leakcheck::sensor::ledger::Ledger;

use crate::{Body, went_on};

pub const TRIALS: &[(&str, Body)] = &[("sensor::flood", flood)];
/// Programs that flood.
const SENDERS: usize = 2;
/// Times that the sensor is armed and closed meanwhile.
const PHASES: usize = 4;

fn flood(_: u64) -> Result<u64, String> {
    let link = wire().map_err(|error| format!("no wire could be made: {error:#}"))?;
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let senders: Vec<_> = (0..SENDERS)
        .map(|_| {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            thread::spawn(move || send(&stop, &sent))
        })
        .collect();
    let looked = look(link, &sent);
    stop.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.join().map_err(|_| "a sender broke off")?.map_err(|error| format!("nothing could be sent: {error}"))?;
    }
    looked
}

/// A link whose other end is in another namespace.
fn wire() -> anyhow::Result<Link> {
    let far = Netns::create()?;
    let mut netlink = Rtnetlink::open()?;
    netlink.add_veth("near", "far", &far)?;
    netlink.add_address("near", "198.18.0.1/24".parse()?)?;
    netlink.set_link("near", true)?;
    run_in(&far, "far", || Rtnetlink::open()?.set_link("far", true))??;
    leakcheck::net::route::wait_ready(&["near"], Duration::from_secs(10))?;
    let index = nix::net::if_::if_nametoindex("near")?;
    // The other end stays as long as the link, which ends with the process.
    std::mem::forget(far);
    Ok(Link { index, name: "near".to_owned(), role: Role::Uplink, addresses: Vec::new(), up: true })
}

fn send(stop: &AtomicBool, sent: &AtomicU64) -> std::io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket2::SockRef::from(&socket).bind_device(Some(b"near"))?;
    // Multicast: there is nobody whose address would have to be resolved first.
    socket.connect("239.192.152.143:6771")?;
    while !stop.load(Ordering::Relaxed) {
        if socket.send(&[7; 64]).is_ok() {
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Arms and closes the sensor some times. How many packets it saw or knows to have lost.
fn look(link: Link, sent: &AtomicU64) -> Result<u64, String> {
    let sensor = Sensor::open(Clock::starting_at(0.0), Ledger::new(1), AllowList::default(), &[link], Vec::new())
        .map_err(|error| error.to_string())?;
    let mut all = 0;
    for number in 0..PHASES {
        let phase = sensor.arm();
        let before = sent.load(Ordering::Relaxed);
        thread::sleep(Duration::from_millis(200));
        let after = sent.load(Ordering::Relaxed);
        let phase = sensor.close(phase);
        went_on();
        let seen: u64 = phase.sightings.iter().map(|sighting| sighting.count).sum();
        let unseen = phase.controls.iter().filter(|control| control.seen_ms.is_none()).count();
        let known = seen + phase.dropped;
        // A closing control that was seen flushes all that was sent before it.
        if unseen == 0 && known < after - before {
            return Err(format!(
                "of {} packets of phase {number} {seen} were seen and {} lost",
                after - before,
                phase.dropped
            ));
        }
        if unseen > 0 && phase.dropped == 0 {
            return Err(format!("{unseen} controls of phase {number} were not seen, though nothing was lost"));
        }
        if seen == 0 {
            return Err(format!("nothing was seen in phase {number}"));
        }
        all += known;
    }
    Ok(all)
}
