//! Corrections: a candidate chain for records that are in the log already.
//!
//! ```text
//! request ── ranges (offsets) ── plan (revisions) ── check ──┬── preview: run both over the range, show the difference
//!                                                            └── correct: append the revisions; both stores take them in
//! ```
//!
//! Appending is the point of no return, and all that `correct` does: from then on the timeline says what the rows are, and
//! each store makes its own right, at its own pace ([`crate::rematerialize`]). To undo one, correct back. A correction can be
//! staged first ([`crate::staging`]): made ahead, then published or cancelled.

pub mod diff;
pub mod id;
mod matching;
pub mod plan;
pub(crate) mod planning;
pub mod preview;
pub mod range;
mod state;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::Arc;

use millrace_log::LogError;
use millrace_plugin_host::OnError;
use millrace_rows::ColumnType;
use millrace_rows::schema::BASE;
use millrace_timeline::catalogue::check_sizes;
use millrace_timeline::chain::PluginName;
use millrace_timeline::{CatalogueError, ChainSpec, Filter, StepSpec, Timeline};
use serde::Serialize;
use serde_json::Value;

use crate::correction::id::StagedId;
use crate::correction::plan::{Asked, Edit, Effects, Planned, step_key};
use crate::correction::planning::Planning;
use crate::correction::preview::Preview;
use crate::correction::range::Resolved;
use crate::engine::Engine;
use crate::pipeline::{PipelineError, PluginSource, REASON_BYTES_MAX, StepSource};
use crate::processor::SliceError;
use crate::staging::{Staged, StagingStatus};
use crate::tokens::NAME_BYTES_MAX;

pub use matching::Matches;
pub use range::{Bound, RangeFacts, RangeSource};
pub use state::{CorrectionStatus, StoreCorrection, state_in};

/// A change of chains as it is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum ChangeSource {
    /// A whole chain.
    Chain(Vec<StepSource>),
    /// Another plugin in the place of one.
    Replace {
        /// The plugin that is replaced.
        step: PluginName,
        /// The one that takes its place.
        by: PluginName,
        /// Its configuration; `None`: that of the step that it replaces.
        config: Option<Value>,
    },
    /// A further step.
    Insert {
        /// The step.
        step: StepSource,
        /// The plugin in front of which it goes, as `name` or `name@version`; `None`: behind the last.
        before: Option<String>,
    },
    /// A chain without a plugin.
    Remove(PluginName),
}

/// A correction as it is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct CorrectionSource {
    /// What changes.
    pub change: ChangeSource,
    /// For which records.
    pub range: RangeSource,
}

/// Why a correction can't be.
#[derive(Debug, thiserror::Error)]
pub enum CorrectionError {
    /// A range that holds nothing, or what is not there.
    #[error("{0}")]
    Range(String),
    /// A range whose records retention has removed in part.
    #[error(
        "partition {partition}: the range begins at offset {from}, the log at {first}: what retention removed can't be \
         corrected; begin at {first}"
    )]
    BelowHorizon {
        /// The partition.
        partition: u32,
        /// Where the range begins.
        from: u64,
        /// Where the log begins.
        first: u64,
    },
    /// A range that begins at a time whose records retention may have removed.
    #[error("{}", time_below_horizon(*partition, *from_us, *first, *first_us))]
    TimeBelowHorizon {
        /// The partition.
        partition: u32,
        /// Where the range begins, µs since 1970.
        from_us: i64,
        /// Where the log begins.
        first: u64,
        /// When it took its first record, µs since 1970.
        first_us: i64,
    },
    /// A range of which retention has left nothing.
    #[error(
        "partition {partition}: the range ends below offset {first}, where the log begins: retention has removed all of the \
         range, and what it removed can't be corrected"
    )]
    AllBelowHorizon {
        /// The partition.
        partition: u32,
        /// Where the log begins.
        first: u64,
    },
    /// A step that the change would bring in.
    #[error("{0}")]
    Step(String),
    /// A filter that can't be.
    #[error("{0}")]
    Filter(String),
    /// No chain in the range has the plugin that the change is about, or it is as the change would have it.
    #[error("nothing to do: {0}")]
    Nothing(String),
    /// Another correction is staged.
    #[error("correction {0} is staged: publish or cancel it first")]
    AlreadyStaged(StagedId),
    /// Not staged, or not any more.
    #[error(
        "there is no correction {0}: it was published or cancelled, another revision came into force since, or the server was \
         started again"
    )]
    NotStaged(StagedId),
    /// It can't be published, or not yet.
    #[error("correction {id} can't be published: {reason}")]
    NotReady {
        /// The correction.
        id: StagedId,
        /// Why.
        reason: String,
    },
    /// The files of a staged correction.
    #[error("the directory of staged corrections: {0}")]
    StagedFiles(#[from] std::io::Error),
    /// The chain.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The replay.
    #[error(transparent)]
    Replay(#[from] SliceError),
}

impl From<LogError> for CorrectionError {
    fn from(error: LogError) -> Self {
        Self::Pipeline(error.into())
    }
}

impl From<CatalogueError> for CorrectionError {
    fn from(error: CatalogueError) -> Self {
        Self::Pipeline(error.into())
    }
}

/// A correction that was checked, and is not in force.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The timeline that it was made for.
    pub timeline: Arc<Timeline>,
    /// The offsets, by partition.
    pub range: BTreeMap<u32, Range<u64>>,
    /// What else there is to say of the range.
    pub facts: RangeFacts,
    /// What else it does to the chains.
    pub effects: Effects,
    /// Which records of it.
    pub filter: Filter,
    /// The revisions to append.
    pub revisions: Vec<Planned>,
}

