//! Dead letters that no record accounts for, whatever the log says.

use std::ops::Range;

use crate::keys::after;
use crate::reader::{HistoryReader, HistoryView, ReadError};

/// Stray dead letters that are told in full; beyond that they are counted.
pub const FAULTS_KEPT: usize = 20;
/// Dead letters of one page, each page at a moment of its own.
const PAGE_LETTERS: usize = 1000;

/// Dead letters of records that the store has not come to, or of partitions that the log does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StrayLetters {
    /// How many.
    pub count: u64,
    /// Partition and offset of the first [`FAULTS_KEPT`].
    pub first: Vec<(u32, u64)>,
}

impl HistoryReader {
    /// The dead letters at or past the store's cursors, and those of partitions that are none of the log's `partitions`. Each
    /// page is compared with the cursors of the same moment: what comes in meanwhile is none of them. Reads nothing else.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn stray_letters(&self, partitions: u32) -> Result<StrayLetters, ReadError> {
        let mut strays = StrayLetters::default();
        for partition in 0..partitions {
            let view = self.view().await?;
            let next = view.state().await?.cursors.get(&partition).map_or(0, |cursor| cursor.next);
            let range = view.keys.dead_range(partition, next);
            self.stray_letters_of(view, range, &mut strays).await?;
        }
        let view = self.view().await?;
        let range = view.keys.dead(partitions, 0).to_vec()..view.keys.all_dead_range().end;
        self.stray_letters_of(view, range, &mut strays).await?;
        Ok(strays)
    }

    async fn stray_letters_of(
        &self,
        mut view: HistoryView,
        mut range: Range<Vec<u8>>,
        strays: &mut StrayLetters,
    ) -> Result<(), ReadError> {
        loop {
            let page = view.snapshot.range(&range.start, &range.end, PAGE_LETTERS).await?;
            let cursors = if page.pairs.is_empty() { Default::default() } else { view.state().await?.cursors };
            for (key, _) in &page.pairs {
                let (partition, offset) = view.keys.parse_dead(key)?;
                // A partition that was the log's when the store consumed it still has its cursor.
                if cursors.get(&partition).is_some_and(|cursor| offset < cursor.next) {
                    continue;
                }
                strays.count += 1;
                if strays.first.len() < FAULTS_KEPT {
                    strays.first.push((partition, offset));
                }
            }
            match page.pairs.last() {
                Some((last, _)) if page.more => range.start = after(last),
                _ => return Ok(()),
            }
            view = self.view().await?;
        }
    }
}
