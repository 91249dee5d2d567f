//! Rules that send packets elsewhere than where they are for: translation of destinations, redirection, and what netdev chains forward and
//! copy. What they are about is asked of nobody else, so it has to be tried.

use super::read::{find, number, word};
use crate::model::firewall::Does;
use crate::net::netlink::{attributes, put_attribute};

/// NFT_NAT_DNAT.
const DESTINATION: u32 = 1;
/// Targets of iptables that translate, of which flows that were let begin are not asked.
const TRANSLATE: [&str; 3] = ["DNAT", "REDIRECT", "NETMAP"];
/// And those that are asked of each packet.
const EACH: [&str; 2] = ["TEE", "TPROXY"];

/// What a rule of these expressions sends elsewhere by, the first where there are several, and the expressions before it: what they ask for
/// it is about.
pub(super) fn diversion(expressions: &[u8]) -> Option<(Vec<u8>, Does)> {
    let mut before = Vec::new();
    for (kind, element) in attributes(expressions) {
        if let Some(does) = diverts(element) {
            return Some((before, does));
        }
        put_attribute(&mut before, kind, element);
    }
    None
}

fn diverts(element: &[u8]) -> Option<Does> {
    let data = find(element, 2).unwrap_or_default();
    let name = word(element, 1);
    let does = |by: &str, begun: bool| Some(Does::Divert { by: by.to_owned(), begun });
    match name.as_str() {
        "fwd" | "dup" | "tproxy" => does(&name, true),
        "redir" => does("redirect", false),
        "nat" if number(data, 1) == Some(DESTINATION) => does("dnat", false),
        "payload" if writes_destination(data) => does("daddr set", true),
        "target" => diverts_by(&word(data, 1)),
        _ => None,
    }
}

/// What one of iptables' targets sends elsewhere.
pub(in crate::net) fn diverts_by(target: &str) -> Option<Does> {
    let begun = EACH.contains(&target);
    (begun || TRANSLATE.contains(&target)).then(|| Does::Divert { by: format!("target {target}"), begun })
}

/// Whether the destination's address is written over (NFTA_PAYLOAD_SREG), in the header of IPv4 or of IPv6.
fn writes_destination(data: &[u8]) -> bool {
    // At 16 in the header of IPv4 and at 24 in that of IPv6, whose source at 8 may be written as well.
    const SOURCE_V6: (u32, u32) = (8, 24);
    written(data).is_some_and(|octets| octets != SOURCE_V6 && (octets.0 < 20 && octets.1 > 16 || octets.1 > 24))
}

/// Which octets of the network header an expression `payload` writes over, the first and the one after the last.
pub(super) fn written(data: &[u8]) -> Option<(u32, u32)> {
    const NETWORK: u32 = 1;
    const SOURCE_REGISTER: u16 = 5;
    find(data, SOURCE_REGISTER).filter(|_| number(data, 2) == Some(NETWORK))?;
    let from = number(data, 3)?;
    Some((from, from.saturating_add(number(data, 4)?)))
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
    fn a_source_that_is_written_over_sends_nothing_elsewhere() {
        let writes = |from: u32, length: u32| {
            let mut data = Vec::new();
            for (kind, value) in [(5, 1_u32), (2, 1), (3, from), (4, length)] {
                put_attribute(&mut data, kind, &value.to_be_bytes());
            }
            writes_destination(&data)
        };
        assert!(writes(16, 4) && writes(24, 16) && writes(12, 8) && writes(8, 32));
        assert!(!writes(12, 4) && !writes(8, 16) && !writes(0, 2));
    }

    #[test]
    fn what_goes_elsewhere_is_told_from_what_only_looks_different() {
        for expression in [
            expression("fwd", 1, &[0, 0, 0, 1]),
            expression("redir", 1, &[0, 0, 0, 1]),
            expression("nat", 1, &DESTINATION.to_be_bytes()),
            expression("target", 1, b"DNAT\0"),
        ] {
            assert!(diversion(&expression).is_some());
        }
        for expression in [
            expression("nat", 1, &[0; 4]),
            expression("masq", 1, &[0; 4]),
            expression("target", 1, b"MARK\0"),
            expression("counter", 1, &[0; 8]),
        ] {
            assert!(diversion(&expression).is_none());
        }
    }
}
