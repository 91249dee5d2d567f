//! Threat: who must not talk to whom in a home does, or who has to cannot.
//! Procedure: one destination at one address, from where the caller stands, as a program there would ask it: a connection, an HTTP
//! question, an echo request, a datagram that a service of that port answers. What gets lost is asked again, so that silence is no accident.
//! Limits: who listens for datagrams answers only what it understands; what is asked goes by the port: DNS (53), NTP (123), STUN (3478,
//! 19302), else the ping of the DHT, as torrent clients take it.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::format::{krpc, stun};
use super::names::{addresses, nameservers};
use super::send::{echo_octets, unspecified};
use super::{http, is_link_local};
use crate::config::Destination;
use crate::model::evidence::Came;

/// When a destination is asked, as parts of the patience for it: a lost packet is not the last.
const TRIES: [f64; 3] = [0.0, 0.25, 0.5];
/// How much longer than the destination a port may take to be connected to on which nobody listens by all odds.
const DECOY: Duration = Duration::from_millis(300);
/// Ports of which one is such a port: the last of those that IANA leaves to everybody.
const DECOYS: std::ops::Range<u16> = 61_000..65_535;
/// Addresses of one name that are tried.
pub const MAX_ADDRESSES: usize = 4;
/// Longest datagram that is taken; more of it is of no interest.
const LONGEST: usize = 2048;

/// What is asked of a place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reaching {
    /// The destination.
    pub to: Destination,
    /// Its address, as the source of the row resolved it.
    pub address: IpAddr,
    /// How long it is tried, in milliseconds.
    pub patience_ms: u64,
    /// Only if the address is one of the asking namespace's own.
    pub own_only: bool,
    /// PEM text of more certificate authorities.
    pub extra_ca: Option<String>,
}

/// How a place resolves names.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Names {
    /// Text of its resolv.conf, or why it could not be read.
    pub resolv_conf: Result<String, String>,
    /// Text of its hosts file; empty where there is none.
    pub hosts: String,
}

impl Names {
    /// The addresses of `host`, as programs of that place find them (hosts(5), resolv.conf(5)). Has to be asked in its namespace: Docker's
    /// resolver is reached at a loopback address.
    ///
    /// # Errors
    /// [`Came::Unresolved`] when its resolvers give none, [`Came::Untried`] when it is not known whom to ask.
    pub async fn resolve(&self, host: &str, patience: Duration) -> Result<Vec<IpAddr>, Came> {
        let mut found = match host.parse() {
            Ok(address) => vec![address],
            Err(_) => in_hosts(&self.hosts, host),
        };
        if found.is_empty() {
            let text = self.resolv_conf.clone().map_err(|why| Came::Untried { why })?;
            let (servers, _) = nameservers(&text);
            let mut said = Vec::new();
            for name in candidates(&text, host) {
                match timeout(patience, addresses(&servers, &name)).await {
                    Ok(Ok(addresses)) => {
                        found = addresses;
                        break;
                    }
                    Ok(Err(why)) => said.push(why),
                    Err(_) => said.push(format!("no resolver answered for {name} in time")),
                }
            }
            if found.is_empty() {
                return Err(Came::Unresolved { why: said.join("; ") });
            }
        }
        // A link-local one needs a link, which nobody names.
        found.retain(|address| !(address.is_ipv6() && is_link_local(*address)));
        found.sort();
        found.dedup();
        found.truncate(MAX_ADDRESSES);
        if found.is_empty() {
            Err(Came::Unresolved { why: "it has link-local addresses only".to_owned() })
        } else {
            Ok(found)
        }
    }
}

/// The addresses that a hosts file gives a name.
fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let of_line = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(host)).then_some(address)
    };
    lines.filter_map(of_line).collect()
}