impl Plan {
    /// What whoever asks should know, as sentences.
    pub fn notes(&self) -> Vec<String> {
        [self.facts.notes(), self.effects.notes()].concat()
    }
}

/// A correction that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Corrected {
    /// Its first revision, by which it is known.
    pub id: u64,
    /// All of its revisions.
    pub revisions: Vec<u64>,
}

impl Engine {
    /// Works a correction out and checks it in every way, as an activation is checked. Writes nothing but what a step's
    /// plugin file brings to the registry.
    ///
    /// # Errors
    /// [`CorrectionError`] says what is wrong with it.
    pub async fn plan_correction(&self, source: CorrectionSource) -> Result<Plan, CorrectionError> {
        check_filter(&source.range.filter)?;
        let Resolved { offsets: range, facts } = self.resolve(&source.range).await?;
        let timeline = self.timeline();
        let edit = self.pin_edit(&timeline, &range, source.change).await?;
        let revisions = plan::plan(&timeline, &edit, &range, &source.range.filter);
        if revisions.is_empty() {
            return Err(CorrectionError::Nothing(match edit.anchor() {
                Some(anchor) => {
                    format!("no chain in the range has a step of {anchor}, or the change leaves it as it is")
                }
                None => "the range is empty".to_owned(),
            }));
        }
        // With the longest words that it may be published with.
        let (author, reason) = ("x".repeat(NAME_BYTES_MAX), "x".repeat(REASON_BYTES_MAX));
        let asked = Asked { author: &author, reason: &reason, at_us: i64::MAX };
        check_sizes(&plan::revisions(timeline.head(), &revisions, asked))?;
        let effects = plan::effects(&timeline, &edit, &range, &source.range.filter);
        let mut checked: Vec<&ChainSpec> = Vec::new();
        for planned in &revisions {
            if !checked.iter().any(|chain| chain.does_the_same_as(&planned.chain)) {
                self.check_chain(&planned.chain).await?;
                checked.push(&planned.chain);
            }
        }
        Ok(Plan { timeline, range, facts, effects, filter: source.range.filter, revisions })
    }

    /// Shows what a plan would change.
    ///
    /// # Errors
    /// [`CorrectionError::Replay`] when the records can't be run through it.
    pub async fn preview(&self, plan: &Plan, records: u64) -> Result<Preview, CorrectionError> {
        let mask = xxhash_rust::xxh3::xxh3_64(self.sample_key.as_bytes());
        Ok(preview::run(self.processor(), plan, records, mask).await?)
    }

    /// Brings a plan into force: appends its revisions, all at once.
    ///
    /// # Errors
    /// [`PipelineError::Conflict`] when the timeline has changed since the plan was made: plan again.
    pub async fn correct(&self, plan: &Plan, author: &str, reason: &str) -> Result<Corrected, CorrectionError> {
        let _one = self.activation.lock().await;
        self.publish(plan, author, reason, || ()).await
    }

