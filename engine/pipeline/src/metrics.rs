//! Counters of the pipeline, in the Prometheus data model. Labels are bounded: store names, partitions, steps and codes
//! that plugins declared; never anything from an event.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use millrace_delta::MaintenanceCounts;
use millrace_plugin_host::Dropped;
use millrace_rows::DeadLetter;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::costs::Costs;
use crate::keyspace::KeyspaceStats;
use crate::log::LogStats;
use crate::progress::{JobProgress, PartitionState};
use crate::status::Status;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreLabel {
    store: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabel {
    step: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeadLabel {
    step: String,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// The pipeline's counters.
pub struct Metrics {
    events: Family<OutcomeLabel, Counter>,
    slices: Family<OutcomeLabel, Counter>,
    batches: Family<OutcomeLabel, Counter>,
    records: Counter,
    rows: Counter,
    dropped: Family<DeadLabel, Counter>,
    dead: Family<DeadLabel, Counter>,
    failures: Counter,
    fuel: Counter,
    retries: Family<StoreLabel, Counter>,
    remade: Family<StoreLabel, Counter>,
    gave_way: Family<StoreLabel, Counter<f64, AtomicU64>>,
    commits: Family<StoreLabel, Histogram, fn() -> Histogram>,
    costs: Costs,
}

/// Buckets from 1 ms to 16 s.
fn commit_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// What became of an event at the ingest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IngestOutcome {
    /// Durable in the log.
    Accepted,
    /// Was in the log already.
    Duplicate,
    /// Refused as bad input.
    Refused,
    /// The log could not take it.
    Failed,
}

/// Where a batch of a job came from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BatchOutcome {
    /// Read and transformed.
    Made,
    /// Taken from the other store's job.
    Shared,
    /// Taken from what was staged.
    Staged,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            events: Family::default(),
            slices: Family::default(),
            batches: Family::default(),
            records: Counter::default(),
            rows: Counter::default(),
            dropped: Family::default(),
            dead: Family::default(),
            failures: Counter::default(),
            fuel: Counter::default(),
            retries: Family::default(),
            remade: Family::default(),
            gave_way: Family::default(),
            commits: Family::new_with_constructor(commit_seconds),
            costs: Costs::default(),
        }
    }
}

impl Metrics {
    fn register(&self, registry: &mut Registry) {
        registry.register("ingest_events", "Events at the ingest, by outcome", self.events.clone());
        registry.register(
            "slices",
            "Slices that a store asked for: computed, or found in the cache",
            self.slices.clone(),
        );
        registry.register(
            "remade_batches",
            "Batches that a store's job took: made, shared with the other store's job, or staged before",
            self.batches.clone(),
        );
        registry.register("transformed_records", "Log records that went through the chain", self.records.clone());
        registry.register("transformed_rows", "Rows that came out of the chain", self.rows.clone());
        registry.register(
            "dropped_records",
            "Records that a plugin dropped on purpose, by step and code",
            self.dropped.clone(),
        );
        registry.register("dead_letters", "Records that reached no store, by step and code", self.dead.clone());
        registry.register("plugin_failures", "Failures with a message in the protected buffer", self.failures.clone());
        registry.register("fuel", "Fuel that plugins used", self.fuel.clone());
        registry.register("store_retries", "Times a store's loop began again after an error", self.retries.clone());
        registry.register(
            "remade_records",
            "Records of which a store's rows were made again for a correction",
            self.remade.clone(),
        );
        registry.register_with_unit(
            "jobs_gave_way",
            "Time that corrections waited since live rows of the store lagged",
            Unit::Seconds,
            self.gave_way.clone(),
        );
        registry.register_with_unit("store_commit", "Time of a store's commit", Unit::Seconds, self.commits.clone());
    }

    pub(crate) fn ingested(&self, outcome: IngestOutcome, events: u64) {
        let outcome = match outcome {
            IngestOutcome::Accepted => "accepted",
            IngestOutcome::Duplicate => "duplicate",
            IngestOutcome::Refused => "refused",
            IngestOutcome::Failed => "failed",
        };
        self.events.get_or_create(&OutcomeLabel { outcome }).inc_by(events);
    }

