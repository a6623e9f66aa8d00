//! Taking back what parted from the master's history: rewind, not resync.
//!
//! Nobody has log and state open meanwhile. In this order, each step durable before the next:
//!
//! 1. [`Rewind::mark`]: the parted records that the log has are exported, and a marker names the
//!    keys that those of them touched which the state has folded.
//! 2. [`Rewind::cut`]: the log ends before the parting point.
//! 3. [`Rewind::next_keys`], [`Rewind::apply`]: each touched key is replaced by what the master has,
//!    absence included. With the last one the state stands at the parting point.
//! 4. The store can be opened and follows. [`end`], once the records up to which keys were fetched
//!    have been applied, removes the marker.
//!
//! Beside the keys that records touched, compactions have: those dropped what had expired by the
//! parted records' time, while the master may have prolonged it by its own. A string is put whole by
//! that; of a hash only its row is. So the master is asked which older hashes it has changed since
//! the parting, and those of them that have expired here are fetched as well.
//!
//! After a crash anywhere the marker is found again, and fetching begins anew: putting a key whole
//! is idempotent, and so is applying records to it that it already has the effects of.

mod marker;
mod scan;

use std::collections::HashSet;

use larder_types::SequenceNumber;

pub use marker::{Marker, Scope};

use self::scan::Scan;
use crate::{
    Applied, Directory, FileError, LogError, StateError, WholeKeyError,
    fs::RealFs,
    log,
    parted::PartedError,
    row::{RowRef, RowValue},
    state::{Database, DatabaseOptions, FoldBatch},
    whole_key::{Reply, WholeKey, keys, request, request_changed, whole_keys},
};

/// Bytes of keys and rows after which a batch is written.
const BATCH_BYTES: usize = 4 << 20;

