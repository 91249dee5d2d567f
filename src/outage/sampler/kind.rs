//! The kinds of packet that are sampled: where to, in which protocol, by which way, as whom.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use ipnet::IpNet;
use socket2::{SockAddr, Socket};

use super::Entries;
use crate::handicap::{Handicap, lacks};
use crate::model::evidence::{Proto, Role, Via, end};
use crate::sensor::ledger::{Entry, Ledger};
use crate::technique::{Context, User, as_user, echo_octets, is_link_local, nameservers, open, question, syn_octets};

const RAW_TCP: Proto = Proto::Ip(libc::IPPROTO_TCP as u8);
const DNS: u16 = 53;
/// Where everybody's packets go that nobody has told better; with TTL 1 none of these gets there.
const PUBLIC4: IpAddr = IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8));
const PUBLIC6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888));
/// More users than this would cost the pace.
const MAX_USERS: usize = 4;

/// One kind of packet, with all that is needed to send it again and again.
pub(super) struct Kind {
    entry: Entry,
    proto: Proto,
    to: SocketAddr,
    /// As sendto(2) takes it.
    address: SockAddr,
    via: Via,
    user: Option<User>,
    payload: Vec<u8>,
    socket: Option<Socket>,
    sent: u32,
    /// Which of [`Sources`] is its own.
    source: usize,
    /// Whether it needs its source address on no link.
    lasting: bool,
}

/// The addresses from which the kernel sends by each way and family, asked for once in a round: connecting a datagram socket asks, and
/// sends nothing.
#[derive(Default)]
pub(super) struct Sources(Vec<Option<Source>>);

struct Source {
    round: usize,
    socket: Socket,
    /// The address, or the errno of its refusal.
    address: Result<IpAddr, i32>,
}

/// All kinds, those that the kernel's routes lead first, and why some could not be had.
/// `lasting`: what is sent from the tunnel's own address is sent also where the link has lost it.
pub(super) fn all(cx: &Context, trial: &Arc<str>, uplinks: &[String], lasting: bool) -> (Vec<Kind>, Vec<String>) {
    let (entries, canary) = (Entries { ledger: &cx.ledger, trial }, cx.setup.canary.as_str());
    let (users, notes) = users(cx);
    let mut kinds = Vec::new();
    let ways = std::iter::once(Via::Default)
        .chain(tunnel_addresses(cx).map(Via::Source))
        .chain(uplinks.iter().map(|name| Via::Device(name.clone())));
    for (way, via) in ways.enumerate() {
        if let Via::Source(from) = via {
            for at in targets_of_some().filter(|(_, to)| to.is_ipv4() == from.is_ipv4()) {
                kinds.push(Kind { lasting, ..Kind::new(&entries, canary, at, (way, &via), None) });
            }
            continue;
        }
        for (proto, to) in targets().into_iter().chain(resolvers(cx).map(|to| (Proto::Udp, to))) {
            kinds.push(Kind::new(&entries, canary, (proto, to), (way, &via), None));
        }
        for user in &users {
            for at in targets_of_some() {
                kinds.push(Kind::new(&entries, canary, at, (way, &via), Some(user.clone())));
            }
        }
    }
    (kinds, notes)
}

/// Those that can be had without knowing anything of the namespace.
pub(super) fn plain(ledger: &Ledger, trial: &Arc<str>, uplinks: &[String], canary: &str) -> Vec<Kind> {
    let entries = Entries { ledger, trial };
    let ways = std::iter::once(Via::Default).chain(uplinks.iter().map(|name| Via::Device(name.clone())));
    let of_way = |(way, via): (usize, Via)| {
        targets().into_iter().map(|at| Kind::new(&entries, canary, at, (way, &via), None)).collect::<Vec<_>>()
    };
    ways.enumerate().flat_map(of_way).collect()
}

