//! The golden runner must see what is wrong: a test that can't fail tests nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests, with helpers that are none themselves")]

use std::path::Path;

use millrace_sdk::columns::{AddedColumn, Batch, Column, ColumnType, Manifest, Output, Returned, RowOutcome};
use millrace_sdk::golden::{Case, Plugin, check_dir};

/// An answer that was right until `change`.
fn with(change: impl Fn(&mut Output)) -> impl FnMut(&Batch) -> Result<Output, String> {
    move |batch| {
        let mut output = unchanged(batch);
        change(&mut output);
        Ok(output)
    }
}

/// Answers what a test tells it to.
struct Fake<F>(F);

impl<F: FnMut(&Batch) -> Result<Output, String>> Plugin for Fake<F> {
    fn describe(&mut self, config: &str) -> Result<Manifest, String> {
        if config != "{}" {
            return Err(format!("refused: {config}"));
        }
        Ok(Manifest {
            name: "fake".into(),
            version: "1.0.0".into(),
            reads: vec!["event".into(), "number".into()],
            writes: vec!["event".into()],
            adds: vec![AddedColumn { name: "added".into(), ty: ColumnType::Bool }],
            tables: Vec::new(),
            codes: vec!["bad".into()],
        })
    }

    fn transform(&mut self, batch: Batch) -> Result<Output, String> {
        (self.0)(&batch)
    }
}

fn unchanged(batch: &Batch) -> Output {
    Output {
        columns: vec![Returned::Unchanged, Returned::Column(Column::bool((0..batch.rows).map(|_| Some(true))))],
        sources: None,
        dropped: Vec::new(),
        failed: Vec::new(),
    }
}

const CASE: &str = r#"{
    "rows_in": [{"event": "a", "number": 1}, {"event": null}],
    "expect": [{"keep": [{"event": "a", "added": true}]}, {"keep": [{"event": null, "added": true}]}]
}"#;

fn check(case: &str, answer: impl FnMut(&Batch) -> Result<Output, String>) -> Result<(), String> {
    serde_json::from_str::<Case>(case).unwrap().check(&mut Fake(answer))
}

fn refused(answer: impl FnMut(&Batch) -> Result<Output, String>, part: &str) {
    let message = check(CASE, answer).unwrap_err();
    assert!(message.contains(part), "{message}");
}

#[test]
fn a_case_that_holds_passes() {
    check(CASE, |batch| Ok(unchanged(batch))).unwrap();
}

