//! A certificate authority of the lab's own, made afresh for each lab, so that HTTPS in it is checked as it is outside.
//! Its key lives in memory only.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// Why no certificate could be made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("make a certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("set TLS up")]
    Tls(#[from] rustls::Error),
}

/// A fresh certificate authority.
pub struct LabCa(CertifiedIssuer<'static, KeyPair>);

impl LabCa {
    /// Makes a key (P-256) and a root certificate for it.
    pub fn new() -> Result<Self, CaError> {
        Self::of(KeyPair::generate()?)
    }

    /// The authority of a key that is kept elsewhere (PKCS #8, PEM). Its certificate is another each time, but has the
    /// same name and key, which is what clients compare.
    pub fn from_key(pem: &str) -> Result<Self, CaError> {
        Self::of(KeyPair::from_pem(pem)?)
    }

    fn of(key: KeyPair) -> Result<Self, CaError> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "leakcheck lab");
        Ok(Self(CertifiedIssuer::self_signed(params, key)?))
    }

    /// The root certificate, as a client's `extra_ca` wants it.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// TLS for a server of these names: host names, wildcards such as `*.dnsleak.am.i.mullvad.net`, IP addresses.
    pub fn server_config<I>(&self, names: I) -> Result<Arc<ServerConfig>, CaError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.0)?;
        // The provider is named, so that nothing hangs on what the process installed as its default.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        // Without ALPN of its own the server takes clients of HTTP/1 and of DNS over TLS alike.
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )?;
        Ok(Arc::new(config))
    }
}
