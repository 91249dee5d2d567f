//! Each condition is really there: asked of the tunnel, of the witnesses and of the wire. And it is not there where it was not asked for.

use super::tools::{WAIT, get, in_stack, question};
use anyhow::{Context, Result, ensure};
use leakcheck::lab::condition::Circumstance;
use leakcheck::lab::{Condition, Lab, LabSpec, PrivateDir, plan};
use leakcheck::net::route::Snapshot;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// The prefix of the trials' names.
const PREFIX: &str = "condition::";
/// Questions by which a line is measured.
const QUESTIONS: usize = 60;
/// Packets that a tunnel at work carries in a second at the least; an idle one carries a handful.
const AT_WORK: u64 = 300;
/// How long the tunnel and the bridge are looked at.
const LOOK: Duration = Duration::from_secs(1);

pub fn names() -> Vec<String> {
    let all = Condition::all().unwrap_or_else(|error| panic!("the conditions are not sound: {error}"));
    all.into_iter().map(|condition| format!("{PREFIX}{}", condition.id)).collect()
}

pub fn is_one(name: &str) -> bool {
    name.starts_with(PREFIX)
}

pub fn run(name: &str, world: PrivateDir) -> Result<()> {
    let condition = Condition::named(name.trim_start_matches(PREFIX))?;
    let parts = condition.circumstances.clone();
    let lab = Lab::start(&world, LabSpec::sealed().under(condition))?;
    // What a bad line loses or delays costs the first answer.
    ensure!((0..5).any(|_| web(&lab, false).is_ok()), "nothing comes through the tunnel");
    let has = |wanted: fn(&Circumstance) -> bool| parts.iter().any(wanted);
    let load = has(|part| matches!(part, Circumstance::Load { .. }));
    let carried = carried(&lab)?;
    ensure!(load == (carried >= AT_WORK), "the tunnel carried {carried} packets in a second");
    let uninvited = uninvited(&lab)?;
    let chatter = has(|part| matches!(part, Circumstance::Chatter { .. }));
    ensure!(chatter == (uninvited > 50), "{uninvited} packets came to the stack uninvited in a second");
    ensure!((0..5).any(|_| web(&lab, true).is_ok()), "nothing comes through the tunnel over IPv6");
    line(&lab, &parts, load)?;
    for (_, v4, _, port) in plan::STUN {
        witness(&lab, &parts, SocketAddr::new(plan::ip(v4), port), &stun())?;
    }
    for (_, v4, _) in plan::DHT {
        let ping = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe";
        witness(&lab, &parts, SocketAddr::new(plan::ip(v4), plan::DHT_PORT), ping)?;
    }
    Ok(())
}

/// Asks a web server that no condition takes down.
fn web(lab: &Lab, ipv6: bool) -> Result<String> {
    let (host, v4, v6) = plan::WEB[2];
    let at = SocketAddr::new(plan::ip(if ipv6 { v6 } else { v4 }), 80);
    in_stack(lab, move || get(at, host, "/"))?
}

/// Packets on the tunnel's link in a second, in both directions.
fn carried(lab: &Lab) -> Result<u64> {
    let count = || -> Result<u64> {
        let table = std::fs::read_to_string("/proc/thread-self/net/dev")?;
        let line = table.lines().find_map(|line| line.trim_start().strip_prefix("tun0:")).context("no tunnel")?;
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        Ok(numbers[1] + numbers[9])
    };
    in_stack(lab, move || -> Result<u64> {
        let before = count()?;
        std::thread::sleep(LOOK);
        Ok(count()?.saturating_sub(before))
    })?
}

