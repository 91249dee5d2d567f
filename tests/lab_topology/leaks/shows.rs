//! Whether a sign shows.

use super::super::tools::{
    Seen, Wire, ask, connect_bound, exit, in_stack, nameservers, ping_bound, put_status, question, send_bound,
    set_tunnel,
};
use super::neighbours::{forwards, redirected};
use super::outage::{block_server, both_ways, flow, local, outage};
use super::programs::{client_says, control_says, holds, isp_asks, programs_nameservers};
use super::signs::Sign;
use super::stimuli::{
    bound, later_fragment, maps_ports, raw_bound, segment, send, send_as, send_bound_while_silent, send_raw,
    send_while_silent, set_options,
};
use super::{TCP, UDP};
use anyhow::{Result, ensure};
use leakcheck::lab::{Lab, plan};
use leakcheck::net::netns::run_in;
use leakcheck::net::route::Snapshot;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

pub(super) fn shows(lab: &Lab, sign: &Sign) -> Result<bool> {
    Ok(match sign {
        Sign::BoundUdp(to) => on_wire(UDP, to.parse()?, || send_bound(lab, "eth0", to, b"marked").map(|_| ()))?,
        Sign::LongUdp(to) => on_wire(UDP, to.parse()?, || send_bound(lab, "eth0", to, &[0; 1000]).map(|_| ()))?,
        Sign::BoundTcp(to) => on_wire(TCP, to.parse()?, || connect_bound(lab, Some("eth0"), to))?,
        Sign::BoundPing(to) => {
            let protocol = if to.contains(':') { 58 } else { 1 };
            on_wire(protocol, SocketAddr::new(to.parse()?, 0), || ping_bound(lab, to).map(|_| ()))?
        }
        Sign::BoundRaw(protocol, to) => {
            on_wire(*protocol, SocketAddr::new(to.parse()?, 0), || raw_bound(lab, *protocol, 24, to))?
        }
        Sign::Class(class, to) => {
            let (class, to) = (u32::from(*class), *to);
            let of = |class: u32| {
                on_wire(UDP, to.parse()?, || {
                    bound(lab, to, move |socket| {
                        socket.bind_device(Some(b"eth0"))?;
                        if to.contains('[') { socket.set_tclass_v6(class) } else { socket.set_tos_v4(class) }
                    })
                })
            };
            of(class)? && !of(0)?
        }
        Sign::DivertedUser(id, to, at) => {
            let of = |id: u32| on_wire(UDP, at.parse()?, || send_as(lab, id, Some("eth0"), to, |_| Ok(())));
            of(*id)? && !of(0)?
        }
        Sign::DivertedClass(class, to, at) => {
            let (class, to) = (u32::from(*class), *to);
            let of = |class: u32| {
                on_wire(UDP, at.parse()?, || {
                    bound(lab, to, move |socket| {
                        socket.bind_device(Some(b"eth0"))?;
                        socket.set_tos_v4(class)
                    })
                })
            };
            of(class)? && !of(0)?
        }
        Sign::RecordsRoute(to) => {
            // Room for one address (RFC 791), and the end of the options.
            const RECORD_ROUTE: [u8; 8] = [7, 7, 4, 0, 0, 0, 0, 0];
            let with = |options: &'static [u8]| {
                on_wire(UDP, to.parse()?, || {
                    bound(lab, to, move |socket| {
                        socket.bind_device(Some(b"eth0"))?;
                        set_options(socket, options)
                    })
                })
            };
            with(&RECORD_ROUTE)? && !with(&[])?
        }
        Sign::Segment(flags, to) => {
            let of = |flags: u8| on_wire(TCP, to.parse()?, || segment(lab, 40_000, flags, to));
            of(*flags)? && !of(SYN)?
        }
        Sign::Answer(from, to) => {
            let of = |flags: u8| on_wire(TCP, to.parse()?, || segment(lab, *from, flags, to));
            of(SYN | ACK)? && !of(SYN)?
        }
        Sign::LongPing(octets, to) => {
            let of = |octets: usize| on_wire(1, SocketAddr::new(to.parse()?, 0), || raw_bound(lab, 1, octets, to));
            of(*octets)? && !of(24)?
        }
        Sign::Dressed { mark, class, user, to } => {
            let (mark, class) = (*mark, *class);
            let set = move |socket: &socket2::Socket| socket.set_mark(mark).and_then(|()| socket.set_tos_v4(class));
            on_wire(UDP, to.parse()?, || send_as(lab, *user, Some("eth0"), to, set))?
        }
        Sign::LaterFragment(to) => {
            let target: SocketAddr = to.parse()?;
            // What comes later tells no port.
            let later = on_wire(UDP, SocketAddr::new(target.ip(), 0), || later_fragment(lab, to))?;
            later && !on_wire(UDP, target, || send_bound(lab, "eth0", to, b"marked").map(|_| ()))?
        }
        Sign::ProgramsIspAsks => {
            let mut any = false;
            for server in programs_nameservers(lab)? {
                any |= isp_asks(lab, Some(server), "example.com")?;
            }
            any
        }
        Sign::ProgramsNothingResolves => {
            let servers = programs_nameservers(lab)?;
            let mut any = false;
            for server in &servers {
                any |= ask(lab, server, "canary.example.com".to_owned()).unwrap_or(false);
            }
            !servers.is_empty() && !any
        }
        Sign::ProgramAsks(server) => {
            programs_nameservers(lab)?.iter().any(|named| named == server)
                && ask(lab, server, "canary.example.com".to_owned())?
                && !isp_asks(lab, Some(server.to_string()), "example.com")?
        }
        Sign::UnboundUdp(to) => on_wire(UDP, to.parse()?, || send(lab, 0, to))?,
        Sign::UdpFrom(port, to) => on_wire(UDP, to.parse()?, || send(lab, *port, to))?,
        Sign::UnboundTcp(to) => on_wire(TCP, to.parse()?, || connect_bound(lab, None, to))?,
        Sign::Unasked(to) => {
            let wire = Wire::listen()?;
            std::thread::sleep(Duration::from_millis(700));
            let to: IpAddr = to.parse()?;
            wire.finish()?.iter().any(|packet| packet.destination == to)
        }
        Sign::Stands(to) => {
            // The kernel may wait with the acknowledgement of what was said at the beginning.
            std::thread::sleep(Duration::from_millis(500));
            let (to, wire) = (to.parse::<SocketAddrV4>()?, Wire::listen()?);
            std::thread::sleep(Duration::from_millis(700));
            let silent = !wire.finish()?.iter().any(|packet| packet.destination == IpAddr::from(*to.ip()));
            // Own end, other end and state of a connection, as the kernel prints them (proc(5)); 01 is ESTABLISHED.
            let ip = |ip: Ipv4Addr| format!("{:08X}", u32::from_ne_bytes(ip.octets()));
            let (own, other) = (ip(plan::STACK.parse()?), format!("{}:{:04X}", ip(*to.ip()), to.port()));
            let table = lab.topology().stack.call(|| std::fs::read_to_string("/proc/thread-self/net/tcp"))??;
            let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            silent && rows.any(|row| row.len() > 3 && row[1].starts_with(&own) && row[2] == other && row[3] == "01")
        }
        Sign::MarkedBound(mark, to) => {
            let mark = *mark;
            let set =
                move |socket: &socket2::Socket| socket.set_mark(mark).and_then(|()| socket.bind_device(Some(b"eth0")));
            on_wire(UDP, to.parse()?, || bound(lab, to, set))?
        }
        Sign::Marked(mark, to) => {
            let mark = *mark;
            on_wire(UDP, to.parse()?, || bound(lab, to, move |socket| socket.set_mark(mark)))?
        }
        Sign::SomeTcp(to) => {
            let wire = Wire::listen()?;
            for _ in 0..100 {
                connect_bound(lab, Some("eth0"), to)?;
            }
            let to: SocketAddr = to.parse()?;
            let seen =
                wire.finish()?.iter().filter(|packet| packet.destination == to.ip() && packet.protocol == TCP).count();
            (1..50).contains(&seen)
        }
        Sign::Protocol(number, to) => on_wire(*number, SocketAddr::new(to.parse()?, 0), || send_raw(lab, *number, to))?,
        Sign::User(id, to) => {
            let id = *id;
            on_wire(UDP, to.parse()?, || send_as(lab, id, Some("eth0"), to, |_| Ok(())))?
        }
        Sign::UserUnbound(id, to) => {
            let id = *id;
            on_wire(UDP, to.parse()?, || send_as(lab, id, None, to, |_| Ok(())))?
        }
        Sign::Forwards(link, to) => forwards(lab, link, to.parse()?)?,
        Sign::Advertised => {
            const BY_ADVERTISEMENT: u8 = 9;
            std::thread::sleep(Duration::from_millis(700));
            let now = lab.topology().stack.call(Snapshot::take)??;
            now.routes.iter().any(|route| route.protocol == BY_ADVERTISEMENT && route.gateway.is_some())
        }
        Sign::Redirected(to) => redirected(lab, to.parse()?)?,
        Sign::Served(at) => std::net::TcpStream::connect_timeout(&at.parse()?, Duration::from_millis(300)).is_ok(),
        Sign::PeerConnects(at) => {
            let at: SocketAddr = at.parse()?;
            let connect = move || std::net::TcpStream::connect_timeout(&at, Duration::from_millis(300)).is_ok();
            lab.topology().internet.call(connect)?
        }
        Sign::NeighbourCannot(at) => {
            let at: SocketAddr = at.parse()?;
            let connects = move || std::net::TcpStream::connect_timeout(&at, Duration::from_millis(300)).is_ok();
            connects() && !lab.topology().neighbour.call(connects)?
        }
        Sign::VpnConnects(at) => {
            let at: SocketAddr = at.parse()?;
            let connect = move || std::net::TcpStream::connect_timeout(&at, Duration::from_millis(300)).is_ok();
            // Its own thread carries the tunnel, and has no time to wait.
            run_in(lab.topology().provider.netns(), "vpn", connect)?
        }
        Sign::NotServed(at) => std::net::TcpStream::connect_timeout(&at.parse()?, Duration::from_millis(300)).is_err(),
        Sign::Connects(at) => {
            let at: SocketAddr = at.parse()?;
            in_stack(lab, move || std::net::TcpStream::connect_timeout(&at, Duration::from_millis(300)))?.is_ok()
        }
        Sign::Holds(bit) => holds(lab, *bit)?,
        Sign::MapsPorts(at, address) => maps_ports(lab, at)?.is_some_and(|told| told == *address),
        Sign::ClientSays(path, part) => client_says(lab, path)?.contains(part),
        Sign::ControlSays(path, part) => control_says(lab, path)?.contains(part),
        Sign::From(port, to) => {
            let port = *port;
            on_wire(UDP, to.parse()?, || {
                bound(lab, to, move |socket| {
                    socket.bind_device(Some(b"eth0"))?;
                    socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into())
                })
            })?
        }
        Sign::FromAddress(from, to) => {
            let from: SocketAddr = format!("{from}:0").parse()?;
            on_wire(UDP, to.parse()?, || {
                bound(lab, to, move |socket| {
                    // The address may be gone.
                    socket.set_ip_transparent_v4(true)?;
                    socket.bind(&from.into())
                })
            })?
        }
        Sign::Second(to) => {
            let name = format!("s{}.example.com", rand::random::<u32>());
            let datagram: &'static [u8] = Vec::leak(question(&name));
            // The sealed stack has no such link.
            let _ = send_bound(lab, "eth1", to, datagram);
            std::thread::sleep(Duration::from_millis(100));
            let home = "203.0.113.10".parse::<IpAddr>()?;
            lab.journal().dns_askers("recursor 8.8.8.8", &format!("{name}.")).contains(&home)
        }
        Sign::Exit(ipv6, address) => exit(lab, *ipv6).is_ok_and(|seen| seen.to_string() == *address),
        Sign::IspAsks(server, domain) => isp_asks(lab, server.map(str::to_owned), domain)?,
        Sign::NothingResolves => {
            let mut any = false;
            for server in nameservers(lab)? {
                any |= ask(lab, &server, "canary.example.com".to_owned()).unwrap_or(false);
            }
            !any
        }
        Sign::Hole { to, from, within, lasts } => both_ways(|stop_vpn| {
            let outage = outage(lab, to, Duration::from_millis(within + 300), stop_vpn)?;
            let fits = |(first, last)| first >= *from && first <= *within && last - first <= *lasts;
            Ok(outage.during.is_some_and(fits))
        })?,
        Sign::HoleAfterwards { to, lasts } => both_ways(|stop_vpn| {
            let outage = outage(lab, to, Duration::from_millis(200), stop_vpn)?;
            let fits = |(first, last)| first <= 60 && last - first <= *lasts;
            Ok(outage.during.is_none() && outage.after.is_some_and(fits))
        })?,
        Sign::FlowWhileSilent(to) => on_wire(UDP, to.parse()?, || {
            flow(lab, to, question("example.com"), || {
                let owner = block_server()?;
                std::thread::sleep(Duration::from_millis(2500));
                Ok(owner)
            })
        })?,
        Sign::FlowWhileDown(to) => {
            let (stack, runtime) = (lab.stack().clone(), tokio::runtime::Builder::new_current_thread().build()?);
            let seen = on_wire(UDP, to.parse()?, || {
                flow(lab, to, question("example.com"), move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
                    Ok(runtime.block_on(stack.stop())?)
                })
            })?;
            runtime.block_on(lab.stack().start())?;
            seen
        }
        Sign::FlowAfterwards(to) => {
            // RFC 8489: a binding request without attributes.
            let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
            let stack = lab.stack().clone();
            on_wire(UDP, to.parse()?, || {
                flow(lab, to, request, move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    runtime.block_on(async {
                        stack.stop().await?;
                        stack.start().await?;
                        ensure!(stack.connected(Duration::from_secs(12)).await?, "the tunnel did not come back");
                        Ok(())
                    })
                })
            })?
        }
        Sign::HoleWhileSilent(to) => on_wire(UDP, to.parse()?, || send_while_silent(lab, to))?,
        Sign::BoundWhileSilent(to) => on_wire(UDP, to.parse()?, || send_bound_while_silent(lab, to))?,
        Sign::BoundAtReturn(to) => {
            put_status(lab, "stopped")?;
            std::thread::sleep(Duration::from_millis(20));
            put_status(lab, "running")?;
            on_wire(UDP, to.parse()?, || send_bound(lab, "eth0", to, b"marked").map(|_| ()))?
        }
        Sign::WhileDown(sign) => {
            put_status(lab, "stopped")?;
            std::thread::sleep(Duration::from_millis(50));
            let seen = shows(lab, sign)?;
            put_status(lab, "running")?;
            seen
        }
        Sign::Afterwards(sign) => {
            let before = shows(lab, sign)?;
            put_status(lab, "stopped")?;
            std::thread::sleep(Duration::from_millis(20));
            put_status(lab, "running")?;
            std::thread::sleep(Duration::from_millis(300));
            shows(lab, sign)? && !before
        }
        Sign::LocalLost => {
            let before = local(lab);
            put_status(lab, "stopped")?;
            std::thread::sleep(Duration::from_millis(20));
            let during = local(lab);
            put_status(lab, "running")?;
            std::thread::sleep(Duration::from_millis(20));
            ensure!(before == 2 && local(lab) == 2, "local hosts cannot be reached while the tunnel is up");
            during == 0
        }
        Sign::ResolvConfWhileDown(server) => {
            put_status(lab, "stopped")?;
            std::thread::sleep(Duration::from_millis(20));
            let during = nameservers(lab)?;
            put_status(lab, "running")?;
            std::thread::sleep(Duration::from_millis(20));
            during.contains(&format!("{server}:53")) && !nameservers(lab)?.contains(&format!("{server}:53"))
        }
        Sign::NoRecovery => {
            ensure!(exit(lab, false).is_ok(), "there is no exit before the outage");
            set_tunnel(lab, false)?;
            std::thread::sleep(Duration::from_millis(20));
            set_tunnel(lab, true)?;
            exit(lab, false).is_err()
        }
    })
}

/// Flags of TCP (RFC 9293, section 3.1).
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

fn on_wire(protocol: u8, to: SocketAddr, stimulus: impl FnOnce() -> Result<()>) -> Result<bool> {
    let wire = Wire::listen()?;
    stimulus()?;
    let hit = |packet: &Seen| packet.protocol == protocol && packet.destination == to.ip() && packet.port == to.port();
    Ok(wire.all()?.iter().any(hit))
}
