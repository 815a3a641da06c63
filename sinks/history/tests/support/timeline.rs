//! A log under a row of revisions: what each record is after each of them, and what a history may show of it.

use std::collections::BTreeMap;
use std::ops::Range;

use millrace_history::{HistoryView, RowKey};
use millrace_rows::{DeadLetter, Rewrite, Slice};
use rand::Rng;
use rand::rngs::StdRng;

use super::rewriting::{Chosen, change};
use super::{Log, batch, encoded};

/// What a record left: its rows, or its dead letter.
pub type Left = (Vec<(RowKey, Vec<u8>)>, Option<DeadLetter>);

/// Logs under revisions 0, 1, 2 …
pub struct Timeline {
    logs: Vec<Vec<Log>>,
    /// The records that each revision is in force for, if no later one is; nothing for revision 0, which is for all.
    chosen: Vec<Chosen>,
    /// What each record may have left, by revisions taken into account.
    versions: BTreeMap<(u32, u64), Vec<Left>>,
}

impl Timeline {
    pub fn random(partitions: u32, records: usize, revisions: usize, random: &mut StdRng) -> Self {
        let mut logs: Vec<Vec<Log>> =
            vec![(0..partitions).map(|partition| Log::random(partition, records, random)).collect()];
        let mut chosen = vec![Chosen::new()];
        for revision in 0..revisions {
            let (changed, of) = change(&logs[revision], random);
            logs.push(changed);
            chosen.push(of);
        }
        let mut timeline = Self { logs, chosen, versions: BTreeMap::new() };
        let mut versions: BTreeMap<(u32, u64), Vec<Left>> = BTreeMap::new();
        for revision in 0..=revisions as u64 {
            for log in timeline.logs_under(revision) {
                for offset in log.records.keys().copied() {
                    let of = offset..offset + 1;
                    let in_force = |offset| timeline.in_force(revision, log.partition, offset);
                    let rows = log.rows(of.clone(), in_force);
                    let keys = rows.iter().map(|row| row.key(log.partition));
                    let left = (keys.zip(encoded(log.partition, &rows)).collect(), log.dead(of, in_force).pop());
                    versions.entry((log.partition, offset)).or_default().push(left);
                }
            }
        }
        timeline.versions = versions;
        timeline
    }

    pub fn revisions(&self) -> u64 {
        self.logs.len() as u64 - 1
    }

    pub fn logs_under(&self, revision: u64) -> Vec<Log> {
        self.logs[revision as usize].clone()
    }

    /// The revision that decides a record where `applied` are taken into account.
    pub fn in_force(&self, applied: u64, partition: u32, offset: u64) -> u64 {
        let decides = |revision: &u64| self.chosen[*revision as usize].contains(&(partition, offset));
        (1..=applied).rev().find(decides).unwrap_or(0)
    }

    pub fn slice(&self, partition: u32, first: u64, count: usize, applied: u64) -> Option<Slice> {
        let log = &self.logs[applied as usize][partition as usize];
        let mut slice = log.slice(first, count, applied)?;
        let in_force = |offset| self.in_force(applied, partition, offset);
        slice.rows = batch(partition, &log.rows(slice.offsets(), in_force));
        slice.dead = log.dead(slice.offsets(), in_force);
        Some(slice)
    }

    /// The records of `revision`, made again where `applied` are taken into account.
    pub fn rewrite(&self, partition: u32, offsets: Range<u64>, revision: u64, applied: u64) -> Rewrite {
        let log = &self.logs[applied as usize][partition as usize];
        let chosen = |offset: u64| self.chosen[revision as usize].contains(&(partition, offset));
        let mut rewrite = log.rewrite(offsets.clone(), chosen, applied);
        let in_force = |offset| self.in_force(applied, partition, offset);
        let mut rows = log.rows(offsets.clone(), in_force);
        rows.retain(|row| chosen(row.offset));
        rewrite.rows = batch(partition, &rows);
        rewrite.dead = log.dead(offsets, in_force);
        rewrite.dead.retain(|letter| chosen(letter.offset));
        rewrite
    }

    /// Checks that at one moment each record below the cursors shows all of one version of it and nothing else.
    pub async fn check_whole(&self, view: &HistoryView, random: &mut StdRng) {
        let state = view.state().await.unwrap();
        let mut named = BTreeMap::new();
        for (partition, cursor) in &state.cursors {
            let all = 0..cursor.next;
            let mut found: BTreeMap<u64, Left> = BTreeMap::new();
            let mut offsets = all.clone();
            loop {
                let page = view.materialized(*partition, offsets.clone()).await.unwrap();
                for row in page.rows {
                    assert!(offsets.contains(&row.key.offset));
                    let bytes = row.row.unwrap_or_else(|| panic!("{:?} is missing", row.key)).to_vec();
                    assert!(named.insert(row.key.clone(), bytes.clone()).is_none());
                    found.entry(row.key.offset).or_default().0.push((row.key, bytes));
                }
                match page.next {
                    Some(next) => offsets.start = next,
                    None => break,
                }
            }
            let letters = view.dead_letters_of(*partition, all.clone(), 10_000).await.unwrap();
            assert_eq!(letters.next, None);
            for letter in letters.letters {
                let offset = letter.offset;
                found.entry(offset).or_default().1 = Some(letter);
            }
            let log = &self.logs[0][*partition as usize];
            for offset in log.records.range(all.clone()).map(|(offset, _)| *offset) {
                let left = found.remove(&offset).unwrap_or_default();
                let versions = &self.versions[&(*partition, offset)][..=state.applied as usize];
                assert!(versions.contains(&left), "partition {partition}, offset {offset}: no version of it: {left:?}");
            }
            assert!(found.is_empty(), "{found:?}");

            let faults = view.lineage_faults(*partition, all.clone()).await.unwrap();
            let gaps: Vec<u64> = all.filter(|offset| !log.records.contains_key(offset)).collect();
            assert_eq!(faults.gaps.into_iter().flatten().collect::<Vec<_>>(), gaps);
            assert!(faults.overlaps.is_empty(), "{:?}", faults.overlaps);
        }
        // What the lineage names is all there is.
        let (mut last, mut count) = (None, 0);
        loop {
            let page = view.rows(last.as_ref(), random.random_range(1..300)).await.unwrap();
            for row in &page.rows {
                assert_eq!(named.get(&row.key).map(Vec::as_slice), Some(&*row.row), "{:?}", row.key);
            }
            count += page.rows.len();
            last = page.next;
            if last.is_none() {
                break;
            }
        }
        assert_eq!(count, named.len());
    }
}
