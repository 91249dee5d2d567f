//! Names: what resolv.conf says, and resolvers that ask one server only.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::rr::{RData, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};

use crate::model::evidence::Said;

/// How long one try at a resolver may take; there are two.
const TRY: Duration = Duration::from_millis(1500);

/// Whether a datagram claims to be the answer to question `id` (RFC 1035, 4.1.1). A late answer to an earlier question is none to this one.
pub(super) fn answers(octets: &[u8], id: u16) -> bool {
    const RESPONSE: u8 = 0x80;
    octets.get(..2) == Some(&id.to_be_bytes()) && octets.get(2).is_some_and(|flags| flags & RESPONSE != 0)
}

/// The addresses of resolv.conf's `nameserver` lines (resolv.conf(5)), at most three as the C library takes them, and what could not be
/// read. An empty file means 127.0.0.1. Zones (`fe80::1%eth0`) are kept out: they make the address usable on one link only.
pub fn nameservers(text: &str) -> (Vec<IpAddr>, Vec<String>) {
    let (mut found, mut odd) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let word = words.next().unwrap_or_default();
        match word.split('%').next().unwrap_or_default().parse() {
            Ok(address) if found.len() < 3 && !found.contains(&address) => found.push(address),
            Ok(address) if !found.contains(&address) => {
                odd.push(format!("{address} (a fourth nameserver, which programs ignore)"))
            }
            Ok(_) => {}
            Err(_) => odd.push(format!("`{}` (no address)", word.escape_debug())),
        }
    }
    if found.is_empty() && odd.is_empty() {
        found.push(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    }
    (found, odd)
}

/// A resolver that asks `server` alone, over UDP and then TCP, and remembers nothing.
///
/// # Errors
/// When it cannot be set up.
pub fn resolver_at(server: IpAddr) -> Result<TokioResolver, String> {
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![NameServerConfig::udp_and_tcp(server)]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.timeout = TRY;
    options.attempts = 1;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    builder.build().map_err(|error| error.to_string())
}

/// Addresses and texts of an answer.
#[derive(Debug, Default)]
pub struct Found {
    /// From A and AAAA records.
    pub addresses: Vec<IpAddr>,
    /// From TXT records.
    pub texts: Vec<String>,
}

/// Why a name gave nothing.
#[derive(Debug)]
pub enum NoAnswer {
    /// The resolver answered: there is no such name or record, or it refuses.
    Refused(String),
    /// Nothing usable came.
    Nothing(String),
}

/// Asks `resolver` for one kind of record of `name`, which is taken as absolute.
///
/// # Errors
/// See [`NoAnswer`].
pub async fn lookup(resolver: &TokioResolver, name: &str, kind: RecordType) -> Result<Found, NoAnswer> {
    let absolute = format!("{}.", name.trim_end_matches('.'));
    match resolver.lookup(absolute, kind).await {
        Ok(answer) => {
            let mut found = Found::default();
            for record in answer.answers() {
                match &record.data {
                    RData::A(address) => found.addresses.push(IpAddr::V4(address.0)),
                    RData::AAAA(address) => found.addresses.push(IpAddr::V6(address.0)),
                    RData::TXT(text) => {
                        found
                            .texts
                            .push(text.txt_data.iter().map(|part| String::from_utf8_lossy(part)).collect::<String>());
                    }
                    _ => {}
                }
            }
            Ok(found)
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Err(NoAnswer::Refused(none.response_code.to_string())),
        Err(NetError::Dns(DnsError::ResponseCode(code))) => Err(NoAnswer::Refused(code.to_string())),
        Err(error) => Err(NoAnswer::Nothing(error.to_string())),
    }
}

/// Asks `server` for a fresh name and says what came: any answer that only the name's authority could have given counts as one.
pub async fn lookup_marked(server: IpAddr, name: &str) -> Said {
    let resolver = match resolver_at(server) {
        Ok(resolver) => resolver,
        Err(error) => return Said::Nothing { error },
    };
    match lookup(&resolver, name, RecordType::A).await {
        Ok(found) => Said::Resolved { ip: found.addresses.first().copied() },
        Err(NoAnswer::Refused(rcode)) => Said::Refused { rcode },
        Err(NoAnswer::Nothing(error)) => Said::Nothing { error },
    }
}

/// All addresses of `name`, asked of each server in turn until one answers, and all once more if none does. An address is its own answer.
///
/// # Errors
/// What each server said.
pub async fn addresses(servers: &[IpAddr], name: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = name.trim_matches(['[', ']']).parse() {
        return Ok(vec![address]);
    }
    let mut said = Vec::new();
    // What gets lost is asked again.
    for _ in 0..2 {
        let mut lost = false;
        for server in servers {
            let resolver = resolver_at(*server)?;
            let (v4, v6) =
                tokio::join!(lookup(&resolver, name, RecordType::A), lookup(&resolver, name, RecordType::AAAA));
            let mut found = Vec::new();
            for answer in [v4, v6] {
                lost |= matches!(answer, Err(NoAnswer::Nothing(_)));
                match answer {
                    Ok(answer) => found.extend(answer.addresses),
                    Err(NoAnswer::Refused(why) | NoAnswer::Nothing(why)) => {
                        said.push(format!("{server} says of {name}: {why}"))
                    }
                }
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
        if !lost {
            break;
        }
    }
    said.dedup();
    Err(if said.is_empty() { format!("there is no resolver to ask for {name}") } else { said.join("; ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_the_question_is_its_answer() {
        assert!(answers(&[0x12, 0x34, 0x81, 0x80], 0x1234) && answers(&[0x12, 0x34, 0x80], 0x1234));
        for other in [&[0x12, 0x35, 0x81, 0x80][..], &[0x12, 0x34, 0x01, 0x00], &[0x12, 0x34], &[0x12], &[]] {
            assert!(!answers(other, 0x1234), "{other:?}");
        }
    }

    #[test]
    fn resolv_conf_in_its_odd_shapes() {
        let text = "# made by hand\nsearch lan\nnameserver 127.0.0.1 # Gluetun\nnameserver\tfe80::1%eth0\nnameserver nonsense\nnameserver 127.0.0.1\noptions edns0\n";
        let (found, odd) = nameservers(text);
        assert_eq!(found, ["127.0.0.1".parse::<IpAddr>().unwrap(), "fe80::1".parse().unwrap()]);
        assert_eq!(odd, ["`nonsense` (no address)"]);
        assert_eq!(nameservers("").0, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(
            nameservers("nameserver 1.1.1.1\nnameserver 2.2.2.2\nnameserver 3.3.3.3\nnameserver 4.4.4.4").1.len(),
            1
        );
    }
}
