//! Taking TCP connections, in clear or TLS, with a bound on how many and for how long, and HTTP/1 on top of them.
//! What is said over them is not its business.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::journal::canonical;

/// Connections that one server holds at once; more are closed as they come.
const TOTAL: usize = 512;
/// Connections that one client address may hold at once.
const PER_CLIENT: usize = 64;
/// Time for a TLS handshake, and for the head of a request.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Longest life of a connection.
const LIFETIME: Duration = Duration::from_secs(60);
/// Pause after a failed `accept`, which fails again at once when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// A connection in clear or in TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Any connection.
pub(crate) type BoxStream = Box<dyn Stream>;

type Counts = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// A client's place among the connections; given back when dropped.
struct Place {
    counts: Counts,
    ip: IpAddr,
}

impl Place {
    fn take(counts: &Counts, ip: IpAddr) -> Option<Self> {
        let mut held = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(ip).or_insert(0);
        if *count >= PER_CLIENT {
            return None;
        }
        *count += 1;
        Some(Self { counts: Arc::clone(counts), ip })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.ip);
            }
        }
    }
}

/// Takes connections until dropped, and with it ends those that it took. `handle` gets each one after its TLS handshake.
pub(crate) async fn accept<H, F>(listener: TcpListener, tls: Option<Arc<ServerConfig>>, handle: H)
where
    H: Fn(BoxStream, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let acceptor = tls.map(TlsAcceptor::from);
    let counts = Counts::default();
    let mut running = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = running.join_next() => continue,
        };
        let Ok((stream, peer)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let peer = canonical(peer);
        let Some(place) = (running.len() < TOTAL).then(|| Place::take(&counts, peer.ip())).flatten() else {
            continue;
        };
        let (acceptor, handle) = (acceptor.clone(), handle.clone());
        running.spawn(async move {
            let _place = place;
            let conversation = async {
                if let Some(stream) = secured(stream, acceptor).await {
                    handle(stream, peer).await;
                }
            };
            // Cut off at the end of its life: nothing is left to tell the client.
            let _ = timeout(LIFETIME, conversation).await;
        });
    }
}

/// The stream as the handler shall see it; `None` when the handshake failed.
async fn secured(stream: TcpStream, acceptor: Option<TlsAcceptor>) -> Option<BoxStream> {
    // Without it answers wait for the client's delayed acknowledgement; a failure costs only that time.
    let _ = stream.set_nodelay(true);
    match acceptor {
        None => Some(Box::new(stream)),
        Some(acceptor) => match timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Some(Box::new(stream)),
            Ok(Err(_)) | Err(_) => None,
        },
    }
}

/// Speaks HTTP/1 on a connection. `route` names the router that answers a request; `None` hangs up without an answer.
pub(crate) async fn http<R>(stream: BoxStream, route: R)
where
    R: Fn(&Request<Incoming>) -> Option<Router>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let router = route(&request);
        async move {
            match router {
                Some(router) => {
                    let answered: Result<Response<Body>, Infallible> =
                        TowerToHyperService::new(router).call(request).await;
                    answered.map_err(|never| match never {})
                }
                None => Err(Unanswered),
            }
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    // A client that speaks badly or leaves has ended its own connection.
    let _ = connection.await;
}

/// The server hung up on purpose.
#[derive(Debug, thiserror::Error)]
#[error("answer")]
struct Unanswered;
