//! Compiled plugins on the local disk.
//!
//! One file per plugin and engine, named `<sha256 of the plugin>-<key of the engine>.aot`, where the key is a hash over
//! wasmtime's version, its settings, the processor features that it compiles for and the version of this format:
//!
//! ```text
//! magic     8 bytes "MRAOT\0\0\x01"
//! checksum  32 bytes: SHA-256 over the file's name and the artifact
//! artifact  the rest, as wasmtime serialized it
//! ```
//!
//! A file is written beside its name and renamed, so a name never holds half a file. There is no fsync: after a power cut
//! the checksum tells. A file that is damaged, is not this user's own or can be written by anybody else is removed and
//! the plugin is compiled again; nothing that this module can't vouch for is ever mapped as code. Files are touched when
//! they are used and the ones used longest ago are removed when the directory outgrows its bound. Other files in the
//! directory are left alone, but for temporary ones older than an hour.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

const MAGIC: &[u8; 8] = b"MRAOT\0\0\x01";
const HEAD_BYTES: usize = MAGIC.len() + 32;
const SUFFIX: &str = ".aot";
const TEMPORARY: &str = ".tmp-";
const TEMPORARY_AGE_MAX: Duration = Duration::from_secs(3600);

/// The cache directory, open for this engine.
pub(crate) struct Cache {
    dir: PathBuf,
    /// Owner of the directory, which is the user we run as.
    owner: u32,
    engine_key: String,
    bytes_max: u64,
    temporary: AtomicU64,
}

/// The bytes of an artifact that this process may map as code: it compiled them, or [`Cache::get`] vouched for them.
pub(crate) struct Trusted(Vec<u8>);

impl Trusted {
    /// Bytes that wasmtime just produced in this process.
    pub(crate) fn compiled_here(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Cache {
    /// Opens `dir`, making it where it is missing.
    pub(crate) fn open(dir: &Path, bytes_max: u64, engine: &wasmtime::Engine) -> Result<Self, String> {
        let failed = |what: &str, error: io::Error| format!("plugin cache {}: {what}: {error}", dir.display());
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| failed("can't be made", e))?;
        let mut cache = Self {
            dir: dir.to_owned(),
            owner: 0,
            engine_key: engine_key(engine),
            bytes_max,
            temporary: AtomicU64::new(0),
        };
        let metadata = fs::symlink_metadata(dir).map_err(|e| failed("can't be read", e))?;
        if !metadata.is_dir() || metadata.permissions().mode() & 0o077 != 0 {
            return Err(format!(
                "plugin cache {} holds native code and must be a directory that only its owner can use: chmod 700 it, or \
                 remove it",
                dir.display()
            ));
        }
        // A file that we make belongs to the user we run as; the directory must be the same user's.
        let (probe, path) = cache.temporary_file().map_err(|e| failed("can't be written", e))?;
        let owner = probe.metadata().map(|m| m.uid());
        let _ = fs::remove_file(path);
        cache.owner = owner.map_err(|e| failed("can't be read", e))?;
        if metadata.uid() != cache.owner {
            return Err(format!("plugin cache {} belongs to another user: name another directory", dir.display()));
        }
        Ok(cache)
    }

    fn name(&self, digest: &[u8; 32]) -> String {
        format!("{}-{}{SUFFIX}", hex(digest), self.engine_key)
    }

    /// The artifact of a plugin, when there is one that is whole and ours.
    pub(crate) fn get(&self, digest: &[u8; 32]) -> Option<Trusted> {
        let name = self.name(digest);
        let path = self.dir.join(&name);
        match self.read(&path, &name) {
            Ok(artifact) => artifact,
            Err(reason) => {
                tracing::warn!(file = %path.display(), reason, "compiled plugin is not trusted and is compiled again");
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    fn read(&self, path: &Path, name: &str) -> Result<Option<Trusted>, String> {
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        if !metadata.is_file() || metadata.uid() != self.owner || metadata.permissions().mode() & 0o077 != 0 {
            return Err("not a private file of this user".to_owned());
        }
        if metadata.len() > self.bytes_max {
            return Err("larger than the whole cache may be".to_owned());
        }
        let file = File::open(path).map_err(|e| e.to_string())?;
        let mut bytes = Vec::with_capacity(metadata.len() as usize);
        (&file).take(metadata.len()).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        if bytes.len() < HEAD_BYTES || !bytes.starts_with(MAGIC) {
            return Err("not a compiled plugin of this format".to_owned());
        }
        let artifact = bytes.split_off(HEAD_BYTES);
        if bytes[MAGIC.len()..] != checksum(name, &artifact)[..] {
            return Err("checksum does not match".to_owned());
        }
        // Only the order of removal depends on it.
        let _ = file.set_modified(SystemTime::now());
        Ok(Some(Trusted(artifact)))
    }

    /// Keeps an artifact. A cache that can't be written costs time and nothing else.
    pub(crate) fn put(&self, digest: &[u8; 32], artifact: &Trusted) {
        let name = self.name(digest);
        if let Err(error) = self.write(&name, &artifact.0) {
            tracing::warn!(dir = %self.dir.display(), %error, "compiled plugin could not be kept");
        }
        if let Err(error) = self.shrink() {
            tracing::warn!(dir = %self.dir.display(), %error, "plugin cache could not be tidied");
        }
    }

    fn write(&self, name: &str, artifact: &[u8]) -> io::Result<()> {
        let (mut file, path) = self.temporary_file()?;
        let written = (|| {
            file.write_all(MAGIC)?;
            file.write_all(&checksum(name, artifact))?;
            file.write_all(artifact)?;
            drop(file);
            fs::rename(&path, self.dir.join(name))
        })();
        if written.is_err() {
            let _ = fs::remove_file(&path);
        }
        written
    }

    fn temporary_file(&self) -> io::Result<(File, PathBuf)> {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let path = self.dir.join(format!("{TEMPORARY}{}-{nanos}-{number}", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok((file, path))
    }

    /// Removes the files used longest ago until the rest fits.
    fn shrink(&self) -> io::Result<()> {
        let mut files = Vec::new();
        let mut total = 0;
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let Ok(metadata) = entry.metadata() else { continue };
            if !metadata.is_file() {
                continue;
            }
            let modified = metadata.modified()?;
            if name.starts_with(TEMPORARY) {
                if modified.elapsed().is_ok_and(|age| age > TEMPORARY_AGE_MAX) {
                    fs::remove_file(entry.path())?;
                }
            } else if name.ends_with(SUFFIX) {
                total += metadata.len();
                files.push((modified, metadata.len(), entry.path()));
            }
        }
        files.sort();
        for (_, bytes, path) in files {
            if total <= self.bytes_max {
                break;
            }
            match fs::remove_file(&path) {
                Ok(()) => {}
                // Another process tidied at the same time.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            total -= bytes;
        }
        Ok(())
    }
}

fn checksum(name: &str, artifact: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update((name.len() as u64).to_le_bytes());
    hasher.update(name);
    hasher.update(artifact);
    hasher.finalize().into()
}

/// What artifacts of this engine are good for.
fn engine_key(engine: &wasmtime::Engine) -> String {
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            let digest: [u8; 32] = self.0.clone().finalize().into();
            u64::from_le_bytes([digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7]])
        }
    }
    let mut hasher = Sha(Sha256::new());
    MAGIC.hash(&mut hasher);
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hex(&hasher.0.finalize()[..16])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
