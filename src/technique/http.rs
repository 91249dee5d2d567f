//! One bounded HTTP question to an address that is already known. Proxies, redirects and the host's certificate store are left out:
//! the first two would hide where the traffic goes, the third is empty in a container made from scratch.

use std::error::Error as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::{Client, Url, redirect};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// An honest answer of an echo service has at most a few hundred octets.
const MAX_BODY: usize = 64 * 1024;

/// What TLS trusts: the web's authorities, and those of `extra_ca` (PEM).
///
/// # Errors
/// When `extra_ca` holds no certificate, or one that is not valid.
pub fn trust(extra_ca: Option<&str>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(pem) = extra_ca {
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate =
                certificate.map_err(|error| format!("the extra certificate authority is not PEM: {error}"))?;
            roots
                .add(certificate)
                .map_err(|error| format!("the extra certificate authority is not usable: {error}"))?;
        }
        if roots.len() == before {
            return Err("the file of the extra certificate authority holds no certificate".to_owned());
        }
    }
    ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_root_certificates(roots).with_no_client_auth())
        .map_err(|error| error.to_string())
}

/// A client that connects to `address` whenever `host` is asked for, and does nothing that was not asked.
///
/// # Errors
/// When TLS cannot be set up.
pub fn client(tls: &ClientConfig, host: &str, address: SocketAddr, patience: Duration) -> Result<Client, String> {
    Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .no_proxy()
        .redirect(redirect::Policy::none())
        .resolve(host, address)
        .connect_timeout(patience)
        .timeout(patience)
        .pool_max_idle_per_host(0)
        .user_agent(concat!("leakcheck/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| chain(&error))
}

/// The status and the body of one GET, or why there is none. A body that is too long is no answer.
pub async fn ask(
    tls: &ClientConfig,
    url: &Url,
    address: IpAddr,
    patience: Duration,
    accept: &str,
) -> Result<(u16, Vec<u8>), String> {
    let host = url.host_str().ok_or("the URL names no host")?;
    let port = url.port_or_known_default().ok_or("the URL names no port")?;
    let client = client(tls, host, SocketAddr::new(address, port), patience)?;
    let response =
        client.get(url.clone()).header(reqwest::header::ACCEPT, accept).send().await.map_err(|error| chain(&error))?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        body.extend_from_slice(&chunk.map_err(|error| chain(&error))?);
        if body.len() > MAX_BODY {
            return Err(format!("the answer is longer than {MAX_BODY} octets"));
        }
    }
    Ok((status, body))
}

/// An error with its causes, without the URL that reqwest repeats in each.
pub fn chain(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() { "no answer in time".to_owned() } else { "no connection".to_owned() };
    if error.is_body() || error.is_decode() {
        text = "the answer broke off".to_owned();
    }
    let mut cause = error.source();
    while let Some(inner) = cause {
        if inner.source().is_none() {
            text = format!("{text}: {inner}");
        }
        cause = inner.source();
    }
    text
}
