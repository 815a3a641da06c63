//! Putting a commit entry into the log: what every writer of this crate does in the same way.

use deltalake::kernel::Metadata;
use deltalake::kernel::transaction::TransactionError;
use deltalake::logstore::CommitOrBytes;
use millrace_rows::{StoreError, StoreState};
use uuid::Uuid;

use crate::columns::Columns;
use crate::conflict::{Verdict, Winner, judge};
use crate::entry::{Cause, Commit};
use crate::error::{broken, fenced, from_library, unavailable};
use crate::table::{Seen, Table, View, with_schema};

/// Most versions that a commit tries before it gives up; each try but the last lost to another writer.
const TRIES_MAX: usize = 64;

/// What a writer knows of the table.
pub(crate) struct Known {
    pub(crate) view: View,
    pub(crate) state: StoreState,
    /// The columns of the table and those that staged rows add to it.
    pub(crate) columns: Columns,
}

impl Known {
    pub(crate) fn of(view: View) -> Result<Self, StoreError> {
        let state = view.markers.state().map_err(broken)?;
        let columns = Columns::of(&view.schema);
        Ok(Self { view, state, columns })
    }

    /// Goes on from a newer view, with the columns that are added.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when a marker moved that `relies` names.
    pub(crate) fn renew(
        &mut self,
        view: View,
        relies: impl Fn(&crate::markers::Marker) -> bool,
    ) -> Result<(), StoreError> {
        if let Some(marker) = view.markers.differing(&self.view.markers).find(|marker| relies(marker)) {
            return Err(fenced(format!("{} changed meanwhile", marker.app_id())));
        }
        self.columns = self.columns.rebase(&view.schema).map_err(broken)?;
        self.state = view.markers.state().map_err(broken)?;
        self.view = view;
        Ok(())
    }

    /// Takes a commit that has happened into what is known.
    fn accept(&mut self, commit: &Commit, metadata: Option<Metadata>) -> Result<(), StoreError> {
        let view = &mut self.view;
        if let Some(metadata) = metadata {
            let schema = metadata.parse_schema();
            view.schema = schema.map_err(|error| broken(format!("reading back the extended schema: {error}")))?;
            view.metadata = metadata;
        }
        view.version += 1;
        view.seen = Seen::now();
        for (marker, value) in &commit.markers {
            view.markers.set(*marker, *value);
        }
        self.state = view.markers.state().map_err(broken)?;
        self.columns = Columns::of(&view.schema);
        Ok(())
    }
}

/// Puts the entry at the next version that is free, and takes it into what is known. `outcome_unknown` is true for as
/// long as the entry may be in the log and nobody knows: then its files must not be deleted.
///
/// # Errors
/// [`StoreError::Fenced`] when something moved that the commit relies on.
pub(crate) async fn put(
    table: &Table,
    known: &mut Known,
    commit: &Commit,
    outcome_unknown: &mut bool,
) -> Result<(), StoreError> {
    before(&commit.cause);
    for _ in 0..TRIES_MAX {
        if known.view.is_stale(&Seen::now()) {
            if commit.relies_on_files() {
                // Whether they are still in force shows only in entries that may be gone.
                return Err(fenced("the view of the table's files grew old"));
            }
            known.renew(table.view().await?, |marker| commit.relies_on(marker))?;
        }
        let Known { view, columns, .. } = &*known;
        let metadata = match columns.added() {
            [] => None,
            _ => Some(with_schema(&view.metadata, &columns.extend(&view.schema).map_err(broken)?)?),
        };
        let entry = commit
            .encode(view.version, metadata.as_ref(), chrono::Utc::now().timestamp_millis())
            .map_err(|error| broken(format!("writing a commit entry: {error}")))?;
        let (version, entry) = (view.version + 1, CommitOrBytes::LogBytes(entry));
        *outcome_unknown = true;
        match table.log_store.write_commit_entry(version, entry, Uuid::new_v4()).await {
            Ok(()) if answer_is_lost(&commit.cause) => return Err(unavailable("the answer was lost (injected)")),
            Ok(()) => {
                after(&commit.cause);
                known.accept(commit, metadata)?;
                *outcome_unknown = false;
                return Ok(());
            }
            Err(TransactionError::VersionAlreadyExists(_)) => {
                let caught_up = catch_up(table, known, commit).await;
                // The entry that is there may be ours if the put was repeated below us: until it has been read.
                *outcome_unknown = matches!(caught_up, Err(StoreError::Unavailable { .. }) | Ok(true));
                if caught_up? {
                    known.accept(commit, metadata)?;
                    *outcome_unknown = false;
                    return Ok(());
                }
            }
            Err(error) => {
                return Err(unavailable(format!("the outcome of commit {} is unknown: {error}", commit.id)));
            }
        }
    }
    Err(unavailable(format!("{TRIES_MAX} other commits came first")))
}

/// Reads the entries that came first, up to the newest. True if one of them is this very commit; then what is known is
/// the version before it.
async fn catch_up(table: &Table, known: &mut Known, commit: &Commit) -> Result<bool, StoreError> {
    let mut read = 0;
    loop {
        let seen = Seen::now();
        let version = known.view.version + 1;
        let entry = table.log_store.read_commit_entry(version).await;
        let entry = entry.map_err(|error| from_library(&format!("reading version {version}"), &error))?;
        let Some(entry) = entry else { break };
        let winner = Winner::parse(&entry).map_err(|error| broken(format!("version {version}: {error}")))?;
        match judge(winner, commit, &mut known.view.markers) {
            Verdict::Ours => return Ok(true),
            Verdict::Fenced(detail) => return Err(fenced(format!("version {version}: {detail}"))),
            Verdict::Broken(detail) => return Err(broken(format!("version {version}: {detail}"))),
            Verdict::Retry(metadata) => {
                if let Some(metadata) = metadata {
                    table.check_metadata(&mut known.view, &metadata)?;
                    known.columns = known.columns.rebase(&known.view.schema).map_err(broken)?;
                }
                known.view.version = version;
                known.view.seen = seen;
                read += 1;
            }
        }
    }
    if read == 0 {
        let version = known.view.version + 1;
        return Err(unavailable(format!("version {version} exists and can't be found")));
    }
    Ok(false)
}

fn before(cause: &Cause) {
    match cause {
        Cause::Append => fail::fail_point!("delta::commit::before", |_| std::process::abort()),
        Cause::TakeIn => fail::fail_point!("delta::take_in::before", |_| std::process::abort()),
        Cause::Correct(_) => fail::fail_point!("delta::rewrite::before", |_| std::process::abort()),
        Cause::Compact => fail::fail_point!("delta::compact::before", |_| std::process::abort()),
    }
}

fn after(cause: &Cause) {
    match cause {
        Cause::Append => fail::fail_point!("delta::commit::after", |_| std::process::abort()),
        Cause::TakeIn => fail::fail_point!("delta::take_in::after", |_| std::process::abort()),
        Cause::Correct(_) => fail::fail_point!("delta::rewrite::after", |_| std::process::abort()),
        Cause::Compact => fail::fail_point!("delta::compact::after", |_| std::process::abort()),
    }
}

/// For tests: whether the answer to a put is lost, which was durable.
fn answer_is_lost(cause: &Cause) -> bool {
    match cause {
        Cause::Append => fail::fail_point!("delta::commit::lost", |_| true),
        Cause::TakeIn => fail::fail_point!("delta::take_in::lost", |_| true),
        Cause::Correct(_) => fail::fail_point!("delta::rewrite::lost", |_| true),
        Cause::Compact => fail::fail_point!("delta::compact::lost", |_| true),
    }
    false
}
