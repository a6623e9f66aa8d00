//! Remembered places of scans that stopped within a unit.
//!
//! They live in a table of the process, not of a session or a node: a cursor is a hint that may be
//! lost at any time, by a restart or because others displace it, and SCAN leaves nothing out without
//! it. But a scan that is always displaced begins again and again, so nobody may displace
//! everybody's places: whoever has most loses their own, and a scan has two places, however long it
//! is.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::LazyLock,
};

use larder_types::UNITS;
use parking_lot::Mutex;
use rand::Rng;
use tokio::task;

/// Places remembered at most.
const PLACES_MAX: usize = 4_096;
/// Bytes that the remembered places may hold.
const PLACES_BYTES_MAX: usize = 16 << 20;
/// Low bits of a cursor, which name the unit.
const UNIT_BITS: u32 = UNITS.trailing_zeros();
/// Ids have so many bits that a cursor keeps below 2^53, because some clients hold it as a double.
const ID_END: u64 = 1 << (53 - UNIT_BITS);

static CURSORS: LazyLock<Mutex<Cursors>> = LazyLock::new(|| {
    // A random first id: a cursor from before a restart must not be taken for one from after it.
    Mutex::new(Cursors::starting_at(rand::rng().random_range(1..ID_END / 2)))
});

/// A cursor that goes on behind `after`, a key of `unit`, or a field of the hash `owner` in it, for
/// a scan that came here by the cursor `from`.
pub(in crate::command) fn remember(
    from: u64,
    unit: u16,
    owner: Option<&[u8]>,
    after: &[u8],
) -> u64 {
    let place = Place::new(task::try_id(), unit, owner, after);
    CURSORS.lock().remember(from, place)
}

/// The key, or the field of the hash `owner`, behind which `cursor` goes on; `None` for the start
/// of the unit, or of the hash.
pub(in crate::command) fn recall(cursor: u64, owner: Option<&[u8]>) -> Option<Box<[u8]>> {
    CURSORS.lock().find(cursor, owner).map(|place| place.after.clone())
}

/// Forgets the places of a scan that has got from `cursor` beyond what they lie in, its unit or the
/// hash `owner`: it needs none there any more.
pub(in crate::command) fn leave(cursor: u64, owner: Option<&[u8]>) {
    CURSORS.lock().leave(cursor, owner);
}

/// The unit that `cursor` goes on in.
pub(super) const fn unit_of(cursor: u64) -> u16 {
    (cursor % UNITS as u64) as u16
}

/// Who scans: a connection is a task of its own. Scans outside of one, as those of transactions on
/// the shard's writer, have one share together.
type Client = Option<task::Id>;

struct Place {
    client: Client,
    unit: u16,
    owner: Option<Box<[u8]>>,
    after: Box<[u8]>,
    /// The scan's place before this one, kept for a client that asks for a page twice.
    before: Option<u64>,
}

impl Place {
    fn new(client: Client, unit: u16, owner: Option<&[u8]>, after: &[u8]) -> Self {
        Self { client, unit, owner: owner.map(Box::from), after: Box::from(after), before: None }
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.owner.as_ref().map_or(0, |owner| owner.len()) + self.after.len()
    }
}

struct Cursors {
    places: HashMap<u64, Place>,
    /// The ids of each client's places. Ids grow: the least is the oldest.
    held: HashMap<Client, BTreeSet<u64>>,
    /// For each client how many places it has, and the oldest. The last of these is displaced first:
    /// the oldest of whoever has most, and among equals the oldest of all.
    ranks: BTreeSet<(usize, Reverse<u64>)>,
    next_id: u64,
    bytes: usize,
}

impl Cursors {
    fn starting_at(first_id: u64) -> Self {
        Self {
            places: HashMap::new(),
            held: HashMap::new(),
            ranks: BTreeSet::new(),
            next_id: first_id,
            bytes: 0,
        }
    }

    fn remember(&mut self, from: u64, mut place: Place) -> u64 {
        if self.next_id >= ID_END {
            *self = Self::starting_at(1);
        }
        if self.find(from, place.owner.as_deref()).is_some() {
            let before = id_of(from);
            place.before = Some(before);
            let passed = self.places.get_mut(&before).and_then(|place| place.before.take());
            if let Some(passed) = passed {
                self.forget(passed);
            }
        }
        let (id, client) = (self.next_id, place.client);
        let cursor = id << UNIT_BITS | u64::from(place.unit);
        self.next_id += 1;
        self.bytes += place.bytes();
        self.places.insert(id, place);
        self.change_held(client, |ids| ids.insert(id));
        while self.places.len() > PLACES_MAX || self.bytes > PLACES_BYTES_MAX {
            let Some(&(_, Reverse(oldest))) = self.ranks.last() else { break };
            self.forget(oldest);
        }
        cursor
    }

