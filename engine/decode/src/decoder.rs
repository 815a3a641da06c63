//! From log records to a batch of rows.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, BooleanBuilder, Int64Array, Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use arrow::record_batch::RecordBatch;
use millrace_log::{Receipt, Record};
use millrace_rows::LogId;
use millrace_rows::schema::decoded_schema;

use crate::document::{Document, RestWriter, Time};
use crate::error::EventError;
use crate::event::{BatchContext, Device, Event, Ids, known};
use crate::fields::{Field, Fields};
use crate::json::Shape;
use crate::time::Clocks;

/// What can be set about decoding. Every setting can change rows: it belongs to the semantics version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How far behind its receipt an event may have happened for its clock to be believed.
    pub time_window_behind: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { time_window_behind: Duration::from_secs(30 * 24 * 60 * 60) }
    }
}

/// Decodes records. It keeps nothing from one record to the next, so rows do not depend on how records are batched.
#[derive(Clone, Debug)]
pub struct Decoder {
    behind_max_us: i64,
}

/// What records became.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// One row for each record that is an event, in their order, with the schema
    /// [`millrace_rows::schema::decoded_schema`].
    pub batch: RecordBatch,
    /// The other records: offset and one of [`crate::codes`], in their order.
    pub dead: Vec<(u64, &'static str)>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(&Settings::default())
    }
}

impl Decoder {
    /// A decoder with these settings.
    pub fn new(settings: &Settings) -> Self {
        // More than 290,000 years is as good as no limit.
        let behind_max_us = i64::try_from(settings.time_window_behind.as_micros()).unwrap_or(i64::MAX);
        Self { behind_max_us }
    }

    /// Decodes `records` of one partition of the log `log`.
    ///
    /// A column holds at most 2 GiB: the payloads of one call, and 16 KiB for each of its records that has a batch
    /// context, must stay below that in sum. The engine reads a few MiB at a time.
    pub fn decode(&self, records: &[Record], partition: u32, log: LogId) -> Decoded {
        let bytes = records.iter().map(|record| record.payload.len()).sum();
        let mut columns = Columns::with_capacity(records.len(), bytes);
        let mut dead = Vec::new();
        let mut event = Event::empty();
        let mut contexts = BatchContexts::default();
        for record in records {
            let place = Place { record, partition, log };
            let row = contexts.of(record).and_then(|batch| self.append(&mut event, batch, &place, &mut columns));
            if let Err(error) = row {
                dead.push((record.offset, error.code));
            }
        }
        Decoded { batch: columns.finish(partition), dead }
    }

    /// Appends the row of one record, or nothing.
    fn append<'r>(
        &self,
        event: &mut Event<'r>,
        batch: Option<&BatchContext<'r>>,
        place: &Place<'r>,
        columns: &mut Columns,
    ) -> Result<(), EventError> {
        event.read(&place.record.payload)?;
        let ids = event.ids()?;
        let device = event.device(&ids, batch)?;
        let row = Row {
            own: &event.document,
            taken: Fields::default(),
            batch: batch.map(|batch| &batch.document),
            taken_of_batch: Fields::default(),
        };
        row.append(&ids, &device, place, self.behind_max_us, columns);
        Ok(())
    }
}

/// A record and where it stands.
struct Place<'r> {
    record: &'r Record,
    partition: u32,
    log: LogId,
}

/// The batch contexts of records. The records of one batch stand together and have the same: it is read once.
#[derive(Default)]
struct BatchContexts<'r> {
    last: Option<ReadContext<'r>>,
}

/// A batch context and what reading it came to.
struct ReadContext<'r> {
    bytes: &'r [u8],
    outcome: Result<Option<BatchContext<'r>>, EventError>,
}

impl<'r> BatchContexts<'r> {
    fn of(&mut self, record: &'r Record) -> Result<Option<&BatchContext<'r>>, EventError> {
        let Some(bytes) = record.receipt.as_ref().and_then(|receipt| receipt.batch_context.as_deref()) else {
            return Ok(None);
        };
        let read = || ReadContext { bytes, outcome: BatchContext::scan(bytes) };
        let last = match self.last.take() {
            Some(last) if last.bytes == bytes => last,
            _ => read(),
        };
        self.last.insert(last).outcome.as_ref().map(Option::as_ref).map_err(|error| *error)
    }
}

/// An event on its way into the columns, with the members that went into a column of their own so far.
struct Row<'e> {
    own: &'e Document<'e>,
    taken: Fields,
    batch: Option<&'e Document<'e>>,
    taken_of_batch: Fields,
}

