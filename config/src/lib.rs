//! The configuration: what a file and the command line may say, its defaults, and what of it is
//! refused.
//!
//! Every key has a default, so that `kvd --data DIR --resp ADDR` needs no file. A key that is not
//! known is refused, because a misspelt bound is no bound. `deploy/kvd.toml` is the annotated
//! example; `kvd --print-default-config` prints the defaults.

mod cluster;
#[cfg(test)]
mod cluster_tests;
mod error;
mod filter;
mod kind;
mod password;
mod place;
pub mod tuning;
mod values;

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, path::PathBuf};

use larder_types::limits::{
    LAYER_BYTES_MAX, LOG_SEGMENTS_MAX, RECORD_BYTES_MAX, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX,
    UNAPPLIED_BYTES_MAX,
};
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

pub use cluster::{LabConfig, NodeConfig, PeerConfig, ReplicationConfig};
pub use error::ConfigError;
pub use password::Password;
pub use place::Source;
pub use values::{ByteSize, Durability, LogFormat};

/// A configuration file larger than this is not one.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Everything a node is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The data directory.
    pub data: PathBuf,
    /// Where clients of the Redis protocol connect.
    pub resp: SocketAddr,
    /// Where metrics and health checks are answered over HTTP, or nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<SocketAddr>,
    /// The password that clients must give.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requirepass: Option<String>,
    /// A file whose first line is that password, readable by its owner alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requirepass_file: Option<PathBuf>,
    /// Threads that serve connections; 0 for one a processor but one.
    pub threads: usize,
    /// Clients that may be connected at once.
    pub max_clients: usize,
    /// How long a stop waits for what clients have sent, in milliseconds.
    pub drain_ms: u64,
    /// The one namespace.
    pub namespace: NamespaceConfig,
    /// The log.
    pub log: LogConfig,
    /// The state.
    pub state: StateConfig,
    /// Bounds on what clients may make the node hold.
    pub limits: LimitsConfig,
    /// What is written to the standard error.
    pub tracing: TracingConfig,
    /// Who this node is in its cluster; nothing for a single node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeConfig>,
    /// When a write counts, and what is kept for followers.
    pub replication: ReplicationConfig,
    /// What only tests and drills may do.
    pub lab: LabConfig,
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NamespaceConfig {
    /// When a write counts as durable.
    pub durability: Durability,
}

/// The log of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A segment is sealed at this size.
    pub segment_bytes: ByteSize,
    /// Writes are refused while the disk has less than this free.
    pub reserve_bytes: ByteSize,
    /// The newest records are kept in memory up to this size.
    pub hot_tail_bytes: ByteSize,
}

/// The state of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateConfig {
    /// RocksDB's cache of blocks.
    pub block_cache_bytes: ByteSize,
    /// RocksDB's write buffers.
    pub write_buffer_bytes: ByteSize,
    /// The cache of hot values before it.
    pub hot_cache_bytes: ByteSize,
    /// Writes in flight are folded into RocksDB when so many bytes of log have gathered.
    pub layer_bytes: ByteSize,
    /// Writes wait while more of the log than this is not folded: with `layer_bytes` it bounds what a
    /// start must replay.
    pub unapplied_bytes_max: ByteSize,
}

/// Bounds on what clients may make the node hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Bytes of the commands queued in one transaction.
    pub transaction_bytes: ByteSize,
    /// Bytes that the requests of all clients may take together: what is being received, queued or
    /// executed.
    pub requests_bytes: ByteSize,
    /// Bytes that the replies of all clients may take together. Beyond it those are closed that hold
    /// most.
    pub replies_bytes: ByteSize,
}

