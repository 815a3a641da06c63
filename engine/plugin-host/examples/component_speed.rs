//! What a plugin costs in the host, whatever language it is written in: nanoseconds, fuel and memory-independent time of
//! `describe` for each event, best of many rounds.
//!
//! ```text
//! cargo run --release -p millrace-plugin-host --example component_speed -- PLUGIN.wasm
//!     [--config JSON] [--cases DIR] [--rows 4096] [--rounds 20] [--cache DIR]
//! ```
//!
//! The rows are those of the golden cases in DIR over and over, where the configuration is the one given, or else those
//! of a made-up shop. Compiled plugins are kept in the cache directory, which must be private. Run it on an idle machine.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, BooleanArray, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::record_batch::RecordBatch;
use millrace_plugin_host::{Chain, ChainOutput, ChainStop, Failure, HostOptions, Limits, PluginHost, StepSpec};
use millrace_rows::ColumnType;
use millrace_rows::schema::decoded_schema;
use serde_json::{Map, Value, json};

type Row = Map<String, Value>;

struct Options {
    wasm: PathBuf,
    config: String,
    cases: Option<PathBuf>,
    rows: usize,
    rounds: usize,
    cache: Option<PathBuf>,
}

impl Options {
    fn parse() -> Result<Self, String> {
        let mut options =
            Self { wasm: PathBuf::new(), config: "{}".to_owned(), cases: None, rows: 4_096, rounds: 20, cache: None };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--config" => options.config = value()?,
                "--cases" => options.cases = Some(value()?.into()),
                "--cache" => options.cache = Some(value()?.into()),
                "--rows" => options.rows = value()?.parse().map_err(|e| format!("--rows: {e}"))?,
                "--rounds" => options.rounds = value()?.parse().map_err(|e| format!("--rounds: {e}"))?,
                other if other.starts_with("--") => return Err(format!("there is no option {other}")),
                path => options.wasm = path.into(),
            }
        }
        if options.wasm.as_os_str().is_empty() {
            return Err("name the component to measure".to_owned());
        }
        Ok(options)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse()?;
    let host = PluginHost::new(HostOptions { cache_dir: options.cache.clone(), ..HostOptions::default() })?;
    let wasm = std::fs::read(&options.wasm)?;
    let start = Instant::now();
    let plugin = host.load(&wasm)?;
    let loaded = start.elapsed();
    let limits = Limits::default();
    let described = best(options.rounds, || plugin.manifest(&options.config, &limits))?;
    let rows = rows(&options)?;
    let input = decoded(&rows, options.rows)?;
    let none = Chain::new(&host, Vec::new())?;
    let chain = Chain::new(&host, vec![StepSpec::new(plugin, options.config.clone(), limits)])?;

    let output = match chain.run(input.clone()) {
        Ok(output) => output,
        Err(ChainStop::TooManyBadRows { failures, max, .. }) => {
            failures.iter().take(3).for_each(show);
            return Err(format!("more than {max} rows failed").into());
        }
        Err(stop) => return Err(stop.into()),
    };
    let one = input.slice(0, 1);
    let frame = best(options.rounds, || none.run(input.clone()))?;
    let whole = best(options.rounds, || chain.run(input.clone()))?.saturating_sub(frame);
    let single = best(options.rounds, || chain.run(one.clone()))?;

    println!("{} ({} bytes)", chain.step_names().join(""), wasm.len());
    println!("{:<36} {:>12.1} ms", "load or compile", loaded.as_secs_f64() * 1e3);
    println!("{:<36} {:>12.1} us", "fresh instance and describe", described.as_secs_f64() * 1e6);
    println!("{:<36} {:>12.1} us", "a call of one event", single.as_secs_f64() * 1e6);
    println!("{:<36} {:>12.0} ns", format!("an event of {}", options.rows), per_event(whole, options.rows));
    println!("{:<36} {:>12}", "fuel an event", output.steps[0].fuel / options.rows.max(1) as u64);
    tell(&output);
    Ok(())
}

/// What became of the rows, so that nobody measures a plugin that does nothing but fail.
fn tell(output: &ChainOutput) {
    println!("{:<36} {:>12}", "rows out", output.rows.num_rows());
    println!("{:<36} {:>12}", "records dropped", output.dropped.iter().map(|d| d.records).sum::<u64>());
    println!("{:<36} {:>12}", "records failed", output.dead.len());
    output.failures.iter().take(3).for_each(show);
    for line in output.logs.iter().take(3) {
        println!("log: {}", line.line);
    }
}