impl<'e> Row<'e> {
    fn append(
        mut self,
        ids: &Ids<'_>,
        device: &Device<'_>,
        place: &Place<'_>,
        behind_max_us: i64,
        columns: &mut Columns,
    ) {
        let record = place.record;
        let no_receipt = Receipt::default();
        let receipt = record.receipt.as_ref().unwrap_or(&no_receipt);

        match ids.message.as_deref().or(receipt.message_id.as_deref()) {
            Some(id) => columns.event_id.append_value(id),
            None => append_record_id(&mut columns.event_id, place),
        }
        let _ = columns.device_id.write_str(device.prefix);
        columns.device_id.append_value(device.id);
        columns.user_id.append_option(ids.user.as_deref());
        for field in [Field::MessageId, Field::UserId, Field::DeviceId, Field::WriteKey] {
            self.taken.add(field);
        }
        if device.source == Field::AnonymousId || ids.anonymous.is_none() {
            self.taken.add(Field::AnonymousId);
        }
        // Where the event has a device of its own, the batch's is left out as a whole.
        self.taken_of_batch.add(Field::DeviceId);

        let kind = self.string(Field::Type);
        columns.kind.append_option(kind.as_deref().or(receipt.kind.as_deref()));
        let event = self.string(Field::Event).or_else(|| self.string(Field::Name));
        columns.event.append_option(event);

        let received_at = record.receipt.as_ref().map_or(record.appended_at_us, |receipt| receipt.received_at_us);
        let (event_time, suspect) = self.event_time(received_at, receipt.sent_at_us, behind_max_us);
        columns.event_time.append_value(event_time);
        columns.received_at.append_value(received_at);
        columns.time_suspect.append_value(suspect);

        match receipt.app.as_deref() {
            Some(app) => columns.app.append_value(app),
            None => columns.app.append_option(self.context_string(Field::App, Field::AppName)),
        }
        columns.app_version.append_option(self.context_string(Field::App, Field::AppVersion));
        columns.platform.append_option(self.context_string(Field::Device, Field::DeviceType));
        columns.os.append_option(self.context_string(Field::Os, Field::OsName));
        columns.device_model.append_option(self.context_string(Field::Device, Field::DeviceModel));
        columns.locale.append_option(self.context_string(Field::Locale, Field::Locale));
        let ip = self.context_string(Field::Ip, Field::Ip);
        columns.ip.append_option(ip.as_deref().or(receipt.client_ip.as_deref()));
        columns.user_agent.append_option(self.context_string(Field::UserAgent, Field::UserAgent));
        columns.url.append_option(self.context_string(Field::Page, Field::PageUrl));
        columns.referrer.append_option(self.context_string(Field::Page, Field::PageReferrer));
        columns.session_id.append_option(self.session_id());

        columns.properties.append_option(self.properties());
        self.context(&mut columns.context);
        self.envelope(&mut columns.envelope);
        // Offsets count records: i64 holds them.
        columns.offset.append_value(record.offset as i64);
    }

    /// The text of a member at the top, which is taken.
    fn string(&mut self, field: Field) -> Option<Cow<'e, str>> {
        let text = self.own.string(field);
        if text.is_some() {
            self.taken.add(field);
        }
        text
    }

    /// The context that counts for `member` (a member of the context, not deeper): the event's own if it has it.
    fn holder(&mut self, member: Field) -> (&'e Document<'e>, &mut Fields) {
        match self.batch {
            Some(batch) if self.own.given(member).is_none() => (batch, &mut self.taken_of_batch),
            _ => (self.own, &mut self.taken),
        }
    }

    /// The text of `field`, which is `member` of the context or stands in it. It is taken.
    fn context_string(&mut self, member: Field, field: Field) -> Option<Cow<'e, str>> {
        let (document, taken) = self.holder(member);
        let text = document.string(field);
        if text.is_some() {
            taken.add(field);
        }
        text
    }

    fn session_id(&mut self) -> Option<Cow<'e, str>> {
        let (document, taken) = self.holder(Field::SessionId);
        let id = document.label(Field::SessionId);
        if id.is_some() {
            taken.add(Field::SessionId);
        }
        id
    }

    /// When the event happened, and whether its clock is in doubt. Of the members that say so, those are taken that
    /// decided.
    fn event_time(&mut self, received_at: i64, batch_sent_at: Option<i64>, behind_max: i64) -> (i64, bool) {
        let mut suspect = false;
        let mut read = |field| {
            let time = self.own.time(field);
            suspect |= time == Time::Unreadable;
            known(time).map(|time| (time, field))
        };
        let original = read(Field::OriginalTimestamp).or_else(|| read(Field::Timestamp));
        let own_sent_at = read(Field::SentAt);
        let clocks = Clocks {
            original: original.map(|(time, _)| time),
            sent_at: own_sent_at.map(|(time, _)| time).or(batch_sent_at),
            received_at,
            behind_max,
        };
        let Some(event_time) = clocks.event_time() else { return (received_at, true) };
        if let Some((_, field)) = original {
            self.taken.add(field);
            if own_sent_at.is_some() {
                self.taken.add(Field::SentAt);
            }
        }
        (event_time, suspect)
    }

    fn properties(&mut self) -> Option<&'e str> {
        [Field::Properties, Field::Traits].into_iter().find_map(|field| {
            let text = self.own.object_text(field)?;
            self.taken.add(field);
            Some(text)
        })
    }

    fn context(&mut self, column: &mut StringBuilder) {
        let mut out = RestWriter::new(column);
        let range = self.own.context();
        self.own.write_rest(range.clone(), self.taken, &mut out);
        if let Some(batch) = self.batch {
            let names: HashSet<Cow<'_, str>> = self.own.other_names(range).collect();
            batch.write_rest_unless(batch.all(), self.taken_of_batch, &mut out, |field, name| match field {
                Field::Other => names.contains(name),
                field => self.own.given(field).is_some(),
            });
        }
        out.finish();
    }

    fn envelope(&mut self, column: &mut StringBuilder) {
        let own = self.own;
        if own.member(Field::Context).is_some_and(|member| member.shape == Shape::Object) {
            self.taken.add(Field::Context);
        }
        let mut out = RestWriter::new(column);
        own.write_rest(own.all(), self.taken, &mut out);
        out.finish();
    }
}

