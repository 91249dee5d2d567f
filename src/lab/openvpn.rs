//! What stands in for OpenVPN (<https://openvpn.net/community-resources/openvpn-protocol/>): its packets, over UDP or over TCP with a length
//! of two octets before each, and data that is really encrypted, with AES-256-GCM, as P_DATA_V2 has it.
//!
//! It is no OpenVPN. The negotiation is a hard reset, its answer and an acknowledgement; there is no TLS, and the keys come from static
//! ones of both sides and from the session ids, so that none is used twice. What is replayed is not refused. Packets of the control channel
//! look as they should, and carry nothing.

use super::tun::Tun;
use super::variant::Protocol;
use super::wireguard::TunnelConfig;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// Opcodes, in the upper five bits.
const ACKNOWLEDGEMENT: u8 = 5 << 3;
const RESET_OF_CLIENT: u8 = 7 << 3;
const RESET_OF_SERVER: u8 = 8 << 3;
const DATA: u8 = 9 << 3;
/// Octets of opcode, peer id and packet id, and of the tag behind them.
const HEAD: usize = 8;
const TAG: usize = 16;
/// Octets of a session id.
const SESSION: usize = 8;
/// Longest packet, in octets.
const LONGEST: usize = 2048;
/// What a peer sends that has nothing to say (`ping_string` of OpenVPN).
const PING: [u8; 16] = [0x2a, 0x18, 0x7b, 0xf3, 0x64, 0x1e, 0xb4, 0xcb, 0x07, 0xed, 0x2d, 0x0a, 0x98, 0x1f, 0xc7, 0x48];
/// `ping` and `ping-restart`; the usual 10 s and 60 s nobody wants to wait for here.
const PING_EVERY: Duration = Duration::from_secs(2);
const DEAD_AFTER: Duration = Duration::from_secs(8);
/// Longest wait for an answer of the negotiation, and the time until it is tried again.
const PATIENCE: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(250);

/// One end of a tunnel. Ends when dropped.
pub(super) struct Openvpn {
    work: JoinHandle<()>,
    up: watch::Receiver<bool>,
}

impl Openvpn {
    /// The server is the end that is told no endpoint.
    pub(super) async fn start(config: &TunnelConfig, tun: Tun) -> io::Result<Self> {
        let peer = config.peers.first().ok_or(io::ErrorKind::InvalidInput)?;
        let (shared, over_tcp) = (config.private_key.shared(peer.public_key), config.protocol == Protocol::OpenvpnTcp);
        let (told, up) = watch::channel(false);
        let any = (Ipv6Addr::UNSPECIFIED, config.port);
        let work = match peer.endpoint {
            Some(server) => {
                let mark = config.mark;
                tokio::spawn(async move {
                    loop {
                        // Why a session ended matters to nobody: there is another one soon.
                        drop(client(server, over_tcp, mark, shared, &tun, &told).await);
                        told.send_replace(false);
                        sleep(AGAIN).await;
                    }
                })
            }
            None if over_tcp => {
                let listener = TcpListener::bind(any).await?;
                tokio::spawn(async move {
                    let mut clients = JoinSet::new();
                    while let Ok((stream, _)) = listener.accept().await {
                        // There is one client, and the newest connection is the one that it uses.
                        clients.abort_all();
                        let tun = tun.clone();
                        clients.spawn(async move { drop(serve(&Wire::over(stream), shared, &tun).await) });
                    }
                })
            }
            None => {
                let socket = UdpSocket::bind(any).await?;
                tokio::spawn(async move {
                    let wire = Wire::Udp { socket, peer: Mutex::new(None) };
                    loop {
                        drop(serve(&wire, shared, &tun).await);
                    }
                })
            }
        };
        Ok(Self { work, up })
    }

    /// Waits until the server has answered.
    pub(super) async fn connected(&self) -> io::Result<()> {
        let mut up = self.up.clone();
        up.wait_for(|up| *up).await.map(drop).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    pub(super) async fn stop(mut self) {
        self.work.abort();
        // However it ended: the device is closed.
        let _ = (&mut self.work).await;
    }
}

impl Drop for Openvpn {
    fn drop(&mut self) {
        self.work.abort();
    }
}

/// By which way packets go.
enum Wire {
    /// The peer is whoever sent a hard reset last.
    Udp {
        socket: UdpSocket,
        peer: Mutex<Option<SocketAddr>>,
    },
    Tcp {
        from: Mutex<OwnedReadHalf>,
        to: Mutex<OwnedWriteHalf>,
    },
}

impl Wire {
    fn over(stream: TcpStream) -> Self {
        // Without it packets would wait for one another; that it cannot be set is no reason to end.
        let _ = stream.set_nodelay(true);
        let (from, to) = stream.into_split();
        Self::Tcp { from: Mutex::new(from), to: Mutex::new(to) }
    }

