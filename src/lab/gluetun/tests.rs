//! The servers of a stack over loopback, with a VPN that is only a state.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::StatusCode;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use super::*;
use crate::lab::witness::Journal;
use crate::lab::witness::dns::{Authority, Sockets, Zone, serve};

const PATIENCE: Duration = Duration::from_secs(5);
const ROUTES: [&str; 6] = [
    "GET /v1/vpn/status",
    "PUT /v1/vpn/status",
    "GET /v1/dns/status",
    "GET /v1/publicip/ip",
    "GET /v1/openvpn/status",
    "GET /v1/version",
];

struct State {
    status: Status,
    changes: Vec<&'static str>,
}

/// A VPN that takes a moment to change.
#[derive(Clone)]
struct Vpn(Arc<Mutex<State>>);

impl Vpn {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(State { status: Status::Running, changes: Vec::new() })))
    }

    async fn change(&self, name: &'static str, during: Status, after: Status) -> Status {
        self.0.lock().unwrap().status = during;
        sleep(Duration::from_millis(30)).await;
        let mut state = self.0.lock().unwrap();
        state.changes.push(name);
        state.status = after;
        after
    }

    fn changes(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().changes.clone()
    }
}

impl VpnControl for Vpn {
    fn start(&self) -> BoxFuture<'_, Status> {
        Box::pin(self.change("start", Status::Starting, Status::Running))
    }

    fn stop(&self) -> BoxFuture<'_, Status> {
        Box::pin(self.change("stop", Status::Stopping, Status::Stopped))
    }

    fn status(&self) -> Status {
        self.0.lock().unwrap().status
    }

    fn public_ip(&self) -> Option<IpAddr> {
        (self.status() == Status::Running).then(|| "198.51.100.3".parse().unwrap())
    }

    fn healthy(&self) -> bool {
        self.status() != Status::Crashed
    }
}

struct Stack {
    vpn: Vpn,
    dns: DnsSwitch,
    address: SocketAddr,
    _tasks: tokio::task::JoinSet<()>,
}

