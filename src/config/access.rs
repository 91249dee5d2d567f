//! `[[access]]`: who may talk to whom, a row for each pair. What comes of a row is found out by the runner.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::text::{maybe, one};
use super::value::{HttpUrl, Name, without_secrets};
use super::{HostPort, shown};
use crate::model::evidence::AccessRule;
use crate::target::TargetSpec;

/// Characters that a name of a source has at most: it is the head of a column.
const LONGEST_NAME: usize = 40;

/// One row of the access matrix.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// Where it is asked from.
    #[serde(deserialize_with = "one::<Stand, _, _>")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub from: Stand,
    /// What reports call that place; else as `from` has it.
    #[serde(default, deserialize_with = "maybe::<Label, _, _>")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub name: Option<String>,
    /// What is asked.
    #[serde(deserialize_with = "one::<Destination, _, _>")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub to: Destination,
    /// Whether it has to answer there, or must not.
    pub allow: bool,
}

impl Access {
    /// What reports call its source.
    pub fn source(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.from.to_string())
    }

    /// The row in the words of reports.
    pub fn rule(&self) -> AccessRule {
        AccessRule { from: self.source(), to: self.to.to_string(), allow: self.allow }
    }
}

/// Where a row is asked from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stand {
    /// In the namespace that is audited.
    Stack,
    /// Where leakcheck itself is started.
    Host,
    /// In another namespace.
    In(TargetSpec),
}

impl fmt::Display for Stand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stand::Stack => f.write_str("stack"),
            Stand::Host => f.write_str("host"),
            Stand::In(TargetSpec::Docker(name)) => write!(f, "container:{name}"),
            Stand::In(other) => write!(f, "{other}"),
        }
    }
}

impl FromStr for Stand {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let spec = |text: &str| text.parse().map(Stand::In).ok();
        let found = match text.split_once(':') {
            None if text == "stack" => Some(Stand::Stack),
            None if text == "host" => Some(Stand::Host),
            Some(("container", name)) => spec(&format!("docker:{name}")),
            _ => spec(text),
        };
        found.ok_or_else(|| {
            format!(
                "`{text}` is no place to ask from, write container:NAME, stack, host, netns:NAME-OR-PATH or pid:PID"
            )
        })
    }
}

/// What a row is about. The query of a URL may hold a key, so neither `Display` nor `Debug` shows it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Destination {
    /// A connection that is accepted.
    Tcp(HostPort),
    /// A datagram that is answered.
    Udp(HostPort),
    /// An HTTP answer of any status, `http` or `https`.
    Http(Url),
    /// An echo reply of this host.
    Icmp(String),
}

impl Destination {
    /// The host, IPv6 without brackets, and the port; 0 where there is none.
    pub fn host_port(&self) -> HostPort {
        match self {
            Destination::Tcp(at) | Destination::Udp(at) => at.clone(),
            // Both are there: `from_str` refuses a URL without a host, and `http` and `https` have a default port.
            Destination::Http(url) => HostPort {
                host: url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
                port: url.port_or_known_default().unwrap_or_default(),
            },
            Destination::Icmp(host) => HostPort { host: host.clone(), port: 0 },
        }
    }

    /// Whether whoever reaches the one has reached the other: a web page is not had without its connection.
    fn is_same_as(&self, other: &Destination) -> bool {
        use Destination::{Http, Tcp};
        let connected = |one: &Destination| matches!(one, Tcp(_) | Http(_));
        match (self, other) {
            (Http(_), Http(_)) => self == other,
            (one, two) if connected(one) && connected(two) => one.host_port() == two.host_port(),
            (one, two) => one == two,
        }
    }

    fn is_loopback(&self) -> bool {
        let host = self.host_port().host;
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Tcp(at) => write!(f, "tcp://{at}"),
            Destination::Udp(at) => write!(f, "udp://{at}"),
            Destination::Http(url) => f.write_str(&shown(url)),
            Destination::Icmp(host) if host.contains(':') => write!(f, "icmp://[{host}]"),
            Destination::Icmp(host) => write!(f, "icmp://{host}"),
        }
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some(("tcp", rest)) => Ok(Destination::Tcp(rest.trim_end_matches('/').parse()?)),
            Some(("udp", rest)) => Ok(Destination::Udp(rest.trim_end_matches('/').parse()?)),
            Some(("http" | "https", _)) => Ok(Destination::Http(HttpUrl::from_str(text)?.0)),
            Some(("icmp", rest)) => {
                let host = rest.trim_end_matches('/');
                match host.trim_matches(['[', ']']).parse::<IpAddr>() {
                    Ok(ip) => Ok(Destination::Icmp(ip.to_string())),
                    Err(_) => match Name::from_str(host) {
                        Ok(name) => Ok(Destination::Icmp(name.0)),
                        Err(_) => Err(format!(
                            "`{}` is no host, write icmp://HOST: echo requests have no port",
                            without_secrets(host)
                        )),
                    },
                }
            }
            _ => Err(format!(
                "`{}` is no destination, write tcp://HOST:PORT, udp://HOST:PORT, http://HOST/, https://HOST/ or icmp://HOST",
                without_secrets(text)
            )),
        }
    }
}

impl TryFrom<String> for Destination {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> String {
        match destination {
            Destination::Http(url) => url.into(),
            other => other.to_string(),
        }
    }
}

/// What a source may be called: one short line.
struct Label(String);

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let length = text.chars().count();
        if text.trim() != text || length == 0 || length > LONGEST_NAME || text.contains(char::is_control) {
            return Err(format!("a name of a source is one line of 1 to {LONGEST_NAME} characters"));
        }
        Ok(Label(text.to_owned()))
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

/// The first row that makes no sense beside those before it: its place, which of its keys, and why.
pub(super) fn clash(rows: &[Access]) -> Option<(usize, &'static str, String)> {
    let wrong = |(place, row): (usize, &Access)| -> Option<(usize, &'static str, String)> {
        let refuse = |key, message: &str| Some((place, key, message.to_owned()));
        if !row.allow && row.to.is_loopback() {
            return refuse(
                "to",
                "every source has a loopback of its own, so nobody else can show that something is there: name another address",
            );
        }
        let before = rows.get(..place).unwrap_or_default();
        if before.iter().any(|other| (other.source() == row.source()) != (other.from == row.from)) {
            return refuse("from", "a source has one name, and a name one source: an earlier row has it otherwise");
        }
        let same = before.iter().find(|other| other.from == row.from && other.to.is_same_as(&row.to));
        match same.map(|other| other.allow == row.allow) {
            Some(false) => refuse("allow", "an earlier row says the opposite of the same source and destination"),
            Some(true) if before.iter().any(|other| other.from == row.from && other.to == row.to) => {
                refuse("to", "an earlier row says the same")
            }
            _ => None,
        }
    };
    rows.iter().enumerate().find_map(wrong)
}
