//! The versions of one value that readers at different watermarks may still want.

/// The newest version and those older ones that a reader of visible state may need.
#[derive(Debug)]
pub(super) struct Versions<T> {
    newest_seq: u64,
    newest: T,
    /// Oldest first; empty but while a write is in flight. Where much is durable and not committed there
    /// are as many as records that write the value: each is one of the changes, and some of the bytes of
    /// the log, by which what is not folded is bounded.
    older: Vec<(u64, T)>,
}

impl<T> Versions<T> {
    pub(super) const fn new(seq: u64, value: T) -> Self {
        Self { newest_seq: seq, newest: value, older: Vec::new() }
    }

    /// Adds the version written by record `seq`. Of the versions at or below `floor` only the
    /// newest stays: readers take the watermark under the same lock that guards this value, or
    /// hold what they read at, so none of them can ask for less.
    pub(super) fn push(&mut self, seq: u64, floor: u64, value: T) {
        debug_assert!(seq >= self.newest_seq, "records are applied in order");
        let newest = std::mem::replace(&mut self.newest, value);
        if self.newest_seq == seq {
            return;
        }
        if self.newest_seq <= floor {
            self.older.clear();
        } else {
            let unasked = self.upto(floor).saturating_sub(1);
            // Half of them at least: those that stay move down.
            if 2 * unasked >= self.older.len() {
                self.older.drain(..unasked);
            }
        }
        self.older.push((self.newest_seq, newest));
        self.newest_seq = seq;
    }

    /// The newest version written by a record not beyond `seq`.
    pub(super) fn at(&self, seq: u64) -> Option<&T> {
        if self.newest_seq <= seq {
            return Some(&self.newest);
        }
        self.upto(seq).checked_sub(1).map(|at| &self.older[at].1)
    }

    /// How many of the older versions were written by records not beyond `seq`.
    fn upto(&self, seq: u64) -> usize {
        self.older.partition_point(|(written, _)| *written <= seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_the_newest_version_at_its_watermark() {
        let mut versions = Versions::new(10, 'a');
        versions.push(12, 10, 'b');
        versions.push(14, 10, 'c');
        assert_eq!(versions.at(9), None);
        assert_eq!(versions.at(11), Some(&'a'));
        assert_eq!(versions.at(12), Some(&'b'));
        assert_eq!(versions.at(99), Some(&'c'));
        assert_eq!(versions.at(u64::MAX), Some(&'c'));
    }

    #[test]
    fn versions_that_no_reader_can_ask_for_are_dropped() {
        let mut versions = Versions::new(10, 'a');
        versions.push(12, 10, 'b');
        versions.push(14, 13, 'c');
        assert_eq!(versions.older, [(12, 'b')]);
        versions.push(16, 14, 'd');
        assert_eq!(versions.older, [(14, 'c')]);
    }

    #[test]
    fn of_many_versions_those_that_no_reader_can_ask_for_are_dropped_by_halves() {
        let mut versions = Versions::new(1, 1);
        let behind = |seq: u64| seq.saturating_sub(10);
        for seq in 2..1_000 {
            versions.push(seq, behind(seq), seq);
            assert!(versions.older.len() <= 22, "{} of 10", versions.older.len());
            for asked in behind(seq).max(1)..=seq {
                assert_eq!(versions.at(asked), Some(&asked));
            }
        }
    }

    #[test]
    fn a_record_that_writes_twice_leaves_its_last_value() {
        let mut versions = Versions::new(10, 'a');
        versions.push(10, 9, 'b');
        assert_eq!(versions.at(10), Some(&'b'));
        assert_eq!(versions.at(9), None);
    }
}
