//! What the boundary costs: nanoseconds an event, for a guest that does nothing and for one that works, beside the same
//! work in native code.
//!
//! ```text
//! cargo run --release -p millrace-plugin-host --example boundary [plugin.wasm [config.json]]
//! ```
//!
//! With a plugin that reads text columns only it is measured too. Run it on an idle machine; the best of many rounds is printed.

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, Int64Builder, StringBuilder};
use arrow::record_batch::RecordBatch;
use millrace_plugin_host::{Chain, HostOptions, Limits, PluginHost, StepSpec};
use support::{Guest, Row, batch, obedient};

const ROUNDS: usize = 300;

/// One instance for all calls, to see what a fresh one for each costs. It has the settings of the host that matter.
mod reused {
    use arrow::array::{Array, AsArray};
    use arrow::record_batch::RecordBatch;
    use wasmtime::component::{Component, HasSelf, Linker};
    use wasmtime::{Config, Engine, Store};

    wasmtime::component::bindgen!({ path: "../../sdk/wit", world: "transform-plugin" });
    use millrace::transform::types::{AddedColumn, Column, Text, Values};

    struct State;
    impl millrace::transform::host::Host for State {
        fn log(&mut self, _: String) {}
    }
    impl millrace::transform::types::Host for State {}
    impl millrace::transform::tables::Host for State {
        fn columns(&mut self, _: String) -> Option<Vec<AddedColumn>> {
            None
        }
        fn lookup(&mut self, name: String, _: Column, _: Vec<String>) -> Result<Vec<Column>, String> {
            Err(format!("there is no table {name:?}"))
        }
    }

    /// A function that calls the guest with the columns of `input`.
    pub fn caller(
        wasm: &[u8],
        json: &str,
        input: &RecordBatch,
        names: &[String],
    ) -> wasmtime::Result<impl FnMut() + use<>> {
        let mut config = Config::new();
        config
            .consume_fuel(true)
            .epoch_interruption(true)
            .cranelift_nan_canonicalization(true)
            .concurrency_support(false);
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        TransformPlugin::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut State| state)?;
        let mut store = Store::new(&engine, State);
        store.set_fuel(u64::MAX)?;
        store.set_epoch_deadline(1);
        let plugin = TransformPlugin::instantiate(&mut store, &Component::new(&engine, wasm)?, &linker)?;
        if let Err(error) = plugin.call_describe(&mut store, json)? {
            panic!("{error}");
        }
        let columns = names.iter().filter_map(|name| input.column_by_name(name)?.as_string_opt::<i32>());
        let columns = columns
            .map(|text| Column {
                values: Values::Text(Text {
                    offsets: text.value_offsets().iter().map(|o| (o - text.value_offsets()[0]) as u32).collect(),
                    bytes: text.value_data()[..text.value_offsets()[text.len()] as usize].to_vec(),
                }),
                validity: text
                    .nulls()
                    .map(|nulls| nulls.inner().sliced().as_slice()[..text.len().div_ceil(8)].to_vec()),
            })
            .collect();
        let batch = Batch { rows: input.num_rows() as u32, columns };
        Ok(move || match plugin.call_transform(&mut store, &batch) {
            Ok(Ok(output)) => drop(std::hint::black_box(output)),
            Ok(Err(error)) => panic!("{error}"),
            Err(error) => panic!("{error:#}"),
        })
    }
}

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
        let spec = StepSpec::new(host.load(wasm)?, config, Limits::default());
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
        // It forgets its memory at the end of each call, as an instance that lives on must.
        let forgets =
            Guest { transform: "(global.set $heap (global.get $HEAP)) (global.get $OUT)".to_owned(), ..two.clone() };
        let fresh = best(|| run(&empty, &input)).saturating_sub(frame);
        let reused = best(reused::caller(&forgets.wasm(), "{}", &input, &empty.manifests()[0].reads)?);
        show("the same in an instance that is reused", reused);
        println!(
            "{:<44} {events:>8} {:>11.1}x",
            "ratio of fresh to reused",
            fresh.as_secs_f64() / reused.as_secs_f64()
        );
        let guest = show("guest that rebuilds a column and adds one", over(&working));
        let native = show("the same in native code", best(|| native(&input)));
        println!("{:<44} {events:>8} {:>11.1}x", "ratio to native", guest / native);
    }
    if let Some(path) = std::env::args().nth(1) {
        let config = std::env::args().nth(2).unwrap_or_else(|| "{}".to_owned());
        let wasm = std::fs::read(&path)?;
        let chain = chain_of(&wasm, &config)?;
        let events = full.num_rows();
        let frame = best(|| run(&none, &full));
        let fresh = best(|| run(&chain, &full)).saturating_sub(frame);
        let reused = best(reused::caller(&wasm, &config, &full, &chain.manifests()[0].reads)?);
        let output = chain.run(full.clone())?;
        let nanos = |time: Duration| time.as_nanos() as f64 / events as f64;
        println!("{:<44} {events:>8} {:>12.1}", chain.step_names()[0], nanos(fresh));
        println!("{:<44} {events:>8} {:>12.1}", "the same in an instance that is reused", nanos(reused));
        println!("{:<44} {events:>8} {:>11.2}x", "ratio of fresh to reused", nanos(fresh) / nanos(reused));
        println!("{:<44} {events:>8} {:>12}", "fuel an event", output.steps[0].fuel / events as u64);
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
