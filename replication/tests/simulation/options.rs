//! What a seed decides before its run begins: the cluster, and which faults strike it how often.
//!
//! Swarm testing (Groce et al., 2012): each class of faults is on or off as a whole, because some
//! bugs show only where others do not get in their way.

use larder_types::AckLevel;

use crate::{
    queue::{MS, SECOND, Time},
    random::Random,
};

/// The options of one run.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The region of each node that is a member from the start.
    pub(crate) regions: Vec<&'static str>,
    /// Members that hold the log but do not count: the last so many of `regions`.
    pub(crate) learners: usize,
    /// The level of the namespace.
    pub(crate) level: AckLevel,
    pub(crate) ack_timeout: Time,
    pub(crate) lease: Time,
    /// One-way delay between regions, at most.
    pub(crate) distance: Time,
    pub(crate) jitter: Time,
    pub(crate) loss: u64,
    /// One fsync, about.
    pub(crate) fsync: Time,
    /// Between two writes of a client, about.
    pub(crate) write_every: Time,
    pub(crate) read_every: Time,
    /// Writes of 1,000 that ask for a level of their own.
    pub(crate) raised: u64,
    /// Writes of 1,000 that remove every key.
    pub(crate) clears: u64,
    /// Parts per million that a monotonic clock may run fast or slow.
    pub(crate) drift: u64,
    /// The log records that are kept for a slave, at most; beyond that it is detached.
    pub(crate) retain: u64,
    /// Bytes that a master sends to a slave ahead of its acknowledgements.
    pub(crate) window_bytes: usize,
    /// The log is trimmed and the state flushed this often, about.
    pub(crate) trim_every: Time,
    /// How long the faults last.
    pub(crate) faulty: Time,
    pub(crate) faults: Faults,
}

/// How often each class of faults strikes, about; `None` is never.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) crash: Option<Time>,
    /// All nodes lose power at once.
    pub(crate) blackout: Option<Time>,
    pub(crate) disk_replaced: Option<Time>,
    /// The process stands still, for longer than a lease or not.
    pub(crate) pause: Option<Time>,
    /// One direction between two nodes.
    pub(crate) cut: Option<Time>,
    /// A node is cut off from all others.
    pub(crate) isolate: Option<Time>,
    /// A master is cut off, its slaves restart, and an operator promotes one of them at once.
    pub(crate) coup: Option<Time>,
    /// A connection breaks for no reason.
    pub(crate) disconnect: Option<Time>,
    /// Messages of 1,000 that arrive again, or late, after their connection has broken.
    pub(crate) late: u64,
    pub(crate) promote: Option<Time>,
    /// Promotions of 1,000 that are forced when they are refused.
    pub(crate) force: u64,
    pub(crate) switchover: Option<Time>,
    pub(crate) membership: Option<Time>,
    pub(crate) resync: Option<Time>,
}

impl Options {
    /// The options of a seed.
    pub(crate) fn draw(random: &mut Random) -> Self {
        let regions = cluster(random);
        let level = level(random, &regions);
        let distance = random.between(MS, 40 * MS);
        Self {
            learners: usize::from(regions.len() > 4 && random.chance(300)),
            regions,
            level,
            ack_timeout: random.pick(&[SECOND, 2 * SECOND, 5 * SECOND]),
            lease: random.pick(&[SECOND, 3 * SECOND]),
            distance,
            jitter: random.between(0, distance),
            loss: random.pick(&[0, 0, 5, 50]),
            fsync: random.pick(&[MS / 5, MS, 10 * MS, 100 * MS]),
            write_every: random.pick(&[10 * MS, 40 * MS, 200 * MS]),
            read_every: random.pick(&[50 * MS, 200 * MS]),
            raised: random.pick(&[0, 100, 500]),
            clears: random.pick(&[0, 0, 20]),
            drift: random.pick(&[0, 1_000, 20_000]),
            retain: random.pick(&[20, 200, 100_000]),
            window_bytes: random.pick(&[2_000, 20_000, 1 << 20]),
            trim_every: random.pick(&[300 * MS, 2 * SECOND]),
            faulty: random.between(10, 30) * SECOND,
            faults: Faults::draw(random),
        }
    }
}

impl Faults {
    fn draw(random: &mut Random) -> Self {
        let mut every = |mean: Time| random.chance(500).then(|| random.around(mean).max(SECOND));
        Self {
            crash: every(6 * SECOND),
            blackout: every(15 * SECOND),
            disk_replaced: every(15 * SECOND),
            pause: every(8 * SECOND),
            cut: every(4 * SECOND),
            isolate: every(6 * SECOND),
            coup: every(6 * SECOND),
            disconnect: every(3 * SECOND),
            promote: every(6 * SECOND),
            switchover: every(6 * SECOND),
            membership: every(8 * SECOND),
            resync: every(12 * SECOND),
            late: random.pick(&[0, 20, 300]),
            force: random.pick(&[0, 0, 500]),
        }
    }
}

fn cluster(random: &mut Random) -> Vec<&'static str> {
    let clusters: [&[&str]; 6] = [
        &["shenzhen", "tianjin", "shanghai"],
        &["shenzhen", "tianjin", "shanghai"],
        &["shenzhen", "shenzhen", "tianjin"],
        &["shenzhen", "shenzhen", "tianjin", "tianjin", "shanghai"],
        &["shenzhen", "shenzhen", "tianjin", "tianjin"],
        &["shenzhen", "tianjin"],
    ];
    random.pick(&clusters).to_vec()
}

/// A level that the cluster can meet, whichever node is the master.
fn level(random: &mut Random, regions: &[&str]) -> AckLevel {
    let near = regions.len() == 4;
    match random.below(6) {
        0 => AckLevel::Local,
        1 => AckLevel::All,
        2 | 3 if near => AckLevel::Near,
        _ => AckLevel::Majority,
    }
}
