//! A chain of steps: type-checked when it is built, then run over batches.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use millrace_rows::ColumnType;
use millrace_rows::schema::{AddedColumn, BASE, row_schema};
use serde::{Deserialize, Serialize};

use crate::error::{ChainError, ChainProblem, ChainStop};
use crate::host::PluginHost;
use crate::lift::Expected;
use crate::limits::Limits;
use crate::manifest::Manifest;
use crate::output::ChainOutput;
use crate::plugin::Plugin;
use crate::run::Run;
use crate::tables::Tables;

/// Most steps of a chain.
pub const STEPS_MAX: usize = 64;
/// Most columns that the steps of a chain may add together.
pub const ADDED_COLUMNS_MAX: usize = 256;

/// One step, as a revision pins it.
#[derive(Clone)]
pub struct StepSpec {
    /// What runs.
    pub plugin: Plugin,
    /// Its configuration, a JSON document; `{}` where there is none.
    pub config: String,
    /// Its limits.
    pub limits: Limits,
    /// What a row that fails does.
    pub on_error: OnError,
    /// The lookup tables that it may ask for.
    pub tables: Tables,
}

/// What a step does with a row that fails. There is no way to let it pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The row's record becomes a dead letter.
    #[default]
    DeadLetter,
    /// The chain stops and nothing is decided, until somebody has looked.
    Halt,
}

impl StepSpec {
    /// A step without lookup tables that makes dead letters of rows that fail.
    pub fn new(plugin: Plugin, config: impl Into<String>, limits: Limits) -> Self {
        Self { plugin, config: config.into(), limits, on_error: OnError::default(), tables: Tables::default() }
    }
}

impl fmt::Debug for StepSpec {
    /// Leaves the configuration out: secrets are filled in by now.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepSpec").field("plugin", &self.plugin).field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// A chain that is known to fit together. It runs on any number of threads at once.
#[derive(Clone, Debug)]
pub struct Chain {
    steps: Vec<Step>,
    manifests: Vec<Manifest>,
    added: Vec<AddedColumn>,
    input: SchemaRef,
    schema: SchemaRef,
    bad_rows_max: usize,
}

/// A step with its columns resolved to places in the working row: the base columns, then the added ones.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) name: Arc<str>,
    pub(crate) spec: StepSpec,
    pub(crate) reads: Vec<(usize, ColumnType)>,
    pub(crate) writes: Vec<usize>,
    /// What a call returns: the written columns, then the added ones.
    pub(crate) expected: Vec<Expected>,
    pub(crate) codes: Vec<Arc<str>>,
}

impl Chain {
    /// Asks every plugin for its manifest and checks that each finds what it reads and writes.
    ///
    /// # Errors
    /// [`ChainError`] names the step and what is wrong with it.
    pub fn new(host: &PluginHost, specs: Vec<StepSpec>) -> Result<Self, ChainError> {
        Self::after(host, Vec::new(), specs)
    }

    /// A piece of a chain: its batches have, behind the base columns, the columns that steps before it added. For trying a
    /// step by itself.
    ///
    /// # Errors
    /// As [`Chain::new`].
    pub fn after(host: &PluginHost, added: Vec<AddedColumn>, specs: Vec<StepSpec>) -> Result<Self, ChainError> {
        let input = output_schema(&added);
        let mut columns = Columns { added };
        let mut steps = Vec::with_capacity(specs.len());
        let mut manifests = Vec::with_capacity(specs.len());
        for (index, spec) in specs.into_iter().enumerate() {
            let unnamed = |problem: ChainProblem| ChainError {
                index,
                step: format!("plugin {}", &spec.plugin.digest_hex()[..12]),
                problem,
            };
            if index == STEPS_MAX {
                return Err(unnamed(ChainProblem::Columns(format!("a chain has at most {STEPS_MAX} steps"))));
            }
            if !Arc::ptr_eq(&host.inner, &spec.plugin.host().inner) {
                return Err(unnamed(ChainProblem::Columns("the plugin was loaded by another host".to_owned())));
            }
            let manifest = spec.plugin.manifest_with(&spec.config, &spec.limits, &spec.tables);
            let manifest = manifest.map_err(|e| unnamed(e.into()))?;
            if let Some(table) = manifest.tables.iter().find(|table| !spec.tables.is_loaded(table)) {
                let problem = format!("it needs the lookup table {table:?}, which is not there");
                return Err(ChainError { index, step: manifest.step_name(), problem: ChainProblem::Columns(problem) });
            }
            let resolved = columns.apply(&manifest).map_err(|problem| ChainError {
                index,
                step: manifest.step_name(),
                problem: ChainProblem::Columns(problem),
            })?;
            steps.push(Step {
                name: manifest.step_name().into(),
                spec,
                reads: resolved.reads,
                writes: resolved.writes,
                expected: resolved.expected,
                codes: manifest.codes.iter().map(|code| code.as_str().into()).collect(),
            });
            manifests.push(manifest);
        }
        let added = columns.added;
        let schema = output_schema(&added);
        Ok(Self { steps, manifests, added, input, schema, bad_rows_max: host.options().bad_rows_max })
    }

    /// The same chain under tighter bounds: for a trial, which must end soon whatever the plugins do. It may fail rows that
    /// the chain itself would not.
    pub fn bounded(&self, fuel_max: u64, bad_rows_max: usize) -> Self {
        let mut chain = self.clone();
        chain.bad_rows_max = chain.bad_rows_max.min(bad_rows_max);
        for step in &mut chain.steps {
            step.spec.limits.fuel = step.spec.limits.fuel.min(fuel_max);
        }
        chain
    }

