//! Corrections in process: random histories of traffic, activations and corrections, against a model that knows nothing of
//! stores; and what `verify` finds when somebody has tampered with one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Audit, Rows, seed};
use millrace_log::ReadLimit;
use millrace_pipeline::correction::{Bound, ChangeSource, CorrectionError, CorrectionSource, RangeSource};
use millrace_pipeline::engine::Engine;
use millrace_pipeline::ingest::{Envelope, NewEvent};
use millrace_pipeline::pipeline::{Activation, PluginSource, StepSource};
use millrace_pipeline::processor::ActivationStart;
use millrace_pipeline::transform::{Segment, transform};
use millrace_pipeline::verify::VerifyOptions;
use millrace_timeline::Filter;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

/// Histories of one run; more by `MILLRACE_HISTORIES`.
const HISTORIES: u64 = 25;
const APPS: [&str; 3] = ["shop", "news", "game"];

async fn open(dir: &Path) -> Arc<Engine> {
    let mut options = common::options(dir);
    options.log.partitions = 2;
    options.pipeline = None;
    options.delta_commit.age = Duration::from_millis(5);
    options.processor.batch_records = 16;
    options.delta.rewrite_records_max = 40;
    options.delta.checkpoint_every = 20;
    let engine = Engine::open(options).await.unwrap();
    engine.start().await;
    engine
}

async fn ingest(engine: &Engine, events: impl IntoIterator<Item = (String, String, usize)>) {
    let events = events
        .into_iter()
        .map(|(id, device, app)| {
            let mut event = common::event(&id, &device, u64::try_from(id.len() * 7 + device.len()).unwrap());
            event["context"]["app"] = json!({"name": APPS[app], "version": format!("{}.0", app + 1)});
            NewEvent { payload: Bytes::from(event.to_string()), takes_received_at: false, id: None }
        })
        .collect();
    for result in engine.ingest().accept(&Envelope::default(), events).await {
        result.unwrap();
    }
}

/// Events of seven devices and all apps.
fn events(numbers: std::ops::Range<usize>) -> impl Iterator<Item = (String, String, usize)> {
    numbers.map(|n| (format!("event-{n}"), format!("device-{}", n % 7), n % 3))
}

/// A step that gives devices another name: which one, tells which revision made a row.
fn rewrite(mark: &str) -> StepSource {
    let plugin = PluginSource::Named("rewrite-device-id@0.1.0".parse().unwrap());
    StepSource::new(plugin, json!({"rules": [{"from_prefix": "device-1", "to": mark}]}))
}

/// A step that fails what has no such property: dead letters.
fn failing() -> StepSource {
    let plugin = PluginSource::Named("rewrite-device-id@0.1.0".parse().unwrap());
    StepSource::new(plugin, json!({"rules": [{"app": "news", "to_path": "properties.missing"}]}))
}

/// A step that stops the chain there instead.
fn halting() -> StepSource {
    StepSource { on_error: millrace_plugin_host::OnError::Halt, ..failing() }
}

async fn correct(engine: &Engine, source: CorrectionSource, reason: &str) -> Result<u64, CorrectionError> {
    let plan = engine.plan_correction(source).await?;
    Ok(engine.correct(&plan, "test", reason).await?.id)
}

/// What log and timeline say, record by record: each alone, through the first chain that a plain look at all revisions
/// finds.
async fn model(engine: &Engine) -> (Rows, BTreeSet<(u32, u64)>) {
    let timeline = engine.timeline();
    let (mut rows, mut dead) = (Rows::new(), BTreeSet::new());
    for partition in 0..engine.log().partitions() {
        let bounds = engine.log().bounds(partition).await.unwrap();
        for offset in bounds.start..bounds.end {
            let record = engine.log().read(partition, offset, ReadLimit { records: 1, bytes: 1 }).await.unwrap();
            let decoded = engine.processor().decoder().decode(&record, partition, engine.log().id());
            let value = |column: &str| {
                let column = arrow::array::AsArray::as_string::<i32>(decoded.batch.column_by_name(column)?);
                Some(column.value(0))
            };
            let in_force = timeline.revisions().iter().rev().find(|revision| {
                revision.ranges.of(partition).is_some_and(|range| range.contains(offset))
                    && (revision.filter.is_empty() || (decoded.batch.num_rows() == 1 && revision.filter.matches(value)))
            });
            let revision = in_force.unwrap();
            let chain = engine.processor().chains().get(revision).await.unwrap();
            let segment = Segment::of(offset..offset + 1, revision.id, chain);
            let outcome =
                transform(engine.processor().decoder(), &[segment], engine.log().id(), partition, &record).unwrap();
            common::add(&mut rows, &outcome.rows, "model");
            dead.extend(outcome.dead.iter().map(|dead| (partition, dead.offset)));
        }
    }
    (rows, dead)
}

