//! Rows per second into the history: encoding alone, and with the embedded keyspace.
//!
//! `cargo run --release -p millrace-history --example history_throughput`
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement fails by a panic")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use millrace_history::{EventFilter, HistoryReader, HistoryStore, PageRequest};
use millrace_keyspace::embedded::{EmbeddedKeyspace, Options};
use millrace_keyspace::{Batch, Keyspace, KeyspaceError, Page, Snapshot};
use millrace_rows::{Slice, Store};
use support::{Log, ROOT, Row};

const ROWS: usize = 16_384;
const SLICES: u64 = 24;

/// Takes everything and keeps nothing.
#[derive(Default)]
struct Nowhere(AtomicUsize);

struct Nothing;

#[async_trait]
impl Keyspace for Nowhere {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, KeyspaceError> {
        Ok(Box::new(Nothing))
    }

    async fn commit(&self, batch: Batch) -> Result<(), KeyspaceError> {
        self.0.fetch_add(batch.size_bytes(), Ordering::Relaxed);
        Ok(())
    }
}

#[async_trait]
impl Snapshot for Nothing {
    async fn get(&self, _: &[u8]) -> Result<Option<Bytes>, KeyspaceError> {
        Ok(None)
    }

    async fn range(&self, _: &[u8], _: &[u8], _: usize) -> Result<Page, KeyspaceError> {
        Ok(Page::default())
    }
}

/// Rows of about 600 bytes of 5,000 devices.
fn row(n: u64) -> Row {
    let device = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 5000;
    Row {
        device: format!("{device:08x}-0000-4000-8000-000000000000"),
        time: 1_700_000_000_000_000 + n as i64 * 250,
        kind: "track",
        event: "open",
        text: format!("{{\"n\":{n},\"text\":\"{}\"}}", "lorem ipsum dolor ".repeat(15)),
    }
}

fn slice(number: u64) -> Slice {
    let first = number * ROWS as u64;
    let mut log = Log { partition: 0, records: Default::default() };
    log.records.extend((first..first + ROWS as u64).map(|n| (n, support::Outcome::Rows(vec![row(n)]))));
    log.slice(first, ROWS, 0).unwrap()
}

async fn run(name: &str, keyspace: Arc<dyn Keyspace>) {
    let mut store = HistoryStore::new(keyspace, ROOT);
    store.load().await.unwrap();
    let (mut staging, mut committing, mut bytes) = (Duration::ZERO, Duration::ZERO, 0);
    for number in 0..SLICES {
        let slice = slice(number);
        let started = Instant::now();
        store.stage(slice).await.unwrap();
        staging += started.elapsed();
        bytes += store.staged_bytes();
        let started = Instant::now();
        store.commit().await.unwrap();
        committing += started.elapsed();
    }
    let rows = (SLICES * ROWS as u64) as f64;
    println!(
        "{name}: {:.0} bytes a row; staging {:.0} rows/s, committing {:.0} rows/s, together {:.0} rows/s",
        bytes as f64 / rows,
        rows / staging.as_secs_f64(),
        rows / committing.as_secs_f64(),
        rows / (staging + committing).as_secs_f64(),
    );
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    run("nowhere ", Arc::new(Nowhere::default())).await;
    let dir = tempfile::tempdir().unwrap();
    let embedded = Arc::new(EmbeddedKeyspace::open(dir.path(), Options::default()).await.unwrap());
    run("embedded", embedded.clone()).await;
    println!("{:?}", embedded.stats().await.unwrap());

    let reader = HistoryReader::new(embedded.clone(), ROOT);
    let mut times = Vec::new();
    for n in 0..2000 {
        let request = PageRequest {
            device_id: row(n * 37).device,
            times: 0..i64::MAX,
            filter: EventFilter::default(),
            limit: 100,
            cursor: None,
        };
        let started = Instant::now();
        assert!(!reader.page(&request).await.unwrap().rows.is_empty());
        times.push(started.elapsed());
    }
    times.sort_unstable();
    println!("newest 100 of a device: p50 {:?}, p99 {:?}", times[times.len() / 2], times[times.len() * 99 / 100]);
    embedded.close().await;
}
