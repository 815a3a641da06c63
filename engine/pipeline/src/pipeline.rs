//! The chain that a deployment asks for, and how it comes into force.

use std::path::PathBuf;

use millrace_plugin_host::Limits;
use millrace_timeline::chain::PluginName;
use millrace_timeline::{ChainSpec, Kind, Ranges, Revision, SEMANTICS_VERSION, StepSpec, Timeline};
use serde_json::{Value, json};

use crate::chains::{ChainBuildError, Chains};
use crate::engine::{Engine, EngineError};
use crate::stock;

/// Name of the secret that the stock chain hashes with.
pub const PII_SECRET: &str = "pii@1";

/// Where a step's plugin comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginSource {
    /// A stock plugin, or one that the catalogue holds.
    Named(PluginName),
    /// A component on disk; stored in the catalogue under the name and version that it gives itself.
    File(PathBuf),
}

/// A step as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepSource {
    /// The plugin.
    pub plugin: PluginSource,
    /// Its configuration. Secrets as `{"$secret": "name@version"}`.
    pub config: Value,
    /// Its limits.
    pub limits: Limits,
}

impl Engine {
    /// Brings the pipeline that was asked for into force, if another one is: as revision 1 in a new deployment, else as
    /// an activation from the log's present end on.
    pub(crate) async fn activate_configured(&self, pipeline: Option<Vec<StepSource>>) -> Result<(), EngineError> {
        let stock = self.store_stock_plugins().await?;
        let timeline = self.timeline.borrow().clone();
        let (steps, author) = match pipeline {
            Some(steps) => (steps, "configuration"),
            None if timeline.head() > 0 => return self.check_in_force(&timeline).await,
            None => {
                self.secrets.ensure(PII_SECRET)?;
                (stock_chain(&stock)?, "default")
            }
        };
        let mut specs = Vec::with_capacity(steps.len());
        for (index, step) in steps.into_iter().enumerate() {
            specs.push(self.pin(step).await.map_err(|error| match error {
                EngineError::Step { detail, .. } => EngineError::Step { step: index + 1, detail },
                other => EngineError::Step { step: index + 1, detail: other.to_string() },
            })?);
        }
        let chain = ChainSpec { semantics: SEMANTICS_VERSION, steps: specs };
        let in_force = timeline.in_force(timeline.head(), u32::MAX, u64::MAX);
        if in_force.is_some_and(|revision| revision.chain == chain) {
            return self.check_in_force(&timeline).await;
        }
        // Before it is in force, it must be one that can run.
        self.build_chain(&chain).await?;
        let ranges = match timeline.head() {
            0 => Ranges::everything(),
            _ => Ranges::from_ends(self.log_ends().await?),
        };
        let revision = Revision {
            id: timeline.head() + 1,
            kind: Kind::Activate,
            ranges,
            chain,
            author: author.to_owned(),
            reason: "pipeline at start".to_owned(),
            created_at_us: (self.clock)(),
        };
        self.catalogue.append(&revision).await?;
        tracing::info!(revision = revision.id, "a new chain is in force");
        self.timeline.send_replace(std::sync::Arc::new(self.catalogue.timeline().await?));
        Ok(())
    }

    /// A chain in force that can't run stops the loops one by one; it is better said at the start.
    async fn check_in_force(&self, timeline: &Timeline) -> Result<(), EngineError> {
        if let Some(revision) = timeline.in_force(timeline.head(), u32::MAX, u64::MAX) {
            self.build_chain(&revision.chain).await?;
        }
        Ok(())
    }

    async fn build_chain(&self, chain: &ChainSpec) -> Result<(), ChainBuildError> {
        Chains::new(self.catalogue.clone(), self.host.clone(), self.secrets.clone()).build(chain).await.map(drop)
    }

    /// Puts the stock plugins of this build into the catalogue and gives their names.
    async fn store_stock_plugins(&self) -> Result<Vec<PluginName>, EngineError> {
        let mut names = Vec::with_capacity(stock::ALL.len());
        for plugin in stock::ALL {
            names.push(self.store_plugin(plugin.wasm.to_vec(), plugin.config).await?);
        }
        Ok(names)
    }

    /// Stores a component under the name and version that it gives itself.
    async fn store_plugin(&self, wasm: Vec<u8>, config: &str) -> Result<PluginName, EngineError> {
        let host = self.host.clone();
        let config = self.secrets.resolve(config)?;
        let described = tokio::task::spawn_blocking(move || {
            let plugin = host.load(&wasm).map_err(|error| error.to_string())?;
            let manifest = plugin.manifest(&config, &Limits::default()).map_err(|error| error.to_string())?;
            Ok::<_, String>((manifest, wasm))
        });
        let described = described.await.unwrap_or_else(|panic| Err(panic.to_string()));
        let (manifest, wasm) = described.map_err(|detail| EngineError::Step { step: 0, detail })?;
        self.catalogue.put_plugin(&manifest.name, &manifest.version, &wasm, (self.clock)()).await?;
        Ok(PluginName { name: manifest.name, version: manifest.version })
    }

    /// Pins a step: plugin by content, configuration as text, limits in full.
    async fn pin(&self, step: StepSource) -> Result<StepSpec, EngineError> {
        let wrong = |detail: String| EngineError::Step { step: 0, detail };
        let name = match step.plugin {
            PluginSource::Named(name) => name,
            PluginSource::File(path) => {
                let wasm =
                    tokio::fs::read(&path).await.map_err(|error| wrong(format!("{}: {error}", path.display())))?;
                self.store_plugin(wasm, &step.config.to_string()).await?
            }
        };
        let entry = self.catalogue.plugin(&name.name, &name.version).await?;
        let entry = entry.ok_or_else(|| {
            wrong(format!("no plugin {}@{} in the catalogue; give its file as wasm = \"…\"", name.name, name.version))
        })?;
        let plugin = millrace_timeline::PluginRef { name: name.name, version: name.version, sha256: entry.sha256 };
        let limits = serde_json::to_value(&step.limits).map_err(|error| wrong(error.to_string()))?;
        Ok(StepSpec { plugin, config: step.config.to_string(), limits })
    }
}

/// The chain of a new deployment: the scrubber first, so that nothing behind it sees what it removes, then what the user
/// agent tells.
fn stock_chain(stock: &[PluginName]) -> Result<Vec<StepSource>, EngineError> {
    let steps = [("pii-scrub", json!({"key": {"$secret": PII_SECRET}})), ("enrich-user-agent", json!({}))];
    (1..)
        .zip(steps)
        .map(|(step, (name, config))| {
            let plugin = stock.iter().find(|plugin| plugin.name == name).cloned();
            let plugin = plugin
                .ok_or_else(|| EngineError::Step { step, detail: format!("this build has no stock plugin {name}") })?;
            Ok(StepSource { plugin: PluginSource::Named(plugin), config, limits: Limits::default() })
        })
        .collect()
}
