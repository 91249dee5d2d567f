//! Ways to an engine that is not behind a socket of this machine: TCP, TLS, and the `ssh` program. One connection for each request, as
//! bollard does it over sockets: connections that were handed over (attach) and those that went stale need no thought then.

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bollard::errors::Error;
use bollard::{BollardRequest, Docker};
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsConnector;

use super::address::Address;
use super::error::TargetError;
use super::process::Tail;
use super::tls;

/// Patience for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Patience for the answer to one request, in seconds; that of bollard.
const ANSWER: u64 = 120;

/// Logins that go on at once. An SSH server turns away those beyond ten (`MaxStartups`).
const LOGINS: usize = 4;

/// A way to an engine.
#[derive(Clone)]
pub struct Transport {
    way: Way,
    /// The end of what `ssh` said.
    pub said: Tail,
}

#[derive(Clone)]
enum Way {
    Tcp { host: String, port: u16 },
    Tls { host: String, port: u16, name: ServerName<'static>, connector: TlsConnector },
    Ssh { arguments: Vec<String>, logins: Arc<Semaphore> },
}

/// A stream of either kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Transport {
    /// The way that this address needs.
    ///
    /// # Errors
    /// When the address is of no kind that is known, or the files for TLS do not fit.
    pub fn to(address: &Address) -> Result<Self, TargetError> {
        let bad = || TargetError::Address { host: address.to_string() };
        let url = Url::parse(&address.host).map_err(|_| bad())?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(bad)?.to_owned();
        let has_path = !matches!(url.path(), "" | "/");
        if url.query().is_some() || url.fragment().is_some() || url.password().is_some() {
            return Err(bad());
        }
        let way = match url.scheme() {
            "tcp" | "http" if !has_path && url.username().is_empty() => {
                let host = host.trim_matches(['[', ']']).to_owned();
                match &address.tls {
                    None => Way::Tcp { host, port: url.port().unwrap_or(2375) },
                    Some(tls) => Way::Tls {
                        name: ServerName::try_from(host.clone()).map_err(|_| bad())?,
                        connector: TlsConnector::from(tls::config(tls)?),
                        port: url.port().unwrap_or(2376),
                        host,
                    },
                }
            }
            "ssh" => Way::Ssh { arguments: ssh_arguments(&url, &host), logins: Arc::new(Semaphore::new(LOGINS)) },
            _ => return Err(bad()),
        };
        Ok(Self { way, said: Tail::default() })
    }

    /// Connects and hangs up. By `ssh` nothing is tried: it logs in once more for every connection.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn knock(&self) -> io::Result<()> {
        if matches!(self.way, Way::Ssh { .. }) { Ok(()) } else { self.connect().await.map(drop) }
    }

    /// A client that goes this way.
    ///
    /// # Errors
    /// None that is known.
    pub fn client(self) -> Result<Docker, Error> {
        let ask = move |request: BollardRequest| {
            let way = self.clone();
            async move { way.ask(request).await }
        };
        // The name is a part of the URL of each request, and goes nowhere.
        Docker::connect_with_custom_transport(ask, Some("http://docker"), ANSWER, bollard::API_DEFAULT_VERSION)
    }

    async fn ask(&self, mut request: BollardRequest) -> Result<Response<Incoming>, Error> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(|_| Error::IOError { err: io::ErrorKind::InvalidInput.into() })?;
        request.headers_mut().insert(HOST, HeaderValue::from_static("docker"));
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender.send_request(request).await?)
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        match &self.way {
            Way::Tcp { host, port } => Ok(Box::new(tcp(host, *port).await?)),
            Way::Tls { host, port, name, connector } => {
                let stream = tcp(host, *port).await?;
                let handshake = tokio::time::timeout(CONNECT, connector.connect(name.clone(), stream));
                Ok(Box::new(handshake.await.map_err(|_| late())??))
            }
            Way::Ssh { arguments, logins } => {
                let login = Arc::clone(logins).acquire_owned().await.map_err(io::Error::other)?;
                Ok(Box::new(ssh(arguments, &self.said, login)?))
            }
        }
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect((host, port))).await.map_err(|_| late())??;
    stream.set_nodelay(true)?;
    // An agent may be silent for long; what is between forgets connections that are.
    let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(30));
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", CONNECT.as_secs()))
}

/// The words after `ssh`. Docker's own command line is at the other end, and its part is what it is for; a path in the address is a
/// socket there.
fn ssh_arguments(url: &Url, host: &str) -> Vec<String> {
    let mut words: Vec<String> = ["-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"].map(str::to_owned).to_vec();
    if !url.username().is_empty() {
        words.extend(["-l".to_owned(), url.username().to_owned()]);
    }
    if let Some(port) = url.port() {
        words.extend(["-p".to_owned(), port.to_string()]);
    }
    words.extend(["--".to_owned(), host.to_owned(), "docker".to_owned()]);
    let path = url.path();
    if !matches!(path, "" | "/") {
        // The shell at the other end takes it for one word.
        words.extend(["--host".to_owned(), format!("'unix://{}'", path.replace('\'', r"'\''"))]);
    }
    words.extend(["system", "dial-stdio"].map(str::to_owned));
    words
}

