//! What honest servers answer to the questions of techniques, as octets: what is broken afterwards, and what stands at the end of a row of
//! broken answers, so that a technique which looked through them all is seen to find it.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::rdata::{A, AAAA, TXT};
use hickory_proto::rr::{RData, Record, RecordType};

/// What an honest server sees.
pub const EXIT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 3);
/// What only those say who were not asked: the wrong transaction, the wrong sender, the wrong place. It must never be evidence.
pub const POISON: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);

/// Answers a question: with the address that is told, or not at all.
pub type Honest = fn(&[u8], Ipv4Addr) -> Option<Vec<u8>>;

/// STUN (RFC 8489).
pub fn stun(question: &[u8], ip: Ipv4Addr) -> Option<Vec<u8>> {
    let id = question.get(4..20)?;
    let masked: Vec<u8> = ip.octets().iter().zip(id).map(|(octet, mask)| octet ^ mask).collect();
    let software = [0x80, 0x22, 0, 4, b't', b'e', b's', b't'];
    Some([&[1, 1, 0, 20][..], id, &software, &[0, 0x20, 0, 8, 0, 1, 0x11, 0x22], &masked].concat())
}

/// A node of the DHT (BEP 5, 42).
pub fn dht(question: &[u8], ip: Ipv4Addr) -> Option<Vec<u8>> {
    let at = question.windows(6).position(|part| part == b"1:t4:\0" || part.starts_with(b"1:t4:"))?;
    let transaction = question.get(at + 5..at + 9)?;
    let octets = ip.octets();
    let nodes = b"5:nodes26:abcdefghij0123456789\x01\x02\x03\x04\x1a\xe1";
    Some(
        [
            b"d2:ip6:".as_slice(),
            &octets,
            b"\x1a\xe11:rd2:id20:mnopqrstuvwxyz123456",
            nodes,
            b"e1:t4:",
            transaction,
            b"1:v4:LT\x01\x021:y1:re",
        ]
        .concat(),
    )
}

/// A tracker over UDP (BEP 15).
pub fn tracker(question: &[u8], ip: Ipv4Addr) -> Option<Vec<u8>> {
    let transaction = question.get(12..16)?;
    match (question.len(), question.get(11)?) {
        (16, 0) => Some([&[0; 4][..], transaction, b"connctid"].concat()),
        (98, 1) => {
            let other = [1, 2, 3, 4, 0, 80];
            let head = [0, 0, 7, 8, 0, 0, 0, 1, 0, 0, 0, 0];
            Some([&[0, 0, 0, 1][..], transaction, &head, &other, &ip.octets(), &question[96..98]].concat())
        }
        _ => None,
    }
}

/// A router (RFC 6886, RFC 6887, UPnP).
pub fn router(question: &[u8], ip: Ipv4Addr) -> Option<Vec<u8>> {
    match question {
        [0, 0] => Some([&[0, 128, 0, 0, 0, 0, 0, 9][..], &ip.octets()].concat()),
        [2, 0, ..] => Some([&[2, 128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9][..], &[0; 12]].concat()),
        [b'M', b'-', ..] => {
            Some(b"HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\nLOCATION: http://192.0.2.1/\r\n\r\n".to_vec())
        }
        _ => None,
    }
}

/// A name server that knows every name (RFC 1035).
pub fn dns(question: &[u8], ip: Ipv4Addr) -> Option<Vec<u8>> {
    let asked = Message::from_vec(question).ok()?;
    let query = asked.queries.first()?.clone();
    let mut answer = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    let data = match query.query_type() {
        RecordType::AAAA => RData::AAAA(AAAA(ip.to_ipv6_mapped())),
        RecordType::TXT => RData::TXT(TXT::new(vec![ip.to_string(), "edns0-client-subnet 203.0.113.0/24".to_owned()])),
        _ => RData::A(A(ip)),
    };
    answer.add_answer(Record::from_rdata(query.name().clone(), 60, data));
    answer.add_query(query);
    answer.to_vec().ok()
}

/// Echo services and trackers over HTTP: whole answers, head and body.
pub fn web() -> Vec<Vec<u8>> {
    let bodies: [&[u8]; 7] = [
        br#"{"ip":"198.51.100.3","country":"Sweden","city":null,"mullvad_exit_ip":true,"blacklisted":{"blacklisted":false,"results":[]}}"#,
        b"198.51.100.3\n",
        b"fl=1\nip=198.51.100.3\nts=1\n",
        b"d8:completei0e11:external ip4:\xc6\x33\x64\x0310:incompletei1e8:intervali1800e5:peers12:\x01\x02\x03\x04\x00\x50\xc6\x33\x64\x03\x1a\xe1e",
        br#"{"listen_port":6881,"upnp":false,"lsd":false,"current_network_interface":"tun0","connection_status":"connected","last_external_address_v4":"198.51.100.3"}"#,
        br#"{"arguments":{"version":"4.0.6","peer-port":51413,"port-forwarding-enabled":true,"lpd-enabled":true},"result":"success"}"#,
        b"Ok.",
    ];
    let mut all: Vec<Vec<u8>> = bodies
        .iter()
        .map(|body| {
            let head = format!(
                "HTTP/1.1 200 OK\r\nServer: test\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            [head.as_bytes(), body].concat()
        })
        .collect();
    all.push(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n198.51.1\r\n4\r\n00.3\r\n0\r\nTrailer: x\r\n\r\n"
            .to_vec(),
    );
    all
}

/// Whether this is the address that must never be evidence.
pub fn is_poison(ip: IpAddr) -> bool {
    ip.to_canonical() == IpAddr::V4(POISON)
}
