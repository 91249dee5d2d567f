//! A node of the DHT (BEP 5) that helps others to begin: answers ping and find_node, tells each asker its address (BEP 42), and knows no
//! other node.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::UdpSocket;

use super::journal::{Journal, Protocol, What, canonical};
use crate::technique::format::bencode::Value;

/// The node's number.
const ID: &[u8; 20] = b"leakcheck-lab's node";
/// Longest transaction number that is repeated.
const MAX_TRANSACTION: usize = 16;

/// Answers questions until dropped, and writes them into the journal.
pub async fn serve(socket: UdpSocket, service: &str, journal: Journal) {
    let service: Arc<str> = service.into();
    let mut buffer = [0u8; 2048];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            // An ICMP error for an earlier answer; a pause in case the socket itself is broken.
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            continue;
        };
        if let Some(reply) = answer(&buffer[..length], canonical(peer)) {
            journal.record(&service, Protocol::Udp, peer, What::Dht);
            // A lost answer is what UDP may do; the client asks again.
            let _ = socket.send_to(&reply, peer).await;
        }
    }
}

/// The answer to a datagram; `None` when it is no question of a node.
fn answer(question: &[u8], peer: SocketAddr) -> Option<Vec<u8>> {
    let message = Value::read(question)?;
    let transaction = message.get(b"t")?.octets()?;
    let asker = message.get(b"a")?.get(b"id")?.octets()?;
    if message.get(b"y")?.octets()? != b"q" || asker.len() != ID.len() || transaction.len() > MAX_TRANSACTION {
        return None;
    }
    let mut reply = b"d".to_vec();
    let known = match message.get(b"q")?.octets()? {
        b"ping" => Some(&b""[..]),
        b"find_node" => Some(&b"5:nodes0:"[..]),
        _ => None,
    };
    if known.is_none() {
        reply.extend(b"1:eli204e14:Method Unknowne");
    }
    let seen = packed(peer);
    reply.extend(format!("2:ip{}:", seen.len()).bytes());
    reply.extend(seen);
    if let Some(nodes) = known {
        reply.extend(b"1:rd2:id20:");
        reply.extend(ID);
        reply.extend(nodes);
        reply.push(b'e');
    }
    reply.extend(format!("1:t{}:", transaction.len()).bytes());
    reply.extend(transaction);
    reply.extend(if known.is_some() { b"1:y1:re" } else { b"1:y1:ee" });
    Some(reply)
}

/// An address and its port, as BitTorrent packs them.
pub(super) fn packed(peer: SocketAddr) -> Vec<u8> {
    let mut octets = match peer.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    octets.extend(peer.port().to_be_bytes());
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_bep_5_and_42_have_it() {
        let peer = "203.0.113.10:6881".parse().unwrap();
        let ping = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe";
        let expected = b"d2:ip6:\xcb\x00\x71\x0a\x1a\xe11:rd2:id20:leakcheck-lab's nodee1:t2:aa1:y1:re";
        assert_eq!(answer(ping, peer).unwrap(), expected);
        let find = b"d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q9:find_node1:t2:aa1:y1:qe";
        let nodes = answer(find, "[2001:db8::1]:1".parse().unwrap()).unwrap();
        assert!(nodes.starts_with(b"d2:ip18:\x20\x01\x0d\xb8") && nodes.windows(9).any(|part| part == b"5:nodes0:"));
        let odd = b"d1:ad2:id20:abcdefghij0123456789e1:q4:pong1:t2:aa1:y1:qe";
        assert!(answer(odd, peer).unwrap().starts_with(b"d1:eli204e"));
    }

    #[test]
    fn is_silent_to_anything_else() {
        let peer = "203.0.113.10:6881".parse().unwrap();
        for question in
            [&b""[..], b"d1:y1:qe", b"d1:ad2:id3:abce1:q4:ping1:t2:aa1:y1:qe", b"d1:rd2:id1:ae1:t1:a1:y1:re"]
        {
            assert_eq!(answer(question, peer), None);
        }
    }
}
