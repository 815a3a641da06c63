//! The protected buffer: free text of plugins, for their authors. It may hold personal data, so it is bounded, expires, is
//! kept in memory only, and is shown only to those who may read raw data.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millrace_plugin_host::{Failure, LogLine};
use serde::Serialize;

use crate::Clock;

/// Bounds of the buffer.
#[derive(Clone, Debug)]
pub struct DiagnosticsOptions {
    /// Most entries; the oldest go first. Default 10,000.
    pub entries_max: usize,
    /// Most bytes of text; the oldest go first. Default 8 MiB.
    pub bytes_max: usize,
    /// How long an entry is kept, in seconds. Default one day.
    pub age_max_s: u64,
    /// Log lines that one step may add in a minute; further ones are counted and thrown away. Default 600.
    pub log_lines_per_minute: u32,
}

impl Default for DiagnosticsOptions {
    fn default() -> Self {
        Self { entries_max: 10_000, bytes_max: 8 * 1024 * 1024, age_max_s: 24 * 3600, log_lines_per_minute: 600 }
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DiagnosticKind {
    /// A row that ended in a trap, an error or a limit.
    Failure,
    /// A line that a plugin logged.
    Log,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// When, µs since 1970 UTC.
    pub at_us: i64,
    /// What.
    pub kind: DiagnosticKind,
    /// `name@version` of the step.
    pub step: String,
    /// The record's partition.
    pub partition: u32,
    /// The record's offset; of a log line the first of its call.
    pub offset: u64,
    /// The code of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The plugin's text: what a panic said and where, the functions on the stack, or the line.
    pub message: String,
}

/// The buffer.
pub struct Diagnostics {
    options: DiagnosticsOptions,
    clock: Clock,
    buffer: Mutex<Buffer>,
}

#[derive(Default)]
struct Buffer {
    entries: VecDeque<Diagnostic>,
    bytes: usize,
    /// Lines of each step in the present minute.
    lines: HashMap<Arc<str>, u32>,
    minute: i64,
    suppressed: u64,
}

impl Diagnostics {
    /// An empty buffer.
    pub fn new(options: DiagnosticsOptions, clock: Clock) -> Self {
        Self { options, clock, buffer: Mutex::default() }
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        // Nothing panics while it holds the lock.
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a batch of a partition left.
    pub fn add(&self, partition: u32, failures: Vec<Failure>, logs: Vec<LogLine>) {
        if failures.is_empty() && logs.is_empty() {
            return;
        }
        let at_us = (self.clock)();
        let mut buffer = self.buffer();
        for Failure { offset, step, code, message } in failures {
            let (kind, code) = (DiagnosticKind::Failure, Some(code.to_owned()));
            buffer.push(Diagnostic { at_us, kind, step: step.to_string(), partition, offset, code, message });
        }
        let minute = at_us.div_euclid(60_000_000);
        if minute != buffer.minute {
            buffer.minute = minute;
            buffer.lines.clear();
        }
        for LogLine { step, offset, line } in logs {
            let lines = buffer.lines.entry(step.clone()).or_default();
            *lines += 1;
            if *lines > self.options.log_lines_per_minute {
                buffer.suppressed += 1;
                continue;
            }
            let (kind, step) = (DiagnosticKind::Log, step.to_string());
            buffer.push(Diagnostic { at_us, kind, step, partition, offset, code: None, message: line });
        }
        buffer.shrink(&self.options, at_us);
    }

    /// The newest entries, newest first, of a plugin (`name` or `name@version`) or of all.
    pub fn newest(&self, plugin: Option<&str>, most: usize) -> Vec<Diagnostic> {
        let mut buffer = self.buffer();
        buffer.shrink(&self.options, (self.clock)());
        let of_plugin = |entry: &&Diagnostic| {
            plugin.is_none_or(|plugin| entry.step == plugin || entry.step.split('@').next() == Some(plugin))
        };
        buffer.entries.iter().rev().filter(of_plugin).take(most).cloned().collect()
    }

    /// Entries, bytes, and log lines thrown away.
    pub fn counts(&self) -> (u64, u64, u64) {
        let buffer = self.buffer();
        (buffer.entries.len() as u64, buffer.bytes as u64, buffer.suppressed)
    }
}

impl Buffer {
    fn push(&mut self, entry: Diagnostic) {
        self.bytes += entry.message.len();
        self.entries.push_back(entry);
    }

    fn shrink(&mut self, options: &DiagnosticsOptions, now_us: i64) {
        let age_max_us = i64::try_from(options.age_max_s.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
        let oldest_us = now_us.saturating_sub(age_max_us);
        while let Some(entry) = self.entries.front() {
            let fits = self.entries.len() <= options.entries_max && self.bytes <= options.bytes_max;
            if fits && entry.at_us >= oldest_us {
                return;
            }
            self.bytes -= entry.message.len();
            self.entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    fn lines(step: &str, count: u64) -> Vec<LogLine> {
        (0..count).map(|offset| LogLine { step: step.into(), offset, line: format!("line {offset}") }).collect()
    }

    #[test]
    fn it_is_bounded_by_number_bytes_age_and_rate() {
        let now = Arc::new(AtomicI64::new(0));
        let clock: Clock = Arc::new({
            let now = now.clone();
            move || now.load(Ordering::Relaxed)
        });
        let options = DiagnosticsOptions { entries_max: 5, bytes_max: 1000, age_max_s: 100, log_lines_per_minute: 8 };
        let diagnostics = Diagnostics::new(options, clock);
        diagnostics.add(3, Vec::new(), lines("a@1.0.0", 20));
        assert_eq!(diagnostics.counts().0, 5, "by number");
        assert_eq!(diagnostics.counts().2, 12, "by rate");
        assert_eq!(diagnostics.newest(None, 1)[0].offset, 7, "newest first");
        diagnostics.add(3, Vec::new(), lines("b@1.0.0", 1));
        assert_eq!(diagnostics.newest(Some("b"), 9).len(), 1, "each step has a rate of its own");
        assert!(diagnostics.newest(Some("b@2.0.0"), 9).is_empty());
        now.store(60_000_000, Ordering::Relaxed);
        diagnostics.add(0, Vec::new(), lines("a@1.0.0", 1));
        assert_eq!(diagnostics.counts().2, 12, "a new minute");
        now.store(150_000_000, Ordering::Relaxed);
        assert_eq!(diagnostics.newest(None, 9).len(), 1, "by age");
        let message = "x".repeat(900);
        let failure = Failure { offset: 1, step: "a@1.0.0".into(), code: "trap", message };
        diagnostics.add(0, vec![failure.clone(), failure], Vec::new());
        assert_eq!(diagnostics.newest(None, 9).len(), 1, "by bytes");
    }
}
