//! The chain that is asked for, and how it comes into force.
//!
//! ```text
//! StepSource … ── pin ── ChainSpec ── check ── begin (where? hold slices back from there) ── append ── done
//! ```
//!
//! Everything that can be wrong with a chain is found before the append; a chain that is refused leaves the one in force as
//! it was. An activation begins at the log's end of the moment, and slices under earlier revisions do not pass that place,
//! so no store ever has to do anything again: it takes in the revision when it comes there, or earlier.

use std::collections::BTreeMap;
use std::path::PathBuf;

use millrace_log::LogError;
use millrace_plugin_host::{Chain, Limits, LoadError, Manifest, OnError};
use millrace_rows::ColumnType;
use millrace_timeline::chain::PluginName;
use millrace_timeline::{
    CatalogueError, ChainSpec, Filter, Kind, PluginRef, Ranges, Revision, SEMANTICS_VERSION, StepSpec, TableRef,
    Timeline,
};
use serde_json::{Value, json};

use crate::chains::ChainBuildError;
use crate::engine::{Engine, EngineError};
use crate::processor::ActivationStart;
use crate::registry::RegistryError;
use crate::secrets::SecretError;
use crate::trial::{self, TrialError};
use crate::{status, stock};

/// Most bytes of the reason that a revision is given.
pub const REASON_BYTES_MAX: usize = 1000;

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
#[derive(Clone, Debug, PartialEq)]
pub struct StepSource {
    /// The plugin.
    pub plugin: PluginSource,
    /// Its configuration. Secrets as `{"$secret": "name@version"}`.
    pub config: Value,
    /// Its limits.
    pub limits: Limits,
    /// What a row that it fails does.
    pub on_error: OnError,
    /// Versions of its lookup tables, by name; the newest of those that are not named.
    pub tables: BTreeMap<String, u32>,
}

impl StepSource {
    /// A step with limits and the rest at their defaults.
    pub fn new(plugin: PluginSource, config: Value) -> Self {
        Self { plugin, config, limits: Limits::default(), on_error: OnError::default(), tables: BTreeMap::new() }
    }
}

/// What an operator asks of every chain.
#[derive(Clone, Debug, Default)]
pub struct PipelinePolicy {
    /// Plugins that must be in it, as `name` or `name@version`.
    pub required: Vec<String>,
    /// The most that a step may be given of each limit. Default: the defaults of [`Limits`], memory four times that.
    pub limits_max: Option<Limits>,
}

/// Why a chain does not come into force. The one in force stays.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// A step that can't be.
    #[error("pipeline step {step}: {detail}")]
    Step {
        /// Which, counted from 1.
        step: usize,
        /// What is wrong with it.
        detail: String,
    },
    /// A step that must be there is not.
    #[error("the operator requires {0} in every chain, and this one is without it")]
    Required(String),
    /// The trial failed.
    #[error("the trial of the chain failed: {0}")]
    Trial(#[from] TrialError),
    /// There is no such revision to go back to.
    #[error("there is no revision {0}")]
    NoRevision(u64),
    /// Nothing was activated before the chain that is in force.
    #[error("no chain was activated before the present one; name a revision")]
    NoPrevious,
    /// A start that only a chain that stands can have.
    #[error("an activation from the first unseen record needs a chain that is paused: pause it first")]
    NotPaused,
    /// Another activation was first.
    #[error("another chain came into force at the same time: look at it and try again")]
    Conflict,
    /// The chain can't be built.
    #[error(transparent)]
    Chain(#[from] ChainBuildError),
    /// The catalogue.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// A secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A defect.
    #[error("internal error: {0}")]
    Internal(String),
}

impl PipelineError {
    /// Whether another revision came first: look at the timeline again.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict)
    }

    /// Whether whoever asked is to mend it.
    pub fn is_bad_request(&self) -> bool {
        match self {
            Self::Step { .. } | Self::Required(_) | Self::Trial(_) | Self::Secret(_) => true,
            Self::Chain(error) => !matches!(
                error,
                ChainBuildError::Catalogue(_) | ChainBuildError::Load { error: LoadError::Host { .. }, .. }
            ),
            Self::Catalogue(error) => matches!(
                error,
                CatalogueError::NoSuchPlugin(_)
                    | CatalogueError::NoSuchTable(_)
                    | CatalogueError::RevisionTooLarge(_)
                    | CatalogueError::GroupTooLarge { .. }
            ),
            _ => false,
        }
    }
}

