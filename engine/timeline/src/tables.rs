//! Lookup tables in the catalogue: versions of a name, 1, 2, 3 …, each immutable.

use std::fmt;

use millrace_keyspace::{Batch, Compare, KeyspaceError, Write};
use millrace_rows::schema::AddedColumn;
use serde::{Deserialize, Serialize};

use crate::catalogue::{Catalogue, CatalogueError, from_json, hex_sha256, to_json};
use crate::chain::ChainSpec;

/// A table by name, version and content.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableRef {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// SHA-256 of the stored bytes.
    pub sha256: String,
}

impl fmt::Display for TableRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// What the catalogue knows of a table beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableEntry {
    /// SHA-256 of the stored bytes.
    pub sha256: String,
    /// Their number.
    pub bytes: u64,
    /// Rows of the table.
    pub rows: u64,
    /// Its columns.
    pub columns: Vec<AddedColumn>,
    /// How rows are found, as the tables' crate defines it.
    pub lookup: serde_json::Value,
    /// Who uploaded it.
    pub uploader: String,
    /// When, µs since 1970 UTC.
    pub stored_at_us: i64,
}

impl Catalogue {
    /// Stores a table as the next version of its name. What is the newest version already is not stored again.
    pub async fn put_table(
        &self,
        name: &str,
        stored: &[u8],
        entry: TableEntry,
    ) -> Result<(TableRef, TableEntry), CatalogueError> {
        let sha256 = hex_sha256(stored);
        let entry = TableEntry { sha256: sha256.clone(), bytes: stored.len() as u64, ..entry };
        let mut has_blob = false;
        loop {
            let newest = self.table(name, None).await?;
            let version = match newest {
                Some((newest, known)) if newest.sha256 == sha256 => return Ok((newest, known)),
                Some((newest, _)) => newest.version + 1,
                None => 1,
            };
            if !has_blob {
                self.put_blob(&sha256, stored).await?;
                has_blob = true;
            }
            let key = self.key(&("table", name, version));
            let batch = Batch {
                compares: vec![Compare { key: key.clone(), expected: None }],
                writes: vec![Write::Put(key, to_json(&entry)?)],
            };
            match self.keyspace().commit(batch).await {
                // Another upload got the number.
                Err(KeyspaceError::Conflict { .. }) => {}
                other => {
                    other?;
                    return Ok((TableRef { name: name.to_owned(), version, sha256 }, entry));
                }
            }
        }
    }

    /// A version of a table, or the newest.
    pub async fn table(
        &self,
        name: &str,
        version: Option<u32>,
    ) -> Result<Option<(TableRef, TableEntry)>, CatalogueError> {
        let found = self.tables_named(Some(name)).await?;
        Ok(found.into_iter().rev().find(|(table, _)| version.is_none_or(|version| table.version == version)))
    }

    /// Every version of every table.
    pub async fn tables(&self) -> Result<Vec<(TableRef, TableEntry)>, CatalogueError> {
        self.tables_named(None).await
    }

    async fn tables_named(&self, name: Option<&str>) -> Result<Vec<(TableRef, TableEntry)>, CatalogueError> {
        let space = match name {
            Some(name) => self.space.subspace(&("table", name)),
            None => self.space.subspace(&("table",)),
        };
        let pairs = self.scan(&space).await?;
        pairs
            .iter()
            .map(|(key, value)| {
                let (_, name, version): (String, String, u32) = self.unpack(key)?;
                let entry: TableEntry = from_json(value, "table")?;
                Ok((TableRef { name, version, sha256: entry.sha256.clone() }, entry))
            })
            .collect()
    }

    /// The stored bytes of a table, checked against their digest.
    pub async fn table_bytes(&self, table: &TableRef) -> Result<Vec<u8>, CatalogueError> {
        self.blob(&table.sha256).await?.ok_or_else(|| CatalogueError::NoSuchTable(table.to_string()))
    }

    /// Deletes a version of a table that no revision refers to.
    ///
    /// # Errors
    /// [`CatalogueError::InUse`] names the revisions that refer to it.
    pub async fn delete_table(&self, name: &str, version: u32) -> Result<(), CatalogueError> {
        let what = format!("{name}@{version}");
        let uses = |chain: &ChainSpec| {
            let mut tables = chain.steps.iter().flat_map(|step| &step.tables);
            tables.any(|table| table.name == name && table.version == version)
        };
        let key = self.key(&("table", name, version));
        match self.delete_unused(key, &what, uses).await? {
            Some(stored) => self.drop_blob(&from_json::<TableEntry>(&stored, "table")?.sha256).await,
            None => Err(CatalogueError::NoSuchTable(what)),
        }
    }
}
