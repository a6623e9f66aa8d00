//! Records that parted from the log, over the admin port: listed, shown, and written once more.

use std::{collections::HashSet, sync::Arc};

use axum::{
    Extension,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use larder_storage::parted::{self, PartedError, PartedRecord, PartedRecords};
use larder_types::Epoch;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::task::spawn_blocking;

use super::{
    Started,
    answer::{Refused, answered, body, of_cluster},
};
use crate::{
    replica::Replica,
    shard::{Shard, Task, Work},
};

/// Of a file, what is shown at most: it is one answer.
const SHOWN_BYTES_MAX: u64 = 32 << 20;
/// What is written again at once: other writes come in between.
const AGAIN_BYTES: u64 = 1 << 20;

/// `GET /replication/parted`.
pub(super) async fn list(State(started): State<Started>) -> Response {
    answered(async {
        let (_, replica) = of_cluster(&started)?;
        let directory = replica.directory.clone();
        let files = blocking(move || parted::list(&directory)).await?;
        Ok(files.iter().map(|file| with_epoch(json!(file), file.epoch)).collect())
    })
    .await
}

/// `GET /replication/parted/NAME`.
pub(super) async fn show(State(started): State<Started>, Path(name): Path<String>) -> Response {
    answered(async {
        let (_, replica) = of_cluster(&started)?;
        let (records, mut left) = some(open(replica, name).await?, SHOWN_BYTES_MAX).await?;
        if blocking(move || left.next().transpose()).await?.is_some() {
            let error = format!(
                "there are more than {} MiB of records: read the file in the data directory under \
                 parted/",
                SHOWN_BYTES_MAX >> 20
            );
            return Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, error));
        }
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

/// The files whose records are being written once more.
#[derive(Clone, Default)]
pub(super) struct Reapplying(Arc<Mutex<HashSet<String>>>);

/// Keeps others from a file.
struct Busy {
    files: Reapplying,
    name: String,
}

impl Reapplying {
    /// Keeps others from the file until what is returned is dropped.
    fn begin(&self, name: &str) -> Result<Busy, Refused> {
        if !self.0.lock().insert(name.to_owned()) {
            let error = format!(
                "the records of {name} are being written once more already: wait until that has \
                 ended, which the log of the server tells"
            );
            return Err(Refused::new(StatusCode::CONFLICT, error));
        }
        Ok(Busy { files: self.clone(), name: name.to_owned() })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.files.0.lock().remove(&self.name);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reapply {
    #[serde(default)]
    dry_run: bool,
    /// Also where nobody can tell whether the records are in the log already.
    #[serde(default)]
    force: bool,
}

/// `POST /replication/parted/NAME/reapply`: writes the records once more, at the master.
pub(super) async fn reapply(
    State(started): State<Started>,
    Extension(reapplying): Extension<Reapplying>,
    Path(name): Path<String>,
    bytes: Bytes,
) -> Response {
    answered(async {
        let (node, replica) = of_cluster(&started)?;
        let Reapply { dry_run, force } = body(&bytes)?;
        let file = open(replica, name.clone()).await?;
        if let Some(why) = replica.duty().refuses_writes().filter(|_| !dry_run) {
            let error = format!(
                "this node takes no writes ({why}); copy the file to the master, or switch over to \
                 this node first"
            );
            return Err(Refused::new(StatusCode::CONFLICT, error));
        }
        if !file.info.in_common && !dry_run && !force {
            return Err(Refused::new(StatusCode::CONFLICT, untold(&name)));
        }
        let shard = node.shard().ok_or_else(|| {
            Refused::new(StatusCode::SERVICE_UNAVAILABLE, "the store is not open yet; ask again")
        })?;
        let busy = if dry_run { None } else { Some(reapplying.begin(&name)?) };
        let all = apply_all(shard.clone(), name, file, dry_run);
        // A client that hangs up does not end it; then only the log tells how it went.
        let again = tokio::spawn(async move {
            let _busy = busy;
            all.await
        });
        let failed = |error: tokio::task::JoinError| {
            Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
        };
        again.await.map_err(failed)?
    })
    .await
}

/// Why the records of a file are not written once more unless that is asked for twice.
fn untold(name: &str) -> String {
    format!(
        "nobody can tell whether the records of {name} parted: when they were exported, the master no \
         longer knew the epochs of their log, so that its own may have them already, and newer writes of \
         the same keys, which would be undone; nothing was written: look at them first (`kv log \
         parted show {name}`), then write again by hand what is missed, or all of it with --force \
         (\"force\": true)"
    )
}

/// Writes all of a file once more, or only counts where it is a `dry_run`.
async fn apply_all(
    shard: Arc<Shard>,
    name: String,
    file: PartedRecords,
    dry_run: bool,
) -> Result<Json, Refused> {
    let in_common = file.info.in_common;
    let all = apply_pieces(&shard, file, dry_run).await;
    match &all {
        Ok((_, applied)) if !dry_run => {
            tracing::info!(name, applied, "records that parted were written once more");
        }
        Ok(_) => {}
        Err(refused) => {
            let why = &refused.body["error"];
            tracing::warn!(name, %why, "not all records that parted were written once more");
        }
    }
    let (records, applied) = all?;
    Ok(json!({
        "dry_run": dry_run, "in_common": in_common, "records": records, "applied": applied,
    }))
}

/// How many records there are in a file, and of these were written.
async fn apply_pieces(
    shard: &Arc<Shard>,
    mut file: PartedRecords,
    dry_run: bool,
) -> Result<(usize, usize), Refused> {
    let (mut records, mut applied) = (0, 0);
    loop {
        let (next, left) = some(file, AGAIN_BYTES).await?;
        if next.is_empty() {
            return Ok((records, applied));
        }
        file = left;
        records += next.len();
        if !dry_run {
            applied += apply(shard, next, applied).await?;
        }
    }
}

/// Writes records once more, after others of the same file. Returns how many.
async fn apply(
    shard: &Arc<Shard>,
    records: Vec<PartedRecord>,
    before: usize,
) -> Result<usize, Refused> {
    let work = Work::of(Task::Reapply { records, applied: 0, failed: None });
    let ended = || Refused::new(StatusCode::SERVICE_UNAVAILABLE, "this node ends");
    let work = shard.submit(work, None).await.map_err(|_| ended())?;
    let refused = |applied: usize, why: &str| {
        let error = format!("after {} records: {why}", before + applied);
        Err(Refused::new(StatusCode::CONFLICT, error))
    };
    if let Some(refusal) = work.refusal {
        return refused(0, &refusal);
    }
    let Task::Reapply { applied, failed, .. } = work.task else {
        unreachable!("work comes back as it went")
    };
    match failed {
        None => Ok(applied),
        Some(why) => refused(applied, &why),
    }
}

async fn open(replica: &Replica, name: String) -> Result<PartedRecords, Refused> {
    let directory = replica.directory.clone();
    blocking(move || parted::read(&directory, &name)).await
}

/// The next records of a file, and what is left of it.
async fn some(
    mut file: PartedRecords,
    bytes_enough: u64,
) -> Result<(Vec<PartedRecord>, PartedRecords), Refused> {
    blocking(move || Ok((file.some(bytes_enough)?, file))).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_records_of_one_file_are_written_once_more_by_one_request_at_a_time() {
        let files = Reapplying::default();
        let busy = files.begin("one").ok().expect("nobody has it");
        let refused = files.begin("one").err().expect("it is being written");
        assert_eq!(refused.status, StatusCode::CONFLICT);
        assert!(files.begin("other").is_ok());
        drop(busy);
        assert!(files.begin("one").is_ok());
    }
}
