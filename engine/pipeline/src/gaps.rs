//! Gaps of the log that somebody accepted.
//!
//! Where retention took records before a store had them, that store's partition stops. To go on is an operator's decision:
//! the rows of those records will be absent from the store. Accepting is written down in the catalogue first, then the store
//! moves its cursor past the gap in a commit of its own, compared as every other; a crash between the two leaves the
//! partition stopped, and accepting again does the rest.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use millrace_log::LogError;
use millrace_timeline::CatalogueError;
use millrace_timeline::gaps::GapEntry;
use tokio::sync::{mpsc, oneshot};

use crate::engine::Engine;

/// Requests that wait for a store's loop.
pub(crate) const REQUESTS_MAX: usize = 4;
/// Longest wait for a store's loop to move its cursor.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Asks a store's loop to move a cursor.
pub(crate) struct GapRequest {
    pub(crate) partition: u32,
    /// From where the cursor stands to the first record that is there.
    pub(crate) offsets: Range<u64>,
    pub(crate) done: oneshot::Sender<Result<(), String>>,
}

/// Why a gap was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum GapError {
    /// No such store or partition.
    #[error("{0}")]
    Bad(String),
    /// Nobody stands before a gap there.
    #[error("there is no gap: in partition {partition} the log starts at {first}, and {stands}")]
    NoGap {
        /// The partition.
        partition: u32,
        /// First offset of the log.
        first: u64,
        /// Where the stores stand.
        stands: String,
    },
    /// The store could not move now.
    #[error("{store}: {detail}; try again")]
    NotMoved {
        /// The store.
        store: String,
        /// What it says.
        detail: String,
    },
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The catalogue.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
}

impl Engine {
    /// Lets stores go on behind records that retention took: `store`, or every one that stands before the gap.
    ///
    /// # Errors
    /// [`GapError`]; what was accepted before it for another store stays.
    pub async fn accept_gap(
        &self,
        partition: u32,
        store: Option<&str>,
        who: &str,
        reason: &str,
    ) -> Result<Vec<GapEntry>, GapError> {
        let first = self.log().bounds(partition).await?.start;
        let snapshot = self.progress().snapshot();
        if let Some(store) = store
            && !snapshot.contains_key(store)
        {
            let names: Vec<&str> = snapshot.keys().copied().collect();
            return Err(GapError::Bad(format!("there is no store {store:?}: it is one of {}", names.join(", "))));
        }
        let mut stands = BTreeMap::new();
        for (name, progress) in &snapshot {
            if store.is_none_or(|store| store == *name)
                && let Some(partition) = progress.partitions.get(&partition)
            {
                stands.insert(*name, partition.next);
            }
        }
        let before: Vec<(&str, u64)> =
            stands.iter().map(|(name, next)| (*name, *next)).filter(|(_, next)| *next < first).collect();
        if before.is_empty() {
            let stands: Vec<String> = stands.iter().map(|(name, next)| format!("{name} stands at {next}")).collect();
            return Err(GapError::NoGap { partition, first, stands: stands.join(", ") });
        }
        let mut accepted = Vec::new();
        for (name, next) in before {
            let entry = GapEntry {
                store: name.to_owned(),
                partition,
                from: next,
                to: first,
                at_us: (self.clock())(),
                who: who.to_owned(),
                reason: reason.to_owned(),
            };
            self.catalogue().put_gap(&entry).await?;
            self.move_past(name, partition, next..first).await?;
            self.gaps.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(entry.clone());
            tracing::warn!(store = name, partition, from = next, to = first, who, "a gap of the log was accepted");
            accepted.push(entry);
        }
        Ok(accepted)
    }

    async fn move_past(&self, store: &str, partition: u32, offsets: Range<u64>) -> Result<(), GapError> {
        let not_moved = |detail: &str| GapError::NotMoved { store: store.to_owned(), detail: detail.to_owned() };
        let sender: Option<mpsc::Sender<GapRequest>> =
            self.gap_requests.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(store).cloned();
        let sender = sender.ok_or_else(|| not_moved("its loop does not run"))?;
        let (done, moved) = oneshot::channel();
        let asked = async {
            sender
                .send(GapRequest { partition, offsets, done })
                .await
                .map_err(|_| not_moved("its loop has stopped"))?;
            moved.await.map_err(|_| not_moved("its loop begins again"))?.map_err(|detail| not_moved(&detail))
        };
        tokio::time::timeout(WAIT_MAX, asked).await.map_err(|_| not_moved("it did not answer in time"))?
    }

    /// Every gap that was accepted, in the order of partitions and offsets.
    pub fn accepted_gaps(&self) -> Vec<GapEntry> {
        self.gaps.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}