/// What is written to the standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracingConfig {
    /// For people or for machines.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`, or directives of tracing's `EnvFilter`.
    pub level: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("/var/lib/larder"),
            resp: SocketAddr::from(([127, 0, 0, 1], 6379)),
            admin: None,
            requirepass: None,
            requirepass_file: None,
            threads: 0,
            max_clients: 10_000,
            drain_ms: 10_000,
            namespace: NamespaceConfig::default(),
            log: LogConfig::default(),
            state: StateConfig::default(),
            limits: LimitsConfig::default(),
            tracing: TracingConfig::default(),
            node: None,
            replication: ReplicationConfig::default(),
            lab: LabConfig::default(),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: ByteSize(SEGMENT_BYTES_DEFAULT),
            reserve_bytes: ByteSize(256 << 20),
            hot_tail_bytes: ByteSize(8 << 20),
        }
    }
}

impl Default for StateConfig {
    fn default() -> Self {
        Self {
            block_cache_bytes: ByteSize(256 << 20),
            write_buffer_bytes: ByteSize(128 << 20),
            hot_cache_bytes: ByteSize(256 << 20),
            layer_bytes: ByteSize(64 << 20),
            unapplied_bytes_max: ByteSize(256 << 20),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            transaction_bytes: ByteSize(16 << 20),
            requests_bytes: ByteSize(512 << 20),
            replies_bytes: ByteSize(1 << 30),
        }
    }
}

impl Default for TracingConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
    }
}

