//! Addresses from all corners of the address space, to which packets of a trial go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::sensor::allow::is_private;

/// Public addresses that everybody uses, over IPv6 also as the home's router may translate them (NAT64: RFC 6052, RFC 8215).
const TO4: [[u8; 4]; 4] = [[1, 1, 1, 1], [8, 8, 8, 8], [93, 184, 215, 14], [193, 0, 14, 129]];
const TO6: [&str; 5] =
    ["2606:4700:4700::1111", "2001:4860:4860::8888", "2a03:1b20:1:f410::ad3", "64:ff9b::808:808", "64:ff9b:1::808:808"];
/// How many more there are, each from another part of the address space, other ones in each run.
const MORE: usize = 9;
/// Networks that rules name and that are asked for resolvers.
const MAX_NAMED: usize = 16;

/// Public addresses: those that everybody uses, and random ones of which each comes from another part of the space.
pub(super) fn corners(v6: bool, nonce: u32) -> Arc<[IpAddr]> {
    let mut random = StdRng::seed_from_u64(u64::from(nonce) << 1 | u64::from(v6));
    let mut all: Vec<IpAddr> =
        if v6 { TO6.iter().filter_map(|to| to.parse().ok()).collect() } else { TO4.map(IpAddr::from).to_vec() };
    while all.len() < if v6 { TO6.len() } else { TO4.len() } + MORE {
        let part = (all.len() % MORE) as u8;
        let address = if v6 {
            // 2000::/3, without the documentation prefix (RFC 3849).
            let mut octets: [u8; 16] = random.random();
            octets[0] = 0x20 | part << 1 | octets[0] & 1;
            IpAddr::V6(Ipv6Addr::from(octets))
        } else {
            let mut octets: [u8; 4] = random.random();
            octets[0] = 1 + part * 25 + octets[0] % 22;
            IpAddr::V4(Ipv4Addr::from(octets))
        };
        if is_public(address) {
            all.push(address);
        }
    }
    all.into()
}

/// Whether the address is one that hosts of the internet have (RFC 6890), or are reached by (NAT64).
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let octets = v4.octets();
            !(is_private(ip)
                || v4.is_multicast()
                || v4.is_documentation()
                || octets[0] == 0
                || octets[0] >= 240
                || matches!(octets, [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 18 | 19, _, _]))
        }
        IpAddr::V6(v6) => {
            let segments = v6.segments();
            let translated = matches!(segments, [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..]);
            let global =
                segments[0] & 0xe000 == 0x2000 && !(segments[0] == 0x2001 && matches!(segments[1], 0..0x200 | 0xdb8));
            global || translated
        }
    }
}

/// Where carriers, ISPs and their routers have resolvers of their own, and no local subnet is (RFC 1918, RFC 6598, RFC 4193); also in the networks
/// `named` by rules that accept.
pub(super) fn private(v6: bool, local: &[IpNet], named: &[IpNet], nonce: u32) -> Arc<[IpAddr]> {
    let mut random = StdRng::seed_from_u64(u64::from(nonce));
    let mut all: Vec<IpAddr> = Vec::new();
    for net in named.iter().filter(|net| net.addr().is_ipv6() == v6).take(MAX_NAMED) {
        all.extend(net.hosts().take(2));
        all.push(net.broadcast());
    }
    if !v6 {
        let usual =
            [[10, 0, 0, 1], [10, 0, 0, 53], [100, 64, 0, 1], [100, 100, 100, 100], [172, 16, 0, 1], [192, 168, 0, 1]];
        all.extend(usual.map(IpAddr::from));
        for _ in 0..4 {
            let [a, b, c]: [u8; 3] = random.random();
            all.push([10, a, b, c].into());
            all.push([100, 64 | a & 63, b, c].into());
            all.push([192, 168, b, c].into());
        }
    }
    all.retain(|ip| !local.iter().any(|net| net.contains(ip)));
    all.into()
}

#[cfg(test)]
mod tests {
    use super::super::ROUNDS;
    use super::*;

    #[test]
    fn addresses_come_from_all_corners_and_differ_from_run_to_run() {
        for nonce in 0..50 {
            for v6 in [false, true] {
                let some = corners(v6, nonce);
                assert!(some.iter().all(|ip| is_public(*ip) && ip.is_ipv6() == v6), "{some:?}");
                assert!(some.len() * ROUNDS * 2 >= 92, "one packet in twenty would be missed too often");
            }
        }
        assert_ne!(corners(false, 1)[4..], corners(false, 2)[4..]);
        let high = corners(false, 3).iter().filter(|ip| matches!(ip, IpAddr::V4(v4) if v4.octets()[0] >= 128)).count();
        assert!((3..11).contains(&high), "{high}");
    }

    #[test]
    fn what_is_public() {
        for ip in ["1.1.1.1", "193.0.14.129", "223.255.255.255", "2a03:1b20::1", "2001:4860:4860::8888", "64:ff9b:1::1"]
        {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "10.1.1.1",
            "100.64.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "0.1.2.3",
            "169.254.1.1",
            "fd00::1",
            "2001:db8::1",
            "2001::1",
            "fe80::1",
            "::1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
    }
}
