//! A job gives way to live rows: both write to the same store, and a store takes only so much.
//!
//! While live rows of its store lag, a job makes one batch a [`PAUSE`] at the most, so it goes on whatever comes in. Whether
//! they lag is seen without a clock of the log: the place where the log ended at some moment is to be reached within the
//! patience. Seen unreached after that, they lag until a later such place is reached in time.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::progress::{Progress, StoreProgress};
use crate::status;
use millrace_log::EventLog;

/// How much later than the store's own commit interval live rows may come before a job gives way.
pub(crate) const LAG_MAX: Duration = Duration::from_secs(2);
/// How long a job waits after a batch, at the most, while live rows lag.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);
/// How often the log and the store are looked at while a job goes on.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Tells whether live rows of one store lag.
#[derive(Debug)]
pub(crate) struct LiveRows {
    store: &'static str,
    patience: Duration,
    mark: Option<Mark>,
    lag: watch::Sender<bool>,
}

/// Where the log ended at some moment.
#[derive(Debug)]
struct Mark {
    since: Instant,
    ends: BTreeMap<u32, u64>,
    /// Seen unreached after the patience. That it is seen reached after it says nothing: the look may be late.
    overdue: bool,
}

impl LiveRows {
    /// `commits_every`: how long the store's live loop gathers rows.
    pub(crate) fn new(store: &'static str, commits_every: Duration) -> Self {
        let patience = commits_every.saturating_add(LAG_MAX);
        Self { store, patience, mark: None, lag: watch::Sender::new(false) }
    }

    /// Whether they lag, as of the last look.
    pub(crate) fn lag(&self) -> watch::Receiver<bool> {
        self.lag.subscribe()
    }

    /// Looks again and again, until it is dropped.
    pub(crate) async fn watch(&mut self, progress: &Progress, log: &dyn EventLog) -> Infallible {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            // The ends come first: what is reached was reached after they were there.
            let Ok(ends) = status::ends(log).await else {
                // Whoever reads the log next says what is wrong with it.
                continue;
            };
            let next = progress.snapshot().get(self.store).map(StoreProgress::running).unwrap_or_default();
            self.look(Instant::now(), ends, &next);
        }
    }

    /// Takes a look in: where the log ends, and the first offset that the store has not, in each partition of which the
    /// store's loop runs.
    fn look(&mut self, now: Instant, ends: BTreeMap<u32, u64>, next: &BTreeMap<u32, u64>) {
        let was = *self.lag.borrow();
        let lag = match &mut self.mark {
            // What stands for a reason of its own is not waited for.
            Some(mark) if mark.ends.iter().any(|(of, end)| next.get(of).is_some_and(|next| next < end)) => {
                mark.overdue |= now.saturating_duration_since(mark.since) >= self.patience;
                was || mark.overdue
            }
            reached => {
                let before = reached.replace(Mark { since: now, ends, overdue: false });
                was && before.is_none_or(|before| before.overdue)
            }
        };
        self.lag.send_if_modified(|was| std::mem::replace(was, lag) != lag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partitions: [u64; 2]) -> BTreeMap<u32, u64> {
        (0..).zip(partitions).collect()
    }

    /// The seconds at which rows lag, of one look a second (or fewer), with rows that are so many seconds behind.
    fn lagging(commits_every: u64, looks: impl Iterator<Item = u64>, behind: impl Fn(u64) -> u64) -> Vec<u64> {
        let mut rows = LiveRows::new("history", Duration::from_secs(commits_every));
        let (lag, began) = (rows.lag(), Instant::now());
        let mut lagging = Vec::new();
        for second in looks {
            let stored = second.saturating_sub(behind(second)) * 100;
            rows.look(began + Duration::from_secs(second), at([second * 100, 7]), &at([stored, 7]));
            if *lag.borrow() {
                lagging.push(second);
            }
        }
        lagging
    }

    #[test]
    fn rows_that_come_in_time_do_not_lag() {
        // By commits of all that is there, every five seconds.
        let lagging = lagging(5, 0..100, |second| second % 5 + 1);
        assert!(lagging.is_empty(), "{lagging:?}");
    }

    #[test]
    fn rows_that_come_late_lag_until_they_come_in_time_again() {
        let lagging = lagging(0, 0..60, |second| if (10..30).contains(&second) { 8 } else { 0 });
        let (first, last) = (lagging[0], lagging[lagging.len() - 1]);
        assert!((10..=13).contains(&first) && (29..=33).contains(&last), "{lagging:?}");
        assert!(lagging.windows(2).all(|pair| pair[0] + 1 == pair[1]), "without a break: {lagging:?}");
    }

    #[test]
    fn late_looks_are_not_late_rows() {
        let far_apart = lagging(0, (0..100).step_by(7), |_| 0);
        assert!(far_apart.is_empty(), "{far_apart:?}");
        // They lagged, and do not any more.
        let looks = (0..30).chain((30..100).step_by(7));
        let recovered = lagging(0, looks, |second| if second < 30 { 8 } else { 0 });
        assert!(recovered.iter().all(|second| *second < 45) && recovered.len() > 20, "{recovered:?}");
    }

    #[test]
    fn partitions_that_stand_are_not_waited_for() {
        let mut rows = LiveRows::new("history", Duration::ZERO);
        let (lag, began) = (rows.lag(), Instant::now());
        let running: BTreeMap<u32, u64> = [(1, 1000)].into();
        for second in 0..20 {
            rows.look(began + Duration::from_secs(second), at([500, 900]), &running);
            assert!(!*lag.borrow(), "{second}");
        }
    }
}
