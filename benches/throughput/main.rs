//! What each part costs, as events a second of processor time and as a ratio to a baseline in the same run.
//!
//! ```text
//! cargo bench --bench throughput [-- EVENTS [HISTORY_EVENTS]]
//! ```
//!
//! Times are processor seconds of the whole process (all threads), so that other work on the machine does not count; the
//! whole way is shown by the clock too. EVENTS is 200,000 by default. With HISTORY_EVENTS the newest-100 query is timed on
//! a history of that many events.

mod events;
mod measure;
mod native;
mod plugins;
mod whole;

use std::error::Error;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use millrace_decode::Decoder;
use millrace_delta::{Compression, DeltaStore, Options, encode_only};
use millrace_history::HistoryStore;
use millrace_keyspace::embedded::EmbeddedKeyspace;
use millrace_log::Record;
use millrace_pipeline::stock;
use millrace_pipeline::transform::{Segment, transform};
use millrace_plugin_host::{Chain, HostOptions, Limits, PluginHost, StepSpec};
use millrace_rows::canonical::RowEncoder;
use millrace_rows::{Cursor, LogId, Slice, Store};
use serde_json::json;

use crate::measure::{Meter, Took};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Records in a slice, as the engine cuts them.
const BATCH: usize = 4096;
/// Times that the chain runs over all events, natively and in WebAssembly.
const ROUNDS: usize = 5;
pub(crate) const LOG: LogId = LogId([1; 16]);

impl std::ops::AddAssign for Took {
    fn add_assign(&mut self, more: Self) {
        self.processor += more.processor;
        self.clock += more.clock;
    }
}

pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Took)> {
    let meter = Meter::start();
    let done = work()?;
    Ok((done, meter.stop()))
}

/// One line: events a second of a processor, MB/s, and the ratio to a baseline that did the same work.
pub(crate) fn line(name: &str, events: usize, bytes: usize, took: Took, baseline: Option<(&str, Took)>) {
    let seconds = took.processor.as_secs_f64().max(0.01);
    let ratio = baseline
        .map_or_else(String::new, |(what, base)| format!("{:>6.2}x of {what}", base.processor.as_secs_f64() / seconds));
    println!(
        "{name:<44} {:>10.0} events/s per core {:>8.1} MB/s  {ratio}",
        events as f64 / seconds,
        bytes as f64 / 1e6 / seconds
    );
}

fn slices(records: &[Record], chain: &Arc<Chain>) -> Result<Vec<Slice>> {
    let mut slices = Vec::new();
    for batch in records.chunks(BATCH) {
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else { continue };
        let segments = [Segment::of(0..u64::MAX, 1, chain.clone())];
        let done = transform(&Decoder::default(), &segments, LOG, 0, batch)?;
        slices.push(Slice {
            partition: 0,
            first: first.offset,
            cursor: Cursor { log: LOG, next: last.offset + 1, mark: last.mark() },
            applied: 1,
            rows: done.rows,
            dead: done.dead,
            read: batch.len() as u64,
            dropped: done.dropped,
            marks: batch.iter().map(Record::mark).collect(),
        });
    }
    Ok(slices)
}

/// The configurations of the three steps, for both the components and the native plugins.
pub(crate) fn configs() -> [String; 3] {
    [
        json!({"key": "0123456789abcdef0123456789abcdef"}).to_string(),
        json!({}).to_string(),
        json!({"rules": [{"app": "shop-old", "to_path": "properties.hw_id"}]}).to_string(),
    ]
}

fn chain(host: &PluginHost) -> Result<Arc<Chain>> {
    let mut steps = Vec::new();
    for (wasm, config) in [stock::PII_SCRUB, stock::ENRICH_USER_AGENT, stock::REWRITE_DEVICE_ID].iter().zip(configs()) {
        steps.push(StepSpec::new(host.load(wasm)?, config, Limits::default()));
    }
    Ok(Arc::new(Chain::new(host, steps)?))
}

async fn fill(mut store: impl Store, slices: Vec<Slice>, per_commit: usize) -> Result<()> {
    store.load().await?;
    store.take_in(1, None).await?;
    let mut staged = 0;
    for slice in slices {
        staged += slice.rows.num_rows();
        store.stage(slice).await?;
        if staged >= per_commit {
            store.commit().await?;
            staged = 0;
        }
    }
    store.commit().await?;
    Ok(())
}

