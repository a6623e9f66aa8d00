//! How many files and sockets the process may have open, and who gets them.

use larder_storage::state::TABLES_OPEN_MIN;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a node needs beside its clients and RocksDB's tables: the log, listeners, what replication
/// sends and receives.
pub(crate) const FILES_BESIDE: u64 = 1_024;
/// With tables of 64 MiB all of a state of 256 GiB is open.
const TABLES_OPEN_MAX: u32 = 4_096;

/// What there is for clients and for RocksDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Files {
    /// Clients that may be connected at once.
    pub clients: usize,
    /// Tables of the state that may be open at once.
    pub tables: u32,
}

impl Files {
    /// Raises the bound on open files as far as the system lets it, and divides what there is then:
    /// between the clients that are wanted, and tables as far as those leave them.
    pub fn claim(clients_wanted: usize) -> Self {
        let files = Self::divided(raise(), clients_wanted);
        if files.clients < clients_wanted {
            tracing::warn!(
                wanted = clients_wanted,
                fit = files.clients,
                "the system allows fewer open files than max_clients needs; raise `ulimit -n`"
            );
        }
        files
    }

    /// Divides so many.
    pub(crate) fn divided(open_max: u64, clients_wanted: usize) -> Self {
        let shared = open_max.saturating_sub(FILES_BESIDE);
        let left = shared.saturating_sub(clients_wanted as u64);
        let left = u32::try_from(left).unwrap_or(TABLES_OPEN_MAX);
        let tables = left.clamp(TABLES_OPEN_MIN, TABLES_OPEN_MAX);
        let fit = shared.saturating_sub(tables.into()).max(1);
        let clients = usize::try_from(fit).map_or(clients_wanted, |fit| fit.min(clients_wanted));
        Self { clients, tables }
    }
}

/// Raises the bound on open files to the most that the system allows, and answers what it is then.
fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let current = if raised.is_ok() { maximum } else { current };
    current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_come_first_and_tables_get_what_they_leave_within_bounds() {
        let divided = |open_max, wanted| {
            let Files { clients, tables } = Files::divided(open_max, wanted);
            (clients, tables)
        };
        assert_eq!(divided(u64::MAX, 10_000), (10_000, 4_096));
        assert_eq!(divided(15_120, 10_000), (10_000, 4_096));
        assert_eq!(divided(12_024, 10_000), (10_000, 1_000));
        assert_eq!(divided(11_280, 10_000), (10_000, 256));
        assert_eq!(divided(4_096, 10_000), (2_816, 256), "most of what there is");
        assert_eq!(divided(256, 10_000), (1, 256), "too little for anything: it tries");
    }
}
