//! Whether the chain stands. A chain that stands computes nothing: no record is decided, ingest goes on.
//!
//! An operator pauses, and so does the engine when it finds that the chain can't be trusted. Either is written to the
//! catalogue, so that a restart does not undo it; only an operator resumes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millrace_timeline::access::PauseEntry;
use millrace_timeline::{Catalogue, CatalogueError};
use tokio::sync::watch;

use crate::Clock;

/// Who pauses where it is the engine itself.
pub const ENGINE: &str = "millrace";

/// The switch, shared by all that compute. Cheap to clone.
#[derive(Clone)]
pub struct Pause {
    state: Arc<watch::Sender<Option<PauseEntry>>>,
    /// Held while the catalogue is written or read, so that what is read is not older than what is written.
    catalogue_lock: Arc<tokio::sync::Mutex<()>>,
    /// A pause of this worker's is not in the catalogue yet.
    unwritten: Arc<AtomicBool>,
    catalogue: Catalogue,
    clock: Clock,
}

impl Pause {
    /// The switch as the catalogue has it.
    pub async fn load(catalogue: Catalogue, clock: Clock) -> Result<Self, CatalogueError> {
        let state = catalogue.pause().await?;
        if let Some(pause) = &state {
            tracing::warn!(who = pause.who, reason = pause.reason, "the chain is paused: `millrace pipeline resume`");
        }
        Ok(Self {
            state: Arc::new(watch::Sender::new(state)),
            catalogue_lock: Arc::default(),
            unwritten: Arc::default(),
            catalogue,
            clock,
        })
    }

    /// Why the chain stands, if it does.
    pub fn get(&self) -> Option<PauseEntry> {
        self.state.borrow().clone()
    }

    /// Pauses at once, and then durably. Where it is paused already the first reason stays.
    ///
    /// # Errors
    /// When the catalogue could not be written: the chain stands, but a restart would undo it.
    pub async fn pause(&self, who: &str, reason: &str) -> Result<PauseEntry, CatalogueError> {
        let pause = PauseEntry { at_us: (self.clock)(), who: who.to_owned(), reason: reason.to_owned() };
        let paused = self.state.send_if_modified(|state| {
            let running = state.is_none();
            if running {
                self.unwritten.store(true, Ordering::Relaxed);
                *state = Some(pause.clone());
            }
            running
        });
        if !paused {
            return Ok(self.get().unwrap_or(pause));
        }
        tracing::error!(who, reason, "the chain is paused");
        let _lock = self.catalogue_lock.lock().await;
        // Another worker's resumption may just have been read: this pause comes after it.
        self.state.send_replace(Some(pause.clone()));
        self.catalogue.set_pause(Some(&pause)).await?;
        self.unwritten.store(false, Ordering::Relaxed);
        Ok(pause)
    }

    /// Goes on. Answers what it was paused for.
    ///
    /// # Errors
    /// When the catalogue could not be written: the chain stands on.
    pub async fn resume(&self) -> Result<Option<PauseEntry>, CatalogueError> {
        let _lock = self.catalogue_lock.lock().await;
        self.catalogue.set_pause(None).await?;
        self.unwritten.store(false, Ordering::Relaxed);
        let before = self.state.send_replace(None);
        if before.is_some() {
            tracing::info!("the chain goes on");
        }
        Ok(before)
    }

    /// Takes over what another worker wrote: a pause, or that it is over. A pause of this worker's that could not be
    /// written is written now.
    ///
    /// # Errors
    /// When the catalogue can't be reached.
    pub(crate) async fn follow(&self) -> Result<(), CatalogueError> {
        let before = self.get();
        let _lock = self.catalogue_lock.lock().await;
        if self.unwritten.load(Ordering::Relaxed) {
            self.catalogue.set_pause(self.get().as_ref()).await?;
            self.unwritten.store(false, Ordering::Relaxed);
            return Ok(());
        }
        let stored = self.catalogue.pause().await?;
        self.state.send_if_modified(|state| {
            // What this worker did meanwhile is about to be written, and counts.
            let changed = *state == before && *state != stored;
            if changed {
                state.clone_from(&stored);
            }
            changed
        });
        Ok(())
    }

    /// Waits until the chain stands, and gives the reason.
    pub async fn wait_paused(&self) -> String {
        let mut state = self.state.subscribe();
        match state.wait_for(Option::is_some).await {
            Ok(pause) => pause.as_ref().map_or_else(String::new, |pause| pause.reason.clone()),
            // The sender lives as long as this.
            Err(_) => String::new(),
        }
    }

    /// Waits until the chain goes on.
    pub async fn wait_running(&self) {
        // The sender lives as long as this.
        let _ = self.state.subscribe().wait_for(Option::is_none).await;
    }
}
