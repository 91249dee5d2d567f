//! iptables' own matches and targets (linux/netfilter/xt_*.h), which nftables' rules hold too where iptables-nft wrote them.

use ipnet::IpNet;

use super::{address, u16_at, u32_at};
use crate::model::firewall::{Condition, DESTINATION_TRANSLATED, Does, Family, Of, SOURCE_TRANSLATED, UNTRACKED};

/// Targets that decide nothing: they tell, mark, and change what does not matter here.
const HARMLESS: [&str; 25] = [
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CONNMARK",
    "CONNSECMARK",
    "CT",
    "DSCP",
    "ECN",
    "HL",
    "HMARK",
    "IDLETIMER",
    "LED",
    "LOG",
    "MARK",
    "NFLOG",
    "NOTRACK",
    "RATEEST",
    "SECMARK",
    "SET",
    "TCPMSS",
    "TCPOPTSTRIP",
    "TOS",
    "TRACE",
    "TTL",
    "ULOG",
];

/// What one of iptables' targets does, by name, and as whose word. Of those that are not known, and of those that ask a program or send a
/// copy (`NFQUEUE`, `TEE`), it is that they may accept.
pub fn target(name: &str) -> (Option<Condition>, Does) {
    match name {
        "REJECT" => (None, Does::Drop),
        name if HARMLESS.contains(&name) => (None, Does::Nothing),
        name => (Some(at_the_word_of(&format!("target {name}"))), Does::Accept),
    }
}

/// What is done is not in the rule.
pub fn at_the_word_of(whose: &str) -> Condition {
    Condition { of: Of::Other(format!("as the {whose} says")), not: false }
}

/// One of iptables' matches, by name, revision and data (linux/netfilter/xt_*.h). What is not known keeps its name.
pub fn matched(family: Family, name: &str, revision: u32, info: &[u8]) -> Vec<Condition> {
    let other = || vec![Condition { of: Of::Other(format!("xt {name}")), not: false }];
    let byte = |at: usize| info.get(at).copied().unwrap_or_default();
    let read = match (name, revision) {
        ("comment", _) => Some(Vec::new()),
        ("tcp" | "udp", 0) => ports(info, name == "tcp"),
        ("mark", 1) => u32_at(info, 0)
            .zip(u32_at(info, 4))
            .map(|(value, mask)| vec![Condition { of: Of::Mark { value, mask }, not: byte(8) != 0 }]),
        ("conntrack", 1..=3) => states(revision, info),
        // `struct ipt_icmp` and `struct ip6t_icmp`: type, codes from and to, inverted. Of any code.
        ("icmp" | "icmp6", 0) if byte(1) == 0 && byte(2) == u8::MAX => {
            Some(vec![Condition { of: Of::IcmpType(byte(0)), not: byte(3) & 1 != 0 }])
        }
        // `struct xt_addrtype_info_v1`: kinds of sources, of destinations, and flags. Only where these are all that it asks for, or asks not.
        ("addrtype", 1) if u16_at(info, 0) == Some(0) && u32_at(info, 4).is_some_and(|flags| flags & !2 == 0) => {
            u16_at(info, 2).map(|kinds| vec![Condition { of: Of::ToKind(kinds), not: byte(4) & 2 != 0 }])
        }
        // `struct xt_iprange_mtinfo`: a range of destinations, of which the network around it is told too.
        ("iprange", 1) if byte(64) & 0b10_0010 == 0b10 => {
            let around = around(family, info).map(|net| Condition { of: Of::To(net), not: false });
            Some(around.into_iter().chain(other()).collect())
        }
        // `struct xt_length_info`: from, to, inverted.
        ("length", 0) => u16_at(info, 0)
            .zip(u16_at(info, 2))
            .map(|(low, high)| vec![Condition { of: Of::Length(low.into(), high.into()), not: byte(4) != 0 }]),
        // `struct xt_dscp_info`: the six bits, inverted. `struct xt_tos_match_info`: mask, value, inverted.
        ("dscp", 0) => Some(vec![Condition { of: Of::Class(byte(0) << 2, 0xfc), not: byte(1) != 0 }]),
        ("tos", 1) => Some(vec![Condition { of: Of::Class(byte(1), byte(0)), not: byte(2) != 0 }]),
        ("state", 0) => u32_at(info, 0).map(|bits| vec![Condition { of: Of::State(bits), not: false }]),
        // Only where the user is all that it asks for.
        ("owner", 1) if byte(16) == 1 => u32_at(info, 0)
            .zip(u32_at(info, 4))
            .map(|(low, high)| vec![Condition { of: Of::User(low, high), not: byte(17) & 1 != 0 }]),
        _ => None,
    };
    read.unwrap_or_else(other)
}

