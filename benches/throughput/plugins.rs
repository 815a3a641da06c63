//! What the boundary costs by itself, how long a new plugin takes from upload to being in force, and what an event costs in
//! components of other languages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use millrace_pipeline::engine::{Engine, EngineOptions};
use millrace_pipeline::pipeline::{Activation, PluginSource, StepSource};
use millrace_pipeline::processor::ActivationStart;
use millrace_pipeline::stock;
use millrace_plugin_host::{HostOptions, Limits};
use millrace_sdk::golden::Case;
use millrace_workbench::{BenchOptions, Input, Workbench};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::Result;

/// Components beside the stock ones, with colons between them: the gate names those of the other SDKs' examples.
const COMPONENTS: &str = "MILLRACE_BENCH_COMPONENTS";

/// Nanoseconds an event, of batches as the engine cuts them.
pub(crate) fn components(batch: &RecordBatch) -> Result<()> {
    let workbench = Workbench::new(HostOptions::default(), Limits::default())?;
    let case: Case = serde_json::from_value(json!({}))?;
    let others = std::env::var(COMPONENTS).unwrap_or_default();
    let mut measured = vec![("enrich-user-agent (Rust)".to_owned(), stock::ENRICH_USER_AGENT.to_vec())];
    for path in others.split(':').filter(|path| !path.is_empty()) {
        measured.push((path.rsplit('/').next().unwrap_or(path).to_owned(), std::fs::read(path)?));
    }
    for (name, wasm) in measured {
        let plugin = workbench.load(&wasm)?;
        let input = Input::decoded(batch.clone());
        let bench = workbench.bench(&plugin, &case, &input, &BenchOptions::default())?;
        println!(
            "{:<44} {:>10.1} ns an event; an empty plugin over the same columns {:.1}",
            format!("component {name}"),
            bench.plugin.median,
            bench.empty.median
        );
    }
    Ok(())
}

/// From the first byte to the first revision: nothing of it was compiled before.
pub(crate) fn upload_to_active(runtime: &Runtime) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let engine = runtime.block_on(Engine::open(EngineOptions::at(dir.path())))?;
    let wasm = renamed(stock::ENRICH_USER_AGENT);
    let bytes = wasm.len();
    let took = runtime.block_on(activate(&engine, wasm))?;
    runtime.block_on(engine.stop())?;
    println!(
        "{:<44} {:>10.2} s, a plugin of {} KB from upload to active",
        "hot change",
        took.as_secs_f64(),
        bytes / 1000
    );
    Ok(())
}

async fn activate(engine: &Arc<Engine>, wasm: Vec<u8>) -> Result<Duration> {
    let began = Instant::now();
    let uploaded = engine.upload_plugin(wasm, &json!({}), "bench").await?;
    let chain = engine.pin_chain(vec![StepSource::new(PluginSource::Named(uploaded.plugin), json!({}))]).await?;
    let (author, reason) = ("bench".to_owned(), "bench".to_owned());
    let activated = engine.activate(Activation { chain, author, reason, start: ActivationStart::End }).await?;
    let took = began.elapsed();
    if activated.is_new { Ok(took) } else { Err("the chain was in force already".into()) }
}

/// A component with another version in it: to the registry a new plugin.
fn renamed(wasm: &[u8]) -> Vec<u8> {
    let (from, to) = (b"0.1.0", b"0.1.9");
    let mut wasm = wasm.to_vec();
    for at in 0..wasm.len() - from.len() {
        if wasm[at..].starts_with(from) {
            wasm[at..at + to.len()].copy_from_slice(to);
        }
    }
    wasm
}
