//! INFO: the figures of the node in Redis' text format, with a section of Larder's own.
//!
//! Names that Redis has keep their meaning; what has no meaning here is left out rather than
//! invented. The `larder` section has the watermarks and what a loss of power can cost.

use std::{fmt::Write as _, sync::atomic::Ordering};

use larder_config::Durability;
use larder_storage::Watermarks;

use crate::{
    clock::wall_ms,
    node::{Node, Phase},
    process::Process,
    replica::{Duty, Replica},
};

/// The version of Redis whose commands these are.
const REDIS_VERSION: &str = "7.0.15";

type Section = fn(&Node, &mut String);

/// Name, heading and content of every section, and whether plain INFO has it.
const SECTIONS: [(&str, &str, Section, bool); 10] = [
    ("server", "Server", server, true),
    ("clients", "Clients", clients, true),
    ("memory", "Memory", memory, true),
    ("persistence", "Persistence", persistence, true),
    ("stats", "Stats", stats, true),
    ("replication", "Replication", replication, true),
    ("cpu", "CPU", cpu, true),
    ("commandstats", "Commandstats", command_stats, false),
    ("keyspace", "Keyspace", keyspace, true),
    ("larder", "Larder", larder, true),
];

/// The sections with these lower-case names; those of plain INFO for none. `all` and `everything`
/// name all, `default` those of plain INFO, and unknown names nothing.
pub fn render(node: &Node, names: &[String]) -> String {
    let mut text = String::new();
    for (name, heading, content, is_default) in SECTIONS {
        let is_wanted = names.is_empty() && is_default
            || names.iter().any(|wanted| match wanted.as_str() {
                "all" | "everything" => true,
                "default" => is_default,
                wanted => wanted == name,
            });
        if is_wanted {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            let _ = write!(text, "# {heading}\r\n");
            content(node, &mut text);
        }
    }
    text
}

/// One line; writing to a String cannot fail.
macro_rules! line {
    ($out:expr, $name:literal, $value:expr) => {
        let _ = write!($out, concat!($name, ":{}\r\n"), $value);
    };
}

fn server(node: &Node, out: &mut String) {
    let uptime = node.uptime().as_secs();
    line!(out, "redis_version", REDIS_VERSION);
    line!(out, "redis_mode", "standalone");
    line!(out, "larder_version", env!("CARGO_PKG_VERSION"));
    line!(out, "os", std::env::consts::OS);
    line!(out, "arch_bits", usize::BITS);
    line!(out, "process_id", std::process::id());
    line!(out, "run_id", node.run_id);
    line!(out, "tcp_port", node.resp.port());
    line!(out, "server_time_usec", wall_ms().saturating_mul(1_000));
    line!(out, "uptime_in_seconds", uptime);
    line!(out, "uptime_in_days", uptime / 86_400);
}

fn clients(node: &Node, out: &mut String) {
    line!(out, "connected_clients", node.clients.len());
    line!(out, "maxclients", node.settings.load().clients_max);
    line!(out, "blocked_clients", node.clients.blocked());
}

fn memory(node: &Node, out: &mut String) {
    let process = Process::now();
    let stats = node.stats();
    line!(out, "used_memory", process.resident_bytes);
    line!(out, "used_memory_rss", process.resident_bytes);
    line!(out, "used_memory_peak", process.resident_peak_bytes);
    line!(out, "maxmemory", 0);
    line!(out, "maxmemory_policy", "noeviction");
    line!(out, "mem_allocator", "mimalloc");
    line!(out, "larder_hot_cache_bytes", stats.hot_bytes);
    line!(out, "larder_unapplied_bytes", stats.unapplied_bytes);
}

fn persistence(node: &Node, out: &mut String) {
    let marks = node.watermarks();
    line!(out, "loading", u8::from(node.loading().is_some()));
    line!(out, "rdb_changes_since_last_save", marks.appended.saturating_sub(marks.persisted));
    line!(out, "rdb_last_save_time", node.saved_ms() / 1_000);
    line!(out, "aof_enabled", 1);
    line!(out, "aof_current_size", node.stats().log_bytes);
    let is_poisoned = node.store().is_some_and(|store| store.log().poisoned());
    line!(out, "aof_last_write_status", if is_poisoned { "err" } else { "ok" });
}

fn stats(node: &Node, out: &mut String) {
    let counters = &node.counters;
    let (calls, failures) = counters.totals();
    line!(out, "total_connections_received", node.clients.accepted());
    line!(out, "total_commands_processed", calls);
    line!(out, "total_net_input_bytes", counters.bytes_in.load(Ordering::Relaxed));
    line!(out, "total_net_output_bytes", counters.bytes_out.load(Ordering::Relaxed));
    line!(out, "rejected_connections", node.clients.refused());
    line!(out, "evicted_clients", node.clients.evicted());
    line!(out, "total_error_replies", failures);
    let authentications = counters.authentications_failed.load(Ordering::Relaxed);
    line!(out, "acl_access_denied_auth", authentications);
}

