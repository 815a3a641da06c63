//! Several workers over one log and one keyspace: who does what.
//!
//! * [`Duty`]: what can be done by one worker at a time: a partition's live loops, a store's jobs, the table's
//!   maintenance.
//! * [`protocol`]: what a worker does when it looks at the board, as a pure function.
//! * [`Keeper`]: looks, and makes the changes.
//! * [`Duties`]: what the loops ask.
//!
//! The board itself, and why no clock is needed, is described in [`millrace_timeline::leases`]. A worker that dies is
//! taken off it after [`STILL_LOOKS_MAX`] looks of another, and what it did is taken up at the
//! next: with [`LOOK_EVERY`] in less than five seconds. One that stops in order gives back what it holds.

pub mod protocol;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use millrace_timeline::leases::BoardChange;
use millrace_timeline::{Catalogue, CatalogueError};
use serde::{Serialize, Serializer};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use self::protocol::{Look, Protocol, STILL_LOOKS_MAX};

/// Time between two looks at the board.
pub const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Time after which a loop looks at its store again for what other workers have done.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What one worker does at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Duty {
    /// Keeps both stores up to date in a partition.
    Partition(u32),
    /// Works off a store's jobs.
    Jobs(&'static str),
    /// Compacts, checkpoints and vacuums the table.
    Maintenance,
}

impl fmt::Display for Duty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(partition) => write!(f, "partition {partition}"),
            Self::Jobs(store) => write!(f, "jobs of {store}"),
            Self::Maintenance => f.write_str("maintenance"),
        }
    }
}

impl Serialize for Duty {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The duties of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Held {
    /// It is alone.
    Everything,
    Some(BTreeSet<Duty>),
    /// It never has any: it only looks.
    Nothing,
}

/// The duties of this worker, now and as they change. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Duties {
    held: watch::Receiver<Held>,
}

impl Duties {
    /// Of a worker that is alone.
    pub fn everything() -> Self {
        Self { held: watch::Sender::new(Held::Everything).subscribe() }
    }

    /// Of a process that looks at the stores and does not write them.
    pub fn nothing() -> Self {
        Self { held: watch::Sender::new(Held::Nothing).subscribe() }
    }

    /// Whether this is a process that never has any.
    pub fn only_looks(&self) -> bool {
        *self.held.borrow() == Held::Nothing
    }

    /// Whether others may have duties: what they do is not seen unless it is looked for.
    pub fn are_shared(&self) -> bool {
        *self.held.borrow() != Held::Everything
    }

    /// Whether this worker has a duty now.
    pub fn has(&self, duty: &Duty) -> bool {
        has(&self.held.borrow(), duty)
    }

    /// The partitions of this worker among so many, and that they have been seen: [`Self::changed`] waits for others.
    pub fn partitions(&mut self, partitions: u32) -> BTreeSet<u32> {
        let held = self.held.borrow_and_update();
        (0..partitions).filter(|partition| has(&held, &Duty::Partition(*partition))).collect()
    }

    /// All duties; `None` for a worker that is alone and has every one.
    pub fn list(&self) -> Option<BTreeSet<Duty>> {
        match &*self.held.borrow() {
            Held::Everything => None,
            Held::Some(held) => Some(held.clone()),
            Held::Nothing => Some(BTreeSet::new()),
        }
    }

    /// Returns when the duties have changed.
    pub async fn changed(&mut self) {
        if self.held.changed().await.is_err() {
            // Nobody changes them any more.
            std::future::pending::<()>().await;
        }
    }

    /// Returns when this worker has a duty.
    pub async fn wait_for(&self, duty: &Duty) {
        if self.held.clone().wait_for(|held| has(held, duty)).await.is_err() && !self.has(duty) {
            std::future::pending::<()>().await;
        }
    }
}

fn has(held: &Held, duty: &Duty) -> bool {
    match held {
        Held::Everything => true,
        Held::Some(held) => held.contains(duty),
        Held::Nothing => false,
    }
}

/// Keeps this worker's place on the board.
pub struct Keeper {
    catalogue: Catalogue,
    protocol: Protocol,
    /// What there is to do, in pools that are shared evenly each.
    pools: Vec<Vec<Duty>>,
    held: watch::Sender<Held>,
    /// Looks in a row that failed.
    failed: u32,
}

impl Keeper {
    /// A keeper for a worker that has `id`: new for each process. Partitions are shared evenly, and so are the other
    /// duties.
    pub fn new(
        catalogue: Catalogue,
        id: String,
        partitions: u32,
        stores: impl IntoIterator<Item = &'static str>,
    ) -> Self {
        let others = stores.into_iter().map(Duty::Jobs).chain([Duty::Maintenance]).collect();
        Self {
            catalogue,
            protocol: Protocol::new(id),
            pools: vec![(0..partitions).map(Duty::Partition).collect(), others],
            held: watch::Sender::new(Held::Some(BTreeSet::new())),
            failed: 0,
        }
    }

    /// What the loops ask.
    pub fn duties(&self) -> Duties {
        Duties { held: self.held.subscribe() }
    }

    /// Looks every [`LOOK_EVERY`] until `shutdown` is true. Leaving the board is the caller's, once its loops have ended:
    /// [`Catalogue::leave_board`].
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = crate::materialize::stopped(&mut shutdown) => return,
                _ = looks.tick() => self.look().await,
            }
        }
    }

    /// One look at the board, and the changes that follow from it.
    pub async fn look(&mut self) {
        match self.try_look().await {
            Ok(held) => {
                self.failed = 0;
                self.hold(held);
            }
            Err(error) => {
                self.failed = self.failed.saturating_add(1);
                tracing::warn!(%error, "the board of duties can't be reached");
                if self.failed >= STILL_LOOKS_MAX {
                    // The others take this worker for dead by now. What it does would be refused by the stores; it stops.
                    self.hold(BTreeSet::new());
                }
            }
        }
    }

    async fn try_look(&mut self) -> Result<BTreeSet<String>, CatalogueError> {
        let board = self.catalogue.board().await?;
        let pools: Vec<Vec<String>> =
            self.pools.iter().map(|pool| pool.iter().map(Duty::to_string).collect()).collect();
        let Look { mut held, changes } = self.protocol.look(&board, &pools);
        for change in changes {
            let made = self.catalogue.change_board(&change).await?;
            match change {
                // Somebody has taken this worker off the board since it was read.
                BoardChange::Beat { .. } if !made => return Ok(BTreeSet::new()),
                BoardChange::Take { duty, .. } if made => {
                    held.insert(duty);
                }
                BoardChange::Bury { member, .. } if made => tracing::info!(member, "a worker is gone"),
                _ => {}
            }
        }
        Ok(held)
    }

    fn hold(&self, names: BTreeSet<String>) {
        let held = self.pools.iter().flatten().filter(|duty| names.contains(&duty.to_string())).cloned().collect();
        let held = Held::Some(held);
        let changed = self.held.send_if_modified(|before| {
            let changed = *before != held;
            before.clone_from(&held);
            changed
        });
        if changed && let Held::Some(duties) = &held {
            let duties: Vec<String> = duties.iter().map(Duty::to_string).collect();
            tracing::info!(worker = self.protocol.me(), ?duties, "the duties of this worker changed");
        }
    }
}
