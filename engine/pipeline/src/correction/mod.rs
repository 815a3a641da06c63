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
pub mod plan;
pub(crate) mod planning;
pub mod preview;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use millrace_log::LogError;
use millrace_plugin_host::OnError;
use millrace_rows::ColumnType;
use millrace_rows::schema::BASE;
use millrace_timeline::chain::PluginName;
use millrace_timeline::{CatalogueError, ChainSpec, Filter, Kind, Revision, StepSpec, Timeline};
use serde::Serialize;
use serde_json::Value;

use crate::correction::plan::{Asked, Edit, Planned, step_key};
use crate::correction::planning::Planning;
use crate::correction::preview::Preview;
use crate::engine::Engine;
use crate::pipeline::{PipelineError, PluginSource, StepSource};
use crate::processor::SliceError;
use crate::staging::StagingStatus;

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

/// One end of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// An offset, the same in each partition.
    Offset(u64),
    /// A time, µs since 1970: when the log took a record.
    Time(i64),
}

/// Which records a correction is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSource {
    /// The first; `None`: the log's first.
    pub from: Option<Bound>,
    /// Past the last; `None`: the log's end at the moment.
    pub to: Option<Bound>,
    /// The last so many of each partition, instead of the two above.
    pub last: Option<u64>,
    /// Only these partitions; none: all.
    pub partitions: BTreeSet<u32>,
    /// Only records whose decoded columns have these values.
    pub filter: Filter,
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
    /// A filter that can't be.
    #[error("{0}")]
    Filter(String),
    /// No chain in the range has the plugin that the change is about, or it is as the change would have it.
    #[error("nothing to do: {0}")]
    Nothing(String),
    /// Another correction is staged.
    #[error("correction {0} is staged: publish or cancel it first")]
    AlreadyStaged(u64),
    /// Not staged, or not any more.
    #[error(
        "there is no staged correction {0}: it was published or cancelled, another revision came into force since, or the \
         server was started again"
    )]
    NotStaged(u64),
    /// It can't be published, or not yet.
    #[error("correction {id} can't be published: {reason}")]
    NotReady {
        /// The correction.
        id: u64,
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
    /// The revisions to append.
    pub revisions: Vec<Planned>,
}

/// A correction that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Corrected {
    /// Its first revision, by which it is known.
    pub id: u64,
    /// All of its revisions.
    pub revisions: Vec<u64>,
}

/// What a correction is doing in one store.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoreCorrection {
    /// `waiting` until the store has taken it in, `applying` while rows are made again, then `applied`.
    pub state: &'static str,
    /// Offsets that are left.
    pub left: u64,
    /// Offsets in all.
    pub total: u64,
    /// Why it does not go on, if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A correction in the timeline.
#[derive(Clone, Debug, Serialize)]
pub struct CorrectionStatus {
    /// Its first revision.
    pub id: u64,
    /// Its revisions.
    pub revisions: Vec<u64>,
    /// Before it is published `staging`, then `staged`, or `failed`; then `published` until a store has begun, `applying`, and
    /// `applied` once every store has.
    pub state: &'static str,
    /// Who asked for it.
    pub author: String,
    /// Why.
    pub reason: String,
    /// When, µs since 1970 UTC.
    pub created_at_us: i64,
    /// Why the chain is paused, if it is: nothing is made again meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// How far it is staged, until it is published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staged: Option<StagingStatus>,
    /// By store.
    pub stores: BTreeMap<&'static str, StoreCorrection>,
}

impl Engine {
    /// Works a correction out and checks it in every way, as an activation is checked. Writes nothing but what a step's
    /// plugin file brings to the registry.
    ///
    /// # Errors
    /// [`CorrectionError`] says what is wrong with it.
    pub async fn plan_correction(&self, source: CorrectionSource) -> Result<Plan, CorrectionError> {
        check_filter(&source.range.filter)?;
        let range = self.resolve(&source.range).await?;
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
        let mut checked: Vec<&ChainSpec> = Vec::new();
        for planned in &revisions {
            if !checked.iter().any(|chain| chain.does_the_same_as(&planned.chain)) {
                self.check_chain(&planned.chain).await?;
                checked.push(&planned.chain);
            }
        }
        Ok(Plan { timeline, range, revisions })
    }

