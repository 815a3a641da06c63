//! What is in the catalogue and this worker has not written, or does not know whether it has: revisions; where several share
//! the work the pause and tokens, too.

use std::sync::Arc;
use std::time::Duration;

use millrace_timeline::{Catalogue, CatalogueError, Timeline};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::pause::Pause;
use crate::tokens::Tokens;

/// Time between two looks at the catalogue. A correction, a pause and a token that is taken back are in force on every
/// worker after no more than this, as long as the keyspace answers.
pub const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// Looks at the catalogue.
pub(crate) struct Follower {
    pub(crate) catalogue: Catalogue,
    pub(crate) timeline: watch::Sender<Arc<Timeline>>,
    /// What other workers change, where there are any.
    pub(crate) others: Option<(Pause, Arc<Tokens>)>,
}

impl Follower {
    /// Looks until `shutdown` is true. While the catalogue can't be reached this worker goes on under what it knows.
    pub(crate) async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let mut looks = tokio::time::interval(FOLLOW_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = crate::materialize::stopped(&mut shutdown) => return,
                _ = looks.tick() => if let Err(error) = self.look().await {
                    // One that is alone finds it out by its own writes.
                    if self.others.is_some() {
                        tracing::warn!(%error, "the catalogue can't be reached: this worker goes on under what it knows");
                    }
                },
            }
        }
    }

    async fn look(&self) -> Result<(), CatalogueError> {
        let next = self.timeline.borrow().head() + 1;
        if self.catalogue.has_revision(next).await? {
            let timeline = self.catalogue.timeline().await?;
            self.timeline.send_if_modified(|known| {
                // This worker may have appended to it meanwhile.
                let newer = timeline.head() > known.head();
                if newer {
                    *known = Arc::new(timeline);
                }
                newer
            });
        }
        let Some((pause, tokens)) = &self.others else { return Ok(()) };
        pause.follow().await?;
        tokens.follow().await
    }
}
