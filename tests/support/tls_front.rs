//! A front of the engine: its socket behind TLS that wants a certificate.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixStream};
use tokio_rustls::TlsAcceptor;

pub const SOCKET: &str = "/var/run/docker.sock";

/// The engine at a TCP port of the loopback, for those who have a certificate. It goes when this is dropped.
pub struct Tls {
    pub address: SocketAddr,
    dir: TempDir,
    runtime: Option<tokio::runtime::Runtime>,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

/// A certificate and its key, PEM.
fn issue(by: &Authority, name: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.extended_key_usages = vec![usage];
    (params.signed_by(&key, by).expect("signed").pem(), key.serialize_pem())
}

impl Tls {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (ours, others) = (authority(), authority());
        let (cert, key) = issue(&ours, "127.0.0.1", ExtendedKeyUsagePurpose::ServerAuth);
        // The folders that a user may have: a good one, one without a certificate of ours, and those of another engine.
        for (name, ca, client) in [
            ("good", &ours, Some(&ours)),
            ("nameless", &ours, None),
            ("other-ca", &others, Some(&ours)),
            ("other-client", &ours, Some(&others)),
        ] {
            let folder = dir.path().join(name);
            fs::create_dir(&folder).expect("a folder");
            fs::write(folder.join("ca.pem"), ca.pem()).expect("written");
            if let Some(client) = client {
                let (cert, key) = issue(client, "client", ExtendedKeyUsagePurpose::ClientAuth);
                fs::write(folder.join("cert.pem"), cert).expect("written");
                fs::write(folder.join("key.pem"), key).expect("written");
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(ours.der().clone()).expect("an authority");
        let known = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider)).build();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(known.expect("a verifier"))
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(cert.as_bytes()).expect("PEM")],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM"),
            )
            .expect("a configuration");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        listener.set_nonblocking(true).expect("for the runtime");
        let address = listener.local_addr().expect("an address");
        runtime.spawn(serve(listener, TlsAcceptor::from(Arc::new(config))));
        Self { address, dir, runtime: Some(runtime) }
    }

    /// A folder with the files that `DOCKER_CERT_PATH` wants.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn host(&self) -> String {
        format!("tcp://{}", self.address)
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        // It may be dropped inside of another runtime, which must not block.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(listener: std::net::TcpListener, acceptor: TlsAcceptor) {
    let listener = TcpListener::from_std(listener).expect("in a runtime");
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(mut from) = acceptor.accept(stream).await else { return };
            let Ok(mut to) = UnixStream::connect(SOCKET).await else { return };
            drop(tokio::io::copy_bidirectional(&mut from, &mut to).await);
        });
    }
}
