//! Batches that the job of one store has made again, for the job of the other.
//!
//! A correction leaves the same job in both stores. Both cut it alike, so most batches need to be read and transformed
//! once: whoever comes first makes a batch, and whoever comes second takes it out. Neither depends on the other. Batches
//! that nobody took give way to newer ones, and who misses one makes it. A store that is ahead waits for one that is on its
//! way to what would give way, as long as that moves ([`PATIENCE`]) and within bounds ([`WAIT_MAX`]).

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millrace_rows::Rewrite;
use tokio::sync::watch;
use tokio::time::Instant;

/// Most bytes of batches that wait for the other store.
pub const SHARED_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Bytes of batches at which a store that is ahead waits for the other: what both are making then has room.
const PACE_BYTES: u64 = SHARED_BYTES_MAX / 2;
/// How long a store that is ahead waits for the other to take a batch before it goes on without it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a store waits in one stretch, of a million records at the most, whatever the other does.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// How far before the oldest batch the other store may be for the one that is ahead to wait for it, in records. It makes
/// what lies between by itself: it began a little later.
const REACH_RECORDS: u64 = 262_144;

/// Where a range of a job begins: what is made from there on is the same for each store. Where it ends depends on where a
/// store stood when it took the revision in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) revision: u64,
    pub(crate) applied: u64,
    pub(crate) partition: u32,
    pub(crate) start: u64,
}

/// A batch that is made or was made: the offset that follows it, and what it became. `None` for good: nothing came of it.
pub(crate) struct Shared {
    pub(crate) end: u64,
    made: watch::Receiver<Option<Rewrite>>,
}

impl Shared {
    /// Waits until it is made. `None`: whoever made it has failed.
    pub(crate) async fn made(mut self) -> Option<Rewrite> {
        self.made.wait_for(Option::is_some).await.ok().and_then(|made| made.clone())
    }
}

struct Batch {
    id: u64,
    of: Stretch,
    first: u64,
    end: u64,
    made: watch::Receiver<Option<Rewrite>>,
    /// 0 until it is made.
    bytes: u64,
}

#[derive(Default)]
struct State {
    /// In the order in which they were begun.
    batches: VecDeque<Batch>,
    bytes: u64,
    /// Where each reader is.
    readers: BTreeMap<u64, (Stretch, u64)>,
    /// Readers and batches so far.
    ids: u64,
}

impl State {
    fn find(&self, of: Stretch, first: u64) -> Option<usize> {
        self.batches.iter().position(|batch| batch.first == first && batch.of == of)
    }

    fn remove(&mut self, at: usize) -> Option<Batch> {
        let batch = self.batches.remove(at)?;
        self.bytes -= batch.bytes;
        Some(batch)
    }

    fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// Whether another reader of the stretch is on its way to the oldest of its batches.
    fn is_wanted(&self, of: Stretch, by_others_than: u64) -> bool {
        let Some(oldest) = self.batches.iter().find(|batch| batch.of == of) else { return false };
        let reaches = |next: u64| oldest.first.checked_sub(next).is_some_and(|gap| gap <= REACH_RECORDS);
        self.readers.iter().any(|(id, (other, next))| *id != by_others_than && *other == of && reaches(*next))
    }
}

/// The batches of all jobs.
pub(crate) struct SharedBatches {
    state: Mutex<State>,
    changed: watch::Sender<()>,
    pace_bytes: u64,
    bytes_max: u64,
}

impl SharedBatches {
    pub(crate) fn new() -> Arc<Self> {
        Self::within(PACE_BYTES, SHARED_BYTES_MAX)
    }

    fn within(pace_bytes: u64, bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: watch::Sender::new(()), pace_bytes, bytes_max })
    }

    /// Begins to read a stretch from its start.
    pub(crate) fn reader(self: &Arc<Self>, of: Stretch) -> Reader {
        let mut state = self.lock();
        let id = state.next_id();
        state.readers.insert(id, (of, of.start));
        Reader { shared: self.clone(), id, of, waited: Duration::ZERO }
    }

    /// Bytes of batches that wait.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One store on its way through a stretch.
pub(crate) struct Reader {
    shared: Arc<SharedBatches>,
    id: u64,
    of: Stretch,
    waited: Duration,
}

/// Who makes a batch.
pub(crate) enum Begun {
    /// Whoever asked; where the other wants it too, it is to be told.
    Mine(Option<Making>),
    /// The other store, already.
    Theirs(Shared),
}

impl Reader {
    /// Takes the batch from `first` on, if the other store has begun it and it ends by `end`.
    pub(crate) fn take(&self, first: u64, end: u64) -> Option<Shared> {
        self.take_from(&mut self.shared.lock(), first, end)
    }

