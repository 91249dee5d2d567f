//! Neighbours that talk all the time: what a home's machines broadcast, and what they want of the stack. The stack's kernel answers some of
//! it, as it must, and those answers go to neighbours only.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use etherparse::PacketBuilder;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{interval, timeout};

use super::internet::Servers;
use crate::net::route::Snapshot;

type Mac = [u8; 6];

/// A machine of the home that nobody else is: its MAC, and its addresses.
const MAC: Mac = [2, 0, 0, 0, 0x77, 1];
const V4: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 77);
const V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x77);
const EVERYBODY: Mac = [0xff; 6];
/// Groups and broadcasts that are spoken to, with the port: mDNS, SSDP, LLMNR, local peers of torrents, WS-Discovery, Minecraft; NetBIOS
/// names and datagrams, Steam, Warcraft.
const GROUPS_V4: [(Ipv4Addr, u16); 10] = [
    (Ipv4Addr::new(224, 0, 0, 251), 5353),
    (Ipv4Addr::new(239, 255, 255, 250), 1900),
    (Ipv4Addr::new(224, 0, 0, 252), 5355),
    (Ipv4Addr::new(239, 192, 152, 143), 6771),
    (Ipv4Addr::new(239, 255, 255, 250), 3702),
    (Ipv4Addr::new(224, 0, 2, 60), 4445),
    (Ipv4Addr::new(172, 18, 255, 255), 137),
    (Ipv4Addr::new(172, 18, 255, 255), 138),
    (Ipv4Addr::BROADCAST, 27_036),
    (Ipv4Addr::BROADCAST, 6112),
];
/// The same over IPv6: mDNS, LLMNR, SSDP, DHCPv6.
const GROUPS_V6: [(Ipv6Addr, u16); 4] = [
    (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb), 5353),
    (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 3), 5355),
    (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xc), 1900),
    (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2), 547),
];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Frames of a storm of ARP.
const STORM: usize = 20;
/// Ports that are tried in each round, one after the other over the rounds.
const PORTS_A_ROUND: u16 = 8;
/// How long a connection is waited for; what is dropped does not answer.
const PATIENCE: Duration = Duration::from_millis(80);

/// Broadcasts on `link`, in the calling thread's network namespace and runtime, about the stack, which is at `stack`.
///
/// # Errors
/// When there is no such link, or no packet socket is given.
pub(super) fn broadcast(link: &str, stack: &[IpAddr], every: Duration) -> io::Result<Servers> {
    let socket = packet_socket(link)?;
    let frames = frames(stack)?;
    let mut servers = Servers::default();
    servers.task(async move {
        let mut round = interval(every);
        loop {
            round.tick().await;
            for frame in &frames {
                // One that finds no room is said again in the next round.
                let _ = socket.send(frame);
            }
        }
    });
    Ok(servers)
}

