//! Flows that are older than the outage: a connection and a flow of datagrams, opened through the tunnel before it goes, on which the far
//! side has answered, so that connection tracking knows them. Firewalls let such flows pass where they would stop a new one, and sockets
//! keep their source address: none of them may move to an uplink, neither while the tunnel is down nor once it is back.
//!
//! The far side is a witness that is asked anyway, and gets a handful of packets. Then TTL 1 is set, before the tunnel goes. The connection
//! is made to speak by window probes, of which the kernel sends one at once when the repair of a connection ends (TCP_REPAIR, tcp(7),
//! needs CAP_NET_ADMIN): no data that it would send again at a time of its own, and no timer. How many left is read from the connection.
//! A far side that is not told of the end would end its side later, and what the kernel answers to that might meet another outage: so the
//! reset that ends a connection goes all the way, when the tunnel is back and nothing went another way.
//!
//! They are silent in the very instants in which the tunnel goes and comes, also when the VPN starts itself again meanwhile. There the
//! kernel takes away a link, its routes and its addresses one after the other, and for some microseconds a firewall like Gluetun's lets a
//! known flow out by whatever route is left: that is so on every such stack, and no kill switch of this kind can help it. A connection that
//! is silent is deaf as well, or the kernel would answer by itself to what the far side still says.
//!
//! Those of one family at a time: of a flow over IPv6 the kernel does not check that its source address is still there, see `flows_v6.rs`.

mod open;

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use socket2::{SockFilter, SockRef, Socket};

use crate::handicap::{Handicap, lacks};
use crate::model::evidence::{Fate, StandingFlow};
use crate::technique::{Context, fate_of};

pub(super) use open::{TRIES, far, forced};
use open::{open_tcp, open_udp};

/// How long after a change of the tunnel's link they stay silent.
const SETTLED: Duration = Duration::from_millis(400);
/// Time between two packets of a flow.
const SPEAK_EVERY: Duration = Duration::from_millis(20);
/// What Linux sends with if nothing else is asked for (ip(7)).
const DEFAULT_TTL: u32 = 64;

/// Flows that are open. Dropping them resets them, by packets that do not get far.
pub(super) struct StandingFlows {
    shared: Arc<Mutex<Shared>>,
    thread: Option<JoinHandle<()>>,
    /// What could not be opened, and why.
    pub(super) notes: Vec<String>,
}

struct Shared {
    flows: Vec<Flow>,
    speaking: bool,
    deaf: bool,
    /// Whether what is sent counts.
    down: bool,
    stop: bool,
    link: Link,
}

/// The tunnel's link, as it was seen last.
struct Link {
    name: String,
    index: Option<u32>,
    changed: Option<Instant>,
}

struct Flow {
    record: StandingFlow,
    open: Open,
}

enum Open {
    Tcp(Socket),
    Udp(UdpSocket, Vec<u8>),
}

impl StandingFlows {
    /// Opens one of each protocol by the link `tunnel`, as far as a far side answers.
    pub(super) async fn open(cx: &Context, trial: &Arc<str>, tunnel: &str, v6: bool) -> io::Result<Self> {
        let mut notes = Vec::new();
        let (links, tcp, udp) = tokio::join!(cx.links_now(), open_tcp(cx, trial, v6), open_udp(cx, trial, v6));
        let of_tunnel = links.iter().filter(|link| link.name == tunnel).flat_map(|link| &link.addresses);
        let own: Vec<IpAddr> = of_tunnel.map(|net| net.addr()).collect();
        let mut flows = Vec::new();
        let open_ms = cx.clock.now_ms();
        for (proto, opened) in [("TCP", tcp), ("UDP", udp)] {
            let proto = if v6 { format!("{proto} and IPv6") } else { proto.to_owned() };
            match opened {
                Ok(mut flow) if own.contains(&flow.record.from.ip()) => {
                    flow.record.open_ms = open_ms;
                    flows.push(flow);
                }
                Ok(flow) => notes.push(format!(
                    "no flow over {proto} could be opened before the outage: it came from {} and so not by {tunnel}",
                    flow.record.from.ip()
                )),
                Err(why) => notes.push(format!("no flow over {proto} could be opened before the outage: {why}")),
            }
        }
        let link = Link::new(tunnel);
        let shared = Shared { flows, speaking: false, deaf: false, down: false, stop: false, link };
        let shared = Arc::new(Mutex::new(shared));
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("standing".into()).spawn(move || speak(&theirs))?;
        Ok(Self { shared, thread: Some(thread), notes })
    }

