//! What is verified of one store: from where on, and how far it came.

use std::collections::BTreeMap;

use millrace_timeline::verified::{Noted, Verified};

use super::span::Span;
use super::{Report, Verifier, VerifyError, VerifyOptions};

/// What is verified of one store.
pub(super) struct Subject {
    pub(super) name: &'static str,
    /// The revision that it had applied when the verification began.
    pub(super) applied: u64,
    /// By partition: the offset to look at next.
    next: BTreeMap<u32, u64>,
    /// By partition: the end of what was compared without a gap.
    compared: BTreeMap<u32, u64>,
    /// What was noted of it when the verification began.
    noted: Noted,
}

impl Subject {
    /// Where to begin in a partition.
    pub(super) fn begin(&mut self, partition: u32, span: &Span) -> u64 {
        let next = self.next.entry(partition).or_default();
        *next = (*next).clamp(span.begin(), span.end());
        self.compared.insert(partition, *next);
        *next
    }

    pub(super) fn next(&self, partition: u32) -> Option<u64> {
        self.next.get(&partition).copied()
    }

    /// Everything before `end` was looked at; whether it could be compared.
    pub(super) fn came_to(&mut self, partition: u32, end: u64, compared: bool) {
        let from = self.next.insert(partition, end);
        if let Some(before) = self.compared.get_mut(&partition).filter(|_| compared)
            && from.is_some_and(|from| *before >= from)
        {
            *before = end;
        }
    }
}

impl Verifier {
    /// Where verification of each store begins.
    pub(super) async fn subjects(
        &self,
        stores: &[&'static str],
        options: &VerifyOptions,
    ) -> Result<Vec<Subject>, VerifyError> {
        let log = self.processor.log();
        let again = options.all || options.full || options.from.is_some() || options.to.is_some();
        let mut subjects = Vec::with_capacity(stores.len());
        for name in stores {
            // Before the place: a rebuild is forgotten last when it is there to be seen.
            let noted = self.catalogue.verified(name).await?;
            let applied = self.place(name).await?.state.applied;
            let Some(timeline) = self.timeline_with(applied).await else {
                let head = self.processor.timeline().borrow().head();
                return Err(VerifyError::Unsettled(format!(
                    "the store {name} has applied revision {applied}, the timeline known to this process ends at {head}: \
                     another worker brought the revision into force, and the catalogue does not tell of it here; see that \
                     the keyspace answers, and try again"
                )));
            };
            let verified = noted.verified.as_ref().filter(|_| !again);
            let verified = verified.filter(|verified| verified.log == log.id() && verified.applied <= applied);
            let next = (0..log.partitions())
                .map(|partition| (partition, verified.map_or(0, |it| it.stands_below(&timeline, applied, partition))));
            let next = next.collect();
            subjects.push(Subject { name, applied, next, compared: BTreeMap::new(), noted });
        }
        Ok(subjects)
    }

    /// Notes what was found as it must be. A store with a difference keeps what it had: the next look finds it again.
    pub(super) async fn note(&self, subjects: Vec<Subject>, report: &Report) -> Result<(), VerifyError> {
        for Subject { name, applied, compared, noted, .. } in subjects {
            if report.stores.get(name).is_none_or(|store| store.differences > 0) {
                continue;
            }
            let verified = Verified { log: self.processor.log().id(), applied, below: compared };
            if !self.catalogue.note_verified(name, &noted, verified).await? {
                tracing::info!(store = name, "a rebuild or another verification came in between: nothing is noted");
            }
        }
        Ok(())
    }
}
