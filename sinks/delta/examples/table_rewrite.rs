//! What corrections and compaction cost: time, and the most memory that the process had meanwhile.
//!
//! ```text
//! cargo run --release -p millrace-delta --example table_rewrite
//! ```
//!
//! A table of a million rows of one log partition and date gets 50,000 of them made again: once neighbours, once every
//! twentieth, so that all other rows are copied. That makes one file of the table,
//! of which the neighbours are made again. Then another table of 2,000 small files is compacted.

use std::time::{Duration, Instant};

use millrace_delta::{DeltaStore, Options};
use millrace_rows::{Job, Reason, Rewrite, Rewriter, Store, StoreError};

#[path = "../tests/common/mod.rs"]
#[allow(clippy::unwrap_used, reason = "the tests' way of making rows")]
mod common;

const ROWS: u64 = 1_000_000;

/// Processor time of this process, all threads.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().unwrap_or("").split_whitespace().skip(11).take(2);
    Duration::from_millis(ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10)
}

/// A line of /proc/self/status, in MiB.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 10
}

struct Timed(Instant, Duration, u64);

impl Timed {
    fn start() -> Self {
        // Sets the high-water mark back; where this is not allowed, the figure is that of the whole run.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        Self(Instant::now(), processor_time(), status("VmRSS"))
    }

    fn report(&self, name: &str) {
        let (wall, processor) = (self.0.elapsed().as_secs_f64(), (processor_time() - self.1).as_secs_f64());
        println!(
            "{name:<28} {wall:>6.2} s, {processor:>6.2} CPU-s, memory {} -> at most {} MiB",
            self.2,
            status("VmHWM")
        );
    }
}

async fn append(store: &mut DeltaStore, first: u64, count: u64) -> Result<(), StoreError> {
    store.stage(common::slice(0, first, count, 1)).await?;
    store.commit().await.map(|_| ())
}

/// Makes 50,000 records again, in ranges of 10,000.
async fn correct(store: &mut DeltaStore, revision: u64, records: Vec<u64>) -> Result<(), StoreError> {
    store.take_in(revision, Some(Job { revision, below: [(0, ROWS)].into() })).await?;
    let mut rewriter = store.rewriter();
    let rewrites: Vec<Rewrite> = records
        .chunks(10_000)
        .map(|records| {
            let specs: Vec<_> = records.iter().map(|o| (*o, 0, common::time_of(0, *o, 1))).collect();
            common::rewrite(0, records[0]..records[records.len() - 1] + 1, revision, records.to_vec(), &specs)
        })
        .collect();
    let timed = Timed::start();
    rewriter.load().await?;
    for rewrite in rewrites {
        rewriter.stage(rewrite).await?;
    }
    timed.report("  staged");
    rewriter.commit(revision, &Default::default(), &Reason::default()).await?;
    timed.report("  staged and committed");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir_in(".")?;
    let options = Options { background_maintenance: false, ..Options::default() };
    let mut store = DeltaStore::open(directory.path().to_str().ok_or("path")?, options.clone()).await?;
    store.load().await?;
    let timed = Timed::start();
    for n in 0..ROWS / 20_000 {
        append(&mut store, n * 20_000, 20_000).await?;
    }
    timed.report("rows made and appended");
    let size = store.reader().status().await?;
    println!("{} rows in {} files of {} MiB", size.rows, size.files, size.bytes >> 20);
    println!("neighbours");
    correct(&mut store, 1, (400_000..450_000).collect()).await?;
    println!("every twentieth");
    correct(&mut store, 2, (0..ROWS).step_by(20).collect()).await?;
    let size = store.reader().status().await?;
    println!("{} rows in {} files of {} MiB", size.rows, size.files, size.bytes >> 20);
    println!("neighbours");
    correct(&mut store, 3, (400_000..450_000).collect()).await?;
    let size = store.reader().status().await?;
    println!("{} rows in {} files of {} MiB", size.rows, size.files, size.bytes >> 20);

    let directory = tempfile::tempdir_in(".")?;
    let mut store = DeltaStore::open(directory.path().to_str().ok_or("path")?, options).await?;
    store.load().await?;
    for n in 0..2_000 {
        append(&mut store, n * 100, 100).await?;
    }
    let timed = Timed::start();
    let compacted = store.maintainer().compact().await?;
    timed.report("compaction of small files");
    println!("{compacted:?}");
    Ok(())
}
