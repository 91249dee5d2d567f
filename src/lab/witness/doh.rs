//! DNS over HTTPS (RFC 8484), as a part of an HTTP witness. The questions are those of [`super::dns`]; only the way in
//! differs.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::dns::{Answer, reply};
use super::http::Peer;
use super::journal::Protocol;

/// Where public resolvers take questions.
pub(super) const PATH: &str = "/dns-query";
const MESSAGE: &str = "application/dns-message";

/// The routes below [`PATH`].
pub(super) fn router(answerer: Arc<dyn Answer>) -> Router {
    Router::new()
        .route("/", get(by_get).post(by_post))
        .layer(DefaultBodyLimit::max(usize::from(u16::MAX)))
        .with_state(answerer)
}

#[derive(Deserialize)]
struct Parameters {
    /// The message in base64url without padding.
    dns: String,
}

async fn by_get(
    State(answerer): State<Arc<dyn Answer>>,
    Extension(peer): Extension<Peer>,
    Query(parameters): Query<Parameters>,
) -> Response {
    match BASE64_URL_SAFE_NO_PAD.decode(parameters.dns) {
        Ok(message) => answer(&message, peer, &*answerer).await,
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}

async fn by_post(
    State(answerer): State<Arc<dyn Answer>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    message: Bytes,
) -> Response {
    if headers.get(CONTENT_TYPE).is_none_or(|kind| kind != MESSAGE) {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    answer(&message, peer, &*answerer).await
}

async fn answer(message: &[u8], Peer(peer): Peer, answerer: &dyn Answer) -> Response {
    match reply(message, peer, Protocol::Tls, answerer).await {
        Some(octets) => ([(CONTENT_TYPE, MESSAGE)], octets).into_response(),
        None => StatusCode::BAD_REQUEST.into_response(),
    }
}
