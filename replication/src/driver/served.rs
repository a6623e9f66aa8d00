//! Snapshots that slaves may fetch. One outlives a break of the connection, so that the slave goes on
//! where it was: another snapshot would have other files.

use std::{collections::HashMap, time::Duration};

use larder_types::{NodeId, SequenceNumber};

use super::snapshot::{Given, Stream};
use crate::core::{Link, Session, Time};

/// How long a snapshot is kept for a slave that is gone. The log is kept from it on as long.
const KEPT: Duration = Duration::from_secs(300);

/// Snapshots that slaves may fetch, and those that wait for one that is being made.
#[derive(Default)]
pub(super) struct Served {
    by_link: HashMap<Link, Fetching>,
    /// What each slave was fetching when its connection broke, and until when it is kept.
    broken: HashMap<NodeId, (Given, Time)>,
    /// The one that is being made, by its number; it may be that nobody wants it any more.
    making: Option<u64>,
    /// How many were begun to be made.
    begun: u64,
    /// Those that the one under way is for.
    wanted: HashMap<Link, (NodeId, Session)>,
    /// A slave may ask before its snapshot is there.
    waiting: HashMap<Link, (Session, Stream)>,
}

/// What a slave may fetch.
struct Fetching {
    slave: NodeId,
    session: Session,
    given: Given,
}

impl Served {
    /// What this slave can be given without making another: what it was fetching before, else the
    /// newest that another fetches, or was. The log begins at `first`: it has to be there behind it.
    pub(super) fn any(&self, slave: &NodeId, first: SequenceNumber) -> Option<&Given> {
        let is_joined = |given: &&Given| given.goes_on_at() >= first;
        let before = self.broken.get(slave).map(|(given, _)| given).filter(is_joined);
        let broken = self.broken.values().map(|(given, _)| given);
        let fetched = self.by_link.values().map(|fetching| &fetching.given);
        let newest = || broken.chain(fetched).filter(is_joined).max_by_key(|it| it.goes_on_at());
        before.or_else(newest)
    }

    /// Notes that this slave is to have one. Returns the number of the one to be made; `None` where
    /// one is being made already, which then is for this slave too.
    pub(super) fn want(&mut self, link: Link, slave: NodeId, session: Session) -> Option<u64> {
        self.wanted.retain(|_, (of, _)| *of != slave);
        self.wanted.insert(link, (slave, session));
        if self.making.is_some() {
            return None;
        }
        self.begun += 1;
        self.making = Some(self.begun);
        self.making
    }

    /// Whom the one is for that has been made, or was not: nobody, where it was begun before all was
    /// cleared.
    pub(super) fn take_wanted(&mut self, number: u64) -> Vec<(Link, NodeId, Session)> {
        match self.making.take_if(|making| *making == number) {
            Some(_) => {
                self.wanted.drain().map(|(link, (of, session))| (link, of, session)).collect()
            }
            None => Vec::new(),
        }
    }

    /// Keeps for a while what was made for a slave whose connection broke meanwhile: it comes again.
    pub(super) fn keep(&mut self, slave: NodeId, given: Given, now: Time) {
        if let Given::State(_) = given {
            self.broken.insert(slave, (given, now + KEPT));
        }
    }

    /// Answers the stream of this slave, where it waits already.
    pub(super) fn add(
        &mut self,
        link: Link,
        slave: NodeId,
        session: Session,
        given: Given,
    ) -> Option<Stream> {
        self.broken.remove(&slave);
        self.by_link.insert(link, Fetching { slave, session, given });
        let (of, stream) = self.waiting.remove(&link)?;
        (of == session).then_some(stream)
    }

    /// Lets a slave wait whose snapshot is being made; false where none is.
    pub(super) fn wait(&mut self, link: Link, session: Session, stream: Stream) -> bool {
        let is_wanted = self.wanted.get(&link).is_some_and(|(_, of)| *of == session);
        if is_wanted {
            self.waiting.insert(link, (session, stream));
        }
        is_wanted
    }

    pub(super) fn of(&self, link: Link, session: Session) -> Option<&Given> {
        let fetching = self.by_link.get(&link).filter(|fetching| fetching.session == session);
        fetching.map(|fetching| &fetching.given)
    }

