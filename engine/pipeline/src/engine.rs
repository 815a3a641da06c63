//! Puts the parts together: the log and the keyspace, embedded or not, and the Delta table.
//!
//! ```text
//! <data dir>/log/         the embedded event log    <data dir>/keyspace/   device history and catalogue
//! <data dir>/delta/       the table, by default     <data dir>/aot/        compiled plugins: a cache
//! <data dir>/secrets/     secrets that plugin configurations name
//! <data dir>/staged/      corrections that are staged: gone at the next start
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_delta::{DeltaStore, Maintainer, TableReader};
use millrace_history::{HistoryReader, HistoryRewriter, HistoryStore};
use millrace_log::{EventLog, LogError};
use millrace_plugin_host::{HostOptions, PluginHost};
use millrace_rows::{Rewriter, Store, StoreError};
use millrace_timeline::access::PauseEntry;
use millrace_timeline::gaps::GapEntry;
use millrace_timeline::{Catalogue, CatalogueError, Timeline};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::Clock;
use crate::chains::Chains;
use crate::diagnostics::{Diagnostics, DiagnosticsOptions};
use crate::gaps::GapRequest;
use crate::ingest::{Ingest, IngestOptions};
use crate::keyspace::{KeyspaceOptions, OpenKeyspace};
use crate::leases::{Duties, Keeper};
use crate::log::Log;
use crate::materialize::CommitPolicy;
use crate::metrics::Metrics;
use crate::pause::Pause;
use crate::pipeline::{PipelineError, PipelinePolicy, StepSource};
use crate::portion::job_progress;
use crate::processor::{Processor, ProcessorOptions};
use crate::progress::Progress;
use crate::rematerialize::RebuildRequest;
use crate::roles::{Role, Roles};
use crate::secrets::{SecretError, Secrets};
use crate::staging::{STAGED_BYTES_MAX, Staging};
use crate::status::{self, LogStatus, Status, WorkerStatus};
use crate::tokens::Tokens;
use crate::verify::Verifier;

/// Prefix of all keys of this deployment: a string, the first element of each key's tuple.
pub const ROOT: &str = "millrace";

/// Everything that can be set.
pub struct EngineOptions {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The embedded event log.
    pub log: millrace_log::embedded::Options,
    /// A topic of Iggy as the log, instead of the embedded one.
    #[cfg(feature = "iggy")]
    pub iggy: Option<crate::log::iggy::Options>,
    /// A log that is open already, instead of another: for tests of several engines over one.
    pub shared_log: Option<Arc<dyn EventLog>>,
    /// The keyspace of history and catalogue.
    pub keyspace: KeyspaceOptions,
    /// The Delta table's place, a path or a URL (`s3://bucket/prefix` with the feature `s3`); `None`: `<data dir>/delta`.
    pub delta_path: Option<PathBuf>,
    /// The Delta table.
    pub delta: millrace_delta::Options,
    /// When the Delta table commits.
    pub delta_commit: CommitPolicy,
    /// When the history commits.
    pub history_commit: CommitPolicy,
    /// Work on slices.
    pub processor: ProcessorOptions,
    /// Most bytes of files of staged corrections.
    pub staged_bytes_max: u64,
    /// The ingest.
    pub ingest: IngestOptions,
    /// The plugin host. Without a cache directory of its own it gets `<data dir>/aot`.
    pub host: HostOptions,
    /// The chain that is asked for. `None`: what is in force, or the stock chain in a new deployment.
    pub pipeline: Option<Vec<StepSource>>,
    /// What every chain must keep to.
    pub policy: PipelinePolicy,
    /// The protected buffer of plugins' texts.
    pub diagnostics: DiagnosticsOptions,
    /// What this process does.
    pub roles: Roles,
    /// Whether other processes share log and keyspace: then duties are shared by leases, and what others write to the
    /// catalogue is followed.
    pub shared: bool,
    /// Gives the time.
    pub clock: Clock,
}

