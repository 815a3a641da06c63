//! From the library's errors to the three that a store has.

use std::error::Error;

use deltalake::DeltaTableError;
use deltalake::logstore::object_store;
use millrace_rows::StoreError;

/// Name of this store in errors, status and metrics.
pub(crate) const STORE: &str = "delta";

pub(crate) fn fenced(detail: impl Into<String>) -> StoreError {
    StoreError::Fenced { store: STORE, detail: detail.into() }
}

pub(crate) fn unavailable(detail: impl Into<String>) -> StoreError {
    StoreError::Unavailable { store: STORE, detail: detail.into() }
}

pub(crate) fn broken(detail: impl Into<String>) -> StoreError {
    StoreError::Broken { store: STORE, detail: detail.into() }
}

/// An error of the library while it read the table. Anything that has I/O among its causes may pass; anything else
/// (an entry that does not parse, a feature that the library does not know) stays until somebody looks.
pub(crate) fn from_library(context: &str, error: &DeltaTableError) -> StoreError {
    let passing =
        matches!(error, DeltaTableError::ObjectStore { .. } | DeltaTableError::Io { .. } | DeltaTableError::Generic(_))
            || has_io_cause(error);
    let detail = format!("{context}: {error}");
    if passing { unavailable(detail) } else { broken(detail) }
}

fn has_io_cause(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<std::io::Error>() || error.is::<object_store::Error>() {
            return true;
        }
        cause = error.source();
    }
    false
}
