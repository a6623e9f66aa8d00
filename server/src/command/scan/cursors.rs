//! Remembered places of scans that stopped within a unit.
//!
//! They live in a table of the process, not of a session or a node: a cursor is a hint that may be
//! lost at any time, by a restart or because newer ones displace it, and SCAN is right without it.
//! Handlers that read get nothing but the request and the view.

use std::{collections::VecDeque, sync::LazyLock};

use larder_types::UNITS;
use parking_lot::Mutex;
use rand::Rng;

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

/// A cursor that goes on behind `after`, a key of `unit`, or a field of the hash `owner` in it.
pub(in crate::command) fn remember(unit: u16, owner: Option<&[u8]>, after: &[u8]) -> u64 {
    CURSORS.lock().remember(Place::new(unit, owner, after))
}

/// The key, or the field of the hash `owner`, behind which `cursor` goes on; `None` for the start
/// of the unit, or of the hash.
pub(in crate::command) fn recall(cursor: u64, owner: Option<&[u8]>) -> Option<Box<[u8]>> {
    CURSORS.lock().recall(cursor, owner)
}

/// The unit that `cursor` goes on in.
pub(super) const fn unit_of(cursor: u64) -> u16 {
    (cursor % UNITS as u64) as u16
}

struct Place {
    unit: u16,
    owner: Option<Box<[u8]>>,
    after: Box<[u8]>,
}

impl Place {
    fn new(unit: u16, owner: Option<&[u8]>, after: &[u8]) -> Self {
        Self { unit, owner: owner.map(Box::from), after: Box::from(after) }
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.owner.as_ref().map_or(0, |owner| owner.len()) + self.after.len()
    }
}

/// The newest places; their ids follow each other.
struct Cursors {
    places: VecDeque<Place>,
    /// Id of the oldest place.
    first_id: u64,
    bytes: usize,
}

impl Cursors {
    const fn starting_at(first_id: u64) -> Self {
        Self { places: VecDeque::new(), first_id, bytes: 0 }
    }

    fn remember(&mut self, place: Place) -> u64 {
        if self.first_id + self.places.len() as u64 >= ID_END {
            *self = Self::starting_at(1);
        }
        let id = self.first_id + self.places.len() as u64;
        let cursor = id << UNIT_BITS | u64::from(place.unit);
        self.bytes += place.bytes();
        self.places.push_back(place);
        while self.places.len() > PLACES_MAX || self.bytes > PLACES_BYTES_MAX {
            let Some(oldest) = self.places.pop_front() else { break };
            self.bytes -= oldest.bytes();
            self.first_id += 1;
        }
        cursor
    }

    fn recall(&self, cursor: u64, owner: Option<&[u8]>) -> Option<Box<[u8]>> {
        let index = (cursor >> UNIT_BITS).checked_sub(self.first_id)?;
        let place = self.places.get(usize::try_from(index).ok()?)?;
        let is_its_place = place.unit == unit_of(cursor) && place.owner.as_deref() == owner;
        is_its_place.then(|| place.after.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_recalled_for_its_own_unit_and_owner_alone() {
        let mut cursors = Cursors::starting_at(7);
        let key = cursors.remember(Place::new(5, None, b"key"));
        let field = cursors.remember(Place::new(5, Some(b"hash"), b"field"));
        assert_eq!((unit_of(key), key >> UNIT_BITS), (5, 7));
        assert_eq!(cursors.recall(key, None).as_deref(), Some(&b"key"[..]));
        assert_eq!(cursors.recall(field, Some(b"hash")).as_deref(), Some(&b"field"[..]));
        assert_eq!(cursors.recall(field, None), None);
        assert_eq!(cursors.recall(field, Some(b"other")), None);
        assert_eq!(cursors.recall(key + 1, None), None);
        assert_eq!(cursors.recall(5, None), None);
        assert_eq!(cursors.recall(u64::MAX, None), None);
    }

    #[test]
    fn the_oldest_places_are_forgotten_when_there_are_too_many() {
        let mut cursors = Cursors::starting_at(1);
        let first = cursors.remember(Place::new(0, None, b"first"));
        for _ in 1..PLACES_MAX {
            cursors.remember(Place::new(0, None, b"more"));
        }
        assert!(cursors.recall(first, None).is_some());
        let last = cursors.remember(Place::new(0, None, b"last"));
        assert_eq!(cursors.recall(first, None), None);
        assert_eq!(cursors.recall(last, None).as_deref(), Some(&b"last"[..]));
        assert_eq!(cursors.places.len(), PLACES_MAX);
    }

    #[test]
    fn the_oldest_places_are_forgotten_when_they_are_too_large() {
        let mut cursors = Cursors::starting_at(1);
        let large = vec![0; 64 << 10];
        for _ in 0..PLACES_MAX / 4 {
            cursors.remember(Place::new(0, None, &large));
        }
        assert!(cursors.bytes <= PLACES_BYTES_MAX);
        assert!(cursors.places.len() >= 200);
    }

    #[test]
    fn ids_start_again_below_what_a_double_holds() {
        let mut cursors = Cursors::starting_at(ID_END - 1);
        let last = cursors.remember(Place::new(UNITS - 1, None, b"a"));
        assert_eq!(last, (1 << 53) - 1);
        let next = cursors.remember(Place::new(0, None, b"b"));
        assert_eq!(next >> UNIT_BITS, 1);
        assert_eq!(cursors.recall(last, None), None);
        assert_eq!(cursors.recall(next, None).as_deref(), Some(&b"b"[..]));
    }
}
