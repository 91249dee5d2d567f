//! Each leak fixture does what it says: seen on the home's wire, or by the far side, never read from the stack's rules.
//! Every proof is also tried on the sealed stack, where it must not hold.

use super::tools::{
    Seen, Wire, ask, connect_bound, exit, get, in_stack, nameservers, ping_bound, put_status, question, send_bound,
    set_tunnel,
};
use anyhow::{Result, bail, ensure};
use ipnet::IpNet;
use leakcheck::lab::{Lab, LabSpec, Leak, PrivateDir, leak};
use leakcheck::net::nft::{Batch, Chain, HookPoint, Match, Nft, Policy, Rule, Table, TableFamily, Verdict};
use leakcheck::net::route::{RouteSpec, Rtnetlink, Snapshot};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

const UDP: u8 = 17;
const TCP: u8 = 6;

/// By which sign the leak shows.
enum Sign {
    /// A datagram bound to the uplink gets out to there.
    BoundUdp(&'static str),
    /// A datagram of a thousand octets, bound to the uplink, gets out to there.
    LongUdp(&'static str),
    /// A connection bound to the uplink gets out to there.
    BoundTcp(&'static str),
    /// A ping bound to the uplink gets out to there.
    BoundPing(&'static str),
    /// A packet of that protocol bound to the uplink gets out to there.
    BoundRaw(u8, &'static str),
    /// A web server sees that address of the stack, over IPv6 or not.
    Exit(bool, &'static str),
    /// A question to one of resolv.conf's nameservers (or this one) reaches the authority from the ISP.
    IspAsks(Option<&'static str>, &'static str),
    /// None of resolv.conf's nameservers answers.
    NothingResolves,
    /// A datagram that nothing binds leaves by the uplink.
    UnboundUdp(&'static str),
    /// A datagram from that port, which nothing else binds, leaves by the uplink.
    UdpFrom(u16, &'static str),
    /// A connection that nothing binds leaves by the uplink.
    UnboundTcp(&'static str),
    /// Something leaves by the uplink to there without being asked for.
    Unasked(&'static str),
    /// A datagram with that mark gets out.
    Marked(u32, &'static str),
    /// A datagram with that mark, bound to the uplink, gets out.
    MarkedBound(u32, &'static str),
    /// One of a hundred connections bound to the uplink gets out to there, and not all.
    SomeTcp(&'static str),
    /// A packet of that protocol, bound to the uplink, gets out.
    Protocol(u8, &'static str),
    /// A datagram from that port, bound to the uplink, gets out.
    From(u16, &'static str),
    /// A datagram of that user's, bound to the uplink, gets out.
    User(u32, &'static str),
    /// A datagram of that user's that nothing binds leaves by the uplink.
    UserUnbound(u32, &'static str),
    /// The stack's own server there does not answer the home.
    NotServed(&'static str),
    /// What a neighbour has the stack carry on to there leaves by that link of the stack's.
    Forwards(&'static str, &'static str),
    /// An advertisement made a route of the stack's.
    Advertised,
    /// After a redirect from its router the stack sends what is for there to a neighbour, who does not carry it on.
    Redirected(&'static str),
    /// The stack's own server there answers the home.
    Served(&'static str),
    /// Somebody on the internet can connect to there.
    PeerConnects(&'static str),
    /// The stack's programs can connect to there.
    Connects(&'static str),
    /// A program in the stack's network holds the capability of that bit.
    Holds(u32),
    /// A gateway answers there over NAT-PMP, with that external address.
    MapsPorts(&'static str, [u8; 4]),
    /// A datagram bound to the second uplink gets out to the internet.
    Second(&'static str),
    /// While the tunnel is down: datagrams to there leave within these milliseconds of its end (from, to, and how long
    /// at most).
    Hole { to: &'static str, from: u64, within: u64, lasts: u64 },
    /// The same after the tunnel came back.
    HoleAfterwards { to: &'static str, lasts: u64 },
    /// While the server is blocked and the tunnel is not told, datagrams to there leave.
    HoleWhileSilent(&'static str),
    /// While the tunnel is down a ping gets out.
    PingWhileDown(&'static str),
    /// While the tunnel is down local hosts cannot be reached, and before and after it they can.
    LocalLost,
    /// While the tunnel is down resolv.conf names that one.
    ResolvConfWhileDown(&'static str),
    /// The tunnel does not work any more after it was down.
    NoRecovery,
}

const SIGNS: &[(&str, &[Sign])] = &[
    ("endpoint-clear", &[Sign::BoundTcp("198.51.100.2:443")]),
    ("encapsulated", &[Sign::BoundRaw(47, "8.8.8.8"), Sign::BoundRaw(41, "8.8.8.8"), Sign::BoundRaw(4, "8.8.8.8")]),
    ("established", &[Sign::Unasked("8.8.8.8"), Sign::Unasked("1.1.1.1")]),
    ("outbound-overlap", &[Sign::UnboundUdp("10.64.0.1:53")]),
    ("outbound-public", &[Sign::UnboundTcp("93.184.215.14:443")]),
    ("second-network", &[Sign::Second("8.8.8.8:53")]),
    (
        "dns-fallback",
        &[Sign::ResolvConfWhileDown("8.8.8.8"), Sign::Hole { to: "8.8.8.8:53", from: 0, within: 50, lasts: 10_000 }],
    ),
    ("bind-device", &[Sign::BoundTcp("1.1.1.1:6881")]),
    ("bind-source", &[Sign::BoundUdp("8.8.8.8:6881"), Sign::BoundPing("8.8.8.8")]),
    ("doh", &[Sign::BoundTcp("8.8.8.8:443"), Sign::BoundTcp("1.1.1.1:443")]),
    ("dot", &[Sign::BoundTcp("8.8.8.8:853")]),
    (
        "fallback",
        &[
            Sign::Hole { to: "192.0.2.99:9", from: 0, within: 50, lasts: 10_000 },
            Sign::Hole { to: "[2001:db8:99::9]:9", from: 0, within: 50, lasts: 10_000 },
        ],
    ),
    ("forward-accept", &[Sign::Forwards("tun0", "192.0.2.99:443")]),
    ("forward-direct", &[Sign::Forwards("eth0", "192.0.2.99:6881")]),
    ("forced-tcp", &[Sign::BoundTcp("8.8.8.8:53")]),
    ("forced-udp", &[Sign::BoundUdp("8.8.8.8:53"), Sign::BoundUdp("[2001:4860:4860::8888]:53")]),
    ("hole", &[Sign::Hole { to: "192.0.2.99:9", from: 0, within: 30, lasts: 90 }]),
    ("icmp-only", &[Sign::BoundPing("8.8.8.8"), Sign::BoundPing("2001:4860:4860::8888")]),
    ("late-hole", &[Sign::Hole { to: "192.0.2.99:9", from: 1950, within: 2100, lasts: 90 }]),
    ("local-lost", &[Sign::LocalLost]),
    ("local-names", &[Sign::IspAsks(Some("127.0.0.1:53"), "nas")]),
    ("open-router", &[Sign::IspAsks(Some("192.168.1.1:53"), "example.com")]),
    ("management-reached", &[Sign::Connects("10.99.0.1:22")]),
    ("long-packets", &[Sign::LongUdp("8.8.8.8:6881"), Sign::LongUdp("[2001:4860:4860::8888]:6881")]),
    ("icmp-reply", &[Sign::BoundRaw(1, "8.8.8.8")]),
    ("resolver-private", &[Sign::BoundUdp("100.64.0.53:53")]),
    ("mark", &[Sign::Marked(0xca6c, "8.8.8.8:9")]),
    ("mark-bit", &[Sign::MarkedBound(0x2f_4e11, "8.8.8.8:9")]),
    ("multicast", &[Sign::Unasked("239.192.152.143")]),
    ("narrow-route", &[Sign::UnboundTcp("151.101.1.69:443")]),
    ("nat-pmp", &[Sign::MapsPorts("172.18.0.1:5351", [203, 0, 113, 10])]),
    ("no-recovery", &[Sign::NoRecovery]),
    (
        "no-vpn",
        &[
            Sign::Exit(false, "203.0.113.10"),
            Sign::Exit(true, "2001:db8:18::10"),
            Sign::IspAsks(None, "example.com"),
            Sign::BoundUdp("8.8.8.8:53"),
        ],
    ),
    ("one-protocol-icmp", &[Sign::PingWhileDown("8.8.8.8"), Sign::PingWhileDown("2001:4860:4860::8888")]),
    ("one-protocol-udp", &[Sign::Hole { to: "192.0.2.99:9", from: 0, within: 50, lasts: 10_000 }]),
    ("one-protocol-v6", &[Sign::Hole { to: "[2001:db8:99::9]:9", from: 0, within: 50, lasts: 10_000 }]),
    (
        "output-accept",
        &[
            Sign::BoundUdp("8.8.8.8:53"),
            Sign::BoundUdp("[2001:4860:4860::8888]:53"),
            Sign::Hole { to: "192.0.2.99:9", from: 0, within: 50, lasts: 10_000 },
        ],
    ),
    ("one-in-twenty", &[Sign::SomeTcp("1.1.1.1:443")]),
    ("port-route", &[Sign::UnboundUdp("192.0.2.99:51413")]),
    ("protocol-gre", &[Sign::Protocol(47, "8.8.8.8")]),
    ("protocol-odd", &[Sign::Protocol(201, "8.8.8.8")]),
    ("port-direct", &[Sign::UnboundUdp("67.215.246.10:6881")]),
    ("reconnect-hole", &[Sign::HoleAfterwards { to: "192.0.2.99:9", lasts: 60 }]),
    ("raw-power", &[Sign::Holds(13)]),
    ("resolver-dead", &[Sign::NothingResolves]),
    ("resolver-docker", &[Sign::IspAsks(None, "example.com")]),
    ("resolver-extra", &[Sign::IspAsks(None, "example.com")]),
    ("resolver-gateway", &[Sign::IspAsks(None, "example.com")]),
    ("resolver-isp", &[Sign::IspAsks(None, "example.com")]),
    ("icmp-redirect", &[Sign::Redirected("192.168.1.50:80")]),
    ("router-advertisement", &[Sign::Advertised]),
    ("rule-missing", &[Sign::Exit(false, "203.0.113.10"), Sign::Exit(true, "2001:db8:18::10")]),
    ("rule-order", &[Sign::Exit(false, "203.0.113.10"), Sign::Exit(true, "2001:db8:18::10")]),
    ("rule-order-closed", &[Sign::NothingResolves]),
    ("served-lost", &[Sign::NotServed("172.18.0.10:8080")]),
    ("source-port", &[Sign::From(6881, "8.8.8.8:9")]),
    ("silent-fallback", &[Sign::HoleWhileSilent("192.0.2.99:9")]),
    (
        "source-port-direct",
        &[Sign::UdpFrom(6881, "74.125.250.129:19302"), Sign::UdpFrom(6881, "[2001:4860:4864:5:8000::1]:19302")],
    ),
    ("specific-route", &[Sign::UnboundTcp("93.184.215.14:443")]),
    ("tcp-443", &[Sign::BoundTcp("1.1.1.1:443")]),
    ("torrent-open", &[Sign::Served("172.18.0.10:6881")]),
    ("torrent-published", &[Sign::PeerConnects("203.0.113.10:6881"), Sign::Served("172.18.0.10:6881")]),
    ("tracker-direct", &[Sign::UnboundUdp("93.158.213.92:1337"), Sign::UnboundTcp("93.158.213.92:1337")]),
    ("udp-all", &[Sign::UnboundUdp("74.125.250.129:19302"), Sign::UnboundUdp("10.64.0.1:53")]),
    ("udp-direct", &[Sign::UnboundUdp("74.125.250.129:19302"), Sign::UnboundUdp("[2001:4860:4864:5:8000::1]:19302")]),
    ("udp-high", &[Sign::BoundUdp("192.0.2.99:6881"), Sign::BoundUdp("[2001:db8:99::9]:6881")]),
    ("user", &[Sign::User(1000, "8.8.8.8:9")]),
    ("user-route", &[Sign::UserUnbound(911, "8.8.8.8:9")]),
    ("v6-accept", &[Sign::BoundUdp("[2001:4860:4860::8888]:53"), Sign::BoundPing("2001:4860:4860::8888")]),
    ("v6-direct", &[Sign::Exit(true, "2001:db8:18::10")]),
    ("wrong-exit", &[Sign::Exit(false, "198.19.0.3"), Sign::Exit(true, "2001:db8:bad::3")]),
];

/// Names of the trials: one for each fixture, one for the sealed stack, one that no fixture is without proof.
pub fn names() -> Vec<String> {
    let mut names: Vec<String> = leak::names().into_iter().map(|id| format!("leak::{id}")).collect();
    names.push("leak::none_when_sealed".to_owned());
    names
}

pub fn run(name: &str, world: PrivateDir) -> Result<()> {
    let id = name.strip_prefix("leak::").unwrap_or(name);
    if id == "none_when_sealed" {
        return sealed(&world);
    }
    let Some((_, signs)) = SIGNS.iter().find(|(known, _)| *known == id) else {
        bail!("the fixture {id} has no proof: add its sign to SIGNS")
    };
    let lab = Lab::start(&world, LabSpec::broken(Leak::named(id)?))?;
    for (index, sign) in signs.iter().enumerate() {
        ensure!(shows(&lab, sign)?, "sign {index} of {id} does not show");
    }
    if id.starts_with("one-protocol-udp") || id == "v6-accept" || id == "one-protocol-v6" {
        ensure!(send_bound(&lab, "eth0", "8.8.8.8:53", b"x")? == Some(libc::EPERM), "IPv4 is open too");
    }
    Ok(())
}

/// Whether a process in the stack's network holds that capability. The lab itself stands in the home's.
fn holds(lab: &Lab, bit: u32) -> Result<bool> {
    let here = std::fs::metadata(lab.stack_netns())?.ino();
    let mut any = false;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let there = std::fs::metadata(entry.path().join("ns/net")).map(|file| file.ino());
        let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else { continue };
        let held = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
        any |= there.is_ok_and(|inode| inode == here) && u64::from_str_radix(held.trim(), 16)? >> bit & 1 == 1;
    }
    Ok(any)
}

/// The signs are those of the leaks, not of the lab.
fn sealed(world: &PrivateDir) -> Result<()> {
    let lab = Lab::start(world, LabSpec::sealed())?;
    let mut wrong = Vec::new();
    for (id, signs) in SIGNS {
        for (index, sign) in signs.iter().enumerate() {
            if shows(&lab, sign)? {
                wrong.push(format!("sign {index} of {id}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "the sealed stack shows {wrong:?}");
    Ok(())
}

fn shows(lab: &Lab, sign: &Sign) -> Result<bool> {
    Ok(match sign {
        Sign::BoundUdp(to) => on_wire(UDP, to.parse()?, || send_bound(lab, "eth0", to, b"marked").map(|_| ()))?,
        Sign::LongUdp(to) => on_wire(UDP, to.parse()?, || send_bound(lab, "eth0", to, &[0; 1000]).map(|_| ()))?,
        Sign::BoundTcp(to) => on_wire(TCP, to.parse()?, || connect_bound(lab, Some("eth0"), to))?,
        Sign::BoundPing(to) => {
            let protocol = if to.contains(':') { 58 } else { 1 };
            on_wire(protocol, SocketAddr::new(to.parse()?, 0), || ping_bound(lab, to).map(|_| ()))?
        }
        Sign::BoundRaw(protocol, to) => {
            on_wire(*protocol, SocketAddr::new(to.parse()?, 0), || raw_bound(lab, *protocol, to))?
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
            on_wire(UDP, to.parse()?, || send_as(lab, id, Some("eth0"), to))?
        }
        Sign::UserUnbound(id, to) => {
            let id = *id;
            on_wire(UDP, to.parse()?, || send_as(lab, id, None, to))?
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
        Sign::NotServed(at) => std::net::TcpStream::connect_timeout(&at.parse()?, Duration::from_millis(300)).is_err(),
        Sign::Connects(at) => {
            let at: SocketAddr = at.parse()?;
            in_stack(lab, move || std::net::TcpStream::connect_timeout(&at, Duration::from_millis(300)))?.is_ok()
        }
        Sign::Holds(bit) => holds(lab, *bit)?,
        Sign::MapsPorts(at, address) => maps_ports(lab, at)?.is_some_and(|told| told == *address),
        Sign::From(port, to) => {
            let port = *port;
            on_wire(UDP, to.parse()?, || {
                bound(lab, to, move |socket| {
                    socket.bind_device(Some(b"eth0"))?;
                    socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into())
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
        Sign::IspAsks(server, domain) => isp_asks(lab, *server, domain)?,
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
        Sign::HoleWhileSilent(to) => on_wire(UDP, to.parse()?, || send_while_silent(lab, to))?,
        Sign::PingWhileDown(to) => {
            put_status(lab, "stopped")?;
            std::thread::sleep(Duration::from_millis(20));
            let protocol = if to.contains(':') { 58 } else { 1 };
            let seen = on_wire(protocol, SocketAddr::new(to.parse()?, 0), || ping_bound(lab, to).map(|_| ()))?;
            put_status(lab, "running")?;
            seen
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

/// Whether the stack sends by `link` what a neighbour hands it for `to`.
fn forwards(lab: &Lab, link: &'static str, to: SocketAddr) -> Result<bool> {
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
        let route = RouteSpec::via(IpNet::from(to.ip()), "172.18.0.10".parse()?).dev("eth0");
        netlink.add_route(&route)?;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for _ in 0..MANY {
            socket.send_to(b"carry me on", to)?;
        }
        std::thread::sleep(Duration::from_millis(100));
        Ok(netlink.delete_route(&route)?)
    })??;
    Ok(sent()? - before >= MANY)
}

/// Sends the stack away from its router on its way to `to`, and tells whether it went.
fn redirected(lab: &Lab, to: SocketAddr) -> Result<bool> {
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
fn checksum(octets: &[u8]) -> u16 {
    let sum: u32 = octets.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

fn local(lab: &Lab) -> usize {
    ["192.168.1.50:80", "172.18.0.20:8989"]
        .into_iter()
        .filter(|at| in_stack(lab, || get(at.parse()?, "local", "/")).is_ok_and(|answer| answer.is_ok()))
        .count()
}

fn on_wire(protocol: u8, to: SocketAddr, stimulus: impl FnOnce() -> Result<()>) -> Result<bool> {
    let wire = Wire::listen()?;
    stimulus()?;
    let hit = |packet: &Seen| packet.protocol == protocol && packet.destination == to.ip() && packet.port == to.port();
    Ok(wire.finish()?.iter().any(hit))
}

fn send(lab: &Lab, from: u16, to: &'static str) -> Result<()> {
    in_stack(lab, move || -> Result<()> {
        let to: SocketAddr = to.parse()?;
        let socket = UdpSocket::bind((leakcheck::lab::plan::unspecified(to.ip()), from))?;
        // What the wire shows is looked at, not the outcome.
        let _ = socket.send_to(b"marked", to);
        Ok(())
    })?
}

fn raw_bound(lab: &Lab, protocol: u8, to: &'static str) -> Result<()> {
    in_stack(lab, move || -> Result<()> {
        let to = SocketAddr::new(to.parse()?, 0);
        let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::from(i32::from(protocol))))?;
        socket.bind_device(Some(b"eth0"))?;
        // What the wire shows is looked at, not the outcome.
        let _ = socket.send_to(&[0; 24], &to.into());
        Ok(())
    })?
}

/// Blocks the VPN server until whoever watches it must have noticed, and then sends by the default route.
fn send_while_silent(lab: &Lab, to: &'static str) -> Result<()> {
    in_stack(lab, move || -> Result<()> {
        let table = Table::new(TableFamily::Inet, "trial");
        let mut batch = Batch::new();
        batch.add_owned_table(&table);
        batch.add_chain(&table, &Chain::filter("in", HookPoint::Input, Policy::Accept));
        batch.append_rule(&table, "in", &Rule::new(Verdict::Drop).when(Match::Source("198.51.100.2/32".parse()?)));
        // The kernel removes the table with its owner, at the end of this.
        let mut owner = Nft::open()?;
        owner.commit(batch)?;
        std::thread::sleep(Duration::from_millis(2500));
        let _ = UdpSocket::bind("0.0.0.0:0")?.send_to(b"marked", to.parse::<SocketAddr>()?);
        Ok(())
    })?
}

/// Sends one datagram by a socket that `set` has set up.
fn bound(
    lab: &Lab,
    to: &'static str,
    set: impl FnOnce(&socket2::Socket) -> std::io::Result<()> + Send + 'static,
) -> Result<()> {
    in_stack(lab, move || -> Result<()> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
        set(&socket)?;
        let _ = socket.send_to(b"marked", &to.parse::<SocketAddr>()?.into());
        Ok(())
    })?
}

/// The kernel asks the thread's file system user whose a socket is.
fn send_as(lab: &Lab, user: u32, link: Option<&'static str>, to: &'static str) -> Result<()> {
    in_stack(lab, move || -> Result<()> {
        // SAFETY: plain system calls of this thread.
        let before = unsafe { libc::setfsuid(user) };
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None);
        // SAFETY: as above.
        unsafe { libc::setfsuid(before.cast_unsigned()) };
        let socket = socket?;
        socket.bind_device(link.map(str::as_bytes))?;
        let _ = socket.send_to(b"marked", &to.parse::<SocketAddr>()?.into());
        Ok(())
    })?
}

fn maps_ports(lab: &Lab, at: &'static str) -> Result<Option<[u8; 4]>> {
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

fn send_raw(lab: &Lab, number: u8, to: &'static str) -> Result<()> {
    in_stack(lab, move || -> Result<()> {
        let protocol = socket2::Protocol::from(i32::from(number));
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(protocol))?;
        socket.bind_device(Some(b"eth0"))?;
        let _ = socket.send_to(b"marked", &SocketAddr::new(to.parse()?, 0).into());
        Ok(())
    })?
}

/// Whether a fresh name below `domain` (or the bare name) comes to the authority, or to the ISP, from the ISP.
fn isp_asks(lab: &Lab, server: Option<&'static str>, domain: &str) -> Result<bool> {
    let unique = format!("u{}", rand::random::<u32>());
    let name = if domain.contains('.') { format!("{unique}.{domain}") } else { format!("{unique}.{domain}.lan") };
    let servers = server.map_or_else(|| nameservers(lab), |server| Ok(vec![server.to_owned()]))?;
    for server in &servers {
        // Whether there is an answer is not the question.
        let _ = ask(lab, server, name.clone());
    }
    let fqdn = format!("{name}.");
    let asked = !lab.journal().dns_askers("isp resolver", &fqdn).is_empty();
    let isp = "203.0.113.53".parse::<IpAddr>()?;
    Ok(asked && lab.journal().dns_askers("authority", &fqdn).contains(&isp))
}

/// Tries an outage by stopping the VPN and one by taking the link down; they have to agree.
fn both_ways(sign: impl Fn(bool) -> Result<bool>) -> Result<bool> {
    let (stopped, link_down) = (sign(true)?, sign(false)?);
    ensure!(stopped == link_down, "by stop: {stopped}, by link down: {link_down}");
    Ok(stopped)
}

/// First and last packet on the wire, in milliseconds after the tunnel went, and after it came.
struct Outage {
    during: Option<(u64, u64)>,
    after: Option<(u64, u64)>,
}

/// Sends a datagram every half millisecond while the tunnel is taken down and brought up.
fn outage(lab: &Lab, to: &'static str, lasts: Duration, stop_vpn: bool) -> Result<Outage> {
    let wire = Wire::listen()?;
    let target: SocketAddr = to.parse()?;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let netns = leakcheck::net::netns::Netns::open(lab.stack_netns())?;
    let sender = leakcheck::net::netns::spawn_in(&netns, "sampler", move || -> std::io::Result<()> {
        let socket = UdpSocket::bind(if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            // EPERM is what a sealed stack says.
            let _ = socket.send_to(b"sample", target);
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    })?;
    std::thread::sleep(Duration::from_millis(20));
    let down = Instant::now();
    if stop_vpn { put_status(lab, "stopped").map(|_| ()) } else { set_tunnel(lab, false) }?;
    std::thread::sleep(lasts);
    let up = Instant::now();
    if stop_vpn { put_status(lab, "running").map(|_| ()) } else { set_tunnel(lab, true) }?;
    std::thread::sleep(Duration::from_millis(150));
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    sender.join().map_err(|_| anyhow::anyhow!("the sampler panicked"))???;
    let seen = wire.finish()?;
    let hits: Vec<Instant> =
        seen.iter().filter(|p| p.destination == target.ip() && p.port == target.port()).map(|p| p.at).collect();
    ensure!(hits.iter().all(|at| *at >= down), "something left by the uplink while the tunnel was up");
    let span = |hits: Vec<&Instant>, zero: Instant| {
        let (first, last) = (hits.first()?, hits.last()?);
        Some((first.duration_since(zero).as_millis() as u64, last.duration_since(zero).as_millis() as u64))
    };
    let during = span(hits.iter().filter(|at| **at < up).collect(), down);
    let after = span(hits.iter().filter(|at| **at >= up).collect(), up);
    eprintln!("{to}: {} packets, during {during:?}, after {after:?}", hits.len());
    Ok(Outage { during, after })
}