    async fn to(server: SocketAddr, over_tcp: bool, mark: Option<u32>) -> io::Result<Self> {
        let any: SocketAddr = (super::plan::unspecified(server.ip()), 0).into();
        if over_tcp {
            let socket = if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            mark.map(|mark| socket2::SockRef::from(&socket).set_mark(mark)).transpose()?;
            return timeout(PATIENCE, socket.connect(server)).await?.map(Self::over);
        }
        let socket = UdpSocket::bind(any).await?;
        mark.map(|mark| socket2::SockRef::from(&socket).set_mark(mark)).transpose()?;
        Ok(Self::Udp { socket, peer: Mutex::new(Some(server)) })
    }

    async fn send(&self, packet: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp { socket, peer } => {
                if let Some(peer) = *peer.lock().await {
                    // What the network refuses is lost, as it would be further out.
                    let _ = socket.send_to(packet, peer).await;
                }
                Ok(())
            }
            Self::Tcp { to, .. } => {
                let record = [&(packet.len() as u16).to_be_bytes()[..], packet].concat();
                to.lock().await.write_all(&record).await
            }
        }
    }

    async fn receive(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::Udp { socket, peer } => loop {
                let mut packet = vec![0; LONGEST];
                // An ICMP error about an earlier packet says nothing of the socket.
                let Ok((length, from)) = socket.recv_from(&mut packet).await else { continue };
                packet.truncate(length);
                if packet.first() == Some(&RESET_OF_CLIENT) {
                    *peer.lock().await = Some(from);
                }
                return Ok(packet);
            },
            Self::Tcp { from, .. } => {
                let mut from = from.lock().await;
                let mut packet = vec![0; from.read_u16().await?.into()];
                from.read_exact(&mut packet).await?;
                Ok(packet)
            }
        }
    }
}

/// One session of a client, from the hard reset to its end.
async fn client(
    server: SocketAddr,
    over_tcp: bool,
    mark: Option<u32>,
    shared: [u8; 32],
    tun: &Tun,
    told: &watch::Sender<bool>,
) -> io::Result<()> {
    let wire = Wire::to(server, over_tcp, mark).await?;
    let own: [u8; SESSION] = rand::random();
    wire.send(&[&[RESET_OF_CLIENT][..], &own, &[0; 5]].concat()).await?;
    let answer = timeout(PATIENCE, async {
        loop {
            let packet = wire.receive().await?;
            if let Some(id) = session_id(&packet, RESET_OF_SERVER) {
                return io::Result::Ok(id);
            }
        }
    });
    let other = answer.await??;
    // The server's packet 0 is acknowledged.
    wire.send(&[&[ACKNOWLEDGEMENT][..], &own, &[1, 0, 0, 0, 0], &other].concat()).await?;
    told.send_replace(true);
    carry(&wire, &Session::new(shared, own, other, true), tun).await.map(drop)
}

/// Sessions of a server, until one ends by itself.
async fn serve(wire: &Wire, shared: [u8; 32], tun: &Tun) -> io::Result<()> {
    let mut client = loop {
        if let Some(id) = session_id(&wire.receive().await?, RESET_OF_CLIENT) {
            break id;
        }
    };
    loop {
        let own: [u8; SESSION] = rand::random();
        wire.send(&[&[RESET_OF_SERVER][..], &own, &[1, 0, 0, 0, 0], &client, &[0; 4]].concat()).await?;
        client = carry(wire, &Session::new(shared, client, own, false), tun).await?;
    }
}

fn session_id(packet: &[u8], opcode: u8) -> Option<[u8; SESSION]> {
    let (first, rest) = packet.split_first()?;
    (first & 0xf8 == opcode).then(|| rest.first_chunk().copied()).flatten()
}

/// Carries packets between the wire and the device, until the peer is dead or a client begins another session, whose id is told.
async fn carry(wire: &Wire, session: &Session, tun: &Tun) -> io::Result<[u8; SESSION]> {
    let outward = async {
        let mut packet = [0; LONGEST];
        loop {
            let length = tun.read(&mut packet).await?;
            wire.send(&session.seal(&packet[..length])?).await?;
        }
    };
    let inward = async {
        loop {
            let packet = timeout(DEAD_AFTER, wire.receive()).await??;
            if let Some(id) = session_id(&packet, RESET_OF_CLIENT) {
                return Ok(id);
            }
            match session.open(packet) {
                Some(inner) if inner != PING => tun.write(&inner).await?,
                _ => {}
            }
        }
    };
    let alive = async {
        loop {
            sleep(PING_EVERY).await;
            wire.send(&session.seal(&PING)?).await?;
        }
    };
    tokio::select! {
        ended = outward => ended,
        ended = inward => ended,
        ended = alive => ended,
    }
}

