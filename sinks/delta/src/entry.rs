//! The commit entry: the lines of `_delta_log/<version>.json`.

use std::collections::BTreeMap;

use bytes::Bytes;
use deltalake::kernel::Metadata;
use millrace_rows::Slice;
use millrace_rows::schema::EVENT_DATE;
use serde::Serialize;
use serde_json::json;

use crate::encode::StagedFile;
use crate::markers::Marker;

/// What a commit records of one log partition. `verify` compares it with the log.
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

    /// With the slice that follows.
    pub(crate) fn then(&mut self, later: &Self) {
        self.next = later.next;
        self.read += later.read;
        self.rows += later.rows;
        self.dropped += later.dropped;
        self.dead += later.dead;
    }
}

/// A commit, whatever version it will have.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    /// Unique: by it we know our own entry again.
    pub(crate) id: String,
    pub(crate) operation: &'static str,
    pub(crate) applied: u64,
    pub(crate) partitions: BTreeMap<u32, PartitionCounts>,
    pub(crate) files: Vec<StagedFile>,
    pub(crate) markers: Vec<(Marker, i64)>,
}

impl Commit {
    /// Whether the commit relies on a marker: on what it writes and on `applied`; taking in a revision also on every
    /// cursor, because its job ends at them.
    pub(crate) fn relies_on(&self, marker: &Marker) -> bool {
        match marker {
            Marker::Applied => true,
            Marker::Next(_, partition) | Marker::Mark(_, partition) => {
                self.partitions.is_empty() || self.partitions.contains_key(partition)
            }
            Marker::Job(..) => false,
        }
    }

    /// The entry. `metadata` goes with it when columns are added.
    pub(crate) fn encode(
        &self,
        read_version: u64,
        metadata: Option<&Metadata>,
        now_ms: i64,
    ) -> serde_json::Result<Bytes> {
        let mut out = Vec::with_capacity(1024 + 1024 * self.files.len());
        let mut line = |action: &serde_json::Value| -> serde_json::Result<()> {
            serde_json::to_writer(&mut out, action)?;
            out.push(b'\n');
            Ok(())
        };
        let sum = |of: fn(&StagedFile) -> u64| self.files.iter().map(of).sum::<u64>().to_string();
        line(&json!({"commitInfo": {
            "timestamp": now_ms,
            "operation": self.operation,
            "operationParameters": {"mode": "Append", "partitionBy": format!("[{EVENT_DATE:?}]")},
            "operationMetrics": {
                "numFiles": self.files.len().to_string(),
                "numOutputRows": sum(|file| file.rows),
                "numOutputBytes": sum(|file| file.size),
            },
            "readVersion": read_version,
            "isBlindAppend": true,
            "engineInfo": concat!("millrace/", env!("CARGO_PKG_VERSION")),
            "millrace": {"commit": self.id, "applied": self.applied, "partitions": self.partitions},
        }}))?;
        if let Some(metadata) = metadata {
            line(&json!({"metaData": metadata}))?;
        }
        for (marker, value) in &self.markers {
            line(&json!({"txn": {"appId": marker.app_id(), "version": value, "lastUpdated": now_ms}}))?;
        }
        for file in &self.files {
            line(&json!({"add": {
                "path": file.path,
                "partitionValues": {EVENT_DATE: file.date},
                "size": file.size,
                "modificationTime": file.modified_ms,
                "dataChange": true,
                "stats": file.stats,
            }}))?;
        }
        Ok(out.into())
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
            operation: "WRITE",
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
        let take_in = Commit { partitions: BTreeMap::new(), ..commit };
        assert!(take_in.relies_on(&Marker::Next(LogId([0; 16]), 8)));
    }
}
