//! The parsers by themselves, each with as many answers as are asked for: no sockets, so that all the time goes into answers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use etherparse::PacketBuilder;
use hickory_proto::op::Message;
use leakcheck::model::evidence::{Proto, Said};
use leakcheck::sensor::allow::{AllowList, Endpoint, Shape};
use leakcheck::sensor::decode::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet};
use leakcheck::sensor::ledger::Ledger;
use leakcheck::technique::format::announce::{Announcement, connect, connection};
use leakcheck::technique::format::bencode::Value;
use leakcheck::technique::format::{krpc, stun};
use leakcheck::technique::{exit_in, nameservers};

use crate::answers::{self, EXIT};
use crate::mutate::Mutator;
use crate::{Body, went_on};

pub const TRIALS: &[(&str, Body)] = &[
    ("parser::stun", stun_answers),
    ("parser::dht", dht_answers),
    ("parser::bencoding", bencoding),
    ("parser::tracker_http", tracker_over_http),
    ("parser::tracker_udp", tracker_over_udp),
    ("parser::echo", echo),
    ("parser::dns", dns),
    ("parser::resolv_conf", resolv_conf),
    ("parser::packets", packets),
];
/// A text about an answer has no more characters than this, and none that a terminal would obey: 60 of the answer, escaped, and words.
const LONGEST_TEXT: usize = 60 * "\\u{10ffff}".len() + 100;
const OURS: Announcement = Announcement { torrent: [0xa1; 20], peer: *b"-LK0100-abcdefghijkl", port: 6881 };

/// Gives broken forms of `good` to `read`, which says when it was told more than it should have been.
fn feed(count: u64, good: &[Vec<u8>], mut read: impl FnMut(&[u8]) -> Option<String>) -> Result<u64, String> {
    for whole in good {
        if let Some(why) = read(whole) {
            return Err(format!("an honest answer gives {why:?}"));
        }
    }
    let mut mutator = Mutator::new(20_260_520);
    for number in 0..count {
        let octets = mutator.of(good);
        if let Some(text) = read(&octets)
            && (text.chars().count() > LONGEST_TEXT || text.chars().any(char::is_control))
        {
            let head = &octets[..octets.len().min(64)];
            return Err(format!("answer {number}, of {} octets, gives {text:?}: {head:02x?}", octets.len()));
        }
        went_on();
    }
    Ok(count)
}

fn honest(answer: Option<Vec<u8>>) -> Result<Vec<u8>, String> {
    answer.ok_or_else(|| "the honest server takes the question for none".to_owned())
}

fn stun_answers(count: u64) -> Result<u64, String> {
    let id = [7; 12];
    let good = [honest(answers::stun(&stun::request(&id), EXIT))?];
    feed(count, &good, |octets| stun::response(octets, &id)?.err())
}

fn dht_answers(count: u64) -> Result<u64, String> {
    let (id, transaction) = ([8; 20], *b"aa01");
    let good = [honest(answers::dht(&krpc::ping(&id, &transaction), EXIT))?];
    let error = b"d1:eli201e23:A Generic Error Ocurrede1:t4:aa011:y1:ee".to_vec();
    if krpc::response(&error, &transaction).is_none() {
        return Err("the error is none".to_owned());
    }
    let half = feed(count / 2, &good, |octets| krpc::response(octets, &transaction)?.err())?;
    let rest = feed_errors(count - half, &error, |octets| krpc::response(octets, &transaction)?.err())?;
    Ok(half + rest)
}

/// As [`feed`], for an answer that is honest and an error.
fn feed_errors(count: u64, good: &[u8], read: impl Fn(&[u8]) -> Option<String>) -> Result<u64, String> {
    let mut whole = true;
    feed(count, &[good.to_vec()], |octets| if std::mem::take(&mut whole) { None } else { read(octets) })
}