/// Both stores are what the model says, and `verify` agrees.
async fn check(engine: &Arc<Engine>, what: &str) {
    engine.drain().await.unwrap();
    engine.settle().await.unwrap_or_else(|problem| panic!("{what}: {problem}"));
    let audit = Audit::of_engine(engine).await;
    assert_eq!(audit.differences(), Vec::<String>::new(), "{what}");
    let (rows, dead) = model(engine).await;
    assert!(audit.history == rows, "{what}: the history differs from the model");
    assert!(audit.delta == rows, "{what}: the table differs from the model");
    assert_eq!(audit.dead[1].iter().copied().collect::<BTreeSet<_>>(), dead, "{what}");
    let options = VerifyOptions { full: true, ..VerifyOptions::default() };
    let report = engine.verifier().run(&options, |_| ()).await.unwrap();
    assert_eq!((report.differences, &report.first), (0, &vec![]), "{what}: {report:?}");
    assert_eq!(report.rows_checked, 2 * rows.len() as u64, "{what}: {report:?}");
}

fn any_filter(random: &mut StdRng) -> Filter {
    match random.random_range(0..4) {
        0 => Filter::default().with("app", [APPS[random.random_range(0..3)]]),
        1 => Filter::default().with("app", ["shop", "game"]).with("device_id", (0..9).map(|n| format!("device-{n}"))),
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

async fn any_change(random: &mut StdRng, step: u64) -> ChangeSource {
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

/// What happened in histories.
#[derive(Debug, Default)]
struct Happened {
    /// Corrections that came into force.
    corrected: u64,
    /// Corrections of these that were staged before.
    published: u64,
    /// Corrections that were cancelled while staged.
    cancelled: u64,
}

/// Stages a correction, and publishes it, cancels it or leaves it as it is.
async fn stage(
    engine: &Arc<Engine>,
    random: &mut StdRng,
    source: CorrectionSource,
    happened: &mut Happened,
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
        let status = engine.wait_staged(id).await.unwrap();
        assert_eq!((status.state(), status.done), ("staged", status.total));
        assert_eq!((engine.corrections()[0].id, engine.corrections()[0].state), (id, "staged"));
    }
    match random.random_range(0..4) {
        0 => {}
        1 => {
            engine.cancel_staged(id).await.unwrap();
            assert!(engine.corrections().iter().all(|correction| correction.id != id), "it leaves no trace");
            happened.cancelled += 1;
        }
        _ => {
            engine.wait_staged(id).await.unwrap();
            assert_eq!(engine.publish_staged(id).await.unwrap().id, id);
            happened.corrected += 1;
            happened.published += 1;
            return Ok(());
        }
    }
    assert_eq!(engine.timeline().head(), head, "nothing is in force");
    Ok(())
}

/// One history.
async fn history(seed: u64, happened: &mut Happened) {
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut engine = open(dir.path()).await;
    let chain = engine.pin_chain(vec![rewrite("first")]).await.unwrap();
    let (author, reason) = ("test".to_owned(), "the first".to_owned());
    engine.activate(Activation { chain, author, reason, start: ActivationStart::End }).await.unwrap();
    let mut sent = 0;
    for step in 0..random.random_range(6..12) {
        match random.random_range(0..10) {
            0..4 => {
                let count = random.random_range(1..60);
                let events: Vec<_> = (sent..sent + count)
                    .map(|n| (format!("event-{n}"), format!("device-{}", random.random_range(0..25)), n % 3))
                    .collect();
                sent += count;
                ingest(&engine, events).await;
            }
            4..8 => {
                let change = any_change(&mut random, step).await;
                let source = CorrectionSource { change, range: any_range(&engine, &mut random).await };
                let done = if random.random_range(0..3) == 0 {
                    stage(&engine, &mut random, source.clone(), happened).await
                } else {
                    correct(&engine, source.clone(), "random").await.map(|_| happened.corrected += 1)
                };
                match done {
                    Ok(()) => {}
                    Err(CorrectionError::Nothing(_) | CorrectionError::Range(_)) => {}
                    Err(error) => panic!("seed {seed}, {source:?}: {error}"),
                }
            }
            8 => {
                let chain = engine.pin_chain(vec![rewrite(&format!("live-{step}"))]).await.unwrap();
                let (author, reason) = ("test".to_owned(), "another".to_owned());
                engine.activate(Activation { chain, author, reason, start: ActivationStart::End }).await.unwrap();
            }
            _ => {
                // Whatever the stores are doing: it ends in the middle, and goes on.
                engine.stop().await.unwrap();
                drop(engine);
                engine = open(dir.path()).await;
            }
        }
        if random.random_range(0..4) == 0 {
            check(&engine, &format!("seed {seed}, step {step}")).await;
        }
        match random.random_range(0..12) {
            0 | 1 => drop(engine.maintainer().compact().await.unwrap()),
            2 => engine.rebuild(["delta", "history"][random.random_range(0..2)]).await.unwrap(),
            _ => {}
        }
    }
    check(&engine, &format!("seed {seed}, at the end")).await;
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_end_as_the_model_says() {
    let seed = seed(11);
    let histories = std::env::var("MILLRACE_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(HISTORIES);
    let mut happened = Happened::default();
    for number in 0..histories {
        history(seed.wrapping_mul(1000).wrapping_add(number), &mut happened).await;
    }
    println!("{histories} histories: {happened:?}");
    assert!(happened.corrected >= histories / 2, "the histories held few corrections: {happened:?}");
    assert!(happened.published.min(happened.cancelled) >= histories / 25, "few were staged: {happened:?}");
}

/// What is staged is taken by both stores once it is published, leaves nothing when it is cancelled, and is not published
/// over another revision.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_staged_is_published_or_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let staged_files = dir.path().join("staged");
    let files = || std::fs::read_dir(&staged_files).map_or(0, Iterator::count);
    let engine = open(dir.path()).await;
    ingest(&engine, events(0..300)).await;
    engine.drain().await.unwrap();
    let source = |mark: &str, range| CorrectionSource {
        change: ChangeSource::Insert { step: rewrite(mark), before: None },
        range,
    };
    let plan = engine.plan_correction(source("cancelled", RangeSource::default())).await.unwrap();
    let id = engine.stage(plan.clone(), "ada", "not yet").await.unwrap();
    let again = engine.stage(plan.clone(), "ada", "twice").await.unwrap_err();
    assert!(matches!(again, CorrectionError::AlreadyStaged(other) if other == id), "{again}");
    let status = engine.wait_staged(id).await.unwrap();
    assert_eq!((status.done, status.total, files()), (300, 300, 1));
    let before = Audit::of_engine(&engine).await;
    engine.cancel_staged(id).await.unwrap();
    assert_eq!((files(), engine.corrections().len()), (0, 0));
    let gone = engine.publish_staged(id).await.unwrap_err();
    assert!(matches!(gone, CorrectionError::NotStaged(_)), "{gone}");
    check(&engine, "cancelled").await;
    assert!(Audit::of_engine(&engine).await.history == before.history, "a cancelled correction changes nothing");

    // Another revision is first.
    let overtaken = engine.stage(plan, "ada", "too late").await.unwrap();
    engine.wait_staged(overtaken).await.unwrap();
    let first = correct(&engine, source("first", RangeSource::default()), "first").await.unwrap();
    assert_eq!(first, overtaken, "it has the number");
    let refused = engine.publish_staged(overtaken).await.unwrap_err();
    assert!(matches!(refused, CorrectionError::NotStaged(_)), "{refused}");
    check(&engine, "overtaken").await;
    assert_eq!(files(), 0);

    // Of some records, and more come in meanwhile.
    let filter = Filter::default().with("app", ["shop"]);
    let plan =
        engine.plan_correction(source("staged", RangeSource { filter, ..RangeSource::default() })).await.unwrap();
    let id = engine.stage(plan, "ada", "staged").await.unwrap();
    engine.wait_staged(id).await.unwrap();
    ingest(&engine, events(300..400)).await;
    let batches = async |outcome: &str| {
        let text = engine.metrics_text().await.unwrap();
        let name = format!("millrace_remade_batches_total{{outcome=\"{outcome}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok()).unwrap_or(0)
    };
    let made = batches("made").await;
    assert_eq!(batches("staged").await, 0);
    engine.publish_staged(id).await.unwrap();
    check(&engine, "published").await;
    assert_eq!(batches("made").await, made, "nothing was made again");
    assert!(batches("staged").await >= 2 * 300 / 16, "both stores took what was staged");
    assert_eq!((files(), engine.corrections()[0].state), (0, "applied"));
    engine.stop().await.unwrap();
}

/// A chain that can't do the range is found out before the correction is in force.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_staged_is_not_published() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    ingest(&engine, events(0..60)).await;
    engine.drain().await.unwrap();
    let change = ChangeSource::Insert { step: halting(), before: None };
    let plan = engine.plan_correction(CorrectionSource { change, range: RangeSource::default() }).await.unwrap();
    let id = engine.stage(plan.clone(), "test", "halts").await.unwrap();
    let status = engine.wait_staged(id).await.unwrap();
    assert!(status.problem.as_ref().is_some_and(|problem| problem.contains("rewrite-device-id")), "{status:?}");
    assert_eq!(engine.corrections()[0].state, "failed");
    let refused = engine.publish_staged(id).await.unwrap_err();
    assert!(matches!(refused, CorrectionError::NotReady { .. }), "{refused}");
    check(&engine, "not published").await;
    // It is in nobody's way.
    assert_eq!(engine.stage(plan, "test", "again").await.unwrap(), id);
    engine.stop().await.unwrap();
}

/// The reason why Millrace exists: a release sends one device id for all, a rule mends it, for that release alone; and it
/// can be undone.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_device_id_is_corrected_in_both_stores_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    ingest(&engine, events(0..300)).await;
    engine.drain().await.unwrap();
    let before = Audit::of_engine(&engine).await;
    let filter = Filter::default().with("app", ["shop"]);
    let range = RangeSource { filter: filter.clone(), ..RangeSource::default() };
    let insert = ChangeSource::Insert {
        step: StepSource::new(
            PluginSource::Named("rewrite-device-id@0.1.0".parse().unwrap()),
            json!({"rules": [{"from": "device-1", "to": "right"}]}),
        ),
        before: Some("pii-scrub".into()),
    };
    let source = CorrectionSource { change: insert, range: range.clone() };
    let plan = engine.plan_correction(source).await.unwrap();
    let preview = engine.preview(&plan, 100_000).await.unwrap();
    // 300 events, every third of the shop, every seventh of device-1: by the Chinese remainder theorem one in 21.
    let wrong = (0..300).filter(|n| n % 3 == 0 && n % 7 == 1).count() as u64;
    assert_eq!((preview.diff.records, preview.diff.rows_changed), (100, wrong));
    assert_eq!(preview.diff.columns, BTreeMap::from([("device_id".to_owned(), wrong)]));
    assert_eq!((preview.diff.rows_added, preview.diff.rows_removed), (0, 0));
    assert_eq!(Audit::of_engine(&engine).await.delta, before.delta, "a preview writes nothing");

    let corrected = engine.correct(&plan, "ada", "the shop's release 1.0 sends device-1").await.unwrap();
    check(&engine, "corrected").await;
    let status = engine.corrections();
    assert_eq!((status.len(), status[0].id, status[0].state), (1, corrected.id, "applied"));
    let after = Audit::of_engine(&engine).await;
    let moved = after.history.iter().filter(|(place, row)| before.history[*place] != **row).count() as u64;
    assert_eq!(moved, 100, "every row of the shop has another revision");

    let source = CorrectionSource { change: ChangeSource::Remove("rewrite-device-id@0.1.0".parse().unwrap()), range };
    correct(&engine, source, "undone").await.unwrap();
    check(&engine, "undone").await;
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_is_refused_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    ingest(&engine, (0..40).map(|n| (format!("event-{n}"), format!("device-{n}"), n % 3))).await;
    let head = engine.timeline().head();
    let remove = || ChangeSource::Remove("pii-scrub@0.1.0".parse().unwrap());
    let ranges = |from: u64, to: u64| RangeSource {
        from: Some(Bound::Offset(from)),
        to: Some(Bound::Offset(to)),
        ..RangeSource::default()
    };
    let unknown_plugin = ChangeSource::Replace {
        step: "pii-scrub@0.1.0".parse().unwrap(),
        by: "pii-scrub@9.9.9".parse().unwrap(),
        config: None,
    };
    let not_there = ChangeSource::Remove("no-such@1.0.0".parse().unwrap());
    let wrong_column = RangeSource { filter: Filter::default().with("ua_os", ["x"]), ..RangeSource::default() };
    let no_partition = RangeSource { partitions: [9].into(), ..RangeSource::default() };
    let both = RangeSource { last: Some(5), ..ranges(0, 5) };
    // Neither of these may reach the timeline: nothing takes it out again.
    let filtered = |filter: Filter| RangeSource { filter, ..RangeSource::default() };
    let no_value = filtered(Filter::default().with("app", Vec::<String>::new()));
    let many_values = filtered(Filter::default().with("app", (0..1001).map(|n| n.to_string())));
    for (change, range, expected) in [
        (remove(), ranges(5, 5), "is empty"),
        (remove(), ranges(9, 5), "is empty"),
        (remove(), no_partition, "no partition 9"),
        (remove(), both, "either last"),
        (remove(), wrong_column, "a filter can't be on"),
        (remove(), no_value, "lets no value of app through"),
        (remove(), many_values, "lists 1001 values of app"),
        (unknown_plugin, RangeSource::default(), "no plugin pii-scrub@9.9.9"),
        (not_there, RangeSource::default(), "nothing to do"),
        (ChangeSource::Insert { step: rewrite("x"), before: Some("nobody".into()) }, ranges(0, 5), "nothing to do"),
    ] {
        let source = CorrectionSource { change, range };
        let error = engine.plan_correction(source.clone()).await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{source:?}: {error}");
    }
    assert_eq!(engine.timeline().head(), head);
    engine.stop().await.unwrap();
}

/// A chain that can't go on at some record stops the correction, not the live loops; another correction goes past it.
#[tokio::test(flavor = "multi_thread")]
async fn a_correction_that_can_not_go_on_says_why_and_another_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    ingest(&engine, events(0..60)).await;
    engine.drain().await.unwrap();
    let source = |change| CorrectionSource { change, range: RangeSource::default() };
    let stuck =
        correct(&engine, source(ChangeSource::Insert { step: halting(), before: None }), "halts").await.unwrap();
    let problem = engine.settle().await.unwrap_err();
    assert!(problem.contains("rewrite-device-id"), "{problem}");
    let status = &engine.corrections()[0];
    assert_eq!((status.id, status.state), (stuck, "applying"));
    assert!(status.stores.values().any(|store| store.problem.is_some()), "{status:?}");

    ingest(&engine, events(60..90)).await;
    engine.drain().await.expect("live traffic goes on");
    let change = ChangeSource::Remove("rewrite-device-id@0.1.0".parse().unwrap());
    correct(&engine, source(change), "goes past it").await.unwrap();
    let deadline = std::time::Instant::now() + common::PATIENCE;
    // The problem stands until the store has looked again.
    while engine.settle().await.is_err() {
        assert!(std::time::Instant::now() < deadline, "the second correction is not applied");
        tokio::task::yield_now().await;
    }
    check(&engine, "mended").await;
    engine.stop().await.unwrap();
}

/// A verification begins where the last clean one ended, or where a later correction begins.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_verified_is_not_looked_at_again_until_it_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    let verify = async |options: VerifyOptions| {
        engine.drain().await.unwrap();
        engine.settle().await.unwrap();
        let report = engine.verifier().run(&options, |_| ()).await.unwrap();
        assert_eq!(report.differences, 0, "{report:?}");
        let before: u64 = report.stores.values().map(|store| store.verified_before).sum();
        (report.rows_checked, before)
    };
    ingest(&engine, events(0..50)).await;
    assert_eq!(verify(VerifyOptions::default()).await, (100, 0));
    assert_eq!(verify(VerifyOptions::default()).await, (0, 100));
    ingest(&engine, events(50..60)).await;
    assert_eq!(verify(VerifyOptions::default()).await, (20, 100), "what came since");
    let all = VerifyOptions { all: true, ..VerifyOptions::default() };
    assert_eq!(verify(all).await, (120, 0));

    // The last three of each partition are made again.
    let range = RangeSource { last: Some(3), ..RangeSource::default() };
    let change = ChangeSource::Insert { step: rewrite("other"), before: None };
    let ends = engine.log_ends().await.unwrap();
    let again: u64 = ends.values().map(|end| end.min(&3)).sum();
    correct(&engine, CorrectionSource { change, range }, "again").await.unwrap();
    assert_eq!(verify(VerifyOptions::default()).await, (2 * again, 120 - 2 * again));
    engine.rebuild("delta").await.unwrap();
    assert_eq!(verify(VerifyOptions::default()).await, (60, 60), "the table, and not the history");
    engine.stop().await.unwrap();
}
