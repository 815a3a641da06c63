//! Whether the chain stands. A chain that stands computes nothing: no record is decided, ingest goes on.
//!
//! An operator pauses, and so does the engine when it finds that the chain can't be trusted. Either is written to the
//! catalogue, so that a restart does not undo it; only an operator resumes.

use std::sync::Arc;

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
        Ok(Self { state: Arc::new(watch::Sender::new(state)), catalogue, clock })
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
                *state = Some(pause.clone());
            }
            running
        });
        if !paused {
            return Ok(self.get().unwrap_or(pause));
        }
        tracing::error!(who, reason, "the chain is paused");
        self.catalogue.set_pause(Some(&pause)).await?;
        Ok(pause)
    }

    /// Goes on. Answers what it was paused for.
    ///
    /// # Errors
    /// When the catalogue could not be written: the chain stands on.
    pub async fn resume(&self) -> Result<Option<PauseEntry>, CatalogueError> {
        self.catalogue.set_pause(None).await?;
        let before = self.state.send_replace(None);
        if before.is_some() {
            tracing::info!("the chain goes on");
        }
        Ok(before)
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
