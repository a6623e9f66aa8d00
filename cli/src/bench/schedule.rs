//! When each request is due.
//!
//! A schedule is arithmetic on the run's start alone: it does not slip when the server is slow. That
//! is what keeps latency honest ("coordinated omission" is what a generator suffers from that waits
//! for a reply before it plans the next request).

use std::time::Duration;

const NANOS: u128 = 1_000_000_000;

/// The schedule of one connection. Connections take turns: request `n` of connection `c` of `C` is
/// request `n * C + c` of all, and those are due at even distances.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    rate_per_s: u64,
    connections: u64,
    connection: u64,
}

impl Schedule {
    /// The schedule of connection number `connection` of `connections`, which together send
    /// `rate_per_s`; `None` when that is 0: then there is no schedule.
    pub(crate) fn new(rate_per_s: u64, connections: u64, connection: u64) -> Option<Self> {
        (rate_per_s > 0).then_some(Self { rate_per_s, connections, connection })
    }

    /// When request `n` of this connection is due, counted from the run's start.
    pub(crate) fn due(&self, n: u64) -> Duration {
        let of_all = u128::from(n) * u128::from(self.connections) + u128::from(self.connection);
        let nanos = of_all.saturating_mul(NANOS) / u128::from(self.rate_per_s);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How many requests of this connection are due before `span` is over.
    pub(crate) fn due_before(&self, span: Duration) -> u64 {
        // Request m of all is due before the span's end when m * NANOS / rate < span, rounded down.
        let of_all = (span.as_nanos() * u128::from(self.rate_per_s)).div_ceil(NANOS);
        let of_all = u64::try_from(of_all).unwrap_or(u64::MAX);
        of_all.saturating_sub(self.connection).div_ceil(self.connections)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedules(rate: u64, connections: u64) -> Vec<Schedule> {
        (0..connections).map(|c| Schedule::new(rate, connections, c).unwrap()).collect()
    }

    #[test]
    fn all_connections_together_keep_an_even_distance() {
        let mut due: Vec<Duration> = schedules(1000, 7)
            .iter()
            .flat_map(|schedule| (0..100).map(|n| schedule.due(n)))
            .collect();
        due.sort_unstable();
        for (n, due) in due.iter().enumerate() {
            assert_eq!(*due, Duration::from_millis(n as u64));
        }
    }

    #[test]
    fn an_uneven_rate_does_not_drift() {
        let schedule = Schedule::new(3, 1, 0).unwrap();
        assert_eq!(schedule.due(3 * 86_400), Duration::from_secs(86_400));
        assert_eq!(schedule.due(1), Duration::from_nanos(333_333_333));
    }

    #[test]
    fn what_is_due_before_the_end_is_counted_exactly() {
        for (rate, connections) in [(1000, 7), (3, 50), (10_000, 50), (1, 1), (7, 3)] {
            let span = Duration::from_secs(2);
            let mut total = 0;
            for schedule in schedules(rate, connections) {
                let count = schedule.due_before(span);
                assert!(count == 0 || schedule.due(count - 1) < span);
                assert!(schedule.due(count) >= span);
                total += count;
            }
            assert_eq!(total, rate * 2, "{rate}/s on {connections}");
        }
    }

    #[test]
    fn without_a_rate_there_is_no_schedule() {
        assert!(Schedule::new(0, 1, 0).is_none());
    }

    #[test]
    fn extreme_numbers_do_not_overflow() {
        let schedule = Schedule::new(1, u64::MAX, u64::MAX - 1).unwrap();
        assert_eq!(schedule.due(u64::MAX), Duration::from_nanos(u64::MAX));
        assert_eq!(schedule.due_before(Duration::from_secs(1)), 0);
    }
}