/// Packets that come in by the uplink in a second, the tunnel's own left out.
fn uninvited(lab: &Lab) -> Result<u64> {
    in_stack(lab, || -> Result<u64> {
        let index = Snapshot::take()?.link("eth0").map(|link| link.index).context("no uplink")?;
        let every = i32::from(0x0003_u16.to_be());
        let kind = socket2::Type::DGRAM;
        let socket = socket2::Socket::new(socket2::Domain::PACKET, kind, Some(socket2::Protocol::from(every)))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let (mut count, end) = (0, Instant::now() + LOOK);
        let mut buffer = [std::mem::MaybeUninit::uninit(); 64];
        while Instant::now() < end {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            // SAFETY: the kernel filled in a sockaddr_ll, and so many octets of the buffer.
            let (from, octets) = unsafe {
                let octets = std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length);
                (from.as_ptr().cast::<libc::sockaddr_ll>().read_unaligned(), octets)
            };
            let of_server = octets.len() > 16 && octets[12..16] == [198, 51, 100, 2];
            let comes = from.sll_ifindex as u32 == index && from.sll_pkttype != libc::PACKET_OUTGOING;
            count += u64::from(comes && !of_server);
        }
        Ok(count)
    })?
}

/// How many of so many questions were answered, and how fast the fastest.
fn line(lab: &Lab, parts: &[Circumstance], load: bool) -> Result<()> {
    let (mut loss, mut delay) = (0, Duration::ZERO);
    for part in parts {
        if let Circumstance::Line { loss_percent, delay_ms } = part {
            (loss, delay) = (*loss_percent, Duration::from_millis(*delay_ms));
        }
    }
    let (answered, fastest) = in_stack(lab, move || -> Result<(usize, Duration)> {
        let server = SocketAddr::new(plan::ip(plan::TUNNEL_RESOLVER), 53);
        let mut asked = Vec::new();
        for number in 0..QUESTIONS {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(Duration::from_millis(1)))?;
            socket.connect(server)?;
            let at = Instant::now();
            socket.send(&question(&format!("line-{number}.example.com")))?;
            asked.push((socket, at));
            std::thread::sleep(Duration::from_millis(4));
        }
        let (end, mut answered, mut fastest) = (Instant::now() + WAIT, 0, WAIT);
        while Instant::now() < end && !asked.is_empty() {
            asked.retain(|(socket, at)| {
                let came = socket.recv(&mut [0; 512]).is_ok();
                if came {
                    answered += 1;
                    fastest = fastest.min(at.elapsed());
                }
                !came
            });
        }
        Ok((answered, fastest))
    })??;
    let told = format!("{answered} of {QUESTIONS} questions were answered, the fastest after {fastest:?}");
    // A line of 5 % loses none of sixty round trips about once in 500 tries, and a full tunnel may lose by itself.
    ensure!(loss < 10 || answered < QUESTIONS, "{told}");
    ensure!(loss > 0 || load || answered == QUESTIONS, "{told}");
    ensure!(answered > QUESTIONS / 4, "{told}");
    ensure!(fastest >= delay * 2, "{told}");
    Ok(())
}

fn stun() -> Vec<u8> {
    [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat()
}

/// A witness answers unless it is said to be down.
fn witness(lab: &Lab, parts: &[Circumstance], at: SocketAddr, asking: &[u8]) -> Result<()> {
    let down = parts.iter().any(|part| match part {
        Circumstance::Down { host, .. } => plan::witness(host).contains(&at.ip()),
        _ => false,
    });
    let octets = asking.to_vec();
    let answered = in_stack(lab, move || -> Result<bool> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(if down { 500 } else { 1500 })))?;
        socket.connect(at)?;
        Ok((0..5).any(|_| socket.send(&octets).is_ok() && socket.recv(&mut [0; 1024]).is_ok()))
    })??;
    ensure!(answered != down, "{at} {}", if answered { "answers" } else { "does not answer" });
    Ok(())
}

/// A host that nobody knows is an error, and not a condition that does nothing.
pub fn unknown_witness(world: PrivateDir) -> Result<()> {
    let text = "title='t'\nwhy='w'\nwith = [{ kind = 'down', host = 'nobody.test' }]";
    let refused = Lab::start(&world, LabSpec::sealed().under(Condition::parse("x", text)?));
    let Err(error) = refused else { anyhow::bail!("it starts") };
    ensure!(format!("{:#}", anyhow::Error::from(error)).contains("nobody.test"));
    Ok(())
}