    /// The slave needs no snapshot any more.
    pub(super) fn forget(&mut self, link: Link, slave: &NodeId) {
        self.by_link.remove(&link);
        self.wanted.retain(|_, (of, _)| of != slave);
        self.waiting.remove(&link);
        self.broken.remove(slave);
    }

    /// The connection broke: what the slave was fetching is kept for a while, and so is what is being
    /// made for it once it is there.
    pub(super) fn broke(&mut self, link: Link, now: Time) {
        if let Some(Fetching { slave, given, .. }) = self.by_link.remove(&link) {
            self.keep(slave, given, now);
        }
        self.waiting.remove(&link);
    }

    /// Lets go of what has been kept for long enough, or for nothing: the log, which begins at
    /// `first`, is not there behind it.
    pub(super) fn expire(&mut self, now: Time, first: SequenceNumber) {
        self.broken.retain(|_, (given, until)| *until > now && given.goes_on_at() >= first);
    }

    /// Lets go of everything: of what is being made, too, which is of another state.
    pub(super) fn clear(&mut self) {
        *self = Self { begun: self.begun, ..Self::default() };
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::mpsc;

    use larder_storage::{
        Directory, Folder, OpenAs, Store, StoreOptions, Syncer, Writer, open_as,
        state::DatabaseOptions,
    };
    use tempfile::TempDir;
    use tokio::runtime::Builder;

    use super::*;

    const BREAK: Time = Time(1);
    const SESSION: Session = Session(1);

    /// A master's store.
    pub(in crate::driver) struct Master {
        writer: Writer,
        syncer: Syncer,
        folder: Folder,
        store: Store,
        directory: Directory,
        _root: TempDir,
    }

    impl Master {
        pub(in crate::driver) fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let directory = Directory::open(root.path()).unwrap();
            let options = StoreOptions::new(DatabaseOptions::new(8 << 20, 8 << 20));
            let role = OpenAs::Master { wall_ms: 1, epoch_id: 1 };
            let opened = open_as(&directory, options, role).unwrap();
            let (writer, syncer, folder) = (opened.writer, opened.syncer, opened.folder);
            Self { writer, syncer, folder, store: opened.store, directory, _root: root }
        }

        /// A snapshot behind one more record.
        pub(in crate::driver) fn snapshot(&mut self) -> Given {
            let mut txn = self.writer.transaction(1);
            txn.put_string(b"key", b"value", None).unwrap();
            txn.commit().unwrap();
            self.writer.seal();
            self.syncer.commit(self.writer.take_batch().unwrap()).unwrap();
            while self.folder.fold_one().unwrap().is_continue() {}
            let id = self.writer.last().seq.as_u64();
            Given::state(self.store.snapshot(&self.directory, id).unwrap())
        }

        /// How many there are on disk.
        fn on_disk(&self) -> usize {
            std::fs::read_dir(self.directory.snapshots()).unwrap().count()
        }
    }

    fn slave(number: u64) -> (Link, NodeId) {
        (Link(number), NodeId::new(&format!("slave-{number}")).unwrap())
    }

    fn begins(served: &Served, slave: &NodeId, first: SequenceNumber) -> Option<SequenceNumber> {
        served.any(slave, first).map(Given::goes_on_at)
    }

    #[test]
    fn what_a_slave_was_fetching_is_found_again_whatever_others_fetched_meanwhile() {
        let (mut master, mut served) = (Master::new(), Served::default());
        let ((link, one), (other_link, other)) = (slave(1), slave(2));
        let (older, newer) = (master.snapshot(), master.snapshot());
        let (at_older, at_newer) = (older.goes_on_at(), newer.goes_on_at());
        served.add(link, one.clone(), SESSION, older);
        served.add(other_link, other.clone(), SESSION, newer);
        served.broke(link, BREAK);
        served.broke(other_link, BREAK);
        let first = SequenceNumber::FIRST;
        assert_eq!(begins(&served, &one, first), Some(at_older));
        assert_eq!(begins(&served, &other, first), Some(at_newer));
        assert_eq!(
            begins(&served, &one, at_newer),
            Some(at_newer),
            "the log begins behind its own"
        );
        assert_eq!(begins(&served, &one, at_newer.next()), None);
        // Another is given the same, and done with it before the first is back.
        let (third_link, third) = slave(3);
        assert_eq!(begins(&served, &third, first), Some(at_newer), "it fetched none before");
        let shared = served.any(&one, first).unwrap().clone();
        served.add(third_link, third.clone(), SESSION, shared);
        served.forget(third_link, &third);
        assert_eq!(begins(&served, &one, first), Some(at_older));
    }

