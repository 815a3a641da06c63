//! The table itself: where it is, and what it says at one version.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use deltalake::DeltaTableError;
use deltalake::kernel::engine::arrow_data::ArrowEngineData;
use deltalake::kernel::transaction::CommitProperties;
use deltalake::kernel::{DataType, Metadata, MetadataExt as _, PrimitiveType, Scan, Snapshot, StructField, StructType};
use deltalake::logstore::LogStoreRef;
use deltalake::logstore::object_store::ObjectStore;
use deltalake::operations::create::CreateBuilder;
use deltalake::protocol::SaveMode;
use deltalake::table::config::TablePropertiesExt as _;
use millrace_rows::StoreError;
use millrace_rows::schema::EVENT_DATE;
use url::Url;

use crate::columns::{self, Columns};
use crate::error::{broken, from_library, unavailable};
use crate::local::create_directory;
use crate::markers::{Marker, Markers};
use crate::names::file_name;
use crate::options::{LOG_RETENTION_MIN, Options};
use crate::place::{self, Place};

/// A table and the way to it.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) log_store: LogStoreRef,
    /// Directory, if the table is on this machine.
    pub(crate) local: Option<PathBuf>,
    /// Held by who takes files out of force, from looking at them to the commit. It only saves work that would be in
    /// vain: other processes do not know of it.
    pub(crate) replacing: tokio::sync::Mutex<()>,
}

/// When a view was known to be the newest version. Two clocks: one stands still while the machine sleeps, the other can
/// be set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) monotonic: Instant,
    pub(crate) wall: SystemTime,
}

impl Seen {
    pub(crate) fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    /// The greater of both ages; a wall clock that was set back tells nothing.
    pub(crate) fn age(&self, now: &Self) -> Duration {
        let monotonic = now.monotonic.saturating_duration_since(self.monotonic);
        monotonic.max(now.wall.duration_since(self.wall).unwrap_or_default())
    }
}

/// What a writer must know of the table at one version. Its size does not depend on the table's.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) version: u64,
    pub(crate) checkpoint: Option<u64>,
    pub(crate) metadata: Metadata,
    pub(crate) schema: StructType,
    pub(crate) markers: Markers,
    pub(crate) log_retention: Duration,
    pub(crate) seen: Seen,
}

impl View {
    /// Whether a commit may start from this view: see the crate's documentation.
    pub(crate) fn is_stale(&self, now: &Seen) -> bool {
        self.seen.age(now) > self.log_retention / 2
    }
}

/// The text of a list of reasons.
fn refusal(table: &Table, reasons: &[String]) -> String {
    format!("{} is no table of Millrace: {}", table.location(), reasons.join("; "))
}

impl Table {
    /// The way to the table; touches nothing.
    pub(crate) fn at(location: &str, storage: &HashMap<String, String>) -> Result<Self, StoreError> {
        let (log_store, local) = place::log_store(location, storage)?;
        Ok(Self { log_store, local, replacing: Default::default() })
    }

    /// As [`Self::at`], in an object store of the caller's.
    pub(crate) fn in_store(store: Arc<dyn ObjectStore>, url: &Url) -> Result<Self, StoreError> {
        Ok(Self { log_store: place::in_store(store, url)?, local: None, replacing: Default::default() })
    }

    pub(crate) fn location(&self) -> String {
        self.local.as_ref().map_or_else(|| self.log_store.root_url().to_string(), |path| path.display().to_string())
    }

    /// Opens the table at a path or URL. See [`Self::ready`].
    pub(crate) async fn open(location: &str, options: &Options) -> Result<Self, StoreError> {
        if let Place::Directory(path) = Place::of(location)? {
            let made = tokio::task::spawn_blocking(move || create_directory(&path)).await;
            made.map_err(std::io::Error::other)
                .flatten()
                .map_err(|error| unavailable(format!("creating the directory {location}: {error}")))?;
        }
        Self::at(location, &options.storage)?.ready(options).await
    }

