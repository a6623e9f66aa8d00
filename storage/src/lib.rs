//! How a log is kept, and how state is folded from it. Synchronous: no async runtime, no network.
//!
//! - [`log`]: the durable log, the only thing that is fsynced for a write.
//! - [`row`], [`keys`], [`effect`]: the bytes of rows, of RocksDB's keys and of record bodies.
//! - [`state`]: the RocksDB database that is the fold of the log.
//! - [`store`]: a shard's log and state, and the table of writes in flight between them; reads go
//!   through a [`View`], writes through a [`Txn`].

pub mod effect;
pub mod fs;
pub mod keys;
pub mod log;
pub mod row;

#[cfg(feature = "state")]
mod cache;
#[cfg(feature = "state")]
mod inflight;
#[cfg(feature = "state")]
pub mod state;
#[cfg(feature = "state")]
pub mod store;
#[cfg(feature = "state")]
mod txn;
#[cfg(feature = "state")]
mod view;

pub use larder_types::Position;

#[cfg(feature = "state")]
pub use self::{
    log::{Batch, LogError, Recovered},
    state::{Applied, StateError},
    store::{
        Directory, DirectoryError, Durability, Folder, Store, StoreError, StoreOptions, StoreStats,
        Syncer, Watermarks, Writer, open,
    },
    txn::{Touched, Txn, TxnError},
    view::{FieldValue, NamedField, Row, RowAndFields, ScanPosition, View},
};
