//! `millrace plugin test FILE.wasm`: golden cases over a component, and cases recorded from stored events.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{ArgGroup, Args};
use millrace_sdk::golden::{Case, Row};
use millrace_workbench::{CASE_ROWS_MAX, CaseRun, Difference, Usage, Verdict, Workbench};
use serde_json::{Value, json};

use super::{Loaded, SetupArgs, StepArgs, blocking, case_name, cases, print, show};
use crate::Global;
use crate::client::Client;
use crate::config::Config;
use show::{BLESSED, CHECKED, Style};

/// Most rows that one request asks for.
const PAGE_ROWS: usize = 1_000;

/// What to run.
#[derive(Args)]
#[command(group(ArgGroup::new("what").required(true).args(["cases", "record"])))]
pub struct TestArgs {
    /// The component.
    file: PathBuf,
    /// Directory of golden cases (*.json) to run.
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    /// Writes down what came out as what is expected. Read the difference before you keep it.
    #[arg(long)]
    bless: bool,
    /// Shows what the plugin logged, by row.
    #[arg(long, conflicts_with = "record")]
    logs: bool,
    #[command(flatten)]
    step: StepArgs,
    #[command(flatten)]
    record: RecordArgs,
}

/// Where a case is recorded from.
#[derive(Args)]
struct RecordArgs {
    /// Directory to write a case to, made of stored events (of --url or --data-dir) with personal data masked.
    #[arg(long, value_name = "DIR", requires = "from_partition", requires = "from_offset")]
    record: Option<PathBuf>,
    /// Partition of the log.
    #[arg(long, value_name = "N", requires = "record")]
    from_partition: Option<u32>,
    /// First offset.
    #[arg(long, value_name = "N", requires = "record")]
    from_offset: Option<u64>,
    /// Most events.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    setup: SetupArgs,
    /// Name of the case; partition and offset when not given.
    #[arg(long, value_name = "NAME", requires = "record")]
    name: Option<String>,
}

/// `millrace plugin test`. The exit code tells whether every case is as expected.
pub async fn test(global: &Global, config: &Config, args: TestArgs) -> Result<ExitCode> {
    let workbench = args.step.workbench(config)?;
    let json = global.json;
    match (&args.record.record, args.record.from_partition, args.record.from_offset) {
        (Some(dir), Some(partition), Some(offset)) => {
            let path = record_path(dir, &args.record, partition, offset, args.bless)?;
            let client = Client::open(global, config, false).await?;
            let rows = samples(&client, partition, offset, args.record.limit).await;
            client.close().await?;
            let rows = rows?;
            let about = format!(
                "{} events from partition {partition}, offset {offset} on; personal data was masked before it left the server.",
                rows.len()
            );
            blocking(move || record(&args, &workbench, &path, &about, &rows, json)).await
        }
        _ => {
            if args.record.setup.plugin_config.is_some() || args.record.setup.like.is_some() {
                bail!("--plugin-config and --like are for --record: a golden case has its own configuration");
            }
            blocking(move || run(&args, &workbench, json)).await
        }
    }
}

/// A case that was run, or could not be.
struct Tested {
    name: String,
    about: String,
    result: Result<CaseRun, String>,
    /// The expectations were overwritten.
    is_blessed: bool,
}

impl Tested {
    fn passed(&self) -> bool {
        self.is_blessed || self.result.as_ref().is_ok_and(CaseRun::passed)
    }
}

