//! `millrace plugin bench FILE.wasm`: what an event costs, against the limits and beside an empty plugin.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use clap::Args;
use indicatif::HumanBytes;
use millrace_decode::{Decoder, scan};
use millrace_log::Record;
use millrace_rows::LogId;
use millrace_sdk::golden::Row;
use millrace_workbench::{Bench, BenchOptions, EVENTS_MAX, Input, Timing, Workbench};
use serde_json::{Value, json};

use super::test::usage_json;
use super::{Loaded, SetupArgs, StepArgs, case_name, cases, print, show};
use crate::demo::dataset;
use crate::table::{lay_out, thousands};
use show::Style;

/// When the clickstream ends, so that every run has the same events.
const CLICKS_END_US: i64 = 1_750_000_000_000_000;

/// What to measure.
#[derive(Args)]
pub struct BenchArgs {
    /// The component.
    file: PathBuf,
    /// Events of a round; there are at least three rounds.
    #[arg(long, value_name = "N", default_value_t = BenchOptions::default().events)]
    events: usize,
    /// Runs on the rows of golden cases, over and over, instead of the demo's clickstream. Configuration and lookup tables
    /// are those of the first case, unless given.
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    #[command(flatten)]
    setup: SetupArgs,
    #[command(flatten)]
    pub(super) step: StepArgs,
}

/// `millrace plugin bench`.
pub fn bench(args: &BenchArgs, workbench: &Workbench, json: bool) -> Result<ExitCode> {
    if args.events == 0 || args.events > EVENTS_MAX {
        bail!("--events {}: use 1 to {EVENTS_MAX}", args.events);
    }
    let loaded = Loaded::open(workbench, &args.file)?;
    let (setup, input, source) = match &args.cases {
        Some(dir) => {
            let cases = cases(dir)?;
            let runnable = || cases.iter().filter(|(_, case)| case.config_error.is_none());
            let Some((path, first)) = runnable().find(|(_, case)| !case.rows_in.is_empty()) else {
                bail!("{}: no case has rows to run the plugin on", dir.display());
            };
            let setup = if args.setup.like.is_some() { args.setup.setup()? } else { args.setup.over(first.clone())? };
            let manifest =
                workbench.manifest(&loaded.plugin, &setup).with_context(|| args.file.display().to_string())?;
            let rows: Vec<Row> = runnable().flat_map(|(_, case)| case.rows_in.clone()).collect();
            let of = if args.setup.like.is_some() || args.setup.plugin_config.is_some() {
                "as given".to_owned()
            } else {
                format!("of {}", case_name(path))
            };
            let source = format!("rows of {}, configuration {of}", dir.display());
            (setup, Input::projected(&rows, &manifest.reads)?, source)
        }
        None => (args.setup.setup()?, clicks(args.events)?, "events of the demo's clickstream".to_owned()),
    };
    let options = BenchOptions { events: args.events, ..BenchOptions::default() };
    let measured = workbench.bench(&loaded.plugin, &setup, &input, &options);
    let measured = measured.with_context(|| args.file.display().to_string())?;
    print(&if json {
        format!("{}\n", as_json(&loaded, workbench, &measured))
    } else {
        for_people(&loaded, workbench, &measured, &source, Style::of_stdout())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The first events of the demo's clickstream, decoded as the engine does.
fn clicks(events: usize) -> Result<Input> {
    let history = dataset::history(CLICKS_END_US)?;
    let lines = history.ndjson.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let records = (0..).zip(lines.take(events)).map(|(offset, line)| {
        let received = scan(line).ok().and_then(|event| event.received_at_us());
        Ok(Record {
            offset,
            id: u128::from(offset) + 1,
            appended_at_us: received.context("a click without a time")?,
            checksum: 0,
            receipt: None,
            payload: Bytes::copy_from_slice(line),
        })
    });
    let records = records.collect::<Result<Vec<Record>>>()?;
    Ok(Input::decoded(Decoder::default().decode(&records, 0, LogId([0; 16])).batch))
}

fn for_people(loaded: &Loaded, workbench: &Workbench, measured: &Bench, source: &str, style: Style) -> String {
    let mut text = format!(
        "{}\n{}, {}\n\n{} {source}, in batches of {}; {} rounds\n\n",
        show::manifest(&measured.manifest),
        loaded.file.display(),
        HumanBytes(loaded.plugin.wasm_bytes() as u64),
        thousands(measured.events as u64),
        thousands(measured.batch_events as u64),
        measured.rounds,
    );
    let row = |name: &str, timing: Timing| {
        let numbers = [timing.median, timing.fastest].map(|nanos| format!("{nanos:.1}"));
        [&[name.to_owned()][..], &numbers].concat()
    };
    text += &lay_out(
        &["ns per event", "median", "fastest"],
        &[row("this plugin", measured.plugin), row("an empty plugin, same columns", measured.empty)],
    );
    text += &format!("\n{:.1} times an empty plugin\n", measured.ratio);
    text += &format!(
        "{} fuel per event, {} of output per event; {} rows out, {} dropped, {} failed\n",
        thousands(measured.usage.fuel_per_row()),
        HumanBytes(measured.usage.output_bytes / measured.events as u64),
        thousands(measured.rows_out),
        thousands(measured.dropped),
        thousands(measured.failed),
    );
    if measured.discarded > 0 {
        let warning = format!(
            "{} of {} calls a round were thrown away and made again in parts, because of rows that ended in a trap, an error \
             or a limit: the times are of these too. See which with millrace plugin test.",
            measured.discarded, measured.usage.calls
        );
        text += &format!("{}\n", style.bad(&warning));
    }
    text + "\n" + &show::limits(&measured.usage.of_limits(workbench.limits()), style)
}

fn as_json(loaded: &Loaded, workbench: &Workbench, measured: &Bench) -> Value {
    let timing = |timing: Timing| json!({"median": timing.median, "fastest": timing.fastest});
    let mut usage = usage_json(&measured.usage);
    // Rows are not called one by one here.
    usage["fuel_row_max"] = Value::Null;
    json!({
        "plugin": measured.manifest.step_name(),
        "file": loaded.file,
        "sha256": loaded.plugin.digest_hex(),
        "bytes": loaded.plugin.wasm_bytes(),
        "events": measured.events,
        "batch_events": measured.batch_events,
        "rounds": measured.rounds,
        "ns_per_event": timing(measured.plugin),
        "ns_per_event_empty": timing(measured.empty),
        "ratio_to_empty": measured.ratio,
        "fuel_per_event": measured.usage.fuel_per_row(),
        "output_bytes_per_event": measured.usage.output_bytes as f64 / measured.events as f64,
        "rows_out": measured.rows_out,
        "dropped": measured.dropped,
        "failed": measured.failed,
        "calls_discarded": measured.discarded,
        "usage": usage,
        "limits": measured.usage.of_limits(workbench.limits()),
    })
}
