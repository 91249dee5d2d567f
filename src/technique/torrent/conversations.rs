//! Each client asked over real sockets: qBittorrent as the lab has it, in three releases; Transmission and Deluge as small servers that do
//! what their documents say.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const SECRET: &str = "hunter2-and-more";

async fn ask_at(
    client: TorrentClient,
    base: &str,
    at: SocketAddr,
    key: Option<ControlKey>,
) -> Result<ClientSays, String> {
    let url = Url::parse(base).unwrap();
    let mut talk = Talk::new(&url, at.ip(), None).unwrap();
    let told = api(client).ask(&mut talk, key.as_ref()).await;
    assert!(!format!("{told:?}").contains(SECRET), "a secret is repeated: {told:?}");
    told
}

fn login(user: &str, password: &str) -> Option<ControlKey> {
    Some(ControlKey::Login { user: user.to_owned(), password: password.to_owned() })
}

/// What a small server makes of a question: status, a header, body.
type Answer = (u16, String, String);

/// A server whose answers are made of head, in lower case, and body. What was asked is written down.
async fn serve(answer: impl Fn(&str, &str) -> Answer + Send + Sync + 'static) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let written = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut text = String::new();
            let mut buffer = [0; 4096];
            loop {
                let length = stream.read(&mut buffer).await.unwrap();
                text.push_str(&String::from_utf8_lossy(&buffer[..length]));
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let head = head.to_ascii_lowercase();
                let due = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
                if length > 0 && body.len() < due.parse::<usize>().unwrap() {
                    continue;
                }
                let (status, header, said) = answer(&head, body);
                written.lock().unwrap().push(format!("{} {body}", head.lines().next().unwrap_or_default()));
                let length = said.len();
                let reply = format!(
                    "HTTP/1.1 {status} X\r\n{header}Content-Length: {length}\r\nConnection: close\r\n\r\n{said}"
                );
                let _ = stream.write_all(reply.as_bytes()).await;
                break;
            }
        }
    });
    (at, asked)
}

#[cfg(feature = "lab")]
mod qbittorrent {
    use super::*;
    use crate::lab::qbittorrent::{API_KEY, PASSWORD, PROXY_PASSWORD, Qbittorrent, Release, Settings, USER};
    use crate::lab::witness::{HttpWitness, Journal};
    use crate::model::evidence::ClientStatus;

    const EXIT: &str = "198.51.100.3";

