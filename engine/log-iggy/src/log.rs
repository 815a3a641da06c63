//! The log itself: opened, read, watched.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use iggy::prelude::{Consumer, Identifier, IggyMessage, MessageClient as _, Partitioning, PollingStrategy};
use millrace_log::{EventLog, LogError, NewRecord, ReadLimit, Record, check_append};
use millrace_rows::LogId;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::append::{Appender, Queue};
use crate::connection::{Lane, Shared};
use crate::error::CallError;
use crate::message::decode;
use crate::open::{Retry, find};
use crate::options::Options;
use crate::state::{Fault, Partition, State};
use crate::topic::{self, Identity};

/// Looks at the topic after which a record that must be there and is not read counts as not readable now.
const UNREADABLE_TRIES: u32 = 20;

/// A log on a topic. See the [crate's documentation](crate).
pub struct IggyLog {
    inner: Arc<Inner>,
    queues: Vec<Queue>,
    queue_room: Arc<Semaphore>,
    closed: watch::Sender<bool>,
}

/// Counts since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Batches that the server took.
    pub batches: u64,
    /// Appends in them.
    pub appends: u64,
    /// Batches without an answer.
    pub unknown: u64,
    /// Of those, batches that were found in the log.
    pub found: u64,
    /// Batches that were sent again after they were found not to be there.
    pub sent_again: u64,
    /// Connections made.
    pub connections: u64,
    /// Records whose receipt could not be read.
    pub unreadable_receipts: u64,
    /// Bytes of appends that wait or are being sent.
    pub queue_bytes: u64,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) batches: AtomicU64,
    pub(crate) appends: AtomicU64,
    pub(crate) unknown: AtomicU64,
    pub(crate) found: AtomicU64,
    pub(crate) sent_again: AtomicU64,
    unreadable_receipts: AtomicU64,
}

pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) state: State,
    pub(crate) counts: Counts,
    identity: Identity,
    stream: Identifier,
    topic: Identifier,
    /// For questions about the topic.
    control: Lane,
    readers: Vec<Lane>,
    pub(crate) writers: Vec<Lane>,
}

impl IggyLog {
    /// Opens the topic, creating it and its stream where they are not there. Waits for the server.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] when the server does not answer within [`Options::open_wait`], [`LogError::Unusable`]
    /// when the topic can't be created or used.
    pub async fn open(options: Options) -> Result<Self, LogError> {
        let shared = Arc::new(Shared::new(options));
        let options = &shared.options;
        let control = Lane::new(shared.clone());
        let deadline = Instant::now() + options.open_wait;
        let (identity, bounds) = loop {
            let error = match find(&control, &shared).await {
                Ok(found) => break found,
                Err(Retry::Never(error)) => return Err(error),
                Err(Retry::Later(detail)) => detail,
            };
            if Instant::now() >= deadline {
                return Err(LogError::Unavailable(error));
            }
            sleep(options.reconnect_pause_max.min(deadline - Instant::now())).await;
        };
        // Nobody else has this yet.
        let _ = shared.identity.set(identity);
        let lanes = || (0..bounds.len().min(options.connections.max(1) as usize)).map(|_| Lane::new(shared.clone()));
        let numeric = |id| Identifier::numeric(id).map_err(|error| LogError::Unusable(error.to_string()));
        let inner = Arc::new(Inner {
            identity,
            stream: numeric(identity.stream)?,
            topic: numeric(identity.topic)?,
            readers: lanes().collect(),
            writers: lanes().collect(),
            control,
            counts: Counts::default(),
            state: State::new(bounds),
            shared: shared.clone(),
        });
        let closed = watch::Sender::new(false);
        let queues = (0..inner.state.partitions.len() as u32)
            .map(|partition| {
                let (queue, appender) = Appender::new(inner.clone(), partition, closed.subscribe());
                tokio::spawn(appender.run());
                queue
            })
            .collect();
        tokio::spawn(watch_ends(Arc::downgrade(&inner), closed.subscribe()));
        let queue_room = Arc::new(Semaphore::new(options.queue_bytes.clamp(1, Semaphore::MAX_PERMITS)));
        Ok(Self { inner, queues, queue_room, closed })
    }

