//! Golden cases over guests that are written by hand, so that each can go wrong in its own way.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking too")]

#[path = "../../plugin-host/tests/support/mod.rs"]
mod support;

use millrace_plugin_host::{HostOptions, Limits, Plugin};
use millrace_rows::ColumnType;
use millrace_sdk::golden::{Case, Expected};
use millrace_workbench::{CASE_ROWS_MAX, CaseRun, Difference, RunError, Verdict, Workbench};
use serde_json::{Value, json};
use support::{Guest, obedient};

fn workbench(limits: Limits) -> Workbench {
    Workbench::new(HostOptions { concurrent_calls: 1, ..HostOptions::default() }, limits).unwrap()
}

fn case(case: Value) -> Case {
    serde_json::from_value(case).unwrap()
}

fn load(workbench: &Workbench, guest: &Guest) -> Plugin {
    workbench.load(&guest.wasm()).unwrap()
}

fn run_case(guest: &Guest, given: Value) -> Result<CaseRun, RunError> {
    let workbench = workbench(Limits { fuel: 3_000_000, memory_bytes: 2 << 20, ..Limits::default() });
    workbench.run_case(&load(&workbench, guest), &case(given))
}

/// A guest that lets rows know of each other: it adds the number of rows of the call.
fn nosy() -> Guest {
    Guest {
        adds: vec![("rows", ColumnType::Int64)],
        locals: "(local $at i32) (local $i i32)",
        transform: "
            (local.set $at (call $alloc (i32.shl (local.get $rows) (i32.const 3)) (i32.const 8)))
            (loop $next
              (i64.store (i32.add (local.get $at) (i32.shl (local.get $i) (i32.const 3)))
                (i64.extend_i32_u (local.get $rows)))
              (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $rows))))
            (i32.store8 (global.get $COLUMNS) (i32.const 1))
            (i32.store8 offset=4 (global.get $COLUMNS) (i32.const 1))
            (i32.store offset=8 (global.get $COLUMNS) (local.get $at))
            (i32.store offset=12 (global.get $COLUMNS) (local.get $rows))
            (global.get $OUT)"
            .to_owned(),
        ..Guest::default()
    }
}

#[test]
fn rows_drops_failures_and_limits_are_named_row_by_row() {
    let words = ["one", "d", "f", "22", "t", "e", "l", "m", "d", "zest"];
    let rows_in: Vec<Value> = words.iter().map(|word| json!({"event": word, "user_id": "u"})).collect();
    let kept = |length: u32| json!({"user_id": "u", "length": length});
    let expect = json!([
        {"keep": [kept(3)]}, {"drop": "told_to_drop"}, {"fail": "told_to_fail"}, {"keep": [kept(2), kept(2)]},
        {"fail": "trap"}, {"fail": "guest_error"}, {"fail": "out_of_fuel"}, {"fail": "out_of_memory"},
        {"drop": "told_to_drop"}, {"keep": [kept(4)]},
    ]);
    let guest = obedient("obedient", "event", "length");
    let run = run_case(&guest, json!({"rows_in": rows_in, "expect": expect})).unwrap();
    assert_eq!(run.verdict, Verdict::Passed);
    let message = |row: usize| run.outcomes[row].message.as_deref();
    assert!(message(4).unwrap().contains("unreachable"), "{:?}", message(4));
    assert_eq!((message(5), message(2)), (Some("e"), None));

    let usage = &run.usage;
    assert_eq!((usage.rows, usage.rows_out_max), (10, 2));
    assert!(usage.calls > 10, "four bad rows are searched for: {usage:?}");
    assert_eq!(usage.fuel_row_max, 3_000_000, "the row that loops uses all of it");
    let uses = usage.of_limits(&Limits { fuel: 3_000_000, memory_bytes: 2 << 20, ..Limits::default() });
    let met: Vec<&str> = uses.iter().filter(|limit| limit.met).map(|limit| limit.limit).collect();
    assert_eq!(met, ["memory_bytes", "fuel"]);
    assert!(uses.iter().all(|limit| !limit.met || limit.used == limit.max));
}

