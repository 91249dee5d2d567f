//! The DHT's questions and answers (BEP 5), as octets, and the address that an answer names as the asker's (BEP 42). Pure and total; knows
//! no sockets.

use std::net::IpAddr;

use super::bencode::{Value, text};
use super::compact;

/// Tells one question and its answer from others.
pub type TransactionId = [u8; 4];
/// A node's number, or a target's.
pub type NodeId = [u8; 20];

/// `ping`, from a node that only asks (BEP 43), so that nobody takes it up in a table.
pub fn ping(id: &NodeId, transaction: &TransactionId) -> Vec<u8> {
    [b"d1:ad2:id20:".as_slice(), id, b"e1:q4:ping2:roi1e1:t4:", transaction, b"1:y1:qe"].concat()
}

/// `find_node` for a number that nobody has: some nodes that only help others to begin answer nothing else.
pub fn find_node(id: &NodeId, target: &NodeId, transaction: &TransactionId) -> Vec<u8> {
    [b"d1:ad2:id20:".as_slice(), id, b"6:target20:", target, b"e1:q9:find_node2:roi1e1:t4:", transaction, b"1:y1:qe"]
        .concat()
}

/// What the answer to the question `transaction` says: the address that the node saw, or that it says none. `None`: these octets are no
/// answer to it, and one may come yet.
pub fn response(octets: &[u8], transaction: &TransactionId) -> Option<Result<IpAddr, String>> {
    let message = Value::read(octets)?;
    if message.get(b"t")?.octets()? != transaction {
        return None;
    }
    match message.get(b"y")?.octets()? {
        b"r" => Some(
            message
                .get(b"ip")
                .and_then(Value::octets)
                .and_then(|ip| compact::address_and_port(ip).map(|seen| seen.ip()).or_else(|| compact::address(ip)))
                .ok_or_else(|| "its answer does not say where the question came from".to_owned()),
        ),
        b"e" => {
            let told = message.get(b"e").and_then(Value::list).and_then(|list| list.get(1)).and_then(Value::octets);
            let told = told.map(text).unwrap_or_default();
            Some(Err(format!("it answered with an error: {told}")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::mutate;
    use super::*;
    use proptest::prelude::*;

    const ID: NodeId = *b"abcdefghij0123456789";
    const T: TransactionId = *b"aa01";
    const V4: &[u8] = b"d2:ip6:\xc6\x33\x64\x03\x1a\xe11:rd2:id20:mnopqrstuvwxyz123456e1:t4:aa011:v4:LT\x01\x021:y1:re";
    const V6: &[u8] =
        b"d2:ip18:\x20\x01\x0d\xb8\0\x51\0\0\0\0\0\0\0\0\0\x03\x1a\xe11:rd2:id20:mnopqrstuvwxyz123456e1:t4:aa011:y1:re";
    const ERROR: &[u8] = b"d1:eli201e23:A Generic Error Ocurrede1:t4:aa011:y1:ee";

    #[test]
    fn questions_are_those_of_bep_5() {
        // The example of the BEP, with a longer transaction and the key of BEP 43.
        assert_eq!(ping(&ID, &T), b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping2:roi1e1:t4:aa011:y1:qe");
        let question = find_node(&ID, b"mnopqrstuvwxyz123456", &T);
        let read = Value::read(&question).unwrap();
        assert_eq!(read.get(b"q").and_then(Value::octets), Some(&b"find_node"[..]));
        assert_eq!(
            read.get(b"a").and_then(|a| a.get(b"target")).and_then(Value::octets),
            Some(&b"mnopqrstuvwxyz123456"[..])
        );
        assert_eq!(read.get(b"ro").and_then(Value::integer), Some(1));
    }

    #[test]
    fn answers_name_the_asker() {
        assert_eq!(response(V4, &T), Some(Ok("198.51.100.3".parse().unwrap())));
        assert_eq!(response(V6, &T), Some(Ok("2001:db8:51::3".parse().unwrap())));
        assert_eq!(response(ERROR, &T), Some(Err("it answered with an error: A Generic Error Ocurred".to_owned())));
    }

    #[test]
    fn anything_else_is_no_answer() {
        assert_eq!(response(V4, b"aa02"), None, "to another question");
        assert_eq!(response(&ping(&ID, &T), &T), None, "a question is no answer");
        assert_eq!(response(&V4[..V4.len() - 1], &T), None);
        assert_eq!(response(b"d1:t4:aa01e", &T), None);
        let silent = b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t4:aa011:y1:re";
        assert!(response(silent, &T).unwrap().unwrap_err().contains("does not say"));
        let odd = b"d2:ip5:\x01\x02\x03\x04\x051:rde1:t4:aa011:y1:re";
        assert!(response(odd, &T).unwrap().is_err());
    }

    #[test]
    fn a_hundred_thousand_broken_answers_do_no_harm() {
        for octets in mutate::all(&[V4, V6, ERROR], 100_000) {
            if let Some(Err(why)) = response(&octets, &T) {
                assert!(why.chars().count() < 120 && !why.chars().any(char::is_control), "{why:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_octets_do_no_harm(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = response(&octets, &T);
        }

        #[test]
        fn every_address_is_read(ip: u32, port: u16, transaction: TransactionId) {
            let answer = [
                b"d2:ip6:".as_slice(), &ip.to_be_bytes(), &port.to_be_bytes(), b"1:rde1:t4:", &transaction, b"1:y1:re",
            ].concat();
            prop_assert_eq!(response(&answer, &transaction), Some(Ok(std::net::Ipv4Addr::from(ip).into())));
        }
    }
}
