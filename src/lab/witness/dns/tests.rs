//! Authority and forwarder over the sockets of 127.0.0.0/8, where each address stands for another machine.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, RecordType};
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::server::{read_framed, write_framed};
use super::*;
use crate::lab::witness::journal::{Journal, Protocol, What};

const PATIENCE: Duration = Duration::from_secs(5);

/// Binds UDP and TCP to the same port of `ip`.
async fn sockets(ip: &str) -> (Sockets, SocketAddr) {
    loop {
        let tcp = TcpListener::bind((ip, 0)).await.unwrap();
        let address = tcp.local_addr().unwrap();
        if let Ok(udp) = UdpSocket::bind(address).await {
            return (Sockets { udp: vec![udp], tcp: vec![tcp], tls: Vec::new() }, address);
        }
    }
}

struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn start(ip: &str, answerer: impl Answer) -> Server {
    let (sockets, address) = sockets(ip).await;
    Server { address, task: tokio::spawn(serve(sockets, Arc::new(answerer))) }
}

async fn authority(journal: &Journal) -> Server {
    let mut zone = Zone::internet();
    let long: Vec<String> = (0..20).map(|n| format!("{n:0200}")).collect();
    zone.add("large.example.net", RData::TXT(TXT::new(long))).unwrap();
    start("127.0.53.1", Authority::new("authority", journal.clone(), zone)).await
}

fn upstream(server: &Server, from: &str) -> Upstream {
    Upstream { server: server.address, from: Some(from.parse().unwrap()) }
}

fn message(name: &str, wanted: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), wanted));
    message
}

