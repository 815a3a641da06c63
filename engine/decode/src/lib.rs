//! From the JSON envelope of the installed base of SDKs to Arrow columns.
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
