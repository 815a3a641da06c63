//! What corrections cost, as processor time and as ratios within one run.
//!
//! ```text
//! cargo bench --bench corrections [-- EVENTS]
//! ```
//!
//! EVENTS is 200,000 by default. It fills a log, lets both stores take it in, corrects the last hundredth of each
//! partition, rebuilds both stores, lets them take in half as much again, replays this half twice, with a correction that
//! gives some devices another name and with one that gives every device another, and then everything beside traffic at
//! three tenths of the rate at which the stores took the log in.
//!
//! What replays are held against is the rate at which the same stores took in the same records, which waited for them in
//! the log, with nothing to ingest beside it. An LSM tree puts work off, the more the fuller it is: all three begin when
//! nothing is left to merge. By the clock, live takes up to 5 s more for the table's last commit, which waits for more to
//! come: with few events that is most of it, so look at the processor time. The chain has as many steps every time: the
//! default ones and one that renames devices, at first none of them; a correction gives it other rules.

#[path = "../throughput/events.rs"]
mod events;
#[path = "../throughput/measure.rs"]
mod measure;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_log::{NewRecord, Record};
use millrace_pipeline::correction::{ChangeSource, CorrectionSource, RangeSource};
use millrace_pipeline::engine::{Engine, EngineOptions};
use millrace_pipeline::pipeline::{Activation, PluginSource, StepSource};
use millrace_pipeline::processor::ActivationStart;
use millrace_pipeline::progress::{PartitionProgress, PartitionState};
use millrace_pipeline::verify::VerifyOptions;
use millrace_timeline::chain::PluginName;
use serde_json::json;

use crate::measure::{Meter, Took};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const APPEND: usize = 2000;
/// Share of the stores' rate at which traffic comes while a correction runs.
const TRAFFIC: f64 = 0.3;

fn line(name: &str, events: u64, took: Took) {
    println!(
        "{name:<44} {:>8.2} s of a processor {:>8.2} s by the clock {:>10.0} events/s",
        took.processor.as_secs_f64(),
        took.clock.as_secs_f64(),
        events as f64 / took.clock.as_secs_f64().max(0.001)
    );
}

async fn append(engine: &Engine, number: u64, records: &[Record]) -> Result<()> {
    let batch = records
        .iter()
        .map(|record| NewRecord { id: record.id, receipt: record.receipt.clone(), payload: record.payload.clone() })
        .collect();
    engine.log().append((number % u64::from(engine.log().partitions())) as u32, batch).await?;
    Ok(())
}

/// The plugin that renames devices.
const RENAMES: &str = "rewrite-device-id@0.1.0";
/// What no device's name begins with.
const NO_DEVICE: &str = "none-";
/// The prefix of every device's name.
const EVERY_DEVICE: &str = "d-0000";
/// The prefix of one name in twelve.
const SOME_DEVICES: &str = "d-00000";

fn rename(devices: &str, to: &str) -> serde_json::Value {
    json!({"rules": [{"from_prefix": devices, "to": to}]})
}

/// The default chain, with a step behind it that renames no device.
async fn begin(engine: &Engine) -> Result<()> {
    let mut chain = engine.in_force().ok_or("no chain is in force")?.chain;
    let step = StepSource::new(PluginSource::Named(RENAMES.parse()?), rename(NO_DEVICE, "never"));
    chain.steps.extend(engine.pin_chain(vec![step]).await?.steps);
    let (author, reason) = ("benchmark".to_owned(), "a step that corrections change".to_owned());
    engine.activate(Activation { chain, author, reason, start: ActivationStart::End }).await?;
    Ok(())
}

/// Brings a correction into force that gives devices another name; both stores have still to apply it. Whatever a device's
/// name, its rows are made again.
async fn correct(engine: &Engine, devices: &str, mark: &str, last: Option<u64>) -> Result<()> {
    let step: PluginName = RENAMES.parse()?;
    let change = ChangeSource::Replace { step: step.clone(), by: step, config: Some(rename(devices, mark)) };
    let source = CorrectionSource { change, range: RangeSource { last, ..RangeSource::default() } };
    let plan = engine.plan_correction(source).await?;
    engine.correct(&plan, "benchmark", mark).await?;
    Ok(())
}

/// Appends `count` events.
async fn fill(engine: &Engine, records: &[Record], count: u64) -> Result<()> {
    for number in 0..count.div_ceil(APPEND as u64) {
        let at = (number as usize * APPEND) % records.len();
        append(engine, number, &records[at..(at + APPEND).min(records.len())]).await?;
    }
    Ok(())
}

/// Returns once no partition stands.
async fn running(engine: &Engine) -> Result<()> {
    let mut progress = engine.progress().subscribe();
    let runs = |partition: &PartitionProgress| partition.state == PartitionState::Running;
    progress.wait_for(|stores| stores.values().all(|store| store.partitions.values().all(runs))).await?;
    Ok(())
}

async fn settled(engine: &Engine) -> Result<()> {
    engine.settle().await.map_err(Into::into)
}

