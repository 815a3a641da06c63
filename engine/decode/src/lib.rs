//! From the JSON envelope of the installed base of SDKs (the Segment tracking spec) to Arrow columns.
//!
//! * [`scan`] reads one event and says why it is none: for the ingest tier, which needs the device and the message id.
//! * [`split_batch`] takes the body of a batch request apart without losing the good events to a broken one.
//! * [`Decoder`] makes rows of log records, or dead letters. It is pure: no clock, and nothing of one record in the row
//!   of another. All that this page says is part of the semantics version, like the [`Settings`].
//!
//! # How it reads
//!
//! One pass over an event checks every byte of it: UTF-8, the grammar of RFC 8259, and nesting, also inside of values that
//! are passed on verbatim, since a store must never hold broken JSON. The result is a list of where the members stand, in
//! memory that is used again for the next event; columns are filled from the bytes of the input. There is no map, and no
//! allocation but for texts with escapes in them. `examples/throughput.rs` measures it against the parsers that could
//! have been used. They were not, because none of them does all of this: the lazy one of sonic-rs takes `\uZZZZ` and any
//! nesting (by recursion) for valid in values that it skips, raw values of serde_json have no limit of nesting, and
//! neither tells of lone surrogates.
//!
//! | input | outcome |
//! |---|---|
//! | longer than 256 KiB | `too_large` |
//! | invalid UTF-8; invalid JSON anywhere, a byte order mark included | `invalid_utf8`, `invalid_json` |
//! | no object | `not_an_object` |
//! | more than 64 levels, the event being the first | `too_deep`; the walk has no recursion to overflow |
//! | a name twice in one object | the last one counts, and what is inside the earlier one is forgotten. Members without a meaning to the decoder are passed on as they are, both |
//! | a name with escapes | the same as without |
//! | half of a surrogate pair (`\ud800`) | in an id: refused. Elsewhere the six bytes are replaced by `\ufffd`, also in `properties`: clients cut texts in the middle of an emoji, and many readers refuse a document for it |
//! | NUL and other control characters, escaped | in an id: refused. Elsewhere legal JSON, passed on |
//!
//! # What becomes a column
//!
//! | column | from, the first that is there |
//! |---|---|
//! | `event_id` | `messageId`; receipt's message id; the record's id as 32 hexadecimal digits; where that is 0, `log-partition-offset` |
//! | `device_id` | `context.device.id`; `anonymousId`; `user:` + `userId` |
//! | `user_id`, `session_id` | `userId`; `context.sessionId` |
//! | `type`, `event` | `type`, receipt's kind; `event`, `name` |
//! | `app`, `ip` | receipt's app, `context.app.name`; `context.ip`, receipt's client address |
//! | `app_version`, `platform`, `os`, `device_model`, `locale`, `user_agent`, `url`, `referrer` | `context.` + `app.version`, `device.type`, `os.name`, `device.model`, `locale`, `userAgent`, `page.url`, `page.referrer` |
//! | `properties` | `properties`, `traits`: the bytes of the input |
//! | `context` | what is left of the context; null when nothing is |
//! | `envelope` | what is left at the top; null when nothing is |
//!
//! What a value does, by its type:
//!
//! | member | string | integer | other number, boolean | object, array | null | empty string |
//! |---|---|---|---|---|---|---|
//! | `messageId`, `userId`, `anonymousId`, `context.device.id` | the id, ≤ 256 bytes, no control characters, else `bad_…` | its digits as written | `bad_…` | `bad_…` | absent | absent |
//! | `context.sessionId` | the id | its digits | stays | stays | absent | stays |
//! | times | RFC 3339 | epoch milliseconds | numbers: the same; else unreadable, stays | unreadable, stays | absent | unreadable, stays |
//! | `properties`, `traits` | stays | stays | stays | object: the column; array: stays | absent | stays |
//! | `context`, and `device`, `app`, `os`, `page` in it | stays | stays | stays | object: looked into; array: stays | absent | stays |
//! | the other sources of columns | the text | stays | stays | stays | absent | the empty text |
//!
//! *Stays* means: it fills no column, counts as absent there, and is left in `context` or `envelope` byte by byte. So is
//! every member that was not needed: `traits` beside `properties`, `name` beside `event`, an `anonymousId` that is not
//! the device's id, a `timestamp` beside an `originalTimestamp`, `context.app.name` where the receipt names the app. Of
//! an object that was used in part the other members stay. An id that is refused refuses the event even where another
//! could stand for it. Of all that an event holds only this is in no column: nulls and empty ids in the places above, the
//! times that decided `event_time`, and `writeKey`: it is a credential, the receipt's app stands for it, and no store
//! should hold it.
//!
//! No device id: `missing_device_id`; or `bad_device_id` when one is given and empty, or when `user:` + `userId` is longer
//! than 256 bytes.
//!
//! **The context around a batch** (in the receipt) is merged into each event's, as the spec of the batch call has it:
//! member by member, each as a whole, the event's own first. An own `device` without an id hides a batch's device with
//! one. It is an object (or null) of at most 16 KiB, since it is written once for every event; anything else is
//! `bad_batch_context`.
//!
//! # When an event happened
//!
//! `received_at` is the receipt's, else when the log took the record. `original` is `originalTimestamp`, else
//! `timestamp`; the time of sending is the event's own `sentAt`, else the receipt's. With both, `event_time` is
//! `received_at` − max(0, sent − original), which cancels the error of the sender's clock; with `original` alone it is
//! that; without it, `received_at`. A result more than 24 h ahead of `received_at`, or more than
//! [`Settings::time_window_behind`] behind it, is not believed: `event_time` is `received_at`, `time_suspect` is set, and
//! the times stay in the envelope. The limits themselves are believed. A time that can't be read counts as absent and
//! sets `time_suspect`; one that was not needed (`timestamp` beside a good `originalTimestamp`) is not looked at. See
//! [`parse_rfc3339`] and [`parse_epoch_millis`] for what can be read.

mod batch;
mod decoder;
mod document;
mod error;
mod event;
mod fields;
mod json;
mod time;

pub use batch::{BATCH_EVENTS_MAX, Batch, BatchEvent, split_batch};
pub use decoder::{Decoded, Decoder, Settings};
pub use error::{EventError, codes};
pub use event::{BATCH_CONTEXT_BYTES_MAX, BatchContext, EVENT_BYTES_MAX, Event, scan};
pub use json::DEPTH_MAX;
pub use time::{TIME_WINDOW_AHEAD_US, parse_epoch_millis, parse_rfc3339};