    /// Has them speak from now on; `down` says that the tunnel is down, and what is sent counts.
    pub(super) fn speak(&self, down: bool) {
        let mut shared = lock(&self.shared);
        (shared.speaking, shared.down) = (true, down);
        if !down {
            // That a witness was reached by it says that it is settled.
            shared.link = Link::new(&shared.link.name);
        }
    }

    /// Has them be silent: when this returns nothing of them is on its way to the network.
    pub(super) fn silence(&self) {
        let mut shared = lock(&self.shared);
        shared.speaking = false;
        shared.set_deaf(true);
    }

    /// Ends them. `told` says that the far side may hear of it: the tunnel is back, and none of them went another way.
    pub(super) fn finish(mut self, told: bool) -> Vec<StandingFlow> {
        self.end();
        if told {
            lock(&self.shared).flows.iter().for_each(Flow::reach_far);
        }
        lock(&self.shared).flows.drain(..).map(|flow| flow.record.clone()).collect()
    }

    fn end(&mut self) {
        lock(&self.shared).stop = true;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for StandingFlows {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn speak(shared: &Mutex<Shared>) {
    loop {
        let mut now = lock(shared);
        if now.stop {
            return;
        }
        let speaks = now.speaking && now.link.is_settled();
        now.set_deaf(!speaks);
        if speaks {
            let Shared { flows, down, .. } = &mut *now;
            flows.iter_mut().for_each(|flow| flow.speak(*down));
        }
        drop(now);
        thread::sleep(SPEAK_EVERY);
    }
}

impl Shared {
    fn set_deaf(&mut self, deaf: bool) {
        if std::mem::replace(&mut self.deaf, deaf) != deaf {
            self.flows.iter().for_each(|flow| flow.set_deaf(deaf));
        }
    }
}

impl Link {
    fn new(name: &str) -> Self {
        Link { name: name.to_owned(), index: if_nametoindex(name).ok(), changed: None }
    }

    /// Whether it is as it was for a while: there, or not there.
    fn is_settled(&mut self) -> bool {
        let index = if_nametoindex(self.name.as_str()).ok();
        if std::mem::replace(&mut self.index, index) != index {
            self.changed = Some(Instant::now());
        }
        self.changed.is_none_or(|at| at.elapsed() >= SETTLED)
    }
}

impl Flow {
    fn speak(&mut self, down: bool) {
        let (sent, result) = match &self.open {
            _ if lacks(Handicap::Stimuli) => (1, Ok(())),
            Open::Udp(socket, payload) => (1, socket.send(payload).map(drop)),
            Open::Tcp(socket) => {
                let before = segments_out(socket);
                let result = probe(socket);
                // One that the far side has ended sends nothing any more.
                let sent = before.and_then(|before| Ok(u64::from(segments_out(socket)?.wrapping_sub(before))));
                (sent.unwrap_or_default(), result)
            }
        };
        if down {
            self.record.asked += sent;
            if let Err(error) = result
                && let Fate::Refused { name, .. } = fate_of(&error)
            {
                self.record.refused += 1;
                self.record.refusal.get_or_insert(name);
            }
        }
    }

    /// Has the kernel drop what comes for the connection before TCP looks at it (SO_ATTACH_FILTER, socket(7)). To a datagram it never answers.
    fn set_deaf(&self, deaf: bool) {
        if let Open::Tcp(socket) = &self.open {
            let drop_all = [SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0)];
            // What is heard all the same may be answered, which the sensor sees.
            let _ = if deaf { socket.attach_filter(&drop_all) } else { socket.detach_filter() };
        }
    }

    fn reach_far(&self) {
        if let Open::Tcp(socket) = &self.open {
            // One that cannot be told is not told.
            let _ = set_hops(socket.into(), self.record.to, DEFAULT_TTL);
        }
    }
}

/// How far what a socket sends gets.
fn set_hops(socket: SockRef<'_>, to: SocketAddr, hops: u32) -> io::Result<()> {
    if to.is_ipv4() { socket.set_ttl_v4(hops) } else { socket.set_unicast_hops_v6(hops) }
}

/// Has the kernel send one window probe: a segment without data that the far side answers at once (RFC 9293, 3.8.6.1).
fn probe(socket: &Socket) -> io::Result<()> {
    const ON: libc::c_int = 1;
    const OFF: libc::c_int = 0;
    set_repair(socket, ON)?;
    set_repair(socket, OFF)
}

fn set_repair(socket: &Socket, value: libc::c_int) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel reads `length` octets of `value`.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_REPAIR, (&raw const value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How many segments a connection has made so far (`tcpi_segs_out` of `struct tcp_info`, linux/tcp.h, since Linux 4.2).
fn segments_out(socket: &Socket) -> io::Result<u32> {
    const SEGS_OUT: usize = 136;
    let mut info = [0u8; SEGS_OUT + 4];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes no more than `length` octets.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    match info.last_chunk() {
        _ if result != 0 => Err(io::Error::last_os_error()),
        Some(count) if length as usize == info.len() => Ok(u32::from_ne_bytes(*count)),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel does not count the segments of a connection")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::model::evidence::Proto;

    #[test]
    fn silence_is_kept_and_what_is_sent_before_the_outage_does_not_count() {
        let far = UdpSocket::bind("127.0.0.1:0").unwrap();
        far.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let near = UdpSocket::bind("127.0.0.1:0").unwrap();
        near.connect(far.local_addr().unwrap()).unwrap();
        let (from, to) = (near.local_addr().unwrap(), far.local_addr().unwrap());
        let (open_ms, refusal) = (0.0, None);
        let record = StandingFlow { stimulus: 1, proto: Proto::Udp, from, to, open_ms, asked: 0, refused: 0, refusal };
        let flow = Flow { record, open: Open::Udp(near, b"still here".to_vec()) };
        let link = Link::new("lo");
        let shared = Shared { flows: vec![flow], speaking: false, deaf: false, down: false, stop: false, link };
        let shared = Arc::new(Mutex::new(shared));
        let theirs = Arc::clone(&shared);
        let thread = Some(thread::spawn(move || speak(&theirs)));
        let flows = StandingFlows { shared, thread, notes: Vec::new() };
        flows.speak(false);
        far.recv(&mut [0; 16]).unwrap();
        flows.silence();
        far.set_nonblocking(true).unwrap();
        while far.recv(&mut [0; 16]).is_ok() {}
        thread::sleep(SPEAK_EVERY * 4);
        assert!(far.recv(&mut [0; 16]).is_err(), "it spoke");
        assert_eq!(lock(&flows.shared).flows[0].record.asked, 0);
        flows.speak(true);
        far.set_nonblocking(false).unwrap();
        far.recv(&mut [0; 16]).unwrap();
        flows.silence();
        let records = flows.finish(false);
        assert!(records[0].asked > 0 && records[0].refused == 0, "{records:?}");
    }

    #[test]
    fn a_link_that_changed_is_left_to_settle() {
        let mut link = Link { name: "lo".to_owned(), index: None, changed: None };
        assert!(!link.is_settled(), "it came just now");
        thread::sleep(SETTLED);
        assert!(link.is_settled());
        link.name = "none-such".to_owned();
        assert!(!link.is_settled(), "it went just now");
    }

    /// What the flow relies on: each probe leaves at once and is answered, without an idle time, and nothing follows.
    #[test]
    fn a_connection_speaks_when_it_is_told_to_and_no_more() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = Socket::from(std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let (far, _) = listener.accept().unwrap();
        let far = Socket::from(far);
        let before = (segments_out(&near).unwrap(), segments_out(&far).unwrap());
        if let Err(error) = probe(&near) {
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
            return;
        }
        probe(&near).unwrap();
        thread::sleep(Duration::from_millis(500));
        let after = (segments_out(&near).unwrap(), segments_out(&far).unwrap());
        assert_eq!(after.0 - before.0, 2);
        // The kernel answers such questions twice a second at the most (tcp_invalid_ratelimit in ip-sysctl.rst).
        assert!(after.1 > before.1, "no answer came");
    }

    /// While it is silent nothing that the far side says is answered, and afterwards it goes on.
    #[test]
    fn a_silent_connection_answers_nothing() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = Socket::from(std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let (far, from) = listener.accept().unwrap();
        let to = listener.local_addr().unwrap();
        let (open_ms, refusal) = (0.0, None);
        let record = StandingFlow { stimulus: 1, proto: Proto::Tcp, from, to, open_ms, asked: 0, refused: 0, refusal };
        let flow = Flow { record, open: Open::Tcp(near) };
        let segments = || match &flow.open {
            Open::Tcp(near) => segments_out(near).unwrap(),
            Open::Udp(..) => unreachable!(),
        };
        let before = segments();
        flow.set_deaf(true);
        (&far).write_all(b"still there?").unwrap();
        thread::sleep(Duration::from_millis(100));
        assert_eq!(segments(), before);
        flow.set_deaf(false);
        // The far side says it again after its retransmission time-out, of 200 ms at least.
        let waited = Instant::now();
        while segments() == before {
            assert!(waited.elapsed() < Duration::from_secs(10), "it is deaf for ever");
            thread::sleep(Duration::from_millis(10));
        }
    }
}