    async fn start(release: Release, settings: Settings) -> (Arc<Qbittorrent>, SocketAddr) {
        let settings = Settings { external: Some(EXIT.parse().unwrap()), ..settings };
        let client = Qbittorrent::new(settings, release, "client", Journal::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(Arc::clone(&client).serve(listener));
        (client, at)
    }

    async fn ask(at: SocketAddr, key: Option<ControlKey>) -> Result<ClientSays, String> {
        let told = ask_at(TorrentClient::Qbittorrent, &format!("http://{at}"), at, key).await;
        let text = format!("{told:?}");
        assert!(!text.contains(PROXY_PASSWORD) && !text.contains(PASSWORD) && !text.contains(API_KEY), "{text}");
        told
    }

    fn logins(client: &Qbittorrent) -> usize {
        client.asked().iter().filter(|asked| asked.ends_with("/auth/login")).count()
    }

    #[tokio::test]
    async fn all_releases_tell_by_a_login_that_is_ended() {
        for (release, version) in [(Release::V4_6, "v4.6.7"), (Release::V5_1, "v5.1.2"), (Release::V5_2, "v5.2.0")] {
            let (client, at) = start(release, Settings { upnp: true, ..Settings::default() }).await;
            let says = ask(at, login(USER, PASSWORD)).await.unwrap();
            assert_eq!(says.name, format!("qBittorrent {version}"));
            assert_eq!(
                says.bindings,
                [Binding { setting: "network interface".to_owned(), to: Some("tun0".to_owned()), role: None }]
            );
            let on: Vec<&str> = says.announces.iter().filter(|one| one.on).map(|one| one.what.as_str()).collect();
            assert_eq!((on, says.announces.len()), (vec!["UPnP and NAT-PMP"], 3));
            assert_eq!((says.port, says.random_port, says.status), (Some(6881), false, Some(ClientStatus::Firewalled)));
            assert_eq!(says.addresses, [EXIT.parse::<IpAddr>().unwrap()], "{release:?}");
            assert_eq!((logins(&client), client.sessions()), (1, 0), "{release:?}: {:?}", client.asked());
        }
    }

    #[tokio::test]
    async fn a_wrong_password_is_tried_once_and_a_ban_is_told() {
        for release in [Release::V5_1, Release::V5_2] {
            let (client, at) = start(release, Settings::default()).await;
            let error = ask(at, login(USER, SECRET)).await.unwrap_err();
            assert!(error.contains("refuses the user name or the password: set torrent.user"), "{error}");
            assert_eq!((logins(&client), client.asked().len()), (1, 1));
            for _ in 0..4 {
                let _ = ask(at, login(USER, SECRET)).await;
            }
            let error = ask(at, login(USER, PASSWORD)).await.unwrap_err();
            assert!(error.contains("has banned this address"), "{error}");
        }
    }

    #[tokio::test]
    async fn who_is_let_in_without_a_login_leaves_no_session() {
        let (client, at) = start(Release::V5_1, Settings { bypass: true, ..Settings::default() }).await;
        assert_eq!(ask(at, None).await.unwrap().port, Some(6881));
        assert_eq!((logins(&client), client.sessions()), (0, 0), "{:?}", client.asked());
        let (client, at) = start(Release::V5_1, Settings::default()).await;
        let error = ask(at, None).await.unwrap_err();
        assert!(error.contains("asks for a login, as qBittorrent does: set torrent.user"), "{error}");
        assert_eq!(client.asked(), ["GET /api/v2/app/version"]);
    }

    #[tokio::test]
    async fn a_key_opens_what_knows_keys() {
        let key = |key: &str| Some(ControlKey::ApiKey(key.to_owned()));
        let (client, at) = start(Release::V5_2, Settings::default()).await;
        assert!(ask(at, key(API_KEY)).await.is_ok());
        assert!(!client.asked().iter().any(|asked| asked.contains("/auth/")), "{:?}", client.asked());
        let (_, old) = start(Release::V5_1, Settings::default()).await;
        for (at, key) in [(at, key(SECRET)), (old, key(API_KEY))] {
            let error = ask(at, key).await.unwrap_err();
            assert!(error.contains("refuses the API key: set torrent.api_key_file"), "{error}");
        }
    }

    #[tokio::test]
    async fn interfaces_and_addresses_bind_each_by_itself() {
        let bound = |interface: &str, address: &str| Settings {
            interface: interface.to_owned(),
            address: address.to_owned(),
            bypass: true,
            ..Settings::default()
        };
        for (settings, expected) in [
            (bound("", ""), &[None][..]),
            (bound("", "0.0.0.0"), &[None]),
            (bound("tun0", "0.0.0.0"), &[Some("tun0")]),
            (bound("tun0", "10.64.0.2"), &[Some("tun0"), Some("10.64.0.2")]),
            (bound("", "10.64.0.2"), &[Some("10.64.0.2")]),
        ] {
            let (_, at) = start(Release::V5_1, settings).await;
            let says = ask(at, None).await.unwrap();
            let to: Vec<Option<&str>> = says.bindings.iter().map(|binding| binding.to.as_deref()).collect();
            assert_eq!(to, expected);
        }
        let (_, at) = start(Release::V5_1, Settings { port: 0, status: "disconnected", ..bound("", "") }).await;
        let says = ask(at, None).await.unwrap();
        assert_eq!((says.port, says.random_port, says.status), (None, true, Some(ClientStatus::Disconnected)));
    }

    #[tokio::test]
    async fn a_page_for_people_is_none_of_its_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(HttpWitness::page("other", Journal::new(), "Please sign in").serve(listener, None));
        for key in [None, login(USER, SECRET)] {
            let error = ask(at, key).await.unwrap_err();
            assert!(error.contains("page for people") && error.contains("torrent.url"), "{error}");
        }
    }

    #[tokio::test]
    async fn another_place_is_another_place() {
        let (at, _) = serve(|_, _| (404, String::new(), "Not Found".to_owned())).await;
        let error = ask(at, None).await.unwrap_err();
        assert!(error.contains("HTTP status 404") && error.contains("torrent.client and torrent.url"), "{error}");
        let (at, _) =
            serve(|_, _| (200, String::new(), format!("{{\"proxy_password\":\"{SECRET}\",\"upnp\":\"{SECRET}\"}}")))
                .await;
        let error = ask(at, None).await.unwrap_err();
        assert!(error.contains("preferences have the wrong shape"), "{error}");
    }
}

const SESSION: &str = "x-transmission-session-id";
const NUMBER: &str = "number-of-a-session";

