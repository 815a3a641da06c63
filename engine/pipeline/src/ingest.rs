//! Events into the log, each once, acknowledged when durable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use millrace_decode::{BatchContext, EventError, scan};
use millrace_log::{APPEND_BYTES_MAX, EventLog, LogError, NewRecord, RECORD_OVERHEAD_BYTES, ReadLimit, Receipt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::Clock;
use crate::dedup::{Claim, Outcome, Window, key};
use crate::metrics::{IngestOutcome, Metrics};

/// Bounds of the ingest.
#[derive(Clone, Debug)]
pub struct IngestOptions {
    /// Most events that the de-duplication window remembers; about 60 bytes each.
    pub dedup_events: usize,
    /// Most payload bytes being appended at a time; further requests are told to come again.
    pub in_flight_bytes: usize,
    /// Longest wait of a request for the log. The append goes on, its events stay claimed, and a repeat of them waits for
    /// what became of it: a log that is down for long does not make an event that it took come twice.
    pub append_wait: Duration,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self { dedup_events: 500_000, in_flight_bytes: 64 * 1024 * 1024, append_wait: Duration::from_secs(30) }
    }
}

/// What is known of a request, the same for all of its events.
#[derive(Clone, Debug, Default)]
pub struct Envelope {
    /// Type that the endpoint implies.
    pub kind: Option<&'static str>,
    /// `sentAt` of the batch, µs since 1970 UTC.
    pub sent_at_us: Option<i64>,
    /// `context` of the batch.
    pub context: Option<Bytes>,
    /// Address of the sender.
    pub client_ip: Option<String>,
    /// App that the sender's token stands for.
    pub app: Option<String>,
}

/// One event of a request.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Its bytes, as they came.
    pub payload: Bytes,
    /// Whether its own `receivedAt` counts, for history that is loaded later. Else, and without one, it is now.
    pub takes_received_at: bool,
    /// Identity that the sender can repeat, for events without a `messageId`: hash(file digest, line).
    pub id: Option<u128>,
}

/// What became of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is in the log now.
    New,
    /// It was there before.
    Duplicate,
}

/// Why an event is not in the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IngestError {
    /// The event itself is bad. Sending it again won't help.
    #[error(transparent)]
    Bad(#[from] EventError),
    /// The log could not take it. Send it again later.
    #[error("{0}")]
    Unavailable(String),
}

