//! Parts of the suites that break things on purpose: stores on directories that outlive them,
//! their whole contents, and the faults themselves.

pub mod contents;
pub mod flips;
pub mod injected;
pub mod store;

use rand::{Rng, SeedableRng};

/// The seed of a run: `LARDER_SEED`, or one that has not been tried. Whoever uses it prints it.
pub fn seed() -> u64 {
    let given = std::env::var("LARDER_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| rand::rngs::StdRng::from_os_rng().random())
}
