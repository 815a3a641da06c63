//! How far something has come, on one line of a terminal that is written over.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::table::thousands;

/// How often progress is asked for.
pub const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Characters of a progress bar.
const BAR: usize = 30;

/// Progress towards nothing being left.
pub struct Progress {
    began: Instant,
    shown: bool,
    /// What was left when it was first asked for.
    at_first: Option<u64>,
}

impl Progress {
    /// Begins now. Nothing is shown unless `wanted`, and where errors go to no terminal.
    pub fn begin(wanted: bool) -> Self {
        let shown = wanted && std::io::stderr().is_terminal();
        Self { began: Instant::now(), shown, at_first: None }
    }

    /// How long it took until now.
    pub fn took(&self) -> Duration {
        self.began.elapsed()
    }

    /// Leaves the line as it is: something else is to be said.
    pub fn end(&self) {
        if self.shown {
            // What can't be shown harms nothing.
            let _ = writeln!(std::io::stderr());
        }
    }

    /// Shows that `left` events of `total` are left; `None`: of what was left at first.
    pub fn show(&mut self, left: u64, total: Option<u64>, last: bool) {
        let first = *self.at_first.get_or_insert(left);
        if self.shown {
            let line = line(left, total.unwrap_or(first).max(1), first.saturating_sub(left), self.took());
            // Progress that can't be shown harms nothing.
            let _ = write!(std::io::stderr(), "\r{line}{}", if last { "\n" } else { "" });
        }
    }
}

fn line(left: u64, total: u64, made: u64, took: Duration) -> String {
    let share = 1.0 - left.min(total) as f64 / total as f64;
    let full = (share * BAR as f64) as usize;
    let rate = made as f64 / took.as_secs_f64().max(0.001);
    let time_left = if rate > 0.0 { format!("{:.0} s left", left as f64 / rate) } else { "waiting".to_owned() };
    format!(
        "[{}{}] {:3.0} %  {} events/s  {time_left:<12}",
        "#".repeat(full),
        " ".repeat(BAR - full.min(BAR)),
        share * 100.0,
        thousands(rate as u64)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_never_runs_over() {
        for (left, total) in [(0, 1), (5, 10), (20, 10)] {
            assert!(line(left, total, 3, Duration::from_secs(1)).starts_with('['));
        }
        assert!(line(5, 10, 0, Duration::from_secs(1)).contains("waiting"));
        assert!(line(5, 10, 5, Duration::from_secs(1)).contains("50 %  5 events/s  1 s left"));
    }
}