fn show(failure: &Failure) {
    println!("offset {}: {}: {}", failure.offset, failure.code, failure.message);
}

fn per_event(time: Duration, rows: usize) -> f64 {
    time.as_nanos() as f64 / rows.max(1) as f64
}

/// The shortest time of `rounds`.
fn best<T, E>(rounds: usize, mut run: impl FnMut() -> Result<T, E>) -> Result<Duration, E> {
    let mut shortest = Duration::MAX;
    for _ in 0..rounds.max(1) {
        let start = Instant::now();
        std::hint::black_box(run()?);
        shortest = shortest.min(start.elapsed());
    }
    Ok(shortest)
}

fn rows(options: &Options) -> Result<Vec<Row>, Box<dyn Error>> {
    let Some(dir) = &options.cases else { return Ok((0..997).map(made_up).collect()) };
    let config: Value = serde_json::from_str(&options.config)?;
    let mut rows = Vec::new();
    for path in case_files(dir)? {
        let case: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        if *case.get("config").unwrap_or(&json!({})) == config {
            let rows_in = case.get("rows_in").and_then(Value::as_array).into_iter().flatten();
            rows.extend(rows_in.filter_map(Value::as_object).cloned());
        }
    }
    if rows.is_empty() {
        return Err(format!("{} has no rows for the configuration {config}", dir.display()).into());
    }
    Ok(rows)
}

fn case_files(dir: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// An event of a shop. Two in three were led here by a campaign, one in ten has text that is not ASCII.
fn made_up(n: usize) -> Row {
    let query = match n % 3 {
        0 => String::new(),
        _ => format!("?utm_source=newsletter&utm_medium=email&utm_campaign=spring-{}&item={n}", n % 7),
    };
    let event = ["product_view", "add_to_cart", "checkout", "search"][n % 4];
    let city = if n % 10 == 0 { "M\u{fc}nchen" } else { "Hamburg" };
    let row = json!({
        "event": event,
        "type": "track",
        "user_id": if n % 5 > 0 { json!(format!("user-{n:016}")) } else { Value::Null },
        "url": format!("https://shop.example/{}/p/{n}{query}", city.to_lowercase()),
        "referrer": "https://www.example.com/search",
        "ip": format!("203.0.113.{}", n % 256),
        "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:125.0) Gecko/20100101 Firefox/125.0",
        "properties": format!(r#"{{"sku":"A-{n}","price":{}.5,"quantity":{},"city":"{city}"}}"#, n % 90, n % 4),
    });
    match row {
        Value::Object(row) => row,
        _ => Row::new(),
    }
}

/// As many rows as asked for, as the decoder would give them.
fn decoded(rows: &[Row], count: usize) -> Result<RecordBatch, Box<dyn Error>> {
    let schema = decoded_schema();
    let default = |column: &str, offset: usize| match column {
        "event_id" => json!(format!("event-{offset}")),
        "device_id" => json!(format!("device-{}", offset % 100)),
        "event_time" | "received_at" => json!(1_700_000_000_000_000i64 + offset as i64 * 1_000),
        "_offset" => json!(offset),
        "_partition" | "_sub" => json!(0),
        _ => Value::Null,
    };
    let columns = schema.fields().iter().map(|field| -> Result<ArrayRef, Box<dyn Error>> {
        let values: Vec<Value> = (0..count)
            .map(|offset| match rows[offset % rows.len()].get(field.name()) {
                Some(value) if !value.is_null() => value.clone(),
                _ => default(field.name(), offset),
            })
            .collect();
        let ints = || values.iter().map(Value::as_i64);
        let ty = ColumnType::of(field.data_type()).ok_or("a base column of an unknown type")?;
        Ok(match ty {
            ColumnType::String => Arc::new(values.iter().map(Value::as_str).collect::<StringArray>()),
            ColumnType::Timestamp => Arc::new(ints().collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
            ColumnType::Bool => Arc::new(values.iter().map(Value::as_bool).collect::<BooleanArray>()),
            ColumnType::Int64 => Arc::new(ints().collect::<Int64Array>()),
            ColumnType::Float64 => return Err("no base column is a float".into()),
        })
    });
    Ok(RecordBatch::try_new(schema.clone(), columns.collect::<Result<_, _>>()?)?)
}
