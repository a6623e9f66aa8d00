//! Why replication did not start, or cannot go on.

use std::path::PathBuf;

/// Replication did not start, or the process must end because of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The node's certificate, its key or the authority's certificate cannot be used, or the UDP
    /// address cannot be had.
    #[error(transparent)]
    Net(#[from] larder_net::Error),
    /// The certificate is another node's.
    #[error("{certificate}: names node {found}, but this node is {expected}")]
    OtherNode {
        /// The certificate's file.
        certificate: PathBuf,
        /// The name in it.
        found: larder_types::NodeId,
        /// The configured name.
        expected: larder_types::NodeId,
    },
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] larder_storage::log::ReadError),
    /// A replica set in the log does not decode.
    #[error("record {seq} holds a replica set that does not decode: {why}")]
    ReplicaSet {
        /// The record's number.
        seq: larder_types::SequenceNumber,
        /// What is wrong.
        why: String,
    },
    /// A rewind failed.
    #[error(transparent)]
    Rewind(#[from] larder_storage::rewind::RewindError),
    /// A snapshot is in place only in part.
    #[error(transparent)]
    Snapshot(#[from] larder_storage::snapshot::SnapshotError),
    /// Log and state at rest could not be read.
    #[error(transparent)]
    Store(#[from] larder_storage::StoreError),
    /// What a replica must remember beside its log cannot be kept.
    #[error("{}: what this replica has promised cannot be kept: {why}", path.display())]
    Standing {
        /// The data directory.
        path: PathBuf,
        /// What failed.
        why: String,
    },
    /// A thread or its runtime could not be started.
    #[error("start a thread of the replication: {0}")]
    Thread(#[source] std::io::Error),
}
