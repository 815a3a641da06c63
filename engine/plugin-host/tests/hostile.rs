//! Guests that attack the host or break the contract: each is refused or contained, with the right code and words, and
//! the host goes on.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking too")]

mod support;

use std::time::Duration;

use millrace_plugin_host::{
    Chain, ChainOutput, ChainProblem, ChainStop, HostOptions, Limits, LoadError, ManifestError, PluginHost,
};
use millrace_rows::ColumnType;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::{Guest, Row, batch, chain, host, obedient, step};

/// A guest of which every row ends the same way.
fn always(transform: &str) -> Guest {
    Guest { transform: transform.to_owned(), ..Guest::default() }
}

/// Runs three rows and expects each to be a dead letter with `code`; gives the messages.
fn all_dead(host: &PluginHost, guest: &Guest, limits: &Limits, code: &str) -> Vec<String> {
    let output = chain(host, std::slice::from_ref(guest), limits).run(three()).unwrap();
    let codes: Vec<_> = output.dead.iter().map(|dead| (dead.offset, &*dead.code)).collect();
    assert_eq!(codes, [(10, code), (11, code), (12, code)], "{:?}", output.failures);
    assert!(output.dead.iter().all(|dead| &*dead.step == "guest@1.0.0"));
    assert_eq!((output.rows.num_rows(), output.steps[0].calls), (0, 5));
    output.failures.into_iter().map(|failure| failure.message).collect()
}

fn three() -> arrow::record_batch::RecordBatch {
    batch(&[Row::new(10, "x"), Row::new(11, "y"), Row::new(12, "z")])
}

fn run_words(chain: &Chain, words: &[&str]) -> ChainOutput {
    let rows: Vec<Row> = words.iter().enumerate().map(|(n, word)| Row::new(n as i64, word)).collect();
    chain.run(batch(&rows)).unwrap()
}

fn small() -> Limits {
    Limits { memory_bytes: 2 << 20, fuel: 3_000_000, describe_fuel: 3_000_000, ..Limits::default() }
}

#[test]
fn loops_memory_and_recursion_end_at_their_limits() {
    let host = host();
    let message = all_dead(&host, &always("(loop $ever (br $ever)) (unreachable)"), &small(), "out_of_fuel");
    assert!(message[0].contains("all fuel consumed"), "{message:?}");
    // memory.fill costs fuel by the byte, or this would take hours.
    let fill =
        always("(loop $ever (memory.fill (i32.const 0) (i32.const 0) (i32.const 131072)) (br $ever)) (unreachable)");
    all_dead(&host, &fill, &small(), "out_of_fuel");
    let grow = always("(loop $ever (drop (call $alloc (i32.const 65536) (i32.const 1))) (br $ever)) (unreachable)");
    let message = all_dead(&host, &grow, &small(), "out_of_memory");
    assert!(message[0].contains("2097152 allowed"), "{message:?}");
    let deep = Guest {
        items: "(func $deep (param i64) (result i64)
            (i64.add (i64.const 1) (call $deep (i64.add (local.get 0) (i64.const 1)))))"
            .to_owned(),
        ..always("(drop (call $deep (i64.const 0))) (global.get $OUT)")
    };
    all_dead(&host, &deep, &Limits::default(), "stack_overflow");
    all_dead(&host, &always("(unreachable)"), &small(), "trap");
    all_dead(&host, &always("(i32.div_u (i32.const 1) (i32.const 0))"), &small(), "trap");
    let table = Guest {
        items: "(table $t 1 funcref)".to_owned(),
        ..always("(drop (table.grow $t (ref.null func) (i32.const 1000000))) (global.get $OUT)")
    };
    all_dead(&host, &table, &small(), "out_of_memory");
}

#[test]
fn growth_never_answers_minus_one() {
    // A guest that would return good rows if growth failed softly.
    let soft = always("(drop (memory.grow (i32.const 60000))) (global.get $OUT)");
    all_dead(&host(), &soft, &small(), "out_of_memory");
}

