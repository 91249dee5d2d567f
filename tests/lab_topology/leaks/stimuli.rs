//! What the stack's programs are made to send, one way or another.

use super::super::tools::in_stack;
use super::UDP;
use super::outage::block_server;
use anyhow::{Result, bail, ensure};
use leakcheck::lab::Lab;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

pub(super) fn send(lab: &Lab, from: u16, to: &'static str) -> Result<()> {
    in_stack(lab, move || -> Result<()> {
        let to: SocketAddr = to.parse()?;
        let socket = UdpSocket::bind((leakcheck::lab::plan::unspecified(to.ip()), from))?;
        // What the wire shows is looked at, not the outcome.
        let _ = socket.send_to(b"marked", to);
        Ok(())
    })?
}

/// A packet of that protocol with so many octets behind its header, bound to the uplink.
pub(super) fn raw_bound(lab: &Lab, protocol: u8, octets: usize, to: &'static str) -> Result<()> {
    in_stack(lab, move || -> Result<()> {
        let to = SocketAddr::new(to.parse()?, 0);
        let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::from(i32::from(protocol))))?;
        socket.bind_device(Some(b"eth0"))?;
        // What the wire shows is looked at, not the outcome.
        let _ = socket.send_to(&vec![0; octets], &to.into());
        Ok(())
    })?
}

/// Blocks the VPN server until whoever watches it must have noticed, and then sends by the default route.
pub(super) fn send_while_silent(lab: &Lab, to: &'static str) -> Result<()> {
    in_stack(lab, move || -> Result<()> {
        let _owner = block_server()?;
        std::thread::sleep(Duration::from_millis(2500));
        let _ = UdpSocket::bind("0.0.0.0:0")?.send_to(b"marked", to.parse::<SocketAddr>()?);
        Ok(())
    })?
}

/// Blocks the VPN server until whoever watches it must have noticed, and sends past the tunnel all the time.
pub(super) fn send_bound_while_silent(lab: &Lab, to: &'static str) -> Result<()> {
    in_stack(lab, move || -> Result<()> {
        let _owner = block_server()?;
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind_device(Some(b"eth0"))?;
        let to = to.parse::<SocketAddr>()?.into();
        for _ in 0..1250 {
            // What the wire shows is looked at, not the outcome.
            let _ = socket.send_to(b"marked", &to);
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    })?
}

/// Sends one datagram by a socket that `set` has set up.
pub(super) fn bound(
    lab: &Lab,
    to: &'static str,
    set: impl FnOnce(&socket2::Socket) -> std::io::Result<()> + Send + 'static,
) -> Result<()> {
    in_stack(lab, move || -> Result<()> {
        let to: SocketAddr = to.parse()?;
        let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::DGRAM, None)?;
        set(&socket)?;
        let _ = socket.send_to(b"marked", &to.into());
        Ok(())
    })?
}

/// Has datagrams of the socket carry these options of IPv4 (IP_OPTIONS, ip(7)).
pub(super) fn set_options(socket: &socket2::Socket, options: &[u8]) -> std::io::Result<()> {
    let (pointer, length) = (options.as_ptr().cast(), options.len() as libc::socklen_t);
    // SAFETY: the kernel reads `length` octets of `options`.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_OPTIONS, pointer, length) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// A segment of TCP with those flags from that port, bound to the uplink.
pub(super) fn segment(lab: &Lab, from: u16, flags: u8, to: &'static str) -> Result<()> {
    in_stack(lab, move || -> Result<()> {
        let to: SocketAddr = to.parse()?;
        let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::TCP))?;
        socket.bind_device(Some(b"eth0"))?;
        let mut octets = from.to_be_bytes().to_vec();
        octets.extend(to.port().to_be_bytes());
        // Sequence, acknowledgement, the header's five words, and a sum that nobody on the way looks at.
        octets.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
        let _ = socket.send_to(&octets, &SocketAddr::new(to.ip(), 0).into());
        Ok(())
    })?
}

/// What follows the first fragment of a datagram, bound to the uplink, and not put together again by connection tracking.
pub(super) fn later_fragment(lab: &Lab, to: &'static str) -> Result<()> {
    in_stack(lab, move || -> Result<()> {
        let to: SocketAddr = to.parse()?;
        let IpAddr::V4(target) = to.ip() else { bail!("{to} is not IPv4") };
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        socket.bind_device(Some(b"eth0"))?;
        let on: libc::c_int = 1;
        // SAFETY: the option's value is an integer, and as long as is said.
        let set = unsafe {
            libc::setsockopt(
                std::os::fd::AsRawFd::as_raw_fd(&socket),
                libc::IPPROTO_IP,
                libc::IP_NODEFRAG,
                (&raw const on).cast(),
                size_of_val(&on) as u32,
            )
        };
        ensure!(set == 0, "connection tracking puts fragments together: {}", std::io::Error::last_os_error());
        // Twenty octets of header, eight that follow; the offset is 1480 octets. The kernel fills in length and sum.
        let mut packet = vec![0x45, 0, 0, 28, 0x12, 0x34, 0, 185, 64, UDP, 0, 0];
        packet.extend(Ipv4Addr::new(172, 18, 0, 10).octets());
        packet.extend(target.octets());
        packet.extend(b"fragment");
        let _ = socket.send_to(&packet, &SocketAddr::new(to.ip(), 0).into());
        Ok(())
    })?
}

/// The kernel asks the thread's file system user whose a socket is.
pub(super) fn send_as(
    lab: &Lab,
    user: u32,
    link: Option<&'static str>,
    to: &'static str,
    set: impl FnOnce(&Socket) -> std::io::Result<()> + Send + 'static,
) -> Result<()> {
    in_stack(lab, move || -> Result<()> {
        // SAFETY: plain system calls of this thread.
        let before = unsafe { libc::setfsuid(user) };
        let to: SocketAddr = to.parse()?;
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None);
        // SAFETY: as above.
        unsafe { libc::setfsuid(before.cast_unsigned()) };
        let socket = socket?;
        socket.bind_device(link.map(str::as_bytes))?;
        set(&socket)?;
        let _ = socket.send_to(b"marked", &to.into());
        Ok(())
    })?
}

pub(super) fn maps_ports(lab: &Lab, at: &'static str) -> Result<Option<[u8; 4]>> {
    in_stack(lab, move || -> Result<Option<[u8; 4]>> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(at)?;
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        socket.send(&[0, 0])?;
        let mut answer = [0; 12];
        // A closed port refuses.
        Ok(socket.recv(&mut answer).ok().and_then(|_| answer.last_chunk().copied()))
    })?
}

pub(super) fn send_raw(lab: &Lab, number: u8, to: &'static str) -> Result<()> {
    in_stack(lab, move || -> Result<()> {
        let protocol = socket2::Protocol::from(i32::from(number));
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(protocol))?;
        socket.bind_device(Some(b"eth0"))?;
        let _ = socket.send_to(b"marked", &SocketAddr::new(to.parse()?, 0).into());
        Ok(())
    })?
}
