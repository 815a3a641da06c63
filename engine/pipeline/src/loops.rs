//! The loops of an engine: started, and looked after.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::PoisonError;

use futures::FutureExt as _;
use millrace_rows::Store;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::engine::Engine;
use crate::follow::Follower;
use crate::materialize::Materializer;
use crate::rematerialize::{REQUESTS_MAX, Rematerializer};
use crate::{gaps, housekeeping};

impl Engine {
    /// Starts a loop for each store, and the housekeeping.
    pub async fn start(&self) {
        self.start_with(|store| store).await;
    }

    /// Starts a loop for each store as `wrap` gives it back: for tests that slow or break one.
    pub async fn start_with(&self, mut wrap: impl FnMut(Box<dyn Store>) -> Box<dyn Store> + Send) {
        let stores = std::mem::take(&mut *self.stores.lock().unwrap_or_else(PoisonError::into_inner));
        let mut loops = self.loops.lock().await;
        let mut commits_every = BTreeMap::new();
        for (store, policy) in stores {
            commits_every.insert(store.name(), policy.age);
            let (sender, gaps) = mpsc::channel(gaps::REQUESTS_MAX);
            self.gap_requests.lock().unwrap_or_else(PoisonError::into_inner).insert(store.name(), sender);
            let materializer = Materializer {
                gaps,
                processor: self.processor.clone(),
                progress: self.progress.clone(),
                metrics: self.metrics.clone(),
                duties: self.duties.clone(),
                shutdown: self.shutdown.subscribe(),
            };
            let (name, progress) = (store.name(), self.progress.clone());
            let died = move || progress.stop(name, DEFECT);
            self.spawn(&mut loops, format!("the loop of {name}"), materializer.run(wrap(store), policy), died);
        }
        for rewriter in std::mem::take(&mut *self.rewriters.lock().unwrap_or_else(PoisonError::into_inner)) {
            let (sender, requests) = mpsc::channel(REQUESTS_MAX);
            self.rebuilds.lock().unwrap_or_else(PoisonError::into_inner).insert(rewriter.name(), sender);
            let rematerializer = Rematerializer {
                requests,
                asked: Vec::new(),
                staging: self.staging.clone(),
                commits_every: commits_every.get(rewriter.name()).copied().unwrap_or_default(),
                processor: self.processor.clone(),
                progress: self.progress.clone(),
                metrics: self.metrics.clone(),
                duties: self.duties.clone(),
                shutdown: self.shutdown.subscribe(),
            };
            let (name, progress) = (rewriter.name(), self.progress.clone());
            let died = move || progress.stop_jobs(name, DEFECT);
            self.spawn(&mut loops, format!("the jobs of {name}"), rematerializer.run(rewriter), died);
        }
        let trims = housekeeping::trim(self.log.clone(), self.clock.clone(), self.shutdown.subscribe());
        self.spawn(&mut loops, "the log's retention".to_owned(), trims, || ());
        let maintains = housekeeping::maintain(self.maintainer.clone(), self.duties.clone(), self.shutdown.subscribe());
        self.spawn(&mut loops, "the table's maintenance".to_owned(), maintains, || ());
        if let Some(keeper) = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.spawn(&mut loops, "the lease keeper".to_owned(), keeper.run(self.shutdown.subscribe()), || ());
        }
        let follower = Follower {
            catalogue: self.catalogue.clone(),
            timeline: self.timeline.clone(),
            others: self.shared.then(|| (self.pause.clone(), self.tokens.clone())),
        };
        let follows = follower.run(self.shutdown.subscribe());
        self.spawn(&mut loops, "the catalogue's follower".to_owned(), follows, || ());
    }

    /// Starts a loop. One that panics is told of in `/v1/status` and `/readyz`, and `died` tells whoever waits for it: nothing
    /// starts it again but a restart.
    fn spawn(
        &self,
        loops: &mut JoinSet<()>,
        name: String,
        run: impl Future<Output = ()> + Send + 'static,
        died: impl FnOnce() + Send + 'static,
    ) {
        let ended = self.ended.clone();
        loops.spawn(async move {
            if panicked(run).await {
                tracing::error!(name, "a loop has ended by {DEFECT}");
                ended.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{name} has ended by {DEFECT}"));
                died();
            }
        });
    }
}

/// What is said of a loop that panicked. What the panic said is in the error output alone: it may hold what status must not.
pub(crate) const DEFECT: &str =
    "a panic, a defect of Millrace: restart the process, and report what its error output says";

/// Whether something ended by a panic.
pub(crate) async fn panicked(run: impl Future<Output = ()>) -> bool {
    // What it held is dropped with it, and what it shares with others is written whole or not at all.
    AssertUnwindSafe(run).catch_unwind().await.is_err()
}