fn main() -> Result<()> {
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let events = numbers.first().copied().unwrap_or(200_000);
    let records = events::records(events);
    let bytes: usize = records.iter().map(|record| record.payload.len()).sum();
    println!("{events} events of {} bytes, in batches of {BATCH}\n", bytes / events.max(1));

    let (_, parse) = timed(|| {
        for record in &records {
            std::hint::black_box(serde_json::from_slice::<serde_json::Value>(&record.payload)?);
        }
        Ok(())
    })?;
    let decoder = Decoder::default();
    let (batches, decode) = timed(|| {
        Ok(records.chunks(BATCH).map(|batch| decoder.decode(batch, 0, LOG).batch).collect::<Vec<RecordBatch>>())
    })?;
    line("decode, JSON to Arrow", events, bytes, decode, Some(("serde_json::Value parsing", parse)));

    let cache = tempfile::tempdir()?;
    let host = PluginHost::new(HostOptions { cache_dir: Some(cache.path().join("aot")), ..HostOptions::default() })?;
    let chain = chain(&host)?;
    let natively = native::Chain::new()?;
    // Once to warm caches and pools, then for the record.
    for batch in batches.iter().take(4) {
        chain.run(batch.clone())?;
        natively.run(batch)?;
    }
    // In turns, so that a machine that slows down slows both.
    let (mut native, mut wasm) = (Took::default(), Took::default());
    for _ in 0..ROUNDS {
        native += timed(|| batches.iter().try_for_each(|batch| natively.run(batch).map(drop)))?.1;
        wasm += timed(|| Ok(batches.iter().try_for_each(|batch| chain.run(batch.clone()).map(drop))?))?.1;
    }
    let (run, run_bytes) = (events * ROUNDS, bytes * ROUNDS);
    line("three-plugin chain, native", run, run_bytes, native, None);
    line("three-plugin chain, WebAssembly, fuel on", run, run_bytes, wasm, Some(("the same source native", native)));
    plugins::components(&batches[0])?;

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    plugins::upload_to_active(&runtime)?;
    let slices = slices(&records, &chain)?;
    let dir = tempfile::tempdir()?;
    let (_, encode) = timed(|| {
        let schema = slices[0].rows.schema();
        let mut writer = encode_only(std::io::sink(), schema, Compression::Zstd)?;
        for slice in &slices {
            writer.write(&slice.rows)?;
        }
        writer.close()?;
        Ok(())
    })?;
    let delta =
        runtime.block_on(DeltaStore::open(&dir.path().join("table").display().to_string(), Options::default()))?;
    let (_, stored) = timed(|| runtime.block_on(fill(delta, slices.clone(), 100_000)))?;
    line("delta store, stage and commit", events, bytes, stored, Some(("parquet encoding alone", encode)));

    let (encoded, canonical) = timed(|| {
        let (mut buffer, mut encoded) = (Vec::new(), 0);
        for slice in &slices {
            let encoder = RowEncoder::new(&slice.rows)?;
            for row in 0..slice.rows.num_rows() {
                std::hint::black_box(encoder.hash(row, &mut buffer));
                encoded += buffer.len();
            }
        }
        Ok(encoded)
    })?;
    println!("{:<44} {:>10.0} bytes", "a row of the history, its key apart", encoded as f64 / events as f64);
    let keyspace = Arc::new(runtime.block_on(EmbeddedKeyspace::open(dir.path().join("keys"), Default::default()))?);
    let history = HistoryStore::new(keyspace.clone(), "bench");
    let (_, stored) = timed(|| runtime.block_on(fill(history, slices.clone(), 10_000)))?;
    line("history store, stage and commit", events, bytes, stored, Some(("row encoding alone", canonical)));
    runtime.block_on(keyspace.close());
    drop((slices, batches));

    whole::run(&runtime, &records)?;
    if let Some(history_events) = numbers.get(1) {
        whole::newest(&runtime, *history_events)?;
    }
    Ok(())
}