    /// Creates the table unless there is one, and checks that it is ours and that commits to it can exclude each other.
    pub(crate) async fn ready(self, options: &Options) -> Result<Self, StoreError> {
        if options.log_retention < LOG_RETENTION_MIN {
            return Err(broken(format!("log_retention must be at least {} s", LOG_RETENTION_MIN.as_secs())));
        }
        let table = self;
        if table.local.is_none() {
            place::check_put_if_absent(&table.log_store).await?;
        }
        let exists = |error| from_library("looking for the table", &error);
        if !table.log_store.is_delta_table_location().await.map_err(exists)? {
            let created = CreateBuilder::new()
                .with_log_store(table.log_store.clone())
                .with_columns(columns::new_table())
                .with_partition_columns([EVENT_DATE])
                .with_configuration(columns::new_properties(options.log_retention).map(|(k, v)| (k, Some(v))))
                .with_save_mode(SaveMode::Ignore)
                // With retries the library would put a second protocol and another table id at version 1 when another
                // process creates the table at the same time.
                .with_commit_properties(CommitProperties::default().with_max_retries(0))
                .await;
            // Another process may have been first; whether what is there is right is checked below in any case.
            if let Err(error) = created
                && !table.log_store.is_delta_table_location().await.map_err(exists)?
            {
                return Err(from_library(&format!("creating the table {}", table.location()), &error));
            }
        }
        table.view().await?;
        Ok(table)
    }

