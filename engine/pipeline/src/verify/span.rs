//! Which offsets a verification looks at: pure.

use std::fmt;

use millrace_timeline::gaps::GapEntry;

use super::WINDOW;

/// What is asked for of one partition, and what is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// The log's first offset.
    pub(super) start: u64,
    /// The lowest cursor of the stores.
    pub(super) cursor: u64,
    /// First offset that is asked for.
    pub(super) from: u64,
    /// Past the last offset that is asked for.
    pub(super) to: u64,
}

/// The range of offsets that was asked for, for people.
pub(super) struct Asked(Option<u64>, Option<u64>);

impl Span {
    pub(super) fn asked(from: Option<u64>, to: Option<u64>) -> Asked {
        Asked(from, to)
    }

    /// The first offset that can be compared.
    pub(super) fn begin(&self) -> u64 {
        self.start.max(self.from)
    }

    /// Past the last offset that can be compared; not below the first.
    pub(super) fn end(&self) -> u64 {
        self.cursor.min(self.to).max(self.begin())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.begin() == self.end()
    }

    /// Offsets that are asked for and that the log has no more.
    pub(super) fn unverifiable(&self) -> u64 {
        self.start.min(self.cursor).min(self.to).saturating_sub(self.from)
    }

    /// What could be asked for, for people.
    pub(super) fn there(&self) -> String {
        if self.start < self.cursor {
            format!("offsets {} to {}", self.start, self.cursor - 1)
        } else {
            "none yet".to_owned()
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.unwrap_or(0), self.1) {
            (from, Some(to)) if from >= to => write!(f, "the empty range from {from} to {to}"),
            (from, Some(to)) => write!(f, "offsets {from} to {}", to - 1),
            (from, None) => write!(f, "offsets from {from} on"),
        }
    }
}

/// Offsets of a span that lie in gaps accepted for a store.
pub(super) fn accepted(gaps: &[GapEntry], store: &str, partition: u32, span: &Span) -> u64 {
    let of_store = gaps.iter().filter(|gap| gap.store == store && gap.partition == partition);
    of_store.map(|gap| gap.to.min(span.cursor).min(span.to).saturating_sub(gap.from.max(span.from))).sum()
}

/// Past the last offset of the window that begins at `at`: windows end at multiples of [`WINDOW`], and where a store joins
/// in.
pub(super) fn window_end(at: u64, end: u64, begins: impl Iterator<Item = u64>) -> u64 {
    let whole = ((at / WINDOW).saturating_add(1)).saturating_mul(WINDOW).min(end);
    begins.filter(|begin| *begin > at).fold(whole, u64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u64, cursor: u64, from: u64, to: u64) -> Span {
        Span { start, cursor, from, to }
    }

    #[test]
    fn what_is_counted_lies_in_what_was_asked_for() {
        for (span, begin, end, unverifiable) in [
            (span(0, 100, 0, u64::MAX), 0, 100, 0),
            (span(40, 100, 0, u64::MAX), 40, 100, 40),
            (span(40, 100, 10, 20), 40, 40, 10),
            (span(40, 100, 30, 60), 40, 60, 10),
            (span(40, 100, 50, 60), 50, 60, 0),
            (span(40, 100, 200, 300), 200, 200, 0),
            // A store that has not come to where the log begins.
            (span(40, 20, 0, u64::MAX), 40, 40, 20),
            (span(0, 0, 0, u64::MAX), 0, 0, 0),
        ] {
            let found = (span.begin(), span.end(), span.unverifiable());
            assert_eq!(found, (begin, end, unverifiable), "{span:?}");
            assert_eq!(span.is_empty(), begin == end, "{span:?}");
        }
    }

    #[test]
    fn gaps_count_where_they_were_asked_for() {
        let gap = |store: &str, partition, from, to| GapEntry {
            store: store.into(),
            partition,
            from,
            to,
            at_us: 0,
            who: String::new(),
            reason: String::new(),
        };
        let gaps = [gap("delta", 0, 10, 30), gap("delta", 1, 0, 5), gap("history", 0, 0, 40), gap("delta", 0, 35, 36)];
        assert_eq!(accepted(&gaps, "delta", 0, &span(40, 100, 0, u64::MAX)), 21);
        assert_eq!(accepted(&gaps, "delta", 0, &span(40, 100, 0, 15)), 5);
        assert_eq!(accepted(&gaps, "delta", 0, &span(40, 100, 25, 60)), 6);
        assert_eq!(accepted(&gaps, "delta", 2, &span(40, 100, 25, 60)), 0);
    }

    #[test]
    fn windows_end_at_multiples_and_where_a_store_joins_in() {
        let end = |at, end, begins: &[u64]| window_end(at, end, begins.iter().copied());
        assert_eq!(end(0, 1_000_000, &[0, 0]), WINDOW);
        assert_eq!(end(WINDOW - 1, 1_000_000, &[]), WINDOW);
        assert_eq!(end(5, 1_000_000, &[5, 9]), 9);
        assert_eq!(end(5, 7, &[5, 9]), 7);
        assert_eq!(end(u64::MAX - 1, u64::MAX, &[]), u64::MAX);
    }
}
