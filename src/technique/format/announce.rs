//! What is said to a tracker and what it answers, as octets: over HTTP (BEP 3, 7, 23, and the address of the announcer by BEP 24) and over
//! UDP (BEP 15). Pure and total; knows no sockets.
//!
//! A tracker over UDP does not say where it saw the announcer. But it may list it among the peers, and for a torrent that nobody else can
//! know, a peer with the announced port is the announcer.

use std::net::IpAddr;

use super::bencode::{Value, text};
use super::compact;

const MAGIC: u64 = 0x0417_2710_1980;
const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const ERROR: u32 = 3;
/// Event "started".
const STARTED: u32 = 2;
const SILENT: &str = "it answered, but does not say where it saw the announcer";

/// An announcement: of a torrent that is made up for it, by a peer that is.
#[derive(Debug, Clone)]
pub struct Announcement {
    /// 20 random octets, so that nobody else is in this swarm.
    pub torrent: [u8; 20],
    /// The peer's number.
    pub peer: [u8; 20],
    /// The port that the peer says that it listens on.
    pub port: u16,
}

impl Announcement {
    /// The query of an announcement over HTTP.
    pub fn query(&self) -> String {
        let escaped = |octets: &[u8]| octets.iter().map(|octet| format!("%{octet:02x}")).collect::<String>();
        format!(
            "info_hash={}&peer_id={}&port={}&uploaded=0&downloaded=0&left=1&compact=1&numwant=5&event=started",
            escaped(&self.torrent),
            escaped(&self.peer),
            self.port
        )
    }

    /// What a tracker's answer over HTTP says: where it saw the announcer.
    ///
    /// # Errors
    /// When it does not say.
    pub fn answer(&self, body: &[u8]) -> Result<IpAddr, String> {
        let answer = Value::read(body).ok_or("its answer is not bencoded")?;
        if let Some(ip) = answer.get(b"external ip").and_then(Value::octets).and_then(compact::address) {
            return Ok(ip);
        }
        let packed = |key: &[u8], v6| {
            let peers = answer.get(key).and_then(Value::octets).unwrap_or_default();
            compact::list(peers, v6).find(|peer| peer.port() == self.port).map(|peer| peer.ip())
        };
        let listed = || {
            let peers = answer.get(b"peers").and_then(Value::list).unwrap_or_default();
            let own =
                peers.iter().find(|peer| peer.get(b"port").and_then(Value::integer) == Some(i64::from(self.port)))?;
            std::str::from_utf8(own.get(b"ip")?.octets()?).ok()?.parse().ok()
        };
        packed(b"peers", false).or_else(|| packed(b"peers6", true)).or_else(listed).ok_or_else(|| {
            match answer.get(b"failure reason").and_then(Value::octets) {
                Some(reason) => format!("it refuses: {}", text(reason)),
                None => SILENT.to_owned(),
            }
        })
    }

    /// An announcement over UDP, in the connection that [`connection`] gave.
    pub fn datagram(&self, connection: u64, transaction: u32) -> Vec<u8> {
        let mut octets = Vec::with_capacity(98);
        octets.extend(connection.to_be_bytes());
        octets.extend(ANNOUNCE.to_be_bytes());
        octets.extend(transaction.to_be_bytes());
        octets.extend(self.torrent);
        octets.extend(self.peer);
        // Downloaded, left, uploaded.
        for amount in [0u64, 1, 0] {
            octets.extend(amount.to_be_bytes());
        }
        // Event, no address of our own choice, a key, peers that are wanted.
        for number in [STARTED, 0, transaction, 5] {
            octets.extend(number.to_be_bytes());
        }
        octets.extend(self.port.to_be_bytes());
        octets
    }

    /// What the answer to [`Announcement::datagram`] says; `None`: these octets are no answer to it.
    pub fn answer_datagram(&self, octets: &[u8], transaction: u32, v6: bool) -> Option<Result<IpAddr, String>> {
        let rest = match reply(octets, ANNOUNCE, transaction)? {
            Ok(rest) => rest,
            Err(why) => return Some(Err(why)),
        };
        // Interval, leechers, seeders.
        let peers = rest.get(12..)?;
        let own = compact::list(peers, v6).find(|peer| peer.port() == self.port);
        Some(own.map(|peer| peer.ip()).ok_or_else(|| SILENT.to_owned()))
    }
}

/// The request for a connection (BEP 15).
pub fn connect(transaction: u32) -> Vec<u8> {
    [&MAGIC.to_be_bytes()[..], &CONNECT.to_be_bytes(), &transaction.to_be_bytes()].concat()
}

/// The number of the connection in the answer to [`connect`]; `None`: these octets are no answer to it.
pub fn connection(octets: &[u8], transaction: u32) -> Option<Result<u64, String>> {
    match reply(octets, CONNECT, transaction)? {
        Ok(rest) => rest.first_chunk().map(|number| Ok(u64::from_be_bytes(*number))),
        Err(why) => Some(Err(why)),
    }
}

