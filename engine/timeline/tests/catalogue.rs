//! The catalogue on the embedded keyspace.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

use std::path::Path;
use std::sync::Arc;

use millrace_keyspace::embedded::{EmbeddedKeyspace, Options};
use millrace_rows::LogId;
use millrace_timeline::catalogue::{BLOB_CHUNK_BYTES, ImportPosition};
use millrace_timeline::{Catalogue, CatalogueError, ChainSpec, Kind, PluginRef, Ranges, Revision, StepSpec};

async fn open(dir: &Path) -> (Catalogue, Arc<EmbeddedKeyspace>) {
    let keyspace = Arc::new(EmbeddedKeyspace::open(dir, Options::default()).await.unwrap());
    (Catalogue::open(keyspace.clone(), "test").await.unwrap(), keyspace)
}

fn revision(id: u64, plugin: Option<PluginRef>) -> Revision {
    let steps = plugin
        .map(|plugin| StepSpec { plugin, config: "{}".into(), limits: serde_json::json!({"fuel": 1}) })
        .into_iter()
        .collect();
    Revision {
        id,
        kind: Kind::Activate,
        ranges: if id == 1 { Ranges::everything() } else { Ranges::from_ends([(0, 10), (1, 20)]) },
        chain: ChainSpec { semantics: 1, steps },
        author: "test".into(),
        reason: "because".into(),
        created_at_us: 5,
    }
}

fn plugin_bytes() -> Vec<u8> {
    (0..BLOB_CHUNK_BYTES * 2 + 17).map(|n| (n % 251) as u8).collect()
}

#[tokio::test]
async fn revisions_are_appended_in_order_and_by_one_writer() {
    let dir = tempfile::tempdir().unwrap();
    let (catalogue, _keyspace) = open(dir.path()).await;
    assert_eq!(catalogue.timeline().await.unwrap().head(), 0);
    assert!(matches!(catalogue.append(&revision(2, None)).await, Err(CatalogueError::Timeline(_))));
    catalogue.append(&revision(1, None)).await.unwrap();
    assert!(matches!(catalogue.append(&revision(1, None)).await, Err(CatalogueError::RevisionExists(1))));
    let mut appends = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let catalogue = catalogue.clone();
        appends.spawn(async move { catalogue.append(&revision(2, None)).await.is_ok() });
    }
    let won = appends.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(won, 1);
    let timeline = catalogue.timeline().await.unwrap();
    assert_eq!(timeline.revisions(), [revision(1, None), revision(2, None)]);
}

#[tokio::test]
async fn a_plugin_keeps_its_bytes_and_its_name_keeps_its_content() {
    let dir = tempfile::tempdir().unwrap();
    let (catalogue, _keyspace) = open(dir.path()).await;
    let wasm = plugin_bytes();
    let plugin = catalogue.put_plugin("p", "1.0.0", &wasm, 7).await.unwrap();
    assert_eq!(catalogue.put_plugin("p", "1.0.0", &wasm, 8).await.unwrap(), plugin, "the same again changes nothing");
    assert_eq!(catalogue.plugin_bytes(&plugin).await.unwrap(), wasm);
    assert_eq!(catalogue.plugin("p", "1.0.0").await.unwrap().unwrap().stored_at_us, 7);
    let other = catalogue.put_plugin("p", "1.0.0", b"other", 9).await;
    assert!(matches!(other, Err(CatalogueError::PluginDiffers { .. })));
    let missing = PluginRef { sha256: "00".repeat(32), ..plugin };
    assert!(matches!(catalogue.plugin_bytes(&missing).await, Err(CatalogueError::NoSuchPlugin(_))));
}

#[tokio::test]
async fn a_catalogue_is_tied_to_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let (catalogue, _keyspace) = open(dir.path()).await;
    catalogue.bind_log(LogId([1; 16])).await.unwrap();
    catalogue.bind_log(LogId([1; 16])).await.unwrap();
    assert!(matches!(catalogue.bind_log(LogId([2; 16])).await, Err(CatalogueError::OtherLog { .. })));
}

async fn exported(dir: &Path) -> Vec<u8> {
    let (catalogue, _keyspace) = open(dir).await;
    let plugin = catalogue.put_plugin("p", "1.0.0", &plugin_bytes(), 7).await.unwrap();
    catalogue.append(&revision(1, Some(plugin))).await.unwrap();
    catalogue.append(&revision(2, None)).await.unwrap();
    catalogue.set_import_position("cafe", ImportPosition { lines: 9 }).await.unwrap();
    catalogue.bind_log(LogId([1; 16])).await.unwrap();
    let mut file = Vec::new();
    catalogue.export(&mut file).await.unwrap();
    file
}

#[tokio::test]
async fn an_export_restores_to_the_same_catalogue() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = exported(from.path()).await;
    let (catalogue, _keyspace) = open(to.path()).await;
    catalogue.restore(file.as_slice()).await.unwrap();
    let timeline = catalogue.timeline().await.unwrap();
    assert_eq!(timeline.head(), 2);
    let plugin = &timeline.get(1).unwrap().chain.steps[0].plugin;
    assert_eq!(catalogue.plugin_bytes(plugin).await.unwrap(), plugin_bytes());
    assert_eq!(catalogue.import_position("cafe").await.unwrap().lines, 9);
    let mut again = Vec::new();
    catalogue.export(&mut again).await.unwrap();
    assert_eq!(again, file);
    assert!(matches!(catalogue.restore(file.as_slice()).await, Err(CatalogueError::Restore(_))), "not over a timeline");
}

#[tokio::test]
async fn a_damaged_export_is_refused_before_anything_is_written() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = exported(from.path()).await;
    let (catalogue, _keyspace) = open(to.path()).await;
    let lines: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
    let cut = lines[..lines.len() - 1].concat();
    let reordered = [&lines[..1], &lines[2..3], &lines[1..2], &lines[3..]].concat().concat();
    let without_one = [&lines[..1], &lines[2..]].concat().concat();
    for bad in [
        b"".to_vec(),
        b"{}\n".to_vec(),
        b"PK\x03\x04".to_vec(),
        file[..file.len() / 2].to_vec(),
        cut,
        reordered,
        without_one,
    ] {
        let restored = catalogue.restore(bad.as_slice()).await;
        assert!(restored.is_err(), "{:?}", String::from_utf8_lossy(&bad[..bad.len().min(60)]));
        assert_eq!(catalogue.timeline().await.unwrap().head(), 0);
        assert!(catalogue.plugin("p", "1.0.0").await.unwrap().is_none());
    }
}