    #[test]
    fn one_is_made_at_a_time_though_whoever_wanted_it_goes_on_without_it() {
        let mut served = Served::default();
        let ((link, one), (other_link, other)) = (slave(1), slave(2));
        let number = served.want(link, one.clone(), SESSION).expect("it is the first");
        served.forget(link, &one);
        assert_eq!(served.want(other_link, other.clone(), SESSION), None, "one is being made");
        assert_eq!(served.take_wanted(number), [(other_link, other, SESSION)]);
        assert!(served.want(link, one, SESSION).is_some_and(|next| next > number));
    }

    #[test]
    fn what_is_made_of_a_state_that_is_replaced_is_given_to_nobody() {
        let mut served = Served::default();
        let (link, one) = slave(1);
        let number = served.want(link, one.clone(), SESSION).expect("it is the first");
        served.clear();
        let next = served.want(link, one.clone(), SESSION).expect("the other is of no use");
        assert_eq!(served.take_wanted(number), []);
        assert_eq!(served.take_wanted(next), [(link, one, SESSION)]);
    }

    #[test]
    fn a_slave_that_comes_again_while_its_snapshot_is_made_is_given_that_one_and_once() {
        let mut served = Served::default();
        let ((link, one), (again, _)) = (slave(1), slave(2));
        let number = served.want(link, one.clone(), SESSION).expect("it is the first");
        served.broke(link, BREAK);
        let session = Session(2);
        assert_eq!(served.want(again, one.clone(), session), None, "no second one beside it");
        assert_eq!(served.take_wanted(number), [(again, one, session)]);
    }

    #[test]
    fn files_of_a_snapshot_are_removed_beside_the_task_that_lets_go_of_it() {
        let (mut master, mut served) = (Master::new(), Served::default());
        let (link, one) = slave(1);
        served.add(link, one.clone(), SESSION, master.snapshot());
        let runtime = Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let (go_on, waits) = mpsc::channel::<()>();
        // The thread that may block is kept busy, so that it is seen who removes them.
        let busy = runtime.spawn_blocking(move || waits.recv());
        runtime.block_on(async {
            served.forget(link, &one);
            assert_eq!(master.on_disk(), 1);
            drop(go_on);
            assert!(busy.await.unwrap().is_err(), "its other end is dropped");
            // Behind the removal: there is one such thread.
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            assert_eq!(master.on_disk(), 0);
        });
    }

    #[test]
    fn nothing_of_a_snapshot_is_left_once_its_slave_goes_on_stays_away_or_could_not_go_on() {
        let (mut master, mut served) = (Master::new(), Served::default());
        let (link, one) = slave(1);
        let first = SequenceNumber::FIRST;

        served.add(link, one.clone(), SESSION, master.snapshot());
        served.broke(link, BREAK);
        let (again, _) = slave(2);
        let given = served.any(&one, first).unwrap().clone();
        served.add(again, one.clone(), SESSION, given);
        assert_eq!(master.on_disk(), 1);
        served.forget(again, &one);
        assert_eq!(master.on_disk(), 0);

        served.add(link, one.clone(), SESSION, master.snapshot());
        served.broke(link, BREAK);
        let end = BREAK + KEPT;
        served.expire(end - Duration::from_micros(1), first);
        assert_eq!(master.on_disk(), 1);
        served.expire(end, first);
        assert_eq!(master.on_disk(), 0);

        let given = master.snapshot();
        let at = given.goes_on_at();
        served.add(link, one, SESSION, given);
        served.broke(link, BREAK);
        served.expire(BREAK, at);
        assert_eq!(master.on_disk(), 1);
        served.expire(BREAK, at.next());
        assert_eq!(master.on_disk(), 0);
    }
}
