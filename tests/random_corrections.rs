//! Random histories of traffic, activations, corrections, rebuilds and compactions, through failures and crashes at
//! failpoints, against a model that knows nothing of stores.
//!
//! All in one process: a crash is a panic at a failpoint, and then the runtime with everything in it is dropped where it
//! is. `tests/correction_crash.rs` kills the real binary.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::corrections::{APPS, PLATFORMS, correct, failing, ingest, rewrite, try_open};
use common::model::check;
use common::{PATIENCE, seed};
use millrace_pipeline::correction::id::CorrectionId;
use millrace_pipeline::correction::{Bound, ChangeSource, CorrectionError, CorrectionSource, RangeSource};
use millrace_pipeline::engine::Engine;
use millrace_pipeline::pipeline::Activation;
use millrace_pipeline::processor::ActivationStart;
use millrace_timeline::Filter;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Histories of one run; more by `MILLRACE_HISTORIES`.
const HISTORIES: u64 = 10;

/// Where the process may die.
const CRASHES: [&str; 22] = [
    "correction::planned",
    "correction::published",
    "keyspace::commit::before",
    "keyspace::commit::after",
    "history::commit::before",
    "history::commit::between",
    "history::rewrite::before",
    "history::rewrite::between",
    "history::rewrite::last",
    "history::take_in::before",
    "history::take_in::after",
    "delta::stage::written",
    "delta::rewrite::stage",
    "delta::rewrite::staged",
    "delta::commit::before",
    "delta::commit::after",
    "delta::take_in::before",
    "delta::take_in::after",
    "delta::rewrite::before",
    "delta::rewrite::after",
    "delta::compact::before",
    "delta::compact::after",
];
/// What may fail: full disks, and answers that are lost.
const FAILURES: [&str; 8] = [
    "keyspace::write::fail",
    "keyspace::sync::fail",
    "keyspace::commit::unknown",
    "delta::stage::full",
    "delta::commit::lost",
    "delta::take_in::lost",
    "delta::rewrite::lost",
    "delta::compact::lost",
];

/// Has panics at failpoints counted, and neither them printed nor what the end of a runtime brings.
fn count_crashes() -> watch::Receiver<u64> {
    let (counted, crashes) = watch::channel(0);
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| match panic.payload_as_str() {
        Some(message) if message.starts_with("failpoint ") => counted.send_modify(|crashes| *crashes += 1),
        Some(message) if message.starts_with("TokioMultiThreadExecutor has crashed") => {}
        _ => print(panic),
    }));
    crashes
}

/// What happened in histories.
#[derive(Debug, Default)]
struct Happened {
    /// Corrections that came into force.
    corrected: AtomicU64,
    /// Corrections of these that were staged before.
    published: AtomicU64,
    /// Corrections that were cancelled while staged.
    cancelled: AtomicU64,
    /// What was asked for and refused, since something failed.
    failed: AtomicU64,
}

fn count(what: &AtomicU64) {
    what.fetch_add(1, Ordering::SeqCst);
}

/// An engine in a runtime of its own, until it crashes.
struct Life<'a> {
    dir: &'a Path,
    running: Option<(Runtime, Arc<Engine>)>,
    crashes: watch::Receiver<u64>,
    /// Failpoints that are on.
    armed: Vec<&'static str>,
}

impl<'a> Life<'a> {
    fn begin(dir: &'a Path, crashes: watch::Receiver<u64>) -> Self {
        let mut life = Self { dir, running: None, crashes, armed: Vec::new() };
        life.open();
        life
    }

