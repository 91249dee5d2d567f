//! The names of the lab's internet and their records. Names whose answer depends on who asks are in `authority`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hickory_proto::ProtoError;
use hickory_proto::rr::{Name, RData, RecordType};

const AUTHORITY: [&str; 2] = ["192.0.2.53", "2001:db8:53::53"];
const MULLVAD: [&str; 2] = ["45.83.223.233", "2a03:1b20:1:f410::ad3"];
const ECHO: [&str; 2] = ["104.26.12.205", "2606:4700:20::681a:ccd"];
const EXAMPLE: [&str; 2] = ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"];
const TRACKER: [&str; 2] = ["93.158.213.92", "2a03:7220:8083:cd00::1"];
const STUN: [&str; 2] = ["74.125.250.129", "2001:4860:4864:5:8000::1"];
const STUN_2: [&str; 2] = ["162.159.207.0", "2606:4700:49::"];

/// The lab's internet. The echo services beside ipify share its address, as they share a content network outside.
const INTERNET: &[(&str, &[&str])] = &[
    ("am.i.mullvad.net", &MULLVAD),
    ("ipv4.am.i.mullvad.net", &[MULLVAD[0]]),
    ("ipv6.am.i.mullvad.net", &[MULLVAD[1]]),
    ("*.dnsleak.am.i.mullvad.net", &MULLVAD),
    ("api.ipify.org", &[ECHO[0]]),
    ("api4.ipify.org", &[ECHO[0]]),
    ("api6.ipify.org", &[ECHO[1]]),
    ("api64.ipify.org", &ECHO),
    ("icanhazip.com", &ECHO),
    ("ipv4.icanhazip.com", &[ECHO[0]]),
    ("ipv6.icanhazip.com", &[ECHO[1]]),
    ("ifconfig.co", &ECHO),
    ("ipinfo.io", &[ECHO[0]]),
    ("example.com", &EXAMPLE),
    ("*.example.com", &EXAMPLE),
    ("stun.l.google.com", &STUN),
    ("stun.cloudflare.com", &STUN_2),
    ("router.bittorrent.com", &["67.215.246.10"]),
    ("dht.transmissionbt.com", &["87.98.162.88", "2001:41d0:c:5ac:5::1"]),
    ("tracker.opentrackr.org", &TRACKER),
    ("dns.google", &["8.8.8.8", "8.8.4.4", "2001:4860:4860::8888"]),
    ("one.one.one.one", &["1.1.1.1", "1.0.0.1", "2606:4700:4700::1111"]),
    ("cloudflare-dns.com", &["1.1.1.1", "1.0.0.1", "2606:4700:4700::1111"]),
    ("dns.quad9.net", &["9.9.9.9"]),
    // Asked by itself, the authority says who asked without a resolver between.
    ("ns1.google.com", &AUTHORITY),
];

/// What a zone knows of a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Records of the asked type.
    Records(Vec<RData>),
    /// The name exists, without records of the type.
    NoData,
    NoName,
}

/// Records by name.
#[derive(Clone, Debug, Default)]
pub struct Zone(BTreeMap<Name, Vec<RData>>);

impl Zone {
    /// A zone without names.
    pub fn empty() -> Self {
        Self::default()
    }

    /// All names of the lab, at the addresses that the lab gives their servers.
    pub fn internet() -> Self {
        let mut zone = Self::empty();
        for (name, addresses) in INTERNET {
            let addresses = addresses.iter().map(|address| address.parse::<IpAddr>().expect("the table has addresses"));
            zone.add_addresses(name, addresses).expect("the table has names");
        }
        zone
    }

    /// Adds A and AAAA records. A name that begins with `*.` stands for all names below the rest that are not named
    /// themselves, at any depth.
    ///
    /// # Errors
    /// When `name` is no domain name.
    pub fn add_addresses(&mut self, name: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Result<(), ProtoError> {
        for address in addresses {
            self.add(name, RData::from(address))?;
        }
        Ok(())
    }

    /// Adds one record.
    ///
    /// # Errors
    /// When `name` is no domain name.
    pub fn add(&mut self, name: &str, data: RData) -> Result<(), ProtoError> {
        let mut name = Name::from_ascii(name)?;
        name.set_fqdn(true);
        self.0.entry(name).or_default().push(data);
        Ok(())
    }

    /// What the zone has for a name and type.
    pub fn find(&self, name: &Name, wanted: RecordType) -> Found {
        let Some(records) = self.0.get(name).or_else(|| self.wildcard(name)) else {
            // A name between two labels of another exists, without records (RFC 8020).
            let between = self.0.keys().any(|known| name.zone_of(known));
            return if between { Found::NoData } else { Found::NoName };
        };
        let records: Vec<RData> =
            records.iter().filter(|data| wanted == RecordType::ANY || data.record_type() == wanted).cloned().collect();
        if records.is_empty() { Found::NoData } else { Found::Records(records) }
    }

    fn wildcard(&self, name: &Name) -> Option<&Vec<RData>> {
        let mut parent = name.clone();
        while !parent.is_root() {
            parent = parent.base_name();
            let found = parent.prepend_label("*").ok().and_then(|wildcard| self.0.get(&wildcard));
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str, wanted: RecordType) -> Found {
        Zone::internet().find(&Name::from_ascii(name).unwrap(), wanted)
    }

    fn address(text: &str) -> Found {
        Found::Records(vec![RData::from(text.parse::<IpAddr>().unwrap())])
    }

    #[test]
    fn finds_names_wildcards_and_nothing() {
        assert_eq!(find("example.com.", RecordType::A), address("93.184.215.14"));
        assert_eq!(find("LK-1.Example.com.", RecordType::A), address("93.184.215.14"));
        assert_eq!(find("a.b.example.com.", RecordType::A), address("93.184.215.14"));
        assert_eq!(find("x.dnsleak.am.i.mullvad.net.", RecordType::AAAA), address(MULLVAD[1]));
        assert_eq!(find("ipv4.am.i.mullvad.net.", RecordType::AAAA), Found::NoData);
        assert_eq!(find("example.com.", RecordType::TXT), Found::NoData);
        assert_eq!(find("mullvad.net.", RecordType::A), Found::NoData);
        assert_eq!(find("notexample.com.", RecordType::A), Found::NoName);
        assert_eq!(find("printer.lan.", RecordType::A), Found::NoName);
    }
}
