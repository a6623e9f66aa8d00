//! The search for an order.
//!
//! Two things keep it short. A read of the present value that may come next is put next: it changes
//! nothing. And since no value is written twice, a value that is still to be read must not be
//! overwritten, so that most wrong turns end at once.

use std::collections::{HashMap, HashSet};

use super::{Action, Operation};

/// Steps after which the search for one key is given up.
pub const STEPS_MAX: usize = 500_000;
/// Operations that a violation shows at most.
const SHOWN_MAX: usize = 8;

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none. Says what could not be placed where the search got furthest.
    Violation(String),
    /// It was given up.
    Undecided,
}

/// Searches the history of one register, which begins empty.
pub fn check(history: &[Operation], steps_max: usize) -> Verdict {
    let search = Search::new(history);
    let mut seen = HashSet::new();
    let mut open = vec![search.start()];
    let mut furthest: Option<Point> = None;
    for _ in 0..steps_max {
        let Some(mut point) = open.pop() else {
            let place = furthest.map_or_else(String::new, |point| search.describe(&point));
            return Verdict::Violation(place);
        };
        search.take_reads(&mut point);
        if search.is_complete(&point) {
            return Verdict::Linearizable;
        }
        if furthest.as_ref().is_none_or(|furthest| furthest.placed < point.placed) {
            furthest = Some(point.clone());
        }
        if search.is_still_read(&point) || !seen.insert((point.done.clone(), point.value)) {
            continue;
        }
        // The earliest is tried first, so it goes on top.
        let next: Vec<_> = search.candidates(&point).collect();
        open.extend(next.into_iter().rev().filter_map(|at| search.write(&point, at)));
    }
    Verdict::Undecided
}

/// Where a search stands.
#[derive(Clone, Debug)]
struct Point {
    /// A bit for each operation that has its place.
    done: Vec<u64>,
    /// How many have.
    placed: usize,
    /// All before this one have.
    first: usize,
    value: Option<u64>,
}

impl Point {
    fn is_done(&self, at: usize) -> bool {
        self.done[at / 64] >> (at % 64) & 1 == 1
    }

    fn place(&mut self, at: usize) {
        self.done[at / 64] |= 1 << (at % 64);
        self.placed += 1;
    }
}

struct Search {
    /// In the order of their calls.
    operations: Vec<Operation>,
    /// Where each value is read.
    readers: HashMap<Option<u64>, Vec<usize>>,
    /// How many of them were answered.
    answered: usize,
}

impl Search {
    fn new(history: &[Operation]) -> Self {
        let read: HashSet<_> = history.iter().filter_map(value_read).collect();
        // A read without an answer says nothing; a write without one that nobody saw need not have
        // been.
        let matters = |operation: &&Operation| {
            operation.answered.is_some()
                || matches!(operation.action, Action::Write(value) if read.contains(&Some(value)))
        };
        let mut operations: Vec<_> = history.iter().filter(matters).copied().collect();
        operations.sort_by_key(|operation| operation.called);
        let mut readers: HashMap<_, Vec<_>> = HashMap::new();
        for (at, operation) in operations.iter().enumerate() {
            if let Some(value) = value_read(operation) {
                readers.entry(value).or_default().push(at);
            }
        }
        let answered = operations.iter().filter(|it| it.answered.is_some()).count();
        Self { operations, readers, answered }
    }

    fn start(&self) -> Point {
        let done = vec![0; self.operations.len().div_ceil(64)];
        Point { done, placed: 0, first: 0, value: None }
    }

    /// The operations without a place that may come next: those called before the first answer
    /// among them.
    fn candidates<'a>(&'a self, point: &'a Point) -> impl Iterator<Item = usize> + 'a {
        let mut horizon = u64::MAX;
        let mut end = point.first;
        while let Some(operation) = self.operations.get(end).filter(|it| it.called <= horizon) {
            if !point.is_done(end) {
                horizon = horizon.min(operation.answered.unwrap_or(u64::MAX));
            }
            end += 1;
        }
        (point.first..end)
            .filter(move |at| !point.is_done(*at) && self.operations[*at].called <= horizon)
    }

    /// Places every read of the present value that may come next.
    fn take_reads(&self, point: &mut Point) {
        loop {
            let reads = |at: &usize| value_read(&self.operations[*at]) == Some(point.value);
            let now: Vec<_> = self.candidates(point).filter(reads).collect();
            now.iter().for_each(|at| point.place(*at));
            while point.first < self.operations.len() && point.is_done(point.first) {
                point.first += 1;
            }
            if now.is_empty() {
                return;
            }
        }
    }

    /// Whether everything that was answered has its place.
    fn is_complete(&self, point: &Point) -> bool {
        // Writes of unknown outcome may stay without one.
        point.placed >= self.answered
            && (point.first..self.operations.len())
                .all(|at| point.is_done(at) || self.operations[at].answered.is_none())
    }

    /// Whether the present value is read by an operation that has no place yet.
    fn is_still_read(&self, point: &Point) -> bool {
        self.still_reads(point).next().is_some()
    }

    /// The operations without a place that read the present value.
    fn still_reads<'a>(&'a self, point: &'a Point) -> impl Iterator<Item = usize> + 'a {
        let readers = self.readers.get(&point.value).into_iter().flatten();
        readers.copied().filter(|at| !point.is_done(*at))
    }

    /// The point after this write.
    fn write(&self, point: &Point, at: usize) -> Option<Point> {
        let Action::Write(value) = self.operations[at].action else { return None };
        let mut point = point.clone();
        point.place(at);
        point.value = Some(value);
        Some(point)
    }

    fn describe(&self, point: &Point) -> String {
        let shown = |operations: &mut dyn Iterator<Item = usize>| {
            let shown = operations.take(SHOWN_MAX);
            shown.map(|at| format!("{:?}", self.operations[at])).collect::<Vec<_>>().join(", ")
        };
        format!(
            "{} of {} have a place, the value is {:?}; still to read it: [{}]; what can come next: [{}]",
            point.placed,
            self.operations.len(),
            point.value,
            shown(&mut self.still_reads(point)),
            shown(&mut self.candidates(point)),
        )
    }
}

/// What an operation read, if it is a read that was answered.
fn value_read(operation: &Operation) -> Option<Option<u64>> {
    match operation.action {
        Action::Read(value) if operation.answered.is_some() => Some(value),
        _ => None,
    }
}
