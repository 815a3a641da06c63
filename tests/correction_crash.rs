//! Corrections of the real binary: killed at every state, read while they are applied, tampered with.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::load::Load;
use common::{Audit, PATIENCE, Server, assert_exactly_once, event, seed};
use millrace_rows::canonical;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

/// Sends events, `count` of them, and waits until the log has them.
fn send(server: &Server, run: &str, count: u64) {
    for batch in 0..count.div_ceil(500) {
        let events: Vec<Value> = (batch * 500..count.min(batch * 500 + 500))
            .map(|n| event(&format!("{run}-{n}"), &format!("device-{}", n % 50), n))
            .collect();
        let (status, answer) = server.post("/v1/batch", json!({"batch": events}).to_string().as_bytes()).unwrap();
        assert_eq!(status, 200, "{answer}");
    }
}

/// A correction that writes its own name into some devices.
fn correction(mark: &str) -> Value {
    json!({
        "change": {"insert": {"step": {
            "plugin": "rewrite-device-id@0.1.0",
            "config": {"rules": [{"from_prefix": "device-1", "to": mark}]},
        }}},
        "reason": mark,
    })
}

fn wait_applied(server: &Server) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (_, list) = server.get("/v1/corrections");
        let corrections = list["corrections"].as_array().expect("corrections");
        if corrections.iter().all(|correction| correction["state"] == "applied") {
            return;
        }
        assert!(Instant::now() < deadline, "not applied after {PATIENCE:?}: {list:#}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `millrace verify` on a data directory: whether it exits with success, and what it says.
fn verify(data_dir: &Path, arguments: &[&str]) -> (bool, Value) {
    command(data_dir, &[&["verify"], arguments].concat())
}

/// A command on a data directory.
fn command(data_dir: &Path, arguments: &[&str]) -> (bool, Value) {
    let done = Command::new(env!("CARGO_BIN_EXE_millrace"))
        .args(arguments)
        .args(["--json", "--data-dir"])
        .arg(data_dir)
        .env("MILLRACE_PIPELINE__COMPILED_DIR", common::compiled_dir())
        .current_dir(data_dir)
        .output()
        .expect("the binary runs");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let report = serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("no report: {text} {}", String::from_utf8_lossy(&done.stderr)));
    (done.status.success(), report)
}

/// Every state of a correction, in both stores. Live rows beside it meet none of these.
const STATES: [&str; 13] = [
    "correction::planned",
    "correction::published",
    "history::take_in::before",
    "history::take_in::after",
    "history::rewrite::before",
    "history::rewrite::between",
    "history::rewrite::last",
    "delta::take_in::before",
    "delta::take_in::after",
    "delta::rewrite::stage",
    "delta::rewrite::staged",
    "delta::rewrite::before",
    "delta::rewrite::after",
];

#[test]
fn killed_at_every_state_of_a_correction_both_stores_end_right() {
    let mut random = StdRng::seed_from_u64(seed(7));
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    send(&server, "before", 8000);
    server.wait_caught_up();
    let load = Load::paced("beside", &server.url, Duration::from_millis(500));
    for (number, failpoint) in STATES.into_iter().enumerate() {
        // Some of the history's transactions pass before.
        let passes = match failpoint {
            "history::rewrite::before" | "history::rewrite::between" => random.random_range(0..3),
            _ => 0,
        };
        println!("{failpoint} after {passes}");
        server.kill();
        server = Server::try_start(dir.path(), &format!("{failpoint}={passes}*off->return")).expect("it starts");
        load.moved_to(&server.url);
        let mark = format!("mark-{number}");
        // The answer may be lost with the server.
        let _ = server.send("POST", "/v1/corrections", None, &correction(&mark));
        let status = server.wait_end();
        assert!(!status.success(), "{failpoint} was not met");
        server = Server::start(dir.path());
        load.moved_to(&server.url);
        let (_, list) = server.get("/v1/corrections");
        let found = list["corrections"].as_array().expect("corrections").iter().any(|one| one["reason"] == mark);
        assert_eq!(found, failpoint != "correction::planned", "{failpoint} was met in another state: {list:#}");
        wait_applied(&server);
    }
    // And at moments that nobody has chosen.
    for number in 0..6 {
        let (status, answer) = server.ask("POST", "/v1/corrections", correction(&format!("random-{number}")));
        assert_eq!(status, 202, "{answer}");
        std::thread::sleep(Duration::from_micros(random.random_range(0..150_000)));
        server.kill();
        server = Server::start(dir.path());
        load.moved_to(&server.url);
    }
    wait_applied(&server);
    load.wait_acknowledged(3);
    let acknowledged = load.finish();
    assert_exactly_once(dir.path(), server, &acknowledged);
    let (same, report) = verify(dir.path(), &["--full"]);
    assert!(same && report["stores"].as_object().unwrap().values().all(|s| s["pending"] == 0), "{report:#}");
}