/// Stores column 0, an added text column: offsets at $o, $n of them, and bytes at $b, $l of them.
fn text_column(offsets: &str, number: &str, bytes: &str, length: &str) -> String {
    format!(
        "(i32.store8 (global.get $COLUMNS) (i32.const 1))
         (i32.store offset=8 (global.get $COLUMNS) {offsets})
         (i32.store offset=12 (global.get $COLUMNS) {number})
         (i32.store offset=16 (global.get $COLUMNS) {bytes})
         (i32.store offset=20 (global.get $COLUMNS) {length})
         (global.get $OUT)"
    )
}

fn adds_text(transform: String) -> Guest {
    Guest { adds: vec![("added", ColumnType::String)], transform, ..Guest::default() }
}

#[test]
fn output_is_counted_before_it_is_used() {
    let host = host();
    let limits = Limits { output_bytes: 2_000, ..small() };
    // Rows + 1 zero offsets lie in fresh memory.
    let offsets = "(call $alloc (i32.mul (i32.const 4) (i32.add (local.get $rows) (i32.const 1))) (i32.const 4))";
    let number = "(i32.add (local.get $rows) (i32.const 1))";
    let message = all_dead(
        &host,
        &adds_text(text_column(offsets, number, "(i32.const 0)", "(i32.const 3000)")),
        &limits,
        "output_too_large",
    );
    assert!(message[0].contains("2000 allowed"), "{message:?}");
    // More than the host would even copy out.
    let flood = adds_text(text_column(offsets, number, "(i32.const 0)", "(i32.const 130000)"));
    let message = all_dead(&host, &flood, &limits, "output_too_large");
    assert!(message[0].contains("hostcalls"), "{message:?}");
    // A list that says it has four thousand million entries.
    let lie = adds_text(text_column(offsets, number, "(i32.const 0)", "(i32.const -1)"));
    all_dead(&host, &lie, &limits, "bad_output");
    let lie = always("(i32.store offset=8 (global.get $OUT) (i32.const 100000000)) (global.get $OUT)");
    all_dead(&host, &lie, &limits, "bad_output");
    // A hundred and one copies of each row.
    let copies = Guest {
        locals: "(local $i i32) (local $at i32) (local $n i32)",
        ..always(
            "(local.set $n (i32.mul (local.get $rows) (i32.const 101)))
             (local.set $at (call $alloc (i32.shl (local.get $n) (i32.const 2)) (i32.const 4)))
             (loop $next
               (i32.store (i32.add (local.get $at) (i32.shl (local.get $i) (i32.const 2)))
                 (i32.div_u (local.get $i) (i32.const 101)))
               (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
             (i32.store8 offset=12 (global.get $OUT) (i32.const 1))
             (i32.store offset=16 (global.get $OUT) (local.get $at))
             (i32.store offset=20 (global.get $OUT) (local.get $n))
             (global.get $OUT)",
        )
    };
    let message = all_dead(&host, &copies, &small(), "output_too_large");
    assert!(message[0].contains("101 rows"), "{message:?}");
}

#[test]
fn unsound_columns_and_accounts_are_bad_output() {
    let host = host();
    let bad = |guest: &Guest| all_dead(&host, guest, &small(), "bad_output").remove(0);
    let fresh = "(call $alloc (i32.const 4096) (i32.const 4))";
    let number = "(i32.add (local.get $rows) (i32.const 1))";
    // Offsets that end before the bytes do; too few offsets; not aligned; past the memory.
    assert!(bad(&adds_text(text_column(fresh, number, "(i32.const 0)", "(i32.const 5)"))).contains("rise"));
    assert!(
        bad(&adds_text(text_column(fresh, "(local.get $rows)", "(i32.const 0)", "(i32.const 0)"))).contains("offsets")
    );
    assert!(
        bad(&adds_text(text_column("(i32.const 1025)", number, "(i32.const 0)", "(i32.const 0)"))).contains("aligned")
    );
    let past = adds_text(text_column("(i32.const 0x7ffffff0)", number, "(i32.const 0)", "(i32.const 0)"));
    assert!(bad(&past).contains("out of bounds"));
    // One byte 0xff in the last row.
    let utf8 = Guest {
        locals: "(local $at i32)",
        ..adds_text(format!(
            "(local.set $at {fresh})
             (i32.store (i32.add (local.get $at) (i32.shl (local.get $rows) (i32.const 2))) (i32.const 1))
             (i32.store8 (i32.const 8) (i32.const 255))
             {}",
            text_column("(local.get $at)", number, "(i32.const 8)", "(i32.const 1)")
        ))
    };
    assert!(bad(&utf8).contains("UTF-8"));
    // A column of another type, a new column unchanged, a tag of nothing, a column too few.
    let wrong = Guest { adds: vec![("added", ColumnType::Int64)], ..utf8.clone() };
    assert!(bad(&wrong).contains("int64"));
    assert!(bad(&adds_text("(global.get $OUT)".to_owned())).contains("unchanged"));
    bad(&always("(i32.store8 offset=12 (global.get $OUT) (i32.const 7)) (global.get $OUT)"));
    let none = adds_text("(i32.store offset=8 (global.get $OUT) (i32.const 0)) (global.get $OUT)".to_owned());
    assert!(bad(&none).contains("0 columns"));
    // No row accounted for; a row that was not sent; a code that is not in the manifest.
    let unaccounted = always("(i32.store8 offset=12 (global.get $OUT) (i32.const 1)) (global.get $OUT)");
    assert!(bad(&unaccounted).contains("neither"));
    let outcome = |row: &str, code: &str| Guest {
        codes: vec!["bad"],
        locals: "(local $at i32)",
        ..always(&format!(
            "(local.set $at (call $alloc (i32.const 8) (i32.const 4)))
             (i32.store (local.get $at) {row}) (i32.store offset=4 (local.get $at) {code})
             (i32.store8 offset=12 (global.get $OUT) (i32.const 1))
             (i32.store offset=24 (global.get $OUT) (local.get $at))
             (i32.store offset=28 (global.get $OUT) (i32.const 1))
             (global.get $OUT)"
        ))
    };
    assert!(bad(&outcome("(local.get $rows)", "(i32.const 0)")).contains("not sent"));
    assert!(bad(&outcome("(i32.const 0)", "(i32.const 1)")).contains("not in the manifest"));
}

#[test]
fn logs_are_bounded_and_reach_only_protected_text() {
    let host = host();
    let flood = Guest {
        locals: "(local $i i32)",
        ..always(
            "(loop $next
               (call $log (i32.const 1024) (i32.const 5))
               (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 20000))))
             (global.get $OUT)",
        )
    };
    let output = chain(&host, std::slice::from_ref(&flood), &Limits::default()).run(three()).unwrap();
    assert_eq!((output.rows.num_rows(), output.logs.len()), (3, 32));
    assert_eq!((output.logs[0].line.as_str(), output.logs[0].offset), ("guest", 10));
    // The last words of a guest that traps are part of the failure and of no dead letter.
    let last_words = always("(call $log (i32.const 1024) (i32.const 5)) (unreachable)");
    let message = all_dead(&host, &last_words, &small(), "trap");
    assert!(message[0].starts_with("guest\n") && message[0].len() <= 1024, "{message:?}");
    // Text that is not UTF-8 ends nothing, whether there is room for the line or not.
    let binary =
        always("(i32.store8 (i32.const 8) (i32.const 255)) (call $log (i32.const 8) (i32.const 1)) (global.get $OUT)");
    for log_lines in [0, 32] {
        let limits = Limits { log_lines, ..small() };
        let output = chain(&host, std::slice::from_ref(&binary), &limits).run(three()).unwrap();
        assert_eq!((output.rows.num_rows(), output.logs.len()), (3, log_lines.min(1) as usize));
    }
    // A line outside of the memory is the guest's own trap.
    all_dead(&host, &always("(call $log (i32.const -16) (i32.const 64)) (unreachable)"), &small(), "bad_output");
}

