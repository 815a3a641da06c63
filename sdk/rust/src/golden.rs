//! Golden cases: what a plugin makes of given rows, written down.
//!
//! A case is a JSON file; a plugin keeps its own in `cases/`, beside its sources. The same file is run natively by
//! `cargo test` and over the built component by the host, so this module knows no plugin and no runtime: it turns a
//! case into a batch and an answer into what the case expects, for anything that is a [`Plugin`].
//!
//! ```json
//! {
//!   "about": "one sentence on what is shown",
//!   "config": {"key": "value"},
//!   "rows_in": [{"ip": "203.0.113.77", "user_id": "u1"}, {"ip": "?"}, {}],
//!   "expect": [{"keep": [{"ip": "203.0.113.0"}]}, {"fail": "bad_ip"}, {"drop": "no_ip"}]
//! }
//! ```
//!
//! * `rows_in` has an object per row with the values of columns that the plugin reads; a column that is left out is
//!   null. What the engine never leaves null has a value then, the same natively and over the component: `event_time` and
//!   `received_at` are 0 (1970-01-01T00:00:00Z), `event_id` is `an-event` and `device_id` `a-device` ([`always`]). A null
//!   that is written there is refused.
//! * Text (JSON text too, byte for byte) is a string. Values of `event_time` and `received_at` are whole microseconds since
//!   1970 UTC, or RFC 3339 text: `"2026-11-22T10:00:00Z"`.
//! * `expect` has one entry per row in: `keep` with the rows that came out of it, `drop` or `fail` with the code. A row
//!   out lists the columns that the plugin writes or adds; a column that is left out is null, or still has the value that
//!   it had because it was left out of the row in. RFC 3339 text may stand for the value of any time column.
//! * `tables` has the lookup tables that the plugin asks for, by name: see [`CaseTable`].
//! * A case for a configuration that must be refused has `"config_error"`, a part of the message, and neither rows nor
//!   expectations.
//!
//! Each case is run as one batch, row by row and in two halves, and must give the same rows each time. With
//! `MILLRACE_BLESS=1` in the environment the expectations are overwritten by what came out.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::columns::{AddedColumn, Batch, Column, ColumnType, Manifest, Output, Returned, RowOutcome, Values};
use crate::{Instance, Transform};

mod given;
mod tables;

pub use given::{TIME_FORM, always, check_nulls, time_of};
pub use tables::{CaseTable, MemoryTables};

/// Values of a row by the names of their columns.
pub type Row = Map<String, Value>;

/// What becomes of one row in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expected {
    /// These rows come out.
    Keep(Vec<Row>),
    /// It is left out, with this code.
    Drop(String),
    /// It fails, with this code.
    Fail(String),
}

/// One case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows.
    #[serde(default)]
    pub about: String,
    /// The plugin's configuration.
    #[serde(default = "no_config")]
    pub config: Value,
    /// A part of the message by which the configuration is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_error: Option<String>,
    /// Lookup tables by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tables: BTreeMap<String, CaseTable>,
    /// Rows in.
    #[serde(default)]
    pub rows_in: Vec<Row>,
    /// What becomes of each.
    #[serde(default)]
    pub expect: Vec<Expected>,
}

fn no_config() -> Value {
    Value::Object(Map::new())
}

/// Anything that does what the boundary says: a native instance, or a component in a host.
pub trait Plugin {
    /// Gives it the lookup tables of the case that runs next.
    fn set_tables(&mut self, tables: &BTreeMap<String, CaseTable>) -> Result<(), String> {
        if tables.is_empty() { Ok(()) } else { Err("cases with lookup tables can't be run here".to_owned()) }
    }
    /// Configures it.
    fn describe(&mut self, config: &str) -> Result<Manifest, String>;
    /// Transforms one batch under the last configuration.
    fn transform(&mut self, batch: Batch) -> Result<Output, String>;
}

/// A [`Transform`] run natively.
#[derive(Debug)]
pub struct Native<T> {
    instance: Option<Instance<T>>,
    tables: Arc<MemoryTables>,
}

impl<T> Default for Native<T> {
    fn default() -> Self {
        Self { instance: None, tables: Arc::default() }
    }
}