async fn stack(version: Version, make: impl FnOnce(ControlServer) -> ControlServer) -> Stack {
    let (vpn, dns) = (Vpn::new(), DnsSwitch::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server =
        make(ControlServer::new(version, Arc::new(vpn.clone()), dns.clone()).with_private_key("lab-secret-key"));
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(server.serve(listener));
    Stack { vpn, dns, address, _tasks: tasks }
}

struct Answer {
    status: StatusCode,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        assert!(self.head.contains("content-type: text/plain; charset=utf-8\r\n"), "{}", self.head);
        assert!(self.body.ends_with("}\n"), "{:?}", self.body);
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Asks over a bare connection, so that nothing tidies up what is sent.
async fn ask(address: SocketAddr, route: &str, headers: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{route} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: format!("{head}\r\n"), body: body.to_owned() }
}

impl Stack {
    async fn get(&self, path: &str) -> Answer {
        ask(self.address, &format!("GET {path}"), "", "").await
    }

    async fn put(&self, path: &str, status: &str) -> Answer {
        ask(self.address, &format!("PUT {path}"), "", &json!({"status": status}).to_string()).await
    }

    async fn status(&self, route: &str, headers: &str) -> u16 {
        ask(self.address, route, headers, "").await.status.as_u16()
    }
}

#[tokio::test]
async fn the_vpn_stops_and_starts_and_says_so() {
    let stack = stack(Version::V3_41, |server| server).await;
    assert_eq!(stack.get("/v1/vpn/status").await.json(), json!({"status": "running"}));
    assert_eq!(stack.get("/v1/publicip/ip").await.json()["public_ip"], "198.51.100.3");
    assert_eq!(stack.put("/v1/vpn/status", "running").await.json(), json!({"outcome": "already running"}));
    assert_eq!(stack.put("/v1/vpn/status", "stopped").await.json(), json!({"outcome": "stopped"}));
    assert_eq!(stack.vpn.changes(), ["stop"], "the answer comes after the deed");
    assert_eq!(stack.get("/v1/vpn/status").await.json(), json!({"status": "stopped"}));
    assert_eq!(stack.get("/v1/publicip/ip").await.json(), json!({"public_ip": ""}));
    assert_eq!(stack.put("/v1/vpn/status", "stopped").await.json(), json!({"outcome": "already stopped"}));
    assert_eq!(stack.put("/v1/openvpn/status", "running").await.json(), json!({"outcome": "running"}));
    assert_eq!(stack.get("/v1/openvpn/status").await.json(), json!({"status": "stopped"}), "this is WireGuard");
    assert_eq!(stack.vpn.changes(), ["stop", "start"]);
}

#[tokio::test]
async fn changes_at_the_same_time_come_one_after_the_other() {
    let stack = stack(Version::V3_41, |server| server).await;
    let answers = futures_util::future::join_all((0..8).map(|_| stack.put("/v1/vpn/status", "stopped"))).await;
    let mut outcomes: Vec<_> = answers.iter().map(|answer| answer.json()["outcome"].to_string()).collect();
    outcomes.sort();
    assert_eq!(outcomes[7], r#""stopped""#);
    assert!(outcomes[..7].iter().all(|outcome| outcome == r#""already stopped""#), "{outcomes:?}");
    assert_eq!(stack.vpn.changes(), ["stop"]);
}

#[tokio::test]
async fn bad_bodies_change_nothing() {
    let stack = stack(Version::V3_41, |server| server).await;
    for body in ["", "{", "[]", "null", "{}", r#"{"status":"paused"}"#, r#"{"status":7}"#] {
        let answer = ask(stack.address, "PUT /v1/vpn/status", "", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body:?}");
    }
    let large = " ".repeat(100_000);
    let answer = ask(stack.address, "PUT /v1/vpn/status", "", &large).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(stack.vpn.changes().is_empty());
}

#[tokio::test]
async fn versions_differ_in_what_they_refuse() {
    for (version, unknown, method, settings, status) in [
        (Version::V3_40, 401, 401, 401, 200),
        (Version::V3_41, 404, 405, 401, 200),
        (Version::Latest, 404, 405, 401, 401),
    ] {
        let stack = stack(version, |server| server).await;
        assert_eq!(stack.status("GET /v1/nothing", "").await, unknown, "{version:?}");
        assert_eq!(stack.status("GET /v1/vpn/status/", "").await, unknown, "{version:?}");
        assert_eq!(stack.status("DELETE /v1/vpn/status", "").await, method, "{version:?}");
        assert_eq!(stack.status("GET /v1/vpn/settings", "").await, settings, "{version:?}");
        for route in ROUTES.iter().filter(|route| route.starts_with("GET")) {
            assert_eq!(stack.status(route, "").await, status, "{version:?} {route}");
        }
    }
    let old = stack(Version::V3_40, |server| server).await;
    assert_eq!(old.get("/v1/openvpn/portforwarded").await.json(), json!({"port": 0}));
    assert_eq!(old.get("/v1/portforward").await.status, StatusCode::UNAUTHORIZED);
    let new = stack(Version::V3_41, |server| server).await;
    assert_eq!(new.get("/v1/portforward").await.json(), json!({"port": 0, "ports": []}));
    assert_eq!(new.get("/v1/version").await.json()["version"], "v3.41.3");
}

#[tokio::test]
async fn roles_open_their_routes_and_close_the_rest() {
    let key = Auth::ApiKey("lab-api-key".into());
    let basic = Auth::Basic { username: "lab".into(), password: "pass:word".into() };
    let stack = stack(Version::Latest, |server| {
        server
            .with_role(Role::of(["GET /v1/vpn/status", "GET /v1/vpn/settings"], key))
            .with_role(Role::of(["GET /v1/dns/status"], basic))
    })
    .await;
    let with_key = "x-api-key: lab-api-key\r\n";
    assert_eq!(stack.status("GET /v1/vpn/status", "").await, 401);
    assert_eq!(stack.status("GET /v1/vpn/status", "X-API-Key: lab-api-kex\r\n").await, 401);
    assert_eq!(stack.status("GET /v1/vpn/status", with_key).await, 200);
    assert_eq!(stack.status("PUT /v1/vpn/status", with_key).await, 401, "another route");
    assert_eq!(stack.status("GET /v1/publicip/ip", with_key).await, 401);
    let settings = ask(stack.address, "GET /v1/vpn/settings", with_key, "").await;
    assert_eq!(settings.json()["wireguard"]["private_key"], "lab-secret-key");

    let asked = ask(stack.address, "GET /v1/dns/status", "", "").await;
    assert!(asked.head.contains("www-authenticate: Basic"), "{}", asked.head);
    // lab:pass:word, lab:wrong, and no base64 at all
    for (credentials, status) in [("bGFiOnBhc3M6d29yZA==", 200), ("bGFiOndyb25n", 401), ("!", 401)] {
        let header = format!("Authorization: Basic {credentials}\r\n");
        assert_eq!(stack.status("GET /v1/dns/status", &header).await, status, "{credentials}");
    }
}

#[tokio::test]
async fn the_default_role_covers_everything() {
    let stack = stack(Version::V3_41, |server| server.with_role(Role::everything(Auth::ApiKey("k".into())))).await;
    for route in ROUTES {
        assert_eq!(stack.status(route, "").await, 401, "{route}");
        assert_ne!(stack.status(route, "X-API-Key: k\r\n").await, 401, "{route}");
    }
}

#[tokio::test]
async fn the_old_one_starts_again_by_itself() {
    let soon = Some(Duration::from_millis(100));
    let old = stack(Version::V3_40, |server| server.with_self_restart(soon)).await;
    let new = stack(Version::V3_41, |server| server).await;
    for stack in [&old, &new] {
        stack.put("/v1/vpn/status", "stopped").await;
    }
    timeout(PATIENCE, async {
        while old.vpn.status() != Status::Running {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("a restart");
    assert_eq!(new.vpn.status(), Status::Stopped);
}

#[tokio::test]
async fn health_is_what_the_stack_says() {
    let vpn = Vpn::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(serve_health(listener, Arc::new(vpn.clone())));
    assert_eq!(ask(address, "GET /", "", "").await.status, StatusCode::OK);
    vpn.0.lock().unwrap().status = Status::Crashed;
    assert_eq!(ask(address, "GET /", "", "").await.status, StatusCode::INTERNAL_SERVER_ERROR);
    task.abort();
}

async fn resolve(server: SocketAddr, name: &str) -> std::io::Result<ResponseCode> {
    let client = UdpSocket::bind("127.0.0.1:0").await?;
    client.connect(server).await?;
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    client.send(&message.to_vec().unwrap()).await?;
    let mut buffer = [0; 1500];
    let length = timeout(PATIENCE, client.recv(&mut buffer)).await.map_err(|_| std::io::ErrorKind::TimedOut)??;
    Ok(Message::from_vec(&buffer[..length]).unwrap().metadata.response_code)
}

#[tokio::test]
async fn the_resolver_forwards_follows_its_switch_and_sends_local_names_astray() {
    let journal = Journal::new();
    let mut upstreams = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for service in ["tunnel", "docker"] {
        let socket = UdpSocket::bind("127.0.53.9:0").await.unwrap();
        upstreams.push(socket.local_addr().unwrap());
        let sockets = Sockets { udp: vec![socket], ..Sockets::default() };
        tasks.spawn(serve(sockets, Arc::new(Authority::new(service, journal.clone(), Zone::internet()))));
    }
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let bind = |version| Resolver::bind(version, &[any], upstreams[0], Some(upstreams[1]), journal.clone()).unwrap();
    let (old, new) = (bind(Version::V3_40), bind(Version::V3_41));
    let (old_address, address) = (old.addresses()[0], new.addresses()[0]);
    let switch = DnsSwitch::new();
    tasks.spawn(old.serve(DnsSwitch::new()));
    tasks.spawn(new.serve(switch.clone()));

    assert_eq!(resolve(address, "a.example.com.").await.unwrap(), ResponseCode::NoError);
    assert_eq!(resolve(address, "nas.lan.").await.unwrap(), ResponseCode::NXDomain);
    assert_eq!(resolve(old_address, "old.lan.").await.unwrap(), ResponseCode::NXDomain);
    let seen = |service, name| journal.dns_askers(service, name).len();
    assert_eq!((seen("tunnel", "a.example.com"), seen("docker", "a.example.com")), (1, 0));
    assert_eq!((seen("tunnel", "nas.lan"), seen("docker", "nas.lan")), (0, 1));
    assert_eq!((seen("tunnel", "old.lan"), seen("docker", "old.lan")), (1, 0));

    switch.set(false);
    timeout(PATIENCE, async { while TcpStream::connect(address).await.is_ok() {} }).await.expect("closed ports");
    assert_eq!(resolve(address, "b.example.com.").await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    switch.set(true);
    timeout(PATIENCE, async { while resolve(address, "c.example.com.").await.is_err() {} }).await.expect("open again");
}

#[tokio::test]
async fn the_control_server_moves_the_resolvers_switch() {
    let stack = stack(Version::V3_41, |server| server).await;
    assert_eq!(stack.put("/v1/dns/status", "stopped").await.json(), json!({"outcome": "stopped"}));
    assert_eq!(stack.dns.status(), Status::Stopped);
    assert_eq!(stack.put("/v1/dns/status", "stopped").await.json(), json!({"outcome": "already stopped"}));
    assert_eq!(stack.get("/v1/dns/status").await.json(), json!({"status": "stopped"}));
    assert_eq!(stack.put("/v1/dns/status", "running").await.json(), json!({"outcome": "running"}));
    assert!(*stack.dns.subscribe().borrow());
    assert!(stack.vpn.changes().is_empty());
}

#[test]
fn local_names_are_those_of_a_home() {
    for (name, local) in [("nas.", true), ("a.LAN.", true), ("x.test.", true), ("a.example.com.", false), (".", false)]
    {
        assert_eq!(is_local(&Name::from_ascii(name).unwrap()), local, "{name}");
    }
}
