//! Corrections in process: what each of them brings, against a model that knows nothing of stores.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::collections::BTreeMap;

use common::Audit;
use common::corrections::{correct, events, failing, ingest, open, rewrite};
use common::model::check;
use millrace_pipeline::correction::id::CorrectionId;
use millrace_pipeline::correction::{Bound, ChangeSource, CorrectionError, CorrectionSource, RangeSource};
use millrace_pipeline::pipeline::{PluginSource, StepSource};
use millrace_pipeline::verify::VerifyOptions;
use millrace_timeline::Filter;
use serde_json::json;

/// A step that stops the chain there instead.
fn halting() -> StepSource {
    StepSource { on_error: millrace_plugin_host::OnError::Halt, ..failing() }
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
    assert_eq!(engine.corrections()[0].id, CorrectionId::Published(first), "the staged one is no more");
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
    assert_ne!(engine.stage(plan, "test", "again").await.unwrap(), id, "no name is used again");
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
    assert_eq!((status.len(), status[0].id, status[0].state), (1, CorrectionId::Published(corrected.id), "applied"));
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
    assert_eq!((status.id, status.state), (CorrectionId::Published(stuck), "applying"));
    assert!(status.stores.values().any(|store| store.problem.is_some()), "{status:?}");

    ingest(&engine, events(60..90)).await;
    engine.drain().await.expect("live traffic goes on");
    let change = ChangeSource::Remove("rewrite-device-id@0.1.0".parse().unwrap());
    correct(&engine, source(change), "goes past it").await.unwrap();
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