    fn open(&mut self) {
        self.armed.drain(..).for_each(fail::remove);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let began = Instant::now();
        let engine = loop {
            match runtime.block_on(try_open(self.dir)) {
                Ok(engine) => break engine,
                // What died holds the directory until its last thread has ended.
                Err(error) => assert!(began.elapsed() < PATIENCE, "it does not open: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.crashes.mark_unchanged();
        self.running = Some((runtime, engine));
    }

    /// Has something die or fail after it has gone well some times.
    fn arm(&mut self, point: &'static str, then: &str, random: &mut StdRng) {
        fail::cfg(point, &format!("{}*off->{then}", random.random_range(0..3))).unwrap();
        self.armed.push(point);
    }

    fn disarm(&mut self) {
        self.armed.drain(..).for_each(fail::remove);
        self.crash_if_due();
    }

    fn crash_if_due(&mut self) {
        if self.crashes.has_changed().unwrap() {
            self.crash();
        }
    }

    /// Everything ends where it is, and begins again.
    fn crash(&mut self) {
        let (runtime, engine) = self.running.take().unwrap();
        drop(engine);
        runtime.shutdown_background();
        self.open();
    }

    /// It stops in order, whatever the stores are doing, and begins again.
    fn restart(&mut self) {
        self.run(async |engine: Arc<Engine>| engine.stop().await.map_err(|error| error.to_string()));
        if let Some((runtime, engine)) = self.running.take() {
            drop(engine);
            runtime.shutdown_timeout(PATIENCE);
        }
        self.open();
    }

    /// Does something; `None` where it crashed meanwhile.
    fn run<T, F>(&mut self, act: impl FnOnce(Arc<Engine>) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (runtime, engine) = self.running.as_ref().unwrap();
        let act = act(engine.clone());
        let mut crashes = self.crashes.clone();
        let ended = runtime.block_on(async {
            let acting = tokio::spawn(act);
            tokio::select! {
                biased;
                _ = crashes.changed() => None,
                ended = acting => match ended {
                    Ok(ended) => Some(ended),
                    Err(panic) if crashes.has_changed().unwrap() => { drop(panic); None }
                    Err(panic) => std::panic::resume_unwind(panic.into_panic()),
                },
            }
        });
        if ended.is_none() {
            self.crash();
        }
        ended
    }
}

fn any_filter(random: &mut StdRng) -> Filter {
    match random.random_range(0..6) {
        0 => Filter::default().with("app", [APPS[random.random_range(0..3)]]),
        1 => Filter::default().with("platform", [PLATFORMS[random.random_range(0..2)]]),
        2 => Filter::default().with("event", ["product_view"]).with("app", ["shop", "news"]),
        3 => Filter::default().with("app", ["shop", "game"]).with("device_id", (0..9).map(|n| format!("device-{n}"))),
        _ => Filter::default(),
    }
}

async fn any_range(engine: &Engine, random: &mut StdRng) -> RangeSource {
    let ends = engine.log_ends().await.unwrap();
    let end = ends.values().copied().max().unwrap_or(0);
    let mut range = RangeSource { filter: any_filter(random), ..RangeSource::default() };
    match random.random_range(0..4) {
        0 => range.last = Some(random.random_range(1..=end.max(1))),
        1 => {
            let from = random.random_range(0..end.max(1));
            range.from = Some(Bound::Offset(from));
            // Past the end: what comes later is covered, too.
            range.to = Some(Bound::Offset(from + random.random_range(1..60)));
        }
        2 => {
            range.partitions = [random.random_range(0..2)].into();
        }
        _ => {}
    }
    range
}

fn any_change(random: &mut StdRng, step: u64) -> ChangeSource {
    let mark = format!("mark-{step}");
    match random.random_range(0..5) {
        0 => ChangeSource::Chain(vec![rewrite(&mark)]),
        1 => ChangeSource::Chain(vec![failing(), rewrite(&mark)]),
        2 => ChangeSource::Remove("rewrite-device-id@0.1.0".parse().unwrap()),
        3 => ChangeSource::Replace {
            step: "rewrite-device-id@0.1.0".parse().unwrap(),
            by: "rewrite-device-id@0.1.0".parse().unwrap(),
            config: Some(json!({"rules": [{"from_prefix": "device-2", "to": mark}]})),
        },
        _ => ChangeSource::Insert { step: rewrite(&mark), before: None },
    }
}

/// Stages a correction, and publishes it, cancels it or leaves it as it is. `shaken`: something may fail.
async fn stage(
    engine: &Arc<Engine>,
    random: &mut StdRng,
    source: CorrectionSource,
    (shaken, happened): (bool, &Happened),
) -> Result<(), CorrectionError> {
    let plan = engine.plan_correction(source).await?;
    let id = match engine.stage(plan, "test", "random").await {
        Ok(id) => id,
        // What an earlier step left.
        Err(CorrectionError::AlreadyStaged(id)) => id,
        Err(error) => return Err(error),
    };
    let head = engine.timeline().head();
    if random.random() {
        let status = engine.wait_staged(id).await?;
        assert!(shaken || status.state() == "staged" && status.done == status.total, "{status:?}");
        let found = &engine.corrections()[0];
        assert_eq!((found.id, found.state), (CorrectionId::Staged(id), status.state()));
    }
    match random.random_range(0..4) {
        0 => {}
        1 => {
            engine.cancel_staged(id).await?;
            let staged = CorrectionId::Staged(id);
            assert!(engine.corrections().iter().all(|correction| correction.id != staged), "it leaves no trace");
            count(&happened.cancelled);
        }
        _ => {
            engine.wait_staged(id).await?;
            assert_eq!(engine.publish_staged(id).await?.id, head + 1);
            count(&happened.corrected);
            count(&happened.published);
            return Ok(());
        }
    }
    assert_eq!(engine.timeline().head(), head, "nothing is in force");
    Ok(())
}

/// A correction of any kind, staged or not.
async fn any_correction(
    engine: Arc<Engine>,
    mut random: StdRng,
    step: u64,
    shaken: bool,
    happened: Arc<Happened>,
) -> Result<(), String> {
    let change = any_change(&mut random, step);
    let source = CorrectionSource { change, range: any_range(&engine, &mut random).await };
    let done = if random.random_range(0..3) == 0 {
        stage(&engine, &mut random, source.clone(), (shaken, &happened)).await
    } else {
        correct(&engine, source.clone(), "random").await.map(|_| count(&happened.corrected))
    };
    match done {
        Ok(()) | Err(CorrectionError::Nothing(_) | CorrectionError::Range(_)) => Ok(()),
        Err(error) => Err(format!("{source:?}: {error}")),
    }
}

async fn activate(engine: Arc<Engine>, mark: String) -> Result<(), String> {
    let chain = engine.pin_chain(vec![rewrite(&mark)]).await.map_err(|error| error.to_string())?;
    let (author, reason, start) = ("test".to_owned(), mark, ActivationStart::End);
    let activated = engine.activate(Activation { chain, author, reason, start }).await;
    activated.map(|_| ()).map_err(|error| error.to_string())
}

async fn maintain(engine: Arc<Engine>, rebuild: Option<&'static str>) -> Result<(), String> {
    match rebuild {
        Some(store) => engine.rebuild(store).await.map_err(|error| error.to_string()),
        None => engine.maintainer().compact().await.map(|_| ()).map_err(|error| error.to_string()),
    }
}

/// What is refused, where nothing was made to fail, is a defect.
fn fails(shaken: bool, happened: &Happened, what: &str, done: Option<Result<(), String>>) {
    match done {
        Some(Err(_)) if shaken => count(&happened.failed),
        Some(Err(error)) => panic!("{what}: {error}"),
        Some(Ok(())) | None => {}
    }
}

/// One history.
fn history(seed: u64, crashes: watch::Receiver<u64>, happened: &Arc<Happened>) {
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path(), crashes);
    life.run(|engine| activate(engine, "first".to_owned())).unwrap().unwrap();
    let mut sent = 0;
    for step in 0..random.random_range(8..14) {
        let shaken = !life.armed.is_empty();
        let done = match random.random_range(0..17) {
            0..4 => {
                let numbers = sent..sent + random.random_range(1..60);
                sent = numbers.end;
                let events: Vec<_> = numbers
                    .map(|n| (format!("event-{n}"), format!("device-{}", random.random_range(0..25)), n % 3))
                    .collect();
                life.run(|engine| async move {
                    ingest(&engine, events).await;
                    Ok(())
                })
            }
            4..8 => {
                let (random, counts) = (StdRng::seed_from_u64(random.random()), happened.clone());
                life.run(|engine| any_correction(engine, random, step, shaken, counts))
            }
            8 => life.run(|engine| activate(engine, format!("live-{step}"))),
            9 => {
                life.restart();
                None
            }
            10..15 => {
                life.arm(CRASHES[random.random_range(0..CRASHES.len())], "panic", &mut random);
                None
            }
            _ => {
                life.arm(FAILURES[random.random_range(0..FAILURES.len())], "1*return", &mut random);
                None
            }
        };
        fails(shaken, happened, &format!("seed {seed}, step {step}"), done);
        let shaken = !life.armed.is_empty();
        let done = match random.random_range(0..12) {
            0 | 1 => life.run(|engine| maintain(engine, None)),
            2 => {
                let store = ["delta", "history"][random.random_range(0..2)];
                life.run(|engine| maintain(engine, Some(store)))
            }
            _ => None,
        };
        fails(shaken, happened, &format!("seed {seed}, step {step}, maintenance"), done);
        life.crash_if_due();
        if random.random_range(0..4) == 0 {
            life.disarm();
            let what = format!("seed {seed}, step {step}");
            life.run(|engine| async move { check(&engine, &what).await }).unwrap();
        }
    }
    life.disarm();
    life.run(|engine| async move { check(&engine, &format!("seed {seed}, at the end")).await }).unwrap();
    life.restart();
}

#[test]
fn random_histories_end_as_the_model_says() {
    let seed = seed(11);
    let histories = std::env::var("MILLRACE_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(HISTORIES);
    let happened = Arc::new(Happened::default());
    let crashes = count_crashes();
    for number in 0..histories {
        history(seed.wrapping_mul(1000).wrapping_add(number), crashes.clone(), &happened);
    }
    let crashed = *crashes.borrow();
    println!("{histories} histories: {crashed} crashes, {happened:?}");
    let Happened { corrected, published, cancelled, .. } = &*happened;
    let [corrected, published, cancelled] = [corrected, published, cancelled].map(|what| what.load(Ordering::SeqCst));
    assert!(corrected >= histories / 2, "the histories held few corrections: {happened:?}");
    assert!(published.min(cancelled) >= histories / 25, "few were staged: {happened:?}");
    assert!(crashed >= histories / 20, "few crashed");
}
