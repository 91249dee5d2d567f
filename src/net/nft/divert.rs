//! Rules that send packets elsewhere than where they are for: translation of destinations, redirection, and what netdev chains forward and
//! copy. What they are about is asked of nobody else, so it is worth a try.

use super::read::{find, number, word};
use crate::net::netlink::attributes;

/// NFT_NAT_DNAT.
const DESTINATION: u32 = 1;
/// The same as targets of iptables.
const TARGETS: [&str; 5] = ["DNAT", "REDIRECT", "NETMAP", "TEE", "TPROXY"];

/// Whether a rule of these expressions is one.
pub(super) fn diverts(expressions: &[u8]) -> bool {
    attributes(expressions).any(|(_, element)| {
        let data = find(element, 2).unwrap_or_default();
        match word(element, 1).as_str() {
            "fwd" | "dup" | "redir" | "tproxy" => true,
            "nat" => number(data, 1) == Some(DESTINATION),
            "target" => TARGETS.contains(&word(data, 1).as_str()),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::netlink::put_attribute;

    fn expression(name: &str, kind: u16, value: &[u8]) -> Vec<u8> {
        let (mut data, mut element, mut all) = (Vec::new(), Vec::new(), Vec::new());
        put_attribute(&mut data, kind, value);
        put_attribute(&mut element, 1, &[name.as_bytes(), &[0]].concat());
        put_attribute(&mut element, 2, &data);
        put_attribute(&mut all, 1, &element);
        all
    }

    #[test]
    fn what_goes_elsewhere_is_told_from_what_only_looks_different() {
        for expression in [
            expression("fwd", 1, &[0, 0, 0, 1]),
            expression("redir", 1, &[0, 0, 0, 1]),
            expression("nat", 1, &DESTINATION.to_be_bytes()),
            expression("target", 1, b"DNAT\0"),
        ] {
            assert!(diverts(&expression));
        }
        for expression in [
            expression("nat", 1, &[0; 4]),
            expression("masq", 1, &[0; 4]),
            expression("target", 1, b"MARK\0"),
            expression("counter", 1, &[0; 8]),
        ] {
            assert!(!diverts(&expression));
        }
    }
}
