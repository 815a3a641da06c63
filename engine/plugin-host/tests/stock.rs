//! The plugins that come with Millrace, as they are shipped: real guests with a real allocator, not hand-written ones.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking too")]

mod support;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use millrace_plugin_host::{Chain, Limits, PluginHost, StepSpec};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::{Row, batch, host};

const EDGE: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 \
                    Safari/537.36 Edg/126.0.0.0";

fn chain(host: &PluginHost, limits: &Limits) -> Chain {
    let steps = ["pii-scrub", "enrich-user-agent"].map(|name| {
        let path = format!("../../plugins/{name}/{name}.wasm");
        let plugin = host.load(&std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))).unwrap();
        StepSpec::new(plugin, "{}", limits.clone())
    });
    Chain::new(host, steps.into()).unwrap()
}

fn with_text(batch: RecordBatch, name: &str, value: impl Fn(usize) -> Option<String>) -> RecordBatch {
    let mut columns = batch.columns().to_vec();
    let values: StringArray = (0..batch.num_rows()).map(value).collect();
    columns[batch.schema().index_of(name).unwrap()] = Arc::new(values) as ArrayRef;
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

fn events(rows: usize) -> RecordBatch {
    let rows: Vec<Row> = (0..rows as i64).map(|n| Row::new(n, "Product Viewed")).collect();
    let batch = batch(&rows);
    let batch = with_text(batch, "ip", |row| (row % 4 > 0).then(|| format!("203.0.113.{}", row % 250)));
    let batch = with_text(batch, "user_agent", |row| (row % 3 > 0).then(|| EDGE.to_owned()));
    with_text(batch, "properties", |row| Some(format!(r#"{{"n":{row},"contact":"ada{row}@example.com"}}"#)))
}

#[test]
fn they_scrub_and_enrich() {
    let host = host();
    let chain = chain(&host, &Limits::default());
    let output = chain.run(events(10)).unwrap();
    assert_eq!((output.rows.num_rows(), output.dead.len()), (10, 0), "{:?}", output.failures);
    let text = |name: &str| output.rows.column_by_name(name).unwrap().as_string::<i32>();
    assert!(text("ip").is_null(0));
    assert!(text("ip").value(1).starts_with("203.0.113.0"), "{}", text("ip").value(1));
    assert_eq!(text("properties").value(7), r#"{"n":7,"contact":"[email]"}"#);
    assert_eq!((text("ua_browser").value(1), text("ua_os").value(1)), ("Edge", "Windows"));
    let major = output.rows.column_by_name("ua_browser_major").unwrap().as_primitive::<Int64Type>();
    assert!(major.value(1) == 126 && major.is_null(0));
}

#[test]
fn rows_do_not_depend_on_the_split() {
    let host = host();
    let chain = chain(&host, &Limits::default());
    let input = events(700);
    let whole = chain.run(input.clone()).unwrap();
    for seed in 0..4 {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut parts, mut start) = (Vec::new(), 0);
        while start < input.num_rows() {
            let length = rng.random_range(1..=input.num_rows() - start);
            parts.push(chain.run(input.slice(start, length)).unwrap());
            start += length;
        }
        assert_eq!(whole.check_same(&parts), Ok(()));
    }
    // Limits that no call of many rows can keep give the same rows, by way of bisection.
    let tight = Limits { fuel: 400_000, ..Limits::default() };
    let tight = self::chain(&host, &tight).run(input).unwrap();
    assert!(tight.steps[0].discarded > 0);
    assert_eq!(whole.check_same(&[tight]), Ok(()));
}

#[test]
fn fuel_is_the_same_every_time() {
    let host = host();
    let chain = chain(&host, &Limits::default());
    let fuel = || chain.run(events(300)).unwrap().steps.iter().map(|step| step.fuel).collect::<Vec<_>>();
    let first = fuel();
    assert!(first.iter().all(|fuel| *fuel > 0));
    assert_eq!(fuel(), first);
    // Another engine counts the same.
    let other = support::host();
    let chain = self::chain(&other, &Limits::default());
    let again: Vec<_> = chain.run(events(300)).unwrap().steps.iter().map(|step| step.fuel).collect();
    assert_eq!(again, first);
}
