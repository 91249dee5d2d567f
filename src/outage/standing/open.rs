//! Opening flows that are to outlive the tunnel: to the first far side that answers.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use reqwest::Url;
use socket2::Socket;
use tokio::net::TcpSocket;
use tokio::time::{sleep, timeout};

use super::{Flow, Open, probe, segments_out, set_hops};
use crate::model::evidence::{Proto, StandingFlow};
use crate::sensor::ledger::Entry;
use crate::technique::format::stun;
use crate::technique::{Context, addresses, nameservers, question};

/// How long an attempt to open a flow may take: long enough for what TCP sends again after a second.
const PATIENCE: Duration = Duration::from_millis(2500);
/// The start that an attempt has on the next one.
const START: Duration = Duration::from_millis(300);
/// Time after which a datagram is sent again.
const ASK_AGAIN: Duration = Duration::from_millis(400);
/// Far sides that are tried of each sort.
pub(in crate::outage) const TRIES: usize = 2;
const DNS: u16 = 53;

/// A connection to the far side that takes one first: web witnesses, and public resolvers beside them.
pub(super) async fn open_tcp(cx: &Context, trial: &Arc<str>, v6: bool) -> Result<Flow, String> {
    let web = cx.setup.echo_http.iter().filter_map(|url| Url::parse(url).ok()).take(TRIES).map(|url| {
        Box::pin(async move {
            let host = url.host_str().ok_or("a witness without a host")?;
            let port = url.port_or_known_default().ok_or_else(|| format!("{host}: no port is known"))?;
            let to = SocketAddr::new(resolved(cx, host, v6).await?, port);
            connect(cx, trial, to).await.map_err(|error| format!("{to}: {error}"))
        }) as Attempt<'_>
    });
    let resolvers = forced(cx, v6).take(TRIES).map(|ip| {
        let to = SocketAddr::new(ip, DNS);
        Box::pin(async move { connect(cx, trial, to).await.map_err(|error| format!("{to}: {error}")) }) as Attempt<'_>
    });
    first(web.chain(resolvers)).await
}

async fn connect(cx: &Context, trial: &Arc<str>, to: SocketAddr) -> io::Result<Flow> {
    let entry = cx.ledger.enter(trial);
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Reset when it ends, also with this process: nothing is left that would be sent again later.
    socket.set_zero_linger()?;
    socket.bind(any(to))?;
    // Its port has to be known before its first packet leaves, so that the sensor knows the flow.
    cx.ledger.enter_flow(entry, Proto::Tcp, socket.local_addr()?.port(), to);
    let stream = socket.connect(to).await?;
    let from = stream.local_addr()?;
    let socket = Socket::from(stream.into_std()?);
    set_hops((&socket).into(), to, 1)?;
    segments_out(&socket)?;
    probe(&socket).map_err(|error| io::Error::new(error.kind(), format!("it cannot be made to speak: {error}")))?;
    Ok(flow(entry, Proto::Tcp, from, to, Open::Tcp(socket)))
}

/// Datagrams to the far side that answers first: STUN servers, and public resolvers beside them.
pub(super) async fn open_udp(cx: &Context, trial: &Arc<str>, v6: bool) -> Result<Flow, String> {
    let stun = cx.setup.echo_stun.iter().take(TRIES).map(|(host, port)| {
        Box::pin(async move {
            let to = SocketAddr::new(resolved(cx, host, v6).await?, *port);
            let id = rand::random();
            let read = |octets: &[u8]| stun::response(octets, &id).is_some();
            exchange(cx, trial, to, |_| stun::request(&id), read).await.map_err(|error| format!("{host}: {error}"))
        }) as Attempt<'_>
    });
    let resolvers = forced(cx, v6).take(TRIES).map(|ip| {
        Box::pin(async move {
            let ask = |entry: &Entry| question(entry, &cx.setup.canary, ip);
            // An answer (QR set) to what was just asked is all that matters.
            let read = |octets: &[u8]| octets.get(2).is_some_and(|flags| flags & 0x80 != 0);
            let opened = exchange(cx, trial, SocketAddr::new(ip, DNS), ask, read).await;
            opened.map_err(|error| format!("{ip}: {error}"))
        }) as Attempt<'_>
    });
    first(stun.chain(resolvers)).await
}

