//! A flow that is older than the firewall: it goes on by the ESTABLISHED rule, which Gluetun has before all others.

use super::StackError;
use crate::net::nft::{Batch, Chain, HookPoint, Match, Nft, Policy, Rule, Table, TableFamily, Verdict, state};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::BinEncodable;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::timeout;

/// Longest wait for the answer that makes the flow known to connection tracking.
const PATIENCE: Duration = Duration::from_secs(2);

/// An open flow and the question that it asks.
pub(super) struct Flow {
    socket: Open,
    question: Vec<u8>,
}

enum Open {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Flow {
    /// Asks once more. That the firewall refuses it would be a sealed stack's good right.
    pub(super) fn ask(&mut self) {
        let _ = match &mut self.socket {
            Open::Udp(socket) => socket.send(&self.question),
            // Answers are taken off, so that the connection goes on.
            Open::Tcp(stream) => stream.write(&self.question).and_then(|_| stream.read(&mut [0; 4096])),
        };
    }
}

/// Opens a flow to a resolver by `link`, past everything, and has it answered once; to be called before the firewall is
/// there.
pub(super) async fn flow(to: SocketAddr, tcp: bool, link: &str) -> Result<Flow, StackError> {
    // Connection tracking is off in a namespace until a rule asks for it; in a container Docker's own rules do.
    let table = Table::new(TableFamily::Inet, "docker");
    let mut batch = Batch::new();
    batch.add_table(&table);
    batch.add_chain(&table, &Chain::filter("OUTPUT", HookPoint::Output, Policy::Accept));
    batch.append_rule(&table, "OUTPUT", &Rule::new(Verdict::Count).when(Match::State(state::NEW)).counted());
    Nft::open()?.commit(batch)?;
    let mut question = question().map_err(StackError::Sabotage)?;
    let socket = if tcp {
        // RFC 1035, section 4.2.2.
        question.splice(0..0, (question.len() as u16).to_be_bytes());
        open_tcp(to, link, &question).await.map(Open::Tcp)
    } else {
        open_udp(to, link, &question).await.map(Open::Udp)
    };
    Ok(Flow { socket: socket.map_err(StackError::Sabotage)?, question })
}

async fn open_tcp(to: SocketAddr, link: &str, question: &[u8]) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind_device(Some(link.as_bytes()))?;
    let mut stream = timeout(PATIENCE, socket.connect(to)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    stream.write_all(question).await?;
    timeout(PATIENCE, stream.read(&mut [0; 1500])).await.map_err(|_| io::ErrorKind::TimedOut)??;
    stream.into_std()
}

async fn open_udp(to: SocketAddr, link: &str, question: &[u8]) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((crate::lab::plan::unspecified(to.ip()), 0))?;
    socket2::SockRef::from(&socket).bind_device(Some(link.as_bytes()))?;
    socket.set_nonblocking(true)?;
    socket.connect(to)?;
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    socket.send(question).await?;
    timeout(PATIENCE, socket.recv(&mut [0; 1500])).await.map_err(|_| io::ErrorKind::TimedOut)??;
    socket.into_std()
}

fn question() -> io::Result<Vec<u8>> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii("example.com.").map_err(io::Error::other)?, RecordType::A));
    message.to_bytes().map_err(io::Error::other)
}
