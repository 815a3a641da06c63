//! A case of rows that exist.

use millrace_plugin_host::Plugin;
use millrace_sdk::golden::{Case, Row};

use crate::case_run::{CaseRun, Verdict};
use crate::rows::project;
use crate::workbench::{CASE_ROWS_MAX, RunError, Workbench};

impl Workbench {
    /// Makes a case of `rows`, projected on the columns that the plugin reads, under the setup of `case`: the expectations
    /// are what comes out. Where rows depend on their neighbours there is nothing to expect, and the verdict says so.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn record(&self, plugin: &Plugin, case: Case, rows: &[Row]) -> Result<(Case, CaseRun), RunError> {
        if rows.len() > CASE_ROWS_MAX {
            return Err(RunError::TooManyRows { rows: rows.len() });
        }
        let reads = self.manifest(plugin, &case)?.reads;
        let mut case = Case { rows_in: project(rows, &reads), ..case };
        case.expect = Vec::new();
        let mut run = self.run_case(plugin, &case)?;
        if matches!(run.verdict, Verdict::Count { .. }) {
            case.expect = run.became();
            run.verdict = Verdict::Passed;
        }
        Ok((case, run))
    }
}
