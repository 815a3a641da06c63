//! The commit entry: the lines of `_delta_log/<version>.json`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use deltalake::kernel::Metadata;
use millrace_rows::schema::EVENT_DATE;
use millrace_rows::{Reason, Rewrite, Slice};
use serde::Serialize;
use serde_json::json;

use crate::conflict::Reliance;
use crate::encode::StagedFile;
use crate::markers::Marker;
use crate::offsets::Remade;
use crate::reader::FileStatistics;

/// What a commit records of one log partition: for people who look at the table's history. Nothing reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PartitionCounts {
    pub(crate) first: u64,
    pub(crate) next: u64,
    pub(crate) read: u64,
    pub(crate) rows: u64,
    pub(crate) dropped: u64,
    pub(crate) dead: u64,
}

impl PartitionCounts {
    pub(crate) fn of(slice: &Slice) -> Self {
        Self {
            first: slice.first,
            next: slice.cursor.next,
            read: slice.read,
            rows: slice.rows.num_rows() as u64,
            dropped: slice.dropped,
            dead: slice.dead.len() as u64,
        }
    }

    /// Of records made again; those are what was read.
    pub(crate) fn of_rewrite(rewrite: &Rewrite) -> Self {
        Self {
            first: rewrite.offsets.start,
            next: rewrite.offsets.end,
            read: rewrite.remade.len() as u64,
            rows: rewrite.rows.num_rows() as u64,
            dropped: rewrite.dropped,
            dead: rewrite.dead.len() as u64,
        }
    }

    /// With what follows.
    pub(crate) fn then(&mut self, later: &Self) {
        self.next = later.next;
        self.read += later.read;
        self.rows += later.rows;
        self.dropped += later.dropped;
        self.dead += later.dead;
    }
}

/// What a commit does to the table.
#[derive(Clone, Debug)]
pub(crate) enum Cause {
    /// Rows behind the cursors.
    Append,
    /// A revision is taken in.
    TakeIn,
    /// Rows give way to rows of the same records.
    Correct(Correction),
    /// The same rows in fewer files.
    Compact,
}

/// A correction.
#[derive(Clone, Debug)]
pub(crate) struct Correction {
    pub(crate) revision: u64,
    pub(crate) reason: Reason,
    /// The records whose rows give way, by log partition.
    pub(crate) remade: Arc<Remade>,
    /// Row groups that went from file to file as they are.
    pub(crate) copied_row_groups: u64,
}

/// A data file that a commit takes out of force.
#[derive(Clone, Debug)]
pub(crate) struct Removed {
    /// As the log spells it: a reader of the log compares spellings.
    pub(crate) path: String,
    pub(crate) date: String,
    pub(crate) size: u64,
}

/// A commit, whatever version it will have.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    /// Unique: by it we know our own entry again.
    pub(crate) id: String,
    pub(crate) cause: Cause,
    pub(crate) applied: u64,
    pub(crate) partitions: BTreeMap<u32, PartitionCounts>,
    pub(crate) files: Vec<StagedFile>,
    /// By file name. Each must still be in force when the commit happens.
    pub(crate) removes: BTreeMap<String, Removed>,
    pub(crate) markers: Vec<(Marker, i64)>,
}

impl Commit {
    /// Whether the commit relies on a marker. Rows rely on `applied` and on their cursors; taking in a revision on
    /// every cursor, because its job ends at them; a correction on its job; a compaction on none.
    pub(crate) fn relies_on(&self, marker: &Marker) -> bool {
        match (&self.cause, marker) {
            (Cause::Compact, _) => false,
            (_, Marker::Applied) | (Cause::TakeIn, Marker::Next(..) | Marker::Mark(..)) => true,
            (Cause::Append, Marker::Next(_, partition) | Marker::Mark(_, partition)) => {
                self.partitions.contains_key(partition)
            }
            (Cause::Correct(correction), Marker::Job(revision, _)) => *revision == correction.revision,
            (Cause::Correct(_), Marker::Next(..) | Marker::Mark(..)) | (_, Marker::Job(..)) => false,
        }
    }

    /// Whether the commit relies on which files are in force.
    pub(crate) fn relies_on_files(&self) -> bool {
        match &self.cause {
            Cause::Append | Cause::TakeIn => false,
            Cause::Correct(_) | Cause::Compact => true,
        }
    }

