//! Several engines over one log, one keyspace and one table: partitions move from those that die to those that live, a
//! correction published by one is applied by all, and both stores end as log and timeline say.
//!
//! The log is an embedded one that all engines of this process share. The keyspace is an embedded one, too, and besides a
//! cluster where `MILLRACE_TEST_FDB` names one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Audit, PATIENCE, seed};
use millrace_keyspace::Keyspace;
use millrace_keyspace::conformance::place::Place;
use millrace_log::EventLog;
use millrace_log::embedded::EmbeddedLog;
use millrace_pipeline::correction::{ChangeSource, CorrectionSource, RangeSource};
use millrace_pipeline::engine::Engine;
use millrace_pipeline::ingest::{Envelope, NewEvent};
use millrace_pipeline::keyspace::KeyspaceOptions;
use millrace_pipeline::leases::Duty;
use millrace_pipeline::pipeline::{PluginSource, StepSource};
use millrace_pipeline::roles::Role;
use millrace_pipeline::verify::VerifyOptions;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

const PARTITIONS: u32 = 4;

/// What the workers share.
struct Shared {
    dir: PathBuf,
    log: Arc<dyn EventLog>,
    keyspace: Arc<dyn Keyspace>,
    born: u32,
}

impl Shared {
    async fn new(dir: &Path, place: &Place) -> Self {
        let options = millrace_log::embedded::Options { partitions: PARTITIONS, ..Default::default() };
        Self {
            dir: dir.to_owned(),
            log: Arc::new(EmbeddedLog::open(dir.join("log"), options).unwrap()),
            keyspace: place.open(Default::default()).await.keyspace,
            born: 0,
        }
    }

    async fn start(&mut self, roles: &[Role]) -> Arc<Engine> {
        self.born += 1;
        let own = self.dir.join(format!("worker-{}", self.born));
        // Every worker needs the same secrets; the first makes them.
        let (first, secrets) = (self.dir.join("worker-1/secrets"), own.join("secrets"));
        if self.born > 1 {
            std::fs::create_dir_all(&secrets).unwrap();
            for entry in std::fs::read_dir(first).unwrap() {
                let path = entry.unwrap().path();
                std::fs::copy(&path, secrets.join(path.file_name().unwrap())).unwrap();
            }
        }
        let mut options = common::options(&own);
        options.shared_log = Some(self.log.clone());
        options.keyspace = KeyspaceOptions::Shared(self.keyspace.clone());
        options.delta_path = Some(self.dir.join("table"));
        options.delta_commit.age = Duration::from_millis(50);
        options.processor.batch_records = 32;
        options.pipeline = None;
        options.shared = true;
        options.roles = roles.to_vec().try_into().unwrap();
        let engine = Engine::open(options).await.unwrap();
        engine.start().await;
        engine
    }
}

async fn ingest(engine: &Engine, number: usize) {
    let events = (number * 10..number * 10 + 10)
        .map(|n| {
            let event = common::event(&format!("event-{n}"), &format!("device-{}", n % 17), n as u64);
            NewEvent { payload: Bytes::from(event.to_string()), takes_received_at: false, id: None }
        })
        .collect();
    for result in engine.ingest().accept(&Envelope::default(), events).await {
        result.unwrap();
    }
}

async fn duties(engine: &Engine) -> BTreeSet<Duty> {
    engine.status().await.unwrap().worker.unwrap().duties
}

