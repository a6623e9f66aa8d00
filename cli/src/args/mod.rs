//! The command line: every option, its default, its help.

mod cluster;
mod playground;

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use serde::Serialize;

pub(crate) use cluster::{Ca, Issue, Log, Parted, Promote, Replica, Shard};
pub(crate) use playground::{Lag, Level, Order, Playground, Run, Wan};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the key is missing, a condition (--nx, --xx) does not hold, or the server answered with an error
  2  the arguments are wrong
  3  cannot connect: nothing was sent
  4  the connection was lost or the time was over: a write may or may not have taken place
  5  the server wants other credentials
  6  a file, standard input or standard output failed
  7  a process of the playground could not be started, or was not ready in time";

const EXAMPLES: &str = "\
Examples:
  kv set greeting hello --ex 60        store a value for a minute
  kv get greeting                      print it
  kv -o json get greeting              {\"key\":\"greeting\",\"value\":\"hello\"}
  kv scan --match 'user:*' --long      list keys with type and time to live
  kv --server db1:6379 ping            is it there, and how fast does it answer
  kv bench --rate 20000 --seconds 30   load at a fixed rate, latency from the intended start
  kv playground                        three regions on this machine, to play with
  kv --admin db1:9121 replica list     who has which part of the log, and how late

JSON: text that is UTF-8 stands under its name (\"key\", \"value\"); other bytes stand as base64
under the name with _base64 appended (\"key_base64\", \"value_base64\").";

/// The tool for people and scripts of Larder, a key-value store that speaks the Redis protocol.
/// Works with any server of that protocol.
#[derive(Debug, Parser)]
#[command(name = "kv", version, after_help = EXIT_CODES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which server, as whom, and how to print.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Server and output")]
pub(crate) struct Target {
    /// The server's address; an IPv6 address stands in brackets
    #[arg(long, global = true, value_name = "HOST:PORT", env = "LARDER_SERVER")]
    #[arg(default_value = "127.0.0.1:6379")]
    pub(crate) server: ServerAddress,
    /// The admin port of a node, for replica, shard and log
    #[arg(long, global = true, value_name = "HOST:PORT", env = "LARDER_ADMIN")]
    #[arg(default_value = "127.0.0.1:9121")]
    pub(crate) admin: ServerAddress,
    /// The password. Others on this machine can read arguments: prefer the environment
    #[arg(long, global = true, value_name = "PASSWORD", env = "LARDER_PASSWORD")]
    #[arg(hide_env_values = true)]
    password: Option<Password>,
    /// The user, where the server knows more than one
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// How long to wait for a connection, and then for each reply, milliseconds
    #[arg(long, global = true, value_name = "MS", default_value_t = 5000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub(crate) timeout_ms: u64,
    /// How to print
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

impl Target {
    /// How long to wait for a connection or a reply.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// The password, where one is given. An empty one counts as none: that is what an empty
    /// variable in the environment means.
    pub(crate) fn password(&self) -> Option<&[u8]> {
        self.password.as_ref().map(|password| password.0.as_bytes()).filter(|p| !p.is_empty())
    }
}

/// A server's address: a name or number, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerAddress {
    /// Name or number, without brackets.
    pub(crate) host: String,
    /// TCP port.
    pub(crate) port: u16,
}

impl FromStr for ServerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or("expected HOST:PORT")?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if bracketed.is_none() && host.contains(':') {
            return Err(format!("an IPv6 address stands in brackets: [{host}]:{port}"));
        }
        let host = bracketed.unwrap_or(host);
        if host.is_empty() {
            return Err("the host is missing: expected HOST:PORT".to_owned());
        }
        let port = port.parse().map_err(|_| format!("'{port}' is no port (1 to 65535)"))?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A password. It is never printed.
#[derive(Clone)]
struct Password(String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl FromStr for Password {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people: text and tables
    Table,
    /// For programs: JSON, one document (for scan: one a line)
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the value of a key
    Get(Get),
    /// Store a value under a key
    Set(Set),
    /// Delete keys
    Del(Del),
    /// List keys
    Scan(Scan),
    /// Ask whether the server is there, and how long it takes to answer
    Ping,
    /// Print what the server says about itself
    #[command(after_help = "Examples:\n  kv info\n  kv info memory\n  kv -o json info replication")]
    Info {
        /// One section alone, such as server, memory, persistence or stats
        section: Option<String>,
    },
    /// Put a load on the server and measure
    Bench(Bench),
    /// Make the certificates of a cluster
    #[command(subcommand)]
    Ca(Ca),
    /// See and change the replicas of the log
    #[command(subcommand)]
    Replica(Replica),
    /// Make another node the master
    #[command(subcommand)]
    Shard(Shard),
    /// See what the log of a node has set aside
    #[command(subcommand)]
    Log(Log),
    /// Three regions on this machine, with distances between them
    Playground(Playground),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  kv completion bash > /etc/bash_completion.d/kv")]
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// Arguments of `kv get`.
#[derive(Args, Debug)]
#[command(after_help = "\
On a terminal, control characters and bytes that are no UTF-8 are shown escaped, and a line end is
added. Elsewhere, and with --raw, exactly the bytes of the value are printed.

Examples:
  kv get user:1
  kv get photo > photo.jpg
  kv -o json get photo | jq -r .value_base64 | base64 -d

Exit code 1 when the key is missing.")]
pub(crate) struct Get {
    /// The key
    pub(crate) key: OsString,
    /// Print exactly the bytes of the value, on a terminal too
    #[arg(long)]
    pub(crate) raw: bool,
}

/// Arguments of `kv set`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("life").args(["ex", "px", "keepttl"]))]
#[command(group = ArgGroup::new("condition").args(["nx", "xx"]))]
#[command(group = ArgGroup::new("source").args(["value", "stdin"]).required(true))]
#[command(after_help = "\
Examples:
  kv set user:1 Ada
  kv set session:9 token --ex 3600
  kv set lock:job me --nx --px 5000     exit code 1 when another holds it
  kv set photo --stdin < photo.jpg      any bytes
  kv set offset -- --5                  a value that begins with dashes

Exit code 1 when --nx or --xx does not hold.")]
pub(crate) struct Set {
    /// The key
    pub(crate) key: OsString,
    /// The value
    #[arg(allow_negative_numbers = true)]
    pub(crate) value: Option<OsString>,
    /// Read the value from standard input, all of it, any bytes
    #[arg(long)]
    pub(crate) stdin: bool,
    /// Expire after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) ex: Option<u64>,
    /// Expire after so many milliseconds
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) px: Option<u64>,
    /// Keep the time to live that the key has
    #[arg(long)]
    pub(crate) keepttl: bool,
    /// Only when the key does not exist
    #[arg(long)]
    pub(crate) nx: bool,
    /// Only when the key exists
    #[arg(long)]
    pub(crate) xx: bool,
    /// Print the value that the key had before
    #[arg(long)]
    pub(crate) get: bool,
}

/// Arguments of `kv del`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  kv del user:1 user:2

Exit code 1 when none of the keys existed.")]
pub(crate) struct Del {
    /// The keys
    #[arg(required = true, value_name = "KEY")]
    pub(crate) keys: Vec<OsString>,
}

/// Arguments of `kv scan`.
#[derive(Args, Debug)]
#[command(after_help = "\
Keys come in no order. While others write, a key may be listed twice, and one that comes or goes
meanwhile may be listed or not; a key that is there all the time is listed.
On a terminal, keys are escaped as by get. Elsewhere they are printed as they are, one a line; where
keys may hold line ends, use -o json, which prints one JSON object a line.

Examples:
  kv scan --match 'user:*' --limit 20
  kv scan --type hash --long
  kv -o json scan | jq -r .key")]
pub(crate) struct Scan {
    /// Only keys that match this pattern (* ? [ab] and \\ to quote)
    #[arg(long = "match", value_name = "PATTERN")]
    pub(crate) pattern: Option<OsString>,
    /// About how many keys the server looks at for each request
    #[arg(long, value_name = "N", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) count: u64,
    /// Only keys of this type, such as string or hash
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<String>,
    /// Stop after so many keys
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Print type and time to live with each key, as a table
    #[arg(long)]
    pub(crate) long: bool,
}

/// Arguments of `kv bench`: a mix of GET and SET on keys key:000000000000 and up, chosen uniformly.
#[derive(Args, Clone, Debug, Serialize)]
#[command(after_help = "\
With a rate, the load is an open loop: each connection has a schedule, and latency runs from the
moment a request was due, sent late or not. What waits because the server (or the connection's
pipeline) is busy is counted as waiting, as its user would. With --rate 0 each connection keeps its
pipeline full as fast as the server answers; latency then is service time, which says nothing about
how long a user would have waited.

Examples:
  kv bench --populate --rate 20000 --seconds 30 --runs 5
  kv bench --rate 0 --connections 50 --pipeline 16 --read-ratio 0
  kv bench --rate 5000 --value-size 1024 --json result.json

The keys that it writes stay. Exit code 1 when the server answered with errors or a connection was
lost; the report is printed all the same.")]
pub(crate) struct Bench {
    /// Requests a second, all connections together; 0 for as fast as possible
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(..=100_000_000))]
    pub(crate) rate: u64,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) connections: u64,
    /// Requests without reply that a connection may have at most
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) pipeline: u64,
    /// The share of requests that are GET, 0 to 1; the others are SET
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, value_parser = share)]
    pub(crate) read_ratio: f64,
    /// Bytes of each value; they are random
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u64).range(..=16 << 20))]
    pub(crate) value_size: u64,
    /// How many different keys
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub(crate) keys: u64,
    /// How long each run measures, seconds
    #[arg(long, value_name = "S", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,
    /// How many runs
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) runs: u64,
    /// How long each run loads the server before it measures, seconds
    #[arg(long, value_name = "S", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub(crate) warmup_seconds: u64,
    /// Where the random numbers begin: the same seed asks for the same keys
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Threads that make the load; they compete with a server on the same machine
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) threads: u64,
    /// Write every key once before the first run, so that reads find something
    #[arg(long)]
    pub(crate) populate: bool,
    /// Write settings and all runs to this file, as JSON
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) json: Option<PathBuf>,
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| format!("'{text}' is no number"))?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("expected 0 to 1".to_owned()) }
}