#[test]
fn a_difference_is_told_with_its_row() {
    refused(
        |batch| {
            Ok(Output {
                columns: vec![Returned::Unchanged, Returned::Column(Column::bool((0..batch.rows).map(|_| None)))],
                ..unchanged(batch)
            })
        },
        "row 0:\n  expected {\"keep\":[{\"added\":true,\"event\":\"a\"}]}\n  came out {\"keep\":[{\"event\":\"a\"}]}",
    );
    refused(|_| Err("boom".to_owned()), "the call failed: boom");
    let fewer = CASE.replace(r#", {"keep": [{"event": null, "added": true}]}"#, "");
    assert!(check(&fewer, |batch| Ok(unchanged(batch))).unwrap_err().contains("2 rows in, but 1 expectations"));
    let unread = CASE.replace("\"number\"", "\"nubmer\"");
    assert!(check(&unread, |batch| Ok(unchanged(batch))).unwrap_err().contains("does not read"));
    let mixed = CASE.replace("\"event\": null}]", "\"event\": 1}]");
    assert!(check(&mixed, |batch| Ok(unchanged(batch))).unwrap_err().contains("\"event\" can't hold 1"));
}

#[test]
fn a_row_that_depends_on_its_neighbours_is_found() {
    let neighbours = |batch: &Batch| {
        let added = Column::bool((0..batch.rows).map(|_| Some(batch.rows == 2)));
        Ok(Output { columns: vec![Returned::Unchanged, Returned::Column(added)], ..unchanged(batch) })
    };
    refused(neighbours, "row 0 depends on its neighbours");
}

#[test]
fn answers_that_break_the_contract_are_refused() {
    let flags = |rows: u32| Returned::Column(Column::bool((0..rows).map(|_| Some(true))));
    refused(with(|output| drop(output.columns.pop())), "1 columns came out, the manifest has 2");
    refused(with(|output| output.columns[1] = Returned::Unchanged), "\"added\" can't be unchanged");
    refused(with(|output| output.columns[1] = flags(7)), "has 7 values for 2 rows");
    refused(with(|output| output.sources = Some(vec![0, 1])), "\"event\" can't be unchanged");
    refused(with(|output| output.dropped = vec![RowOutcome { row: 0, code: 3 }]), "no code 3");
    refused(with(|output| output.failed = vec![RowOutcome { row: 9, code: 0 }]), "no row 9");
    refused(with(|output| output.failed = vec![RowOutcome { row: 0, code: 0 }]), "was left out, and came out");
    let moved = |sources: Vec<u32>| {
        move |output: &mut Output| {
            let rows = sources.len() as u32;
            output.columns = vec![Returned::Column(Column::text((0..rows).map(|_| None))), flags(rows)];
            output.sources = Some(sources.clone());
        }
    };
    refused(with(moved(vec![1, 0])), "not in order");
    refused(with(moved(vec![0])), "row 1 neither came out nor was left out");
    refused(with(moved(vec![0, 5])), "no row 5");
    let not_utf8 = |output: &mut Output| {
        let mut column = Column::text([Some("x"), None]);
        if let millrace_sdk::columns::Values::Text(text) = &mut column.values {
            text.bytes[0] = 0xff;
        }
        output.columns[0] = Returned::Column(column);
    };
    refused(with(not_utf8), "not UTF-8");
}

#[test]
fn a_refused_configuration_is_a_case() {
    let case = r#"{"config": {"x": 1}, "config_error": "refused"}"#;
    check(case, |_| unreachable!()).unwrap();
    assert!(check(&case.replace("refused", "other"), |_| unreachable!()).unwrap_err().contains("expected \"other\""));
    assert!(check(&case.replace("\"x\": 1", ""), |_| unreachable!()).unwrap_err().contains("was accepted"));
    assert!(check(r#"{"config": {"x": 1}}"#, |_| unreachable!()).unwrap_err().contains("was refused: refused"));
    assert!(serde_json::from_str::<Case>(r#"{"row_in": []}"#).is_err(), "unknown fields must not pass");
}

#[test]
fn blessing_writes_what_came_out_and_a_directory_without_cases_is_an_error() {
    let dir = std::env::temp_dir().join(format!("millrace-golden-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let run = |bless: bool| check_dir(&dir, &mut Fake(|batch: &Batch| Ok(unchanged(batch))), bless);
    assert!(run(false).unwrap_err().contains("holds no cases"));
    let path = dir.join("case.json");
    std::fs::write(&path, CASE.replace("\"added\": true", "\"added\": false")).unwrap();
    assert!(run(false).unwrap_err().contains("case.json: row 0"));
    assert_eq!(run(true), Ok(1));
    assert_eq!(run(false), Ok(1));
    assert_eq!(Case::load(&path).unwrap().rows_in.len(), 2);
    assert!(Case::load(Path::new("/no/such/case.json")).is_err());
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Adds whether an event happened in 1970, and a time a second later; writes `event_time` and `device_id` as they are.
#[derive(Clone, Copy)]
struct Times;

impl Plugin for Times {
    fn describe(&mut self, _: &str) -> Result<Manifest, String> {
        let added = |name: &str, ty| AddedColumn { name: name.into(), ty };
        Ok(Manifest {
            name: "times".into(),
            version: "1.0.0".into(),
            reads: vec!["event_time".into(), "device_id".into(), "event_id".into()],
            writes: vec!["event_time".into(), "device_id".into()],
            adds: vec![added("is_first", ColumnType::Bool), added("later", ColumnType::Timestamp)],
            tables: Vec::new(),
            codes: Vec::new(),
        })
    }

    fn transform(&mut self, batch: Batch) -> Result<Output, String> {
        let times = (0..batch.rows as usize).map(|row| batch.columns[0].int(row));
        let ids = (0..batch.rows as usize).all(|row| batch.columns[1].is_valid(row) && batch.columns[2].is_valid(row));
        if !ids {
            return Err("an id is null".into());
        }
        let is_first = Column::bool(times.clone().map(|time| Some(time? < 1_000_000)));
        let later = Column::int64(times.map(|time| Some(time? + 1_000_000)));
        let added = [is_first, later].map(Returned::Column);
        let columns = [Returned::Unchanged, Returned::Unchanged].into_iter().chain(added).collect();
        Ok(Output { columns, sources: None, dropped: Vec::new(), failed: Vec::new() })
    }
}

fn times(case: &str) -> Result<(), String> {
    serde_json::from_str::<Case>(case).unwrap().check(&mut Times)
}

#[test]
fn what_no_event_is_without_has_a_value_where_a_case_leaves_it_out() {
    times(
        r#"{
        "rows_in": [{}, {"event_time": 5, "device_id": "a-device"}],
        "expect": [
            {"keep": [{"is_first": true, "later": 1000000}]},
            {"keep": [{"event_time": 5, "device_id": "a-device", "is_first": true, "later": 1000005}]}
        ]
    }"#,
    )
    .unwrap();
    // What the value is may be written down.
    times(r#"{"rows_in": [{}], "expect": [{"keep": [{"event_time": 0, "device_id": "a-device", "is_first": true, "later": 1000000}]}]}"#)
        .unwrap();
    let message = times(r#"{"rows_in": [{}, {"event_time": null}], "expect": [{"keep": [{}]}, {"keep": [{}]}]}"#);
    let expected =
        "row 1: column \"event_time\" can't be null, every event has it: leave it out, and it is 0, or give a value";
    assert_eq!(message.unwrap_err(), expected);
}

#[test]
fn times_may_be_text() {
    times(
        r#"{
        "rows_in": [{"event_time": "2023-11-14T22:13:20Z"}, {"event_time": 1700000000000000}],
        "expect": [
            {"keep": [{"event_time": 1700000000000000, "is_first": false, "later": "2023-11-14T23:13:21+01:00"}]},
            {"keep": [{"event_time": "2023-11-14T22:13:20Z", "is_first": false, "later": 1700000001000000}]}
        ]
    }"#,
    )
    .unwrap();
    let message = times(r#"{"rows_in": [{"event_time": "now"}], "expect": [{"keep": [{}]}]}"#).unwrap_err();
    let expected = "column \"event_time\" can't hold \"now\": a time is a whole number of microseconds since 1970-01-01 UTC, or \
                    RFC 3339 text as in \"2026-11-22T10:00:00Z\"";
    assert_eq!(message, expected);
}
