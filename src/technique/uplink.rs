//! Threat: the firewall lets a program past the tunnel that binds itself to the uplink, or for which routes and rules choose it, or only
//! some of its packets: of one port, one protocol, one mark, one user, one packet in twenty.
//! Procedure: marked packets with TTL 1 to addresses from all corners of the address space, some of them other ones in each run, by the
//! default route, bound to each uplink and from each of its addresses. By the spread: UDP, TCP and ICMP over many ports; marks; protocols
//! that are none of these; users; multicast and broadcast; looks (length, class, flags, type, fragments, options, ports all over), of which
//! one packet is as good as a hundred. Each other kind of packet is sent at least 92 times past the tunnel, so that a rule
//! that lets through one in twenty is missed less than once in a hundred runs; marks and protocols that nobody uses, a few times.
//! To the VPN server's own address plain packets go on its port and another, and datagrams inside IP-in-IP, 6in4 and GRE to one address.
//! Limits: a rule for one other port or one other address can be missed.

pub mod targets;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use serde_json::Value;
use socket2::Socket;
use tokio::task::spawn_blocking;

use self::targets::{corners, private};
use super::craft::{self, Craft};
use super::send::ENCAPSULATIONS;
use super::user::{self, User};
use super::volley::{Guise, Shot, Volley};
use super::{Context, Outcome, Sender, Technique, Work, marks, openings, read};
use crate::model::evidence::{Evidence, Via};

/// Times that everything is sent to all addresses, in as many moments.
const ROUNDS: usize = 4;
/// How long something is sent again and again, a little longer than a second: a rule may let pass one packet in each.
const DRIP: Duration = Duration::from_millis(1050);
/// Time between rounds and for the last packets to reach the wire.
const PAUSE: Duration = Duration::from_millis(60);
/// Ports: services, the web, VPNs, STUN, trackers and peers, and beside them high ones.
const UDP_PORTS: [u16; 15] = [53, 67, 80, 123, 443, 500, 853, 1194, 1337, 3478, 6881, 6969, 19_302, 40_000, 51_413];
const TCP_PORTS: [u16; 15] = [22, 25, 53, 80, 443, 853, 1080, 3128, 6881, 6969, 8080, 8443, 9001, 40_001, 51_413];
/// Ports to which connections are begun by the kernel itself.
const CONNECTIONS: [u16; 4] = [80, 443, 6881, 40_001];
/// Ports that a rule may look for at the sender.
const FROM_PORTS: [u16; 6] = [53, 80, 443, 6881, 51_413, 51_820];
/// Ports of trials that are about something else than ports.
const FEW_PORTS: [u16; 2] = [443, 6881];
/// Protocols that other VPNs, tunnels, telephones and routers speak: IPIP, 6in4, DCCP, GRE, ESP, AH, OSPF, PIM, VRRP, L2TP, SCTP, UDP-Lite.
const WELL_KNOWN: [u8; 12] = [4, 33, 41, 47, 50, 51, 89, 103, 112, 115, 132, 136];
/// Extension headers of IPv6 (RFC 7045): as protocols they make no packet.
const EXTENSIONS: [u8; 11] = [0, 43, 44, 50, 51, 59, 60, 135, 139, 140, 253];
/// Users that containers run their programs as, beside those that are found.
const COMMON_USERS: [u32; 8] = [0, 99, 100, 568, 911, 1000, 1001, 65_534];
/// Types of service that programs and routers use: minimum delay, throughput and cost, CS1, AF21, AF41, EF, CS6 (RFC 791, RFC 4594).
const CLASSES: [u8; 8] = [0x10, 0x08, 0x02, 0x20, 0x48, 0x88, 0xb8, 0xc0];
/// Local service discovery (BEP 14), SSDP, mDNS, LLMNR, all hosts, broadcast.
const GROUPS4: [([u8; 4], u16); 6] = [
    ([239, 192, 152, 143], 6771),
    ([239, 255, 255, 250], 1900),
    ([224, 0, 0, 251], 5353),
    ([224, 0, 0, 252], 5355),
    ([224, 0, 0, 1], 9999),
    ([255, 255, 255, 255], 6771),
];
const GROUPS6: [(&str, u16); 5] =
    [("ff15::efc0:988f", 6771), ("ff02::c", 1900), ("ff02::fb", 5353), ("ff02::1:3", 5355), ("ff0e::c", 1900)];

/// A port of the VPN server that is none of the tunnel's.
const OTHER_PORT: u16 = 40_002;
const DNS: u16 = 53;
/// See the head of this file.
pub struct Uplink;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    /// Both, unless one is named.
    family: Option<Family>,
    #[serde(default)]
    spread: Spread,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Family {
    Ipv4,
    Ipv6,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Default)]
