//! The catalogue on the embedded keyspace.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

use std::path::Path;
use std::sync::Arc;

use millrace_keyspace::embedded::{EmbeddedKeyspace, Options};
use millrace_rows::LogId;
use millrace_timeline::access::{AUDIT_ENTRIES_MAX, AuditEntry, PauseEntry, TokenEntry};
use millrace_timeline::catalogue::{BLOB_CHUNK_BYTES, ImportPosition, check_sizes};
use millrace_timeline::chain::PluginName;
use millrace_timeline::{
    Catalogue, CatalogueError, ChainSpec, Filter, Kind, PluginEntry, PluginRef, Ranges, Revision, StepSpec, TableEntry,
};

async fn open(dir: &Path) -> (Catalogue, Arc<EmbeddedKeyspace>) {
    let keyspace = Arc::new(EmbeddedKeyspace::open(dir, Options::default()).await.unwrap());
    (Catalogue::open(keyspace.clone(), "test").await.unwrap(), keyspace)
}

fn revision(id: u64, plugin: Option<PluginRef>) -> Revision {
    let steps = plugin
        .map(|plugin| StepSpec {
            plugin,
            config: "{}".into(),
            limits: serde_json::json!({"fuel": 1}),
            halts: false,
            tables: vec![],
            manifest: None,
        })
        .into_iter()
        .collect();
    Revision {
        id,
        kind: Kind::Activate,
        ranges: if id == 1 { Ranges::everything() } else { Ranges::from_ends([(0, 10), (1, 20)]) },
        filter: Filter::default(),
        group: None,
        chain: ChainSpec { semantics: 1, steps },
        author: "test".into(),
        reason: "because".into(),
        created_at_us: 5,
    }
}

fn at(stored_at_us: i64) -> PluginEntry {
    PluginEntry { stored_at_us, uploader: "test".into(), ..PluginEntry::default() }
}

fn table_entry() -> TableEntry {
    TableEntry {
        sha256: String::new(),
        bytes: 0,
        rows: 1,
        columns: vec![],
        lookup: serde_json::json!({"key": "k"}),
        uploader: "test".into(),
        stored_at_us: 5,
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
    let plugin = catalogue.put_plugin("p", "1.0.0", &wasm, at(7)).await.unwrap();
    assert_eq!(
        catalogue.put_plugin("p", "1.0.0", &wasm, at(8)).await.unwrap(),
        plugin,
        "the same again changes nothing"
    );
    assert_eq!(catalogue.plugin_bytes(&plugin).await.unwrap(), wasm);
    assert_eq!(catalogue.plugin("p", "1.0.0").await.unwrap().unwrap().stored_at_us, 7);
    let other = catalogue.put_plugin("p", "1.0.0", b"other", at(9)).await;
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
    let plugin = catalogue.put_plugin("p", "1.0.0", &plugin_bytes(), at(7)).await.unwrap();
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

#[tokio::test]
async fn what_a_revision_refers_to_can_not_be_deleted_and_the_rest_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (catalogue, _keyspace) = open(dir.path()).await;
    let [used, unused] = ["1.0.0", "2.0.0"].map(|version| PluginName { name: "p".into(), version: version.into() });
    let plugin = catalogue.put_plugin("p", "1.0.0", &plugin_bytes(), at(7)).await.unwrap();
    catalogue.put_plugin("p", "2.0.0", &plugin_bytes(), at(8)).await.unwrap();
    let other = catalogue.put_plugin("p", "3.0.0", b"other bytes", at(8)).await.unwrap();
    let (table, _) = catalogue.put_table("t", b"rows", table_entry()).await.unwrap();
    let mut first = revision(1, Some(plugin.clone()));
    first.chain.steps[0].tables.push(table.clone());
    catalogue.append(&first).await.unwrap();
    for refused in [catalogue.delete_plugin(&used).await, catalogue.delete_table("t", 1).await] {
        assert!(matches!(refused, Err(CatalogueError::InUse { revisions, .. }) if revisions == [1]));
    }
    // Its bytes are those of another version, which stays whole.
    catalogue.delete_plugin(&unused).await.unwrap();
    assert_eq!(catalogue.plugin_bytes(&plugin).await.unwrap(), plugin_bytes());
    assert!(matches!(catalogue.delete_plugin(&unused).await, Err(CatalogueError::NoSuchPlugin(_))));
    catalogue.delete_plugin(&PluginName { name: "p".into(), version: "3.0.0".into() }).await.unwrap();
    assert!(matches!(catalogue.plugin_bytes(&other).await, Err(CatalogueError::NoSuchPlugin(_))));
    let names: Vec<String> = catalogue.plugins().await.unwrap().iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["p@1.0.0"]);
    // A chain of something that is gone never comes into force.
    let gone = revision(2, Some(other));
    assert!(matches!(catalogue.append(&gone).await, Err(CatalogueError::NoSuchPlugin(_))));
    let mut long = revision(2, Some(plugin));
    long.chain.steps[0].config = format!("\"{}\"", "x".repeat(100_000));
    assert!(matches!(catalogue.append(&long).await, Err(CatalogueError::RevisionTooLarge(_))));
    // As many as there must be for the same limit of a group to be known before anything is staged.
    let mut group: Vec<_> = (2..10).map(|id| revision(id, None)).collect();
    assert!(check_sizes(&group).is_ok());
    group.iter_mut().for_each(|revision| revision.reason = "x".repeat(90_000));
    assert!(matches!(check_sizes(&group), Err(CatalogueError::GroupTooLarge { revisions: 8 })));
    assert!(matches!(catalogue.append_all(&group).await, Err(CatalogueError::GroupTooLarge { .. })));
    assert_eq!(catalogue.timeline().await.unwrap().head(), 1);
}