/// Staging ends with the server, and leaves nothing; what was published goes on without what was staged.
#[test]
fn killed_while_it_is_staged_nothing_is_left_of_a_correction() {
    let mut random = StdRng::seed_from_u64(seed(8));
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    send(&server, "staged", 6000);
    server.wait_caught_up();
    let staged = |mark: &str| {
        let mut body = correction(mark);
        body["stage"] = json!(true);
        body
    };
    let stage = |server: &Server, mark: &str| {
        let (status, answer) = server.ask("POST", "/v1/corrections", staged(mark));
        assert_eq!((status, &answer["stores"]), (202, &json!({})), "{answer}");
        answer["id"].as_str().expect("its name").to_owned()
    };
    let wait_staged = |server: &Server, id: &str| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, now) = server.get(&format!("/v1/corrections/{id}"));
            match now["state"].as_str() {
                Some("staged") => return,
                Some("staging") => assert!(Instant::now() < deadline, "not staged after {PATIENCE:?}: {now}"),
                _ => panic!("{now}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    for number in 0..4 {
        let id = stage(&server, &format!("killed-{number}"));
        if number == 3 {
            wait_staged(&server, &id);
        } else {
            std::thread::sleep(Duration::from_micros(random.random_range(0..200_000)));
        }
        server.kill();
        server = Server::start(dir.path());
        let (_, list) = server.get("/v1/corrections");
        assert_eq!(list["corrections"], json!([]));
        assert!(!dir.path().join("staged").exists(), "its files are gone");
    }
    let id = stage(&server, "cancelled");
    let path = format!("/v1/corrections/{id}");
    let (status, answer) = server.ask("DELETE", &path, Value::Null);
    assert_eq!((status, &answer["state"]), (200, &json!("cancelled")), "{answer}");
    let (status, answer) = server.ask("POST", &format!("{path}/publish"), Value::Null);
    assert_eq!((status, &answer["error"]["code"]), (409, &json!("not_staged")), "{answer}");

    let id = stage(&server, "published");
    wait_staged(&server, &id);
    let (status, answer) = server.ask("POST", &format!("/v1/corrections/{id}/publish"), Value::Null);
    assert_eq!(status, 202, "{answer}");
    let (status, gone) = server.ask("DELETE", &format!("/v1/corrections/{id}"), Value::Null);
    assert_eq!((status, &gone["error"]["code"]), (409, &json!("not_staged")), "{gone}");
    let number = &answer["id"];
    let (status, answer) = server.ask("DELETE", &format!("/v1/corrections/{number}"), Value::Null);
    assert_eq!((status, &answer["error"]["code"]), (409, &json!("published")), "{answer}");
    server.kill();
    server = Server::start(dir.path());
    wait_applied(&server);
    assert!(server.stop().success());
    let (same, report) = verify(dir.path(), &["--full"]);
    assert!(same && report["rows_checked"] == json!(12_000), "{report:#}");
}