#[serde(rename_all = "lowercase")]
enum Spread {
    #[default]
    Ports,
    Marks,
    Protocols,
    Users,
    Multicast,
    Shapes,
}

impl Technique for Uplink {
    fn name(&self) -> &'static str {
        "uplink"
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<Params>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, trial: Arc<str>, params: Value) -> Work<'a> {
        Box::pin(async move {
            let mut evidence = Evidence { from_ms: cx.clock.now_ms(), ..Evidence::default() };
            match read::<Params>(&params) {
                Ok(params) => send_all(cx, trial, &params, &mut evidence).await,
                Err(problem) => evidence.problems.push(problem),
            }
            evidence.to_ms = cx.clock.now_ms();
            evidence
        })
    }
}

/// Payload in clear to the VPN server: the firewall has to let something go there, and should let nothing else.
fn to_server(cx: &Context, sender: &Sender<'_>, v6: bool, via: &Via) -> Vec<Outcome> {
    let Some(endpoint) = cx.endpoint.as_ref().filter(|endpoint| endpoint.address.is_ipv6() == v6) else {
        return Vec::new();
    };
    let server = endpoint.address;
    let mut sent = Vec::new();
    for port in [server.port(), OTHER_PORT] {
        let to = SocketAddr::new(server.ip(), port);
        sent.push(sender.udp(to, via, "datagram in clear to the VPN server", |entry| entry.marker().into_bytes()));
        sent.push(sender.syn(to, via));
    }
    sent.push(sender.echo(server.ip(), via));
    sent
}

async fn send_all(cx: &Context, trial: Arc<str>, params: &Params, evidence: &mut Evidence) {
    let mut volley = Volley::new(cx.clock, cx.ledger.clone(), Arc::clone(&trial));
    for v6 in [false, true] {
        if params.family.is_some_and(|family| (family == Family::Ipv6) != v6) {
            continue;
        }
        let ways = cx.ways(v6);
        let corners = corners(v6, cx.setup.nonce);
        match params.spread {
            Spread::Ports => {
                let server = cx.endpoint.as_ref().map(|endpoint| endpoint.address.port());
                ports(&mut volley, &ways, &corners, server, cx.setup.nonce);
                openings::aim(&mut volley, cx, v6, ROUNDS);
            }
            Spread::Marks => {
                let named = match marks::named() {
                    Ok(named) => named,
                    Err(problem) => {
                        evidence.problems.push(problem);
                        Vec::new()
                    }
                };
                marked(&mut volley, &ways, &corners, &named);
            }
            Spread::Protocols => others(&mut volley, &ways, &corners, v6),
            Spread::Users => {
                let mut found = cx.setup.users.clone();
                match &cx.programs {
                    Ok(programs) => found.extend(programs.iter().map(|program| program.user.clone())),
                    Err(problem) if !v6 => evidence.problems.push(problem.clone()),
                    Err(_) => {}
                }
                let (found, problems) = users(&found);
                evidence.problems.extend(problems.into_iter().filter(|_| !v6));
                as_users(&mut volley, &ways, &corners, &found);
            }
            Spread::Multicast => groups(&mut volley, &ways, v6),
            Spread::Shapes => {
                let private = private(v6, &cx.local, &cx.openings.private(), cx.setup.nonce);
                shapes(&mut volley, &ways, &corners, &private);
            }
        }
    }
    let mut volley = Some(volley);
    let mut open = Vec::new();
    let began = Instant::now();
    for round in 0.. {
        let dripping = params.spread == Spread::Shapes && began.elapsed() < DRIP;
        if round >= ROUNDS && !dripping {
            break;
        }
        if params.spread == Spread::Ports {
            open = connections(cx, &trial, params.family, evidence);
        }
        let Some(mut sending) = volley.take() else { break };
        let fired = spawn_blocking(move || {
            sending.fire(round);
            sending
        });
        match fired.await {
            Ok(sent) => volley = Some(sent),
            Err(error) => evidence.problems.push(format!("packets could not be sent: {error}")),
        }
        tokio::time::sleep(PAUSE).await;
        open.clear();
    }
    evidence.stimuli.extend(volley.map(Volley::stimuli).unwrap_or_default());
}