    /// Makes what a plan brings ahead, in the background: [`Self::corrections`] tells how far it has come. Nothing of it is
    /// in force. Gives its name until it is published.
    ///
    /// # Errors
    /// [`CorrectionError::AlreadyStaged`] while another is staged, [`PipelineError::Conflict`] when the timeline has changed
    /// since the plan was made.
    pub async fn stage(&self, plan: Plan, author: &str, reason: &str) -> Result<StagedId, CorrectionError> {
        let _one = self.activation.lock().await;
        let head = self.timeline.borrow().head();
        if plan.timeline.head() != head {
            return Err(PipelineError::Conflict.into());
        }
        let look = |staged: &Staged| (staged.id, staged.first(), staged.status().state());
        if let Some((id, first, state)) = self.staging.staged(look) {
            // What can't be published any more is in nobody's way.
            if first > head && state != "failed" {
                return Err(CorrectionError::AlreadyStaged(id));
            }
            self.staging.cancel(id);
        }
        let planning = Planning::of(self.processor(), &plan.timeline, &plan.revisions).await?;
        let hold = self.progress().hold(plan.range.iter().map(|(p, range)| (*p, range.start)).collect());
        self.hold_log().await;
        let asked = Asked { author, reason, at_us: (self.clock)() };
        let id = self.staging.begin(self.processor().clone(), (plan, planning), asked, hold)?;
        tracing::info!(correction = %id, author, "a correction is being staged");
        Ok(id)
    }

    /// Waits until a correction is staged, or can't be.
    ///
    /// # Errors
    /// [`CorrectionError::NotStaged`] when there is no such correction, or it is cancelled meanwhile.
    pub async fn wait_staged(&self, id: StagedId) -> Result<StagingStatus, CorrectionError> {
        let found = self.staging.staged(|staged| (staged.id == id).then(|| staged.watch()));
        let mut status = found.flatten().ok_or(CorrectionError::NotStaged(id))?;
        let ended = status.wait_for(|status| status.state() != "staging").await;
        ended.map(|status| status.clone()).map_err(|_| CorrectionError::NotStaged(id))
    }

    /// Brings what is staged into force.
    ///
    /// # Errors
    /// [`CorrectionError::NotReady`] until all of it is staged, [`CorrectionError::NotStaged`] when there is no such
    /// correction or another revision has come into force since it was staged.
    pub async fn publish_staged(&self, id: StagedId) -> Result<Corrected, CorrectionError> {
        let _one = self.activation.lock().await;
        let found = self.staging.staged(|staged| {
            let ready = (staged.plan.clone(), staged.author.clone(), staged.reason.clone());
            (staged.id == id).then(|| (ready, staged.status()))
        });
        let Some(((plan, author, reason), status)) = found.flatten() else {
            return Err(CorrectionError::NotStaged(id));
        };
        if let Some(problem) = status.problem {
            return Err(CorrectionError::NotReady { id, reason: problem });
        }
        if !status.complete {
            let reason = format!("{} of {} offsets are staged", status.done, status.total);
            return Err(CorrectionError::NotReady { id, reason });
        }
        // What follows revisions may see it in force before this does.
        self.staging.publishing(id, true);
        let published = self.publish(&plan, &author, &reason, || self.staging.published(id)).await;
        self.staging.publishing(id, false);
        match published {
            Err(CorrectionError::Pipeline(error)) if error.is_conflict() => {
                self.staging.cancel(id);
                Err(CorrectionError::NotStaged(id))
            }
            other => other,
        }
    }

    /// Cancels what is staged: its files go, and nothing else was written.
    ///
    /// # Errors
    /// [`CorrectionError::NotStaged`] when there is no such correction.
    pub async fn cancel_staged(&self, id: StagedId) -> Result<(), CorrectionError> {
        // Not while it is being published.
        let _one = self.activation.lock().await;
        match self.staging.cancel(id) {
            true => Ok(()),
            false => Err(CorrectionError::NotStaged(id)),
        }
    }

    /// Appends the revisions of a plan. Whoever calls holds `activation`. `when_appended` is called before a store's loop can see
    /// them.
    async fn publish(
        &self,
        plan: &Plan,
        author: &str,
        reason: &str,
        mut when_appended: impl FnMut() + Send,
    ) -> Result<Corrected, CorrectionError> {
        let head = plan.timeline.head();
        let revisions = plan::revisions(head, &plan.revisions, Asked { author, reason, at_us: (self.clock)() });
        fail::fail_point!("correction::planned", |_| std::process::abort());
        let appended = self.catalogue.append_all(&revisions).await;
        fail::fail_point!("correction::published", |_| std::process::abort());
        if appended.is_ok() {
            when_appended();
        }
        // After an error, too: another writer was first, or it is not known whether this one was.
        let reloaded = self.reload_timeline().await;
        match appended {
            Ok(()) => reloaded.or_else(|_| self.extend_timeline(&revisions))?,
            Err(_) if reloaded.is_ok() && self.timeline.borrow().has(&revisions) => when_appended(),
            Err(CatalogueError::RevisionExists(_)) => return Err(PipelineError::Conflict.into()),
            Err(error) => return Err(error.into()),
        }
        // The stores need the log from where the correction begins: nothing of it may be trimmed from now on.
        self.hold_log().await;
        tracing::info!(first = head + 1, revisions = revisions.len(), author, "a correction is in force");
        Ok(Corrected { id: head + 1, revisions: revisions.iter().map(|revision| revision.id).collect() })
    }

