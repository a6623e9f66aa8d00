//! The admin port: metrics and health over HTTP, and the replication of the log.
//!
//! It is for the machines and the operators that watch over the node. Who changes something needs the
//! password, where one is set. Of data it tells the records of parted logs alone, for the same.

mod answer;
mod lab;
mod listener;
mod parted;
pub(crate) mod replication;

use std::{
    io,
    sync::{Arc, OnceLock},
};

use axum::{
    Extension, Router,
    extract::State,
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use tokio::net::TcpListener;

use answer::authorize;
use listener::BoundedListener;

use crate::{
    metrics::{CONTENT_TYPE, render},
    node::{Node, Phase},
};

/// The node, once it is known whether its store opens.
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
        .route("/replication", get(replication::show))
        .route("/replication/promote", post(replication::promote))
        .route("/replication/switchover", post(replication::switchover))
        .route("/replication/members", post(replication::add))
        .route("/replication/members/{node}", delete(replication::remove))
        .route("/replication/members/{node}/resync", post(replication::resync))
        .route("/replication/parted", get(parted::list))
        .route("/replication/parted/{name}", get(parted::show))
        .route("/replication/parted/{name}/reapply", post(parted::reapply))
        .route("/lab/shapes", get(lab::show).put(lab::set))
        .route("/lab/shapes/{node}", delete(lab::clear))
        .layer(Extension(parted::Reapplying::default()))
        .layer(middleware::from_fn_with_state(started.clone(), authorize))
        .with_state(started);
    axum::serve(BoundedListener::new(listener), router).await
}

/// Whether the node can write: the log is not poisoned, and the state has not failed. A failed state is
/// opened again by itself; a log that failed ends the process.
async fn healthz(State(started): State<Started>) -> Response {
    let Some(node) = started.get() else { return "starting\n".into_response() };
    // Of one that is not open yet nothing has failed.
    let Some(store) = node.store() else { return "ok\n".into_response() };
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

/// Whether clients should be sent here, and in a cluster for what: `ready master` and `ready slave`.
async fn readyz(State(started): State<Started>) -> Response {
    if let Some(why) = started.get().and_then(|node| node.loading()) {
        let text = format!("not ready: {why}\n");
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    match started.get().map_or(Phase::Starting, |node| node.phase()) {
        Phase::Serving => match started.get().and_then(|node| node.replica.as_ref()) {
            None => "ready\n".into_response(),
            Some(replica) if replica.driver.may_read() => {
                format!("ready {}\n", replica.duty().name()).into_response()
            }
            Some(replica) => {
                let text = format!("not ready: {}\n", replica.duty().name());
                (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
            }
        },
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