/// A chain to bring into force.
#[derive(Clone, Debug)]
pub struct Activation {
    /// The chain.
    pub chain: ChainSpec,
    /// Who asks.
    pub author: String,
    /// Why, in their words.
    pub reason: String,
    /// Where it begins.
    pub start: ActivationStart,
}

/// What came of an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activated {
    /// The revision in force.
    pub revision: u64,
    /// Whether it is new; else a chain that does the same was in force already.
    pub is_new: bool,
}

impl Engine {
    /// Brings the pipeline of the configuration into force, if another one is: as revision 1 in a new deployment, else as
    /// an activation.
    pub(crate) async fn activate_configured(&self, pipeline: Option<Vec<StepSource>>) -> Result<(), EngineError> {
        let stock = self.store_stock_plugins().await?;
        let timeline = self.timeline.borrow().clone();
        let (steps, author) = match pipeline {
            Some(steps) => (steps, "configuration"),
            None if timeline.head() > 0 => return Ok(self.check_in_force(&timeline).await?),
            None => {
                self.secrets.ensure(PII_SECRET)?;
                (stock_chain(&stock)?, "default")
            }
        };
        let activation = Activation {
            chain: self.pin_chain(steps).await?,
            author: author.to_owned(),
            reason: "pipeline at start".to_owned(),
            start: ActivationStart::End,
        };
        // The same chain is no activation, which would end a correction that reaches ahead of the log: that is for people.
        if timeline.current().is_some_and(|now| now.chain.does_the_same_as(&activation.chain)) {
            self.check_chain(&activation.chain).await?;
        } else if self.activate(activation).await?.is_new {
            return Ok(());
        }
        Ok(self.check_in_force(&timeline).await?)
    }

    /// The revision in force for what comes next.
    pub fn in_force(&self) -> Option<Revision> {
        let timeline = self.timeline.borrow();
        timeline.current().cloned()
    }

    /// A chain in force that can't run stops the loops one by one; it is better said at the start.
    async fn check_in_force(&self, timeline: &Timeline) -> Result<(), PipelineError> {
        if let Some(revision) = timeline.current() {
            self.processor().chains().build(&revision.chain).await?;
        }
        Ok(())
    }

    /// The chain of an earlier revision, to be brought into force once more.
    ///
    /// # Errors
    /// When there is no such revision.
    pub fn chain_of(&self, revision: u64) -> Result<ChainSpec, PipelineError> {
        let timeline = self.timeline.borrow();
        timeline.get(revision).map(|found| found.chain.clone()).ok_or(PipelineError::NoRevision(revision))
    }

    /// The activation before the last one.
    ///
    /// # Errors
    /// When there is none.
    pub fn previous_activation(&self) -> Result<u64, PipelineError> {
        let found = self.timeline.borrow().previous_activation().map(|revision| revision.id);
        found.ok_or(PipelineError::NoPrevious)
    }