#[tokio::test]
async fn a_table_has_versions_and_the_newest_is_not_stored_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (catalogue, _keyspace) = open(dir.path()).await;
    let mut versions = Vec::new();
    for bytes in [&b"one"[..], b"two", b"two", b"one"] {
        versions.push(catalogue.put_table("t", bytes, table_entry()).await.unwrap().0.version);
    }
    assert_eq!(versions, [1, 2, 2, 3]);
    let (newest, entry) = catalogue.table("t", None).await.unwrap().unwrap();
    assert_eq!((newest.version, entry.bytes), (3, 3));
    assert_eq!(catalogue.table_bytes(&catalogue.table("t", Some(2)).await.unwrap().unwrap().0).await.unwrap(), b"two");
    assert!(
        catalogue.table("t", Some(9)).await.unwrap().is_none() && catalogue.table("u", None).await.unwrap().is_none()
    );
    // Two versions have the same bytes: deleting one keeps them.
    catalogue.delete_table("t", 1).await.unwrap();
    assert_eq!(catalogue.table_bytes(&newest).await.unwrap(), b"one");
    assert_eq!(catalogue.tables().await.unwrap().len(), 2);
}

#[tokio::test]
async fn deprecation_tokens_audit_and_pause_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (catalogue, _keyspace) = open(dir.path()).await;
    catalogue.put_plugin("p", "1.0.0", b"bytes", at(7)).await.unwrap();
    let name: PluginName = "p@1.0.0".parse().unwrap();
    catalogue.deprecate_plugin(&name, Some("use 2.0.0".into())).await.unwrap();
    assert_eq!(catalogue.plugin("p", "1.0.0").await.unwrap().unwrap().deprecated.as_deref(), Some("use 2.0.0"));
    assert_eq!(catalogue.deprecate_plugin(&name, None).await.unwrap().deprecated, None);

    let token = TokenEntry {
        name: "ops".into(),
        sha256: "00".into(),
        scopes: vec!["admin".into()],
        app: None,
        requests_per_second: None,
        created_at_us: 1,
        revoked_at_us: None,
    };
    catalogue.put_token("a", &token).await.unwrap();
    assert!(catalogue.put_token("a", &token).await.is_err(), "an id is used once");
    assert_eq!(catalogue.revoke_token("a", 9).await.unwrap().revoked_at_us, Some(9));
    assert_eq!(catalogue.revoke_token("a", 10).await.unwrap().revoked_at_us, Some(9), "the first time counts");
    assert_eq!(catalogue.tokens().await.unwrap().len(), 1);
    assert!(matches!(catalogue.revoke_token("b", 9).await, Err(CatalogueError::NoSuchToken(_))));

    for n in 0..5 {
        let entry = AuditEntry { at_us: n, who: "ops".into(), action: "x".into(), subject: "y".into(), detail: None };
        catalogue.audit(&entry).await.unwrap();
    }
    let trail: Vec<i64> = catalogue.audit_trail(3).await.unwrap().iter().map(|entry| entry.at_us).collect();
    assert_eq!(trail, [4, 3, 2]);
    const { assert!(AUDIT_ENTRIES_MAX > 5) };

    let pause = PauseEntry { at_us: 3, who: "ops".into(), reason: "look".into() };
    catalogue.set_pause(Some(&pause)).await.unwrap();
    assert_eq!(catalogue.pause().await.unwrap(), Some(pause));
    catalogue.set_pause(None).await.unwrap();
    assert_eq!(catalogue.pause().await.unwrap(), None);
}