/// A correction that gives the events of some devices to another, and takes them from the one that has them.
fn moving(from: &str, to: &str) -> Value {
    json!({
        "change": {"insert": {"step": {
            "plugin": "rewrite-device-id@0.1.0",
            "config": {"rules": [{"from_prefix": from, "to": to}]},
        }}},
        "reason": to,
    })
}

/// The ids of a device's events, in one snapshot of the keyspace; each once.
fn page(server: &Server, device: &str) -> BTreeSet<String> {
    let (_, page) = server.get(&format!("/v1/devices/{device}/events?from=2020-01-01T00:00:00Z&limit=1000"));
    let events = page["events"].as_array().expect("events");
    let ids: BTreeSet<String> =
        events.iter().map(|event| event["event_id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!((events.len(), &page["next"]), (ids.len(), &Value::Null), "{device}: an event is there twice");
    ids
}

/// The device and the revision of each record of one version of the table; each once.
async fn version(table: &millrace_delta::TableReader) -> BTreeMap<(i64, i64), (String, i64)> {
    use arrow::array::AsArray as _;
    use arrow::datatypes::Int64Type;
    let columns = ["_partition", "_offset", "_sub", "_revision", "device_id"].map(str::to_owned);
    let request = millrace_delta::ScanRequest { columns: Some(columns.into()), ..Default::default() };
    let scan = table.scan(request).await.unwrap();
    let batches: Vec<_> = tokio::task::spawn_blocking(move || scan.collect::<Result<_, _>>()).await.unwrap().unwrap();
    let mut rows = BTreeMap::new();
    for batch in batches {
        let number = |column: usize| batch.column(column).as_primitive::<Int64Type>().clone();
        let (partitions, offsets, subs, revisions) = (number(0), number(1), number(2), number(3));
        let devices = batch.column(4).as_string::<i32>();
        for row in 0..batch.num_rows() {
            let place = (partitions.value(row), offsets.value(row));
            assert_eq!(subs.value(row), 0);
            let before = rows.insert(place, (devices.value(row).to_owned(), revisions.value(row)));
            assert_eq!(before, None, "{place:?} is there twice");
        }
    }
    rows
}

/// Reads again and again while corrections move events from device to device: no row is missing or doubled, and no version of
/// the table has half of a correction.
#[test]
fn who_reads_meanwhile_sees_every_event_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let events = 30_000;
    send(&server, "read", events);
    server.wait_caught_up();
    let location = dir.path().join("delta").display().to_string();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let table = millrace_delta::TableReader::open(&location, &std::collections::HashMap::new()).unwrap();
    // One of the fifty devices.
    let (count, mut from) = (600, "device-17".to_owned());
    let (mut looks, mut halves) = (0, 0);
    for number in 0..6 {
        let to = format!("moved-{number}");
        let (status, answer) = server.ask("POST", "/v1/corrections", moving(&from, &to));
        assert_eq!(status, 202, "{answer}");
        let revision = answer["id"].as_i64().expect("an id");
        loop {
            // Seen where it was first, each moved event is seen in one of both; where it goes first, in no more than one.
            let (old, new) = (page(&server, &from), page(&server, &to));
            assert_eq!(old.union(&new).count(), count, "an event is missing: {} and {}", old.len(), new.len());
            let (new, old) = (page(&server, &to), page(&server, &from));
            assert!(new.is_disjoint(&old), "an event is with both devices");
            halves += u32::from(!new.is_empty() && new.len() < count);
            let rows = runtime.block_on(version(&table));
            assert_eq!(rows.len() as u64, events);
            let corrected = rows.values().filter(|(device, made)| {
                assert!(*device != to || *made == revision);
                *made == revision
            });
            let corrected = corrected.count() as u64;
            assert!([0, events].contains(&corrected), "half a correction: {corrected} rows of revision {revision}");
            looks += 1;
            let (_, correction) = server.get(&format!("/v1/corrections/{revision}"));
            if correction["state"] == "applied" {
                break;
            }
        }
        assert_eq!(page(&server, &to).len(), count, "{to}");
        assert_eq!(page(&server, "device-2").len(), count, "it stays where it is");
        let rows = runtime.block_on(version(&table));
        assert_eq!(rows.values().filter(|(device, _)| *device == to).count(), count);
        from = to;
    }
    println!("{looks} looks, {halves} of them while events moved");
    assert!(server.stop().success());
    Audit::of(dir.path()).assert_agree();
}

/// A change of one store behind the engine's back is found, and a rebuild mends it.
#[test]
fn verify_finds_what_is_planted_and_a_rebuild_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    send(&server, "plant", 700);
    server.wait_caught_up();
    let (status, answer) = server.ask("POST", "/v1/corrections", correction("mark"));
    assert_eq!(status, 202, "{answer}");
    wait_applied(&server);
    assert!(server.stop().success());
    let (same, report) = verify(dir.path(), &["--full"]);
    assert!(same, "{report:#}");
    assert_eq!((&report["rows_checked"], &report["differences"]), (&json!(1400), &json!(0)), "{report:#}");

    for plant in [Plant::Value, Plant::Removed, Plant::Extra, Plant::Revision, Plant::OlderForm] {
        let copy = copy_of(dir.path());
        plant_in_history(copy.path(), plant);
        let (same, report) = verify(copy.path(), &["--full"]);
        let Some(told) = plant.told() else {
            assert!(same, "{plant:?}: {report:#}");
            continue;
        };
        assert!(!same && report["stores"]["history"]["differences"] == 1, "{plant:?}: {report:#}");
        assert_eq!(report["stores"]["delta"]["differences"], 0, "{plant:?}: {report:#}");
        assert_eq!(report["first"][0]["what"], told, "{report:#}");
        let (done, answer) = command(copy.path(), &["rebuild", "history"]);
        assert!(done, "{answer:#}");
        let (same, report) = verify(copy.path(), &["--full"]);
        assert!(same, "{plant:?}: {report:#}");
    }
    for doubled in [false, true] {
        let copy = copy_of(dir.path());
        let rows = plant_in_table(copy.path(), doubled);
        let (same, report) = verify(copy.path(), &["--store", "delta", "--all"]);
        assert!(!same && report["stores"]["delta"]["differences"] == rows, "{rows} rows: {report:#}");
        assert_eq!(report["first"][0]["what"], if doubled { "doubled" } else { "missing" });
        let (done, answer) = command(copy.path(), &["rebuild", "delta"]);
        assert!(done, "{answer:#}");
        let (same, report) = verify(copy.path(), &["--full"]);
        assert!(same, "{report:#}");
    }
}