/// Connections as any program begins them, with the kernel's own SYN.
fn connections(cx: &Context, trial: &Arc<str>, family: Option<Family>, evidence: &mut Evidence) -> Vec<Socket> {
    let sender = cx.sender(trial);
    let mut open = Vec::new();
    for v6 in [false, true].into_iter().filter(|v6| family.is_none_or(|family| (family == Family::Ipv6) == *v6)) {
        let to = first(&corners(v6, cx.setup.nonce), 3);
        for via in cx.ways(v6) {
            for (to, port) in to.iter().flat_map(|to| CONNECTIONS.map(|port| (*to, port))) {
                let outcome = sender.connect(SocketAddr::new(to, port), &via, "connection");
                evidence.stimuli.push(outcome.stimulus);
                open.extend(outcome.socket);
            }
            for number in ENCAPSULATIONS {
                evidence.stimuli.push(sender.encapsulated(number, to[0], &via).stimulus);
            }
            for outcome in to_server(cx, &sender, v6, &via) {
                evidence.stimuli.push(outcome.stimulus);
                open.extend(outcome.socket);
            }
        }
    }
    open
}

/// `server` is the VPN server's port, which a rule may open to everybody.
fn ports(volley: &mut Volley, ways: &[Via], to: &Arc<[IpAddr]>, server: Option<u16>, nonce: u32) {
    let mut random = StdRng::seed_from_u64(u64::from(nonce));
    let others: [u16; 2] = [random.random_range(1025..32_768), random.random_range(32_768..=u16::MAX)];
    for via in ways {
        let guise = Guise::from(via.clone());
        // What the default route carries goes into the tunnel: it need not be flooded.
        let to = if *via == Via::Default { &first(to, 4) } else { to };
        for port in UDP_PORTS.into_iter().chain(server).chain(others) {
            volley.aim(Shot::Datagram(port), &guise, to, ROUNDS);
        }
        for port in TCP_PORTS.into_iter().chain(server).chain(others) {
            volley.aim(Shot::Syn(port), &guise, to, ROUNDS);
        }
        for from in FROM_PORTS {
            volley.aim(Shot::DatagramFrom(from, others[1]), &guise, to, ROUNDS);
            volley.aim(Shot::SynFrom(from, others[1]), &guise, to, ROUNDS);
        }
        volley.aim(Shot::Echo, &guise, to, ROUNDS);
    }
}

fn first(all: &Arc<[IpAddr]>, number: usize) -> Arc<[IpAddr]> {
    all[..number.min(all.len())].into()
}

/// By device and by the default route: rules choose by the mark where no link is named.
fn marked(volley: &mut Volley, ways: &[Via], to: &Arc<[IpAddr]>, named: &[u32]) {
    for (mark, often) in marks::all(named) {
        let to = if often { to } else { &first(to, 2) };
        for via in ways.iter().filter(|via| !matches!(via, Via::Source(_))) {
            let guise = Guise { mark: Some(mark), ..Guise::from(via.clone()) };
            let rounds = if often { ROUNDS } else { 2 };
            for shot in [Shot::Datagram(FEW_PORTS[1]), Shot::Syn(FEW_PORTS[0]), Shot::Echo] {
                volley.aim(shot, &guise, to, rounds);
            }
        }
    }
}

/// Numbers of protocols that are neither TCP, UDP nor ICMP.
pub fn protocols(v6: bool) -> Vec<u8> {
    const FAMILIAR: [i32; 4] = [libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_ICMP, libc::IPPROTO_ICMPV6];
    // The kernel makes no sockets of protocol 0, and 255 means that the sender writes the header itself (raw(7)).
    (1..u8::MAX)
        .filter(|number| !(FAMILIAR.contains(&i32::from(*number)) || v6 && EXTENSIONS.contains(number)))
        .collect()
}

fn others(volley: &mut Volley, ways: &[Via], to: &Arc<[IpAddr]>, v6: bool) {
    let few = first(to, 2);
    for number in protocols(v6) {
        let often = WELL_KNOWN.contains(&number);
        for via in ways {
            let guise = Guise::from(via.clone());
            let (to, rounds) = match (often, via) {
                (true, Via::Device(_) | Via::Source(_)) => (to, ROUNDS),
                (true, Via::Default) => (&few, ROUNDS),
                (false, _) => (&few, 2),
            };
            volley.aim(Shot::Protocol(number), &guise, to, rounds);
        }
    }
}

/// Those whose processes are in the namespace, and those that such programs commonly run as, as far as this process may become them.
fn users(found: &[User]) -> (Vec<User>, Vec<String>) {
    let (mut users, mut problems) = (found.to_vec(), Vec::new());
    for user in found.iter().filter(|user| !user::can_be(user)) {
        problems.push(format!("programs of the stack run as {user}, whom leakcheck may not send as"));
    }
    users.retain(user::can_be);
    let common = COMMON_USERS.map(|id| User { uid: id, gid: id });
    users.extend(common.into_iter().filter(user::can_be));
    users.sort();
    users.dedup();
    (users, problems)
}