#[test]
fn only_the_bad_row_is_dead_and_with_its_own_code() {
    let host = host();
    let chain = chain(&host, &[obedient("a", "event", "a_len")], &small());
    let output = run_words(&chain, &["x", "t", "y", "e", "l", "m", "f", "d", "2"]);
    let dead: Vec<_> = output.dead.iter().map(|dead| (dead.offset, &*dead.code)).collect();
    assert_eq!(dead, [(1, "trap"), (3, "guest_error"), (4, "out_of_fuel"), (5, "out_of_memory"), (6, "told_to_fail")]);
    assert_eq!((output.rows.num_rows(), output.dropped_records()), (4, 1));
    assert_eq!((&*output.dropped[0].step, &*output.dropped[0].code), ("a@1.0.0", "told_to_drop"));
    assert_eq!(output.failures.len(), 4, "a declared failure has no free text");
    assert_eq!(output.failures.iter().find(|f| f.code == "guest_error").unwrap().message, "e");
    let stats = &output.steps[0];
    assert_eq!((stats.rows_in, stats.rows_out, stats.rows_failed, stats.rows_dropped), (9, 4, 5, 1));
    assert!(stats.fuel > 0 && stats.discarded > 0 && stats.calls > stats.discarded);
}

#[test]
fn a_record_leaves_whole() {
    let host = host();
    let chain = chain(&host, &[obedient("a", "event", "a_len")], &small());
    let rows = [(5, "x"), (5, "f"), (5, "y"), (6, "d"), (6, "x"), (7, "d"), (7, "d"), (8, "d"), (8, "t")];
    let rows: Vec<Row> = rows.iter().map(|(offset, word)| Row::new(*offset, word)).collect();
    let output = chain.run(batch(&rows)).unwrap();
    let dead: Vec<_> = output.dead.iter().map(|dead| (dead.offset, &*dead.code)).collect();
    assert_eq!(dead, [(5, "told_to_fail"), (8, "trap")]);
    assert_eq!((output.rows.num_rows(), output.dropped_records()), (1, 1), "6 lives by one row, 7 is dropped once");
}

