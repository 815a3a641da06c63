//! What is done on a timer, beside the stores' loops: the log's retention, the table's maintenance.

use std::time::Duration;

use millrace_delta::Maintainer;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::Clock;
use crate::leases::{Duties, Duty};
use crate::log::Log;
use crate::materialize::stopped;

/// Time between two looks at the log's retention.
const TRIM_EVERY: Duration = Duration::from_secs(60);
/// Time between two runs of the table's maintenance. Checkpoints do not wait for it: commits start them.
const MAINTAIN_EVERY: Duration = Duration::from_secs(3600);
/// Time before the first: a process that is restarted more often than that must maintain the table, too.
const MAINTAIN_FIRST: Duration = Duration::from_secs(300);

fn every(first: Duration, period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + first, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Trims the log until `shutdown` is true. A run that fails is logged, and made again at its next time.
pub(crate) async fn trim(log: Log, clock: Clock, mut shutdown: watch::Receiver<bool>) {
    let mut ticks = every(TRIM_EVERY, TRIM_EVERY);
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut shutdown) => return,
            _ = ticks.tick() => match log.trim(clock()).await {
                Ok(trimmed) if trimmed.segments > 0 => {
                    tracing::info!(segments = trimmed.segments, bytes = trimmed.bytes, "retention trimmed the log");
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the log could not be trimmed"),
            },
        }
    }
}

/// Maintains the table where that is this worker's duty, until `shutdown` is true: a run under way is given up then, and what it
/// has written is left to the removal of orphans.
pub(crate) async fn maintain(table: Maintainer, duties: Duties, mut shutdown: watch::Receiver<bool>) {
    let mut ticks = every(MAINTAIN_FIRST, MAINTAIN_EVERY);
    loop {
        let run = async {
            ticks.tick().await;
            if duties.has(&Duty::Maintenance) {
                // It logs and counts what fails itself.
                drop(table.run().await);
            }
        };
        tokio::select! {
            biased;
            () = stopped(&mut shutdown) => return,
            () = run => {}
        }
    }
}
