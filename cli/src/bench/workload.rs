//! What is asked for: keys, values, and the mix of reads and writes.

use std::ops::Range;
use std::sync::Arc;

use bytes::BytesMut;
use larder_resp::encode_request;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

/// By how much the pool of random bytes is larger than a value: so many different values. Much more than
/// a compressor looks back, so that values beside each other seldom share anything.
const POOL_SLACK: usize = 4 << 20;

/// Random bytes that all values are cut from. They hardly compress, also together, and making them costs no time
/// while the clock runs.
#[derive(Debug)]
pub(crate) struct Values {
    pool: Vec<u8>,
    size: usize,
}

impl Values {
    /// Values of `size` bytes.
    pub(crate) fn new(size: usize, seed: u64) -> Self {
        let mut pool = vec![0; size + POOL_SLACK];
        SmallRng::seed_from_u64(seed).fill_bytes(&mut pool);
        Self { pool, size }
    }

    fn pick(&self, random: &mut SmallRng) -> &[u8] {
        let from = random.random_range(0..POOL_SLACK);
        &self.pool[from..from + self.size]
    }
}

/// What a request is, for the statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// GET.
    Read,
    /// SET.
    Write,
}

enum Order {
    /// Any key below the number, each equally likely.
    Uniform { keys: u64, read_ratio: f64 },
    /// Each key once, all writes.
    Once(Range<u64>),
}

/// The requests of one connection, in order. The same seed gives the same requests.
pub(crate) struct Workload {
    order: Order,
    random: SmallRng,
    values: Arc<Values>,
}

impl Workload {
    /// Reads and writes of keys below `keys`, without end.
    pub(crate) fn mixed(keys: u64, read_ratio: f64, values: Arc<Values>, seed: u64) -> Self {
        let order = Order::Uniform { keys, read_ratio };
        Self { order, random: SmallRng::seed_from_u64(seed), values }
    }

    /// One write of each key in `keys`.
    pub(crate) fn populate(keys: Range<u64>, values: Arc<Values>, seed: u64) -> Self {
        Self { order: Order::Once(keys), random: SmallRng::seed_from_u64(seed), values }
    }

    /// Appends the next request to `out` and says what it is; `None`: there are no more.
    pub(crate) fn encode_next(&mut self, out: &mut BytesMut) -> Option<Kind> {
        let (kind, number) = match &mut self.order {
            Order::Once(keys) => (Kind::Write, keys.next()?),
            Order::Uniform { keys, read_ratio } => {
                let number = self.random.random_range(0..*keys);
                let read = self.random.random_bool(*read_ratio);
                (if read { Kind::Read } else { Kind::Write }, number)
            }
        };
        let key = key(number);
        match kind {
            Kind::Read => encode_request(out, [b"GET", &key[..]]),
            Kind::Write => {
                encode_request(out, [b"SET", &key[..], self.values.pick(&mut self.random)]);
            }
        }
        Some(kind)
    }
}

/// `key:` and twelve digits, as redis-benchmark names keys.
fn key(mut number: u64) -> [u8; 16] {
    let mut key = *b"key:000000000000";
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(mut workload: Workload, count: usize) -> (Vec<u8>, usize) {
        let mut out = BytesMut::new();
        let mut reads = 0;
        for _ in 0..count {
            match workload.encode_next(&mut out) {
                Some(Kind::Read) => reads += 1,
                Some(Kind::Write) => {}
                None => break,
            }
        }
        (out.to_vec(), reads)
    }

    #[test]
    fn keys_have_twelve_digits() {
        assert_eq!(&key(0), b"key:000000000000");
        assert_eq!(&key(1_234_567), b"key:000001234567");
        assert_eq!(&key(999_999_999_999), b"key:999999999999");
    }

    #[test]
    fn the_same_seed_asks_for_the_same_things_and_another_for_others() {
        let values = Arc::new(Values::new(8, 1));
        let run = |seed| requests(Workload::mixed(1000, 0.5, values.clone(), seed), 200).0;
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn the_share_of_reads_is_as_asked() {
        let values = Arc::new(Values::new(0, 1));
        for (ratio, fewest, most) in [(0.0, 0, 0), (1.0, 4000, 4000), (0.25, 850, 1150)] {
            let (_, reads) = requests(Workload::mixed(10, ratio, values.clone(), 7), 4000);
            assert!((fewest..=most).contains(&reads), "{reads} of 4000 at {ratio}");
        }
    }

    #[test]
    fn values_beside_each_other_share_hardly_anything() {
        let (values, mut random) = (Values::new(1024, 1), SmallRng::seed_from_u64(1));
        let some: Vec<_> = (0..64).map(|_| values.pick(&mut random).as_ptr_range()).collect();
        let of_two = some.iter().flat_map(|one| some.iter().map(move |other| (one, other)));
        let shared = of_two.filter(|(one, other)| one.start < other.start && other.start < one.end);
        let shared = shared.count();
        assert!(shared < 20, "{shared} of 2016 pairs overlap");
    }

    #[test]
    fn populating_writes_each_key_once() {
        let values = Arc::new(Values::new(1, 1));
        let (bytes, _) = requests(Workload::populate(3..6, values, 1), 100);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert_eq!(text.matches("SET").count(), 3);
        for key in ["key:000000000003", "key:000000000004", "key:000000000005"] {
            assert_eq!(text.matches(key).count(), 1);
        }
    }
}
