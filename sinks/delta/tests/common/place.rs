//! Where the tables of the tests are: in a temporary directory, or in a bucket.
//!
//! With `MILLRACE_TEST_S3=s3://bucket/prefix`, and credentials and endpoint in the environment, the suites that ask for a
//! [`place`] run in that bucket, each table under a prefix of its own. It takes the feature `s3`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use deltalake::logstore::object_store;
use futures::TryStreamExt as _;
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path as Key};

/// Names the bucket.
pub const S3: &str = "MILLRACE_TEST_S3";

/// Where a table is.
pub struct Place {
    path: PathBuf,
    _directory: Option<tempfile::TempDir>,
}

impl Place {
    /// The path, or the URL in the place of a path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn bucket() -> Option<String> {
    let bucket = std::env::var(S3).ok()?;
    if !cfg!(feature = "s3") {
        panic!("{S3} is set: the tests need the feature s3");
    }
    Some(bucket.trim_end_matches('/').to_owned())
}

/// A new place.
pub fn place() -> Place {
    let Some(bucket) = bucket() else { return on_this_machine() };
    // Other libraries write to it beside us.
    #[cfg(feature = "s3")]
    foreign::register();
    Place { path: format!("{bucket}/{}", uuid::Uuid::now_v7()).into(), _directory: None }
}

/// A new directory, wherever the other tables are.
pub fn on_this_machine() -> Place {
    let directory = tempfile::tempdir().unwrap();
    Place { path: directory.path().to_owned(), _directory: Some(directory) }
}

/// A new directory; or nothing, and said so, when tables are in a bucket and the test needs what a bucket has not.
pub fn place_unless_s3(why: &str) -> Option<Place> {
    if bucket().is_some() {
        println!("skipped with {S3}: {why}");
        return None;
    }
    Some(on_this_machine())
}

/// Whether a table is in a bucket.
pub fn is_remote(table: &Path) -> bool {
    table.to_str().unwrap().contains("://")
}

/// The store that a table is in, rooted at the table.
fn store_of(table: &Path) -> Arc<dyn ObjectStore> {
    if !is_remote(table) {
        return Arc::new(object_store::local::LocalFileSystem::new_with_prefix(table).unwrap());
    }
    remote(table.to_str().unwrap())
}

#[cfg(feature = "s3")]
fn remote(url: &str) -> Arc<dyn ObjectStore> {
    let url = url::Url::parse(url).unwrap();
    let prefix = Key::from_url_path(url.path()).unwrap();
    Arc::new(object_store::prefix::PrefixStore::new(foreign::bucket(&url), prefix))
}

#[cfg(not(feature = "s3"))]
fn remote(url: &str) -> Arc<dyn ObjectStore> {
    panic!("{url}: the tests need the feature s3")
}

/// Does something with a table's store, on a thread of its own: whoever asks may be on a runtime.
fn with_store<T: Send + 'static, F: Future<Output = T>>(
    table: &Path,
    act: impl FnOnce(Arc<dyn ObjectStore>) -> F + Send + 'static,
) -> T {
    let table = table.to_owned();
    let acting = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { act(store_of(&table)).await })
    });
    acting.join().unwrap()
}

/// Names under a table, relative to it, in their order.
pub fn names(table: &Path) -> Vec<String> {
    let mut names: Vec<String> = with_store(table, |store| async move {
        store.list(None).map_ok(|object| object.location.to_string()).try_collect().await.unwrap()
    });
    names.sort();
    names
}

/// Data files, in force or not: relative to the table.
pub fn data_files(table: &Path) -> Vec<String> {
    names(table).into_iter().filter(|name| name.starts_with("event_date=")).collect()
}

/// Names of commit entries, the newest last.
pub fn entries(table: &Path) -> Vec<String> {
    let entry =
        |name: String| Some(name.strip_prefix("_delta_log/")?.to_owned()).filter(|name| name.ends_with(".json"));
    names(table).into_iter().filter_map(entry).collect()
}

/// A file of a table.
pub fn bytes_of(table: &Path, name: &str) -> bytes::Bytes {
    let name = Key::from(name);
    with_store(table, |store| async move { store.get(&name).await.unwrap().bytes().await.unwrap() })
}

/// The commit entry of a version.
pub fn entry(table: &Path, version: u64) -> String {
    String::from_utf8(bytes_of(table, &format!("_delta_log/{version:020}.json")).to_vec()).unwrap()
}

pub fn remove(table: &Path, name: &str) {
    let name = Key::from(name);
    with_store(table, |store| async move { store.delete(&name).await.unwrap() });
}

pub fn put(table: &Path, name: &str, content: &str) {
    let (name, content) = (Key::from(name), content.to_owned());
    with_store(table, |store| async move { _ = store.put(&name, content.into()).await.unwrap() });
}

pub fn copy(table: &Path, from: &str, to: &str) {
    let (from, to) = (Key::from(from), Key::from(to));
    with_store(table, |store| async move { store.copy(&from, &to).await.unwrap() });
}

/// The library itself on S3, for what others do to a table. It is not what this crate uses.
#[cfg(feature = "s3")]
mod foreign {
    use super::*;
    use ::object_store::aws::AmazonS3Builder;
    use deltalake::DeltaResult;
    use deltalake::logstore::{
        LogStore, LogStoreFactory, ObjectStoreFactory, ObjectStoreRef, StorageConfig, default_logstore,
        logstore_factories, object_store_factories,
    };
    use url::Url;

    pub(super) fn bucket(url: &Url) -> Arc<dyn ObjectStore> {
        Arc::new(AmazonS3Builder::from_env().with_bucket_name(url.host_str().unwrap()).build().unwrap())
    }

    #[derive(Debug)]
    struct Factory;

    impl ObjectStoreFactory for Factory {
        fn parse_url_opts(&self, url: &Url, _: &StorageConfig) -> DeltaResult<(ObjectStoreRef, Key)> {
            Ok((bucket(url), Key::from_url_path(url.path()).unwrap()))
        }
    }

    impl LogStoreFactory for Factory {
        fn with_options(
            &self,
            table: ObjectStoreRef,
            root: ObjectStoreRef,
            url: &Url,
            options: &StorageConfig,
        ) -> DeltaResult<Arc<dyn LogStore>> {
            Ok(default_logstore(table, root, url, options))
        }
    }

    pub(super) fn register() {
        let scheme = Url::parse("s3://").unwrap();
        object_store_factories().insert(scheme.clone(), Arc::new(Factory));
        logstore_factories().insert(scheme, Arc::new(Factory));
    }
}