    fn info(&self, read_version: u64, now_ms: i64) -> serde_json::Value {
        let sum = |of: fn(&StagedFile) -> u64| self.files.iter().map(of).sum::<u64>().to_string();
        let (rows, bytes) = (sum(|file| file.rows), sum(|file| file.size));
        let removed_bytes = self.removes.values().map(|file| file.size).sum::<u64>().to_string();
        let mut ours = json!({"commit": self.id, "applied": self.applied, "partitions": self.partitions});
        let (operation, parameters, metrics) = match &self.cause {
            Cause::Append | Cause::TakeIn => (
                if matches!(self.cause, Cause::Append) { "WRITE" } else { "TAKE IN REVISION" },
                json!({"mode": "Append", "partitionBy": format!("[{EVENT_DATE:?}]")}),
                json!({"numFiles": self.files.len().to_string(), "numOutputRows": rows, "numOutputBytes": bytes}),
            ),
            Cause::Correct(Correction { revision, reason, copied_row_groups, .. }) => {
                let Reason { author, reason } = reason;
                for (name, value) in
                    [("revision", json!(revision)), ("author", json!(author)), ("reason", json!(reason))]
                {
                    ours[name] = value;
                }
                let metrics = json!({
                    "numAddedFiles": self.files.len().to_string(),
                    "numRemovedFiles": self.removes.len().to_string(),
                    "numAddedBytes": bytes,
                    "numRemovedBytes": removed_bytes,
                    "numOutputRows": rows,
                    "numCopiedRowGroups": copied_row_groups.to_string(),
                });
                ("CORRECT", json!({"revision": revision.to_string(), "author": author, "reason": reason}), metrics)
            }
            Cause::Compact => {
                let metrics = json!({
                    "numAddedFiles": self.files.len().to_string(),
                    "numRemovedFiles": self.removes.len().to_string(),
                    "numAddedBytes": bytes,
                    "numRemovedBytes": removed_bytes,
                });
                ("OPTIMIZE", json!({"predicate": "[]"}), metrics)
            }
        };
        json!({"commitInfo": {
            "timestamp": now_ms,
            "operation": operation,
            "operationParameters": parameters,
            "operationMetrics": metrics,
            "readVersion": read_version,
            "isBlindAppend": !self.relies_on_files(),
            "engineInfo": concat!("millrace/", env!("CARGO_PKG_VERSION")),
            "millrace": ours,
        }})
    }

    /// The entry. `metadata` goes with it when columns are added.
    pub(crate) fn encode(
        &self,
        read_version: u64,
        metadata: Option<&Metadata>,
        now_ms: i64,
    ) -> serde_json::Result<Bytes> {
        let mut out = Vec::with_capacity(1024 + 1024 * self.files.len() + 256 * self.removes.len());
        let mut line = |action: &serde_json::Value| -> serde_json::Result<()> {
            serde_json::to_writer(&mut out, action)?;
            out.push(b'\n');
            Ok(())
        };
        let data_change = !matches!(self.cause, Cause::Compact);
        line(&self.info(read_version, now_ms))?;
        if let Some(metadata) = metadata {
            line(&json!({"metaData": metadata}))?;
        }
        for (marker, value) in &self.markers {
            line(&json!({"txn": {"appId": marker.app_id(), "version": value, "lastUpdated": now_ms}}))?;
        }
        for file in self.removes.values() {
            line(&json!({"remove": {
                "path": file.path,
                "deletionTimestamp": now_ms,
                "dataChange": data_change,
                "extendedFileMetadata": true,
                "partitionValues": {EVENT_DATE: file.date},
                "size": file.size,
            }}))?;
        }
        for file in &self.files {
            line(&json!({"add": {
                "path": file.path,
                "partitionValues": {EVENT_DATE: file.date},
                "size": file.size,
                "modificationTime": file.modified_ms,
                "dataChange": data_change,
                "stats": file.stats,
            }}))?;
        }
        Ok(out.into())
    }
}

impl Reliance for Commit {
    fn id(&self) -> &str {
        &self.id
    }

    fn marker(&self, marker: &Marker) -> bool {
        self.relies_on(marker)
    }

    fn file(&self, name: &str) -> bool {
        self.removes.contains_key(name)
    }

