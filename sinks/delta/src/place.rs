//! Where a table is: a directory of this machine, or a prefix of an object store.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use deltalake::DeltaTableBuilder;
use deltalake::logstore::object_store::prefix::PrefixStore;
use deltalake::logstore::object_store::{Error, ObjectStore, PutMode, PutOptions, path::Path};
use deltalake::logstore::{LogStoreRef, StorageConfig, default_logstore};
use deltalake::table::builder::parse_table_uri;
use millrace_rows::StoreError;
use url::Url;

use crate::error::{broken, unavailable};
use crate::local::DurableFileSystem;

/// Object that shows whether a store refuses a put over what is there. Readers of Delta tables pass over names that
/// begin with an underscore.
const PROBE: &str = "_millrace/put-if-absent";

/// A location, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A directory of this machine, absolute. It need not exist.
    Directory(PathBuf),
    /// A prefix of a bucket.
    S3(Url),
    /// What the library knows itself: memory.
    Library,
}

impl Place {
    /// # Errors
    /// When the location is no path and no URL of a kind that is known. The error quotes no part of a URL that may hold
    /// a secret.
    pub(crate) fn of(location: &str) -> Result<Self, StoreError> {
        let Some((scheme, _)) = location.split_once("://") else {
            let absolute = std::path::absolute(location);
            return absolute
                .map(Self::Directory)
                .map_err(|error| broken(format!("the table's location {location:?}: {error}")));
        };
        let url = Url::parse(location)
            .map_err(|error| broken(format!("the table's location begins with {scheme}:// and is no URL: {error}")))?;
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(broken(
                "the table's location is a URL with a user, a password, a query or a fragment; give scheme, bucket and \
                 path alone: credentials and endpoint are in the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …)",
            ));
        }
        match url.scheme() {
            "file" => url
                .to_file_path()
                .map(Self::Directory)
                .map_err(|()| broken(format!("the table's location {location:?} is no path of this machine"))),
            "s3" if url.host_str().is_none_or(str::is_empty) || url.port().is_some() => {
                Err(broken(format!("the table's location {location:?} has no bucket: give s3://bucket/prefix")))
            }
            "s3" => Ok(Self::S3(url)),
            "memory" => Ok(Self::Library),
            other => Err(broken(format!(
                "the table's location begins with {other}://; what is known is a path, file:// and s3://"
            ))),
        }
    }
}

/// The way to a table, and its directory if it is on this machine. Touches nothing.
pub(crate) fn log_store(
    location: &str,
    storage: &HashMap<String, String>,
) -> Result<(LogStoreRef, Option<PathBuf>), StoreError> {
    let invalid = |error| broken(format!("table location {location:?}: {error}"));
    match Place::of(location)? {
        Place::Directory(path) => {
            let path = path.to_str().ok_or_else(|| broken(format!("the path {path:?} is no UTF-8")))?;
            let url = parse_table_uri(path).map_err(invalid)?;
            let local = url.to_file_path().map_err(|()| broken(format!("table location {location:?} is no path")))?;
            let builder = DeltaTableBuilder::from_url(url.clone()).map_err(invalid)?;
            let builder = builder.with_storage_backend(Arc::new(DurableFileSystem::new()), url);
            Ok((builder.build_storage().map_err(invalid)?, Some(local)))
        }
        Place::S3(url) => Ok((in_store(s3_store(&url, storage)?, &url)?, None)),
        Place::Library => {
            let url = parse_table_uri(location).map_err(invalid)?;
            let builder = DeltaTableBuilder::from_url(url).map_err(invalid)?.with_storage_options(storage.clone());
            Ok((builder.build_storage().map_err(invalid)?, None))
        }
    }
}

/// The way to a table at the path of `url` in an object store, whatever kind of store that is.
pub(crate) fn in_store(root: Arc<dyn ObjectStore>, url: &Url) -> Result<LogStoreRef, StoreError> {
    let prefix = Path::from_url_path(url.path()).map_err(|error| broken(format!("the path of {url}: {error}")))?;
    let table: Arc<dyn ObjectStore> = match prefix.as_ref() {
        "" => root.clone(),
        _ => Arc::new(PrefixStore::new(root.clone(), prefix)),
    };
    Ok(default_logstore(table, root, url, &StorageConfig::default()))
}

#[cfg(feature = "s3")]
fn s3_store(url: &Url, storage: &HashMap<String, String>) -> Result<Arc<dyn ObjectStore>, StoreError> {
    crate::s3::store(url, storage)
}

#[cfg(not(feature = "s3"))]
fn s3_store(url: &Url, _: &HashMap<String, String>) -> Result<Arc<dyn ObjectStore>, StoreError> {
    Err(broken(format!("{url}: this program was built without S3; build it with the cargo feature `s3`")))
}

/// Makes sure that a store refuses to put over what is there. Exactly once rests on that, and a server that has never
/// heard of conditional puts takes them for plain ones and says nothing.
///
/// # Errors
/// [`StoreError::Broken`] when it does not refuse, [`StoreError::Unavailable`] when it can't be asked.
pub(crate) async fn check_put_if_absent(log_store: &LogStoreRef) -> Result<(), StoreError> {
    let (store, probe) = (log_store.object_store(None), Path::from(PROBE));
    // The first creates it, unless it is there since the table was opened before.
    for _ in 0..2 {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match store.put_opts(&probe, "put if absent\n".into(), options).await {
            Ok(_) => {}
            Err(Error::AlreadyExists { .. }) => return Ok(()),
            Err(error) => {
                let at = log_store.root_url();
                return Err(unavailable(format!("{at}: trying a conditional put on {PROBE}: {error}")));
            }
        }
    }
    Err(broken(format!(
        "{}: the store put over the object {PROBE} though it was asked not to (If-None-Match: *): two writers would \
         overwrite each other's commits. Use a store or a version of it that has conditional puts",
        log_store.root_url()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_urls_are_told_apart() {
        let place = |location: &str| Place::of(location).unwrap();
        assert_eq!(place("/data/events"), Place::Directory("/data/events".into()));
        assert_eq!(place("file:///data/a%20b"), Place::Directory("/data/a b".into()));
        assert!(matches!(place("events"), Place::Directory(path) if path.is_absolute() && path.ends_with("events")));
        assert_eq!(place("s3://bucket/a/b"), Place::S3(Url::parse("s3://bucket/a/b").unwrap()));
        assert_eq!(place("memory:///events"), Place::Library);
    }

    #[test]
    fn what_is_no_location_is_refused_and_secrets_are_not_quoted() {
        let refusal = |location: &str| Place::of(location).unwrap_err().to_string();
        for location in ["s3://AKID:hunter2@bucket/events", "s3://bucket/events?X-Amz-Signature=hunter2"] {
            let refusal = refusal(location);
            assert!(refusal.contains("environment") && !refusal.contains("hunter2"), "{refusal}");
        }
        assert!(refusal("s3:///events").contains("no bucket"), "{}", refusal("s3:///events"));
        assert!(refusal("s3://localhost:9000/events").contains("no bucket"));
        assert!(refusal("gs://bucket/events").contains("file:// and s3://"));
    }

    #[cfg(not(feature = "s3"))]
    #[test]
    fn without_the_feature_the_error_names_it() {
        let refused = log_store("s3://bucket/events", &HashMap::new()).unwrap_err().to_string();
        assert!(refused.contains("cargo feature `s3`"), "{refused}");
    }
}