#[test]
fn fuel_and_output_are_exact() {
    let guest = obedient("obedient", "event", "length");
    let rows_in = json!([{"event": "ab", "user_id": "u"}, {"event": "cd", "user_id": "v"}]);
    let run = run_case(&guest, json!({"rows_in": rows_in})).unwrap();
    let usage = &run.usage;
    // Three offsets, two bytes of text, one of validity, two lengths, two sources.
    assert_eq!((usage.calls, usage.output_bytes), (1, 12 + 2 + 1 + 16 + 8));
    // Both rows cost the same, and a call of two is cheaper than two calls.
    assert!(usage.fuel_per_row() < usage.fuel_row_max, "{usage:?}");
    assert_eq!(usage.fuel, usage.peak.fuel);
    assert_eq!(run.verdict, Verdict::Count { rows: 2, expectations: 0 });
}

#[test]
fn differences_name_the_row_the_column_and_what_the_guest_said() {
    let rows_in = json!([{"event": "abc", "user_id": "u"}, {"event": "t"}, {"event": "d"}]);
    let expect = json!([{"keep": [{"user_id": "u", "length": 4}]}, {"keep": [{"length": 1}]}, {"drop": "other"}]);
    let guest = obedient("obedient", "event", "length");
    let run = run_case(&guest, json!({"rows_in": rows_in, "expect": expect})).unwrap();
    let Verdict::Differs(differences) = &run.verdict else { panic!("{:?}", run.verdict) };
    let first = Difference::Value {
        row: 0,
        out: 0,
        outs: 1,
        column: "length".to_owned(),
        expected: json!(4),
        came_out: json!(3),
    };
    assert_eq!(differences[0], first);
    match &differences[1] {
        Difference::Outcome { row: 1, came_out: Expected::Fail(code), message: Some(message), .. } => {
            assert!(code == "trap" && message.contains("unreachable"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert!(
        matches!(&differences[2], Difference::Outcome { row: 2, came_out: Expected::Drop(code), .. } if code == "told_to_drop")
    );
    assert_eq!(differences.len(), 3);
}

#[test]
fn a_plugin_that_looks_at_its_neighbours_is_found_whatever_is_expected() {
    let expect = json!([{"keep": [{"rows": 1}]}, {"keep": [{"rows": 1}]}]);
    let run = run_case(&nosy(), json!({"rows_in": [{}, {}], "expect": expect})).unwrap();
    match run.verdict {
        Verdict::DependsOnNeighbours { row: 0, split, call, alone, beside } => {
            assert_eq!((split.as_str(), call), ("as one batch", 0..2));
            assert_eq!(serde_json::to_value(alone).unwrap(), json!({"keep": [{"rows": 1}]}));
            assert_eq!(serde_json::to_value(beside).unwrap(), json!({"keep": [{"rows": 2}]}));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_configuration_that_must_be_refused_is_refused_in_these_words() {
    // It hands its configuration back as an error.
    let refuse = "(i32.store8 (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (local.get $config))
                  (i32.store (i32.const 24) (local.get $length)) (i32.const 16)";
    let guest = Guest { describe: Some(refuse.to_owned()), ..Guest::default() };
    let verdict = |guest: &Guest, part: &str| {
        run_case(guest, json!({"config": {"key": "wrong"}, "config_error": part})).unwrap().verdict
    };
    assert_eq!(verdict(&guest, "wrong"), Verdict::Passed);
    let other = verdict(&guest, "right");
    assert!(matches!(&other, Verdict::ConfigRefused { came_out, .. } if came_out.contains("wrong")), "{other:?}");
    let accepted = verdict(&Guest::default(), "wrong");
    assert_eq!(accepted, Verdict::ConfigAccepted { expected: "wrong".to_owned() });
    // A case with rows whose configuration is refused can't be run.
    let error = run_case(&guest, json!({"config": {"key": "wrong"}, "rows_in": [{}]})).unwrap_err();
    assert!(error.to_string().contains("{\"key\":\"wrong\"}"), "{error}");
}

#[test]
fn rows_that_the_plugin_could_not_get_are_refused() {
    let guest = obedient("obedient", "event", "length");
    let error = |rows_in: Value| run_case(&guest, json!({"rows_in": rows_in})).unwrap_err();
    assert!(error(json!([{"event": "a", "ip": "::1"}])).to_string().contains("\"ip\", which the plugin does not read"));
    assert!(error(json!([{"event": 1}])).to_string().contains("can't hold 1"));
    let many: Vec<Value> = (0..=CASE_ROWS_MAX).map(|_| json!({})).collect();
    assert!(matches!(error(json!(many)), RunError::TooManyRows { rows } if rows == CASE_ROWS_MAX + 1));
    let lineage = Guest { reads: vec!["_offset"], ..Guest::default() };
    let error = run_case(&lineage, json!({"rows_in": [{}]})).unwrap_err();
    assert!(error.to_string().contains("host's own"), "{error}");
}

#[test]
fn what_no_event_is_without_needs_no_expectation() {
    // It writes the device's id back as it is.
    let guest = Guest { reads: vec!["device_id", "event_time"], writes: vec!["device_id"], ..Guest::default() };
    let verdict = |rows_in: Value, expect: Value| run_case(&guest, json!({"rows_in": rows_in, "expect": expect}));
    let passes = |rows_in: Value, expect: Value| assert_eq!(verdict(rows_in, expect).unwrap().verdict, Verdict::Passed);
    passes(json!([{}]), json!([{"keep": [{}]}]));
    passes(json!([{}]), json!([{"keep": [{"device_id": "a-device"}]}]));
    passes(
        json!([{"device_id": "a-device", "event_time": "2026-11-22T10:00:00Z"}]),
        json!([{"keep": [{"device_id": "a-device"}]}]),
    );
    let error = verdict(json!([{"event_time": null}]), json!([{"keep": [{}]}])).unwrap_err().to_string();
    assert!(error.starts_with("row 0: column \"event_time\" can't be null, every event has it"), "{error}");
}

#[test]
fn columns_of_earlier_steps_go_in() {
    // The word comes from a column that no event has.
    let guest = obedient("obedient", "word", "length");
    let given = json!({
        "rows_in": [{"word": "abc"}, {"word": "d"}, {}],
        "expect": [{"keep": [{"length": 3}]}, {"drop": "told_to_drop"}, {"keep": [{"length": 0}]}],
    });
    assert_eq!(run_case(&guest, given).unwrap().verdict, Verdict::Passed);
}

#[test]
fn log_lines_are_told_by_row() {
    let chatty = Guest {
        items: "(data (i32.const 512) \"hello\")".to_owned(),
        transform: "(call $log (i32.const 512) (i32.const 5)) (global.get $OUT)".to_owned(),
        ..Guest::default()
    };
    let run = run_case(&chatty, json!({"rows_in": [{}, {}], "expect": [{"keep": [{}]}, {"keep": [{}]}]})).unwrap();
    assert!(run.passed(), "log lines may depend on the split");
    let lines: Vec<(usize, &str)> = run.logs.iter().map(|logged| (logged.row, logged.line.as_str())).collect();
    assert_eq!(lines, [(0, "hello"), (1, "hello")]);
    assert_eq!((run.usage.log_lines, run.usage.peak.log_lines), (1, 1));
}

#[test]
fn a_recorded_case_has_the_columns_that_are_read_and_passes() {
    let workbench = workbench(Limits::default());
    let plugin = load(&workbench, &obedient("obedient", "event", "length"));
    let sample = json!([
        {"event": "abc", "user_id": "u", "ip": "203.0.113.0", "event_time": 5},
        {"event": "d", "user_id": null, "url": "x"},
        {"event": "t"},
    ]);
    let rows: Vec<_> = serde_json::from_value(sample).unwrap();
    let (recorded, run) = workbench.record(&plugin, case(json!({"about": "kept", "config": {"a": 1}})), &rows).unwrap();
    assert!(run.passed());
    let expected = json!({
        "about": "kept",
        "config": {"a": 1},
        "rows_in": [{"event": "abc", "user_id": "u"}, {"event": "d"}, {"event": "t"}],
        "expect": [{"keep": [{"user_id": "u", "length": 3}]}, {"drop": "told_to_drop"}, {"fail": "trap"}],
    });
    assert_eq!(serde_json::to_value(&recorded).unwrap(), expected);
    assert!(workbench.run_case(&plugin, &recorded).unwrap().passed());

    // Where rows depend on their neighbours there is nothing to write down.
    let (recorded, run) = workbench.record(&load(&workbench, &nosy()), case(json!({})), &rows).unwrap();
    assert!(matches!(run.verdict, Verdict::DependsOnNeighbours { .. }));
    assert!(recorded.expect.is_empty());
}
