//! A job gives way to live rows: both write to the same store, and a store takes only so much.
//!
//! While live rows of its store lag, a job makes one batch a [`PAUSE`] at the most, so it goes on whatever comes in. Whether
//! they lag is seen without a clock of the log: the place where the log ended at some moment must be reached within the
//! patience, or else they lag until a later such place is reached in time.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// How much later than the store's own commit interval live rows may come before a job gives way.
pub(crate) const LAG_MAX: Duration = Duration::from_secs(2);
/// How long a job waits after a batch, at the most, while live rows lag.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);
/// How long one look at the log and the store counts.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Tells whether live rows of one store lag.
#[derive(Debug)]
pub(crate) struct GiveWay {
    patience: Duration,
    /// When the log was seen to end where.
    mark: Option<(Instant, BTreeMap<u32, u64>)>,
    looked: Option<Instant>,
    lags: bool,
}

impl GiveWay {
    /// `commits_every`: how long the store's live loop gathers rows.
    pub(crate) fn new(commits_every: Duration) -> Self {
        Self { patience: commits_every.saturating_add(LAG_MAX), mark: None, looked: None, lags: false }
    }

    /// Whether it is time for another look.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK_EVERY)
    }

    /// Takes a look in: where the log ends, and the first offset that the store has not, in each partition of which the
    /// store's loop runs. Returns whether the store's live rows lag.
    pub(crate) fn look(&mut self, now: Instant, ends: BTreeMap<u32, u64>, next: &BTreeMap<u32, u64>) -> bool {
        self.looked = Some(now);
        let Some((since, mark)) = &self.mark else {
            self.mark = Some((now, ends));
            return self.lags;
        };
        let in_time = now.saturating_duration_since(*since) < self.patience;
        // What stands for a reason of its own is not waited for.
        let reached = mark.iter().all(|(partition, end)| next.get(partition).is_none_or(|next| next >= end));
        if reached {
            self.mark = Some((now, ends));
        }
        self.lags = if reached { self.lags && !in_time } else { self.lags || !in_time };
        self.lags
    }

    /// As of the last look.
    pub(crate) fn lags(&self) -> bool {
        self.lags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partitions: [u64; 2]) -> BTreeMap<u32, u64> {
        (0..).zip(partitions).collect()
    }

    #[test]
    fn rows_that_come_in_time_do_not_lag() {
        let mut looks = GiveWay::new(Duration::from_secs(5));
        let began = Instant::now();
        for second in 0..100 {
            let now = began + Duration::from_secs(second);
            // Six seconds behind, by commits of all that is there.
            let stored = second.saturating_sub(1) / 5 * 5 * 100;
            assert!(!looks.look(now, at([second * 100, 7]), &at([stored, 7])), "{second}");
        }
    }

    #[test]
    fn rows_that_come_late_lag_until_they_come_in_time_again() {
        let mut looks = GiveWay::new(Duration::ZERO);
        let began = Instant::now();
        let mut lagged = Vec::new();
        for second in 0..60 {
            let now = began + Duration::from_secs(second);
            let behind = if (10..30).contains(&second) { 8 } else { 0 };
            lagged.push(looks.look(now, at([second * 100, 0]), &at([(second.saturating_sub(behind)) * 100, 0])));
        }
        let lagging: Vec<usize> = (0..60).filter(|second| lagged[*second]).collect();
        let (first, last) = (lagging[0], lagging[lagging.len() - 1]);
        assert!((10..=13).contains(&first) && (29..=33).contains(&last), "{lagging:?}");
        assert_eq!(lagging.len(), last - first + 1, "without a break: {lagging:?}");
    }

    #[test]
    fn partitions_that_stand_are_not_waited_for() {
        let mut looks = GiveWay::new(Duration::ZERO);
        let began = Instant::now();
        let running: BTreeMap<u32, u64> = [(1, 1000)].into();
        for second in 0..20 {
            assert!(!looks.look(began + Duration::from_secs(second), at([500, 900]), &running), "{second}");
        }
    }

    #[test]
    fn a_look_counts_for_a_while() {
        let mut looks = GiveWay::new(Duration::ZERO);
        let began = Instant::now();
        assert!(looks.is_due(began));
        looks.look(began, at([1, 1]), &at([0, 0]));
        assert!(!looks.is_due(began + Duration::from_millis(100)) && looks.is_due(began + LOOK_EVERY));
    }
}
