//! Lookup tables: uploads, and the loaded tables that chains share.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use millrace_plugin_host::{BoundTable, Tables};
use millrace_tables::{Table, TableError, Upload};
use millrace_timeline::{Catalogue, CatalogueError, TableEntry, TableRef};
use tokio::sync::Mutex;

use crate::engine::Engine;

/// Most memory of all loaded tables together, in bytes.
pub const TABLES_MEMORY_BYTES_MAX: usize = 1 << 30;

/// Why a table was not stored, loaded or deleted.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// The name is none.
    #[error("{0:?} is no table name: use 1 to 64 characters of a-z 0-9 - _, starting with a letter")]
    Name(String),
    /// The table itself.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The catalogue.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// Too much is loaded.
    #[error(
        "table {table} needs {needs} bytes of memory and {loaded} are loaded for other chains: the limit is \
         {TABLES_MEMORY_BYTES_MAX}"
    )]
    Memory {
        /// The table.
        table: String,
        /// What it needs.
        needs: usize,
        /// What is loaded already.
        loaded: usize,
    },
    /// A defect.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Tables that some chain uses, each loaded once.
#[derive(Default)]
pub(crate) struct LoadedTables(Mutex<HashMap<String, Weak<Table>>>);

impl LoadedTables {
    /// The tables of a step, by name.
    pub(crate) async fn of_step(&self, catalogue: &Catalogue, refs: &[TableRef]) -> Result<Tables, TablesError> {
        let mut tables = Vec::with_capacity(refs.len());
        for table in refs {
            tables.push((table.name.clone(), BoundTable::Loaded(self.get(catalogue, table).await?)));
        }
        Ok(tables.into_iter().collect())
    }

    async fn get(&self, catalogue: &Catalogue, table: &TableRef) -> Result<Arc<Table>, TablesError> {
        // Held over the loading: whoever needs the same table waits for it instead of loading it again.
        let mut loaded = self.0.lock().await;
        if let Some(table) = loaded.get(&table.sha256).and_then(Weak::upgrade) {
            return Ok(table);
        }
        let stored = catalogue.table_bytes(table).await?;
        let opened = tokio::task::spawn_blocking(move || Table::open(stored.into()));
        let opened = opened.await.map_err(|panic| TablesError::Internal(panic.to_string()))??;
        loaded.retain(|_, table| table.strong_count() > 0);
        let others: usize = loaded.values().filter_map(Weak::upgrade).map(|table| table.memory_bytes()).sum();
        if others + opened.memory_bytes() > TABLES_MEMORY_BYTES_MAX {
            let (table, needs) = (table.to_string(), opened.memory_bytes());
            return Err(TablesError::Memory { table, needs, loaded: others });
        }
        let opened = Arc::new(opened);
        loaded.insert(table.sha256.clone(), Arc::downgrade(&opened));
        Ok(opened)
    }
}

/// Whether a table may have this name.
pub(crate) fn check_name(name: &str) -> Result<(), TablesError> {
    let legal = (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    if legal { Ok(()) } else { Err(TablesError::Name(name.to_owned())) }
}

impl Engine {
    /// Reads an upload and stores it as the next version of a name; what is the newest version already changes nothing.
    ///
    /// # Errors
    /// [`TablesError`] says what does not fit, without a value of the table.
    pub async fn upload_table(
        &self,
        name: &str,
        upload: Upload,
        uploader: &str,
    ) -> Result<(TableRef, TableEntry), TablesError> {
        check_name(name)?;
        let _one = self.registry.lock().await;
        let read = tokio::task::spawn_blocking(move || {
            let table = Table::from_upload(&upload)?;
            let stored = table.to_stored()?;
            Ok::<_, TableError>((table, stored))
        });
        let (table, stored) = read.await.map_err(|panic| TablesError::Internal(panic.to_string()))??;
        let lookup = serde_json::to_value(table.lookup()).map_err(|error| TablesError::Internal(error.to_string()))?;
        let entry = TableEntry {
            sha256: String::new(),
            bytes: 0,
            rows: table.rows() as u64,
            columns: table.columns().to_vec(),
            lookup,
            uploader: uploader.to_owned(),
            stored_at_us: (self.clock)(),
        };
        Ok(self.catalogue.put_table(name, &stored, entry).await?)
    }

    /// Deletes a version of a table that no revision refers to.
    ///
    /// # Errors
    /// [`CatalogueError::InUse`] names the revisions.
    pub async fn delete_table(&self, name: &str, version: u32) -> Result<(), TablesError> {
        let _one = self.registry.lock().await;
        Ok(self.catalogue.delete_table(name, version).await?)
    }

    /// The columns of every table, at its newest version or the one that `versions` names: enough for `describe`.
    pub(crate) async fn table_columns(&self, versions: &BTreeMap<String, u32>) -> Result<Tables, CatalogueError> {
        let mut columns: BTreeMap<String, BoundTable> = BTreeMap::new();
        // In the order of their versions: the newest stands last.
        for (table, entry) in self.catalogue.tables().await? {
            if versions.get(&table.name).is_none_or(|version| *version == table.version) {
                columns.insert(table.name, BoundTable::Columns(entry.columns));
            }
        }
        Ok(columns.into_iter().collect())
    }
}
