//! A host to run plugins in, by themselves.

use millrace_plugin_host::{
    Chain, ChainError, ChainStop, HostOptions, Limits, LoadError, Manifest, ManifestError, Plugin, PluginHost, StepSpec,
};
use millrace_rows::schema::AddedColumn;
use millrace_sdk::golden::Case;

use crate::case_run::{CaseRun, Verdict};
use crate::rows::{Input, RowsError};
use crate::tables;

/// Most rows of a case: it is a file that people read.
pub const CASE_ROWS_MAX: usize = 10_000;

/// Why a plugin could not be tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Its configuration is refused, or its manifest is not valid.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The lookup tables of the case are none.
    #[error("{0}")]
    Tables(String),
    /// It does not fit the columns that there are.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The rows are none that it could get.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// The host stopped and decided nothing.
    #[error("{}", stopped(.0))]
    Stop(#[from] ChainStop),
    /// More rows than [`CASE_ROWS_MAX`].
    #[error("{rows} rows are too many: a case has at most {CASE_ROWS_MAX}")]
    TooManyRows {
        /// How many.
        rows: usize,
    },
    /// There is nothing to run it on.
    #[error("there are no rows to run the plugin on")]
    NoRows,
    /// The plugin for comparison can't be made or run: a defect of the workbench.
    #[error("the empty plugin for comparison: {0}")]
    Empty(String),
}

/// With the guest's own words, which the host keeps out of its messages: here they are for the plugin's author.
fn stopped(stop: &ChainStop) -> String {
    match stop {
        ChainStop::Describe { message, .. } => format!("{stop}: {message}"),
        _ => stop.to_string(),
    }
}

/// A host to run plugins in by themselves, and their limits.
#[derive(Clone)]
pub struct Workbench {
    host: PluginHost,
    limits: Limits,
}

impl Workbench {
    /// Sets the host up. However many rows of a case fail, the host does not stop.
    ///
    /// # Errors
    /// As [`PluginHost::new`].
    pub fn new(options: HostOptions, limits: Limits) -> Result<Self, LoadError> {
        let host = PluginHost::new(HostOptions { bad_rows_max: usize::MAX, ..options })?;
        Ok(Self { host, limits })
    }

    /// The limits under which plugins are tried.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Checks and compiles a component.
    ///
    /// # Errors
    /// [`LoadError`] says what was refused and what to do.
    pub fn load(&self, wasm: &[u8]) -> Result<Plugin, LoadError> {
        self.host.load(wasm)
    }

    /// The manifest under the configuration and with the tables of `setup`, a case of which the rows don't matter.
    ///
    /// # Errors
    /// [`RunError::Manifest`], or [`RunError::Tables`].
    pub fn manifest(&self, plugin: &Plugin, setup: &Case) -> Result<Manifest, RunError> {
        Ok(plugin.manifest_with(&setup.config.to_string(), &self.limits, &tables::of(setup)?)?)
    }

    /// Runs one case: row by row, as one batch, in halves and at random splits.
    ///
    /// # Errors
    /// [`RunError`] when it can't be run. What differs is no error: it stands in the [`CaseRun`].
    pub fn run_case(&self, plugin: &Plugin, case: &Case) -> Result<CaseRun, RunError> {
        let manifest = self.manifest(plugin, case);
        if let Some(expected) = &case.config_error {
            let expected = expected.clone();
            return Ok(CaseRun::of_config(match manifest {
                Ok(_) => Verdict::ConfigAccepted { expected },
                Err(RunError::Manifest(refused)) if !matches!(refused, ManifestError::Host(_)) => {
                    let came_out = refused.to_string();
                    if came_out.contains(&expected) {
                        Verdict::Passed
                    } else {
                        Verdict::ConfigRefused { expected, came_out }
                    }
                }
                Err(error) => return Err(error),
            }));
        }
        let manifest = manifest?;
        if case.rows_in.len() > CASE_ROWS_MAX {
            return Err(RunError::TooManyRows { rows: case.rows_in.len() });
        }
        let input = Input::of_rows(&case.rows_in, &manifest.reads)?;
        let chain = self.chain(plugin, case, &input.added)?;
        CaseRun::run(&chain, &input.batch, case)
    }

    /// The plugin as the only step, behind steps that added `added`, with what `setup` gives it beside rows.
    pub(crate) fn chain(&self, plugin: &Plugin, setup: &Case, added: &[AddedColumn]) -> Result<Chain, RunError> {
        let step = StepSpec::new(plugin.clone(), setup.config.to_string(), self.limits.clone());
        let step = StepSpec { tables: tables::of(setup)?, ..step };
        Ok(Chain::after(&self.host, added.to_vec(), vec![step])?)
    }

    /// No step at all: what the host does with rows in any case.
    pub(crate) fn frame(&self, added: &[AddedColumn]) -> Result<Chain, ChainError> {
        Chain::after(&self.host, added.to_vec(), Vec::new())
    }
}