impl EngineOptions {
    /// Defaults for a data directory.
    pub fn at(data_dir: impl Into<PathBuf>) -> Self {
        let clock = crate::system_clock();
        Self {
            data_dir: data_dir.into(),
            log: millrace_log::embedded::Options { clock: clock.clone(), ..Default::default() },
            #[cfg(feature = "iggy")]
            iggy: None,
            shared_log: None,
            keyspace: Default::default(),
            delta_path: None,
            delta: Default::default(),
            delta_commit: CommitPolicy { bytes: 128 * 1024 * 1024, age: Duration::from_secs(5) },
            history_commit: CommitPolicy { bytes: 16 * 1024 * 1024, age: Duration::ZERO },
            processor: ProcessorOptions::default(),
            staged_bytes_max: STAGED_BYTES_MAX,
            ingest: IngestOptions::default(),
            host: HostOptions::default(),
            pipeline: None,
            policy: PipelinePolicy::default(),
            diagnostics: DiagnosticsOptions::default(),
            roles: Roles::default(),
            shared: false,
            clock,
        }
    }
}

/// Why the engine does not start or could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The keyspace.
    #[error(transparent)]
    Keyspace(#[from] millrace_keyspace::KeyspaceError),
    /// The catalogue.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// A store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The plugin host.
    #[error(transparent)]
    Host(#[from] millrace_plugin_host::LoadError),
    /// A secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The pipeline that was asked for.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// A store has rows under revisions that the catalogue does not know.
    #[error(
        "the catalogue has no timeline, but the store {store} has taken in revision {applied}: the catalogue was lost; \
         bring it back with `millrace catalogue restore`"
    )]
    CatalogueLost {
        /// The store.
        store: &'static str,
        /// Its revision.
        applied: u64,
    },
    /// A path that is no UTF-8.
    #[error("{0:?} is no UTF-8: the Delta table needs a path that is")]
    Path(PathBuf),
    /// The history could not be read.
    #[error(transparent)]
    History(#[from] millrace_history::ReadError),
}

/// An engine: log, stores, and the loops between them once started.
pub struct Engine {
    pub(crate) log: Log,
    pub(crate) keyspace: OpenKeyspace,
    pub(crate) catalogue: Catalogue,
    pub(crate) secrets: Secrets,
    pub(crate) host: Arc<PluginHost>,
    pub(crate) timeline: watch::Sender<Arc<Timeline>>,
    pub(crate) processor: Arc<Processor>,
    pub(crate) staging: Arc<Staging>,
    pub(crate) ingest: Ingest,
    pub(crate) history: HistoryReader,
    pub(crate) progress: Progress,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
    pub(crate) delta_path: PathBuf,
    pub(crate) table: TableReader,
    pub(crate) maintainer: Maintainer,
    pub(crate) policy: PipelinePolicy,
    pub(crate) tokens: Arc<Tokens>,
    /// What this worker does of what several share.
    pub(crate) duties: Duties,
    /// Keeps its place among them; taken when the loops start.
    pub(crate) keeper: Mutex<Option<Keeper>>,
    /// Its id among them.
    pub(crate) worker: String,
    pub(crate) shared: bool,
    pub(crate) roles: Roles,
    pub(crate) pause: Pause,
    pub(crate) diagnostics: Arc<Diagnostics>,
    /// Held by whoever uploads to or deletes from the catalogue.
    pub(crate) registry: tokio::sync::Mutex<()>,
    /// Held by whoever brings a chain into force.
    pub(crate) activation: tokio::sync::Mutex<()>,
    /// Masks identifiers in samples: random, and gone with this process.
    pub(crate) sample_key: String,
    pub(crate) stores: Mutex<Vec<(Box<dyn Store>, CommitPolicy)>>,
    pub(crate) rewriters: Mutex<Vec<Box<dyn Rewriter>>>,
    /// Where a store's loop is asked for a rebuild, by store.
    pub(crate) rebuilds: Mutex<BTreeMap<&'static str, mpsc::Sender<RebuildRequest>>>,
    /// Where a store's loop is asked to move past a gap, by store.
    pub(crate) gap_requests: Mutex<BTreeMap<&'static str, mpsc::Sender<GapRequest>>>,
    /// Gaps that were accepted.
    pub(crate) gaps: Mutex<Vec<GapEntry>>,
    pub(crate) shutdown: watch::Sender<bool>,
    pub(crate) loops: tokio::sync::Mutex<JoinSet<()>>,
    /// Loops that ended though nobody stopped them.
    pub(crate) ended: Arc<Mutex<Vec<String>>>,
    pub(crate) kept: Mutex<Vec<Box<dyn std::any::Any + Send>>>,
}

