//! STUN's binding request and its answer (RFC 8489), as octets. Pure and total; knows no sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const COOKIE: [u8; 4] = 0x2112_A442_u32.to_be_bytes();
const HEADER: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_RESPONSE: u16 = 0x0101;
const ERROR_RESPONSE: u16 = 0x0111;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const ERROR_CODE: u16 = 0x0009;

/// Tells one request and its answer from others.
pub type TransactionId = [u8; 12];

/// A binding request without attributes.
pub fn request(id: &TransactionId) -> Vec<u8> {
    [&BINDING_REQUEST.to_be_bytes()[..], &[0, 0], &COOKIE, id].concat()
}

/// What the answer to the request `id` says: the address that the server saw, or that it says none. `None`: these octets are no answer to
/// it, and one may come yet.
///
/// XOR-MAPPED-ADDRESS alone counts: routers rewrite the plain MAPPED-ADDRESS of older servers on its way.
pub fn response(octets: &[u8], id: &TransactionId) -> Option<Result<IpAddr, String>> {
    let (header, attributes) = octets.split_at_checked(HEADER)?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[4..8] != COOKIE || header[8..] != *id || length != attributes.len() || !length.is_multiple_of(4) {
        return None;
    }
    match u16::from_be_bytes([header[0], header[1]]) {
        BINDING_RESPONSE => Some(
            find(attributes, XOR_MAPPED_ADDRESS)
                .and_then(|value| address(value, &header[4..]))
                .ok_or_else(|| "its answer holds no address".to_owned()),
        ),
        ERROR_RESPONSE => {
            let code = find(attributes, ERROR_CODE)
                .and_then(|value| Some(u16::from(value.get(2)? & 7) * 100 + u16::from(*value.get(3)?)));
            Some(Err(code.map_or_else(
                || "it answered with an error".to_owned(),
                |code| format!("it answered with error {code}"),
            )))
        }
        _ => None,
    }
}

/// The value of the first attribute of a kind.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (head, rest) = attributes.split_at_checked(4)?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if u16::from_be_bytes([head[0], head[1]]) == wanted {
            return rest.get(..length);
        }
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
}

/// The address in the value of XOR-MAPPED-ADDRESS (14.2); `key` is the cookie and the transaction's id.
fn address(value: &[u8], key: &[u8]) -> Option<IpAddr> {
    let masked = value.get(4..)?;
    let clear: Vec<u8> = masked.iter().zip(key).map(|(octet, mask)| octet ^ mask).collect();
    match (value.get(1)?, masked.len()) {
        (1, 4) => <[u8; 4]>::try_from(clear).ok().map(|octets| Ipv4Addr::from(octets).into()),
        (2, 16) => <[u8; 16]>::try_from(clear).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::mutate;
    use super::*;
    use proptest::prelude::*;

    /// The answer of RFC 5769, 2.2 and 2.3: SOFTWARE, XOR-MAPPED-ADDRESS, MESSAGE-INTEGRITY, FINGERPRINT.
    const ID: TransactionId = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];
    const V4: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";
    const V6: &str = "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c";

    fn octets(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn the_vectors_of_rfc_5769() {
        assert_eq!(response(&octets(V4), &ID), Some(Ok("192.0.2.1".parse().unwrap())));
        assert_eq!(response(&octets(V6), &ID), Some(Ok("2001:db8:1234:5678:11:2233:4455:6677".parse().unwrap())));
        assert_eq!(request(&ID), octets("000100002112a442b7e7a701bc34d686fa87dfae"));
    }

    #[test]
    fn an_answer_to_another_request_is_none() {
        let mut other = ID;
        other[3] ^= 1;
        assert_eq!(response(&octets(V4), &other), None);
        let mut request = octets(V4);
        request[1] = 1;
        request[0] = 0;
        assert_eq!(response(&request, &ID), None, "a request is no answer");
        assert_eq!(response(&octets(V4)[..70], &ID), None, "cut short");
        assert_eq!(response(b"", &ID), None);
    }

    #[test]
    fn an_answer_without_an_address_says_so() {
        let with = |kind: u16, attributes: &[u8]| {
            let length = u16::try_from(attributes.len()).unwrap().to_be_bytes();
            [&kind.to_be_bytes()[..], &length, &COOKIE, &ID, attributes].concat()
        };
        let nothing = Some(Err("its answer holds no address".to_owned()));
        assert_eq!(response(&with(BINDING_RESPONSE, &[]), &ID), nothing);
        let mapped = [0, 1, 0, 8, 0, 1, 0x12, 0x34, 203, 0, 113, 10];
        assert_eq!(response(&with(BINDING_RESPONSE, &mapped), &ID), nothing, "what routers rewrite does not count");
        let odd = [0, 0x20, 0, 8, 0, 9, 0, 0, 1, 2, 3, 4];
        assert_eq!(response(&with(BINDING_RESPONSE, &odd), &ID), nothing, "no such family");
        let refused = [0, 9, 0, 4, 0, 0, 4, 20];
        assert_eq!(response(&with(ERROR_RESPONSE, &refused), &ID), Some(Err("it answered with error 420".to_owned())));
    }

    #[test]
    fn a_hundred_thousand_broken_answers_do_no_harm() {
        for (number, octets) in mutate::all(&[&octets(V4), &octets(V6)], 100_000).enumerate() {
            if let Some(Err(why)) = response(&octets, &ID) {
                assert!(why.len() < 60, "{number}: {why}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_address_survives_the_masking(ip: u32, port: u16, id: TransactionId) {
            let key = [&COOKIE[..], &id].concat();
            let masked: Vec<u8> = ip.to_be_bytes().iter().zip(&key).map(|(octet, mask)| octet ^ mask).collect();
            let value = [&[0, 0x20, 0, 8, 0, 1][..], &(port ^ 0x2112).to_be_bytes(), &masked].concat();
            let answer = [&[1, 1, 0, 12][..], &COOKIE, &id, &value].concat();
            prop_assert_eq!(response(&answer, &id), Some(Ok(Ipv4Addr::from(ip).into())));
        }

        #[test]
        fn any_octets_do_no_harm(octets in proptest::collection::vec(any::<u8>(), 0..200), id: TransactionId) {
            let _ = response(&octets, &id);
        }
    }
}