fn ssh(arguments: &[String], said: &Tail, login: OwnedSemaphorePermit) -> io::Result<Piped> {
    let mut child = Command::new("ssh")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C is for the runner, which still needs the connection to put back what it changed.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        unreachable!("all three were asked for as pipes");
    };
    tokio::spawn(said.clone().follow(stderr));
    Ok(Piped { stdin: Some(stdin), stdout, login: Some(login), _child: child })
}

/// A connection that is a process. It is killed when this is dropped.
struct Piped {
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    /// Held until the other end has said something, by when the login is over.
    login: Option<OwnedSemaphorePermit>,
    _child: Child,
}

impl AsyncRead for Piped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stdout).poll_read(cx, buffer);
        if read.is_ready() {
            self.login = None;
        }
        read
    }
}

impl AsyncWrite for Piped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stdin.as_mut().map_or(Poll::Ready(Ok(())), |stdin| Pin::new(stdin).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A pipe has no other way to hang up.
        self.stdin = None;
        Poll::Ready(Ok(()))
    }
}

/// The error of TLS that is behind another error, if one is.
pub fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // An error of the system shows the cause of what it wraps, and not that itself.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = wrapped.map(|inner| inner as &(dyn std::error::Error + 'static)).or_else(|| error.source());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::address::{Environment, Tls};
    use super::*;

    fn arguments(host: &str) -> String {
        let url = Url::parse(host).unwrap();
        ssh_arguments(&url, url.host_str().unwrap()).join(" ")
    }

    #[test]
    fn ssh_is_told_as_docker_tells_it() {
        let options = "-T -o BatchMode=yes -o ConnectTimeout=10";
        assert_eq!(arguments("ssh://nas"), format!("{options} -- nas docker system dial-stdio"));
        assert_eq!(arguments("ssh://me@nas:2222"), format!("{options} -l me -p 2222 -- nas docker system dial-stdio"));
        assert_eq!(
            arguments("ssh://nas/run/user/1000/docker.sock"),
            format!("{options} -- nas docker --host 'unix:///run/user/1000/docker.sock' system dial-stdio")
        );
        assert!(arguments("ssh://nas/a'b").contains(r"--host 'unix:///a'\''b' "), "one word to a shell");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let env = Environment::own();
        for host in [
            "",
            "nas",
            "nas:2375",
            "tcp://",
            "tcp:///x",
            "tcp://nas/x",
            "ssh://",
            "ssh://me:pw@nas",
            "npipe:////./pipe/x",
            "ftp://nas",
        ] {
            let Err(error) = Transport::to(&Address { tls: None, ..env.given(host) }) else {
                panic!("{host} is taken")
            };
            assert!(matches!(error, TargetError::Address { .. }), "{host}: {error:?}");
        }
        for host in ["tcp://nas", "tcp://[::1]:2375", "http://nas:2375/", "ssh://me@nas:22/run/x.sock"] {
            assert!(Transport::to(&Address { tls: None, ..env.given(host) }).is_ok(), "{host}");
        }
    }

    #[test]
    fn files_of_tls_that_do_not_fit_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let tls = Tls { dir: dir.path().to_owned(), verify: true };
        let why = || {
            let address = Address { tls: Some(tls.clone()), ..Environment::own().given("tcp://nas") };
            Transport::to(&address).err().map(|error| error.to_string().replace(&dir.path().display().to_string(), ""))
        };
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let pem = |what: &str| {
            let text = std::fs::read_to_string(format!("{}/fixtures/compose/{what}", env!("CARGO_MANIFEST_DIR")));
            text.expect("a fixture")
        };
        assert_eq!(why().as_deref(), Some("use /ca.pem for TLS with Docker: it is not there"));
        write("ca.pem", "nonsense");
        assert_eq!(why().as_deref(), Some("use /ca.pem for TLS with Docker: it holds no certificate in PEM"));
        write("ca.pem", &pem("lab-ca.pem"));
        assert_eq!(why(), None, "an engine may want no certificate of ours");
        write("cert.pem", &pem("lab-ca.pem"));
        assert_eq!(why().as_deref(), Some("use /key.pem for TLS with Docker: it is not there"));
        write("key.pem", "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n");
        assert!(why().is_some_and(|why| why.contains("/key.pem") && !why.contains("hunter2")));
        write("key.pem", &pem("lab-ca-key.pem"));
        assert_eq!(why(), None);
        std::fs::remove_file(dir.path().join("cert.pem")).unwrap();
        assert_eq!(why().as_deref(), Some("use /cert.pem for TLS with Docker: it is not there"));
    }
}
