//! A STUN server (RFC 8489): answers a binding request with the address and port from which it came, which is what UDP
//! looks like from outside. No authentication, no other method.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::UdpSocket;

use super::journal::{Journal, Protocol, What, canonical};

const COOKIE: u32 = 0x2112_A442;
const HEADER: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_RESPONSE: u16 = 0x0101;
const ERROR_RESPONSE: u16 = 0x0111;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
const FINGERPRINT: u16 = 0x8028;
/// Attributes below this must be understood (RFC 8489, 14).
const COMPREHENSION_OPTIONAL: u16 = 0x8000;
/// Attributes that are understood as far as a server without authentication has to: USERNAME, MESSAGE-INTEGRITY.
const TOLERATED: [u16; 2] = [0x0006, 0x0008];
/// Unknown attributes that an error names at most.
const NAMED: usize = 16;

/// Answers binding requests until dropped, and writes them into the journal.
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
            journal.record(&service, Protocol::Udp, peer, What::Stun);
            // A lost answer is what UDP may do; the client asks again.
            let _ = socket.send_to(&reply, peer).await;
        }
    }
}

/// The answer to a datagram; `None` when it is no STUN binding request.
fn answer(request: &[u8], peer: SocketAddr) -> Option<Vec<u8>> {
    let (header, attributes) = request.split_at_checked(HEADER)?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let is_request = u16::from_be_bytes([header[0], header[1]]) == BINDING_REQUEST
        && header[4..8] == COOKIE.to_be_bytes()
        && length == attributes.len()
        && length.is_multiple_of(4);
    if !is_request {
        return None;
    }
    let (kind, attributes) = match unknown_attributes(attributes)? {
        unknown if unknown.is_empty() => (BINDING_RESPONSE, mapped_address(peer, &header[4..HEADER])),
        unknown => (ERROR_RESPONSE, refusal(&unknown)),
    };
    let mut reply = Vec::with_capacity(HEADER + attributes.len());
    reply.extend(kind.to_be_bytes());
    reply.extend(u16::try_from(attributes.len()).ok()?.to_be_bytes());
    reply.extend(&header[4..HEADER]);
    reply.extend(attributes);
    Some(reply)
}

/// The attributes that had to be understood and are not; `None` when they are cut short.
fn unknown_attributes(mut attributes: &[u8]) -> Option<Vec<u16>> {
    let mut unknown = Vec::new();
    while !attributes.is_empty() {
        let (head, rest) = attributes.split_at_checked(4)?;
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let padded = usize::from(u16::from_be_bytes([head[2], head[3]])).next_multiple_of(4);
        attributes = rest.get(padded..)?;
        if kind == FINGERPRINT {
            // It is the last one by definition.
            break;
        }
        let known = kind >= COMPREHENSION_OPTIONAL || TOLERATED.contains(&kind);
        if !known && unknown.len() < NAMED {
            unknown.push(kind);
        }
    }
    Some(unknown)
}

/// XOR-MAPPED-ADDRESS (RFC 8489, 14.2); `key` is cookie and transaction id.
fn mapped_address(peer: SocketAddr, key: &[u8]) -> Vec<u8> {
    let (family, address) = match peer.ip() {
        IpAddr::V4(ip) => (1u8, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2u8, ip.octets().to_vec()),
    };
    let [cookie_high, cookie_low, ..] = COOKIE.to_be_bytes();
    let port = peer.port() ^ u16::from_be_bytes([cookie_high, cookie_low]);
    let mut value = vec![0, family];
    value.extend(port.to_be_bytes());
    value.extend(address.iter().zip(key).map(|(byte, mask)| byte ^ mask));
    attribute(XOR_MAPPED_ADDRESS, &value)
}

