//! What a trial looks with: small clients in the stack's namespace, and a packet socket on the home's side of its uplink.

use anyhow::{Context, Result, bail, ensure};
use leakcheck::lab::Lab;
use leakcheck::net::netns::{Netns, run_in, spawn_in};
use leakcheck::net::route::{Family, RouteSpec, Rtnetlink};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const WAIT: Duration = Duration::from_secs(3);

/// Runs `body` on a thread of its own in the stack's namespace.
pub fn in_stack<T: Send + 'static>(lab: &Lab, body: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    Ok(run_in(&Netns::open(lab.stack_netns())?, "trial", body)?)
}

/// The body of an answer to a GET in clear.
pub fn get(at: SocketAddr, host: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, WAIT).with_context(|| format!("connect to {at}"))?;
    stream.set_read_timeout(Some(WAIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(head.contains(" 200 "), "{head}");
    Ok(body.trim().to_owned())
}

/// PUT to the stack's control server, from inside.
pub fn put_status(lab: &Lab, status: &'static str) -> Result<String> {
    in_stack(lab, move || -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&"127.0.0.1:8000".parse()?, WAIT)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let body = format!("{{\"status\":\"{status}\"}}");
        let length = body.len();
        write!(
            stream,
            "PUT /v1/vpn/status HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?
}

/// The address that ipify sees of the stack, over the tunnel or wherever the routes lead.
pub fn exit(lab: &Lab, ipv6: bool) -> Result<IpAddr> {
    let at = if ipv6 { "[2606:4700:20::681a:ccd]:80" } else { "104.26.12.205:80" };
    let host = if ipv6 { "api6.ipify.org" } else { "api.ipify.org" };
    let body = in_stack(lab, move || get(at.parse()?, host, "/"))??;
    body.parse().with_context(|| format!("`{body}` is no address"))
}

/// A DNS question for the A record of `name`, as bytes.
pub fn question(name: &str) -> Vec<u8> {
    let mut message = vec![0x4c, 0x4b, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// Where the lab's WireGuard goes.
const SERVER: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 2)), 51_820);

/// Asks `server` from the stack for `name`; whether it answered without error.
pub fn ask(lab: &Lab, server: &str, name: String) -> Result<bool> {
    let server: SocketAddr = server.parse()?;
    in_stack(lab, move || -> Result<bool> {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(WAIT))?;
        socket.connect(server)?;
        socket.send(&question(&name))?;
        let mut answer = [0; 1024];
        let length = socket.recv(&mut answer)?;
        Ok(length > 12 && answer[3] & 0x0f == 0 && answer[7] > 0)
    })?
}

/// The nameservers of the stack's resolv.conf, with the port.
pub fn nameservers(lab: &Lab) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(lab.stack_resolv_conf())?;
    let named = text.lines().filter_map(|line| line.strip_prefix("nameserver "));
    named.map(|ip| Ok(SocketAddr::new(ip.trim().parse()?, 53).to_string())).collect()
}

/// Takes the tunnel's link down past the control server, or brings it up with all that it had.
pub fn set_tunnel(lab: &Lab, up: bool) -> Result<()> {
    in_stack(lab, move || -> Result<()> {
        let mut netlink = Rtnetlink::open()?;
        netlink.set_link("tun0", up)?;
        if up {
            for family in [Family::V4, Family::V6] {
                netlink.add_route(&RouteSpec::on(family.everything(), "tun0").table(51820))?;
            }
        }
        Ok(())
    })?
}

/// Sends a datagram bound to a link; the kernel's errno if it refuses.
pub fn send_bound(lab: &Lab, link: &'static str, to: &'static str, payload: &'static [u8]) -> Result<Option<i32>> {
    in_stack(lab, move || -> Result<Option<i32>> {
        let to: SocketAddr = to.parse()?;
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind_device(Some(link.as_bytes()))?;
        Ok(errno(socket.send_to(payload, &to.into()).map(|_| ())))
    })?
}

/// Pings bound to the uplink.
pub fn ping_bound(lab: &Lab, to: &'static str) -> Result<Option<i32>> {
    in_stack(lab, move || -> Result<Option<i32>> {
        let to: IpAddr = to.parse()?;
        let protocol = if to.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
        let socket = Socket::new(Domain::for_address((to, 0).into()), Type::RAW, Some(protocol))?;
        socket.bind_device(Some(b"eth0"))?;
        let kind = if to.is_ipv4() { 8 } else { 128 };
        let mut packet = vec![kind, 0, 0, 0, 0, 1, 0, 1];
        let sum = !packet.chunks(2).fold(0_u16, |sum, pair| {
            let (sum, carry) = sum.overflowing_add(u16::from_be_bytes([pair[0], pair[1]]));
            sum + u16::from(carry)
        });
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
        Ok(errno(socket.send_to(&packet, &SocketAddr::new(to, 0).into()).map(|_| ())))
    })?
}

