//! Benchmarks: what is counted is exact, what is timed is there.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking too")]

#[path = "../../plugin-host/tests/support/mod.rs"]
mod support;

use std::time::Duration;

use millrace_plugin_host::{HostOptions, Limits};
use millrace_rows::schema::BASE;
use millrace_sdk::golden::Case;
use millrace_workbench::{BenchOptions, Input, RunError, Workbench};
use serde_json::json;
use support::{Guest, Row, batch, obedient};

fn workbench() -> Workbench {
    Workbench::new(HostOptions { concurrent_calls: 1, ..HostOptions::default() }, Limits::default()).unwrap()
}

fn setup() -> Case {
    serde_json::from_value(json!({})).unwrap()
}

fn input(words: &[&str]) -> Input {
    let row = |(n, word): (usize, &&str)| Row { user: Some("user".to_owned()), ..Row::new(n as i64, word) };
    Input::decoded(batch(&words.iter().enumerate().map(row).collect::<Vec<_>>()))
}

fn options(events: usize) -> BenchOptions {
    BenchOptions { events, batch_events: 64, rounds: 3, time_max: Duration::from_secs(60) }
}

#[test]
fn what_a_round_does_is_counted_and_timed_beside_an_empty_plugin() {
    let workbench = workbench();
    let plugin = workbench.load(&obedient("obedient", "event", "length").wasm()).unwrap();
    let bench = workbench.bench(&plugin, &setup(), &input(&["ab", "22", "d", "f"]), &options(100)).unwrap();
    // 25 of each word, the rows over and over.
    assert_eq!((bench.events, bench.usage.rows, bench.usage.calls, bench.rounds), (100, 100, 2, 3));
    assert_eq!((bench.rows_out, bench.dropped, bench.failed, bench.discarded), (75, 25, 25, 0));
    // A call: offsets of 4 bytes and one more, text of 4, a bit of validity, lengths of 8, sources of 4, outcomes of 8.
    let call = |rows_out: u64, outcomes: u64| 4 + rows_out * 20 + rows_out.div_ceil(8) + 8 * outcomes;
    assert_eq!(bench.usage.output_bytes, call(48, 32) + call(27, 18));
    assert!(bench.usage.fuel > 0 && bench.usage.peak.memory_bytes >= 2 * 65_536);
    assert!(bench.plugin.median > 0.0 && bench.ratio > 0.0, "{bench:?}");
}

#[test]
fn calls_that_were_thrown_away_are_told() {
    let workbench = workbench();
    let plugin = workbench.load(&obedient("obedient", "event", "length").wasm()).unwrap();
    let bench = workbench.bench(&plugin, &setup(), &input(&["ab", "t"]), &options(4)).unwrap();
    assert_eq!((bench.failed, bench.rows_out), (2, 2));
    assert!(bench.discarded >= 2, "{bench:?}");
}

#[test]
fn an_empty_plugin_can_be_made_for_every_column() {
    let workbench = workbench();
    let names: Vec<&'static str> = BASE.iter().map(|column| column.name).collect();
    let writable: Vec<&'static str> = BASE.iter().filter(|column| column.writable).map(|column| column.name).collect();
    // All columns are returned as unchanged, and 36 zero bytes a column are more than `Guest` has by itself.
    let guest = Guest { reads: names, writes: writable, ..Guest::default() };
    let plugin = workbench.load(&guest.wasm()).unwrap();
    let bench = workbench.bench(&plugin, &setup(), &input(&["a", "b"]), &options(200)).unwrap();
    assert_eq!((bench.rows_out, bench.failed, bench.discarded), (200, 0, 0));
}

#[test]
fn without_rows_or_columns_there_is_nothing_to_measure() {
    let workbench = workbench();
    let plugin = workbench.load(&obedient("obedient", "word", "length").wasm()).unwrap();
    let error = workbench.bench(&plugin, &setup(), &input(&["a"]), &options(10)).unwrap_err();
    assert!(error.to_string().contains("reads column \"word\""), "{error}");
    assert!(matches!(workbench.bench(&plugin, &setup(), &input(&[]), &options(10)), Err(RunError::NoRows)));
}
