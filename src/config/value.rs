//! The values of a configuration: parsed and refused one by one, so that a refusal points at the value itself.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use reqwest::Url;
use serde::{Deserialize, Serialize};

/// A host, by name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// A host name or an address, IPv6 without brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

impl HostPort {
    /// The socket address, when the host is an address and no name.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is not a host and a port, write HOST:PORT or [IPV6]:PORT", without_secrets(text));
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or_else(wrong)?;
                inner.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?.to_string()
            }
            None if host.parse::<std::net::Ipv4Addr>().is_ok() => host.to_owned(),
            None => Name::from_str(host).map_err(|_| wrong())?.0,
        };
        Ok(HostPort { host, port })
    }
}

/// A URL as reports and logs show it: what a query asks for may be a key.
pub fn shown(url: &Url) -> String {
    match (url.query(), url.fragment()) {
        (None, None) => url.to_string(),
        (query, _) => {
            let mut bare = url.clone();
            bare.set_query(None);
            bare.set_fragment(None);
            format!("{bare}{}", if query.is_some() { "?…" } else { "" })
        }
    }
}

/// A text that was refused for an address, as an error may repeat it: without what may be a login or a key in it. Whoever logs in by `ssh` has a
/// name and no secret.
pub fn without_secrets(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    // A password may hold any of the characters that part the rest.
    let (login, rest) = match rest.rsplit_once('@') {
        Some((name, rest)) if scheme == "ssh://" && !name.contains(':') => (format!("{name}@"), rest),
        Some((_, rest)) => ("…@".to_owned(), rest),
        None => (String::new(), rest),
    };
    match rest.split_once(['?', '#']) {
        Some((bare, _)) => format!("{scheme}{login}{bare}?…"),
        None => format!("{scheme}{login}{rest}"),
    }
}

/// Something local that must, or must not, be reachable past the tunnel. Its query may hold a key, so neither `Display` nor `Debug` shows it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Local {
    /// An HTTP answer of any status, `http` or `https`.
    Http(Url),
    /// A connection that is accepted.
    Tcp(HostPort),
}

impl Local {
    /// The host, IPv6 without brackets, and the port.
    pub fn host_port(&self) -> HostPort {
        match self {
            // Both are there: `from_str` refuses a URL without a host, and `http` and `https` have a default port.
            Local::Http(url) => HostPort {
                host: url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
                port: url.port_or_known_default().unwrap_or_default(),
            },
            Local::Tcp(target) => target.clone(),
        }
    }

    /// All of it, for the agent, which has to ask it. Not to be shown.
    pub fn stated(&self) -> String {
        match self {
            Local::Http(url) => url.to_string(),
            Local::Tcp(_) => self.to_string(),
        }
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Local::Http(url) => f.write_str(&shown(url)),
            Local::Tcp(target) => write!(f, "tcp://{target}"),
        }
    }
}

impl FromStr for Local {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some(("tcp", rest)) => Ok(Local::Tcp(rest.trim_end_matches('/').parse()?)),
            Some(("http" | "https", _)) => Ok(Local::Http(HttpUrl::from_str(text)?.0)),
            _ => Err(format!(
                "`{}` is not a local target, write http://HOST/, https://HOST/ or tcp://HOST:PORT",
                without_secrets(text)
            )),
        }
    }
}

/// A tracker. Its path and query may hold the owner's key at it, so neither `Display` nor `Debug` shows them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Tracker {
    /// Announced to over HTTP or HTTPS (BEP 3).
    Http(Url),
    /// Announced to over UDP (BEP 15).
    Udp(HostPort),
}

impl fmt::Display for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tracker::Http(url) => {
                write!(f, "tracker {}://{}", url.scheme(), url.host_str().unwrap_or_default())?;
                url.port().map_or(Ok(()), |port| write!(f, ":{port}"))
            }
            Tracker::Udp(at) => write!(f, "UDP tracker {at}"),
        }
    }
}

impl fmt::Debug for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Tracker {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some(("udp", rest)) => Ok(Tracker::Udp(rest.split('/').next().unwrap_or_default().parse()?)),
            Some(("http" | "https", _)) => Ok(Tracker::Http(HttpUrl::from_str(text)?.0)),
            // The text is not repeated: it may hold a key.
            _ => Err("this is not a tracker, write udp://HOST:PORT or http://HOST/announce".to_owned()),
        }
    }
}