    /// Checks a chain in every way and appends it to the timeline, without stopping anything. A chain that does the same as
    /// the one in force is not appended again, unless a correction reaches ahead of the log's end: this ends it there.
    ///
    /// # Errors
    /// [`PipelineError`] says what is wrong with it and where; the chain in force stays in force.
    pub async fn activate(&self, activation: Activation) -> Result<Activated, PipelineError> {
        let _one = self.activation.lock().await;
        let Activation { chain, author, reason, start } = activation;
        if start == ActivationStart::Unseen && self.processor().pause().get().is_none() {
            return Err(PipelineError::NotPaused);
        }
        // Before the check: another worker's revision that comes meanwhile makes the append fail, not the check be of yesterday.
        let timeline = self.timeline.borrow().clone();
        let head = timeline.head();
        self.check_chain(&chain).await?;
        if let Some(in_force) = timeline.current()
            && in_force.chain.does_the_same_as(&chain)
            && start == ActivationStart::End
            && status::ahead(&timeline, status::ends(&**self.log()).await?).is_empty()
        {
            return Ok(Activated { revision: in_force.id, is_new: false });
        }
        let (starts, activating) = self.processor().begin_activation(head, start, &self.furthest_cursors()).await?;
        let ranges = if head == 0 { Ranges::everything() } else { Ranges::from_ends(starts) };
        let revision = Revision {
            id: head + 1,
            kind: Kind::Activate,
            ranges,
            chain,
            author,
            reason,
            filter: Filter::default(),
            group: None,
            created_at_us: (self.clock)(),
        };
        let appended = self.catalogue.append(&revision).await;
        // After an error, too: another writer was first, or it is not known whether this one was.
        let reloaded = self.reload_timeline().await;
        drop(activating);
        match appended {
            // In force it is, whether or not the timeline can be read just now.
            Ok(()) => reloaded.or_else(|_| self.extend_timeline(std::slice::from_ref(&revision)))?,
            // Its outcome was not known: it did happen.
            Err(_) if reloaded.is_ok() && self.timeline.borrow().has(std::slice::from_ref(&revision)) => {}
            Err(CatalogueError::RevisionExists(_)) => return Err(PipelineError::Conflict),
            Err(error) => return Err(error.into()),
        }
        tracing::info!(revision = revision.id, author = revision.author, "a new chain is in force");
        Ok(Activated { revision: revision.id, is_new: true })
    }

    /// Takes the timeline as the catalogue has it.
    pub(crate) async fn reload_timeline(&self) -> Result<(), CatalogueError> {
        let timeline = self.catalogue.timeline().await?;
        if timeline.head() > self.timeline.borrow().head() {
            self.timeline.send_replace(std::sync::Arc::new(timeline));
        }
        Ok(())
    }

    /// Adds what was appended to the timeline that is known here, where it could not be read.
    pub(crate) fn extend_timeline(&self, appended: &[Revision]) -> Result<(), CatalogueError> {
        let known = self.timeline.borrow().clone();
        // Whoever follows the catalogue may have read it meanwhile.
        if !known.has(appended) {
            let timeline = Timeline::new([known.revisions(), appended].concat())?;
            self.timeline.send_replace(std::sync::Arc::new(timeline));
        }
        Ok(())
    }

    /// Where the store that has come furthest stands, by partition.
    fn furthest_cursors(&self) -> BTreeMap<u32, u64> {
        let mut furthest = BTreeMap::new();
        for store in self.progress().snapshot().values() {
            for (partition, progress) in &store.partitions {
                let next = furthest.entry(*partition).or_insert(0);
                *next = progress.next.max(*next);
            }
        }
        furthest
    }

    /// Everything that can be wrong with a chain: the operator's rules, its steps among themselves, and its columns beside
    /// those that the stores have.
    pub(crate) async fn check_chain(&self, spec: &ChainSpec) -> Result<(), PipelineError> {
        for required in &self.policy.required {
            let meets = |plugin: &PluginRef| plugin.name == *required || plugin.to_string() == *required;
            if !spec.steps.iter().any(|step| meets(&step.plugin)) {
                return Err(PipelineError::Required(required.clone()));
            }
        }
        let chain = self.processor().chains().build(spec).await?;
        self.check_column_types(&chain)?;
        let decoder = self.processor().decoder().clone();
        let tried = tokio::task::spawn_blocking(move || trial::run(&chain, &decoder));
        tried.await.map_err(|panic| PipelineError::Internal(panic.to_string()))??;
        Ok(())
    }

