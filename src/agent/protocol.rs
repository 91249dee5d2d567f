//! What runner and agent say to each other: frames of a length (four octets, big endian) and as many octets of JSON.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::config::{TorrentClient, Tracker};
use crate::model::evidence::{Boot, Came, Evidence, Link, OutageEvidence, PhaseWire, Proto, Said, SampleCount};
use crate::model::firewall::FirewallText;
use crate::outage::Recipe;
use crate::sensor::allow::AllowList;
use crate::technique::{DependentFile, Names, Reaching, User};

/// Version of this protocol. The agent is the same binary, so the two differ only when a stale image is used.
pub const PROTOCOL: u32 = 8;
/// A longer frame is a broken stream.
const MAX_FRAME: u32 = 64 << 20;

/// A message with the number that its answer repeats.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// Chosen by the runner; 0 for what the agent says unasked.
    pub id: u64,
    /// The message.
    pub body: T,
}

/// What the runner asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// First of all: what to look at and how.
    Start(Box<Setup>),
    /// Opening controls; the sensor's record of a new phase begins.
    OpenPhase,
    /// One technique for one asking of a probe; several may run at once.
    Run {
        /// Name of the asking.
        trial: String,
        /// Name of the technique.
        technique: String,
        /// Its parameters.
        params: serde_json::Value,
    },
    /// Closing controls and what the sensor saw.
    ClosePhase,
    /// Gets ready for an outage by the method of this name: finds out how it would be put back, and changes nothing.
    Arm(String),
    /// Puts back what an earlier run, which is dead, has left changed. May come before `Start`.
    PutBack {
        /// What to do.
        recipe: Box<Recipe>,
        /// What opens the control server, for what needs it.
        key: Option<ControlKey>,
    },
    /// After `Arm`: takes the tunnel down, samples, puts it back, waits until it has recovered.
    Outage(OutageOrder),
    /// Ends an outage at once and puts the tunnel back.
    Abort,
    /// What came of an [`Reply::Act`]; in an outage alone.
    Acted(Result<String, String>),
    /// Plays a program that joined the namespace as soon as there was one, and sends. May come before `Start`.
    Stimulate(Stimulation),
    /// Waits until the link of this name is up. May come before `Start`.
    AwaitTunnel {
        /// Name of the tunnel's link.
        name: String,
        /// For so long at most, in milliseconds.
        limit_ms: u64,
    },
    /// After `Start`: waits until a witness sees an exit that is not home.
    Prove {
        /// Addresses of the home line.
        home: Vec<IpAddr>,
        /// For so long at most, in milliseconds.
        limit_ms: u64,
    },
    /// Ends what `Stimulate` began.
    Stimulated,
    /// On the container's host: begins to listen to links that are not there yet. Comes instead of `Start`.
    Overhear {
        /// Milliseconds since the start of the run, now.
        elapsed_ms: f64,
    },
    /// Ends it.
    Overheard(Box<Overhearing>),
    /// Looks up a name as programs of this place do. May come before `Start`.
    Resolve {
        /// How they do it.
        names: Names,
        /// The name, or an address.
        host: String,
        /// For so long at most, in milliseconds.
        limit_ms: u64,
    },
    /// Asks a destination of the access matrix. May come before `Start`.
    Reach(Box<Reaching>),
    /// Asks the stack's control server without a key, from inside of the stack, or beside it on a network of its: then instead of `Start`.
    AskControl {
        /// Where it would be.
        at: SocketAddr,
    },
    /// Ends the agent.
    Stop,
}

/// What the agent answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To `Start`.
    Started(Stack),
    /// To `OpenPhase`, `PutBack`, `Abort` and `Stop`.
    Done,
    /// To `Arm`: what has to be done should the worst come. Where the runner itself makes the outage the answer is `Done`.
    Armed(Box<Recipe>),
    /// To `Run`.
    Evidence(Evidence),
    /// To `ClosePhase`.
    Wire(PhaseWire),
    /// To `Outage`.
    Outage(Box<OutageEvidence>),
    /// Unasked: something for the progress line.
    Note(String),
    /// Unasked, in an outage: the tunnel is down, or is about to be put back.
    Down(bool),
    /// Unasked, in an outage that is made from outside of the namespace: the runner shall act, and answer by [`Request::Acted`].
    Act(Act),
    /// To `Prove`: when it was proven, milliseconds since the start of the run.
    Proven(f64),
    /// To `Stimulated`.
    Stimuli(Box<Stimuli>),
    /// To `Overheard`.
    Boot(Box<Boot>),
    /// To `Resolve`.
    Resolved(Result<Vec<IpAddr>, Came>),
    /// To `Reach`.
    Reached(Came),
    /// To `AskControl`.
    Said(Box<Said>),
    /// To anything: it could not be done.
    Failed {
        /// What failed and why.
        what: String,
        /// What to do about it.
        help: Option<String>,
    },
}

