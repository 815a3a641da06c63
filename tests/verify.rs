//! `verify` finds every kind of damage, vouches for nothing that it has not looked at, and says what it compared.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::corrections::{correct, events, failing, ingest, rewrite};
use common::model::{check, rest};
use millrace_history::{HistoryReader, Keys};
use millrace_keyspace::embedded::EmbeddedKeyspace;
use millrace_keyspace::{Batch, Keyspace, Write};
use millrace_log::EventLog;
use millrace_log::embedded::EmbeddedLog;
use millrace_pipeline::correction::{ChangeSource, CorrectionSource, RangeSource};
use millrace_pipeline::engine::{Engine, EngineOptions, ROOT};
use millrace_pipeline::keyspace::KeyspaceOptions;
use millrace_pipeline::roles::Role;
use millrace_pipeline::verify::{DIFFERENCES_MAX, Report, VerifyError, VerifyOptions};
use serde_json::{Value, json};

/// A deployment whose keyspace the test can write, too.
struct Place {
    dir: tempfile::TempDir,
    keyspace: Arc<dyn Keyspace>,
    log: Arc<dyn EventLog>,
}

impl Place {
    async fn new(partitions: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keyspace = EmbeddedKeyspace::open(dir.path().join("keyspace"), Default::default()).await.unwrap();
        let options = millrace_log::embedded::Options { partitions, ..Default::default() };
        let log = EmbeddedLog::open(dir.path().join("log"), options).unwrap();
        Self { dir, keyspace: Arc::new(keyspace), log: Arc::new(log) }
    }

    fn options(&self) -> EngineOptions {
        let mut options = common::options(self.dir.path());
        options.keyspace = KeyspaceOptions::Shared(self.keyspace.clone());
        options.shared_log = Some(self.log.clone());
        options.pipeline = None;
        options.delta_commit.age = Duration::from_millis(5);
        options.processor.batch_records = 16;
        options
    }

    async fn start(&self) -> Arc<Engine> {
        let engine = Engine::open(self.options()).await.unwrap();
        engine.start().await;
        engine
    }

    async fn write(&self, writes: Vec<Write>) {
        self.keyspace.commit(Batch { compares: vec![], writes }).await.unwrap();
    }

    async fn first_row(&self) -> millrace_history::StoredRow {
        HistoryReader::new(self.keyspace.clone(), ROOT).rows(None, 1).await.unwrap().rows.remove(0)
    }

    fn table(&self) -> PathBuf {
        self.dir.path().join("delta")
    }
}

async fn run(engine: &Engine, options: VerifyOptions) -> Report {
    engine.verifier().run(&options, |_| ()).await.unwrap()
}

fn full() -> VerifyOptions {
    VerifyOptions { full: true, ..VerifyOptions::default() }
}

fn told(report: &Report) -> Vec<(&'static str, u32, u64, String)> {
    report.first.iter().map(|it| (it.store, it.partition, it.offset, it.what.to_string())).collect()
}

/// The data files of a table, by path: their add actions.
fn files(table: &Path) -> BTreeMap<String, Value> {
    let mut versions: Vec<_> =
        std::fs::read_dir(table.join("_delta_log")).unwrap().map(|it| it.unwrap().path()).collect();
    versions.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    versions.sort();
    let mut files = BTreeMap::new();
    for path in versions {
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let action: Value = serde_json::from_str(line).unwrap();
            if let Some(path) = action["add"]["path"].as_str() {
                files.insert(path.to_owned(), action["add"].clone());
            }
            if let Some(path) = action["remove"]["path"].as_str() {
                files.remove(path);
            }
        }
    }
    files
}

fn stats(add: &Value) -> Value {
    serde_json::from_str(add["stats"].as_str().unwrap()).unwrap()
}

/// Puts actions into a table behind the engine's back.
fn commit(table: &Path, actions: &[Value]) {
    let log = table.join("_delta_log");
    let version = (0..).find(|version| !log.join(format!("{version:020}.json")).exists()).unwrap();
    let lines: Vec<String> = actions.iter().map(|action| format!("{action}\n")).collect();
    std::fs::write(log.join(format!("{version:020}.json")), lines.concat()).unwrap();
}

/// Puts a file of another table into this one.
fn plant_file(from: &Path, to: &Path, add: &Value, with_stats: bool) {
    let path = add["path"].as_str().unwrap();
    let planted = path.replace("millrace-", "planted-");
    std::fs::create_dir_all(to.join(&planted).parent().unwrap()).unwrap();
    std::fs::copy(from.join(path), to.join(&planted)).unwrap();
    let mut add = add.clone();
    add["path"] = json!(planted);
    if !with_stats {
        add.as_object_mut().unwrap().remove("stats");
    }
    commit(to, &[json!({"add": add})]);
}