/// Why a rewind did not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewindError {
    /// The marker could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The records could not be exported.
    #[error(transparent)]
    Parted(#[from] PartedError),
    /// The log could not be read or cut.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state could not be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The keys received are not what was asked for.
    #[error(transparent)]
    Keys(#[from] WholeKeyError),
    /// What was received is not what was asked for: another key, or the answer to another request.
    #[error("the keys that were fetched are not those that were asked for")]
    OtherKey,
    /// The log ends before the parting point.
    #[error("the log ends before record {parting}: nothing has parted there")]
    NothingParted {
        /// The first record that is said to have parted.
        parting: SequenceNumber,
    },
    /// There is no log.
    #[error("there is no log to rewind")]
    NoLog,
    /// Keys do not suffice.
    #[error("what parted cannot be taken back key by key: a snapshot is needed")]
    SnapshotNeeded,
    /// A key in the marker does not read back.
    #[error("a key in the marker of the rewind is damaged: a snapshot is needed")]
    DamagedKey,
}

impl RewindError {
    /// Whether only the keys are at fault that another node gave, or keys do not suffice: another
    /// reply helps, or a snapshot, and the disk of this node has not failed.
    pub const fn is_of_keys(&self) -> bool {
        match self {
            Self::Keys(error) => {
                matches!(error, WholeKeyError::Malformed { .. } | WholeKeyError::Row(_))
            }
            Self::OtherKey | Self::SnapshotNeeded => true,
            _ => false,
        }
    }
}

/// A rewind under way.
pub struct Rewind {
    marker: Marker,
    keys: Vec<Vec<u8>>,
    /// How many of the keys have been fetched since this process took the rewind up.
    fetched: usize,
    /// Whether the master has told which hashes it has changed.
    told_changed: bool,
    options: DatabaseOptions,
    /// Open while keys are applied.
    database: Option<Database>,
}

impl Rewind {
    /// The rewind whose marker is in the directory; none where a snapshot has been decided for, which
    /// is put in place first.
    ///
    /// # Errors
    /// When the marker is damaged, or the snapshot cannot be put in place.
    pub fn pending(
        directory: &Directory,
        options: &DatabaseOptions,
    ) -> Result<Option<Self>, RewindError> {
        crate::snapshot::finish_install(directory)?;
        let Some(marker) = Marker::read(directory)? else { return Ok(None) };
        let keys = marker.keys().ok_or(RewindError::DamagedKey)?;
        let options = options.clone();
        Ok(Some(Self { marker, keys, fetched: 0, told_changed: false, options, database: None }))
    }

    /// Exports the records from `parting` on, and marks what has to be taken back. Where a marker
    /// stands already, its keys are taken over; one of the same parting whose log is not known to be
    /// cut is gone on with as it stands, because of what it says some may be cut already. `at_ms` is
    /// the wall clock.
    ///
    /// # Errors
    /// When the log holds nothing from `parting` on, or something cannot be read or written.
    pub fn mark(
        directory: &Directory,
        options: &DatabaseOptions,
        parting: SequenceNumber,
        at_ms: u64,
    ) -> Result<Self, RewindError> {
        let standing = match Self::pending(directory, options)? {
            Some(same) if same.marker.parting == parting && !same.marker.cut => return Ok(same),
            standing => standing,
        };
        let persisted = Database::open(&directory.state(), options)?.persisted()?;
        // While keys are still to be fetched the state holds records that its log does not.
        let base = match &standing {
            Some(rewind) if !rewind.marker.settled => rewind.marker.settle_at.map(Applied::from),
            _ => persisted,
        };
        let scan = Scan::of(directory, parting, base.map(|at| at.position.seq), at_ms)?;
        let mut touched = scan.touched;
        let mut scope = scan.scope;
        let mut changed_from = parting;
        let mut dropped_upto_ms = persisted.map_or(0, |at| at.hybrid.millis());
        if let Some(standing) = standing {
            changed_from = changed_from.min(standing.marker.changed_from);
            dropped_upto_ms = dropped_upto_ms.max(standing.marker.dropped_upto_ms);
            touched.extend(standing.keys);
            scope = match (scope, standing.marker.scope) {
                (Scope::Everything, _) | (_, Scope::Everything) => Scope::Everything,
                (Scope::Log, Scope::Log) => Scope::Log,
                _ => Scope::Keys,
            };
        }
        let settle_at = match base {
            Some(base) if base.position.seq >= parting => scan.before,
            base => base,
        };
        let mut marker = Marker {
            parting,
            scope,
            cut: false,
            settled: scope == Scope::Log,
            exported: scan.exported,
            settle_at: settle_at.map(Into::into),
            changed_from,
            dropped_upto_ms,
            keys: Vec::new(),
        };
        marker.set_keys(touched.iter());
        marker.write(directory)?;
        let keys = touched.into_iter().collect();
        let options = options.clone();
        Ok(Self { marker, keys, fetched: 0, told_changed: false, options, database: None })
    }

    /// What has to be taken back, and how far that is.
    pub const fn marker(&self) -> &Marker {
        &self.marker
    }

    /// Cuts the log before the parting point. What is cut is in the export, and in the quarantine
    /// as it was. Nothing is done where it has been cut.
    ///
    /// # Errors
    /// When the log cannot be cut; [`RewindError::SnapshotNeeded`] where it is of no use any more.
    pub fn cut(&mut self, directory: &Directory) -> Result<(), RewindError> {
        let before = self.marker.parting.prev().filter(|_| self.marker.scope != Scope::Everything);
        let before = before.ok_or(RewindError::SnapshotNeeded)?;
        if !self.marker.cut {
            log::cut(&RealFs, &directory.log(), &directory.quarantine(), before)?;
            self.marker.cut = true;
            self.marker.write(directory)?;
        }
        Ok(())
    }

    /// The next touched keys to fetch, encoded, as many as fit into `bytes_max`; from the first on
    /// where `restart`: then what was fetched before counts for nothing. `None` once all have been
    /// fetched and applied: the state stands at a record of the log, and the store can be opened.
    ///
    /// # Errors
    /// When the state fails; [`RewindError::SnapshotNeeded`] where keys do not suffice.
    pub fn next_keys(
        &mut self,
        directory: &Directory,
        restart: bool,
        bytes_max: usize,
    ) -> Result<Option<Vec<u8>>, RewindError> {
        if self.marker.scope == Scope::Everything {
            return Err(RewindError::SnapshotNeeded);
        }
        if restart {
            self.restart(directory)?;
        }
        if !self.marker.settled {
            if !self.told_changed {
                return Ok(Some(request_changed(self.marker.changed_from)));
            }
            let left = &self.keys[self.fetched..];
            if !left.is_empty() {
                return Ok(Some(request(left.iter().map(Vec::as_slice), bytes_max)));
            }
        }
        self.settle(directory)?;
        Ok(None)
    }

    fn restart(&mut self, directory: &Directory) -> Result<(), RewindError> {
        (self.fetched, self.told_changed) = (0, false);
        if self.marker.settled && self.marker.scope == Scope::Keys {
            // The state has gone on from where it was settled, along the log; the hashes that had
            // been changed by then are among the keys.
            let persisted = self.database(directory)?.persisted()?;
            if let Some(at) = persisted {
                self.marker.changed_from = self.marker.changed_from.max(at.position.seq.next());
            }
            self.marker.settle_at = persisted.map(Into::into);
            self.marker.settled = false;
            self.marker.write(directory)?;
        }
        Ok(())
    }

    /// Puts fetched keys, which the master has encoded, in place of what the state has of them.
    ///
    /// # Errors
    /// When they are malformed or not those asked for: those from there on, and perhaps some before,
    /// are asked for again. When the state fails.
    pub fn apply(&mut self, directory: &Directory, reply: &[u8]) -> Result<(), RewindError> {
        let reply = match Reply::of(reply)? {
            // It holds one key at least: who asks again for nothing that came would do so for ever.
            Reply::WholeKeys(reply) if self.told_changed && !reply.is_empty() => reply,
            Reply::ChangedHashes(names) if !self.told_changed => {
                return self.add_expired(directory, names);
            }
            _ => return Err(RewindError::OtherKey),
        };
        let applied = self.database(directory)?.applied()?;
        let Some(applied) = applied else { return Err(RewindError::SnapshotNeeded) };
        let (mut batch, mut bytes, mut fetched) = (FoldBatch::new(), 0, self.fetched);
        for whole in whole_keys(reply) {
            let whole = whole?;
            if self.keys.get(fetched).is_none_or(|expected| *expected != whole.key) {
                return Err(RewindError::OtherKey);
            }
            bytes += replace(&mut batch, &whole)?;
            fetched += 1;
            if bytes >= BATCH_BYTES {
                self.database(directory)?.fold(std::mem::take(&mut batch), applied)?;
                (bytes, self.fetched) = (0, fetched);
            }
        }
        self.database(directory)?.fold(batch, applied)?;
        self.fetched = fetched;
        Ok(())
    }

    /// Of the hashes that the master has changed, takes those that compactions may have dropped here
    /// in whole or in part.
    fn add_expired(&mut self, directory: &Directory, names: &[u8]) -> Result<(), RewindError> {
        let known: HashSet<Vec<u8>> = self.keys.iter().cloned().collect();
        let upto_ms = self.marker.dropped_upto_ms;
        let mut added = Vec::new();
        for name in keys(names) {
            let name = name?;
            let row = self.database(directory)?.row(name)?;
            let kept = match &row {
                Some(row) => !RowRef::parse(row).map_err(StateError::from)?.is_expired(upto_ms),
                None => false,
            };
            if !kept && !known.contains(name) {
                added.push(name.to_vec());
            }
        }
        if !added.is_empty() {
            self.keys.append(&mut added);
            self.marker.set_keys(self.keys.iter());
            self.marker.write(directory)?;
        }
        self.told_changed = true;
        Ok(())
    }

    /// With every key in place: the state stands at `settle_at` from now on.
    fn settle(&mut self, directory: &Directory) -> Result<(), RewindError> {
        if !self.marker.settled {
            let at = self.marker.settle_at.ok_or(RewindError::SnapshotNeeded)?;
            let database = self.database(directory)?;
            let mut batch = FoldBatch::new();
            for record in database.replicas()? {
                if record.position.seq > at.position.seq {
                    batch.delete_replicas(record.position.seq);
                }
            }
            database.fold(batch, at.into())?;
            database.flush()?;
            self.marker.settled = true;
            self.marker.write(directory)?;
        }
        self.database = None;
        Ok(())
    }

    fn database(&mut self, directory: &Directory) -> Result<&Database, RewindError> {
        if self.database.is_none() {
            self.database = Some(Database::open(&directory.state(), &self.options)?);
        }
        Ok(self.database.as_ref().expect("it was just opened"))
    }
}

/// Adds to `batch` what puts a whole key in place of what the state has; answers its bytes. Fields
/// that the state has of the same hash and the master has not are deleted; those of another hash
/// are dead by the row.
fn replace(batch: &mut FoldBatch, whole: &WholeKey<'_>) -> Result<usize, RewindError> {
    let Some(row) = whole.row else {
        batch.delete_row(whole.key);
        return Ok(whole.key.len());
    };
    batch.put_row(whole.key, row);
    let mut bytes = whole.key.len() + row.len();
    if let RowValue::Hash { generation, .. } =
        RowRef::parse(row).map_err(WholeKeyError::from)?.value()
    {
        batch.delete_elements(whole.key, generation);
        for (name, value) in &whole.fields {
            batch.put_element(whole.key, generation, name, value);
            bytes += whole.key.len() + name.len() + value.len();
        }
    }
    Ok(bytes)
}

/// The rewind is over: the state has applied every record up to which keys were fetched. Removes
/// the marker.
///
/// # Errors
/// When it cannot be removed.
pub fn end(directory: &Directory) -> Result<(), FileError> {
    Marker::remove(directory)
}

/// Whether the store may be opened: no rewind, or one that is far enough.
pub(crate) fn is_whole(directory: &Directory) -> Result<bool, FileError> {
    Ok(Marker::read(directory)?.is_none_or(|marker| marker.is_whole()))
}
