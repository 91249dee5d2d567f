//! What else tells where the VPN server is: WireGuard itself, in the kernel or by its UAPI socket, and host routes past the tunnel. Reads,
//! changes nothing; of what WireGuard tells only its peers' endpoints and allowed IPs are looked at, never a key.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::model::evidence::{Link, Role};
use crate::net::netlink::Client;
use crate::net::route::Snapshot;
use crate::sensor::allow::is_private;

/// `GENL_ID_CTRL` and what it is asked with (linux/genetlink.h).
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// linux/wireguard.h.
const WIREGUARD: &[u8] = b"wireguard";
const GET_DEVICE: u8 = 0;
const DEVICE_NAME: u16 = 2;
const DEVICE_PEERS: u16 = 8;
const PEER_ENDPOINT: u16 = 4;
const PEER_HANDSHAKE: u16 = 6;
const PEER_ALLOWED: u16 = 9;
const ALLOWED_FAMILY: u16 = 1;
const ALLOWED_ADDRESS: u16 = 2;
const ALLOWED_LENGTH: u16 = 3;
/// Type of an attribute without its flags.
const ATTRIBUTE: u16 = 0x3fff;
/// Longest answer of a UAPI socket that is read, and the longest wait for it.
const UAPI_LIMIT: u64 = 1 << 20;
const UAPI_PATIENCE: Duration = Duration::from_millis(300);
const MAIN_TABLE: u32 = 254;

/// A peer of a WireGuard link, as far as it says where packets go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where it is reached, if that is known.
    pub endpoint: Option<SocketAddr>,
    /// What is sent to it, and taken from it.
    pub allowed: Vec<IpNet>,
}

impl Peer {
    /// How much it carries, for sorting: the widest network first.
    fn narrowness(&self) -> u8 {
        self.allowed.iter().map(IpNet::prefix_len).min().unwrap_or(u8::MAX)
    }
}

/// One statement about where the VPN server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Who says so.
    pub how: &'static str,
    /// Its address.
    pub ip: IpAddr,
    /// Its port, where that is told.
    pub port: Option<u16>,
}

impl Claim {
    /// A statement of address and port.
    pub fn of(how: &'static str, address: SocketAddr) -> Self {
        Claim { how, ip: address.ip(), port: Some(address.port()) }
    }

    /// Whether it holds of `address`.
    pub fn fits(&self, address: SocketAddr) -> bool {
        self.ip == address.ip() && self.port.is_none_or(|port| port == address.port())
    }

    /// Whether WireGuard itself says so.
    pub fn is_wireguards(&self) -> bool {
        [KERNEL, UAPI].contains(&self.how)
    }
}

/// Who says so, where WireGuard does.
pub const KERNEL: &str = "WireGuard in the kernel";
const UAPI: &str = "WireGuard's UAPI socket";

/// Who says so, where a rule of the firewall does.
pub const RULE: &str = "a rule of the firewall";

/// All that can be found for the tunnel among `links`. `root` is the root directory of the stack, where it can be reached.
pub fn claims(links: &[Link], root: Option<&Path>) -> Vec<Claim> {
    let mut found = Vec::new();
    if let Some(tunnel) = links.iter().find(|link| link.role == Role::Tunnel) {
        for (how, mut peers) in [(KERNEL, kernel(&tunnel.name)), (UAPI, uapi(&tunnel.name, root))] {
            // The first counts: the one that carries most is the VPN's.
            peers.sort_by_key(Peer::narrowness);
            found.extend(peers.into_iter().filter_map(|peer| Some(Claim::of(how, peer.endpoint?))));
        }
        found.extend(host_routes(links).into_iter().map(|ip| Claim { how: "a host route", ip, port: None }));
    }
    found
}

/// All that WireGuard tells of the peers of the tunnel among `links`: nothing where it is none, or cannot be asked.
pub fn tunnel_peers(links: &[Link], root: Option<&Path>) -> Vec<Peer> {
    let Some(tunnel) = links.iter().find(|link| link.role == Role::Tunnel) else { return Vec::new() };
    let of_kernel = kernel(&tunnel.name);
    if of_kernel.is_empty() { uapi(&tunnel.name, root) } else { of_kernel }
}

