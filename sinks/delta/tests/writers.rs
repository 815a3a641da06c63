//! Several writers of one table: of this crate, and others.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::*;
use deltalake::kernel::transaction::{CommitBuilder, TableReference};
use deltalake::kernel::{Action, DataType, MetadataExt as _, PrimitiveType, StructField};
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::{DeltaTable, ensure_table_uri, open_table};
use futures::TryStreamExt;
use millrace_delta::{DeltaStore, Options};
use millrace_rows::{ColumnType, Slice, Store, StoreError};

async fn foreign(path: &std::path::Path) -> DeltaTable {
    open_table(ensure_table_uri(path.to_str().unwrap()).unwrap()).await.unwrap()
}

async fn foreign_commit(table: &DeltaTable, actions: Vec<Action>, operation: DeltaOperation) {
    let state = table.snapshot().unwrap();
    CommitBuilder::default()
        .with_actions(actions)
        .build(Some(state as &dyn TableReference), table.log_store(), operation)
        .await
        .unwrap();
}

fn write_operation() -> DeltaOperation {
    DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None }
}

/// Puts every file under another name, as a compaction does.
#[expect(deprecated, reason = "the shortest way from a file to its actions")]
async fn compact(path: &std::path::Path) {
    let table = foreign(path).await;
    let files: Vec<_> =
        table.snapshot().unwrap().snapshot().file_views(&table.log_store(), None).try_collect().await.unwrap();
    let mut actions = Vec::new();
    for file in files {
        let mut add = file.add_action();
        let copied = add.path.replace(".parquet", "-compacted.parquet");
        copy(path, &add.path, &copied);
        actions.push(Action::Remove(file.remove_action(false)));
        add.path = copied;
        add.data_change = false;
        actions.push(Action::Add(add));
    }
    foreign_commit(&table, actions, DeltaOperation::Optimize { predicate: None, target_size: 1 }).await;
}

