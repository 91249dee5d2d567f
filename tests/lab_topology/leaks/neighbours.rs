//! What a neighbour or the router can bring the stack to do.

use anyhow::{Result, bail, ensure};
use ipnet::IpNet;
use leakcheck::lab::Lab;
use leakcheck::net::route::{RouteSpec, Rtnetlink};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// Whether the stack sends by `link` what a neighbour hands it for `to`.
pub(super) fn forwards(lab: &Lab, link: &'static str, to: SocketAddr) -> Result<bool> {
    const MANY: u64 = 64;
    let sent = || -> Result<u64> {
        let table = lab.topology().stack.call(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
        // Eight columns of what came in stand before what went out; the second of each eight counts packets, the first octets.
        let row = table.lines().find_map(|row| row.trim().strip_prefix(link)?.strip_prefix(':'));
        let packets = row.and_then(|row| row.split_whitespace().nth(9)?.parse().ok());
        packets.ok_or_else(|| anyhow::anyhow!("{link} has no counters"))
    };
    let before = sent()?;
    lab.topology().neighbour.call(move || -> Result<()> {
        let mut netlink = Rtnetlink::open()?;
        let stack: IpAddr = if to.is_ipv4() { "172.18.0.10" } else { "fd18::10" }.parse()?;
        let route = RouteSpec::via(IpNet::from(to.ip()), stack).dev("eth0");
        netlink.add_route(&route)?;
        let socket = UdpSocket::bind((leakcheck::lab::plan::unspecified(to.ip()), 0))?;
        for _ in 0..MANY {
            socket.send_to(b"carry me on", to)?;
        }
        std::thread::sleep(Duration::from_millis(100));
        Ok(netlink.delete_route(&route)?)
    })??;
    Ok(sent()? - before >= MANY)
}

/// Sends the stack away from its router on its way to `to`, and tells whether it went.
pub(super) fn redirected(lab: &Lab, to: SocketAddr) -> Result<bool> {
    let connects = || -> Result<bool> {
        let connect = move || std::net::TcpStream::connect_timeout(&to, Duration::from_millis(500)).is_ok();
        Ok(lab.topology().stack.call(connect)?)
    };
    lab.topology().neighbour.call(|| leakcheck::net::sysctl::set("ipv4/ip_forward", "0"))??;
    ensure!(connects()?, "{to} cannot be reached to begin with");
    let (stack, IpAddr::V4(target)) = (Ipv4Addr::new(172, 18, 0, 10), to.ip()) else { bail!("{to} is not IPv4") };
    // RFC 792: type 5, code 1, the better gateway, and how the packet began: an echo reply of the stack's, the one kind of
    // ping that the kernel learns from without a socket that fits.
    let mut packet = vec![5, 1, 0, 0, 172, 18, 0, 20];
    let mut began = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0, 0];
    began.extend(stack.octets());
    began.extend(target.octets());
    let sum = checksum(&began);
    began[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(began);
    packet.extend([0, 0, 0xff, 0xff, 0, 0, 0, 0]);
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    for _ in 0..4 {
        // The first may only have the stack ask for the neighbour's hardware address.
        socket.send_to(&packet, &SocketAddr::from((stack, 0)).into())?;
        std::thread::sleep(Duration::from_millis(60));
    }
    Ok(!connects()?)
}

/// The internet's checksum (RFC 1071) of an even number of octets.
pub(super) fn checksum(octets: &[u8]) -> u16 {
    let sum: u32 = octets.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}
