//! As much HTTP as it takes to wait for a web interface, and to do what its page would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use leakcheck::lab::Lab;
use leakcheck::net::netns::{Netns, run_in};

const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until somebody listens there.
pub fn wait_for(lab: &Lab, at: SocketAddr) -> Result<()> {
    let begun = Instant::now();
    let there = move || -> bool {
        while begun.elapsed() < PATIENCE {
            if TcpStream::connect_timeout(&at, Duration::from_secs(1)).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        false
    };
    if run_in(&Netns::open(lab.stack_netns())?, "wait", there)? {
        return Ok(());
    }
    bail!("find anybody at {at} within {PATIENCE:?}")
}

/// Posts JSON; the answer's head and body.
pub fn post(lab: &Lab, at: SocketAddr, path: &str, cookie: &str, body: &str) -> Result<(String, String)> {
    let request = format!(
        "POST {path} HTTP/1.0\r\nHost: {at}\r\nCookie: {cookie}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = run_in(&Netns::open(lab.stack_netns())?, "post", move || -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })??;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("read {answer:?} as HTTP"))?;
    Ok((head.to_owned(), body.to_owned()))
}
