//! A torrent client at work, and its peer: connections and streams of datagrams through the tunnel, as fast as it carries them. Blocking
//! threads of their own, so that what they take is taken from the machine, as by a program beside the checker, and not from the lab's
//! servers in particular.
//!
//! The client is bound to the tunnel's link, as a torrent client should be: when the link goes, nothing of it is left that could go
//! another way.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::plan;
use crate::net::netns::{Netns, NetnsError, spawn_in};

/// A connection begins with what the client wants to do with it.
const SENDS: u8 = b's';
const FETCHES: u8 = b'f';
/// Octets that are given to a connection at once.
const CHUNK: usize = 32 * 1024;
/// Octets of a datagram, so many as uTP sends.
const DATAGRAM: usize = 1200;
/// Octets of its acknowledgement.
const ACKNOWLEDGEMENT: usize = 20;
/// Datagrams of a stream that are on their way at once.
const WINDOW: usize = 64;
/// How long an answer is waited for, and how often one looks whether to end.
const PATIENCE: Duration = Duration::from_millis(250);
/// Rest after what did not work, as while the tunnel is down.
const REST: Duration = Duration::from_millis(50);
/// How long a socket is kept after the network refused it. Clients keep theirs; if one were closed when the tunnel's routes go, answers that
/// are on their way through its link still would have the kernel say that nobody is there (RFC 792, RFC 4443), by whatever route is left.
const KEPT: Duration = Duration::from_millis(500);

/// A client and its peer at work. End when dropped.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<(), NetnsError>>>,
}

impl Load {
    /// Starts the peer in `internet`, which has its addresses already, and the client in `stack`, bound to the link `tunnel`, with so many
    /// connections and streams, spread over `peers`.
    ///
    /// # Errors
    /// When the peer's port cannot be taken, or a thread not be started.
    pub(super) fn start(
        (internet, stack): (&Netns, &Netns),
        tunnel: &str,
        peers: &[IpAddr],
        (tcp, udp): (u8, u8),
    ) -> Result<Self, NetnsError> {
        let mut load = Self { stop: Arc::default(), threads: Vec::new() };
        let mut to =
            peers.iter().map(|ip| SocketAddr::new(*ip, plan::PEER_PORT)).collect::<Vec<_>>().into_iter().cycle();
        for peer in peers.iter().map(|ip| SocketAddr::new(*ip, plan::PEER_PORT)) {
            load.thread(internet, "lab-peer", move |stop| answer_connections(peer, &stop))?;
            load.thread(internet, "lab-peer", move |stop| answer_datagrams(peer, &stop))?;
        }
        for number in 0..tcp {
            let (link, to) = (tunnel.to_owned(), to.next());
            let purpose = if number % 2 == 0 { SENDS } else { FETCHES };
            load.thread(stack, "lab-load", move |stop| again(&stop, || connection(&link, to, purpose, &stop)))?;
        }
        for _ in 0..udp {
            let (link, to) = (tunnel.to_owned(), to.next());
            load.thread(stack, "lab-load", move |stop| again(&stop, || stream(&link, to, &stop)))?;
        }
        Ok(load)
    }

    fn thread(
        &mut self,
        netns: &Netns,
        name: &str,
        body: impl FnOnce(Arc<AtomicBool>) + Send + 'static,
    ) -> Result<(), NetnsError> {
        let stop = Arc::clone(&self.stop);
        self.threads.push(spawn_in(netns, name, move || body(stop))?);
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // How it ended matters to nobody any more.
            let _ = thread.join();
        }
    }
}

/// Until it is told to stop: what fails is tried again.
fn again(stop: &AtomicBool, mut work: impl FnMut() -> io::Result<()>) {
    while !stop.load(Ordering::Relaxed) {
        if work().is_err() {
            std::thread::sleep(REST);
        }
    }
}