/// Transmission with a login, of 4.0 or of a time that has forgotten the old form.
fn transmission(head: &str, body: &str, new: bool) -> Answer {
    // "admin" and the secret.
    let may = head.contains("authorization: basic ywrtaw46ahvudgvymi1hbmqtbw9yzq==");
    if !head.starts_with("post /transmission/rpc ") {
        return (404, String::new(), "<h1>404: Not Found</h1>".to_owned());
    }
    if !may {
        return (
            401,
            "WWW-Authenticate: Basic realm=\"Transmission\"\r\n".to_owned(),
            "<h1>401: Unauthorized</h1>".to_owned(),
        );
    }
    if !head.contains(&format!("{SESSION}: {NUMBER}")) {
        return (409, format!("X-Transmission-Session-Id: {NUMBER}\r\n"), "<h1>409: Conflict</h1>".to_owned());
    }
    let question: Value = serde_json::from_str(body).unwrap();
    let said = match (question["method"].as_str().unwrap(), new) {
        ("session-get", false) => json!({ "result": "success", "arguments": {
            "version": "4.0.6 (38c164933e)", "peer-port": 51413, "peer-port-random-on-start": false,
            "port-forwarding-enabled": true, "lpd-enabled": false } }),
        ("session_get", true) => json!({ "jsonrpc": "2.0", "id": question["id"], "result": {
            "version": "5.0.0", "peer_port": 51413, "peer_port_random_on_start": true,
            "port_forwarding_enabled": false, "lpd_enabled": true } }),
        (_, false) => json!({ "result": "method name not recognized", "arguments": {} }),
        (_, true) => json!({ "jsonrpc": "2.0", "id": 1, "error": { "code": -32601, "message": "Method not found" } }),
    };
    (200, String::new(), said.to_string())
}

fn on(says: &ClientSays) -> Vec<&str> {
    says.announces.iter().filter(|one| one.on).map(|one| one.what.as_str()).collect()
}

