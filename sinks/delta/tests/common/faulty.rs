//! An object store in memory that fails as stores behind a network do, as a seed says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use deltalake::logstore::object_store;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng};

/// What can happen to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Refused, nothing was done: throttled to the end of all retries.
    Throttled,
    /// A put was done, and the answer is lost.
    Lost,
    /// A conditional put was done, repeated by the client, and refused the second time.
    Repeated,
    /// A conditional put is refused in favour of another that then fails too: 409.
    Conflict,
    /// A conditional put is given up by the client, and arrives later.
    Late,
    /// A list ends in an error, after it has begun.
    List,
    /// An object can't be read.
    Get,
    /// An object can't be deleted.
    Delete,
}

impl Fault {
    pub const ALL: [Self; 8] =
        [Self::Throttled, Self::Lost, Self::Repeated, Self::Conflict, Self::Late, Self::List, Self::Get, Self::Delete];
}

#[derive(Debug)]
struct State {
    random: StdRng,
    faults: BTreeMap<Fault, u64>,
    next: Option<Fault>,
    /// Conditional puts that are still on their way.
    late: Vec<(Path, PutPayload)>,
    created: BTreeSet<Path>,
    created_twice: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Faulty {
    inner: InMemory,
    failing: AtomicBool,
    overwriting: AtomicBool,
    state: Mutex<State>,
    puts: AtomicU64,
    /// Gets and lists.
    reads: AtomicU64,
    started: AtomicU64,
    completed: Arc<AtomicU64>,
    aborted: Arc<AtomicU64>,
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Faulty")
    }
}

fn failed(what: &str) -> Error {
    Error::Generic { store: "Faulty", source: format!("503 SlowDown: {what} (injected)").into() }
}

fn exists(path: &Path) -> Error {
    Error::AlreadyExists { path: path.to_string(), source: "412 (injected)".into() }
}