/// What is sampled: name resolution, a high port, a torrent port, web, and echo requests, over both families.
fn targets() -> Vec<(Proto, SocketAddr)> {
    let mut found = Vec::new();
    for (ip, icmp) in [(PUBLIC4, Proto::Icmp), (PUBLIC6, Proto::Icmpv6)] {
        found.push((Proto::Udp, SocketAddr::new(ip, DNS)));
        found.push((Proto::Udp, SocketAddr::new(ip, 40_000)));
        found.push((Proto::Udp, SocketAddr::new(ip, 6881)));
        found.push((RAW_TCP, SocketAddr::new(ip, 443)));
        found.push((icmp, SocketAddr::new(ip, 0)));
    }
    found
}

/// What is enough to see that a user's packets, or those from one address, go another way.
fn targets_of_some() -> impl Iterator<Item = (Proto, SocketAddr)> {
    [PUBLIC4, PUBLIC6].into_iter().flat_map(|ip| {
        [(Proto::Udp, DNS), (Proto::Udp, 6881), (RAW_TCP, 443)].map(|(proto, port)| (proto, SocketAddr::new(ip, port)))
    })
}

/// The tunnel's own addresses: torrent clients are told to bind to them. Some of these stay while the tunnel is down, and whatever rule lets
/// such packets out by the tunnel may do so by any link.
fn tunnel_addresses(cx: &Context) -> impl Iterator<Item = IpAddr> {
    let tunnels = cx.links.iter().filter(|link| link.role == Role::Tunnel);
    tunnels.flat_map(|link| &link.addresses).map(IpNet::addr).filter(|ip| !is_link_local(*ip))
}

/// The resolvers that the stack is told to use, but for those that TTL 1 does not keep from answering: on loopback and on local subnets.
/// These are asked a few times a second by [`super::super::watch`].
fn resolvers(cx: &Context) -> impl Iterator<Item = SocketAddr> {
    let (mut named, _) = nameservers(&cx.setup.resolv_conf);
    named.extend(cx.setup.resolvers.iter().copied());
    named.sort();
    named.dedup();
    let far = |ip: &IpAddr| {
        !ip.is_loopback() && ![PUBLIC4, PUBLIC6].contains(ip) && !cx.local.iter().any(|net| net.contains(ip))
    };
    let found: Vec<SocketAddr> = named.into_iter().filter(far).map(|ip| SocketAddr::new(ip, DNS)).collect();
    found.into_iter()
}

/// The users of the stack's programs besides this process's own, as far as it may become them.
fn users(cx: &Context) -> (Vec<User>, Vec<String>) {
    let own = nix::unistd::geteuid().as_raw();
    let mut users: Vec<User> = cx.setup.users.clone();
    users.extend(cx.programs.iter().flatten().map(|program| program.user.clone()));
    users.retain(|user| user.uid != own);
    users.sort();
    users.dedup_by_key(|user| user.uid);
    let (may, may_not): (Vec<User>, Vec<User>) = users.into_iter().partition(|user| as_user(user, || ()).is_ok());
    let mut notes: Vec<String> = cx.programs.as_ref().err().cloned().into_iter().collect();
    let unable =
        may_not.iter().map(|user| format!("nothing could be sampled as {user}, whom leakcheck may not send as"));
    notes.extend(unable);
    notes.extend(
        may.iter().skip(MAX_USERS).map(|user| format!("nothing was sampled as {user}: there are too many users")),
    );
    (may.into_iter().take(MAX_USERS).collect(), notes)
}

