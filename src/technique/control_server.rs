//! Threat: whoever stands on a network of the stack's may tell its control server to stop the VPN, where that wants no key.
//! Procedure: one GET of the status route, without a key, from outside of the stack and beside it on its network. Nothing is ever changed.
//! Limits: that who may read may also write is not tried. Not one of `TECHNIQUES`: it is asked from outside of the namespace.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::http;
use crate::model::evidence::Said;

/// Longer than the kernel looks for a neighbour that is not there (three seconds), so that the two can be told apart.
const PATIENCE: Duration = Duration::from_secs(4);
/// What Gluetun can say of its VPN.
const STATES: [&str; 6] = ["starting", "running", "stopping", "stopped", "crashed", "completed"];

#[derive(Deserialize)]
struct Status {
    status: String,
}

/// The URL of the status route of the control server at `at`.
pub fn status_route(at: SocketAddr) -> String {
    format!("http://{at}/v1/vpn/status")
}

/// Asks the control server at `at`, which is on a network of the asker's, as a stranger. A server that is there and does not let in is
/// [`Said::Refused`], one that is not there [`Said::Nothing`].
pub async fn ask_as_stranger(at: SocketAddr) -> Said {
    let refused = |why: &str| Said::Refused { rcode: why.to_owned() };
    match timeout(PATIENCE, TcpStream::connect(at)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => return refused("the connection was refused"),
        Ok(Err(error)) => return Said::Nothing { error: error.to_string() },
        // Somebody has this address there, or the kernel would have said otherwise by now.
        Err(_) => return refused("there is no answer, though the stack is there"),
    }
    let asked = async {
        let url = Url::parse(&status_route(at)).map_err(|error| error.to_string())?;
        http::ask(&http::trust(None)?, &url, at.ip(), PATIENCE, "application/json, text/plain").await
    };
    match asked.await {
        Ok((status, body)) => Said::Control { http: status, vpn: state_in(&body) },
        Err(error) => Said::Nothing { error },
    }
}

/// The state of the VPN that a status route told, when it is one that Gluetun knows.
fn state_in(body: &[u8]) -> Option<String> {
    let told: Status = serde_json::from_slice(body).ok()?;
    STATES.contains(&told.status.as_str()).then_some(told.status)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn answered_with(text: &'static str) -> Said {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        let server = async {
            // The first connection only shows that somebody is there.
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut asked = [0; 1024];
                let length = stream.read(&mut asked).await.unwrap_or_default();
                if length > 0 {
                    assert!(asked.starts_with(b"GET /v1/vpn/status "), "it asks and changes nothing");
                    stream.write_all(text.as_bytes()).await.expect("written");
                    return;
                }
            }
        };
        tokio::join!(ask_as_stranger(at), server).0
    }

    #[tokio::test]
    async fn what_is_told_without_a_key_is_told_apart_from_what_is_not() {
        let open = "HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n{\"status\":\"running\"}\n";
        assert_eq!(answered_with(open).await, Said::Control { http: 200, vpn: Some("running".to_owned()) });
        let closed = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 13\r\n\r\nUnauthorized\n";
        assert_eq!(answered_with(closed).await, Said::Control { http: 401, vpn: None });
        let other = "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{\"status\":\"<script>\"";
        assert_eq!(answered_with(other).await, Said::Control { http: 200, vpn: None });
    }

    #[tokio::test]
    async fn a_closed_port_is_closed() {
        let at = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
        assert!(matches!(ask_as_stranger(at).await, Said::Refused { .. }));
    }
}
