//! The echo services through a real client: names resolved by hand, certificates checked against the lab's authority.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use reqwest::Client;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::lab::witness::LabCa;

const HOSTS: [&str; 9] = [
    "am.i.mullvad.net",
    "ipv4.am.i.mullvad.net",
    "a-b.dnsleak.am.i.mullvad.net",
    "api.ipify.org",
    "icanhazip.com",
    "ifconfig.co",
    "ipinfo.io",
    "example.com",
    "nobody.test",
];

struct Witness {
    address: SocketAddr,
    journal: Journal,
    ca: LabCa,
    task: JoinHandle<()>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A witness whose provider has 127.5.0.0/16.
async fn witness(behaviour: Behaviour, tls: bool) -> Witness {
    let (journal, ca) = (Journal::new(), LabCa::new().unwrap());
    let listener = TcpListener::bind("127.0.80.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let provider = Provider::new(["127.5.0.0/16".parse().unwrap()]);
    let http = HttpWitness::echo("echo", journal.clone(), provider, "authority").behaving(behaviour);
    let names =
        ["am.i.mullvad.net", "ipv4.am.i.mullvad.net", "*.dnsleak.am.i.mullvad.net", "api.ipify.org", "127.0.80.1"];
    let config = tls.then(|| ca.server_config(names).unwrap());
    Witness { address, journal, ca, task: tokio::spawn(http.serve(listener, config)) }
}

impl Witness {
    fn client(&self, from: &str) -> Client {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut builder = Client::builder()
            .no_proxy()
            .tls_backend_preconfigured(tls)
            .local_address(from.parse::<IpAddr>().unwrap())
            .timeout(Duration::from_secs(5));
        for host in HOSTS {
            builder = builder.resolve(host, self.address);
        }
        builder.build().unwrap()
    }

    async fn get(&self, scheme: &str, from: &str, host: &str, path: &str) -> reqwest::Result<String> {
        let url = format!("{scheme}://{host}:{}{path}", self.address.port());
        let request = self.client(from).get(url).header("accept", "application/json");
        request.send().await?.error_for_status()?.text().await
    }

    async fn json(&self, from: &str, host: &str, path: &str) -> Value {
        serde_json::from_str(&self.get("http", from, host, path).await.unwrap()).unwrap()
    }
}

#[tokio::test]
async fn mullvad_knows_its_exits_over_https() {
    let witness = witness(Behaviour::Honest, true).await;
    for (from, exit, hostname) in
        [("127.5.0.3", true, Value::from("se-sto-wg-001")), ("127.0.0.10", false, Value::Null)]
    {
        let body = witness.get("https", from, "am.i.mullvad.net", "/json").await.unwrap();
        let said: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(said["ip"], from);
        assert_eq!(said["mullvad_exit_ip"], exit);
        assert_eq!(said["mullvad_exit_ip_hostname"], hostname);
        assert_eq!(said["blacklisted"]["blacklisted"], false);
        for field in ["country", "city", "longitude", "latitude", "mullvad_server_type", "organization"] {
            assert!(said.get(field).is_some(), "{field}");
        }
    }
    let entries = witness.journal.from_ip("127.5.0.3".parse().unwrap());
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].protocol, Protocol::Tls);
    assert_eq!(entries[0].what, What::Http { host: "am.i.mullvad.net".into(), path: "/json".into() });
}

#[tokio::test]
async fn certificates_hold_for_their_names_alone() {
    let witness = witness(Behaviour::Honest, true).await;
    for host in ["a-b.dnsleak.am.i.mullvad.net", "api.ipify.org", "127.0.80.1"] {
        let answer = witness.client("127.0.0.10").get(format!("https://{host}:{}/", witness.address.port())).send();
        answer.await.unwrap_or_else(|error| panic!("{host}: {error:?}"));
    }
    assert!(witness.get("https", "127.0.0.10", "example.com", "/").await.is_err(), "not in the certificate");
    let stranger = LabCa::new().unwrap();
    assert_ne!(stranger.pem(), witness.ca.pem());
}

