//! How a log is kept, and how state is folded from it. Synchronous: no async runtime, no network.
//!
//! - [`log`]: the durable log, the only thing that is fsynced for a write.
//! - [`row`], [`keys`], [`effect`]: the bytes of rows, of RocksDB's keys and of record bodies.
//! - [`state`]: the RocksDB database that is the fold of the log.
//! - [`snapshot`], [`rewind`], [`parted`]: how a replica catches up that the log alone cannot help,
//!   and what becomes of records that no master has.
//! - [`store`]: a shard's log and state, and the table of writes in flight between them; reads go
//!   through a [`View`], writes through a [`Txn`].

mod atomic_file;
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
pub mod parted;
#[cfg(feature = "state")]
mod peek;
#[cfg(feature = "state")]
pub mod rewind;
#[cfg(feature = "state")]
pub mod snapshot;
#[cfg(feature = "state")]
pub mod state;
#[cfg(feature = "state")]
pub mod store;
#[cfg(feature = "state")]
mod txn;
#[cfg(feature = "state")]
mod view;
#[cfg(feature = "state")]
mod whole_key;

pub use larder_types::Position;

pub use self::atomic_file::{AtomicFile, FileError};

#[cfg(feature = "state")]
pub use self::{
    log::{Batch, LogError, Recovered},
    peek::{Peek, peek},
    state::{Applied, Digest, ReplicasRecord, StateError},
    store::{
        AcceptError, Directory, DirectoryError, Durability, EpochError, Folder, OpenAs, Opened,
        RecordError, Store, StoreError, StoreOptions, StoreStats, Syncer, Visibility, Watermarks,
        Writer, open, open_as,
    },
    txn::{Touched, Txn, TxnError},
    view::{FieldValue, NamedField, Row, RowAndFields, RowMemory, ScanPosition, View, WholeRow},
    whole_key::WholeKeyError,
};