    /// Shows what a plan would change.
    ///
    /// # Errors
    /// [`CorrectionError::Replay`] when the records can't be run through it.
    pub async fn preview(&self, plan: &Plan, records: u64) -> Result<Preview, CorrectionError> {
        let mask = xxhash_rust::xxh3::xxh3_64(self.sample_key.as_bytes());
        Ok(preview::run(self.processor(), &plan.timeline, &plan.revisions, &plan.range, records, mask).await?)
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
    /// in force. Gives the number that it will have.
    ///
    /// # Errors
    /// [`CorrectionError::AlreadyStaged`] while another is staged, [`PipelineError::Conflict`] when the timeline has changed
    /// since the plan was made.
    pub async fn stage(&self, plan: Plan, author: &str, reason: &str) -> Result<u64, CorrectionError> {
        let _one = self.activation.lock().await;
        let head = self.timeline.borrow().head();
        if plan.timeline.head() != head {
            return Err(PipelineError::Conflict.into());
        }
        if let Some((id, state)) = self.staging.staged(|staged| (staged.id(), staged.status().state())) {
            // What can't be published any more is in nobody's way.
            if id > head && state != "failed" {
                return Err(CorrectionError::AlreadyStaged(id));
            }
            self.staging.cancel(id);
        }
        let planning = Planning::of(self.processor(), &plan.timeline, &plan.revisions).await?;
        let hold = self.progress().hold(plan.range.iter().map(|(p, range)| (*p, range.start)).collect());
        self.hold_log().await;
        let id = planning.first();
        let asked = Asked { author, reason, at_us: (self.clock)() };
        self.staging.begin(self.processor().clone(), (plan, planning), asked, hold)?;
        tracing::info!(correction = id, author, "a correction is being staged");
        Ok(id)
    }

    /// Waits until a correction is staged, or can't be.
    ///
    /// # Errors
    /// [`CorrectionError::NotStaged`] when there is no such correction, or it is cancelled meanwhile.
    pub async fn wait_staged(&self, id: u64) -> Result<StagingStatus, CorrectionError> {
        let found = self.staging.staged(|staged| (staged.id() == id).then(|| staged.watch()));
        let mut status = found.flatten().ok_or(CorrectionError::NotStaged(id))?;
        let ended = status.wait_for(|status| status.state() != "staging").await;
        ended.map(|status| status.clone()).map_err(|_| CorrectionError::NotStaged(id))
    }

    /// Brings what is staged into force.
    ///
    /// # Errors
    /// [`CorrectionError::NotReady`] until all of it is staged, [`CorrectionError::NotStaged`] when there is no such
    /// correction or another revision has come into force since it was staged.
    pub async fn publish_staged(&self, id: u64) -> Result<Corrected, CorrectionError> {
        let _one = self.activation.lock().await;
        let found = self.staging.staged(|staged| {
            let ready = (staged.plan.clone(), staged.author.clone(), staged.reason.clone());
            (staged.id() == id).then(|| (ready, staged.status()))
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
        match self.publish(&plan, &author, &reason, || self.staging.published(id)).await {
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
    pub async fn cancel_staged(&self, id: u64) -> Result<(), CorrectionError> {
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
        when_appended: impl FnOnce() + Send,
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
        self.reload_timeline().await?;
        match appended {
            Ok(()) => {}
            Err(CatalogueError::RevisionExists(_)) => return Err(PipelineError::Conflict.into()),
            Err(error) => return Err(error.into()),
        }
        // The stores need the log from where the correction begins: nothing of it may be trimmed from now on.
        self.hold_log().await;
        tracing::info!(first = head + 1, revisions = revisions.len(), author, "a correction is in force");
        Ok(Corrected { id: head + 1, revisions: revisions.iter().map(|revision| revision.id).collect() })
    }

    /// Every correction of the timeline, newest first.
    pub fn corrections(&self) -> Vec<CorrectionStatus> {
        let timeline = self.timeline();
        let stores = self.progress().snapshot();
        let mut groups: BTreeMap<u64, Vec<&Revision>> = BTreeMap::new();
        for revision in timeline.revisions().iter().filter(|revision| revision.kind == Kind::Correct) {
            groups.entry(revision.group.unwrap_or(revision.id)).or_default().push(revision);
        }
        let paused = self.processor().pause().get().map(|pause| pause.reason);
        let status = |(id, revisions): (u64, Vec<&Revision>)| {
            let last = revisions.last()?;
            let stores: BTreeMap<_, _> =
                stores.iter().map(|(name, store)| (*name, store_correction(store, &revisions))).collect();
            let all = |state: &str| stores.values().all(|store| store.state == state);
            let state = if all("applied") {
                "applied"
            } else if all("waiting") {
                "published"
            } else {
                "applying"
            };
            Some(CorrectionStatus {
                id,
                revisions: revisions.iter().map(|revision| revision.id).collect(),
                state,
                author: last.author.clone(),
                reason: last.reason.clone(),
                created_at_us: last.created_at_us,
                paused: paused.clone().filter(|_| state != "applied"),
                staged: None,
                stores,
            })
        };
        let staged = self.staging.staged(|staged| {
            let status = staged.status();
            CorrectionStatus {
                id: staged.id(),
                revisions: staged.revisions(),
                state: status.state(),
                author: staged.author.clone(),
                reason: staged.reason.clone(),
                created_at_us: staged.at_us,
                paused: paused.clone().filter(|_| status.state() == "staging"),
                staged: Some(status),
                stores: BTreeMap::new(),
            }
        });
        // Once another revision has its number it can't be published any more.
        let staged = staged.filter(|staged| staged.id > timeline.head());
        staged.into_iter().chain(groups.into_iter().rev().filter_map(status)).collect()
    }

    /// The offsets that a range means.
    async fn resolve(&self, source: &RangeSource) -> Result<BTreeMap<u32, Range<u64>>, CorrectionError> {
        let wrong = |detail: String| CorrectionError::Range(detail);
        if source.last.is_some() && (source.from.is_some() || source.to.is_some()) {
            return Err(wrong("give either last, or from and to".to_owned()));
        }
        if let (Some(Bound::Offset(from)), Some(Bound::Offset(to))) = (source.from, source.to)
            && from >= to
        {
            return Err(wrong(format!("the range {from} to {to} is empty: to is the offset past the last")));
        }
        if let (Some(Bound::Time(from)), Some(Bound::Time(to))) = (source.from, source.to)
            && from >= to
        {
            return Err(wrong("the range is empty: it ends before it begins".to_owned()));
        }
        let partitions = self.log().partitions();
        if let Some(partition) = source.partitions.iter().find(|partition| **partition >= partitions) {
            return Err(wrong(format!("there is no partition {partition}: the log has {partitions}, counted from 0")));
        }
        let mut ranges = BTreeMap::new();
        for partition in 0..partitions {
            if !source.partitions.is_empty() && !source.partitions.contains(&partition) {
                continue;
            }
            let bounds = self.log().bounds(partition).await?;
            let start = match (source.last, source.from) {
                (Some(last), _) => bounds.end.saturating_sub(last).max(bounds.start),
                (None, None) => bounds.start,
                (None, Some(Bound::Offset(from))) => {
                    if from < bounds.start {
                        return Err(CorrectionError::BelowHorizon { partition, from, first: bounds.start });
                    }
                    from
                }
                (None, Some(Bound::Time(time))) => self.log().offset_at(partition, time).await?,
            };
            let end = match source.to {
                None => bounds.end,
                Some(Bound::Offset(to)) => to,
                Some(Bound::Time(time)) => self.log().offset_at(partition, time).await?,
            };
            if start < end {
                ranges.insert(partition, start..end);
            }
        }
        if ranges.is_empty() {
            return Err(wrong("the range holds no record of the log".to_owned()));
        }
        Ok(ranges)
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
        let chain = self.pin_chain(vec![step]).await?;
        let step = chain.steps.into_iter().next();
        step.ok_or_else(|| PipelineError::Internal("a step was pinned to nothing".into()).into())
    }
}

/// What a store has of a correction's revisions left.
fn store_correction(store: &crate::progress::StoreProgress, revisions: &[&Revision]) -> StoreCorrection {
    let length = |revision: &&Revision| -> u64 {
        revision.ranges.partitions.values().map(|range| range.end.unwrap_or(range.start) - range.start).sum()
    };
    let total: u64 = revisions.iter().map(length).sum();
    let mut left = 0;
    let mut problem = None;
    let mut taken_in = 0;
    for revision in revisions {
        match store.jobs.get(&revision.id) {
            Some(job) if store.applied >= revision.id => {
                taken_in += 1;
                // A job with nothing left is one whose last commit is under way.
                left += job.offsets_left().max(1);
                problem = problem.or_else(|| job.problem.clone());
            }
            _ if store.has_done(revision.id..=revision.id) => taken_in += 1,
            _ => left += length(revision),
        }
    }
    if left > 0 && problem.is_none() {
        // A store works its jobs off one after the other.
        let last = revisions.last().map_or(0, |revision| revision.id);
        let before = store.jobs.range(..last).find_map(|(revision, job)| Some((revision, job.problem.as_ref()?)));
        problem = before.map(|(revision, reason)| format!("waits behind revision {revision}: {reason}"));
    }
    let ends = revisions.first().zip(revisions.last());
    let state = if ends.is_some_and(|(first, last)| store.has_done(first.id..=last.id)) {
        "applied"
    } else if taken_in == 0 {
        "waiting"
    } else {
        "applying"
    };
    StoreCorrection { state, left, total, problem }
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
