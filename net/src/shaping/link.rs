//! The arithmetic of a line: which datagram is lost, and when the others arrive. No I/O; time and
//! chance are passed in.

use std::time::{Duration, Instant};

use rand::{Rng as _, rngs::SmallRng};

use super::{Shape, ShapeStats};

/// What may be under way on one line: 100 ms at 1 Gbit/s, and as much again.
pub(super) const QUEUE_BYTES_MAX: usize = 32 << 20;
/// How long a datagram may wait for its turn on a line with a rate.
const BACKLOG_MAX: Duration = Duration::from_millis(200);

/// One line, in the direction away from this node.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) shape: Shape,
    pub(super) stats: ShapeStats,
    /// When the line has sent what it was given, at its rate.
    free_at: Instant,
    /// When the last of the datagrams arrives that keep their order.
    last_due: Instant,
}

impl Link {
    pub(super) fn new(shape: Shape, now: Instant) -> Self {
        Self { shape, stats: ShapeStats::default(), free_at: now, last_due: now }
    }

    /// When a datagram of `bytes` arrives that is sent now; `None` if it does not. One that does
    /// is counted as under way until it is carried.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        bytes: usize,
        random: &mut SmallRng,
    ) -> Option<Instant> {
        if self.shape.cut_send {
            self.stats.cut += 1;
            return None;
        }
        if self.shape.loss > 0.0 && random.random_bool(self.shape.loss) {
            self.stats.lost += 1;
            return None;
        }
        let sent_at = self.sent_at(now, bytes);
        let fits = self.stats.queued_bytes + bytes <= QUEUE_BYTES_MAX;
        let Some(sent_at) = sent_at.filter(|_| fits) else {
            self.stats.overflowed += 1;
            return None;
        };
        self.free_at = sent_at;
        let mut due = sent_at + self.shape.delay;
        if self.shape.jitter.is_zero() {
            due = due.max(self.last_due);
            self.last_due = due;
        } else {
            due += self.shape.jitter.mul_f64(random.random());
        }
        self.stats.queued_bytes += bytes;
        Some(due)
    }

    /// When the last byte has left; `None` if it would wait too long.
    fn sent_at(&self, now: Instant, bytes: usize) -> Option<Instant> {
        let Some(rate) = self.shape.rate_bytes_per_s else { return Some(now) };
        let begins = self.free_at.max(now);
        if begins - now > BACKLOG_MAX {
            return None;
        }
        let nanos = u128::from(bytes as u64) * 1_000_000_000 / u128::from(rate.get());
        Some(begins + Duration::from_nanos(u64::try_from(nanos).ok()?))
    }

    /// A datagram is no longer under way. Whether it arrives: not if the line was cut meanwhile.
    pub(super) fn carry(&mut self, bytes: usize) -> bool {
        self.stats.queued_bytes -= bytes;
        if self.shape.cut_send {
            self.stats.cut += 1;
            return false;
        }
        self.stats.carried += 1;
        self.stats.carried_bytes += bytes as u64;
        true
    }

    /// Whether what is sent may pass by: the line is as it is, and nothing is under way that
    /// would be overtaken.
    pub(super) fn is_plain(&self) -> bool {
        self.shape.is_plain_sending() && self.stats.queued_bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use rand::SeedableRng as _;

    use super::*;

    fn millis(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn line(shape: Shape) -> (Link, Instant, SmallRng) {
        let now = Instant::now();
        (Link::new(shape, now), now, SmallRng::seed_from_u64(1))
    }

    #[test]
    fn a_delay_that_shrinks_changes_no_order() {
        let (mut link, now, mut random) = line(Shape { delay: millis(40), ..Shape::default() });
        let first = link.admit(now, 100, &mut random).unwrap();
        assert_eq!(first - now, millis(40));
        link.shape.delay = millis(5);
        let second = link.admit(now + millis(1), 100, &mut random).unwrap();
        assert!(second >= first);
        assert_eq!(link.admit(now + millis(50), 100, &mut random).unwrap() - now, millis(55));
    }

    #[test]
    fn jitter_stays_within_its_bound_and_reorders() {
        let shape = Shape { delay: millis(10), jitter: millis(20), ..Shape::default() };
        let (mut link, now, mut random) = line(shape);
        let due: Vec<_> = (0..1000)
            .map(|_| link.admit(now, 1, &mut random).unwrap() - now)
            .inspect(|after| assert!((millis(10)..=millis(30)).contains(after)))
            .collect();
        assert!(!due.is_sorted());
    }

    #[test]
    fn a_rate_spaces_datagrams_and_drops_what_would_wait_too_long() {
        let rate = NonZeroU64::new(1_000_000);
        let (mut link, now, mut random) =
            line(Shape { rate_bytes_per_s: rate, ..Shape::default() });
        let due: Vec<_> = (0..300).map(|_| link.admit(now, 1000, &mut random)).collect();
        let kept: Vec<_> = due.iter().flatten().map(|due| *due - now).collect();
        assert_eq!(kept.len(), 201, "200 ms of backlog at 1 ms each, and the one that began it");
        assert!((1..).zip(&kept).all(|(nth, after)| *after == millis(nth)));
        assert_eq!(link.stats.overflowed, 99);
    }

    #[test]
    fn losses_are_counted_and_near_the_part_asked_for() {
        let (mut link, now, mut random) = line(Shape { loss: 0.1, ..Shape::default() });
        let arrived = (0..10_000).filter_map(|_| link.admit(now, 1, &mut random)).count();
        assert!((8_800..9_200).contains(&arrived), "{arrived}");
        assert_eq!(link.stats.lost, 10_000 - arrived as u64);
    }

    #[test]
    fn the_queue_takes_its_bound_and_no_byte_more() {
        let (mut link, now, mut random) = line(Shape { delay: millis(1), ..Shape::default() });
        assert!(link.admit(now, QUEUE_BYTES_MAX - 1, &mut random).is_some());
        assert!(link.admit(now, 2, &mut random).is_none());
        assert!(link.admit(now, 1, &mut random).is_some());
        assert!(link.admit(now, 1, &mut random).is_none());
        assert_eq!(link.stats.overflowed, 2);
    }

    #[test]
    fn a_cut_takes_what_is_sent_and_what_is_under_way() {
        let (mut link, now, mut random) = line(Shape { delay: millis(1), ..Shape::default() });
        assert!(link.admit(now, 10, &mut random).is_some());
        link.shape.cut_send = true;
        assert!(link.admit(now, 10, &mut random).is_none());
        assert!(!link.carry(10));
        assert_eq!((link.stats.cut, link.stats.queued_bytes), (2, 0));
    }
}
