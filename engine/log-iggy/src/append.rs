//! Appends: one task for each partition, one batch at a time.
//!
//! Appends that come while a batch is under way wait, and go together in the next one, up to
//! [`Options::batch_bytes`](crate::Options::batch_bytes): a persisted send costs a flush of the server's disk, however small
//! it is. A send is one batch for the server too, so its messages stand together or not at all.
//!
//! **A batch without an answer** may be in the log. It is looked for, by the ids of its messages, from where the partition
//! ended before it was sent, over a new connection that answers, for [`Options::settle`](crate::Options::settle):
//! * found: it was appended, and its offsets are known;
//! * not found: it is sent again, at most [`Options::send_tries`](crate::Options::send_tries) times, then its appends fail
//!   with the certainty that nothing was appended;
//! * while the server can't be asked there is no outcome, and its appends wait, through an outage of any length. They
//!   count against the queue, so that it stays bounded; whoever serves clients answers them in time by itself. Only
//!   closing the log ends this, with [`LogError::OutcomeUnknown`].
//!
//! What remains: a batch that the server takes from a broken connection later than `settle` after it answered on a new one
//! would be there twice. The broken connection was closed before, so that takes a server that goes on reading from a
//! connection that was closed while it is slower on it, by `settle`, than on another one.
//!
//! A batch that could not even be sent, since there is no connection, fails after
//! [`Options::append_wait`](crate::Options::append_wait): that it is not in the log is certain.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use iggy::prelude::{IggyError, IggyMessage};
use millrace_log::{APPEND_BYTES_MAX, LogError, NewRecord};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};

use crate::error::CallError;
use crate::log::Inner;
use crate::message::encode;

/// Messages asked for at a time when a batch is looked for.
const LOOK_RECORDS: u32 = 1000;
/// Pause between looks at the log's end.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

type Answer = Result<Range<u64>, LogError>;

struct Waiting {
    messages: Vec<IggyMessage>,
    bytes: usize,
    /// Room in the queue, until this is answered.
    _room: OwnedSemaphorePermit,
    answer: oneshot::Sender<Answer>,
}

/// Where appends of a partition are handed in.
pub(crate) struct Queue {
    sender: mpsc::UnboundedSender<Waiting>,
}

impl Queue {
    /// Hands an append in and waits for its outcome. It goes on when nobody waits any more.
    pub(crate) async fn append(&self, records: Vec<NewRecord>, bytes: usize, room: OwnedSemaphorePermit) -> Answer {
        let (answer, outcome) = oneshot::channel();
        let messages = records.iter().map(encode).collect();
        // The channel has no bound of its own: the room in the queue is one.
        let closed = |_| LogError::Closed("the log was closed".to_owned());
        self.sender.send(Waiting { messages, bytes, _room: room, answer }).map_err(|_| closed(()))?;
        outcome.await.map_err(|_| closed(()))?
    }
}

/// Sends what is handed in.
pub(crate) struct Appender {
    log: Arc<Inner>,
    partition: u32,
    waiting: mpsc::UnboundedReceiver<Waiting>,
    closed: watch::Receiver<bool>,
}

/// What became of a batch.
enum Outcome {
    /// It begins at this offset.
    Appended(u64),
    Failed(Failure),
}

#[derive(Clone)]
enum Failure {
    Closed,
    Full(String),
    Refused(String),
    Unavailable(String),
    Unusable(String),
    Unknown(String),
}

impl Failure {
    fn error(self, partition: u32) -> LogError {
        match self {
            Self::Closed => LogError::Closed("the log was closed".to_owned()),
            Self::Full(detail) => LogError::Full(detail),
            Self::Refused(detail) => LogError::Refused(detail),
            Self::Unavailable(detail) => LogError::Unavailable(detail),
            Self::Unusable(detail) => LogError::Unusable(detail),
            Self::Unknown(detail) => LogError::OutcomeUnknown { partition, detail },
        }
    }
}

/// What was found at the log's end.
enum Found {
    At(u64),
    Absent,
    /// The log was closed first.
    Closed,
    /// The topic is another one.
    OtherTopic(String),
}

