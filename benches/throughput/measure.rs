//! Processor time and time by the clock: what the benchmarks have in common.

use std::time::{Duration, Instant};

/// Processor time of this process, all threads.
pub(crate) fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().unwrap_or("").split_whitespace().skip(11).take(2);
    Duration::from_millis(ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10)
}

/// What something took.
#[derive(Clone, Copy, Default)]
pub(crate) struct Took {
    pub(crate) processor: Duration,
    pub(crate) clock: Duration,
}

/// Takes the time from its start to its stop.
pub(crate) struct Meter(Duration, Instant);

impl Meter {
    pub(crate) fn start() -> Self {
        Self(processor_time(), Instant::now())
    }

    pub(crate) fn stop(self) -> Took {
        Took { processor: processor_time().saturating_sub(self.0), clock: self.1.elapsed() }
    }
}