/// Rows of the table past its cursors and of partitions that the log does not have are found by every verification, with
/// statistics and without.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_table_that_are_in_no_window_are_found() {
    // More partitions, and more events of each, than the deployment that is damaged.
    let (larger, place) = (Place::new(4).await, Place::new(2).await);
    let others = larger.start().await;
    for events in [events(0..400), events(400..800)] {
        // The files of the second lie wholly past what the other deployment has.
        ingest(&others, events).await;
        rest(&others, "larger").await;
    }
    others.stop().await.unwrap();
    let engine = place.start().await;
    ingest(&engine, events(0..40)).await;
    check(&engine, "before").await;
    assert_eq!(run(&engine, VerifyOptions::default()).await.differences, 0);

    let ends = engine.log_ends().await.unwrap();
    let (mut past, mut strange, mut rows) = (false, false, 0);
    for (number, add) in files(&larger.table()).values().enumerate() {
        let stats = stats(add);
        let partition = u32::try_from(stats["minValues"]["_partition"].as_u64().unwrap()).unwrap();
        let first = stats["minValues"]["_offset"].as_u64().unwrap();
        if ends.get(&partition).is_some_and(|end| first < *end) {
            // It would have some rows where others are: another kind of damage.
            continue;
        }
        (past, strange) = (past || partition < 2, strange || partition >= 2);
        rows += stats["numRecords"].as_u64().unwrap();
        plant_file(&larger.table(), &place.table(), add, number % 2 == 0);
    }
    assert!(past && strange, "a file of each kind");
    for options in [VerifyOptions::default(), full()] {
        let report = run(&engine, options).await;
        assert_eq!((report.differences, report.stores["delta"].differences), (rows, rows), "{report:?}");
        assert_eq!(report.first.len(), DIFFERENCES_MAX);
        assert!(told(&report).iter().all(|(store, partition, offset, what)| {
            let end = ends.get(partition);
            *store == "delta"
                && match what.as_str() {
                    "a row at or past the store's cursor" => end.is_some_and(|end| offset >= end),
                    "a row of a partition that the log does not have" => end.is_none(),
                    _ => false,
                }
        }));
    }
    engine.stop().await.unwrap();
}

/// Dead letters past the cursors or of no partition are found by every verification; rows of the history by a full one.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_history_has_past_its_cursors_is_found() {
    let place = Place::new(2).await;
    let engine = place.start().await;
    ingest(&engine, events(0..60)).await;
    rest(&engine, "ingested").await;
    let change = ChangeSource::Insert { step: failing(), before: None };
    correct(&engine, CorrectionSource { change, range: RangeSource::default() }, "dead letters").await.unwrap();
    check(&engine, "before").await;
    let ends = engine.log_ends().await.unwrap();
    let keys = Keys::new(ROOT);
    let letter = {
        let page = engine.history().dead_letters(0, 0, 1).await.unwrap();
        place.keyspace.get(&keys.dead(0, page.letters[0].offset)).await.unwrap().unwrap()
    };
    let planted = [(0, ends[&0]), (1, ends[&1] + 1_000_000), (7, 3)];
    for (partition, offset) in planted {
        place.write(vec![Write::Put(keys.dead(partition, offset), letter.clone())]).await;
    }
    let report = run(&engine, VerifyOptions::default()).await;
    assert_eq!(report.differences, 3, "{report:?}");
    let found: Vec<_> = told(&report).into_iter().map(|(_, partition, offset, _)| (partition, offset)).collect();
    assert_eq!(found, planted);
    assert_eq!(report.first[0].what, "a dead letter at or past the store's cursor");
    assert_eq!(report.first[2].what, "a dead letter of a partition that the log does not have");
    for (partition, offset) in planted {
        place.write(vec![Write::Delete(keys.dead(partition, offset))]).await;
    }

    let row = place.first_row().await;
    let mut planted: Vec<_> = [(0, ends[&0], 0), (1, ends[&1] + 70_000, 3)].into();
    planted.extend((0..100).map(|offset| (9, offset, 0)));
    for (partition, offset, sub) in &planted {
        let mut key = row.key.clone();
        (key.partition, key.offset, key.sub) = (*partition, *offset, *sub);
        place.write(vec![Write::Put(keys.row(&key).into(), row.row.clone())]).await;
    }
    let report = run(&engine, full()).await;
    assert_eq!((report.differences, report.stores["history"].differences), (102, 102), "{report:?}");
    let counted = |what: &str| report.first.iter().filter(|it| it.what == what).count();
    assert_eq!(report.first.len(), DIFFERENCES_MAX);
    assert_eq!(
        counted("a row at or past the store's cursor") + counted("a row of a partition that the log does not have"),
        20
    );
    let range = VerifyOptions { from: Some(0), to: Some(5), full: true, ..VerifyOptions::default() };
    assert_eq!(run(&engine, range).await.differences, 5, "what lies in the range");
    engine.stop().await.unwrap();
}