/// Waits until the workers have every duty, none of them twice.
async fn until_shared(workers: &[Arc<Engine>]) -> Duration {
    let began = Instant::now();
    loop {
        let mut held = Vec::new();
        for worker in workers {
            held.extend(duties(worker).await);
        }
        let different: BTreeSet<_> = held.iter().collect();
        if different.len() == PARTITIONS as usize + 3 && held.len() == different.len() {
            return began.elapsed();
        }
        assert!(began.elapsed() < PATIENCE, "duties: {held:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn correct(engine: &Engine, mark: &str) {
    let plugin = PluginSource::Named("rewrite-device-id@0.1.0".parse().unwrap());
    let step = StepSource::new(plugin, json!({"rules": [{"from_prefix": "device-1", "to": mark}]}));
    let source =
        CorrectionSource { change: ChangeSource::Insert { step, before: None }, range: RangeSource::default() };
    let plan = engine.plan_correction(source).await.unwrap();
    engine.correct(&plan, "test", mark).await.unwrap();
}

/// What the timeline's head is once a worker has seen it.
async fn until_head(engine: &Engine, head: u64) {
    let mut timeline = engine.processor().timeline();
    tokio::time::timeout(PATIENCE, timeline.wait_for(|timeline| timeline.head() >= head)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_die_and_come_and_both_stores_are_what_the_log_says() {
    let keyspaces = tempfile::tempdir().unwrap();
    for place in Place::all("workers", keyspaces.path()) {
        println!("{place:?}");
        die_and_come(&place, StdRng::seed_from_u64(seed(17))).await;
    }
}

async fn die_and_come(place: &Place, mut random: StdRng) {
    let dir = tempfile::tempdir().unwrap();
    let mut shared = Shared::new(dir.path(), place).await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(shared.start(&Role::ALL).await);
    }
    println!("shared after {:?}", until_shared(&workers).await);
    // A process that only answers: it never has a duty, and sees what the others do.
    let query = shared.start(&[Role::Query]).await;

    let mut sent = 0;
    for round in 0..4 {
        for _ in 0..random.random_range(5..20) {
            ingest(&workers[random.random_range(0..workers.len())], sent).await;
            sent += 1;
        }
        let dies = random.random_range(0..workers.len());
        if round % 2 == 0 {
            // Its loops end wherever they are, and its duties stay on the board.
            drop(workers.swap_remove(dies));
        } else {
            workers.swap_remove(dies).stop().await.unwrap();
        }
        for _ in 0..random.random_range(1..10) {
            ingest(&workers[random.random_range(0..workers.len())], sent).await;
            sent += 1;
        }
        let publisher = &workers[random.random_range(0..workers.len())];
        until_head(publisher, query.timeline().head()).await;
        correct(publisher, &format!("round-{round}")).await;
        let head = publisher.timeline().head();
        let moved = until_shared(&workers).await;
        workers.push(shared.start(&Role::ALL).await);
        println!("round {round}: duties moved after {moved:?}, at revision {head}");
        until_head(&query, head).await;
    }
    let settled = until_shared(&workers).await;
    println!("{} events, settled after {settled:?}", sent * 10);

    let head = workers[0].timeline().head();
    for engine in workers.iter().chain([&query]) {
        until_head(engine, head).await;
        let arrived = async {
            engine.drain().await?;
            engine.settle().await
        };
        if tokio::time::timeout(PATIENCE, arrived).await.ok() != Some(Ok(())) {
            for engine in workers.iter().chain([&query]) {
                println!("{}", serde_json::to_string_pretty(&engine.status().await.unwrap()).unwrap());
            }
            panic!("the stores do not arrive");
        }
    }
    assert!(duties(&query).await.is_empty());
    let audit = Audit::of_engine(&query).await;
    audit.assert_agree();
    assert_eq!(audit.history.len(), sent * 10);
    assert!(audit.event_ids.values().all(|times| *times == 1));
    let options = VerifyOptions { full: true, ..VerifyOptions::default() };
    let report = query.verifier().run(&options, |_| ()).await.unwrap();
    assert_eq!((report.differences, report.rows_checked), (0, 20 * sent as u64), "{report:?}");

    // A pause is every worker's.
    workers[0].pause("test", "a look").await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while query.status().await.unwrap().pause.is_none() {
        assert!(Instant::now() < deadline, "the pause was not seen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for engine in workers.into_iter().chain([query]) {
        engine.stop().await.unwrap();
    }
}