/// Whether it is only that nothing came in time.
fn is_patience(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn bound(link: &str, to: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), kind, Some(protocol))?;
    socket.bind_device(Some(link.as_bytes()))?;
    Ok(socket)
}

/// One connection, as long as it lives.
fn connection(link: &str, to: Option<SocketAddr>, purpose: u8, stop: &AtomicBool) -> io::Result<()> {
    let to = to.ok_or(io::ErrorKind::AddrNotAvailable)?;
    let socket = bound(link, to, Type::STREAM, Protocol::TCP)?;
    socket.connect_timeout(&SockAddr::from(to), Duration::from_secs(3))?;
    let mut stream = TcpStream::from(socket);
    let worked = stream.write_all(&[purpose]).and_then(|()| pump(&mut stream, purpose == SENDS, stop));
    keep(&worked);
    worked
}

/// Sends or takes as much as there is room for. A connection that does not move for long is given up, as clients do.
fn pump(stream: &mut TcpStream, sends: bool, stop: &AtomicBool) -> io::Result<()> {
    const TOO_LONG: u32 = 20;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; CHUNK];
    let mut idle = 0;
    while !stop.load(Ordering::Relaxed) && idle < TOO_LONG {
        match if sends { stream.write(&buffer) } else { stream.read(&mut buffer) } {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => idle = 0,
            Err(error) if is_patience(&error) => idle += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// One stream of datagrams; with each acknowledgement one more is sent.
fn stream(link: &str, to: Option<SocketAddr>, stop: &AtomicBool) -> io::Result<()> {
    let to = to.ok_or(io::ErrorKind::AddrNotAvailable)?;
    let socket = bound(link, to, Type::DGRAM, Protocol::UDP)?;
    socket.connect(&SockAddr::from(to))?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(PATIENCE))?;
    let worked = exchange(&socket, stop);
    keep(&worked);
    worked
}

/// Has the caller's socket live on for a while, if it was refused.
fn keep(worked: &io::Result<()>) {
    if worked.is_err() {
        std::thread::sleep(KEPT);
    }
}

fn exchange(socket: &UdpSocket, stop: &AtomicBool) -> io::Result<()> {
    let (octets, mut buffer) = ([0; DATAGRAM], [0; DATAGRAM]);
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..WINDOW {
            socket.send(&octets)?;
        }
        loop {
            match socket.recv(&mut buffer) {
                Ok(_) if stop.load(Ordering::Relaxed) => return Ok(()),
                Ok(_) => socket.send(&octets).map(drop)?,
                // All that was on its way is lost.
                Err(error) if is_patience(&error) => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn answer_connections(at: SocketAddr, stop: &Arc<AtomicBool>) {
    let serve = || -> io::Result<()> {
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        let mut threads = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let Ok((mut stream, _)) = listener.accept() else {
                std::thread::sleep(REST);
                continue;
            };
            let stop = Arc::clone(stop);
            // A thread that is started here is in the namespace in which this one is.
            threads.push(std::thread::spawn(move || -> io::Result<()> {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(Duration::from_secs(3)))?;
                let mut purpose = [0];
                stream.read_exact(&mut purpose)?;
                pump(&mut stream, purpose == [FETCHES], &stop)
            }));
        }
        // How a connection ended matters to nobody.
        threads.into_iter().for_each(|thread| drop(thread.join()));
        Ok(())
    };
    complain(at, serve());
}

fn answer_datagrams(at: SocketAddr, stop: &AtomicBool) {
    let serve = || -> io::Result<()> {
        let socket = UdpSocket::bind(at)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut buffer = [0; 2048];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                // One that the network refuses is lost.
                let _ = socket.send_to(&buffer[..length.min(ACKNOWLEDGEMENT)], from);
            }
        }
        Ok(())
    };
    complain(at, serve());
}

fn complain(at: SocketAddr, outcome: io::Result<()>) {
    if let Err(error) = outcome {
        eprintln!("lab: failed to be the peer {at}: {error}");
    }
}
