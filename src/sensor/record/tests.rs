//! What becomes of packets: by fragment, by connection, by server, by owner.

use super::*;
use crate::sensor::decode::{ETHERTYPE_IPV4, Fragment};
use etherparse::PacketBuilder;
use std::net::Ipv4Addr;

const SERVER: [u8; 4] = [198, 51, 100, 2];
const STRANGER: [u8; 4] = [8, 8, 8, 8];

fn endpoint(port: u16, shape: Shape) -> Endpoint {
    Endpoint { address: (Ipv4Addr::from(SERVER), port).into(), proto: Proto::Udp, shape, flow: None }
}

fn record() -> Record {
    let local = vec!["172.18.0.0/16".parse().unwrap()];
    Record::new(AllowList { endpoints: vec![endpoint(51820, Shape::Wireguard)], local }, HashSet::new())
}

fn udp(to: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    let mut octets = Vec::new();
    PacketBuilder::ipv4([172, 18, 0, 10], to, 64).udp(4000, port).write(&mut octets, payload).unwrap();
    octets
}

fn tcp(to: [u8; 4], syn: bool) -> Vec<u8> {
    let mut octets = Vec::new();
    let builder = PacketBuilder::ipv4([172, 18, 0, 10], to, 64).tcp(4000, 443, 1, 1);
    if syn { builder.syn() } else { builder.ack(1) }.write(&mut octets, b"").unwrap();
    octets
}

/// The first or a later fragment of a packet that was whole.
fn fragment(mut octets: Vec<u8>, id: u8, first: bool) -> Vec<u8> {
    octets[5] = id;
    octets[6] = if first { 0x20 } else { 0 };
    octets[7] = if first { 0 } else { 100 };
    octets
}

fn take(record: &mut Record, octets: &[u8], owner: Option<&str>) -> (Option<Class>, Option<Question>) {
    let packet = Packet::decode(ETHERTYPE_IPV4, octets);
    let seen = Seen {
        at_ms: 1.0,
        time: (1, 2),
        index: 2,
        link: "eth0",
        role: Role::Uplink,
        ether_type: ETHERTYPE_IPV4,
        tag: None,
        octets,
        length: octets.len() as u32,
    };
    let mut owner = owner.map(|name| (Arc::from(name), 7));
    let taken = record.take(&seen, &packet, &mut owner);
    taken.map_or((None, None), |taken| (Some(taken.class), taken.question))
}

fn finish(record: &mut Record) -> PhaseWire {
    let mut phase = PhaseWire::default();
    record.finish(&mut phase);
    phase
}

#[test]
fn later_fragments_are_what_the_first_was() {
    let mut record = record();
    let data = [&[4, 0, 0, 0][..], &[0; 12], &[7; 1336]].concat();
    for (to, port, payload, expected) in [
        (SERVER, 51820, &data[..], None),
        (SERVER, 51820, b"plain text to the server", Some(Class::Offence)),
        ([172, 18, 0, 1], 53, b"question", Some(Class::LocalDns)),
        ([172, 18, 0, 1], 80, b"question", None),
        (STRANGER, 9, b"x", Some(Class::Offence)),
    ] {
        let whole = udp(to, port, payload);
        let id = whole.len() as u8 ^ to[0];
        assert_eq!(take(&mut record, &fragment(whole.clone(), id, true), None).0, expected);
        assert_eq!(take(&mut record, &fragment(whole, id, false), None).0, expected, "{to:?} {port}");
    }
    let orphan = fragment(udp(SERVER, 51820, &data), 99, false);
    assert_eq!(take(&mut record, &orphan, None).0, Some(Class::Offence), "no first fragment was seen");
    let packet = Packet::decode(ETHERTYPE_IPV4, &orphan);
    assert_eq!(packet.fragment, Some(Fragment { id: 99, first: false }));
}

#[test]
fn a_stimulus_in_fragments_is_its_probes() {
    let mut record = record();
    take(&mut record, &fragment(udp(STRANGER, 9, b"x"), 5, true), Some("uplink"));
    take(&mut record, &fragment(udp(STRANGER, 9, b"x"), 5, false), None);
    let phase = finish(&mut record);
    assert!(phase.sightings.iter().all(|sighting| sighting.probe.as_deref() == Some("uplink")), "{phase:?}");
    assert_eq!(phase.sightings.len(), 2);
}

#[test]
fn connections_without_a_beginning_are_older() {
    let mut record = record();
    take(&mut record, &tcp(STRANGER, false), None);
    take(&mut record, &tcp([1, 1, 1, 1], true), None);
    take(&mut record, &tcp([1, 1, 1, 1], false), None);
    let older = |phase: &PhaseWire| {
        phase
            .sightings
            .iter()
            .map(|sighting| (sighting.dst.ip().to_string(), sighting.detail.older))
            .collect::<Vec<_>>()
    };
    let phase = finish(&mut record);
    assert_eq!(older(&phase), [("8.8.8.8".to_owned(), true), ("1.1.1.1".to_owned(), false)]);
    // The beginning is remembered from phase to phase.
    take(&mut record, &tcp([1, 1, 1, 1], false), None);
    assert_eq!(older(&finish(&mut record)), [("1.1.1.1".to_owned(), false)]);
    let ends = ("172.18.0.10:4000".parse().unwrap(), "8.8.8.8:9".parse().unwrap());
    record.before.insert((Proto::Udp, ends.0, ends.1));
    take(&mut record, &udp(STRANGER, 9, b"x"), None);
    assert!(finish(&mut record).sightings[0].detail.older);
}

