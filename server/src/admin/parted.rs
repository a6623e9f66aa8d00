//! Records that parted from the log, over the admin port: listed, shown, and written once more.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use larder_storage::parted::{self, PartedError, PartedRecord};
use larder_types::Epoch;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::task::spawn_blocking;

use super::{
    Started,
    answer::{Refused, answered, body, of_cluster},
};
use crate::{
    node::Node,
    shard::{Shard, Task, Work},
};

/// Records of one file that are shown or written again at most.
const RECORDS_MAX: usize = 10_000;

/// `GET /replication/parted`.
pub(super) async fn list(State(started): State<Started>) -> Response {
    answered(async {
        let (node, _) = of_cluster(&started)?;
        let directory = node.shard.directory().clone();
        let files = blocking(move || parted::list(&directory)).await?;
        Ok(files.iter().map(|file| with_epoch(json!(file), file.epoch)).collect())
    })
    .await
}

/// `GET /replication/parted/NAME`.
pub(super) async fn show(State(started): State<Started>, Path(name): Path<String>) -> Response {
    answered(async {
        let (node, _) = of_cluster(&started)?;
        let records = records(node, name).await?;
        let shown = records.iter().map(|record| with_epoch(json!(record), record.epoch));
        Ok(json!({"records": shown.collect::<Json>()}))
    })
    .await
}

/// What is shown of it, with its epoch as all answers name epochs; the file has its parts.
fn with_epoch(mut shown: Json, epoch: Epoch) -> Json {
    shown["epoch"] = json!(epoch.to_string());
    shown
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reapply {
    #[serde(default)]
    dry_run: bool,
}

/// `POST /replication/parted/NAME/reapply`: writes the records once more, at the master.
pub(super) async fn reapply(
    State(started): State<Started>,
    Path(name): Path<String>,
    bytes: Bytes,
) -> Response {
    answered(async {
        let (node, replica) = of_cluster(&started)?;
        let Reapply { dry_run } = body(&bytes)?;
        let records = records(node, name).await?;
        let count = records.len();
        if dry_run {
            return Ok(json!({"dry_run": true, "records": count, "applied": 0}));
        }
        if let Some(why) = replica.duty().refuses_writes() {
            let error = format!(
                "this node takes no writes ({why}); copy the file to the master, or \
                                 switch over to this node first"
            );
            return Err(Refused::new(StatusCode::CONFLICT, error));
        }
        let applied = apply(&node.shard, records).await?;
        Ok(json!({"dry_run": false, "records": count, "applied": applied}))
    })
    .await
}

async fn apply(shard: &Arc<Shard>, records: Vec<PartedRecord>) -> Result<usize, Refused> {
    let work = Work::of(Task::Reapply { records, applied: 0, failed: None });
    let ended = || Refused::new(StatusCode::SERVICE_UNAVAILABLE, "this node ends");
    let work = shard.submit(work, None).await.map_err(|_| ended())?;
    if let Some(refusal) = work.refusal {
        return Err(Refused::new(StatusCode::CONFLICT, refusal));
    }
    let Task::Reapply { applied, failed, .. } = work.task else {
        unreachable!("work comes back as it went")
    };
    match failed {
        None => Ok(applied),
        Some(why) => {
            let error = format!("after {applied} records: {why}");
            Err(Refused::new(StatusCode::CONFLICT, error))
        }
    }
}

async fn records(node: &Node, name: String) -> Result<Vec<PartedRecord>, Refused> {
    let directory = node.shard.directory().clone();
    let records = blocking(move || {
        let records = parted::read(&directory, &name)?.take(RECORDS_MAX + 1);
        records.collect::<Result<Vec<_>, PartedError>>()
    });
    let records = records.await?;
    if records.len() > RECORDS_MAX {
        let error = format!(
            "there are more than {RECORDS_MAX} records: read the file in the data directory under parted/"
        );
        return Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, error));
    }
    Ok(records)
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, PartedError> + Send + 'static,
) -> Result<T, Refused> {
    let failed = |error: String| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error);
    let read = spawn_blocking(read).await.map_err(|error| failed(error.to_string()))?;
    read.map_err(|error| match error {
        PartedError::Unknown { .. } => Refused::new(StatusCode::NOT_FOUND, error.to_string()),
        error => failed(error.to_string()),
    })
}
