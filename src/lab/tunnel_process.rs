//! The tunnel in a process of its own, as OpenVPN is to Gluetun: it can be killed, stopped and looked at from outside. It is this program
//! again (`leakcheck lab role tunnel`), told what to do by its standard input, and it ends with it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::line::Quality;
use super::variant::Protocol;
use super::wireguard::{PeerConfig, PrivateKey, Tunnel, TunnelConfig, WireguardError};

/// How long one may take to make its link.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one may take to end when it is told to.
const ENDING: Duration = Duration::from_millis(500);
/// What it says when its link is there.
const READY: &str = "ready";
/// What it is asked, and what it says when there is a session with the first peer.
const CONNECT: &str = "connect";

/// A process that holds a tunnel. Dropping it ends it.
pub(super) struct TunnelProcess {
    pid: u32,
    words: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    kill: Option<oneshot::Sender<()>>,
    ended: oneshot::Receiver<()>,
}

/// [`TunnelConfig`] on its way to the process.
#[derive(Serialize, Deserialize)]
struct Order {
    protocol: Protocol,
    link: String,
    mtu: u16,
    private_key: String,
    port: u16,
    mark: Option<u32>,
    peers: Vec<Peer>,
}

#[derive(Serialize, Deserialize)]
struct Peer {
    public_key: [u8; 32],
    endpoint: Option<SocketAddr>,
    allowed: Vec<IpNet>,
}

impl TunnelProcess {
    /// Starts `program` in the calling thread's namespaces; the link is there afterwards, but down, without addresses. `dead` is told the
    /// process's number when it ends, however it does.
    ///
    /// # Errors
    /// When the process cannot be started, or makes no link.
    pub(super) async fn start(
        program: &Path,
        config: &TunnelConfig,
        dead: mpsc::UnboundedSender<u32>,
    ) -> Result<Self, WireguardError> {
        let mut command = Command::new(program);
        command.arg0("leakcheck").args(["lab", "role", "tunnel"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let mut child = command.spawn().map_err(WireguardError::Process)?;
        let (Some(mut words), Some(answers), Some(pid)) = (child.stdin.take(), child.stdout.take(), child.id()) else {
            unreachable!("both were asked for as pipes, and it was not waited for yet");
        };
        let (kill, killed) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        tokio::spawn(reap(child, killed, end, dead));
        let order = serde_json::to_string(&Order::of(config)).map_err(|e| WireguardError::Process(e.into()))?;
        words.write_all(format!("{order}\n").as_bytes()).await.map_err(WireguardError::Process)?;
        let mut process = Self { pid, words, answers: BufReader::new(answers).lines(), kill: Some(kill), ended };
        match timeout(PATIENCE, process.answers.next_line()).await {
            Ok(Ok(Some(word))) if word == READY => Ok(process),
            Ok(Err(error)) => Err(WireguardError::Process(error)),
            // Why, it has said on the standard error that it shares with us.
            Ok(Ok(_)) => Err(WireguardError::Process(io::ErrorKind::UnexpectedEof.into())),
            Err(_) => Err(WireguardError::Process(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Its number.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until there is a session with the first peer. Without a limit of time.
    ///
    /// # Errors
    /// When the process is gone.
    pub(super) async fn connected(&mut self) -> Result<(), WireguardError> {
        self.words.write_all(format!("{CONNECT}\n").as_bytes()).await.map_err(WireguardError::Process)?;
        match self.answers.next_line().await.map_err(WireguardError::Process)? {
            Some(word) if word == CONNECT => Ok(()),
            _ => Err(WireguardError::Process(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Ends it; one that does not react is killed. The link is gone when this returns.
    pub(super) async fn stop(mut self) {
        drop(self.words);
        if timeout(ENDING, &mut self.ended).await.is_err() {
            drop(self.kill.take());
            // It cannot but end.
            let _ = self.ended.await;
        }
    }
}

/// Waits for the process's end, and brings it about when nobody wants it any more.
async fn reap(
    mut child: Child,
    killed: oneshot::Receiver<()>,
    end: oneshot::Sender<()>,
    dead: mpsc::UnboundedSender<u32>,
) {
    let pid = child.id();
    tokio::select! {
        _ = child.wait() => {}
        _ = killed => {
            let _ = child.start_kill();
            let _ = child.wait().await;
        }
    }
    let _ = end.send(());
    // Nobody listens any more when the stack has ended.
    pid.map(|pid| dead.send(pid));
}

impl Order {
    fn of(config: &TunnelConfig) -> Self {
        let TunnelConfig { protocol, link, mtu, private_key, port, mark, peers, line: _ } = config.clone();
        let peers = peers
            .into_iter()
            .map(|PeerConfig { public_key, endpoint, allowed }| Peer { public_key, endpoint, allowed })
            .collect();
        Self { protocol, link, mtu, private_key: private_key.to_base64(), port, mark, peers }
    }

    fn config(self) -> Result<TunnelConfig, WireguardError> {
        let Self { protocol, link, mtu, private_key, port, mark, peers } = self;
        let peers = peers
            .into_iter()
            .map(|Peer { public_key, endpoint, allowed }| PeerConfig { public_key, endpoint, allowed })
            .collect();
        let private_key = PrivateKey::from_base64(&private_key)?;
        // A bad line is bad at the provider's end.
        Ok(TunnelConfig { protocol, link, mtu, private_key, port, mark, peers, line: Quality::default() })
    }
}

/// The process's own life, until its standard input ends.
///
/// # Errors
/// When it is told nothing that makes a tunnel.
pub(super) async fn hold() -> anyhow::Result<()> {
    let mut words = BufReader::new(tokio::io::stdin()).lines();
    let mut output = tokio::io::stdout();
    let order = words.next_line().await?.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
    let tunnel = Tunnel::start(&serde_json::from_str::<Order>(&order)?.config()?).await?;
    output.write_all(format!("{READY}\n").as_bytes()).await?;
    output.flush().await?;
    while let Some(word) = words.next_line().await? {
        if word == CONNECT {
            tunnel.connected().await?;
            output.write_all(format!("{CONNECT}\n").as_bytes()).await?;
            output.flush().await?;
        }
    }
    tunnel.stop().await;
    Ok(())
}
