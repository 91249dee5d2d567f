//! Everything that is read from outside, by the name of its kind, as a function of octets: what servers, packets, the kernel and files say.
//! `fuzz/` and `tests/corpus.rs` feed the same list. A reader may refuse what it is given; it may not panic, hang, or take for good what
//! cannot be.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use crate::catalog::Catalog;
use crate::config;
use crate::judge::{Case, Facts, judge};
use crate::model::evidence::{Evidence, OutageEvidence, PhaseWire, Proto};
use crate::model::probe::Phase;
use crate::model::verdict::Verdict;
use crate::net::{legacy, netlink, nft, route};
use crate::sensor::allow::{AllowList, Endpoint, Shape};
use crate::sensor::decode::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet};
use crate::sensor::ledger::Ledger;
use crate::target::TargetSpec;
use crate::technique::format::announce::{Announcement, connection};
use crate::technique::format::{bencode, krpc, stun};
use crate::technique::{exit_in, gateway, local_resolvers, nameservers, torrent};
use crate::{agent, catalog, report, sensor};

/// A kind of input and its reader.
pub type Input = (&'static str, fn(&[u8]));

/// All kinds. Each has a folder of examples in `fuzz/corpus`, and a target in `fuzz/Cargo.toml`.
pub const INPUTS: &[Input] = &[
    ("bencode", |octets| drop(bencode::Value::read(octets))),
    ("config", |octets| config::understand(&text(octets))),
    ("dht", |octets| drop(krpc::response(octets, b"aa01"))),
    ("dns", local_resolvers::understand),
    ("echo", |octets| drop(exit_in(octets))),
    ("evidence", evidence),
    ("frame", frame),
    ("legacy-table", legacy::understand),
    ("netlink", netlink::understand),
    ("nftables", nft::understand),
    ("packet", packet),
    ("probe", |octets| catalog::understand(&text(octets))),
    ("process", |octets| agent::programs::understand(&text(octets))),
    ("resolv-conf", resolv_conf),
    ("router", gateway::understand),
    ("rtnetlink", route::understand),
    ("sockets", |octets| sensor::sockets::understand(&text(octets))),
    ("stun", |octets| drop(stun::response(octets, &[7; 12]))),
    ("target", target),
    ("torrent-client", torrent::understand),
    ("tracker", tracker),
    ("wireguard", agent::sources::understand),
];

/// Has the reader of kind `name` read.
///
/// # Panics
/// When there is no such kind; else that is what is looked for.
pub fn read(name: &str, octets: &[u8]) {
    let input = INPUTS.iter().find(|(known, _)| *known == name);
    let (_, reader) = input.unwrap_or_else(|| panic!("there is no kind of input {name}"));
    reader(octets);
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

fn resolv_conf(octets: &[u8]) {
    let (found, odd) = nameservers(&text(octets));
    assert!(found.len() <= 3 && !odd.iter().any(|text| text.contains(char::is_control)), "{odd:?}");
}

fn target(octets: &[u8]) {
    if let Ok(spec) = text(octets).parse::<TargetSpec>() {
        assert_eq!(spec.to_string().parse::<TargetSpec>().ok(), Some(spec), "it reads what it says");
    }
}

fn tracker(octets: &[u8]) {
    const OURS: Announcement = Announcement { torrent: [0xa1; 20], peer: *b"-LK0100-abcdefghijkl", port: 6881 };
    let _ = (OURS.answer(octets).is_ok(), connection(octets, 7));
    let _ = (OURS.answer_datagram(octets, 7, false), OURS.answer_datagram(octets, 7, true));
}

/// A frame of the protocol between runner and agent: what a stranger could have put into it is in the evidence.
fn frame(octets: &[u8]) {
    let _ = serde_json::from_slice::<agent::protocol::Envelope<agent::protocol::Reply>>(octets);
    let _ = serde_json::from_slice::<agent::protocol::Envelope<agent::protocol::Request>>(octets);
}

/// A frame of the wire: of no family that it does not claim, and dropped by the kernel's filter only if the allow-list allows it.
fn packet(octets: &[u8]) {
    let ether_type = match octets.first().map(|first| first >> 4) {
        Some(6) => ETHERTYPE_IPV6,
        Some(4) => ETHERTYPE_IPV4,
        _ => octets.first_chunk().map_or(0, |head| u16::from_be_bytes(*head)),
    };
    let packet = Packet::decode(ether_type, octets);
    assert!(packet.payload.len() <= octets.len(), "a payload that is longer than the packet");
    let address = SocketAddr::from(([198, 51, 100, 2], 51_820));
    let shapes = [(Proto::Udp, Shape::Wireguard), (Proto::Udp, Shape::Openvpn), (Proto::Tcp, Shape::Unknown)];
    let endpoints = shapes.map(|(proto, shape)| Endpoint { address, proto, shape, flow: Some(4000) });
    let allow = AllowList { endpoints: endpoints.into(), local: Vec::new() };
    let ledger = Ledger::new(0x1234_abcd);
    ledger.enter(&Arc::from("probe"));
    let _ = (allow.classify(&packet), allow.endpoints[0].is_aimed_at(&packet), ledger.owner(&packet));
}

/// What an agent could send back, whatever strangers put into it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    evidence: Option<Evidence>,
    wire: Option<PhaseWire>,
    outage: Option<OutageEvidence>,
}

/// Evidence, judged by every probe in every phase: without a sensor that heard nothing passes.
fn evidence(octets: &[u8]) {
    let Ok(told) = serde_json::from_slice::<Told>(octets) else { return };
    if let Some(wire) = &told.wire {
        let _ = report::understand(&wire.captured);
    }
    let facts = Facts { home: vec![[203, 0, 113, 10].into()], ..Facts::default() };
    let catalog = Catalog::builtin().unwrap_or_else(|error| panic!("the probes are not sound: {error}"));
    for probe in catalog.probes() {
        for phase in [Phase::Up, Phase::Outage, Phase::Recovered] {
            let (evidence, outage) = (told.evidence.as_ref(), told.outage.as_ref());
            let case =
                Case { probe, trial: &probe.id, phase, evidence, wire: told.wire.as_ref(), outage, facts: &facts };
            let ruling = judge(&case);
            let heard = told.wire.as_ref().is_some_and(|wire| wire.dropped == 0 && !wire.controls.is_empty());
            // Others listen to the start of a container, and Docker says who shares the network.
            let by_sensor =
                !(probe.technique == "boot" || crate::technique::OF_ENGINE.contains(&probe.technique.as_str()));
            let passed = ruling.verdict == Verdict::Pass;
            assert!(heard || !passed || !by_sensor, "{} passes without a sensor: {ruling:?}", probe.id);
            assert_eq!(passed, ruling.reason.is_none(), "{}: {ruling:?}", probe.id);
        }
    }
}

/// Where the examples of a kind are.
pub fn corpus(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name)
}
