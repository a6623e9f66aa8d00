//! The node's figures in Prometheus' text format: names end in their unit, and every watermark is
//! there.
//!
//! Nothing is counted for this: each scrape reads what the node and its store count anyway.

use std::{fmt, sync::Arc, sync::atomic::Ordering};

use larder_config::Durability;
use larder_replication::core::{MemberState, MemberStatus, Status};
use larder_storage::{Store, Watermarks};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::{
    admin::replication::lag_bytes,
    node::{Node, Phase},
    process::{self, Process},
};

/// The content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The figures of now.
///
/// # Errors
/// When the encoder refuses a figure, which would be a defect.
pub fn render(node: Arc<Node>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("larder");
    registry.register_collector(Box::new(NodeCollector(node)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

struct NodeCollector(Arc<Node>);

impl fmt::Debug for NodeCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeCollector")
    }
}

impl Collector for NodeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(&mut encoder);
        log(&self.0, &mut out)?;
        state(&self.0, &mut out)?;
        clients(&self.0, &mut out)?;
        replication(&self.0, &mut out)?;
        process(&self.0, &mut out)
    }
}

struct Out<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Out<'_, '_> {
    /// The encoder appends `_total` to the name.
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.put(name, help, &ConstCounter::new(value))
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.put(name, help, &ConstGauge::new(value))
    }

    fn put(&mut self, name: &str, help: &str, metric: &impl EncodeMetric) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, None, metric.metric_type())?;
        metric.encode(encoder)
    }

    /// A gauge for each value of the one label.
    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: &[(&str, f64)],
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (value, figure) in values {
            let labels = [(label, *value)];
            ConstGauge::new(*figure).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// A counter for each value of the one label.
    fn counters<'v>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl Iterator<Item = (&'v str, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value, count) in values {
            let labels = [(label, value)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn log(node: &Node, out: &mut Out<'_, '_>) -> fmt::Result {
    let Some(store) = node.store() else { return Ok(()) };
    let Watermarks { appended, durable, committed, visible, applied, persisted, trimmed } =
        store.watermarks();
    out.gauge("log_appended_seq", "Last record appended", appended)?;
    out.gauge("log_durable_seq", "Last record known to be on disk", durable)?;
    out.gauge("log_committed_seq", "Last record that counts", committed)?;
    out.gauge("log_visible_seq", "Last record that can be read", visible)?;
    out.gauge("state_applied_seq", "Last record folded into RocksDB", applied)?;
    out.gauge("state_persisted_seq", "Last record that RocksDB has on disk", persisted)?;
    out.gauge("log_trimmed_seq", "Last record that was trimmed", trimmed)?;
    let log = store.log();
    out.gauge("log_size_bytes", "Log segments on disk", log.bytes())?;
    out.gauge("log_segments", "Log segment files", log.segments().len() as u64)?;
    let poisoned = u64::from(log.poisoned());
    out.gauge("log_poisoned", "1 once an append or fsync failed", poisoned)?;
    let loss = match node.config.namespace.durability {
        Durability::Fsync => 0.0,
        Durability::Interval(interval) => interval.as_secs_f64(),
    };
    let help = "How much a loss of power can cost, 0 with durability \"fsync\"";
    out.put("log_power_loss_window_seconds", help, &ConstGauge::new(loss))?;
    out.put("log_fsync_seconds", "Duration of fsyncs of the log", &FsyncHistogram(&store))
}

fn state(node: &Node, out: &mut Out<'_, '_>) -> fmt::Result {
    let Some(shard) = node.shard() else { return Ok(()) };
    let store = shard.store();
    let stats = store.stats();
    let records = stats.unapplied_records;
    out.gauge("state_unapplied_records", "Records that RocksDB has not taken", records)?;
    let changes = stats.unapplied_changes;
    out.gauge("state_unapplied_changes", "Rows and fields that these put or delete", changes)?;
    let bytes = stats.unapplied_bytes;
    out.gauge("state_unapplied_bytes", "Bytes of log that RocksDB has not taken", bytes)?;
    let help = "Pauses before batches because the fold was behind";
    out.put("state_pauses_seconds", help, &ConstCounter::new(stats.paused.as_secs_f64()))?;
    out.gauge("state_layers", "Layers of writes in flight", stats.layers as u64)?;
    out.gauge("state_hot_cache_bytes", "Bytes in the cache of hot rows", stats.hot_bytes)?;
    out.counter("state_hot_cache_hits", "Reads that it answered", stats.hot_hits)?;
    out.counter("state_hot_cache_misses", "Reads that it passed on", stats.hot_misses)?;
    let failed = u64::from(store.failure().is_some());
    out.gauge(
        "state_failed",
        "1 once the fold has failed, until the state is opened again or the process ends",
        failed,
    )?;
    let reopened = shard.reopened();
    out.counter("state_reopened", "Times that it failed and was opened again", reopened)?;
    // While it is closed there is nothing to tell of it.
    let Ok(database) = store.database() else { return Ok(()) };
    let cached = database.options().cache_used_bytes() as u64;
    out.gauge("state_block_cache_bytes", "Bytes in RocksDB's cache of blocks", cached)?;
    let stats = database.stats();
    out.gauge("state_keys", "Rows and fields, by RocksDB's estimate", stats.keys)?;
    out.gauge("state_table_bytes", "Bytes of RocksDB's table files", stats.table_bytes)?;
    out.gauge("state_memtable_bytes", "Bytes not in table files yet", stats.memtable_bytes)?;
    let pending = stats.pending_compaction_bytes;
    out.gauge("state_pending_compaction_bytes", "Bytes that compactions rewrite next", pending)?;
    out.gauge("state_level0_files", "Table files that every read looks at", stats.level0_files)?;
    let errors = stats.background_errors;
    out.counter("state_background_errors", "Failed flushes and compactions", errors)?;
    let dropped = stats.dropped_by_filter;
    out.counter("state_filter_dropped", "Dead rows that compactions gave back", dropped)?;
    let clock = stats.filter_clock_ms as f64 / 1e3;
    let help = "The time by which compactions judge expiry, since the Unix epoch";
    out.put("state_filter_clock_seconds", help, &ConstGauge::new(clock))
}

fn clients(node: &Node, out: &mut Out<'_, '_>) -> fmt::Result {
    let counters = &node.counters;
    out.gauge("resp_clients", "Clients that are connected", node.clients.len() as u64)?;
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let taken = node.clients.accepted();
    out.counter("resp_connections", "Connections that were taken", taken)?;
    let refused = node.clients.refused();
    out.counter("resp_connections_refused", "Connections beyond max_clients", refused)?;
    let held = node.requests.held() as u64;
    out.gauge("resp_requests_bytes", "Of limits.requests_bytes, what is taken", held)?;
    let held = node.replies.held() as u64;
    out.gauge("resp_replies_bytes", "Of limits.replies_bytes, what is taken", held)?;
    let evicted = node.clients.evicted();
    out.counter("resp_evicted", "Clients closed because they held most replies", evicted)?;
    let failed = load(&counters.authentications_failed);
    out.counter("resp_authentications_failed", "Wrong passwords and users", failed)?;
    out.counter("resp_received_bytes", "Bytes of requests", load(&counters.bytes_in))?;
    out.counter("resp_sent_bytes", "Bytes of replies", load(&counters.bytes_out))?;
    out.counters(
        "resp_commands",
        "Commands that were run",
        "command",
        counters.commands().map(|count| (count.command.name, count.calls)),
    )?;
    out.counters(
        "resp_commands_failed",
        "Commands that were refused",
        "command",
        counters.commands().map(|count| (count.command.name, count.failures)),
    )
}

/// Nothing on a single node.
fn replication(node: &Node, out: &mut Out<'_, '_>) -> fmt::Result {
    let Some(replica) = &node.replica else { return Ok(()) };
    let is_master = u64::from(replica.duty().is_master());
    out.gauge("replication_master", "1 while this node is the master", is_master)?;
    let undecided = node.shard().map_or(0, |shard| shard.undecided()) + replica.unreached();
    out.counter(
        "replication_undecided",
        "Writes that did not reach their level in time",
        undecided,
    )?;
    let stats = replica.driver.stats();
    out.counter(
        "replication_sent_bytes",
        "Bytes sent to other nodes, as packed",
        stats.sent_bytes,
    )?;
    out.counter("replication_rewinds", "Times that this node's log had parted", stats.rewinds)?;
    let served = stats.snapshots_served;
    out.counter("replication_snapshots_served", "Snapshots given to other nodes", served)?;
    let taken = stats.snapshots_taken;
    out.counter("replication_snapshots_taken", "Snapshots taken from the master", taken)?;
    out.counter("replication_alerts", "Things that a human must know", stats.alerts)?;
    if let Some(staleness) = replica.driver.staleness() {
        let help = "How late readers of this slave may be";
        out.put("replication_lag_seconds", help, &ConstGauge::new(staleness.as_secs_f64()))?;
    }
    let Some(status) = replica.status() else { return Ok(()) };
    out.gauge("replication_term", "The newest term that is known", status.term.into())?;
    if let Some(lease) = status.lease_left {
        let help = "What is left of the master's lease";
        out.put("replication_lease_seconds", help, &ConstGauge::new(lease.as_secs_f64()))?;
    }
    members(node, &status, out)
}

/// How each member stands, as far as this node knows: a master knows all.
fn members(node: &Node, status: &Status, out: &mut Out<'_, '_>) -> fmt::Result {
    let of = |figure: &dyn Fn(&MemberStatus) -> Option<f64>| -> Vec<(&str, f64)> {
        let members = status.members.iter();
        members.filter_map(|member| Some((member.node.as_str(), figure(member)?))).collect()
    };
    let acked = of(&|member| member.acked.map(|acked| acked.seq.as_u64() as f64));
    let help = "Last record that it has made durable, as it has told";
    out.gauges("replication_member_acked_seq", help, "node", &acked)?;
    let records = of(&|member| member.lag_records.map(|records| records as f64));
    out.gauges("replication_member_lag_records", "Records that it lacks", "node", &records)?;
    let bytes = of(&|member| lag_bytes(node, status, member).map(|bytes| bytes as f64));
    out.gauges("replication_member_lag_bytes", "Bytes that it lacks, about", "node", &bytes)?;
    let lag = of(&|member| member.lag.map(|lag| lag.as_secs_f64()));
    out.gauges("replication_member_lag_seconds", "How late its readers are", "node", &lag)?;
    let session = of(&|member| member.session_age.map(|age| age.as_secs_f64()));
    let help = "How long it has followed without a break";
    out.gauges("replication_member_session_seconds", help, "node", &session)?;
    let full_syncs = of(&|member| Some(member.full_syncs as f64));
    let help = "Snapshots that it was given in this epoch";
    out.gauges("replication_member_full_syncs", help, "node", &full_syncs)?;
    let detached = of(&|member| Some(f64::from(u8::from(member.detached))));
    let help = "1 once it is further behind than the log is kept";
    out.gauges("replication_member_detached", help, "node", &detached)?;
    let streaming = of(&|member| {
        Some(f64::from(u8::from(matches!(
            member.state,
            MemberState::Streaming | MemberState::Master
        ))))
    });
    out.gauges(
        "replication_member_up",
        "1 while it has every record as it comes",
        "node",
        &streaming,
    )
}

fn process(node: &Node, out: &mut Out<'_, '_>) -> fmt::Result {
    let process = Process::now();
    let resident = process.resident_bytes;
    out.gauge("process_resident_memory_bytes", "Memory that is resident", resident)?;
    let seconds = process.user_seconds + process.system_seconds;
    out.put("process_cpu_seconds", "Processor time", &ConstCounter::new(seconds))?;
    out.gauge("process_open_files", "Open files and sockets", process::open_files())?;
    let uptime = node.uptime().as_secs_f64();
    out.put("uptime_seconds", "Time since the start", &ConstGauge::new(uptime))?;
    let ready = u64::from(node.phase() == Phase::Serving && node.loading().is_none());
    out.gauge("ready", "1 while clients are served", ready)?;
    let Some(opening) = node.shard().map(|shard| shard.opening()) else { return Ok(()) };
    let took = opening.took.as_secs_f64();
    out.put("opening_seconds", "How long opening the store took", &ConstGauge::new(took))?;
    let replayed = opening.replayed_records;
    out.gauge("opening_replayed_records", "Records that the start replayed", replayed)?;
    let torn = opening.torn_bytes;
    out.gauge("opening_torn_bytes", "Bytes cut from the log's end by the start", torn)
}

struct FsyncHistogram<'a>(&'a Store);

impl EncodeMetric for FsyncHistogram<'_> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let fsyncs = self.0.fsyncs();
        let (buckets, count) = fsync_buckets(&fsyncs.counts());
        let seconds = fsyncs.micros() as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// Upper bounds in seconds with their counts, and the sum of the counts. The store's bucket `i`
/// counts what took less than 2^i microseconds; its last one everything beyond.
fn fsync_buckets(counts: &[u64]) -> (Vec<(f64, u64)>, u64) {
    let last = counts.len().saturating_sub(1);
    let buckets = counts.iter().enumerate().map(|(index, &count)| {
        let bound =
            if index == last { f64::INFINITY } else { f64::from(1u32 << index.min(31)) / 1e6 };
        (bound, count)
    });
    (buckets.collect(), counts.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fsync_buckets_are_in_seconds_and_end_in_infinity() {
        let (buckets, count) = fsync_buckets(&[0, 1, 2, 3]);
        assert_eq!(count, 6);
        assert_eq!(buckets, [(1e-6, 0), (2e-6, 1), (4e-6, 2), (f64::INFINITY, 3)]);
    }
}
