//! What a record becomes depends on that record alone: a chain run over any split of a batch gives, put together, what it
//! gives over the whole.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking too")]

mod support;

use arrow::array::AsArray;
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use millrace_plugin_host::{Chain, ChainOutput, Dead, Difference, Limits};
use millrace_rows::ColumnType;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::{Guest, Row, batch, chain, host, obedient};

/// Words that the guest obeys, with how often they come up in a hundred rows.
const WORDS: [(&str, u32); 7] = [("t", 2), ("e", 1), ("f", 4), ("d", 8), ("2", 6), ("3", 3), ("m", 1)];

fn word(rng: &mut StdRng) -> String {
    let mut dice = rng.random_range(0..100);
    let tail = "x".repeat(rng.random_range(0..20));
    for (word, weight) in WORDS {
        if dice < weight {
            return format!("{word}{tail}");
        }
        dice -= weight;
    }
    tail
}

fn random_rows(rng: &mut StdRng, records: usize) -> Vec<Row> {
    let mut offset = rng.random_range(0..1_000);
    let mut rows = Vec::new();
    for _ in 0..records {
        let user = rng.random_bool(0.7).then(|| "ü".repeat(rng.random_range(0..5)));
        rows.push(Row { offset, event: word(rng), ty: word(rng), user });
        offset += rng.random_range(1..3);
    }
    rows
}