impl<T: Transform> Plugin for Native<T> {
    fn set_tables(&mut self, tables: &BTreeMap<String, CaseTable>) -> Result<(), String> {
        self.tables = Arc::new(MemoryTables::new(tables)?);
        Ok(())
    }

    fn describe(&mut self, config: &str) -> Result<Manifest, String> {
        let instance = Instance::with_tables(config, self.tables.clone())?;
        let manifest = instance.manifest().clone();
        self.instance = Some(instance);
        Ok(manifest)
    }

    fn transform(&mut self, batch: Batch) -> Result<Output, String> {
        self.instance.as_ref().ok_or("not configured")?.transform(batch)
    }
}

/// Runs every case in `dir` natively and panics with what differs. For a plugin's own tests:
/// `millrace_sdk::golden::check::<Scrub>("cases")`, from where cargo runs them: the folder of the crate.
pub fn check<T: Transform>(dir: impl AsRef<Path>) {
    let bless = std::env::var_os("MILLRACE_BLESS").is_some_and(|value| value == "1");
    if let Err(error) = check_dir(dir.as_ref(), &mut Native::<T>::default(), bless) {
        panic!("{error}");
    }
}

/// Runs every case in `dir`, in the order of their names; with `bless` writes down what came out instead. The error
/// tells of all cases that differ. A directory without cases is an error too.
pub fn check_dir(dir: &Path, plugin: &mut dyn Plugin, bless: bool) -> Result<usize, String> {
    let paths = paths(dir)?;
    if paths.is_empty() {
        return Err(format!("{} holds no cases (*.json)", dir.display()));
    }
    let mut errors = Vec::new();
    for path in &paths {
        let result = Case::load(path).and_then(|case| {
            if bless && case.config_error.is_none() {
                let expect = case.run(plugin)?;
                return Case { expect, ..case }.save(path);
            }
            case.check(plugin)
        });
        if let Err(error) = result {
            errors.push(format!("{}: {error}", path.display()));
        }
    }
    if errors.is_empty() { Ok(paths.len()) } else { Err(errors.join("\n")) }
}

/// The case files in a directory, by name.
pub fn paths(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("{}: {error}", dir.display()))?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    Ok(paths)
}