impl TryFrom<String> for Tracker {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Tracker> for String {
    fn from(tracker: Tracker) -> String {
        match tracker {
            Tracker::Http(url) => url.into(),
            Tracker::Udp(at) => format!("udp://{at}"),
        }
    }
}

/// A URL that may be printed: `http` or `https`, with a host, without a password.
pub(super) struct HttpUrl(pub(super) Url);

impl FromStr for HttpUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The text itself is not repeated: it may be the password that is refused here.
        let url = Url::parse(text).map_err(|e| format!("this is not a URL ({e}), write http://HOST/PATH"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("a URL of the scheme `{}` cannot be asked, write http:// or https://", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a URL with a user name or a password would show them in reports".to_owned());
        }
        Ok(HttpUrl(url))
    }
}

/// A host name of letters, digits, hyphens, underscores and dots (RFC 1123; underscores because Docker has them).
pub(super) struct Name(pub(super) String);

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.strip_suffix('.').unwrap_or(text);
        let label_ok = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if name.len() <= 253 && name.split('.').all(label_ok) {
            Ok(Name(name.to_ascii_lowercase()))
        } else {
            Err(format!("`{text}` is not a host name, write for example whoami.akamai.net"))
        }
    }
}

/// A name that has to resolve at the VPN's resolver, so it must end in a public top-level domain: Gluetun hands the others
/// to the resolver of the container, past the tunnel.
pub(super) struct Canary(pub(super) String);

impl FromStr for Canary {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const LOCAL: [&str; 14] = [
            "test",
            "invalid",
            "example",
            "localhost",
            "local",
            "lan",
            "private",
            "internal",
            "corp",
            "home",
            "intranet",
            "onion",
            "alt",
            "arpa",
        ];
        let name = Name::from_str(text)?.0;
        match name.rsplit_once('.') {
            Some((_, top)) if !LOCAL.contains(&top) && !top.bytes().all(|b| b.is_ascii_digit()) => Ok(Canary(name)),
            _ => Err(format!("`{text}` is not a public name, write one that everybody can resolve, like example.com")),
        }
    }
}

/// An address that the internet can see: a home that is private could never be found at a witness, and every check
/// against it would pass for nothing.
pub(super) struct PublicIp(pub(super) IpAddr);

impl FromStr for PublicIp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ip = Address::from_str(text)?.0;
        let private = match ip {
            IpAddr::V4(ip) => {
                let [a, b, ..] = ip.octets();
                let carrier = a == 100 && (64..128).contains(&b);
                ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || a == 0 || carrier
            }
            IpAddr::V6(ip) => {
                ip.is_loopback()
                    || ip.is_unspecified()
                    || ip.is_unique_local()
                    || ip.is_unicast_link_local()
                    || ip.is_multicast()
            }
        };
        if private {
            return Err(format!("{ip} is no address that the internet can see, write the public address of the line"));
        }
        Ok(PublicIp(ip))
    }
}

/// An IP address.
pub(super) struct Address(pub(super) IpAddr);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Address).map_err(|_| format!("`{text}` is not an IP address, write for example 203.0.113.10"))
    }
}

/// An address and a port.
pub(super) struct AddressPort(pub(super) SocketAddr);

impl FromStr for AddressPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<SocketAddr>()
            .ok()
            .filter(|addr| addr.port() != 0)
            .map(AddressPort)
            .ok_or_else(|| format!("`{text}` is not an address and a port, write for example 198.51.100.2:51820"))
    }
}

/// A network in CIDR notation; an address alone is the network of itself.
pub(super) struct Net(pub(super) IpNet);

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Net(IpNet::from(ip)));
        }
        let net: IpNet =
            text.parse().map_err(|_| format!("`{text}` is not a network, write for example 192.168.1.0/24"))?;
        if net != net.trunc() {
            return Err(format!("`{text}` is an address inside a network, write {}", net.trunc()));
        }
        Ok(Net(net))
    }
}

/// A network that may be talked to past the tunnel.
pub(super) struct LocalNet(pub(super) IpNet);

impl FromStr for LocalNet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let net = Net::from_str(text)?.0;
        // The widest that is local by any standard: 10.0.0.0/8 (RFC 1918) and fc00::/7 (RFC 4193).
        let widest = if net.addr().is_ipv4() { 8 } else { 7 };
        if net.prefix_len() < widest {
            return Err(format!(
                "{net} holds a good part of the internet, so nothing sent there could count as a leak"
            ));
        }
        Ok(LocalNet(net))
    }
}

/// A span of time: a number and `ms`, `s`, `m` or `h`.
pub(super) struct Span(pub(super) Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a duration, write for example 500ms, 5s or 2m");
        let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, unit) = text.split_at(unit_at);
        let seconds = match unit.trim() {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let span = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        if span < Duration::from_millis(1) || span > Duration::from_secs(24 * 3600) {
            return Err(format!("`{text}` is out of range, write something from 1ms to 24h"));
        }
        Ok(Span(span))
    }
}

/// Reads a duration as the configuration and the command line write it, such as `5s`.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    Span::from_str(text).map(|span| span.0)
}

/// Turns the checked form of a value into the one that the rest of the crate wants.
macro_rules! unwraps {
    ($($from:ty => $to:ty),+) => { $(impl From<$from> for $to { fn from(value: $from) -> Self { value.0 } })+ };
}
unwraps!(HttpUrl => Url, Name => String, Canary => String, PublicIp => IpAddr, Address => IpAddr, AddressPort => SocketAddr, Net => IpNet, LocalNet => IpNet, Span => Duration);