    /// Pins what a change brings in.
    async fn pin_edit(
        &self,
        timeline: &Timeline,
        range: &BTreeMap<u32, Range<u64>>,
        change: ChangeSource,
    ) -> Result<Edit, CorrectionError> {
        Ok(match change {
            ChangeSource::Chain(steps) => Edit::Chain(self.pin_chain(steps).await?),
            ChangeSource::Insert { step, before } => {
                let step = Box::new(self.pin_step(step).await?);
                Edit::Insert { step, before }
            }
            ChangeSource::Remove(plugin) => Edit::Remove(plugin.to_string()),
            ChangeSource::Replace { step: replaced, by: plugin, config } => {
                let mut by = BTreeMap::new();
                // Chains outside of the range do not concern it.
                let pieces = range
                    .iter()
                    .flat_map(|(partition, offsets)| timeline.segments(timeline.head(), *partition, offsets.clone()));
                let steps = pieces.flat_map(|(_, revisions)| revisions).flat_map(|revision| &revision.chain.steps);
                for step in steps.filter(|step| step.plugin.to_string() == replaced.to_string()) {
                    if let Entry::Vacant(vacant) = by.entry(step_key(step)) {
                        let source = in_place_of(step, plugin.clone(), config.clone())?;
                        vacant.insert(self.pin_step(source).await?);
                    }
                }
                Edit::Replace { step: replaced.to_string(), by }
            }
        })
    }

    async fn pin_step(&self, step: StepSource) -> Result<StepSpec, CorrectionError> {
        if let PluginSource::Named(name) = &step.plugin
            && self.catalogue.plugin(&name.name, &name.version).await?.is_none()
        {
            let detail = format!("there is no plugin {name} in the catalogue: upload it with `millrace plugin push`");
            return Err(CorrectionError::Step(detail));
        }
        // Its number among others is that of a list which nobody has given.
        let chain = self.pin_chain(vec![step]).await.map_err(|error| match error {
            PipelineError::Step { detail, .. } => CorrectionError::Step(detail),
            other => other.into(),
        })?;
        let step = chain.steps.into_iter().next();
        step.ok_or_else(|| PipelineError::Internal("a step was pinned to nothing".into()).into())
    }
}

/// The step of another plugin that takes over what a step is given.
fn in_place_of(step: &StepSpec, plugin: PluginName, config: Option<Value>) -> Result<StepSource, CorrectionError> {
    let unreadable = |error: serde_json::Error| {
        CorrectionError::Pipeline(PipelineError::Internal(format!("a pinned step of {}: {error}", step.plugin)))
    };
    Ok(StepSource {
        plugin: PluginSource::Named(plugin),
        config: match config {
            Some(config) => config,
            None => serde_json::from_str(&step.config).map_err(unreadable)?,
        },
        limits: serde_json::from_value(step.limits.clone()).map_err(unreadable)?,
        on_error: if step.halts { OnError::Halt } else { OnError::DeadLetter },
        tables: step.tables.iter().map(|table| (table.name.clone(), table.version)).collect(),
    })
}

fn time_below_horizon(partition: u32, from_us: i64, first: u64, first_us: i64) -> String {
    let (from, log) = (rfc3339(from_us), rfc3339(first_us));
    format!(
        "partition {partition}: the range begins at {from}, the log at {log} (offset {first}): what retention removed can't be \
         corrected; begin at {log}, or correct the partitions one by one"
    )
}

/// A time as RFC 3339; the number where it is none.
fn rfc3339(us: i64) -> String {
    let time = chrono::DateTime::from_timestamp_micros(us);
    time.map_or_else(|| us.to_string(), |time| time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
}

/// A filter names decoded text columns.
fn check_filter(filter: &Filter) -> Result<(), CorrectionError> {
    let texts = || BASE.iter().filter(|column| column.ty == ColumnType::String).map(|column| column.name);
    match filter.columns.keys().find(|name| !texts().any(|text| text == name.as_str())) {
        Some(name) => Err(CorrectionError::Filter(format!(
            "a filter can't be on {name:?}: use one of {}",
            texts().collect::<Vec<_>>().join(", ")
        ))),
        None => filter.problem().map_or(Ok(()), |problem| Err(CorrectionError::Filter(problem))),
    }
}
