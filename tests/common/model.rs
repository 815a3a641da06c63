//! What both stores should hold, by a model that knows nothing of stores.

use std::collections::BTreeSet;
use std::sync::Arc;

use millrace_log::ReadLimit;
use millrace_pipeline::engine::Engine;
use millrace_pipeline::transform::{Segment, transform};
use millrace_pipeline::verify::VerifyOptions;

use super::{Audit, PATIENCE, Rows, add};

/// Returns once both stores have all of log and timeline. What fails in a store meanwhile is tried again there.
pub async fn rest(engine: &Engine, what: &str) {
    let mut progress = engine.progress().subscribe();
    let mut problem = String::new();
    let comes = async {
        loop {
            progress.mark_unchanged();
            let drained = engine.drain().await;
            match if drained.is_ok() { engine.settle().await } else { drained } {
                Ok(()) => return,
                Err(found) => problem = found,
            }
            progress.changed().await.unwrap();
        }
    };
    let rests = tokio::time::timeout(PATIENCE, comes).await;
    assert!(rests.is_ok(), "{what}: the stores do not come to rest: {problem} {:#?}", engine.progress().snapshot());
}

/// What log and timeline say, record by record: each alone, through the first chain that a plain look at all revisions
/// finds.
pub async fn model(engine: &Engine) -> (Rows, BTreeSet<(u32, u64)>) {
    let timeline = engine.timeline();
    let (mut rows, mut dead) = (Rows::new(), BTreeSet::new());
    for partition in 0..engine.log().partitions() {
        let bounds = engine.log().bounds(partition).await.unwrap();
        for offset in bounds.start..bounds.end {
            let record = engine.log().read(partition, offset, ReadLimit { records: 1, bytes: 1 }).await.unwrap();
            let decoded = engine.processor().decoder().decode(&record, partition, engine.log().id());
            let value = |column: &str| {
                let column = arrow::array::AsArray::as_string::<i32>(decoded.batch.column_by_name(column)?);
                Some(column.value(0))
            };
            let in_force = timeline.revisions().iter().rev().find(|revision| {
                revision.ranges.of(partition).is_some_and(|range| range.contains(offset))
                    && (revision.filter.is_empty() || (decoded.batch.num_rows() == 1 && revision.filter.matches(value)))
            });
            let revision = in_force.unwrap();
            let chain = engine.processor().chains().get(revision).await.unwrap();
            let segment = Segment::of(offset..offset + 1, revision.id, chain);
            let outcome =
                transform(engine.processor().decoder(), &[segment], engine.log().id(), partition, &record).unwrap();
            add(&mut rows, &outcome.rows, "model");
            dead.extend(outcome.dead.iter().map(|dead| (partition, dead.offset)));
        }
    }
    (rows, dead)
}

/// Both stores are what the model says, and `verify` agrees.
pub async fn check(engine: &Arc<Engine>, what: &str) {
    rest(engine, what).await;
    let audit = Audit::of_engine(engine).await;
    assert_eq!(audit.differences(), Vec::<String>::new(), "{what}");
    let (rows, dead) = model(engine).await;
    assert!(audit.history == rows, "{what}: the history differs from the model");
    assert!(audit.delta == rows, "{what}: the table differs from the model");
    assert_eq!(audit.dead[1].iter().copied().collect::<BTreeSet<_>>(), dead, "{what}");
    let options = VerifyOptions { full: true, ..VerifyOptions::default() };
    let report = engine.verifier().run(&options, |_| ()).await.unwrap();
    assert_eq!((report.differences, &report.first), (0, &vec![]), "{what}: {report:?}");
    assert_eq!(report.rows_checked, 2 * rows.len() as u64, "{what}: {report:?}");
}