/// 420 and the attributes that are not understood.
fn refusal(unknown: &[u16]) -> Vec<u8> {
    let mut code = vec![0, 0, 4, 20];
    code.extend(b"Unknown Attribute");
    let names: Vec<u8> = unknown.iter().flat_map(|kind| kind.to_be_bytes()).collect();
    [attribute(ERROR_CODE, &code), attribute(UNKNOWN_ATTRIBUTES, &names)].concat()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = kind.to_be_bytes().to_vec();
    // Values here are a few dozen bytes.
    attribute.extend((value.len() as u16).to_be_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 12] = *b"transactions";

    fn request(attributes: &[u8]) -> Vec<u8> {
        let length = u16::try_from(attributes.len()).unwrap();
        [&[0, 1], &length.to_be_bytes()[..], &COOKIE.to_be_bytes(), &ID, attributes].concat()
    }

    /// Undoes the XOR without using the code under test.
    fn mapped(reply: &[u8]) -> SocketAddr {
        assert_eq!((&reply[..2], &reply[4..8], &reply[8..20]), (&[1, 1][..], &[0x21, 0x12, 0xA4, 0x42][..], &ID[..]));
        assert_eq!(usize::from(u16::from_be_bytes([reply[2], reply[3]])), reply.len() - 20);
        assert_eq!(reply[20..22], [0, 0x20]);
        let port = u16::from_be_bytes([reply[26], reply[27]]) ^ 0x2112;
        let clear: Vec<u8> = reply[28..].iter().zip(&reply[4..20]).map(|(byte, mask)| byte ^ mask).collect();
        let ip = match reply[25] {
            1 => IpAddr::from(<[u8; 4]>::try_from(&clear[..]).unwrap()),
            2 => IpAddr::from(<[u8; 16]>::try_from(&clear[..]).unwrap()),
            other => panic!("family {other}"),
        };
        SocketAddr::new(ip, port)
    }

    #[test]
    fn maps_both_families() {
        for peer in ["203.0.113.10:40000", "[2001:db8:113::10]:65535"] {
            let peer = peer.parse().unwrap();
            assert_eq!(mapped(&answer(&request(&[]), peer).unwrap()), peer);
        }
    }

    #[test]
    fn tells_which_attributes_it_does_not_know() {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        // CHANGE-REQUEST (RFC 5780) has to be understood and is not; SOFTWARE may be passed over.
        let software = [0x80, 0x22, 0, 2, b'x', b'y', 0, 0];
        assert_eq!(mapped(&answer(&request(&software), peer).unwrap()), peer);
        let change = [0, 3, 0, 4, 0, 0, 0, 6];
        let refused = answer(&request(&[software, change].concat()), peer).unwrap();
        assert_eq!(refused[..2], ERROR_RESPONSE.to_be_bytes());
        assert!(refused.windows(4).any(|window| window == [0, 0, 4, 20]), "420");
        assert_eq!(refused[refused.len() - 4..], [0, 3, 0, 0], "the attribute, padded");
    }

    #[test]
    fn is_silent_on_what_is_no_request() {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let good = request(&[0x80, 0x22, 0, 4, 1, 2, 3, 4]);
        assert!(answer(&good, peer).is_some());
        for cut in 0..good.len() {
            assert!(answer(&good[..cut], peer).is_none(), "cut to {cut}");
        }
        // An answer, another cookie, an attribute longer than the message.
        for (at, value) in [(0, 1), (4, 0), (23, 200)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(answer(&bad, peer).is_none(), "octet {at}");
        }
    }

    #[test]
    fn survives_noise() {
        use rand::{RngExt, SeedableRng};
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut noise = rand::rngs::StdRng::seed_from_u64(8489);
        let good = request(&[0x80, 0x22, 0, 4, 1, 2, 3, 4, 0, 3, 0, 4, 0, 0, 0, 6]);
        let mut answered = 0;
        for _ in 0..50_000 {
            let mut message = good.clone();
            for _ in 0..noise.random_range(1..4) {
                let at = noise.random_range(0..message.len());
                message[at] = noise.random();
            }
            if let Some(reply) = answer(&message, peer) {
                answered += 1;
                assert_eq!(usize::from(u16::from_be_bytes([reply[2], reply[3]])), reply.len() - 20);
            }
        }
        assert!(answered > 1000, "the noise must reach the attributes too: {answered}");
    }

    #[tokio::test]
    async fn answers_on_the_wire_whatever_came_before() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = socket.local_addr().unwrap();
        let journal = Journal::new();
        let task = tokio::spawn(serve(socket, "stun", journal.clone()));
        let client = UdpSocket::bind("127.0.0.9:0").await.unwrap();
        client.send_to(b"", server).await.unwrap();
        client.send_to(&[0xff; 1500], server).await.unwrap();
        client.send_to(&request(&[]), server).await.unwrap();
        let mut reply = [0; 100];
        let length = client.recv(&mut reply).await.unwrap();
        assert_eq!(mapped(&reply[..length]), client.local_addr().unwrap());
        let entries = journal.entries();
        assert_eq!(entries.len(), 1);
        assert_eq!((entries[0].peer, &entries[0].what), (client.local_addr().unwrap(), &What::Stun));
        task.abort();
    }
}