    /// The columns that the chain adds, in the order in which its steps do.
    pub fn added(&self) -> Vec<AddedColumn> {
        self.added.clone()
    }

    /// `name@version` of each step.
    pub fn step_names(&self) -> Vec<String> {
        self.steps.iter().map(|step| step.name.to_string()).collect()
    }

    /// The manifests, to be pinned in a revision.
    pub fn manifests(&self) -> &[Manifest] {
        &self.manifests
    }

    /// Schema of [`ChainOutput::rows`]: [`row_schema`] without the revision.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// Runs a decoded batch of one partition, in log order, through all steps and the host's checks.
    ///
    /// It blocks: give it a thread that may. What it decides about a record depends on that record alone, so the outputs
    /// of any split of a batch, put together, are the output of the whole. `bad_rows_max` is the exception, and it only
    /// stops.
    ///
    /// # Errors
    /// [`ChainStop`]: nothing of the batch was decided, and the caller pauses or tries again.
    pub fn run(&self, batch: RecordBatch) -> Result<ChainOutput, ChainStop> {
        let mut run = Run::new(&batch, &self.input, self.bad_rows_max)?;
        for step in &self.steps {
            run.step(step)?;
        }
        run.finish(&self.schema)
    }
}

fn output_schema(added: &[AddedColumn]) -> SchemaRef {
    let mut fields = row_schema(added).fields().to_vec();
    // The revision is the last; it is the caller's to fill.
    fields.pop();
    Arc::new(Schema::new(fields))
}

/// The columns at a point of the chain.
struct Columns {
    added: Vec<AddedColumn>,
}

struct Resolved {
    reads: Vec<(usize, ColumnType)>,
    writes: Vec<usize>,
    expected: Vec<Expected>,
}

impl Columns {
    /// Place, type and whether a plugin may write it.
    fn find(&self, name: &str) -> Option<(usize, ColumnType, bool)> {
        let base = BASE.iter().position(|column| column.name == name);
        base.map(|index| (index, BASE[index].ty, BASE[index].writable)).or_else(|| {
            let index = self.added.iter().position(|column| column.name == name)?;
            Some((BASE.len() + index, self.added[index].ty, true))
        })
    }

    fn apply(&mut self, manifest: &Manifest) -> Result<Resolved, String> {
        let known = |name: &String, what: &str| {
            self.find(name).ok_or_else(|| match millrace_rows::schema::find(name) {
                Some(_) => {
                    format!("it {what} {name:?}, which is the host's own: no row may depend on its place in the log")
                }
                None => format!("it {what} column {name:?}, which is no event column and which no step before it adds"),
            })
        };
        let reads = manifest
            .reads
            .iter()
            .map(|name| known(name, "reads").map(|(index, ty, _)| (index, ty)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut writes = Vec::with_capacity(manifest.writes.len());
        let mut expected = Vec::with_capacity(manifest.writes.len() + manifest.adds.len());
        for name in &manifest.writes {
            let (index, ty, writable) = known(name, "writes")?;
            if !writable {
                return Err(format!("it writes column {name:?}, which no plugin may change"));
            }
            writes.push(index);
            expected.push(Expected { ty, added: false });
        }
        for column in &manifest.adds {
            if self.find(&column.name).is_some() {
                return Err(format!("it adds column {:?}, which a step before it has added", column.name));
            }
            expected.push(Expected { ty: column.ty, added: true });
        }
        self.added.extend(manifest.adds.iter().cloned());
        if self.added.len() > ADDED_COLUMNS_MAX {
            return Err(format!("the chain adds more than {ADDED_COLUMNS_MAX} columns with it"));
        }
        Ok(Resolved { reads, writes, expected })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(reads: &[&str], writes: &[&str], adds: &[&str]) -> Manifest {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Manifest {
            name: "p".into(),
            version: "1.0.0".into(),
            reads: names(reads),
            writes: names(writes),
            adds: adds.iter().map(|n| AddedColumn { name: (*n).into(), ty: ColumnType::Int64 }).collect(),
            tables: Vec::new(),
            codes: Vec::new(),
        }
    }

    #[test]
    fn columns_of_earlier_steps_are_found_with_their_types() {
        let mut columns = Columns { added: Vec::new() };
        columns.apply(&manifest(&["ip"], &["event_time"], &["score"])).unwrap();
        let resolved = columns.apply(&manifest(&["score"], &["score"], &["rank"])).unwrap();
        assert_eq!(resolved.reads, [(BASE.len(), ColumnType::Int64)]);
        assert_eq!(resolved.writes, [BASE.len()]);
        let names: Vec<_> = columns.added.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["score", "rank"]);
        let schema = output_schema(&columns.added);
        let last: Vec<_> = schema.fields().iter().rev().take(5).map(|f| f.name().as_str()).collect();
        assert_eq!(last, ["_sub", "_offset", "_partition", "rank", "score"]);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        for (manifest, word) in [
            (manifest(&["score"], &[], &[]), "reads column \"score\""),
            (manifest(&["_offset"], &[], &[]), "host's own"),
            (manifest(&[], &["event_id"], &[]), "no plugin may change"),
            (manifest(&[], &["received_at"], &[]), "no plugin may change"),
            (manifest(&[], &["_sub"], &[]), "host's own"),
            (manifest(&[], &[], &["seen"]), "has added"),
        ] {
            let mut columns = Columns { added: vec![AddedColumn { name: "seen".into(), ty: ColumnType::Bool }] };
            let error = columns.apply(&manifest).err().unwrap();
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}
