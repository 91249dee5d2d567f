//! TLS with a Docker engine: the files that say whom to trust and who we are. Connecting is not done here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::address::Tls;
use super::error::TargetError;

/// Reads the files of the folder: `ca.pem` signed the engine's certificate, `cert.pem` and `key.pem` are ours. Those that are not there are
/// done without: an engine may want no certificate of ours, or have one that everybody trusts, but then not by `DOCKER_TLS_VERIFY`.
///
/// # Errors
/// When a file is missing that others need, cannot be read, or does not hold what it should.
pub fn config(tls: &Tls) -> Result<Arc<ClientConfig>, TargetError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let own = own(&tls.dir, &provider)?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(refused(&tls.dir))?;
    let builder = if tls.verify {
        builder.with_root_certificates(roots(&tls.dir.join("ca.pem"))?)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyEngine(provider)))
    };
    let config = match own {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(refused(&tls.dir.join("cert.pem")))?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn roots(path: &Path) -> Result<RootCertStore, TargetError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)?.ok_or_else(|| missing(path))? {
        roots.add(certificate).map_err(refused(path))?;
    }
    Ok(roots)
}

/// Our certificate and its key, when they are there. One without the other is a slip.
fn own(
    dir: &Path,
    provider: &CryptoProvider,
) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, TargetError> {
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    match (certificates(&cert)?, text(&key)?) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(missing(&key)),
        (None, Some(_)) => Err(missing(&cert)),
        (Some(chain), Some(pem)) => {
            // Not the reader's own words: they could hold a part of the key.
            let unusable = || unfit(&key, "it holds no private key that is not encrypted".to_owned());
            let read = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| unusable())?;
            provider.key_provider.load_private_key(read.clone_key()).map_err(|_| unusable())?;
            Ok(Some((chain, read)))
        }
    }
}

fn certificates(path: &Path) -> Result<Option<Vec<CertificateDer<'static>>>, TargetError> {
    let Some(pem) = text(path)? else { return Ok(None) };
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match read {
        Ok(found) if !found.is_empty() => Ok(Some(found)),
        _ => Err(unfit(path, "it holds no certificate in PEM".to_owned())),
    }
}

fn text(path: &Path) -> Result<Option<String>, TargetError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unfit(path, error.to_string())),
    }
}

fn missing(path: &Path) -> TargetError {
    unfit(path, "it is not there".to_owned())
}

fn unfit(path: &Path, why: String) -> TargetError {
    TargetError::TlsFile { path: path.display().to_string(), why }
}

fn refused(path: &Path) -> impl FnOnce(Error) -> TargetError {
    let path: PathBuf = path.to_owned();
    move |error| match error {
        Error::InconsistentKeys(_) => unfit(&path, "key.pem beside it is not the key of this certificate".to_owned()),
        other => unfit(&path, other.to_string()),
    }
}

/// What to do about an error of TLS with an engine; `None` when that is not known.
pub fn advice(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "the engine's certificate was not signed by the ca.pem that is used: take the one of this engine"
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "the engine's certificate is for another name: use one that it is for in the address",
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the engine's certificate has expired, or the clock of this machine is wrong"
        }
        Error::AlertReceived(_) => {
            "the engine refuses our certificate: cert.pem and key.pem have to be there, and signed by the authority that the engine trusts"
        }
        Error::InvalidMessage(_) => {
            "that port does not speak TLS: docker listens with TLS on 2376 by custom, and without on 2375"
        }
        _ => return None,
    })
}

/// Takes every engine for the right one, as the user asked for by `DOCKER_TLS` or a context that skips verification.
#[derive(Debug)]
struct AnyEngine(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyEngine {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