/// The keys of a session, and how much was sent with them.
struct Session {
    seal: Direction,
    open: Direction,
    sent: AtomicU32,
}

struct Direction {
    key: LessSafeKey,
    /// The part of the nonce that is not sent.
    implicit: [u8; 8],
}

impl Direction {
    fn new(shared: [u8; 32], client: [u8; SESSION], server: [u8; SESSION], number: u8) -> Self {
        let derived = |what: u8| digest(&SHA256, &[&shared[..], &client, &server, &[number, what]].concat());
        let key =
            UnboundKey::new(&AES_256_GCM, derived(0).as_ref()).unwrap_or_else(|_| unreachable!("both have 32 octets"));
        let mut implicit = [0; 8];
        implicit.copy_from_slice(&derived(1).as_ref()[..8]);
        Self { key: LessSafeKey::new(key), implicit }
    }

    fn nonce(&self, packet_id: &[u8]) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(packet_id);
        nonce[4..].copy_from_slice(&self.implicit);
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Session {
    fn new(shared: [u8; 32], client: [u8; SESSION], server: [u8; SESSION], is_client: bool) -> Self {
        let [there, back] = [0, 1].map(|number| Direction::new(shared, client, server, number));
        let (seal, open) = if is_client { (there, back) } else { (back, there) };
        Self { seal, open, sent: AtomicU32::new(1) }
    }

    /// Opcode, peer id 0, packet id, tag, and what is encrypted.
    fn seal(&self, inner: &[u8]) -> io::Result<Vec<u8>> {
        let id = self.sent.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut packet = [&[DATA, 0, 0, 0][..], &id, &[0; TAG], inner].concat();
        let (head, rest) = packet.split_at_mut(HEAD);
        let nonce = self.seal.nonce(&id);
        let sealed = self.seal.key.seal_in_place_separate_tag(nonce, Aad::from(&*head), &mut rest[TAG..]);
        let tag = sealed.map_err(|_| io::ErrorKind::InvalidInput)?;
        rest[..TAG].copy_from_slice(tag.as_ref());
        Ok(packet)
    }

    /// `None`: it is no data, or not the peer's.
    fn open(&self, mut packet: Vec<u8>) -> Option<Vec<u8>> {
        if packet.len() < HEAD + TAG || packet[0] & 0xf8 != DATA {
            return None;
        }
        let (head, rest) = packet.split_at_mut(HEAD);
        // This library wants the tag behind.
        rest.rotate_left(TAG);
        let nonce = self.open.nonce(&head[4..]);
        self.open.key.open_in_place(nonce, Aad::from(&*head), rest).ok().map(|inner| inner.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensor::allow::looks_like_openvpn;

    fn ends() -> (Session, Session) {
        let of = |is_client| Session::new([7; 32], [1; SESSION], [2; SESSION], is_client);
        (of(true), of(false))
    }

    #[test]
    fn what_one_end_seals_the_other_opens() {
        let (client, server) = ends();
        for inner in [&b"a packet"[..], &PING, &[0; 1320]] {
            let packet = client.seal(inner).unwrap();
            assert!(looks_like_openvpn(&packet, packet.len()) && packet.len() == HEAD + TAG + inner.len());
            assert!(!packet.windows(inner.len()).any(|window| window == inner), "it is in clear");
            assert_eq!(server.open(packet.clone()).as_deref(), Some(inner));
            assert!(client.open(packet.clone()).is_none(), "both directions have one key");
            let mut other = packet;
            other[5] ^= 1;
            assert!(server.open(other).is_none(), "the head may be changed");
        }
        assert!(server.open(vec![DATA; HEAD]).is_none());
    }

    #[test]
    fn resets_carry_a_session_id() {
        let reset = [&[RESET_OF_CLIENT][..], &[9; SESSION], &[0; 5]].concat();
        assert_eq!(session_id(&reset, RESET_OF_CLIENT), Some([9; SESSION]));
        assert!(session_id(&reset, RESET_OF_SERVER).is_none() && session_id(&reset[..5], RESET_OF_CLIENT).is_none());
        assert!(looks_like_openvpn(&reset, reset.len()));
    }
}