/// Returns once the keyspace has nothing to merge.
async fn at_rest(engine: &Engine) -> Result<()> {
    let mut quiet = 0;
    // One merge leaves the next, a moment later.
    while quiet < 10 {
        let text = engine.metrics_text().await?;
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        let waiting = ["millrace_keyspace_merges ", "millrace_keyspace_full_write_buffers "].map(value);
        quiet = if waiting == [Some(0), Some(0)] { quiet + 1 } else { 0 };
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn run(events: usize) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let engine: Arc<Engine> = Engine::open(EngineOptions::at(dir.path())).await?;
    begin(&engine).await?;
    let records = events::records(events.min(200_000));
    let count = events as u64;
    fill(&engine, &records, count).await?;
    let meter = Meter::start();
    engine.start().await;
    engine.drain().await?;
    let live = meter.stop();
    line("live: a filled log to both stores", count, live);
    let meter = Meter::start();
    let compacted = engine.maintainer().compact().await?;
    line(&format!("compaction: {} files to {}", compacted.files_removed, compacted.files_added), count, meter.stop());

    let last = count / 100 / u64::from(engine.log().partitions());
    at_rest(&engine).await?;
    let meter = Meter::start();
    correct(&engine, EVERY_DEVICE, "a-hundredth", Some(last)).await?;
    let planned = meter.stop();
    line("planning and checking a correction", 0, planned);
    let meter = Meter::start();
    settled(&engine).await?;
    let hundredth = meter.stop();
    line("correcting the last hundredth", count / 100, hundredth);

    let mut rebuilt = 0.0;
    for store in ["delta", "history"] {
        let meter = Meter::start();
        engine.rebuild(store).await?;
        settled(&engine).await?;
        let took = meter.stop();
        rebuilt += took.processor.as_secs_f64();
        line(&format!("rebuild of {store}"), count, took);
    }
    println!(
        "{:<44} {:>8.2} % of the rebuild of both (bar 5)",
        "the hundredth, in processor time",
        hundredth.processor.as_secs_f64() / rebuilt * 100.0
    );

    let partitions = u64::from(engine.log().partitions());
    // As many records of each partition.
    let more = (count / 2).next_multiple_of(APPEND as u64 * partitions);
    engine.pause("benchmark", "the log is filled").await?;
    fill(&engine, &records, more).await?;
    at_rest(&engine).await?;
    let meter = Meter::start();
    engine.resume().await?;
    running(&engine).await?;
    engine.drain().await?;
    let full = meter.stop();
    line("live: half as much onto full stores", more, full);
    engine.maintainer().compact().await?;

    let rate = |events: u64, took: Took| events as f64 / took.clock.as_secs_f64();
    let replays = [("some", SOME_DEVICES, "one device in twelve"), ("every", EVERY_DEVICE, "every device")];
    for (mark, devices, what) in replays {
        at_rest(&engine).await?;
        let meter = Meter::start();
        correct(&engine, devices, mark, Some(more / partitions)).await?;
        settled(&engine).await?;
        let again = meter.stop();
        line(&format!("replay of these, {what} renamed"), more, again);
        println!(
            "{:<44} {:>8.2}x of live in processor time (bar 1), {:.2}x by the clock",
            "",
            full.processor.as_secs_f64() / again.processor.as_secs_f64(),
            rate(more, again) / rate(more, full)
        );
    }

    beside_traffic(&engine, &records, count + more, rate(count, live) * TRAFFIC).await?;
    let meter = Meter::start();
    let report = engine.verifier().run(&VerifyOptions { all: true, ..VerifyOptions::default() }, |_| ()).await?;
    line("verify", report.records, meter.stop());
    println!("{:<44} {:>8} rows compared, {} differences", "", report.rows_checked, report.differences);
    engine.stop().await?;
    if report.differences > 0 { Err("the stores differ".into()) } else { Ok(()) }
}

/// Corrects everything while events come in at `rate` a second, and looks at how far the stores fall behind.
async fn beside_traffic(engine: &Arc<Engine>, records: &[Record], count: u64, rate: f64) -> Result<()> {
    correct(engine, EVERY_DEVICE, "beside", None).await?;
    let began = Instant::now();
    let (mut sent, mut worst, mut settled_after) = (0u64, (0.0, "", 0.0), None);
    // While the correction runs, and some seconds more.
    loop {
        let now = began.elapsed().as_secs_f64();
        while (sent as f64) < now * rate {
            let at = sent as usize % (records.len() - APPEND + 1);
            append(engine, sent / APPEND as u64, &records[at..at + APPEND]).await?;
            sent += APPEND as u64;
        }
        let status = engine.status().await?;
        for (store, state) in status.stores {
            if state.lag_seconds > worst.0 {
                worst = (state.lag_seconds, store, now);
            }
        }
        let applied = engine.corrections().first().is_some_and(|correction| correction.state == "applied");
        if applied && settled_after.is_none() {
            settled_after = Some(now);
        }
        if settled_after.is_some_and(|after| now > after + 3.0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (lag, store, at) = worst;
    println!(
        "{:<44} {:>8.1} s for {count} events beside {rate:.0} events/s",
        "correcting everything under traffic",
        settled_after.unwrap_or_default(),
    );
    println!(
        "{:<44} {lag:>8.2} s (bar 10), of {store}, {at:.0} s after it began",
        "the greatest lag of live rows meanwhile"
    );
    engine.drain().await?;
    settled(engine).await
}

fn main() -> Result<()> {
    let events = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(200_000);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(events))
}