/// What only the runner can do, who is outside of the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// Takes the tunnel down. The answer says what proves it.
    Down,
    /// Puts back what was changed. May come more than once.
    Up,
    /// Looks whether all is as it was.
    Verify,
}

/// What a program does that joined the namespace as soon as there was one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stimulation {
    /// Milliseconds since the start of the run, now.
    pub elapsed_ms: f64,
    /// Tells its markers from others.
    pub nonce: u32,
    /// The trial whose stimuli they are.
    pub trial: String,
    /// A public name to ask for.
    pub canary: String,
    /// Name of the tunnel's link, by which nothing is sent on purpose.
    pub tunnel: Option<String>,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Stimuli {
    /// When it began, milliseconds since the start of the run.
    pub from_ms: f64,
    /// What became of its packets.
    pub samples: Vec<SampleCount>,
    /// For each uplink the index of its other end, on the host.
    pub peers: Vec<(String, u32)>,
    /// What may leave, as the agent knows it after `Start`.
    pub allow: Option<AllowList>,
}

/// What is needed to understand what was overheard.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Overhearing {
    /// The host's ends of the stack's uplinks: name inside, index on the host.
    pub peers: Vec<(String, u32)>,
    /// The nonce of the program that was played.
    pub nonce: u32,
    /// Its trial.
    pub trial: String,
    /// What may leave.
    pub allow: AllowList,
}

/// What the agent needs to know.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Setup {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Milliseconds since the start of the run, now.
    pub elapsed_ms: f64,
    /// Tells this run's markers from another's.
    pub nonce: u32,
    /// Name of the tunnel's link; else found.
    pub tunnel: Option<String>,
    /// The VPN server; else found.
    pub endpoint: Option<SocketAddr>,
    /// Further VPN servers.
    pub other_servers: Vec<SocketAddr>,
    /// Names of the links of other tunnels, which run inside the VPN.
    pub other_tunnels: Vec<String>,
    /// Set when the VPN is OpenVPN by Gluetun's settings: its transport. Counts only while its packets were not seen.
    pub openvpn: Option<Proto>,
    /// Networks that may be talked to past the tunnel; empty: those of the uplinks.
    pub local: Vec<IpNet>,
    /// More of them, from Gluetun's settings.
    pub outbound: Vec<IpNet>,
    /// Text of the stack's resolv.conf.
    pub resolv_conf: String,
    /// Paths by which it and those of the stack's dependents are read where the runner stands.
    pub resolv_files: Vec<PathBuf>,
    /// Resolvers that it may name, as configured.
    pub resolvers: Vec<IpAddr>,
    /// What the container engine says of the resolv.conf of those that share the namespace.
    pub dependents: Vec<DependentFile>,
    /// HTTP witnesses.
    pub echo_http: Vec<String>,
    /// STUN servers: host and port.
    pub echo_stun: Vec<(String, u16)>,
    /// Nodes of the DHT: host and port.
    pub echo_dht: Vec<(String, u16)>,
    /// Trackers, whose paths may hold keys. Never printed whole, never part of evidence.
    pub echo_tracker: Vec<Tracker>,
    /// Ports from which witnesses are asked over UDP beside one of the kernel's choice.
    pub source_ports: Vec<u16>,
    /// DNS echo names.
    pub echo_dns: Vec<String>,
    /// PEM text of more certificate authorities.
    pub extra_ca: Option<String>,
    /// Whether Mullvad's own services may be asked.
    pub mullvad: bool,
    /// Foreign resolvers.
    pub forced: Vec<IpAddr>,
    /// A public name that must resolve.
    pub canary: String,
    /// Local targets, as configured.
    pub must_reach: Vec<String>,
    /// Local targets that must not be reached, as configured.
    pub must_not_reach: Vec<String>,
    /// As whom the programs of the stack run, by the containers' settings.
    pub users: Vec<User>,
    /// Name of the container that owns the namespace, if Docker knows it.
    pub container: Option<String>,
    /// Gluetun's control server.
    pub control_server: String,
    /// What opens it. Never printed, never part of evidence.
    pub control_key: Option<ControlKey>,
    /// Whether Gluetun is set to have a port forwarded, where its settings are known.
    pub forwarding: Option<bool>,
    /// Ports that its settings let in by the tunnel.
    pub vpn_input_ports: Vec<u16>,
    /// The torrent client, if one is configured.
    pub torrent: Option<TorrentAccess>,
    /// Whether the agent sees the processes, programs and files of the machine, and not those of a container that was made for it.
    pub host_programs: bool,
    /// Command that takes the tunnel down; empty: none.
    pub down: Vec<String>,
    /// Command that brings it back; empty: none.
    pub up: Vec<String>,
    /// What the run has to do without, in the lab.
    #[cfg(feature = "lab")]
    #[serde(default)]
    pub without: Vec<crate::handicap::Handicap>,
}

