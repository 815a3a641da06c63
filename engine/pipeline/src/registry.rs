//! The plugin registry: a plugin is checked, compiled, described and tried before it is stored.

use millrace_plugin_host::{Chain, ChainError, Limits, LoadError, Manifest, ManifestError, Plugin, StepSpec, Tables};
use millrace_rows::schema::{self, check_added_name};
use millrace_timeline::chain::PluginName;
use millrace_timeline::{CatalogueError, PluginEntry, TableRef};
use serde_json::Value;

use crate::engine::Engine;
use crate::secrets::SecretError;
use crate::tables::TablesError;
use crate::trial::{self, TrialError};

/// Why a plugin was refused.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It is no plugin, or one that can't run here.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It has no manifest under the configuration that it was sent with.
    #[error("{0} (a plugin is tried with the configuration that is sent with it)")]
    Manifest(ManifestError),
    /// It can't be a step of any chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The trial failed.
    #[error("the trial failed: {0}")]
    Trial(#[from] TrialError),
    /// A lookup table that it needs is not there.
    #[error("it needs the lookup table {0:?}: upload that first")]
    NoTable(String),
    /// A table could not be loaded.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// A secret that the configuration names.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The catalogue, or a plugin of the same name and version with other bytes.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// A defect.
    #[error("internal error: {0}")]
    Internal(String),
}

/// A plugin that was stored.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// Its name and version, as it gives them itself.
    pub plugin: PluginName,
    /// What is known of it.
    pub entry: PluginEntry,
    /// Whether it is new; else it was there before, byte for byte.
    pub is_new: bool,
}

impl Engine {
    /// Checks, compiles, describes and tries a plugin, and stores it under the name and version that it gives itself.
    ///
    /// `config` is the configuration of the trial: one under which the plugin describes itself. Secrets stand in it by
    /// name.
    ///
    /// # Errors
    /// [`RegistryError`] says what was refused and what to do. Nothing is stored then.
    pub async fn upload_plugin(
        &self,
        wasm: Vec<u8>,
        config: &Value,
        uploader: &str,
    ) -> Result<Uploaded, RegistryError> {
        // One at a time: compiling takes memory, and deletions must not come between.
        let _one = self.registry.lock().await;
        let config = self.secrets.resolve(&config.to_string())?;
        let columns = self.table_columns(&Default::default()).await?;
        let host = self.host.clone();
        let described = blocking({
            let config = config.clone();
            move || {
                let plugin = host.load(&wasm)?;
                let manifest =
                    plugin.manifest_with(&config, &Limits::default(), &columns).map_err(RegistryError::Manifest)?;
                Ok((plugin, manifest, wasm))
            }
        });
        let (plugin, manifest, wasm) = described.await?;
        let name = PluginName { name: manifest.name.clone(), version: manifest.version.clone() };
        if let Some(stored) = self.catalogue.plugin(&name.name, &name.version).await? {
            // What it is, decides; it is not tried again.
            if stored.sha256 == plugin.digest_hex() {
                return Ok(Uploaded { plugin: name, entry: stored, is_new: false });
            }
            let PluginName { name, version } = name;
            return Err(CatalogueError::PluginDiffers { name, version, stored: stored.sha256 }.into());
        }
        let tables = self.newest_tables(&manifest).await?;
        let trial = self.try_alone(plugin, config, &manifest, tables).await?;
        let entry = PluginEntry {
            sha256: String::new(),
            bytes: 0,
            stored_at_us: (self.clock)(),
            uploader: uploader.to_owned(),
            manifest: serde_json::to_value(&manifest).ok(),
            trial: trial.and_then(|report| serde_json::to_value(report).ok()),
            deprecated: None,
        };
        self.catalogue.put_plugin(&name.name, &name.version, &wasm, entry).await?;
        tracing::info!(plugin = %name, uploader, "stored a plugin");
        let entry = self.catalogue.plugin(&name.name, &name.version).await?;
        let entry = entry.ok_or_else(|| RegistryError::Internal(format!("{name} is gone")))?;
        Ok(Uploaded { plugin: name, entry, is_new: true })
    }

    /// The newest versions of the tables that a manifest names.
    async fn newest_tables(&self, manifest: &Manifest) -> Result<Tables, RegistryError> {
        let mut refs: Vec<TableRef> = Vec::new();
        for table in &manifest.tables {
            let newest = self.catalogue.table(table, None).await?;
            refs.push(newest.ok_or_else(|| RegistryError::NoTable(table.clone()))?.0);
        }
        Ok(self.processor().chains().tables().of_step(&self.catalogue, &refs).await?)
    }

    /// Runs a plugin as the only step of a chain. A plugin that reads what steps before it add can't be run alone: it is
    /// tried with the chain that it becomes a part of.
    async fn try_alone(
        &self,
        plugin: Plugin,
        config: String,
        manifest: &Manifest,
        tables: Tables,
    ) -> Result<Option<trial::TrialReport>, RegistryError> {
        let of_others = |name: &String| schema::find(name).is_none() && check_added_name(name).is_ok();
        if manifest.reads.iter().chain(&manifest.writes).any(of_others) {
            return Ok(None);
        }
        let (host, decoder) = (self.host.clone(), self.processor().decoder().clone());
        let report = blocking(move || {
            let step = StepSpec { tables, ..StepSpec::new(plugin, config, Limits::default()) };
            let chain = Chain::new(&host, vec![step])?;
            Ok(trial::run(&chain, &decoder)?)
        });
        report.await.map(Some)
    }

    /// Says that no new chain should use a plugin, or takes that back.
    ///
    /// # Errors
    /// When there is no such plugin.
    pub async fn deprecate_plugin(
        &self,
        plugin: &PluginName,
        reason: Option<String>,
    ) -> Result<PluginEntry, CatalogueError> {
        let _one = self.registry.lock().await;
        self.catalogue.deprecate_plugin(plugin, reason).await
    }

    /// Deletes a plugin that no revision refers to.
    ///
    /// # Errors
    /// [`CatalogueError::InUse`] names the revisions.
    pub async fn delete_plugin(&self, plugin: &PluginName) -> Result<(), CatalogueError> {
        let _one = self.registry.lock().await;
        self.catalogue.delete_plugin(plugin).await
    }
}

/// Runs work that blocks. A panic of the compiler must not take the engine with it: it is an error of this plugin.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(RegistryError::Internal(panic.to_string())))
}
