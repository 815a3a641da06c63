//! The whole way: a filled log to both stores; HTTP ingest; the newest events of a device in a large history.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_history::{EventFilter, PageRequest};
use millrace_log::{NewRecord, Record};
use millrace_pipeline::engine::{Engine, EngineOptions};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::runtime::Runtime;

use crate::measure::Took;
use crate::{Result, line, timed};

const APPEND: usize = 2000;
const QUERIES: usize = 2000;

async fn fill_log(engine: &Engine, records: &[Record]) -> Result<()> {
    let partitions = engine.log().partitions();
    for (n, batch) in (0..).zip(records.chunks(APPEND)) {
        let batch = batch
            .iter()
            .map(|record| NewRecord { id: record.id, receipt: record.receipt.clone(), payload: record.payload.clone() })
            .collect();
        engine.log().append(n % partitions, batch).await?;
    }
    Ok(())
}

async fn open(dir: &Path) -> Result<Arc<Engine>> {
    Ok(Engine::open(EngineOptions::at(dir)).await?)
}

/// A filled log to both stores, stock chain, and the same events through the HTTP routes.
pub(crate) fn run(runtime: &Runtime, records: &[Record]) -> Result<()> {
    let bytes: usize = records.iter().map(|record| record.payload.len()).sum();
    let dir = tempfile::tempdir()?;
    let engine = runtime.block_on(open(dir.path()))?;
    runtime.block_on(fill_log(&engine, records))?;
    let (_, took) = timed(|| {
        runtime.block_on(async {
            engine.start().await;
            engine.drain().await.map_err(Into::into)
        })
    })?;
    line("whole way, filled log to both stores", records.len(), bytes, took, None);
    by_the_clock(records.len(), took);
    runtime.block_on(engine.stop())?;

    let dir = tempfile::tempdir()?;
    let engine = runtime.block_on(open(dir.path()))?;
    let (_, took) = timed(|| runtime.block_on(post(&engine, records)))?;
    line("HTTP ingest, batches of 100, 8 at a time", records.len(), bytes, took, None);
    by_the_clock(records.len(), took);
    runtime.block_on(engine.stop())?;
    println!("{:<44} {:>10.0} MB at the most", "resident memory of this process", peak_resident_mb());
    Ok(())
}

fn by_the_clock(events: usize, took: Took) {
    println!("{:<44} {:>10.0} events/s by the clock", "", events as f64 / took.clock.as_secs_f64());
}

async fn post(engine: &Arc<Engine>, records: &[Record]) -> Result<()> {
    use axum::body::Body;
    use axum::http::Request;
    use futures::StreamExt as _;
    use tower::ServiceExt as _;
    let router = millrace_http::router(engine.clone(), millrace_http::Limits::default(), millrace_http::Trust::Offline);
    let requests = records.chunks(100).map(|batch| {
        let mut body = b"{\"batch\":[".to_vec();
        for (n, record) in batch.iter().enumerate() {
            if n > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&record.payload);
        }
        body.extend_from_slice(b"]}");
        let request = Request::post("/v1/batch").body(Body::from(body));
        let router = router.clone();
        async move { Ok::<_, Box<dyn std::error::Error + Send + Sync>>(router.oneshot(request?).await?.status()) }
    });
    let mut answers = futures::stream::iter(requests).buffer_unordered(8);
    while let Some(status) = answers.next().await {
        if !status?.is_success() {
            return Err("a batch was refused".into());
        }
    }
    Ok(())
}

/// Times the newest-100 query on a history of `events` events.
pub(crate) fn newest(runtime: &Runtime, events: usize) -> Result<()> {
    const DEVICES: u32 = 50_000;
    let dir = tempfile::tempdir()?;
    let engine = runtime.block_on(open(dir.path()))?;
    runtime.block_on(async {
        engine.start().await;
        let mut random = StdRng::seed_from_u64(2);
        let mut n = 0;
        while (n as usize) < events {
            let batch = (0..APPEND)
                .map(|_| {
                    n += 1;
                    let payload = crate::events::payload(&mut random, n);
                    NewRecord { id: u128::from(n), receipt: None, payload }
                })
                .collect();
            engine.log().append((n / APPEND as u64 % 4) as u32, batch).await?;
        }
        engine.drain().await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    })?;
    let mut random = StdRng::seed_from_u64(3);
    let mut times: Vec<Duration> = Vec::with_capacity(QUERIES);
    for _ in 0..QUERIES {
        let request = PageRequest {
            device_id: format!("d-{:08x}", random.random_range(0..DEVICES)),
            times: 0..i64::MAX,
            filter: EventFilter::default(),
            limit: 100,
            cursor: None,
        };
        let began = Instant::now();
        runtime.block_on(engine.history().page(&request))?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    println!(
        "{:<44} p50 {:.2} ms, p99 {:.2} ms over {events} events",
        "newest 100 of a device",
        times[QUERIES / 2].as_secs_f64() * 1e3,
        times[QUERIES * 99 / 100].as_secs_f64() * 1e3
    );
    println!("{:<44} {:>10.0} MB at the most", "resident memory of this process", peak_resident_mb());
    runtime.block_on(engine.stop())?;
    Ok(())
}

fn peak_resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    peak.unwrap_or(0.0) / 1024.0
}