    fn take_from(&self, state: &mut State, first: u64, end: u64) -> Option<Shared> {
        let at = state.find(self.of, first)?;
        if state.batches[at].end > end {
            return None;
        }
        let Batch { end, made, .. } = state.remove(at)?;
        self.moved(state, end);
        Some(Shared { end, made })
    }

    /// Begins a batch, unless the other store has meanwhile. It is kept for the other if it is `wanted` and the other is not
    /// past it.
    pub(crate) fn begin(&self, batch: Range<u64>, wanted: bool) -> Begun {
        let mut state = self.shared.lock();
        if let Some(theirs) = self.take_from(&mut state, batch.start, batch.end) {
            return Begun::Theirs(theirs);
        }
        let Range { start: first, end } = batch;
        self.moved(&mut state, end);
        let mut others = state.readers.iter().filter(|(id, _)| **id != self.id);
        if !wanted || others.any(|(_, (of, next))| *of == self.of && *next > first) {
            return Begun::Mine(None);
        }
        let (sender, made) = watch::channel(None);
        let id = state.next_id();
        state.batches.push_back(Batch { id, of: self.of, first, end, made, bytes: 0 });
        Begun::Mine(Some(Making { shared: self.shared.clone(), id, sender }))
    }

    /// Where there is no more room, waits for the other store to take what is there.
    pub(crate) async fn keep_pace(&mut self) {
        let mut changed = self.shared.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if self.waited >= WAIT_MAX || self.has_room() {
                return;
            }
            let began = Instant::now();
            let moved = tokio::time::timeout(PATIENCE, changed.changed()).await;
            self.waited += began.elapsed();
            if !matches!(moved, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// Whether one more batch takes nothing away from the other store.
    fn has_room(&self) -> bool {
        let state = self.shared.lock();
        state.bytes < self.shared.pace_bytes || !state.is_wanted(self.of, self.id)
    }

    fn moved(&self, state: &mut State, next: u64) {
        if let Some((_, at)) = state.readers.get_mut(&self.id) {
            *at = next;
        }
        self.shared.changed.send_replace(());
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.readers.remove(&self.id);
        if state.readers.is_empty() {
            // The other store may be between two stretches: it makes again what is gone.
            state.batches.clear();
            state.bytes = 0;
        }
        drop(state);
        self.shared.changed.send_replace(());
    }
}

/// A batch that is being made. Dropped without a result, nothing came of it.
pub(crate) struct Making {
    shared: Arc<SharedBatches>,
    id: u64,
    sender: watch::Sender<Option<Rewrite>>,
}

impl Making {
    /// Here it is.
    pub(crate) fn made(self, rewrite: &Rewrite) {
        let mut state = self.shared.lock();
        // Not there any more: who took it waits for it, or nobody is left.
        let bytes = bytes_of(rewrite);
        if let Some(batch) = state.batches.iter_mut().find(|batch| batch.id == self.id) {
            batch.bytes = bytes;
            state.bytes += bytes;
        }
        while state.bytes > self.shared.bytes_max
            && let Some(oldest) = state.batches.iter().position(|batch| batch.bytes > 0)
        {
            state.remove(oldest);
        }
        drop(state);
        self.sender.send_replace(Some(rewrite.clone()));
    }
}

/// Bytes of a batch. What is in its columns counts, not the buffers that they have in common, once for each of them.
fn bytes_of(rewrite: &Rewrite) -> u64 {
    let columns = rewrite.rows.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or(0));
    // At least 1: what is made counts.
    (columns.sum::<usize>() + size_of_val(&*rewrite.remade) + size_of_val(&*rewrite.dead)).max(1) as u64
}

impl Drop for Making {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if self.sender.borrow().is_none()
            && let Some(at) = state.batches.iter().position(|batch| batch.id == self.id)
        {
            state.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::record_batch::RecordBatch;
    use millrace_rows::schema::row_schema;

    fn stretch(partition: u32) -> Stretch {
        Stretch { revision: 2, applied: 3, partition, start: 0 }
    }

    fn rewrite(offsets: Range<u64>) -> Rewrite {
        let rows = RecordBatch::new_empty(row_schema(&[]));
        let remade = offsets.clone().collect();
        Rewrite { partition: 0, offsets, applied: 3, remade, rows, dead: Vec::new(), dropped: 0 }
    }

    fn make(reader: &Reader, batch: Range<u64>) {
        match reader.begin(batch.clone(), true) {
            Begun::Mine(Some(making)) => making.made(&rewrite(batch)),
            _ => panic!("{batch:?} was there"),
        }
    }

    fn bytes_of(batch: Range<u64>) -> u64 {
        super::bytes_of(&rewrite(batch))
    }

    #[tokio::test]
    async fn a_batch_is_made_by_the_first_and_taken_once_by_the_second() {
        let shared = SharedBatches::within(1 << 20, 1 << 20);
        let (ahead, behind) = (shared.reader(stretch(0)), shared.reader(stretch(0)));
        let elsewhere = shared.reader(stretch(1));
        assert!(ahead.take(0, 100).is_none());
        assert!(matches!(ahead.begin(0..10, false), Begun::Mine(None)) && behind.take(0, 100).is_none());
        make(&ahead, 0..10);
        assert!(elsewhere.take(0, 100).is_none() && behind.take(10, 100).is_none());
        assert_eq!(shared.bytes(), bytes_of(0..10));
        let taken = behind.take(0, 100).unwrap();
        assert_eq!((taken.end, taken.made().await.unwrap().offsets), (10, 0..10));
        assert!(behind.take(0, 100).is_none());
        assert_eq!(shared.bytes(), 0);
        make(&ahead, 10..20);
        assert!(behind.take(10, 19).is_none(), "it would make too much");
    }

    #[tokio::test]
    async fn who_comes_while_it_is_made_waits_and_makes_it_where_that_fails() {
        let shared = SharedBatches::within(1 << 20, 1 << 20);
        let (ahead, behind) = (shared.reader(stretch(0)), shared.reader(stretch(0)));
        let Begun::Mine(Some(making)) = ahead.begin(0..10, true) else { panic!() };
        let Begun::Theirs(theirs) = behind.begin(0..10, true) else { panic!() };
        let waits = tokio::spawn(theirs.made());
        making.made(&rewrite(0..10));
        assert_eq!(waits.await.unwrap().unwrap().offsets, 0..10);
        assert_eq!(shared.bytes(), 0, "it was taken before it was made");

        let Begun::Mine(Some(making)) = ahead.begin(10..20, true) else { panic!() };
        let theirs = behind.take(10, 100).unwrap();
        drop(making);
        assert!(theirs.made().await.is_none());
        let Begun::Mine(Some(making)) = ahead.begin(20..30, true) else { panic!() };
        drop(making);
        assert!(behind.take(20, 100).is_none(), "what failed is not there");
    }

    #[tokio::test]
    async fn the_oldest_give_way_and_nothing_stays_when_nobody_reads() {
        let shared = SharedBatches::within(2 * bytes_of(0..10), 2 * bytes_of(0..10));
        let (ahead, behind) = (shared.reader(stretch(0)), shared.reader(stretch(0)));
        (0..4).for_each(|n| make(&ahead, n * 10..n * 10 + 10));
        assert_eq!(shared.bytes(), 2 * bytes_of(0..10));
        assert!(behind.take(0, 100).is_none() && behind.take(10, 100).is_none());
        assert_eq!(behind.take(20, 100).unwrap().end, 30);
        drop((ahead, behind));
        assert_eq!((shared.bytes(), shared.lock().batches.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_ahead_waits_while_the_other_takes_and_not_for_one_that_stands() {
        let shared = SharedBatches::within(2 * bytes_of(0..10), 2 * bytes_of(0..10));
        let (mut ahead, behind) = (shared.reader(stretch(0)), shared.reader(stretch(0)));
        make(&ahead, 0..10);
        let began = Instant::now();
        ahead.keep_pace().await;
        make(&ahead, 10..20);
        assert_eq!(began.elapsed(), Duration::ZERO, "there is room");

        let takes = async {
            tokio::time::sleep(PATIENCE / 2).await;
            behind.take(0, 100).unwrap()
        };
        tokio::join!(ahead.keep_pace(), takes);
        assert_eq!(began.elapsed(), PATIENCE / 2);
        make(&ahead, 20..30);

        ahead.keep_pace().await;
        assert_eq!(began.elapsed(), PATIENCE / 2 + PATIENCE, "it stands");
        make(&ahead, 30..40);

        // What it would take is gone. It makes that itself, and comes to what is there.
        let makes = async {
            tokio::time::sleep(PATIENCE / 2).await;
            assert!(behind.take(10, 100).is_none());
            assert!(matches!(behind.begin(10..20, true), Begun::Mine(None)), "the other is past it");
            behind.take(20, 100).unwrap()
        };
        tokio::join!(ahead.keep_pace(), makes);
        assert_eq!(began.elapsed(), PATIENCE * 2);
        make(&ahead, 40..50);
        ahead.waited = WAIT_MAX;
        ahead.keep_pace().await;
        assert_eq!(began.elapsed(), PATIENCE * 2, "it has waited enough");
        ahead.waited = Duration::ZERO;
        drop(behind);
        ahead.keep_pace().await;
        assert_eq!(began.elapsed(), PATIENCE * 2, "nobody comes");
    }
}