impl Config {
    /// Parses the text of a file that is called `name` in errors.
    ///
    /// # Errors
    /// With line, column and, where a key is not known, the closest one that is.
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| ConfigError::syntax(name, text, &error))
    }

    /// Checks what the types cannot: bounds, combinations, and the password's file.
    ///
    /// # Errors
    /// The first thing that is wrong, with the key to change.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let segment = self.log.segment_bytes.0;
        let record = RECORD_BYTES_MAX as u64;
        in_bounds("threads", self.threads as u64, 0, 1_024)?;
        in_bounds("max_clients", self.max_clients as u64, 1, 1_000_000)?;
        in_bounds("drain_ms", self.drain_ms, 0, 600_000)?;
        opens_in_time("log.segment_bytes", segment, 1 << 16, SEGMENT_BYTES_MAX)?;
        in_bounds("log.reserve_bytes", self.log.reserve_bytes.0, 0, 1 << 44)?;
        in_bounds("log.hot_tail_bytes", self.log.hot_tail_bytes.0, 0, 1 << 36)?;
        in_bounds("state.block_cache_bytes", self.state.block_cache_bytes.0, 1 << 20, 1 << 44)?;
        in_bounds("state.write_buffer_bytes", self.state.write_buffer_bytes.0, 1 << 20, 1 << 36)?;
        in_bounds("state.hot_cache_bytes", self.state.hot_cache_bytes.0, 0, 1 << 44)?;
        let StateConfig { layer_bytes: layer, unapplied_bytes_max: unapplied, .. } = &self.state;
        opens_in_time("state.layer_bytes", layer.0, 1 << 16, LAYER_BYTES_MAX)?;
        opens_in_time("state.unapplied_bytes_max", unapplied.0, layer.0, UNAPPLIED_BYTES_MAX)?;
        in_bounds("limits.transaction_bytes", self.limits.transaction_bytes.0, 1 << 10, record)?;
        in_bounds("limits.replies_bytes", self.limits.replies_bytes.0, 1 << 26, 1 << 44)?;
        in_bounds("limits.requests_bytes", self.limits.requests_bytes.0, 1 << 26, 1 << 44)?;
        cluster::validate(
            self.node.as_ref(),
            &self.replication,
            &self.lab,
            self.namespace.durability,
        )?;
        if self.node.is_some() {
            few_segments(segment, self.replication.retain_bytes_max.0)?;
        }
        self.filter()?;
        if self.admin.is_some_and(|admin| collide(admin, self.resp)) {
            return Err(ConfigError::invalid("admin", "resp has this port too; give it another"));
        }
        let password = self.password()?;
        for (key, address) in [("resp", Some(self.resp)), ("admin", self.admin)] {
            match address {
                Some(address) if password.is_none() && !address.ip().is_loopback() => {
                    return Err(ConfigError::Exposed { key, address });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The password that clients must give, from the configuration or its file; `None` for none.
    ///
    /// # Errors
    /// When both are given, or the file cannot be used.
    pub fn password(&self) -> Result<Option<Password>, ConfigError> {
        match (&self.requirepass, &self.requirepass_file) {
            (Some(_), Some(_)) => Err(ConfigError::invalid(
                "requirepass",
                "requirepass_file is given too; keep one of them",
            )),
            (Some(text), None) if text.is_empty() => Ok(None),
            (Some(text), None) => Ok(Some(Password::new(text.as_bytes()))),
            (None, Some(path)) => password::read(path).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// What is written to the standard error.
    ///
    /// # Errors
    /// When `tracing.level` is no such description.
    pub fn filter(&self) -> Result<EnvFilter, ConfigError> {
        filter::parse(&self.tracing.level)
            .map_err(|reason| ConfigError::invalid("tracing.level", reason))
    }

    /// The configuration as TOML, without the password.
    ///
    /// # Errors
    /// When a path is not valid UTF-8, which TOML cannot say.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        let mut shown = self.clone();
        if shown.requirepass.is_some() {
            shown.requirepass = Some("(hidden)".to_owned());
        }
        toml::to_string(&shown).map_err(|error| ConfigError::invalid("data", error.to_string()))
    }
}

/// Refuses a log kept for followers in more segments than a start can look at in time.
fn few_segments(segment: u64, retain: u64) -> Result<(), ConfigError> {
    let most = segment.saturating_mul(LOG_SEGMENTS_MAX);
    if retain <= most {
        return Ok(());
    }
    let reason = format!(
        "{retain} is more than {most}, {LOG_SEGMENTS_MAX} segments of log.segment_bytes = {segment}, up to \
         which a start after a crash takes less than 5 s; write \"{} MiB\" or less, or make the segments \
         larger",
        most >> 20
    );
    Err(ConfigError::invalid("replication.retain_bytes_max", reason))
}

/// Whether the two cannot both be listened on. Port 0 stands for any that is free.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let (one_ip, other_ip) = (one.ip(), other.ip());
    let same_ip = one_ip == other_ip || one_ip.is_unspecified() || other_ip.is_unspecified();
    same_ip && one.port() == other.port() && one.port() != 0
}

/// Keys that have no default, so that a default configuration does not show them.
const WITHOUT_DEFAULT: [(&str, &str); 15] = [
    ("", "admin"),
    ("", "requirepass"),
    ("", "requirepass_file"),
    ("node", "id"),
    ("node", "region"),
    ("node", "listen"),
    ("node", "ca"),
    ("node", "certificate"),
    ("node", "key"),
    ("node", "peers"),
    ("node.peers", "id"),
    ("node.peers", "region"),
    ("node.peers", "address"),
    ("node.peers", "resp"),
    ("replication", "first_master"),
];

/// Every key with its table, which is empty for those above all tables.
fn known_keys() -> Vec<(String, String)> {
    let without = WITHOUT_DEFAULT.map(|(table, key)| (table.to_owned(), key.to_owned()));
    let mut known = Vec::from(without);
    let defaults = toml::Table::try_from(Config::default()).unwrap_or_default();
    for (name, value) in defaults {
        match value {
            toml::Value::Table(table) => {
                known.extend(table.into_iter().map(|(key, _)| (name.clone(), key)));
            }
            _ => known.push((String::new(), name)),
        }
    }
    known
}

fn in_bounds(key: &'static str, value: u64, least: u64, most: u64) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::invalid(key, format!("{value} is not between {least} and {most}")))
}

/// The same, where beyond `most` what a start has to read may take longer than it should.
fn opens_in_time(key: &'static str, value: u64, least: u64, most: u64) -> Result<(), ConfigError> {
    if value <= most {
        return in_bounds(key, value, least, most);
    }
    let reason = format!(
        "{value} is more than {most}, up to which a start after a crash takes less than 5 s; write \
         \"{} MiB\" or less",
        most >> 20
    );
    Err(ConfigError::invalid(key, reason))
}
