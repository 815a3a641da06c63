//! The lookup tables of a case, as the host has them.

use std::sync::Arc;

use millrace_plugin_host::{BoundTable, Tables};
use millrace_sdk::golden::{Case, CaseTable, MemoryTables};
use millrace_sdk::tables::Tables as _;
use millrace_tables::{Format, Lookup, Table, Upload};

use crate::workbench::RunError;

/// The tables of a case, with the types that they have natively.
pub(crate) fn of(case: &Case) -> Result<Tables, RunError> {
    let memory = MemoryTables::new(&case.tables).map_err(RunError::Tables)?;
    let tables = case.tables.iter().map(|(name, table)| {
        let refused = |error: String| RunError::Tables(format!("lookup table {name:?}: {error}"));
        let columns = memory.columns(name).unwrap_or_default();
        let types = columns.into_iter().map(|column| Ok((column.name, column.ty.to_string().parse()?)));
        let types = types.collect::<Result<_, String>>().map_err(refused)?;
        let lookup = lookup(table).map_err(refused)?;
        let upload = Upload { bytes: table.to_ndjson().into(), format: Format::Ndjson, lookup, types };
        let table = Table::from_upload(&upload).map_err(|error| refused(error.to_string()))?;
        Ok((name.clone(), BoundTable::Loaded(Arc::new(table))))
    });
    tables.collect()
}

fn lookup(table: &CaseTable) -> Result<Lookup, String> {
    match (&table.key, &table.cidr) {
        (Some(key), None) => Ok(Lookup::Key(key.clone())),
        (None, Some(cidr)) => Ok(Lookup::Cidr(cidr.clone())),
        _ => Err("give either \"key\" or \"cidr\", the column that is looked up".to_owned()),
    }
}