async fn exchange(
    cx: &Context,
    trial: &Arc<str>,
    to: SocketAddr,
    ask: impl Fn(&Entry) -> Vec<u8>,
    answers: impl Fn(&[u8]) -> bool,
) -> io::Result<Flow> {
    let entry = cx.ledger.enter(trial);
    let payload = ask(&entry);
    let socket = tokio::net::UdpSocket::bind(any(to)).await?;
    cx.ledger.enter_flow(entry, Proto::Udp, socket.local_addr()?.port(), to);
    socket.connect(to).await?;
    let from = socket.local_addr()?;
    let mut octets = [0; 1500];
    // Until the far side answers, or the attempt's time is over.
    loop {
        socket.send(&payload).await?;
        let again = sleep(ASK_AGAIN);
        tokio::pin!(again);
        loop {
            tokio::select! {
                length = socket.recv(&mut octets) => if answers(&octets[..length?]) {
                    let socket = socket.into_std()?;
                    set_hops((&socket).into(), to, 1)?;
                    return Ok(flow(entry, Proto::Udp, from, to, Open::Udp(socket, payload)));
                },
                () = &mut again => break,
            }
        }
    }
}

/// Any address of the family of `to`.
fn any(to: SocketAddr) -> SocketAddr {
    if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() }
}

type Attempt<'a> = Pin<Box<dyn Future<Output = Result<Flow, String>> + Send + 'a>>;

/// The flow that is open first. Each attempt has a start on the next one, so that far sides are not asked for nothing, and no more time than
/// `PATIENCE`: packets get lost, and what is sent again comes late.
async fn first<'a>(attempts: impl Iterator<Item = Attempt<'a>>) -> Result<Flow, String> {
    let mut running: FuturesUnordered<_> = (0..)
        .zip(attempts)
        .map(|(place, attempt)| async move {
            sleep(START * place).await;
            timeout(PATIENCE, attempt).await.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
        })
        .collect();
    let mut failed = Vec::new();
    while let Some(ended) = running.next().await {
        match ended {
            Ok(flow) => return Ok(flow),
            Err(why) => failed.push(why),
        }
    }
    if failed.is_empty() { Err("there is no witness for it".to_owned()) } else { Err(failed.join("; ")) }
}

fn flow(entry: Entry, proto: Proto, from: SocketAddr, to: SocketAddr, open: Open) -> Flow {
    let record =
        StandingFlow { stimulus: entry.id, proto, from, to, open_ms: 0.0, asked: 0, refused: 0, refusal: None };
    Flow { record, open }
}

/// The address of a witness past the local subnets.
async fn resolved(cx: &Context, host: &str, v6: bool) -> Result<IpAddr, String> {
    let (servers, _) = nameservers(&cx.setup.resolv_conf);
    let found = addresses(&servers, host).await.map_err(|error| format!("{host}: {error}"))?;
    far(cx, found, v6).ok_or_else(|| format!("{host} has no address past the local subnets"))
}

pub(in crate::outage) fn forced(cx: &Context, v6: bool) -> impl Iterator<Item = IpAddr> + '_ {
    cx.setup.forced.iter().filter_map(move |ip| far(cx, [*ip], v6))
}

/// The first address that is reached by the tunnel, as far as the local subnets tell.
pub(in crate::outage) fn far(cx: &Context, found: impl IntoIterator<Item = IpAddr>, v6: bool) -> Option<IpAddr> {
    let near = |ip: &IpAddr| ip.is_loopback() || cx.local.iter().any(|net| net.contains(ip));
    found.into_iter().find(|ip| ip.is_ipv6() == v6 && !near(ip))
}