#[test]
fn the_hosts_own_checks_come_last() {
    let host = host();
    let chain = chain(&host, &[obedient("a", "event", "a_len")], &small());
    let long = Row { user: Some("u".repeat(300)), ..Row::new(2, "2") };
    let output = chain.run(batch(&[Row::new(1, "x"), long])).unwrap();
    let dead = &output.dead[0];
    assert_eq!((dead.offset, &*dead.step, &*dead.code), (2, "check", "bad_user_id"));
    assert_eq!((output.dead.len(), output.rows.num_rows()), (1, 1));
}

#[test]
fn a_broken_plugin_stops_the_chain_and_decides_nothing() {
    let options = HostOptions { bad_rows_max: 3, concurrent_calls: 1, ..HostOptions::default() };
    let host = PluginHost::new(options).unwrap();
    let chain = chain(&host, &[obedient("a", "event", "a_len"), obedient("b", "type", "b_len")], &small());
    let rows =
        |bad: usize| -> Vec<Row> { (0..10).map(|n| Row::new(n, if (n as usize) < bad { "t" } else { "x" })).collect() };
    assert_eq!(chain.run(batch(&rows(3))).unwrap().dead.len(), 3);
    match chain.run(batch(&rows(4))) {
        Err(ChainStop::TooManyBadRows { step, max: 3, failures }) => {
            assert_eq!((step.as_str(), failures.len()), ("a@1.0.0", 4));
        }
        other => panic!("{other:?}"),
    }
    // The bound is of the batch: a row less at the first step is a row more at the second.
    let mut mixed = rows(2);
    (5..7).for_each(|row| mixed[row].ty = "t".to_owned());
    match chain.run(batch(&mixed)) {
        Err(ChainStop::TooManyBadRows { step, failures, .. }) => {
            assert_eq!((step.as_str(), failures.len()), ("b@1.0.0", 4));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_backstop_stops_what_fuel_does_not() {
    let options = HostOptions { backstop: Duration::from_millis(80), ..HostOptions::default() };
    let host = PluginHost::new(options).unwrap();
    let limits = Limits { fuel: i64::MAX as u64, ..Limits::default() };
    let chain = chain(&host, &[always("(loop $ever (br $ever)) (unreachable)")], &limits);
    let stop = chain.run(three()).unwrap_err();
    assert!(matches!(stop, ChainStop::Backstop { .. }), "{stop}");
}

#[test]
fn files_that_are_no_plugin_are_refused_in_words() {
    let host = host();
    let refused = |wasm: &[u8]| host.load(wasm).unwrap_err();
    assert!(matches!(refused(b"PK\x03\x04 some zip"), LoadError::NotWasm { found: "a zip archive" }));
    assert!(matches!(refused(b""), LoadError::NotWasm { found: "empty" }));
    assert!(matches!(refused(&wat::parse_str("(module)").unwrap()), LoadError::CoreModule));
    let good = Guest::default().wasm();
    assert!(matches!(refused(&good[..good.len() / 2]), LoadError::Invalid(_)));
    assert!(matches!(refused(&wat::parse_str("(component)").unwrap()), LoadError::Boundary(_)));
    let small = PluginHost::new(HostOptions { module_bytes_max: 100, ..HostOptions::default() }).unwrap();
    assert!(matches!(small.load(&good), Err(LoadError::TooLarge { max: 100, .. })));
    let memory64 = Guest { items: "(memory $other i64 1)".to_owned(), ..Guest::default() };
    assert!(matches!(refused(&memory64.wasm()), LoadError::Invalid(_)));
    let threads =
        Guest::default().wat().replacen("(memory (export \"memory\") 2)", "(memory (export \"memory\") 2 3 shared)", 1);
    assert!(host.load(&wat::parse_str(threads.replace("(memory 2)", "(memory 2 3 shared)")).unwrap()).is_err());
    // More memory from the start than the pool has.
    let huge = Guest { pages: 20_000, ..Guest::default() };
    assert!(matches!(refused(&huge.wasm()), LoadError::Invalid(_)));
}

#[test]
fn imports_and_exports_are_those_of_the_world() {
    let host = host();
    let importing = |imports: &str| Guest { imports: imports.to_owned(), ..Guest::default() }.wasm();
    for (imports, name) in [
        (
            r#"(import "wasi:clocks/wall-clock@0.2.0" (instance (export "now" (func (result u64)))))"#,
            "wasi:clocks/wall-clock@0.2.0",
        ),
        (
            r#"(import "millrace:transform/host@1.1.0" (instance (export "now" (func (result u64)))))"#,
            "millrace:transform/host@1.1.0#now",
        ),
        (r#"(import "random" (func (result u64)))"#, "random"),
        (
            r#"(import "millrace:transform/host@2.0.0" (instance (export "log" (func (param "message" string)))))"#,
            "millrace:transform/host@2.0.0",
        ),
    ] {
        match host.load(&importing(imports)) {
            Err(error @ LoadError::ForbiddenImport { .. }) => assert!(error.to_string().contains(name), "{error}"),
            other => panic!("{imports}: {other:?}"),
        }
    }
    let wat = Guest::default().wat();
    let renamed =
        wat.replace(r#"(func (export "transform") (param "batch""#, r#"(func (export "convert") (param "batch""#);
    let error = host.load(&wat::parse_str(renamed).unwrap()).unwrap_err();
    assert!(error.to_string().contains("does not export the function \"transform\""), "{error}");
    let other = wat.replace(r#"(param "config" string)"#, r#"(param "config" (list u8))"#);
    let error = host.load(&wat::parse_str(other).unwrap()).unwrap_err();
    assert!(matches!(&error, LoadError::Boundary(text) if text.contains("describe")), "{error}");
    // More exports than the world has are no harm: some language tools add one.
    let more = wat.replace(
        r#"(func (export "transform") (param "batch""#,
        r#"(func (export "init") (canon lift (core func $init "init"))) (func (export "transform") (param "batch""#,
    );
    let more = more.replace(
        "(core instance $main",
        r#"(core module $i (func (export "init"))) (core instance $init (instantiate $i)) (core instance $main"#,
    );
    host.load(&wat::parse_str(more).unwrap()).unwrap();
}

#[test]
fn damaged_components_never_panic_the_host() {
    let host = host();
    let good = obedient("a", "event", "a_len").wasm();
    let mut loaded = 0;
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut bytes = good.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
        println!("seed {seed}");
        let Ok(plugin) = host.load(&bytes) else { continue };
        loaded += 1;
        if let Ok(chain) = Chain::new(&host, vec![step(plugin, small())]) {
            // Any outcome will do.
            let _ = chain.run(three());
        }
    }
    assert!(loaded > 0, "some damage is only found when it runs");
}

#[test]
fn describe_is_held_to_the_same_rules() {
    let host = host();
    let described = |guest: &Guest| host.load(&guest.wasm()).unwrap().manifest("{}", &small());
    let with = |body: &str| Guest { describe: Some(body.to_owned()), ..Guest::default() };
    let code = |guest: &Guest| match described(guest) {
        Err(ManifestError::Failed { code, .. }) => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(&with("(unreachable)")), "trap");
    assert_eq!(code(&with("(loop $ever (br $ever)) (unreachable)")), "out_of_fuel");
    assert_eq!(code(&with("(memory.grow (i32.const 1000))")), "out_of_memory");
    assert_eq!(code(&with("(i32.const 0x7ffffffc)")), "bad_output");
    // The time of a start function is describe's.
    let start = Guest { items: "(func $s (loop $ever (br $ever))) (start $s)".to_owned(), ..Guest::default() };
    assert_eq!(code(&start), "out_of_fuel");
    // An error is the plugin's word to whoever configured it: here it hands the configuration back.
    let refuse = with(
        "(i32.store8 (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (local.get $config))
         (i32.store (i32.const 24) (local.get $length)) (i32.const 16)",
    );
    let plugin = host.load(&refuse.wasm()).unwrap();
    match plugin.manifest("[\"nö\"]", &small()) {
        Err(ManifestError::Refused(message)) => assert_eq!(message, "[\"nö\"]"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(plugin.manifest("{", &small()), Err(ManifestError::Config(_))));
    let greedy = Limits { memory_bytes: 1 << 40, ..small() };
    assert!(matches!(plugin.manifest("{}", &greedy), Err(ManifestError::Limits(_))));
    let named = Guest { name: "Not A Name", ..Guest::default() };
    assert!(matches!(described(&named), Err(ManifestError::Invalid(_))));
    let manifest = described(&obedient("a", "event", "a_len")).unwrap();
    assert_eq!(
        (manifest.reads, manifest.codes),
        (vec!["event".into(), "user_id".into()], vec!["told_to_fail".into(), "told_to_drop".into()])
    );
}

#[test]
fn chains_that_do_not_fit_name_the_step() {
    let host = host();
    let specs = |guests: &[Guest]| guests.iter().map(|g| step(host.load(&g.wasm()).unwrap(), small())).collect();
    let twice = Chain::new(&host, specs(&[obedient("a", "event", "n"), obedient("b", "event", "n")])).unwrap_err();
    assert_eq!((twice.index, twice.step.as_str()), (1, "b@1.0.0"));
    assert!(twice.to_string().starts_with("step 2 (b@1.0.0): it adds column \"n\""), "{twice}");
    let unknown = Chain::new(&host, specs(&[obedient("a", "nothing", "n")])).unwrap_err();
    assert!(matches!(unknown.problem, ChainProblem::Columns(_)));
    let described = Guest { describe: Some("(unreachable)".to_owned()), ..Guest::default() };
    let failed = Chain::new(&host, specs(&[obedient("a", "event", "n"), described])).unwrap_err();
    assert!(failed.index == 1 && matches!(failed.problem, ChainProblem::Manifest(_)), "{failed}");
    let other = Chain::new(&support::host(), specs(&[Guest::default()])).unwrap_err();
    assert!(other.to_string().contains("another host"), "{other}");
    // A later step may write what an earlier one added.
    let writes = Guest { name: "b", reads: vec!["n"], writes: vec!["n"], ..Guest::default() };
    let chain = Chain::new(&host, specs(&[obedient("a", "event", "n"), writes])).unwrap();
    assert_eq!(chain.step_names(), ["a@1.0.0", "b@1.0.0"]);
    assert_eq!(chain.added().len(), 1);
    assert_eq!(chain.run(three()).unwrap().rows.num_rows(), 3);
    // No steps at all: the decoded rows, checked.
    let empty = Chain::new(&host, Vec::new()).unwrap().run(three()).unwrap();
    assert_eq!((empty.rows.num_rows(), empty.rows.schema()), (3, Chain::new(&host, Vec::new()).unwrap().schema()));
    let cut = three().project(&[0, 1]).unwrap();
    assert!(matches!(chain.run(cut), Err(ChainStop::Input(_))));
}

#[test]
fn memory_comes_back_after_failures() {
    let host = PluginHost::new(HostOptions { concurrent_calls: 1, ..HostOptions::default() }).unwrap();
    let limits = Limits { memory_bytes: 32 << 20, ..Limits::default() };
    let chain = chain(&host, &[obedient("a", "event", "a_len")], &limits);
    let resident = || -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let round = |times: usize| {
        for _ in 0..times {
            let output = run_words(&chain, &["x", "m", "t", "x"]);
            assert_eq!((output.dead.len(), output.rows.num_rows()), (2, 2));
        }
    };
    round(5);
    let before = resident();
    round(60);
    let grown = resident().saturating_sub(before);
    // A leak of one instance's memory a round would be 2 GiB. Other tests of this process run at the same time.
    assert!(grown < 256 << 20, "{grown} bytes more");
}

#[test]
fn one_row_in_a_million_is_dead_and_no_other() {
    let host = host();
    let chain = chain(&host, &[obedient("a", "event", "a_len")], &small());
    let seed = 17;
    println!("seed {seed}");
    let bad = StdRng::seed_from_u64(seed).random_range(0..1_000_000i64);
    let mut rows = 0;
    for start in (0..1_000_000).step_by(50_000) {
        let part: Vec<Row> = (start..start + 50_000).map(|n| Row::new(n, if n == bad { "t" } else { "x" })).collect();
        let output = chain.run(batch(&part)).unwrap();
        let expected: Vec<u64> = (start..start + 50_000).filter(|n| *n == bad).map(|n| n as u64).collect();
        assert_eq!(output.dead.iter().map(|dead| dead.offset).collect::<Vec<_>>(), expected);
        rows += output.rows.num_rows();
    }
    assert_eq!(rows, 999_999);
}

#[test]
fn nothing_is_kept_from_one_call_to_the_next() {
    // A guest that counts its calls in a global and adds the count to each row: every call has a fresh instance, so the
    // count is always the same, and what it says does not depend on the split.
    let counter = Guest {
        items: "(global $calls (mut i64) (i64.const 0))".to_owned(),
        adds: vec![("calls", ColumnType::Int64)],
        locals: "(local $i i32) (local $at i32)",
        ..always(
            "(global.set $calls (i64.add (global.get $calls) (i64.const 1)))
             (local.set $at (call $alloc (i32.shl (local.get $rows) (i32.const 3)) (i32.const 8)))
             (loop $next
               (i64.store (i32.add (local.get $at) (i32.shl (local.get $i) (i32.const 3))) (global.get $calls))
               (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $rows))))
             (i32.store8 (global.get $COLUMNS) (i32.const 1))
             (i32.store8 offset=4 (global.get $COLUMNS) (i32.const 1))
             (i32.store offset=8 (global.get $COLUMNS) (local.get $at))
             (i32.store offset=12 (global.get $COLUMNS) (local.get $rows))
             (global.get $OUT)",
        )
    };
    let chain = chain(&host(), std::slice::from_ref(&counter), &small());
    let whole = chain.run(three()).unwrap();
    for _ in 0..3 {
        let parts: Vec<ChainOutput> = (0..3).map(|row| chain.run(three().slice(row, 1)).unwrap()).collect();
        assert_eq!(whole.check_same(&parts), Ok(()));
    }
}