/// The name itself, and with each of resolv.conf's search suffixes.
fn candidates(resolv_conf: &str, host: &str) -> Vec<String> {
    let mut search = resolv_conf.lines().rev().filter_map(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("search" | "domain")).then_some(words)
    });
    // The last line counts.
    let suffixes = search.next().into_iter().flatten();
    let joined =
        suffixes.map(|suffix| format!("{host}.{}", suffix.trim_matches('.'))).filter(|name| !name.ends_with('.'));
    std::iter::once(host.to_owned()).chain(joined.take(3)).collect()
}

/// Asks one destination from where the caller is.
pub async fn reach_place(order: &Reaching) -> Came {
    let own = || crate::net::interfaces().iter().flat_map(|link| &link.ips).any(|net| net.ip() == order.address);
    if order.own_only && !own() {
        return Came::Untried { why: "this is none of its addresses".to_owned() };
    }
    let patience = Duration::from_millis(order.patience_ms);
    let at = SocketAddr::new(order.address, order.to.host_port().port);
    match &order.to {
        Destination::Tcp(_) => tcp(at, patience).await,
        Destination::Http(url) => match tcp(at, patience).await {
            Came::Answered { .. } => match http::trust(order.extra_ca.as_deref()) {
                Ok(tls) => match http::ask(&tls, url, order.address, patience, "*/*").await {
                    Ok((status, _)) => Came::Answered { how: format!("HTTP {status}") },
                    Err(error) => Came::Connected { error },
                },
                Err(error) => Came::Connected { error },
            },
            other => other,
        },
        Destination::Icmp(_) => blocking(move || echo(at.ip(), patience)).await,
        Destination::Udp(_) => blocking(move || datagram(at, patience)).await,
    }
}

async fn blocking(work: impl FnOnce() -> io::Result<Came> + Send + 'static) -> Came {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(came)) => came,
        Ok(Err(error)) => of_error(&error),
        Err(error) => Came::Untried { why: error.to_string() },
    }
}

/// A connection that counts: one to a port of which nobody knows is not made as well. Where it is, something on the way answers for
/// everybody, such as a transparent proxy, and nothing is known of the destination.
async fn tcp(at: SocketAddr, patience: Duration) -> Came {
    let decoy = SocketAddr::new(at.ip(), rand::random_range(DECOYS));
    let mut decoy = std::pin::pin!(connect(decoy, patience));
    let mut came = std::pin::pin!(connect(at, patience));
    let (came, decoy) = tokio::select! {
        came = &mut came => match came {
            Came::Answered { .. } => (came, timeout(DECOY, decoy).await.ok()),
            other => (other, None),
        },
        first = &mut decoy => (came.await, Some(first)),
    };
    if came.is_there() && decoy.is_some_and(|decoy| decoy.is_there()) {
        let why =
            "a port on which nobody listens is connected to as well, so something on the way answers for everybody";
        return Came::Untried { why: why.to_owned() };
    }
    came
}

/// Connections of the kernel's own, begun anew in case the first packets are lost; the best that came of them.
async fn connect(at: SocketAddr, patience: Duration) -> Came {
    let mut tries: FuturesUnordered<_> = TRIES
        .into_iter()
        .map(|part| async move {
            sleep(patience.mul_f64(part)).await;
            TcpStream::connect(at).await
        })
        .collect();
    let mut best = None;
    let done = timeout(patience, async {
        while let Some(ended) = tries.next().await {
            match ended {
                Ok(_) => return Some(Came::Answered { how: "connected".to_owned() }),
                Err(error) => best = Some(better(best.take(), of_error(&error))),
            }
        }
        None
    });
    let connected = done.await.ok().flatten();
    connected.or(best).unwrap_or_else(|| Came::Silent { how: "no answer in time".to_owned() })
}

/// A refusal tells more than a silence, and that more than nothing.
fn better(had: Option<Came>, now: Came) -> Came {
    let rank = |came: &Came| match came {
        Came::TurnedAway { .. } => 2,
        Came::Silent { .. } => 1,
        _ => 0,
    };
    had.filter(|had| rank(had) >= rank(&now)).unwrap_or(now)
}