/// The ingest tier.
pub struct Ingest {
    log: Arc<dyn EventLog>,
    window: Arc<Window>,
    in_flight: Arc<Semaphore>,
    in_flight_max: usize,
    append_wait: Duration,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// An event that was found good.
struct Checked {
    record: NewRecord,
    key: u128,
    partition: u32,
}

impl Ingest {
    /// An ingest into `log`. Reads the log's tail, so that repeats of what was acknowledged before a restart are known.
    ///
    /// # Errors
    /// When the tail can't be read.
    pub async fn open(
        log: Arc<dyn EventLog>,
        options: IngestOptions,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, LogError> {
        let window = Arc::new(Window::new(options.dedup_events));
        fill_from_tail(log.as_ref(), &window, options.dedup_events).await?;
        let in_flight_max = options.in_flight_bytes.clamp(1024, Semaphore::MAX_PERMITS);
        Ok(Self {
            log,
            window,
            in_flight: Arc::new(Semaphore::new(in_flight_max)),
            in_flight_max,
            append_wait: options.append_wait,
            clock,
            metrics,
        })
    }

    /// Appends events and gives, for each in order, what became of it. Events that are bad do not keep the others from
    /// being appended.
    ///
    /// Once this is called the append goes on even if the caller goes away.
    pub async fn accept(&self, envelope: &Envelope, events: Vec<NewEvent>) -> Vec<Result<Accepted, IngestError>> {
        // The context around a batch goes into the receipt of each of its events.
        let beside = envelope.context.as_ref().map_or(0, Bytes::len);
        let bytes: usize = events.iter().map(|event| event.payload.len() + beside).sum();
        // A request larger than the whole budget takes all of it: bounded, and it does not wait for ever.
        let permits = u32::try_from(bytes.min(self.in_flight_max)).unwrap_or(u32::MAX);
        let Ok(permit) = self.in_flight.clone().try_acquire_many_owned(permits) else {
            self.metrics.ingested(IngestOutcome::Failed, events.len() as u64);
            let busy = IngestError::Unavailable("too much is being written just now: send again in a second".into());
            return events.iter().map(|_| Err(busy.clone())).collect();
        };
        let context = match envelope.context.as_deref().map(BatchContext::scan).transpose() {
            Ok(context) => context.flatten(),
            Err(error) => {
                self.metrics.ingested(IngestOutcome::Refused, events.len() as u64);
                return events.iter().map(|_| Err(error.into())).collect();
            }
        };
        let arrival = Arrival { envelope, context, now_us: (self.clock)(), partitions: self.log.partitions() };
        let mut results: Vec<Result<Accepted, IngestError>> = Vec::with_capacity(events.len());
        let mut good: Vec<(usize, Checked)> = Vec::with_capacity(events.len());
        for (index, event) in events.into_iter().enumerate() {
            match arrival.check(event) {
                Ok(checked) => {
                    good.push((index, checked));
                    // Until the append tells otherwise.
                    results.push(Err(IngestError::Unavailable("the append was interrupted".into())));
                }
                Err(error) => results.push(Err(error.into())),
            }
        }
        let (indexes, good): (Vec<usize>, Vec<Checked>) = good.into_iter().unzip();
        let append = append_once(self.log.clone(), self.window.clone(), good, permit);
        match tokio::time::timeout(self.append_wait, tokio::spawn(append)).await {
            Ok(Ok(appended)) => {
                for (index, result) in indexes.into_iter().zip(appended) {
                    results[index] = result;
                }
            }
            // It panicked: the results are those of before.
            Ok(Err(_)) => {}
            Err(_) => {
                let late = "the log has not answered in time: send again, what it took will be known";
                for index in indexes {
                    results[index] = Err(IngestError::Unavailable(late.into()));
                }
            }
        }
        self.count(&results);
        results
    }

    /// Payload bytes being appended just now.
    pub fn in_flight_bytes(&self) -> usize {
        self.in_flight_max - self.in_flight.available_permits()
    }

    /// Events that the de-duplication window holds.
    pub fn dedup_events(&self) -> usize {
        self.window.len()
    }

    fn count(&self, results: &[Result<Accepted, IngestError>]) {
        let count = |of: fn(&Result<Accepted, IngestError>) -> bool| results.iter().filter(|r| of(r)).count() as u64;
        for (outcome, events) in [
            (IngestOutcome::Accepted, count(|r| matches!(r, Ok(Accepted::New)))),
            (IngestOutcome::Duplicate, count(|r| matches!(r, Ok(Accepted::Duplicate)))),
            (IngestOutcome::Refused, count(|r| matches!(r, Err(IngestError::Bad(_))))),
            (IngestOutcome::Failed, count(|r| matches!(r, Err(IngestError::Unavailable(_))))),
        ] {
            if events > 0 {
                self.metrics.ingested(outcome, events);
            }
        }
    }
}

/// What is the same for all events of a request.
struct Arrival<'a> {
    envelope: &'a Envelope,
    context: Option<BatchContext<'a>>,
    now_us: i64,
    partitions: u32,
}

impl Arrival<'_> {
    /// Looks at one event: is it one, whose is it, and what is it called.
    fn check(&self, event: NewEvent) -> Result<Checked, EventError> {
        let scanned = scan(&event.payload)?;
        let device_id = scanned.device_id(self.context.as_ref())?;
        // A hint for locality: nothing relies on a device's events standing in one partition.
        let partition = (xxh3_64(device_id.as_bytes()) % u64::from(self.partitions.max(1))) as u32;
        let id = event.id.unwrap_or_else(|| uuid::Uuid::new_v4().as_u128());
        // An event that has no name of its own gets one here, so that its rows have the same one in every replay.
        let (key, given_id) = match scanned.message_id() {
            Some(message_id) => (key(self.envelope.app.as_deref(), &message_id), None),
            None => (id, Some(format!("{id:032x}"))),
        };
        let received_at_us = if event.takes_received_at { scanned.received_at_us() } else { None };
        let receipt = Receipt {
            received_at_us: received_at_us.unwrap_or(self.now_us),
            kind: self.envelope.kind.map(str::to_owned),
            message_id: given_id,
            sent_at_us: self.envelope.sent_at_us,
            batch_context: self.envelope.context.clone(),
            app: self.envelope.app.clone(),
            client_ip: self.envelope.client_ip.clone(),
        };
        Ok(Checked { record: NewRecord { id, receipt: Some(receipt), payload: event.payload }, key, partition })
    }
}

/// Most bytes that a request appends at a time; a larger one is several appends, which fail apart.
const APPEND_BYTES: usize = APPEND_BYTES_MAX / 4;

/// What is appended to one partition at a time.
struct Append {
    partition: u32,
    /// Where the events stand in the request.
    indexes: Vec<usize>,
    keys: Vec<u128>,
    records: Vec<NewRecord>,
    bytes: usize,
    outcome: watch::Sender<Outcome>,
}

