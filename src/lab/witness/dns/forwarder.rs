//! A resolver: passes each question on to a server that knows, from an egress address of its own, and hands the answer
//! back. No cache: the lab asks fresh names, and a cached answer would hide who asks.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::Name;
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::timeout;

use super::authority::question;
use super::server::{Answer, Asked, PAYLOAD, read_framed, write_framed};
use crate::lab::witness::journal::Journal;

/// Time after which a question that got no answer is SERVFAIL.
const DEADLINE: Duration = Duration::from_secs(2);
/// How often a question is sent over UDP within the deadline.
const TRIES: u32 = 2;

/// A server that a forwarder asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub server: SocketAddr,
    /// The address to ask from, of the server's family; `None` leaves it to the routes.
    pub from: Option<IpAddr>,
}

/// Which names go to another server.
type Chosen = fn(&Name) -> bool;

/// A resolver. Serve it by [`super::serve`], on a thread that stands in the namespace from which it shall ask.
#[derive(Clone)]
pub struct Forwarder {
    service: Arc<str>,
    journal: Journal,
    upstream: Upstream,
    exception: Option<(Chosen, Upstream)>,
    also: Option<Upstream>,
    deadline: Duration,
    dead: bool,
}

impl Forwarder {
    /// A resolver that asks `upstream` and writes what it is asked into `journal` under the name `service`.
    pub fn new(service: &str, journal: Journal, upstream: Upstream) -> Self {
        Self {
            service: service.into(),
            journal,
            upstream,
            exception: None,
            also: None,
            deadline: DEADLINE,
            dead: false,
        }
    }

    /// Names for which `chosen` holds are asked of another server.
    pub fn with_exception(mut self, chosen: fn(&Name) -> bool, upstream: Upstream) -> Self {
        self.exception = Some((chosen, upstream));
        self
    }

    /// Every name is asked of this server too, and its answer is not waited for.
    pub fn also_asking(mut self, upstream: Upstream) -> Self {
        self.also = Some(upstream);
        self
    }

    /// Sets the time after which an unanswered question is SERVFAIL (2 s otherwise).
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The resolver hears and writes down what it is asked, and never answers.
    pub fn dead(mut self) -> Self {
        self.dead = true;
        self
    }

    async fn resolve(&self, asked: &Asked) -> io::Result<Message> {
        let upstream = match self.exception {
            Some((chosen, other)) if chosen(asked.question.name()) => other,
            _ => self.upstream,
        };
        if let Some(also) = self.also {
            let (question, patience) = (asked.question.clone(), self.deadline);
            tokio::spawn(async move { timeout(patience, ask_udp(also, &question, patience)).await });
        }
        let work = async {
            let answer = ask_udp(upstream, &asked.question, self.deadline / TRIES).await?;
            if answer.metadata.truncation { ask_tcp(upstream, &asked.question).await } else { Ok(answer) }
        };
        timeout(self.deadline, work).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}

impl Answer for Forwarder {
    fn answer(&self, asked: Asked, mut response: Message) -> BoxFuture<'_, Option<Message>> {
        self.journal.record(&self.service, asked.protocol, asked.peer, question(&asked));
        if self.dead {
            return Box::pin(std::future::ready(None));
        }
        Box::pin(async move {
            response.metadata.recursion_available = true;
            match self.resolve(&asked).await {
                Ok(answer) => {
                    response.metadata.response_code = answer.metadata.response_code;
                    response.answers = answer.answers;
                    response.authorities = answer.authorities;
                }
                // The client learns no more than this from a real resolver either.
                Err(_) => response.metadata.response_code = ResponseCode::ServFail,
            }
            Some(response)
        })
    }
}

fn query(question: &Query) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(question.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD);
    message.set_edns(edns);
    message
}

/// The answer to `query`, if that is what the octets are.
fn matching(octets: &[u8], query: &Message) -> Option<Message> {
    let answer = Message::from_vec(octets).ok()?;
    let ours = answer.metadata.id == query.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries == query.queries;
    ours.then_some(answer)
}

fn source(upstream: Upstream) -> SocketAddr {
    let any = if upstream.server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(upstream.from.unwrap_or(any), 0)
}

async fn ask_udp(upstream: Upstream, question: &Query, patience: Duration) -> io::Result<Message> {
    let socket = UdpSocket::bind(source(upstream)).await?;
    socket.connect(upstream.server).await?;
    let query = query(question);
    let octets = query.to_vec().map_err(io::Error::other)?;
    // More than the query says that we take.
    let mut buffer = [0u8; 4096];
    loop {
        socket.send(&octets).await?;
        let heard = timeout(patience, async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                if let Some(answer) = matching(&buffer[..length], &query) {
                    return Ok(answer);
                }
            }
        });
        // The caller's deadline ends the tries.
        if let Ok(answer) = heard.await {
            return answer;
        }
    }
}

async fn ask_tcp(upstream: Upstream, question: &Query) -> io::Result<Message> {
    let socket = if upstream.server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(source(upstream))?;
    let mut stream = socket.connect(upstream.server).await?;
    let query = query(question);
    write_framed(&mut stream, &query.to_vec().map_err(io::Error::other)?).await?;
    let octets = read_framed(&mut stream).await?;
    matching(&octets, &query).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}
