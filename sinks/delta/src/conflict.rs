//! What a commit entry of another writer means for a commit of ours that came second.
//!
//! The library's own check lets through what doubles rows beside compaction. What we append depends on nothing but our
//! markers, the protocol and the schema; what takes files out of force also depends on these being in force, and a
//! correction on nobody else having added rows of its records. These are what is compared:
//!
//! | the entry that won has | verdict |
//! |---|---|
//! | our own commit's id | it is ours: a put that was repeated below us found its own entry |
//! | another value of a marker that we rely on | [`Verdict::Fenced`] |
//! | a protocol action | [`Verdict::Broken`] |
//! | a marker of ours that this version does not know | [`Verdict::Broken`] |
//! | a metaData action | the schema is checked again, then retry |
//! | a remove of a file that we remove | [`Verdict::Fenced`] |
//! | an add of new rows (`dataChange`) that may be of records that we make again | [`Verdict::Fenced`] |
//! | other adds and removes, anything else | retry at the next version |
//!
//! Files are compared by their names: see [`Reliance::file`].

use deltalake::kernel::Metadata;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::markers::{Marker, Markers};
use crate::names::file_name;

/// The actions of an entry that matter, in its order.
#[derive(Clone, Debug, Default)]
pub struct Winner {
    markers: Vec<(String, i64)>,
    protocol: bool,
    metadata: Option<Metadata>,
    commit: Option<String>,
    /// Paths.
    removed: Vec<String>,
    /// Statistics of the files with new rows.
    added: Vec<Option<String>>,
}

/// What a commit relies on.
pub trait Reliance {
    /// Its id, by which its own entry is known again.
    fn id(&self) -> &str;

    /// Whether it relies on a marker.
    fn marker(&self, marker: &Marker) -> bool;

    /// Whether it relies on a file being in force. The last segment of a path names a file: it is unique, and other
    /// writers may spell what stands before it in another way.
    fn file(&self, name: &str) -> bool;