/// The bytes of an argument, whatever they are.
pub(crate) fn bytes_of(argument: &OsString) -> &[u8] {
    argument.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn addresses_are_split_at_the_port() {
        let parsed = |text: &str| text.parse::<ServerAddress>().map(|a| (a.host, a.port));
        assert_eq!(parsed("db:1"), Ok(("db".to_owned(), 1)));
        assert_eq!(parsed("[::1]:6379"), Ok(("::1".to_owned(), 6379)));
        for wrong in ["", "db", "db:", ":1", "db:70000", "::1:6379", "db:x"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
        let address: ServerAddress = "[::1]:7".parse().unwrap();
        assert_eq!(address.to_string(), "[::1]:7");
    }

    #[test]
    fn a_password_is_not_shown_by_debug() {
        let cli = Cli::try_parse_from(["kv", "--password", "s3cret", "ping"]).unwrap();
        assert_eq!(cli.target.password(), Some(&b"s3cret"[..]));
        assert!(!format!("{cli:?}").contains("s3cret"));
    }

    #[test]
    fn a_negative_number_is_a_value() {
        let cli = Cli::try_parse_from(["kv", "set", "k", "-5", "-o", "json"]).unwrap();
        assert!(
            matches!(cli.command, Command::Set(set) if set.value.as_deref() == Some("-5".as_ref()))
        );
        assert_eq!(cli.target.output, Format::Json);
    }

    #[test]
    fn options_that_exclude_each_other_are_refused() {
        for wrong in [
            vec!["kv", "set", "k", "v", "--nx", "--xx"],
            vec!["kv", "set", "k", "v", "--ex", "1", "--px", "1"],
            vec!["kv", "set", "k", "v", "--ex", "1", "--keepttl"],
            vec!["kv", "set", "k", "v", "--stdin"],
            vec!["kv", "set", "k"],
            vec!["kv", "set", "k", "v", "--ex", "0"],
            vec!["kv", "del"],
            vec!["kv", "bench", "--read-ratio", "1.5"],
            vec!["kv", "bench", "--read-ratio", "NaN"],
            vec!["kv", "bench", "--connections", "0"],
        ] {
            assert!(Cli::try_parse_from(&wrong).is_err(), "{wrong:?}");
        }
    }
}