impl Case {
    /// Reads a case file.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read(path).map_err(|error| error.to_string())?;
        serde_json::from_slice(&text).map_err(|error| format!("is no golden case: {error}"))
    }

    /// Writes a case file.
    pub fn save(&self, path: &Path) -> Result<(), String> {
        let mut text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        text.push('\n');
        std::fs::write(path, text).map_err(|error| error.to_string())
    }

    /// Runs the case and compares.
    pub fn check(&self, plugin: &mut dyn Plugin) -> Result<(), String> {
        if let Some(part) = &self.config_error {
            plugin.set_tables(&self.tables)?;
            return match plugin.describe(&self.config.to_string()) {
                Ok(_) => Err(format!("the configuration was accepted, expected an error with {part:?}")),
                Err(message) if message.contains(part) => Ok(()),
                Err(message) => Err(format!("the configuration was refused with {message:?}, expected {part:?}")),
            };
        }
        if self.expect.len() != self.rows_in.len() {
            return Err(format!("{} rows in, but {} expectations", self.rows_in.len(), self.expect.len()));
        }
        let manifest = self.describe(plugin)?;
        let outcomes = self.run_described(&manifest, plugin)?;
        for (row, (outcome, expected)) in outcomes.iter().zip(&self.expect).enumerate() {
            let expected = expected.plain(&self.rows_in[row], |column| is_time(&manifest, column));
            if *outcome != expected {
                return Err(format!("row {row}:\n  expected {expected}\n  came out {outcome}"));
            }
        }
        Ok(())
    }

    /// Runs the case as one batch, row by row and in halves; the error tells where these differ.
    pub fn run(&self, plugin: &mut dyn Plugin) -> Result<Vec<Expected>, String> {
        let manifest = self.describe(plugin)?;
        self.run_described(&manifest, plugin)
    }

    fn describe(&self, plugin: &mut dyn Plugin) -> Result<Manifest, String> {
        plugin.set_tables(&self.tables)?;
        let manifest = plugin.describe(&self.config.to_string());
        manifest.map_err(|message| format!("the configuration was refused: {message}"))
    }

    fn run_described(&self, manifest: &Manifest, plugin: &mut dyn Plugin) -> Result<Vec<Expected>, String> {
        let rows = self.rows_in.len();
        let mut transform = |ranges: &[Range<usize>]| -> Result<Vec<Expected>, String> {
            let mut outcomes = Vec::new();
            for range in ranges {
                let batch = batch_of(manifest, &self.rows_in, range.clone())?;
                let output = plugin
                    .transform(batch.clone())
                    .map_err(|message| format!("rows {range:?}: the call failed: {message}"))?;
                let came_out = outcomes_of(manifest, &batch, &output)?;
                let plain = |(outcome, row_in): (Expected, &Row)| outcome.plain(row_in, |_| false);
                outcomes.extend(came_out.into_iter().zip(&self.rows_in[range.clone()]).map(plain));
            }
            Ok(outcomes)
        };
        let whole = transform(std::slice::from_ref(&(0..rows)))?;
        let singly: Vec<_> = (0..rows).map(|row| row..row + 1).collect();
        for split in [&singly[..], &[0..rows / 2, rows / 2..rows]] {
            let apart = transform(split)?;
            if let Some(row) = (0..rows).find(|row| apart[*row] != whole[*row]) {
                return Err(format!(
                    "row {row} depends on its neighbours:\n  in one batch {}\n  split {}",
                    whole[row], apart[row]
                ));
            }
        }
        Ok(whole)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

/// The batch that a host would send for `rows`.
pub fn batch(manifest: &Manifest, rows: &[Row]) -> Result<Batch, String> {
    batch_of(manifest, rows, 0..rows.len())
}

/// The batch of some of the rows: the types of its columns are those of all.
fn batch_of(manifest: &Manifest, all: &[Row], range: Range<usize>) -> Result<Batch, String> {
    for row in all {
        if let Some(name) = row.keys().find(|name| !manifest.reads.contains(name)) {
            return Err(format!("rows_in has the column {name:?}, which the plugin does not read"));
        }
    }
    check_nulls(all)?;
    let columns = manifest.reads.iter().map(|name| {
        let unsaid = always(name);
        let given = |row| Row::get(row, name).filter(|value| !value.is_null());
        let values: Vec<Option<&Value>> = all.iter().map(|row| given(row).or(unsaid.as_ref())).collect();
        typed_column(name, type_of_column(name, &values), &values[range.clone()])
    });
    Ok(Batch { rows: range.len() as u32, columns: columns.collect::<Result<_, _>>()? })
}

/// The type of a column: a base column has its own even where all values are null; a column that an earlier step added and
/// that is null throughout passes for text.
fn type_of_column(name: &str, values: &[Option<&Value>]) -> ColumnType {
    match name {
        _ if is_base_time(name) => ColumnType::Timestamp,
        "time_suspect" => ColumnType::Bool,
        _ => type_of(values),
    }
}

fn is_base_time(column: &str) -> bool {
    matches!(column, "event_time" | "received_at")
}

/// Whether a column that comes out holds times.
fn is_time(manifest: &Manifest, column: &str) -> bool {
    let added = |added: &AddedColumn| added.name == column && added.ty == ColumnType::Timestamp;
    is_base_time(column) || manifest.adds.iter().any(added)
}

/// The type of values: text if there are none, int64 if all are whole numbers.
fn type_of(values: &[Option<&Value>]) -> ColumnType {
    match values.iter().flatten().next() {
        Some(Value::Bool(_)) => ColumnType::Bool,
        Some(Value::Number(_)) if values.iter().flatten().all(|value| value.is_i64()) => ColumnType::Int64,
        Some(Value::Number(_)) => ColumnType::Float64,
        _ => ColumnType::String,
    }
}

fn typed_column(name: &str, ty: ColumnType, values: &[Option<&Value>]) -> Result<Column, String> {
    let fault = |value: &Value| match ty {
        ColumnType::Timestamp => format!("column {name:?} can't hold {value}: {TIME_FORM}"),
        _ => format!("column {name:?} can't hold {value}"),
    };
    macro_rules! all {
        ($make:path, $as:expr) => {
            $make(
                values
                    .iter()
                    .map(|value| value.map(|value| $as(value).ok_or_else(|| fault(value))).transpose())
                    .collect::<Result<Vec<_>, _>>()?,
            )
        };
    }
    Ok(match ty {
        ColumnType::Timestamp => all!(Column::int64, time_of),
        ColumnType::Int64 => all!(Column::int64, Value::as_i64),
        ColumnType::Bool => all!(Column::bool, Value::as_bool),
        ColumnType::Float64 => all!(Column::float64, Value::as_f64),
        ColumnType::String => all!(Column::text, Value::as_str),
    })
}

/// What became of each row of `batch`. The error tells where `output` breaks the contract.
pub fn outcomes_of(manifest: &Manifest, batch: &Batch, output: &Output) -> Result<Vec<Expected>, String> {
    let rows = batch.rows as usize;
    let names: Vec<&String> = manifest.writes.iter().chain(manifest.adds.iter().map(|column| &column.name)).collect();
    if output.columns.len() != names.len() {
        return Err(format!("{} columns came out, the manifest has {}", output.columns.len(), names.len()));
    }
    let mut outcomes: Vec<Option<Expected>> = vec![None; rows];
    let dropped = output.dropped.iter().map(|outcome| (outcome, true));
    let failed = output.failed.iter().map(|outcome| (outcome, false));
    for (RowOutcome { row, code }, is_drop) in dropped.chain(failed) {
        let outcome = outcomes.get_mut(*row as usize).ok_or_else(|| format!("there is no row {row}"))?;
        let code = manifest.codes.get(*code as usize).ok_or_else(|| format!("there is no code {code}"))?.clone();
        let now = if is_drop { Expected::Drop(code) } else { Expected::Fail(code) };
        if outcome.replace(now).is_some() {
            return Err(format!("row {row} was left out twice"));
        }
    }
    let sources: Vec<u32> = output.sources.clone().unwrap_or_else(|| (0..batch.rows).collect());
    if !sources.is_sorted() {
        return Err("the sources of the rows out are not in order".to_owned());
    }
    for (out, source) in sources.iter().enumerate() {
        let mut row = Row::new();
        for (at, (name, returned)) in names.iter().zip(&output.columns).enumerate() {
            let value = match returned {
                Returned::Column(column) if column.rows() != sources.len() => {
                    return Err(format!("column {name:?} has {} values for {} rows", column.rows(), sources.len()));
                }
                Returned::Column(column) => value(column, out)?,
                Returned::Unchanged if at < manifest.writes.len() && output.sources.is_none() => {
                    let sent = manifest.reads.iter().position(|read| read == *name);
                    match sent.and_then(|sent| batch.columns.get(sent)) {
                        Some(column) => value(column, out)?,
                        None => return Err(format!("column {name:?} is unchanged, but was not sent")),
                    }
                }
                Returned::Unchanged => return Err(format!("column {name:?} can't be unchanged here")),
            };
            if !value.is_null() {
                row.insert((*name).clone(), value);
            }
        }
        match outcomes.get_mut(*source as usize) {
            None => return Err(format!("there is no row {source}")),
            Some(Some(Expected::Keep(rows))) => rows.push(row),
            Some(outcome @ None) => *outcome = Some(Expected::Keep(vec![row])),
            Some(Some(_)) => return Err(format!("row {source} was left out, and came out")),
        }
    }
    outcomes
        .into_iter()
        .enumerate()
        .map(|(row, outcome)| outcome.ok_or_else(|| format!("row {row} neither came out nor was left out")))
        .collect()
}

fn value(column: &Column, row: usize) -> Result<Value, String> {
    if !column.is_valid(row) {
        return Ok(Value::Null);
    }
    Ok(match &column.values {
        Values::Text(_) => column.str(row).map(Value::from).ok_or("text out is not UTF-8")?,
        Values::Int64(values) => values[row].into(),
        Values::Float64(values) => values[row].into(),
        Values::Bool(values) => (values[row] != 0).into(),
    })
}
