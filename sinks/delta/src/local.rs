//! An object store over the local file system that survives power loss.
//!
//! The library's own store never syncs: after power loss a commit entry or a checkpoint can be there and empty. Here a
//! put writes a temporary file beside the target, syncs it, gives it its name (a hard link where the target must not
//! exist, which the file system decides atomically; else a rename), and syncs the directory. Whatever name a reader
//! finds has its whole content. All writes of the library go through it too: the table's creation, checkpoints,
//! `_last_checkpoint`.
//!
//! A temporary file is named `<target>#<digits>`; object stores do not list such names, and no reader of Delta tables
//! takes them for log entries. A crash can leave one behind; [`stale_temporaries`] finds them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use deltalake::logstore::object_store;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

/// The local file system, with every write durable before it is answered.
#[derive(Debug)]
pub struct DurableFileSystem {
    inner: Arc<LocalFileSystem>,
}

impl DurableFileSystem {
    /// The whole file system, `/` at its root.
    pub fn new() -> Self {
        Self { inner: Arc::new(LocalFileSystem::new()) }
    }
}

impl Default for DurableFileSystem {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Display for DurableFileSystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DurableFileSystem")
    }
}

fn failed(path: &FsPath, source: io::Error) -> Error {
    let path = path.display().to_string();
    match source.kind() {
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { path, source: source.into() },
        io::ErrorKind::NotFound => Error::NotFound { path, source: source.into() },
        _ => Error::Generic { store: "DurableFileSystem", source: source.into() },
    }
}

/// Syncs a directory: the names in it.
pub(crate) fn sync_directory(path: &FsPath) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Creates a directory and its parents. The names are durable once it returns.
pub(crate) fn create_directory(path: &FsPath) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_directory(parent)?;
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => sync_directory(parent)?,
        }
    }
    Ok(())
}

fn temporary(target: &FsPath) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(format!("#{}", uuid::Uuid::new_v4().as_u128()));
    name.into()
}

/// Writes `target` as the module says.
fn put(target: &FsPath, payload: &PutPayload, create: bool) -> io::Result<()> {
    let directory = target.parent().ok_or_else(|| io::Error::other("a file has a directory"))?;
    let staged = temporary(target);
    let mut open = File::create_new(&staged);
    if matches!(&open, Err(error) if error.kind() == io::ErrorKind::NotFound) {
        create_directory(directory)?;
        open = File::create_new(&staged);
    }
    let mut file = open?;
    let named = payload
        .iter()
        .try_for_each(|bytes| file.write_all(bytes))
        .and_then(|()| file.sync_all())
        .and_then(|()| if create { fs::hard_link(&staged, target) } else { fs::rename(&staged, target) });
    if create || named.is_err() {
        // Left behind if this fails: unnamed for readers, and swept by maintenance.
        let _ = fs::remove_file(&staged);
    }
    named?;
    sync_directory(directory)
}

/// Temporary files under `directory` that were last written before `before`.
///
/// # Errors
/// When the directory can't be read.
pub fn stale_temporaries(directory: &FsPath, before: SystemTime) -> io::Result<Vec<PathBuf>> {
    let mut stale = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let temporary = name
            .to_str()
            .and_then(|name| name.split_once('#'))
            .is_some_and(|(_, digits)| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
        if temporary && entry.metadata()?.modified()? < before {
            stale.push(entry.path());
        }
    }
    Ok(stale)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|source| Error::JoinError { source })?
}

#[async_trait]
impl ObjectStore for DurableFileSystem {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let create = match opts.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented {
                    operation: "`put_opts` with mode `PutMode::Update`".into(),
                    implementer: self.to_string(),
                });
            }
        };
        let target = self.inner.path_to_filesystem(location)?;
        blocking(move || {
            put(&target, &payload, create).map_err(|error| failed(&target, error))?;
            Ok(PutResult { e_tag: None, version: None })
        })
        .await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let target = self.inner.path_to_filesystem(location)?;
        let upload = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(DurableUpload { upload, target }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        self.sync(to).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await?;
        self.sync(to).await
    }
}

impl DurableFileSystem {
    async fn sync(&self, location: &Path) -> Result<()> {
        let target = self.inner.path_to_filesystem(location)?;
        blocking(move || sync_file(&target).map_err(|error| failed(&target, error))).await
    }
}

fn sync_file(path: &FsPath) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// An upload in parts: durable once completed. Unlike a put, the name can be there before the content is synced; the
/// library writes no log entry or checkpoint in this way.
#[derive(Debug)]
struct DurableUpload {
    upload: Box<dyn MultipartUpload>,
    target: PathBuf,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.upload.complete().await?;
        let target = self.target.clone();
        blocking(move || sync_file(&target).map_err(|error| failed(&target, error))).await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt as _;
    use std::time::Duration;

    fn location(directory: &FsPath, name: &str) -> Path {
        Path::from_absolute_path(directory.join(name)).unwrap()
    }

    #[tokio::test]
    async fn create_refuses_a_name_that_is_taken_and_leaves_its_content() {
        let directory = tempfile::tempdir().unwrap();
        let store = DurableFileSystem::new();
        let at = location(directory.path(), "a/b/0.json");
        let create = || PutOptions { mode: PutMode::Create, ..Default::default() };
        store.put_opts(&at, "first".into(), create()).await.unwrap();
        let second = store.put_opts(&at, "second".into(), create()).await;
        assert!(matches!(second, Err(Error::AlreadyExists { .. })), "{second:?}");
        assert_eq!(store.get(&at).await.unwrap().bytes().await.unwrap(), "first");
        store.put(&at, "third".into()).await.unwrap();
        assert_eq!(store.get(&at).await.unwrap().bytes().await.unwrap(), "third");
        let names: Vec<_> =
            fs::read_dir(directory.path().join("a/b")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["0.json"], "no temporary file stays");
    }

    #[test]
    fn only_old_temporaries_are_found() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["0.json", "0.json#12", "1.json#x", "2.json#"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let now = SystemTime::now();
        assert!(stale_temporaries(directory.path(), now - Duration::from_secs(3600)).unwrap().is_empty());
        let stale = stale_temporaries(directory.path(), now + Duration::from_secs(3600)).unwrap();
        assert_eq!(stale, [directory.path().join("0.json#12")]);
    }
}
