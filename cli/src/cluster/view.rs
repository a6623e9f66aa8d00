//! What a node says about the replication of its log: the answer to `GET /replication`.

use serde::Deserialize;
use serde_json::Value as Json;

use crate::admin::Admin;
use crate::failure::Failure;

/// One node's view. Fields that are not shown or decided on are left out.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Replication {
    /// The node that answers.
    pub(crate) node: String,
    /// Its region.
    pub(crate) region: String,
    /// `master`, `slave`, `fenced` or `joining`.
    pub(crate) role: String,
    /// The term it knows.
    pub(crate) term: u64,
    /// The last record of its log; `None` where it has none.
    #[serde(default)]
    pub(crate) tail: Option<u64>,
    /// The last record that is fsynced.
    #[serde(default)]
    pub(crate) durable: Option<u64>,
    /// The last record that is committed, as far as it knows.
    #[serde(default)]
    pub(crate) committed: Option<u64>,
    /// The namespace's ack level.
    pub(crate) level: String,
    /// How long the master's lease lasts yet.
    #[serde(default)]
    pub(crate) lease_ms_left: Option<f64>,
    /// Who is master, as far as this node knows.
    #[serde(default)]
    pub(crate) master: Option<String>,
    /// The replicas.
    #[serde(default)]
    pub(crate) members: Vec<Member>,
    /// What an operator must know.
    #[serde(default)]
    pub(crate) alerts: Vec<String>,
}

/// A replica, as the node that answers sees it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Member {
    /// Its node.
    pub(crate) node: String,
    /// Its region.
    pub(crate) region: String,
    /// Whether it counts for ack levels and gives leases.
    pub(crate) voter: bool,
    /// `master`, `streaming`, `catching-up`, ...
    pub(crate) state: String,
    /// Records that it lacks.
    #[serde(default)]
    pub(crate) lag_records: Option<u64>,
    /// Bytes of log that it lacks.
    #[serde(default)]
    pub(crate) lag_bytes: Option<u64>,
    /// How old what it serves is.
    #[serde(default)]
    pub(crate) lag_ms: Option<f64>,
    /// How long its session has lasted.
    #[serde(default)]
    pub(crate) session_age_ms: Option<f64>,
    /// How often it took a snapshot.
    #[serde(default)]
    pub(crate) full_syncs: u64,
    /// Whether the log is no longer kept for it.
    #[serde(default)]
    pub(crate) detached: bool,
}

impl Replication {
    /// Asks a node.
    ///
    /// # Errors
    /// What [`Admin`] fails with, and an answer of another form.
    pub(crate) async fn ask(admin: &Admin) -> Result<Self, Failure> {
        Self::read(&admin.get("/replication").await?)
    }

    /// Reads the answer.
    ///
    /// # Errors
    /// It has another form.
    pub(crate) fn read(answer: &Json) -> Result<Self, Failure> {
        Self::deserialize(answer).map_err(|error| {
            Failure::Refused(format!("the answer to /replication has another form: {error}"))
        })
    }

    /// Whether it is the master.
    pub(crate) fn is_master(&self) -> bool {
        self.role == "master"
    }

    /// Whether it is the master of so many nodes and the log flows to all others.
    pub(crate) fn streams_to_all(&self, nodes: usize) -> bool {
        let flows = |member: &Member| matches!(member.state.as_str(), "master" | "streaming");
        self.is_master() && self.members.len() == nodes && self.members.iter().all(flows)
    }
}