/// What the kernel's error says: that somebody refused, that there is no way, or that it was not tried at all.
fn of_error(error: &io::Error) -> Came {
    let how = error.to_string();
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::ECONNRESET) => Came::TurnedAway { how },
        Some(
            libc::EPERM
            | libc::EACCES
            | libc::ENETUNREACH
            | libc::EHOSTUNREACH
            | libc::ENETDOWN
            | libc::EHOSTDOWN
            | libc::ETIMEDOUT,
        ) => Came::Silent { how },
        _ => Came::Untried { why: how },
    }
}

/// Echo requests until a reply comes (RFC 792, RFC 4443).
fn echo(to: IpAddr, patience: Duration) -> io::Result<Came> {
    let (domain, protocol) =
        if to.is_ipv4() { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
    // The second kind is for users whom `net.ipv4.ping_group_range` lets.
    let socket =
        Socket::new(domain, Type::RAW, Some(protocol)).or_else(|_| Socket::new(domain, Type::DGRAM, Some(protocol)));
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => return Ok(Came::Untried { why: format!("no echo request can be sent from here: {error}") }),
    };
    socket.connect(&SockAddr::from(SocketAddr::new(to, 0)))?;
    let marker: [u8; 16] = rand::random();
    let request = echo_octets(to.is_ipv6(), &marker);
    let reply = if to.is_ipv4() { 0 } else { 129 };
    let is_reply = move |octets: &[u8]| {
        // Over IPv4 a raw socket is given the IP header as well, whose first octet has version and length.
        let message = match octets.first() {
            Some(first) if to.is_ipv4() && first >> 4 == 4 => octets.get(usize::from(first & 15) * 4..),
            _ => Some(octets),
        };
        message.is_some_and(|message| message.first() == Some(&reply) && message.ends_with(&marker))
    };
    exchange(&UdpSocket::from(socket), &request, patience, is_reply).map(|came| match came {
        Came::Answered { .. } => Came::Answered { how: "echo reply".to_owned() },
        other => other,
    })
}

/// Datagrams until one comes back.
fn datagram(to: SocketAddr, patience: Duration) -> io::Result<Came> {
    let socket = UdpSocket::bind((unspecified(to.ip()), 0))?;
    socket.connect(to)?;
    exchange(&socket, &question(to.port()), patience, |_| true)
}

