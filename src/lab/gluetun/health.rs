//! The health server on 127.0.0.1:9999, which the image's HEALTHCHECK asks: 200 or 500. What is healthy, the stack says.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use tokio::net::TcpListener;

use super::VpnControl;
use crate::lab::witness::accept;

/// Serves until dropped.
pub async fn serve(listener: TcpListener, vpn: Arc<dyn VpnControl>) {
    let answer = move || async move {
        if vpn.healthy() {
            (StatusCode::OK, "")
        } else {
            (StatusCode::INTERNAL_SERVER_ERROR, "the tunnel does not carry traffic\n")
        }
    };
    let router = Router::new().fallback(answer);
    accept::accept(listener, None, move |stream, _| {
        let router = router.clone();
        async move { accept::http(stream, |_| Some(router.clone())).await }
    })
    .await;
}