/// `struct xt_conntrack_mtinfo1` to `3` (flags, inverted, states), only where the state is all that it asks for. As `-m state` it comes
/// with a flag that says no more than that.
fn states(revision: u32, info: &[u8]) -> Option<Vec<Condition>> {
    const STATE: u16 = 1;
    const BY_THE_OTHER_NAME: u16 = 1 << 13;
    let (flags, inverted) = (u16_at(info, 146)?, u16_at(info, 148)?);
    if flags & !BY_THE_OTHER_NAME != STATE || inverted & !(STATE | BY_THE_OTHER_NAME) != 0 {
        return None;
    }
    let bits = if revision == 1 { u16::from(*info.get(150)?) } else { u16_at(info, 150)? };
    // The first four are those of nftables. Of the others: SNAT, DNAT, untracked.
    let moved = [(1 << 6, SOURCE_TRANSLATED), (1 << 7, DESTINATION_TRANSLATED), (1 << 8, UNTRACKED)];
    let moved = moved.iter().filter(|(own, _)| bits & own != 0).map(|(_, state)| state).sum::<u32>();
    Some(vec![Condition { of: Of::State(u32::from(bits & 0xf) | moved), not: inverted & STATE != 0 }])
}

/// The smallest network that holds the range of destinations.
fn around(family: Family, info: &[u8]) -> Option<IpNet> {
    let size = match family {
        Family::Ip => 4,
        Family::Ip6 => 16,
        Family::Inet | Family::Netdev => return None,
    };
    let (low, high) = (address(info.get(32..32 + size)?)?, address(info.get(48..48 + size)?)?);
    let whole = IpNet::from(low).prefix_len();
    (0..=whole)
        .rev()
        .filter_map(|length| IpNet::new(low, length).ok())
        .map(|net| net.trunc())
        .find(|net| net.contains(&high))
}

