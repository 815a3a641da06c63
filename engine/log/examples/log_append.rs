//! Measures the embedded log: appends of batches from several tasks, then sequential reads.
//!
//! `cargo run --release -p millrace-log --example log_append [directory]`; a temporary directory if none is named, which is
//! deleted afterwards.

#![allow(clippy::unwrap_used, reason = "a measurement; it ends at the first error")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use millrace_log::embedded::{EmbeddedLog, Options};
use millrace_log::{EventLog, NewRecord, ReadLimit};

const PAYLOAD_BYTES: usize = 600;
const BATCH: u128 = 100;
const TASKS: u128 = 8;
const APPENDS: u128 = 1_000;

#[tokio::main]
async fn main() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = std::env::args_os().nth(1).map_or(temporary.path().to_owned(), Into::into);
    println!("fdatasync of a file that grew by 64 KiB: {:.0} us", fdatasync_us(&dir));
    for (partitions, tail_bytes) in [(1, 0), (4, 0)] {
        let dir = dir.join(format!("append-{partitions}"));
        let options = || Options { partitions, tail_bytes, ..Options::default() };
        let log = Arc::new(EmbeddedLog::open(&dir, options()).unwrap());
        append(&log, partitions).await;
        for records in [100, 1_000, 10_000] {
            read(&log, partitions, ReadLimit { records, bytes: 8 << 20 }).await;
        }
        let records = log.stats().partitions.iter().map(|partition| partition.end).sum::<u64>();
        log.close().await.unwrap();
        drop(log);
        let started = Instant::now();
        let log = EmbeddedLog::open(&dir, options()).unwrap();
        println!("  opening {records} records: {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
        drop(log);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

async fn append(log: &Arc<EmbeddedLog>, partitions: u32) {
    let payload = Bytes::from(vec![b'x'; PAYLOAD_BYTES]);
    let started = Instant::now();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (log, payload) = (Arc::clone(log), payload.clone());
            tokio::spawn(async move {
                let mut slowest = 0.0_f64;
                for n in 0..APPENDS {
                    let id = (task << 64) | (n << 32);
                    let record = |i| NewRecord { id: id + i, receipt: None, payload: payload.clone() };
                    let began = Instant::now();
                    log.append(task as u32 % partitions, (0..BATCH).map(record).collect()).await.unwrap();
                    slowest = slowest.max(began.elapsed().as_secs_f64());
                }
                slowest
            })
        })
        .collect();
    let mut slowest = 0.0_f64;
    for task in tasks {
        slowest = slowest.max(task.await.unwrap());
    }
    let seconds = started.elapsed().as_secs_f64();
    let stats = log.stats();
    let fsyncs: u64 = stats.partitions.iter().map(|partition| partition.fsyncs).sum();
    let records = (TASKS * BATCH * APPENDS) as f64;
    println!(
        "{partitions} partitions: append {:.0} records/s, {:.0} MB/s; {:.1} appends per fsync, {:.0} us per append, \
         slowest {:.1} ms",
        records / seconds,
        records * PAYLOAD_BYTES as f64 / seconds / 1e6,
        (TASKS * APPENDS) as f64 / fsyncs as f64,
        seconds / APPENDS as f64 * 1e6,
        slowest * 1e3,
    );
}

async fn read(log: &Arc<EmbeddedLog>, partitions: u32, limit: ReadLimit) {
    let started = Instant::now();
    let (mut records, mut reads) = (0, 0);
    for partition in 0..partitions {
        let mut next = 0;
        loop {
            let read = log.read(partition, next, limit).await.unwrap();
            let Some(last) = read.last() else { break };
            next = last.offset + 1;
            records += read.len();
            reads += 1;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "  read up to {} records at once: {:.0} records/s, {:.0} MB/s; {:.0} us per read",
        limit.records,
        records as f64 / seconds,
        (records * PAYLOAD_BYTES) as f64 / seconds / 1e6,
        seconds / f64::from(reads) * 1e6,
    );
}

/// What the disk takes at the least, to read the other figures by.
fn fdatasync_us(dir: &Path) -> f64 {
    const ROUNDS: u32 = 100;
    let path = dir.join("fdatasync");
    let mut file = File::create(&path).unwrap();
    let started = Instant::now();
    for _ in 0..ROUNDS {
        file.write_all(&[0; 64 * 1024]).unwrap();
        file.sync_data().unwrap();
    }
    let seconds = started.elapsed().as_secs_f64();
    std::fs::remove_file(path).unwrap();
    seconds / f64::from(ROUNDS) * 1e6
}
