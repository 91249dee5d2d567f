//! Techniques that ask strangers over HTTP: answers that are broken, endless, contradict themselves, send elsewhere, claim to be packed, or
//! drip. Nobody follows where a stranger points, and nobody waits longer than they meant to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use leakcheck::agent::protocol::{ControlKey, Setup, TorrentAccess};
use leakcheck::config::{TorrentClient, Tracker};
use leakcheck::model::evidence::Said;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

use crate::answers::{self, EXIT};
use crate::mutate::Mutator;
use crate::{Body, world};

pub const TRIALS: &[(&str, Body)] =
    &[("technique::http", quick), ("technique::http_slow", slow), ("technique::tls", tls)];
const AT: &str = "127.0.0.1:8080";
/// Where redirects lead; whoever comes here has followed one.
const TRAP: &str = "127.0.0.1:8081";
/// Witnesses, trackers and local services that are asked at once, of each so many.
const WITNESSES: usize = 12;
/// What opens the torrent client, and is nobody else's business.
const SECRET: &str = "hunter2-and-more";
/// What is sent at most to somebody who does not hang up.
const ENDLESS: usize = 8 << 20;

/// What a server does with a connection.
#[derive(Clone, Copy)]
enum Manner {
    /// Answers at once, well or badly.
    Quick,
    /// Takes its time, or never ends.
    Slow,
    /// Does not speak HTTP but something that looks like TLS.
    Tls,
}

#[derive(Default)]
struct Counts {
    answers: AtomicU64,
    trapped: AtomicU64,
    /// Askers that offered to unpack what is packed.
    unpacks: AtomicU64,
}

fn start(manner: Manner) -> Result<Arc<Counts>, String> {
    let counts = Arc::new(Counts::default());
    let shared = Arc::clone(&counts);
    let (ready, is_ready) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        LocalSet::new().block_on(&runtime, async move {
            let bound = async { std::io::Result::Ok((TcpListener::bind(AT).await?, TcpListener::bind(TRAP).await?)) };
            let (listener, trap) = match bound.await {
                Ok(bound) => bound,
                Err(error) => return drop(ready.send(Err(error.to_string()))),
            };
            let _ = ready.send(Ok(()));
            let caught = Arc::clone(&shared);
            spawn_local(async move {
                while trap.accept().await.is_ok() {
                    caught.trapped.fetch_add(1, Ordering::Relaxed);
                }
            });
            while let Ok((stream, _)) = listener.accept().await {
                let counts = Arc::clone(&shared);
                spawn_local(async move {
                    let number = counts.answers.fetch_add(1, Ordering::Relaxed);
                    // Whoever hangs up has heard enough.
                    let _ = serve(stream, manner, number, &counts).await;
                });
            }
        });
    });
    is_ready.recv().map_err(|error| error.to_string())??;
    Ok(counts)
}

async fn serve(mut stream: TcpStream, manner: Manner, number: u64, counts: &Counts) -> std::io::Result<()> {
    let mut mutator = Mutator::new(number);
    let mut request = vec![0; 4096];
    let length = stream.read(&mut request).await?;
    request.make_ascii_lowercase();
    if request[..length].windows(16).any(|part| part == b"accept-encoding:") {
        counts.unpacks.fetch_add(1, Ordering::Relaxed);
    }
    match manner {
        Manner::Quick => match mutator.below(24) {
            0 => stream.write_all(&answers::web()[1]).await?,
            1 => stream.write_all(&fixed(&mut mutator)).await?,
            2 => endless(&mut stream, &mut mutator).await?,
            _ => stream.write_all(&mutator.of(&answers::web())).await?,
        },
        Manner::Slow => slowly(&mut stream, number).await?,
        Manner::Tls => {
            for _ in 0..200 {
                stream.write_all(&records(&mut mutator)).await?;
            }
        }
    }
    // What is not read yet would make the kernel reset the connection and take the answer away with it.
    stream.shutdown().await?;
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut request)).await;
    Ok(())
}