fn is_fenced<T: std::fmt::Debug>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Fenced { .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_writers_of_one_cursor_one_wins_each_race() {
    let directory = place();
    let (mut first, mut second) = (open(directory.path()).await, open(directory.path()).await);
    let (mut won, mut lost) = (0, 0);
    let mut slices = Vec::new();
    for round in 0..20u64 {
        let slice = slice(0, round * 10, 10, 2);
        slices.push(slice.clone());
        for writer in [&mut first, &mut second] {
            writer.load().await.unwrap();
            writer.stage(slice.clone()).await.unwrap();
        }
        let (one, two) = tokio::join!(first.commit(), second.commit());
        for result in [&one, &two] {
            match result {
                Ok(state) => {
                    assert_eq!(state.cursors[&0], slice.cursor);
                    won += 1;
                }
                Err(_) => {
                    assert!(is_fenced(result), "{result:?}");
                    lost += 1;
                }
            }
        }
    }
    assert_eq!((won, lost), (20, 20), "exactly one wins");
    assert_eq!(read_table(&first.reader()).await, expected(&slices));
    let status = first.reader().status().await.unwrap();
    assert_eq!(status.rows, 200);
    first.load().await.unwrap();
    second.load().await.unwrap();
    assert_eq!(data_files(directory.path()).len() as u64, status.files, "the losers' files are deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_of_different_partitions_do_not_fence_each_other() {
    let directory = place();
    let writers: Vec<_> = (0..3u32)
        .map(|partition| {
            let path = directory.path().to_owned();
            tokio::spawn(async move {
                let mut store = open(&path).await;
                for n in 0..15 {
                    store.stage(slice(partition, n * 4, 4, 1)).await.unwrap();
                    store.commit().await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let mut store = open(directory.path()).await;
    let state = store.load().await.unwrap();
    assert_eq!(state.cursors, (0..3).map(|partition| (partition, cursor(60))).collect());
    let slices: Vec<Slice> = (0..3).map(|partition| slice(partition, 0, 60, 1)).collect();
    assert_eq!(read_table(&store.reader()).await, expected(&slices));
}

#[tokio::test]
async fn a_writer_that_missed_a_revision_is_fenced_and_one_that_takes_it_in_relies_on_every_cursor() {
    let directory = place();
    let (mut first, mut second) = (open(directory.path()).await, open(directory.path()).await);
    first.stage(slice(0, 0, 5, 1)).await.unwrap();
    second.take_in(1, None).await.unwrap();
    let missed = first.commit().await;
    assert!(is_fenced(&missed), "{missed:?}");
    assert_eq!(first.load().await.unwrap().applied, 1);

    second.stage(slice_with(7, 0, 5, 1, 1, &[])).await.unwrap();
    second.commit().await.unwrap();
    let moved = first.take_in(2, None).await;
    assert!(is_fenced(&moved), "a cursor moved: {moved:?}");
    assert_eq!(first.load().await.unwrap().applied, 1);
    assert_eq!(first.take_in(2, None).await.unwrap().applied, 2);
}

#[tokio::test]
async fn compaction_and_property_changes_in_between_are_no_conflict() {
    let directory = place();
    let mut store = open(directory.path()).await;
    let slices: Vec<Slice> = (0..3).map(|n| slice(0, n * 10, 10, 2)).collect();
    store.stage(slices[0].clone()).await.unwrap();
    store.commit().await.unwrap();

    store.stage(slices[1].clone()).await.unwrap();
    compact(directory.path()).await;
    store.commit().await.unwrap();
    assert_eq!(read_table(&store.reader()).await, expected(&slices[..2]));

    store.stage(slices[2].clone()).await.unwrap();
    let properties = HashMap::from([("delta.checkpointInterval".to_owned(), "50".to_owned())]);
    foreign(directory.path()).await.set_tbl_properties().with_properties(properties).await.unwrap();
    store.commit().await.unwrap();
    assert_eq!(store.version(), Some(5));
    assert_eq!(read_table(&store.reader()).await, expected(&slices));
    let properties = foreign(directory.path()).await;
    let configuration = properties.snapshot().unwrap().metadata().configuration().clone();
    assert_eq!(configuration["delta.checkpointInterval"], "50");
}

#[tokio::test]
async fn a_column_added_by_somebody_else_meanwhile_is_kept_beside_ours() {
    let directory = place();
    let mut store = open(directory.path()).await;
    let slice = slice_with(0, 0, 10, 1, 0, &[added("ours", ColumnType::Int64)]);
    store.stage(slice.clone()).await.unwrap();
    let theirs = StructField::nullable("theirs", DataType::Primitive(PrimitiveType::String));
    foreign(directory.path()).await.add_columns().with_fields([theirs]).await.unwrap();
    store.commit().await.unwrap();
    let table = foreign(directory.path()).await;
    let schema = table.snapshot().unwrap().schema();
    assert!(schema.field("ours").is_some() && schema.field("theirs").is_some());
    assert_eq!(read_table(&store.reader()).await, expected([&slice]));

    // The same name with another type: nothing is written.
    store.load().await.unwrap();
    store.stage(slice_with(0, 10, 10, 1, 0, &[added("score", ColumnType::Int64)])).await.unwrap();
    let other = StructField::nullable("score", DataType::Primitive(PrimitiveType::String));
    foreign(directory.path()).await.add_columns().with_fields([other]).await.unwrap();
    let result = store.commit().await;
    let Err(StoreError::Broken { detail, .. }) = result else { panic!("{result:?}") };
    assert!(detail.contains("\"score\" is int64"), "{detail}");
}

#[tokio::test]
async fn a_change_of_the_protocol_stops_the_writer() {
    let directory = place();
    let mut store = open(directory.path()).await;
    store.stage(slice(0, 0, 10, 1)).await.unwrap();
    let table = foreign(directory.path()).await;
    let protocol = serde_json::from_str(r#"{"minReaderVersion":1,"minWriterVersion":4}"#).unwrap();
    foreign_commit(&table, vec![Action::Protocol(protocol)], write_operation()).await;
    let result = store.commit().await;
    assert!(matches!(&result, Err(StoreError::Broken { detail, .. }) if detail.contains("protocol")), "{result:?}");
    let result = store.load().await;
    assert!(matches!(&result, Err(StoreError::Broken { detail, .. }) if detail.contains("writer 4")), "{result:?}");
}

#[tokio::test]
async fn an_old_view_looks_at_the_table_again_before_it_commits() {
    let directory = place();
    let (mut sleeper, mut other) = (open(directory.path()).await, open(directory.path()).await);
    sleeper.stage(slice(0, 0, 10, 1)).await.unwrap();
    for n in 0..3 {
        other.stage(slice(1, n * 10, 10, 1)).await.unwrap();
        other.commit().await.unwrap();
    }
    // The entries that the sleeper would have to read are cleaned up: a put at its next version would succeed.
    assert_eq!(other.maintainer().run().await.unwrap().checkpoint, None, "not due");
    let mut checkpointing = open_with(directory.path(), Options { checkpoint_every: 1, ..options() }).await;
    assert_eq!(checkpointing.maintainer().run().await.unwrap().checkpoint, Some(3));
    for version in 1..=2 {
        remove(directory.path(), &format!("_delta_log/{version:020}.json"));
    }
    sleeper.age_view(Duration::from_secs(25 * 3600));
    let state = sleeper.commit().await.unwrap();
    assert_eq!((sleeper.version(), state.cursors[&0], state.cursors[&1]), (Some(4), cursor(10), cursor(30)));
    checkpointing.load().await.unwrap();
    assert_eq!(read_table(&other.reader()).await, expected(&[slice(0, 0, 10, 1), slice(1, 0, 30, 1)]));

    // And is fenced if its cursor moved meanwhile.
    sleeper.stage(slice(0, 10, 10, 1)).await.unwrap();
    other.load().await.unwrap();
    other.stage(slice(0, 10, 10, 1)).await.unwrap();
    other.commit().await.unwrap();
    sleeper.age_view(Duration::from_secs(25 * 3600));
    let moved = sleeper.commit().await;
    assert!(is_fenced(&moved), "{moved:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_that_create_the_table_at_once_make_one() {
    for _ in 0..10 {
        let directory = place();
        let path = directory.path().join("a new/täble");
        let (one, two) = tokio::join!(
            DeltaStore::open(path.to_str().unwrap(), options()),
            DeltaStore::open(path.to_str().unwrap(), options())
        );
        let (mut one, mut two) = (one.unwrap(), two.unwrap());
        assert_eq!(entries(&path), ["00000000000000000000.json"]);
        for (partition, writer) in [&mut one, &mut two].into_iter().enumerate() {
            writer.load().await.unwrap();
            writer.stage(slice(partition as u32, 0, 3, 1)).await.unwrap();
            writer.commit().await.unwrap();
        }
        assert_eq!(read_table(&one.reader()).await, expected(&[slice(0, 0, 3, 1), slice(1, 0, 3, 1)]));
        assert_eq!(data_files(&path).len(), 2, "beside the log, whatever the characters of the path");
    }
}

async fn refusal(path: &std::path::Path) -> String {
    match DeltaStore::open(path.to_str().unwrap(), options()).await {
        Err(StoreError::Broken { detail, .. }) => detail,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("the table was accepted"),
    }
}

#[tokio::test]
async fn tables_that_are_not_ours_are_refused_with_the_reason() {
    let other = place();
    let columns = [StructField::nullable("id", DataType::Primitive(PrimitiveType::Long))];
    DeltaTable::try_from_url(ensure_table_uri(other.path().to_str().unwrap()).unwrap())
        .await
        .unwrap()
        .create()
        .with_columns(columns)
        .await
        .unwrap();
    let detail = refusal(other.path()).await;
    assert!(detail.contains("partitioned by []") && detail.contains("\"device_id\" is missing"), "{detail}");

    let expiring = place();
    open(expiring.path()).await;
    let properties =
        HashMap::from([("delta.setTransactionRetentionDuration".to_owned(), "interval 7 days".to_owned())]);
    foreign(expiring.path()).await.set_tbl_properties().with_properties(properties).await.unwrap();
    assert!(refusal(expiring.path()).await.contains("setTransactionRetentionDuration"));

    let retyped = place();
    open(retyped.path()).await;
    let table = foreign(retyped.path()).await;
    let state = table.snapshot().unwrap();
    let schema = state.schema();
    let fields = schema.fields().cloned().map(|field| {
        if field.name() == "app" {
            StructField::nullable("app", DataType::Primitive(PrimitiveType::Long))
        } else {
            field
        }
    });
    let schema = deltalake::kernel::StructType::try_new(fields.collect::<Vec<_>>()).unwrap();
    let metadata = state.metadata().clone().with_schema(&schema).unwrap();
    foreign_commit(&table, vec![Action::Metadata(metadata)], write_operation()).await;
    assert!(refusal(retyped.path()).await.contains("column \"app\" is long, not string"));
}