/// What follows action and transaction, when they are the right ones.
fn reply(octets: &[u8], action: u32, transaction: u32) -> Option<Result<&[u8], String>> {
    let (head, rest) = octets.split_first_chunk::<4>()?;
    let (number, rest) = rest.split_first_chunk::<4>()?;
    if u32::from_be_bytes(*number) != transaction {
        return None;
    }
    match u32::from_be_bytes(*head) {
        ERROR => Some(Err(format!("it refuses: {}", text(rest)))),
        known if known == action => Some(Ok(rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::mutate;
    use super::*;
    use proptest::prelude::*;

    const OURS: Announcement = Announcement { torrent: [0xa1; 20], peer: *b"-LK0100-abcdefghijkl", port: 6881 };
    const BEP_24: &[u8] = b"d8:completei0e11:external ip4:\xc6\x33\x64\x0310:incompletei1e8:intervali1800e5:peers0:e";
    const PEERS: &[u8] = b"d8:intervali1800e5:peers12:\x01\x02\x03\x04\x00\x50\xc6\x33\x64\x03\x1a\xe1e";
    const LISTED: &[u8] = b"d8:intervali9e5:peersld2:ip7:1.2.3.44:porti80eed2:ip14:2001:db8:51::34:porti6881eeee";
    const CONNECTED: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8];
    const ANNOUNCED: &[u8] = &[
        0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 7, 8, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4, 0, 80, 0xc6, 0x33, 0x64, 3, 0x1a, 0xe1,
    ];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn over_http_the_tracker_says_where_it_saw_us() {
        assert_eq!(OURS.answer(BEP_24), Ok(ip("198.51.100.3")));
        assert_eq!(OURS.answer(PEERS), Ok(ip("198.51.100.3")));
        assert_eq!(OURS.answer(LISTED), Ok(ip("2001:db8:51::3")));
        assert!(OURS.query().starts_with("info_hash=%a1%a1"));
    }

    #[test]
    fn over_http_anything_else_is_no_answer() {
        let other = Announcement { port: 6882, ..OURS };
        assert_eq!(other.answer(PEERS), Err(SILENT.to_owned()), "another peer is not us");
        assert_eq!(OURS.answer(b"d8:intervali1800e5:peers0:e"), Err(SILENT.to_owned()));
        assert_eq!(OURS.answer(b"d14:failure reason4:no\x1b!e"), Err("it refuses: no !".to_owned()));
        assert_eq!(OURS.answer(b"<html>"), Err("its answer is not bencoded".to_owned()));
        assert_eq!(OURS.answer(b"d11:external ip3:abce"), Err(SILENT.to_owned()));
    }

    #[test]
    fn over_udp_as_bep_15_has_it() {
        assert_eq!(connect(7), [0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(connection(CONNECTED, 7), Some(Ok(0x0102_0304_0506_0708)));
        let datagram = OURS.datagram(0x0102_0304_0506_0708, 9);
        assert_eq!((datagram.len(), &datagram[8..16]), (98, &[0, 0, 0, 1, 0, 0, 0, 9][..]));
        assert_eq!((&datagram[16..36], &datagram[96..]), (&OURS.torrent[..], &[0x1a, 0xe1][..]));
        assert_eq!(OURS.answer_datagram(ANNOUNCED, 7, false), Some(Ok(ip("198.51.100.3"))));
        assert_eq!(OURS.answer_datagram(&ANNOUNCED[..26], 7, false), Some(Err(SILENT.to_owned())));
    }

    #[test]
    fn over_udp_anything_else_is_no_answer() {
        assert_eq!(connection(CONNECTED, 8), None, "to another request");
        assert_eq!(connection(&CONNECTED[..12], 7), None);
        assert_eq!(connection(ANNOUNCED, 7), None);
        assert_eq!(OURS.answer_datagram(CONNECTED, 7, false), None);
        assert_eq!(OURS.answer_datagram(&ANNOUNCED[..18], 7, false), None);
        let refused = [&[0, 0, 0, 3, 0, 0, 0, 7][..], b"go\naway"].concat();
        assert_eq!(OURS.answer_datagram(&refused, 7, false), Some(Err("it refuses: go away".to_owned())));
    }

    #[test]
    fn a_hundred_thousand_broken_answers_do_no_harm() {
        for octets in mutate::all(&[BEP_24, PEERS, LISTED, CONNECTED, ANNOUNCED], 100_000) {
            let told = [
                OURS.answer(&octets).err(),
                connection(&octets, 7).and_then(Result::err),
                OURS.answer_datagram(&octets, 7, octets.len() % 2 == 0).and_then(Result::err),
            ];
            for why in told.into_iter().flatten() {
                assert!(why.chars().count() < 120 && !why.chars().any(char::is_control), "{why:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_octets_do_no_harm(octets in proptest::collection::vec(any::<u8>(), 0..200), transaction: u32, v6: bool) {
            let _ = (OURS.answer(&octets), connection(&octets, transaction));
            let _ = OURS.answer_datagram(&octets, transaction, v6);
        }

        #[test]
        fn a_stranger_is_never_taken_for_us(peers in proptest::collection::vec((any::<u32>(), 1u16..6881), 0..20)) {
            let packed: Vec<u8> =
                peers.iter().flat_map(|(ip, port)| [&ip.to_be_bytes()[..], &port.to_be_bytes()].concat()).collect();
            let head = [0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 7, 8, 0, 0, 0, 1, 0, 0, 0, 0];
            let answer = [&head[..], &packed].concat();
            prop_assert_eq!(OURS.answer_datagram(&answer, 7, false), Some(Err(SILENT.to_owned())));
        }
    }
}