fn copy_of(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(dir.join(".")).arg(copy.path()).status().unwrap();
    assert!(copied.success());
    copy
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Plant {
    Value,
    Removed,
    Extra,
    Revision,
    /// No damage: the same row as version 1 of its format has it.
    OlderForm,
}

impl Plant {
    /// What `verify` calls the damage.
    fn told(self) -> Option<&'static str> {
        match self {
            Self::Value | Self::Revision => Some("another value"),
            Self::Removed => Some("missing"),
            Self::Extra => Some("rows from here on that no record accounts for"),
            Self::OlderForm => None,
        }
    }
}

/// A row as version 1 of its format has it.
fn older_form(columns: &[(String, canonical::Value)]) -> Vec<u8> {
    let mut out = vec![1];
    for (name, value) in columns {
        let (tag, value) = match value {
            canonical::Value::String(text) => (1, [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()),
            canonical::Value::Timestamp(us) => (2, us.to_le_bytes().to_vec()),
            canonical::Value::Int64(number) => (3, number.to_le_bytes().to_vec()),
            canonical::Value::Float64(number) => (4, number.to_le_bytes().to_vec()),
            canonical::Value::Bool(truth) => (5, vec![u8::from(*truth)]),
        };
        out.extend([&[name.len() as u8], name.as_bytes(), &[tag], &value].concat());
    }
    out
}

/// Changes one key of the history.
fn plant_in_history(dir: &Path, plant: Plant) {
    use millrace_history::{HistoryReader, Keys};
    use millrace_keyspace::{Batch, Keyspace as _, Write};
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let keyspace = std::sync::Arc::new(
            millrace_keyspace::embedded::EmbeddedKeyspace::open(dir.join("keyspace"), Default::default())
                .await
                .unwrap(),
        );
        let root = millrace_pipeline::engine::ROOT;
        let reader = HistoryReader::new(keyspace.clone(), root);
        let page = reader.rows(None, 200).await.unwrap();
        let row = &page.rows[77];
        let mut key = row.key.clone();
        let place = Keys::new(root).row(&key);
        let columns = canonical::decode(&row.row).unwrap();
        let value = |name: &str| columns.iter().find(|column| column.0 == name).expect("the column").1.clone();
        let changed = |damaged: &[u8], by: u8| {
            let mut bytes = row.row.to_vec();
            let found = bytes.windows(damaged.len()).position(|window| window == damaged);
            bytes[found.expect("the value") + damaged.len() - 1] ^= by;
            bytes
        };
        let writes = match plant {
            Plant::Value => {
                let canonical::Value::String(id) = value("event_id") else { panic!("an id that is no text") };
                vec![Write::Put(place.into(), changed(id.as_bytes(), 1).into())]
            }
            Plant::Revision => {
                let canonical::Value::Int64(revision) = value("_revision") else {
                    panic!("a revision that is no number")
                };
                assert!((0..64).contains(&revision), "a number of one byte");
                // The codes of partition and revision, each before its number, which is written twice as large.
                let pair = [2, 2 * key.partition as u8, 3, 2 * revision as u8];
                vec![Write::Put(place.into(), changed(&pair, 2).into())]
            }
            Plant::OlderForm => vec![Write::Put(place.into(), older_form(&columns).into())],
            Plant::Removed => {
                let range = Keys::new(root).row_range(&key);
                vec![Write::Clear(range.start.into(), range.end.into())]
            }
            Plant::Extra => {
                key.device_id.push_str("-copy");
                vec![Write::Put(Keys::new(root).row(&key).into(), row.row.clone())]
            }
        };
        keyspace.commit(Batch { compares: vec![], writes }).await.unwrap();
        keyspace.close().await;
    });
}