    /// Reads the newest version.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        Snapshot::try_new(self.log_store.as_ref(), None).await.map_err(|error| {
            let context = format!("reading the log of {}", self.location());
            match error {
                DeltaTableError::NotATable(_) => broken(format!("{context}: there is no table")),
                error => from_library(&context, &error),
            }
        })
    }

    /// Reads all that a writer must know, and checks that the table is ours.
    pub(crate) async fn view(&self) -> Result<View, StoreError> {
        let seen = Seen::now();
        self.view_of(&self.snapshot().await?, seen).await
    }

    /// As [`Self::view`], of a snapshot that was the newest version at `seen`.
    pub(crate) async fn view_of(&self, snapshot: &Snapshot, seen: Seen) -> Result<View, StoreError> {
        let schema = snapshot.schema().as_ref().clone();
        let log_retention = snapshot.table_properties().log_retention_duration();
        self.check(&protocol_of(snapshot), snapshot.metadata(), log_retention, &schema)?;
        let markers = self.markers(snapshot).await?;
        Ok(View {
            version: snapshot.version(),
            checkpoint: kernel(snapshot)?.snapshot().log_segment().checkpoint_version,
            metadata: snapshot.metadata().clone(),
            schema,
            markers,
            log_retention,
            seen,
        })
    }

    fn check(
        &self,
        protocol: &(i32, i32),
        metadata: &Metadata,
        log_retention: Duration,
        schema: &StructType,
    ) -> Result<Columns, StoreError> {
        let partitions = metadata.partition_columns();
        columns::check_table(*protocol, partitions, metadata.configuration(), log_retention, schema)
            .map_err(|reasons| broken(refusal(self, &reasons)))
    }

    /// Takes a new metadata action of another writer into a view.
    pub(crate) fn check_metadata(&self, view: &mut View, metadata: &Metadata) -> Result<(), StoreError> {
        let unreadable =
            |error: &dyn std::fmt::Display| broken(format!("the table's new schema can't be read: {error}"));
        let schema = metadata.parse_schema().map_err(|error| unreadable(&error))?;
        let log_retention = metadata.parse_table_properties().log_retention_duration();
        self.check(&(1, 2), metadata, log_retention, &schema)?;
        view.metadata = metadata.clone();
        view.schema = schema;
        view.log_retention = log_retention;
        Ok(())
    }

    /// All our markers at a version.
    pub(crate) async fn markers(&self, snapshot: &Snapshot) -> Result<Markers, StoreError> {
        let long = || DataType::Primitive(PrimitiveType::Long);
        let string = || DataType::Primitive(PrimitiveType::String);
        let txn = [StructField::nullable("appId", string()), StructField::nullable("version", long())];
        let (markers, unknown) = self
            .actions(snapshot, &[("txn", &txn)], (Markers::default(), None), |(markers, unknown), batch| {
                let txn = batch.column(0).as_struct();
                let (ids, versions) = (txn.column(0).as_string::<i32>(), txn.column(1).as_primitive::<Int64Type>());
                for row in (0..batch.num_rows()).filter(|row| txn.is_valid(*row) && ids.is_valid(*row)) {
                    match Marker::parse(ids.value(row)) {
                        Ok(Some(marker)) => markers.set_older(marker, versions.value(row)),
                        Ok(None) => {}
                        Err(error) => *unknown = Some(error),
                    }
                }
            })
            .await?;
        unknown.map_or(Ok(markers), |error| Err(broken(error)))
    }

    /// How the log spells the paths of files in force, by file name: what it takes to remove them.
    ///
    /// # Errors
    /// [`StoreError::Broken`] when the log has no file of a name.
    pub(crate) async fn spellings(
        &self,
        snapshot: &Snapshot,
        names: HashSet<String>,
    ) -> Result<HashMap<String, String>, StoreError> {
        let path = [StructField::nullable("path", DataType::Primitive(PrimitiveType::String))];
        let state = (names, HashMap::new());
        let (missing, found) = self
            .actions(snapshot, &[("add", &path)], state, |(names, found), batch| {
                let adds = batch.column(0).as_struct();
                let paths = adds.column(0).as_string::<i32>();
                for row in (0..batch.num_rows()).filter(|row| adds.is_valid(*row) && paths.is_valid(*row)) {
                    // The newest add of a name is the one in force.
                    if let Some(name) = names.take(file_name(paths.value(row))) {
                        found.insert(name, paths.value(row).to_owned());
                    }
                }
            })
            .await?;
        match missing.into_iter().next() {
            Some(name) => Err(broken(format!("the log spells the path of the file {name:?} in a way of its own"))),
            None => Ok(found),
        }
    }

    /// Folds over all actions of some kinds, newest first, with the named columns of each. Not only over those in
    /// force: `fold` sees an action as often as the log has it.
    pub(crate) async fn actions<T: Send + 'static>(
        &self,
        snapshot: &Snapshot,
        kinds: &[(&str, &[StructField])],
        mut state: T,
        fold: impl Fn(&mut T, &RecordBatch) + Send + 'static,
    ) -> Result<T, StoreError> {
        let schema = StructType::try_new(
            kinds
                .iter()
                .map(|(name, fields)| {
                    let fields = StructType::try_new(fields.iter().cloned())?;
                    Ok(StructField::nullable(*name, DataType::from(fields)))
                })
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error: DeltaTableError| broken(format!("a schema of log actions: {error}")))?,
        )
        .map_err(|error| broken(format!("a schema of log actions: {error}")))?;
        let kernel = kernel(snapshot)?.snapshot().clone();
        let engine = self.log_store.engine(None);
        let context = format!("reading the log of {}", self.location());
        let read = move || {
            let wrong = |error| from_library(&context, &DeltaTableError::KernelError(error));
            let batches = kernel.log_segment().read_actions(engine.as_ref(), Arc::new(schema)).map_err(wrong)?;
            for batch in batches {
                let data = ArrowEngineData::try_from_engine_data(batch.map_err(wrong)?.actions).map_err(wrong)?;
                fold(&mut state, data.record_batch());
            }
            Ok(state)
        };
        tokio::task::spawn_blocking(read).await.map_err(|error| unavailable(format!("reading the log: {error}")))?
    }
}

fn protocol_of(snapshot: &Snapshot) -> (i32, i32) {
    (snapshot.protocol().min_reader_version(), snapshot.protocol().min_writer_version())
}

/// The way to the kernel's own snapshot, which lists log actions and writes checkpoints: the library hands it out through
/// a scan. Building one reads nothing.
pub(crate) fn kernel(snapshot: &Snapshot) -> Result<Scan, StoreError> {
    snapshot.scan_builder().build().map_err(|error| from_library("reading the log", &error))
}

/// The metadata with another schema.
pub(crate) fn with_schema(metadata: &Metadata, schema: &StructType) -> Result<Metadata, StoreError> {
    metadata.clone().with_schema(schema).map_err(|error| broken(format!("extending the schema: {error}")))
}
