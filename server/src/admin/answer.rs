//! Answers of the admin port in JSON, and who may ask it to change something.

use std::{future::Future, sync::Arc};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use larder_replication::driver::Ending;
use larder_types::NodeId;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use super::Started;
use crate::{node::Node, replica::Replica};

/// What is refused, and how.
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) body: Json,
}

impl Refused {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, body: json!({"error": error.into()}) }
    }

    pub(super) fn ending(ending: Ending) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, ending.to_string())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        json_response(self.status, &self.body)
    }
}

pub(super) fn json_response(status: StatusCode, body: &Json) -> Response {
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    (status, content_type, body.to_string()).into_response()
}

/// The answer as JSON, or why there is none.
pub(super) async fn answered(answer: impl Future<Output = Result<Json, Refused>>) -> Response {
    match answer.await {
        Ok(body) => json_response(StatusCode::OK, &body),
        Err(refused) => refused.into_response(),
    }
}

/// What a request's body says; an empty body says nothing.
pub(super) fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refused> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(bytes).map_err(|error| {
        Refused::new(
            StatusCode::BAD_REQUEST,
            format!("the body does not say what is needed: {error}"),
        )
    })
}

pub(super) fn node_named(name: &str) -> Result<NodeId, Refused> {
    name.parse().map_err(|error: larder_types::BadName| {
        Refused::new(StatusCode::BAD_REQUEST, error.to_string())
    })
}

/// The node with its replica.
pub(super) fn of_cluster(started: &Started) -> Result<(&Arc<Node>, &Arc<Replica>), Refused> {
    let node = started.get().ok_or_else(|| {
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, "this node is still starting; ask again")
    })?;
    let replica = node.replica.as_ref().ok_or_else(|| {
        Refused::new(
            StatusCode::NOT_FOUND,
            "this is a single node: its configuration has no [node] table, so that nothing is \
             replicated",
        )
    })?;
    Ok((node, replica))
}

/// Under it are the records of parted logs.
const PARTED: &str = "/replication/parted/";

/// Lets nobody change anything, or see data, without the password, where one is set.
pub(super) async fn authorize(
    State(started): State<Started>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    let tells_data = request.uri().path().starts_with(PARTED);
    if (changes || tells_data)
        && let Some(node) = started.get()
    {
        let given = request.headers().get(header::AUTHORIZATION);
        let given = given.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        let settings = node.settings.load();
        if settings.is_password_set() && !settings.admits(given.unwrap_or_default()) {
            let error = "the password is needed to change anything, and to see data: \
                         Authorization: Bearer PASSWORD";
            return Refused::new(StatusCode::UNAUTHORIZED, error).into_response();
        }
    }
    next.run(request).await
}