async fn exchange(server: SocketAddr, octets: &[u8]) -> Message {
    let client = UdpSocket::bind("127.0.0.77:0").await.unwrap();
    client.connect(server).await.unwrap();
    client.send(octets).await.unwrap();
    let mut buffer = [0; 4096];
    let length = timeout(PATIENCE, client.recv(&mut buffer)).await.expect("an answer").unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn ask(server: &Server, name: &str, wanted: RecordType) -> Message {
    exchange(server.address, &message(name, wanted).to_vec().unwrap()).await
}

async fn ask_tcp(stream: &mut TcpStream, message: &Message) -> Message {
    write_framed(stream, &message.to_vec().unwrap()).await.unwrap();
    Message::from_vec(&timeout(PATIENCE, read_framed(stream)).await.unwrap().unwrap()).unwrap()
}

fn texts(message: &Message) -> Vec<String> {
    let strings = message.answers.iter().filter_map(|record| match &record.data {
        RData::TXT(txt) => Some(txt.txt_data.iter()),
        _ => None,
    });
    strings.flatten().map(|text| String::from_utf8(text.to_vec()).unwrap()).collect()
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn the_authority_tells_askers_who_they_are() {
    let journal = Journal::new();
    let server = authority(&journal).await;
    assert_eq!(addresses(&ask(&server, "whoami.akamai.net.", RecordType::A).await), [ip("127.0.0.77")]);
    assert_eq!(texts(&ask(&server, "whoami.ds.akahelp.net.", RecordType::TXT).await), ["ns", "127.0.0.77"]);
    assert_eq!(texts(&ask(&server, "O-O.myaddr.l.google.com.", RecordType::TXT).await), ["127.0.0.77"]);
    let other_type = ask(&server, "whoami.akamai.net.", RecordType::AAAA).await;
    assert_eq!((other_type.metadata.response_code, other_type.answers.len()), (ResponseCode::NoError, 0));
}

#[tokio::test]
async fn the_authority_answers_for_names_and_for_none() {
    let journal = Journal::new();
    let server = authority(&journal).await;
    let found = ask(&server, "lk-1.example.com.", RecordType::A).await;
    assert_eq!(addresses(&found), [ip("93.184.215.14")]);
    assert!(found.metadata.authoritative && !found.metadata.recursion_available);
    let none = ask(&server, "nobody.test.", RecordType::A).await;
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(none.authorities.iter().map(|record| record.record_type()).collect::<Vec<_>>(), [RecordType::SOA]);
    assert_eq!(journal.dns_askers("authority", "nobody.test"), [ip("127.0.0.77")]);
}

#[tokio::test]
async fn the_authority_sees_the_egress_of_a_resolver() {
    let journal = Journal::new();
    let authority = authority(&journal).await;
    let resolver =
        start("127.8.8.8", Forwarder::new("resolver", journal.clone(), upstream(&authority, "127.8.8.9"))).await;
    let whoami = ask(&resolver, "whoami.akamai.net.", RecordType::A).await;
    assert_eq!(addresses(&whoami), [ip("127.8.8.9")]);
    assert!(whoami.metadata.recursion_available && !whoami.metadata.authoritative);
    ask(&resolver, "lk-7.example.com.", RecordType::AAAA).await;
    assert_eq!(journal.dns_askers("authority", "lk-7.example.com"), [ip("127.8.8.9")]);
    assert_eq!(journal.dns_askers("resolver", "lk-7.example.com"), [ip("127.0.0.77")]);
    assert_eq!(ask(&resolver, "no.lan.", RecordType::A).await.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn large_answers_are_truncated_over_udp_and_whole_over_tcp() {
    let journal = Journal::new();
    let authority = authority(&journal).await;
    let resolver =
        start("127.8.8.8", Forwarder::new("resolver", journal.clone(), upstream(&authority, "127.8.8.9"))).await;
    for server in [&authority, &resolver] {
        let mut question = message("large.example.net.", RecordType::TXT);
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        question.set_edns(edns);
        let cut = exchange(server.address, &question.to_vec().unwrap()).await;
        assert!(cut.metadata.truncation && cut.answers.is_empty());
        assert!(cut.edns.is_some(), "EDNS is answered by EDNS");

        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.78:0".parse().unwrap()).unwrap();
        let mut stream = socket.connect(server.address).await.unwrap();
        for _ in 0..2 {
            let whole = ask_tcp(&mut stream, &question).await;
            assert_eq!((whole.metadata.truncation, texts(&whole).len()), (false, 20));
        }
    }
    let by_tcp = journal.find(|entry| entry.protocol == Protocol::Tcp && entry.peer.ip() == ip("127.8.8.9"));
    assert!(!by_tcp.is_empty(), "the resolver turned to TCP, from its egress");
}

#[tokio::test]
async fn a_resolver_without_upstream_says_servfail_and_a_dead_one_nothing() {
    let journal = Journal::new();
    // Bound and never read: an upstream that is silent.
    let silent = UdpSocket::bind("127.0.53.2:0").await.unwrap();
    let upstream = Upstream { server: silent.local_addr().unwrap(), from: None };
    let forwarder = Forwarder::new("resolver", journal.clone(), upstream).with_deadline(Duration::from_millis(200));
    let failing = start("127.8.8.8", forwarder.clone()).await;
    let began = Instant::now();
    let answer = ask(&failing, "a.example.com.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(began.elapsed() >= Duration::from_millis(150), "it tried");

    let dead = start("127.8.8.8", forwarder.dead()).await;
    let client = UdpSocket::bind("127.0.0.77:0").await.unwrap();
    let question = message("dead.example.com.", RecordType::A).to_vec().unwrap();
    client.send_to(&question, dead.address).await.unwrap();
    let heard = |entry: &crate::lab::witness::Entry| matches!(&entry.what, What::Dns { name, .. } if name == "dead.example.com.");
    assert!(journal.wait_for(PATIENCE, heard).await.is_some());
    assert!(timeout(Duration::from_millis(300), client.recv(&mut [0; 512])).await.is_err());
}

#[tokio::test]
async fn chosen_names_go_elsewhere() {
    let journal = Journal::new();
    let main = authority(&journal).await;
    let mut zone = Zone::empty();
    zone.add_addresses("printer.lan", [ip("192.168.1.77")]).unwrap();
    let local = start("127.0.53.3", Authority::new("local", journal.clone(), zone)).await;
    let forwarder = Forwarder::new("resolver", journal.clone(), upstream(&main, "127.8.8.9"))
        .with_exception(|name| name.iter().next_back() == Some(b"lan"), upstream(&local, "127.8.8.10"));
    let resolver = start("127.8.8.8", forwarder).await;
    assert_eq!(addresses(&ask(&resolver, "printer.lan.", RecordType::A).await), [ip("192.168.1.77")]);
    assert_eq!(addresses(&ask(&resolver, "x.example.com.", RecordType::A).await), [ip("93.184.215.14")]);
    assert_eq!(journal.dns_askers("local", "printer.lan"), [ip("127.8.8.10")]);
    assert!(journal.dns_askers("authority", "printer.lan").is_empty());
}

#[tokio::test]
async fn what_is_no_plain_question_is_refused_or_ignored() {
    let journal = Journal::new();
    let server = authority(&journal).await;
    let question = message("a.example.com.", RecordType::A);
    let code = |message: Message| message.metadata.response_code;

    let mut two = question.clone();
    two.add_query(Query::query(Name::root(), RecordType::NS));
    assert_eq!(code(exchange(server.address, &two.to_vec().unwrap()).await), ResponseCode::FormErr);
    let mut status = question.clone();
    status.metadata.op_code = OpCode::Status;
    assert_eq!(code(exchange(server.address, &status.to_vec().unwrap()).await), ResponseCode::NotImp);
    let mut future = question.clone();
    let mut edns = Edns::new();
    edns.set_version(1);
    future.set_edns(edns);
    let refused = exchange(server.address, &future.to_vec().unwrap()).await;
    assert_eq!(refused.edns.map(|edns| edns.rcode_high()), Some(1), "BADVERS is 16");
    let cut = &question.to_vec().unwrap()[..20];
    assert_eq!(code(exchange(server.address, cut).await), ResponseCode::FormErr);

    let client = UdpSocket::bind("127.0.0.77:0").await.unwrap();
    let mut answer = question.clone().into_response().to_vec().unwrap();
    client.send_to(&answer, server.address).await.unwrap();
    answer.truncate(11);
    client.send_to(&answer, server.address).await.unwrap();
    client.send_to(b"", server.address).await.unwrap();
    assert!(timeout(Duration::from_millis(200), client.recv(&mut [0; 512])).await.is_err());
    assert!(journal.entries().is_empty(), "none of them was a question");
}

#[tokio::test]
async fn noise_does_not_end_the_service() {
    let journal = Journal::new();
    let server = authority(&journal).await;
    let mut noise = rand::rngs::StdRng::seed_from_u64(1035);
    let client = UdpSocket::bind("127.0.0.66:0").await.unwrap();
    let good = message("a.example.com.", RecordType::A).to_vec().unwrap();
    for round in 0..2000 {
        let mut octets = good.clone();
        if round % 2 == 0 {
            octets = (0..noise.random_range(0..600)).map(|_| noise.random()).collect();
        } else {
            let at = noise.random_range(0..octets.len());
            octets[at] = noise.random();
        }
        client.send_to(&octets, server.address).await.unwrap();
    }
    // Half a length, a length without a message, and connections that are only opened.
    let mut half = TcpStream::connect(server.address).await.unwrap();
    half.write_all(&[0]).await.unwrap();
    let mut empty = TcpStream::connect(server.address).await.unwrap();
    empty.write_all(&[0xff, 0xff, 1]).await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    assert_eq!(addresses(&ask(&server, "b.example.com.", RecordType::A).await), [ip("93.184.215.14")]);
    // One address cannot take all the places: another one is served while the idlers hold theirs.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.79:0".parse().unwrap()).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    let answer = ask_tcp(&mut stream, &message("c.example.com.", RecordType::A)).await;
    assert_eq!(addresses(&answer), [ip("93.184.215.14")]);
    let last = idle.last_mut().unwrap();
    let closed = timeout(PATIENCE, last.read_u8()).await.expect("closed at once");
    assert!(closed.is_err(), "beyond its share");
}

#[tokio::test]
async fn dns_over_tls_is_dns_in_tls() {
    use rustls::pki_types::pem::PemObject;
    let (journal, ca) = (Journal::new(), crate::lab::witness::LabCa::new().unwrap());
    let listener = TcpListener::bind("127.8.8.8:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sockets = Sockets { tls: vec![(listener, ca.server_config(["127.8.8.8"]).unwrap())], ..Sockets::default() };
    let task = tokio::spawn(serve(sockets, Arc::new(Authority::new("authority", journal.clone(), Zone::internet()))));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"dot".to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream =
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(address.ip().into(), stream).await.unwrap();
    write_framed(&mut stream, &message("a.example.com.", RecordType::A).to_vec().unwrap()).await.unwrap();
    let answer = Message::from_vec(&timeout(PATIENCE, read_framed(&mut stream)).await.unwrap().unwrap()).unwrap();
    assert_eq!(addresses(&answer), [ip("93.184.215.14")]);
    assert_eq!(journal.entries()[0].protocol, Protocol::Tls);
    task.abort();
}
