//! The admin port: metrics and health over HTTP.
//!
//! It is for the machines that watch the node. It changes nothing and tells no data.

use std::{future::Future, io, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
    serve::ListenerExt as _,
};
use tokio::net::TcpListener;

use crate::{
    metrics::{CONTENT_TYPE, Metrics},
    node::{Node, Phase},
};

struct Admin {
    node: Arc<Node>,
    metrics: Metrics,
}

/// Serves the admin port until `stop` is done.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    node: Arc<Node>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let admin = Arc::new(Admin { metrics: Metrics::new(Arc::clone(&node)), node });
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .route("/readyz", get(readyz))
        .with_state(admin);
    let listener = listener.tap_io(|stream| {
        // A small reply must not wait for more; where it cannot be set, it only comes later.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

/// Whether a restart would help: the log is poisoned, or the state failed.
async fn healthz(State(admin): State<Arc<Admin>>) -> Response {
    if admin.node.store.log().poisoned() {
        let text = "the log failed; nothing is written until the restart\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    if let Some(reason) = admin.node.store.failure() {
        let text = format!("the state failed: {reason}\n");
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    "ok\n".into_response()
}

/// Whether clients should be sent here.
async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    match admin.node.phase() {
        Phase::Serving => "ready\n".into_response(),
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
        Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    match admin.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be printed");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