/// What comes in while everything is looked at is no damage.
#[tokio::test(flavor = "multi_thread")]
async fn a_verification_beside_live_events_finds_nothing() {
    let place = Place::new(2).await;
    let engine = place.start().await;
    ingest(&engine, events(0..40)).await;
    rest(&engine, "ingested").await;
    for round in 0..10 {
        let (report, ()) = tokio::join!(run(&engine, full()), async {
            for n in 0..10 {
                let first = 40 + round * 200 + n * 20;
                ingest(&engine, events(first..first + 20)).await;
            }
        });
        assert_eq!(report.differences, 0, "{report:?}");
    }
    check(&engine, "after").await;
    engine.stop().await.unwrap();
}

/// A data file that is damaged or gone is a difference of its own, and what else is there is compared.
#[tokio::test(flavor = "multi_thread")]
async fn a_data_file_that_can_not_be_read_is_told_of() {
    let place = Place::new(2).await;
    let engine = place.start().await;
    ingest(&engine, events(0..40)).await;
    rest(&engine, "some").await;
    ingest(&engine, events(40..80)).await;
    check(&engine, "before").await;
    let files = files(&place.table());
    let rows: u64 = files.values().map(|add| stats(add)["numRecords"].as_u64().unwrap()).sum();
    assert!(files.len() > 2);
    let (damaged, gone) = (files.keys().next().unwrap(), files.keys().next_back().unwrap());
    std::fs::write(place.table().join(damaged), b"no parquet").unwrap();
    std::fs::remove_file(place.table().join(gone)).unwrap();
    let lost: u64 = [damaged, gone].into_iter().map(|path| stats(&files[path])["numRecords"].as_u64().unwrap()).sum();
    for verifier in [engine.verifier(), engine.verifier().with_window_rows(1)] {
        let report = verifier.run(&VerifyOptions { all: true, ..VerifyOptions::default() }, |_| ()).await.unwrap();
        assert_eq!((report.stores["delta"].differences, report.stores["history"].differences), (2, 0), "{report:?}");
        assert_eq!(report.stores["delta"].rows_checked, rows - lost, "{report:?}");
        for path in [damaged, gone] {
            let stats = stats(&files[path]);
            let (low, high) = (&stats["minValues"]["_offset"], &stats["maxValues"]["_offset"]);
            let begins = format!("a data file can't be read, offsets {low} to {high}: {path}: ");
            let found =
                report.first.iter().find(|it| it.what.starts_with(&begins)).unwrap_or_else(|| panic!("{report:?}"));
            assert_eq!((json!(found.partition), &json!(found.offset)), (stats["minValues"]["_partition"].clone(), low));
        }
    }
    engine.stop().await.unwrap();
}

/// A window ends where it has rows enough, and what it finds is the same.
#[tokio::test(flavor = "multi_thread")]
async fn windows_are_cut_where_rows_are_many() {
    let place = Place::new(2).await;
    let engine = place.start().await;
    ingest(&engine, events(0..200)).await;
    check(&engine, "before").await;
    let whole = run(&engine, full()).await;
    let cut = engine.verifier().with_window_rows(20).run(&full(), |_| ()).await.unwrap();
    assert!(cut.windows >= 4 && whole.windows == 2, "{cut:?}");
    assert_eq!(Report { windows: whole.windows, ..cut }, whole);

    let row = place.first_row().await;
    let mut key = row.key.clone();
    key.device_id.push_str("-copy");
    place.write(vec![Write::Put(Keys::new(ROOT).row(&key).into(), row.row.clone())]).await;
    let cut = engine.verifier().with_window_rows(20).run(&full(), |_| ()).await.unwrap();
    assert_eq!((cut.differences, cut.first[0].what.as_ref()), (1, "rows from here on that no record accounts for"));
    engine.stop().await.unwrap();
}