/// Takes a data file out of the table, or puts it in once more. Gives its rows.
fn plant_in_table(dir: &Path, doubled: bool) -> u64 {
    let log = dir.join("delta/_delta_log");
    let mut versions: Vec<_> = std::fs::read_dir(&log)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    versions.sort();
    let (mut active, mut order) = (std::collections::BTreeMap::new(), Vec::new());
    for path in &versions {
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let action: Value = serde_json::from_str(line).unwrap();
            if let Some(path) = action["add"]["path"].as_str() {
                active.insert(path.to_owned(), action["add"].clone());
                order.push(path.to_owned());
            }
            if let Some(path) = action["remove"]["path"].as_str() {
                active.remove(path);
            }
        }
    }
    let path = order.into_iter().find(|path| active.contains_key(path)).expect("a file in force");
    let mut add = active[&path].clone();
    let stats: Value = serde_json::from_str(add["stats"].as_str().unwrap()).unwrap();
    let action = if doubled {
        let copy = path.replace(".parquet", "-copy.parquet");
        std::fs::copy(dir.join("delta").join(&path), dir.join("delta").join(&copy)).unwrap();
        add["path"] = json!(copy);
        json!({"add": add})
    } else {
        json!({"remove": {"path": path, "dataChange": true, "deletionTimestamp": 1}})
    };
    std::fs::write(log.join(format!("{:020}.json", versions.len())), format!("{action}\n")).unwrap();
    stats["numRecords"].as_u64().unwrap()
}
