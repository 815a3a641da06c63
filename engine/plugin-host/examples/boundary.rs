//! What the boundary costs: nanoseconds an event, for a guest that does nothing and for one that works, beside the same
//! work in native code.
//!
//! ```text
//! cargo run --release -p millrace-plugin-host --example boundary [plugin.wasm [config.json]]
//! ```
//!
//! With a plugin it is measured too. Run it on an idle machine; the best of many rounds is printed.

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, Int64Builder, StringBuilder};
use arrow::record_batch::RecordBatch;
use millrace_plugin_host::{Chain, HostOptions, Limits, PluginHost, StepSpec};
use support::{Guest, Row, batch, obedient};

const ROUNDS: usize = 300;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let host = PluginHost::new(HostOptions::default())?;
    let rows: Vec<Row> = (0..4_096)
        .map(|n| Row {
            event: format!("Product Viewed {n}"),
            user: (n % 5 > 0).then(|| format!("user-{n:024}")),
            ..Row::new(n, "")
        })
        .collect();
    let full = batch(&rows);
    let chain_of = |wasm: &[u8], config: &str| -> Result<Chain, Box<dyn std::error::Error>> {
        let spec = StepSpec { plugin: host.load(wasm)?, config: config.to_owned(), limits: Limits::default() };
        Ok(Chain::new(&host, vec![spec])?)
    };
    let none = Chain::new(&host, Vec::new())?;
    let two = Guest { reads: vec!["event", "user_id"], ..Guest::default() };
    let empty = chain_of(&two.wasm(), "{}")?;
    let unread = chain_of(&Guest::default().wasm(), "{}")?;
    let working = chain_of(&obedient("working", "event", "length").wasm(), "{}")?;

    println!("{:<44} {:>8} {:>12}", "", "events", "ns an event");
    for events in [1, 64, 1_024, 4_096] {
        let input = full.slice(0, events);
        // The host's own checks and the batch's frame are no part of the boundary.
        let frame = best(|| run(&none, &input));
        let show = |what: &str, time: Duration| {
            let nanos = time.as_nanos() as f64 / events as f64;
            println!("{what:<44} {events:>8} {nanos:>12.1}");
            nanos
        };
        show("no step: frame and checks", frame);
        let over = |chain: &Chain| best(|| run(chain, &input)).saturating_sub(frame);
        show("fresh instance, no column", over(&unread));
        show("empty guest reading two columns", over(&empty));
        let guest = show("guest that rebuilds a column and adds one", over(&working));
        let native = show("the same in native code", best(|| native(&input)));
        println!("{:<44} {events:>8} {:>11.1}x", "ratio to native", guest / native);
    }
    if let Some(path) = std::env::args().nth(1) {
        let config = std::env::args().nth(2).unwrap_or_else(|| "{}".to_owned());
        let chain = chain_of(&std::fs::read(&path)?, &config)?;
        let frame = best(|| run(&none, &full));
        let time = best(|| run(&chain, &full)).saturating_sub(frame);
        let output = chain.run(full.clone())?;
        println!(
            "{:<44} {:>8} {:>12.1}  fuel an event {}",
            path,
            full.num_rows(),
            time.as_nanos() as f64 / full.num_rows() as f64,
            output.steps[0].fuel / full.num_rows() as u64
        );
    }
    Ok(())
}

fn run(chain: &Chain, input: &RecordBatch) {
    match chain.run(input.clone()) {
        Ok(output) => {
            black_box(output);
        }
        Err(stop) => panic!("{stop}"),
    }
}

/// What the working guest does, over Arrow.
fn native(input: &RecordBatch) {
    let text = |name: &str| input.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
    let (Some(events), Some(users)) = (text("event"), text("user_id")) else { return };
    let mut out = StringBuilder::with_capacity(users.len(), users.value_data().len());
    let mut lengths = Int64Builder::with_capacity(events.len());
    for row in 0..events.len() {
        let word = events.value(row);
        if matches!(word.as_bytes().first(), Some(b't' | b'e' | b'l' | b'm' | b'f' | b'd')) {
            continue;
        }
        lengths.append_value(word.len() as i64);
        out.append_option(users.is_valid(row).then(|| users.value(row)));
    }
    black_box((out.finish(), lengths.finish()));
}

fn best(mut work: impl FnMut()) -> Duration {
    work();
    (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed()
        })
        .min()
        .unwrap_or_default()
}