/// The id of an event that came with none: the record's own, or, where a producer gave none, the record's place.
fn append_record_id(column: &mut StringBuilder, place: &Place<'_>) {
    // A column never refuses text.
    let _ = match place.record.id {
        0 => write!(column, "{}-{}-{}", place.log, place.partition, place.record.offset),
        id => write!(column, "{id:032x}"),
    };
    column.append_value("");
}

/// The columns of a batch that is being decoded.
struct Columns {
    event_id: StringBuilder,
    device_id: StringBuilder,
    user_id: StringBuilder,
    session_id: StringBuilder,
    kind: StringBuilder,
    event: StringBuilder,
    event_time: TimestampMicrosecondBuilder,
    received_at: TimestampMicrosecondBuilder,
    time_suspect: BooleanBuilder,
    app: StringBuilder,
    app_version: StringBuilder,
    platform: StringBuilder,
    os: StringBuilder,
    device_model: StringBuilder,
    locale: StringBuilder,
    ip: StringBuilder,
    user_agent: StringBuilder,
    url: StringBuilder,
    referrer: StringBuilder,
    properties: StringBuilder,
    context: StringBuilder,
    envelope: StringBuilder,
    offset: Int64Builder,
}

impl Columns {
    /// Columns for `rows` rows from payloads of `bytes` bytes in sum, with room for what rows usually have.
    fn with_capacity(rows: usize, bytes: usize) -> Self {
        let text = |row_bytes: usize| StringBuilder::with_capacity(rows, (rows * row_bytes).min(bytes));
        let time = || TimestampMicrosecondBuilder::with_capacity(rows).with_timezone("UTC");
        Self {
            event_id: text(40),
            device_id: text(40),
            user_id: text(16),
            session_id: text(0),
            kind: text(8),
            event: text(16),
            event_time: time(),
            received_at: time(),
            time_suspect: BooleanBuilder::with_capacity(rows),
            app: text(16),
            app_version: text(8),
            platform: text(8),
            os: text(8),
            device_model: text(12),
            locale: text(8),
            ip: text(16),
            user_agent: text(0),
            url: text(0),
            referrer: text(0),
            properties: StringBuilder::with_capacity(rows, bytes / 4),
            context: StringBuilder::with_capacity(rows, bytes / 4),
            envelope: StringBuilder::with_capacity(rows, bytes / 8),
            offset: Int64Builder::with_capacity(rows),
        }
    }

    fn finish(mut self, partition: u32) -> RecordBatch {
        let offset = self.offset.finish();
        let rows = offset.len();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(25);
        columns.push(Arc::new(self.event_id.finish()));
        columns.push(Arc::new(self.device_id.finish()));
        columns.push(Arc::new(self.user_id.finish()));
        columns.push(Arc::new(self.session_id.finish()));
        columns.push(Arc::new(self.kind.finish()));
        columns.push(Arc::new(self.event.finish()));
        columns.push(Arc::new(self.event_time.finish()));
        columns.push(Arc::new(self.received_at.finish()));
        columns.push(Arc::new(self.time_suspect.finish()));
        let texts = [
            &mut self.app,
            &mut self.app_version,
            &mut self.platform,
            &mut self.os,
            &mut self.device_model,
            &mut self.locale,
            &mut self.ip,
            &mut self.user_agent,
            &mut self.url,
            &mut self.referrer,
            &mut self.properties,
            &mut self.context,
            &mut self.envelope,
        ];
        columns.extend(texts.map(|text| Arc::new(text.finish()) as ArrayRef));
        columns.push(Arc::new(Int64Array::from_value(i64::from(partition), rows)));
        columns.push(Arc::new(offset));
        columns.push(Arc::new(Int64Array::from_value(0, rows)));
        #[expect(clippy::expect_used, reason = "the columns above are those of the schema, each with one value a row")]
        RecordBatch::try_new(decoded_schema(), columns).expect("the columns of a decoded batch")
    }
}