/// The peers of a WireGuard link. Empty where it is none, or CAP_NET_ADMIN is missing.
fn kernel(link: &str) -> Vec<Peer> {
    let ask = || -> Option<Vec<Peer>> {
        let mut client = Client::open(netlink_sys::protocols::NETLINK_GENERIC).ok()?;
        let families = client.dump(CONTROLLER, &[GET_FAMILY, 1, 0, 0]).ok()?;
        let family = families.iter().find_map(|message| family_id(message.payload.get(4..)?))?;
        let mut request = vec![GET_DEVICE, 1, 0, 0];
        let length = (4 + link.len() + 1) as u16;
        request.extend([length.to_ne_bytes(), DEVICE_NAME.to_ne_bytes()].concat());
        request.extend(link.as_bytes());
        request.push(0);
        request.resize(request.len().next_multiple_of(4), 0);
        let answers = client.dump(family, &request).ok()?;
        let mut found = Vec::new();
        for message in &answers {
            peers(message.payload.get(4..).unwrap_or_default(), &mut found);
        }
        Some(found)
    };
    ask().unwrap_or_default()
}

fn family_id(attributes_of: &[u8]) -> Option<u16> {
    let find =
        |kind: u16| attributes(attributes_of).into_iter().find(|(known, _)| *known == kind).map(|(_, value)| value);
    let name = find(FAMILY_NAME)?;
    let id = find(FAMILY_ID)?;
    (name.strip_suffix(&[0]) == Some(WIREGUARD)).then(|| Some(u16::from_ne_bytes(id.try_into().ok()?))).flatten()
}

/// Adds the peers of one message to those of the messages before.
fn peers(device: &[u8], found: &mut Vec<Peer>) {
    let of = |octets, kind: u16| attributes(octets).into_iter().filter(move |(known, _)| *known == kind);
    for (_, peer) in of(device, DEVICE_PEERS).flat_map(|(_, peers)| attributes(peers)) {
        let endpoint = of(peer, PEER_ENDPOINT).find_map(|(_, value)| socket_address(value));
        let nets = of(peer, PEER_ALLOWED).flat_map(|(_, nets)| attributes(nets));
        let allowed = nets.filter_map(|(_, net)| allowed_net(net)).collect::<Vec<IpNet>>();
        // One whose networks did not fit into a message goes on in the next, without what was said already.
        let goes_on = endpoint.is_none() && of(peer, PEER_HANDSHAKE).next().is_none();
        match found.last_mut().filter(|_| goes_on) {
            Some(last) => last.allowed.extend(allowed),
            None => found.push(Peer { endpoint, allowed }),
        }
    }
}

fn allowed_net(octets: &[u8]) -> Option<IpNet> {
    let all = attributes(octets);
    let find = |kind: u16| all.iter().find(|(known, _)| *known == kind).map(|(_, value)| *value);
    let family = u16::from_ne_bytes(find(ALLOWED_FAMILY)?.try_into().ok()?);
    let ip = address(i32::from(family), find(ALLOWED_ADDRESS)?)?;
    IpNet::new(ip, *find(ALLOWED_LENGTH)?.first()?).ok()
}

/// `struct in_addr` or `in6_addr`.
fn address(family: i32, octets: &[u8]) -> Option<IpAddr> {
    match family {
        libc::AF_INET => Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?))),
        libc::AF_INET6 => Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?))),
        _ => None,
    }
}

/// Type and value of each netlink attribute; what is damaged ends the list.
fn attributes(mut octets: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let Some(head) = octets.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & ATTRIBUTE;
        let Some(value) = octets.get(4..length) else { break };
        found.push((kind, value));
        octets = octets.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// `struct sockaddr_in` or `sockaddr_in6`.
fn socket_address(value: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*value.first_chunk()?);
    let port = u16::from_be_bytes(value.get(2..4)?.try_into().ok()?);
    let octets = if i32::from(family) == libc::AF_INET { value.get(4..8)? } else { value.get(8..24)? };
    Some(SocketAddr::new(address(family.into(), octets)?, port))
}