fn replication(node: &Node, out: &mut String) {
    let durable = node.watermarks().durable;
    line!(out, "role", if node.is_master() { "master" } else { "slave" });
    let Some(replica) = &node.replica else {
        line!(out, "connected_slaves", 0);
        line!(out, "master_replid", node.run_id);
        line!(out, "master_repl_offset", durable);
        return;
    };
    if !node.is_master() {
        slave(replica, durable, out);
    }
    let followers = node.followers();
    line!(out, "connected_slaves", followers.len());
    for (index, follower) in followers.iter().enumerate() {
        let (ip, port) = (follower.address.ip(), follower.address.port());
        let lag = follower.lag.map_or(0, |lag| lag.as_secs());
        let _ = write!(
            out,
            "slave{index}:ip={ip},port={port},state=online,offset={},lag={lag}\r\n",
            follower.acked
        );
    }
    // 40 digits, as Redis' clients expect them: those of the log, which is the same everywhere.
    if let Some(store) = node.store() {
        let _ = write!(out, "master_replid:{}{:08x}\r\n", store.log().id(), 0);
    }
    line!(out, "master_repl_offset", durable);
    larder_replication(replica, out);
}

fn slave(replica: &Replica, durable: u64, out: &mut String) {
    let duty = replica.duty();
    let master = match &**duty {
        Duty::Slave { master } => master.as_ref().and_then(|master| replica.resp_of(master)),
        _ => None,
    };
    line!(out, "master_host", master.map_or_else(String::new, |master| master.ip().to_string()));
    line!(out, "master_port", master.map_or(0, |master| master.port()));
    let may_read = replica.driver.may_read();
    line!(out, "master_link_status", if master.is_some() && may_read { "up" } else { "down" });
    let staleness = replica.driver.staleness();
    line!(out, "master_last_io_seconds_ago", staleness.map_or(-1, |stale| stale.as_secs() as i64));
    line!(out, "master_sync_in_progress", u8::from(!may_read));
    line!(out, "slave_repl_offset", durable);
    line!(out, "slave_read_only", 1);
}

/// What Redis has no word for.
fn larder_replication(replica: &Replica, out: &mut String) {
    line!(out, "larder_node", replica.node.id);
    line!(out, "larder_region", replica.node.region);
    line!(out, "larder_role", replica.duty().name());
    line!(out, "larder_level", replica.level);
    line!(out, "larder_ack_timeout_ms", replica.ack_timeout.as_millis());
    if let Some(status) = replica.status() {
        line!(out, "larder_term", status.term);
        if let Some(lease) = status.lease_left {
            line!(out, "larder_lease_ms_left", lease.as_millis());
        }
    }
    if let Some(staleness) = replica.driver.staleness() {
        line!(out, "larder_lag_ms", staleness.as_millis());
    }
}

fn cpu(_: &Node, out: &mut String) {
    let process = Process::now();
    let _ = write!(out, "used_cpu_sys:{:.6}\r\n", process.system_seconds);
    let _ = write!(out, "used_cpu_user:{:.6}\r\n", process.user_seconds);
}

fn command_stats(node: &Node, out: &mut String) {
    for count in node.counters.commands() {
        let (name, calls, failures) = (count.command.name, count.calls, count.failures);
        let _ = write!(out, "cmdstat_{name}:calls={calls},failed_calls={failures}\r\n");
    }
}

/// RocksDB's own estimate: it counts deleted and expired keys until they are compacted, and hash
/// fields beside keys. DBSIZE counts exactly.
fn keyspace(node: &Node, out: &mut String) {
    let keys = node.store().and_then(|store| Some(store.database().ok()?.stats().keys));
    let keys = keys.unwrap_or(0);
    if keys > 0 {
        let _ = write!(out, "db0:keys={keys},expires=0,avg_ttl=0\r\n");
    }
}

fn larder(node: &Node, out: &mut String) {
    let stats = node.stats();
    let Watermarks { appended, durable, committed, visible, applied, persisted, trimmed } =
        node.watermarks();
    if let Some(store) = node.store() {
        line!(out, "log_id", store.log().id());
    }
    line!(out, "log_appended_seq", appended);
    line!(out, "log_durable_seq", durable);
    line!(out, "log_committed_seq", committed);
    line!(out, "log_visible_seq", visible);
    line!(out, "state_applied_seq", applied);
    line!(out, "state_persisted_seq", persisted);
    line!(out, "log_trimmed_seq", trimmed);
    line!(out, "log_bytes", stats.log_bytes);
    line!(out, "state_unapplied_records", stats.unapplied_records);
    line!(out, "state_unapplied_changes", stats.unapplied_changes);
    line!(out, "state_unapplied_bytes", stats.unapplied_bytes);
    line!(out, "state_pauses_ms", stats.paused.as_millis());
    line!(out, "state_layers", stats.layers);
    line!(out, "hot_cache_bytes", stats.hot_bytes);
    line!(out, "hot_cache_hits", stats.hot_hits);
    line!(out, "hot_cache_misses", stats.hot_misses);
    let durability = node.config.namespace.durability;
    line!(out, "durability", durability);
    let loss_ms = match durability {
        Durability::Fsync => 0,
        Durability::Interval(interval) => interval.as_millis(),
    };
    line!(out, "power_loss_window_ms", loss_ms);
    let phase = match node.phase() {
        Phase::Starting => "starting",
        Phase::Serving => "serving",
        Phase::Draining => "draining",
    };
    line!(out, "phase", phase);
    let Some(shard) = node.shard() else { return };
    line!(out, "state_status", shard.store().failure().unwrap_or("ok"));
    let opening = shard.opening();
    line!(out, "opening_replayed_records", opening.replayed_records);
    line!(out, "opening_torn_bytes", opening.torn_bytes);
    line!(out, "opening_ms", opening.took.as_millis());
}