    /// What happened since the log was opened.
    pub fn stats(&self) -> Stats {
        let counts = &self.inner.counts;
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let room = self.inner.shared.options.queue_bytes.clamp(1, Semaphore::MAX_PERMITS);
        Stats {
            batches: get(&counts.batches),
            appends: get(&counts.appends),
            unknown: get(&counts.unknown),
            found: get(&counts.found),
            sent_again: get(&counts.sent_again),
            connections: get(&self.inner.shared.epoch),
            unreadable_receipts: get(&counts.unreadable_receipts),
            queue_bytes: (room - self.queue_room.available_permits()) as u64,
        }
    }

    /// Bounds of a partition as they were last seen, without asking the server.
    pub fn last_bounds(&self, partition: u32) -> Range<u64> {
        self.inner.state.bounds(partition)
    }

    /// Ends all that runs. Appends that wait fail; of a batch whose outcome is not known its appends are told so.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }
}

impl Drop for IggyLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    pub(crate) fn options(&self) -> &Options {
        &self.shared.options
    }

    pub(crate) fn writer(&self, partition: u32) -> &Lane {
        &self.writers[partition as usize % self.writers.len()]
    }

    fn reader(&self, partition: u32) -> &Lane {
        &self.readers[partition as usize % self.readers.len()]
    }

    /// Sends a batch. Gives the offset of its first message where the server tells it.
    pub(crate) async fn send(&self, partition: u32, messages: &mut [IggyMessage]) -> Result<Option<u64>, CallError> {
        let held = self.writer(partition).hold().await?;
        let to = Partitioning::partition_id(partition);
        let answer = {
            let sent = held.client()?.send_messages(&self.stream, &self.topic, &to, messages);
            timeout(self.options().send_timeout, sent).await
        };
        let confirmed = held.settle(answer)?.confirmations;
        Ok(match confirmed.as_slice() {
            [only] if only.partition_id == partition => Some(only.base_offset),
            _ => None,
        })
    }

    /// Messages of a partition from an offset on, as the server gives them: maybe from a later one on.
    pub(crate) async fn poll(
        &self,
        lane: &Lane,
        partition: u32,
        from: u64,
        count: u32,
    ) -> Result<Vec<IggyMessage>, CallError> {
        let held = lane.hold().await?;
        let consumer = Consumer::default();
        let strategy = PollingStrategy::offset(from);
        let answer = {
            let polled = held.client()?.poll_messages(
                &self.stream,
                &self.topic,
                Some(partition),
                &consumer,
                &strategy,
                count.max(1),
                false,
            );
            timeout(self.options().request_timeout, polled).await
        };
        Ok(held.settle(answer)?.messages)
    }

    /// Asks for the bounds of all partitions, checks that the topic is the same one and that no end fell.
    pub(crate) async fn look(&self) -> Result<Vec<Range<u64>>, LogError> {
        // What was there before the question must be in the answer.
        let before = self.state.seen.borrow().bounds.clone();
        let details = {
            let held = self.control.hold().await.map_err(CallError::of_read)?;
            let client = held.client().map_err(CallError::of_read)?;
            let answer = timeout(self.options().request_timeout, topic::look(client, self.options())).await;
            let Some((identity, details)) = held.settle(answer).map_err(CallError::of_read)? else {
                let Options { stream, topic, .. } = self.options();
                return Err(LogError::Unavailable(format!("the Iggy server has no topic {stream}/{topic} any more")));
            };
            self.shared.check_identity(identity).map_err(CallError::of_read)?;
            details
        };
        let looked = topic::bounds(&details)?;
        for (partition, (before, looked)) in (0..).zip(before.iter().zip(&looked)) {
            if looked.end < before.end && self.state.check(partition).is_ok() {
                self.confirm_truncated(partition, before.end, looked.end).await?;
            }
        }
        self.state.saw(&looked);
        Ok(looked)
    }

    /// The topic's own count of a partition may come late: the last record seen decides.
    async fn confirm_truncated(&self, partition: u32, seen: u64, end: u64) -> Result<(), LogError> {
        let last = self.poll(&self.control, partition, seen - 1, 1).await.map_err(CallError::of_read)?;
        if !last.iter().any(|message| message.header.offset == seen - 1) {
            self.state.stop(partition, Fault::Truncated { seen, end });
        }
        Ok(())
    }

    async fn bounds(&self, partition: u32) -> Result<Range<u64>, LogError> {
        self.known(partition)?;
        let looked = self.look().await?;
        let looked = looked.get(partition as usize).cloned().unwrap_or_default();
        match self.state.check(partition) {
            // What a restart is to hold its cursors against.
            Err(LogError::PastEnd { .. } | LogError::Damaged { .. }) => Ok(looked),
            Err(other) => Err(other),
            Ok(_) => Ok(self.state.bounds(partition)),
        }
    }

    fn known(&self, partition: u32) -> Result<(), LogError> {
        match self.state.check(partition) {
            Err(error @ LogError::NoSuchPartition { .. }) => Err(error),
            _ => Ok(()),
        }
    }

    async fn read(&self, partition: u32, from: u64, limit: ReadLimit) -> Result<Vec<Record>, LogError> {
        let known = self.state.check(partition)?;
        let lane = self.reader(partition);
        for _ in 0..UNREADABLE_TRIES {
            if from >= self.state.bounds(partition).end {
                let bounds = self.bounds(partition).await?;
                self.state.check(partition)?;
                if from > bounds.end {
                    return Err(LogError::PastEnd { partition, asked: from, end: bounds.end });
                }
                if from == bounds.end {
                    return Ok(Vec::new());
                }
            }
            self.compare_last(lane, partition, known).await?;
            let most = u64::from(self.options().poll_records.max(1));
            let wanted = known.records_in(limit.bytes).min(limit.records.max(1) as u64).min(most);
            let messages = self.poll(lane, partition, from, wanted as u32).await.map_err(CallError::of_read)?;
            match messages.first().map(|message| message.header.offset) {
                Some(first) if first == from => return Ok(self.records(partition, known, messages, limit)),
                // Iggy goes on with the first message that is left.
                Some(first) if first > from => return Err(LogError::Gap { partition, asked: from, first }),
                Some(first) => {
                    let detail = format!("a read gave offset {first}, which was not asked for");
                    return Err(LogError::Damaged { partition, offset: from, detail });
                }
                // Not readable yet, or gone meanwhile.
                None => {
                    let bounds = self.bounds(partition).await?;
                    self.state.check(partition)?;
                    if from < bounds.start {
                        return Err(LogError::Gap { partition, asked: from, first: bounds.start });
                    }
                    sleep(self.options().poll_pause_min).await;
                }
            }
        }
        Err(LogError::Unavailable(format!(
            "partition {partition}: offset {from} can't be read from the server just now"
        )))
    }

    /// The records of an answer, as many as the limit allows and one at least.
    fn records(&self, partition: u32, known: &Partition, messages: Vec<IggyMessage>, limit: ReadLimit) -> Vec<Record> {
        let received: usize = messages.iter().map(|message| message.payload.len()).sum();
        known.measured(messages.len(), received);
        let mut records = Vec::with_capacity(messages.len().min(limit.records.max(1)));
        let mut bytes = 0;
        for message in messages {
            bytes += message.payload.len();
            let full = records.len() >= limit.records || bytes > limit.bytes;
            if full && !records.is_empty() {
                break;
            }
            let (record, unreadable) = decode(message);
            if unreadable {
                self.counts.unreadable_receipts.fetch_add(1, Ordering::Relaxed);
            }
            records.push(record);
        }
        if let Some(last) = records.last() {
            known.read(last.offset, last.mark());
            self.state.reaches(partition, last.offset + 1);
        }
        records
    }

    /// Over a new connection the record last read must still be what it was: offsets may have been used again.
    async fn compare_last(&self, lane: &Lane, partition: u32, known: &Partition) -> Result<(), LogError> {
        // Connects first, where there is no connection: that is what makes it new.
        drop(lane.hold().await.map_err(CallError::of_read)?);
        let epoch = self.shared.epoch.load(Ordering::Relaxed);
        let Some((offset, mark)) = known.to_compare(epoch) else {
            known.compared(epoch);
            return Ok(());
        };
        let found = self.poll(lane, partition, offset, 1).await.map_err(CallError::of_read)?;
        match found.into_iter().next() {
            Some(message) => {
                let (record, _) = decode(message);
                // Where it is not there, retention took it.
                if record.offset == offset && record.mark() != mark {
                    return Err(self.state.stop(partition, Fault::Replaced { offset }));
                }
            }
            None => {
                let end = self.look().await?.get(partition as usize).map_or(0, |bounds| bounds.end);
                self.state.check(partition)?;
                if end <= offset {
                    return Err(self.state.stop(partition, Fault::Truncated { seen: offset + 1, end }));
                }
            }
        }
        known.compared(epoch);
        Ok(())
    }

    /// The first offset whose record was appended at `time_us` or later, by halving: the server finds times by its index,
    /// which knows batches and not records.
    async fn offset_at(&self, partition: u32, time_us: i64) -> Result<u64, LogError> {
        let bounds = self.bounds(partition).await?;
        let (mut low, mut high) = (bounds.start, bounds.end);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.read(partition, middle, ReadLimit { records: 1, bytes: 1 }).await {
                Ok(read) if read.first().is_some_and(|record| record.appended_at_us < time_us) => low = middle + 1,
                Ok(_) => high = middle,
                // Retention passed meanwhile.
                Err(LogError::Gap { first, .. }) => low = first.min(high),
                Err(other) => return Err(other),
            }
        }
        Ok(low)
    }

    async fn wait_past(&self, partition: u32, offset: u64) -> Result<(), LogError> {
        let mut seen = self.state.seen.subscribe();
        loop {
            self.state.check(partition)?;
            if let Some(detail) = self.shared.other_topic.get() {
                return Err(LogError::Unusable(detail.clone()));
            }
            {
                let seen = seen.borrow_and_update();
                if seen.bounds.get(partition as usize).is_some_and(|bounds| bounds.end > offset) {
                    return Ok(());
                }
                if let Some(problem) = &seen.problem {
                    return Err(LogError::Unavailable(problem.clone()));
                }
            }
            if seen.changed().await.is_err() {
                return Err(LogError::Closed("the log was closed".to_owned()));
            }
        }
    }
}