/// Sends `request` again and again until something comes that is its answer.
fn exchange(
    socket: &UdpSocket,
    request: &[u8],
    patience: Duration,
    is_answer: impl Fn(&[u8]) -> bool,
) -> io::Result<Came> {
    let began = Instant::now();
    let mut due = TRIES.map(|part| patience.mul_f64(part)).into_iter().peekable();
    let (mut best, mut buffer) = (None, [0; LONGEST]);
    loop {
        let passed = began.elapsed();
        if passed >= patience {
            break;
        }
        if due.next_if(|at| *at <= passed).is_some()
            && let Err(error) = socket.send(request)
        {
            best = Some(better(best.take(), of_error(&error)));
        }
        let wait = due.peek().copied().unwrap_or(patience).min(patience).saturating_sub(began.elapsed());
        socket.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
        match socket.recv(&mut buffer) {
            Ok(length) if is_answer(&buffer[..length]) => {
                return Ok(Came::Answered { how: format!("a datagram of {length} octets") });
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => best = Some(better(best.take(), of_error(&error))),
        }
    }
    Ok(best.unwrap_or_else(|| Came::Silent { how: "no answer in time".to_owned() }))
}

/// A question that whoever usually listens at such a port answers.
fn question(port: u16) -> Vec<u8> {
    match port {
        // The nameservers of the root (RFC 1035, 4.1): any resolver knows them, or refuses.
        53 => {
            let id: [u8; 2] = rand::random();
            [&id[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0], &[0], &[0, 2, 0, 1]].concat()
        }
        // A client's question of version 4 (RFC 5905, 7.3).
        123 => std::iter::once(0x23).chain([0; 47]).collect(),
        3478 | 19302 => stun::request(&rand::random()),
        _ => krpc::ping(&rand::random(), &rand::random()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(400);

    fn order(to: &str, address: &str) -> Reaching {
        Reaching {
            to: to.parse().unwrap(),
            address: address.parse().unwrap(),
            patience_ms: PATIENCE.as_millis() as u64,
            own_only: false,
            extra_ca: None,
        }
    }

    #[tokio::test]
    async fn a_connection_a_refusal_and_a_page_that_is_none_are_told_apart() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            // Takes connections and hangs up.
            while let Ok((stream, _)) = listener.accept().await {
                drop(stream);
            }
        });
        let tcp = order(&format!("tcp://127.0.0.1:{port}"), "127.0.0.1");
        assert_eq!(reach_place(&tcp).await, Came::Answered { how: "connected".to_owned() });
        let http = order(&format!("http://127.0.0.1:{port}/"), "127.0.0.1");
        assert!(matches!(reach_place(&http).await, Came::Connected { .. }));
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let tcp = order(&format!("tcp://127.0.0.1:{closed}"), "127.0.0.1");
        assert!(matches!(reach_place(&tcp).await, Came::TurnedAway { .. }));
        let foreign = Reaching { own_only: true, ..order("tcp://192.0.2.1:9", "192.0.2.1") };
        assert!(matches!(reach_place(&foreign).await, Came::Untried { .. }));
        let own = Reaching { own_only: true, ..tcp };
        assert!(matches!(reach_place(&own).await, Came::TurnedAway { .. }));
    }

    #[tokio::test]
    async fn a_datagram_is_answered_refused_or_lost() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = server.local_addr().unwrap();
        let to = order(&format!("udp://{at}"), "127.0.0.1");
        assert!(matches!(reach_place(&to).await, Came::Silent { .. }));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 100];
            // Those of before have stayed in its queue; the newest asker is the last.
            server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            for _ in 0..4 {
                let (_, from) = server.recv_from(&mut buffer).unwrap();
                let _ = server.send_to(b"pong", from);
            }
        });
        assert_eq!(reach_place(&to).await, Came::Answered { how: "a datagram of 4 octets".to_owned() });
        thread.join().unwrap();
        assert!(matches!(reach_place(&to).await, Came::TurnedAway { .. }), "nobody listens any more");
    }

    #[test]
    fn names_are_looked_up_as_programs_do() {
        let hosts = "127.0.0.1 localhost\n172.18.0.20\tsonarr Media # sonarr2\nnonsense sonarr\nfd18::20 sonarr\n";
        let found = |name: &str| in_hosts(hosts, name).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(found("sonarr"), ["172.18.0.20", "fd18::20"]);
        assert_eq!(found("media"), ["172.18.0.20"]);
        assert!(found("sonarr2").is_empty());
        let text = "nameserver 127.0.0.11\nsearch old\nsearch lan home.example.\noptions ndots:0\n";
        assert_eq!(candidates(text, "nas"), ["nas", "nas.lan", "nas.home.example"]);
        assert_eq!(candidates("", "nas"), ["nas"]);
    }

    #[tokio::test]
    async fn without_a_resolv_conf_a_name_is_not_tried() {
        let names = Names { resolv_conf: Err("it is gone".to_owned()), hosts: "172.18.0.9 nas\n".to_owned() };
        assert_eq!(names.resolve("nas", PATIENCE).await, Ok(vec!["172.18.0.9".parse().unwrap()]));
        assert_eq!(names.resolve("10.0.0.7", PATIENCE).await, Ok(vec!["10.0.0.7".parse().unwrap()]));
        let why = "it is gone".to_owned();
        assert_eq!(names.resolve("sonarr", PATIENCE).await, Err(Came::Untried { why }));
    }
}