#[test]
fn a_new_server_is_the_tunnels_as_far_as_it_looks_so() {
    let mut record = record();
    let data = [&[4, 0, 0, 0][..], &[0; 12], &[7; 80]].concat();
    for _ in 0..3 {
        assert_eq!(take(&mut record, &udp(SERVER, 51821, &data), None).0, Some(Class::Offence));
    }
    take(&mut record, &udp(SERVER, 51822, b"plain text"), None);
    take(&mut record, &udp(SERVER, 51821, &data), Some("uplink"));
    record.adopt(endpoint(51821, Shape::Wireguard));
    record.adopt(endpoint(51822, Shape::Wireguard));
    assert_eq!(take(&mut record, &udp(SERVER, 51821, &data), None).0, None);
    assert_eq!(take(&mut record, &udp(SERVER, 51821, b"plain text"), None).0, Some(Class::Offence));
    let phase = finish(&mut record);
    let left: Vec<(u16, u64)> = phase.sightings.iter().map(|sighting| (sighting.dst.port(), sighting.count)).collect();
    assert_eq!(left, [(51822, 1), (51821, 1), (51821, 1)], "plain text, a stimulus, and plain text again");
    assert_eq!((phase.packets, phase.captured.len()), (3, 3));
}

#[test]
fn stimuli_to_the_servers_own_port_are_no_offence_and_others_are() {
    let mut record = record();
    assert_eq!(take(&mut record, &udp(SERVER, 51820, b"marked"), Some("uplink")).0, Some(Class::Server));
    assert_eq!(take(&mut record, &udp(SERVER, 51820, b"marked"), None).0, Some(Class::Offence));
    assert_eq!(take(&mut record, &udp(SERVER, 51819, b"marked"), Some("uplink")).0, Some(Class::Offence));
}

#[test]
fn stimuli_are_known_among_packets_without_looks() {
    let mut record = record();
    record.adopt(endpoint(443, Shape::Unknown));
    assert_eq!(take(&mut record, &udp(SERVER, 443, b"the tunnel's, or anybody's"), None).0, None);
    assert_eq!(take(&mut record, &udp(SERVER, 443, b"marked"), Some("uplink")).0, Some(Class::Server));
    // Seen again, and known by then.
    record.adopt(endpoint(443, Shape::Wireguard));
    assert_eq!(take(&mut record, &udp(SERVER, 443, b"plain text"), None).0, Some(Class::Offence));
}

#[test]
fn leaked_packets_are_kept_a_few_of_each_kind_and_nothing_else() {
    let mut record = record();
    for _ in 0..20 {
        take(&mut record, &udp(STRANGER, 9, b"leak"), None);
    }
    for port in 1000..1300 {
        take(&mut record, &udp(STRANGER, port, b"leak"), None);
    }
    take(&mut record, &udp([172, 18, 0, 1], 53, b"private question"), None);
    take(&mut record, &udp(STRANGER, 9, b"stimulus"), Some("uplink"));
    let phase = finish(&mut record);
    assert_eq!(phase.captured.len(), MAX_CAPTURED + 1, "others do not crowd stimuli out");
    let alike = phase.captured.iter().filter(|packet| packet.comment.contains("20 alike")).count();
    assert_eq!(alike, MAX_CAPTURED_ALIKE);
    assert!(finish(&mut record).captured.is_empty());
}

#[test]
fn who_sent_it_is_asked_once_and_of_strangers_only() {
    let mut record = record();
    let question = take(&mut record, &udp(STRANGER, 9, b"x"), None).1.unwrap();
    assert_eq!(take(&mut record, &udp(STRANGER, 9, b"x"), None).1, None);
    assert_eq!(take(&mut record, &udp(STRANGER, 9, b"x"), Some("uplink")).1, None);
    let owner = Owner { pid: 12, name: "qbittorrent".to_owned(), container: Some("0123456789ab".to_owned()) };
    record.answer(question.place, vec![owner.clone()]);
    let phase = finish(&mut record);
    assert_eq!(phase.sightings[0].detail.texts(), ["sent by qbittorrent (process 12, container 0123456789ab)"]);
    assert!(phase.captured[0].comment.ends_with("container 0123456789ab)"));
    // An answer that comes after its phase is nobody's.
    take(&mut record, &udp(STRANGER, 9, b"x"), None);
    record.answer(question.place, vec![owner]);
    assert!(finish(&mut record).sightings[0].detail.owners.is_empty());
}

#[test]
fn a_stimulus_that_was_diverted_to_a_local_address_is_seen() {
    let octets = udp([172, 18, 0, 1], 5353, b"a question that was meant for a stranger");
    assert_eq!(take(&mut record(), &octets, Some("dns-forced")).0, Some(Class::Nearby));
    assert_eq!(take(&mut record(), &octets, None).0, None, "local traffic of others is allowed");
    let server = Endpoint { address: "172.18.0.1:51820".parse().unwrap(), ..endpoint(51820, Shape::Wireguard) };
    let allow = AllowList { endpoints: vec![server], local: vec!["172.18.0.0/16".parse().unwrap()] };
    let near = &mut Record::new(allow, HashSet::new());
    assert_eq!(
        take(near, &octets, Some("uplink")).0,
        None,
        "what is sent to a server on a local subnet is not diverted"
    );
}
