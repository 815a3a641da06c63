//! The directory: its lock, its format marker, and opening the library's files in it.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use fjall::compaction::Leveled;
use fjall::config::BlockSizePolicy;
use fjall::{Database, KeyspaceCreateOptions};

use crate::KeyspaceError;

use super::Options;

const FORMAT_FILE: &str = "FORMAT";
const FORMAT_NAME: &str = "millrace-keyspace";
const FORMAT_VERSION: u32 = 1;
const LOCK_FILE: &str = "LOCK";
/// How long a lock that another process has is tried again.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const DATABASE: &str = "db";
/// Threads that flush and compact, whatever the number of processors. The first of them leaves compactions to the others
/// and spins while one waits that nobody has taken: with two threads it burned a processor for as long as a compaction
/// took. With one, the library can wait for itself for ever.
const WORKER_THREADS: usize = 4;

/// The library writes this file last when it creates a database.
const DATABASE_MARKER: &str = "version";
const TREE: &str = "data";
/// Bytes of journals at which the library flushes write buffers early to drop the oldest.
const JOURNAL_BYTES_MAX: u64 = 512 * 1024 * 1024;
const BLOCK_BYTES: u32 = 16 * 1024;
/// Tables in the top level at which they are merged into the next: twice the library's default. Fewer and larger merges
/// took a fifth of the processor time off rewriting a history of three million rows, and a reader looks at a few tables
/// more.
const MERGE_AT_TOP_TABLES: u8 = 8;

/// A directory that this process has locked.
pub(super) struct Directory {
    path: PathBuf,
    pub(super) options: Options,
    lock: Arc<File>,
}

/// The open files. They close when the last owner drops them.
pub(super) struct Files {
    pub(super) data: fjall::Keyspace,
    pub(super) db: Database,
    /// Last, so that the lock outlives the files.
    _lock: Arc<File>,
}

impl Directory {
    pub(super) fn open(path: &Path, options: Options) -> Result<Self, KeyspaceError> {
        let path = path.to_path_buf();
        let failed = |what: &str, error: &io::Error| io_error(&format!("{what} {}", path.display()), error);
        fs::create_dir_all(&path).map_err(|error| failed("creating", &error))?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK_FILE))
            .map_err(|error| failed("opening the lock file of", &error))?;
        let mut tried = lock.try_lock();
        // A process that is ending has it for a moment more, and so has a child that was just made and has not begun.
        let until = Instant::now() + LOCK_PATIENCE;
        while matches!(tried, Err(TryLockError::WouldBlock)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
            tried = lock.try_lock();
        }
        match tried {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(KeyspaceError::Unavailable(format!(
                    "{} is open in another process, or a second time in this one",
                    path.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(failed("locking", &error)),
        }
        check_format(&path)?;
        Ok(Self { path, options, lock: Arc::new(lock) })
    }

    /// Whether anybody still holds the lock: this, files that are open, or a snapshot of them.
    pub(super) fn lock(&self) -> Weak<File> {
        Arc::downgrade(&self.lock)
    }

    /// Opens the library's files: replays the journal, starts the background threads.
    pub(super) fn open_files(&self) -> Result<Files, KeyspaceError> {
        let database = self.path.join(DATABASE);
        let failed = |error: io::Error| io_error(&format!("opening {}", database.display()), &error);
        if database.try_exists().map_err(failed)? && !database.join(DATABASE_MARKER).try_exists().map_err(failed)? {
            // The process died while it created the database: the library does not go on from there.
            fs::remove_dir_all(&database).map_err(failed)?;
        }
        let what = format!("opening {}", database.display());
        let db = Database::builder(&database)
            .cache_size(self.options.cache_bytes)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .manual_journal_persist(true)
            .worker_threads(WORKER_THREADS)
            .open()
            .map_err(|e| error(&what, &e))?;
        let write_buffer = self.options.write_buffer_bytes.clamp(1024 * 1024, 256 * 1024 * 1024);
        let data = db
            .keyspace(TREE, || {
                KeyspaceCreateOptions::default()
                    .manual_journal_persist(true)
                    .compaction_strategy(Arc::new(Leveled::default().with_l0_threshold(MERGE_AT_TOP_TABLES)))
                    .max_memtable_size(write_buffer)
                    .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
            })
            .map_err(|e| error(&what, &e))?;
        Ok(Files { data, db, _lock: self.lock.clone() })
    }
}

/// Reads the format marker; writes it into a directory that holds nothing yet.
fn check_format(path: &Path) -> Result<(), KeyspaceError> {
    let marker = path.join(FORMAT_FILE);
    let failed = |what: &str, error: io::Error| io_error(&format!("{what} {}", marker.display()), &error);
    let text = match fs::read(&marker) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if let Some(other) = foreign_entry(path).map_err(|error| failed("looking beside", error))? {
                return Err(KeyspaceError::Broken(format!(
                    "{} has no {FORMAT_FILE} file but holds {other:?}: it is no keyspace; name an empty directory",
                    path.display()
                )));
            }
            return write_format(path).map_err(|error| failed("writing", error));
        }
        Err(error) => return Err(failed("reading", error)),
    };
    let version = text.trim_end().strip_prefix(FORMAT_NAME).and_then(|rest| rest.trim().parse::<u32>().ok());
    match version {
        Some(FORMAT_VERSION) => Ok(()),
        Some(version) => Err(KeyspaceError::Broken(format!(
            "{} has format version {version}, this build reads version {FORMAT_VERSION}: use the build that wrote it, \
             or a later one",
            path.display()
        ))),
        None => Err(KeyspaceError::Broken(format!("{} is not a format marker of a keyspace", marker.display()))),
    }
}

/// A file that only something else can have put there.
fn foreign_entry(path: &Path) -> io::Result<Option<std::ffi::OsString>> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name != LOCK_FILE && name != temporary_name().as_str() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn temporary_name() -> String {
    format!("{FORMAT_FILE}.new")
}

fn write_format(path: &Path) -> io::Result<()> {
    let temporary = path.join(temporary_name());
    let mut file = File::create(&temporary)?;
    writeln!(file, "{FORMAT_NAME} {FORMAT_VERSION}")?;
    file.sync_all()?;
    fs::rename(&temporary, path.join(FORMAT_FILE))?;
    File::open(path)?.sync_all()
}

/// An error of the library, in the keyspace's terms.
pub(super) fn error(what: &str, error: &fjall::Error) -> KeyspaceError {
    match error {
        fjall::Error::Io(io) | fjall::Error::Storage(fjall::LsmError::Io(io)) => io_error(what, io),
        fjall::Error::Poisoned => KeyspaceError::Unavailable(format!("{what}: an earlier write failed")),
        fjall::Error::Locked => KeyspaceError::Unavailable(format!("{what}: the files are still in use")),
        other => KeyspaceError::Broken(format!("{what}: {other:?}")),
    }
}

fn io_error(what: &str, error: &io::Error) -> KeyspaceError {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::UnexpectedEof | ErrorKind::InvalidData => {
            KeyspaceError::Broken(format!("{what}: {error}"))
        }
        _ => KeyspaceError::Unavailable(format!("{what}: {error}")),
    }
}
