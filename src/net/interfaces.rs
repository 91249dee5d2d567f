//! The links of the calling thread's network namespace, as getifaddrs(3) tells of them, with one difference: there an IPv4 address that has a
//! label (`eth0:1`, ip-address(8)) comes as one of a link of that name. No link has a colon in its name.

use pnet::datalink::{self, NetworkInterface};

/// Every link once, with all its addresses.
#[must_use]
pub fn interfaces() -> Vec<NetworkInterface> {
    merged(datalink::interfaces())
}

fn merged(told: Vec<NetworkInterface>) -> Vec<NetworkInterface> {
    let mut links: Vec<NetworkInterface> = Vec::new();
    for mut one in told {
        if let Some((link, _)) = one.name.split_once(':') {
            one.name = link.to_owned();
        }
        match links.iter_mut().find(|link| link.name == one.name) {
            Some(link) => {
                link.ips.append(&mut one.ips);
                link.mac = link.mac.or(one.mac);
            }
            None => links.push(one),
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_a_label_is_its_links() {
        let link = |name: &str, ip: &str| NetworkInterface {
            name: name.to_owned(),
            description: String::new(),
            index: 2,
            mac: None,
            ips: vec![ip.parse().unwrap()],
            flags: 0,
        };
        let told =
            vec![link("eth0", "172.18.0.10/16"), link("eth0:1", "172.18.0.11/16"), link("tun0:vpn", "10.64.0.2/32")];
        let names: Vec<(String, usize)> = merged(told).into_iter().map(|link| (link.name, link.ips.len())).collect();
        assert_eq!(names, [("eth0".to_owned(), 2), ("tun0".to_owned(), 1)]);
    }
}