    fn new_rows(&self, stats: Option<&str>) -> bool {
        let Cause::Correct(Correction { remade, .. }) = &self.cause else { return false };
        let stats = FileStatistics::of(stats);
        remade.may_be_in(stats.partitions(), stats.offsets())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_rows::LogId;

    #[test]
    fn an_entry_is_read_by_the_library_as_it_was_meant() {
        let counts = PartitionCounts { first: 0, next: 2, read: 2, rows: 1, dropped: 1, dead: 0 };
        let mut both = counts.clone();
        both.then(&PartitionCounts { first: 2, next: 5, read: 3, rows: 2, dropped: 0, dead: 1 });
        assert_eq!(both, PartitionCounts { first: 0, next: 5, read: 5, rows: 3, dropped: 1, dead: 1 });
        let commit = Commit {
            id: "c".into(),
            cause: Cause::Append,
            applied: 3,
            partitions: [(7, counts)].into(),
            files: vec![StagedFile {
                path: "event_date=2026-11-03/millrace-7-x.parquet".into(),
                date: "2026-11-03".into(),
                size: 100,
                rows: 1,
                stats: "{\"numRecords\":1}".into(),
                modified_ms: 5,
            }],
            removes: BTreeMap::new(),
            markers: vec![(Marker::Next(LogId([0; 16]), 7), 2)],
        };
        let entry = commit.encode(4, None, 9).unwrap();
        let actions = deltalake::logstore::get_actions(5, &entry).unwrap();
        use deltalake::kernel::Action;
        let [Action::CommitInfo(info), Action::Txn(txn), Action::Add(add)] = actions.as_slice() else {
            panic!("{actions:?}");
        };
        assert_eq!(info.is_blind_append, Some(true));
        assert_eq!(info.info["millrace"]["partitions"]["7"]["next"], 2);
        assert_eq!(info.info["millrace"]["applied"], 3);
        assert_eq!((txn.version, txn.app_id.ends_with("/7/next")), (2, true));
        assert_eq!(add.partition_values["event_date"].as_deref(), Some("2026-11-03"));
        assert_eq!(add.stats.as_deref(), Some("{\"numRecords\":1}"));

        assert!(commit.relies_on(&Marker::Applied));
        assert!(commit.relies_on(&Marker::Next(LogId([9; 16]), 7)), "whatever the log");
        assert!(!commit.relies_on(&Marker::Next(LogId([0; 16]), 8)));
        let take_in = Commit { cause: Cause::TakeIn, partitions: BTreeMap::new(), ..commit.clone() };
        assert!(take_in.relies_on(&Marker::Next(LogId([0; 16]), 8)));

        let correction = Correction {
            revision: 3,
            reason: Reason { author: "ann".into(), reason: "typo".into() },
            remade: Arc::new(Remade([(7, [4, 5].into_iter().collect())].into())),
            copied_row_groups: 0,
        };
        let path = "event_date=2026-11-03/millrace-7-y.parquet";
        let removed = Removed { path: path.into(), date: "2026-11-03".into(), size: 9 };
        let correct = Commit {
            cause: Cause::Correct(correction),
            removes: [("millrace-7-y.parquet".to_owned(), removed)].into(),
            ..commit
        };
        let actions = deltalake::logstore::get_actions(5, &correct.encode(4, None, 9).unwrap()).unwrap();
        let [Action::CommitInfo(info), Action::Txn(_), Action::Remove(remove), Action::Add(add)] = actions.as_slice()
        else {
            panic!("{actions:?}");
        };
        assert_eq!((info.operation.as_deref(), info.is_blind_append), (Some("CORRECT"), Some(false)));
        assert_eq!(info.info["millrace"]["revision"], 3);
        assert_eq!(info.info["millrace"]["author"], "ann");
        assert_eq!((remove.path.as_str(), remove.size, remove.data_change), (path, Some(9), true));
        assert!(add.data_change);
        assert!(correct.relies_on(&Marker::Job(3, 9)) && correct.relies_on(&Marker::Applied));
        assert!(!correct.relies_on(&Marker::Job(2, 7)) && !correct.relies_on(&Marker::Next(LogId([0; 16]), 7)));
        for (stats, met) in [
            (r#"{"minValues":{"_partition":7,"_offset":5},"maxValues":{"_partition":7,"_offset":9}}"#, true),
            (r#"{"minValues":{"_partition":7,"_offset":6},"maxValues":{"_partition":7,"_offset":9}}"#, false),
            (r#"{"minValues":{"_partition":8,"_offset":5},"maxValues":{"_partition":9,"_offset":9}}"#, false),
            (r#"{"numRecords":1}"#, true),
        ] {
            assert_eq!(correct.new_rows(Some(stats)), met, "{stats}");
        }
        let compact = Commit { cause: Cause::Compact, ..correct };
        assert!(!compact.relies_on(&Marker::Applied) && !compact.new_rows(None));
    }
}