fn bencoding(count: u64) -> Result<u64, String> {
    let good = [b"d1:ali1ei-2ee1:bd1:c4:spame1:di0ee".to_vec(), b"l4:spaml4:eggsi7eed1:a0:ee".to_vec()];
    feed(count, &good, |octets| {
        let value = Value::read(octets)?;
        // A value borrows what it was read from: it can name no more values than there were octets.
        (weigh(&value) > octets.len().max(1)).then(|| "\n".to_owned())
    })
}

fn weigh(value: &Value<'_>) -> usize {
    match value {
        Value::Integer(_) | Value::Octets(_) => 1,
        Value::List(values) => 1 + values.iter().map(weigh).sum::<usize>(),
        Value::Dictionary(entries) => 1 + entries.iter().map(|(_, value)| weigh(value)).sum::<usize>(),
    }
}

fn tracker_over_http(count: u64) -> Result<u64, String> {
    let good = [
        b"d8:completei0e11:external ip4:\xc6\x33\x64\x0310:incompletei1e8:intervali1800e5:peers0:e".to_vec(),
        b"d8:intervali1800e5:peers12:\x01\x02\x03\x04\x00\x50\xc6\x33\x64\x03\x1a\xe1e".to_vec(),
        b"d8:intervali9e5:peersld2:ip7:1.2.3.44:porti80eed2:ip14:2001:db8:51::34:porti6881eeee".to_vec(),
    ];
    feed(count, &good, |octets| OURS.answer(octets).err())
}

fn tracker_over_udp(count: u64) -> Result<u64, String> {
    let connected = honest(answers::tracker(&connect(7), EXIT))?;
    let half = feed(count / 2, &[connected], |octets| connection(octets, 7)?.err())?;
    let announced = [honest(answers::tracker(&OURS.datagram(1, 7), EXIT))?];
    let rest = feed(count - half, &announced, |octets| {
        let _ = OURS.answer_datagram(octets, 7, true);
        OURS.answer_datagram(octets, 7, false)?.err()
    })?;
    Ok(half + rest)
}

fn echo(count: u64) -> Result<u64, String> {
    let good: Vec<Vec<u8>> = answers::web()
        .into_iter()
        .take(3)
        .filter_map(|whole| Some(whole[whole.windows(4).position(|part| part == b"\r\n\r\n")? + 4..].to_vec()))
        .collect();
    feed(count, &good, |octets| match exit_in(octets) {
        Said::Nothing { error } => Some(error),
        _ => None,
    })
}

/// The answers of name servers are read by a library; that it is a match for them is ours to know.
fn dns(count: u64) -> Result<u64, String> {
    let question = crate::dns::question(7, "name.example.com.")?;
    let mut good = vec![honest(answers::dns(&question, EXIT))?];
    good.extend(crate::dns::horrors(&question));
    let mut mutator = Mutator::new(53);
    for _ in 0..count {
        let octets = mutator.of(&good);
        if let Ok(answer) = Message::from_vec(&octets) {
            let _ = answer.answers.iter().find_map(|record| record.data.ip_addr());
        }
        went_on();
    }
    Ok(count)
}

fn resolv_conf(count: u64) -> Result<u64, String> {
    let good = [b"search lan\nnameserver 127.0.0.11\nnameserver fe80::1%eth0\noptions ndots:0 # made\n".to_vec()];
    feed(count, &good, |octets| {
        let (found, odd) = nameservers(&String::from_utf8_lossy(octets));
        (found.len() > 3 || odd.iter().any(|text| text.chars().any(char::is_control))).then(|| "\n".to_owned())
    })
}