/// Pings and scans `stack`, in the calling thread's network namespace and runtime.
///
/// # Errors
/// When no socket is given.
pub(super) fn pester(stack: &[IpAddr], every: Duration) -> io::Result<Servers> {
    let mut servers = Servers::default();
    for ip in stack.iter().copied() {
        let (domain, protocol) = match ip {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let ping = Socket::new(domain, Type::RAW, Some(protocol))?;
        ping.set_nonblocking(true)?;
        let datagrams = std::net::UdpSocket::bind((super::plan::unspecified(ip), 0))?;
        datagrams.set_nonblocking(true)?;
        let datagrams = UdpSocket::from_std(datagrams)?;
        servers.task(async move {
            let mut round = interval(every);
            let mut port: u16 = 1;
            loop {
                round.tick().await;
                let _ = ping.send_to(&echo_request(ip, port), &SocketAddr::new(ip, 0).into());
                // What comes back is of no interest, but must not fill the buffers.
                let mut answer = [std::mem::MaybeUninit::uninit(); 256];
                while ping.recv(&mut answer).is_ok() {}
                while datagrams.try_recv(&mut [0; 256]).is_ok() {}
                let mut asked = Vec::new();
                for _ in 0..PORTS_A_ROUND {
                    // Every port of the well-known, and of the rest one in 97.
                    port = if port < 1024 { port + 1 } else { port.wrapping_add(97) };
                    let at = SocketAddr::new(ip, port);
                    let _ = datagrams.try_send_to(b"who is there?", at);
                    asked.push(timeout(PATIENCE, TcpStream::connect(at)));
                }
                // Who accepts is hung up on.
                drop(futures_util::future::join_all(asked).await);
            }
        });
    }
    Ok(servers)
}

/// A socket that sends whole frames by `link`.
fn packet_socket(link: &str) -> io::Result<Socket> {
    let snapshot = Snapshot::take().map_err(io::Error::other)?;
    let index = snapshot.link(link).map(|link| link.index).ok_or(io::ErrorKind::NotFound)?;
    // Protocol 0 receives nothing (packet(7)).
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)?;
    // SAFETY: all-zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index as i32;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address outlives the call, and its length is its own.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// Everything that is broadcast in a round.
fn frames(stack: &[IpAddr]) -> io::Result<Vec<Vec<u8>>> {
    let mut frames = Vec::new();
    for (to, port) in GROUPS_V4 {
        let builder = PacketBuilder::ethernet2(MAC, group_mac(to.into())).ipv4(V4.octets(), to.octets(), 1);
        frames.push(written(|octets| builder.udp(port, port).write(octets, b"who is there?"))?);
    }
    // DHCPDISCOVER and the fixed fields before it (RFC 2131, RFC 2132): a machine that has no address yet.
    let mut discover = vec![0; 240];
    discover[..4].copy_from_slice(&[1, 1, 6, 0]);
    discover[28..34].copy_from_slice(&MAC);
    discover[236..240].copy_from_slice(&[99, 130, 83, 99]);
    discover.extend([53, 1, 1, 255]);
    let builder = PacketBuilder::ethernet2(MAC, EVERYBODY).ipv4([0; 4], [255; 4], 64).udp(68, 67);
    frames.push(written(|octets| builder.write(octets, &discover))?);
    frames.push(membership_query());
    for ip in stack {
        match ip {
            IpAddr::V4(ip) => frames.extend((0..STORM).map(|_| arp(V4, *ip))),
            IpAddr::V6(ip) => {
                let group = solicited_node(*ip);
                // A question for a neighbour's address, with who asks (RFC 4861, section 4.3).
                let mut rest = ip.octets().to_vec();
                rest.extend(source_option());
                frames.push(icmpv6(group, 255, 135, [0; 4], &rest)?);
            }
        }
    }
    // Gratuitous: everybody is told of an address that is the teller's own.
    frames.extend((0..STORM).map(|_| arp(V4, V4)));
    for (to, port) in GROUPS_V6 {
        let builder = PacketBuilder::ethernet2(MAC, group_mac(to.into())).ipv6(V6.octets(), to.octets(), 1);
        frames.push(written(|octets| builder.udp(port, port).write(octets, b"who is there?"))?);
    }
    frames.push(icmpv6(ALL_ROUTERS, 255, 133, [0; 4], &source_option())?);
    // A router that is none by default: its lifetime is 0 (RFC 4861, section 4.2).
    frames.push(icmpv6(ALL_NODES, 255, 134, [64, 0, 0, 0], &[0; 8])?);
    // Which groups are listened to? (RFC 2710), answer within a second.
    frames.push(icmpv6(ALL_NODES, 1, 130, [3, 232, 0, 0], &[0; 16])?);
    Ok(frames)
}

fn written<E: std::fmt::Display>(write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    write(&mut octets).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(octets)
}

/// Where frames to a group or to everybody go (RFC 1112, RFC 2464).
fn group_mac(to: IpAddr) -> Mac {
    match to {
        IpAddr::V4(v4) if v4.is_multicast() => {
            let [_, b, c, d] = v4.octets();
            [1, 0, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V4(_) => EVERYBODY,
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            [0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]
        }
    }
}

/// RFC 4291, section 2.7.1.
fn solicited_node(of: Ipv6Addr) -> Ipv6Addr {
    let octets = of.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(octets[13]), u16::from_be_bytes([octets[14], octets[15]]))
}

/// Source link-layer address (RFC 4861, section 4.6.1).
fn source_option() -> Vec<u8> {
    [&[1, 1][..], &MAC].concat()
}

fn icmpv6(to: Ipv6Addr, hops: u8, kind: u8, head: [u8; 4], rest: &[u8]) -> io::Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2(MAC, group_mac(to.into())).ipv6(V6.octets(), to.octets(), hops);
    written(|octets| builder.icmpv6_raw(kind, 0, head).write(octets, rest))
}

