//! Starting and stopping the VPN of a lab's stack from inside its namespace, as a command of one's own does it: what `lab vpn` runs.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};

/// Gluetun's control server.
const CONTROL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);
const PATIENCE: Duration = Duration::from_secs(20);
/// An answer is a few dozen octets.
const LONGEST: u64 = 4096;

/// What the VPN shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Wish {
    /// Up
    Running,
    /// Down
    Stopped,
}

/// Says it to the control server, which has done it when this returns.
///
/// # Errors
/// When there is none, or it does not.
pub fn tell_vpn(wish: Wish) -> anyhow::Result<()> {
    let word = match wish {
        Wish::Running => "running",
        Wish::Stopped => "stopped",
    };
    let answer =
        ask(word).with_context(|| format!("tell the control server at {CONTROL} that the VPN shall be {word}"))?;
    let status = answer.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("the control server says: {status}");
    }
    Ok(())
}

fn ask(word: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&CONTROL, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let body = format!("{{\"status\":\"{word}\"}}");
    let length = body.len();
    write!(
        stream,
        "PUT /v1/vpn/status HTTP/1.1\r\nHost: control\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer)?;
    Ok(answer)
}
