//! A node: what all of its connections share.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};
use larder_config::{Config, ConfigError};
use larder_replication::core::MemberState;
use larder_storage::{Store, StoreStats, Watermarks};
use larder_types::SequenceNumber;
use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    budget::Budget,
    clients::Clients,
    clock::wall_ms,
    command::{Command, table},
    replica::Replica,
    settings::Settings,
    shard::{Place, Shard},
};

/// What all connections share.
pub struct Node {
    /// The configuration that the node was started with.
    pub config: Config,
    /// What CONFIG SET can change.
    pub settings: ArcSwap<Settings>,
    /// Who is connected.
    pub clients: Arc<Clients>,
    /// What the requests of all clients take.
    pub requests: Arc<Budget>,
    /// What their replies take.
    pub replies: Arc<Budget>,
    /// What was done since the start.
    pub counters: Counters,
    /// Its replication; nothing on a single node.
    pub replica: Option<Arc<Replica>>,
    /// Where clients connect: the configured address with the port that was taken.
    pub resp: SocketAddr,
    /// 40 random hexadecimal digits, as Redis' clients expect them.
    pub run_id: String,
    /// When the node was started, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    shard: Place,
    started: Instant,
    phase: AtomicU8,
    saves: Mutex<Saves>,
}

/// When the state was last saved: BGSAVE and LASTSAVE.
struct Saves {
    /// When what is on disk was asked for, in milliseconds since the Unix epoch.
    done_ms: u64,
    /// The last save asked for, while it is not known to be on disk: the record that it goes up to,
    /// and when it was asked for.
    asked: Option<(Option<SequenceNumber>, u64)>,
}

/// A slave that follows this master.
#[derive(Clone, Copy, Debug)]
pub struct Follower {
    /// Where its clients connect.
    pub address: SocketAddr,
    /// The last record that it acknowledged; 0 for none.
    pub acked: u64,
    /// How late its readers are.
    pub lag: Option<Duration>,
}

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// The store is not open yet.
    Starting = 0,
    /// Clients are served.
    Serving = 1,
    /// No client is taken any more; those there are may finish.
    Draining = 2,
}

impl Node {
    /// A node that starts.
    ///
    /// # Errors
    /// When the password's file cannot be used.
    pub fn new(
        config: Config,
        shard: Place,
        replica: Option<Arc<Replica>>,
        resp: SocketAddr,
    ) -> Result<Self, ConfigError> {
        let mut random = StdRng::from_os_rng();
        let run_id = (0..5).map(|_| format!("{:08x}", random.random::<u32>())).collect();
        let now_ms = wall_ms();
        Ok(Self {
            settings: ArcSwap::from_pointee(Settings::new(&config)?),
            requests: Budget::new("requests", config.limits.requests_bytes.as_usize()),
            replies: Budget::new("replies", config.limits.replies_bytes.as_usize()),
            config,
            clients: Arc::default(),
            counters: Counters::new(),
            shard,
            replica,
            resp,
            run_id,
            started_ms: now_ms,
            started: Instant::now(),
            phase: AtomicU8::new(Phase::Starting as u8),
            saves: Mutex::new(Saves { done_ms: now_ms, asked: None }),
        })
    }

    /// The shard; `None` until its store was opened for the first time, for which only a replica that
    /// is loading lets clients wait.
    pub fn shard(&self) -> Option<&Arc<Shard>> {
        self.shard.get()
    }

    /// The shard's store as it is now, for figures.
    pub fn store(&self) -> Option<Guard<Arc<Store>>> {
        self.shard().map(|shard| shard.store())
    }

    /// Where the store's watermarks stand; all at 0 without a store.
    pub fn watermarks(&self) -> Watermarks {
        self.store().map_or_else(Watermarks::default, |store| store.watermarks())
    }

    /// The store's figures; all 0 without one.
    pub fn stats(&self) -> StoreStats {
        self.store().map_or_else(StoreStats::default, |store| store.stats())
    }