/// A catalogue without a timeline belongs to stores without rows. Where it does not it was lost, and a new revision 1
/// would stand for another chain than the one that made the rows.
async fn check_stores_are_new(stores: &mut [(Box<dyn Store>, CommitPolicy)]) -> Result<(), EngineError> {
    for (store, _) in stores {
        let applied = store.load().await?.applied;
        if applied > 0 {
            return Err(EngineError::CatalogueLost { store: store.name(), applied });
        }
    }
    Ok(())
}

impl Engine {
    /// Opens or creates everything in the data directory. Nothing runs yet: see [`Engine::start`].
    pub async fn open(mut options: EngineOptions) -> Result<Arc<Self>, EngineError> {
        let (data_dir, clock) = (options.data_dir.clone(), options.clock.clone());
        let log = Log::open(&mut options).await?;
        let keyspace = OpenKeyspace::open(&data_dir, options.keyspace).await?;
        let shared_keyspace = keyspace.shared();
        let catalogue = Catalogue::open(shared_keyspace.clone(), ROOT).await?;
        catalogue.bind_log(log.id()).await?;
        let secrets = Secrets::new(data_dir.join("secrets"));
        let cache_dir = options.host.cache_dir.clone().unwrap_or_else(|| data_dir.join("aot"));
        let host = Arc::new(PluginHost::new(HostOptions { cache_dir: Some(cache_dir), ..options.host })?);
        let metrics = Arc::new(Metrics::default());

        let delta_path = options.delta_path.unwrap_or_else(|| data_dir.join("delta"));
        let location = delta_path.to_str().ok_or_else(|| EngineError::Path(delta_path.clone()))?;
        let delta = DeltaStore::open(location, options.delta).await?;
        let maintainer = delta.maintainer();
        let table = delta.reader();
        let history = HistoryStore::new(shared_keyspace.clone(), ROOT);
        let rewriters: Vec<Box<dyn Rewriter>> =
            vec![Box::new(delta.rewriter()), Box::new(HistoryRewriter::new(shared_keyspace.clone(), ROOT))];
        let mut stores: Vec<(Box<dyn Store>, CommitPolicy)> =
            vec![(Box::new(delta), options.delta_commit), (Box::new(history), options.history_commit)];
        let progress = Progress::new(stores.iter().map(|(store, _)| store.name()));

        let timeline = watch::Sender::new(Arc::new(catalogue.timeline().await?));
        if timeline.borrow().head() == 0 {
            check_stores_are_new(&mut stores).await?;
        }
        let chains = Chains::new(catalogue.clone(), host.clone(), secrets.clone());
        let pause = Pause::load(catalogue.clone(), clock.clone()).await?;
        let tokens = Arc::new(Tokens::load(catalogue.clone(), clock.clone()).await?);
        let worker = uuid::Uuid::new_v4().simple().to_string();
        let keeper = (options.shared && options.roles.has(Role::Process)).then(|| {
            let names = stores.iter().map(|(store, _)| store.name());
            Keeper::new(catalogue.clone(), worker.clone(), log.partitions(), names)
        });
        let duties = match &keeper {
            Some(keeper) => keeper.duties(),
            None if options.roles.has(Role::Process) => Duties::everything(),
            None => Duties::nothing(),
        };
        let diagnostics = Arc::new(Diagnostics::new(options.diagnostics, clock.clone()));
        let gaps = catalogue.gaps().await?;
        let shared_log = log.shared();
        let processor = Arc::new(Processor::new(
            shared_log.clone(),
            chains,
            timeline.subscribe(),
            options.processor,
            pause.clone(),
            diagnostics.clone(),
            metrics.clone(),
        ));
        let ingest = Ingest::open(shared_log, options.ingest, clock.clone(), metrics.clone()).await?;
        let engine = Arc::new(Self {
            log,
            keyspace,
            catalogue,
            secrets,
            host,
            timeline,
            processor,
            staging: Arc::new(Staging::open(&data_dir, options.staged_bytes_max)),
            ingest,
            history: HistoryReader::new(shared_keyspace, ROOT),
            progress,
            metrics,
            clock,
            delta_path,
            table,
            maintainer,
            policy: options.policy,
            tokens,
            duties,
            keeper: Mutex::new(keeper),
            worker,
            shared: options.shared,
            roles: options.roles,
            pause,
            diagnostics,
            registry: tokio::sync::Mutex::default(),
            activation: tokio::sync::Mutex::default(),
            sample_key: format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple()),
            stores: Mutex::new(stores),
            rewriters: Mutex::new(rewriters),
            rebuilds: Mutex::default(),
            gap_requests: Mutex::default(),
            gaps: Mutex::new(gaps),
            shutdown: watch::Sender::new(false),
            loops: tokio::sync::Mutex::default(),
            ended: Arc::default(),
            kept: Mutex::default(),
        });
        engine.activate_configured(options.pipeline).await?;
        Ok(engine)
    }

    /// Reads how far the stores have come, without starting them: for a look at a data directory.
    pub async fn read_progress(&self) -> Result<(), EngineError> {
        let stores = std::mem::take(&mut *self.stores.lock().unwrap_or_else(PoisonError::into_inner));
        for (mut store, _) in stores {
            let state = store.load().await?;
            self.progress.report(store.name(), &state, self.log.partitions());
        }
        let timeline = self.timeline.borrow().clone();
        let rewriters = std::mem::take(&mut *self.rewriters.lock().unwrap_or_else(PoisonError::into_inner));
        for mut rewriter in rewriters {
            let backlog = rewriter.load().await?;
            let jobs = backlog.jobs.iter().map(|job| job_progress(&timeline, job)).collect();
            self.progress.report_jobs(rewriter.name(), backlog.state.applied, jobs);
        }
        Ok(())
    }

    /// Holds something for as long as the engine lives, such as the lock of its directory.
    pub fn keep(&self, kept: impl Send + 'static) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(kept));
    }

    /// Stops the loops after they have committed what they hold, then closes log and keyspace. Events that are in the
    /// log and not yet in a store are taken up at the next start.
    pub async fn stop(&self) -> Result<(), EngineError> {
        self.shutdown.send_replace(true);
        self.staging.stop();
        // What ended badly was told when it did.
        while self.loops.lock().await.join_next().await.is_some() {}
        if self.shared
            && self.roles.has(Role::Process)
            && let Err(error) = self.catalogue.leave_board(&self.worker).await
        {
            tracing::warn!(%error, "the duties of this worker were not given back: the others find out by themselves");
        }
        self.log.close().await?;
        self.keyspace.close().await;
        Ok(())
    }

    /// Offsets past the last record of each partition.
    pub async fn log_ends(&self) -> Result<BTreeMap<u32, u64>, EngineError> {
        Ok(status::ends(&*self.log).await?)
    }

    /// Returns once both stores have all that is in the log now, or with the reason why one can't.
    pub async fn drain(&self) -> Result<(), String> {
        let ends = self.log_ends().await.map_err(|error| error.to_string())?;
        self.progress.wait_for(&ends).await
    }

    /// What an operator sees.
    pub async fn status(&self) -> Result<Status, EngineError> {
        let (bounds, problem) = match (status::bounds(&*self.log).await, self.log.last_bounds()) {
            (Ok(bounds), _) => (bounds, None),
            // The stores go on with what they have: an operator sees how far they are.
            (Err(error), Some(bounds)) => (bounds, Some(error.to_string())),
            (Err(error), None) => return Err(error.into()),
        };
        let asked = problem.is_none().then_some(&*self.log);
        let stores = status::stores(asked, &bounds, self.progress.snapshot(), (self.clock)()).await?;
        let timeline = self.timeline.borrow().clone();
        let ends = (0..).zip(bounds.iter().map(|bounds| bounds.end));
        let pause = self.processor.pause().get();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION"),
            gaps: self.accepted_gaps(),
            revision: timeline.head(),
            chain: timeline.current().map(status::steps_of).unwrap_or_default(),
            ahead: status::ahead(&timeline, ends),
            ended: self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            log: LogStatus { id: self.log.id(), partitions: bounds, problem },
            paused: pause.as_ref().map(|pause| pause.reason.clone()),
            pause,
            stores,
            worker: self.shared.then(|| WorkerStatus {
                id: self.worker.clone(),
                roles: self.roles.clone(),
                duties: self.duties.list().unwrap_or_default(),
            }),
        })
    }

    /// Metrics in the OpenMetrics text format.
    pub async fn metrics_text(&self) -> Result<String, EngineError> {
        let status = self.status().await?;
        let gauges = crate::metrics::Gauges {
            cached_bytes: self.processor.cached_bytes(),
            shared_bytes: self.processor.shared().bytes(),
            staged_bytes: self.staging.bytes(),
            ingest_bytes: self.ingest.in_flight_bytes() as u64,
            dedup_events: self.ingest.dedup_events() as u64,
            log: self.log.stats(),
            keyspace: self.keyspace.stats().await,
            table: self.maintainer.counts(),
            diagnostics: self.diagnostics.counts(),
        };
        Ok(self.metrics.text(&status, &gauges))
    }

    /// The ingest tier.
    pub fn ingest(&self) -> &Ingest {
        &self.ingest
    }

    /// Queries of the device history.
    pub fn history(&self) -> &HistoryReader {
        &self.history
    }

    /// Timeline and plugins.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Compares the stores with what the log and the timeline say.
    pub fn verifier(&self) -> Verifier {
        let processor = self.processor.clone();
        Verifier::new(processor, self.history.clone(), self.table.clone(), self.catalogue.clone(), self.accepted_gaps())
    }

    /// Pauses the chain: nothing is computed until somebody resumes it, and a restart does not.
    ///
    /// # Errors
    /// When the catalogue could not be written: the chain stands, but a restart would undo it.
    pub async fn pause(&self, who: &str, reason: &str) -> Result<PauseEntry, CatalogueError> {
        self.processor.pause().pause(who, reason).await
    }

    /// Lets the chain go on, and answers what it stood for. A rate of failures that paused it is accepted from here on,
    /// until it has been under its limit once; whatever else paused it does so again if it is still there.
    ///
    /// # Errors
    /// When the catalogue could not be written: the chain stands on.
    pub async fn resume(&self) -> Result<Option<PauseEntry>, CatalogueError> {
        self.processor.accept_failures();
        self.processor.pause().resume().await
    }

    /// The timeline.
    pub fn timeline(&self) -> Arc<Timeline> {
        self.timeline.borrow().clone()
    }

    /// The protected buffer of plugins' texts: only for those who may read raw data.
    pub fn diagnostics(&self) -> &Diagnostics {
        &self.diagnostics
    }

    /// Who may do what.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// What each plugin cost since the start.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What the operator asks of every chain.
    pub fn policy(&self) -> &PipelinePolicy {
        &self.policy
    }

    /// How far the stores have come.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Slices of the log, as both stores see them.
    pub fn processor(&self) -> &Arc<Processor> {
        &self.processor
    }

    /// Where the Delta table is: a path or a URL.
    pub fn delta_path(&self) -> &std::path::Path {
        &self.delta_path
    }

    /// Maintenance of the Delta table.
    pub fn maintainer(&self) -> &Maintainer {
        &self.maintainer
    }

    /// What this process does.
    pub fn roles(&self) -> &Roles {
        &self.roles
    }

    /// The engine's clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }
}
