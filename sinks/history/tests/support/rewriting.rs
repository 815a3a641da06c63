//! Jobs, and loops that work them off.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millrace_history::{HistoryReader, HistoryRewriter, HistoryStore};
use millrace_keyspace::Keyspace;
use millrace_rows::{Backlog, Job, Reason, Rewriter, Store, StoreError, StoreState};
use rand::Rng;
use rand::rngs::StdRng;

use super::{Log, ROOT, check_exact, random_outcome};

/// Records, by partition and offset.
pub type Chosen = BTreeSet<(u32, u64)>;

/// Consumes logs to their ends.
pub async fn consume(store: &mut HistoryStore, logs: &[Log], count: usize) -> StoreState {
    let mut state = store.load().await.unwrap();
    for log in logs {
        while let Some(slice) = log.slice(state.cursors.get(&log.partition).map_or(0, |c| c.next), count, state.applied)
        {
            store.stage(slice).await.unwrap();
            state = store.commit().await.unwrap();
        }
    }
    state
}

/// Takes in the next revision with a job over all that is there.
pub async fn take_in(store: &mut HistoryStore) -> StoreState {
    let state = store.load().await.unwrap();
    let revision = state.applied + 1;
    let below = state.cursors.iter().map(|(partition, cursor)| (*partition, cursor.next)).collect();
    store.take_in(revision, Some(Job { revision, below })).await.unwrap()
}

/// A history of `logs` with a job of revision 1 over all of it.
pub async fn filled(keyspace: &Arc<dyn Keyspace>, logs: &[Log]) -> StoreState {
    let mut store = HistoryStore::new(keyspace.clone(), ROOT);
    consume(&mut store, logs, 5000).await;
    take_in(&mut store).await
}

/// One step of the loop: the last `span` offsets of the first job, in each partition.
pub async fn step(
    rewriter: &mut HistoryRewriter,
    backlog: &Backlog,
    logs: &[Log],
    chosen: &Chosen,
    span: u64,
) -> Result<Backlog, StoreError> {
    let job = &backlog.jobs[0];
    let mut left = BTreeMap::new();
    for (partition, below) in &job.below {
        let start = below.saturating_sub(span);
        let middle = start + (below - start) / 2;
        let log = logs.iter().find(|log| log.partition == *partition).unwrap();
        for offsets in [start..middle, middle..*below] {
            let chosen = |offset| chosen.contains(&(*partition, offset));
            rewriter.stage(log.rewrite(offsets, chosen, backlog.state.applied)).await?;
            rewriter.flush(job.revision).await?;
        }
        if start > 0 {
            left.insert(*partition, start);
        }
    }
    rewriter.commit(job.revision, &left, &Reason::default()).await
}

/// Works all jobs off, loading again after each error.
pub async fn work_off(rewriter: &mut HistoryRewriter, logs: &[Log], chosen: &Chosen, span: u64) -> u32 {
    let (mut backlog, mut errors) = (rewriter.load().await.unwrap(), 0);
    while !backlog.jobs.is_empty() {
        backlog = match step(rewriter, &backlog, logs, chosen, span).await {
            Ok(backlog) => backlog,
            Err(StoreError::Broken { detail, .. }) => panic!("{detail}"),
            Err(_) => {
                errors += 1;
                rewriter.load().await.unwrap()
            }
        };
    }
    errors
}

/// Checks that no job is left and that the chosen records stand under revision 1, the others under 0.
pub async fn check_done(keyspace: &Arc<dyn Keyspace>, logs: &[Log], chosen: &Chosen) {
    let reader = HistoryReader::new(keyspace.clone(), ROOT);
    assert!(reader.view().await.unwrap().jobs().await.unwrap().is_empty());
    let state = reader.state().await.unwrap();
    check_exact(keyspace, logs, &state, |p, offset| u64::from(chosen.contains(&(p, offset)))).await;
}

/// Some records of each log become something else.
pub fn change(logs: &[Log], random: &mut StdRng) -> (Vec<Log>, Chosen) {
    let (mut logs, mut chosen) = (logs.to_vec(), Chosen::new());
    for log in &mut logs {
        let partition = log.partition;
        for (offset, outcome) in &mut log.records {
            if random.random_bool(0.4) {
                chosen.insert((partition, *offset));
                if random.random_bool(0.8) {
                    *outcome = random_outcome(random);
                }
            }
        }
    }
    (logs, chosen)
}