/// Peers as a userspace WireGuard tells them (<https://www.wireguard.com/xplatform/>).
fn uapi(link: &str, root: Option<&Path>) -> Vec<Peer> {
    let roots = root.map(Path::to_owned).into_iter().chain([PathBuf::from("/")]);
    let ask = |path: PathBuf| -> io::Result<String> {
        let mut stream = UnixStream::connect(path)?;
        if !is_here(&stream) {
            return Err(io::ErrorKind::NotFound.into());
        }
        stream.set_read_timeout(Some(UAPI_PATIENCE))?;
        stream.write_all(b"get=1\n\n")?;
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        // The answer ends with an empty line; the socket stays open.
        while !answer.ends_with(b"\n\n") && (answer.len() as u64) < UAPI_LIMIT {
            match stream.read(&mut piece)? {
                0 => break,
                read => answer.extend(&piece[..read]),
            }
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answers = roots.filter_map(|root| ask(root.join(format!("var/run/wireguard/{link}.sock"))).ok());
    answers.take(1).flat_map(|answer| told_peers(&answer)).collect()
}

/// Whether who answers is in this namespace, as far as that can be told: another tunnel of the machine's may have the same name.
fn is_here(stream: &UnixStream) -> bool {
    let namespace =
        |of: &str| fs::metadata(format!("/proc/{of}/ns/net")).ok().map(|namespace| (namespace.dev(), namespace.ino()));
    let who = getsockopt(stream, PeerCredentials).ok().and_then(|who| namespace(&who.pid().to_string()));
    who.is_none() || who == namespace("thread-self")
}

fn told_peers(answer: &str) -> Vec<Peer> {
    let mut found: Vec<Peer> = Vec::new();
    for (key, value) in answer.lines().filter_map(|line| line.split_once('=')) {
        match (key, found.last_mut()) {
            // Whose it is does not matter; that another one begins does.
            ("public_key", _) => found.push(Peer::default()),
            ("endpoint", Some(peer)) => peer.endpoint = value.trim().parse().ok().or(peer.endpoint),
            ("allowed_ip", Some(peer)) => peer.allowed.extend(value.trim().parse::<IpNet>().ok()),
            _ => {}
        }
    }
    found
}

/// Public addresses that have a route of their own past the tunnel, as OpenVPN makes one for its server.
fn host_routes(links: &[Link]) -> Vec<IpAddr> {
    let uplinks: Vec<u32> = links.iter().filter(|link| link.role == Role::Uplink).map(|link| link.index).collect();
    let Ok(snapshot) = Snapshot::take() else { return Vec::new() };
    let hosts = snapshot.routes.iter().filter(|route| {
        let net = route.destination;
        route.table == MAIN_TABLE
            && route.gateway.is_some()
            && net.prefix_len() == net.max_prefix_len()
            && !is_private(net.addr())
            && route.link.is_some_and(|link| uplinks.contains(&link))
    });
    hosts.map(|route| route.destination.addr()).collect()
}

/// Reads octets as if the kernel or a userspace WireGuard had told them, for [`crate::untrusted`].
#[cfg(feature = "lab")]
pub(crate) fn understand(octets: &[u8]) {
    peers(octets, &mut Vec::new());
    let _ = (family_id(octets), told_peers(&String::from_utf8_lossy(octets)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut octets = [((4 + value.len()) as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
        octets.extend(value);
        octets.resize(octets.len().next_multiple_of(4), 0);
        octets
    }

    #[test]
    fn peers_are_read_from_the_kernels_answer() {
        let four =
            [&(libc::AF_INET as u16).to_ne_bytes()[..], &51820_u16.to_be_bytes(), &[198, 51, 100, 2], &[0; 8]].concat();
        let six = [&(libc::AF_INET6 as u16).to_ne_bytes()[..], &443_u16.to_be_bytes(), &[0; 4], &[0x20; 16], &[0; 4]]
            .concat();
        let key = attribute(1, &[7; 32]);
        let net = |family: i32, ip: &[u8], length: u8| {
            let parts = [
                attribute(ALLOWED_FAMILY, &(family as u16).to_ne_bytes()),
                attribute(ALLOWED_ADDRESS, ip),
                attribute(ALLOWED_LENGTH, &[length]),
            ];
            attribute(0x8000, &parts.concat())
        };
        let allowed = |nets: Vec<u8>| attribute(PEER_ALLOWED | 0x8000, &nets);
        let all = [net(libc::AF_INET, &[0; 4], 0), net(libc::AF_INET6, &[0; 16], 0)].concat();
        let one = allowed(net(libc::AF_INET, &[104, 16, 0, 0], 13));
        let peer = |parts: &[&[u8]]| attribute(0x8000, &[&key[..], &parts.concat()].concat());
        let device = |peers: &[Vec<u8>]| {
            [attribute(DEVICE_NAME, b"wg0\0"), attribute(DEVICE_PEERS | 0x8000, &peers.concat())].concat()
        };
        let first = device(&[
            peer(&[&attribute(PEER_ENDPOINT, &four), &attribute(PEER_HANDSHAKE, &[0; 16]), &allowed(all)]),
            peer(&[&attribute(PEER_ENDPOINT, &six)]),
        ]);
        let mut found = Vec::new();
        peers(&first, &mut found);
        // The second goes on in the next message, where a third one has no endpoint.
        peers(&device(&[peer(&[&one]), peer(&[&attribute(PEER_HANDSHAKE, &[0; 16])])]), &mut found);
        let expected = [
            (Some("198.51.100.2:51820"), vec!["0.0.0.0/0", "::/0"]),
            (Some("[2020:2020:2020:2020:2020:2020:2020:2020]:443"), vec!["104.16.0.0/13"]),
            (None, vec![]),
        ]
        .map(|(at, nets)| Peer {
            endpoint: at.map(|at| at.parse().unwrap()),
            allowed: nets.iter().map(|net| net.parse().unwrap()).collect(),
        });
        assert_eq!(found, expected);
        assert_eq!(allowed_net(&net(libc::AF_INET, &[0; 4], 33)[4..]), None);
        let family = [attribute(FAMILY_ID, &33_u16.to_ne_bytes()), attribute(FAMILY_NAME, b"wireguard\0")].concat();
        assert_eq!(family_id(&family), Some(33));
    }

    #[test]
    fn the_uapi_is_asked_and_no_key_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("var/run/wireguard");
        std::fs::create_dir_all(&folder).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(folder.join("tun9.sock")).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0; 7];
            stream.read_exact(&mut question).unwrap();
            assert_eq!(&question, b"get=1\n\n");
            stream.write_all(b"private_key=00\nlisten_port=1\npublic_key=ff\nendpoint=198.51.100.2:51820\n").unwrap();
            stream.write_all(b"allowed_ip=0.0.0.0/0\nendpoint=nonsense\n").unwrap();
            stream.write_all(b"public_key=ee\nallowed_ip=104.16.0.0/13\nallowed_ip=1/2/3\nerrno=0\n\n").unwrap();
        });
        let expected = [
            Peer { endpoint: "198.51.100.2:51820".parse().ok(), allowed: vec!["0.0.0.0/0".parse().unwrap()] },
            Peer { endpoint: None, allowed: vec!["104.16.0.0/13".parse().unwrap()] },
        ];
        assert_eq!(uapi("tun9", Some(dir.path())), expected);
        server.join().unwrap();
        assert!(uapi("tun8", Some(dir.path())).is_empty());
    }

    #[test]
    fn a_claim_without_a_port_is_about_the_address() {
        let claim = Claim { how: "a host route", ip: "198.51.100.2".parse().unwrap(), port: None };
        assert!(claim.fits("198.51.100.2:1194".parse().unwrap()));
        assert!(!claim.fits("198.51.100.3:1194".parse().unwrap()));
        assert!(!Claim { port: Some(1), ..claim }.fits("198.51.100.2:1194".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn any_answer_is_read(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            peers(&octets, &mut Vec::new());
            let _ = (family_id(&octets), socket_address(&octets), allowed_net(&octets));
            let _ = told_peers(&String::from_utf8_lossy(&octets));
        }
    }
}
