//! Rows per second of stage + commit beside parquet encoding alone of the same batches, in one run.
//!
//! ```text
//! cargo run --release -p millrace-delta --example table_append [-- COMMITS [snappy]]
//! ```
//!
//! Commits have 20,000 rows of about 600 bytes. Encoding alone writes parquet with the same settings into memory. Both
//! are reported as wall time and as processor time, because a commit also waits for the disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, BooleanArray, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use millrace_delta::{Compression, DeltaStore, Options, encode_only};
use millrace_rows::schema::row_schema;
use millrace_rows::{ColumnType, Cursor, LogId, Mark, Slice, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const ROWS: u64 = 20_000;
const SEED: u64 = 7;

fn batch(random: &mut StdRng, first: u64) -> Result<RecordBatch, ArrowError> {
    let schema = row_schema(&[]);
    let base = 1_793_664_000_000_000 + first as i64 * 1_000;
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        let mut texts = |of: &mut dyn FnMut(&mut StdRng) -> Option<String>| -> ArrayRef {
            Arc::new(StringArray::from_iter((0..ROWS).map(|_| of(random))))
        };
        match field.name().as_str() {
            "event_id" => texts(&mut |r| Some(format!("{:032x}", r.random::<u128>()))),
            "device_id" => texts(&mut |r| Some(format!("d-{:016x}", r.random_range(0..50_000u64) * 7919))),
            "user_id" => texts(&mut |r| r.random_bool(0.4).then(|| format!("u{}", r.random_range(0..20_000)))),
            "session_id" => texts(&mut |r| Some(format!("s-{:012x}", r.random_range(0..90_000u64) * 104_729))),
            "url" => texts(&mut |r| Some(format!("https://shop.example/c/{}/p/{}", r.random_range(0..40), r.random_range(0..5_000)))),
            "ip" => texts(&mut |r| Some(format!("10.{}.{}.0", r.random::<u8>(), r.random::<u8>()))),
            "user_agent" => texts(&mut |r| {
                Some(format!("Mozilla/5.0 (Linux; Android {}; SM-A{}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0", r.random_range(9..15), r.random_range(10..99), r.random_range(100..140)))
            }),
            "properties" => texts(&mut |r| {
                Some(format!(
                    r#"{{"sku":"{:08x}","price":{}.{:02},"quantity":{},"list":"list-{}","position":{},"experiment":"{:x}"}}"#,
                    r.random::<u32>(), r.random_range(1..900), r.random_range(0..100), r.random_range(1..5),
                    r.random_range(0..30), r.random_range(0..60), r.random::<u64>(),
                ))
            }),
            "context" => texts(&mut |r| {
                Some(format!(r#"{{"library":{{"name":"analytics-android","version":"4.{}.1"}},"network":{{"wifi":{},"carrier":"c{}"}}}}"#, r.random_range(0..9), r.random_bool(0.5), r.random_range(0..30)))
            }),
            "envelope" => texts(&mut |_| Some(r#"{"integrations":{"All":true}}"#.to_owned())),
            "_offset" => Arc::new(Int64Array::from_iter_values(first as i64..(first + ROWS) as i64)),
            "_revision" => Arc::new(Int64Array::from_iter_values((0..ROWS).map(|_| 1))),
            name => match ColumnType::of(field.data_type()) {
                Some(ColumnType::Int64) => Arc::new(Int64Array::from_iter_values((0..ROWS).map(|_| 0))),
                Some(ColumnType::Timestamp) => {
                    let times = (0..ROWS as i64).map(|n| base + n * 500);
                    Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
                }
                Some(ColumnType::Bool) => Arc::new(BooleanArray::from_iter((0..ROWS).map(|_| Some(false)))),
                _ => texts(&mut |r| Some(format!("{name}-{}", r.random_range(0..12)))),
            },
        }
    });
    RecordBatch::try_new(schema.clone(), columns.collect())
}

/// Processor time of this process, all threads.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().unwrap_or("").split_whitespace().skip(11).take(2);
    Duration::from_millis(ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10)
}

struct Timed(Instant, Duration);

impl Timed {
    fn start() -> Self {
        Self(Instant::now(), processor_time())
    }

    fn report(&self, name: &str, rows: u64) -> (f64, f64) {
        let (wall, processor) = (self.0.elapsed().as_secs_f64(), (processor_time() - self.1).as_secs_f64());
        let (by_wall, by_processor) = (rows as f64 / wall, rows as f64 / processor);
        println!("{name:<16} {by_wall:>9.0} rows/s by wall time, {by_processor:>9.0} rows/s by processor time");
        (by_wall, by_processor)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let commits: u64 = arguments.next().map_or(Ok(100), |commits| commits.parse())?;
    let compression =
        if arguments.next().as_deref() == Some("snappy") { Compression::Snappy } else { Compression::Zstd };
    let mut random = StdRng::seed_from_u64(SEED);
    // A few batches, used again and again: making them costs more than writing them.
    let batches: Vec<RecordBatch> = (0..8).map(|n| batch(&mut random, n * ROWS)).collect::<Result<_, _>>()?;
    let text: usize = batches[0].columns().iter().map(|c| c.to_data().get_slice_memory_size().unwrap_or(0)).sum();
    println!("seed {SEED}, {commits} commits of {ROWS} rows of {} bytes, {compression:?}", text as u64 / ROWS);

    let alone = Timed::start();
    let mut encoded = 0;
    for n in 0..commits {
        let batch = &batches[n as usize % batches.len()];
        let mut writer = encode_only(Vec::new(), batch.schema(), compression)?;
        writer.write(batch)?;
        encoded += writer.into_inner()?.len();
    }
    println!("{} bytes a row in parquet", encoded as u64 / (commits * ROWS));
    let alone = alone.report("encoding alone", commits * ROWS);

    let directory = tempfile::tempdir_in(".")?;
    let options = Options { compression, ..Options::default() };
    let mut store = DeltaStore::open(directory.path().to_str().ok_or("path")?, options).await?;
    let log = LogId([1; 16]);
    let mut next = store.load().await?.cursors.get(&0).map_or(0, |cursor| cursor.next);
    let run = Timed::start();
    let mut slowest = Duration::ZERO;
    for n in 0..commits {
        let (first, end) = (next, next + ROWS);
        let slice = Slice {
            partition: 0,
            first,
            cursor: Cursor { log, next: end, mark: Mark::of(end.into(), 0) },
            applied: 0,
            rows: batches[n as usize % batches.len()].clone(),
            dead: Vec::new(),
            read: ROWS,
            marks: [].into(),
            dropped: 0,
        };
        let started = Instant::now();
        store.stage(slice).await?;
        next = store.commit().await?.cursors[&0].next;
        slowest = slowest.max(started.elapsed());
    }
    let run = run.report("stage + commit", commits * ROWS);
    println!("slowest commit {slowest:?}");
    println!("ratio {:.2} by wall time, {:.2} by processor time (bar 0.4)", run.0 / alone.0, run.1 / alone.1);
    Ok(())
}
