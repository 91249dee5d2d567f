//! What an outage does to the programs of the stack: nothing that would have them leak.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use leakcheck::config::OutageMethod;
use leakcheck::lab::plan;
use leakcheck::net::route::{Family, RouteSpec, Rtnetlink, Snapshot};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::range::{Range, State};

/// Where the far sides listen.
const PORT: u16 = 7000;
/// Gluetun's table of the routes into the tunnel.
const TABLE: u32 = 51820;
/// Between two packets of a program.
const EVERY: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(5);
/// Longer than a far side needs to answer.
const SHORT: Duration = Duration::from_millis(100);

/// While a link is set down by hand its address stays, and Gluetun's firewall lets known connections pass: the connection and the datagrams
/// of programs that talk all the time must not leave by the uplink all the same, from the first to the last instant of such an outage.
pub fn link_down_keeps_in_what_programs_have_open(range: &Range) -> Result<()> {
    keeps_in(range, 1)?;
    // Had the address stayed they would have left, and would have been seen.
    let _programs = Programs::start(range)?;
    let wire = Wire::listen()?;
    range.lab.topology().stack.call(|| Rtnetlink::open()?.set_link(plan::TUNNEL, false))??;
    let end = Instant::now() + PATIENCE;
    while wire.left() == 0 {
        ensure!(Instant::now() < end, "a link that keeps its address does not show either");
        sleep(EVERY);
    }
    Ok(())
}

/// As OpenVPN has it: the route into the tunnel has a gateway, which the kernel takes only when the address is there already. And of several
/// addresses the order counts.
pub fn link_down_keeps_in_what_a_gateway_takes(range: &Range) -> Result<()> {
    let change = || -> Result<()> {
        let mut netlink = Rtnetlink::open()?;
        let before = Snapshot::take()?;
        let own = [plan::CLIENT, plan::CLIENT_V6].map(|net| plan::net(net).addr());
        for address in before.addresses.iter().filter(|address| own.contains(&address.address.addr())) {
            netlink.delete_listed_address(address)?;
        }
        for address in ["10.64.0.2/24", "10.64.0.77/24", "fc00:bbbb:bbbb:bb01::99/128", plan::CLIENT_V6] {
            netlink.add_address(plan::TUNNEL, address.parse()?)?;
        }
        let everything = Family::V4.everything();
        // With the last address the route without a gateway went.
        Ok(netlink.add_route(&RouteSpec::via(everything, "10.64.0.1".parse()?).dev(plan::TUNNEL).table(TABLE))?)
    };
    range.lab.topology().stack.call(change)??;
    keeps_in(range, 4)
}

/// So many outages, in which nothing of the stack's programs leaves, and after which all is as it was, with addresses in their order.
fn keeps_in(range: &Range, outages: usize) -> Result<()> {
    let before = State::settled(&range.lab)?;
    let programs = Programs::start(range)?;
    for _ in 0..outages {
        let wire = Wire::listen()?;
        let refused_before = programs.refused.load(Relaxed);
        let status = range.audit(OutageMethod::LinkDown).status()?;
        let left = wire.left();
        ensure!(left == 0, "{left} packets of the stack's own programs left by the uplink");
        ensure!(status.success(), "{status}");
        let refused = programs.refused.load(Relaxed) - refused_before;
        ensure!(refused > 100, "{refused} datagrams were refused: nobody talked meanwhile");
        let differences = before.diff(&State::of(&range.lab)?);
        ensure!(differences.is_empty(), "after the outage {differences:#?}");
        let addresses = State::of(&range.lab)?.addresses();
        ensure!(addresses == before.addresses(), "the order of addresses became {addresses:?}");
    }
    ensure!(programs.sent.load(Relaxed) > 0, "nothing was ever sent");
    Ok(())
}

/// A connection and a flow of datagrams that programs of the stack hold open by the way that the kernel has for them, and talk on all the
/// time, and the far sides that answer.
struct Programs {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Programs {
    fn start(range: &Range) -> Result<Self> {
        let at = SocketAddr::new(plan::ip(plan::PEER), PORT);
        let far = move || Ok::<_, io::Error>((TcpListener::bind(at)?, UdpSocket::bind(at)?));
        let near = move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(at)?;
            Ok::<_, io::Error>((TcpStream::connect_timeout(&at, PATIENCE)?, socket))
        };
        let (listener, echo) = range.lab.topology().internet.call(far)??;
        let (mut stream, socket) = range.lab.topology().stack.call(near)??;
        let (mut accepted, _) = listener.accept()?;
        accepted.set_read_timeout(Some(SHORT))?;
        echo.set_read_timeout(Some(SHORT))?;
        stream.set_nonblocking(true)?;
        let mut programs =
            Self { stop: Arc::default(), sent: Arc::default(), refused: Arc::default(), threads: Vec::new() };
        programs.repeat(move || drop(accepted.read(&mut [0; 4096])));
        programs.repeat(move || {
            let mut octets = [0; 64];
            if let Ok((length, from)) = echo.recv_from(&mut octets) {
                let _ = echo.send_to(&octets[..length], from);
            }
        });
        let (sent, refused) = (Arc::clone(&programs.sent), Arc::clone(&programs.refused));
        programs.repeat(move || {
            // When its buffer is full the kernel has enough to send again.
            let _ = stream.write(b"a piece");
            let count = if socket.send(b"a piece").is_ok() { &sent } else { &refused };
            count.fetch_add(1, Relaxed);
            sleep(EVERY);
        });
        Ok(programs)
    }

    fn repeat(&mut self, mut act: impl FnMut() + Send + 'static) {
        let stop = Arc::clone(&self.stop);
        self.threads.push(spawn(move || {
            while !stop.load(Relaxed) {
                act();
            }
        }));
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Hears in the home, at the other end of the stack's uplink, what goes to the programs' far side.
struct Wire(Socket);

impl Wire {
    fn listen() -> Result<Self> {
        let protocol = i32::from((libc::ETH_P_IP as u16).to_be());
        let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking(), Some(Protocol::from(protocol)))?;
        let far: Ipv4Addr = plan::PEER.parse()?;
        // The destination stands at octet 16 (RFC 791, section 3.1). All else would fill the buffer meanwhile.
        socket.attach_filter(&[
            SockFilter::new((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0, 16),
            SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 1, far.to_bits()),
            SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, u32::MAX),
            SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0),
        ])?;
        let wire = Self(socket);
        // What came before it had a filter may be anything.
        wire.left();
        Ok(wire)
    }

    /// How many came since it was asked last.
    fn left(&self) -> usize {
        std::iter::from_fn(|| (&self.0).read(&mut [0; 64]).ok()).count()
    }
}