/// What opens the control server, or a torrent client. Does not print itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlKey {
    /// An API key.
    ApiKey(String),
    /// A user name and a password.
    Login {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
}

impl std::fmt::Debug for ControlKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ControlKey::ApiKey(_) => "ApiKey(…)",
            ControlKey::Login { .. } => "Login(…)",
        })
    }
}

/// Where a torrent client is asked, and what opens it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TorrentAccess {
    /// Which client.
    pub client: TorrentClient,
    /// Its web interface.
    pub url: String,
    /// What opens it. Never printed, never part of evidence. A client that knows no user names leaves the name empty.
    pub key: Option<ControlKey>,
}

/// What the agent found in the namespace.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stack {
    /// All links but loopback.
    pub links: Vec<Link>,
    /// Name of the tunnel, if there is one.
    pub tunnel: Option<String>,
    /// The VPN server and how that is known.
    pub endpoint: Option<(SocketAddr, String)>,
    /// What may be talked to past the tunnel.
    pub local: Vec<IpNet>,
    /// Outage methods that this stack allows.
    pub methods: Vec<String>,
    /// For each method that it does not, why.
    pub refused_methods: Vec<(String, String)>,
    /// What the reader should know.
    pub notes: Vec<String>,
    /// The firewall's text at the start.
    pub firewall: FirewallText,
}

/// One outage.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OutageOrder {
    /// Name of the method.
    pub method: String,
    /// How long the tunnel stays down, in milliseconds.
    pub window_ms: u64,
    /// How long it may take to come back, in milliseconds.
    pub recovery_ms: u64,
    /// The trial whose stimuli the samples are.
    pub trial: String,
    /// The trial whose stimuli flows over IPv6 are; without one none is opened.
    pub flows_v6: Option<String>,
    /// Addresses of the home line: a witness that sees one of these proves no tunnel.
    pub home: Vec<IpAddr>,
}

/// Writes one frame.
///
/// # Errors
/// When the stream is gone or the message cannot be written as JSON.
pub async fn write_frame(to: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> io::Result<()> {
    let octets = serde_json::to_vec(message)?;
    let length =
        u32::try_from(octets.len()).ok().filter(|length| *length <= MAX_FRAME).ok_or(io::ErrorKind::InvalidData)?;
    to.write_all(&length.to_be_bytes()).await?;
    to.write_all(&octets).await?;
    to.flush().await
}

/// Reads one frame; `None` at the end of the stream.
///
/// # Errors
/// When the stream breaks off inside a frame, or is none of ours.
pub async fn read_frame<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<T>> {
    let mut head = [0; 4];
    match from.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_be_bytes(head);
    if length > MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} octets is none of leakcheck's"),
        ));
    }
    let mut octets = vec![0; length as usize];
    from.read_exact(&mut octets).await?;
    serde_json::from_slice(&octets).map(Some).map_err(io::Error::from)
}
