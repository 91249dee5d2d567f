//! A flow that is older than the firewall: it goes on by the ESTABLISHED rule, which Gluetun has before all others.

use super::StackError;
use crate::net::nft::{Batch, Chain, HookPoint, Match, Nft, Policy, Rule, Table, TableFamily, Verdict, state};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::BinEncodable;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use tokio::time::timeout;

/// Longest wait for the answer that makes the flow known to connection tracking.
const PATIENCE: Duration = Duration::from_secs(2);

/// Opens a flow to a resolver by `link`, past everything, and has it answered once; to be called before the firewall is
/// there. Returns its socket and the question to send on.
pub(super) async fn flow(to: SocketAddr, link: &str) -> Result<(UdpSocket, Vec<u8>), StackError> {
    // Connection tracking is off in a namespace until a rule asks for it; in a container Docker's own rules do.
    let table = Table::new(TableFamily::Inet, "docker");
    let mut batch = Batch::new();
    batch.add_table(&table);
    batch.add_chain(&table, &Chain::filter("OUTPUT", HookPoint::Output, Policy::Accept));
    batch.append_rule(&table, "OUTPUT", &Rule::new(Verdict::Count).when(Match::State(state::NEW)).counted());
    Nft::open()?.commit(batch)?;
    let question = question().map_err(StackError::Sabotage)?;
    let socket = open(to, link, &question).await.map_err(StackError::Sabotage)?;
    Ok((socket, question))
}

async fn open(to: SocketAddr, link: &str, question: &[u8]) -> io::Result<UdpSocket> {
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
