//! Chains ready to run, by revision.

use std::sync::Arc;

use millrace_plugin_host::{Chain, ChainError, Limits, LoadError, OnError, PluginHost, StepSpec};
use millrace_timeline::chain::SEMANTICS_VERSION;
use millrace_timeline::{Catalogue, CatalogueError, ChainSpec, Revision};
use quick_cache::sync::Cache;

use crate::secrets::{SecretError, Secrets};
use crate::tables::{LoadedTables, TablesError};
use crate::transform::Candidate;

/// Most chains kept ready at a time. A revision that is needed again is built again, from the artifact on disk.
const CHAINS_MAX: usize = 64;

/// Why a chain can't run.
#[derive(Debug, thiserror::Error)]
pub enum ChainBuildError {
    /// The catalogue could not give a plugin.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// A plugin can't be loaded.
    #[error("plugin {plugin}: {error}")]
    Load {
        /// The plugin.
        plugin: String,
        /// What is wrong with it.
        error: LoadError,
    },
    /// The steps do not fit together.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A secret that the configuration names is not there.
    #[error("plugin {plugin}: {error}")]
    Secret {
        /// The plugin.
        plugin: String,
        /// Which secret.
        error: SecretError,
    },
    /// The revision was made by a build with other semantics.
    #[error(
        "the chain was pinned under semantics version {0}, this build has version {SEMANTICS_VERSION}: rows would differ; \
         use the build that made it, or activate the chain anew"
    )]
    Semantics(u32),
    /// A lookup table can't be had.
    #[error("plugin {plugin}: {error}")]
    Table {
        /// The plugin.
        plugin: String,
        /// What is wrong.
        error: TablesError,
    },
    /// Pinned limits that this build can't read.
    #[error("plugin {plugin}: limits: {detail}")]
    Limits {
        /// The plugin.
        plugin: String,
        /// What is wrong.
        detail: String,
    },
}

/// Builds chains from the catalogue and keeps those in use.
pub struct Chains {
    catalogue: Catalogue,
    host: Arc<PluginHost>,
    secrets: Secrets,
    ready: Cache<u64, Arc<Chain>>,
    tables: LoadedTables,
}

impl Chains {
    /// Chains of the plugins in `catalogue`, run by `host`.
    pub fn new(catalogue: Catalogue, host: Arc<PluginHost>, secrets: Secrets) -> Self {
        Self { catalogue, host, secrets, ready: Cache::new(CHAINS_MAX), tables: LoadedTables::default() }
    }

    /// The chain of a revision.
    pub async fn get(&self, revision: &Revision) -> Result<Arc<Chain>, ChainBuildError> {
        let chain = self.ready.get_or_insert_async(&revision.id, self.build(&revision.chain)).await;
        if let Err(ChainBuildError::Table { error: TablesError::Memory { .. }, .. }) = &chain {
            // Chains that nobody has asked for of late may hold the memory.
            self.ready.clear();
            return self.ready.get_or_insert_async(&revision.id, self.build(&revision.chain)).await;
        }
        chain
    }

    /// A revision with its chain, ready to run.
    pub(crate) async fn candidate(&self, revision: &Revision) -> Result<Candidate, ChainBuildError> {
        let chain = self.get(revision).await?;
        Ok(Candidate { revision: revision.id, filter: revision.filter.clone(), chain })
    }

    pub(crate) fn tables(&self) -> &LoadedTables {
        &self.tables
    }

    /// Loads the plugins of a chain and checks that its steps fit together.
    pub async fn build(&self, spec: &ChainSpec) -> Result<Arc<Chain>, ChainBuildError> {
        if spec.semantics != SEMANTICS_VERSION {
            return Err(ChainBuildError::Semantics(spec.semantics));
        }
        let mut loads = Vec::with_capacity(spec.steps.len());
        for step in &spec.steps {
            let plugin = step.plugin.to_string();
            let limits: Limits = serde_json::from_value(step.limits.clone())
                .map_err(|error| ChainBuildError::Limits { plugin: plugin.clone(), detail: error.to_string() })?;
            let config = self
                .secrets
                .resolve(&step.config)
                .map_err(|error| ChainBuildError::Secret { plugin: plugin.clone(), error })?;
            let tables = self.tables.of_step(&self.catalogue, &step.tables).await;
            let tables = tables.map_err(|error| ChainBuildError::Table { plugin: plugin.clone(), error })?;
            let on_error = if step.halts { OnError::Halt } else { OnError::DeadLetter };
            loads.push((plugin, self.catalogue.plugin_bytes(&step.plugin).await?, config, limits, on_error, tables));
        }
        let host = self.host.clone();
        let built = tokio::task::spawn_blocking(move || {
            let mut steps = Vec::with_capacity(loads.len());
            for (plugin, wasm, config, limits, on_error, tables) in loads {
                let loaded = host.load(&wasm).map_err(|error| ChainBuildError::Load { plugin, error })?;
                steps.push(StepSpec { plugin: loaded, config, limits, on_error, tables });
            }
            Ok(Arc::new(Chain::new(&host, steps)?))
        });
        // A panic of the compiler must not take the engine with it: it is an error of this plugin.
        built.await.unwrap_or_else(|panic| {
            Err(ChainBuildError::Load { plugin: "chain".into(), error: LoadError::Host { message: panic.to_string() } })
        })
    }
}