/// Who has `wanted`? (RFC 826)
fn arp(from: Ipv4Addr, wanted: Ipv4Addr) -> Vec<u8> {
    let head = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    [&EVERYBODY[..], &MAC, &head, &MAC, &from.octets(), &[0; 6], &wanted.octets()].concat()
}

/// Which groups are listened to? IGMPv2, with the option that routers look at it (RFC 2236, RFC 2113), answer within a second.
fn membership_query() -> Vec<u8> {
    let to = Ipv4Addr::new(224, 0, 0, 1);
    let mut header =
        [&[0x46, 0xc0, 0, 32, 0, 1, 0, 0, 1, 2, 0, 0][..], &V4.octets(), &to.octets(), &[0x94, 4, 0, 0]].concat();
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut query = [0x11, 10, 0, 0, 0, 0, 0, 0];
    let sum = checksum(&query);
    query[2..4].copy_from_slice(&sum.to_be_bytes());
    [&group_mac(to.into())[..], &MAC, &[8, 0], &header, &query].concat()
}

/// The kernel fills in the checksum of ICMPv6, and not that of ICMP.
fn echo_request(to: IpAddr, number: u16) -> Vec<u8> {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let mut octets = vec![kind, 0, 0, 0, 0x77, 0x77];
    octets.extend(number.to_be_bytes());
    octets.extend([0; 48]);
    let sum = checksum(&octets);
    octets[2..4].copy_from_slice(&sum.to_be_bytes());
    octets
}

/// RFC 1071.
fn checksum(octets: &[u8]) -> u16 {
    let mut sum: u32 =
        octets.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::evidence::Proto;
    use crate::sensor::decode::Packet;

    #[test]
    fn what_is_said_is_well_formed() {
        let stack = [super::super::plan::ip("172.18.0.10"), super::super::plan::ip("fd18::10")];
        let mut kinds = std::collections::BTreeSet::new();
        for frame in frames(&stack).unwrap() {
            let ether_type = u16::from_be_bytes([frame[12], frame[13]]);
            let packet = Packet::decode(ether_type, &frame[14..]);
            kinds.insert((packet.proto.to_string(), packet.dst.port(), packet.icmp_type));
            if packet.proto == Proto::Ip(2) {
                assert_eq!((checksum(&frame[14..38]), checksum(&frame[38..46])), (0, 0));
            }
        }
        // ARP, IGMP, DHCP, the ports of all groups (two of which are spoken to over both families), and four messages of ICMPv6.
        assert!(kinds.len() >= 18, "{kinds:?}");
        assert_eq!(checksum(&echo_request(stack[0], 7)), 0);
    }

    #[test]
    fn groups_have_their_own_addresses() {
        assert_eq!(group_mac("224.0.0.251".parse().unwrap()), [1, 0, 0x5e, 0, 0, 251]);
        assert_eq!(group_mac("ff02::1:3".parse().unwrap()), [0x33, 0x33, 0, 1, 0, 3]);
        assert_eq!(solicited_node("fd18::12:3456".parse().unwrap()).to_string(), "ff02::1:ff12:3456");
    }
}
