//! The lab over the admin port: delays, losses and cuts of what goes to other nodes.

use std::{num::NonZeroU64, time::Duration};

use axum::{
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use larder_config::PeerConfig;
use larder_net::{Shape, ShapeStats, Shaper};
use larder_types::NodeId;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{
    Started,
    answer::{Refused, answered, body, node_named, of_cluster},
};
use crate::replica::Replica;

/// A line, as it is set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    peer: NodeId,
    #[serde(default)]
    delay_ms: f64,
    #[serde(default)]
    jitter_ms: f64,
    #[serde(default)]
    loss: f64,
    #[serde(default)]
    rate_bytes_per_s: Option<NonZeroU64>,
    #[serde(default)]
    cut_send: bool,
    #[serde(default)]
    cut_receive: bool,
}

/// `GET /lab/shapes`.
pub(super) async fn show(State(started): State<Started>) -> Response {
    answered(async {
        let (replica, shaper) = lab(&started)?;
        let lines = shaper.list();
        let shown = lines.into_iter().filter_map(|(address, shape, stats)| {
            let peer = replica.node.peers.iter().find(|peer| peer.address == address)?;
            Some(view(peer, shape, stats))
        });
        Ok(Json::Array(shown.collect()))
    })
    .await
}

fn view(peer: &PeerConfig, shape: Shape, stats: ShapeStats) -> Json {
    json!({
        "peer": peer.id,
        "delay_ms": shape.delay.as_secs_f64() * 1e3,
        "jitter_ms": shape.jitter.as_secs_f64() * 1e3,
        "loss": shape.loss,
        "rate_bytes_per_s": shape.rate_bytes_per_s,
        "cut_send": shape.cut_send,
        "cut_receive": shape.cut_receive,
        "carried": stats.carried,
        "carried_bytes": stats.carried_bytes,
        "lost": stats.lost,
        "cut": stats.cut,
    })
}

/// `PUT /lab/shapes`.
pub(super) async fn set(State(started): State<Started>, bytes: Bytes) -> Response {
    answered(async {
        let (replica, shaper) = lab(&started)?;
        let line: Line = body(&bytes)?;
        let address = peer(replica, &line.peer)?.address;
        let shape = Shape {
            delay: span("delay_ms", line.delay_ms)?,
            jitter: span("jitter_ms", line.jitter_ms)?,
            loss: line.loss,
            rate_bytes_per_s: line.rate_bytes_per_s,
            cut_send: line.cut_send,
            cut_receive: line.cut_receive,
        };
        let wrong =
            |error: larder_net::Error| Refused::new(StatusCode::BAD_REQUEST, error.to_string());
        shaper.set(address, shape).map_err(wrong)?;
        Ok(json!({"peer": line.peer}))
    })
    .await
}

/// `DELETE /lab/shapes/NODE`.
pub(super) async fn clear(State(started): State<Started>, Path(name): Path<String>) -> Response {
    answered(async {
        let (replica, shaper) = lab(&started)?;
        let node = node_named(&name)?;
        shaper.clear(peer(replica, &node)?.address);
        Ok(json!({"peer": node}))
    })
    .await
}

fn lab(started: &Started) -> Result<(&Replica, &Shaper), Refused> {
    let (_, replica) = of_cluster(started)?;
    let shaper = replica.shaper.as_ref().ok_or_else(|| {
        Refused::new(
            StatusCode::NOT_FOUND,
            "the lab is closed: lines are shaped only where the configuration says [lab] enabled = \
             true",
        )
    })?;
    Ok((replica, shaper))
}

fn peer<'a>(replica: &'a Replica, node: &NodeId) -> Result<&'a PeerConfig, Refused> {
    replica.node.peer(node).ok_or_else(|| {
        Refused::new(StatusCode::NOT_FOUND, format!("{node} is not one of node.peers"))
    })
}

fn span(key: &str, millis: f64) -> Result<Duration, Refused> {
    Duration::try_from_secs_f64(millis / 1e3).map_err(|error| {
        Refused::new(StatusCode::BAD_REQUEST, format!("{key} = {millis}: {error}"))
    })
}