/// Answers by hand, each wrong in a way of its own.
fn fixed(mutator: &mut Mutator) -> Vec<u8> {
    let ok = "HTTP/1.1 200 OK\r\n";
    let all: [Vec<u8>; 16] = [
        format!("HTTP/1.1 301 Moved\r\nLocation: http://{TRAP}/\r\nContent-Length: 0\r\n\r\n").into_bytes(),
        format!("HTTP/1.1 307 Moved\r\nLocation: //{TRAP}\r\nRefresh: 0; url=http://{TRAP}/\r\nAlt-Svc: h2=\"{TRAP}\"\r\n\r\n").into_bytes(),
        [ok.as_bytes(), b"Content-Encoding: gzip\r\nContent-Length: 24\r\n\r\n\x1f\x8b\x08\0\0\0\0\0\0\x03"].concat(),
        [format!("{ok}Content-Encoding: gzip, gzip, br, zstd\r\n\r\n").into_bytes(), mutator.noise(60_000)].concat(),
        format!("{ok}Content-Length: 18446744073709551615\r\n\r\n198.51.100.3").into_bytes(),
        format!("{ok}Content-Length: 5\r\nContent-Length: 500\r\n\r\n198.51.100.3").into_bytes(),
        format!("{ok}Content-Length: -1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n198.51.100.3").into_bytes(),
        format!("{ok}Transfer-Encoding: chunked\r\n\r\nc;{}\r\n198.51.100.3\r\n0\r\n\r\n", "x".repeat(100_000)).into_bytes(),
        format!("{ok}{}\r\n198.51.100.3", "X-Pad: filler\r\n".repeat(20_000)).into_bytes(),
        format!("{ok}X-Long: {}\r\n\r\n198.51.100.3", "y".repeat(1_000_000)).into_bytes(),
        format!("{}{ok}\r\n198.51.100.3", "HTTP/1.1 100 Continue\r\n\r\n".repeat(20_000)).into_bytes(),
        format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n{ok}").into_bytes(),
        format!("{ok}\r\n{}", "[".repeat(60_000)).into_bytes(),
        format!("{ok}\r\n{}", "{\"ip\":".repeat(10_000)).into_bytes(),
        format!("{ok}\r\nip={}", "9".repeat(60_000)).into_bytes(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
    ];
    all[mutator.below(all.len())].clone()
}

/// An answer without an end, as fast as it is taken.
async fn endless(stream: &mut TcpStream, mutator: &mut Mutator) -> std::io::Result<()> {
    let (head, piece): (&[u8], &[u8]) = match mutator.below(4) {
        0 => (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"c\r\n198.51.100.3\r\n"),
        1 => (b"HTTP/1.1 200 OK\r\n\r\n", b"198.51.100.3\n"),
        2 => (b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n"),
        _ => (b"HTTP/1.1 200 O", b"KKKKKKKKKKKKKKKKKKKK"),
    };
    stream.write_all(head).await?;
    let much = piece.repeat(1_000);
    for _ in 0..ENDLESS / much.len() {
        stream.write_all(&much).await?;
    }
    Ok(())
}

/// An answer that is not worth waiting for.
async fn slowly(stream: &mut TcpStream, number: u64) -> std::io::Result<()> {
    let (head, drop): (&[u8], &[u8]) = match number % 6 {
        0 => (b"", b""),
        1 => (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"1"),
        2 => (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n1\r\n"),
        3 => (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        4 => (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        _ => (b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n198.51.100.", b""),
    };
    stream.write_all(head).await?;
    // Longer than anybody waits.
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.write_all(drop).await?;
    }
    Ok(())
}

/// Records of TLS: handshake, alert, data, with lengths and contents that may be true.
fn records(mutator: &mut Mutator) -> Vec<u8> {
    let kind = [20, 21, 22, 22, 22, 23, 24, 0x80][mutator.below(8)];
    let body = match mutator.below(3) {
        // The beginning of a message of the handshake of 16 MiB that is cut into many records.
        0 => [&[2, 0xff, 0xff, 0xff][..], &mutator.noise(1_000)].concat(),
        1 => vec![0; 16_384],
        _ => mutator.noise(2_000),
    };
    let length = if mutator.below(4) == 0 { 0xffff } else { body.len() as u16 };
    [&[kind, 3, 3][..], &length.to_be_bytes(), &body].concat()
}

fn setup(scheme: &str) -> Result<Setup, String> {
    let tracker: Tracker = format!("{scheme}://{AT}/announce").parse()?;
    Ok(Setup {
        echo_http: vec![format!("{scheme}://{AT}/json"); WITNESSES],
        echo_tracker: vec![tracker; WITNESSES],
        must_reach: vec![format!("{scheme}://{AT}/"); WITNESSES],
        control_server: format!("{scheme}://{AT}"),
        ..world::setup()
    })
}

/// Has all techniques that speak HTTP ask until the server has given `count` answers. How often the exit was found.
fn ask(count: u64, counts: &Counts, setup: Setup) -> Result<usize, String> {
    let done = world::as_agent(async || {
        let mut cx = world::context(setup, Vec::new())?;
        let mut found = 0;
        while counts.answers.load(Ordering::Relaxed) < count {
            for name in ["exit-http", "exit-tracker", "local-targets"] {
                let evidence = world::run(&mut cx, name, WITNESSES).await?;
                let told = |said: &Said| matches!(said, Said::Exit { ip, .. } if *ip == EXIT);
                found += evidence.answers.iter().filter(|answer| told(&answer.said)).count();
            }
            for client in [TorrentClient::Qbittorrent, TorrentClient::Transmission, TorrentClient::Deluge] {
                let url = cx.setup.control_server.clone();
                let key = Some(ControlKey::Login { user: "admin".to_owned(), password: SECRET.to_owned() });
                cx.setup.torrent = Some(TorrentAccess { client, url, key });
                let params = serde_json::json!({ "forwarded": true });
                let evidence = world::run_with(&mut cx, "torrent-client", params, WITNESSES).await?;
                if serde_json::to_string(&evidence).is_ok_and(|text| text.contains(SECRET)) {
                    return Err("the password is evidence".to_owned());
                }
            }
        }
        Ok::<usize, String>(found)
    })??;
    match (counts.trapped.load(Ordering::Relaxed), counts.unpacks.load(Ordering::Relaxed)) {
        (0, 0) => Ok(done),
        (followed, unpacked) => {
            Err(format!("{followed} redirects were followed, {unpacked} offers to unpack were made"))
        }
    }
}

fn quick(count: u64) -> Result<u64, String> {
    let counts = start(Manner::Quick)?;
    // A connection each: far dearer than a datagram.
    match ask(count / 50, &counts, setup("http")?)? {
        0 if count > 0 => Err("no honest answer was ever found".to_owned()),
        _ => Ok(counts.answers.load(Ordering::Relaxed)),
    }
}

fn slow(_: u64) -> Result<u64, String> {
    let counts = start(Manner::Slow)?;
    match ask(1, &counts, setup("http")?)? {
        0 => Ok(counts.answers.load(Ordering::Relaxed)),
        found => Err(format!("{found} answers were taken that never came")),
    }
}

fn tls(count: u64) -> Result<u64, String> {
    let counts = start(Manner::Tls)?;
    match ask(count / 500, &counts, setup("https")?)? {
        0 => Ok(counts.answers.load(Ordering::Relaxed)),
        found => Err(format!("{found} answers were believed that nobody vouches for")),
    }
}
