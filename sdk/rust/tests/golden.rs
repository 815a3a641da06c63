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