/// `struct xt_tcp` and `struct xt_udp`.
fn ports(info: &[u8], tcp: bool) -> Option<Vec<Condition>> {
    let at = |index: usize| u16_at(info, 2 * index);
    let (from, to) = ((at(0)?, at(1)?), (at(2)?, at(3)?));
    let inverted = *info.get(if tcp { 11 } else { 8 })?;
    let mut conditions = Vec::new();
    for (range, flag, of) in [(from, 1, Of::FromPorts as fn(u16, u16) -> Of), (to, 2, Of::ToPorts)] {
        if range != (0, u16::MAX) {
            conditions.push(Condition { of: of(range.0, range.1), not: inverted & flag != 0 });
        }
    }
    if tcp {
        let (option, mask, flags) = (*info.get(8)?, *info.get(9)?, *info.get(10)?);
        if option != 0 || inverted & !7 != 0 {
            conditions.push(Condition { of: Of::Other("TCP option".to_owned()), not: false });
        }
        if mask != 0 || inverted & 4 != 0 {
            conditions.push(Condition { of: Of::Flags(flags, mask), not: inverted & 4 != 0 });
        }
    }
    Some(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::firewall::Rule;

    fn put(octets: &mut [u8], at: usize, value: &[u8]) {
        octets[at..at + value.len()].copy_from_slice(value);
    }

    /// As iptables 1.8.9 gives `-m state --state RELATED,ESTABLISHED` and `-m conntrack --ctstate` to the kernel: flags, inverted, states.
    #[test]
    fn a_state_is_read_where_it_is_all_that_is_asked_for() {
        let text = |revision: u32, flags: u16, inverted: u16, states: u16| {
            let mut info = vec![0; 168];
            for (index, value) in [flags, inverted, states].into_iter().enumerate() {
                put(&mut info, 146 + 2 * index, &value.to_ne_bytes());
            }
            matched(Family::Ip, "conntrack", revision, &info)[0].to_string()
        };
        for revision in 1..=3 {
            assert_eq!(text(revision, 1, 0, 6), "ct state established,related");
            assert_eq!(text(revision, 0x2001, 0, 6), "ct state established,related");
            assert_eq!(text(revision, 0x2001, 1, 6), "not ct state established,related");
            // Of a protocol besides.
            assert_eq!(text(revision, 0x2003, 0, 6), "xt conntrack");
            assert_eq!(text(revision, 3, 0, 6), "xt conntrack");
            assert_eq!(text(revision, 1, 2, 6), "xt conntrack");
        }
        assert_eq!(text(3, 1, 0, 0x1c0), "ct state untracked,snat,dnat");
        assert_eq!(text(3, 1, 0, 0x102), "ct state established,untracked");
        assert_eq!(matched(Family::Ip, "conntrack", 3, &[0; 149])[0].to_string(), "xt conntrack");
        assert_eq!(matched(Family::Ip, "state", 0, &8_u32.to_ne_bytes())[0].to_string(), "ct state new");
    }

    #[test]
    fn lengths_and_classes_are_read() {
        let text = |name: &str, revision: u32, info: &[u8]| matched(Family::Ip, name, revision, info)[0].to_string();
        let range = [10_u16.to_ne_bytes(), 50_u16.to_ne_bytes()].concat();
        assert_eq!(text("length", 0, &[&range[..], &[0, 0]].concat()), "length 10-50");
        assert_eq!(text("length", 0, &[&range[..], &[1, 0]].concat()), "not length 10-50");
        assert_eq!(
            (text("dscp", 0, &[10, 0]), text("dscp", 0, &[10, 1])),
            ("dscp 0xa".to_owned(), "not dscp 0xa".to_owned())
        );
        assert_eq!(
            (text("tos", 1, &[0xff, 0x10, 0]), text("tos", 0, &[0x10, 0])),
            ("class 0x10".to_owned(), "xt tos".to_owned())
        );
    }

    #[test]
    fn a_target_that_is_not_known_may_accept() {
        let text = |name: &str| {
            let (condition, does) = target(name);
            Rule { conditions: condition.into_iter().collect(), does }.to_string()
        };
        for name in HARMLESS {
            assert_eq!(text(name), "continue", "{name}");
        }
        assert_eq!(text("REJECT"), "drop");
        for name in ["NFQUEUE", "TEE", "SYNPROXY", "XYZ"] {
            assert_eq!(text(name), format!("as the target {name} says accept"));
        }
    }

    #[test]
    fn kinds_and_ranges_of_destinations_are_read() {
        let text = |name: &str, info: &[u8]| {
            let found = matched(Family::Ip, name, 1, info);
            found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text("addrtype", &[0, 0, 4, 0, 0, 0, 0, 0]), "daddr type local");
        assert_eq!(text("addrtype", &[0, 0, 12, 0, 2, 0, 0, 0]), "not daddr type local,broadcast");
        // Of a source too, or of the link's own addresses.
        assert_eq!(text("addrtype", &[4, 0, 4, 0, 0, 0, 0, 0]), "xt addrtype");
        assert_eq!(text("addrtype", &[0, 0, 4, 0, 8, 0, 0, 0]), "xt addrtype");
        let mut info = vec![0; 65];
        put(&mut info, 32, &[192, 168, 1, 1]);
        put(&mut info, 48, &[192, 168, 1, 9]);
        info[64] = 2;
        assert_eq!(text("iprange", &info), "daddr 192.168.1.0/28 xt iprange");
        info[64] = 0x22;
        assert_eq!(text("iprange", &info), "xt iprange");
    }
}
