//! A small engine, events and chains for tests of corrections.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millrace_pipeline::correction::{CorrectionError, CorrectionSource};
use millrace_pipeline::engine::{Engine, EngineError};
use millrace_pipeline::ingest::{Envelope, NewEvent};
use millrace_pipeline::pipeline::{PluginSource, StepSource};
use serde_json::json;

use super::{event, options};

/// Apps of the events.
pub const APPS: [&str; 3] = ["shop", "news", "game"];

/// Platforms of the events.
pub const PLATFORMS: [&str; 2] = ["ios", "web"];

/// An engine that cuts everything small, with no chain in force.
pub async fn open(dir: &Path) -> Arc<Engine> {
    try_open(dir).await.unwrap()
}

/// The same, where it may not open.
pub async fn try_open(dir: &Path) -> Result<Arc<Engine>, EngineError> {
    let mut options = options(dir);
    options.log.partitions = 2;
    options.pipeline = None;
    options.delta_commit.age = Duration::from_millis(5);
    options.processor.batch_records = 16;
    options.delta.rewrite_records_max = 40;
    options.delta.checkpoint_every = 20;
    let engine = Engine::open(options).await?;
    engine.start().await;
    Ok(engine)
}

/// Takes in events: id, device, and which app.
pub async fn ingest(engine: &Engine, events: impl IntoIterator<Item = (String, String, usize)>) {
    let events = events
        .into_iter()
        .map(|(id, device, app)| {
            let mut event = event(&id, &device, u64::try_from(id.len() * 7 + device.len()).unwrap());
            let platform = PLATFORMS[id.bytes().map(usize::from).sum::<usize>() % 2];
            event["context"]["device"]["type"] = json!(platform);
            event["context"]["app"] = json!({"name": APPS[app], "version": format!("{}.0", app + 1)});
            NewEvent { payload: Bytes::from(event.to_string()), takes_received_at: false, id: None }
        })
        .collect();
    for result in engine.ingest().accept(&Envelope::default(), events).await {
        result.unwrap();
    }
}

/// Events of seven devices and all apps.
pub fn events(numbers: Range<usize>) -> impl Iterator<Item = (String, String, usize)> {
    numbers.map(|n| (format!("event-{n}"), format!("device-{}", n % 7), n % 3))
}

/// A step that gives devices another name: which one, tells which revision made a row.
pub fn rewrite(mark: &str) -> StepSource {
    let plugin = PluginSource::Named("rewrite-device-id@0.1.0".parse().unwrap());
    StepSource::new(plugin, json!({"rules": [{"from_prefix": "device-1", "to": mark}]}))
}

/// A step that fails what has no such property: dead letters.
pub fn failing() -> StepSource {
    let plugin = PluginSource::Named("rewrite-device-id@0.1.0".parse().unwrap());
    StepSource::new(plugin, json!({"rules": [{"app": "news", "to_path": "properties.missing"}]}))
}

pub async fn correct(engine: &Engine, source: CorrectionSource, reason: &str) -> Result<u64, CorrectionError> {
    let plan = engine.plan_correction(source).await?;
    Ok(engine.correct(&plan, "test", reason).await?.id)
}