impl Appender {
    pub(crate) fn new(log: Arc<Inner>, partition: u32, closed: watch::Receiver<bool>) -> (Queue, Self) {
        let (sender, waiting) = mpsc::unbounded_channel();
        (Queue { sender }, Self { log, partition, waiting, closed })
    }

    /// Runs until the log is closed.
    pub(crate) async fn run(mut self) {
        let mut next: VecDeque<Waiting> = VecDeque::new();
        loop {
            if next.is_empty() {
                let waiting = tokio::select! {
                    biased;
                    // An error means that the log is gone: the same.
                    _ = self.closed.wait_for(|closed| *closed) => None,
                    waiting = self.waiting.recv() => waiting,
                };
                match waiting {
                    Some(waiting) => next.push_back(waiting),
                    None => return self.fail_rest(next),
                }
            }
            let (mut batch, mut bytes) = (Vec::new(), 0);
            loop {
                if next.is_empty() {
                    next.extend(self.waiting.try_recv());
                }
                let Some(first) = next.front() else { break };
                let room = bytes + first.bytes <= APPEND_BYTES_MAX && bytes < self.log.options().batch_bytes;
                if !room && !batch.is_empty() {
                    break;
                }
                bytes += first.bytes;
                batch.extend(next.pop_front());
            }
            self.append(batch).await;
            if *self.closed.borrow() {
                return self.fail_rest(next);
            }
        }
    }

    fn fail_rest(mut self, mut next: VecDeque<Waiting>) {
        self.waiting.close();
        while let Ok(waiting) = self.waiting.try_recv() {
            next.push_back(waiting);
        }
        for waiting in next {
            // Nobody may be waiting any more.
            let _ = waiting.answer.send(Err(Failure::Closed.error(self.partition)));
        }
    }

    /// Sends a batch and answers its appends.
    async fn append(&mut self, batch: Vec<Waiting>) {
        let mut messages = Vec::new();
        let mut appends = Vec::with_capacity(batch.len());
        for Waiting { messages: of_one, answer, _room, .. } in batch {
            appends.push((of_one.len() as u64, answer, _room));
            messages.extend(of_one);
        }
        let outcome = self.deliver(&mut messages).await;
        let counts = &self.log.counts;
        if let Outcome::Appended(first) = outcome {
            counts.batches.fetch_add(1, Ordering::Relaxed);
            counts.appends.fetch_add(appends.len() as u64, Ordering::Relaxed);
            self.log.state.reaches(self.partition, first + messages.len() as u64);
        }
        let mut at = 0;
        for (count, answer, _room) in appends {
            let result = match &outcome {
                Outcome::Appended(first) => Ok(first + at..first + at + count),
                Outcome::Failed(failure) => Err(failure.clone().error(self.partition)),
            };
            at += count;
            let _ = answer.send(result);
        }
    }