/// Packets come from strangers too, and the sensor reads all of them.
fn packets(count: u64) -> Result<u64, String> {
    let good = some_packets()?;
    let ledger = Ledger::new(0x1234_abcd);
    let owner: Arc<str> = "probe".into();
    let entry = ledger.enter(&owner);
    let at: SocketAddr = "198.51.100.2:51820".parse().map_err(|_| "no address")?;
    let endpoints = [(Proto::Udp, Shape::Wireguard), (Proto::Udp, Shape::Openvpn), (Proto::Tcp, Shape::Unknown)];
    let endpoints = endpoints.map(|(proto, shape)| Endpoint { address: at, proto, shape, flow: Some(4000) });
    let local = "172.18.0.0/16".parse().map_err(|_| "no network")?;
    let allow = AllowList { endpoints: endpoints.into(), local: vec![local] };
    let types = [ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_ARP, 0x8100, 0x88a8, 0x8864, 0x0004];
    let mut mutator = Mutator::new(802);
    for number in 0..count {
        let mut octets = mutator.of(&good);
        if number % 8 == 0 {
            let room = mutator.below(octets.len() + 1);
            octets.splice(room..room, entry.marker().bytes());
        }
        let ether_type = match (octets.first().map(|first| first >> 4), mutator.below(8)) {
            (_, 0) => types[mutator.below(types.len())],
            (Some(6), _) => ETHERTYPE_IPV6,
            _ => ETHERTYPE_IPV4,
        };
        // The ring hands over no more than this.
        octets.truncate(1024);
        let packet = Packet::decode(ether_type, &octets);
        if packet.payload.len() > octets.len() {
            return Err(format!("the payload of packet {number} is longer than the packet"));
        }
        let _ = (allow.classify(&packet), allow.endpoints[0].is_aimed_at(&packet), ledger.owner(&packet));
        went_on();
    }
    Ok(count)
}

fn some_packets() -> Result<Vec<Vec<u8>>, String> {
    let (src, dst) = ([172, 18, 0, 10], [8, 8, 8, 8]);
    let (src6, dst6) = ([0xfd; 16], [0x20; 16]);
    let mut all = Vec::new();
    let mut write = |write: &dyn Fn(&mut Vec<u8>) -> Result<(), String>| -> Result<(), String> {
        let mut octets = Vec::new();
        write(&mut octets)?;
        all.push(octets);
        Ok(())
    };
    let told = |error: etherparse::err::packet::BuildWriteError| error.to_string();
    write(&|to| {
        PacketBuilder::ipv4(src, dst, 1).udp(4000, 51_820).write(to, &[4, 0, 0, 0, 1, 2, 3, 4, 5]).map_err(told)
    })?;
    write(&|to| PacketBuilder::ipv4(src, dst, 64).tcp(4000, 443, 1, 1024).write(to, b"hello").map_err(told))?;
    write(&|to| PacketBuilder::ipv4(src, dst, 1).icmpv4_echo_request(1, 2).write(to, b"ping").map_err(told))?;
    write(&|to| PacketBuilder::ipv6(src6, dst6, 1).udp(4000, 53).write(to, b"name").map_err(told))?;
    write(&|to| PacketBuilder::ipv6(src6, dst6, 1).icmpv6_echo_request(1, 2).write(to, b"ping").map_err(told))?;
    // One in the other, three deep.
    let inner = all[0].clone();
    for number in [4, 47, 41] {
        let under = all.last().cloned().unwrap_or(inner.clone());
        let mut octets = Vec::new();
        let ip = etherparse::Ipv4Header::new(under.len() as u16, 9, etherparse::IpNumber(number), src, dst)
            .map_err(|error| error.to_string())?;
        ip.write(&mut octets).map_err(|error| error.to_string())?;
        octets.extend(under);
        all.push(octets);
    }
    // A chain of extension headers that begins well: hop-by-hop, routing, fragment, destination.
    let mut chain = vec![0x60, 0, 0, 0, 0, 40, 0, 1];
    chain.extend(IpAddr::from(src6).to_string().bytes().chain([0; 32]).take(32));
    chain.extend([43, 0, 0, 0, 0, 0, 0, 0, 44, 0, 0, 0, 0, 0, 0, 0, 60, 0, 0, 1, 0, 0, 0, 9, 17, 0, 0, 0, 0, 0, 0, 0]);
    chain.extend([0x0f, 0xa0, 0, 53, 0, 8, 0, 0]);
    all.push(chain);
    Ok(all)
}