    pub(crate) fn slice_requested(&self, computed: bool) {
        let outcome = if computed { "computed" } else { "cached" };
        self.slices.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    pub(crate) fn batch_remade(&self, outcome: BatchOutcome) {
        let outcome = match outcome {
            BatchOutcome::Made => "made",
            BatchOutcome::Shared => "shared",
            BatchOutcome::Staged => "staged",
        };
        self.batches.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    pub(crate) fn slice_computed(
        &self,
        records: u64,
        rows: u64,
        dead: &[DeadLetter],
        dropped: &[Dropped],
        failures: u64,
        fuel: u64,
    ) {
        self.records.inc_by(records);
        self.rows.inc_by(rows);
        for dropped in dropped {
            let label = DeadLabel { step: dropped.step.to_string(), code: dropped.code.to_string() };
            self.dropped.get_or_create(&label).inc_by(dropped.records);
        }
        self.failures.inc_by(failures);
        self.fuel.inc_by(fuel);
        for dead in dead {
            let label = DeadLabel { step: dead.step.clone(), code: dead.code.clone() };
            self.dead.get_or_create(&label).inc();
        }
    }

    /// What each plugin cost.
    pub fn costs(&self) -> &Costs {
        &self.costs
    }

    pub(crate) fn store_committed(&self, store: &str, took: Duration) {
        self.commits.get_or_create(&StoreLabel { store: store.to_owned() }).observe(took.as_secs_f64());
    }

    pub(crate) fn remade(&self, store: &str, records: u64) {
        self.remade.get_or_create(&StoreLabel { store: store.to_owned() }).inc_by(records);
    }

    pub(crate) fn gave_way(&self, store: &str, waited: Duration) {
        self.gave_way.get_or_create(&StoreLabel { store: store.to_owned() }).inc_by(waited.as_secs_f64());
    }

    pub(crate) fn store_retried(&self, store: &str) {
        self.retries.get_or_create(&StoreLabel { store: store.to_owned() }).inc();
    }
}

/// Values that are read when metrics are asked for.
pub(crate) struct Gauges {
    pub(crate) cached_bytes: u64,
    pub(crate) shared_bytes: u64,
    /// Bytes of files of staged corrections.
    pub(crate) staged_bytes: u64,
    pub(crate) ingest_bytes: u64,
    pub(crate) dedup_events: u64,
    pub(crate) log: LogStats,
    pub(crate) keyspace: KeyspaceStats,
    pub(crate) table: MaintenanceCounts,
    /// Entries, bytes and suppressed lines of the protected buffer.
    pub(crate) diagnostics: (u64, u64, u64),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartitionLabel {
    partition: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StorePartitionLabel {
    store: &'static str,
    partition: u32,
}

impl Metrics {
    /// Everything as OpenMetrics text.
    pub(crate) fn text(&self, status: &Status, gauges: &Gauges) -> String {
        let mut registry = Registry::with_prefix("millrace");
        self.register(&mut registry);
        let mut gauge = |name: &str, help: &str, value: u64| {
            let gauge: Gauge = Gauge::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        };
        gauge("slice_cache_bytes", "Bytes of transformed slices kept for the other store", gauges.cached_bytes);
        gauge("shared_batch_bytes", "Bytes of batches made again and kept for the other store", gauges.shared_bytes);
        gauge("staged_bytes", "Bytes of files of staged corrections", gauges.staged_bytes);
        gauge("ingest_in_flight_bytes", "Payload bytes being appended", gauges.ingest_bytes);
        gauge("dedup_events", "Events in the de-duplication window", gauges.dedup_events);
        gauge("resident_bytes", "Resident memory of the process", resident_bytes());
        gauge("chain_paused", "1 while the chain is paused", u64::from(status.paused.is_some()));
        gauge("revision", "Highest revision of the timeline", status.revision);

        of_log(&mut registry, &gauges.log);
        let up = u64::from(status.log.problem.is_none());
        let log_up: Gauge = Gauge::default();
        log_up.set(up as i64);
        registry.register("log_up", "0 while the log does not answer", log_up);
        parts(&mut registry, gauges);
        self.plugins(&mut registry, gauges);

        let (first, end) = (Family::<PartitionLabel, Gauge>::default(), Family::<PartitionLabel, Gauge>::default());
        for (partition, bounds) in (0..).zip(&status.log.partitions) {
            first.get_or_create(&PartitionLabel { partition }).set(bounds.first as i64);
            end.get_or_create(&PartitionLabel { partition }).set(bounds.end as i64);
        }
        registry.register("log_first_offset", "First offset stored", first);
        registry.register("log_end_offset", "Offset that the next record gets", end);

        let lag_events = Family::<StorePartitionLabel, Gauge>::default();
        let lag_seconds = Family::<StorePartitionLabel, Gauge<f64, AtomicU64>>::default();
        let stopped = Family::<StorePartitionLabel, Gauge>::default();
        let left = Family::<StoreLabel, Gauge>::default();
        let stuck = Family::<StoreLabel, Gauge>::default();
        for (store, status) in &status.stores {
            let label = StoreLabel { store: (*store).to_owned() };
            let offsets: u64 = status.jobs.iter().map(JobProgress::offsets_left).sum();
            left.get_or_create(&label).set(offsets as i64);
            let stand = status.jobs.iter().filter(|job| job.problem.is_some()).count();
            stuck.get_or_create(&label).set(stand as i64);
            for partition in &status.partitions {
                let label = StorePartitionLabel { store, partition: partition.partition };
                lag_events.get_or_create(&label).set(partition.lag_events as i64);
                lag_seconds.get_or_create(&label).set(partition.lag_seconds);
                let is_stopped = matches!(partition.state, PartitionState::Stopped { .. });
                stopped.get_or_create(&label).set(i64::from(is_stopped));
            }
        }
        registry.register("store_lag_events", "Events in the log and not in the store", lag_events);
        registry.register("store_lag_seconds", "Age in the log of the oldest of them", lag_seconds);
        registry.register("jobs_left_events", "Events that corrections and rebuilds have still to make again", left);
        registry.register("jobs_stuck", "Corrections and rebuilds that do not go on", stuck);
        registry.register("store_stopped", "1 where a store's partition waits for an operator", stopped);

        let mut text = String::new();
        match encode(&mut text, &registry) {
            Ok(()) => text,
            // A String takes everything.
            Err(error) => format!("# {error}\n"),
        }
    }
}

impl Metrics {
    /// What plugins cost, and what they said.
    fn plugins(&self, registry: &mut Registry, gauges: &Gauges) {
        let calls = Family::<StepLabel, Counter>::default();
        let rows = Family::<StepLabel, Counter>::default();
        let fuel = Family::<StepLabel, Counter>::default();
        let seconds = Family::<StepLabel, Counter<f64, AtomicU64>>::default();
        for (step, cost) in self.costs.snapshot() {
            let label = StepLabel { step };
            calls.get_or_create(&label).inc_by(cost.calls);
            rows.get_or_create(&label).inc_by(cost.rows_in);
            fuel.get_or_create(&label).inc_by(cost.fuel);
            seconds.get_or_create(&label).inc_by(cost.seconds);
        }
        registry.register("plugin_calls", "Calls of plugins", calls);
        registry.register("plugin_rows", "Rows that came to plugins", rows);
        registry.register("plugin_fuel", "Fuel of plugins, by step", fuel);
        registry.register_with_unit("plugin", "Time in plugins", Unit::Seconds, seconds);
        let (entries, bytes, suppressed) = gauges.diagnostics;
        for (name, help, value) in [
            ("diagnostics_entries", "Failures and log lines in the protected buffer", entries),
            ("diagnostics_bytes", "Bytes of their text", bytes),
        ] {
            let gauge: Gauge = Gauge::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        }
        let counter: Counter = Counter::default();
        counter.inc_by(suppressed);
        registry.register("plugin_log_lines_suppressed", "Log lines of plugins over their rate", counter);
    }
}

/// What keyspace and table say of themselves.
fn parts(registry: &mut Registry, gauges: &Gauges) {
    let mut counter = |name: &str, help: &str, value: u64| {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    };
    counter("table_checkpoints", "Checkpoints of the Delta table", gauges.table.checkpoints);
    counter("table_orphans_removed", "Files that no log entry mentions, removed", gauges.table.orphans_removed);
    counter("table_compactions", "Commits that put files together", gauges.table.compactions);
    counter("table_files_compacted", "Files that were put together", gauges.table.files_compacted);
    counter("table_maintenance_failures", "Runs of the table's maintenance that failed", gauges.table.failures);
    keyspace(registry, gauges.keyspace);
}

/// What a keyspace says of itself. A cluster has its own monitoring: of it only what this process did.
fn keyspace(registry: &mut Registry, stats: KeyspaceStats) {
    let (gauges, counters): (Numbers, Numbers) = match stats {
        KeyspaceStats::Embedded(stats) => {
            let up = u64::from(stats.is_some());
            let stats = stats.unwrap_or_default();
            let gauges = vec![
                ("keyspace_up", "0 while the keyspace is closed after a failed write", up),
                ("keyspace_disk_bytes", "Bytes of journals and tables", stats.disk_bytes),
                ("keyspace_write_buffer_bytes", "Bytes in write buffers", stats.write_buffer_bytes),
                ("keyspace_cache_bytes", "Bytes in the block cache", stats.cache_bytes),
                ("keyspace_full_write_buffers", "Full write buffers: commits wait at 2", stats.full_write_buffers),
                ("keyspace_top_tables", "Tables that wait for a merge: commits wait at 16", stats.top_tables),
                ("keyspace_merges", "Merges of tables under way", stats.merges),
            ];
            let counters = vec![
                ("keyspace_commits", "Batches committed", stats.commits),
                ("keyspace_conflicts", "Batches refused by a compare", stats.conflicts),
                ("keyspace_fsyncs", "Calls of fsync for commits", stats.fsyncs),
                ("keyspace_reopens", "Times that the files were opened again after a failed write", stats.reopens),
            ];
            (gauges, counters)
        }
        #[cfg(feature = "foundationdb")]
        KeyspaceStats::FoundationDb(stats) => {
            let counters = vec![
                ("keyspace_commits", "Batches committed", stats.commits),
                ("keyspace_committed_bytes", "Bytes of committed batches", stats.committed_bytes),
                ("keyspace_conflicts", "Batches refused by a compare", stats.conflicts),
                ("keyspace_retries", "Commits and snapshots that were tried once more", stats.retries),
                ("keyspace_unknown", "Commits whose outcome was not known", stats.unknown),
            ];
            (Vec::new(), counters)
        }
        KeyspaceStats::Shared => (Vec::new(), Vec::new()),
    };
    numbers(registry, gauges, counters);
}

type Numbers = Vec<(&'static str, &'static str, u64)>;

/// Registers what stands and what grows, each as name, help and value.
fn numbers(registry: &mut Registry, gauges: Numbers, counters: Numbers) {
    for (name, help, value) in gauges {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    for (name, help, value) in counters {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
}

/// What the log says of itself: as name, help and value, what stands and what grows.
fn of_log(registry: &mut Registry, stats: &LogStats) {
    let (gauges, counters): (Numbers, Numbers) = match stats {
        LogStats::Embedded(stats) => {
            let sum = |of: fn(&millrace_log::embedded::PartitionStats) -> u64| stats.partitions.iter().map(of).sum();
            let gauges = vec![
                ("log_bytes", "Bytes of all segments", stats.bytes),
                ("log_queue_bytes", "Bytes of appends that wait to be written", stats.queue_bytes as u64),
                ("log_segments", "Segments", sum(|p| p.segments)),
                ("log_closed_partitions", "Partitions that take no more appends", sum(|p| u64::from(p.closed))),
            ];
            let counters = vec![
                ("log_appends", "Appends acknowledged", sum(|p| p.appends)),
                ("log_frames", "Group commits written", sum(|p| p.frames)),
                ("log_fsyncs", "Calls of fsync on segments", sum(|p| p.fsyncs)),
                ("log_trimmed_segments", "Segments trimmed", sum(|p| p.trimmed)),
                ("log_trimmed_early", "Segments trimmed before their age, for the disk budget", stats.trimmed_early),
            ];
            (gauges, counters)
        }
        #[cfg(feature = "iggy")]
        LogStats::Iggy(stats) => {
            let gauges = vec![("log_queue_bytes", "Bytes of appends that wait to be written", stats.queue_bytes)];
            let counters = vec![
                ("log_appends", "Appends acknowledged", stats.appends),
                ("log_frames", "Group commits written", stats.batches),
                ("log_unknown", "Batches that had no answer", stats.unknown),
                ("log_unknown_found", "Of those, batches that were found in the log", stats.found),
                ("log_sent_again", "Batches that were sent again, since they were not there", stats.sent_again),
                ("log_connections", "Connections made to the log's server", stats.connections),
                ("log_unreadable_receipts", "Records whose receipt can't be read", stats.unreadable_receipts),
            ];
            (gauges, counters)
        }
        LogStats::Shared => (Vec::new(), Vec::new()),
    };
    numbers(registry, gauges, counters);
}

/// Resident memory of this process; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split_whitespace().nth(1)?.parse::<u64>().ok());
    // Linux tells in pages; all our platforms have pages of 4 KiB.
    pages.unwrap_or(0) * 4096
}
