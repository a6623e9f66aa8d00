//! Arguments of the commands for operators: `kv ca`, `replica`, `shard` and `log`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use larder_types::{ClusterId, NodeId};

/// `kv ca`.
#[derive(Debug, Subcommand)]
pub(crate) enum Ca {
    /// Make a certificate authority for a new cluster
    #[command(after_help = "\
Examples:
  kv ca init --cluster shop --dir ca

Writes ca.pem, which every node needs, and ca.key, which no node needs: whoever has the key can make
nodes of this cluster. Keep it off the nodes. Files that exist are never overwritten.")]
    Init {
        /// The cluster's name: lower case letters, digits and dashes, at most 63
        #[arg(long, value_name = "NAME")]
        cluster: ClusterId,
        /// Where to write ca.pem and ca.key
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Make the certificate of a node
    Issue(Issue),
}

/// Arguments of `kv ca issue`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  kv ca issue tianjin-1 --dir ca --out certificates
  kv ca issue tianjin-1 --dir ca --out renewed --days 90

Writes NODE.pem and NODE.key. The node needs both and ca.pem: the keys certificate, key and ca of
[node] name them. Files that exist are never overwritten.")]
pub(crate) struct Issue {
    /// The node's name, as [node] id of its configuration has it
    #[arg(value_name = "NODE")]
    pub(crate) node: NodeId,
    /// Where ca.pem and ca.key are
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Where to write the certificate and its key
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// How long it is valid, days
    #[arg(long, value_name = "N", default_value_t = 365)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: u32,
}

/// `kv replica`.
#[derive(Debug, Subcommand)]
pub(crate) enum Replica {
    /// List the replicas: region, state, lag
    #[command(after_help = "\
Examples:
  kv --admin db1:9121 replica list
  kv -o json replica list | jq '.members[] | {node, lag_ms}'

The master knows how far every replica is; a slave knows what it has been told.
  lag records, lag bytes   what the replica does not have durable yet of what the master has
  lag ms                   how old what it serves is, by its own probe of the master
  session                  how long the connection has lasted
  full syncs               how often it took a snapshot instead of the log, since this master's epoch began
  detached                 so far behind that the log is no longer kept for it: a snapshot is needed")]
    List,
    /// Make a node a replica: one change at a time, sent to the master
    #[command(after_help = "\
Examples:
  kv --admin db1:9121 replica add shanghai-1
  kv --admin db1:9121 replica add report-1 --no-vote

--no-vote takes the vote of a replica that has one, and is refused where the level could not be met
then. It holds until the node is added with a vote, also where its disk is replaced.")]
    Add {
        /// The node
        node: NodeId,
        /// It counts for no ack level and gives no lease
        #[arg(long)]
        no_vote: bool,
    },
    /// Take a node out of the replicas
    #[command(after_help = "\
Examples:
  kv --admin db1:9121 replica remove shanghai-1

From then on it counts for no ack level, and the log is not kept for it. Its data stay on its disk.")]
    Remove {
        /// The node
        node: NodeId,
    },
    /// Give a replica everything anew, by a snapshot
    #[command(after_help = "\
Examples:
  kv --admin db1:9121 replica resync shanghai-1

For a replica that was set aside because its state differs, or whose log contradicts the master's (an
alert says so). What it has is set aside on its disk. Until the snapshot is installed it serves
what it had, or nothing where that is known to be wrong.")]
    Resync {
        /// The node
        node: NodeId,
    },
}

/// `kv shard`.
#[derive(Debug, Subcommand)]
pub(crate) enum Shard {
    /// Have the node at --admin make a new master, because the old one is lost
    Promote(Promote),
    /// Hand over from the master at --admin to another node, losing nothing
    #[command(after_help = "\
Examples:
  kv --admin db1:9121 shard switchover tianjin-1

The master waits for up to 1 s until the other may take over, refuses writes, waits until the other
has everything, steps down and names it. Where the other has not everything within 500 ms, that is
undone: the master takes writes again. From the step-down on nothing is undone, and writes are
refused until there is a master: usually the other, after two round trips. Where it does not come
within 1.5 s, the old one has a master elected, which takes up to 9 s more with a lease of 3 s.
When the master is lost, use kv shard promote.")]
    Switchover {
        /// The node that is to be master
        node: NodeId,
    },
}

/// Arguments of `kv shard promote`.
#[derive(Args, Clone, Debug, Default)]
#[command(after_help = "\
Examples:
  kv --admin db2:9121 shard promote
  kv --admin db2:9121 shard promote --yes
  kv --admin db2:9121 shard promote --force            shows what may be lost, asks for the term
  kv --admin db2:9121 shard promote --force --term 7

The new master is the replica whose log reaches furthest: the node at --admin, where several do.
A promotion that could lose an acknowledged write is refused, and says how many records. With --force
it is done all the same once the new term has been typed in. What the old master has beyond is not
gone: when it comes back it exports these records (kv log parted list, at its own admin port).
Exit code 1 when it is refused.")]
pub(crate) struct Promote {
    /// Promote even where acknowledged writes may be lost; asks for the term, or takes --term
    #[arg(long)]
    pub(crate) force: bool,
    /// The term that the refused promotion named
    #[arg(long, value_name = "N", requires = "force")]
    pub(crate) term: Option<u64>,
    /// Do not ask before a promotion that loses nothing
    #[arg(long)]
    pub(crate) yes: bool,
}

/// `kv log`.
#[derive(Debug, Subcommand)]
pub(crate) enum Log {
    /// Records that this node wrote and that the log of its cluster does not have
    #[command(subcommand)]
    Parted(Parted),
}

/// `kv log parted`.
#[derive(Debug, Subcommand)]
pub(crate) enum Parted {
    /// List the exports at this node
    #[command(after_help = "\
Examples:
  kv --admin db1:9121 log parted list

When an old master comes back after a promotion, what only it had is exported and taken out of its
log: nothing that was acknowledged disappears in silence.")]
    List,
    /// Print the records of an export
    #[command(after_help = "Examples:\n  kv --admin db1:9121 log parted show NAME")]
    Show {
        /// The export's name, from the list
        name: String,
    },
    /// Write the records of an export again, as new writes at the master
    #[command(after_help = "\
Examples:
  kv --admin db1:9121 log parted reapply NAME --dry-run
  kv --admin db1:9121 log parted reapply NAME
  kv --admin db1:9121 log parted reapply NAME --force

Keys that were written since are overwritten. Refused where nobody can tell whether the records are in
the master's log already (in_common is false in the list): they may be older than what it has. Look at
them first (log parted show). With --force all of them are written even so.
Exit code 1 when it is refused.")]
    Reapply {
        /// The export's name, from the list
        name: String,
        /// Say what would be written, and write nothing
        #[arg(long)]
        dry_run: bool,
        /// Write even what may be in the master's log already, and undo newer writes
        #[arg(long)]
        force: bool,
    },
}
