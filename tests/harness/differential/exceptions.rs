//! Where Larder answers otherwise than Redis on purpose. Each entry must be hit in a full run
//! against kvd, so that none outlives its reason.

use crate::reply::Reply;

/// One deliberate difference.
#[derive(Debug)]
pub struct Exception {
    /// What it is about.
    pub name: &'static str,
    /// Why Larder differs.
    pub reason: &'static str,
    applies: fn(command: &str, reference: &Reply, subject: &Reply) -> bool,
}

/// The table. Kept short on purpose.
static EXCEPTIONS: &[Exception] = &[Exception {
    name: "CLIENT SETINFO",
    reason: "Redis has it from 7.2 on; client libraries send it at every connect",
    applies: |command, reference, _| {
        command == "CLIENT SETINFO" && reference.text().starts_with(b"ERR unknown subcommand '")
    },
}];

/// All deliberate differences.
pub fn exceptions() -> &'static [Exception] {
    EXCEPTIONS
}

/// How often each was met, in the order of [`exceptions`].
#[derive(Clone, Debug)]
pub struct ExceptionHits(pub Vec<u64>);

impl Default for ExceptionHits {
    fn default() -> Self {
        Self(vec![0; EXCEPTIONS.len()])
    }
}

impl ExceptionHits {
    /// Whether an exception covers this difference; it is then counted.
    pub(crate) fn covers(&mut self, command: &str, reference: &Reply, subject: &Reply) -> bool {
        let found = EXCEPTIONS.iter().position(|e| (e.applies)(command, reference, subject));
        if let Some(at) = found {
            self.0[at] += 1;
        }
        found.is_some()
    }

    /// Adds another run's hits.
    pub fn add(&mut self, other: &Self) {
        for (sum, hits) in self.0.iter_mut().zip(&other.0) {
            *sum += hits;
        }
    }
}