/// Looks at the ends until the log is gone: Iggy does not tell by itself. One question answers for all partitions.
async fn watch_ends(log: Weak<Inner>, mut closed: watch::Receiver<bool>) {
    let mut pause = std::time::Duration::ZERO;
    loop {
        tokio::select! {
            () = sleep(pause) => {}
            // An error means that the log is gone: the same.
            _ = closed.wait_for(|closed| *closed) => return,
        }
        let Some(log) = log.upgrade() else { return };
        let before = log.state.seen.borrow().bounds.clone();
        let options = log.options();
        match log.look().await {
            Ok(looked) if looked == before => {
                pause = (pause * 3 / 2).clamp(options.poll_pause_min, options.poll_pause_max);
            }
            Ok(_) => pause = options.poll_pause_min,
            Err(error) => {
                if log.state.seen.borrow().problem.is_none() {
                    tracing::warn!(%error, "the log does not answer");
                }
                log.state.failed(&error.to_string());
                pause = options.poll_pause_max;
            }
        }
    }
}

#[async_trait]
impl EventLog for IggyLog {
    fn id(&self) -> LogId {
        self.inner.identity.log_id()
    }

    fn partitions(&self) -> u32 {
        self.inner.state.partitions.len() as u32
    }

    async fn bounds(&self, partition: u32) -> Result<Range<u64>, LogError> {
        self.inner.bounds(partition).await
    }

    async fn append(&self, partition: u32, records: Vec<NewRecord>) -> Result<Range<u64>, LogError> {
        let partitions = self.partitions();
        let queue = self.queues.get(partition as usize).ok_or(LogError::NoSuchPartition { partition, partitions })?;
        let bytes = check_append(&records)?;
        // An append larger than the whole queue takes all of it.
        let permits = bytes.min(self.inner.options().queue_bytes.max(1));
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let room = self.queue_room.clone().acquire_many_owned(permits).await;
        let room = room.map_err(|_| LogError::Closed("the log was closed".to_owned()))?;
        queue.append(records, bytes, room).await
    }

    async fn read(&self, partition: u32, from: u64, limit: ReadLimit) -> Result<Vec<Record>, LogError> {
        self.inner.read(partition, from, limit).await
    }

    async fn offset_at(&self, partition: u32, time_us: i64) -> Result<u64, LogError> {
        self.inner.offset_at(partition, time_us).await
    }

    async fn wait_past(&self, partition: u32, offset: u64) -> Result<(), LogError> {
        self.inner.wait_past(partition, offset).await
    }

    async fn release(&self, partition: u32, _below: u64) -> Result<(), LogError> {
        // The topic's own retention decides.
        self.inner.known(partition)
    }
}
