//! What the replication of a shard does with its writer, its store and its directory.

use std::{borrow::Cow, time::Instant};

use larder_storage::{
    AcceptError, EpochError,
    log::{AppendError, ReserveError},
    store::Refusal,
};
use larder_types::{Epoch, LogId, Position};

use super::{combine::Desk, pause::Ending, threads::Shard};
use crate::clock::wall_ms;

/// Why something was not done with the shard's writer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// The frames do not continue the log.
    #[error(transparent)]
    Accept(#[from] AcceptError),
    /// The record was too large.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The state is being opened again, or the shard ends.
    #[error("the shard's store is not open")]
    Closed,
    /// The epoch does not follow the log's last one.
    #[error(transparent)]
    Epoch(#[from] EpochError),
    /// The disk is nearly full.
    #[error(transparent)]
    Full(ReserveError),
    /// So much is not folded yet that more must wait.
    #[error("the shard's state is behind its log; try again")]
    NoRoom,
}

impl Shard {
    /// Takes whole frames of the master's log. They are durable when [`super::Happened::Durable`]
    /// says so.
    ///
    /// # Errors
    /// [`OrderError::NoRoom`] while the fold is behind, [`OrderError::Full`] while the disk is nearly
    /// full and no epoch begins: both pass by themselves. [`OrderError::Accept`] for frames that do not
    /// continue this log.
    pub fn accept(&self, frames: &[u8]) -> Result<Position, OrderError> {
        self.with_writer(|desk| {
            if !desk.writer.has_room_to_accept() {
                return Err(OrderError::NoRoom);
            }
            if let Err(Refusal::Reserve(full)) = desk.writer.admit()
                && !desk.writer.begins_epoch(frames)
            {
                return Err(OrderError::Full(full));
            }
            // What they touch is not looked at: a transaction that watches any key begins again.
            self.combiner.watches().touch_every();
            Ok(desk.writer.accept(frames)?)
        })
    }

    /// Begins an epoch: from here on this node writes the log.
    ///
    /// # Errors
    /// When it does not follow the last one.
    pub fn begin_epoch(&self, epoch: Epoch) -> Result<Position, OrderError> {
        self.with_writer(|desk| Ok(desk.writer.begin_epoch(epoch, wall_ms())?))
    }

    /// Appends a replica set.
    ///
    /// # Errors
    /// When it is larger than a record.
    pub fn append_replicas(&self, body: &[u8]) -> Result<Position, OrderError> {
        self.with_writer(|desk| Ok(desk.writer.append_replicas(body, wall_ms())?))
    }

    /// Lets clients write, or says what their writes are refused with from now on. When this returns,
    /// every write that was let in before has its place in the log.
    ///
    /// # Errors
    /// When the store is not open.
    pub fn admit_clients(&self, refusal: Option<Cow<'static, str>>) -> Result<(), OrderError> {
        self.with_writer(|desk| {
            desk.closed_to_clients = refusal;
            Ok(())
        })
    }

    fn with_writer<T>(
        &self,
        run: impl FnOnce(&mut Desk) -> Result<T, OrderError>,
    ) -> Result<T, OrderError> {
        self.combiner.with_desk(run).unwrap_or(Err(OrderError::Closed))
    }

    /// Answers what waited until readers see the log up to this record.
    pub fn release(&self, visible: u64) {
        if let Some(awaiting) = &self.awaiting {
            awaiting.release(visible);
        }
    }

    /// Answers what has waited too long for other nodes.
    pub fn expire(&self) {
        if let Some(awaiting) = &self.awaiting {
            awaiting.expire(Instant::now());
        }
    }

    /// Answers everything that waits for other nodes: it can be committed here no more.
    pub fn give_up(&self) {
        if let Some(awaiting) = &self.awaiting {
            awaiting.give_up();
        }
    }

    /// Whether the shard ends: nothing is worth waiting for.
    pub fn is_ending(&self) -> bool {
        self.pause.is_stopped()
    }

    /// Closes the store and refuses work with `why`, so that the directory can be worked on. Blocks
    /// until what was evaluated is on disk and the database is closed.
    ///
    /// # Errors
    /// When the shard ends, or is closed already.
    pub fn close_store(&self, why: Cow<'static, str>) -> Result<(), Ending> {
        self.pause.ask()?;
        self.combiner.refuse_all(why);
        self.give_up();
        self.pause.wait_until_closed()?;
        // What the sync thread was at has come to wait since; what comes after may be another history.
        self.give_up();
        Ok(())
    }

    /// Opens the store again, as a follower that is closed to clients; with this log where the
    /// directory has none. Blocks until that is done.
    ///
    /// # Errors
    /// When the shard ends: also when the store cannot be opened, of which the process is told.
    pub fn open_store(&self, log: Option<LogId>) -> Result<(), Ending> {
        self.pause.open(log)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use larder_storage::{Directory, StoreOptions, Visibility, state::DatabaseOptions};
    use larder_types::{AckLevel, SequenceNumber};

    use super::*;
    use crate::shard::{Replicated, Task, Threads, Work};

    const DEADLINE: Duration = Duration::from_secs(60);

    fn options() -> StoreOptions {
        let mut options = StoreOptions::new(DatabaseOptions::new(8 << 20, 8 << 20));
        (options.reserve_bytes, options.visibility) = (0, Visibility::Committed);
        options
    }

    fn opened(root: &std::path::Path, options: StoreOptions) -> (Arc<Shard>, Threads) {
        let directory = Arc::new(Directory::open(root).unwrap());
        let replicated = Replicated {
            level: AckLevel::Majority,
            ack_timeout: Duration::from_secs(600),
            tell: Arc::new(|_| ()),
            new_log: Some(LogId::from_bytes([7; 16])),
        };
        let failed = |error| panic!("{error}");
        Shard::start(directory, options, Some(replicated), failed).unwrap()
    }

    fn started(root: &std::path::Path) -> (Arc<Shard>, Threads) {
        let (shard, threads) = opened(root, options());
        shard.begin_epoch(Epoch { term: 1, run: 0, id: 1 }).unwrap();
        shard.admit_clients(None).unwrap();
        (shard, threads)
    }

    /// Its directory can be opened again.
    fn end(shard: Arc<Shard>, threads: Threads) {
        threads.stop();
        shard.store().close();
    }

    /// Begins an epoch of this term, which is durable when it returns.
    fn lead(shard: &Shard, term: u32) -> SequenceNumber {
        let Position { seq, .. } = shard.begin_epoch(Epoch { term, run: 0, id: 1 }).unwrap();
        until("an epoch", || shard.store().watermarks().durable >= seq.as_u64());
        seq
    }

    fn until(what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < DEADLINE, "{what} did not come");
            std::thread::yield_now();
        }
    }

    /// The next frames that a slave lacks, as many as fit into `bytes_max`.
    fn next_frames(master: &Shard, slave: &Shard, bytes_max: usize) -> Option<Vec<u8>> {
        let next = slave.store().watermarks().appended + 1;
        let mut cursor = master.store().log().read(SequenceNumber::new(next).unwrap()).unwrap();
        cursor.next_frames(bytes_max).unwrap().map(|frames| frames.bytes.to_vec())
    }

    fn follow(master: &Shard, slave: &Shard) {
        while let Some(frames) = next_frames(master, slave, 4 << 10) {
            slave.accept(&frames).unwrap();
        }
    }

    #[test]
    fn records_that_a_commit_waits_for_are_taken_however_much_was_replayed() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let options =
            StoreOptions { layer_bytes: 4 << 10, unapplied_bytes_max: 16 << 10, ..options() };
        let (master, at_master) = opened(one.path(), options.clone());
        let (slave, at_slave) = opened(two.path(), options.clone());
        lead(&master, 1);
        master.admit_clients(None).unwrap();
        let is_full =
            |shard: &Shard| shard.store().stats().unapplied_bytes > options.unapplied_bytes_max;
        while !is_full(&master) {
            drop(master.submit(Work::sets(&[("key", &"v".repeat(500))]), None));
            master.commit_staged();
        }
        // Their threads end, with nothing of it folded: nobody has said that it is committed.
        end(master, at_master);
        let (master, at_master) = opened(one.path(), options.clone());
        follow(&master, &slave);
        end(slave, at_slave);
        let (slave, at_slave) = opened(two.path(), options.clone());
        assert!(is_full(&master) && is_full(&slave), "all of it was replayed");
        let begun = lead(&master, 2);
        follow(&master, &slave);
        for shard in [&master, &slave] {
            until("the last record", || shard.store().watermarks().durable == begun.as_u64());
            shard.store().commit(begun);
            until("room", || !is_full(shard));
        }
        end(master, at_master);
        end(slave, at_slave);
    }

    #[test]
    fn an_epoch_begins_at_a_slave_whose_disk_is_nearly_full_and_nothing_more() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (master, at_master) = started(one.path());
        let (slave, at_slave) =
            opened(two.path(), StoreOptions { reserve_bytes: u64::MAX, ..options() });
        drop(master.submit(Work::sets(&[("key", "value")]), None));
        master.commit_staged();
        until("a write", || master.store().watermarks().durable == 2);
        let accept = || slave.accept(&next_frames(&master, &slave, 1).unwrap());
        accept().unwrap();
        let refused = accept();
        assert!(matches!(refused, Err(OrderError::Full(_))), "{refused:?}");
        end(master, at_master);
        end(slave, at_slave);
    }

    #[tokio::test]
    async fn whoever_watches_a_key_waits_for_what_was_written_to_it_before() {
        let root = tempfile::tempdir().unwrap();
        let (shard, threads) = started(root.path());
        let written = shard.submit(Work::sets(&[("key", "value")]), None);
        let (keys, touched) = (vec![Arc::from(&b"key"[..])], Arc::default());
        let watching = Task::Watch { keys, touched, present: Vec::new() };
        let mut watched = shard.submit(Work::of(watching), None);
        shard.commit_staged();
        let ended = shard.submit(Work::of(Task::Seal), None);
        shard.commit_staged();
        // It is on the disk, and what is on the disk has been answered.
        let durable = ended.await.unwrap();
        assert!(
            durable.refusal.is_none() && watched.try_recv().is_err(),
            "it may yet be taken back"
        );
        let seq = shard.store().watermarks().durable;
        shard.store().commit(SequenceNumber::new(seq).unwrap());
        shard.release(seq);
        assert!(watched.await.unwrap().refusal.is_none());
        assert!(written.await.unwrap().refusal.is_none());
        threads.stop();
    }

    #[test]
    fn a_write_that_reaches_the_disk_while_the_store_is_closed_is_answered_before_that_is_over() {
        let root = tempfile::tempdir().unwrap();
        let (shard, threads) = started(root.path());
        // It is not committed before the store is closed.
        let mut answer = shard.submit(Work::sets(&[("key", "value")]), None);
        shard.close_store("LOADING this log parted".into()).unwrap();
        let work = answer.try_recv().expect("what comes next is of another history");
        assert!(work.refusal.is_some_and(|why| why.starts_with("UNDECIDED ")));
        threads.stop();
    }
}