#[tokio::test]
async fn the_other_services_say_the_same_in_their_ways() {
    let witness = witness(Behaviour::Honest, false).await;
    let from = "127.0.0.10";
    for (host, path) in [("api.ipify.org", "/?format=json"), ("ifconfig.co", "/json"), ("ipinfo.io", "/json")] {
        assert_eq!(witness.json(from, host, path).await["ip"], from, "{host}");
    }
    let text = async |host, path| witness.get("http", from, host, path).await.unwrap();
    assert_eq!(text("api.ipify.org", "/").await, from);
    assert_eq!(text("icanhazip.com", "/").await, format!("{from}\n"));
    assert!(text("example.com", "/").await.contains("Example Domain"));
    let checked = witness.json(from, "am.i.mullvad.net", "/check-ip/127.5.9.9").await;
    assert_eq!((&checked["ip"], &checked["mullvad_exit_ip"]), (&Value::from("127.5.9.9"), &Value::from(true)));
    assert!(witness.get("http", from, "am.i.mullvad.net", "/check-ip/nonsense").await.is_err());
    assert!(witness.get("http", from, "nobody.test", "/").await.is_err());

    // By address, as 1.1.1.1 is asked.
    let mut stream = TcpStream::connect(witness.address).await.unwrap();
    stream.write_all(b"GET /cdn-cgi/trace HTTP/1.1\r\nHost: 1.1.1.1\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut trace = String::new();
    stream.read_to_string(&mut trace).await.unwrap();
    let own = stream.local_addr().unwrap().ip();
    assert!(trace.lines().any(|line| line == format!("ip={own}")), "{trace}");
}

#[tokio::test]
async fn the_dns_check_lists_who_asked_for_the_label() {
    let witness = witness(Behaviour::Honest, false).await;
    let asked = |ip: &str| {
        let name = "a-b.dnsleak.am.i.mullvad.net.".to_owned();
        let what = What::Dns { name, qtype: "A".into() };
        witness.journal.record(&"authority".into(), Protocol::Udp, SocketAddr::new(ip.parse().unwrap(), 5353), what);
    };
    let host = "a-b.dnsleak.am.i.mullvad.net";
    assert_eq!(witness.json("127.0.0.10", host, "/").await, Value::Array(Vec::new()));
    asked("127.5.0.3");
    asked("127.0.113.53");
    asked("127.5.0.3");
    let said = witness.json("127.0.0.10", host, "/").await;
    let verdicts: Vec<_> =
        said.as_array().unwrap().iter().map(|entry| (entry["ip"].clone(), entry["mullvad_dns"].clone())).collect();
    assert_eq!(verdicts, [("127.5.0.3".into(), true.into()), ("127.0.113.53".into(), false.into())]);
    let page = witness.client("127.0.0.10").get(format!("http://{host}:{}/", witness.address.port())).send();
    assert!(page.await.unwrap().text().await.unwrap().starts_with("<!doctype"), "JSON has to be asked for");
}

#[tokio::test]
async fn misbehaviour_is_what_it_says() {
    let get = async |behaviour| {
        let witness = witness(behaviour, false).await;
        witness.get("http", "127.0.0.10", "am.i.mullvad.net", "/json").await
    };
    assert!(get(Behaviour::Html).await.unwrap().contains("sign in"));
    assert!(serde_json::from_str::<Value>(&get(Behaviour::WrongJson).await.unwrap()).unwrap()["ip"].is_number());
    assert_eq!(get(Behaviour::Huge).await.unwrap().len(), HUGE);
    assert_eq!(get(Behaviour::Unavailable).await.unwrap_err().status().map(|status| status.as_u16()), Some(503));
    assert!(get(Behaviour::Refuses).await.unwrap_err().is_connect());
    assert!(get(Behaviour::HangsUp).await.unwrap_err().is_request());
    let claimed = get(Behaviour::Claims("203.0.113.10".parse().unwrap())).await.unwrap();
    assert!(claimed.contains(r#""ip":"203.0.113.10""#), "{claimed}");
}

#[tokio::test]
async fn the_endless_and_the_silent_outlast_their_client() {
    let endless = witness(Behaviour::Endless, false).await;
    let mut answer = endless.client("127.0.0.10").get(format!("http://{}/json", endless.address)).send().await.unwrap();
    let mut octets = 0;
    while octets < 2 * 1024 * 1024 {
        octets += answer.chunk().await.unwrap().expect("it never ends").len();
    }
    let silent = witness(Behaviour::Silent, false).await;
    let answer = silent.get("http", "127.0.0.10", "am.i.mullvad.net", "/json");
    assert!(timeout(Duration::from_millis(300), answer).await.is_err());
    assert_eq!(silent.journal.entries().len(), 1, "it was heard all the same");
}

#[tokio::test]
async fn bad_requests_do_not_end_the_service() {
    for tls in [false, true] {
        let witness = witness(Behaviour::Honest, tls).await;
        let mut open = Vec::new();
        let endless_header = [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 200_000]].concat();
        let bad: [&[u8]; 5] = [b"", b"GET /", b"\x16\x03\x01\x00\xff\xff", b"GET / HTTP/1.1\r\n\r\n", &endless_header];
        for octets in bad {
            let mut stream = TcpStream::connect(witness.address).await.unwrap();
            // The server may have hung up before it read all.
            let _ = stream.write_all(octets).await;
            open.push(stream);
        }
        let scheme = if tls { "https" } else { "http" };
        let began = Instant::now();
        assert!(witness.get(scheme, "127.0.0.10", "am.i.mullvad.net", "/json").await.is_ok());
        assert!(began.elapsed() < Duration::from_secs(2), "half requests hold nobody up");
    }
}

#[tokio::test]
async fn dns_over_https_answers_both_ways_and_leaves_the_sites_alone() {
    use base64::Engine;
    use hickory_proto::op::{Message, Query};
    use hickory_proto::rr::{Name, RecordType};

    let (journal, ca) = (Journal::new(), LabCa::new().unwrap());
    let listener = TcpListener::bind("127.0.80.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let zone = crate::lab::witness::dns::Zone::internet();
    let authority = crate::lab::witness::dns::Authority::new("authority", journal.clone(), zone);
    let http = HttpWitness::page("resolver", journal.clone(), "dns").with_doh(Arc::new(authority));
    let config = ca.server_config(["127.0.80.1"]).unwrap();
    let witness = Witness { address, journal, ca, task: tokio::spawn(http.serve(listener, Some(config))) };

    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii("whoami.akamai.net.").unwrap(), RecordType::A));
    let octets = question.to_vec().unwrap();
    let encoded = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(&octets);
    let (client, url) = (witness.client("127.5.0.3"), format!("https://{address}/dns-query"));
    let kind = ("content-type", "application/dns-message");
    let posted = client.post(&url).header(kind.0, kind.1).body(octets.clone());
    for request in [client.get(format!("{url}?dns={encoded}")), posted] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()[kind.0], kind.1);
        let message = Message::from_vec(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!(message.answers[0].data.ip_addr(), Some("127.5.0.3".parse().unwrap()));
    }
    for (request, status) in [
        (client.get(format!("{url}?dns=%00")), 400),
        (client.get(&url), 400),
        (client.post(&url).body(octets), 415),
        (client.post(&url).header(kind.0, kind.1).body("x"), 400),
        (client.post(&url).header(kind.0, kind.1).body(vec![0; 100_000]), 413),
        (client.get(format!("https://{address}/")), 200),
    ] {
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    assert_eq!(witness.journal.dns_askers("authority", "whoami.akamai.net"), ["127.5.0.3".parse::<IpAddr>().unwrap()]);
}
