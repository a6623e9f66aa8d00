//! The admin port: metrics and health over HTTP.
//!
//! It is for the machines that watch the node. It changes nothing and tells no data.

mod listener;

use std::{
    io,
    sync::{Arc, OnceLock},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use listener::BoundedListener;

use crate::{
    metrics::{CONTENT_TYPE, render},
    node::{Node, Phase},
};

/// The node, once its store is open.
type Started = Arc<OnceLock<Arc<Node>>>;

/// Serves the admin port until the task is dropped. Before `started` has a node, the process is
/// alive and not ready.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(listener: TcpListener, started: Started) -> io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .route("/readyz", get(readyz))
        .with_state(started);
    axum::serve(BoundedListener::new(listener), router).await
}

/// Whether the node can write: the log is not poisoned, and the state has not failed. A failed state is
/// opened again by itself; a log that failed ends the process.
async fn healthz(State(started): State<Started>) -> Response {
    let Some(node) = started.get() else { return "starting\n".into_response() };
    let store = node.store();
    if store.log().poisoned() {
        let text = "the log failed; nothing is written until the restart\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    if let Some(reason) = store.failure() {
        let text = format!("the state failed: {reason}\n");
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    "ok\n".into_response()
}

/// Whether clients should be sent here.
async fn readyz(State(started): State<Started>) -> Response {
    match started.get().map_or(Phase::Starting, |node| node.phase()) {
        Phase::Serving => "ready\n".into_response(),
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
        Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
    }
}

async fn metrics(State(started): State<Started>) -> Response {
    let Some(node) = started.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response();
    };
    match render(node.clone()) {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be printed");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