    async fn deliver(&mut self, messages: &mut [IggyMessage]) -> Outcome {
        let log = self.log.clone();
        let (options, counts) = (log.options(), &log.counts);
        let deadline = Instant::now() + options.append_wait;
        let mut tries = 0;
        loop {
            // What was there before can't be this batch.
            let from = self.log.state.bounds(self.partition).end;
            let why = match self.log.send(self.partition, messages).await {
                Ok(Some(first)) => return Outcome::Appended(first),
                // Taken, but it does not say where.
                Ok(None) => "the server did not tell the offsets".to_owned(),
                Err(CallError::OtherTopic(detail)) => return Outcome::Failed(Failure::Unusable(detail)),
                Err(CallError::Refused(error)) => return Outcome::Failed(refusal(&error)),
                Err(CallError::NotSent(detail)) => {
                    if Instant::now() >= deadline {
                        let detail = format!("{detail}; nothing was appended");
                        return Outcome::Failed(Failure::Unavailable(detail));
                    }
                    if self.pause(options.reconnect_pause_min).await {
                        return Outcome::Failed(Failure::Closed);
                    }
                    continue;
                }
                Err(CallError::Unknown(detail)) => {
                    counts.unknown.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(partition = self.partition, detail, "a batch has no answer: looking for it");
                    detail
                }
            };
            tries += 1;
            match self.search(from, messages).await {
                Found::At(first) => {
                    counts.found.fetch_add(1, Ordering::Relaxed);
                    return Outcome::Appended(first);
                }
                Found::Closed => return Outcome::Failed(Failure::Unknown(format!("{why}; then the log was closed"))),
                Found::OtherTopic(detail) => return Outcome::Failed(Failure::Unusable(detail)),
                Found::Absent if tries >= options.send_tries => {
                    let detail =
                        format!("{why}; after {tries} tries the batch is not in the log: nothing was appended");
                    return Outcome::Failed(Failure::Unavailable(detail));
                }
                // Offsets fell meanwhile: it may be where nobody looked.
                Found::Absent if log.state.check(self.partition).is_err() => {
                    return Outcome::Failed(Failure::Unknown(format!("{why}; and the partition lost records")));
                }
                Found::Absent => {
                    counts.sent_again.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Looks for a batch until it is found, or was not there for long enough while the server answered.
    async fn search(&mut self, from: u64, messages: &[IggyMessage]) -> Found {
        let settle = self.log.options().settle;
        let mut answered: Option<Instant> = None;
        loop {
            match self.look(from, messages).await {
                Ok(Some(first)) => return Found::At(first),
                Ok(None) if answered.is_some_and(|since| since.elapsed() >= settle) => return Found::Absent,
                Ok(None) => {
                    answered.get_or_insert_with(Instant::now);
                }
                Err(CallError::OtherTopic(detail)) => return Found::OtherTopic(detail),
                // From here on it is another connection: the time counts from its first answer.
                Err(_) => answered = None,
            }
            if self.pause(LOOK_PAUSE.min(settle.max(Duration::from_millis(1)))).await {
                return Found::Closed;
            }
        }
    }

    /// Reads the partition from `from` to its end for messages with the ids of `messages`, one behind the other.
    async fn look(&self, from: u64, messages: &[IggyMessage]) -> Result<Option<u64>, CallError> {
        let lane = self.log.writer(self.partition);
        let mut at = from;
        // How many of the batch's messages stand directly before `at`, at the most: ids may repeat, so each is tried.
        let mut window: VecDeque<u128> = VecDeque::with_capacity(messages.len());
        loop {
            let page = self.log.poll(lane, self.partition, at, LOOK_RECORDS).await?;
            if page.is_empty() {
                return Ok(None);
            }
            for message in page {
                // Where retention took something the batch can't span it.
                if message.header.offset != at {
                    window.clear();
                }
                at = message.header.offset + 1;
                if window.len() == messages.len() {
                    window.pop_front();
                }
                window.push_back(message.header.id);
                let last = messages.last().map(|last| last.header.id);
                if window.len() == messages.len()
                    && last == Some(message.header.id)
                    && window.iter().eq(messages.iter().map(|message| &message.header.id))
                {
                    return Ok(Some(at - messages.len() as u64));
                }
            }
        }
    }

    /// Waits; true when the log was closed meanwhile.
    async fn pause(&mut self, time: Duration) -> bool {
        tokio::select! {
            () = sleep(time) => false,
            _ = self.closed.wait_for(|closed| *closed) => true,
        }
    }
}

fn refusal(error: &IggyError) -> Failure {
    let detail = format!("the Iggy server refused the batch: {error}");
    match error {
        IggyError::TopicFull(..) => Failure::Full(detail),
        IggyError::TooBigUserHeaders
        | IggyError::InvalidHeaderKey
        | IggyError::InvalidHeaderValue
        | IggyError::TooBigMessagePayload
        | IggyError::TooManyMessages
        | IggyError::EmptyMessagePayload
        | IggyError::InvalidMessagePayloadLength
        | IggyError::InvalidMessagesCount => Failure::Refused(detail),
        _ => Failure::Unavailable(detail),
    }
}
