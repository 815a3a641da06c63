//! What a server takes and gives through the log, from one process:
//! `cargo run --release -p millrace-log-iggy --example iggy_throughput -- iggy://iggy:iggy@127.0.0.1:8090 STREAM`. The topic
//! `events` of the stream is used, or made with four partitions.

#![expect(clippy::expect_used, reason = "an example")]

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use millrace_log::{EventLog as _, NewRecord, ReadLimit, Receipt};
use millrace_log_iggy::{IggyLog, Options};

const RECORDS: u64 = 200_000;
const PAYLOAD: usize = 560;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let url = args.next().expect("a connection string").parse().expect("a connection string");
    let stream = args.next().unwrap_or_else(|| "throughput".to_owned());
    let log = Arc::new(IggyLog::open(Options::new(url, stream, "events")).await.expect("the log opens"));
    for (writers, size) in [(1, 1), (64, 1), (8, 100), (8, 1000)] {
        let records = if size == 1 { RECORDS / 100 } else { RECORDS };
        let (began, before) = (Instant::now(), log.stats());
        let tasks = (0..writers).map(|writer: u64| {
            let log = log.clone();
            tokio::spawn(async move {
                let receipt = Some(Receipt { received_at_us: 1, ..Receipt::default() });
                let payload = Bytes::from(vec![b'x'; PAYLOAD]);
                for n in 0..records / size / writers {
                    let record = |m| NewRecord {
                        id: (u128::from(writer) << 64) | u128::from(n * size + m + 1),
                        receipt: receipt.clone(),
                        payload: payload.clone(),
                    };
                    let partition = ((writer + n) % u64::from(log.partitions())) as u32;
                    log.append(partition, (0..size).map(record).collect()).await.expect("an append");
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.expect("a writer");
        }
        let (took, stats) = (began.elapsed(), log.stats());
        println!(
            "{writers} writers, appends of {size}: {:.0} records/s, {:.1} appends a batch, {:.2} ms an append",
            records as f64 / took.as_secs_f64(),
            (stats.appends - before.appends) as f64 / (stats.batches - before.batches) as f64,
            took.as_secs_f64() * 1000.0 / (records / size / writers) as f64,
        );
    }
    let (began, mut read) = (Instant::now(), 0);
    for partition in 0..log.partitions() {
        let bounds = log.bounds(partition).await.expect("bounds");
        let mut next = bounds.start;
        while next < bounds.end {
            let limit = ReadLimit { records: 4096, bytes: 8 << 20 };
            let records = log.read(partition, next, limit).await.expect("a read");
            next = records.last().map_or(bounds.end, |last| last.offset + 1);
            read += records.len();
        }
    }
    println!("read: {:.0} records/s, one partition at a time", read as f64 / began.elapsed().as_secs_f64());
}