    /// A column keeps its type for ever: the stores hold rows of earlier chains.
    fn check_column_types(&self, chain: &Chain) -> Result<(), PipelineError> {
        let mut known: BTreeMap<String, (ColumnType, u64)> = BTreeMap::new();
        for revision in self.timeline.borrow().revisions() {
            for manifest in revision.chain.steps.iter().filter_map(manifest_of) {
                for column in manifest.adds {
                    known.entry(column.name).or_insert((column.ty, revision.id));
                }
            }
        }
        for (step, manifest) in (1..).zip(chain.manifests()) {
            for column in &manifest.adds {
                match known.get(&column.name) {
                    Some((ty, revision)) if *ty != column.ty => {
                        let detail = format!(
                            "{} adds column {:?} as {}, and revision {revision} had it as {ty}: the stores hold rows of \
                             that type; give the column another name",
                            manifest.step_name(),
                            column.name,
                            column.ty
                        );
                        return Err(PipelineError::Step { step, detail });
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Puts the stock plugins of this build into the catalogue and gives their names. A plugin of the same bytes is there
    /// already and costs nothing; one that an earlier build brought under the same version, with the bytes of another
    /// compiler, stays as it is: chains pin it.
    async fn store_stock_plugins(&self) -> Result<Vec<PluginName>, PipelineError> {
        let mut names = Vec::with_capacity(stock::ALL.len());
        for plugin in stock::ALL {
            let config =
                serde_json::from_str(plugin.config).map_err(|error| PipelineError::Internal(error.to_string()))?;
            let uploaded = self.upload_plugin(plugin.wasm.to_vec(), &config, "millrace").await;
            names.push(match uploaded {
                Ok(uploaded) => uploaded.plugin,
                Err(RegistryError::Catalogue(CatalogueError::PluginDiffers { name, version, .. })) => {
                    tracing::info!(name, version, "the stock plugin of an earlier build stays");
                    PluginName { name, version }
                }
                Err(error) => return Err(not_stored(0, error)),
            });
        }
        Ok(names)
    }

    /// Pins a chain: plugins and tables by content, configurations as text, limits in full, manifests as they are now.
    ///
    /// # Errors
    /// [`PipelineError::Step`] says which step is wrong, and how.
    pub async fn pin_chain(&self, steps: Vec<StepSource>) -> Result<ChainSpec, PipelineError> {
        let mut specs = Vec::with_capacity(steps.len());
        for (number, step) in (1..).zip(steps) {
            specs.push(self.pin(number, step).await?);
        }
        Ok(ChainSpec { semantics: SEMANTICS_VERSION, steps: specs })
    }

    async fn pin(&self, number: usize, step: StepSource) -> Result<StepSpec, PipelineError> {
        let wrong = |detail: String| PipelineError::Step { step: number, detail };
        let name = match step.plugin {
            PluginSource::Named(name) => name,
            PluginSource::File(path) => {
                let wasm = tokio::fs::read(&path).await.map_err(|e| wrong(format!("{}: {e}", path.display())))?;
                let uploaded = self.upload_plugin(wasm, &step.config, "configuration").await;
                uploaded.map_err(|error| not_stored(number, error))?.plugin
            }
        };
        let entry = self.catalogue.plugin(&name.name, &name.version).await?;
        let entry = entry.ok_or_else(|| {
            wrong(format!("there is no plugin {name} in the catalogue: upload it, or give its file as wasm = \"…\""))
        })?;
        if let Some(reason) = &entry.deprecated {
            tracing::warn!(plugin = %name, reason, "a chain uses a deprecated plugin");
        }
        check_ceiling(&step.limits, self.policy.limits_max.as_ref()).map_err(wrong)?;
        let plugin = PluginRef { name: name.name, version: name.version, sha256: entry.sha256 };
        let config = step.config.to_string();
        let manifest = self.describe(number, &plugin, &config, &step.limits, &step.tables).await?;
        let mut tables: Vec<TableRef> = Vec::with_capacity(manifest.tables.len());
        for table in &manifest.tables {
            let found = self.catalogue.table(table, step.tables.get(table).copied()).await?;
            let found = found.ok_or_else(|| match step.tables.get(table) {
                Some(version) => wrong(format!("there is no version {version} of lookup table {table:?}")),
                None => wrong(format!("{plugin} needs the lookup table {table:?}, which is not there: upload it")),
            })?;
            tables.push(found.0);
        }
        if let Some(table) = step.tables.keys().find(|name| !manifest.tables.contains(name)) {
            return Err(wrong(format!("{plugin} does not use a lookup table {table:?}")));
        }
        let as_value = |value: Result<Value, serde_json::Error>| value.map_err(|error| wrong(error.to_string()));
        Ok(StepSpec {
            plugin,
            config,
            limits: as_value(serde_json::to_value(&step.limits))?,
            halts: step.on_error == OnError::Halt,
            tables,
            manifest: Some(as_value(serde_json::to_value(&manifest))?),
        })
    }

    async fn describe(
        &self,
        number: usize,
        plugin: &PluginRef,
        config: &str,
        limits: &Limits,
        versions: &BTreeMap<String, u32>,
    ) -> Result<Manifest, PipelineError> {
        let config = self.secrets.resolve(config)?;
        let wasm = self.catalogue.plugin_bytes(plugin).await?;
        let columns = self.table_columns(versions).await?;
        let (host, limits) = (self.host.clone(), limits.clone());
        let described = tokio::task::spawn_blocking(move || {
            let plugin = host.load(&wasm).map_err(|error| error.to_string())?;
            plugin.manifest_with(&config, &limits, &columns).map_err(|error| error.to_string())
        });
        let described = described.await.map_err(|panic| PipelineError::Internal(panic.to_string()))?;
        described.map_err(|detail| PipelineError::Step { step: number, detail: format!("{plugin}: {detail}") })
    }
}

fn not_stored(step: usize, error: RegistryError) -> PipelineError {
    match error {
        RegistryError::Catalogue(error @ CatalogueError::PluginDiffers { .. }) => {
            PipelineError::Step { step, detail: error.to_string() }
        }
        RegistryError::Catalogue(error) => error.into(),
        RegistryError::Internal(detail) => PipelineError::Internal(detail),
        other => PipelineError::Step { step, detail: other.to_string() },
    }
}

/// The pinned manifest of a step; revisions of earlier builds have none.
fn manifest_of(step: &StepSpec) -> Option<Manifest> {
    serde_json::from_value(step.manifest.clone()?).ok()
}

/// Whether a step's limits lie below the operator's ceiling.
fn check_ceiling(limits: &Limits, ceiling: Option<&Limits>) -> Result<(), String> {
    let default = || Limits { memory_bytes: 4 * Limits::default().memory_bytes, ..Limits::default() };
    let ceiling = ceiling.cloned().unwrap_or_else(default);
    let pairs = [
        ("memory_bytes", limits.memory_bytes, ceiling.memory_bytes),
        ("describe_fuel", limits.describe_fuel, ceiling.describe_fuel),
        ("fuel", limits.fuel, ceiling.fuel),
        ("output_bytes", limits.output_bytes, ceiling.output_bytes),
        ("rows", limits.rows.into(), ceiling.rows.into()),
        ("input_bytes", limits.input_bytes, ceiling.input_bytes),
        ("log_lines", limits.log_lines.into(), ceiling.log_lines.into()),
        ("log_bytes", limits.log_bytes.into(), ceiling.log_bytes.into()),
    ];
    match pairs.into_iter().find(|(_, asked, most)| asked > most) {
        Some((name, asked, most)) => Err(format!("limit {name} is {asked}, and the operator lets a step have {most}")),
        None => Ok(()),
    }
}

/// The chain of a new deployment: the scrubber first, so that nothing behind it sees what it removes, then what the user
/// agent tells.
fn stock_chain(stock: &[PluginName]) -> Result<Vec<StepSource>, PipelineError> {
    let steps = [("pii-scrub", json!({"key": {"$secret": PII_SECRET}})), ("enrich-user-agent", json!({}))];
    (1..)
        .zip(steps)
        .map(|(step, (name, config))| {
            let plugin = stock.iter().find(|plugin| plugin.name == name).cloned();
            let plugin = plugin.ok_or_else(|| PipelineError::Step {
                step,
                detail: format!("this build has no stock plugin {name}"),
            })?;
            Ok(StepSource::new(PluginSource::Named(plugin), config))
        })
        .collect()
}
