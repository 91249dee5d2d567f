//! Threat: the torrent client asks the router, past the tunnel, to open a port on the home address (NAT-PMP, PCP, UPnP): peers then come by
//! the home address, and the router tells it.
//! Procedure: the uplinks' gateways and the first and the last host of each local IPv4 network are asked for their external address over
//! NAT-PMP and for their kind over PCP and UPnP, three times. Nothing is mapped, and nothing leaves the local networks.
//! Limits: IPv4; asked by the default route as the torrent client would; a router elsewhere is not searched for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use super::control::Responder;
use super::{Context, NoParams, Technique, Work, read};
use crate::handicap::{Handicap, lacks};
use crate::model::evidence::names::CONTROL;
use crate::model::evidence::{Evidence, Said};

/// RFC 6886, section 3.2: version 0, opcode 0.
const NAT_PMP: &[u8] = &[0, 0];
/// RFC 6887, section 14.1: version 2, opcode ANNOUNCE, lifetime 0, the client's address, which is filled in.
const PCP: &[u8] = &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
/// UPnP Device Architecture 1.1, section 1.3.2, by unicast.
const UPNP: &[u8] = b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n";
const MAPPING_PORT: u16 = 5351;
const SSDP_PORT: u16 = 1900;
/// How often each is asked, and how long each answer may take: RFC 6886 begins at 250 ms.
const TRIES: usize = 3;
const PATIENCE: Duration = Duration::from_millis(250);
/// More hosts than this are not asked.
const MAX_HOSTS: usize = 16;

/// See the head of this file.
pub struct Gateway;

impl Technique for Gateway {
    fn name(&self) -> &'static str {
        "gateway"
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<NoParams>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, _trial: Arc<str>, _params: Value) -> Work<'a> {
        Box::pin(async move {
            let mut evidence = Evidence { from_ms: cx.clock.now_ms(), ..Evidence::default() };
            let asked = hosts(cx).into_iter().map(|(host, known)| async move {
                let (pmp, pcp, upnp) = tokio::join!(
                    ask(host, MAPPING_PORT, NAT_PMP),
                    ask(host, MAPPING_PORT, PCP),
                    ask(host, SSDP_PORT, UPNP)
                );
                let sign = sign_of_life(host).await;
                (host, known, sign, [("NAT-PMP", pmp), ("PCP", pcp), ("UPnP", upnp)])
            });
            let (asked, control) = tokio::join!(futures_util::future::join_all(asked), control());
            if !asked.is_empty() {
                evidence.answers.push(cx.answer(CONTROL, said("NAT-PMP", control, &None)));
            }
            // Where a router may be and nobody shows there is none; but only if somebody shows at all.
            let anybody = asked.iter().any(|(_, _, sign, _)| sign.is_some());
            for (host, known, sign, answers) in asked {
                let nobody = (anybody && !known).then(|| "nobody shows there".to_owned());
                let sign = sign.or(nobody);
                for (what, answer) in answers {
                    evidence.answers.push(cx.answer(format!("{host} over {what}"), said(what, answer, &sign)));
                }
            }
            evidence.to_ms = cx.clock.now_ms();
            evidence
        })
    }
}

/// What one says that does answer: that it is no such host's business (RFC 6886, section 3.5).
async fn control() -> io::Result<Option<Vec<u8>>> {
    let responder = Responder::start(|_| vec![0, 128, 0, 2, 0, 0, 0, 0]).await?;
    ask(Ipv4Addr::LOCALHOST, responder.at.port(), NAT_PMP).await
}

/// Gateways, of which it is known that they are there, and where routers usually are.
fn hosts(cx: &Context) -> Vec<(Ipv4Addr, bool)> {
    let v4 = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    };
    let known = cx.gateways.iter().filter_map(v4);
    let usual = cx.local.iter().flat_map(ends_of).filter_map(|ip| v4(&ip));
    let own = |ip: &Ipv4Addr| cx.links.iter().any(|link| link.addresses.iter().any(|net| net.addr() == *ip));
    let mut hosts: Vec<(Ipv4Addr, bool)> = Vec::new();
    for (ip, is_known) in known.map(|ip| (ip, true)).chain(usual.map(|ip| (ip, false))) {
        if !own(&ip) && !hosts.iter().any(|(other, _)| *other == ip) {
            hosts.push((ip, is_known));
        }
    }
    hosts.truncate(MAX_HOSTS);
    hosts
}