    fn find(&self, cursor: u64, owner: Option<&[u8]>) -> Option<&Place> {
        let place = self.places.get(&id_of(cursor))?;
        (place.unit == unit_of(cursor) && place.owner.as_deref() == owner).then_some(place)
    }

    fn leave(&mut self, cursor: u64, owner: Option<&[u8]>) {
        let Some(place) = self.find(cursor, owner) else { return };
        let before = place.before;
        self.forget(id_of(cursor));
        if let Some(before) = before {
            self.forget(before);
        }
    }

    fn forget(&mut self, id: u64) {
        let Some(place) = self.places.remove(&id) else { return };
        self.bytes -= place.bytes();
        self.change_held(place.client, |ids| ids.remove(&id));
    }

    fn change_held(&mut self, client: Client, change: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        let ids = self.held.entry(client).or_default();
        if let Some(rank) = rank(ids) {
            self.ranks.remove(&rank);
        }
        change(ids);
        match rank(ids) {
            Some(rank) => {
                self.ranks.insert(rank);
            }
            None => {
                self.held.remove(&client);
            }
        }
    }
}

const fn id_of(cursor: u64) -> u64 {
    cursor >> UNIT_BITS
}

fn rank(ids: &BTreeSet<u64>) -> Option<(usize, Reverse<u64>)> {
    ids.first().map(|&oldest| (ids.len(), Reverse(oldest)))
}