/// What must not depend on the split.
#[derive(Debug, PartialEq)]
struct Decided {
    rows: RecordBatch,
    dead: Vec<Dead>,
    dropped: u64,
    failures: Vec<(u64, &'static str)>,
}

fn put_together(chain: &Chain, outputs: &[ChainOutput]) -> Decided {
    Decided {
        rows: concat_batches(&chain.schema(), outputs.iter().map(|output| &output.rows)).unwrap(),
        dead: outputs.iter().flat_map(|output| output.dead.clone()).collect(),
        dropped: outputs.iter().map(ChainOutput::dropped_records).sum(),
        failures: {
            let mut failures: Vec<_> =
                outputs.iter().flat_map(|o| o.failures.iter().map(|f| (f.offset, f.code))).collect();
            failures.sort_unstable();
            failures
        },
    }
}

/// The chain in three lines, for `event` at step a and `type` at step b, where b sees each copy that a made.
fn model(rows: &[Row]) -> (Vec<(i64, i64)>, Vec<Dead>, u64) {
    let fate = |word: &str| match word.bytes().next() {
        Some(b't') => Err(Some("trap")),
        Some(b'e') => Err(Some("guest_error")),
        Some(b'm') => Err(Some("out_of_memory")),
        Some(b'l') => Err(Some("out_of_fuel")),
        Some(b'f') => Err(Some("told_to_fail")),
        Some(b'd') => Err(None),
        Some(b'2') => Ok(2),
        Some(b'3') => Ok(3),
        _ => Ok(1),
    };
    let (mut out, mut dead, mut dropped) = (Vec::new(), Vec::new(), 0);
    for row in rows {
        let mut copies = 1;
        let mut gone = false;
        for (step, word) in [("a@1.0.0", &row.event), ("b@1.0.0", &row.ty)] {
            match fate(word) {
                _ if gone => {}
                Ok(n) => copies *= n,
                Err(Some(code)) => {
                    dead.push(Dead { offset: row.offset as u64, step: step.into(), code: code.into() });
                    gone = true;
                }
                Err(None) => {
                    dropped += 1;
                    gone = true;
                }
            }
        }
        if !gone {
            out.extend((0..copies).map(|sub| (row.offset, sub)));
        }
    }
    (out, dead, dropped)
}

#[test]
fn any_split_gives_what_the_whole_gives() {
    let host = host();
    // The memory limit is small so that growing to it is quick; calls of many rows stay below it.
    let limits = Limits { memory_bytes: 2 << 20, fuel: 10_000_000, ..Limits::default() };
    let chain = chain(&host, &[obedient("a", "event", "a_len"), obedient("b", "type", "b_len")], &limits);
    for seed in 0..12 {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let records = rng.random_range(1..400);
        let rows = random_rows(&mut rng, records);
        let whole = batch(&rows);
        let expected = put_together(&chain, &[chain.run(whole.clone()).unwrap()]);

        let (out, dead, dropped) = model(&rows);
        let column =
            |name: &str| expected.rows.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().to_vec();
        let lineage: Vec<_> = column("_offset").into_iter().zip(column("_sub")).collect();
        assert_eq!(lineage, out);
        assert_eq!(expected.dead, dead);
        assert_eq!(expected.dropped, dropped);
        rows_carry_their_own_values(&expected.rows, &rows);

        for _ in 0..4 {
            let mut outputs = Vec::new();
            let mut start = 0;
            while start < rows.len() {
                let length = rng.random_range(1..=rows.len() - start);
                outputs.push(chain.run(whole.slice(start, length)).unwrap());
                start += length;
            }
            assert_eq!(put_together(&chain, &outputs), expected);
            assert_eq!(chain.run(whole.clone()).unwrap().check_same(&outputs), Ok(()));
        }
    }
}

#[test]
fn a_plugin_that_looks_at_its_neighbours_is_found() {
    let host = host();
    // Adds the number of rows of the call.
    let nosy = Guest {
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
    };
    let chain = chain(&host, &[nosy], &Limits::default());
    let rows: Vec<Row> = (20..30).map(|n| Row::new(n, "x")).collect();
    let whole = batch(&rows);
    let output = chain.run(whole.clone()).unwrap();
    let parts: Vec<_> = [(0, 4), (4, 6)].map(|(at, n)| chain.run(whole.slice(at, n)).unwrap()).into();
    assert_eq!(output.check_same(&parts), Err(Difference::Rows(Some(20))));
    assert_eq!(output.check_same(std::slice::from_ref(&output)), Ok(()));
    assert_eq!(parts[0].check_same(&[]), Err(Difference::Rows(Some(20))));
}

#[test]
fn each_kind_of_difference_is_told() {
    let host = host();
    let chain = chain(&host, &[obedient("a", "event", "a_len")], &Limits::default());
    let run = |words: &[&str]| {
        let rows: Vec<Row> = words.iter().zip(5..).map(|(word, offset)| Row::new(offset, word)).collect();
        chain.run(batch(&rows)).unwrap()
    };
    let base = run(&["x", "f", "d", "y"]);
    assert_eq!(base.check_same(&[run(&["x", "f", "d", "y"])]), Ok(()));
    assert_eq!(base.check_same(&[run(&["x", "t", "d", "y"])]), Err(Difference::Dead(6)));
    assert_eq!(base.check_same(&[run(&["f", "f", "d", "y"])]), Err(Difference::Dead(5)));
    assert_eq!(base.check_same(&[run(&["x", "y", "d", "y"])]), Err(Difference::Dead(6)));
    assert_eq!(base.check_same(&[run(&["x", "f", "d", "d"])]), Err(Difference::Dropped));
    assert_eq!(base.check_same(&[run(&["x", "f", "d", "yy"])]), Err(Difference::Rows(Some(8))));
    assert_eq!(base.check_same(&[run(&["x", "f", "d", "y", "z"])]), Err(Difference::Rows(Some(9))));
}

/// No value moved to another row, neither those the guests returned nor those they never saw.
fn rows_carry_their_own_values(out: &RecordBatch, rows: &[Row]) {
    let text = |name: &str| out.column_by_name(name).unwrap().as_string::<i32>();
    let number = |name: &str| out.column_by_name(name).unwrap().as_primitive::<Int64Type>();
    let offsets = number("_offset");
    for at in 0..out.num_rows() {
        let row = rows.iter().find(|row| row.offset == offsets.value(at)).unwrap();
        assert_eq!(text("event").value(at), row.event);
        assert_eq!(text("event_id").value(at), format!("e{}", row.offset));
        let user = text("user_id");
        assert_eq!(arrow::array::Array::is_valid(user, at).then(|| user.value(at).to_owned()), row.user);
        assert_eq!(number("a_len").value(at), row.event.len() as i64);
        assert_eq!(number("b_len").value(at), row.ty.len() as i64);
    }
}

#[test]
fn calls_are_bounded_by_the_number_of_bad_rows() {
    let host = host();
    let chain = chain(&host, &[obedient("a", "event", "a_len")], &Limits::default());
    for (seed, bad) in [(1, 0), (2, 1), (3, 5), (4, 40)] {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut rows: Vec<Row> = (0..2_000).map(|offset| Row::new(offset, "x")).collect();
        let at: std::collections::BTreeSet<usize> = (0..bad).map(|_| rng.random_range(0..2_000)).collect();
        at.iter().for_each(|row| rows[*row].event = "t".to_owned());
        let output = chain.run(batch(&rows)).unwrap();
        let k = at.len() as u64;
        assert_eq!(output.dead.len() as u64, k);
        assert!(output.steps[0].calls <= (2 * k * 11 + k).max(1), "{} calls for {k}", output.steps[0].calls);
        assert_eq!(output.steps[0].rows_out, 2_000 - k);
    }
}

#[test]
fn slices_of_larger_batches_are_sent_right() {
    let host = host();
    let guests = [obedient("a", "event", "a_len"), obedient("b", "type", "b_len")];
    let chain = chain(&host, &guests, &Limits { rows: 3, ..Limits::default() });
    let rows: Vec<Row> = (0..50)
        .map(|n| Row { user: (n % 4 > 0).then(|| n.to_string()), ..Row::new(n, &"y".repeat(n as usize)) })
        .collect();
    let whole = batch(&rows);
    for (start, length) in [(0, 50), (9, 33), (49, 1), (17, 0)] {
        let output = chain.run(whole.slice(start, length)).unwrap();
        assert_eq!(output.rows.num_rows(), length);
        assert_eq!(output.steps[0].calls, length.div_ceil(3) as u64, "no more rows in a call than the limit");
        rows_carry_their_own_values(&output.rows, &rows);
    }
}

#[test]
fn threads_share_a_chain_and_wait_for_each_other() {
    let host = host();
    let chain = chain(&host, &[obedient("a", "event", "a_len"), obedient("b", "type", "b_len")], &Limits::default());
    let mut rng = StdRng::seed_from_u64(7);
    let whole = batch(&random_rows(&mut rng, 60));
    let expected = put_together(&chain, &[chain.run(whole.clone()).unwrap()]);
    // Twelve threads for four instances.
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..12)
            .map(|_| scope.spawn(|| (0..4).map(|_| chain.run(whole.clone()).unwrap()).collect::<Vec<_>>()))
            .collect();
        for thread in threads {
            for output in thread.join().unwrap() {
                assert_eq!(put_together(&chain, &[output]), expected);
            }
        }
    });
}