fn as_users(volley: &mut Volley, ways: &[Via], to: &Arc<[IpAddr]>, users: &[User]) {
    for user in users {
        for via in ways {
            let guise = Guise { user: Some(user.clone()), ..Guise::from(via.clone()) };
            let to = if *via == Via::Default { &first(to, 4) } else { to };
            volley.aim(Shot::Datagram(FEW_PORTS[1]), &guise, to, ROUNDS);
            volley.aim(Shot::Syn(FEW_PORTS[0]), &guise, to, ROUNDS);
            volley.aim(Shot::Echo, &guise, &first(to, 2), ROUNDS);
        }
    }
}

fn groups(volley: &mut Volley, ways: &[Via], v6: bool) {
    // More rounds would be few: a group has one address, so it is given several times.
    const TIMES: usize = 24;
    let groups: Vec<(IpAddr, u16)> = if v6 {
        GROUPS6.iter().filter_map(|(group, port)| Some((group.parse().ok()?, *port))).collect()
    } else {
        GROUPS4.iter().map(|(group, port)| (IpAddr::from(*group), *port)).collect()
    };
    for via in ways.iter().filter(|via| **via != Via::Default) {
        let guise = Guise::from(via.clone());
        for (group, port) in &groups {
            // IPv6 chooses the link of a group by no source address.
            if v6 && matches!(via, Via::Source(_)) {
                continue;
            }
            volley.aim(Shot::Datagram(*port), &guise, &vec![*group; TIMES].into(), ROUNDS);
        }
    }
}

/// Packets that differ from others by their looks: class, length, flags, type, fragments, options, ports all over. And such as go to private
/// space past the subnets that are local, where an ISP has its resolvers.
fn shapes(volley: &mut Volley, ways: &[Via], to: &Arc<[IpAddr]>, private: &Arc<[IpAddr]>) {
    let v6 = to.first().is_some_and(IpAddr::is_ipv6);
    let port = FEW_PORTS[1];
    let few = first(to, 2);
    let (messages, options): (&[u8], &[u8]) =
        if v6 { (&craft::MESSAGES6, &craft::OPTIONS6) } else { (&craft::MESSAGES4, &craft::OPTIONS4) };
    let lengths = craft::LENGTHS.into_iter().map(Some).chain([None]);
    let mut crafts: Vec<Craft> =
        lengths.flat_map(|length| [Craft::Long(length, port), Craft::LongEcho(length)]).collect();
    crafts.extend(craft::SEGMENTS.map(|flags| Craft::Segment(flags, craft::FROM_PORT, FEW_PORTS[0])));
    crafts.extend(messages.iter().map(|kind| Craft::Message(*kind)));
    crafts.extend(craft::FRAGMENTED.map(Craft::Later));
    crafts.extend(options.iter().map(|number| Craft::Option(*number, port)));
    crafts.push(Craft::First(port));
    for via in ways {
        let guise = Guise::from(via.clone());
        let past = *via != Via::Default;
        for craft in &crafts {
            volley.aim(Shot::Craft(*craft), &guise, &few, if past { 2 } else { 1 });
        }
        for class in (0..64).map(|point| point << 2).chain([0x02]) {
            let guise = Guise { tos: Some(class), ..guise.clone() };
            let (to, rounds) =
                if CLASSES.contains(&class) { (&few, if past { 2 } else { 1 }) } else { (&first(to, 1), 1) };
            volley.aim(Shot::Datagram(port), &guise, to, rounds);
            if CLASSES.contains(&class) {
                volley.aim(Shot::Syn(FEW_PORTS[0]), &guise, to, rounds);
                volley.aim(Shot::Echo, &guise, to, rounds);
            }
        }
        volley.aim(Shot::Datagram(DNS), &guise, private, 2);
        volley.aim(Shot::Syn(DNS), &guise, private, 2);
        if let Via::Device(_) = via {
            volley.aim(Shot::Datagram(port), &guise, &first(to, 1), usize::MAX);
            let swept: Arc<[IpAddr]> = vec![to[0]; craft::SWEEP].into();
            for (tcp, from) in [(false, false), (false, true), (true, false), (true, true)] {
                volley.aim(Shot::Craft(Craft::Sweep { tcp, from }), &guise, &swept, 1);
            }
        }
    }
}