    /// What commands that need the store are refused with; `None` while it is open.
    pub fn loading(&self) -> Option<Cow<'static, str>> {
        self.replica.as_ref()?.loading()
    }

    /// The slaves that follow this master, with where their clients connect.
    pub fn followers(&self) -> Vec<Follower> {
        let Some(replica) = self.replica.as_ref().filter(|replica| replica.duty().is_master())
        else {
            return Vec::new();
        };
        let Some(status) = replica.status() else { return Vec::new() };
        let following = status.members.iter().filter(|member| {
            matches!(member.state, MemberState::Streaming | MemberState::CatchingUp)
        });
        following
            .filter_map(|member| {
                let address = replica.resp_of(&member.node)?;
                let acked = member.acked.map_or(0, |at| at.seq.as_u64());
                Some(Follower { address, acked, lag: member.lag })
            })
            .collect()
    }

    /// Whether clients write here.
    pub fn is_master(&self) -> bool {
        self.replica.as_ref().is_none_or(|replica| replica.duty().is_master())
    }

    /// How long ago the node was started.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Where the node is in its life.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Draining,
        }
    }

    /// Moves the node on in its life.
    pub fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    /// How many clients may be connected at once.
    pub fn clients_max(&self) -> usize {
        self.settings.load().clients_max
    }

    /// Counts from nothing again: CONFIG RESETSTAT.
    pub fn reset_counts(&self) {
        self.counters.reset();
        self.clients.reset_counts();
    }

    /// When what is on disk was asked for by BGSAVE, or the node was started: LASTSAVE. In
    /// milliseconds since the Unix epoch.
    pub fn saved_ms(&self) -> u64 {
        let persisted = SequenceNumber::new(self.watermarks().persisted);
        let mut saves = self.saves.lock();
        if let Some((_, asked_ms)) = saves.asked.take_if(|(last, _)| *last <= persisted) {
            saves.done_ms = asked_ms;
        }
        saves.done_ms
    }

    /// Notes that at this wall clock everything up to `last` was asked to be saved; `None` if all
    /// of it is on disk already.
    pub fn note_save(&self, last: Option<SequenceNumber>, at_ms: u64) {
        self.saves.lock().asked = Some((last, at_ms));
    }
}

/// What was done since the start, or since CONFIG RESETSTAT. Each number is right by itself; two
/// of them may be of slightly different moments.
pub struct Counters {
    /// Failed attempts to authenticate.
    pub authentications_failed: AtomicU64,
    /// Bytes of replies.
    pub bytes_out: AtomicU64,
    /// Bytes of requests.
    pub bytes_in: AtomicU64,
    /// By a command's position in the table.
    commands: Box<[CommandCounters]>,
}

#[derive(Default)]
struct CommandCounters {
    calls: AtomicU64,
    failures: AtomicU64,
}

/// How often one command ran.
#[derive(Clone, Copy)]
pub struct CommandCount {
    /// Which.
    pub command: &'static Command,
    /// How often.
    pub calls: u64,
    /// How often of these it was refused.
    pub failures: u64,
}

impl Counters {
    fn new() -> Self {
        Self {
            authentications_failed: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            commands: table().iter().map(|_| CommandCounters::default()).collect(),
        }
    }

    /// Adds bytes that were read from and written to clients.
    pub fn count_bytes(&self, read: u64, written: u64) {
        if read > 0 {
            self.bytes_in.fetch_add(read, Ordering::Relaxed);
        }
        if written > 0 {
            self.bytes_out.fetch_add(written, Ordering::Relaxed);
        }
    }

    /// Adds runs of one command.
    pub fn count_calls(&self, command: &'static Command, calls: u64, failures: u64) {
        let Some(counters) = self.commands.get(command.position()) else { return };
        counters.calls.fetch_add(calls, Ordering::Relaxed);
        if failures > 0 {
            counters.failures.fetch_add(failures, Ordering::Relaxed);
        }
    }

    /// How often each command ran that did.
    pub fn commands(&self) -> impl Iterator<Item = CommandCount> {
        table().iter().zip(&self.commands).filter_map(|(command, counters)| {
            let calls = counters.calls.load(Ordering::Relaxed);
            let failures = counters.failures.load(Ordering::Relaxed);
            (calls > 0).then_some(CommandCount { command, calls, failures })
        })
    }

    /// All commands together: how often they ran, and how often of these they were refused.
    pub fn totals(&self) -> (u64, u64) {
        self.commands().fold((0, 0), |(calls, failures), count| {
            (calls + count.calls, failures + count.failures)
        })
    }

    fn reset(&self) {
        let shared = [&self.authentications_failed, &self.bytes_in, &self.bytes_out];
        let commands = self.commands.iter().flat_map(|row| [&row.calls, &row.failures]);
        for counter in shared.into_iter().chain(commands) {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::lookup;

    #[test]
    fn runs_are_counted_by_command_until_they_are_reset() {
        let counters = Counters::new();
        let get = lookup(b"GET").expect("GET is a command");
        let set = lookup(b"set").expect("SET is a command");
        counters.count_calls(get, 3, 1);
        counters.count_calls(set, 2, 0);
        assert_eq!(counters.totals(), (5, 1));
        let names: Vec<_> = counters.commands().map(|count| count.command.name).collect();
        assert_eq!(names.len(), 2);
        assert!(names.contains(&"get") && names.contains(&"set"));
        counters.reset();
        assert_eq!(counters.totals(), (0, 0));
    }
}