/// A range is counted by itself, and one that holds nothing is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_range_without_records_is_refused() {
    let place = Place::new(2).await;
    let engine = place.start().await;
    ingest(&engine, events(0..40)).await;
    check(&engine, "before").await;
    let range = |from, to| VerifyOptions { from, to, ..VerifyOptions::default() };
    let ends = engine.log_ends().await.unwrap();
    let most = *ends.values().max().unwrap();
    for options in
        [range(Some(most), None), range(Some(most), Some(most + 5)), range(Some(5), Some(5)), range(None, Some(0))]
    {
        let refused = engine.verifier().run(&options, |_| ()).await.unwrap_err();
        let text = refused.to_string();
        assert!(matches!(refused, VerifyError::Bad(_)) && text.starts_with("nothing to compare in "), "{text}");
        assert!(text.contains(&format!("0: offsets 0 to {}", ends[&0] - 1)), "{text}");
    }
    let report = run(&engine, range(Some(2), Some(5))).await;
    for store in report.stores.values() {
        assert_eq!((store.compared, store.unverifiable, store.missing), (6, 0, 0), "{report:?}");
    }
    // The check has noted what it found.
    let again = run(&engine, VerifyOptions::default()).await;
    assert_eq!((again.stores["delta"].compared, again.stores["delta"].verified_before), (0, 40), "{again:?}");
    engine.stop().await.unwrap();
}

/// A rebuild that is asked for while a verification runs stays unverified.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_rebuild_forgets_is_not_noted_by_a_verification_under_way() {
    let place = Place::new(2).await;
    let engine = place.start().await;
    ingest(&engine, events(0..40)).await;
    check(&engine, "before").await;
    // The check has noted what it found: look at all of the table again, and rebuild it in the middle.
    engine.catalogue().forget_verified("delta").await.unwrap();
    let (began, begins) = tokio::sync::oneshot::channel();
    let (rebuilt, goes_on) = std::sync::mpsc::channel();
    let mut began = Some(began);
    let verifier = engine.verifier();
    let verification = tokio::spawn(async move {
        let options = VerifyOptions::default();
        let held = move |_: &Report| {
            if let Some(began) = began.take() {
                began.send(()).unwrap();
                tokio::task::block_in_place(|| goes_on.recv().unwrap());
            }
        };
        verifier.run(&options, held).await.unwrap()
    });
    begins.await.unwrap();
    engine.rebuild("delta").await.unwrap();
    rest(&engine, "rebuilt").await;
    rebuilt.send(()).unwrap();
    assert_eq!(verification.await.unwrap().differences, 0);
    let report = run(&engine, VerifyOptions::default()).await;
    assert_eq!((report.stores["delta"].compared, report.stores["history"].compared), (40, 0), "{report:?}");
    engine.stop().await.unwrap();
}

/// A process that was not told yet of a revision vouches for nothing that it covers.
#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_is_not_known_here_is_waited_for() {
    let place = Place::new(2).await;
    let shared = |name: &str, roles: &[Role]| {
        let mut options = place.options();
        options.data_dir = place.dir.path().join(name);
        options.delta_path = Some(place.table());
        options.shared = true;
        options.roles = roles.to_vec().try_into().unwrap();
        options
    };
    let worker = Engine::open(shared("worker", &Role::ALL)).await.unwrap();
    worker.start().await;
    ingest(&worker, events(0..40)).await;
    rest(&worker, "ingested").await;
    assert_eq!(run(&worker, VerifyOptions::default()).await.stores["delta"].compared, 40);
    // It looks at the catalogue once it is started.
    let (from, to) = (place.dir.path().join("worker/secrets"), place.dir.path().join("other/secrets"));
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
    let other = Engine::open(shared("other", &[Role::Query])).await.unwrap();
    let change = ChangeSource::Insert { step: rewrite("other"), before: None };
    correct(&worker, CorrectionSource { change, range: RangeSource::default() }, "unknown elsewhere").await.unwrap();
    rest(&worker, "corrected").await;

    let verifier = other.verifier().with_patience(Duration::ZERO);
    let refused = verifier.run(&VerifyOptions::default(), |_| ()).await.unwrap_err();
    assert!(matches!(refused, VerifyError::Unsettled(_)), "{refused}");
    assert!(refused.to_string().contains("has applied revision 2"), "{refused}");
    other.start().await;
    let report = run(&other, VerifyOptions::default()).await;
    for store in ["delta", "history"] {
        assert_eq!((report.stores[store].compared, report.stores[store].pending), (40, 0), "{report:?}");
    }
    for engine in [other, worker] {
        engine.stop().await.unwrap();
    }
}