#[tokio::test]
async fn transmission_hands_out_a_number_and_tells_in_either_form() {
    let (at, asked) = serve(|head, body| transmission(head, body, false)).await;
    let says = ask_at(TorrentClient::Transmission, &format!("http://{at}"), at, login("admin", SECRET)).await.unwrap();
    assert_eq!((says.name.as_str(), says.port), ("Transmission 4.0.6 (38c164933e)", Some(51_413)));
    assert_eq!((on(&says), says.announces.len(), says.random_port), (vec!["UPnP and NAT-PMP"], 2, false));
    assert!(says.bindings.is_empty() && says.addresses.is_empty() && says.status.is_none());
    // Once for the number, once for the answer.
    assert_eq!(asked.lock().unwrap().len(), 2);
    let (at, asked) = serve(|head, body| transmission(head, body, true)).await;
    // Whoever writes the whole path means the same.
    let base = format!("http://{at}/transmission/rpc");
    let says = ask_at(TorrentClient::Transmission, &base, at, login("admin", SECRET)).await.unwrap();
    assert_eq!(
        (says.name.as_str(), on(&says), says.random_port),
        ("Transmission 5.0.0", vec!["local peer discovery"], true)
    );
    assert_eq!(asked.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn transmission_refuses_and_is_told_so() {
    let (at, asked) = serve(|head, body| transmission(head, body, false)).await;
    let base = format!("http://{at}");
    for (key, word) in [
        (login("admin", "wrong"), "refuses the user name or the password"),
        (None, "asks for a user name and a password"),
    ] {
        let error = ask_at(TorrentClient::Transmission, &base, at, key).await.unwrap_err();
        assert!(error.contains(word) && error.contains("torrent.password_file"), "{error}");
    }
    assert_eq!(asked.lock().unwrap().len(), 2, "each is tried once");
    for (status, word) in
        [(403, "rpc-whitelist"), (421, "rpc-host-whitelist"), (404, "torrent.client"), (409, "HTTP status 409")]
    {
        let (at, _) = serve(move |_, _| (status, String::new(), String::new())).await;
        let error = ask_at(TorrentClient::Transmission, &format!("http://{at}"), at, None).await.unwrap_err();
        assert!(error.contains(word), "{error}");
    }
    // Who hands out another number each time gets no third question.
    let (at, asked) = serve(|_, _| (409, "X-Transmission-Session-Id: x\r\n".to_owned(), String::new())).await;
    assert!(ask_at(TorrentClient::Transmission, &format!("http://{at}"), at, None).await.is_err());
    assert_eq!(asked.lock().unwrap().len(), 2);
}

/// Deluge's web interface, connected to a daemon or not.
fn deluge(head: &str, body: &str, connected: bool) -> Answer {
    if !head.starts_with("post /json ") {
        return (404, String::new(), "<html>".to_owned());
    }
    let question: Value = serde_json::from_str(body).unwrap();
    let method = question["method"].as_str().unwrap();
    let inside = head.contains("cookie: _session_id=abc1234");
    let mut header = String::new();
    let (result, error) = match method {
        "auth.login" if question["params"][0] == SECRET => {
            header =
                "Set-Cookie: _session_id=abc1234; Expires=Thu, 01 Jan 2099 00:00:00 GMT; Path=/json\r\n".to_owned();
            (json!(true), Value::Null)
        }
        "auth.login" => (json!(false), Value::Null),
        _ if !inside => (Value::Null, json!({ "message": "Not authenticated", "code": 1 })),
        "web.connected" => (json!(connected), Value::Null),
        "core.get_config_values" => {
            let values = json!({ "listen_interface": "", "outgoing_interface": "tun0", "listen_ports": [6881, 6891],
                "random_port": true, "upnp": true, "natpmp": false, "lsd": true });
            (values, Value::Null)
        }
        "core.get_listen_port" => (json!(53123), Value::Null),
        "core.get_external_ip" => (json!("198.51.100.3"), Value::Null),
        "auth.delete_session" => (json!(true), Value::Null),
        _ => (Value::Null, json!({ "message": "Unknown method", "code": 2 })),
    };
    (200, header, json!({ "id": question["id"], "result": result, "error": error }).to_string())
}

#[tokio::test]
async fn deluge_tells_by_its_password() {
    let (at, asked) = serve(|head, body| deluge(head, body, true)).await;
    let base = format!("http://{at}");
    let says = ask_at(TorrentClient::Deluge, &base, at, login("", SECRET)).await.unwrap();
    // A version that is not told is no fault.
    assert_eq!((says.name.as_str(), says.port, says.random_port), ("Deluge", Some(53_123), true));
    let bound: Vec<_> = says.bindings.iter().map(|one| (one.setting.as_str(), one.to.as_deref())).collect();
    assert_eq!(bound, [("incoming address", None), ("outgoing interface", Some("tun0"))]);
    assert_eq!((on(&says), says.announces.len()), (vec!["UPnP", "local peer discovery"], 3));
    assert_eq!(says.addresses, ["198.51.100.3".parse::<IpAddr>().unwrap()]);
    assert!(asked.lock().unwrap().last().unwrap().contains("auth.delete_session"));
    let count = asked.lock().unwrap().len();
    let error = ask_at(TorrentClient::Deluge, &base, at, login("", "wrong")).await.unwrap_err();
    assert!(error.contains("refuses the password: set torrent.password_file"), "{error}");
    assert_eq!(asked.lock().unwrap().len(), count + 1, "one attempt");
    let error = ask_at(TorrentClient::Deluge, &base, at, None).await.unwrap_err();
    assert!(error.contains("set torrent.password_file"), "{error}");
}

#[tokio::test]
async fn deluge_without_a_daemon_says_so_and_what_is_not_deluge_too() {
    let (at, asked) = serve(|head, body| deluge(head, body, false)).await;
    let error = ask_at(TorrentClient::Deluge, &format!("http://{at}"), at, login("", SECRET)).await.unwrap_err();
    assert!(error.contains("connected to no daemon"), "{error}");
    assert!(asked.lock().unwrap().last().unwrap().contains("auth.delete_session"));
    for (said, word) in [
        ("<html>", "port 8112"),
        ("{}", "wrong shape"),
        ("[null,null]", "wrong shape"),
        ("{\"result\":7}", "port 8112"),
    ] {
        let (at, _) = serve(move |_, _| (200, String::new(), said.to_owned())).await;
        let error = ask_at(TorrentClient::Deluge, &format!("http://{at}"), at, login("", SECRET)).await.unwrap_err();
        assert!(error.contains(word), "{said}: {error}");
    }
}

#[tokio::test]
async fn nobody_there_and_too_much_of_an_answer() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (long, _) = serve(|_, _| (200, String::new(), "x".repeat(600 * 1024))).await;
    for client in [TorrentClient::Qbittorrent, TorrentClient::Transmission, TorrentClient::Deluge] {
        let key = || if client == TorrentClient::Deluge { login("", SECRET) } else { None };
        assert!(ask_at(client, &format!("http://{closed}"), closed, key()).await.unwrap_err().contains("refused"));
        let error = ask_at(client, &format!("http://{long}"), long, key()).await.unwrap_err();
        assert!(error.contains("more than 524288 octets"), "{error}");
    }
}