impl Append {
    fn new(partition: u32) -> Self {
        let outcome = watch::Sender::new(Outcome::Pending);
        Self { partition, indexes: Vec::new(), keys: Vec::new(), records: Vec::new(), bytes: 0, outcome }
    }
}

/// What a record counts against the log's limit for one append.
fn encoded_bytes(record: &NewRecord) -> usize {
    record.payload.len() + record.receipt.as_ref().map_or(0, Receipt::encoded_len) + RECORD_OVERHEAD_BYTES
}

/// Appends what is new, waits for what others are appending, and gives the outcome of each.
async fn append_once(
    log: Arc<dyn EventLog>,
    window: Arc<Window>,
    events: Vec<Checked>,
    _in_flight: OwnedSemaphorePermit,
) -> Vec<Result<Accepted, IngestError>> {
    let mut results: Vec<Option<Result<Accepted, IngestError>>> = Vec::with_capacity(events.len());
    let mut waiting = Vec::new();
    let mut appends: Vec<Append> = Vec::new();
    // The append of each partition that takes further events, by its place in `appends`.
    let mut open: BTreeMap<u32, usize> = BTreeMap::new();
    for (index, event) in events.into_iter().enumerate() {
        let bytes = encoded_bytes(&event.record);
        let place = match open.get(&event.partition) {
            Some(place) if appends[*place].bytes + bytes <= APPEND_BYTES => *place,
            _ => {
                appends.push(Append::new(event.partition));
                open.insert(event.partition, appends.len() - 1);
                appends.len() - 1
            }
        };
        let append = &mut appends[place];
        match window.claim(event.key, &append.outcome.subscribe()) {
            Claim::Known => results.push(Some(Ok(Accepted::Duplicate))),
            Claim::Pending(receiver) => {
                results.push(None);
                waiting.push((index, receiver));
            }
            Claim::New => {
                results.push(None);
                append.indexes.push(index);
                append.keys.push(event.key);
                append.records.push(event.record);
                append.bytes += bytes;
            }
        }
    }
    let appended = join_all(appends.into_iter().filter(|append| !append.records.is_empty()).map(|append| {
        let (log, window) = (&log, &window);
        async move {
            let Append { partition, indexes, keys, records, outcome, .. } = append;
            let result = log.append(partition, records).await;
            window.settle(&keys, result.is_ok());
            outcome.send_replace(if result.is_ok() { Outcome::Durable } else { Outcome::Failed });
            (indexes, result.map(|_| Accepted::New).map_err(|error| IngestError::Unavailable(error.to_string())))
        }
    }));
    for (indexes, result) in appended.await {
        for index in indexes {
            results[index] = Some(result.clone());
        }
    }
    for (index, mut receiver) in waiting {
        let outcome = receiver.wait_for(|outcome| *outcome != Outcome::Pending).await.map(|outcome| *outcome);
        results[index] = Some(match outcome {
            Ok(Outcome::Durable) => Ok(Accepted::Duplicate),
            _ => Err(IngestError::Unavailable("the first copy of this event could not be written".into())),
        });
    }
    results
        .into_iter()
        .map(|result| result.unwrap_or_else(|| Err(IngestError::Unavailable("the append was interrupted".into()))))
        .collect()
}

/// Names the line of an imported file: the same line of the same file has the same name.
pub fn import_record_id(file_digest: &str, line: u64) -> u128 {
    let mut name = file_digest.as_bytes().to_vec();
    name.extend_from_slice(&line.to_le_bytes());
    xxh3_128(&name)
}

/// Puts the keys of the log's last events into the window.
async fn fill_from_tail(log: &dyn EventLog, window: &Window, events: usize) -> Result<(), LogError> {
    let share = events as u64 / u64::from(log.partitions().max(1));
    for partition in 0..log.partitions() {
        let bounds = log.bounds(partition).await?;
        let mut next = bounds.start.max(bounds.end.saturating_sub(share));
        while next < bounds.end {
            let records = log.read(partition, next, ReadLimit { records: 4096, bytes: 4 * 1024 * 1024 }).await?;
            let Some(last) = records.last() else { break };
            next = last.offset + 1;
            let keys: Vec<u128> = records
                .iter()
                .filter_map(|record| match &record.receipt {
                    // An event that the ingest named is known by that name: the record's id.
                    Some(receipt) if receipt.message_id.is_some() => Some(record.id),
                    receipt => {
                        let app = receipt.as_ref().and_then(|receipt| receipt.app.as_deref());
                        Some(key(app, &scan(&record.payload).ok()?.message_id()?))
                    }
                })
                .collect();
            window.settle(&keys, true);
        }
    }
    Ok(())
}