/// Connects, bound to a link if one is given, and does not wait long.
pub fn connect_bound(lab: &Lab, link: Option<&'static str>, to: &'static str) -> Result<()> {
    in_stack(lab, move || -> Result<()> {
        let to: SocketAddr = to.parse()?;
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        if let Some(link) = link {
            socket.bind_device(Some(link.as_bytes()))?;
        }
        // What the wire shows is looked at, not the outcome.
        let _ = socket.connect_timeout(&to.into(), Duration::from_millis(300));
        Ok(())
    })?
}

fn errno(outcome: std::io::Result<()>) -> Option<i32> {
    outcome.err().and_then(|e| e.raw_os_error())
}

/// A packet that the stack sent by its uplink, as the home's bridge port saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub at: Instant,
    pub destination: IpAddr,
    pub protocol: u8,
    pub port: u16,
}

/// Listens on the home's end of the stack's uplink.
pub struct Wire {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Vec<Seen>, leakcheck::net::netns::NetnsError>>>,
}

impl Wire {
    /// Starts listening; what is sent after this returns is seen.
    pub fn listen() -> Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(0x0003_u16.to_be()))))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        socket.set_recv_buffer_size(8 << 20)?;
        bind(&socket, "veth-stack")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = spawn_in(&Netns::current()?, "wire", move || {
            let mut socket = socket;
            let (mut seen, mut buffer) = (Vec::new(), [0_u8; 2048]);
            loop {
                match socket.read(&mut buffer) {
                    Ok(length) => seen.extend(decode(&buffer[..length])),
                    Err(_) if stopped.load(Ordering::Relaxed) => return seen,
                    Err(_) => {}
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Everything that left for an address outside the home, WireGuard to the endpoint left out.
    pub fn finish(self) -> Result<Vec<Seen>> {
        let mut seen = self.all()?;
        seen.retain(|packet| !local(packet.destination) && (packet.destination, packet.port) != SERVER);
        Ok(seen)
    }

    /// Everything that left.
    pub fn all(mut self) -> Result<Vec<Seen>> {
        std::thread::sleep(Duration::from_millis(60));
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { bail!("finished twice") };
        Ok(thread.join().map_err(|_| anyhow::anyhow!("the wire's thread panicked"))??)
    }
}

fn bind(socket: &Socket, link: &str) -> std::io::Result<()> {
    let index = nix::net::if_::if_nametoindex(link)?;
    // SAFETY: all bytes zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = 0x0003_u16.to_be();
    address.sll_ifindex = index as i32;
    // SAFETY: the address is initialised and its length is its own.
    let outcome = unsafe {
        libc::bind(std::os::fd::AsRawFd::as_raw_fd(socket), (&raw const address).cast(), size_of_val(&address) as u32)
    };
    if outcome == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Only what comes from addresses of the stack, those in the tunnel too.
fn decode(packet: &[u8]) -> Option<Seen> {
    let sliced = etherparse::SlicedPacket::from_ip(packet).ok()?;
    let (source, destination, protocol): (IpAddr, IpAddr, u8) = match sliced.net? {
        etherparse::NetSlice::Ipv4(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into(), ip.header().protocol().0)
        }
        etherparse::NetSlice::Ipv6(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into(), ip.header().next_header().0)
        }
        _ => return None,
    };
    let own: [IpAddr; 3] = ["172.18.0.10".parse().ok()?, "2001:db8:18::10".parse().ok()?, "fd18::10".parse().ok()?];
    let of_tunnel = ["10.64.", "fc00:bbbb:"].iter().any(|start| source.to_string().starts_with(start));
    if !own.contains(&source) && !of_tunnel {
        return None;
    }
    let port = match sliced.transport {
        Some(etherparse::TransportSlice::Udp(udp)) => udp.destination_port(),
        Some(etherparse::TransportSlice::Tcp(tcp)) => tcp.destination_port(),
        _ => 0,
    };
    Some(Seen { at: Instant::now(), destination, protocol, port })
}

fn local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..2] == [172, 18] || ip.octets()[..3] == [192, 168, 1],
        IpAddr::V6(ip) => {
            let s = ip.segments();
            s[0] == 0xfe80 || s[0] == 0xff02 || s[0] == 0xfd18 || (s[0], s[1], s[2]) == (0x2001, 0xdb8, 0x18)
        }
    }
}
