//! A tracker that tells the announcer where it was seen: over UDP (BEP 15) as the only peer, over HTTP by `external ip` (BEP 24). It
//! remembers no torrent. Its HTTP side is one of the `sites`.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::UdpSocket;

use super::dht::packed;
use super::journal::{Journal, Protocol, What, canonical};

const MAGIC: [u8; 8] = 0x0417_2710_1980_u64.to_be_bytes();
const ERROR: [u8; 4] = [0, 0, 0, 3];
/// Length of an announcement without extensions.
const ANNOUNCEMENT: usize = 98;
/// Seconds until an announcer should come again.
const INTERVAL: u32 = 1800;

/// Answers until dropped, and writes announcements into the journal.
pub async fn serve(socket: UdpSocket, service: &str, journal: Journal) {
    let service: Arc<str> = service.into();
    let key = RandomState::new();
    let mut buffer = [0u8; 2048];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            // An ICMP error for an earlier answer; a pause in case the socket itself is broken.
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            continue;
        };
        let seen = canonical(peer);
        // Proof that the announcer gets what is sent to the address from which it seems to come, without keeping anything.
        let connection = key.hash_one(seen).to_be_bytes();
        if let Some(reply) = answer(&buffer[..length], seen, connection) {
            if reply[..4] == [0, 0, 0, 1] {
                journal.record(&service, Protocol::Udp, peer, What::Announce);
            }
            // A lost answer is what UDP may do; the client asks again.
            let _ = socket.send_to(&reply, peer).await;
        }
    }
}

/// The answer to a datagram; `None` when it is no request.
fn answer(request: &[u8], peer: SocketAddr, connection: [u8; 8]) -> Option<Vec<u8>> {
    let (head, rest) = request.split_first_chunk::<8>()?;
    let (action, rest) = rest.split_first_chunk::<4>()?;
    let transaction = rest.first_chunk::<4>()?;
    match u32::from_be_bytes(*action) {
        0 if *head == MAGIC => Some([&[0; 4][..], transaction, &connection].concat()),
        1 if *head == connection && request.len() >= ANNOUNCEMENT => {
            let claimed = u16::from_be_bytes([request[96], request[97]]);
            let peers = packed(SocketAddr::new(peer.ip(), claimed));
            let counts = [INTERVAL, 1, 0].map(u32::to_be_bytes).concat();
            Some([&[0, 0, 0, 1][..], transaction, &counts, &peers].concat())
        }
        1 => Some([&ERROR[..], transaction, b"connection is not known"].concat()),
        _ => None,
    }
}

/// The answer to an announcement over HTTP.
pub(super) fn http_answer(seen: IpAddr) -> Vec<u8> {
    let address = match seen {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mut reply = format!("d8:completei0e11:external ip{}:", address.len()).into_bytes();
    reply.extend(address);
    reply.extend(format!("10:incompletei1e8:intervali{INTERVAL}e5:peers0:e").bytes());
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(head: [u8; 8], action: u8, length: usize) -> Vec<u8> {
        let mut octets = head.to_vec();
        octets.extend([0, 0, 0, action, 9, 9, 9, 9]);
        octets.resize(length, 0);
        octets
    }

    #[test]
    fn connects_and_lists_the_announcer() {
        let peer = "203.0.113.10:40000".parse().unwrap();
        let connection = [1, 2, 3, 4, 5, 6, 7, 8];
        let connected = answer(&request(MAGIC, 0, 16), peer, connection).unwrap();
        assert_eq!(connected, [0, 0, 0, 0, 9, 9, 9, 9, 1, 2, 3, 4, 5, 6, 7, 8]);
        let mut announcement = request(connection, 1, ANNOUNCEMENT);
        announcement[96..].copy_from_slice(&6881u16.to_be_bytes());
        let announced = answer(&announcement, peer, connection).unwrap();
        assert_eq!(announced[20..], [203, 0, 113, 10, 0x1a, 0xe1]);
    }

    #[test]
    fn takes_no_announcement_outside_a_connection() {
        let peer = "203.0.113.10:40000".parse().unwrap();
        let refused = answer(&request([9; 8], 1, ANNOUNCEMENT), peer, [1; 8]).unwrap();
        assert_eq!(refused[..4], ERROR);
        assert_eq!(answer(&request([9; 8], 0, 16), peer, [1; 8]), None);
        assert_eq!(answer(b"short", peer, [1; 8]), None);
    }

    #[test]
    fn http_answers_hold_the_address() {
        let reply = http_answer("203.0.113.10".parse().unwrap());
        assert!(reply.windows(20).any(|part| part == b"11:external ip4:\xcb\x00\x71\x0a"));
    }
}
