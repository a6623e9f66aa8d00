//! One direction of a line that is as long as wanted: what goes in comes out in order, each piece
//! the delay after it came, never before.
//!
//! One thread puts in and another takes out. What is under way is bounded: beyond the bound whoever
//! puts in waits, as a sender waits for a line that is full.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use crate::timer::sleep_until;

/// What a piece costs beside its bytes, so that many small ones are bounded too.
const PIECE_OVERHEAD_BYTES: usize = 64;

/// One direction of a line.
pub struct Line {
    delay: Duration,
    bytes_max: usize,
    under_way: Mutex<UnderWay>,
    /// A piece came, or the end.
    arrived: Condvar,
    /// A piece left, or nobody takes any more.
    left: Condvar,
}

#[derive(Default)]
struct UnderWay {
    pieces: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// When the end that was put in comes out.
    ends: Option<Instant>,
    is_abandoned: bool,
}

impl Line {
    /// A line of this length that holds up to `bytes_max`, or one piece where that is larger.
    pub fn new(delay: Duration, bytes_max: usize) -> Self {
        Self {
            delay,
            bytes_max,
            under_way: Mutex::default(),
            arrived: Condvar::new(),
            left: Condvar::new(),
        }
    }

    /// Puts a piece in that came `at` that moment. Waits for room; `false` once nobody takes any
    /// more.
    pub fn put(&self, at: Instant, piece: Vec<u8>) -> bool {
        let cost = cost(&piece);
        let mut under_way = self.under_way.lock();
        while under_way.bytes > 0
            && under_way.bytes + cost > self.bytes_max
            && !under_way.is_abandoned
        {
            self.left.wait(&mut under_way);
        }
        if under_way.is_abandoned {
            return false;
        }
        under_way.bytes += cost;
        under_way.pieces.push_back((at + self.delay, piece));
        self.arrived.notify_one();
        true
    }

    /// Nothing more comes.
    pub fn end(&self) {
        self.under_way.lock().ends = Some(Instant::now() + self.delay);
        self.arrived.notify_one();
    }

    /// The next piece, once it is due; `None` once the end is. The piece counts as under way until
    /// then.
    pub fn take(&self) -> Option<Vec<u8>> {
        let mut under_way = self.under_way.lock();
        while under_way.pieces.is_empty() && under_way.ends.is_none() {
            self.arrived.wait(&mut under_way);
        }
        let next = under_way.pieces.pop_front();
        let due = next.as_ref().map(|(due, _)| *due).or(under_way.ends);
        drop(under_way);
        due.into_iter().for_each(sleep_until);
        let (_, piece) = next?;
        self.under_way.lock().bytes -= cost(&piece);
        self.left.notify_one();
        Some(piece)
    }

    /// Nobody takes any more: what is under way is lost.
    pub fn abandon(&self) {
        self.under_way.lock().is_abandoned = true;
        self.left.notify_one();
    }
}

fn cost(piece: &[u8]) -> usize {
    piece.len() + PIECE_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const DELAY: Duration = Duration::from_millis(20);

    #[test]
    fn pieces_come_out_in_order_and_none_before_it_is_due() {
        let line = Line::new(DELAY, 1 << 20);
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..50_u8 {
                    let now = Instant::now();
                    assert!(line.put(now, vec![number]));
                }
                line.end();
            });
            let began = Instant::now();
            for number in 0..50 {
                assert_eq!(line.take(), Some(vec![number]));
                assert!(began.elapsed() >= DELAY - Duration::from_millis(1));
            }
            assert_eq!(line.take(), None);
        });
    }

    #[test]
    fn whoever_puts_in_too_much_waits_until_a_piece_has_left() {
        let line = Line::new(DELAY, 2 * (1000 + PIECE_OVERHEAD_BYTES));
        thread::scope(|scope| {
            let putting = scope.spawn(|| {
                let began = Instant::now();
                for _ in 0..3 {
                    assert!(line.put(Instant::now(), vec![0; 1000]));
                }
                began.elapsed()
            });
            for _ in 0..3 {
                assert_eq!(line.take().map(|piece| piece.len()), Some(1000));
            }
            assert!(putting.join().unwrap() >= DELAY);
        });
        assert_eq!(line.under_way.lock().bytes, 0);
    }

    #[test]
    fn a_piece_larger_than_the_bound_passes_alone() {
        let line = Line::new(Duration::ZERO, 10);
        assert!(line.put(Instant::now(), vec![7; 100]));
        assert_eq!(line.take(), Some(vec![7; 100]));
    }

    #[test]
    fn whoever_waits_for_room_is_told_when_nobody_takes_any_more() {
        let line = Line::new(DELAY, 10);
        assert!(line.put(Instant::now(), vec![0; 100]));
        thread::scope(|scope| {
            let putting = scope.spawn(|| line.put(Instant::now(), vec![0; 100]));
            line.abandon();
            assert!(!putting.join().unwrap());
        });
    }
}