impl Kind {
    fn new(
        entries: &Entries<'_>,
        canary: &str,
        (proto, to): (Proto, SocketAddr),
        (way, via): (usize, &Via),
        user: Option<User>,
    ) -> Self {
        let entry = entries.ledger.enter(entries.trial);
        let payload = match (proto, to.port()) {
            (Proto::Udp, DNS) => {
                let mut octets = question(&entry, canary, to.ip());
                if ![PUBLIC4, PUBLIC6].contains(&to.ip())
                    && let Some(flags) = octets.get_mut(2)
                {
                    // A resolver at the other end of the tunnel is reached with TTL 1 too. What looks like an answer, it drops; to
                    // routes and firewalls it is all one (RFC 1035, section 4.1.1).
                    *flags |= 0x80;
                }
                octets
            }
            (Proto::Icmp | Proto::Icmpv6, _) => echo_octets(to.is_ipv6(), entry.marker().as_bytes()),
            _ => entry.marker().into_bytes(),
        };
        // Raw sockets over IPv6 take no port.
        let at = if proto == RAW_TCP { SocketAddr::new(to.ip(), 0) } else { to };
        let address = SockAddr::from(at);
        let source = way * 2 + usize::from(to.is_ipv6());
        Kind {
            entry,
            proto,
            to,
            address,
            via: via.clone(),
            user,
            payload,
            socket: None,
            sent: 0,
            source,
            lasting: false,
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.entry.id
    }

    pub(super) fn via(&self) -> &Via {
        &self.via
    }

    pub(super) fn describe(&self) -> String {
        let proto = if self.proto == RAW_TCP { Proto::Tcp } else { self.proto };
        let whose = self.user.as_ref().map(|user| format!(" as {user}")).unwrap_or_default();
        format!("{proto} to {} {}{whose}", end(self.to), self.via)
    }

    fn open(&self, proto: Proto) -> io::Result<Socket> {
        let socket = open(proto, self.to.ip(), &self.via)?;
        if self.lasting && self.to.is_ipv4() {
            // Over IPv6 the kernel does not ask whether the address is still there.
            socket.set_ip_transparent_v4(true)?;
        }
        Ok(socket)
    }

    /// Sends one. A socket keeps its route's source address only while it is connected, so these never are: each packet takes the way of
    /// the moment.
    pub(super) fn send(&mut self, sources: &mut Sources, round: usize) -> io::Result<()> {
        if self.socket.is_none() {
            let make = || self.open(self.proto);
            let made = match &self.user {
                Some(user) => as_user(user, make).map_err(io::Error::other)?,
                None => make(),
            };
            self.socket = Some(made?);
        }
        if lacks(Handicap::Stimuli) {
            return Ok(());
        }
        let Some(socket) = &self.socket else { return Ok(()) };
        let result = if self.proto == RAW_TCP {
            self.sent = self.sent.wrapping_add(1);
            let from = sources.address(self, round)?;
            let port = 32_768 + (self.sent % 28_000) as u16;
            let octets = syn_octets(from, port, self.to, self.entry.sequence())?;
            socket.send_to(&octets, &self.address)
        } else {
            socket.send_to(&self.payload, &self.address)
        };
        if let Err(error) = &result
            && matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO))
        {
            // The link that it was bound to is gone; one of that name may come again.
            self.socket = None;
        }
        result.map(drop)
    }
}

impl Sources {
    fn address(&mut self, kind: &Kind, round: usize) -> io::Result<IpAddr> {
        let (place, to) = (kind.source, kind.to);
        if self.0.len() <= place {
            self.0.resize_with(place + 1, || None);
        }
        let slot = &mut self.0[place];
        let source = match slot {
            Some(source) => source,
            None => {
                let socket = kind.open(Proto::Udp)?;
                let address = ask(&socket, to);
                slot.insert(Source { round, socket, address })
            }
        };
        if source.round != round {
            source.round = round;
            // Connected to nobody it forgets its source address.
            disconnect(&source.socket);
            source.address = ask(&source.socket, to);
        }
        source.address.map_err(io::Error::from_raw_os_error)
    }
}

/// Undoes [`Socket::connect`] of a datagram socket (connect(2), AF_UNSPEC).
fn disconnect(socket: &Socket) {
    // SAFETY: all-zero is a valid sockaddr; AF_UNSPEC is zero.
    let nobody: libc::sockaddr = unsafe { std::mem::zeroed() };
    // SAFETY: the address outlives the call and is as long as is said. What it did shows when the address is asked for.
    unsafe { libc::connect(socket.as_raw_fd(), &raw const nobody, size_of::<libc::sockaddr>() as libc::socklen_t) };
}

fn ask(socket: &Socket, to: SocketAddr) -> Result<IpAddr, i32> {
    let asked = socket.connect(&SockAddr::from(to)).and_then(|()| socket.local_addr());
    let address = asked.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
    address.as_socket().map(|address| address.ip()).ok_or(libc::EADDRNOTAVAIL)
}