/// How many places are remembered for whoever asks.
#[cfg(test)]
pub(super) fn held() -> usize {
    CURSORS.lock().held.get(&task::try_id()).map_or(0, BTreeSet::len)
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;

    /// So many clients, different from each other.
    fn clients<const COUNT: usize>() -> [Client; COUNT] {
        let runtime = Builder::new_current_thread().build().unwrap();
        let tasks = std::array::from_fn::<_, COUNT, _>(|_| runtime.spawn(async {}));
        tasks.map(|task| Some(task.id()))
    }

    fn field(client: Client, after: &[u8]) -> Place {
        Place::new(client, 3, Some(b"hash"), after)
    }

    impl Cursors {
        fn recall(&self, cursor: u64, owner: Option<&[u8]>) -> Option<&[u8]> {
            self.find(cursor, owner).map(|place| &*place.after)
        }

        fn check(&self) {
            assert!(self.places.len() <= PLACES_MAX && self.bytes <= PLACES_BYTES_MAX);
            assert_eq!(self.bytes, self.places.values().map(Place::bytes).sum::<usize>());
            assert_eq!(self.held.values().map(BTreeSet::len).sum::<usize>(), self.places.len());
            let ranks: BTreeSet<_> = self.held.values().filter_map(rank).collect();
            assert_eq!(self.ranks, ranks);
            assert_eq!(self.held.len(), ranks.len());
        }
    }

    #[test]
    fn a_place_is_recalled_for_its_own_unit_and_owner_alone() {
        let mut cursors = Cursors::starting_at(7);
        let key = cursors.remember(0, Place::new(None, 5, None, b"key"));
        let field = cursors.remember(0, Place::new(None, 5, Some(b"hash"), b"field"));
        assert_eq!((unit_of(key), key >> UNIT_BITS), (5, 7));
        assert_eq!(cursors.recall(key, None), Some(&b"key"[..]));
        assert_eq!(cursors.recall(field, Some(b"hash")), Some(&b"field"[..]));
        assert_eq!(cursors.recall(field, None), None);
        assert_eq!(cursors.recall(field, Some(b"other")), None);
        assert_eq!(cursors.recall(key + 1, None), None);
        assert_eq!(cursors.recall(5, None), None);
        assert_eq!(cursors.recall(u64::MAX, None), None);
    }

    #[test]
    fn a_scan_has_two_places_however_long_it_is_and_whichever_connections_go_on_with_it() {
        let [one, two, three] = clients();
        let mut cursors = Cursors::starting_at(1);
        let (mut before, mut cursor) = (0, 0);
        for page in 0..100_u8 {
            let client = [one, two, three][usize::from(page) % 3];
            let next = cursors.remember(cursor, field(client, &[page]));
            assert_eq!(cursors.recall(before, Some(b"hash")), None);
            (before, cursor) = (cursor, next);
            assert_eq!(cursors.recall(cursor, Some(b"hash")), Some(&[page][..]));
            assert!(cursors.places.len() <= 2);
            cursors.check();
        }
    }

    #[test]
    fn a_page_that_is_asked_for_twice_can_be_gone_on_from_by_either_cursor() {
        let [client] = clients();
        let mut cursors = Cursors::starting_at(1);
        let page = cursors.remember(0, field(client, b"a"));
        let lost = cursors.remember(page, field(client, b"b"));
        assert_eq!(cursors.recall(page, Some(b"hash")), Some(&b"a"[..]));
        let again = cursors.remember(page, field(client, b"c"));
        for (cursor, after) in [(lost, b"b"), (again, b"c")] {
            assert_eq!(cursors.recall(cursor, Some(b"hash")), Some(&after[..]));
            cursors.remember(cursor, field(client, b"d"));
            cursors.check();
        }
    }

    #[test]
    fn a_scan_that_left_its_unit_or_hash_has_no_place_there_and_others_keep_theirs() {
        let [one, two] = clients();
        let mut cursors = Cursors::starting_at(1);
        let other = cursors.remember(0, field(two, b"a"));
        let first = cursors.remember(0, field(one, b"a"));
        cursors.leave(first, Some(b"other"));
        let second = cursors.remember(first, field(two, b"b"));
        cursors.leave(second, Some(b"hash"));
        cursors.leave(second, Some(b"hash"));
        assert_eq!(cursors.places.len(), 1);
        assert_eq!(cursors.recall(other, Some(b"hash")), Some(&b"a"[..]));
        cursors.check();
    }

    #[test]
    fn a_cursor_of_another_hash_takes_no_place_of_that_one() {
        let [client] = clients();
        let mut cursors = Cursors::starting_at(1);
        let first = cursors.remember(0, field(client, b"a"));
        let second = cursors.remember(first, field(client, b"b"));
        cursors.remember(second, Place::new(client, 3, Some(b"other"), b"c"));
        assert!(cursors.recall(first, Some(b"hash")).is_some());
    }

    #[test]
    fn a_client_that_begins_scans_without_end_displaces_its_own_places_alone() {
        let [quiet, greedy, late] = clients();
        let mut cursors = Cursors::starting_at(1);
        let waiting = cursors.remember(0, field(quiet, b"a"));
        for _ in 0..3 * PLACES_MAX {
            cursors.remember(0, field(greedy, b"more"));
        }
        let begun = cursors.remember(0, field(late, b"b"));
        let mut cursor = begun;
        for _ in 0..3 * PLACES_MAX {
            cursors.remember(0, field(greedy, b"more"));
            cursor = cursors.remember(cursor, field(late, b"c"));
            assert!(cursors.recall(cursor, Some(b"hash")).is_some());
        }
        assert_eq!(cursors.recall(waiting, Some(b"hash")), Some(&b"a"[..]));
        assert_eq!(cursors.places.len(), PLACES_MAX);
        cursors.check();
    }

    #[test]
    fn among_clients_that_have_as_many_the_oldest_place_is_forgotten() {
        let clients = clients::<{ PLACES_MAX + 1 }>();
        let mut cursors = Cursors::starting_at(1);
        let begun = clients.map(|client| cursors.remember(0, field(client, b"a")));
        assert_eq!(cursors.recall(begun[0], Some(b"hash")), None);
        assert!(begun[1..].iter().all(|&one| cursors.recall(one, Some(b"hash")).is_some()));
        // Whoever goes on has two for a moment, and loses the former.
        let next = cursors.remember(begun[1], field(clients[1], b"b"));
        assert!(cursors.recall(next, Some(b"hash")).is_some());
        assert_eq!(cursors.recall(begun[1], Some(b"hash")), None);
        cursors.check();
    }

    #[test]
    fn large_places_are_bounded_by_their_bytes_and_none_is_forgotten_for_its_size() {
        let [one, two] = clients();
        let mut cursors = Cursors::starting_at(1);
        let large = vec![0; 64 << 10];
        for _ in 0..PLACES_MAX / 4 {
            cursors.remember(0, field(one, &large));
        }
        cursors.check();
        assert!(cursors.places.len() >= 200);
        let largest = Place::new(two, 3, Some(&large), &large);
        let cursor = cursors.remember(0, largest);
        for _ in 0..PLACES_MAX {
            cursors.remember(0, field(one, b"small"));
        }
        assert!(cursors.recall(cursor, Some(&large)).is_some());
        cursors.check();
    }

    #[test]
    fn ids_start_again_below_what_a_double_holds() {
        let mut cursors = Cursors::starting_at(ID_END - 1);
        let last = cursors.remember(0, Place::new(None, UNITS - 1, None, b"a"));
        assert_eq!(last, (1 << 53) - 1);
        let next = cursors.remember(last, Place::new(None, 0, None, b"b"));
        assert_eq!(next >> UNIT_BITS, 1);
        assert_eq!(cursors.recall(last, None), None);
        assert_eq!(cursors.recall(next, None), Some(&b"b"[..]));
        cursors.check();
    }
}
