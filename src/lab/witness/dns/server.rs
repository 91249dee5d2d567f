//! The server's side of DNS over UDP, TCP and TLS: framing, refusal of what is no question, EDNS, truncation, bounds.
//! What the answer is, somebody else knows ([`Answer`]).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::lab::witness::accept::{BoxStream, accept};
use crate::lab::witness::journal::{Protocol, canonical};

/// Size of answers over UDP that needs no fragments anywhere (DNS flag day 2020), in octets.
pub(super) const PAYLOAD: u16 = 1232;
/// What a client without EDNS can take (RFC 1035, 2.3.4), in octets.
const CLASSIC_PAYLOAD: u16 = 512;
/// Questions over UDP that are worked on at once; more are dropped, as a busy server does.
const IN_FLIGHT: usize = 512;
/// Longest time between two questions of a TCP connection, and for the rest of one that has begun.
const IDLE: Duration = Duration::from_secs(10);

/// One question, and from whom.
#[derive(Clone, Debug)]
pub struct Asked {
    pub question: Query,
    pub peer: SocketAddr,
    pub protocol: Protocol,
}

/// Somebody who knows answers.
pub trait Answer: Send + Sync + 'static {
    /// Fills the response, which has the question and the identifier already; `None` stays silent.
    fn answer(&self, asked: Asked, response: Message) -> BoxFuture<'_, Option<Message>>;
}

/// The sockets of a server, all bound already. Give one UDP socket for each address: an answer leaves from the address
/// that the kernel finds best, which for a wildcard socket need not be the one that was asked.
#[derive(Default)]
pub struct Sockets {
    pub udp: Vec<UdpSocket>,
    pub tcp: Vec<TcpListener>,
    /// DNS over TLS (RFC 7858).
    pub tls: Vec<(TcpListener, Arc<ServerConfig>)>,
}

/// Answers on all sockets until dropped.
pub async fn serve(sockets: Sockets, answerer: Arc<dyn Answer>) {
    let mut servers = JoinSet::new();
    for socket in sockets.udp {
        servers.spawn(serve_udp(Arc::new(socket), Arc::clone(&answerer)));
    }
    let clear = sockets.tcp.into_iter().map(|listener| (listener, None));
    let secure = sockets.tls.into_iter().map(|(listener, config)| (listener, Some(config)));
    for (listener, tls) in clear.chain(secure) {
        let answerer = Arc::clone(&answerer);
        let protocol = if tls.is_some() { Protocol::Tls } else { Protocol::Tcp };
        servers.spawn(accept(listener, tls, move |stream, peer| {
            let answerer = Arc::clone(&answerer);
            async move { converse(stream, peer, protocol, answerer).await }
        }));
    }
    while servers.join_next().await.is_some() {}
    // Without any socket there is nothing to do, but the caller expects a server.
    std::future::pending().await
}

async fn serve_udp(socket: Arc<UdpSocket>, answerer: Arc<dyn Answer>) {
    let places = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut running = JoinSet::new();
    let mut buffer = vec![0u8; usize::from(u16::MAX)];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            Some(_) = running.join_next() => continue,
        };
        let Ok((length, peer)) = received else {
            // An ICMP error for an earlier answer; a pause in case the socket itself is broken.
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let (request, socket, answerer) = (buffer[..length].to_vec(), Arc::clone(&socket), Arc::clone(&answerer));
        running.spawn(async move {
            let _place = place;
            if let Some(reply) = reply(&request, canonical(peer), Protocol::Udp, &*answerer).await {
                // A lost answer is what UDP may do; the client asks again.
                let _ = socket.send_to(&reply, peer).await;
            }
        });
    }
}

/// Answers the questions of one TCP connection, one after the other, until it ends or idles.
async fn converse(mut stream: BoxStream, peer: SocketAddr, protocol: Protocol, answerer: Arc<dyn Answer>) {
    loop {
        let Ok(Ok(request)) = timeout(IDLE, read_framed(&mut stream)).await else {
            return;
        };
        let Some(reply) = reply(&request, peer, protocol, &*answerer).await else {
            continue;
        };
        if !matches!(timeout(IDLE, write_framed(&mut stream, &reply)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Reads one message with its length before it (RFC 1035, 4.2.2).
pub(super) async fn read_framed<S: AsyncReadExt + Unpin>(stream: &mut S) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes one message with its length before it, in one segment where it fits.
pub(super) async fn write_framed<S: AsyncWriteExt + Unpin>(stream: &mut S, message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await?;
    stream.flush().await
}

/// The octets that answer a request; `None` for silence.
pub(crate) async fn reply(
    request: &[u8],
    peer: SocketAddr,
    protocol: Protocol,
    answerer: &dyn Answer,
) -> Option<Vec<u8>> {
    let (response, limit) = match examine(request)? {
        Request::Refused(response) => (response, CLASSIC_PAYLOAD),
        Request::Question { question, response, payload } => {
            let response = answerer.answer(Asked { question, peer, protocol }, response).await?;
            (response, payload)
        }
    };
    let limit = if protocol == Protocol::Udp { usize::from(limit) } else { usize::from(u16::MAX) };
    let whole = response.to_vec().ok()?;
    if whole.len() <= limit {
        return Some(whole);
    }
    response.truncate().to_vec().ok()
}

/// A request that was looked at.
enum Request {
    /// Answered without asking anybody.
    Refused(Message),
    Question {
        question: Query,
        /// With everything that does not depend on the answer.
        response: Message,
        /// What the client takes over UDP, in octets.
        payload: u16,
    },
}

/// `None` for what gets no answer: too short for a header, or itself an answer (two servers must never talk in circles).
fn examine(request: &[u8]) -> Option<Request> {
    let id = u16::from_be_bytes(*request.first_chunk()?);
    if request.len() < 12 || request[2] & 0x80 != 0 {
        return None;
    }
    let Ok(message) = Message::from_vec(request) else {
        return Some(Request::Refused(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr)));
    };
    let mut metadata = Metadata::response_from_request(&message.metadata);
    metadata.message_type = MessageType::Response;
    let mut response = Message::response(id, message.metadata.op_code);
    response.metadata = metadata;
    response.add_queries(message.queries.iter().cloned());
    if message.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        response.set_edns(edns);
    }
    let refusal = if message.metadata.op_code != OpCode::Query {
        Some(ResponseCode::NotImp)
    } else if message.queries.len() != 1 {
        Some(ResponseCode::FormErr)
    } else if message.version() > 0 {
        Some(ResponseCode::BADVERS)
    } else {
        None
    };
    if let Some(code) = refusal {
        // An opcode that is unknown here may have sections that are not what they seem.
        response.queries.truncate(1);
        response.metadata.response_code = code;
        if let Some(edns) = &mut response.edns {
            edns.set_rcode_high(code.high());
        }
        return Some(Request::Refused(response));
    }
    let question = message.queries.first()?.clone();
    Some(Request::Question { question, response, payload: message.max_payload().min(PAYLOAD) })
}