fn run(args: &TestArgs, workbench: &Workbench, json: bool) -> Result<ExitCode> {
    let dir = args.cases.as_deref().context("give --cases, a directory of golden cases")?;
    let loaded = Loaded::open(workbench, &args.file)?;
    let mut tested = Vec::new();
    let cases = cases(dir)?;
    for (path, case) in &cases {
        let result = workbench.run_case(&loaded.plugin, case).map_err(|error| error.to_string());
        let is_blessed = match &result {
            Ok(run) if args.bless => bless(path, case, run)?,
            _ => false,
        };
        tested.push(Tested { name: case_name(path), about: case.about.clone(), result, is_blessed });
    }
    let accepted = cases.iter().map(|(_, case)| case).find(|case| case.config_error.is_none());
    let name = loaded.name(workbench, accepted);
    let text = if json {
        format!("{}\n", as_json(&loaded, &name, workbench, &tested))
    } else {
        for_people(&loaded, &name, workbench, &tested, args.logs)
    };
    print(&text)?;
    Ok(if tested.iter().all(Tested::passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Writes down what came out, where that is another than what is expected.
fn bless(path: &Path, case: &Case, run: &CaseRun) -> Result<bool> {
    if !matches!(run.verdict, Verdict::Differs(_) | Verdict::Count { .. }) {
        return Ok(false);
    }
    save(&Case { expect: run.became(), ..case.clone() }, path)?;
    Ok(true)
}

fn save(case: &Case, path: &Path) -> Result<()> {
    case.save(path).map_err(|error| anyhow!("writing {}: {error}", path.display()))
}

fn for_people(loaded: &Loaded, name: &str, workbench: &Workbench, tested: &[Tested], logs: bool) -> String {
    let style = Style::of_stdout();
    let size = indicatif::HumanBytes(loaded.plugin.wasm_bytes() as u64);
    let width = tested.iter().map(|case| case.name.chars().count()).max().unwrap_or(0);
    let mut text = format!("{name}  {}, {size}\n\n", loaded.file.display());
    text.extend(tested.iter().map(|case| of_case(case, width, logs, style)));
    text + &foot(tested, workbench, style)
}

fn of_case(case: &Tested, width: usize, logs: bool, style: Style) -> String {
    let mark = match (case.passed(), case.is_blessed) {
        (true, false) => style.good("ok     "),
        (true, true) => style.good("blessed"),
        (false, _) => style.bad("FAILED "),
    };
    let mut text = format!("{mark}  {:<width$}  {}\n", case.name, style.faint(&show::printable(&case.about)));
    match &case.result {
        Ok(run) => {
            text += &show::verdict(&run.verdict, if case.is_blessed { BLESSED } else { CHECKED }, style);
            if logs {
                let lines = run.logs.iter();
                text.extend(lines.map(|l| format!("      row {} logs  {}\n", l.row, show::printable(&l.line))));
            }
        }
        Err(error) => text.extend(error.lines().map(|line| format!("      {}\n", show::printable(line)))),
    }
    text
}

/// How many passed, and the resource report.
fn foot(tested: &[Tested], workbench: &Workbench, style: Style) -> String {
    let passed = tested.iter().filter(|case| case.passed()).count();
    let failed = tested.len() - passed;
    let all = total(tested);
    let ran: Vec<(String, &Usage)> = tested
        .iter()
        .filter_map(|case| Some((case.name.clone(), &case.result.as_ref().ok()?.usage)))
        .filter(|(_, usage)| usage.rows > 0)
        .collect();
    let verdict = if failed == 0 {
        style.good(&format!("{passed} passed"))
    } else {
        style.bad(&format!("{failed} failed, {passed} passed"))
    };
    let mut text = format!("\n{verdict}\n");
    if !ran.is_empty() {
        let limits = show::limits(&all.of_limits(workbench.limits()), style);
        text += &format!("\n{}\n{limits}", show::usage(&ran, &all));
    }
    text
}

fn total(tested: &[Tested]) -> Usage {
    let mut all = Usage::default();
    tested.iter().filter_map(|case| case.result.as_ref().ok()).for_each(|run| all.add(&run.usage));
    all
}

fn as_json(loaded: &Loaded, name: &str, workbench: &Workbench, tested: &[Tested]) -> Value {
    let all = total(tested);
    let cases: Vec<Value> = tested
        .iter()
        .map(|case| {
            let mut answer = json!({"name": case.name, "passed": case.passed(), "blessed": case.is_blessed});
            match &case.result {
                Ok(run) => {
                    answer["differences"] = differences_json(&run.verdict);
                    answer["usage"] = usage_json(&run.usage);
                }
                Err(error) => answer["error"] = json!(error),
            }
            answer
        })
        .collect();
    json!({
        "plugin": name,
        "file": loaded.file,
        "sha256": loaded.plugin.digest_hex(),
        "bytes": loaded.plugin.wasm_bytes(),
        "passed": tested.iter().filter(|case| case.passed()).count(),
        "failed": tested.iter().filter(|case| !case.passed()).count(),
        "cases": cases,
        "usage": usage_json(&all),
        "limits": all.of_limits(workbench.limits()),
    })
}

fn differences_json(verdict: &Verdict) -> Value {
    match verdict {
        Verdict::Passed => json!([]),
        Verdict::Differs(differences) => differences
            .iter()
            .map(|difference| match difference {
                Difference::Value { row, out, column, expected, came_out, .. } => {
                    json!({"row": row, "out": out, "column": column, "expected": expected, "came_out": came_out})
                }
                Difference::Outcome { row, expected, came_out, message } => {
                    json!({"row": row, "expected": expected, "came_out": came_out, "message": message})
                }
            })
            .collect(),
        Verdict::Count { rows, expectations } => json!([{"rows": rows, "expectations": expectations}]),
        Verdict::DependsOnNeighbours { row, split, call, alone, beside } => {
            json!([{"row": row, "split": split, "rows": [call.start, call.end], "alone": alone, "beside": beside}])
        }
        Verdict::ConfigAccepted { expected } => json!([{"config_error": expected, "came_out": null}]),
        Verdict::ConfigRefused { expected, came_out } => json!([{"config_error": expected, "came_out": came_out}]),
    }
}

/// What rows cost, for machines.
pub fn usage_json(usage: &Usage) -> Value {
    json!({
        "rows": usage.rows,
        "calls": usage.calls,
        "fuel_per_row": usage.fuel_per_row(),
        "fuel_row_max": usage.fuel_row_max,
        "memory_bytes": usage.peak.memory_bytes,
        "output_bytes": usage.output_bytes,
        "log_lines": usage.log_lines,
    })
}

/// The file of a case to record, which must not be there yet.
fn record_path(dir: &Path, args: &RecordArgs, partition: u32, offset: u64, overwrite: bool) -> Result<PathBuf> {
    if args.limit == 0 || args.limit > CASE_ROWS_MAX {
        bail!("--limit {}: a case has 1 to {CASE_ROWS_MAX} rows", args.limit);
    }
    let name = args.name.clone().unwrap_or_else(|| format!("partition-{partition}-offset-{offset}"));
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
        bail!("--name {name}: it becomes the name of a file, without directory and ending");
    }
    let path = dir.join(format!("{name}.json"));
    if path.exists() && !overwrite {
        bail!("{} is there already: give another --name, or --bless to overwrite it", path.display());
    }
    Ok(path)
}

/// Decoded events of the log, before any transform, with personal data masked.
async fn samples(client: &Client, partition: u32, offset: u64, limit: usize) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    let mut from = offset;
    while rows.len() < limit {
        let page = (limit - rows.len()).min(PAGE_ROWS);
        let path = format!("/v1/samples?partition={partition}&from={from}&limit={page}");
        let mut answer = client.get(&path).await?;
        let read: Vec<Row> = serde_json::from_value(answer["rows"].take())
            .with_context(|| format!("{path} answered with something else than rows"))?;
        rows.extend(read);
        match answer["next"].as_u64() {
            Some(next) if next > from => from = next,
            _ => break,
        }
    }
    rows.truncate(limit);
    if rows.is_empty() {
        bail!("partition {partition} has no events from offset {offset} on");
    }
    Ok(rows)
}

fn record(
    args: &TestArgs,
    workbench: &Workbench,
    path: &Path,
    about: &str,
    rows: &[Row],
    json: bool,
) -> Result<ExitCode> {
    let loaded = Loaded::open(workbench, &args.file)?;
    let setup = Case { about: about.to_owned(), config_error: None, ..args.record.setup.setup()? };
    let name = loaded.name(workbench, Some(&setup));
    let recorded = workbench.record(&loaded.plugin, setup, rows);
    let (case, run) = recorded.with_context(|| args.file.display().to_string())?;
    let is_written = run.passed();
    if is_written {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        }
        save(&case, path)?;
    }
    let tested = [Tested { name: case_name(path), about: case.about, result: Ok(run), is_blessed: false }];
    let text = if json {
        let mut answer = as_json(&loaded, &name, workbench, &tested);
        answer["recorded"] = if is_written { json!(path) } else { Value::Null };
        format!("{answer}\n")
    } else {
        let written = format!("\nwritten to {}: read what it expects before you keep it\n", path.display());
        for_people(&loaded, &name, workbench, &tested, false) + if is_written { &written } else { "" }
    };
    print(&text)?;
    Ok(if is_written { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