impl Faulty {
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: StdRng::seed_from_u64(seed),
            faults: BTreeMap::new(),
            next: None,
            late: Vec::new(),
            created: BTreeSet::new(),
            created_twice: 0,
        };
        Self {
            inner: InMemory::new(),
            failing: AtomicBool::new(false),
            overwriting: AtomicBool::new(false),
            state: Mutex::new(state),
            puts: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            started: AtomicU64::new(0),
            completed: Arc::default(),
            aborted: Arc::default(),
        }
    }

    /// Whether requests fail from now on.
    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    /// What happens to the next commit entry.
    pub fn next(&self, fault: Fault) {
        self.state.lock().unwrap().next = Some(fault);
    }

    /// Takes conditional puts for plain ones from now on.
    pub fn overwrite_always(&self) {
        self.overwriting.store(true, Ordering::Relaxed);
    }

    pub fn faults(&self) -> BTreeMap<Fault, u64> {
        self.state.lock().unwrap().faults.clone()
    }

    /// Commit entries that were created.
    pub fn created(&self) -> usize {
        self.state.lock().unwrap().created.len()
    }

    /// Objects that a conditional put created though one before it had.
    pub fn created_twice(&self) -> u64 {
        self.state.lock().unwrap().created_twice
    }

    /// Requests so far: puts; gets and lists.
    pub fn requests(&self) -> (u64, u64) {
        (self.puts.load(Ordering::Relaxed), self.reads.load(Ordering::Relaxed))
    }

    /// Uploads in parts: started, completed, given up.
    pub fn uploads(&self) -> (u64, u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.started), count(&self.completed), count(&self.aborted))
    }

    /// Everything that is on its way arrives.
    pub async fn settle(&self) {
        let late = std::mem::take(&mut self.state.lock().unwrap().late);
        for (path, payload) in late {
            // Refused where there is something by now.
            let _ = self.create(&path, payload).await;
        }
    }

    /// One of these faults, or none: commit entries fail often, since it is about them.
    fn draw(&self, of: &[Fault]) -> Option<Fault> {
        let mut state = self.state.lock().unwrap();
        let often = if of.len() > 2 { 0.4 } else { 0.01 };
        let drawn = self.failing.load(Ordering::Relaxed) && state.random.random_bool(often);
        let fault = drawn.then(|| of[state.random.random_range(0..of.len())]);
        if let Some(fault) = fault {
            *state.faults.entry(fault).or_default() += 1;
        }
        fault
    }

    /// Something else is done first; what was on its way may arrive.
    async fn turn(&self) {
        let (turns, arrives) = {
            let mut state = self.state.lock().unwrap();
            (state.random.random_range(0..3), state.random.random_bool(0.1))
        };
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        if self.failing.load(Ordering::Relaxed) && arrives {
            self.settle().await;
        }
    }

    async fn create(&self, path: &Path, payload: PutPayload) -> Result<PutResult> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let done = self.inner.put_opts(path, payload, options).await?;
        let mut state = self.state.lock().unwrap();
        if !state.created.insert(path.clone()) {
            state.created_twice += 1;
        }
        Ok(done)
    }

    async fn put_entry(&self, path: &Path, payload: PutPayload) -> Result<PutResult> {
        let forced = self.state.lock().unwrap().next.take();
        let of = [Fault::Throttled, Fault::Lost, Fault::Repeated, Fault::Conflict, Fault::Late];
        match forced.or_else(|| self.draw(&of)) {
            Some(Fault::Lost) => {
                self.create(path, payload).await?;
                Err(failed("the answer is lost"))
            }
            Some(Fault::Repeated) => {
                self.create(path, payload).await?;
                Err(exists(path))
            }
            Some(Fault::Conflict) => Err(exists(path)),
            Some(Fault::Late) => {
                self.state.lock().unwrap().late.push((path.clone(), payload));
                Err(failed("no answer in time"))
            }
            Some(_) => Err(failed("put")),
            None => self.create(path, payload).await,
        }
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.puts.fetch_add(1, Ordering::Relaxed);
        self.turn().await;
        if self.overwriting.load(Ordering::Relaxed) {
            return self.inner.put_opts(location, payload, PutOptions::default()).await;
        }
        let is_entry = location.as_ref().ends_with(".json") && location.as_ref().contains("_delta_log/");
        if is_entry && opts.mode == PutMode::Create {
            return self.put_entry(location, payload).await;
        }
        match self.draw(&[Fault::Throttled, Fault::Lost]) {
            Some(Fault::Lost) => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(failed("the answer is lost"))
            }
            Some(_) => Err(failed("put")),
            None => self.inner.put_opts(location, payload, opts).await,
        }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.inner.put_multipart_opts(location, opts).await?;
        self.started.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Counted { upload, completed: self.completed.clone(), aborted: self.aborted.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.turn().await;
        match self.draw(&[Fault::Get]) {
            Some(_) => Err(failed("get")),
            None => self.inner.get_opts(location, options).await,
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if self.draw(&[Fault::Delete]).is_some() {
            return futures::stream::once(async { Err(failed("delete")) }).boxed();
        }
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.cut(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.cut(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.turn().await;
        match self.draw(&[Fault::List]) {
            Some(_) => Err(failed("list")),
            None => self.inner.list_with_delimiter(prefix).await,
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl Faulty {
    /// A list that may end early.
    fn cut(&self, list: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        match self.draw(&[Fault::List]) {
            None => list,
            Some(_) => list.take(3).chain(futures::stream::once(async { Err(failed("list")) })).boxed(),
        }
    }
}

#[derive(Debug)]
struct Counted {
    upload: Box<dyn MultipartUpload>,
    completed: Arc<AtomicU64>,
    aborted: Arc<AtomicU64>,
}

#[async_trait]
impl MultipartUpload for Counted {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let done = self.upload.complete().await?;
        self.completed.fetch_add(1, Ordering::Relaxed);
        Ok(done)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await?;
        self.aborted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
