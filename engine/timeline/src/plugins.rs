//! The plugin registry: components under name and version, each immutable once stored.

use bytes::Bytes;
use millrace_keyspace::{Batch, Compare, KeyspaceError, Write};
use serde::{Deserialize, Serialize};

use crate::catalogue::{Catalogue, CatalogueError, from_json, hex_sha256, to_json};
use crate::chain::{ChainSpec, PluginName, PluginRef};

/// Largest plugin that the catalogue takes, in bytes.
pub const PLUGIN_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What the catalogue knows of a plugin beside its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginEntry {
    /// SHA-256 of the component.
    pub sha256: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was stored, µs since 1970 UTC.
    pub stored_at_us: i64,
    /// Who stored it.
    #[serde(default)]
    pub uploader: String,
    /// Its manifest under the configuration that it was tried with, as the plugin host defines it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<serde_json::Value>,
    /// What the trial at its upload measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<serde_json::Value>,
    /// Why no new chain should use it; chains that do go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<String>,
}

impl Catalogue {
    /// Stores a plugin under its name and version; storing the same bytes again changes nothing. `entry` is completed with
    /// digest and size.
    ///
    /// # Errors
    /// [`CatalogueError::PluginDiffers`] when the name and version exist with other bytes.
    pub async fn put_plugin(
        &self,
        name: &str,
        version: &str,
        wasm: &[u8],
        entry: PluginEntry,
    ) -> Result<PluginRef, CatalogueError> {
        if wasm.len() > PLUGIN_BYTES_MAX {
            return Err(CatalogueError::PluginTooLarge(wasm.len()));
        }
        let sha256 = hex_sha256(wasm);
        let plugin = PluginRef { name: name.to_owned(), version: version.to_owned(), sha256: sha256.clone() };
        let same = |stored: PluginEntry| {
            if stored.sha256 == plugin.sha256 {
                return Ok(plugin.clone());
            }
            Err(CatalogueError::PluginDiffers {
                name: plugin.name.clone(),
                version: plugin.version.clone(),
                stored: stored.sha256,
            })
        };
        if let Some(stored) = self.plugin(name, version).await? {
            return same(stored);
        }
        self.put_blob(&sha256, wasm).await?;
        let pointer = self.key(&("plugin", name, version));
        let entry = PluginEntry { sha256, bytes: wasm.len() as u64, ..entry };
        let batch = Batch {
            compares: vec![Compare { key: pointer.clone(), expected: None }],
            writes: vec![Write::Put(pointer, to_json(&entry)?)],
        };
        match self.keyspace().commit(batch).await {
            // Another writer was first: with the same bytes, or not.
            Err(KeyspaceError::Conflict { .. }) => match self.plugin(name, version).await? {
                Some(stored) => same(stored),
                None => Err(CatalogueError::NoSuchPlugin(plugin.to_string())),
            },
            other => Ok(other.map(|()| plugin)?),
        }
    }

    /// What is known of a plugin.
    pub async fn plugin(&self, name: &str, version: &str) -> Result<Option<PluginEntry>, CatalogueError> {
        self.get(&("plugin", name, version), "plugin").await
    }

    /// Every plugin, by name and version.
    pub async fn plugins(&self) -> Result<Vec<(PluginName, PluginEntry)>, CatalogueError> {
        let pairs = self.scan(&self.space.subspace(&("plugin",))).await?;
        pairs
            .iter()
            .map(|(key, value)| {
                let (_, name, version): (String, String, String) = self.unpack(key)?;
                Ok((PluginName { name, version }, from_json(value, "plugin")?))
            })
            .collect()
    }

    /// The bytes of a plugin, checked against its digest.
    pub async fn plugin_bytes(&self, plugin: &PluginRef) -> Result<Vec<u8>, CatalogueError> {
        self.blob(&plugin.sha256).await?.ok_or_else(|| CatalogueError::NoSuchPlugin(plugin.to_string()))
    }

    /// Says that no new chain should use a plugin, and why; `None` takes it back.
    pub async fn deprecate_plugin(
        &self,
        plugin: &PluginName,
        reason: Option<String>,
    ) -> Result<PluginEntry, CatalogueError> {
        let key = self.key(&("plugin", plugin.name.as_str(), plugin.version.as_str()));
        let Some(stored) = self.keyspace().get(&key).await? else {
            return Err(CatalogueError::NoSuchPlugin(plugin.to_string()));
        };
        let entry = PluginEntry { deprecated: reason, ..from_json(&stored, "plugin")? };
        let batch = Batch {
            compares: vec![Compare { key: key.clone(), expected: Some(stored) }],
            writes: vec![Write::Put(key, to_json(&entry)?)],
        };
        self.keyspace().commit(batch).await?;
        Ok(entry)
    }

    /// Deletes a plugin that no revision refers to.
    ///
    /// # Errors
    /// [`CatalogueError::InUse`] names the revisions that refer to it.
    pub async fn delete_plugin(&self, plugin: &PluginName) -> Result<(), CatalogueError> {
        let uses = |chain: &ChainSpec| {
            chain.steps.iter().any(|step| step.plugin.name == plugin.name && step.plugin.version == plugin.version)
        };
        let key = self.key(&("plugin", plugin.name.as_str(), plugin.version.as_str()));
        let Some(stored) = self.delete_unused(key, &plugin.to_string(), uses).await? else {
            return Err(CatalogueError::NoSuchPlugin(plugin.to_string()));
        };
        let entry: PluginEntry = from_json(&stored, "plugin")?;
        self.drop_blob(&entry.sha256).await
    }

    /// Deletes a pointer that no revision refers to, and gives what stood there. The blob that it points to stays.
    pub(crate) async fn delete_unused(
        &self,
        key: Bytes,
        what: &str,
        uses: impl Fn(&ChainSpec) -> bool,
    ) -> Result<Option<Bytes>, CatalogueError> {
        let Some(stored) = self.keyspace().get(&key).await? else { return Ok(None) };
        let timeline = self.timeline().await?;
        let revisions: Vec<u64> =
            timeline.revisions().iter().filter(|revision| uses(&revision.chain)).map(|revision| revision.id).collect();
        if !revisions.is_empty() {
            return Err(CatalogueError::InUse { what: what.to_owned(), revisions });
        }
        // No revision may be appended on the way: it could refer to this.
        let next = self.key(&("revision", timeline.head() + 1));
        let batch = Batch {
            compares: vec![
                Compare { key: next, expected: None },
                Compare { key: key.clone(), expected: Some(stored.clone()) },
            ],
            writes: vec![Write::Delete(key)],
        };
        self.keyspace().commit(batch).await?;
        Ok(Some(stored))
    }
}