/// The first and the last host of a network, where routers use to be. Over IPv6 there is no last one that anybody would choose.
pub fn ends_of(net: &IpNet) -> Vec<IpAddr> {
    match net {
        IpNet::V4(net) if net.prefix_len() <= 30 => {
            let last = Ipv4Addr::from(u32::from(net.broadcast()) - 1);
            net.hosts().next().into_iter().chain([last]).map(IpAddr::V4).collect()
        }
        IpNet::V6(net) if net.prefix_len() < 127 => net.hosts().next().map(IpAddr::V6).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// The first answer that is one, else the first that is none, or `None` when nothing came.
async fn ask(host: Ipv4Addr, port: u16, question: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(SocketAddr::from((host, port))).await?;
    let mut question = question.to_vec();
    if question.len() == PCP.len()
        && let IpAddr::V4(own) = socket.local_addr()?.ip()
    {
        question[20..24].copy_from_slice(&own.octets());
    }
    let mut answer = [0; 1500];
    let mut odd = None;
    for _ in 0..TRIES {
        if !lacks(Handicap::Stimuli) {
            socket.send(&question).await?;
        }
        let until = Instant::now() + PATIENCE;
        // A flood of what is no answer must not keep the clock from being looked at.
        while Instant::now() < until {
            let Ok(length) = timeout_at(until, socket.recv(&mut answer)).await else { break };
            let octets = &answer[..length?];
            if external(octets).is_some() {
                return Ok(Some(octets.to_vec()));
            }
            odd.get_or_insert_with(|| octets.to_vec());
        }
    }
    Ok(odd)
}

/// What an answer says about the external address, which most do not tell; `None`: it is no answer.
fn external(octets: &[u8]) -> Option<Option<IpAddr>> {
    match octets {
        // RFC 6886: version, opcode, two of result, four of time, four of address.
        [0, 128, 0, 0, _, _, _, _, a, b, c, d, ..] => Some(Some(IpAddr::from([*a, *b, *c, *d]))),
        [0, 128, ..] | [2, 128..=255, ..] => Some(None),
        text => text.starts_with(b"HTTP/1.1 200").then_some(None),
    }
}

/// Whether the host is there at all: without that its silence says nothing.
async fn sign_of_life(host: Ipv4Addr) -> Option<String> {
    // As often as it is asked: on a bad line one is lost now and then.
    for _ in 0..TRIES {
        match timeout(PATIENCE, TcpStream::connect((host, 80))).await {
            Ok(Ok(_)) => return Some("it accepts connections".to_owned()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Some("it refuses connections".to_owned());
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
    // proc_net(5): the third column has bit 2 when the neighbour has told its hardware address.
    let table = std::fs::read_to_string("/proc/thread-self/net/arp").ok()?;
    let host = host.to_string();
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .any(|columns| columns.first() == Some(&host.as_str()) && columns.get(2) == Some(&"0x2"))
        .then(|| "it answers for its address".to_owned())
}

fn said(what: &str, answer: io::Result<Option<Vec<u8>>>, sign: &Option<String>) -> Said {
    let how = what.to_owned();
    match answer {
        Ok(Some(octets)) => match external(&octets) {
            Some(external) => Said::Mapper { external, how },
            None => Said::Refused { rcode: format!("an answer that is not {what}") },
        },
        Ok(None) => match sign {
            Some(sign) => Said::Refused { rcode: format!("no answer in {TRIES} tries, while {sign}") },
            None => Said::Nothing { error: format!("no answer in {TRIES} tries, and no sign of life") },
        },
        Err(error) => Said::Refused { rcode: error.to_string() },
    }
}

/// Reads octets as a router's answer, for [`crate::untrusted`].
#[cfg(feature = "lab")]
pub(crate) fn understand(octets: &[u8]) {
    let _ = said("NAT-PMP", Ok(Some(octets.to_vec())), &None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_only_of_a_host_that_is_there() {
        assert!(matches!(said("PCP", Ok(None), &None), Said::Nothing { .. }));
        assert!(matches!(said("PCP", Ok(None), &Some("x".to_owned())), Said::Refused { .. }));
    }

    #[test]
    fn routers_are_at_the_ends_of_a_network() {
        let of = |net: &str| ends_of(&net.parse().unwrap()).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(of("192.168.1.0/24"), ["192.168.1.1", "192.168.1.254"]);
        assert_eq!(of("10.0.0.0/30"), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(of("fd18::/64").len(), 1);
        assert!(of("10.0.0.7/32").is_empty() && of("10.0.0.6/31").is_empty() && of("fd18::1/128").is_empty());
    }

    #[test]
    fn the_home_address_is_read_from_nat_pmp() {
        let answer = vec![0, 128, 0, 0, 0, 0, 0, 9, 203, 0, 113, 10];
        let home = "203.0.113.10".parse().unwrap();
        assert_eq!(
            said("NAT-PMP", Ok(Some(answer)), &None),
            Said::Mapper { external: Some(home), how: "NAT-PMP".to_owned() }
        );
        assert!(matches!(said("NAT-PMP", Ok(Some(b"hello".to_vec())), &None), Said::Refused { .. }));
    }
}