    /// Whether it relies on nobody adding a file with these statistics.
    fn new_rows(&self, stats: Option<&str>) -> bool;
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    txn: Option<Txn>,
    add: Option<Add>,
    remove: Option<Remove>,
    protocol: Option<IgnoredAny>,
    meta_data: Option<Metadata>,
    commit_info: Option<CommitInfo>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Txn {
    app_id: String,
    version: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Add {
    #[serde(default = "unless_said")]
    data_change: bool,
    stats: Option<String>,
}

/// An add that does not say whether its rows are new: they may be.
fn unless_said() -> bool {
    true
}

#[derive(Deserialize)]
struct Remove {
    path: String,
}

#[derive(Deserialize)]
struct CommitInfo {
    millrace: Option<Ours>,
}

#[derive(Deserialize)]
struct Ours {
    commit: Option<String>,
}

impl Winner {
    /// Reads a commit entry.
    ///
    /// # Errors
    /// When a line is no action.
    pub fn parse(entry: &[u8]) -> Result<Self, String> {
        let mut winner = Self::default();
        for line in entry.split(|byte| *byte == b'\n').filter(|line| !line.iter().all(u8::is_ascii_whitespace)) {
            let line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
            winner.markers.extend(line.txn.map(|txn| (txn.app_id, txn.version)));
            winner.protocol |= line.protocol.is_some();
            winner.metadata = line.meta_data.or(winner.metadata);
            let commit = line.commit_info.and_then(|info| info.millrace).and_then(|ours| ours.commit);
            winner.commit = commit.or(winner.commit);
            winner.removed.extend(line.remove.map(|remove| remove.path));
            winner.added.extend(line.add.filter(|add| add.data_change).map(|add| add.stats));
        }
        Ok(winner)
    }
}

/// What to do about an entry that won.
#[derive(Debug)]
pub enum Verdict {
    /// Go on at the next version; first check this metadata, if the entry has any.
    Retry(Option<Box<Metadata>>),
    /// The commit that we tried has happened: this entry is it.
    Ours,
    /// Somebody moved a marker or removed a file that the commit relies on, or added rows that it replaces.
    Fenced(String),
    /// An operator has to look.
    Broken(String),
}

/// Judges an entry that won over a commit. Takes the entry's markers into `markers`.
pub fn judge(winner: Winner, commit: &impl Reliance, markers: &mut Markers) -> Verdict {
    if winner.commit.as_deref() == Some(commit.id()) {
        return Verdict::Ours;
    }
    if winner.protocol {
        return Verdict::Broken("another writer changed the table's protocol".to_owned());
    }
    let mut moved = None;
    for (app_id, value) in winner.markers {
        match Marker::parse(&app_id) {
            Ok(Some(marker)) => {
                let known = markers.get(&marker);
                if known != Some(value) && commit.marker(&marker) && moved.is_none() {
                    let known = known.map_or_else(|| "not set".to_owned(), |known| known.to_string());
                    moved = Some(format!("{app_id} was {known} and is {value} now"));
                }
                markers.set(marker, value);
            }
            Ok(None) => {}
            Err(error) => return Verdict::Broken(error),
        }
    }
    let removed = || winner.removed.iter().find(|path| commit.file(file_name(path)));
    let added = || winner.added.iter().any(|stats| commit.new_rows(stats.as_deref()));
    let moved = moved
        .or_else(|| removed().map(|path| format!("{path} was removed")))
        .or_else(|| added().then(|| "rows of records that are made again were added".to_owned()));
    moved.map_or_else(|| Verdict::Retry(winner.metadata.map(Box::new)), Verdict::Fenced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_rows::LogId;

    const LOG: LogId = LogId([1; 16]);

    struct Me;

    impl Reliance for Me {
        fn id(&self) -> &str {
            "me"
        }

        fn marker(&self, marker: &Marker) -> bool {
            matches!(marker, Marker::Applied | Marker::Next(LOG, 0) | Marker::Mark(LOG, 0))
        }

        fn file(&self, name: &str) -> bool {
            name == "mine.parquet"
        }

        fn new_rows(&self, stats: Option<&str>) -> bool {
            stats == Some("met")
        }
    }

    fn verdict(entry: &str, markers: &mut Markers) -> Verdict {
        judge(Winner::parse(entry.as_bytes()).unwrap(), &Me, markers)
    }

    fn txn(marker: Marker, version: i64) -> String {
        format!("{{\"txn\":{{\"appId\":{:?},\"version\":{version}}}}}\n", marker.app_id())
    }

    fn known() -> Markers {
        let mut markers = Markers::default();
        for (marker, value) in [(Marker::Applied, 1), (Marker::Next(LOG, 0), 10), (Marker::Next(LOG, 1), 20)] {
            markers.set(marker, value);
        }
        markers
    }

    #[test]
    fn a_marker_that_moved_fences_and_others_only_become_known() {
        let mut markers = known();
        let entry = txn(Marker::Next(LOG, 1), 25) + &txn(Marker::Applied, 1) + "\n" + &txn(Marker::Job(1, 1), 20);
        assert!(matches!(verdict(&entry, &mut markers), Verdict::Retry(None)));
        assert_eq!(markers.get(&Marker::Next(LOG, 1)), Some(25));
        let detail = match verdict(&txn(Marker::Next(LOG, 0), 11), &mut markers) {
            Verdict::Fenced(detail) => detail,
            other => panic!("{other:?}"),
        };
        assert!(detail.contains("was 10 and is 11 now"), "{detail}");
        assert!(matches!(verdict(&txn(Marker::Applied, 2), &mut markers), Verdict::Fenced(_)));
        assert!(matches!(verdict(&txn(Marker::Mark(LOG, 0), 5), &mut known()), Verdict::Fenced(_)), "first value");
        let first = verdict(&txn(Marker::Applied, 0), &mut Markers::default());
        assert!(matches!(first, Verdict::Retry(None)), "saying that no revision is applied changes nothing");
    }

    #[test]
    fn compaction_and_foreign_commits_are_no_conflict() {
        let entry = concat!(
            r#"{"commitInfo":{"operation":"OPTIMIZE"}}"#,
            "\n",
            r#"{"remove":{"path":"a","dataChange":false}}"#,
            "\n",
            r#"{"add":{"path":"b","partitionValues":{},"size":1,"modificationTime":1,"dataChange":false}}"#,
            "\n",
            r#"{"txn":{"appId":"spark","version":3}}"#,
            "\n",
        );
        assert!(matches!(verdict(entry, &mut known()), Verdict::Retry(None)));
    }

    #[test]
    fn a_file_of_ours_that_is_gone_and_rows_where_ours_go_fence() {
        let file = "file:///t/event_date%3D2026-11-03/mine.parquet";
        let remove = |change: bool| format!(r#"{{"remove":{{"path":{file:?},"dataChange":{change}}}}}"#);
        for change in [true, false] {
            assert!(matches!(verdict(&remove(change), &mut known()), Verdict::Fenced(_)), "{change}");
        }
        let add = |change: bool, stats: &str| {
            format!(r#"{{"add":{{"path":{file:?},"dataChange":{change},"stats":{stats:?}}}}}"#)
        };
        assert!(matches!(verdict(&add(true, "met"), &mut known()), Verdict::Fenced(_)));
        assert!(matches!(verdict(&add(true, "not met"), &mut known()), Verdict::Retry(None)));
        assert!(matches!(verdict(&add(false, "met"), &mut known()), Verdict::Retry(None)), "the same rows elsewhere");
    }

    #[test]
    fn our_own_entry_is_known_by_its_id_whatever_else_it_has() {
        let entry = r#"{"commitInfo":{"millrace":{"commit":"me"}}}"#.to_owned() + "\n" + &txn(Marker::Applied, 2);
        assert!(matches!(verdict(&entry, &mut known()), Verdict::Ours));
    }

    #[test]
    fn protocol_changes_unknown_markers_and_damage_stop() {
        let protocol = r#"{"protocol":{"minReaderVersion":3,"minWriterVersion":7}}"#;
        assert!(matches!(verdict(protocol, &mut known()), Verdict::Broken(_)));
        let unknown = r#"{"txn":{"appId":"millrace/v2/x","version":3}}"#;
        assert!(matches!(verdict(unknown, &mut known()), Verdict::Broken(_)));
        assert!(Winner::parse(b"{\"txn\":").is_err());
    }

    #[test]
    fn new_metadata_is_handed_over() {
        let entry = r#"{"metaData":{"id":"i","format":{"provider":"parquet","options":{}},"schemaString":"{}","partitionColumns":[],"configuration":{}}}"#;
        assert!(matches!(verdict(entry, &mut known()), Verdict::Retry(Some(_))));
    }
}
