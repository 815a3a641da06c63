//! What is done on a timer, beside the stores' loops: the log's retention, the table's maintenance.

use std::time::Duration;

use millrace_delta::Maintainer;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::Clock;
use crate::leases::{Duties, Duty};
use crate::log::Log;

/// Time between two looks at the log's retention.
const TRIM_EVERY: Duration = Duration::from_secs(60);
/// Time between two runs of the table's maintenance. Checkpoints do not wait for it: commits start them.
const MAINTAIN_EVERY: Duration = Duration::from_secs(3600);

/// Runs until `shutdown` is true. A run that fails is logged, and made again at its next time.
///
/// The table is maintained by the worker whose duty it is.
pub(crate) async fn run(
    log: Log,
    table: Maintainer,
    clock: Clock,
    duties: Duties,
    mut shutdown: watch::Receiver<bool>,
) {
    let now = Instant::now();
    let mut trim = interval_at(now + TRIM_EVERY, TRIM_EVERY);
    let mut maintain = interval_at(now + MAINTAIN_EVERY, MAINTAIN_EVERY);
    trim.set_missed_tick_behavior(MissedTickBehavior::Delay);
    maintain.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let stopped = async {
            // An error means that the engine is gone: the same.
            let _ = shutdown.wait_for(|stop| *stop).await;
        };
        tokio::select! {
            biased;
            () = stopped => return,
            _ = trim.tick() => match log.trim(clock()).await {
                Ok(trimmed) if trimmed.segments > 0 => {
                    tracing::info!(segments = trimmed.segments, bytes = trimmed.bytes, "retention trimmed the log");
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the log could not be trimmed"),
            },
            // It logs and counts what fails itself.
            _ = maintain.tick() => if duties.has(&Duty::Maintenance) { drop(table.run().await) },
        }
    }
}
